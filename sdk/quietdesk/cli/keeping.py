"""Keeping: what a run finds in a database's conversations is written beside them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from quietdesk.cli import logs
from quietdesk.errors import UnknownNameError, UsageError
from quietdesk.scoring.scorer import Reading
from quietdesk.store.base import Store
from quietdesk.types import KeptScore

SQLITE = b"SQLite format 3\0"
"""How every SQLite file begins."""
BADNESS = "badness"
"""The name under which a conversation's badness is kept."""


class Keeper:
    """Writes scores beside a database's conversations, batch by batch.

    Args:
        database: A path or an address.

    Attributes:
        n_kept: Conversations that have their scores.
        n_gone: Conversations that were removed or taken back while they were scored.

    Raises:
        UsageError: it is no database.
    """

    def __init__(self, database: str) -> None:
        if "://" not in database and not _is_sqlite(database):
            raise UsageError(f"--keep is for a database of Quietdesk, and {database!r} is none.")
        self.n_kept = self.n_gone = 0
        self._store: Store = logs.open_store(database)
        self._at = datetime.now(UTC)

    def take(self, reading: Reading) -> None:
        """Write what was found in a batch."""
        found = scores_of(reading, self._at)
        try:
            self._store.keep_scores(found)
            self.n_kept += len(found)
        except UnknownNameError:
            # Someone removed one of them meanwhile; the others have their scores all the same.
            for name, scores in found.items():
                self._take_one(name, scores)

    def _take_one(self, name: str, scores: Sequence[KeptScore]) -> None:
        try:
            self._store.keep_scores({name: scores})
            self.n_kept += 1
        except UnknownNameError:
            self.n_gone += 1

    def close(self) -> None:
        """Close the database."""
        self._store.close()


def scores_of(reading: Reading, at: datetime) -> Mapping[str, list[KeptScore]]:
    """What was found in a batch, by conversation: values, badness, values and causes of messages.

    Args:
        reading: Of conversations that a store has.
        at: When it was found.
    """
    names = [metric.name for metric in reading.scorer.metrics]
    print_of = reading.scorer.fingerprint
    ids = reading.conversations.rows["id"].to_pylist()
    found: dict[str, list[KeptScore]] = {}
    messages: dict[str, dict[tuple[str, str], float | None]] = {}
    causes: dict[str, set[tuple[str, str]]] = {}
    for begin, row in zip(
        reading.conversations.offsets.tolist(), reading.rows.to_pylist(), strict=False
    ):
        values = {BADNESS: row["badness"], **{name: row[name] for name in names}}
        found[row["id"]] = [
            KeptScore(metric=name, value=value, at=at, fingerprint=print_of)
            for name, value in values.items()
            if value is not None
        ]
        mine = {(ids[begin + cause["message"]], cause["metric"]) for cause in row["causes"]}
        causes[row["id"]] = mine
        messages[row["id"]] = dict.fromkeys(sorted(mine))
    for turn in reading.turns.to_pylist():
        messages[turn["conversation"]][(turn["message_id"], turn["metric"])] = turn["value"]
    for name, told in messages.items():
        found[name] += [
            KeptScore(
                metric=metric,
                message_id=message_id,
                value=value,
                cause=(message_id, metric) in causes[name],
                at=at,
                fingerprint=print_of,
            )
            for (message_id, metric), value in told.items()
            # The system prompt is among the messages of a log, and is none of the store.
            if message_id
        ]
    return found


def _is_sqlite(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(len(SQLITE)) == SQLITE
    except OSError:
        return False
