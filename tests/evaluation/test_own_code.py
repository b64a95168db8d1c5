"""Code of somebody's own: protocols that the user names, and encoders and views that a checkpoint names."""

import sys

import pytest

from sparsehead_cli.runs.checkpoint import load_checkpoint
from sparsehead_cli.runs.table_files import read_csv
from tests.conftest import TINY
from tests.test_cli import assert_one_error

MINE = """
import torch
from torch import nn

from sparsehead_cli.data.contract import View
from sparsehead_cli.data.prepare import Prepare
from sparsehead_cli.evaluation.task import classified


class Net(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.dim = 8
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(spec.channels * 49, 8), nn.BatchNorm1d(8))

    def forward(self, view):
        return self.layers(view)


class Views:
    roles = ("global", "global")

    def __init__(self, spec):
        self.plain = Prepare(spec.image, spec.normalise)

    def __call__(self, images, generator):
        view = self.plain(images)
        return [View(view + 0.1 * torch.randn(view.shape, generator=generator)) for _ in self.roles]

    def read(self, seed, step, first):
        return None


def nearest_mean(task):
    train, test = task.features()
    for name in task.subject.features:
        means = torch.stack([train[name][train.labels == c].mean(dim=0) for c in range(task.classes)])
        predicted = torch.cdist(test[name], means).argmin(dim=1)
        yield classified(task, name, predicted, test.labels, n_train=len(train), n_val=0)


def failing(task):
    raise KeyError("nothing")


def strange(task):
    yield classified(task, "r", task.features()[1].labels, task.features()[1].labels, n_train=1, n_val=0, colour="red")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A working directory with a module of the user's own in it."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("mine", None)


def test_a_protocol_of_somebodys_own(mine, sparsehead, run_folder):
    code, out, err = sparsehead("evaluate", run_folder, "--protocol", "mine:nearest_mean,knn", "--baselines", "--per-class")
    assert (code, err) == (0, "")
    assert "mine:nearest_mean on fashion1k, pixels" in out
    rows = [row for row in read_csv(run_folder / "evaluations.csv") if row["protocol"] == "mine:nearest_mean"]
    assert [(row["model"], row["features"]) for row in rows] == [
        *(("checkpoint", "r"), ("checkpoint", "z"), ("untrained", "r"), ("untrained", "z"), ("pixels", "pixels"))
    ]
    assert all(float(row["value"]) > 0.2 for row in rows)
    assert "measured before" in sparsehead("evaluate", run_folder, "--protocol", "mine:nearest_mean")[1]
    code, out, _ = sparsehead("evaluate", run_folder, "--protocol", "mine:nearest_mean", "--set", "sgd_epochs=3")
    assert code == 0
    assert "measured before" not in out  # it may read any setting


@pytest.mark.parametrize(
    ("protocol", "says"),
    [
        ("mine:nearest_maen", 'mine has no "nearest_maen". Did you mean "nearest_mean"?'),
        ("mein:nearest_mean", "there is no module mein in "),
        ("mine:failing", "protocol mine:failing fails: KeyError: 'nothing'."),
        ("mine:strange", "colour is not declared for this table"),
        (
            "kmn",
            'unknown protocol "kmn"; known: knn, linear, linear-sgd, semi, finetune, transfer, detection, factors',
        ),
    ],
)
def test_protocols_that_cannot_be_used(mine, sparsehead, run_folder, protocol, says):
    assert says in assert_one_error(sparsehead("evaluate", run_folder, "--protocol", protocol))
    assert not (run_folder / "evaluations.csv").exists()


@pytest.fixture
def own_run(mine, sparsehead, tmp_path):
    """The folder of a run with a backbone and views of the user's own, and no trace of the module in this process."""
    settings = {**TINY, "views": "mine:Views", "dataset": "fashion1k", "epochs": 1}
    given = [f"{key}={value}" for key, value in settings.items() if key not in ("widths", "dataset")]
    arguments = [part for text in given for part in ("--set", text)]
    code, _, err = sparsehead("pretrain", "--backbone", "mine:Net", "--dataset", "fashion1k", *arguments)
    assert (code, err) == (0, "")
    sys.modules.pop("mine", None)
    (folder,) = (tmp_path / "results" / "simclr-on-fashion1k").iterdir()
    return folder


@pytest.mark.parametrize("command", ["evaluate", "spectrum"])
def test_code_that_a_checkpoint_names_is_imported_only_where_the_user_names_it_too(own_run, sparsehead, command):
    err = assert_one_error(sparsehead(command, own_run))
    assert f"{own_run}/checkpoint.pt names code of somebody's own, backbone mine:Net, which is imported only where you name" in err
    assert err.endswith("If you trust it: --plugin mine\n")
    assert "mine" not in sys.modules
    assert_one_error(sparsehead(command, own_run, "--plugin", "other"))
    assert "mine" not in sys.modules


def test_a_run_of_somebodys_own_is_measured(own_run, sparsehead, tmp_path):
    short = [part for name in ("finetune_epochs=1", "semi_seeds=1", "semi_epochs=1,1") for part in ("--set", name)]
    protocols = ("--protocol", "linear,knn,finetune,mine:nearest_mean", "--baselines", *short)
    code, out, err = sparsehead("evaluate", own_run, "--plugin", "mine", *protocols)
    assert (code, err) == (0, "")
    assert "finetune, 1 epoch" in out
    rows = read_csv(own_run / "evaluations.csv")
    assert {row["backbone"] for row in rows} == {"mine:Net"}
    code, out, err = sparsehead("spectrum", own_run, "--plugin", "mine", "--out", tmp_path / "spectra")
    assert (code, err) == (0, "")
    metrics = {row["metric"] for row in read_csv(tmp_path / "spectra" / "spectrum_metrics.csv")}
    assert {"lidar", "alignment", "probe_r", "batch_features_median"} <= metrics
    weights = load_checkpoint(own_run / "checkpoint.pt")["method"]
    (tmp_path / "mine.py").write_text(MINE.replace("spec.channels * 49, 8", "spec.channels * 49, 8, bias=False"))
    assert "backbone.layers.2.bias" in weights
    sys.modules.pop("mine", None)
    err = assert_one_error(sparsehead("evaluate", own_run, "--plugin", "mine"))
    assert "backbone.layers.2.bias is float32 [8] and must be not there" in err
