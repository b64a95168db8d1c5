import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsehead_cli.sparse.penalties import GROUPS, PENALTIES, l21, prox_l21

KNOWN = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])


def test_known_values():
    assert l21(KNOWN, "output").item() == pytest.approx(15)
    assert l21(KNOWN, "input").item() == pytest.approx(45**0.5 + 80**0.5)
    assert prox_l21(KNOWN, 5, "output").tolist() == [[0, 0], [0, 0], [3, 4]]


def test_gradient_at_a_zero_group_is_zero():
    weight = KNOWN.clone().requires_grad_()
    l21(weight, "output").backward()
    assert weight.grad.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0], [pytest.approx(0.6), pytest.approx(0.8)]]


def test_gradient_in_float64():
    weight = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for groups in GROUPS:
        assert torch.autograd.gradcheck(lambda w, groups=groups: l21(w, groups), weight)


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("groups", GROUPS)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), t=st.floats(0, 5), step=st.floats(1e-3, 3))
def test_proximal_map_is_optimal(name, groups, seed, t, step):
    """No perturbation of prox(W, t) lowers ½‖V - W‖² + t · P(V)."""
    penalty, g = PENALTIES[name], torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 5, dtype=torch.float64, generator=g) * (torch.rand(5, dtype=torch.float64, generator=g) > 0.2)
    best = penalty.prox(weight, t, groups)

    def objective(v):
        return 0.5 * (v - weight).square().sum() + t * penalty.value(v, groups)

    for _ in range(10):
        other = best + step * torch.randn(4, 5, dtype=torch.float64, generator=g)
        assert objective(best) <= objective(other) + 1e-9


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("t", [0.0, 0.3])
def test_zero_stays_zero_without_nan(name, t):
    for groups in GROUPS:
        zero = PENALTIES[name].prox(torch.zeros(3, 2), t, groups)
        assert torch.equal(zero, torch.zeros(3, 2))


def test_t_zero_changes_nothing():
    for penalty in PENALTIES.values():
        assert torch.equal(penalty.prox(KNOWN, 0.0, "input"), KNOWN)
