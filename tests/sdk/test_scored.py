"""`quietdesk.score`: the door to scoring that costs an import nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

import quietdesk
from quietdesk.errors import UnknownNameError, UsageError
from quietdesk.scoring.scores import score
from quietdesk.types import Transcript, TranscriptMessage


def transcripts() -> list[Transcript]:
    said = (("customer", "Where is it?"), ("bot", "I do not understand."), ("customer", "Where?"))
    messages = tuple(TranscriptMessage(author=author, text=text) for author, text in said)
    return [Transcript(id=str(i), messages=messages, metadata={"n": i % 2}) for i in range(5)]


def test_it_is_what_the_scoring_room_finds() -> None:
    metrics = ["turns", "misunderstandings"]
    told = quietdesk.score(iter(transcripts()), metrics=metrics, slices=["n"])
    assert told.to_json() == score(transcripts(), metrics, slices=["n"]).to_json()
    assert told["turns"].value == 2.0
    assert told["misunderstandings"].n == 5
    assert told.rows is not None and told.rows.num_rows == 5
    assert quietdesk.score(transcripts(), metrics=metrics, keep_rows=False).rows is None


def test_unknown_metrics_are_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="turns"):
        quietdesk.score(transcripts(), metrics=["turn"])


def test_what_is_missing_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quietdesk.scored.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"'pyarrow' is missing: pip install 'quietdesk\[score\]'"):
        quietdesk.score(transcripts())


def test_the_name_alone_loads_nothing_of_scoring() -> None:
    code = (
        "import sys, quietdesk\nassert callable(quietdesk.score)\n"
        "heavy = {'pyarrow', 'numpy', 'sacrebleu', 'sklearn', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_model_reads_a_sample_for_surprisal_and_relevance(tiny_models: dict[str, Path]) -> None:
    told: list[tuple[int, int]] = []
    path = tiny_models["llama"]
    scores = quietdesk.score(
        iter(transcripts()),
        metrics=["turns", "surprisal", "relevance"],
        model=path,
        sample=3,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert scores["turns"].n == 5
    assert scores["surprisal"].n == scores["relevance"].n == 3
    assert scores.rows is not None and scores.rows["surprisal"].null_count == 2
    everything = quietdesk.score(transcripts(), model=path)
    assert everything["surprisal"].n == 5
    assert "all of them" in everything.notes[0]
    # The same words after the same words, whichever conversation.
    assert everything["surprisal"].value == pytest.approx(scores["surprisal"].value, abs=1e-6)


def test_an_engine_that_is_open_reads_and_stays_open(tiny_models: dict[str, Path]) -> None:
    with quietdesk.Assistant.open(tiny_models["llama"], ":memory:") as assistant:
        scores = quietdesk.score(transcripts(), ["relevance"], model=assistant.engine)
        assert scores["relevance"].n == 5
        assert assistant.start().send("Hello?", max_tokens=2).wait().text is not None


def test_a_model_that_no_metric_takes_is_not_opened() -> None:
    with pytest.raises(UsageError, match="none of the metrics takes one"):
        quietdesk.score(transcripts(), ["turns"], model="/no/such.gguf")
