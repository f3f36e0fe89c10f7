"""Scored: `quietdesk.score`, which loads what scoring takes when it is called, not before."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from quietdesk.errors import UsageError
from quietdesk.types import Transcript

if TYPE_CHECKING:
    # An optional extra: for type checkers and editors it is there, for an import it need not be.
    from quietdesk.scoring.base import Metric
    from quietdesk.scoring.scores import Scores

NEEDED = ("pyarrow", "msgspec", "sacrebleu", "scipy", "sklearn")


def need_extra() -> None:
    """Check that what scoring needs is installed, without importing it.

    Raises:
        UsageError: it is not.
    """
    for name in NEEDED:
        if find_spec(name) is None:
            raise UsageError(f"The package {name!r} is missing: pip install 'quietdesk[score]'.")


def score(
    conversations: Iterable[Transcript],
    metrics: "Sequence[str | Metric]" = ("default",),
    *,
    slices: Sequence[str] = (),
    keep_rows: bool = True,
) -> "Scores":
    """Score conversations in this process, as `quietdesk score` does with logs.

    Args:
        conversations: Any number of them; they are read once, some thousands at a time.
        metrics: Names, or own metrics; `default` is all that the conversations have data for.
        slices: Fields to slice by: metadata, labels, `week`, ...
        keep_rows: Whether to keep a row per conversation in `Scores.rows`.

    Returns:
        Its `["chrf"]` is an estimate with value, interval, n and the number not measured.

    Raises:
        UnknownNameError: no metric of that name.
        UsageError: two metrics of one name, or what scoring needs is not installed.
    """
    need_extra()
    from quietdesk.scoring.scores import score  # the optional extra

    return score(conversations, metrics, slices=slices, keep_rows=keep_rows)
