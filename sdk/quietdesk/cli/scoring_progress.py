"""Progress of a scoring run: a bar on a terminal, now and then a line elsewhere."""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from quietdesk.scoring.shards import Progress

LINE_EVERY_S = 60.0
"""On standard error that is no terminal: a log of a pipeline, say."""


class ScoringProgress:
    """Shows each `Progress` on standard error; a context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._line_at = time.monotonic() + LINE_EVERY_S

    def __enter__(self) -> "ScoringProgress":
        if sys.stderr.isatty():
            columns = (TextColumn("scoring"), BarColumn(), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._stack.enter_context(self._bar).add_task("", total=None)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __call__(self, progress: Progress) -> None:
        """Show it."""
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=progress.done_bytes,
                total=progress.total_bytes,
                description=sentence(progress),
            )
        elif time.monotonic() >= self._line_at:
            self._line_at += LINE_EVERY_S
            print(f"scoring: {sentence(progress)}", file=sys.stderr)

    def stopped(self, folder: Path | None) -> None:
        """Say how to go on after Ctrl-C."""
        self._stack.close()
        if folder is None:
            return
        n_parts = len(list(folder.glob("parts/*.tally")))
        parts = "1 part is" if n_parts == 1 else f"{n_parts:,} parts are"
        print(
            f"Stopped: {parts} scored and kept in {folder}. The same command goes on from there.",
            file=sys.stderr,
        )


class ModelProgress:
    """Shows how far a model is with a sample; a context manager, called as it goes on.

    Args:
        n_tokens: Tells how many tokens it has read.
    """

    def __init__(self, n_tokens: Callable[[], int]) -> None:
        self._n_tokens = n_tokens
        self._stack = ExitStack()
        self._bar: Bar | None = None
        self._task = TaskID(0)

    def __enter__(self) -> "ModelProgress":
        self._n_before = self._n_tokens()
        self._started = time.monotonic()
        self._line_at = self._started + LINE_EVERY_S
        if sys.stderr.isatty():
            columns = (TextColumn("reading"), BarColumn(), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._stack.enter_context(self._bar).add_task("", total=None)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __call__(self, done: int, total: int) -> None:
        """Show how many conversations of how many were read."""
        now = time.monotonic()
        n_tokens, passed = self._n_tokens() - self._n_before, now - self._started
        told = f"{done:,} of {total:,} conversations"
        if done and passed > 0:
            left = timedelta(seconds=round(passed / done * (total - done)))
            told += f", {n_tokens / passed:,.0f} tokens/s, {left} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, description=told)
        elif now >= self._line_at:
            self._line_at += LINE_EVERY_S
            print(f"reading: {told}", file=sys.stderr)


def sentence(progress: Progress) -> str:
    """How far it is: share, conversations, rate, time left."""
    told = []
    if progress.total_bytes:
        told.append(f"{100 * progress.done_bytes / progress.total_bytes:.0f} %")
    told.append(f"{progress.n_conversations:,} conversations")
    told.append(f"{progress.rate:,.0f}/s")
    if progress.left_s is not None:
        told.append(f"{timedelta(seconds=round(progress.left_s))} left")
    if progress.n_kept:
        told.append(f"{progress.n_kept:,} parts from before")
    return ", ".join(told)
