import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsehead_cli.sparse.penalties import GROUPS, PENALTIES, l21, prox_l1, prox_l21, prox_nuclear

KNOWN = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])
PENALISING = [name for name in PENALTIES if name != "none"]
CONVEX = [name for name in PENALISING if name not in ("l21-relative", "l2-matched")]


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
        ("l21-relative", "output", 15 / 125**0.5),
        ("l2-matched", "output", 15),
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
        ("l21-relative", 100, [[0, 0], [0, 0], [6, 8]]),
        ("l2-matched", 125 / 30, [[1.5, 2], [0, 0], [3, 4]]),
        ("l2-matched", 9, [[0, 0], [0, 0], [0, 0]]),
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


@pytest.mark.parametrize("name", [*CONVEX, "l21-relative"])
@pytest.mark.parametrize("groups", GROUPS)
def test_gradient_in_float64(name, groups):
    for shape in ((4, 3), (3, 4), (1, 5)):
        assert torch.autograd.gradcheck(lambda w: PENALTIES[name].value(w, groups), random(*shape).requires_grad_())


@pytest.mark.parametrize("name", CONVEX)
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


@pytest.mark.parametrize("name", [name for name in PENALTIES if name != "l2-matched"])
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


def of_norms(values):
    """A weight whose columns have these norms."""
    return torch.tensor(values, dtype=torch.float64).diag()


@settings(max_examples=40, deadline=None)
@given(norms=st.lists(st.floats(0.01, 3), min_size=2, max_size=4), t=st.floats(1e-3, 5))
def test_the_proximal_map_of_the_relative_norm_is_the_best_of_a_search(norms, t):
    """Against many draws of norms, the best of which is then refined: the objective has several minima."""
    g, a = torch.Generator().manual_seed(0), torch.tensor(norms, dtype=torch.float64)

    def objective(x):
        return 0.5 * (x - a).square().sum(-1) + t * x.sum(-1) / torch.linalg.vector_norm(x, dim=-1)

    found = objective(PENALTIES["l21-relative"].prox(of_norms(norms), t, "input").diag())
    draws = torch.rand(20_000, len(a), dtype=torch.float64, generator=g) * 1.1 * a
    draws = draws * (torch.rand(draws.shape, generator=g) > 0.3)
    draws = draws[draws.sum(1) > 0]
    best = draws[objective(draws).argmin()]
    for size in (0.1, 0.01, 0.001):
        near = (best + size * torch.randn(2_000, len(a), dtype=torch.float64, generator=g)).clamp(min=0)
        near = torch.cat([near[near.sum(1) > 0], best[None]])
        best = near[objective(near).argmin()]
    assert found <= objective(best) + 1e-9


@pytest.mark.parametrize("t", [1e-6, 1e-3, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("apart", [0.0, 1e-16, 1e-12, 1e-8])
def test_the_proximal_map_of_the_relative_norm_keeps_its_digits_on_equal_norms(apart, t):
    """Of equal norms the best is one of two: all of them as they are, or the first alone."""
    norms = 0.01 * (1 - apart * torch.arange(64, dtype=torch.float64))
    kept = PENALTIES["l21-relative"].prox(norms.diag(), t, "input").diag()
    all_, alone = t * 8.0, 0.5 * 63 * 0.01**2 + t
    reached = 0.5 * (kept - norms).square().sum() + t * kept.sum() / torch.linalg.vector_norm(kept)
    torch.testing.assert_close(reached.item(), min(all_, alone), rtol=1e-6, atol=0)


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("name", ["l21-relative", "l2-matched"])
def test_half_steps_of_a_penalty_go_where_its_gradient_does(name, groups):
    """prox(W, t) = W - t · gradient + O(t²)."""
    weight, t = random(6, 7).requires_grad_(), 1e-5
    PENALTIES[name].value(weight, groups).backward()
    moved = (PENALTIES[name].prox(weight.detach(), t, groups) - weight.detach()) / t
    torch.testing.assert_close(moved, -weight.grad, rtol=1e-3, atol=1e-4)


def test_the_relative_norm_knows_no_scale():
    weight = random(6, 7).requires_grad_()
    value = PENALTIES["l21-relative"].value
    assert value(7 * weight, "input").item() == pytest.approx(value(weight, "input").item())
    assert value(torch.eye(4), "input").item() == pytest.approx(2)  # √groups, where all are alike
    value(weight, "input").backward()
    assert abs((weight * weight.grad).sum().item()) < 1e-12
    shrunk = PENALTIES["l21-relative"].prox(weight.detach(), 30.0, "input")
    assert (shrunk == 0).all(dim=0).any()
    twice = PENALTIES["l21-relative"].prox(2 * weight.detach(), 120.0, "input")
    torch.testing.assert_close(twice, 2 * shrunk)


@pytest.mark.parametrize("groups", GROUPS)
def test_the_control_shrinks_as_much_and_all_alike(groups):
    weight = random(6, 7).requires_grad_()
    gradients = {}
    for name in ("l21", "l2-matched"):
        (gradients[name],) = torch.autograd.grad(PENALTIES[name].value(weight, groups), weight)
    taken = {name: (weight * gradient).sum().item() for name, gradient in gradients.items()}
    assert taken["l2-matched"] == pytest.approx(taken["l21"])
    share = gradients["l2-matched"] / weight
    torch.testing.assert_close(share, share[0, 0].expand_as(share))


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
