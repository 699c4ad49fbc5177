from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "make_datalist.py"


@pytest.fixture
def make(monkeypatch):
    """Run the tool as from the command line."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["make_datalist.py", *map(str, arguments)])
        runpy.run_path(str(TOOL), run_name="__main__")

    return run
