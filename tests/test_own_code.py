"""The file in docs/own-code.md, in a folder of its own: it trains, is killed, goes on bit for bit, is swept and measured."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparsehead_cli.runs.table_files import read_csv

pytestmark = pytest.mark.slow  # three processes
ROOT = Path(__file__).parents[1]
CODE = re.search(r"^```python\n(.*?)^```", (ROOT / "docs" / "own-code.md").read_text(), re.DOTALL | re.MULTILINE)[1]
RUN = ["--backbone", "mine:Net", "--method", "mine:AlignUniform", "--callback", "mine:Watch", "--batch-size", "500"]
SETTINGS = ["--set", "method.uniformity=0.5", "--set", "views=mine:Noisy"]


def command(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "sparsehead_cli", *map(str, arguments)]
    return subprocess.Popen(line, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder, *arguments, code=0):
    process = command(folder, *arguments)
    out, err = process.communicate(timeout=550)
    assert process.returncode == code, out + err
    return out + err


def run_folder(results):
    (folder,) = results.glob("mine-AlignUniform/mine-AlignUniform-l21-lam1e-03-seed0-*")
    return folder


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A folder with mine.py and the run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("house")
    (folder / "mine.py").write_text(CODE)
    run(folder, "pretrain", *RUN, *SETTINGS, "--epochs", "2", "--results", "whole")
    return folder


def test_the_file_is_short():
    assert len(CODE.splitlines()) <= 80


def test_it_trains_with_its_own_number_and_column(house):
    folder = run_folder(house / "whole")
    rows = read_csv(folder / "metrics.csv")
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[0]["alignment"]) + 0.5 * float(rows[0]["uniformity"]) == pytest.approx(float(rows[0]["loss"]), abs=1e-5)
    assert [float(row["own_norm"]) > 0 for row in rows] == [True, True]
    assert (folder / "own.log").read_text().startswith("epoch 1 of 2: 0.")
    assert "mine:Net" in (folder / "config.yaml").read_text()
    assert "does not tell versions of their code apart" in (folder / "config.yaml").read_text()


def test_killed_and_called_again_it_is_bit_for_bit_the_same(house):
    arguments = ["pretrain", *RUN, *SETTINGS, "--epochs", "2", "--results", "parts"]
    process = command(house, *arguments)
    while not list((house / "parts").glob("mine-AlignUniform/*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(read_csv(run_folder(house / "parts") / "metrics.csv")) == 1
    assert "goes on after step" in run(house, *arguments)
    whole, parts = (run_folder(house / name) for name in ("whole", "parts"))
    assert whole.name == parts.name
    assert whole.joinpath("checkpoint.pt").read_bytes() == parts.joinpath("checkpoint.pt").read_bytes()


@pytest.fixture
def at_home(house, sparsehead, monkeypatch):
    """at_home(*arguments) -> everything printed by a command that is called in the folder with mine.py."""
    monkeypatch.chdir(house)
    monkeypatch.syspath_prepend(house)

    def run(*arguments, code=0):
        ended, out, err = sparsehead(*arguments)
        assert ended == code, out + err
        return " ".join((out + err).split())

    yield run
    sys.modules.pop("mine", None)


def test_it_is_swept(house, at_home):
    grid = ["--lams", "0,1e-3", "--seeds", "1", "--epochs", "1", "--jobs", "1", "--methods", "mine:AlignUniform"]
    own = ["--set", "backbone=mine:Net", "--set", "views=mine:Noisy", "--set", "batch_size=500", "--callback", "mine:Watch"]
    at_home("sweep-lambda", *grid, *own, "--results", "swept")
    rows = read_csv(house / "swept" / "lambda-quick" / "sweep.csv")
    assert [(row["method"], row["backbone"], float(row["lam"])) for row in rows] == [
        ("mine:AlignUniform", "mine:Net", 0.0),
        ("mine:AlignUniform", "mine:Net", 1e-3),
    ]
    assert len(list(house.glob("swept/*/*/own.log"))) == 2


def test_it_is_measured_only_where_its_code_is_named(house, at_home):
    folder = run_folder(house / "whole")
    for arguments in (["evaluate", folder, "--protocol", "knn"], ["spectrum", folder, "--out", house / "spectra"]):
        assert "--plugin mine" in at_home(*arguments, code=1)
        at_home(*arguments, "--plugin", "mine")
    assert {row["backbone"] for row in read_csv(folder / "evaluations.csv")} == {"mine:Net"}
    assert {row["method"] for row in read_csv(house / "spectra" / "spectrum_metrics.csv")} == {"mine:AlignUniform"}


def test_code_that_is_not_there_is_one_line(at_home):
    for name, said in (("mine:Ned", 'mine has no "Ned". Did you mean "Net"?'), ("nowhere:Net", "there is no module nowhere")):
        assert said in at_home("pretrain", "--backbone", name, code=1)
