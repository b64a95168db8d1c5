"""How much memory a process may use, and has used."""

import ctypes
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
KEPT_ONE, KEPT_ALL = 2**30, 2**31 - 1  # bytes of one piece of memory that is kept when it is freed, and of all of them at the end
CGROUP = Path("/sys/fs/cgroup/memory.max")  # a container's limit, on Linux


def memory_of(device: torch.device) -> int:
    """The bytes of a GPU; for the CPU those of the machine, of its container or of `ulimit -v`, whichever are the fewest."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if allowed != resource.RLIM_INFINITY:
        limits.append(allowed)
    with suppress(OSError, ValueError):  # no such limit, or "max"
        limits.append(int(CGROUP.read_text(encoding="utf-8")))
    return min(limits)


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has had: of a GPU those of its tensors, else those of the process with all its code."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def keep_freed_memory() -> None:
    """Have glibc keep what tensors on the processor free, for the next ones, instead of giving it back to the system.

    By itself it gives back every piece above 32 MB, and a step's activations are new pages each time, which the system has to fill
    with zeros: a quarter of the time of ResNet-18 with 256 images a step. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, KEPT_ONE)
        mallopt(M_TRIM_THRESHOLD, KEPT_ALL)
