"""Choosing and loading a model."""

from pathlib import Path

import pytest

import quietdesk
from quietdesk import loading
from quietdesk.bench import Workload, engine_target, run
from quietdesk.config import Settings
from quietdesk.engine.device import Machine
from quietdesk.errors import ModelFileError, ModelTooLargeError, UnknownNameError


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


def test_a_load_run_counts_every_token(tiny_models: dict[str, Path]) -> None:
    engine = loading.open_engine(tiny_models["llama"], Settings(n_ctx=256, n_seq=3))
    try:
        work = Workload(3, n_turns=2, reply_tokens=5, system="Be brief.")
        report = run(work, engine_target(engine))
    finally:
        engine.close()
    assert report.tokens == 3 * 2 * 5
    assert report.first_token_p95_ms >= report.first_token_p50_ms > 0
