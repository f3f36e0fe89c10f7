"""`quietdesk fit` and `quietdesk evaluate`, on labels with a plain signal."""

import json
import random
from pathlib import Path

import pytest

from quietdesk.cli import main
from quietdesk.scoring.catalogue import find_metrics
from quietdesk.scoring.satisfaction import Estimator
from quietdesk.types import Transcript, TranscriptMessage

SAID = {
    1.0: ["This is ridiculous.", "No, that's not what I said!", "This is useless."],
    3.0: ["I need a table for two.", "On Friday at seven.", "My name is Robert."],
    5.0: ["Great, thank you!", "Perfect, that helps a lot.", "Thanks, I love it."],
}


def write(path: Path, n: int, seed: int, **more: object) -> Path:
    rng = random.Random(seed)
    lines = []
    for i in range(n):
        mood = rng.choice([1.0, 3.0, 3.0, 5.0])
        said = rng.choice(SAID[mood])
        messages = (
            TranscriptMessage(author="customer", text="Hello, I have a question."),
            TranscriptMessage(author="bot", text="How can I help you?"),
            TranscriptMessage(author="customer", text=said, ratings=(mood, mood, 3.0)),
        )
        whole = Transcript(id=f"{seed}-{i}", messages=messages, ratings=(mood,), **more)
        lines.append(whole.model_dump_json())
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    labels = write(folder / "labels.jsonl", 120, seed=1)
    out = folder / "ours.npz"
    assert main.run(["fit", str(labels), "--out", str(out), "--folds", "2"]) == 0
    return out


def test_fit_writes_an_estimator_that_says_where_it_comes_from(fitted: Path) -> None:
    header = Estimator.load(fitted).header
    assert header["fitted_on"] == ["labels.jsonl"]
    assert header["side"] == "customer"
    assert header["scale"] == [1.0, 3.0, 5.0]


def test_evaluate_tells_the_agreement_on_other_labels(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write(tmp_path / "more.jsonl", 60, seed=2)
    assert main.run(["evaluate", str(labels), "--estimator", str(fitted), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["turns"]["spearman"]["low"] > 0.7
    assert told["conversations"]["n"] == 60
    assert told["conversations"]["rater"] is None
    assert main.run(["evaluate", str(labels), "--estimator", str(fitted)]) == 0
    assert "rank correlation with people (Spearman)" in capsys.readouterr().out


def test_the_shipped_estimator_is_evaluated_when_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write(tmp_path / "more.jsonl", 60, seed=3)
    assert main.run(["evaluate", str(labels), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["estimator"] == "shipped"
    assert told["turns"]["spearman"]["value"] > 0.3


def test_scores_can_use_the_fitted_estimator(fitted: Path, tmp_path: Path) -> None:
    names = [metric.name for metric in find_metrics([f"satisfaction:{fitted}"])]
    assert names == ["satisfaction", "dissatisfied", "turn_satisfaction"]


@pytest.mark.parametrize("verb", ["fit", "evaluate"])
def test_logs_without_labels_are_wrong_use(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = TranscriptMessage(author="customer", text="hello")
    path = tmp_path / "plain.jsonl"
    path.write_text(Transcript(id="1", messages=(said,)).model_dump_json())
    assert main.run([verb, str(path)]) == 2
    assert "have ratings" in capsys.readouterr().err


def test_a_file_that_is_no_estimator_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write(tmp_path / "labels.jsonl", 60, seed=4)
    bad = tmp_path / "bad.npz"
    bad.write_text("hello")
    assert main.run(["evaluate", str(labels), "--estimator", str(bad)]) == 2
    assert "bad.npz" in capsys.readouterr().err
