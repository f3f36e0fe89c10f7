"""Download: the one place of Quietdesk's models that uses the network, and only when asked to.

A download can be cut anywhere and goes on where it stopped; what comes is checked by its sha256
before it gets its name. Python's own HTTP client does it: all that is needed is a GET with a Range,
and a client for a whole hub would bring twenty packages along.
"""

import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quietdesk_models.catalog import ModelCard
from quietdesk_models.errors import BadFileError, ChecksumError, DownloadError
from quietdesk_models.gguf import read_model
from quietdesk_models.weights import Places, cached_path

HUB = "https://huggingface.co"
TIMEOUT_S = 30.0
"""Seconds without a byte before a connection counts as lost."""
ATTEMPTS = 5
"""Connections in a row that may bring nothing before a download gives up."""

_CHUNK = 2**20

Progress = Callable[[int, int], None]
"""Told the bytes that are here and the bytes of the whole file."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A file that is here now."""

    path: Path
    sha256: str
    trusted: bool
    """False where no sha256 was known before: this one was noted, and is demanded from now on."""
    was_here: bool
    """Whether nothing had to be downloaded."""


def pull(
    card: ModelCard,
    places: Places | None = None,
    on_progress: Progress | None = None,
    *,
    endpoint: str | None = None,
    wait_s: float = 1.0,
) -> Pulled:
    """Have the card's file in our own cache, whole and checked.

    Args:
        card: The model.
        places: The folders; the usual ones if None.
        on_progress: Called from this thread, once a megabyte at most.
        endpoint: The hub's address; if None `$HF_ENDPOINT`, else Hugging Face's.
        wait_s: Seconds before the first new attempt; doubled each time that nothing came.

    Raises:
        DownloadError: it did not come to its end; what came is kept for the next time.
        ChecksumError: what came is not what was asked for; it was thrown away.
    """
    target = cached_path(card, places or Places.of())
    noted = record_of(target).get("sha256")
    expected = card.sha256 or (noted if isinstance(noted, str) else None)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(card, target):
            was_here = target.is_file()
            source = url(card, endpoint)
            if not was_here:
                _Download(card, target, source, on_progress or _ignore).run(wait_s)
            present = target if was_here else _part_path(target)
            actual = sha256_of(present, on_progress if was_here else None)
            if expected is not None and actual != expected:
                present.unlink()
                raise ChecksumError(card.name, expected, actual)
            if not was_here:
                _accept(card, target, source, actual)
    except OSError as error:
        raise DownloadError(
            f"The file of {card.name!r} cannot be kept in {str(target.parent)!r}: "
            f"{error.strerror or error}."
        ) from None
    return Pulled(target, actual, trusted=expected is not None, was_here=was_here)


def url(card: ModelCard, endpoint: str | None = None) -> str:
    """Where the card's file is published, at its revision."""
    hub = (endpoint or os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    return urllib.parse.quote(
        f"{hub}/{card.repo}/resolve/{card.revision}/{card.file}", safe="/:[]@"
    )


def sha256_of(path: Path, on_progress: Progress | None = None) -> str:
    """Hex sha256 of a file's content."""
    digest, size, done = hashlib.sha256(), path.stat().st_size, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if on_progress is not None:
                on_progress(done, size)
    return digest.hexdigest()


def record_of(path: Path) -> Mapping[str, Any]:
    """What was noted of a downloaded file: its source, sha256 and time; empty for any other."""
    try:
        noted = json.loads(_record_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def remove(card: ModelCard, places: Places | None = None) -> int:
    """Forget a download, finished or not; the bytes that were freed.

    What was noted of it stays, so that another file under its name is still refused.
    """
    target = cached_path(card, places or Places.of())
    freed = 0
    for path in (target, _part_path(target), _tag_path(target)):
        if path.is_file():
            freed += path.stat().st_size
            path.unlink()
    return freed


def _record_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _part_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _tag_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.part.etag")


def _ignore(_done: int, _size: int) -> None:
    """Nobody asked for progress."""


@contextmanager
def _alone(card: ModelCard, target: Path) -> Iterator[None]:
    """Hold the file's lock, which ends with this process, however it ends."""
    lock = target.with_name(f"{target.name}.lock")
    with lock.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(
                f"Another process is downloading {card.name!r} already; wait for it."
            ) from None
        yield


def _accept(card: ModelCard, target: Path, source: str, actual: str) -> None:
    """Give the checked part its name; it is on the disk before it has it."""
    part = _part_path(target)
    try:
        read_model(part)
    except BadFileError as error:
        part.unlink()
        raise DownloadError(
            f"What {source} sent for {card.name!r} is no usable model: {error.reason}"
        ) from None
    record = {
        "model": card.name,
        "source": source,
        "sha256": actual,
        "size_bytes": part.stat().st_size,
        "sha256_known_before": card.sha256 is not None,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    _record_path(target).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    _tag_path(target).unlink(missing_ok=True)


class _Download:
    """Fills the `.part` file, over as many connections as it takes."""

    def __init__(self, card: ModelCard, target: Path, source: str, on_progress: Progress) -> None:
        self.card = card
        self.part = _part_path(target)
        self.tag = _tag_path(target)
        self.source = source
        self.on_progress = on_progress
        self.size: int | None = card.size_bytes

    @property
    def done(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def run(self, wait_s: float) -> None:
        barren = 0
        while True:
            before = self.done
            if self.size is not None and before == self.size:
                return
            try:
                self._connect(before)
                return
            except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
            except urllib.error.URLError as error:
                reason = str(error.reason)
            barren = 0 if self.done > before else barren + 1
            if barren == ATTEMPTS:
                raise DownloadError(
                    f"The download of {self.card.name!r} from {self.source} stopped: {reason}. "
                    f"{self.done:,} bytes are kept; the same command goes on from there."
                )
            time.sleep(wait_s * 2 ** max(barren - 1, 0))

    def _connect(self, start: int) -> None:
        request = urllib.request.Request(self.source, headers={"User-Agent": "quietdesk"})
        # Compressed on the fly, a file has no byte ranges and no length.
        request.add_header("Accept-Encoding", "identity")
        if start:
            request.add_header("Range", f"bytes={start}-")
            if tag := self._etag():
                request.add_header("If-Range", tag)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                self._receive(response, start)
        except urllib.error.HTTPError as error:
            self._refused(error, start)

    def _refused(self, error: urllib.error.HTTPError, start: int) -> None:
        if error.code == 416 and start:
            # Nothing follows what is here: it is whole, or it is of another file.
            total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range") or "")
            if total is None or int(total[1]) != start:
                self.part.unlink()
                raise ConnectionError("what was here did not belong to the file; starting anew")
            return
        if error.code >= 500 or error.code in {408, 429}:
            raise ConnectionError(f"the server answered {error.code} {error.reason}")
        hint = {
            401: "The repository wants a licence to be accepted, or a login.",
            403: "The repository wants a licence to be accepted, or a login.",
            404: "The file is not there any more.",
        }.get(error.code, "")
        raise DownloadError(
            f"{self.source} answered {error.code} {error.reason}. {hint}".rstrip()
        ) from None

    def _receive(self, response: http.client.HTTPResponse, start: int) -> None:
        if response.status == 206:
            place = re.fullmatch(
                r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range") or ""
            )
            if place is None or int(place[1]) != start:
                raise ConnectionError("the server sent another range than the one asked for")
            size = int(place[2])
        else:
            # The whole file from its start: the server knows no ranges, or the file has changed.
            start = 0
            size = int(response.headers.get("Content-Length") or 0)
        self._agree_on(size)
        if tag := response.headers.get("ETag"):
            self.tag.write_text(tag, encoding="utf-8")
        with self.part.open("r+b" if start else "wb") as file:
            file.seek(start)
            done = start
            self.on_progress(done, self.size or done)
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                self.on_progress(done, self.size or done)
                if self.size is not None and done > self.size:
                    break
        if self.size is not None and done != self.size:
            if done > self.size:
                self.part.unlink()
            raise ConnectionError(f"the connection ended after {done:,} bytes of {self.size:,}")

    def _agree_on(self, size: int) -> None:
        """Settle the file's size and see that it fits, before anything is written."""
        known = self.card.size_bytes
        if known is not None and size and size != known:
            raise DownloadError(
                f"{self.source} offers {size:,} bytes for {self.card.name!r}, and {known:,} are "
                "expected. It is another file; nothing was downloaded."
            )
        self.size = known or size or None
        missing = (self.size or 0) - self.done
        free = shutil.disk_usage(self.part.parent).free
        if missing > free:
            raise DownloadError(
                f"{self.card.name!r} needs {missing:,} bytes more in {str(self.part.parent)!r}, "
                f"and {free:,} are free."
            )

    def _etag(self) -> str:
        try:
            tag = self.tag.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""
        # A weak tag does not stand for the same bytes, so If-Range must not carry one.
        return "" if tag.startswith("W/") else tag
