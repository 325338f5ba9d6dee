"""A run that is killed at random moments ends, bit for bit, as if nothing had happened."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "kill_masks_script.py"


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), "20", "0"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("killed")]) == 20
    assert len(set(lines)) > 5, lines  # in different places
    assert lines[-1] == "same" and "different" not in lines, lines
    names = [sorted(p.name for p in (tmp_path / run).iterdir()) for run in ("unbroken", "killed-0")]
    assert names[0] == names[1]  # nothing half-written is left
