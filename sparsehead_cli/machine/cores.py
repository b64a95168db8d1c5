"""How many processors this process may use."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # of its container, as the container sees it


def cores() -> int:
    """Those that it is bound to, and no more than its container is given the time of; at least one."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, quota(CGROUP))))


def quota(group: Path) -> float:
    """The processors whose time a control group has, infinite where nothing limits it.

    Source: the kernel's documentation of cgroup v2, cpu.max, and of v1, cpu.cfs_quota_us and cpu.cfs_period_us.
    """
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            numbers = " ".join((group / name).read_text(encoding="utf-8") for name in files)
            microseconds, period = map(float, numbers.split())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if microseconds > 0 and period > 0:
            return microseconds / period
    return math.inf
