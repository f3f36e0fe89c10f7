"""A short run of the harness; store_kill.py says how to run a long one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent / "store_kill.py"


def killed(*arguments: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, HARNESS, *arguments], capture_output=True, text=True, check=False
    )
    if "There is no PostgreSQL" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    figures: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return figures


def test_what_was_acknowledged_outlives_kill_9_on_sqlite(tmp_path: Path) -> None:
    figures = killed("--kills", "12", "--folder", str(tmp_path), "--longest-s", "0.5")
    assert figures["wrong"] == 0
    assert figures["kills"] >= 12 and figures["turns_acknowledged"] > 0


def test_what_was_acknowledged_outlives_kill_9_on_postgresql() -> None:
    figures = killed("--kills", "8", "--postgresql", "--longest-s", "0.8")
    assert figures["wrong"] == 0
    assert figures["kills"] >= 8 and figures["turns_acknowledged"] > 0
