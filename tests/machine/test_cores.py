"""A container with the time of two processors of sixty-four gets two workers, not sixty-four."""

import math
import os

import pytest

from sparsehead_cli.machine import cores
from sparsehead_cli.sweeps.engines import threads_of


@pytest.mark.parametrize(
    ("files", "processors"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "not a limit\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "400000\n"}, math.inf),
    ],
    ids=["no-group", "no-limit", "v2", "damaged", "v1-no-limit", "v1", "v1-in-part"],
)
def test_what_a_control_group_gives(tmp_path, files, processors):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores.quota(tmp_path) == processors


def test_a_limit_is_kept_and_never_below_one(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert cores.cores() == 64
    for limit, allowed in ((150_000, 2), (10_000, 1), (100_000_000, 64)):
        (tmp_path / "cpu.max").write_text(f"{limit} 100000\n")
        assert cores.cores() == allowed
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads_of(16) == 4
    for given, expected in (("1", 1), ("3", 3), ("200", 4), ("0", 1), ("", 4), ("3,2", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert threads_of(16) == expected
