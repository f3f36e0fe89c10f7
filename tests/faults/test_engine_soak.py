"""A short run of the engine's soak; engine_soak.py says how to run a long one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent / "engine_soak.py"


@pytest.mark.parametrize("kind", ["llama", "gemma3", "lfm2"])
def test_mixed_load_and_faults_leave_the_books_balanced_and_every_reply_right(
    tiny_models: dict[str, Path], kind: str
) -> None:
    arguments = ["--seconds", "5", "--phase-s", "1", "--rate", "40", "--parked-mib", "4"]
    done = subprocess.run(
        [sys.executable, HARNESS, "--model", tiny_models[kind], "--faults", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["wrong"] == []
    assert figures["compared_with_alone"] > 0 and figures["cached_tokens"] > 0
