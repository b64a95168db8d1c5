"""The worked example of CONTRIBUTING.md: exactly its changes, made to a copy of the repository, give a method that works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(python|yaml)\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL | re.MULTILINE)
COMMAND = """
def test_alignuniform_from_the_command_line(sparsehead):
    short = ["--epochs", "1", "--batch-size", "100", "--dataset", "fashion1k", "--set", "widths=8,8,8,8"]
    code, out, err = sparsehead("pretrain", "--method", "alignuniform", *short)
    assert (code, err) == (0, "")
    assert "/alignuniform-l21-lam1e-03-seed0-" in out
"""


@pytest.mark.slow
def test_the_worked_example_adds_a_method(tmp_path):
    (_, objective), (_, method), (_, entry), (_, recipe) = BLOCKS
    for name in ("sparsehead_cli", "tests", "experiments.yaml", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    losses, methods = (tmp_path / "sparsehead_cli" / "ssl" / name for name in ("losses/decorrelation.py", "methods.py"))
    losses.write_text(losses.read_text() + "\n\n" + objective)
    before, table = methods.read_text().split("METHODS: dict[str, type[Method]] = {\n")
    methods.write_text(f"{before}{method}\n\nMETHODS: dict[str, type[Method]] = {{\n{entry}{table}")
    experiments = tmp_path / "experiments.yaml"
    experiments.write_text(experiments.read_text() + "\n" + recipe)

    (tmp_path / "tests" / "test_command.py").write_text(COMMAND)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    files = ("tests/ssl/test_methods.py", "tests/test_command.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *files, "-k", "alignuniform"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 8
