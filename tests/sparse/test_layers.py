"""What counts as a matrix: computed, transposed, raw, sharded ones; and that looking changes nothing."""

import copy
import itertools

import pytest
import torch
from torch import nn

from sparsehead_cli import SparseHead
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.distributed import whole
from sparsehead_cli.sparse.penalties import GROUPS, PENALTIES
from sparsehead_cli.sparse.sparse_head import SOLVERS
from sparsehead_cli.sparse.telemetry import head_sparsity, layer_sparsity

OLD = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
COMPUTED = [
    nn.utils.weight_norm,
    nn.utils.spectral_norm,
    nn.utils.parametrizations.weight_norm,
    nn.utils.parametrizations.spectral_norm,
    lambda layer: nn.utils.prune.l1_unstructured(layer, "weight", 0.5),
]


@OLD
@pytest.mark.parametrize("compute", COMPUTED)
def test_looking_changes_nothing(compute):
    torch.manual_seed(0)
    head = nn.Sequential(compute(nn.Linear(6, 5)), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4)).train()
    before, random = copy.deepcopy(head.state_dict()), torch.get_rng_state()
    sparse = SparseHead(head, 0.1)
    sparse.penalty().backward()
    sparse.value_of_penalty()
    sparse.prune()
    repr(sparse)
    assert head.training
    assert head[0].training
    head.eval()
    layer_sparsity(sparse, r := torch.ones(8, 6))
    head_sparsity(sparse, r)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), head.state_dict().values(), strict=True))
    assert torch.equal(torch.get_rng_state(), random)


@OLD
@pytest.mark.parametrize("compute", COMPUTED)
@pytest.mark.parametrize("first", ["penalty", "embedding"])
def test_a_computed_weight_trains_in_either_order_of_the_sum(compute, first):
    torch.manual_seed(0)
    head = nn.Sequential(compute(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 4))
    optimizer, sparse = torch.optim.SGD(head.parameters(), lr=0.1), SparseHead(head, 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        terms = [sparse.penalty, lambda: head(torch.ones(8, 6)).square().mean()]
        sum(term() for term in (terms if first == "penalty" else terms[::-1])).backward()
        optimizer.step()
    value = sparse.value_of_penalty()
    head.eval()(torch.ones(8, 6))  # from here on, `.weight` is what the forward computed
    columns = head[0].weight.norm(dim=0).sum() + head[2].weight.norm(dim=0).sum()
    torch.testing.assert_close(value, columns)


def test_a_weight_that_nobody_knows_is_refused():
    layer = nn.Linear(6, 4)
    weight = layer.weight.detach()
    del layer.weight
    layer.weight, layer.extra = weight, nn.Parameter(torch.ones(1))  # as FSDP with use_orig_params=False leaves it
    with pytest.raises(SparseheadError, match="neither a parameter nor computed by .* or the backbone alone"):
        SparseHead(layer, 0.1)


def test_sharded_weights_are_refused():
    flat = nn.Linear(6, 4)
    flat.weight = nn.Parameter(torch.randn(12))  # as FSDP and DeepSpeed leave it
    with pytest.raises(
        SparseheadError, match=r'layer "projector" .* of shape \(12,\), no matrix, as when FSDP .* DistributedDataParallel'
    ):
        SparseHead(flat, 0.1)


@pytest.fixture
def shard():
    """fully_shard among one process: what it makes of the weights are DTensors all the same."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    yield lambda module: fully_shard(module, mesh=mesh)
    torch.distributed.destroy_process_group()


def test_distributed_tensors_are_penalised_and_shrunk_like_whole_ones(shard):
    """By every penalty, group and solver; of several processes: tests/machine/test_distributed.py."""
    for penalty, groups, solver in itertools.product(PENALTIES, GROUPS, SOLVERS):
        weights = []
        for sharded in (False, True):
            torch.manual_seed(0)
            head = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
            if sharded:
                shard(head)
            optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
            sparse = SparseHead(head, 0.1, penalty=penalty, groups=groups, solver=solver)
            if solver == "proximal":
                sparse.attach(optimizer)
            for _ in range(3):
                loss = head(torch.ones(2, 6)).square().sum() + sparse.penalty()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            weights.append([*map(whole, head.parameters()), sparse.value_of_penalty()])
        torch.testing.assert_close(*weights, msg=lambda text, case=(penalty, groups, solver): f"{case}: {text}")


def test_distributed_tensors_are_not_pruned(shard):
    head = nn.Sequential(nn.Linear(6, 4))
    shard(head)
    with pytest.raises(SparseheadError, match='layer "0" .*Linear. has a DTensor .* can be penalised, but not measured or pruned'):
        SparseHead(head, 0.1).prune()


class Conv1D(nn.Module):
    """What transformers' Conv1D is: a linear layer whose weight is [in, out]."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


def test_hugging_faces_transposed_layer_has_its_groups_the_right_way_round():
    torch.manual_seed(0)
    layer = Conv1D(4, 6)
    inputs, outputs = layer.weight.norm(dim=1), layer.weight.norm(dim=0)
    torch.testing.assert_close(SparseHead(layer, 2.0).penalty(), 2 * inputs.sum())
    torch.testing.assert_close(SparseHead(layer, 2.0, groups="output").penalty(), 2 * outputs.sum())
    assert SparseHead(layer, 2.0).weights()[0].shape == (4, 6)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sparse = SparseHead(layer, 1.0, solver="proximal")
    sparse.attach(optimizer)
    optimizer.step()
    torch.testing.assert_close(layer.weight.norm(dim=1), inputs - 0.1)
    assert head_sparsity(sparse, torch.randn(9, 6))["active_features"] == 6
    with pytest.raises(SparseheadError, match="past Conv1D: it is neither elementwise nor"):
        sparse.prune()


def test_the_real_transposed_layer_is_recognised():
    layer = pytest.importorskip("transformers.pytorch_utils").Conv1D(4, 6)
    assert SparseHead(layer, 1.0).penalty().item() == pytest.approx(layer.weight.norm(dim=1).sum().item())


def test_raw_matrices_are_given_by_name():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2)
    stacked, out = attention.in_proj_weight, attention.out_proj.weight
    sparse = SparseHead({"layer.in_proj": stacked, "again": stacked, "out": out}, 0.5)
    torch.testing.assert_close(sparse.penalty(), 0.5 * (stacked.norm(dim=0).sum() + out.norm(dim=0).sum()))
    assert repr(sparse).splitlines()[1:] == [
        "  layer.in_proj: Parameter, 4 input groups of 12 weights penalised",
        "  again: Parameter, not penalised: shares its weight with a layer above",
        "  out: Parameter, 4 input groups of 4 weights penalised",
    ]
    optimizer = torch.optim.SGD(attention.parameters(), lr=1.0)
    before = stacked.detach().norm(dim=0)
    SparseHead({"in_proj": stacked}, 0.1, solver="proximal").attach(optimizer)
    optimizer.step()
    torch.testing.assert_close(stacked.norm(dim=0), before - 0.1)
    with pytest.raises(SparseheadError, match="matrices without a module cannot be pruned"):
        sparse.prune()


@pytest.mark.parametrize(
    "kind", [nn.Parameter, lambda w: nn.ParameterList([w]), lambda w: nn.ParameterDict({"w": w}), lambda w: {"w": w}]
)
def test_kinds_of_raw_matrices(kind):
    weight = nn.Parameter(torch.tensor([[3.0, 0.0], [4.0, 2.0]]))
    assert SparseHead(weight if kind is nn.Parameter else kind(weight), 1.0).penalty().item() == 7
    assert SparseHead(weight if kind is nn.Parameter else kind(weight), 1.0, groups="output").penalty().item() == pytest.approx(
        3 + 20**0.5
    )
    weight.requires_grad_(False)
    with pytest.raises(SparseheadError, match="has no trainable"):
        SparseHead(kind(weight) if kind is not nn.Parameter else weight, 1.0)


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ({"w": torch.ones(2, 2)}, 'matrix "w" must be an nn.Parameter that an optimizer trains, given a Tensor'),
        ({"w": nn.Linear(2, 2)}, 'matrix "w" must be an nn.Parameter .* given a Linear'),
        ({"w": nn.Parameter(torch.ones(2, 2, 2))}, r'"w" has 3 dimensions; a matrix \[out, in\] is needed'),
        (
            {"w": nn.Parameter(torch.ones(2))},
            r'^the parameter "w" has 1 dimension; a matrix \[out, in\] is needed: .* such as a bias',
        ),
        ({"w": nn.Parameter(torch.ones(2, 2), requires_grad=False)}, "^the dict of matrices has no trainable"),
        ({}, r"^the dict of matrices is empty: give SparseHead a matrix \[out, in\] by name"),
    ],
)
def test_what_is_no_raw_matrix(matrices, message):
    with pytest.raises(SparseheadError, match=message):
        SparseHead(matrices, 1.0)


def same_memory(kind):
    head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    shared = {"same": head[0].weight.data, "transposed": head[0].weight.data.t(), "shifted": head[0].weight.data[1:]}[kind]
    head[2].weight = nn.Parameter(shared)
    return head


@pytest.mark.parametrize("solver", ["subgradient", "proximal"])
@pytest.mark.parametrize("kind", ["same", "transposed", "shifted"])
def test_two_parameters_over_one_memory_are_refused(kind, solver):
    head = same_memory(kind)
    with pytest.raises(
        SparseheadError, match='weights of "0" and "2" are two parameters over the same memory.*the same nn.Parameter'
    ):
        SparseHead(head, 0.1, solver=solver)
    assert len(SparseHead(head, 0.0, solver=solver).weights()) == 2  # looking and pruning hurt nobody
    norms, optimizer = head[0].weight.detach().norm(dim=0), torch.optim.SGD(head.parameters(), lr=1.0)
    SparseHead(head, 0.1, solver="proximal", layers="first").attach(optimizer)
    with pytest.raises(SparseheadError, match="shrinks the same weights .projector., which would shrink twice"):
        SparseHead(head[2], 0.1, solver="proximal").attach(optimizer)
    optimizer.step()
    torch.testing.assert_close(head[0].weight.norm(dim=0), (norms - 0.1).clamp(min=0))


def test_neighbours_in_one_memory_are_two_weights():
    flat = torch.randn(3, 4, 4)  # as optimizers and FSDP lay parameters side by side
    head = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    for layer, weight in zip(head, (flat[2], flat[0], flat[1]), strict=True):
        layer.weight = nn.Parameter(weight)
    torch.testing.assert_close(SparseHead(head, 1.0).penalty(), flat.norm(dim=1).sum())


@pytest.mark.parametrize("penalty", ["l21", "nuclear"])
def test_half_precision_weights_are_summed_in_float32(penalty):
    torch.manual_seed(0)
    layer = nn.Linear(6, 4).bfloat16()
    sparse = SparseHead(layer, 0.5, penalty=penalty)
    expected = SparseHead(copy.deepcopy(layer).float(), 0.5, penalty=penalty).penalty()
    torch.testing.assert_close(sparse.penalty(), expected)
    sparse.penalty().backward()
    assert layer.weight.grad.dtype == torch.bfloat16
