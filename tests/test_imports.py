"""Who does not need a library does not wait for it: seconds at every start, which nothing else would notice."""

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
import sparsehead_cli.runs.table_files, sparsehead_cli.training.loop
assert "pandas" not in sys.modules  # who reads a table without computing

import tests.conftest  # knows fashion1k
from sparsehead_cli.cli import app
app(["evaluate", sys.argv[1], "--protocol", "knn"], standalone_mode=False)
for optimizer in ("sgd", "adamw", "lars"):
    app(["pretrain", "--dataset", "fashion1k", "--epochs", "1", "--batch-size", "450", "--set", "widths=8,8,8,8", "--set",
         f"optimizer={optimizer}", "--results", sys.argv[1]], standalone_mode=False)
found = {"torchvision", "torch._dynamo", "sklearn"} & set(sys.modules)  # without a compiled network or a JPEG
assert not found, found
"""

REPORT = """
import sys
import sparsehead_cli.present.report, sparsehead_cli.study.study
found = {"torch", "ray", "submitit"} & set(sys.modules)  # tables and figures are made of CSVs
assert not found, found
"""


def test_a_report_does_not_wait_for_torch():
    done = subprocess.run(
        [sys.executable, "-c", REPORT], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_measuring_a_run_waits_for_neither_torchvision_nor_the_compiler(run_folder):
    command = [sys.executable, "-c", CODE, run_folder]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
