"""What a process keeps of the memory that it has freed."""

import resource
import subprocess
import sys

import pytest

KEEPS = """
import resource, sys, torch
from sparsehead_cli.machine.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64, 1024, 1024)  # 256 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first, *others = (faults_of_a_step() for _ in range(12))  # a freed piece fits an aligned one only beside others
print(first, max(others[-3:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_steps_memory_is_the_next_ones():
    """Pages are asked for once, where without it every step asks for all of them."""
    found = {}
    for what in ("keep", "leave"):
        done = subprocess.run([sys.executable, "-c", KEEPS, what], capture_output=True, text=True, check=True)
        found[what] = tuple(map(int, done.stdout.split()))
    pages = 64 * 2**22 // resource.getpagesize()
    first, later = found["keep"]
    assert first > pages / 600  # pages may be huge
    assert later < first / 10
    if found["leave"][1] > pages / 600:  # another C library may keep it anyway
        assert later < found["leave"][1] / 10
