from __future__ import annotations

import errno
import os
import pickle
import resource
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.storage import load_plain, save_plain, write_bytes, write_text


class Program:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_plain_content_comes_back(tmp_path):
    content = {
        "a": [1, 2.5, "x", None, True],
        "b": OrderedDict(w=torch.arange(3)),
        "c": (torch.Size([2]), torch.float16),
    }
    save_plain(tmp_path / "a.pt", content)
    loaded = load_plain(tmp_path / "a.pt")
    assert torch.equal(loaded["b"].pop("w"), content["b"].pop("w"))
    assert loaded == content


@pytest.mark.parametrize("value", [np.float64(1), np.zeros(2), {1, 2}, Path("x"), object()])
def test_what_could_not_be_loaded_again_is_not_saved(tmp_path, value):
    with pytest.raises(TypeError, match=r"content\['state'\]\[1\] is a"):
        save_plain(tmp_path / "a.pt", {"state": [0, value]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dump", [pickle.dump, torch.save])
def test_code_in_a_file_is_not_run(tmp_path, dump):
    with (tmp_path / "a.pt").open("wb") as file:
        dump({"a": Program(tmp_path / "ran")}, file)
    with pytest.raises(MedsynthError, match="may run code"):
        load_plain(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("length", [0, 1, 100, 400, 0.5, 0.99])
def test_a_truncated_file_is_reported_in_one_line(tmp_path, length):
    path = tmp_path / "a.pt"
    save_plain(path, {"w": torch.arange(200)})
    content = path.read_bytes()
    path.write_bytes(content[: int(length * len(content)) if isinstance(length, float) else length])
    with pytest.raises(MedsynthError, match="damaged|refused"):
        load_plain(path)


def test_a_missing_file_is_reported_in_one_line(tmp_path):
    with pytest.raises(MedsynthError, match="no such file"):
        load_plain(tmp_path / "a.pt")


def test_the_former_file_is_stored_under_its_other_name(tmp_path):
    for content in (b"1", b"2", b"3"):
        write_bytes(tmp_path / "new", content, former=tmp_path / "old")
    assert ((tmp_path / "new").read_bytes(), (tmp_path / "old").read_bytes()) == (b"3", b"2")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "advice"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "write access"), (errno.EACCES, "write access")],
)
def test_a_disk_that_refuses_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, code, advice):
    write_text(tmp_path / "a", "old")

    def refuse(*arguments, **keywords):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(*(("os.fsync", refuse) if step == "fsync" else (Path, "replace", refuse)))
        with pytest.raises(MedsynthError, match=f"cannot write .*{os.strerror(code)}: {advice}"):
            write_text(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_file_too_big_for_the_disk_is_reported_in_one_line(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(MedsynthError, match="free some space"):
            save_plain(tmp_path / "a.pt", {"w": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
