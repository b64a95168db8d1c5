import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsehead_cli import SparseHead
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.heads import mlp
from sparsehead_cli.sparse.prune import SelectFeatures, prune_projector


def make(hidden, *, batch_norm, seed=0):
    """An MLP 6 -> hidden -> 4 whose norms and biases are anything but trivial, in eval mode."""
    torch.manual_seed(seed)
    head = mlp(6, hidden, 4, batch_norm=batch_norm)
    for module in head:
        if isinstance(module, nn.BatchNorm1d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_()
            module.running_var.uniform_(0.5, 2)
    return head.eval()


def linears(module):
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


def assert_same_embedding(pruned, head, dim=6):
    r = torch.randn(50, dim)
    torch.testing.assert_close(pruned(r), head(r), atol=1e-5, rtol=1e-5)


def numbers(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("groups", ["input", "output"])
@pytest.mark.parametrize("hidden", [[], [8], [8, 7], [8, 7, 6]])
def test_after_proximal_training(hidden, groups, batch_norm):
    head = make(hidden, batch_norm=batch_norm).train()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    sparse = SparseHead(head, lam=0.4, groups=groups, solver="proximal")
    sparse.attach(optimizer)
    r = torch.randn(100, 6)
    r[:, 3:] = 0.01 * r[:, :3] + 0.01 * r[:, 3:]
    for _ in range(30):
        optimizer.zero_grad()
        (head(r) - r[:, [0, 0, 1, 1]] * torch.tensor([2.0, 2, 2, 0])).square().sum(dim=1).mean().backward()
        optimizer.step()
    head.eval()
    pruned = sparse.prune()
    columns = [int((m.weight == 0).all(dim=0).sum()) for m in linears(head)]
    rows = [int((m.weight == 0).all(dim=1).sum()) for m in linears(head)[:-1]]
    assert sum(columns + rows) > 0 or (groups == "output" and not hidden)  # a linear head's outputs stay
    assert len(pruned[0].index) <= max(1, 6 - columns[0])
    assert (numbers(pruned) < numbers(head)) == (sum(columns + rows) > 0)
    assert_same_embedding(pruned, head)


def test_what_is_removed():
    head = make([8], batch_norm=True)
    head[0].weight.data[:, [1, 4]] = 0  # features that nothing reads
    head[0].weight.data[2] = 0  # a unit that reads nothing
    head[3].weight.data[:, [5, 7]] = 0  # units that nothing reads
    pruned = prune_projector(head)
    assert isinstance(pruned[0], SelectFeatures)
    assert pruned[0].index.tolist() == [0, 2, 3, 5]
    assert [(m.in_features, m.out_features) for m in linears(pruned)] == [(4, 5), (5, 4)]
    assert pruned[2].num_features == 5
    assert_same_embedding(pruned, head)


def test_removing_one_unit_leaves_others_without_use():
    """A chain: the last layer does not read unit 0, which alone reads unit 1 before it, which alone reads feature 2."""
    head = make([8, 7], batch_norm=False)
    first, second, last = linears(head)
    last.weight.data[:, 0] = 0
    second.weight.data[1:, 1] = 0
    first.weight.data[[0, *range(2, 8)], 2] = 0
    pruned = prune_projector(head)
    assert [(m.in_features, m.out_features) for m in linears(pruned)] == [(5, 7), (7, 6), (6, 4)]
    assert_same_embedding(pruned, head)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_constant_unit_makes_the_next_layers_bias(batch_norm):
    head = make([8, 7], batch_norm=batch_norm)
    for linear in linears(head):
        linear.bias = None
    linears(head)[0].weight.data[:3] = 0
    head[1] = head[1] if batch_norm else nn.Sigmoid()  # so that the constant is not 0
    pruned = prune_projector(head)
    assert linears(pruned)[0].out_features == 5
    assert linears(pruned)[1].bias.abs().max() > 0
    assert linears(pruned)[0].bias is linears(pruned)[2].bias is None
    assert_same_embedding(pruned, head)


def test_a_unit_that_nothing_reads_makes_no_bias():
    head = make([8, 7], batch_norm=True)
    head[0].weight.data[2], head[3].weight.data[:, 2] = 0, 0
    assert linears(prune_projector(head))[1].bias is None


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("hidden", [[], [8], [8, 7]])
def test_a_zero_head_still_gives_its_constant(hidden, batch_norm):
    head = make(hidden, batch_norm=batch_norm)
    for linear in linears(head):
        linear.weight.data.zero_()
    pruned = prune_projector(head)
    assert {m.in_features for m in linears(pruned)} == {1}
    assert_same_embedding(pruned, head)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    hidden=st.lists(st.integers(1, 6), max_size=3),
    batch_norm=st.booleans(),
    columns=st.floats(0, 1),
    rows=st.floats(0, 1),
)
def test_any_pattern_of_zeros(seed, hidden, batch_norm, columns, rows):
    head = make(hidden, batch_norm=batch_norm, seed=seed)
    for linear in linears(head):
        linear.weight.data *= (torch.rand(linear.in_features) >= columns) * (torch.rand(linear.out_features, 1) >= rows)
    pruned = prune_projector(head)
    assert_same_embedding(pruned, head)
    for linear in linears(pruned):
        assert (linear.weight != 0).any(dim=0).all() or linear.in_features == 1
    assert numbers(prune_projector(nn.Sequential(*pruned[1:]))) == numbers(pruned)


def test_threshold_counts_small_groups_as_zero():
    head = make([8], batch_norm=False)
    first, last = linears(head)
    first.weight.data[:, 1] *= 1e-3
    last.weight.data[:, 2] *= 1e-3
    pruned = SparseHead(head, 0.0).prune(threshold=0.01)
    assert [(m.in_features, m.out_features) for m in linears(pruned)] == [(5, 7), (7, 4)]
    r = torch.randn(50, 6)
    assert 0 < (pruned(r) - head(r)).norm() < 0.01 * head(r).norm()
    assert linears(SparseHead(head, 0.0).prune())[0].in_features == 6
    first.weight.data[4] *= 1e-3
    rows = SparseHead(head, 0.0, groups="output").prune(threshold=0.01)
    assert [(m.in_features, m.out_features) for m in linears(rows)] == [(6, 7), (7, 4)]


def test_the_original_is_left_untouched():
    head = make([8], batch_norm=True)
    head[0].weight.data[:, 1], head[3].weight.data[:, 2] = 0, 1e-6
    before = copy.deepcopy(head.state_dict())
    pruned = prune_projector(head, threshold=0.01)
    for p in pruned.parameters():
        p.data.fill_(9)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), head.state_dict().values(), strict=True))
    assert (head[0].in_features, head[1].num_features, head[0].bias) == (6, 8, None)


def test_dtype_modes_and_frozen_weights_are_kept():
    head = make([8], batch_norm=True).double()
    head[0].weight.data[:, 1] = 0
    head[3].weight.data[:, 2] = 0
    head[0].weight.requires_grad_(False)
    head.train()
    head[1].eval()
    pruned = prune_projector(head)
    assert {t.dtype for t in pruned.state_dict().values()} == {torch.float64, torch.int64}
    assert [m.training for m in (pruned, *pruned)] == [True, True, True, False, True, True]
    assert [p.requires_grad for p in pruned.parameters()] == [False, True, True, True, True]


def test_no_random_numbers_are_drawn():
    head, state = make([8], batch_norm=True), torch.get_rng_state()
    prune_projector(head)
    assert torch.equal(state, torch.get_rng_state())


def test_kinds_of_projector():
    torch.manual_seed(0)
    linear = nn.Linear(6, 4)
    linear.weight.data[:, 2] = 0
    kinds = [
        linear,
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)),
        nn.Sequential(nn.BatchNorm1d(6), nn.Sequential(nn.Identity(), linear), nn.GELU(), nn.Dropout(), nn.Linear(4, 3), nn.Tanh()),
        nn.SyncBatchNorm.convert_sync_batchnorm(make([5], batch_norm=True)),
        nn.Identity(),
        torch.compile(nn.Sequential(linear), backend="eager"),
    ]
    for head in kinds:
        head.eval()
        assert_same_embedding(prune_projector(head), head)
    assert prune_projector(kinds[2])[1].num_features == 5  # the norm before the first layer is cut too
    assert prune_projector(kinds[5])[0].index.tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("projector", "message"),
    [
        (nn.Sequential(nn.Linear(6, 4), nn.Softmax(dim=1)), "cannot prune past Softmax; .* Linear, BatchNorm1d and elementwise"),
        (nn.Sequential(nn.Conv2d(6, 4, 1)), "cannot prune past Conv2d"),
        (nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 4)), "cannot prune past LayerNorm"),
        (nn.BatchNorm1d(4, track_running_stats=False), "use track_running_stats=True"),
    ],
)
def test_what_cannot_be_pruned_is_named(projector, message):
    with pytest.raises(SparseheadError, match=message):
        prune_projector(projector)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_impossible_threshold(threshold):
    with pytest.raises(SparseheadError, match=r"share of the largest norm in \[0, 1\), given"):
        prune_projector(nn.Linear(2, 2), threshold)
