"""A simulation in a real process, killed with SIGKILL at random moments and resumed, ends in the same bytes."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 6


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forks, so that each start takes no seconds")
def test_a_simulation_killed_at_random_moments_ends_in_the_same_bytes(tmp_path: Path) -> None:
    seed = random.randrange(10_000)
    script = Path(__file__).with_name("simulation_in_children.py")
    finished = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(KILLS), str(seed)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, f"seed {seed}: {finished.stderr[-2000:]}"
    result = json.loads(finished.stdout)
    assert result["kills"] >= 2, f"seed {seed}: the run is too short to be killed"
    assert result["killed"] == result["undisturbed"], f"seed {seed}"
