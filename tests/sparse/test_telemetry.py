import math

import pytest
import torch
from torch import nn

from sparsehead_cli import SparseHead
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.heads import FirstFeatures, mlp
from sparsehead_cli.sparse.penalties import active_groups
from sparsehead_cli.sparse.telemetry import (
    _influence,
    functional_inputs,
    head_sparsity,
    layer_sparsity,
    relative_l21,
    stable_rank,
)
from tests.operations import Operations


def test_active_groups_are_those_above_one_percent_of_the_largest():
    weight = torch.diag(torch.tensor([1.0, 0.02, 0.005, 0.0]))
    assert active_groups(weight, "input") == 2
    assert active_groups(torch.zeros(3, 3), "input") == 0


def test_stable_rank():
    assert stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0, 0.0]))) == pytest.approx(1.5)
    assert stable_rank(1e-30 * torch.eye(3)) == pytest.approx(3)
    assert math.isnan(stable_rank(torch.zeros(3, 2)))
    assert math.isnan(stable_rank(torch.full((3, 2), torch.nan)))


def test_stable_rank_of_a_wide_weight_needs_its_largest_singular_value_alone():
    weight = torch.randn(530, 600, generator=torch.Generator().manual_seed(0)) / 30
    with Operations() as operations:
        rank = stable_rank(weight)
    assert not {name for name in operations.called if "svd" in name or "eig" in name}
    assert rank == stable_rank(weight)  # the same each time
    assert rank == pytest.approx((weight.double().square().sum() / torch.linalg.svdvals(weight.double())[0] ** 2).item(), rel=1e-5)
    assert stable_rank(1e-25 * torch.eye(600)) == pytest.approx(600, rel=1e-5)
    assert math.isnan(stable_rank(torch.zeros(600, 600)))


@pytest.mark.parametrize("read", [0, 1, 5, 12])
def test_functional_inputs_finds_how_many_are_read(read):
    torch.manual_seed(0)
    layer = nn.Linear(12, 6)
    layer.weight.data[:, read:] = 0
    assert functional_inputs(layer, layer, torch.randn(200, 12)) == (
        read or None
    )  # a constant embedding needs nothing in particular


def test_a_feature_that_never_varies_is_not_needed():
    torch.manual_seed(0)
    layer, r = nn.Linear(6, 4), torch.randn(100, 6)
    r[:, 2] = 3.0
    assert functional_inputs(layer, layer, r) == 5


@pytest.mark.parametrize("read", [0, 2, 7])
def test_functional_inputs_of_an_inner_layer(read):
    torch.manual_seed(0)
    head = mlp(6, [20, 7], 4, batch_norm=False)
    head[4].weight.data[:, read:] = 0
    head[2].bias.data += 5  # no hidden unit is dead
    r = torch.randn(200, 6)
    assert functional_inputs(head, head[4], r) == (read or None)
    assert functional_inputs(head, head[0], r) == (6 if read else None)


def test_functional_inputs_of_a_convolution_are_channels():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Conv2d(5, 6, 1), nn.Sigmoid(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head[0].weight.data[:, 3:] = 0
    head[2].weight.data[:, 2:] = 0
    r = torch.randn(100, 5, 3, 2)
    assert [functional_inputs(head, head[i], r) for i in (0, 2)] == [3, 2]
    assert [row["functional_inputs"] for row in layer_sparsity(SparseHead(head, 0.0), r)] == [3, 2]


def test_batch_norm_cannot_fool_it():
    """Rows of the first weight shrunk a million times: the norm undoes it, the count stays."""
    torch.manual_seed(0)
    head, r = mlp(10, [8], 4), torch.randn(400, 10)
    head[0].weight.data[:, 7:] = 0
    for _ in range(200):
        head(r)  # running statistics
    head.eval()
    head[1].eps = 0.0
    before = functional_inputs(head, head[0], r)
    with torch.no_grad():
        head[0].weight *= 1e-6
        head[1].running_mean *= 1e-6
        head[1].running_var *= 1e-12
    assert functional_inputs(head, head[0], r) == before == 7


def hooks(module):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in module.modules())


def test_hooks_are_gone_afterwards_even_when_the_projector_fails():
    head = mlp(6, [5], 4).eval()
    layer_sparsity(SparseHead(head, 0.0), torch.randn(20, 6))
    assert hooks(head) == 0
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        functional_inputs(head, head[0], torch.randn(20, 7))
    assert hooks(head) == 0


def test_a_layer_that_is_not_called_is_an_error():
    with pytest.raises(SparseheadError, match="the projector does not call it"):
        functional_inputs(nn.Identity(), nn.Linear(6, 4), torch.randn(20, 6))


@pytest.mark.parametrize("wrap", [lambda head: torch.compile(head, backend="eager"), lambda head: head.compile(backend="eager")])
def test_compiled_code_does_not_hide_the_layers(wrap):
    torch.compiler.reset()
    torch.manual_seed(0)
    head, r = mlp(6, [20], 4, batch_norm=False), torch.randn(50, 6)
    head[0].weight.data[:, 2:] = 0
    expected = layer_sparsity(SparseHead(head, 0.0), r)
    head = wrap(head) or head
    with torch.no_grad():
        head(r)
    assert layer_sparsity(SparseHead(head, 0.0), r) == expected
    assert expected[0]["functional_inputs"] == 2


def test_an_activation_in_place_leaves_the_representations_alone():
    r = torch.randn(50, 6)
    before = r.clone()
    row = head_sparsity(SparseHead(nn.Sequential(nn.ReLU(inplace=True)), 0.0), r)
    assert torch.equal(r, before)
    assert row["functional_features"] == 6


def test_layer_columns():
    torch.manual_seed(0)
    head = mlp(10, [8, 7], 4, batch_norm=False).eval()
    first, second, last = head[0], head[2], head[4]
    first.weight.data[:, 6:] = 0
    first.weight.data[0] = 0  # a constant unit
    first.bias.data[1] = -100  # a unit that its ReLU closes
    second.weight.data = torch.eye(7, 8)
    last.weight.data.zero_()
    last.requires_grad_(False)
    rows = layer_sparsity(SparseHead(head, 0.0, layers="first"), torch.randn(300, 10))
    assert [row["layer"] for row in rows] == ["0", "2", "4"]
    assert [(row["inputs"], row["outputs"]) for row in rows] == [(10, 8), (8, 7), (7, 4)]
    assert [row["active_inputs"] for row in rows] == [6, 7, 0]
    assert [row["active_outputs"] for row in rows] == [7, 7, 0]
    assert [row["dead_outputs"] for row in rows] == [2, 2, 4]
    assert [row["functional_inputs"] for row in rows] == [None] * 3  # the embedding is constant
    assert rows[1]["stable_rank"] == pytest.approx(7)
    assert math.isnan(rows[2]["stable_rank"])


def test_dead_outputs_see_through_batch_norm():
    """A constant unit far from 0 is dead whatever its offset, and a unit that the norm's weight of 0 stops is too."""
    torch.manual_seed(0)
    head = mlp(10, [8], 4).eval()
    head[0].weight.data[0] = 0
    head[1].bias.data += 1000.3
    head[1].weight.data[1] = 0
    rows = layer_sparsity(SparseHead(head, 0.0), torch.randn(300, 10))
    assert [row["dead_outputs"] for row in rows] == [2, 0]


def test_a_bare_layer_is_called_projector():
    (row,) = layer_sparsity(SparseHead(nn.Linear(6, 4), 0.0), torch.randn(50, 6))
    assert (row["layer"], row["functional_inputs"], row["dead_outputs"]) == ("projector", 6, 0)


def test_columns():
    torch.manual_seed(0)
    head, r = mlp(10, [8], 4, batch_norm=False).eval(), torch.randn(50, 10)
    head[0].weight.data[:, 6:] = 0
    row = head_sparsity(SparseHead(head, 0.0), r)
    assert (row["n_groups"], row["active_groups"]) == (18, 14)
    assert (row["n_features"], row["active_features"]) == (10, 6)
    assert 0 < row["functional_features"] <= 6
    rows = head_sparsity(SparseHead(head, 0.0, groups="output"), r)
    assert (rows["n_groups"], rows["active_features"]) == (12, 6)
    assert head_sparsity(SparseHead(head, 0.0), r, layer_sparsity(SparseHead(head, 0.0), r)) == row


def test_columns_of_a_head_with_nothing_to_penalise():
    torch.manual_seed(0)
    r = torch.randn(200, 10)
    r[:, 7:] = 1.0
    nothing = {"penalty_value": 0, "n_groups": 0, "active_groups": 0}
    nothing |= {"n_features": 10, "active_features": 7, "functional_features": 7}
    assert head_sparsity(SparseHead(nn.Identity(), 0.0), r) == nothing
    assert layer_sparsity(SparseHead(nn.Identity(), 0.0), r) == []
    fixed = nn.Linear(10, 6).requires_grad_(False)
    assert head_sparsity(SparseHead(fixed, 0.0), r) == {**nothing, "active_features": 10}  # by the norm of its columns
    fixed.weight.data[:, 0] = 0
    assert head_sparsity(SparseHead(fixed, 0.0), r) == {**nothing, "active_features": 9, "functional_features": 6}
    constant = nn.Threshold(100, 0)
    assert head_sparsity(SparseHead(constant, 0.0), r)["functional_features"] is None


@pytest.mark.parametrize("head", [nn.Identity(), nn.Sequential(nn.BatchNorm1d(12), nn.ReLU()), FirstFeatures(5)])
def test_a_head_of_elementwise_modules_is_looked_at_as_a_whole(head):
    """Many features need no more passes than few, and the numbers are those of feature after feature."""
    torch.manual_seed(0)
    r = torch.randn(200, 12) * torch.linspace(0, 2, 12)
    with Operations() as operations:
        row = head_sparsity(SparseHead(head.eval(), 0.0), r)
    assert operations.called["where"] <= 2 * 4  # in bisection alone
    named = nn.Module()  # whose parts nobody knows
    named.inside, named.forward = head, lambda r: head(r)
    assert row == head_sparsity(SparseHead(named.eval(), 0.0), r)
    assert torch.allclose(_influence(head, r), _influence(named, r), rtol=1e-5)


def test_features_are_those_of_the_first_layer_though_it_is_frozen():
    torch.manual_seed(0)
    head = mlp(10, [8], 4, batch_norm=False)
    head[0].requires_grad_(False)
    row = head_sparsity(SparseHead(head, 1.0), torch.randn(50, 10))
    assert (row["n_groups"], row["n_features"]) == (8, 10)


def test_a_head_that_takes_the_first_features_reads_those_and_no_others():
    torch.manual_seed(0)
    r = torch.randn(200, 12) * torch.linspace(1, 9, 12)  # what is not read varies most
    row = head_sparsity(SparseHead(FirstFeatures(4), 0.0), r)
    assert (row["n_features"], row["active_features"], row["functional_features"]) == (12, 4, 4)


def test_relative_l21_knows_no_scale():
    assert relative_l21(torch.eye(4)) == pytest.approx(1)
    assert relative_l21(1e-12 * torch.ones(3, 4)) == pytest.approx(1)
    assert relative_l21(torch.diag(torch.tensor([5.0, 0, 0, 0]))) == pytest.approx(1 / 2)  # one of four columns: 1/√4
    assert math.isnan(relative_l21(torch.zeros(3, 2)))
