"""The commands of docs/cifar10.md in short form: the published recipe is stopped, goes on, and is swept over two λ."""

import re
import shlex
from pathlib import Path

import pytest

from sparsehead_cli.runs.table_files import read_csv

PAGE = (Path(__file__).parents[1] / "docs" / "cifar10.md").read_text(encoding="utf-8")
FIFTY_STEPS = [line for line in re.findall(r"^sparsehead .*", PAGE, re.MULTILINE) if "data/cifar10-part" in line]
SHORT = "--epochs 2 --set widths=8,8,8,8 --set blocks=1,1,1,1 --set projector_hidden=16 --set projector_out=8 --set batch_size=18"
SHORT += " --set image_size=32 --set workers=0 --set precision=float32"
STOP = """
import os, signal
from sparsehead_cli.training.callbacks import Callback

class AtStep(Callback):
    def on_step(self, run, progress):
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.fixture
def short(sparsehead, photographs, tmp_path, monkeypatch):
    """short(command, *more) runs a command of the page on a few photographs, with a narrow network."""
    (tmp_path / "stop.py").write_text(STOP)
    monkeypatch.syspath_prepend(tmp_path)

    def run(command, *more):
        arguments = [str(photographs) if a == "data/cifar10-part" else a for a in shlex.split(command)[1:]]
        return sparsehead(*arguments, *shlex.split(SHORT), "--results", tmp_path / "r", *more)

    return run


def test_the_published_recipe_is_stopped_goes_on_and_is_swept(short, sparsehead, tmp_path):
    pretrain, sweep = FIFTY_STEPS
    code, out, err = short(pretrain, "--callback", "stop:AtStep")
    assert code == 130
    assert "warm-up  2 epochs, not the 10 of simclr-cifar, built in: the run is no longer" in out
    code, out, err = short(pretrain)
    assert (code, err) == (0, "")
    assert "goes on after step 4 of 6, in epoch 2" in out
    code, out, err = short(sweep, "--engine", "print")
    assert (code, err, len(out.splitlines())) == (0, "", 2)
    for line in out.splitlines():
        code, _, err = sparsehead(*shlex.split(line)[1:])
        assert (code, err) == (0, "")
    code, out, err = short(sweep)
    assert (code, err) == (0, "")
    assert "simclr" in out
    rows = read_csv(tmp_path / "r" / "simclr-cifar" / "sweep.csv")
    assert [(row["lam"], row["backbone"]) for row in rows] == [("0.0", "resnet18"), ("0.0001", "resnet18")]
    run_before = next(row["run"] for row in rows if row["lam"] == "0.0001")
    assert (tmp_path / "r" / "simclr-cifar" / run_before / "checkpoint.pt").exists()
