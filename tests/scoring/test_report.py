import csv
import html.parser
import math
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from quietdesk.columns import to_batch
from quietdesk.scoring import charts, score
from quietdesk.scoring.base import Scale
from quietdesk.scoring.catalogue import find_metrics
from quietdesk.scoring.compare import compare
from quietdesk.scoring.page import page
from quietdesk.scoring.report import (
    RowWriter,
    binned,
    comparison_table,
    interval_plot,
    lines_of,
    shown,
    shown_interval,
    signed,
    sparkline,
    terminal,
)
from quietdesk.scoring.scorer import Scorer

METRICS = ("bleu", "chrf", "labels", "outcome", "turns", "latency", "misunderstandings")


def printed(renderable, width=100):
    console = Console(width=width, color_system=None, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.capture() as capture:
        console.print(renderable)
    console.file.close()
    return capture.get()


@pytest.fixture(scope="module")
def scores(make_talks):
    found = score(make_talks(120, customers=50), METRICS, slices=["channel", "week"])
    found.source = "logs <b>&.jsonl"
    return found


@pytest.fixture(scope="module")
def comparison(scores, make_talks):
    new = score(
        make_talks(120, seed=9, quality=0.95, customers=50), METRICS, slices=["channel", "week"]
    )
    return compare(new, scores)


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [
        (0.1234, Scale.SHARE, "12.3 %"),
        (31.416, Scale.POINTS, "31.42"),
        (0.25, Scale.SECONDS, "250 ms"),
        (90.0, Scale.SECONDS, "90.0 s"),
        (600.0, Scale.SECONDS, "10.0 min"),
        (10_000.0, Scale.SECONDS, "2.8 h"),
        (200_000.0, Scale.SECONDS, "2.3 days"),
        (3.14159, Scale.NUMBER, "3.14"),
        (123_456.7, Scale.NUMBER, "123,457"),
        (math.nan, Scale.SHARE, "–"),
    ],
)
def test_values_are_shown_in_their_scale(value, scale, text):
    assert shown(value, scale) == text


def test_differences_are_shown_with_their_sign():
    assert signed(0.05, Scale.SHARE) == "+5.0 %"
    assert signed(-2.0, Scale.POINTS) == "-2.00"
    assert signed(0.0, Scale.NUMBER) == "±0"


def test_an_interval_is_drawn_around_its_value(scores):
    plot = interval_plot(scores["labels"], 1.0, 101)
    assert plot.index("─") == round(100 * scores["labels"].low)
    assert plot.index("●") == round(100 * scores["labels"].value)
    assert len(plot) == 101
    assert plot.rindex("─") == round(100 * scores["labels"].high)


def test_sparklines_keep_small_counts_visible():
    assert sparkline([0, 1, 500, 1000]) == " ▁▄█"
    assert sparkline([]) == ""


@pytest.mark.parametrize("scale", list(Scale))
def test_bins_lose_no_unit(scale):
    counts = np.random.default_rng(1).integers(
        0, 9, 20 if scale in {Scale.SHARE, Scale.POINTS} else 300
    )
    for most in (5, 13, 20):
        starts, kept = binned(counts, scale, most)
        assert sum(kept) == counts.sum()
        assert len(starts) == len(kept) <= most


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_terminal_shows_every_value_with_interval_and_count(scores, width):
    text = printed(terminal(scores, width), width)
    assert "120 conversations" in text
    for line in lines_of(scores):
        rows = [r for r in text.splitlines() if r.strip().startswith(line.title[:18])]
        assert any(line.value in row and line.interval in row for row in rows), line.title
    assert f"{scores['bleu'].n_missing:,}" in text
    assert "By channel" in text
    assert "By week" in text
    assert "Worst conversations" in text
    assert max(map(len, text.splitlines())) <= width


def test_the_terminal_says_what_was_not_measured_and_why_not_to_trust(make_talks):
    text = printed(terminal(score(make_talks(3), ["ter", "conversation-labels", "labels"])))
    assert "Too few customers" in text
    assert "Not measured: Labels of conversations." in text


def test_scores_of_nothing_can_be_shown():
    empty = score([], METRICS)
    assert "0 conversations" in printed(terminal(empty))
    assert "Nothing was measured." in page(empty)


def test_a_comparison_shows_old_new_and_verdict(comparison):
    text = printed(comparison_table(comparison), 140)
    row = next(r for r in text.splitlines() if r.strip().startswith("chrf "))
    for part in (
        "better",
        f"{comparison.new['chrf'].value:.2f}",
        f"{comparison.old['chrf'].value:.2f}",
    ):
        assert part in row
    assert "in pairs, over the same inputs" in text


class Reader(html.parser.HTMLParser):
    """Collects tags and attributes, and checks that tags close in order."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


def test_the_page_is_whole_and_asks_for_nothing_from_outside(scores, comparison):
    text = page(scores, comparison)
    reader = read(text)
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(reader.tags)
    assert not re.search(r"url\(|@import|https?:", text.partition("</style>")[0])
    for name, value in reader.attributes:
        if name in {"src", "href", "action", "data", "srcset", "xlink:href"}:
            assert value.startswith("#"), value
        assert not name.startswith("on")
    assert "default-src 'none'" in text


def test_the_page_shows_every_value_with_its_interval_and_counts(scores):
    text = page(scores)
    words = " ".join("".join(read(text).text).split())
    for line in lines_of(scores):
        assert line.title in words
        assert line.value in words
        assert shown_interval(line.estimate, line.scale) in words or line.binned or line.is_heading
    assert f"{scores['bleu'].n:,}" in words
    assert scores["bleu"].signature in words
    for section in ("By week", "By channel", "Confusion", "Worst conversations", "Misleads:"):
        assert section in words


def test_the_worst_conversation_comes_first_with_its_causes_marked(scores):
    text = page(scores)
    worst = scores.tally.worst.slice(0, 1).to_pylist()[0]
    first = re.search(r"<details open>.*?</details>", text, re.DOTALL).group()
    assert worst["id"] in first
    assert first.count('class="turn ') == len(worst["messages"])
    assert first.count("cause") >= len({cause["message"] for cause in worst["score causes"]})


def test_the_page_draws_the_confusion_matrix(scores):
    text = page(scores)
    assert text.count('class="turned"') == 3
    assert re.search(r'title="delivery taken for refund: \d+"', text)


def test_what_customers_write_is_no_markup(make_talks):
    talks = make_talks(20)
    evil = '<script>alert("x")</script><img src=x onerror=1>'
    messages = tuple(m.model_copy(update={"text": evil}) for m in talks[0].messages)
    odd = talks[0].model_copy(
        update={"id": evil, "messages": messages, "customer": evil, "metadata": {"channel": evil}}
    )
    found = score([odd, *talks[1:]], METRICS, slices=["channel"])
    found.source = evil
    assert {"script", "img"}.isdisjoint(read(page(found, compare(found, found))).tags)


def test_the_comparison_comes_first_on_the_page(scores, comparison):
    text = page(comparison.new, comparison)
    assert text.index('id="comparison"') < text.index('id="scores"')
    assert "compared in pairs" in text
    assert 'class="words good">better' in text


def test_charts_of_nothing_are_empty():
    assert charts.interval(math.nan, math.nan, math.nan, 1.0, "") == ""
    assert charts.histogram([], [], "") == ""
    assert charts.trend([charts.Point("w", 1.0, 0.5, 1.5, "1")], "") == ""
    assert charts.difference(math.nan, math.nan, math.nan, 0.0, "") == ""
    flat = charts.trend(
        [charts.Point(str(i), 1.0, math.nan, math.nan, "1") for i in range(3)], "flat"
    )
    assert flat.count("<circle") == 3
    assert "nan" not in flat


def test_rows_are_written_batch_by_batch_to_csv_and_parquet(make_talks, tmp_path):
    talks = make_talks(50, customers=9)
    scorer = Scorer(find_metrics(METRICS), ["channel"])
    with (
        RowWriter(tmp_path / "a.csv", "csv") as text,
        RowWriter(tmp_path / "a.parquet", "parquet") as table,
    ):
        for start in range(0, 50, 20):
            rows = scorer.read(to_batch(talks[start : start + 20])).rows
            text.write(rows)
            table.write(rows)
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    stored = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [line["id"] for line in lines] == [row["id"] for row in stored] == [t.id for t in talks]
    for line, row in zip(lines, stored, strict=True):
        for name in ("bleu", "labels", "badness", "turns"):
            assert line[name] == "" if row[name] is None else float(line[name]) == row[name]
        said = [f"{cause['metric']}:{cause['message'] + 1}" for cause in row["causes"]]
        assert line["causes"].split() == said
