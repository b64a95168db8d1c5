"""CaSSLe: its loss by a closed form, what it keeps, and any method with it."""

import math

import pytest
import torch
import torch.nn.functional as F

from sparsehead_cli.data.contract import Batch, View
from sparsehead_cli.nets.heads import make_projector
from sparsehead_cli.ssl.cassle import cassle, contrast, decorrelation, direction
from sparsehead_cli.ssl.methods import METHODS
from tests.conftest import method_recipe, small_backbone

JOINT = [name for name in METHODS if name not in ("autoencoder", "mae")]


def made(name, kind=None):
    torch.manual_seed(0)
    backbone = small_backbone(name, 16)
    projector = make_projector(backbone.dim, [12], 8, batch_norm=True, kind="mlp")
    method = (kind or cassle(METHODS[name]))(backbone, projector, **method_recipe(name))
    method.prepare(24, 3)
    return method


def some_views(rows=8):
    draw = torch.Generator().manual_seed(1)
    views = [View(torch.randn(rows, 1, 16, 16, generator=draw)) for _ in range(2)]
    return views, Batch(None, torch.arange(rows) % 3, torch.arange(rows))


def test_losses_by_their_closed_forms():
    e = torch.eye(4)
    assert contrast(3 * e, 5 * e, 0.5).item() == pytest.approx(math.log(1 + 3 * math.exp(-2)))
    assert contrast(e, e.roll(1, 0), 0.5).item() == pytest.approx(math.log(3 + math.exp(2)))
    assert direction(2 * e, e).item() == pytest.approx(0, abs=1e-6)
    assert direction(e, -e).item() == pytest.approx(4)
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # uncorrelated, of variance 1
    assert decorrelation(z, z, 0.005, 0.1).item() == pytest.approx(0, abs=1e-8)
    assert decorrelation(z, -z, 0.005, 0.1).item() == pytest.approx(0.1 * 2 * 4, rel=1e-3)


def test_the_whole_loss_is_that_of_the_method_and_of_the_prediction():
    method, (views, batch) = made("simclr"), some_views()
    plain, _ = method(views, batch)
    method.end_task()
    for parameter in method.projector.parameters():  # what is known now is another thing
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    again = made("simclr", METHODS["simclr"])
    again.load_state_dict({k: v for k, v in method.state_dict().items() if k in again.state_dict()})
    own, _ = again(views, batch)
    total, terms = method(views, batch)
    with torch.no_grad():
        known = torch.cat([method.before(view.inputs) for view in views])
    z = again.projector(again.backbone(torch.cat([view.inputs for view in views])))
    p, k = F.normalize(method.distiller(z), dim=1), F.normalize(known, dim=1)
    expected = -torch.stack([torch.log(torch.exp(p[i] @ k[i] / 0.2) / torch.exp(k @ p[i] / 0.2).sum()) for i in range(16)]).mean()
    assert terms["distillation"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert total.item() == pytest.approx(own.item() + expected.item(), rel=1e-4)
    assert plain.item() != pytest.approx(total.item())


@pytest.mark.parametrize("name", JOINT)
def test_any_method_learns_to_predict_what_it_knew(name):
    method, (views, batch) = made(name), some_views()
    _, terms = method(views, batch)
    assert "distillation" not in terms
    method.end_task()
    before = {key: value.clone() for key, value in method.before.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.01)
    found = []
    for _ in range(12):
        _, terms = method(views, batch)
        optimizer.zero_grad()
        terms["distillation"].backward(retain_graph=True)
        optimizer.step()
        found.append(terms["distillation"].item())
    assert found[-1] < found[0]
    assert all(torch.equal(value, before[key]) for key, value in method.before.state_dict().items())


def test_a_checkpoint_knows_how_many_tasks_are_done():
    method = made("byol")
    method.end_task()
    method.end_task()
    other = made("byol")
    other.load_state_dict(method.state_dict())
    assert other.tasks_done == 2
    assert set(made("byol", METHODS["byol"]).state_dict()) < set(method.state_dict())
