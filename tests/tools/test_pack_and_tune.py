from __future__ import annotations

import runpy
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
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, command, message):
    tool, *arguments = command.replace("{tmp}", str(tmp_path)).split()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [tool, *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
    assert stopped.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)
