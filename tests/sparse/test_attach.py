"""Whose steps a proximal SparseHead follows, and what it says where it cannot."""

import gc
import math
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from sparsehead_cli import SparseHead
from sparsehead_cli.errors import SparseheadError


def proximal(projector, lam=0.1, **options):
    return SparseHead(projector, lam, solver="proximal", **options)


def take_steps(optimizer, count):
    for _ in range(count):
        optimizer.step()


def test_two_heads_on_different_weights_share_an_optimizer():
    head = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    proximal(head[0], 0.01).attach(optimizer)
    proximal(head[1], 0.02).attach(optimizer)
    before = [layer.weight.detach().norm(dim=0) for layer in head]
    optimizer.step()
    torch.testing.assert_close(head[0].weight.norm(dim=0), before[0] - 0.01)
    torch.testing.assert_close(head[1].weight.norm(dim=0), before[1] - 0.02)


def test_a_refused_head_leaves_no_hook_behind():
    layer, other = nn.Linear(6, 4), nn.Linear(2, 2)
    first, second = torch.optim.SGD(other.parameters(), lr=1.0), torch.optim.SGD(layer.parameters(), lr=1.0)
    proximal(layer).attach(second)
    with pytest.raises(SparseheadError, match="already"):
        proximal(nn.ModuleList([layer, other]), 0.01).attach(first, second)
    before = other.weight.detach().clone()
    first.step()
    assert torch.equal(other.weight, before)


def test_an_optimizer_that_is_gone_keeps_nothing_alive():
    layer = nn.Linear(6, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    sparse = proximal(layer)
    sparse.attach(optimizer)
    seen = weakref.ref(sparse)
    del optimizer, sparse
    gc.collect()
    assert seen() is None
    proximal(layer).attach(torch.optim.SGD(layer.parameters(), lr=1.0))


def test_several_optimizers_share_the_weights_each_with_its_own_rate():
    """Muon's usual split: hidden matrices by Muon, the rest by AdamW."""
    head = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    muon = torch.optim.Muon([head[0].weight], lr=0.1, weight_decay=0)
    adamw = torch.optim.AdamW([head[0].bias, *head[2].parameters()], lr=0.2, weight_decay=0)
    sparse = proximal(head, 0.05)
    with pytest.raises(
        SparseheadError, match=r"does not train every penalised weight of the projector \(not: 2\).*attach\(first, second\)"
    ):
        sparse.attach(muon)
    before = [head[i].weight.detach().norm(dim=0) for i in (0, 2)]
    with sparse.attach(muon, adamw):
        with pytest.raises(SparseheadError, match="shrinks the same weights .projector., which would shrink twice"):
            proximal(head[2]).attach(adamw)
        muon.step()
        torch.testing.assert_close(head[0].weight.norm(dim=0), before[0] - 0.005)
        torch.testing.assert_close(head[2].weight.norm(dim=0), before[1])
        adamw.step()
        torch.testing.assert_close(head[0].weight.norm(dim=0), before[0] - 0.005)
        torch.testing.assert_close(head[2].weight.norm(dim=0), before[1] - 0.01)
    adamw.step()
    torch.testing.assert_close(head[2].weight.norm(dim=0), before[1] - 0.01)


class WithoutRate(torch.optim.SGD):
    def __init__(self, params, **rate):
        super().__init__(params)
        for group in self.param_groups:
            del group["lr"]
            group.update(rate)


@pytest.mark.parametrize(
    ("optimizers", "message"),
    [
        (lambda layer: [None], "takes the torch.optim.Optimizer that trains the projector, given None"),
        (lambda layer: [], "given none"),
        (lambda layer: [layer], "takes the torch.optim.Optimizer .*, given Linear"),
        (lambda layer: [WithoutRate(layer.parameters())], 'no learning rate "lr" for the weight of layer "projector" .given None'),
        (lambda layer: [WithoutRate(layer.parameters(), lr=None)], 'solver="subgradient"'),
        (lambda layer: [torch.optim.SGD([layer.bias], lr=1.0)], "not: projector"),
        (lambda layer: [WithoutRate(layer.parameters(), lr=True)], "finite number of at least 0, given True"),
        (lambda layer: [WithoutRate(layer.parameters(), lr="0.1")], "finite number of at least 0, given '0.1'"),
    ],
)
def test_what_cannot_be_attached_to(optimizers, message):
    layer = nn.Linear(6, 4)
    with pytest.raises(SparseheadError, match=message):
        proximal(layer).attach(*optimizers(layer))


@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_rate_that_would_grow_or_spoil_the_weights_is_refused(rate, when):
    layer = nn.Linear(6, 4)
    optimizer, sparse, before = torch.optim.SGD(layer.parameters(), lr=1.0), proximal(layer), layer.weight.detach().clone()
    if when == "after":
        sparse.attach(optimizer)
    optimizer.param_groups[0]["lr"] = rate
    with pytest.raises(SparseheadError, match=f'"lr" of the weight of layer "projector" must be a finite .* given {rate}'):
        optimizer.step() if when == "after" else sparse.attach(optimizer)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("rate", [0, 1, 0.5, np.float32(0.5), torch.tensor(0.5)])
def test_a_rate_is_any_real_number_or_a_tensor(rate):
    layer = nn.Linear(6, 4)
    optimizer, before = WithoutRate(layer.parameters(), lr=rate), layer.weight.detach().norm(dim=0)
    proximal(layer).shrink(optimizer)
    torch.testing.assert_close(layer.weight.norm(dim=0), (before - 0.1 * float(rate)).clamp(min=0))


def test_an_optimizer_whose_steps_run_no_hooks_is_refused_and_can_be_followed_by_hand():
    class Lookahead(torch.optim.Optimizer):
        def __init__(self, inner):  # as timm's, it does not call Optimizer.__init__, which installs the hooks
            self.inner, self.param_groups = inner, inner.param_groups

        def step(self, closure=None):
            self.inner.step(closure)

    layer = nn.Linear(6, 4)
    inner = torch.optim.SGD(layer.parameters(), lr=1.0)
    outer, sparse = Lookahead(inner), proximal(layer)
    with pytest.raises(SparseheadError, match="Lookahead.step.. does not run torch's hooks, .* sparse.shrink.. after each step"):
        sparse.attach(outer)
    before = layer.weight.detach().norm(dim=0)
    outer.step()
    sparse.shrink(inner)
    torch.testing.assert_close(layer.weight.norm(dim=0), before - 0.1)
    assert sparse.penalty().item() == 0


def test_a_proximal_head_that_was_never_attached_says_so():
    layer = nn.Linear(6, 4)
    sparse = proximal(layer)
    with pytest.raises(SparseheadError, match=r"attached to no optimizer, so nothing is penalised: call attach\(optimizer\)"):
        sparse.penalty()
    assert "attached to no optimizer" in repr(sparse)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    sparse.attach(optimizer)
    assert sparse.penalty().item() == 0
    assert "attached to no optimizer" not in repr(sparse)
    assert proximal(layer, 0.0).penalty().item() == 0


@pytest.mark.parametrize("ended", ["removed", "left", "gone"])
def test_a_proximal_head_that_is_no_longer_attached_says_so(ended):
    layer = nn.Linear(6, 4)
    sparse, optimizer = proximal(layer), torch.optim.SGD(layer.parameters(), lr=1.0)
    attachment = sparse.attach(optimizer)
    take_steps(optimizer, 2)
    if ended == "removed":
        attachment.remove()
    elif ended == "left":
        with attachment:
            pass
    else:
        del optimizer
        gc.collect()
    with pytest.raises(SparseheadError, match=r"attached to no optimizer any more .* so nothing is penalised: call attach"):
        sparse.penalty()
    assert "attached to no optimizer any more" in repr(sparse)
    again = torch.optim.SGD(layer.parameters(), lr=1.0)
    sparse.attach(again)
    assert sparse.penalty().item() == 0
    assert "attached to no optimizer" not in repr(sparse)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_that_swallows_every_step_says_so(dtype):
    layer = nn.Linear(6, 4).to(dtype)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    handle = proximal(layer, 1e-4).attach(optimizer)
    said = rf'first 100 .* of layer "projector": lr · lam \(1e-06 now\) is below what {str(dtype)[6:]} resolves'
    with pytest.warns(UserWarning, match=said) as told:
        take_steps(optimizer, 250)
    assert len(told) == 1
    handle.remove()
    proximal(layer, 30.0).attach(optimizer)
    with warnings.catch_warnings(action="error"):
        take_steps(optimizer, 250)  # to zero, where nothing can move any more
    assert not layer.weight.any()


def test_of_half_precision_layers_the_one_that_never_moves_is_named():
    head = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).bfloat16()
    rates = [{"params": head[0].parameters(), "lr": 0.1}, {"params": head[1].parameters(), "lr": 1e-6}]
    optimizer, before = torch.optim.SGD(rates), [layer.weight.detach().clone() for layer in head]
    proximal(head, 0.1).attach(optimizer)
    with pytest.warns(UserWarning, match='of layer "1": lr') as told:
        take_steps(optimizer, 200)
    assert len(told) == 1
    assert [torch.equal(layer.weight, old) for layer, old in zip(head, before, strict=True)] == [False, True]


@pytest.mark.parametrize("fused", [False, True])
def test_a_schedule_that_ends_below_half_precision_is_healthy(fused):
    torch.manual_seed(0)
    layer = nn.Linear(6, 4).bfloat16()
    nn.init.normal_(layer.weight, std=50)
    optimizer = torch.optim.SGD(layer.parameters(), lr=torch.tensor(0.5) if fused else 0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.501 + 0.5 * math.cos(math.pi * min(1, step / 150)))
    proximal(layer, 1.0).attach(optimizer)
    with warnings.catch_warnings(action="error"):
        for step in range(400):
            before = layer.weight.detach().clone()
            optimizer.step()
            schedule.step()
            assert step not in (0, 399) or torch.equal(layer.weight, before) == (step == 399)
    assert layer.weight.any()


def test_a_warm_up_through_rates_that_move_nothing_runs_on():
    layer = nn.Linear(6, 4).bfloat16()
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-6)
    proximal(layer, 0.1).attach(optimizer)
    with pytest.warns(UserWarning, match="unless it rises nothing shrinks"):
        take_steps(optimizer, 120)
    optimizer.param_groups[0]["lr"] = 1.0
    take_steps(optimizer, 30)
    assert not layer.weight.any()


def test_half_precision_without_a_step_to_swallow_says_nothing():
    layer = nn.Linear(6, 4).bfloat16()
    still = torch.optim.SGD(layer.parameters(), lr=0.0)
    on_device = torch.optim.SGD(layer.parameters(), lr=torch.tensor(0.0))
    with warnings.catch_warnings(action="error"):
        for optimizer, lam, penalty in (
            (still, 1e-4, "l21"),
            (on_device, 1e-4, "l21"),
            (still, 0.0, "l21"),
            (torch.optim.SGD(layer.parameters(), lr=1.0), 1e-4, "none"),
        ):
            with proximal(layer, lam, penalty=penalty).attach(optimizer):
                take_steps(optimizer, 100)


def test_accelerates_optimizer_stands_for_the_one_inside():
    accelerate = pytest.importorskip("accelerate")
    layer = nn.Linear(6, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, wrapped = accelerator.prepare(layer, optimizer)
    sparse, before = proximal(model), layer.weight.detach().norm(dim=0)
    sparse.attach(wrapped)
    with pytest.raises(SparseheadError, match="already"):
        proximal(layer).attach(optimizer)
    for _ in range(2):
        with accelerator.accumulate(model):
            accelerator.backward(0 * model(torch.ones(2, 6)).sum())
            wrapped.step()
            wrapped.zero_grad()
    torch.testing.assert_close(layer.weight.norm(dim=0), before - 0.05)  # once for two accumulated batches
