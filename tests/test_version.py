"""The version stands in setup.cfg; what people read names the same one."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def version() -> str:
    """That of setup.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config["metadata"]["version"]


def test_the_newest_version_of_the_changelog_is_this_one(version):
    found = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert found[0] == version


def test_the_citation_names_this_version(version):
    path = ROOT / "CITATION.cff"
    if not path.exists():
        pytest.skip("there is no CITATION.cff")
    assert re.search(r"^version: *[\"']?([^\s\"']+)", path.read_text(), re.MULTILINE)[1] == version


def test_no_module_states_it(version):
    modules = [*(ROOT / "medsynth").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    assert not [path for path in modules if version in path.read_text()]
