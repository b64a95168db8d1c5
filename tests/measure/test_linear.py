import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from sparsehead_cli.measure import linear
from sparsehead_cli.measure.linear import Standardise, choose_l2, cross_validated_l2, fit_logistic, linear_probe, measured
from tests.measure.blobs import blobs


def loss_of(weight, bias, x, y, l2):
    weight, bias, x = (torch.as_tensor(t).double() for t in (weight, bias, x))
    return float(F.cross_entropy(F.linear(x, weight, bias), y) + l2 / 2 * weight.square().sum())


@pytest.mark.parametrize("l2", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("condition", [1, 1000])
def test_the_loss_is_scikit_learns_at_the_same_strength(l2, condition):
    """Also for badly conditioned features: what the preconditioner is for."""
    x, y = blobs(600, d=20, classes=5, noise=1.2)
    x = Standardise.of(x)(x) * torch.logspace(0, -math.log10(condition), 20)
    ours = fit_logistic(x, y, 5, l2)
    theirs = LogisticRegression(C=1 / (len(x) * l2), tol=1e-8, max_iter=20_000).fit(x.double(), y)
    expected = loss_of(theirs.coef_, theirs.intercept_, x, y, l2)
    assert loss_of(ours.weight, ours.bias, x, y, l2) == pytest.approx(ours.loss, abs=1e-5)
    assert abs(ours.loss - expected) < 1e-4
    assert (ours.predict(x) == torch.from_numpy(theirs.predict(x.double()))).float().mean() > 0.99


def test_fewer_samples_than_features_are_regressed_in_their_span():
    """The same classifier as scikit-learn's on all features."""
    (x, y), (test, _) = blobs(40, d=300, classes=4, noise=3.0), blobs(200, d=300, classes=4, noise=3.0, seed=1)
    standardise = Standardise.of(x)
    assert standardise(x).shape[1] < 40
    ours = fit_logistic(standardise(x), y, 4, 1e-2)
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    theirs = LogisticRegression(C=1 / (40 * 1e-2), tol=1e-8, max_iter=20_000).fit(((x - mean) / std).double(), y)
    expected = loss_of(theirs.coef_, theirs.intercept_, (x - mean) / std, y, 1e-2)
    assert abs(ours.loss - expected) < 1e-4
    agree = ours.predict(standardise(test)) == torch.from_numpy(theirs.predict(((test - mean) / std).double()))
    assert agree.float().mean() > 0.98


def test_rows_in_blocks_are_rows_at_once(monkeypatch):
    x, y = blobs(200)
    whole = linear.loss_and_gradient(x, y, torch.ones(4, 8), torch.zeros(4), 1e-2)
    monkeypatch.setattr(linear, "ROWS", 33)
    for a, b in zip(whole, linear.loss_and_gradient(x, y, torch.ones(4, 8), torch.zeros(4), 1e-2), strict=True):
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=1e-6, rtol=1e-5)


def test_the_gradient_is_autograds():
    x, y = blobs(50)
    g = torch.Generator().manual_seed(3)
    weight, bias = (torch.randn(*shape, generator=g, requires_grad=True) for shape in ((4, 8), (4,)))
    loss = F.cross_entropy(F.linear(x, weight, bias), y) + 0.1 / 2 * weight.square().sum()
    loss.backward()
    value, grad_weight, grad_bias = linear.loss_and_gradient(x, y, weight.detach(), bias.detach(), 0.1)
    assert value == pytest.approx(loss.item(), abs=1e-5)
    torch.testing.assert_close(grad_weight, weight.grad, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(grad_bias, bias.grad, atol=1e-6, rtol=1e-5)


def test_the_probe_never_looks_at_test_labels_nor_chooses_by_them():
    train, val, (test, truth) = blobs(200), blobs(80, seed=1), blobs(80, seed=2)
    predicted, chosen = linear_probe(train, val, test, 4)
    assert chosen["l2"] == choose_l2(*((Standardise.of(train[0])(f), y) for f, y in (train, val)), 4)[0]
    assert (predicted == truth).double().mean() > 0.8


def test_the_search_goes_from_strong_to_weak_while_that_helps(monkeypatch):
    accuracies = {1.0: 0.5, 0.1: 0.6, 0.01: 0.6, 1e-3: 0.7, 1e-4: 0.7, 1e-5: 0.65, 1e-6: 0.9}
    tried = []

    class Fitted:
        def __init__(self, l2):
            self.l2 = l2
            tried.append(l2)

        def accuracy(self, *val):
            return accuracies[self.l2]

    monkeypatch.setattr(linear, "fit_logistic", lambda x, labels, classes, l2, start, tolerance: Fitted(l2))
    best, accuracy, last = choose_l2((None, None), (None, None), 2)
    assert (best, accuracy) == (1e-3, 0.7)  # the stronger of equals; 1e-6 is not seen any more
    assert tried == [1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5]
    assert last.l2 == 1e-5


def test_a_shift_or_scale_of_the_features_changes_nothing():
    train, val, (test, _) = blobs(200), blobs(80, seed=1), blobs(80, seed=2)
    moved = [(1000 * f - 7, y) for f, y in (train, val)]
    assert torch.equal(linear_probe(train, val, test, 4)[0], linear_probe(*moved, 1000 * test - 7, 4)[0])


def test_constant_features_become_zero():
    x = torch.cat([blobs(50)[0], torch.full((50, 1), 3.0)], dim=1)
    assert Standardise.of(x)(x)[:, -1].tolist() == [0.0] * 50
    assert Standardise.of(torch.ones(5, 2))(torch.ones(5, 2)).tolist() == [[0.0, 0.0]] * 5


def test_a_class_that_nobody_has_is_never_predicted():
    x, y = blobs(100)
    assert fit_logistic(x, y, 6, 1e-3).predict(x).max() < 4


def test_cross_validation_prefers_what_generalises():
    x, y = blobs(40, d=30, noise=2.0)
    l2, accuracy = cross_validated_l2(Standardise.of(x)(x), y, 4)
    assert l2 >= 1e-2
    assert 0.25 < accuracy < 1


def test_one_label_a_class_leaves_nothing_to_choose_by():
    x, y = blobs(4)
    l2, accuracy = cross_validated_l2(x, y, 4)
    assert l2 == 1e-3
    assert accuracy is None


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_features_of_few_dimensions_are_fitted(rank):
    """A thin head's embedding: 128 features that are multiples of a few, in float32. The weakest strengths are tried, too."""
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(600, rank, generator=g)
    labels = (hidden @ torch.randn(rank, 4, generator=g)).argmax(dim=1)
    features = hidden @ torch.randn(rank, 128, generator=g) + 1e-7 * torch.randn(600, 128, generator=g)
    for l2 in (1e-2, 1e-9):
        fitted = fit_logistic(Standardise.of(features)(features), labels, 4, l2)
        assert fitted.accuracy(Standardise.of(features)(features), labels) > 0.9


def test_the_curvature_is_measured_again_only_where_classes_became_certain_unequally():
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    weight, bias = torch.zeros(3, 6), torch.zeros(3)
    first, times = measured(x, weight, bias, None)
    assert times == 1
    evenly, times = measured(x, weight + torch.eye(3, 6), bias, first)
    assert evenly is first
    assert 0.5 < times < 0.95
    again, times = measured(x, weight, torch.tensor([3.0, 0.0, -3.0]), first)
    assert again is not first
    assert times == 1
