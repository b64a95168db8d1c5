import itertools
import math

import pytest
import torch

from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.sparse.sparse_head import SparseHead
from sparsehead_cli.sweeps import auto
from sparsehead_cli.sweeps.auto import auto_lams, size, sum_lr
from sparsehead_cli.sweeps.grid import Grid, trials
from sparsehead_cli.sweeps.request import SweepRequest
from sparsehead_cli.sweeps.sweep import read_state
from tests.conftest import TINY


def head():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))


def test_the_size_of_groups_weights_and_singular_values():
    weights = [layer.weight for layer in head() if isinstance(layer, torch.nn.Linear)]
    mean = lambda parts: torch.cat([p.detach().flatten() for p in parts]).mean().item()  # noqa: E731
    assert size(SparseHead(head(), 1.0)) == pytest.approx(mean([w.norm(dim=0) for w in weights]), rel=1e-5)
    assert size(SparseHead(head(), 1.0, groups="output")) == pytest.approx(mean([w.norm(dim=1) for w in weights]), rel=1e-5)
    assert size(SparseHead(head(), 1.0, penalty="l1")) == pytest.approx(mean([w.abs() for w in weights]), rel=1e-5)
    assert size(SparseHead(head(), 1.0, penalty="nuclear")) == pytest.approx(
        mean([torch.linalg.svdvals(w) for w in weights]), rel=1e-4
    )
    assert size(SparseHead(head(), 1.0, penalty="l2")) == pytest.approx(0.5, rel=1e-5)
    assert size(SparseHead(head(), 1.0, layers="first")) == pytest.approx(mean([weights[0].norm(dim=0)]), rel=1e-5)


def test_the_proximal_map_alone_empties_groups_between_the_lams(tiny):
    """At the λ in the middle the shrink over a run equals the mean norm: without an objective about half of the groups die."""
    lams = auto_lams(tiny(epochs=3, lam=1.0))
    assert lams[0] == 0
    assert len(lams) == 7
    assert [round(math.log10(b / a), 1) for a, b in itertools.pairwise(lams[1:])] == [0.5] * 5
    from sparsehead_cli.runs.build import build

    run = build(tiny(epochs=3, lam=1.0))
    rates = [run.lr(step) for step in range(run.total_steps)]
    norms = torch.cat([w.detach().norm(dim=0) for w in run.sparse.weights()])
    alive = [float((norms > lam * sum(rates)).double().mean()) for lam in lams]
    assert alive[:2] == [1, 1]
    assert 0.2 < alive[4] < 0.8
    assert alive[5:] == [0, 0]


def test_longer_runs_have_smaller_lams(tiny):
    short, long = (auto_lams(tiny(epochs=epochs, lam=1.0))[1] for epochs in (2, 20))
    assert 8 < short / long < 12


@pytest.mark.parametrize("dataset", ["fashion1k", "tests.tasks:load"])  # one task, and two
def test_it_is_the_initial_size_over_the_learning_rates_of_the_run_and_asks_for_no_gpu(tiny, dataset):
    from sparsehead_cli.runs.build import build

    changes = {"dataset": dataset, "batch_size": 50, "epochs": 3, "warmup_epochs": 0.7, "lam": 1.0}
    run = build(tiny(**changes))
    rates = sum(run.lr(step) for step in range(run.total_steps))
    assert sum_lr(run.config, [run.steps_of(phase) for phase in run.phases]) == rates
    assert auto_lams(tiny(**changes, device="cuda:99"))[4] == float(f"{size(run.sparse) / rates:.1e}")


def test_the_parent_of_a_sweep_opens_no_gpu_and_reads_the_images_once(tiny, monkeypatch):
    def opened():
        raise AssertionError("a GPU was opened")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_lazy_init", opened)
    splits = []
    monkeypatch.setattr(auto, "load_split", lambda *a, **k: splits.append(a) or load_split(*a, **k))
    grid = Grid((), penalties=("l21", "l1"), dims=(8, 16), auto=True, settings=dict(TINY))
    grid.settings.pop("projector_out")
    read_state(SweepRequest(grid=grid, experiment="lambda-quick"))
    assert [split for _, split, _ in splits] == ["pretrain"]


def test_each_setting_has_its_own_and_zero_is_shared(tiny):
    settings = []

    def lams_of(config):
        settings.append((config.penalty, config.solver, config.projector_out))
        return (0.0, 1e-3 if config.penalty == "l21" else 1e-5)

    grid = Grid((), penalties=("l21", "l1"), dims=(8, 16), seeds=2, auto=True)
    found = trials(grid, "quickstart", auto=lams_of)
    assert len(settings) == 4  # once a setting, not once a seed
    assert {(c.penalty, c.lam) for c in found} == {("l21", 0.0), ("l21", 1e-3), ("l1", 1e-5)}
    assert len(found) == 2 * 2 * 3


def test_a_head_without_weights_has_no_lam(tiny):
    with pytest.raises(SparseheadError, match="has no weights to penalise"):
        auto_lams(tiny(projector="none", lam=1.0))
