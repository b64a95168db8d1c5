"""Terms beside an objective: each in closed form, and any method with them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparsehead_cli.data.contract import GLOBAL
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.backbones import make_backbone
from sparsehead_cli.nets.heads import make_projector
from sparsehead_cli.ssl import losses, regularisers
from sparsehead_cli.ssl.cassle import cassle
from sparsehead_cli.ssl.methods import METHODS
from sparsehead_cli.ssl.regularisers import REGULARISERS, added_terms, regularised
from tests.ssl.test_cassle import made, some_views


def some(rows=40, dim=5, seed=0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_moments_in_closed_form():
    z = some() @ torch.diag(torch.tensor([2.0, 1.0, 0.5, 0.1, 0.0], dtype=torch.float64))
    variances = z.numpy().var(axis=0, ddof=1)
    expected = sum(max(0.0, 1 - math.sqrt(v + 1e-4)) for v in variances) / 5
    assert losses.variance_hinge(z).item() == pytest.approx(expected)
    c = torch.cov(z.T)
    torch.testing.assert_close(losses.covariances(z), (c.square().sum() - c.diagonal().square().sum()) / 5)
    z = some()
    correlations = torch.corrcoef(z.T)
    torch.testing.assert_close(regularisers.correlation(z), (correlations.square().sum() - 5) / 5, rtol=1e-3, atol=1e-6)


def test_whiteness_is_nought_where_z_is_white_at_any_scale():
    z = some()
    z = z - z.mean(dim=0)
    white = z @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.T))).T
    assert regularisers.whiteness(7 * white + 3).item() == pytest.approx(0, abs=1e-9)
    one = white[:, :1].expand(-1, 5)  # all of rank one: (J - I) of ones, 20 of them, over 5
    assert regularisers.whiteness(one).item() == pytest.approx(4)


def test_koleo_is_the_log_of_the_distance_to_the_nearest():
    z = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    unit = F.normalize(z, dim=1)
    expected = [min((unit[i] - unit[j]).norm() for j in range(4) if j != i).log().item() for i in range(4)]
    assert regularisers.koleo(z).item() == pytest.approx(-sum(expected) / 4)
    assert regularisers.koleo(torch.ones(4, 2)).isfinite()  # all at one point


def test_terms_of_weights():
    q = torch.linalg.qr(some(6, 4)).Q
    for weight in (q, q.T):
        assert regularisers.orthogonal(weight).item() == pytest.approx(0, abs=1e-9)
        assert regularisers.spectral(3 * weight).item() == pytest.approx(4.5)
        assert regularisers.decay(weight).item() == pytest.approx(2)  # half of four columns of length 1
    assert regularisers.orthogonal(2 * q).item() == pytest.approx(4 * 9)


@pytest.mark.parametrize("name", [name for name in REGULARISERS if name not in ("sigreg", "dropout") and "r-" not in name])
def test_gradients(name):
    assert torch.autograd.gradcheck(REGULARISERS[name].term, some(6, 3).requires_grad_())


def test_dropout_keeps_the_mean_and_draws_each_view_apart():
    hidden = torch.ones(2 * 500, 40)
    torch.manual_seed(0)
    found = regularisers.dropout(hidden, 0.25, rows=500)
    torch.testing.assert_close(found.unique(), torch.tensor([0, 1 / 0.75]))
    assert found.mean().item() == pytest.approx(1, abs=0.01)
    torch.manual_seed(0)
    views = [regularisers.dropout(view, 0.25, rows=500) for view in hidden.chunk(2)]  # one by one through the head
    torch.testing.assert_close(torch.cat(views), found)
    assert (views[0] != views[1]).any()


def test_dropout_is_of_what_all_layers_but_the_first_read_while_the_objective_is_computed():
    method, (views, batch) = made("simclr", regularised(METHODS["simclr"], {"dropout": 0.5})), some_views()
    read = []
    for layer in method.layers():
        layer.register_forward_hook(lambda _, inputs, z: read.append((inputs[0] == 0).float().mean()))
    torch.manual_seed(0)
    loss, terms = method(views, batch)
    assert terms == {}
    of_r, of_hidden = read
    r = method.backbone(torch.cat([view.inputs for view in views]))
    assert of_r == (r == 0).float().mean()
    cut = (method.projector[:3](r) == 0).float().mean()  # by the ReLU of hidden units
    assert of_hidden.item() == pytest.approx((cut + (1 - cut) / 2).item(), abs=0.15)
    torch.manual_seed(0)
    assert loss == method(views, batch)[0] != method(views, batch)[0]
    method.eval()
    assert (method.embed(views[0].inputs)[1] == method.embed(views[0].inputs)[1]).all()


def test_sigreg_draws_the_directions_of_the_step():
    z = some().float()
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(regularisers.sigreg(z).item())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("name", METHODS)
def test_any_method_with_them(name):
    """What is added is what is said, and reaches what it is of."""
    strengths = {"covariance": 2.0, "r-variance": 0.5, "orthogonal": 0.1}
    plain, method = made(name, METHODS[name]), made(name, regularised(METHODS[name], strengths))
    views, batch = some_views(24)  # as many as whitening needs
    found = []
    for one in (plain, method):
        torch.manual_seed(0)
        found.append(one(views, batch))
    (loss, _), (total, terms) = found
    added = sum(strength * terms[f"{key.replace('-', '_')}_added"] for key, strength in strengths.items())
    torch.testing.assert_close(total, loss + added)
    assert all(terms[f"{key.replace('-', '_')}_added"] > 0 for key in strengths)
    total.backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    assert method.state_dict().keys() == plain.state_dict().keys()


def test_terms_are_of_each_view_by_itself():
    """Also where the views go through the network together: an image's other view is no neighbour."""
    method, (views, batch) = made("simclr", regularised(METHODS["simclr"], {"koleo": 1.0, "r-koleo": 1.0})), some_views()
    _, terms = method(views, batch)
    r = method.backbone(torch.cat([view.inputs for view in views]))
    z = method.projector(r)
    for name, of in (("koleo_added", z), ("r_koleo_added", r)):
        expected = sum(regularisers.koleo(view) for view in of.chunk(2)) / 2
        torch.testing.assert_close(terms[name], expected, rtol=1e-4, atol=1e-5)


def test_of_all_linear_layers_of_the_head():
    method, (views, batch) = made("simclr", regularised(METHODS["simclr"], {"decay": 1.0})), some_views()
    layers = [m.weight for m in method.projector.modules() if isinstance(m, nn.Linear)]
    assert len(layers) == 2
    torch.testing.assert_close(method(views, batch)[1]["decay_added"], sum(w.square().sum() for w in layers) / 2)


def test_a_linear_head_has_no_hidden_units_to_drop():
    backbone = make_backbone("narrow", channels=1, image_size=16, widths=(8, 8), blocks=(1, 1))
    method = regularised(METHODS["simclr"], {"dropout": 0.5})(backbone, make_projector(backbone.dim, [], 4))
    with pytest.raises(SparseheadError, match="regulariser dropout is of the head's hidden units, and this head has none"):
        method.check((GLOBAL, GLOBAL), 8)


@pytest.mark.parametrize("kind", ["none", "orthogonal", "direct"])
def test_a_head_without_weights_that_learn_has_none_to_regularise(kind):
    backbone = make_backbone("narrow", channels=1, image_size=16, widths=(8, 8), blocks=(1, 1))
    method = regularised(METHODS["simclr"], {"spectral": 1.0})(backbone, make_projector(backbone.dim, [], 4, kind=kind))
    with pytest.raises(SparseheadError, match="regulariser spectral is of the head's weights, and this head has none"):
        method.check((GLOBAL, GLOBAL), 8)


def test_beside_distillation():
    method, (views, batch) = made("simclr", cassle(regularised(METHODS["simclr"], {"variance": 1.0}))), some_views()
    method.end_task()
    _, terms = method(views, batch)
    assert set(terms) == {"variance_added", "distillation"}


def test_how_they_are_written():
    assert added_terms(()) == {}
    assert added_terms(("koleo:0.1", "r-variance:2")) == {"koleo": 0.1, "r-variance": 2.0}
    assert regularised(METHODS["simclr"], {}) is METHODS["simclr"]
    for stated, says in (
        (("koelo:1",), 'unknown regulariser "koelo".*Did you mean "koleo"'),
        (("koleo:1_0",), "a strength above 0, as koleo:0.1; given 'koleo:1_0'"),
        (("koleo:٣",), "a strength above 0"),
        (("koleo",), "written NAME:strength, a strength above 0, as koleo:0.1"),
        (("dropout:1",), "a strength between 0 and 1, as dropout:0.1; given 'dropout:1'"),
        (("koleo:0",), "strength above 0"),
        (("koleo:nan",), "strength above 0"),
        (("koleo:x",), "given 'koleo:x'"),
        (("koleo:1", "koleo:2"), "koleo is given twice"),
    ):
        with pytest.raises(SparseheadError, match=says):
            added_terms(stated)
