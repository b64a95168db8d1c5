"""Short forms of the torture; the long ones are commands: see `faults.py` and `inputs.py`."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
INPUTS = """
from tests.torture.inputs import fuzz
from tests.torture.kinds import KINDS

counts = dict.fromkeys(KINDS, 40) | {"our checkpoints, odd": 14, "image folders": 14}
table = fuzz(counts, 20, lambda kind, line: print(f"{kind}: {line}"))
print(f"{table[['read', 'refused', 'badly']].to_numpy().sum()} inputs, {table['badly'].sum()} of them ended badly")
"""


def last_line(*arguments):
    """What is printed last, in a process of its own: its cases are forked, with everything that other tests left in this one."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert ", 0 of them ended badly" in done.stdout, done.stdout[-4000:]
    return done.stdout.splitlines()[-1]


def test_faults_end_well():
    names = ["pretrain", "evaluate", "spectrum", "report"]  # a sweep takes half a minute a case
    arguments = ["-m", "tests.torture.faults", "--seed", "20", "--count", "8", "--commands", *names]
    assert last_line(*arguments) == "8 faults, 0 of them ended badly"


def test_inputs_are_read_or_refused():
    assert int(last_line("-c", INPUTS).split()[0]) >= 400
