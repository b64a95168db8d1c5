import copy

import pytest
import torch
from torch import nn

from sparsehead_cli import SparseHead
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.heads import make_projector


@pytest.fixture
def head():
    torch.manual_seed(0)
    return make_projector(6, [5], 4)


def test_penalty_is_lam_times_the_sum_over_layers(head):
    columns = sum(head[i].weight[:, j].norm() for i in (0, 3) for j in range(head[i].weight.shape[1]))
    torch.testing.assert_close(SparseHead(head, 0.5).penalty(), 0.5 * columns)
    rows = sum(head[i].weight[j].norm() for i in (0, 3) for j in range(head[i].weight.shape[0]))
    torch.testing.assert_close(SparseHead(head, 0.5, groups="output").penalty(), 0.5 * rows)
    first = sum(head[0].weight[:, j].norm() for j in range(6))
    torch.testing.assert_close(SparseHead(head, 0.5, layers="first").penalty(), 0.5 * first)


def test_biases_and_norms_are_never_penalised(head):
    SparseHead(head, 1.0).penalty().backward()
    assert {name for name, p in head.named_parameters() if p.grad is not None} == {"0.weight", "3.weight"}


def test_a_1x1_convolution_counts_as_linear():
    conv, linear = nn.Conv2d(6, 4, 1), nn.Linear(6, 4)
    linear.weight.data = conv.weight.data.flatten(1).clone()
    torch.testing.assert_close(SparseHead(conv, 2.0).penalty(), SparseHead(linear, 2.0).penalty())


@pytest.mark.parametrize("module", [nn.Linear(6, 4), nn.Conv2d(6, 4, 1)])
def test_proximal_solver_makes_exact_zeros_after_each_step(module):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    SparseHead(module, lam=0.4, solver="proximal").attach(optimizer)
    before = module.weight.detach().flatten(1).clone()
    module.weight.grad = torch.zeros_like(module.weight)
    optimizer.step()
    norms = before.norm(dim=0)
    expected = before * (1 - 0.2 / norms).clamp(min=0)
    torch.testing.assert_close(module.weight.flatten(1), expected)
    for _ in range(20):
        optimizer.step()
    assert torch.equal(module.weight, torch.zeros_like(module.weight))


def test_proximal_step_uses_the_current_learning_rate_of_the_weights_own_group(head):
    optimizer = torch.optim.SGD([{"params": head[0].parameters(), "lr": 0.1}, {"params": head[1:].parameters(), "lr": 0.0}], lr=9)
    SparseHead(head, lam=1.0, solver="proximal").attach(optimizer)
    first, last = head[0].weight.detach().norm(dim=0), head[3].weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.05
    for p in head.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(head[0].weight.norm(dim=0), (first - 0.05).clamp(min=0))
    assert torch.equal(head[3].weight, last)


def test_both_solvers_thin_a_regression_to_its_true_features():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 10, generator=g)
    y = x[:, :3] @ torch.randn(3, 2, generator=g)
    norms = {}
    for solver in ("subgradient", "proximal"):
        torch.manual_seed(0)
        layer = nn.Linear(10, 2)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
        sparse = SparseHead(layer, 0.2, solver=solver)
        if solver == "proximal":
            sparse.attach(optimizer)
        for _ in range(400):
            optimizer.zero_grad()
            ((layer(x) - y).square().mean() + sparse.penalty()).backward()
            optimizer.step()
        norms[solver] = layer.weight.detach().norm(dim=0)
    assert (norms["proximal"][3:] == 0).all()
    assert (norms["subgradient"][3:] < 0.03).all()
    torch.testing.assert_close(norms["subgradient"], norms["proximal"], atol=0.03, rtol=0.05)


@pytest.mark.parametrize("solver", ["subgradient", "proximal"])
def test_lam_zero_does_nothing(head, solver):
    sparse = SparseHead(head, 0.0, solver=solver)
    assert sparse.penalty().item() == 0
    assert not sparse.penalty().requires_grad
    if solver == "proximal":
        before = copy.deepcopy(head.state_dict())
        optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
        sparse.attach(optimizer)
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(before.values(), head.state_dict().values(), strict=True))


def test_attach_can_be_removed(head):
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    SparseHead(head, 1.0, solver="proximal").attach(optimizer).remove()
    before = head[0].weight.detach().clone()
    optimizer.step()
    assert torch.equal(before, head[0].weight)


def test_frozen_layers_are_left_alone(head):
    head[0].weight.requires_grad_(False)
    assert [w.shape for w in SparseHead(head, 1.0).weights()] == [(4, 5)]


def test_survives_deepcopy_and_loading(head):
    sparse = copy.deepcopy(SparseHead(head, 1.0))
    assert sparse.parameters()[0] is not head[0].weight
    before = sparse.penalty().item()
    sparse.projector.load_state_dict({k: 2 * v for k, v in head.state_dict().items()})
    assert sparse.penalty().item() == pytest.approx(2 * before, rel=1e-5)


@pytest.mark.parametrize("lam", [-1.0, float("nan"), float("inf"), "0.1"])
def test_impossible_lam(head, lam):
    with pytest.raises(SparseheadError, match="finite number of at least 0"):
        SparseHead(head, lam)


def test_errors_name_what_is_allowed(head):
    with pytest.raises(SparseheadError, match='unknown penalty "l12"; known: l21, none.* Did you mean "l21"'):
        SparseHead(head, 1.0, penalty="l12")
    with pytest.raises(SparseheadError, match='unknown groups "rows"; known: input, output'):
        SparseHead(head, 1.0, groups="rows")
    with pytest.raises(SparseheadError, match='unknown solver "prox".*Did you mean "proximal"'):
        SparseHead(head, 1.0, solver="prox")
    with pytest.raises(SparseheadError, match="Sequential has no trainable nn.Linear"):
        SparseHead(nn.Sequential(nn.ReLU()), 1.0)
    with pytest.raises(SparseheadError, match="must be an nn.Module, given"):
        SparseHead([head], 1.0)
    with pytest.raises(SparseheadError, match="add penalty"):
        SparseHead(head, 1.0).attach(torch.optim.SGD(head.parameters(), lr=1.0))
    with pytest.raises(SparseheadError, match="does not train every penalised weight"):
        SparseHead(head, 1.0, solver="proximal").attach(torch.optim.SGD([head[0].weight], lr=1.0))
