"""Several processes: the gradient, the run and the checkpoint of one; they stop together, and fail with one message."""

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sparsehead_cli import SparseHead
from sparsehead_cli.data.contract import Batch, View
from sparsehead_cli.data.datasets import DATASETS, DatasetInfo
from sparsehead_cli.machine import distributed
from sparsehead_cli.machine.signals import Interrupted
from sparsehead_cli.nets.norms import join_batch_norms
from sparsehead_cli.runs.build import build as build_run
from sparsehead_cli.runs.checkpoint import load_checkpoint
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.table_files import read_csv
from sparsehead_cli.ssl.methods import METHODS
from sparsehead_cli.ssl.regularisers import REGULARISERS, regularised
from sparsehead_cli.training import loop
from sparsehead_cli.training.loop import pretrain
from tests.conftest import TINY, method_recipe, needs_patches, small_backbone


class Pool(torch.nn.Module):
    """A norm-free stand-in for a backbone: BatchNorm would see different batches."""

    def __init__(self):
        super().__init__()
        self.dim, self.image = 6, (1, 12, 12)
        self.conv = torch.nn.Conv2d(1, 6, 3)

    def maps(self, x):
        return self.conv(x).relu()

    def forward(self, x):
        return self.maps(x).mean(dim=(2, 3))


LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
STRENGTHS = dict.fromkeys(REGULARISERS, 0.1)  # of all terms at once
OF_WEIGHTS = ("orthogonal:0.01", "spectral:0.01", "decay:0.01")


def build(name, strengths):
    """The method without any BatchNorm: it would see different batches."""
    from sparsehead_cli.nets.heads import make_projector

    torch.manual_seed(0)
    backbone = small_backbone(name, 12) if needs_patches(name) else Pool()
    projector = make_projector(backbone.dim, [16], 4, batch_norm=False)
    method = regularised(METHODS[name], strengths)(backbone, projector, **method_recipe(name))
    method.prepare(len(LABELS), 1)
    for module in list(method.modules()):
        for key, child in module.named_children():
            if isinstance(child, torch.nn.modules.batchnorm._BatchNorm):
                setattr(module, key, torch.nn.Identity())
    return method


def joined_views():
    g = torch.Generator().manual_seed(1)
    return [torch.randn(8, 1, 12, 12, generator=g) for _ in range(2)]


def two_steps(name, views, labels, wrap, parts=1, strengths=()):
    """Loss, penalty and gradients of the first of two steps, and the method's whole state after the second."""
    method = build(name, dict(strengths))
    method.parts = parts
    sparse = SparseHead(method.projector, 0.01)
    wrapped = wrap(method)  # kept until after the backward pass: it owns the hooks
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.01)
    found = []
    for step in range(2):
        torch.manual_seed(step)  # as the loop does: what a method draws is drawn for the joined batch
        batch = Batch(torch.empty(0), labels, torch.arange(len(labels)) + distributed.rank() * len(labels))
        loss, terms = wrapped([View(view) for view in views], batch)
        penalty = sparse.penalty()
        optimizer.zero_grad()
        (loss + penalty).backward()
        values = {"loss": loss, "penalty": penalty, **terms}
        gradients = {key: p.grad.clone() for key, p in method.named_parameters() if p.requires_grad}
        found.append(({key: value.item() for key, value in values.items()}, gradients))
        optimizer.step()
        method.after_step((step + 1) / 2)
    return *found[0], {key: value.clone() for key, value in method.state_dict().items()}


RUNS = ("simclr", "byol", "barlow", "moco")  # all with BatchNorm in backbone and head
BY_TOKEN = ("simmim", "ijepa", "ibot")  # whose head reads tokens beside r, or behind it
STOPPED_AT = 4  # steps


def patterns(data_dir, train):
    """Ten classes of noisy patterns; 180 images are for training."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 10
    return (rng.integers(0, 128, (10, 1, 12, 12)).take(labels, 0) + rng.integers(0, 128, (200, 1, 12, 12))).astype(np.uint8), labels


DATASETS["patterns"] = DatasetInfo(tuple("0123456789"), 1, 12, DATASETS["mnist"].normalise, patterns)


def settings(method, results, **changes):
    """One epoch of nine steps."""
    recipe = {"method": method, "method_settings": method_recipe(method), "dataset": "patterns"}
    return Config(**{**TINY, **recipe, "epochs": 1, "batch_size": 20, "lr": 0.02, "results": results, **changes})


def streaming(images, results):
    """Five steps of twelve images that stream from files, of which one cannot be read."""
    changes = {"dataset": str(images), "image_size": 16, "workers": 0, "skip_bad_images": True, "views": "symmetric"}
    return settings("simclr", results, **{**changes, "batch_size": 10})


def train(config):
    return pretrain(build_run(config)).run.folder


def stopped_at(step, config, rank):
    """Train until SIGTERM reaches the process `rank` in this step -> the message and the exit code."""
    real = loop.train_step

    def step_and_signal(run, batch, at):
        if at == step and distributed.rank() == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(run, batch, at)

    loop.train_step = step_and_signal
    try:
        train(config)
    except Interrupted as stopped:
        return str(stopped), stopped.exit_code
    finally:
        loop.train_step = real


def normed(images, weights):
    """A step of three norms, in float32 and in bfloat16: outputs, gradients of both, and the statistics that stay."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.BatchNorm1d(48), nn.BatchNorm1d(48, affine=False))
        net = join_batch_norms(net, torch.device("cpu"))
        x = images.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        y = net(x)
        (y.float() * weights).sum().backward()
        gradients = {name: p.grad for name, p in net.named_parameters()}
        shared = y.dtype == dtype and net[0](x).is_contiguous(memory_format=torch.channels_last)
        found.append((y.detach().float(), x.grad.float(), gradients, dict(net.state_dict()), shared))
    return found


def some_images():
    g = torch.Generator().manual_seed(5)
    return 3 + 2 * torch.randn(8, 3, 4, 4, generator=g), torch.randn(8, 48, generator=g)


def one_of_several(rank, world, port, folder, images):
    """All that needs several processes, in one go: to start them takes longer than what they do."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    distributed.start(torch.device("cpu"))
    found = {"norms": normed(*(x.chunk(world)[rank] for x in some_images()))}
    if world == 2:
        share = [v.chunk(2)[rank] for v in joined_views()]
        stopped_at(2, streaming(images, folder / "streamed"), rank=0)
        train(streaming(images, folder / "streamed"))
        found["sharded"] = sharded(folder)
        labels = LABELS.chunk(2)[rank]
        found["steps"] = {name: two_steps(name, share, labels, DistributedDataParallel) for name in METHODS}
        found["regularised"] = {
            name: two_steps(name, share, labels, DistributedDataParallel, strengths=STRENGTHS) for name in (*RUNS, *BY_TOKEN)
        }
        found["in parts"] = {name: two_steps(name, share, labels, DistributedDataParallel, parts=2) for name in RUNS}
        train(settings("simclr", folder / "whole", accumulate=2))
    for method in RUNS if world == 2 else RUNS[:1]:
        train(settings(method, folder / "whole"))
    train(settings("simclr", folder / "begun"))  # by one process, and stopped
    found["stopped"] = stopped_at(STOPPED_AT, settings("simclr", folder / "parts"), rank=1)
    train(settings("simclr", folder / "parts"))
    torch.save(found, folder / f"{rank}.pt")
    distributed.barrier()
    distributed.stop()


def sharded(folder):
    """Runs with the head in parts beside those with a whole one: with the methods that have a teacher or predictor, both solvers,
    optimizers whose steps read norms, and a stop. The shapes of what this process holds of BYOL's weights, by name.
    """
    for method in RUNS:
        train(settings(method, folder / "sharded", shard_head=True))
    for shard_head in (False, True):
        train(settings("simclr", folder / f"lars-{shard_head}", solver="proximal", optimizer="lars", shard_head=shard_head))
        train(settings("byol", folder / f"regularised-{shard_head}", regularisers=OF_WEIGHTS, shard_head=shard_head))
    stopped_at(STOPPED_AT, settings("simclr", folder / "sharded-parts", shard_head=True), rank=0)
    if distributed.rank() == 0:
        shutil.copytree(folder / "sharded-parts", folder / "sharded-begun")
    distributed.barrier()
    train(settings("simclr", folder / "sharded-parts", shard_head=True))
    parts = build_run(settings("byol", folder / "sharded", shard_head=True)).method.named_parameters()
    return {name: tuple(p.to_local().shape) for name, p in parts if distributed.is_sharded(p)}


def several(world, folder, images):
    """`world` processes in `folder` -> what each of them found."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])  # which imports torch once for all
    mp.start_processes(one_of_several, args=(world, port, folder, images), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, photographs):
    """The folder of what one process makes: a run of each method under `whole`, one that was stopped under `begun`."""
    folder = tmp_path_factory.mktemp("alone")
    for method in RUNS:
        train(settings(method, folder / "whole"))
    train(settings("simclr", folder / "whole", accumulate=2))  # whose BatchNorms see the same parts for any number of processes
    assert stopped_at(STOPPED_AT, settings("simclr", folder / "begun"), rank=0)
    shutil.copytree(photographs, folder / "images")
    (folder / "images" / "train" / "cat" / "012.jpg").write_bytes(b"")
    train(streaming(folder / "images", folder / "streamed"))
    return folder


@pytest.fixture(scope="module")
def two(alone, tmp_path_factory):
    return shared(2, alone, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(alone, tmp_path_factory):
    return shared(4, alone, tmp_path_factory.mktemp("four"))


def shared(world, alone, folder):
    """The folder of what several processes make, where they go on with what one has begun; and what each found."""
    shutil.copytree(alone / "begun", folder / "begun")
    return folder, several(world, folder, alone / "images")


def runs(folder):
    """The runs below a folder by name, and each one's checkpoint, losses, and bytes of the checkpoint."""
    found = {}
    for path in sorted(folder.rglob("checkpoint.pt")):
        losses = [float(row["loss"]) for row in read_csv(path.parent / "metrics.csv")]
        found[path.parent.name] = (load_checkpoint(path), losses, path.read_bytes())
    return found


def distance(a, b):
    """Of two states of equal keys, all tensors together, relative to the size of b."""
    assert list(a) == list(b)
    squares = [((a[key].double() - b[key].double()).square().sum(), b[key].double().square().sum()) for key in b]
    return float((sum(d for d, _ in squares) / sum(s for _, s in squares)).sqrt())


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(two):
    """And the same penalty, terms, and after two steps the same weights, teachers, queues and centres."""
    cases = [(kind, *case) for found in two[1] for kind in ("steps", "in parts", "regularised") for case in found[kind].items()]
    for kind, name, (values, *tables) in cases:
        strengths = STRENGTHS if kind == "regularised" else {}
        expected, *expected_tables = two_steps(name, joined_views(), LABELS, lambda m: m, strengths=strengths)
        assert values == pytest.approx(expected, rel=1e-5), name
        for table, expected_table in zip(tables, expected_tables, strict=True):
            assert list(table) == list(expected_table)
            # of all tensors together: a bias before a centring has a gradient of rounding errors only
            scale = sum(value.double().square().sum() for value in expected_table.values()).sqrt()
            for key, value in table.items():
                difference = torch.linalg.vector_norm((value - expected_table[key]).double())
                assert difference <= 1e-5 * scale, f"{name}: {key}"


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["two", "four"])
def test_batch_norm_is_of_the_joined_batch(request, processes):
    """Outputs, gradients and running statistics of one process; the share's type and memory format stay."""
    found = [one["norms"] for one in request.getfixturevalue(processes)[1]]
    for i, (y, gradient, parameters, state, _) in enumerate(normed(*some_images())):
        tolerance = {"rtol": 0, "atol": (1e-5, 0.1)[i]}  # bfloat16 has eight bits
        shares = [one[i] for one in found]
        assert all(share[4] for share in shares)
        torch.testing.assert_close(torch.cat([share[0] for share in shares]), y, **tolerance)
        torch.testing.assert_close(torch.cat([share[1] for share in shares]), gradient, **tolerance)
        for name, expected in parameters.items():
            torch.testing.assert_close(sum(share[2][name] for share in shares), expected, rtol=1e-3, atol=(1e-4, 0.3)[i])
        for share in shares:
            assert share[3].keys() == state.keys()
            for name, expected in state.items():
                torch.testing.assert_close(share[3][name], expected, rtol=0, atol=(1e-5, 0.02)[i])


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["two", "four"])
def test_the_number_of_processes_is_no_part_of_what_a_run_is(request, alone, processes):
    """The same name, and but for rounding the same losses, weights and running statistics."""
    expected, found = (runs(folder / "whole") for folder in (alone, request.getfixturevalue(processes)[0]))
    assert set(found) <= set(expected)
    assert len(found) == (len(RUNS) + 1 if processes == "two" else 1)
    for name, (state, losses, _) in found.items():
        assert losses == pytest.approx(expected[name][1], rel=1e-4), name
        assert state["identity"] == expected[name][0]["identity"]
        assert distance(state["method"], expected[name][0]["method"]) < 1e-3, name


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["two", "four"])
def test_a_run_goes_on_with_another_number_of_processes(request, alone, processes):
    ((stopped, _, _),) = runs(alone / "begun").values()
    ((name, (state, losses, _)),) = runs(request.getfixturevalue(processes)[0] / "begun").items()
    expected, expected_losses, _ = runs(alone / "whole")[name]
    assert (stopped["step"], state["step"]) == (STOPPED_AT + 1, 9)
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    assert distance(state["method"], expected["method"]) < 1e-3


@pytest.mark.slow
def test_images_that_stream_are_cropped_and_counted_as_for_one_process(alone, two):
    """Stopped and gone on with, too."""
    rows = [read_csv(next((folder / "streamed").rglob("metrics.csv"))) for folder in (alone, two[0])]
    assert [row["skipped_images"] for (row,) in rows] == ["1", "1"]
    assert float(rows[1][0]["loss"]) == pytest.approx(float(rows[0][0]["loss"]), rel=1e-4)
    ((expected, *_),), ((found, *_),) = (runs(folder / "streamed").values() for folder in (alone, two[0]))
    assert distance(found["method"], expected["method"]) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["two", "four"])
def test_a_signal_to_one_process_stops_all_at_one_step_and_they_go_on(request, processes):
    """Two bit for bit; more sum their gradients in another order in the first step after a start, as torch arranges them anew."""
    folder, found = request.getfixturevalue(processes)
    assert len({one["stopped"] for one in found}) == 1
    message, code = found[0]["stopped"]
    assert message.startswith("stopped by SIGTERM at step 6 of 9, saved in ")  # known to all a step later
    assert code == 143
    ((name, (state, _, data)),) = runs(folder / "parts").items()
    whole, _, whole_data = runs(folder / "whole")[name]
    assert distance(state["method"], whole["method"]) < 1e-4
    assert data == whole_data or processes == "four"


@pytest.mark.slow
def test_a_head_in_parts_trains_as_a_whole_one(two):
    """The same names, checkpoints of whole tensors, and losses, weights and optimizer but for rounding."""
    others = (("regularised-False", "regularised-True"), ("whole", "sharded-parts"))
    shapes = two[1][0]["sharded"]
    assert shapes["projector.0.weight"] == shapes["teacher.1.0.weight"] == (16, 4)  # half of the columns: groups are whole
    assert {name.partition(".")[0] for name in shapes} == {"projector", "predictor", "teacher"}
    for whole_head, in_parts in (("whole", "sharded"), ("lars-False", "lars-True"), *others):
        expected, found = (runs(two[0] / name) for name in (whole_head, in_parts))
        assert found
        for name, (state, losses, _) in found.items():
            assert losses == pytest.approx(expected[name][1], rel=1e-5), name
            assert distance(state["method"], expected[name][0]["method"]) < 1e-5, name
            memories = [one["optimizer"]["state"] for one in (state, expected[name][0])]
            momenta = [{str(i): entry["momentum_buffer"] for i, entry in memory.items()} for memory in memories]
            assert distance(*momenta) < 1e-4, name
    layers = [read_csv(next((two[0] / name).rglob("layers.csv"))) for name in ("lars-False", "lars-True")]
    assert layers[0] == layers[1]
    ((name, (_, _, data)),) = runs(two[0] / "sharded-parts").items()
    assert data == runs(two[0] / "sharded")[name][2]  # going on is bit for bit


@pytest.mark.slow
def test_one_process_goes_on_with_a_run_whose_head_was_in_parts(two, alone, tmp_path):
    shutil.copytree(two[0] / "sharded-begun", tmp_path / "begun")
    train(settings("simclr", tmp_path / "begun"))
    ((name, (state, losses, _)),) = runs(tmp_path / "begun").items()
    expected, expected_losses, _ = runs(alone / "whole")[name]
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    assert distance(state["method"], expected["method"]) < 1e-3


def test_one_process_needs_no_group():
    x = torch.ones(2, 2, requires_grad=True)
    assert distributed.all_gather(x) is x
    assert (distributed.rank(), distributed.world()) == (0, 1)


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "sparsehead_cli"]


def torchrun(*arguments):
    """sparsehead(*arguments) in two processes, not waited for; stdout and stderr go to pipes."""
    command = [sys.executable, *TORCHRUN, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "120"}
    )


OPTIONS = ("--batch-size", "500", "--set", "widths=8,8,8,8", "--results")


@pytest.mark.slow
def test_torchrun_trains_one_run(tmp_path):
    done = torchrun("pretrain", "--epochs", "1", *OPTIONS, tmp_path)
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
    (folder,) = (tmp_path / "quickstart").iterdir()
    assert len(read_csv(folder / "metrics.csv")) == 1
    state = load_checkpoint(folder / "checkpoint.pt")
    assert state["step"] == 9000 // 500
    assert out.count("epoch 1/1") == 1
    assert "2 processes of 250 images a step" in out
    assert "to compare: torchrun --nproc-per-node=2 -m sparsehead_cli pretrain --epochs 1" in out
    assert "its spectrum, to look for collapse: python -m sparsehead_cli spectrum" in out


@pytest.mark.slow
@pytest.mark.parametrize(("number", "whom"), [("SIGKILL", "worker"), ("SIGINT", "torchrun")])
def test_what_is_said_when_processes_end(tmp_path, number, whom):
    """One sentence, once, and none of our tracebacks: of the process that is left, or of the run that was stopped and saved."""
    started = torchrun("pretrain", "--epochs", "1000", *OPTIONS, tmp_path)
    while not (line := started.stdout.readline()).startswith("epoch "):
        assert line, started.stderr.read()
    os.kill(started.pid if whom == "torchrun" else workers(started.pid)[1], getattr(signal, number))
    _, err = started.communicate(timeout=300)
    assert started.returncode == 1  # torchrun's, whatever the cause
    assert "gloo" not in err
    assert "sparsehead_cli/" not in err.replace(str(tmp_path), "")
    lines = err.splitlines()
    lone = sum(line.startswith("Error: another process of this run ended without a word") for line in lines)
    saved = sum(line.startswith(f"stopped by {number} at step") for line in lines)
    assert (lone, saved) == ((1, 0) if whom == "worker" else (0, 1))


def workers(pid):
    """The ids of the processes that torchrun started, in their order."""
    return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
