from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
TOOL = TOOLS / "make_datalist.py"


@pytest.fixture
def make(monkeypatch):
    """Run the tool as from the command line."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["make_datalist.py", *map(str, arguments)])
        runpy.run_path(str(TOOL), run_name="__main__")

    return run


@pytest.fixture
def benchmark(monkeypatch):
    """Import one of the benchmarks by its name."""
    monkeypatch.syspath_prepend(str(TOOLS))
    return lambda name: importlib.import_module(f"benchmarks.{name}")
