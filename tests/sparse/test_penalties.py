import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsehead_cli.sparse.penalties import GROUPS, PENALTIES, l21, prox_l1, prox_l21, prox_nuclear

KNOWN = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])
PENALISING = [name for name in PENALTIES if name != "none"]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "groups", "value"),
    [
        ("l21", "output", 15),
        ("l21", "input", 45**0.5 + 80**0.5),
        ("l1", "input", 21),
        ("l2", "input", 62.5),
        ("sparse-group", "output", 36),
        ("nuclear", "input", 125**0.5),  # rank 1: the Frobenius norm
        ("none", "input", 0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_known_values(name, groups, value, dtype):
    found = PENALTIES[name].value(KNOWN.to(dtype), groups)
    assert found.dtype == dtype
    assert found.item() == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "t", "expected"),
    [
        ("l21", 5, [[0, 0], [0, 0], [3, 4]]),
        ("l1", 4, [[0, 0], [0, 0], [2, 4]]),
        ("l2", 1, [[1.5, 2], [0, 0], [3, 4]]),
        ("sparse-group", 1, [[2 * (1 - 13**-0.5), 3 * (1 - 13**-0.5)], [0, 0], [5 * (1 - 74**-0.5), 7 * (1 - 74**-0.5)]]),
        ("nuclear", 125**0.5 / 2, [[1.5, 2], [0, 0], [3, 4]]),
        ("nuclear", 12, [[0, 0], [0, 0], [0, 0]]),
        ("none", 5, [[3, 4], [0, 0], [6, 8]]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_known_proximal_maps(name, t, expected, dtype):
    torch.testing.assert_close(PENALTIES[name].prox(KNOWN.to(dtype), t, "output"), torch.tensor(expected, dtype=dtype))


def test_gradient_at_a_zero_group_is_zero():
    weight = KNOWN.clone().requires_grad_()
    l21(weight, "output").backward()
    assert weight.grad.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0], [pytest.approx(0.6), pytest.approx(0.8)]]


@pytest.mark.parametrize("name", PENALISING)
@pytest.mark.parametrize("groups", GROUPS)
def test_gradient_in_float64(name, groups):
    for shape in ((4, 3), (3, 4), (1, 5)):
        assert torch.autograd.gradcheck(lambda w: PENALTIES[name].value(w, groups), random(*shape).requires_grad_())


@pytest.mark.parametrize("name", PENALISING)
@pytest.mark.parametrize("groups", GROUPS)
def test_the_gradient_is_a_subgradient_that_vanishes_where_the_weight_does(name, groups):
    """P(V) >= P(W) + <gradient, V - W>, also where P has a kink; 0 for the zero matrix and its zero groups."""
    value = PENALTIES[name].value
    for weight in (torch.zeros(4, 5, dtype=torch.float64), random(4, 1) @ random(1, 5), random(4, 5) * random(5).clamp(min=0)):
        weight.requires_grad_()
        value(weight, groups).backward()
        assert (weight.grad[:, (weight == 0).all(dim=0)].abs() < 1e-12).all()
        for seed in range(20):
            other = random(4, 5, seed=seed)
            assert value(other, groups) >= value(weight, groups) + (weight.grad * (other - weight)).sum() - 1e-9


def test_nuclear_gradient_is_finite_where_singular_values_repeat():
    weight = torch.eye(4).requires_grad_()
    PENALTIES["nuclear"].value(weight, "input").backward()
    torch.testing.assert_close(weight.grad, torch.eye(4))  # autograd through an SVD gives NaN here


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("groups", GROUPS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), t=st.floats(0, 5), step=st.floats(1e-3, 3))
def test_proximal_map_is_optimal(name, groups, seed, t, step):
    """No perturbation of prox(W, t) lowers ½‖V - W‖² + t · P(V)."""
    penalty, g = PENALTIES[name], torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 5, dtype=torch.float64, generator=g) * (torch.rand(5, dtype=torch.float64, generator=g) > 0.2)
    best = penalty.prox(weight, t, groups)

    def objective(v):
        return 0.5 * (v - weight).square().sum() + t * penalty.value(v, groups)

    for _ in range(5):
        other = best + step * torch.randn(4, 5, dtype=torch.float64, generator=g)
        assert objective(best) <= objective(other) + 1e-9


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("t", [0.0, 0.3])
def test_zero_stays_zero_without_nan(name, t):
    half = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    for groups in GROUPS:
        zero = PENALTIES[name].prox(torch.zeros(3, 2), t, groups)
        assert torch.equal(zero, torch.zeros(3, 2))
        assert (PENALTIES[name].prox(half, t, groups)[:, 1] == 0).all()


def test_t_zero_changes_nothing():
    for penalty in PENALTIES.values():
        assert torch.equal(penalty.prox(KNOWN, 0.0, "input"), KNOWN)


@pytest.mark.parametrize("groups", GROUPS)
def test_sparse_group_shrinks_weights_then_groups(groups):
    weight = random(6, 7)
    found = PENALTIES["sparse-group"].prox(weight, 0.6, groups)
    torch.testing.assert_close(found, prox_l21(prox_l1(weight, 0.6, groups), 0.6, groups))
    assert (found == 0).sum() > (prox_l21(weight, 0.6, groups) == 0).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nuclear_proximal_map_lowers_the_rank(dtype):
    u, v = torch.linalg.qr(random(8, 5))[0], torch.linalg.qr(random(6, 5, seed=1))[0]
    weight = (u * torch.tensor([5.0, 4, 3, 2, 1])) @ v.T
    found = prox_nuclear(weight.to(dtype), 2.5, "input")
    assert torch.linalg.matrix_rank(found) == 3
    torch.testing.assert_close(torch.linalg.svdvals(found)[:3], torch.tensor([2.5, 1.5, 0.5], dtype=dtype))


@pytest.mark.parametrize("name", PENALISING)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_gives_no_finite_value_and_no_exception(name, bad):
    weight = KNOWN.clone()
    weight[0, 1] = bad
    for groups in GROUPS:
        assert not PENALTIES[name].value(weight, groups).isfinite()
        assert not PENALTIES[name].prox(weight, 0.1, groups).isfinite().all()
    assert name != "nuclear" or PENALTIES[name].value(weight, groups).isnan()


@pytest.mark.parametrize("name", PENALTIES)
def test_autocast_changes_nothing(name):
    weight = random(6, 5).float()
    penalty = PENALTIES[name]
    expected = penalty.value(weight, "input"), penalty.prox(weight, 0.3, "input")
    with torch.autocast("cpu", torch.bfloat16):
        assert (weight @ weight.T).dtype == torch.bfloat16  # else this would test nothing
        found = penalty.value(weight, "input"), penalty.prox(weight, 0.3, "input")
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
