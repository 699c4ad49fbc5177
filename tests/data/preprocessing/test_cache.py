from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time

import numpy as np
import pytest

from medsynth.data.datasets.slices import SliceDataset
from medsynth.data.preprocessing import cache
from medsynth.data.preprocessing.cache import Cache
from medsynth.data.preprocessing.pipelines import Preprocessing
from medsynth.errors import MedsynthError

MRI = Preprocessing("mri", None, None, 32)
SLICES = np.arange(6 * 8 * 8, dtype=np.float16).reshape(6, 8, 8)
BYTES = SLICES.nbytes + 128 + 80  # with the array's header and, about, the record

fork = multiprocessing.get_context("fork")


def prepare(entries, folder, queue=None):
    dataset = SliceDataset(entries, MRI, cache_dir=folder)
    if queue:
        queue.put(float(dataset.images[:].astype(np.float64).sum()))


def run(target, *arguments):
    job = fork.Process(target=target, args=arguments)
    job.start()
    return job


def stored(folder, *names):
    for name in names:
        Cache(folder).store(name, {"name": name}, SLICES)
        past(folder, name, 100 - list(names).index(name))


def past(folder, name, seconds):
    """Let a file have been used that long ago."""
    when = time.time() - seconds
    for ending in (".npy", ".json"):
        os.utime(folder / f"{name}{ending}", (when, when))


def test_what_is_stored_is_found(tmp_path):
    record = Cache(tmp_path).store("a", {"fact": 3}, SLICES)
    assert Cache(tmp_path).find("a") == record
    assert record["fact"] == 3
    assert np.array_equal(np.load(Cache(tmp_path).path("a")), SLICES)
    assert Cache(tmp_path).find("b") is None


@pytest.mark.parametrize("offset", [3, 100, 140, -1])
def test_one_flipped_bit_is_noticed(tmp_path, offset):
    Cache(tmp_path).store("a", {}, SLICES)
    content = bytearray((tmp_path / "a.npy").read_bytes())
    content[offset] ^= 4
    (tmp_path / "a.npy").write_bytes(content)
    assert Cache(tmp_path).find("a") is None


@pytest.mark.parametrize("content", [b"", b"\0" * 60, b"[]", b'"record"', b'{"record": 3}', b"\xff\xfe"])
def test_a_damaged_record_counts_as_none(tmp_path, content):
    Cache(tmp_path).store("a", {}, SLICES)
    (tmp_path / "a.json").write_bytes(content)
    assert Cache(tmp_path).find("a") is None


def test_a_changed_record_counts_as_none(tmp_path):
    Cache(tmp_path).store("a", {"position": 0.25}, SLICES)
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(text.replace("0.25", "0.35"))
    assert Cache(tmp_path).find("a") is None


def test_the_same_file_has_one_identity_and_a_replaced_one_another(tmp_path):
    path = tmp_path / "v.nii"
    path.write_bytes(b"1234")
    before, status = cache.identity(path), path.stat()
    assert cache.identity(path) == before
    time.sleep(0.02)  # the clock of the file system
    path.write_bytes(b"5678")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert cache.identity(path) != before


def test_killed_at_any_moment_the_next_run_has_the_right_slices(study, tmp_path):
    expected = SliceDataset(study, MRI, cache_dir=tmp_path / "whole").images[:]
    for begun in (0, 1, 4, 8):
        job = run(prepare, study, tmp_path / "killed")
        while len(list((tmp_path / "killed").glob("*.npy"))) < begun and job.is_alive():
            time.sleep(0.0007 * (1 + begun))  # another moment each time
        os.kill(job.pid, signal.SIGKILL)
        job.join()
    assert len(list((tmp_path / "killed").glob("*.npy"))) >= 8
    assert np.array_equal(SliceDataset(study, MRI, cache_dir=tmp_path / "killed").images[:], expected)


def test_incomplete_files_of_a_killed_process_are_removed_later(tmp_path):
    (tmp_path / ".a.npy.x.tmp").touch()
    (tmp_path / ".b.npy.x.tmp").touch()
    os.utime(tmp_path / ".a.npy.x.tmp", (0, 0))
    Cache(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".b.npy.x.tmp"]


def test_two_jobs_at_once_get_the_same_slices(study, tmp_path):
    queue = fork.Queue()
    jobs = [run(prepare, study, tmp_path / "c", queue) for _ in range(2)]
    sums = [queue.get(timeout=60) for _ in jobs]
    for job in jobs:
        job.join()
    prepare(study, tmp_path / "alone", queue)
    assert sums == [queue.get(timeout=60)] * 2
    assert not list((tmp_path / "c").glob("*.tmp"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_is_reported_in_one_line_and_no_part_is_left(study, tmp_path, workers):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(MedsynthError, match=r"cannot be written to .*too large.*MEDSYNTH_CACHE") as caught:
            SliceDataset(study, MRI, cache_dir=tmp_path / "c", num_workers=workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Traceback" not in str(caught.value)
    assert {path.suffix for path in (tmp_path / "c").iterdir()} <= {"", ".lease"}
    assert len(SliceDataset(study, MRI, cache_dir=tmp_path / "c")) > 0


def test_least_recently_used_files_leave_first(tmp_path, monkeypatch):
    stored(tmp_path, "a", "b", "c")
    assert Cache(tmp_path).find("a")  # used now
    monkeypatch.setenv("MEDSYNTH_CACHE_GB", str(3.5 * BYTES / 1e9))
    Cache(tmp_path).store("d", {}, SLICES)
    assert sorted(path.stem for path in tmp_path.glob("*.npy")) == ["a", "c", "d"]
    assert not (tmp_path / "b.json").exists()


def test_files_that_a_running_job_uses_stay(tmp_path, monkeypatch):
    stored(tmp_path, "a", "b", "c")
    monkeypatch.setenv("MEDSYNTH_CACHE_GB", str(2.5 * BYTES / 1e9))
    ready, done = fork.Event(), fork.Event()

    def use():
        lease = Cache(tmp_path).lease(["a"])
        ready.set()
        done.wait(30)
        assert lease

    job = run(use)
    assert ready.wait(30)
    Cache(tmp_path).store("d", {}, SLICES)
    assert sorted(path.stem for path in tmp_path.glob("*.npy")) == ["a", "d"]
    os.kill(job.pid, signal.SIGKILL)
    job.join()
    past(tmp_path, "d", 10)
    Cache(tmp_path).store("e", {}, SLICES)
    assert sorted(path.stem for path in tmp_path.glob("*.npy")) == ["d", "e"]


def test_a_set_larger_than_the_limit_stays_as_long_as_it_is_used(study, tmp_path, monkeypatch):
    expected = SliceDataset(study[:4], MRI, cache_dir=tmp_path / "free").images[:]
    monkeypatch.setenv("MEDSYNTH_CACHE_GB", "0.00001")
    dataset = SliceDataset(study[:4], MRI, cache_dir=tmp_path / "c")
    assert np.array_equal(dataset.images[:], expected)
    del dataset
    SliceDataset(study[4:5], MRI, cache_dir=tmp_path / "c")
    assert len(list((tmp_path / "c").glob("*.npy"))) == 1


def test_an_invalid_limit_is_refused(tmp_path, monkeypatch):
    for text in ("much", "-1", "0"):
        monkeypatch.setenv("MEDSYNTH_CACHE_GB", text)
        with pytest.raises(MedsynthError, match="MEDSYNTH_CACHE_GB is"):
            Cache(tmp_path)


def test_a_finished_cache_may_be_read_only(study, tmp_path, monkeypatch):
    expected = SliceDataset(study, MRI, cache_dir=tmp_path / "c").images[:]

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache.tempfile, "mkstemp", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    assert np.array_equal(SliceDataset(study, MRI, cache_dir=tmp_path / "c").images[:], expected)
