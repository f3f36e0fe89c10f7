"""Kept scores: the folder of a run, in which every file appears whole or not at all.

::

    run.json                   what is measured and of what: format, source, metrics, slices, began;
                               when all parts are there also finished, and parts, in order: key,
                               where, bytes, conversations
    scores.json                `Scores.to_json`, written last; with it the run is done
    parts/<key>.tally          what a part of the logs adds up to, its ids, and what was wrong
    parts/<key>.rows.parquet   its rows, one per conversation
    lock                       held by the process that writes

A key tells the part and what is measured, so that a run that was killed goes on where it was, and
one whose logs have grown scores only what is new. `runs_in` and `rows_of` read such folders;
`scores.load` reads the scores of one.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from quietdesk.errors import FolderInUseError, UsageError
from quietdesk.scoring.parts import Ids, Output, Part, Recipe, Summary
from quietdesk.scoring.scorer import Tally

MANIFEST = "run.json"
SCORES = "scores.json"
FORMAT = "quietdesk run 1"
_PARTS = "parts"


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder, as its `run.json` tells."""

    folder: Path
    source: str
    """What was scored, in words."""
    metrics: tuple[str, ...]
    slices: tuple[str, ...]
    began: datetime
    finished: datetime | None
    """None while it is under way, or after it was stopped."""
    n_conversations: int
    """0 before it is finished."""

    @property
    def done(self) -> bool:
        """Whether its scores are there."""
        return self.finished is not None and (self.folder / SCORES).exists()


def runs_in(folder: Path) -> list[Run]:
    """The runs whose folders stand in a folder, the newest first."""
    found = [run_of(path.parent) for path in folder.glob(f"*/{MANIFEST}")]
    return sorted((run for run in found if run is not None), key=lambda r: r.began, reverse=True)


def run_of(folder: Path) -> Run | None:
    """The run of this folder; None where there is none of this version."""
    told = _manifest(folder)
    if told is None:
        return None
    return Run(
        folder,
        told["source"],
        tuple(told["metrics"]),
        tuple(told["slices"]),
        datetime.fromisoformat(told["began"]),
        datetime.fromisoformat(told["finished"]) if "finished" in told else None,
        sum(part["conversations"] for part in told.get("parts", ())),
    )


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        told = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and told.get("format") == FORMAT else None


def rows_of(folder: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a run that is finished, one per conversation, in the order of the logs.

    Columns as in `scorer.Reading.rows`.

    Raises:
        UsageError: there is no finished run in the folder.
    """
    told = _manifest(folder)
    if told is None or "finished" not in told:
        raise UsageError(f"There is no finished run in {str(folder)!r}.")
    for part in told["parts"]:
        path = folder / _PARTS / f"{part['key']}.rows.parquet"
        if path.exists():
            yield from pq.ParquetFile(path).iter_batches(use_threads=False)


def holding(folder: Path, ids: Collection[str]) -> list[Path]:
    """What in a folder of runs has one of these conversations, or may have: runs and files.

    The worst conversations stand in scores word for word, and every one has a row. Of a run that
    is not finished nothing can be told, so that it counts.

    Args:
        folder: Where runs and files of scores stand side by side.
        ids: Of conversations.
    """
    names = [json.dumps(id_).encode() for id_ in ids]

    def has(path: Path) -> bool:
        if path.is_dir():
            run = run_of(path)
            if run is None:
                return False
            return not run.done or has(path / SCORES) or _has_row(path, ids)
        content = path.read_bytes()
        return any(name in content for name in names)

    places = [*folder.glob("*.json"), *(path.parent for path in folder.glob(f"*/{MANIFEST}"))]
    return sorted(path for path in places if has(path))


def _has_row(folder: Path, ids: Collection[str]) -> bool:
    known = pa.array(list(ids), pa.string())
    return any(pc.any(pc.is_in(rows["id"], known)).as_py() for rows in rows_of(folder))


class Kept:
    """The folder of a run while it is under way; a context manager.

    Args:
        folder: The folder; None for a temporary one, whose files go when they were read.
        recipe: What is measured.
        source: What is scored, in words.

    Attributes:
        path: Where the parts' files go.
    """

    def __init__(self, folder: Path | None, recipe: Recipe, source: str = "") -> None:
        self._folder = folder
        self._recipe = recipe
        self._source = source
        self._stack = ExitStack()
        self._fingerprint = recipe.scorer().fingerprint
        self._told: dict[str, Any] = {}
        self.path = Path()

    def __enter__(self) -> "Kept":
        if self._folder is None:
            temporary = TemporaryDirectory(prefix="quietdesk-scores-")
            self.path = Path(self._stack.enter_context(temporary))
            return self
        self.path = self._folder / _PARTS
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self._stack.enter_context((self._folder / "lock").open("w"))
        except OSError as error:
            raise UsageError(
                f"Cannot keep scores in {str(self._folder)!r}: {error.strerror}."
            ) from None
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except OSError:
            self._stack.close()
            raise FolderInUseError(
                f"Another run keeps its scores in {str(self._folder)!r}. Wait for it, or name "
                "another folder."
            ) from None
        for place in (self.path, self._folder):
            for leftover in place.glob("*.part-*"):
                leftover.unlink(missing_ok=True)
        self._begin(self._folder)
        return self

    def _begin(self, folder: Path) -> None:
        before = _manifest(folder) or {}
        now = {
            "format": FORMAT,
            "source": self._source,
            "metrics": [metric.name for metric in self._recipe.scorer().metrics],
            "slices": list(self._recipe.slices),
        }
        again = all(before.get(name) == value for name, value in now.items())
        if "finished" in before and not again:
            self._stack.close()
            raise UsageError(
                f"{str(folder)!r} holds another run already: of {before['source']!r}, with "
                f"{', '.join(before['metrics'])}. Name another folder, or remove that one."
            )
        (folder / SCORES).unlink(missing_ok=True)
        self._told = now | {"began": before["began"] if again else _now()}
        self._write_manifest(folder)

    def _write_manifest(self, folder: Path) -> None:
        write_whole(folder / MANIFEST, json.dumps(self._told, indent=1).encode())

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def key(self, part: Part) -> str:
        """The name of what a part gives."""
        told = [FORMAT, version("quietdesk"), self._fingerprint, self._recipe.rows, part.identity]
        return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()

    def has(self, key: str) -> bool:
        """Whether a part's scores are there."""
        return (self.path / f"{key}.tally").exists()

    def take(self, key: str) -> tuple[Tally, Ids, Summary]:
        """What a part gave, without its rows."""
        tally, ids, found = _unpack((self.path / f"{key}.tally").read_bytes())
        if self._folder is None:
            (self.path / f"{key}.tally").unlink()
        return tally, ids, found

    def rows(self, key: str) -> Iterator[pa.RecordBatch]:
        """A part's rows; none where they were not kept."""
        path = self.path / f"{key}.rows.parquet"
        if path.exists():
            yield from pq.ParquetFile(path).iter_batches(use_threads=False)
            if self._folder is None:
                path.unlink()

    def finish(self, parts: list[dict[str, Any]]) -> None:
        """Write down which parts make up the run, and drop those that no longer do."""
        if self._folder is None:
            return
        self._told |= {"finished": _now(), "fingerprint": self._fingerprint, "parts": parts}
        self._write_manifest(self._folder)
        mine = {part["key"] for part in parts}
        for path in self.path.iterdir():
            if path.name.partition(".")[0] not in mine:
                path.unlink(missing_ok=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def keep(folder: Path, key: str, output: Output) -> None:
    """Keep what a part gave, whole or not at all; the tally, written last, says that it is done."""
    rows = output.rows
    if rows is not None:
        _write(
            folder / f"{key}.rows.parquet",
            lambda path: pq.write_table(rows, path, compression="zstd"),
        )
    write_whole(folder / f"{key}.tally", _pack(output))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    _write(path, lambda temporary: temporary.write_bytes(content))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f"{path.name}.part-{os.getpid()}")
    write(temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _pack(output: Output) -> bytes:
    header = json.dumps({"found": _as_json(output.found), "ids": len(output.ids)}).encode()
    return b"%d\n" % len(header) + header + output.ids.astype("<u8").tobytes() + output.tally


def _as_json(found: Summary) -> dict[str, Any]:
    # Not `asdict`, which in Python 3.11 breaks a Counter.
    return {name.name: getattr(found, name.name) for name in fields(found)}


def _unpack(content: bytes) -> tuple[Tally, Ids, Summary]:
    size, _, rest = content.partition(b"\n")
    header = json.loads(rest[: int(size)])
    body = rest[int(size) :]
    end = 8 * header["ids"]
    found = Summary(**{**header["found"], "kinds": Counter(header["found"]["kinds"])})
    return Tally.from_bytes(body[end:]), np.frombuffer(body[:end], "<u8").astype(np.uint64), found
