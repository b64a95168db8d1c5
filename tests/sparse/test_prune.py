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
        (
            nn.Sequential(nn.Linear(6, 4), nn.Softmax(dim=1), nn.Linear(4, 4)),
            'past Softmax "1": .* Linear .*BatchNorm and elementwise',
        ),
        (nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 4)), 'past LayerNorm "1": it is neither elementwise nor'),
        (nn.Sequential(nn.Linear(6, 4), nn.Sequential(nn.Bilinear(4, 4, 2))), 'past Bilinear "1.0"'),
        (nn.Sequential(nn.Conv2d(6, 4, 1), nn.Conv2d(4, 4, 3)), 'past Conv2d "1"'),
        (nn.Sequential(nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(4, 4)), 'past Flatten "1"'),
        (nn.Sequential(nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, padding=1)), 'past Conv2d "2"'),
        (nn.Sequential(nn.Conv1d(6, 4, 1), nn.Linear(9, 4)), "a mixture of Conv1d and Linear"),
        (nn.Sequential(nn.Linear(6, 4), prune_projector(nn.Linear(4, 4))), 'past SelectFeatures "1.0"'),
        (nn.LayerNorm(4), "past LayerNorm: it is neither elementwise nor"),
        (nn.BatchNorm1d(4, track_running_stats=False), "use track_running_stats=True"),
    ],
)
def test_what_cannot_be_pruned_is_named(projector, message):
    with pytest.raises(SparseheadError, match=message):
        prune_projector(projector)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan"), "0.1", None, True])
def test_impossible_threshold(threshold):
    with pytest.raises(SparseheadError, match=r"share of the largest norm in \[0, 1\), given"):
        prune_projector(nn.Linear(2, 2), threshold)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class CosLinear(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight))


class LoRALinear(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Linear(inputs, 2), nn.Linear(2, outputs)

    def forward(self, x):
        return super().forward(x) + self.up(self.down(x))


class SquaredReLU(nn.ReLU):
    def forward(self, x):
        return super().forward(x).square()


class Called(nn.ReLU):
    def __call__(self, x):
        return 2 * super().__call__(x)


class Doubled(nn.Linear):
    """It runs nn.Linear's forward, on another weight than nn.Linear's: only comparing finds it out."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        nn.init.normal_(self._parameters["weight"])  # nn.Linear has filled the doubled one, which is gone

    def __getattr__(self, name):
        return 2 * super().__getattr__(name) if name == "weight" else super().__getattr__(name)


def hooked(head, *, before=False):
    part = head[0] if isinstance(head[0], nn.Linear) else head
    if before:
        part.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    else:
        part.register_forward_hook(lambda module, args, output: 2 * output)
    return head


def replaced(head):
    head[0].forward = lambda x: nn.functional.linear(2 * x, head[0].weight)
    return head


def fake_quantised():
    from torch.ao.nn.qat import Linear
    from torch.ao.quantization import get_default_qat_qconfig

    return Linear(6, 4, qconfig=get_default_qat_qconfig())


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Residual(nn.Linear(6, 6)), "past Residual: it inherits from Sequential but has a forward of its own"),
        (lambda: nn.Sequential(nn.Linear(6, 6), Residual(nn.Linear(6, 6))), 'past Residual "1": it inherits from Sequential'),
        (lambda: CosLinear(6, 4), "past CosLinear: it inherits from Linear but has a forward of its own"),
        (lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(), CosLinear(6, 4)), 'past CosLinear "2": it inherits from Linear'),
        (lambda: nn.Sequential(LoRALinear(6, 6), nn.ReLU(), nn.Linear(6, 4)), 'past LoRALinear "0": it inherits from Linear'),
        (lambda: nn.Sequential(fake_quantised(), nn.ReLU(), nn.Linear(4, 4)), 'past Linear "0": it inherits from Linear'),
        (lambda: nn.Sequential(nn.Linear(6, 6), SquaredReLU(), nn.Linear(6, 4)), 'past SquaredReLU "1": it inherits from ReLU'),
        (lambda: nn.Sequential(nn.Linear(6, 6), Called(), nn.Linear(6, 4)), 'past Called "1": it inherits from ReLU'),
        (lambda: replaced(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4))), 'past Linear "0": it inherits from Linear'),
        (lambda: hooked(nn.Sequential(nn.Linear(6, 4))), 'past Linear "0": it has a forward hook, .*: remove the hook first'),
        (lambda: hooked(nn.Sequential(nn.Linear(6, 4)), before=True), 'past Linear "0": it has a forward hook'),
        (lambda: hooked(nn.Sequential(nn.ReLU(), nn.Linear(6, 4))), "past Sequential: it has a forward hook"),
        (lambda: nn.Sequential(Doubled(6, 4)), "would differ by .*%, so one of its modules computes something else"),
    ],
)
def test_what_only_inherits_or_is_hooked_is_refused(make, message):
    torch.manual_seed(0)
    with pytest.raises(SparseheadError, match=message):
        prune_projector(make())


def test_what_inherits_without_another_forward_is_pruned():
    class Head(nn.Sequential):
        def __init__(self):
            super().__init__(
                nn.Linear(6, 5), torch.compile(nn.Linear(5, 5), backend="eager"), activation, nn.Linear(5, 4), activation
            )

    class Initialised(nn.ReLU):
        pass

    activation = Initialised()  # one module in two places
    head = Head().eval()
    head[0].weight.data[:, 2], head[3].weight.data[:, 1] = 0, 0
    pruned = prune_projector(head)
    assert [(m.in_features, m.out_features) for m in linears(pruned)] == [(5, 5), (5, 4), (4, 4)]
    assert_same_embedding(pruned, head)


class Normalise(nn.Module):
    def forward(self, x):
        return nn.functional.normalize(x, dim=-1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([nn.Flatten()], []),
        ([], [Normalise()]),
        ([], [nn.ReLU(), nn.Softmax(dim=-1)]),
        ([nn.LayerNorm(6)], [nn.LayerNorm(4)]),
        ([nn.Flatten(), nn.BatchNorm1d(6)], [nn.BatchNorm1d(4, affine=False)]),
    ],
)
def test_modules_without_weights_before_and_after_are_kept(before, after):
    torch.manual_seed(0)
    head = nn.Sequential(*before, nn.Linear(6, 5), nn.PReLU(5), nn.Linear(5, 4), *after).eval()
    first, last = linears(head)
    nn.init.uniform_(head[len(before) + 1].weight)
    first.weight.data[:, 2], first.weight.data[1], last.weight.data[:, 3] = 0, 0, 0
    pruned = prune_projector(head)
    assert [(m.in_features, m.out_features) for m in linears(pruned)] == [(5, 3), (3, 4)]
    assert_same_embedding(pruned, head)
    assert torch.equal(SparseHead(head, 0.0).load_pruned(pruned.state_dict())(torch.ones(2, 6)), pruned(torch.ones(2, 6)))
    if isinstance(head[0], nn.Flatten):
        r = torch.randn(7, 6, 1, 1)
        torch.testing.assert_close(pruned(r), head(r))


def test_features_are_those_of_the_last_dimension():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(32, 8), nn.GELU(), nn.Linear(8, 3)).eval()
    head[0].weight.data[:, [0, 31]], head[2].weight.data[:, 4] = 0, 0
    tokens = torch.randn(4, 40, 32)
    pruned = prune_projector(head)
    torch.testing.assert_close(pruned(tokens), head(tokens))
    assert repr(pruned[0]) == "SelectFeatures(30 of 32 features)"
    with pytest.raises(SparseheadError, match=r"reads 32 features in the last dimension, given a batch of shape \(2, 40\)"):
        pruned(torch.randn(2, 40))


@pytest.mark.parametrize(
    ("conv", "norm", "size"),
    [(nn.Conv1d, nn.BatchNorm1d, [5]), (nn.Conv2d, nn.BatchNorm2d, [5, 4]), (nn.Conv3d, nn.BatchNorm3d, [3, 2, 2])],
)
def test_1x1_convolutions_select_channels(conv, norm, size):
    torch.manual_seed(0)
    head = nn.Sequential(
        conv(6, 5, 1), norm(5), nn.PReLU(5), conv(5, 5, 1, stride=2, bias=False), nn.Sigmoid(), conv(5, 4, 1, bias=False)
    )
    head[1].running_mean.normal_()
    head[0].weight.data[:, 1], head[0].weight.data[2], head[3].weight.data[:, 4], head[3].weight.data[0] = 0, 0, 0, 0
    pruned, r = prune_projector(head.eval()), torch.randn(3, 6, *size)
    torch.testing.assert_close(pruned(r), head(r))
    assert [(m.in_channels, m.out_channels) for m in pruned if isinstance(m, conv)] == [(5, 3), (3, 4), (4, 4)]
    assert pruned[-1].bias is not None  # the unit that reads nothing


@pytest.mark.parametrize("make", [lambda: make([8, 7], batch_norm=True), lambda: nn.Conv2d(6, 4, 1)])
def test_a_pruned_head_can_be_pruned_again_and_read_back(make):
    head = make().eval()
    original = copy.deepcopy(head)
    first = next(m for m in head.modules() if hasattr(m, "weight"))
    first.weight.data[:, [1, 4]] = 0
    r = torch.randn(5, 6) if isinstance(head, nn.Sequential) else torch.randn(5, 6, 2, 2)
    pruned = SparseHead(head, 0.1).prune()
    smaller = next(m for m in pruned if hasattr(m, "weight"))
    smaller.weight.data[:, 0] = 0
    again = SparseHead(pruned, 0.1).prune()
    assert again[0].index.tolist() == [2, 3, 5]
    torch.testing.assert_close(again(r), pruned(r))
    loaded = SparseHead(original, 0.0).load_pruned(again.state_dict())
    assert torch.equal(loaded.eval()(r), again(r))
    assert repr(loaded) == repr(again)


def test_a_state_of_something_else_is_no_pruned_head():
    head, other = make([8], batch_norm=True), make([8, 7], batch_norm=True)
    state = prune_projector(head).state_dict()
    sparse = SparseHead(head, 0.0)
    for wrong in (head.state_dict(), prune_projector(other).state_dict(), {}, {**state, "1.weight": "text"}):
        with pytest.raises(SparseheadError, match="this state is not of a pruned copy of this Sequential"):
            sparse.load_pruned(wrong)
    with pytest.raises(SparseheadError, match=r"takes the state_dict\(\) of a pruned head, .* given 'small.pt'"):
        sparse.load_pruned("small.pt")
    with pytest.raises(SparseheadError, match="reads features that the projector, which takes 6, does not have"):
        sparse.load_pruned({**state, "0.index": state["0.index"] + 1})


def test_of_the_state_of_a_whole_model_it_is_said_which_part_is_the_heads():
    head = make([8], batch_norm=True)
    small = prune_projector(head)
    whole = nn.ModuleDict({"backbone": nn.Linear(4, 6), "net": nn.ModuleDict({"projector": small})}).state_dict()
    with pytest.raises(SparseheadError, match='its keys begin with "net.projector."') as error:
        SparseHead(head, 0.0).load_pruned(whole)
    part = eval(str(error.value).split("part of it: ")[1], {"state": whole})
    assert torch.equal(SparseHead(head, 0.0).load_pruned(part)(torch.ones(2, 6)), small(torch.ones(2, 6)))


def test_a_state_of_a_projector_with_other_ends_is_refused():
    """Its kept features may well be among those of a narrower projector, and its hidden sizes are in the state."""
    head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    head[0].weight.data[:, 3:] = 0
    state = SparseHead(head, 0.0).prune().state_dict()
    assert state["0.index"].tolist() == [0, 1, 2]
    for inputs, outputs in ((6, 4), (32, 4), (16, 5), (16, 3)):
        other = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))
        with pytest.raises(
            SparseheadError, match=f"of 16 features and 4 outputs, but the projector has {inputs} features and {outputs} outputs"
        ):
            SparseHead(other, 0.0).load_pruned(state)
    del state["0.width"]
    with pytest.raises(SparseheadError, match=r'not of a pruned copy .* Missing key\(s\) in state_dict: "0.width"'):
        SparseHead(head, 0.0).load_pruned(state)


def test_what_inference_mode_prunes_can_be_trained():
    head = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4)).eval()
    head[0].weight.data[:, 2], head[0].weight.data[1] = 0, 0
    with torch.inference_mode():
        sparse = SparseHead(head, 0.0)
        small = sparse.prune()
        again = sparse.load_pruned(small.state_dict())
    for pruned in (small, again):
        assert not any(t.is_inference() for t in pruned.state_dict().values())
        pruned.train()(torch.randn(8, 6)).sum().backward()
        assert pruned[1].weight.grad.shape == (4, 5)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("compute", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm, nn.utils.spectral_norm])
def test_a_computed_weight_is_the_one_of_the_next_forward(compute):
    torch.manual_seed(0)
    head = nn.Sequential(compute(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 4)).eval()
    head(torch.randn(2, 6))  # after which the older weight_norm's `.weight` is stale
    for p in head[0].parameters():
        p.data *= 3
    head[2].weight.data[:, 1] = 0
    pruned = prune_projector(head)
    assert_same_embedding(pruned, head)
    assert all(p.requires_grad for p in pruned.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rounding_is_no_difference(dtype):
    head = make([64, 64], batch_norm=True).to(dtype)
    for linear in linears(head):
        linear.weight.data[::3] = 0
    prune_projector(head)


def test_a_projector_that_cannot_be_compared_is_refused():
    class Wide(nn.Module):
        def forward(self, x):
            return x[:, :, 0]

    with pytest.raises(SparseheadError, match=r"compared with it on a batch of shape \(12, 6\), which it does not take"):
        prune_projector(nn.Sequential(Wide(), nn.Linear(6, 4)))
    head = nn.Linear(6, 4)
    head.weight.data[0, 0] = torch.nan
    with pytest.raises(SparseheadError, match="its embedding of random numbers is not finite"):
        prune_projector(head)


def test_a_wrapper_is_told_what_to_prune_inside():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.activation = nn.Linear(6, 4), nn.Tanh()

        def forward(self, features):
            return {"embedding": self.activation(self.linear(features["embedding"]))}

    with pytest.raises(SparseheadError, match=r"past Dense: .* prune that one: SparseHead\(head.linear, lam=0\).prune\(\)"):
        SparseHead(Dense(), 0.1).prune()
    assert len(SparseHead(Dense().linear, 0).prune()) == 2


def test_weights_without_values_are_refused_in_words():
    with pytest.raises(SparseheadError, match="on the meta device"):
        SparseHead(nn.Linear(6, 4, device="meta"), lam=0).prune()
