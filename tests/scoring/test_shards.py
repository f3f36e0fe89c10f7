"""Scores are the same for any partitioning, in any processes, and after any interruption."""

import importlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk import columns
from quietdesk.errors import LogError, QuietdeskError, UsageError
from quietdesk.logs.parts import Parts
from quietdesk.logs.source import Source
from quietdesk.scoring import score
from quietdesk.scoring.kept import rows_of, run_of, runs_in
from quietdesk.scoring.local import Here, Processes, available_cores, pool_for
from quietdesk.scoring.parts import Recipe
from quietdesk.scoring.shards import Progress, run
from quietdesk.scoring.twice import Twice
from quietdesk.types import Author, Transcript, TranscriptMessage

RECIPE = Recipe(("turns", "apologies", "chrf"), ("channel",), rows=True)
N = 60


def transcripts(n: int = N) -> list[Transcript]:
    return [
        Transcript(
            id=f"c{i}",
            customer=f"k{i % 7}",
            messages=(
                TranscriptMessage(author=Author.CUSTOMER, text=f"Where is order {i}?"),
                TranscriptMessage(
                    author=Author.BOT,
                    text="Sorry, it left on Monday." if i % 3 else "It is lost.",
                    references=("It left on Monday.",),
                ),
            ),
            metadata={"channel": "web" if i % 2 else "app"},
        )
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "x.parquet"
    table = pa.Table.from_batches([columns.to_batch(transcripts())])
    pq.write_table(table, path, row_group_size=5)
    return path


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Parts that misbehave, in a module that worker processes can import."""
    (tmp_path / "odd_parts.py").write_text(
        "import os, signal, time\n"
        "from collections import Counter\n"
        "from dataclasses import dataclass\n"
        "from pathlib import Path\n"
        "from types import SimpleNamespace\n"
        "from quietdesk import columns\n"
        "from quietdesk.errors import LogError\n"
        "from quietdesk.types import Transcript\n"
        "@dataclass(frozen=True)\n"
        "class Odd:\n"
        "    what: str\n"
        "    mark: str = ''\n"
        "    size_bytes: int = 1\n"
        "    share: float = 0.5\n"
        "    where = property(lambda self: f'part {self.what}')\n"
        "    identity = property(lambda self: self.what)\n"
        "    def open(self):\n"
        "        return self\n"
        "    def report(self):\n"
        "        return SimpleNamespace(n_read=1, n_rejected=0, n_noted=0, kinds=Counter(),\n"
        "                               problems=[])\n"
        "    def batches(self):\n"
        "        if self.what == 'ours':\n"
        "            raise LogError('the log is gone')\n"
        "        if self.what == 'bug':\n"
        "            raise KeyError('x')\n"
        "        if self.what.startswith('die'):\n"
        "            Path(self.mark).open('a').write('x')\n"
        "            if self.what == 'die' or len(Path(self.mark).read_text()) < 2:\n"
        "                os.kill(os.getpid(), signal.SIGKILL)\n"
        "        if self.what.startswith('slow'):\n"
        "            time.sleep(0.3)\n"
        "        yield columns.to_batch([Transcript(id=self.what, messages=())])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("odd_parts", None)
    return importlib.import_module("odd_parts")


@given(part_bytes=st.integers(1, 1 << 16))
@settings(deadline=None, max_examples=12)
def test_any_partitioning_gives_the_same_integers_and_rows(log: Path, part_bytes: int) -> None:
    rows: list[pa.RecordBatch] = []
    found = run(Parts([log], part_bytes=part_bytes), RECIPE, Here(), on_rows=rows.append)
    whole = score(transcripts(), ["turns", "apologies", "chrf"], slices=["channel"])
    assert found.tally.digest == whole.tally.digest
    assert found.summary.n_read == N
    assert whole.rows is not None
    assert pa.Table.from_batches(rows).to_pylist() == whole.rows.to_pylist()


def test_worker_processes_give_the_same_integers_and_rows_in_order(log: Path) -> None:
    rows: list[pa.RecordBatch] = []
    found = run(Parts([log], part_bytes=1), RECIPE, Processes(2), on_rows=rows.append)
    here = run(Parts([log]), RECIPE, Here())
    assert found.tally.digest == here.tally.digest
    assert pa.Table.from_batches(rows)["id"].to_pylist() == [f"c{i}" for i in range(N)]


def test_what_cannot_be_cut_is_scored_by_processes_too(tmp_path: Path, log: Path) -> None:
    path = tmp_path / "x.jsonl.zst"
    lines = "".join(f"{t.model_dump_json()}\n" for t in transcripts()) + "broken\n"
    path.write_bytes(pa.compress(lines.encode(), "zstd", asbytes=True))
    found = run(Parts([path], part_bytes=1), RECIPE, Processes(2))
    assert found.tally.digest == run(Parts([log]), RECIPE, Here()).tally.digest
    assert found.summary.n_rejected == 1 and "x.jsonl.zst:61" in found.summary.problems[0]


def test_a_second_run_scores_nothing_again(log: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    first = run(Parts([log], part_bytes=1), RECIPE, Here(), folder=folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("parts/*.tally")}
    assert len(before) == N // 5

    class Idle(Here):
        def submit(self, task: Any) -> None:
            raise AssertionError(f"{task.part.where} was scored twice")

    rows: list[pa.RecordBatch] = []
    second = run(Parts([log], part_bytes=1), RECIPE, Idle(), folder=folder, on_rows=rows.append)
    assert second.tally.digest == first.tally.digest and second.summary == first.summary
    assert sum(batch.num_rows for batch in rows) == N
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.glob("parts/*.tally")}


def test_a_log_that_changed_is_scored_anew_and_what_it_was_is_dropped(
    log: Path, tmp_path: Path
) -> None:
    folder, changed = tmp_path / "kept", tmp_path / "x.parquet"
    changed.write_bytes(log.read_bytes())
    names = []
    for time_ns in (1, 1, 2):
        os.utime(changed, ns=(time_ns, time_ns))
        run(Parts([changed]), RECIPE, Here(), folder=folder)
        names.append({path.name for path in folder.glob("parts/*.tally")})
    assert names[0] == names[1]
    assert len(names[2]) == 1 and not names[2] & names[0]


def test_a_log_that_grew_costs_what_is_new(log: Path, tmp_path: Path) -> None:
    folder, second = tmp_path / "kept", tmp_path / "later.parquet"
    first = run(Parts([log]), RECIPE, Here(), folder=folder)
    extra = pa.Table.from_batches([columns.to_batch(transcripts(70)[N:])])
    pq.write_table(extra, second)
    both = run(Parts([log, second]), RECIPE, Here(), folder=folder)
    assert (first.n_parts, first.n_kept, both.n_parts, both.n_kept) == (1, 0, 2, 1)
    assert (
        both.tally.digest == score(transcripts(70), RECIPE.metrics, slices=["channel"]).tally.digest
    )


def test_a_stream_is_known_by_what_stands_in_it(tmp_path: Path) -> None:
    def parts(n: int) -> Parts:
        found = Parts([], format="native")
        lines = "".join(f"{t.model_dump_json()}\n" for t in transcripts(n))
        found._reading._sources = [Source(None, io.BytesIO(lines.encode()))]
        return found

    kept = [
        run(parts(n), RECIPE, Here(), folder=tmp_path / "kept").n_kept for n in (N, N, N + 1, N + 1)
    ]
    assert kept == [0, 1, 0, 1]


def test_a_folder_keeps_one_run_and_tells_it(log: Path, tmp_path: Path) -> None:
    folder = tmp_path / "week 1"
    found = run(Parts([log], part_bytes=1), RECIPE, Here(), folder=folder, source="x")
    with pytest.raises(UsageError, match="holds another run already: of 'x', with turns"):
        run(Parts([log]), Recipe(("turns",)), Here(), folder=folder, source="x")
    [told] = runs_in(tmp_path)
    assert (told.source, told.metrics, told.slices) == ("x", RECIPE.metrics, ("channel",))
    assert told.n_conversations == N and told.finished is not None and not told.done
    rows = [row["id"] for batch in rows_of(folder) for row in batch.to_pylist()]
    assert rows == [f"c{i}" for i in range(N)]
    assert found.n_parts == 12
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text("{}")
    assert runs_in(tmp_path) == [told]
    with pytest.raises(UsageError, match="no finished run"):
        list(rows_of(tmp_path / "other"))


def test_a_run_that_was_stopped_is_not_finished(odd: Any, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    for _ in range(2):
        with pytest.raises(LogError):
            run([odd.Odd("a"), odd.Odd("ours")], Recipe(("turns",)), Here(), folder=folder)
        told = run_of(folder)
        assert told is not None and told.finished is None and told.n_conversations == 0
    assert len(list(folder.glob("parts/*.tally"))) == 1
    changed = Recipe(("turns", "apologies"))
    assert run([odd.Odd("a")], changed, Here(), folder=folder).tally.n_conversations == 1


SCRIPT = """
import sys
from pathlib import Path
from quietdesk.logs.parts import Parts
from quietdesk.scoring.local import Processes
from quietdesk.scoring.parts import Recipe
from quietdesk.scoring.shards import run

if __name__ == "__main__":
    log, folder = sys.argv[1:]
    recipe = Recipe(("turns", "apologies", "chrf"), ("channel",), rows=True)
    found = run(Parts([log], part_bytes=1), recipe, Processes(2), folder=Path(folder))
    print(found.tally.digest, found.tally.n_conversations)
"""


@pytest.fixture
def begin(tmp_path: Path) -> Callable[[Path, Path], "subprocess.Popen[str]"]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    return lambda log, folder: subprocess.Popen(
        [sys.executable, str(script), str(log), str(folder)], stdout=subprocess.PIPE, text=True
    )


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_killed_run_loses_a_part_per_process_and_counts_nothing_twice(
    begin: Callable[[Path, Path], "subprocess.Popen[str]"],
    tmp_path: Path,
) -> None:
    path, folder = tmp_path / "x.parquet", tmp_path / "kept"
    table = pa.Table.from_batches([columns.to_batch(transcripts(400))])
    pq.write_table(table, path, row_group_size=5)
    process = begin(path, folder)
    wait_until(lambda: len(list(folder.glob("parts/*.tally"))) >= 12)
    process.kill()
    process.communicate()
    # What the orphans were at, they may finish or leave; a quarter of a second tells.
    time.sleep(1)
    kept = {p.name: p.stat().st_mtime_ns for p in folder.glob("parts/*.tally")}
    assert len(kept) >= 12
    with begin(path, folder) as again:
        assert again.stdout is not None
        digest, n = again.stdout.read().split()
    assert (digest, int(n)) == (run(Parts([path]), RECIPE, Here()).tally.digest, 400)
    now = {p.name: p.stat().st_mtime_ns for p in folder.glob("parts/*.tally")}
    assert len(now) == 80
    assert {name: now[name] for name in kept} == kept
    assert not list(folder.rglob("*.part-*"))


def test_a_process_that_dies_is_replaced_and_its_part_scored(odd: Any, tmp_path: Path) -> None:
    parts = [odd.Odd("a"), odd.Odd("die once", str(tmp_path / "mark")), odd.Odd("b")]
    found = run(parts, Recipe(("turns",)), Processes(2))
    assert found.tally.n_conversations == 3
    assert (tmp_path / "mark").read_text() == "xx"


def test_a_part_that_kills_every_process_is_named(odd: Any, tmp_path: Path) -> None:
    parts = [odd.Odd("die", str(tmp_path / "mark"))]
    with pytest.raises(QuietdeskError, match=r"part die: each process.*signal 9.*--jobs"):
        run(parts, Recipe(("turns",)), Processes(2))
    assert (tmp_path / "mark").read_text() == "xxx"


def test_an_error_of_ours_comes_back_as_it_was(odd: Any) -> None:
    with pytest.raises(LogError, match=r"^the log is gone$"):
        run([odd.Odd("a"), odd.Odd("ours")], Recipe(("turns",)), Processes(2))


def test_another_error_names_the_part_and_keeps_its_trace(odd: Any) -> None:
    with pytest.raises(QuietdeskError, match="part bug cannot be scored: KeyError") as caught:
        run([odd.Odd("bug")], Recipe(("turns",)), Processes(2))
    assert "odd_parts.py" in caught.value.__notes__[0]


def test_an_error_while_cutting_ends_the_run(odd: Any) -> None:
    def parts() -> Any:
        yield odd.Odd("a")
        raise LogError("no more")

    with pytest.raises(LogError, match="no more"):
        run(parts(), Recipe(("turns",)), Here())


def test_a_slow_part_holds_up_a_bounded_number_of_others(odd: Any) -> None:
    asked: list[int] = []

    def parts() -> Any:
        for i in range(40):
            asked.append(i)
            yield odd.Odd("slow" if i == 0 else f"{i}")

    class Watched(Processes):
        most = 0

        def wait(self, timeout_s: float) -> Any:
            self.most = max(self.most, self.busy)
            return super().wait(timeout_s)

    pool = Watched(2)
    assert run(parts(), Recipe(("turns",)), pool).tally.n_conversations == 40
    assert pool.most <= 4


def test_two_runs_do_not_share_a_folder(odd: Any, tmp_path: Path) -> None:
    folder = tmp_path / "kept"

    def parts() -> Any:
        with pytest.raises(UsageError, match="Another run keeps its scores"):
            run([odd.Odd("b")], Recipe(("turns",)), Here(), folder=folder)
        yield odd.Odd("a")

    assert run(parts(), Recipe(("turns",)), Here(), folder=folder).tally.n_conversations == 1


def test_half_written_files_are_cleared_away(odd: Any, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    (folder / "parts").mkdir(parents=True)
    (folder / "parts" / "x.tally.part-17").write_bytes(b"half")
    run([odd.Odd("a")], Recipe(("turns",)), Here(), folder=folder)
    assert not list(folder.rglob("*.part-*"))


def test_progress_tells_how_far_a_run_is(log: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    for _ in range(2):
        parts = Parts([log], part_bytes=1)
        run(
            parts,
            RECIPE,
            Here(),
            folder=tmp_path / "kept",
            total_bytes=parts.total_bytes,
            on_progress=told.append,
        )
    assert told[0].n_kept == 0 and told[0].total_bytes == log.stat().st_size
    assert all(p.done_bytes <= log.stat().st_size and p.elapsed_s >= 0 for p in told)


def test_ids_that_come_twice_in_different_parts_are_found(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(f"{t.model_dump_json()}\n" for t in transcripts(3)))
        paths.append(path)
    found = run(Parts(paths), RECIPE, Here())
    assert found.summary.kinds == {"duplicate": 3} and found.summary.n_noted == 3
    assert found.summary.problems[0].startswith(f"{paths[1]} (record 1 of it): ")


@given(
    st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9), max_size=20), max_size=8),
    st.sampled_from([0, 5, 1000]),
)
@settings(deadline=None, max_examples=60)
def test_twice_finds_what_a_set_finds(parts: list[list[int]], memory: int) -> None:
    seen: set[int] = set()
    expected = []
    for part, ids in enumerate(parts):
        for row, name in enumerate(ids):
            if name in seen:
                expected.append((part, row))
            seen.add(name)
    with Twice() as twice:
        twice.MEMORY_IDS = memory
        for part, ids in enumerate(parts):
            twice.add(np.array(ids, np.uint64), part)
        count, places = twice.found()
    assert count == len(expected)
    assert set(places) <= set(expected) and len(places) == min(count, Twice.SHOWN)


@pytest.mark.parametrize(
    ("jobs", "total_bytes", "kind"),
    [
        (1, 1, Here),
        (1, None, Processes),
        (1, 1 << 30, Processes),
        (3, 1, Processes),
        (0, 1 << 20, Here),
        (0, None, Processes),
    ],
)
def test_small_logs_start_no_processes(jobs: int, total_bytes: int | None, kind: type) -> None:
    pool = pool_for(jobs, total_bytes)
    assert isinstance(pool, kind)
    assert pool_for(0, 1 << 40).jobs == available_cores()
