"""DeepCluster: what it remembers of images, when it clusters, and that it goes on as if it had never stopped."""

import os
import signal

import pytest
import torch

from sparsehead_cli.data.contract import Batch, View
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.signals import Interrupted
from sparsehead_cli.nets.backbones import make_backbone
from sparsehead_cli.nets.heads import make_projector
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.checkpoint import load_checkpoint
from sparsehead_cli.ssl.clustering import DeepCluster
from sparsehead_cli.training import loop
from sparsehead_cli.training.loop import pretrain

SMALL = {"prototypes": 4, "clusterings": 2}


def made(images=10, steps=2):
    torch.manual_seed(0)
    backbone = make_backbone("narrow", channels=1, image_size=12, widths=(8, 8), blocks=(1, 1))
    method = DeepCluster(backbone, make_projector(backbone.dim, [8], 6), **SMALL)
    method.prepare(images, steps)
    return method


def step(method, index):
    """One step on the images with these numbers, which always look the same; the objective."""
    inputs = torch.randn(10, 1, 12, 12, generator=torch.Generator().manual_seed(1))[index]
    torch.manual_seed(method.step)
    loss, _ = method([View(inputs), View(inputs + 0.1)], Batch(inputs, torch.zeros(len(index)), torch.tensor(index)))
    method.after_step(0.5)
    return loss


def test_an_epoch_fills_the_memory_and_the_next_one_clusters_it():
    method = made()
    step(method, [1, 2, 3, 4]), step(method, [5, 6, 7, 8])
    assert method.memory.any(dim=1).tolist() == [False] + [True] * 8 + [False]
    assert (method.assigned == -1).all()
    stored = method.memory.clone()
    step(method, [0, 1, 2, 3])
    known = (method.assigned >= 0).all(dim=0)
    assert known.tolist() == [False] + [True] * 8 + [False]  # 0 came too late, and 9 not at all
    for prototypes, assigned in zip(method.prototypes, method.assigned, strict=True):
        assert torch.equal((stored[1:9] @ prototypes.T).argmax(dim=1), assigned[1:9])
    torch.testing.assert_close(method.prototypes.norm(dim=2), torch.ones(2, 4))
    assert not torch.equal(*method.prototypes)  # of other starts
    before = method.prototypes.clone(), method.assigned.clone()
    step(method, [4, 5, 6, 7])
    assert torch.equal(before[0], method.prototypes)  # within an epoch they stay
    assert torch.equal(before[1], method.assigned)
    assert method.memory[0].any()  # and it is known from now on
    step(method, [0, 9, 1, 2])
    assert (method.assigned[:, 0] >= 0).all()
    assert (method.assigned[:, [8, 9]] == -1).all()  # the second epoch left them out, and what they were before is forgotten


def test_images_that_nobody_knows_have_no_gradient():
    method = made()
    step(method, [1, 2, 3, 4]), step(method, [5, 6, 7, 8])
    loss = step(method, [0, 9])
    loss.backward()
    assert loss == 0
    assert not any(p.grad.any() for p in method.parameters())


def test_more_prototypes_than_images():
    method = made()
    step(method, [1, 2, 3]), step(method, [1, 2, 3])
    assert step(method, [1, 2, 3]).isfinite()


def test_a_run_goes_on_bit_for_bit(tiny, tmp_path, monkeypatch):
    """Stopped in the middle of its third epoch, whose clusters are those of the second."""
    settings = {"method": "deepcluster", "method_settings": {**SMALL, "prototypes": 16}, "epochs": 4, "batch_size": 300}
    whole = pretrain(build(tiny(**settings))).run
    config = tiny(**settings, results=tmp_path / "stopped")
    real = loop.train_step

    def signalled(run, batch, at):
        if at == 2 * 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(run, batch, at)

    monkeypatch.setattr(loop, "train_step", signalled)
    with pytest.raises(Interrupted):
        pretrain(build(config))
    monkeypatch.setattr(loop, "train_step", real)
    after = pretrain(build(config)).run
    assert whole.folder != after.folder
    ours, theirs = (load_checkpoint(run.folder / "checkpoint.pt")["method"] for run in (whole, after))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert whole.method.step == after.method.step == 4 * 3


def test_not_over_tasks(tiny):
    with pytest.raises(SparseheadError, match="deepcluster remembers each image from one epoch to the next, and a task has others"):
        build(tiny(method="deepcluster", method_settings=SMALL, tasks="2"))
