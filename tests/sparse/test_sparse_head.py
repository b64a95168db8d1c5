import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sparsehead_cli import SparseHead
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.heads import mlp
from sparsehead_cli.sparse.penalties import PENALTIES
from sparsehead_cli.sparse.sparse_head import SCHEDULES, lam_at


@pytest.fixture
def head():
    torch.manual_seed(0)
    return mlp(6, [5], 4)


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


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_a_1x1_convolution_counts_as_linear(kind):
    conv, linear = kind(6, 4, 1), nn.Linear(6, 4)
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


@pytest.mark.parametrize(
    "lam",
    [-1.0, float("nan"), float("inf"), "0.1", None, True, torch.tensor(True), np.True_, torch.tensor([0.1, 0.2]), 1j, 10**400],
)
def test_impossible_lam(head, lam):
    with pytest.raises(SparseheadError, match="finite number of at least 0"):
        SparseHead(head, lam)


@pytest.mark.parametrize("lam", [1, np.float32(0.25), np.float64(0.5), np.array(0.5), torch.tensor(0.25), torch.tensor(2)])
def test_lam_is_any_real_number(head, lam):
    plain = SparseHead(head, float(lam))
    assert torch.equal(SparseHead(head, lam).penalty(), plain.penalty())
    plain.lam = lam
    assert type(plain.lam) is float


def test_errors_name_what_is_allowed(head):
    with pytest.raises(
        SparseheadError,
        match='unknown penalty "l211"; known: l21, l1, l2, sparse-group, nuclear, l21-relative.* Did you mean "l21"',
    ):
        SparseHead(head, 1.0, penalty="l211")
    with pytest.raises(SparseheadError, match='unknown groups "rows"; known: input, output'):
        SparseHead(head, 1.0, groups="rows")
    with pytest.raises(SparseheadError, match='unknown solver "prox".*Did you mean "proximal"'):
        SparseHead(head, 1.0, solver="prox")
    with pytest.raises(SparseheadError, match="Sequential has no trainable nn.Linear"):
        SparseHead(nn.Sequential(nn.ReLU()), 1.0)
    with pytest.raises(SparseheadError, match="must be an nn.Module, an nn.Parameter or a dict .*, given a list"):
        SparseHead([head], 1.0)
    with pytest.raises(SparseheadError, match="unknown groups 0; known: input, output"):
        SparseHead(head, 1.0, groups=0)
    with pytest.raises(SparseheadError, match=r"unknown penalty \['l21'\]; known: l21, l1"):
        SparseHead(head, 1.0, penalty=["l21"])
    with pytest.raises(SparseheadError, match=r'"projector" \(Linear\) has a weight of shape \(4, 0\): nothing to penalise'):
        SparseHead(nn.Linear(0, 4), 1.0)
    with pytest.raises(SparseheadError, match="add penalty"):
        SparseHead(head, 1.0).attach(torch.optim.SGD(head.parameters(), lr=1.0))
    with pytest.raises(SparseheadError, match="does not train every penalised weight"):
        SparseHead(head, 1.0, solver="proximal").attach(torch.optim.SGD([head[0].weight], lr=1.0))
    with pytest.raises(SparseheadError, match='unknown schedule "lin"; known: constant, linear, cosine'):
        lam_at(0, lam=1.0, ramp=1, schedule="lin")


@pytest.mark.parametrize("name", ["projector", "lam", "penalty", "groups", "solver"])
def test_a_misplaced_optimizer_is_named_in_one_short_line(head, name):
    optimizer = torch.optim.AdamW([{"params": [p]} for p in head.parameters()])
    with pytest.raises(SparseheadError) as error:
        SparseHead(**{"projector": head, "lam": 0.1, name: optimizer})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250
    assert "AdamW" in str(error.value)
    assert "goes to attach()" in str(error.value) or name not in ("projector", "lam")


def test_a_misplaced_module_is_named_in_one_short_line(head):
    sparse = SparseHead(head, 0.1, solver="proximal")
    for use in (sparse.attach, sparse.prune, sparse.load_pruned):
        with pytest.raises(SparseheadError, match=r"given Sequential\(.{,90}") as error:
            use(head)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 250


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_end_at_lam_and_stay_there(schedule):
    values = [lam_at(step, lam=0.5, ramp=4, schedule=schedule) for step in range(8)]
    assert values[3:] == [0.5] * 5
    assert values == sorted(values)


def test_schedules_rise_as_they_say():
    linear = [lam_at(step, lam=2.0, ramp=4, schedule="linear") for step in range(3)]
    cosine = [lam_at(step, lam=2.0, ramp=4, schedule="cosine") for step in range(3)]
    assert linear == pytest.approx([0.5, 1.0, 1.5])
    assert cosine == pytest.approx([1 - math.sqrt(0.5), 1.0, 1 + math.sqrt(0.5)])
    assert lam_at(0, lam=2.0, ramp=0, schedule="constant") == 2.0
    for schedule in ("linear", "cosine"):
        with pytest.raises(SparseheadError, match="a λ schedule of zero length"):
            lam_at(0, lam=2.0, ramp=0, schedule=schedule)


def test_lam_is_read_afresh(head):
    sparse = SparseHead(head, 0.5)
    before = sparse.penalty().item()
    sparse.lam = 1.5
    assert sparse.penalty().item() == pytest.approx(3 * before)
    layer = nn.Linear(6, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    proximal = SparseHead(layer, 0.0, solver="proximal")
    proximal.attach(optimizer)
    norms = layer.weight.detach().norm(dim=0)
    for lam in (0.1, 0.2):
        proximal.lam = lam
        optimizer.step()
    torch.testing.assert_close(layer.weight.norm(dim=0), (norms - 0.3).clamp(min=0))
    with pytest.raises(SparseheadError, match="finite number of at least 0"):
        sparse.lam = float("nan")
    assert sparse.lam == 1.5


@pytest.mark.parametrize("projector", [nn.Identity(), nn.Linear(6, 4).requires_grad_(False)])
@pytest.mark.parametrize("solver", ["subgradient", "proximal"])
def test_nothing_to_penalise_is_allowed_for_lam_zero_only(projector, solver):
    sparse = SparseHead(projector, 0.0, solver=solver)
    assert (sparse.penalty().item(), sparse.value_of_penalty().item(), sparse.parameters()) == (0, 0, [])
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    if solver == "proximal":
        sparse.attach(optimizer)
    sparse.lam = 0.1
    with pytest.raises(SparseheadError, match="or set lam to 0"):
        sparse.penalty() if solver == "subgradient" else optimizer.step()


def test_which_layers_are_linear():
    """Grouped and larger convolutions, embeddings and bilinear maps are not."""
    others = [
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Conv2d(4, 4, 3),
        nn.Conv1d(4, 4, 2),
        nn.Bilinear(3, 3, 2),
        nn.ConvTranspose2d(4, 4, 1),
    ]
    linear = nn.Linear(3, 2)
    assert SparseHead(nn.ModuleList([*others, linear]), 1.0).parameters() == [linear.weight]
    for other in others:
        with pytest.raises(SparseheadError, match="has no trainable nn.Linear"):
            SparseHead(other, 1.0)


def test_a_shared_weight_counts_once():
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    assert SparseHead(tied, 1.0).parameters() == [tied[0].weight]
    optimizer = torch.optim.SGD(tied.parameters(), lr=1.0)
    SparseHead(tied, 0.1, solver="proximal").attach(optimizer)
    norms = tied[0].weight.detach().norm(dim=0)
    optimizer.step()
    torch.testing.assert_close(tied[0].weight.norm(dim=0), norms - 0.1)


@pytest.mark.parametrize("layer", [nn.LazyLinear(4), nn.LazyConv2d(4, 1)])
def test_a_lazy_layer_must_have_seen_a_batch(layer):
    with pytest.raises(SparseheadError, match='layer "1" .* has no shape yet: run one batch through the projector first'):
        SparseHead(nn.Sequential(nn.ReLU(), layer), 0.0)
    layer(torch.randn(2, 6, 1, 1) if isinstance(layer, nn.Conv2d) else torch.randn(2, 6))
    assert SparseHead(nn.Sequential(layer), 1.0).weights()[0].shape == (4, 6)


def test_repr_says_what_is_penalised_and_what_is_not():
    head = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(6, 4), nn.Linear(4, 4))
    head.append(nn.Linear(4, 4))
    head[5].requires_grad_(False)
    head[6].weight = head[4].weight = nn.Parameter(torch.randn(4, 6))
    head.append(nn.Bilinear(4, 4, 2))
    assert repr(SparseHead(head, 1e-3, penalty="nuclear", solver="proximal")).splitlines() == [
        "SparseHead(lam=0.001, penalty=nuclear, groups=input, layers=all, solver=proximal)",
        "  0: Conv2d, not penalised: a 3x3 convolution",
        "  2: Conv2d, 8 input groups of 6 weights penalised",
        "  4: Linear, 6 input groups of 4 weights penalised",
        "  5: Linear, not penalised: frozen",
        "  6: Linear, not penalised: shares its weight with a layer above",
        "  7: Bilinear, not penalised: not a linear layer",
        "  attached to no optimizer: nothing shrinks before attach(optimizer)",
    ]
    assert "  4: Linear, not penalised: not the first layer" in repr(SparseHead(head, 1.0, layers="first"))
    assert "  projector: Linear, 4 output groups of 6 weights" in repr(SparseHead(nn.Linear(6, 4), 1.0, groups="output"))


def test_attaching_twice_would_shrink_twice(head):
    optimizer, other = torch.optim.SGD(head.parameters(), lr=1.0), torch.optim.SGD(head.parameters(), lr=1.0)
    sparse = SparseHead(head, 0.01, solver="proximal")
    handle = sparse.attach(optimizer)
    sparse.attach(other)
    for again in (sparse, SparseHead(head, 0.01, solver="proximal"), SparseHead(head[3], 0.5, solver="proximal", penalty="l1")):
        with pytest.raises(
            SparseheadError, match="attached to this optimizer already and shrinks the same weights .* remove.* the optimizer anew"
        ):
            again.attach(optimizer)
    handle.remove()
    sparse.attach(optimizer)
    norms = head[0].weight.detach().norm(dim=0)
    optimizer.step()
    torch.testing.assert_close(head[0].weight.norm(dim=0), norms - 0.01)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_copy_of_an_attached_head_is_attached_to_nothing(head, duplicate, penalty):
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    sparse = SparseHead(head, 0.1, penalty=penalty, solver="proximal")
    handle = sparse.attach(optimizer)
    twin = duplicate(sparse)
    before = copy.deepcopy(twin.projector.state_dict())
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before.values(), twin.projector.state_dict().values(), strict=True))
    own = torch.optim.SGD(twin.projector.parameters(), lr=1.0)
    twin.attach(own)
    own.step()
    torch.testing.assert_close(twin.projector.state_dict(), head.state_dict())
    handle.remove()
    after = head[0].weight.detach().clone()
    optimizer.step()
    assert torch.equal(head[0].weight, after)  # the copies left the handle as it was


def train_step(embed, sparse, optimizer, r):
    optimizer.zero_grad()
    (embed(r).square().mean() + sparse.penalty()).backward()
    optimizer.step()


@pytest.mark.parametrize("when", ["compiled before", "compiled after", "compiled in place"])
@pytest.mark.parametrize("solver", ["subgradient", "proximal"])
@pytest.mark.parametrize("make_optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_compiled_projector_trains_the_same(head, when, solver, make_optimizer):
    torch.compiler.reset()
    plain, r = copy.deepcopy(head), torch.randn(8, 6)
    compiled = head if when == "compiled in place" else torch.compile(head, backend="eager")
    sparse = SparseHead(compiled if when == "compiled before" else head, 0.1, solver=solver)
    if when == "compiled in place":
        head.compile(backend="eager")
    for embed, penalty in ((compiled, sparse), (plain, SparseHead(plain, 0.1, solver=solver))):
        optimizer = make_optimizer(embed.parameters(), lr=0.05)
        if solver == "proximal":
            penalty.attach(optimizer)
        for _ in range(3):
            train_step(embed, penalty, optimizer, r)
    torch.testing.assert_close(head.state_dict(), plain.state_dict())
    assert "  0: Linear, 6 input groups" in repr(sparse)


@pytest.mark.parametrize("penalty", ["l21", "nuclear"])
def test_a_compiled_step_includes_the_penalty(head, penalty):
    torch.compiler.reset()
    sparse, r = SparseHead(head, 0.1, penalty=penalty), torch.randn(8, 6)

    def loss(r):
        return head(r).square().mean() + sparse.penalty()

    step = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for sparse.lam in (0.1, 0.2, 0.4, 0.8):
        grads = [torch.autograd.grad(f(r), list(head.parameters())) for f in (step, loss)]
        torch.testing.assert_close(*grads)


def test_a_schedule_of_lam_does_not_recompile_each_step(head):
    torch.compiler.reset()
    sparse, counter = SparseHead(head, 0.1), torch._dynamo.testing.CompileCounter()
    step = torch.compile(lambda: sparse.penalty(), backend=counter, fullgraph=True)
    for i in range(10):
        sparse.lam = lam_at(i, lam=0.1, ramp=10, schedule="linear")
        step()
    assert counter.frame_count <= 2


@pytest.fixture
def process_group():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("solver", ["subgradient", "proximal"])
def test_distributed_data_parallel(head, process_group, solver):
    plain, r = copy.deepcopy(head), torch.randn(8, 6)
    wrapped = nn.parallel.DistributedDataParallel(head)
    for module in (wrapped, plain):
        sparse, optimizer = SparseHead(module, 0.1, solver=solver), torch.optim.SGD(module.parameters(), lr=0.05)
        if solver == "proximal":
            sparse.attach(optimizer)
        train_step(module, sparse, optimizer, r)
    torch.testing.assert_close(head.state_dict(), plain.state_dict())
    assert "  0: Linear, 6 input groups" in repr(SparseHead(wrapped, 1.0))
    assert len(SparseHead(wrapped, 1.0).prune()) == 5


def test_a_computed_weight_can_be_penalised_but_not_shrunk(head):
    expected = SparseHead(head, 0.5).penalty()
    nn.utils.parametrizations.weight_norm(head[0])
    sparse = SparseHead(head, 0.5)
    torch.testing.assert_close(sparse.penalty(), expected)
    sparse.penalty().backward()
    assert head[0].parametrizations.weight.original1.grad.isfinite().all()
    with torch.no_grad():
        torch.testing.assert_close(sparse.penalty(), expected)
    assert "  0: ParametrizedLinear, 6 input groups" in repr(sparse)
    proximal = SparseHead(head, 0.5, solver="proximal")
    with pytest.raises(SparseheadError, match='layer "0" is computed by a parametrization .* cannot be shrunk: remove'):
        proximal.attach(torch.optim.SGD(head.parameters(), lr=1.0))
    for p in head[0].parametrizations.parameters():
        p.requires_grad_(False)
    assert len(SparseHead(head, 0.5).weights()) == 1


@pytest.mark.parametrize("penalty", PENALTIES)
def test_autocast_leaves_the_penalty_in_float32(head, penalty):
    sparse = SparseHead(head, 0.5, penalty=penalty)
    expected = sparse.penalty()
    with torch.autocast("cpu", torch.bfloat16):
        found = sparse.penalty()
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_a_lazy_norm_beside_the_layers_is_no_matter():
    projector = nn.Sequential(nn.Linear(4, 3), nn.LazyBatchNorm1d())
    sparse = SparseHead(projector, 0.5)
    expected = 0.5 * projector[0].weight.norm(dim=0).sum()
    torch.testing.assert_close(sparse.penalty(), expected)
    projector(torch.randn(5, 4))
    torch.testing.assert_close(sparse.penalty(), expected)


def test_active_groups_are_counted_a_layer(head):
    sparse = SparseHead(head, 0.1)
    with torch.no_grad():
        head[0].weight[:, 2] = 0
    assert sparse.active_groups() == {"0": (5, 6), "3": (5, 5)}
    outputs = SparseHead(head, 0.1, groups="output", layers="first")
    assert outputs.active_groups() == {"0": (5, 5)}
    assert SparseHead(nn.ReLU(), 0).active_groups() == {}


def test_a_frozen_head_is_told_from_one_without_linear_layers(head):
    head.requires_grad_(False)
    with pytest.raises(SparseheadError, match=r"every linear layer of Sequential is frozen"):
        SparseHead(head, 0.1)
    with pytest.raises(SparseheadError, match=r"has no trainable nn.Linear or 1x1 nn.Conv2d layer"):
        SparseHead(nn.ReLU(), 0.1)
