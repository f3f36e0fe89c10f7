"""Metrics: what the engine has done, as values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """Counts since the engine was opened, and how things stand now. Durations are seconds."""

    n_waiting: int
    n_running: int
    n_slots: int
    parked_states: int
    parked_bytes: int
    requests_total: int
    """Requests accepted."""
    requests_finished: int
    requests_cancelled: int
    requests_failed: int
    preemptions: int
    prompt_tokens: int
    """Prompt tokens of all requests that started."""
    cached_tokens: int
    """Those of them that were found in a cache."""
    evaluated_tokens: int
    """Rows evaluated, prompt and generated together."""
    generated_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    """Drafted tokens that sampling agreed with."""
    steps: int
    decode_s: float
    """Spent in the model's evaluation itself: llama_decode."""
    busy_s: float
    """Spent in steps, decode included."""

    @property
    def decode_share(self) -> float:
        """Share of the working time that the model's evaluation took, 0 to 1; 1 before any work."""
        return self.decode_s / self.busy_s if self.busy_s else 1.0
