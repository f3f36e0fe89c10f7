"""Ids that come twice among any number of conversations, found in bounded memory by digest."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from quietdesk.scoring.parts import Ids

_ENTRY = np.dtype([("id", "<u8"), ("part", "<u4"), ("row", "<u4")])


class Twice:
    """Finds ids that come twice among any number, in bounded memory: in files by their digest."""

    N_FILES = 64
    MEMORY_IDS = 250_000
    SHOWN = 20

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._held: list[npt.NDArray[Any]] = []
        self._n_held = 0
        self._folder: Path | None = None

    def __enter__(self) -> "Twice":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, ids: Ids, part: int) -> None:
        """The ids of one part."""
        entries = np.empty(len(ids), _ENTRY)
        entries["id"], entries["part"], entries["row"] = ids, part, np.arange(len(ids))
        self._held.append(entries)
        self._n_held += len(ids)
        if self._n_held > self.MEMORY_IDS:
            self._spill()

    def _spill(self) -> None:
        if self._folder is None:
            temporary = TemporaryDirectory(prefix="quietdesk-ids-")
            self._folder = Path(self._stack.enter_context(temporary))
        entries = np.concatenate([np.empty(0, _ENTRY), *self._held])
        places = entries["id"] // np.uint64(2**64 // self.N_FILES)
        order = np.argsort(places, kind="stable")
        bounds = np.searchsorted(places[order], np.arange(self.N_FILES + 1))
        for i in range(self.N_FILES):
            chosen = entries[order[bounds[i] : bounds[i + 1]]]
            if len(chosen):
                with (self._folder / f"{i}").open("ab") as file:
                    file.write(chosen.tobytes())
        self._held, self._n_held = [], 0

    def found(self) -> tuple[int, list[tuple[int, int]]]:
        """How many conversations have an id of an earlier one, and where: part and row of some."""
        count, places = 0, []
        for entries in self._groups():
            order = np.argsort(entries["id"], kind="stable")
            ids = entries["id"][order]
            again = entries[order[1:][ids[1:] == ids[:-1]]]
            count += len(again)
            again = np.sort(again, order=["part", "row"])[: self.SHOWN]
            places += [(int(entry["part"]), int(entry["row"])) for entry in again]
        return count, sorted(places)[: self.SHOWN]

    def _groups(self) -> Iterator[npt.NDArray[Any]]:
        if self._folder is None:
            yield np.concatenate([np.empty(0, _ENTRY), *self._held])
            return
        self._spill()
        for path in sorted(self._folder.iterdir()):
            yield np.fromfile(path, _ENTRY)
