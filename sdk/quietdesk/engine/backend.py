"""Backend: what a conversation needs of an engine, wherever the model runs."""

from collections.abc import Sequence as Seq
from typing import Protocol

from quietdesk.engine.runner import ModelInfo
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.engine.stream import Stream


class Backend(Protocol):
    """Turns prompts into streams. Any thread may use it."""

    @property
    def model(self) -> ModelInfo:
        """What the model says of itself."""
        ...

    @property
    def n_ctx(self) -> int:
        """Tokens that one conversation can hold, its reply included."""
        ...

    def tokenize(self, text: str, *, special: bool, begin: bool) -> list[int]:
        """Token ids of text; see `Runner.tokenize`."""
        ...

    def submit(
        self,
        prompt: Seq[int],
        *,
        sampling: Sampling | None = None,
        limits: Limits | None = None,
        priority: int = 0,
        deadline_s: float | None = None,
    ) -> Stream:
        """Have the model go on from prompt; see `Engine.submit`."""
        ...

    def close(self) -> None:
        """Stop; requests under way end as cancelled."""
        ...
