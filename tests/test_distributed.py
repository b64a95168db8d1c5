"""Two gloo processes give the gradient of one process on the joined batch, for every method; and torchrun trains a run."""

import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from sparsehead_cli import SparseHead, distributed
from sparsehead_cli.ssl.methods import METHODS
from sparsehead_cli.table_files import read_csv
from sparsehead_cli.training.checkpoint import load_checkpoint
from tests.conftest import method_recipe


class Pool(torch.nn.Module):
    """A norm-free stand-in for a backbone: BatchNorm would see different batches."""

    def __init__(self):
        super().__init__()
        self.dim, self.image = 6, (1, 12, 12)
        self.conv = torch.nn.Conv2d(1, 6, 3)

    def forward(self, x):
        return self.conv(x).relu().mean(dim=(2, 3))


LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def build(name):
    """The method without any norm layer: BatchNorm would see different batches."""
    from sparsehead_cli.nets.heads import make_projector

    torch.manual_seed(0)
    method = METHODS[name](Pool(), make_projector(6, [16], 4, batch_norm=False), **method_recipe(name))
    for module in list(method.modules()):
        for key, child in module.named_children():
            if isinstance(child, torch.nn.modules.batchnorm._BatchNorm):
                setattr(module, key, torch.nn.Identity())
    return method


def joined_views():
    g = torch.Generator().manual_seed(1)
    return [torch.randn(8, 1, 12, 12, generator=g) for _ in range(2)]


def two_steps(name, views, labels, wrap):
    """Loss, penalty and gradients of the first of two steps, and the method's whole state after the second."""
    method = build(name)
    sparse = SparseHead(method.projector, 0.01)
    wrapped = wrap(method)  # kept until after the backward pass: it owns the hooks
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.01)
    found = []
    for step in range(2):
        torch.manual_seed(step)  # as the loop does: what a method draws is drawn for the joined batch
        loss, terms = wrapped(views, labels)
        penalty = sparse.penalty()
        optimizer.zero_grad()
        (loss + penalty).backward()
        values = {"loss": loss, "penalty": penalty, **terms}
        gradients = {key: p.grad.clone() for key, p in method.named_parameters() if p.requires_grad}
        found.append(({key: value.item() for key, value in values.items()}, gradients))
        optimizer.step()
        method.after_step((step + 1) / 2)
    return *found[0], {key: value.clone() for key, value in method.state_dict().items()}


def one_of_two(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    distributed.start(torch.device("cpu"))
    share = [v.chunk(2)[rank] for v in joined_views()]
    found = {name: two_steps(name, share, LABELS.chunk(2)[rank], DistributedDataParallel) for name in METHODS}
    torch.save(found, folder / f"{rank}.pt")
    distributed.barrier()
    distributed.stop()


def test_two_processes_have_the_gradient_of_one(tmp_path):
    """And the same penalty, terms, and after two steps the same weights, teachers, queues and centres."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(one_of_two, args=(port, tmp_path), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, (values, *tables) in [item for found in ranks for item in found.items()]:
        expected, *expected_tables = two_steps(name, joined_views(), LABELS, lambda m: m)
        assert values == pytest.approx(expected, rel=1e-5), name
        for table, expected_table in zip(tables, expected_tables, strict=True):
            assert list(table) == list(expected_table)
            # of all tensors together: a bias before a centring has a gradient of rounding errors only
            scale = sum(value.double().square().sum() for value in expected_table.values()).sqrt()
            for key, value in table.items():
                distance = torch.linalg.vector_norm((value - expected_table[key]).double())
                assert distance <= 1e-5 * scale, f"{name}: {key}"


def test_one_process_needs_no_group():
    x = torch.ones(2, 2, requires_grad=True)
    assert distributed.all_gather(x) is x
    assert (distributed.rank(), distributed.world()) == (0, 1)


def test_torchrun_trains_one_run(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "sparsehead_cli"]
    options = ["pretrain", "--epochs", "1", "--batch-size", "500", "--set", "widths=8,8,8,8", "--results", str(tmp_path)]
    done = subprocess.run(command + options, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "quickstart").iterdir()
    assert len(read_csv(folder / "metrics.csv")) == 1
    state = load_checkpoint(folder / "checkpoint.pt")
    assert state["step"] == 9000 // 500
    assert state["identity"]["processes"] == 2
    assert done.stdout.count("epoch 1/1") == 1
