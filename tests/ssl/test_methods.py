"""Every method's contract; a new entry in METHODS is tested by being there."""

import pytest
import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.backbones import make_backbone
from sparsehead_cli.nets.heads import make_projector
from sparsehead_cli.ssl.methods import METHODS, SimCLR, method_settings


def build(name, batch_norm=True):
    torch.manual_seed(0)
    backbone = make_backbone("narrow", channels=1, image_size=12, widths=(4, 8), blocks=(1, 1))
    return METHODS[name](backbone, make_projector(backbone.dim, [8], 6, batch_norm=batch_norm))


def views(n=2, batch=8):
    g = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 1, 12, 12, generator=g) for _ in range(n)]


@pytest.mark.parametrize("name", METHODS)
def test_contract(name):
    method = build(name)
    loss, terms = method(views())
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert all(t.shape == () for t in terms.values())
    loss.backward()
    for part in (method.backbone, method.projector):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    r, z = method.embed(views()[0])
    assert r.shape == (8, method.backbone.dim)
    assert z.shape == (8, 6)
    method.after_step(0.5)


@pytest.mark.parametrize("name", METHODS)
def test_objective_is_float32_under_bf16_autocast(name):
    method = build(name)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = method(views())
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_trains(name):
    """A few steps on one batch lower the objective: the gradient points where it should."""
    method, batch = build(name), views()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
    losses = []
    for _ in range(15):
        loss, _ = method(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


def test_settings_are_checked_against_the_signature():
    assert method_settings("simclr", {}) == {"temperature": 0.2}
    assert method_settings("simclr", {"temperature": 1}) == {"temperature": 1.0}
    with pytest.raises(SparseheadError, match=r'"method.temprature".*Did you mean "method.temperature"'):
        method_settings("simclr", {"temprature": 1})
    with pytest.raises(SparseheadError, match="must be float, given 'warm'"):
        method_settings("simclr", {"temperature": "warm"})
    with pytest.raises(SparseheadError, match='unknown method "simlcr".*Did you mean "simclr"'):
        method_settings("simlcr", {})


def test_temperature_must_be_positive():
    with pytest.raises(SparseheadError, match="above 0, given 0"):
        SimCLR(torch.nn.Identity(), torch.nn.Identity(), temperature=0.0)
