"""A sweep that takes seconds, in the form of a command line, and what it gives when nothing stops it."""

import shlex
import subprocess
import sys

import pytest

from sparsehead_cli.runs.table_files import read_csv
from tests.images import write_fashion1k

TINY = "--set widths=8,8,8,8 --set projector_hidden=16 --set projector_out=8 --set warmup_epochs=1 --set batch_size=300"
SMALL = shlex.split(f"--lams 0,3e-2 --seeds 2 --epochs 2 {TINY} --set precision=float32")
NEITHER = ("commit", "train_seconds")  # what need not be the same twice


def same(path):
    return [{k: v for k, v in row.items() if k not in NEITHER} for row in read_csv(path)]


@pytest.fixture(scope="session")
def two_trials(tmp_path_factory):
    """The command line of a sweep whose two trials have time to be killed, and a thousand images to learn from."""
    images = tmp_path_factory.mktemp("images") / "fashion1k"
    write_fashion1k(images)
    return ["sweep-lambda", *SMALL, "--seeds", "1", "--epochs", "20", "--dataset", "fashion-mnist", "--data-dir", str(images)]


@pytest.fixture(scope="session")
def uninterrupted(two_trials, tmp_path_factory):
    """The folder of that sweep, run in processes of its own."""
    results = tmp_path_factory.mktemp("uninterrupted")
    command = [sys.executable, "-m", "sparsehead_cli", *two_trials, "--jobs", "2", "--results", str(results)]
    subprocess.run(command, check=True, capture_output=True)
    return results / "lambda-quick"
