"""`quietdesk score`, `compare` and `gate` as they are typed."""

import csv
import json
import random
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest

from quietdesk.cli import main
from quietdesk.store.sql import open_store
from quietdesk.types import ConversationInfo, Message, Transcript, TranscriptMessage

METRICS = "bleu,chrf,labels,misunderstandings,turns"
ANSWERS = ("It is on its way and comes on Friday.", "I have started the refund.", "Open Settings.")


def write_logs(path, n, quality, seed):
    """A native log of n conversations whose bot is right in this share of replies."""
    rng, lines = random.Random(seed), []
    for place in range(n):
        messages = []
        for turn in range(1 + place % 3):
            answer = ANSWERS[(place + turn) % 3]
            said = answer if rng.random() < quality else "Sorry, I did not understand that."
            messages.append(TranscriptMessage(author="customer", text=f"question {turn}?"))
            messages.append(TranscriptMessage(author="bot", text=said, references=(answer,)))
        talk = Transcript(
            id=f"talk-{place}",
            customer=f"customer-{place // 2}",
            messages=tuple(messages),
            metadata={"channel": ("web", "app")[place % 2]},
        )
        lines.append(talk.model_dump_json())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    made = {"old": (120, 0.8, 1), "same": (120, 0.8, 2), "worse": (120, 0.4, 3), "few": (6, 0.8, 4)}
    return {name: write_logs(folder / f"{name}.jsonl", *how) for name, how in made.items()}


def test_score_prints_a_summary(logs, capsys):
    assert main.run(["score", logs["old"], "--metrics", METRICS, "--slice", "channel"]) == 0
    text = capsys.readouterr().out
    assert "120 conversations" in text
    assert "By channel" in text
    assert "chrF" in text


def test_score_writes_json_html_csv_and_parquet_in_one_pass(logs, capsys, tmp_path):
    html, rows, table = (tmp_path / name for name in ("a.html", "a.csv", "a.parquet"))
    files = ["--html", str(html), "--csv", str(rows), "--parquet", str(table)]
    assert main.run(["score", logs["old"], "--metrics", METRICS, "--json", *files]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["conversations"] == 120
    chrf = next(each for each in data["estimates"] if each["name"] == "chrf")
    assert chrf["low"] < chrf["value"] < chrf["high"]
    assert html.read_text(encoding="utf-8").startswith("<!doctype html>")
    with rows.open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 120
    assert pq.read_table(table).num_rows == 120


def test_scores_kept_as_json_score_no_log_again(logs, capsys, tmp_path):
    main.run(["score", logs["old"], "--metrics", METRICS, "--json"])
    kept = tmp_path / "old.json"
    kept.write_text(capsys.readouterr().out, encoding="utf-8")
    assert main.run(["compare", logs["worse"], str(kept), "--metrics", METRICS]) == 2
    assert "holds scores already" in capsys.readouterr().err
    assert main.run(["compare", str(kept), str(kept)]) == 0
    assert "none seen" in capsys.readouterr().out


def test_compare_says_what_became_worse(logs, capsys, tmp_path):
    html = tmp_path / "page.html"
    arguments = ["compare", logs["worse"], logs["old"], "--metrics", METRICS]
    assert main.run([*arguments, "--html", str(html)]) == 0
    text = capsys.readouterr().out
    assert "in pairs, over the same inputs" in text
    assert any("chrf" in line and "worse" in line for line in text.splitlines())
    assert 'id="comparison"' in html.read_text(encoding="utf-8")
    assert main.run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["paired"] is True


@pytest.mark.parametrize(
    ("run", "margins", "code"),
    [
        ("old", ["chrf=5", "misunderstandings=0.05"], 0),
        ("worse", ["chrf=5"], 1),
        ("worse", ["chrf=5", "turns=1"], 2),
        ("old", ["chfr=5"], 2),
        ("old", ["chrf"], 2),
        ("few", ["chrf=5"], 3),
        ("same", ["misunderstandings=0.0001"], 3),
    ],
)
def test_gate_answers_by_exit_code(logs, capsys, run, margins, code):
    options = [part for margin in margins for part in ("--margin", margin)]
    found = main.run(["gate", logs[run], "--baseline", logs["old"], "--metrics", METRICS, *options])
    assert found == code
    if code == 2:
        assert capsys.readouterr().err.startswith("quietdesk: ")


def test_gate_without_a_margin_or_baseline_is_wrong_use(logs, capsys):
    assert main.run(["gate", logs["old"], "--baseline", logs["old"]]) == 2
    assert main.run(["gate", logs["old"], "--margin", "chrf=1"]) == 2


def test_gate_writes_junit_and_markdown_whatever_it_says(logs, capsys, tmp_path):
    junit, markdown = tmp_path / "gate.xml", tmp_path / "gate.md"
    files = ["--junit", str(junit), "--markdown", str(markdown), "--json"]
    runs = [logs["worse"], "--baseline", logs["old"], "--metrics", METRICS]
    code = main.run(["gate", *runs, "--margin", "chrf=5", *files])
    assert code == 1
    assert ElementTree.parse(junit).getroot().find("testsuite").get("failures") == "1"
    assert markdown.read_text(encoding="utf-8").startswith("### Gate: fail")
    assert json.loads(capsys.readouterr().out)["outcome"] == "fail"


def test_bad_records_are_told_with_their_place_and_left_out(logs, capsys, tmp_path):
    path = tmp_path / "bad.jsonl"
    lines = Path(logs["old"]).read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:3], "{not json", *lines[3:6]]) + "\n", encoding="utf-8")
    assert main.run(["score", str(path), "--metrics", METRICS]) == 0
    said = capsys.readouterr()
    assert "6 conversations" in said.out
    assert f"{path}:4" in said.err
    assert "1 records were left out" in said.err
    assert main.run(["score", str(path), "--metrics", METRICS, "--strict"]) != 0


def test_what_cannot_be_scored_is_an_error_with_a_sentence(capsys, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    for path in (empty, tmp_path / "absent.jsonl"):
        assert main.run(["score", str(path)]) in {1, 2}
        assert capsys.readouterr().err.startswith("quietdesk: ")


def test_unknown_metrics_are_answered_with_the_nearest(logs, capsys):
    assert main.run(["score", logs["old"], "--metrics", "chfr"]) == 2
    assert "Did you mean 'chrf" in capsys.readouterr().err


def test_help_imports_none_of_what_scoring_needs():
    code = (
        "import sys\nfrom quietdesk.cli import main\n"
        "for verb in ('score', 'compare', 'gate'):\n    assert main.run([verb, '--help']) == 0\n"
        "heavy = {'pyarrow', 'numpy', 'sacrebleu', 'sklearn', 'scipy', 'duckdb', 'sqlalchemy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_scores_are_kept_beside_a_databases_conversations(capsys, tmp_path):
    database = tmp_path / "desk.db"
    now = datetime(2025, 1, 6, tzinfo=UTC)
    with closing(open_store(str(database))) as store:
        store.create(
            ConversationInfo(
                id="talk", title="t", created_at=now, updated_at=now, metadata={"channel": "web"}
            )
        )
        store.add("talk", Message(id="m1", author="customer", text="Where is it?", created_at=now))
        sorry = "Sorry, I did not understand that."
        store.add(
            "talk", Message(id="m2", author="bot", text=sorry, created_at=now, parent_id="m1")
        )
    metrics = "misunderstandings,latency,turns"
    assert main.run(["score", str(database), "--metrics", metrics, "--keep"]) == 0
    with closing(open_store(str(database))) as store:
        kept = {(s.message_id, s.metric): (s.value, s.cause) for s in store.scores("talk")}
        assert store.conversation("talk").metadata == {"channel": "web"}
    listing = ["sessions", "list", "--database", str(database), "--json", "--score"]
    for asked, ids in (("turns=1:1", ["talk"]), ("turns=:0.5", []), ("latency=:", ["talk"])):
        capsys.readouterr()
        assert main.run([*listing, asked]) == 0
        found = json.loads(capsys.readouterr().out)["sessions"]
        assert [session["id"] for session in found] == ids
    for slip in ("turns", "turns=1", "=1:2", "turns=a:b", "turns=9:1", "turns=nan:"):
        assert main.run([*listing, slip]) == 2
    assert kept.pop((None, "badness"))[0] is not None
    assert kept == {
        (None, "misunderstandings"): (1.0, False),
        (None, "latency"): (0.0, False),
        (None, "turns"): (1.0, False),
        ("m2", "latency"): (0.0, False),
        ("m2", "misunderstandings"): (None, True),
    }


def test_scores_are_kept_in_databases_alone(logs, capsys):
    assert main.run(["score", logs["old"], "--metrics", METRICS, "--keep"]) == 2
    assert main.run(["score", logs["old"], "--metrics", METRICS, "--keep", "--jobs", "2"]) == 2
    assert "is none" in capsys.readouterr().err


def test_a_saved_run_that_is_not_there_is_answered_with_the_nearest(
    logs, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert main.run(["score", logs["old"], "--metrics", METRICS, "--save", "march"]) == 0
    assert main.run(["compare", "march", "mrach"]) == 2
    assert "Did you mean 'march'?" in capsys.readouterr().err


def test_a_model_reads_a_sample_on_the_way(logs, capsys, tmp_path, tiny_models):
    model = str(tiny_models["llama"])
    read = ("--model", model, "--sample", "12", "--metrics", "turns,surprisal,relevance")
    rows, html = tmp_path / "rows.parquet", tmp_path / "page.html"
    command = ["score", logs["old"], *read, "--json", "--parquet", str(rows), "--html", str(html)]
    assert main.run(command) == 0
    here = json.loads(capsys.readouterr().out)
    found = {each["name"]: each for each in here["estimates"]}
    assert found["surprisal"]["n"] == found["relevance"]["n"] >= 12
    assert found["surprisal"]["value"] > 0
    assert "sample:12|seed:1" in found["relevance"]["signature"]
    assert "12 of 120 conversations" in here["notes"][0]
    assert here["notes"][0].split("read")[0] in html.read_text()
    table = pq.read_table(rows)
    assert len(table) - table["surprisal"].null_count == 12

    # Other processes look the figures up.
    assert main.run(["score", logs["old"], *read, "--json", "--jobs", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == here["digest"]
    other = ["--sample-seed", "2", "--replies", "bot,human"]
    assert main.run(["score", logs["old"], *read, *other, "--save", str(tmp_path / "run")]) == 0
    (tmp_path / "here.json").write_text(json.dumps(here))
    assert main.run(["compare", str(tmp_path / "here.json"), str(tmp_path / "run")]) == 2
    assert "measured in two ways" in capsys.readouterr().err


def test_what_a_model_cannot_read_or_nobody_asked_for_is_wrong_use(logs, capsys, tiny_models):
    model = ["--model", str(tiny_models["llama"])]
    wrong = {
        ("--sample", "5"): "add --model",
        ("--metrics", "surprisal"): "needs a model",
        (*model, "--metrics", "turns"): "none of the metrics takes one",
        (*model, "--replies", "customer"): "bot, human or both",
    }
    for options, told in wrong.items():
        assert main.run(["score", logs["few"], *options]) == 2, options
        assert told in " ".join(capsys.readouterr().err.replace("│", "").split())
    assert main.run(["score", "-", *model]) == 2
    assert "standard input can be read once" in capsys.readouterr().err
