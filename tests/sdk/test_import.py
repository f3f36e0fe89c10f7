"""Importing is quick and has no effects."""

import subprocess
import sys


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_import_loads_no_engine_no_database_and_no_screen() -> None:
    heavy = ("llama_cpp", "sqlalchemy", "textual", "sklearn", "sacrebleu", "pyarrow", "duckdb")
    loaded = run(
        f"import sys, quietdesk; print([name for name in {heavy!r} if name in sys.modules])"
    )
    assert loaded == "[]"


def test_import_touches_no_network_and_no_file_of_the_user(tmp_path_factory: object) -> None:
    told = run(
        "import sys\n"
        "seen = []\n"
        "watch = ('socket.connect', 'socket.getaddrinfo', 'os.mkdir', 'subprocess.Popen')\n"
        "sys.addaudithook(lambda name, _: seen.append(name) if name in watch else None)\n"
        "import quietdesk\n"
        "print(seen)"
    )
    assert told == "[]"
