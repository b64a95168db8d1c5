import copy
import math

import pytest
import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.heads import make_projector
from sparsehead_cli.nets.optim import LARS, OPTIMIZERS, lr_at, make_optimizer, parameter_groups
from sparsehead_cli.runs.identity import is_same_run, run_identity, run_name, whole_identity
from tests.conftest import RECIPES


def test_schedule():
    rates = [lr_at(step, total=110, warmup=10, lr=2.0) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)  # half way down the cosine
    assert 0 < rates[-1] < 0.001
    assert max(rates) == 2.0
    assert lr_at(0, total=5, warmup=0, lr=1.0) == 1.0


def test_warmup_of_the_whole_run_is_allowed():
    assert lr_at(4, total=5, warmup=5, lr=1.0) == 1.0


def test_biases_and_norms_do_not_decay():
    head = make_projector(4, [3], 2)
    weights, others = parameter_groups(head, 0.1)
    assert (weights["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in weights["params"]} == {2}
    assert sum(p.numel() for g in (weights, others) for p in g["params"]) == sum(p.numel() for p in head.parameters())


def test_clipped_lars_by_hand():
    w = torch.tensor([[3.0, 4.0]], requires_grad=True)
    b = torch.tensor([1.0], requires_grad=True)
    groups = [
        {"params": [w], "weight_decay": 0.1, "adapt": True},
        {"params": [b], "weight_decay": 0.0, "adapt": False},
    ]
    optimizer = LARS(groups, lr=0.5, momentum=0.9, eta=0.02, clip=True)
    w.grad, b.grad = torch.tensor([[0.0, 2.0]]), torch.tensor([1.0])
    ratio = min(0.02 * 5 / (2 + 0.1 * 5) / 0.5, 1)
    velocity = ratio * torch.tensor([[0.3, 2.4]])
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.tensor([[3.0, 4.0]]) - 0.5 * velocity)
    torch.testing.assert_close(b.detach(), torch.tensor([0.5]))
    before = w.detach().clone()
    ratio = min(0.02 * w.detach().norm().item() / (2 + 0.1 * w.detach().norm().item()) / 0.5, 1)
    velocity = 0.9 * velocity + ratio * (torch.tensor([[0.0, 2.0]]) + 0.1 * before)
    optimizer.step()
    torch.testing.assert_close(w.detach(), before - 0.5 * velocity)


def test_lars_at_zero_weights_or_gradients_is_sgd():
    for value, grad in ((0.0, 1.0), (1.0, 0.0)):
        for clip in (False, True):
            w = torch.full((2, 2), value, requires_grad=True)
            w.grad = torch.full((2, 2), grad)
            LARS([w], lr=0.1, clip=clip).step()
            torch.testing.assert_close(w.detach(), torch.full((2, 2), value - 0.1 * grad))


@pytest.mark.parametrize("lr", [0.048, 0.48, 1.0, 2.4, 4.8])
@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_a_layers_steps_are_those_of_the_published_formula(lr, decay):
    """You et al. 2017, algorithm 1, over several steps while lr changes; biases take the plain step of SGD with momentum."""
    generator = torch.Generator().manual_seed(0)
    w = torch.nn.Parameter(torch.randn(5, 4, generator=generator, dtype=torch.float64))
    b = torch.nn.Parameter(torch.randn(5, generator=generator, dtype=torch.float64))
    module = torch.nn.ParameterList([w, b])
    optimizer = make_optimizer("lars", parameter_groups(module, decay), lr, 0.9)
    expected, velocity, bias, bias_velocity = w.detach().clone(), 0.0, b.detach().clone(), 0.0
    for step in range(6):
        rate = lr * (1 - step / 10)
        for group in optimizer.param_groups:
            group["lr"] = rate
        w.grad, b.grad = (torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in (w, b))
        local = 0.001 * expected.norm() / (w.grad.norm() + decay * expected.norm())
        velocity = 0.9 * velocity + rate * local * (w.grad + decay * expected)
        expected = expected - velocity
        bias_velocity = 0.9 * bias_velocity + b.grad
        bias = bias - rate * bias_velocity
        optimizer.step()
        torch.testing.assert_close(w.detach(), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(b.detach(), bias, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "steps"),
    [("lars", (0.00048, 0.0010, 0.0024, 0.0048)), ("larc", (0.0096, 0.0200, 0.0200, 0.0200))],
)
def test_the_relative_steps_that_tell_the_two_forms_apart(name, steps):
    """With ‖w‖ / ‖g‖ = 50: the published step is proportional to lr, the clipped one is not any more."""
    for lr, expected in zip((0.48, 1.0, 2.4, 4.8), steps, strict=True):
        w = torch.nn.Parameter(torch.full((10, 10), 5.0))
        w.grad = torch.full((10, 10), 0.1)  # norm 1, the weights' is 50
        make_optimizer(name, parameter_groups(torch.nn.ParameterList([w]), 0.0), lr, 0.9).step()
        moved = float((w.detach() - 5.0).norm() / 50)
        assert moved == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_minimises_and_resumes(name):
    def train(optimizer, w, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (w - 1).square().sum().backward()
            optimizer.step()

    def start():
        torch.manual_seed(0)
        w = torch.randn(3, 3, requires_grad=True)
        return w, make_optimizer(name, [{"params": [w], "weight_decay": 0.0, "adapt": True}], 0.05, 0.9)

    w, optimizer = start()
    first = (w - 1).square().sum().item()
    train(optimizer, w, 10)
    saved, weights = copy.deepcopy(optimizer.state_dict()), w.detach().clone()
    train(optimizer, w, 20)
    assert (w - 1).square().sum().item() < first
    again, other = start()
    again.data.copy_(weights)
    other.load_state_dict(saved)
    train(other, again, 20)
    assert torch.equal(w, again)


def test_unknown_optimizer():
    with pytest.raises(SparseheadError, match='unknown optimizer "sdg"; known: sgd, adamw, lars, larc.* Did you mean "sgd"'):
        make_optimizer("sdg", [], 1.0, 0.9)


def test_cosine_is_half_a_cosine():
    assert lr_at(25, total=100, warmup=0, lr=1.0) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_a_run_of_when_lars_was_clipped_is_not_gone_on_with(tiny):
    """Its identity has no eta: the same settings name another run now, and nothing is mixed."""
    identities = {name: run_identity(tiny(optimizer=name)) for name in ("sgd", "lars", "larc")}
    whole = {name: whole_identity(identity) for name, identity in identities.items()}
    assert "eta" not in whole["sgd"]
    assert (whole["lars"].pop("eta"), whole["larc"].pop("eta")) == (0.001, 0.02)
    assert run_name(tiny(), whole["lars"]) != run_name(tiny(), whole_identity(identities["lars"]))
    assert not is_same_run(whole["lars"], identities["lars"])


def test_each_recipe_has_the_form_that_it_was_published_with():
    forms = {name: settings.get("optimizer") for name, settings in RECIPES.items() if name.endswith("-cifar") or "imagenet" in name}
    assert {forms[name] for name in forms if name.startswith("imagenet-")} == {"lars"}
    assert {forms[name] for name in forms if name.endswith("-cifar")} == {"larc", "sgd", "adamw"}
    assert [forms[f"{name}-cifar"] for name in ("simclr", "byol", "barlow", "vicreg")] == ["larc"] * 4
