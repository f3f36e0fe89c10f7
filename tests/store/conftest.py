"""Stores of every kind, empty, and a PostgreSQL server of the session's own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quietdesk.store.base import Store
from quietdesk.store.sql import open_store

AtOnce = Callable[[str, str, int], list[tuple[str, str]]]

SERVER = Path(__file__).parent / "postgres_server.py"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a real server; tests that need it are skipped where there is none."""
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: quietdesk[postgres]")
    with subprocess.Popen(
        [sys.executable, SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stdin and process.stderr
        url = process.stdout.readline().strip()
        if not url:
            pytest.skip(process.stderr.read().strip())
        psycopg.connect(url).close()
        yield url
        process.stdin.close()
        process.wait(60)


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of an empty database."""
    import psycopg  # noqa: PLC0415 -- only where a server is

    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute("DROP SCHEMA IF EXISTS quietdesk CASCADE")
    return postgres_server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind that outlives a process."""
    if request.param == "sqlite":
        return str(tmp_path / "quietdesk.db")
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "memory":
        return ":memory:"
    if request.param == "sqlite":
        return str(tmp_path / "quietdesk.db")
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def store(any_database: str) -> Iterator[Store]:
    """An open, empty store of each kind."""
    opened = open_store(any_database)
    yield opened
    opened.close()


@pytest.fixture
def open_again() -> Iterator[Callable[[str], Store]]:
    """Opens stores that are closed at the end."""
    opened: list[Store] = []

    def opening(database: str) -> Store:
        opened.append(open_store(database))
        return opened[-1]

    yield opening
    for one in opened:
        one.close()


@pytest.fixture
def at_once() -> AtOnce:
    """Runs a program on a database in several processes that begin together; what each printed.

    The program has `open_store`, and the database in `sys.argv[1]`.
    """
    ready = "import sys; from quietdesk.store.sql import open_store; sys.stdin.read();"

    def run(program: str, database: str, n: int) -> list[tuple[str, str]]:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", ready + program, database],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(n)
        ]
        for process in processes:
            assert process.stdin
            process.stdin.close()
            process.stdin = None
        return [process.communicate(timeout=60) for process in processes]

    return run
