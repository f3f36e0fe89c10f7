"""What tests of several rooms need: the tiny models and the bundled one."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

from quietdesk_models import weights
from quietdesk_models.catalog import STARTER
from quietdesk_models.errors import MissingWeightsError

# The same examples each time, so that a check's outcome is the code's alone. To look for new ones:
# `pytest --hypothesis-profile=explore`.
settings.register_profile("check", derandomize=True, print_blob=True)
settings.register_profile("explore", derandomize=False, print_blob=True)
settings.load_profile("check")
# It would also draw constants that it finds in the modules that happen to be loaded, and so other
# examples with every choice of tests and every share of them that a worker gets.
providers._get_local_constants = lambda: providers._local_constants

# A shell that starts the checks in the background has them ignore Ctrl-C, and what they start too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _no_background_work() -> Iterator[None]:
    """Opening the bundled model does not requantise it: that is tested where it is made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUIETDESK_QUANTISE", "false")
        yield


@pytest.fixture(autouse=True, scope="session")
def _states_aside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """States on disk do not mix with those of whoever runs the tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quietdesk.kept_states.cache_folder", lambda: folder)
        yield


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny GGUF models by architecture; tests/data/make_models.py tells what they are."""
    maker = Path(__file__).parent / "data" / "make_models.py"
    spec = importlib.util.spec_from_file_location("make_models", maker)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    models: dict[str, Path] = module.make_all(tmp_path_factory.mktemp("models"))
    return models


@pytest.fixture(scope="session")
def starter_path() -> Path:
    """The bundled model's file; the tests that need it are skipped where it is not installed."""
    try:
        return weights.locate(STARTER)
    except MissingWeightsError as error:
        pytest.skip(str(error))


Serve = Callable[[list[str]], str]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts a model's server on this machine by its command line, and gives its address.

    The command gets a free port after its last word. The server ends with the tests.
    """
    started: list[subprocess.Popen[bytes]] = []
    folder = tmp_path_factory.mktemp("servers")

    def serve(command: list[str]) -> str:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        log = folder / f"{port}.log"
        with log.open("wb") as out:
            process = subprocess.Popen([*command, str(port)], stdout=out, stderr=out)
        started.append(process)
        address = f"http://127.0.0.1:{port}/v1"
        for _ in range(1200):
            assert process.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(f"{address}/models", timeout=5) as answer:
                    if answer.status == 200:
                        return address
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        raise AssertionError(f"It did not start: {log.read_text()}")

    yield serve
    for process in started:
        process.kill()
        process.wait()


SLOW_SERVER = """
import time
import llama_cpp
from llama_cpp.server.__main__ import main

whole = llama_cpp.Llama.eval

def slowly(self, tokens):
    time.sleep(0.005)
    return whole(self, tokens)

llama_cpp.Llama.eval = slowly
main()
"""
"""llama-cpp-python's server, a bit slowed down: a reply can be stopped in its middle."""


@pytest.fixture(scope="session")
def llama_cpp_server(serve: Serve, tiny_models: dict[str, Path]) -> str:
    """Address of llama-cpp-python's own server with the tiny llama, a bit slowed down."""
    return serve(
        [sys.executable, "-c", SLOW_SERVER, "--model", str(tiny_models["llama"]),
         "--n_ctx", "2048", "--n_threads", "1", "--interrupt_requests", "False",
         "--verbose", "False", "--port"]
    )  # fmt: skip


@pytest.fixture(scope="session")
def llama_server(serve: Serve, starter_path: Path) -> str:
    """Address of llama-server with the bundled model; skipped where there is none."""
    program = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    if program is None:
        pytest.skip("llama-server is not on the PATH, and LLAMA_SERVER names none")
    return serve(
        [program, "-m", str(starter_path), "-c", "2048", "-np", "4", "-t", "1", "--no-webui",
         "--port"]
    )  # fmt: skip
