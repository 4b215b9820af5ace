"""The long form of tests that draw what they do: the same tests again, each time with other draws."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def again_and_again(tests: list[str], seconds: float) -> None:
    """Runs tests in a process of their own, with another seed each time, until so much time is over."""
    end, seed = time.monotonic() + seconds, int(time.time())
    while True:
        environment = os.environ | {"HYPOTHESIS_PROFILE": "explore", "RACES_SEED": f"{seed}", "RACES_ROUNDS": "10000"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not soak", "-o", "timeout=0", *tests]
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, f"RACES_SEED={seed}\n{run.stdout[-20_000:]}"
        print(f"seed {seed}: {run.stdout.splitlines()[-1]}")
        seed += 1
        if time.monotonic() >= end:
            return


@pytest.mark.soak
def test_models_explored(soak_seconds: float) -> None:
    again_and_again(["tests/model"], soak_seconds)


@pytest.mark.soak
def test_races_explored(soak_seconds: float) -> None:
    again_and_again(["tests/faults/test_races.py"], soak_seconds)
