"""Backend: what a conversation needs of an engine, wherever the model runs."""

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from typing import Any, Protocol, TypeAlias

from quietdesk.engine.metrics import EngineMetrics
from quietdesk.engine.runner import ModelInfo
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.engine.stream import Stream

ChatMessage: TypeAlias = Mapping[str, Any]
"""A message as OpenAI's API has it: JSON with `role` and `content`."""


class Backend(Protocol):
    """Turns prompts into streams. Any thread may use it."""

    @property
    def unsupported(self) -> frozenset[str]:
        """Names of fields of `Sampling` and `Limits` that it refuses unless they are neutral."""
        ...

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
        messages: Seq[ChatMessage] = (),
        sampling: Sampling | None = None,
        limits: Limits | None = None,
        priority: int = 0,
        deadline_s: float | None = None,
        owner: str = "",
    ) -> Stream:
        """Have the model go on from prompt; see `Engine.submit`.

        Args:
            prompt: Token ids.
            messages: What the prompt was rendered from. Read only where the model's server renders
                (`ModelInfo.renders`): then it gets these, and the prompt is an estimate.
            sampling: How tokens are chosen.
            limits: When it ends.
            priority: Higher goes first.
            deadline_s: Seconds from now until it has to be finished.
            owner: Whose words they are. Only what has an owner is kept on disk.
        """
        ...

    def metrics(self) -> EngineMetrics:
        """What was done so far, and how things stand."""
        ...

    def forget(self, owner: str) -> None:
        """Erase what is kept of an owner's words, in memory and on disk."""
        ...

    def close(self) -> None:
        """Stop; requests under way end as cancelled."""
        ...
