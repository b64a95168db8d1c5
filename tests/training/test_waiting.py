"""A training step never makes the processor wait for the device: what would is refused here, on whatever device there is."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sparsehead_cli.nets.optim import OPTIMIZERS
from sparsehead_cli.runs.build import build
from sparsehead_cli.sparse.sparse_head import SOLVERS
from sparsehead_cli.ssl.methods import METHODS
from sparsehead_cli.training.loop import epoch_batches, train_step
from tests.conftest import method_recipe, tiny_network

# operators whose result, or whose shape, the processor has to know before it can go on
WAITING = {
    *("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::nonzero", "aten::masked_select"),
    *(
        "aten::_unique2",
        "aten::unique_dim",
        "aten::unique_consecutive",
        "aten::bincount",
        "aten::histc",
        "aten::_linalg_check_errors",
    ),
}
VIEWS = {name: "grey-multi-crop" for name, method in METHODS.items() if method.needs.local}
VIEWS |= {name: "crop" for name, method in METHODS.items() if method.needs.views is None}


class Refused(TorchDispatchMode):
    """Raises for an operator that waits. A tensor of the processor is as much refused: it would be one of the device elsewhere."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator._schema.name
        masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)] if name == "aten::index" else []
        assert name not in WAITING, f"{name} waits for the device"
        assert not masks, "the number of what a mask selects is waited for"
        return operator(*args, **(kwargs or {}))


def some_steps(run, watch):
    """Three steps, of which the first may copy constants to the device; the batches of the others come under `watch`, too."""
    if run.sparse.solver == "proximal":
        run.sparse.attach(run.optimizer)
    batches = epoch_batches(run, 0)
    train_step(run, next(batches), 0)
    with watch:
        return [train_step(run, batch, step) for step, batch in enumerate(itertools.islice(batches, 2), 1)]


def settings_of(method):
    settings = {"method": method, "method_settings": method_recipe(method), "views": VIEWS.get(method, "grey-small")}
    return {**settings, **tiny_network(method), "batch_size": 50}


@pytest.mark.parametrize("method", METHODS)
def test_no_operator_of_a_step_waits(tiny, method):
    for solver in SOLVERS:
        some_steps(build(tiny(**settings_of(method), solver=solver)), Refused())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_optimizer_waits(tiny, optimizer):
    some_steps(build(tiny(optimizer=optimizer, batch_size=50)), Refused())


@pytest.mark.parametrize(
    "waits", [lambda x: x.sum().item(), lambda x: bool(x.any()), lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: float(x[0])]
)
def test_what_waits_is_seen(waits):
    with pytest.raises(AssertionError, match="wait"), Refused():
        waits(torch.ones(3))


class SynchronisationIsAnError:
    """CUDA's own debug mode: it knows copies from memory that is not pinned as well."""

    def __enter__(self):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *exception):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["simclr", "byol", "barlow", "swav", "dino", "moco", "simmim", "ijepa", "ibot", "dinov2", "msn"])
def test_steps_on_a_gpu_run_without_synchronisation(tiny, method):
    for solver, precision in itertools.product(SOLVERS, ("float32", "auto")):
        run = build(tiny(**settings_of(method), solver=solver, precision=precision, device="cuda"))
        logged = some_steps(run, SynchronisationIsAnError())
        assert all(step["loss"].is_cuda and step["loss"].isfinite() for step in logged)
