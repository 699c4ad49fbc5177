from __future__ import annotations

import os
import subprocess
import sys

import pytest

from medsynth import distributed

choosing_cores = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores can be chosen on Linux alone")


@pytest.fixture
def machine(monkeypatch) -> dict[str, list[int]]:
    """A process that may use some cores, as `os` sees it."""
    found = {"cores": [0, 2, 3, 5, 6]}
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(found["cores"]))
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: found.update(cores=list(cores)))
    return found


@choosing_cores
@pytest.mark.parametrize(("processes", "shares"), [(1, [[0, 2, 3, 5, 6]]), (2, [[0, 2, 3], [5, 6]])])
def test_each_process_keeps_to_cores_of_its_own(machine, processes, shares):
    for rank, share in enumerate(shares):
        machine["cores"] = [0, 2, 3, 5, 6]
        distributed.keep_to_own_cores(rank, processes)
        assert machine["cores"] == share


@choosing_cores
def test_more_processes_than_cores_share_all(machine):
    distributed.keep_to_own_cores(3, 6)
    assert machine["cores"] == [0, 2, 3, 5, 6]


def test_processes_end_well_right_after_a_collective(tmp_path):
    script = tmp_path / "speak.py"
    script.write_text(
        "from medsynth import distributed\ndistributed.start()\n"
        "assert sum(distributed.all_reduce(1.0) for _ in range(20)) == 40\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(launcher, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
