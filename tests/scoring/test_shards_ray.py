"""The same parts on Ray, started here for the test; skipped where Ray is not installed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quietdesk import columns
from quietdesk.errors import LogError, UsageError
from quietdesk.logs.parts import Parts
from quietdesk.scoring.base import BaseMetric
from quietdesk.scoring.local import Here
from quietdesk.scoring.parts import Recipe
from quietdesk.scoring.ray import Cluster
from quietdesk.scoring.shards import run
from quietdesk.scoring.surprisal import Likelihood, Sample, Terms, metrics, read_sample
from quietdesk.types import Author, Transcript, TranscriptMessage

SAID = (
    TranscriptMessage(author=Author.CUSTOMER, text="Where is it?"),
    TranscriptMessage(author=Author.BOT, text="Sorry, it is late."),
)
TALKS = [
    Transcript(id=f"c{i}", customer=f"k{i % 5}", messages=SAID[: 1 + i % 2]) for i in range(40)
]


def read_by_a_model() -> tuple[BaseMetric, ...]:
    """Metrics with a table of what a model found, which travels with them."""
    sample = Sample(15, 1)
    sample.take(columns.to_batch(TALKS))

    def read(talk: Transcript) -> list[Likelihood]:
        return [Likelihood(1, 5, -float(talk.id[1:]), -9.0, True, 0)] if talk.messages[1:] else []

    return metrics(read_sample(sample, read, Terms("tiny", "a1", 512, "00", "bot")))


RECIPE = Recipe(("turns", "apologies", *read_by_a_model()), rows=True)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "x.parquet"
    table = pa.Table.from_batches([columns.to_batch(TALKS)])
    pq.write_table(table, path, row_group_size=10)
    return path


def test_without_ray_it_is_told_what_to_install(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'quietdesk\[ray\]'"):
        run(Parts([log]), RECIPE, Cluster())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One that is started here; a Cluster that is made meanwhile uses it."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    first = Cluster(jobs=2)
    try:
        first.start(RECIPE, tmp_path_factory.mktemp("ray"))
    except UsageError as error:
        pytest.skip(f"Ray cannot be started here: {error}")
    yield
    assert ray.is_initialized()
    first.close()
    assert not ray.is_initialized()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("cluster")
def test_ray_gives_the_same_integers_and_rows(log: Path, tmp_path: Path) -> None:
    rows: list[pa.RecordBatch] = []
    pool = Cluster(jobs=2)
    found = run(
        Parts([log], part_bytes=1), RECIPE, pool, folder=tmp_path / "kept", on_rows=rows.append
    )
    assert found.tally.digest == run(Parts([log]), RECIPE, Here()).tally.digest
    assert pa.Table.from_batches(rows)["id"].to_pylist() == [f"c{i}" for i in range(40)]
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert len(list((tmp_path / "kept").glob("parts/*.tally"))) == 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("cluster")
def test_an_error_on_ray_comes_back(log: Path) -> None:
    parts = list(Parts([log], part_bytes=1))
    log.unlink()
    with pytest.raises(LogError, match=r"x\.parquet"):
        run(parts, RECIPE, Cluster(jobs=2))
