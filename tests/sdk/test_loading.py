"""Choosing and loading a model."""

from pathlib import Path

import pytest

import quietdesk
from quietdesk import loading
from quietdesk.bench import Workload, engine_target, run
from quietdesk.config import Settings
from quietdesk.engine.device import Machine
from quietdesk.errors import (
    ConfigError,
    DraftModelError,
    ModelFileError,
    ModelTooLargeError,
    UnknownNameError,
)


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    starter_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "machine", lambda _gpus: Machine("any", "any", 2, 50 * 2**20))
    with pytest.raises(ModelTooLargeError) as refused:
        loading.choose_model(starter_path, Settings())
    assert refused.value.needed_bytes > refused.value.available_bytes == 50 * 2**20
    assert "n_ctx" in str(refused.value)


def test_an_unknown_name_comes_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as refused:
        loading.choose_model("smollm2-135", Settings())
    assert refused.value.nearest[0] == "smollm2-135m"


def test_loading_stops_when_it_is_told_to(starter_path: Path) -> None:
    seen: list[float] = []

    def stop(share: float) -> bool:
        seen.append(share)
        return False

    with pytest.raises(ModelFileError):
        loading.open_engine(starter_path, Settings(n_seq=1, n_ctx=256), stop)
    assert len(seen) >= 1


def test_an_interrupt_while_loading_is_raised(starter_path: Path) -> None:
    def interrupt(share: float) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loading.open_engine(starter_path, Settings(n_seq=1, n_ctx=256), interrupt)


def test_any_gguf_works_where_a_name_does(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    settings = Settings(n_ctx=256, n_seq=1, max_tokens=4)
    with quietdesk.Assistant.open(tiny_models["gpt2"], tmp_path / "desk.db", settings) as assistant:
        reply = assistant.start().send("Hello?")
        assert reply.finish_reason is not None
        assert assistant.model.architecture == "gpt2"
        assert reply.context.template in ("plain", "chatml", "model")


def test_a_draft_model_guesses_beside_the_model_and_is_told_of(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    settings = Settings(n_ctx=256, n_seq=1, max_tokens=60, temperature=0.0)
    for draft in (None, tiny_models["draft"]):
        with quietdesk.Assistant.open(
            tiny_models["llama"], tmp_path / f"{bool(draft)}.db", settings, draft_model=draft
        ) as assistant:
            assert assistant.start().send("Hello?").text
            options = dict(assistant.model.options)
            assert ("draft_model" in options) is (draft is not None)
            assert assistant.metrics().draft_model_failures == 0
    assert assistant.metrics().draft_model_s > 0


def test_a_draft_model_with_another_vocabulary_is_refused_with_the_differences(
    tiny_models: dict[str, Path], starter_path: Path, tmp_path: Path
) -> None:
    settings = Settings(n_ctx=256, n_seq=1, draft_model=str(tiny_models["draft"]))
    with pytest.raises(DraftModelError, match=r"there are 49,152 and 512 tokens"):
        loading.choose_model(starter_path, settings)
    other = tmp_path / "other.gguf"
    # Of the same length, so that nothing else in the file moves.
    data = tiny_models["draft"].read_bytes()
    assert data.count("Ġorder".encode()) > 1
    other.write_bytes(data.replace("Ġorder".encode(), "Ġorden".encode()))
    with pytest.raises(DraftModelError) as refused:
        loading.open_engine(
            tiny_models["llama"], settings.model_copy(update={"draft_model": str(other)})
        )
    assert "'Ġorder' and 'Ġorden'" in refused.value.reasons[0]


def test_a_draft_model_is_refused_where_it_cannot_be_had(tiny_models: dict[str, Path]) -> None:
    with pytest.raises(DraftModelError, match="cannot be cut back"):
        loading.open_engine(
            tiny_models["mamba"],
            Settings(n_ctx=256, n_seq=1, draft_model=str(tiny_models["draft"])),
        )
    with pytest.raises(ModelFileError, match="no such file"):
        loading.choose_model(tiny_models["llama"], Settings(draft_model="./not-there.gguf"))
    address = "http://127.0.0.1:1/v1"
    with pytest.raises(ConfigError, match="is an address"):
        loading.choose_model(tiny_models["llama"], Settings(draft_model=address))
    with pytest.raises(ConfigError, match="runs on a server"):
        loading.open_engine(address, Settings(draft_model=str(tiny_models["draft"])))


def test_memory_is_counted_for_both_models(
    tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, settings = tiny_models["llama"], Settings(n_ctx=2048, n_seq=4)
    alone = loading.choose_model(model, settings).plan.needed_bytes
    room = alone + 2**20
    monkeypatch.setattr(loading, "machine", lambda _gpus: Machine("any", "any", 2, room))
    loading.choose_model(model, settings)
    with pytest.raises(ModelTooLargeError, match="as its draft") as refused:
        loading.choose_model(
            model, settings.model_copy(update={"draft_model": str(tiny_models["draft"])})
        )
    assert refused.value.needed_bytes > room == refused.value.available_bytes


def test_a_load_run_counts_every_token(tiny_models: dict[str, Path]) -> None:
    engine = loading.open_engine(tiny_models["llama"], Settings(n_ctx=256, n_seq=3))
    try:
        work = Workload(3, n_turns=2, reply_tokens=5, system="Be brief.")
        report = run(work, engine_target(engine))
    finally:
        engine.close()
    assert report.tokens == 3 * 2 * 5
    assert report.first_token_p95_ms >= report.first_token_p50_ms > 0
