"""The reference of configuration keys says what the bundles have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medsynth.errors import MedsynthError


@pytest.fixture
def make_reference(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    import make_reference

    return make_reference


@pytest.fixture
def one_bundle(tmp_path):
    """A project with one bundle, of the given train.json."""

    def write(config):
        (tmp_path / "bundles" / "toy").mkdir(parents=True)
        (tmp_path / "bundles" / "toy" / "train.json").write_text(json.dumps(config))
        return tmp_path

    return write


def test_the_page_is_up_to_date_and_no_key_lacks_a_meaning(make_reference):
    assert make_reference.PAGE.read_text() == make_reference.reference(), "run python tools/make_reference.py"


def test_every_written_meaning_is_of_a_key(make_reference):
    written, page = json.loads(make_reference.MEANINGS.read_text()), make_reference.reference()
    for scope, meanings in written.items():
        for key, text in meanings.items():
            assert f"| `{key}` | " in page, f"{key} of {scope}"
            assert f" | {text} |" in page, f"{key} of {scope}"


def test_a_key_is_explained_by_the_docstring_of_what_it_is_passed_to_however_deep(make_reference, one_bundle):
    weights = {"_target_": "medsynth.models.vaegan.trainer.VaeGanWeights", "l1": 2.5}
    network = {"_target_": "medsynth.models.vaegan.network.VaeGan", "latent_channels": "@latent_channels"}
    config = {"latent_channels": 4, "weights": weights, "parts": [{"network": network}]}
    page = make_reference.reference(one_bundle(config))
    assert "| `latent_channels` | `4` | numbers at each place of z |" in page
    assert "| `weights#l1` | `2.5` | mean absolute difference of image and reconstruction, in [-1, 1] |" in page
    assert "parts" not in page


def test_a_key_without_a_meaning_is_named(make_reference, one_bundle):
    with pytest.raises(MedsynthError, match="latent_fetures of toy/train.json"):
        make_reference.reference(one_bundle({"latent_fetures": 8}))


def test_a_docstring_entry_of_several_names_and_lines_is_read(make_reference):
    text = "Summary.\n\nArgs:\n    one, other: of the\n        same length.\n    last: 1: a range.\n\nReturns: nothing."
    expected = {"one": "of the same length.", "other": "of the same length.", "last": "1: a range."}
    assert make_reference.documented(text) == expected
