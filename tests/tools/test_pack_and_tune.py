from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("pack_bundle.py bundles/vaegan --checkpoint nowhere/model.pt", "error: there is no model nowhere/model.pt"),
        ("tune.py bundles/nowhere", "error: there is no bundles/nowhere: give a bundle's folder"),
        ("tune.py bundles/vaegan --trials 0", "error: --trials 0: give 1 or more"),
        ("tune.py bundles/vaegan --objectives beauty", "error: objective 'beauty': choose among swd_over_floor"),
        ("tune.py bundles/vaegan --output {tmp} -- --learning_rate 1", "error: --learning_rate is part of the search"),
    ],
)
def test_mistakes_are_one_line(tmp_path, command, message):
    tool, *arguments = command.replace("{tmp}", str(tmp_path)).split()
    process = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in process.stderr
