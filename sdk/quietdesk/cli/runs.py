"""Runs: scores from logs or from a file of scores, for several verbs; imported when one runs."""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from quietdesk.cli import logs
from quietdesk.cli.scoring_options import DEFAULT
from quietdesk.cli.scoring_progress import ModelProgress, ScoringProgress
from quietdesk.config import cache_folder, scores_folder
from quietdesk.errors import FolderInUseError, LogError, UnknownNameError, UsageError
from quietdesk.logs.parts import Parts
from quietdesk.logs.reading import Reading as LogReading
from quietdesk.logs.reading import read
from quietdesk.scored import SAMPLE, reply_reader
from quietdesk.scoring.base import Metric
from quietdesk.scoring.catalogue import check_takes_model, with_readings
from quietdesk.scoring.kept import SCORES, run_of, runs_in, write_whole
from quietdesk.scoring.local import pool_for
from quietdesk.scoring.parts import Pool, Recipe
from quietdesk.scoring.ray import Cluster
from quietdesk.scoring.scorer import Reading, Scorer, Tally
from quietdesk.scoring.scores import FORMAT, Scores, load
from quietdesk.scoring.shards import run
from quietdesk.scoring.surprisal import Sample, read_sample


@dataclass(frozen=True, slots=True)
class SampleReading:
    """A model, and which conversations it reads."""

    model: str
    sample: int = SAMPLE
    """Conversations, at most."""
    seed: int = 1
    replies: Sequence[str] = ("bot",)
    """Whose replies it reads."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a run over logs."""

    metrics: str = DEFAULT
    """Names with commas between."""
    slices: Sequence[str] = ()
    """Fields; `week` is always among them."""
    format: str | None = None
    authors: Sequence[str] | None = None
    columns: Sequence[str] | None = None
    jobs: int = 0
    """Processes; 0 for one per core."""
    strict: bool = False
    """Whether a bad record ends it."""
    on: str = "local"
    """Where: `local`, `ray`, or a Ray cluster's address."""
    save: str = ""
    """Name or folder to keep the run under; empty: it is not kept."""
    reads: "SampleReading | None" = None
    """What reads a sample for `surprisal` and `relevance`."""

    @property
    def names(self) -> list[str]:
        """The metrics' names."""
        return [name.strip() for name in self.metrics.split(",") if name.strip()]


def is_scores(path: str) -> bool:
    """Whether the file begins as scores in JSON do."""
    try:
        with Path(path).open("rb") as file:
            return FORMAT.encode() in file.read(200)
    except OSError:
        return False


def open_run(path: str, request: Request) -> Scores:
    """The scores in a file or of a saved run, or those of the logs in it.

    Raises:
        UsageError: metrics or slices were asked of scores that are there already.
        UnknownNameError: it is no file, and no run was saved under that name.
    """
    saved = None if is_scores(path) else _saved(path)
    if saved is None and not is_scores(path):
        if "/" not in path and path != "-" and not Path(path).exists():
            known = [one.folder.name for one in runs_in(scores_folder())]
            raise UnknownNameError("file, and no saved run", path, known)
        return score_logs([path], request)
    if request.metrics != DEFAULT or request.slices:
        raise UsageError(
            f"{path!r} holds scores already: --metrics and --slice are for logs. Give the logs "
            "instead, or leave them out."
        )
    return load(saved or path)


def _saved(name: str) -> Path | None:
    """The file of scores of a run that was saved under this name or in this folder."""
    folder = Path(name) if Path(name).exists() else run_folder(name)
    found = run_of(folder)
    if found is None:
        return None
    if not found.done:
        raise UsageError(
            f"The run {name!r} is not finished: give the command that saves it once more."
        )
    return folder / SCORES


def run_folder(name: str) -> Path:
    """Where a run of this name is saved; a name with a slash is a folder itself."""
    return Path(name) if "/" in name else scores_folder() / name


def score_logs(
    paths: Sequence[str],
    request: Request,
    on_rows: Callable[[pa.RecordBatch], None] | None = None,
    on_reading: Callable[[Reading], None] | None = None,
) -> Scores:
    """Score logs, with progress and problems on standard error.

    Args:
        paths: Files, folders, addresses, databases, `-`.
        request: What is asked.
        on_rows: Gets the rows, one per conversation, in order.
        on_reading: Gets everything that was found in each batch; then nothing runs elsewhere.

    Raises:
        LogError: there is no conversation in them.
    """
    slices = tuple(dict.fromkeys([*request.slices, "week"]))
    metrics: Sequence[str | Metric] = request.names
    if request.reads is not None:
        metrics = _with_model(paths, request, request.reads)
    recipe = Recipe(tuple(metrics), slices, bool(request.save) or on_rows is not None)
    source = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"

    def scores_of(tally: Tally) -> Scores:
        if not tally.n_conversations:
            raise LogError(f"There is no conversation in {', '.join(paths)}.")
        return Scores(recipe.scorer().metrics, tally, source=source)

    if on_reading is not None:
        return scores_of(_score_here(paths, request, recipe.scorer(), on_rows, on_reading))
    parts = Parts(
        paths,
        format=request.format,
        options=logs.options_of(request.authors, request.columns),
        strict=request.strict,
        open_store=logs.open_store,
    )

    def score_into(folder: Path | None) -> Scores:
        return scores_of(_score_parts(parts, request, recipe, folder, source, on_rows))

    if request.save:
        folder = run_folder(request.save)
        scores = score_into(folder)
        write_whole(folder / SCORES, json.dumps(scores.to_json()).encode())
        return scores
    if parts.total_bytes is not None and parts.total_bytes < RESUMED_BYTES:
        return score_into(None)
    folder = _passing_folder(paths, request, recipe)
    try:
        scores = score_into(folder)
    except FolderInUseError:
        print("The same run is under way already; this one cannot be resumed.", file=sys.stderr)
        return score_into(None)
    shutil.rmtree(folder, ignore_errors=True)
    return scores


def _read(paths: Sequence[str], request: Request) -> LogReading:
    return read(
        paths,
        format=request.format,
        options=logs.options_of(request.authors, request.columns),
        strict=request.strict,
        open_store=logs.open_store,
    )


def _with_model(paths: Sequence[str], request: Request, by: SampleReading) -> list[str | Metric]:
    """The metrics, those that take a model with what it found in a sample of the logs."""
    if "-" in paths:
        raise UsageError(
            "--model takes two passes over the logs, and standard input can be read once. Write "
            "it to a file first."
        )
    check_takes_model(request.names)
    sample = Sample(by.sample, by.seed)
    with reply_reader(by.model, by.replies) as reader:
        reading = _read(paths, request)
        with ExitStack() as stack:
            advance = logs.bar(stack, "choosing")
            for batch in reading.batches():
                sample.take(batch)
                advance(reading)
        with ModelProgress(lambda: reader.n_tokens) as progress:
            readings = read_sample(sample, reader, reader.terms, progress)
    return with_readings(request.names, readings)


RESUMED_BYTES = 16 << 20
"""Of smaller logs nothing is kept for a run that is stopped: they are scored in seconds."""
_FORGOTTEN_AFTER_S = 14 * 86400.0


def _passing_folder(paths: Sequence[str], request: Request, recipe: Recipe) -> Path:
    """Where the parts of a run that is not saved are kept until it is done.

    What other runs left there two weeks ago is removed: nobody went on with them.
    """
    folder = cache_folder() / "scores"
    for other in folder.glob("*/run.json"):
        if other.stat().st_mtime < time.time() - _FORGOTTEN_AFTER_S:
            shutil.rmtree(other.parent, ignore_errors=True)
    places = [path if path == "-" or "://" in path else str(Path(path).resolve()) for path in paths]
    metrics = [one if isinstance(one, str) else one.fingerprint for one in recipe.metrics]
    told = [places, metrics, recipe.slices, recipe.rows, request.format, request.strict]
    told += [request.authors, request.columns]
    return folder / hashlib.blake2b(json.dumps(told).encode(), digest_size=12).hexdigest()


def _score_parts(
    parts: Parts,
    request: Request,
    recipe: Recipe,
    folder: Path | None,
    source: str,
    on_rows: Callable[[pa.RecordBatch], None] | None,
) -> Tally:
    with ExitStack() as stack:
        progress = stack.enter_context(ScoringProgress())
        try:
            result = run(
                parts,
                recipe,
                _pool(request, parts.total_bytes),
                folder=folder,
                source=source,
                total_bytes=parts.total_bytes,
                on_rows=on_rows,
                on_progress=progress,
            )
        except KeyboardInterrupt:
            progress.stopped(folder)
            raise
    if result.n_kept:
        kept = f"{result.n_kept:,} of {result.n_parts:,} parts"
        print(f"{kept} had been scored by an earlier run.", file=sys.stderr)
    logs.tell(result.summary)
    return result.tally


def _pool(request: Request, total_bytes: int | None) -> Pool:
    if request.on == "local":
        return pool_for(request.jobs, total_bytes)
    return Cluster("" if request.on == "ray" else request.on, request.jobs)


def _score_here(
    paths: Sequence[str],
    request: Request,
    scorer: Scorer,
    on_rows: Callable[[pa.RecordBatch], None] | None,
    on_reading: Callable[[Reading], None],
) -> Tally:
    tally = Tally(scorer.fingerprint)
    reading = _read(paths, request)
    with ExitStack() as stack:
        advance = logs.bar(stack, "scoring")
        for batch in reading.batches():
            found = scorer.read(batch)
            tally.add(found.tally)
            on_reading(found)
            if on_rows is not None:
                on_rows(found.rows)
            advance(reading)
    logs.tell(reading)
    return tally
