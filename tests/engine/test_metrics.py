"""Metrics: what is counted equals a recount, and Prometheus reads the same."""

import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from quietdesk.config import Settings
from quietdesk.engine.engine import Engine
from quietdesk.engine.metrics import LONG_S, Histogram
from quietdesk.engine.prometheus import export
from quietdesk.engine.sampling import Limits
from quietdesk.errors import ConfigError
from quietdesk.testing import ScriptedRunner, scripted_assistant

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(port: int) -> Samples:
    """What Prometheus would read: every sample by its name and labels, without the model's."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "model"}
            assert sample.labels["model"] == "scripted"
            samples[sample.name, tuple(sorted(labels.items()))] = sample.value
    return samples


def test_what_prometheus_reads_equals_a_recount() -> None:
    runner = ScriptedRunner(n_seq=2, n_ctx=400)
    with Engine(lambda: runner, n_draft=0) as engine:
        streams = [
            engine.submit([50] * 40 + [60 + i], limits=Limits(max_tokens=7, ignore_end=True))
            for i in range(5)
        ]
        gone = engine.submit([5] * 30, limits=Limits(max_tokens=300, ignore_end=True))
        gone.cancel()
        for stream in [*streams, gone]:
            assert stream.wait(30)
        exporter = export(engine, 0)
        try:
            samples = read(exporter.port)
        finally:
            exporter.close()
        metrics = engine.metrics()
    all_of_them = [*streams, gone]
    generated = sum(stream.usage.completion_tokens for stream in all_of_them)
    spoke = sum(stream.usage.completion_tokens > 0 for stream in all_of_them)
    started = [stream for stream in all_of_them if stream in streams or stream.usage.queue_s]
    assert samples["quietdesk_requests_total", ()] == 6
    assert samples["quietdesk_requests_ended_total", (("outcome", "finished"),)] == 5
    assert samples["quietdesk_requests_ended_total", (("outcome", "cancelled"),)] == 1
    assert samples["quietdesk_generated_tokens_total", ()] == generated
    assert samples["quietdesk_first_token_seconds_count", ()] == spoke
    assert samples["quietdesk_inter_token_seconds_count", ()] == generated - spoke
    assert samples["quietdesk_queue_seconds_count", ()] == len(started)
    assert samples["quietdesk_steps_total", ()] == len(runner.batches)
    assert samples["quietdesk_batch_rows_sum", ()] == sum(b.n_rows for b in runner.batches)
    assert samples["quietdesk_batch_rows_count", ()] == len(runner.batches)
    assert samples["quietdesk_kv_cells", ()] == 2 * 400
    # Of a slot without a request as many tokens are known as the runner holds.
    assert samples["quietdesk_kv_cells_used", ()] == sum(len(held) for held in runner.memory)
    assert samples["quietdesk_waiting_requests", ()] == 0
    cached = samples["quietdesk_cached_tokens_total", ()]
    assert metrics.cached_share == cached / samples["quietdesk_prompt_tokens_total", ()]
    assert 0 < metrics.kv_occupancy <= 1
    assert 0 < metrics.batch_fill <= 1
    infinite = (("le", "+Inf"),)
    assert samples["quietdesk_first_token_seconds_bucket", infinite] == spoke


def test_a_port_that_is_taken_is_told() -> None:
    with Engine(ScriptedRunner) as engine:
        first = export(engine, 0)
        try:
            with pytest.raises(ConfigError) as refused:
                export(engine, first.port)
        finally:
            first.close()
        assert str(first.port) in str(refused.value)


def test_an_assistant_tells_its_metrics() -> None:
    assert Settings().metrics_port == 0
    with scripted_assistant(["One two three."]) as assistant:
        usage = assistant.start().send("Count.").usage
        metrics = assistant.metrics()
        assert metrics.generated_tokens == usage.completion_tokens
        assert metrics.first_token_s.count == metrics.requests_total == 1


@given(st.lists(st.floats(0, 200), max_size=60), st.floats(0.01, 1))
def test_a_quantile_is_never_too_low(values: list[float], share: float) -> None:
    histogram = Histogram(LONG_S)
    for value in values:
        histogram.observe(value)
    found = histogram.snapshot()
    assert found.count == len(values)
    assert found.total == pytest.approx(sum(values))
    quantile = found.quantile(share)
    assert sum(value <= quantile for value in values) >= share * len(values) - 1e-9
