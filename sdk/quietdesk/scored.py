"""Scored: `quietdesk.score`, which loads what scoring takes when it is called, not before."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from quietdesk.config import Settings
from quietdesk.engine.backend import Backend
from quietdesk.errors import UsageError
from quietdesk.types import Author, Transcript

if TYPE_CHECKING:
    # An optional extra: for type checkers and editors it is there, for an import it need not be.
    from quietdesk.reply_reader import ReplyReader
    from quietdesk.scoring.base import Metric
    from quietdesk.scoring.scores import Scores

NEEDED = ("pyarrow", "msgspec", "sacrebleu", "scipy", "sklearn")
SAMPLE = 200
"""Conversations that a model reads, unless it is told otherwise."""


def need_extra() -> None:
    """Check that what scoring needs is installed, without importing it.

    Raises:
        UsageError: it is not.
    """
    for name in NEEDED:
        if find_spec(name) is None:
            raise UsageError(f"The package {name!r} is missing: pip install 'quietdesk[score]'.")


@contextmanager
def reply_reader(
    model: str | Path | Backend,
    replies: Sequence[Author | str] = (Author.BOT,),
    settings: Settings | None = None,
) -> "Iterator[ReplyReader]":
    """What reads replies for `surprisal` and `relevance`, until the end of the block.

    A model that is named is opened from its file as it is, not from one that was requantised for
    this machine, so that its figures can be compared with those of other machines.

    Args:
        model: A name in the catalogue, the path of a GGUF file, or an engine that is open, such as
            `assistant.engine`; that one stays open.
        replies: Whose replies: of the bot, of human agents, or of both.
        settings: How a model is opened; `Settings.load()` if None.

    Raises:
        UsageError: the model runs elsewhere, or the authors are neither.
        UnknownNameError: no such model.
        ModelError: the model cannot be used.
    """
    from quietdesk.loading import open_engine, open_window
    from quietdesk.reply_reader import POLICY, ReplyReader

    if isinstance(model, str | Path):
        settings = settings or Settings.load()
        settings = settings.model_copy(update={"n_seq": 1, "quantise": False, "draft_model": ""})
        engine = open_engine(model, settings, look_for_faster=False)
        try:
            yield ReplyReader(engine, open_window(engine, engine.n_ctx, POLICY), replies)
        finally:
            engine.close()
    else:
        yield ReplyReader(model, open_window(model, model.n_ctx, POLICY), replies)


def score(
    conversations: Iterable[Transcript],
    metrics: "Sequence[str | Metric]" = ("default",),
    *,
    slices: Sequence[str] = (),
    keep_rows: bool = True,
    model: str | Path | Backend | None = None,
    sample: int = SAMPLE,
    sample_seed: int = 1,
    replies: Sequence[Author | str] = (Author.BOT,),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> "Scores":
    """Score conversations in this process, as `quietdesk score` does with logs.

    Args:
        conversations: Any number of them; they are read once, some thousands at a time. With a
            model all of them are held in memory, as columns.
        metrics: Names, or own metrics; `default` is all that the conversations have data for.
        slices: Fields to slice by: metadata, labels, `week`, ...
        keep_rows: Whether to keep a row per conversation in `Scores.rows`.
        model: For `surprisal` and `relevance`, which `default` has too then: a name in the
            catalogue, the path of a GGUF file, or an engine that is open.
        sample: Conversations that the model reads, at most: those whose hashed ids come first.
        sample_seed: Another one gives another sample.
        replies: Whose replies the model reads: of the bot, of human agents, or of both.
        on_progress: Told how many conversations the model has read, of how many.

    Returns:
        Its `["chrf"]` is an estimate with value, interval, n and the number not measured.

    Raises:
        UnknownNameError: no metric of that name, or no such model.
        UsageError: two metrics of one name; a metric that takes a model without one; or what
            scoring needs is not installed.
        ModelError: the model cannot be used.
    """
    need_extra()
    from quietdesk.scoring import scores  # the optional extra

    if model is None:
        return scores.score(conversations, metrics, slices=slices, keep_rows=keep_rows)
    from quietdesk.scoring.catalogue import check_takes_model, with_readings
    from quietdesk.scoring.surprisal import Sample, read_sample

    check_takes_model(metrics)
    chosen = Sample(sample, sample_seed)
    batches = []
    for batch in scores.batches_of(conversations):
        chosen.take(batch)
        batches.append(batch)
    with reply_reader(model, replies) as reader:
        found = read_sample(chosen, reader, reader.terms, on_progress)
    known = with_readings(metrics, found)
    return scores.score(batches, known, slices=slices, keep_rows=keep_rows)
