"""Prometheus: an engine's metrics for it to read; the one module that knows its client.

The engine counts by itself; what is asked for is made from its counts when Prometheus asks.
"""

import itertools
import threading
from collections.abc import Iterator
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from quietdesk.engine.backend import Backend
from quietdesk.engine.metrics import Distribution
from quietdesk.errors import ConfigError

_COUNTERS = {
    "requests_total": ("requests", "Requests accepted."),
    "preemptions": ("preemptions", "Running requests that made room for more urgent ones."),
    "prompt_tokens": ("prompt_tokens", "Prompt tokens of requests that started."),
    "cached_tokens": ("cached_tokens", "Prompt tokens that were found in a cache."),
    "evaluated_tokens": ("evaluated_tokens", "Rows evaluated, prompt and generated."),
    "generated_tokens": ("generated_tokens", "Tokens generated."),
    "drafted_tokens": ("drafted_tokens", "Tokens guessed ahead."),
    "accepted_tokens": ("accepted_tokens", "Guesses that came true."),
    "drafted_by_model": ("model_drafted_tokens", "Of them, guessed by the draft model."),
    "accepted_by_model": ("model_accepted_tokens", "Of these, the ones that came true."),
    "draft_model_s": ("draft_model_seconds", "Spent in the draft model."),
    "draft_model_failures": ("draft_model_failures", "Draft models switched off by a failure."),
    "steps": ("steps", "Steps of the engine."),
    "decode_s": ("decode_seconds", "Spent in the model's evaluation."),
    "busy_s": ("busy_seconds", "Spent in steps."),
}
_GAUGES = {
    "n_waiting": ("waiting_requests", "Requests that wait for a slot."),
    "n_running": ("running_requests", "Requests that have a slot."),
    "n_slots": ("slots", "Requests that can run at the same time."),
    "parked_states": ("parked_states", "States of conversations kept without a slot."),
    "parked_bytes": ("parked_bytes", "Memory of these states."),
    "kv_cells": ("kv_cells", "Tokens that all slots together can hold."),
    "kv_cells_used": ("kv_cells_used", "Tokens that they hold."),
}
_HISTOGRAMS = {
    "queue_s": ("queue_seconds", "From submission until the engine worked on it."),
    "first_token_s": ("first_token_seconds", "From submission until the first token."),
    "inter_token_s": ("inter_token_seconds", "From a token to the next of the same reply."),
    "batch_rows": ("batch_rows", "Rows of a step."),
}
_OUTCOMES = {
    "finished": "requests_finished",
    "cancelled": "requests_cancelled",
    "failed": "requests_failed",
}


class EngineCollector(Collector):
    """Reads one engine when it is asked; register it: `REGISTRY.register(EngineCollector(...))`."""

    def __init__(self, engine: Backend) -> None:
        """A collector of an engine, such as `Assistant.engine`."""
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Every metric as it stands, labelled with the model's name."""
        values = self._engine.metrics()
        label, name = ["model"], [self._engine.model.name]
        for field, (metric, told) in _COUNTERS.items():
            counter = CounterMetricFamily(f"quietdesk_{metric}", told, labels=label)
            counter.add_metric(name, getattr(values, field))
            yield counter
        ended = CounterMetricFamily(
            "quietdesk_requests_ended", "Requests that ended, and how.", labels=[*label, "outcome"]
        )
        for outcome, field in _OUTCOMES.items():
            ended.add_metric([*name, outcome], getattr(values, field))
        yield ended
        for field, (metric, told) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"quietdesk_{metric}", told, labels=label)
            gauge.add_metric(name, getattr(values, field))
            yield gauge
        for field, (metric, told) in _HISTOGRAMS.items():
            found: Distribution = getattr(values, field)
            histogram = HistogramMetricFamily(f"quietdesk_{metric}", told, labels=label)
            histogram.add_metric(name, _buckets(found), found.total)
            yield histogram


class Exporter:
    """Answers Prometheus on a port of this machine until it is closed."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        """One that runs; made by `export`."""
        self._server = server
        self._thread = thread

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_port

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def export(engine: Backend, port: int) -> Exporter:
    """Let Prometheus read an engine's metrics at `http://127.0.0.1:PORT/metrics`.

    Args:
        engine: Whose.
        port: On the loopback interface only; 0: any that is free.

    Raises:
        ConfigError: the port cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine))
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise ConfigError(
            f"Port {port} on this machine cannot be had for metrics: {error.strerror}. "
            "Set another metrics_port, or 0 for none."
        ) from None
    return Exporter(server, thread)


def _buckets(found: Distribution) -> list[tuple[str, float]]:
    """Upper bounds as Prometheus writes them, and how many values do not exceed each."""
    bounds = [*(repr(float(bound)) for bound in found.bounds), "+Inf"]
    return list(zip(bounds, itertools.accumulate(found.counts), strict=True))
