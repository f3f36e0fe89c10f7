"""Quantise and choose: the type that is fastest on this machine without costing quality, made once.

llama.cpp re-packs some types for the CPU at hand when it loads them and then reads prompts several
times as fast; which ones, and what they lose, is measured here, not believed: each candidate is
made from the source file, reads a fixed support text (perplexity against the source's, token by
token), and is timed. The fastest one within `TOLERANCE` is kept in the user's cache, with a card
that tells the numbers. If none is, the source stays.

Work is done by a child process (`worker.py`), one at a time per model, and a file has its name only
when it is whole and on the disk.
"""

import fcntl
import json
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Self

from quietdesk_models.errors import BadFileError, QuantiseError
from quietdesk_models.gguf import Header, read_model
from quietdesk_models.weights import Places

TOLERANCE = 1.02
"""Perplexity that a candidate may have, as a multiple of the source's.

Made from the starter's Q4_1, Q8_0 was measured at 1.006 ± .003, Q4_K_M at 1.055, IQ4_NL at 1.18
and Q4_0 at 1.28: there is nothing near the line, and the measurement is fine enough to draw it.
"""
WORTH = 1.05
"""How many times as fast as the source a candidate must be to be worth its place on the disk."""
REPLY_OF = (256, 32, 32)
"""The work that speeds are compared by: tokens read, said alone, and said by eight abreast."""
NICENESS = 10
"""Of the child in the background: whoever chats comes first."""

Progress = Callable[[str, float], None]
"""Told what is being done, and the share of the whole that is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a file can be requantised."""

    name: str
    file_type: int
    """llama.cpp's number of the mixture."""
    embedding_type: int | None = None
    """llama.cpp's number for embeddings and output; None: as the mixture has it."""


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("Q8_0", 7),
        Recipe("IQ4_NL", 25),
        Recipe("Q4_0", 2),
        Recipe("Q4_0_ALL", 2, 2),
        Recipe("Q4_K_M", 15),
        Recipe("Q5_K_M", 17),
        Recipe("Q6_K", 18),
    )
}
"""Types that `--type` takes. `Q4_0_ALL` has its embeddings in Q4_0 too."""
BENCHED = ("Q8_0", "IQ4_NL", "Q4_0")
"""Types that llama.cpp has fast prompt kernels for: what a comparison shows."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a file can do on this machine."""

    type: str
    size_bytes: int
    perplexity: float
    """Of the fixed support text; lower is better; only comparable within one vocabulary."""
    ratio: float
    """Perplexity as a multiple of the source's; 1 for the source itself."""
    ratio_error: float
    """Standard error of the ratio, from the token-by-token differences."""
    prompt_tokens_per_s: float
    single_tokens_per_s: float
    """Generated for one conversation alone."""
    batch_tokens_per_s: float
    """Generated for eight conversations together."""

    @property
    def seconds(self) -> float:
        """Time for the work of `REPLY_OF`."""
        read, alone, abreast = REPLY_OF
        return (
            read / self.prompt_tokens_per_s
            + alone / self.single_tokens_per_s
            + abreast / self.batch_tokens_per_s
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """What was found out about a model on this machine, as its card tells it."""

    source: str
    source_fingerprint: str
    machine: str
    tool: str
    time: str
    chosen: str
    """A type of `measured`; the source's own where nothing better was found."""
    path: str
    """The file to use: the source's or the requantised one."""
    reason: str
    measured: tuple[Measured, ...]
    """The source first."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a card; raises KeyError or TypeError where it is not one."""
        measured = tuple(Measured(**row) for row in value["measured"])
        return cls(**{**value, "measured": measured})

    @property
    def of_source(self) -> Measured:
        """The source's own numbers."""
        return self.measured[0]

    @property
    def of_chosen(self) -> Measured:
        """The chosen type's numbers."""
        return next(row for row in self.measured if row.type == self.chosen)


def ready(source: Path, places: Places | None = None) -> Choice | None:
    """What was chosen before for this file on this machine; None where it has yet to be made.

    Takes the time of reading a header.

    Raises:
        BadFileError: the source is no model.
    """
    header = read_model(source)
    return _ready(header, _folder(header, places or Places.of()))


def choose(
    source: Path,
    places: Places | None = None,
    candidates: Sequence[str] | None = None,
    on_progress: Progress | None = None,
    *,
    n_threads: int = 0,
    niceness: int = NICENESS,
) -> Choice:
    """Make and measure the candidates, keep the best one, note why.

    Where another process is at it, its result is waited for and taken.

    Args:
        source: The model's file, in one part.
        places: The folders; the usual ones if None.
        candidates: Names of `RECIPES`; if None those of `candidates_for`.
        on_progress: Called from this thread.
        n_threads: Of the child; 0: the cores that this process may use.
        niceness: Of the child; 0 for numbers that shall be compared.

    Raises:
        BadFileError: the source is no model.
        QuantiseError: nothing was made, with the reason; what was there before still is.
    """
    header = read_model(source)
    folder = _folder(header, places or Places.of())
    report = on_progress or _ignore
    candidates = candidates_for(header) if candidates is None else candidates
    with _alone(folder):
        if (before := _ready(header, folder)) is not None:
            return before
        work = _Work(header, folder, n_threads, niceness)
        steps = len(candidates) + 1
        report(f"measuring {header.quantisation}", 0.0)
        base = work.measure(
            source, header.quantisation, None, _part(report, "measuring", 0, 1, steps)
        )
        rows, made = [base.measured], {}
        for number, name in enumerate(candidates, 1):
            if name == header.quantisation:
                continue
            path = work.make(RECIPES[name], _part(report, f"making {name}", number, 0.3, steps))
            told = _part(report, f"measuring {name}", number + 0.3, 0.7, steps)
            rows.append(work.measure(path, name, base, told).measured)
            made[name] = path
        chosen, reason = decide(rows)
        for name, path in made.items():
            if name != chosen:
                path.unlink()
        choice = _card(header, rows, chosen, made.get(chosen, source), reason)
        _write(folder / "choice.json", choice)
        report(reason, 1.0)
        return choice


def make(
    source: Path,
    recipe: str,
    places: Places | None = None,
    on_progress: Progress | None = None,
    *,
    n_threads: int = 0,
    niceness: int = 0,
) -> Choice:
    """Requantise to one type, whatever it costs; the card tells what that is.

    Args and errors as in `choose`.
    """
    header = read_model(source)
    if recipe == header.quantisation:
        raise QuantiseError(f"{str(source)!r} is {recipe} already.")
    folder = _folder(header, places or Places.of())
    report = on_progress or _ignore
    with _alone(folder):
        work = _Work(header, folder, n_threads, niceness)
        base = work.measure(source, header.quantisation, None, _part(report, "measuring", 0, 1, 3))
        path = work.make(RECIPES[recipe], _part(report, f"making {recipe}", 1, 1, 3))
        new = work.measure(path, recipe, base, _part(report, f"measuring {recipe}", 2, 1, 3))
        rows = [base.measured, new.measured]
        choice = _card(header, rows, recipe, path, "asked for by its name")
        _write(folder / "choice.json", choice)
        report("done", 1.0)
        return choice


def bench(
    source: Path,
    recipes: Sequence[str] = BENCHED,
    on_progress: Progress | None = None,
    *,
    places: Places | None = None,
    n_threads: int = 0,
) -> list[Measured]:
    """The numbers of the source and of the types that it could be requantised to; keeps nothing."""
    header = read_model(source)
    folder = _folder(header, places or Places.of()).with_suffix(".bench")
    report = on_progress or _ignore
    steps = len(recipes) + 1
    with _alone(folder):
        try:
            work = _Work(header, folder, n_threads, niceness=0)
            told = _part(report, "measuring", 0, 1, steps)
            base = work.measure(source, header.quantisation, None, told)
            rows = [base.measured]
            for number, name in enumerate(recipes, 1):
                path = work.make(RECIPES[name], _part(report, f"making {name}", number, 0.3, steps))
                told = _part(report, f"measuring {name}", number + 0.3, 0.7, steps)
                rows.append(work.measure(path, name, base, told).measured)
                path.unlink()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return rows


def candidates_for(header: Header) -> tuple[str, ...]:
    """What is worth trying for a file when no type was named.

    A file that was rounded to a few bits already loses about as much by a second rounding as by the
    first one (see `TOLERANCE`), on any machine: only more bits can help it, with faster kernels.
    """
    return BENCHED if header.quantisation in {"F32", "F16", "BF16"} else ("Q8_0",)


def decide(rows: Sequence[Measured]) -> tuple[str, str]:
    """The type to use, and why; the first row is the source."""
    source = rows[0]
    within = [row for row in rows if row.ratio <= TOLERANCE]
    best = min(within, key=lambda row: row.seconds)
    times = source.seconds / best.seconds
    lost = f"perplexity {(best.ratio - 1) * 100:+.1f} % ± {best.ratio_error * 100:.1f}"
    if best is source or times < WORTH:
        return source.type, (
            f"{source.type} stays: nothing within {(TOLERANCE - 1) * 100:.0f} % of its perplexity "
            f"is {(WORTH - 1) * 100:.0f} % faster here"
        )
    return best.type, f"{best.type} is {times:.2f} times as fast here, at {lost}"


def remove(source: Path, places: Places | None = None) -> int:
    """Forget what was made from a file; the bytes that were freed."""
    folder = _folder(read_model(source), places or Places.of())
    if not folder.is_dir():
        return 0
    with _alone(folder):
        freed = sum(path.stat().st_size for path in folder.iterdir())
        shutil.rmtree(folder)
    return freed


@dataclass(frozen=True, slots=True)
class _Reading:
    """Numbers, and the loss of every token for comparing others with."""

    measured: Measured
    losses: list[float]


class _Work:
    """One model's requantising in one folder, whose lock is held."""

    def __init__(self, header: Header, folder: Path, n_threads: int, niceness: int) -> None:
        if header.shard[1] > 1:
            raise QuantiseError(
                f"{str(header.path)!r} is a model in {header.shard[1]} parts; join them first "
                "(llama-gguf-split --merge)."
            )
        self.header = header
        self.folder = folder
        self.n_threads = n_threads or _usable_cores()
        self.niceness = niceness
        # The lock is ours, so whatever is unfinished here was left by a process that died.
        for stale in folder.glob("*.tmp"):
            stale.unlink()

    def make(self, recipe: Recipe, on_progress: Callable[[float], None]) -> Path:
        """The requantised file, under its name."""
        target = self.folder / f"{self.header.path.stem}.{recipe.name}.gguf"
        unfinished = target.with_suffix(".tmp")
        self._see_room()
        try:
            _run(
                {
                    "do": "quantise",
                    "source": str(self.header.path),
                    "target": str(unfinished),
                    "file_type": recipe.file_type,
                    "embedding_type": recipe.embedding_type,
                    "n_threads": self.n_threads,
                    "niceness": self.niceness,
                },
                on_progress,
            )
            # llama.cpp reports success also where a write at the file's end failed.
            read_model(unfinished)
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(target)
            _sync_folder(self.folder)
        except BadFileError as error:
            raise QuantiseError(f"llama.cpp wrote no usable file: {error.reason}") from None
        except OSError as error:
            raise QuantiseError(f"{str(target)!r} cannot be written: {error.strerror}.") from None
        finally:
            unfinished.unlink(missing_ok=True)
        return target

    def measure(
        self,
        path: Path,
        type_name: str,
        base: _Reading | None,
        on_progress: Callable[[float], None],
    ) -> _Reading:
        """Perplexity and speeds of a file, compared with the source's reading."""
        with as_file(files("quietdesk_models").joinpath("support.txt")) as text:
            told = _run(
                {
                    "do": "measure",
                    "source": str(path),
                    "text": str(text),
                    "n_threads": self.n_threads,
                    "niceness": self.niceness,
                },
                on_progress,
            )
        losses = [float(loss) for loss in told["losses"]]
        if not all(map(math.isfinite, losses)):
            raise QuantiseError(f"{str(path)!r} gives probabilities that are no numbers.")
        if base is None:
            ratio, error = 1.0, 0.0
        else:
            apart = [new - old for new, old in zip(losses, base.losses, strict=True)]
            ratio = math.exp(statistics.fmean(apart))
            error = ratio * statistics.stdev(apart) / math.sqrt(len(apart))
        return _Reading(
            Measured(
                type=type_name,
                size_bytes=path.stat().st_size,
                perplexity=round(math.exp(statistics.fmean(losses)), 3),
                ratio=round(ratio, 4),
                ratio_error=round(error, 4),
                prompt_tokens_per_s=told["prompt_tokens_per_s"],
                single_tokens_per_s=told["single_tokens_per_s"],
                batch_tokens_per_s=told["batch_tokens_per_s"],
            ),
            losses,
        )

    def _see_room(self) -> None:
        # Q8_0 from a 4-bit file is the largest growth there is, somewhat below twice the size.
        needed, free = 2 * self.header.file_bytes, shutil.disk_usage(self.folder).free
        if needed > free:
            raise QuantiseError(
                f"Requantising {str(self.header.path)!r} needs up to {needed:,} bytes in "
                f"{str(self.folder)!r}, and {free:,} are free."
            )


def _run(task: Mapping[str, Any], on_progress: Callable[[float], None]) -> dict[str, Any]:
    """Have the worker do a task; its result.

    Raises:
        QuantiseError: it failed or died, with what it said.
    """
    # A session of its own: Ctrl-C is for this process, which ends the child itself.
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "quietdesk_models.worker", json.dumps(task)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None and child.stderr is not None
    result: dict[str, Any] = {}
    try:
        for line in child.stdout:
            message = json.loads(line)
            if "done" in message:
                on_progress(message["done"] / message["of"])
            else:
                result = message
        complaint = child.stderr.read().strip()
        code = child.wait()
    except BaseException:
        child.kill()
        raise
    finally:
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
    what = "Requantising" if task["do"] == "quantise" else "Measuring"
    if "error" in result:
        raise QuantiseError(f"{what} {task['source']!r} failed: {result['error']}.")
    if code != 0 or not result:
        died = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        said = complaint.splitlines()[-1] if complaint else "it said nothing"
        raise QuantiseError(f"{what} {task['source']!r} failed: its process {died}; {said}.")
    return result


def _folder(header: Header, places: Places) -> Path:
    return places.cache / "quantised" / f"{header.path.stem}-{header.fingerprint[:12]}"


def _ready(header: Header, folder: Path) -> Choice | None:
    try:
        choice = Choice.from_json(json.loads((folder / "choice.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    same = (choice.source_fingerprint, choice.machine, choice.tool)
    if same != (header.fingerprint, _machine(), _tool()):
        return None
    if choice.chosen == choice.of_source.type:
        # The source may have moved since; it is still the one to use.
        return Choice(**{**_fields(choice), "path": str(header.path)})
    path = Path(choice.path)
    if not path.is_file() or path.stat().st_size != choice.of_chosen.size_bytes:
        return None
    return choice


def _card(header: Header, rows: Sequence[Measured], chosen: str, path: Path, reason: str) -> Choice:
    return Choice(
        source=str(header.path),
        source_fingerprint=header.fingerprint,
        machine=_machine(),
        tool=_tool(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        chosen=chosen,
        path=str(path),
        reason=reason,
        measured=tuple(rows),
    )


def _fields(choice: Choice) -> dict[str, Any]:
    return {name: getattr(choice, name) for name in Choice.__slots__}


def _write(path: Path, choice: Choice) -> None:
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump(asdict(choice), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, waiting for it; it ends with this process, however that ends."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f"{folder.name}.lock").open("wb")
    except OSError as error:
        raise QuantiseError(
            f"Nothing can be kept in {str(folder.parent)!r}: {error.strerror}."
        ) from None
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.1)
        folder.mkdir(exist_ok=True)
        yield


def _part(
    report: Progress, what: str, start: float, length: float, steps: int
) -> Callable[[float], None]:
    """Progress within one step: from `start` on, `length` steps of `steps` long."""
    return lambda share: report(what, min((start + share * length) / steps, 1.0))


def _ignore(_what: str, _share: float) -> None:
    """Nobody asked for progress."""


def _machine() -> str:
    """The CPU: a choice is for one kind, and home folders travel."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        if line.startswith("model name"):
            return f"{platform.machine()} {line.partition(':')[2].strip()}"
    return f"{platform.machine()} {platform.processor()}".strip()


def _tool() -> str:
    try:
        return f"llama-cpp-python {version('llama-cpp-python')}"
    except PackageNotFoundError:
        raise QuantiseError("llama.cpp is not installed: pip install 'quietdesk[llama]'.") from None


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
