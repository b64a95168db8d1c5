import math

import pytest
import torch
from torch import nn

from sparsehead_cli.measure import head
from sparsehead_cli.measure.head import Reading, fewest_features, mean_response, overlap_of
from sparsehead_cli.nets.heads import mlp
from sparsehead_cli.ssl.losses import nt_xent


def linear(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data = weight.clone()
    return layer.eval().requires_grad_(False)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_response_of_a_linear_head_is_its_gram_matrix():
    weight = noise(5, 8)
    torch.testing.assert_close(mean_response(linear(weight), noise(9, 8)), (weight.T @ weight).double(), rtol=1e-5, atol=1e-5)


def test_the_response_is_the_mean_over_samples_of_the_squared_jacobian():
    torch.manual_seed(0)
    projector = mlp(6, [12], 4, batch_norm=True).eval().requires_grad_(False)  # its ReLU works in place
    r = noise(10, 6)
    one_by_one = [torch.autograd.functional.jacobian(lambda x: projector(x[None])[0], row) for row in r]
    expected = torch.stack([j.T @ j for j in one_by_one]).mean(dim=0).double()
    torch.testing.assert_close(mean_response(projector, r), expected, rtol=1e-5, atol=1e-6)
    assert not r.requires_grad


def test_responses_of_opposite_sign_do_not_cancel():
    class Absolute(nn.Module):
        def forward(self, r):
            return r.abs()

    r = torch.tensor([[1.0], [-1.0]])
    assert float(mean_response(Absolute(), r)) == 1  # the mean of the Jacobian itself is 0


def test_wide_embeddings_are_seen_through_random_directions(monkeypatch):
    weight = noise(60, 5)
    monkeypatch.setattr(head, "EXACT", 50)
    found = mean_response(linear(weight), noise(200, 5))
    torch.testing.assert_close(found, (weight.T @ weight).double(), rtol=0.05, atol=1.5)


def test_a_head_that_reads_two_of_five_features():
    weight = torch.zeros(3, 5)
    weight[0, 1], weight[1, 3] = 2.0, 1.0
    reading = Reading.of(mean_response(linear(weight), noise(50, 5)))
    assert reading.count == 2
    torch.testing.assert_close(reading.singular, torch.tensor([2.0, 1, 0, 0, 0]).double(), atol=1e-6, rtol=0)
    covariance = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0])).double()
    assert reading.variance_share(covariance) == pytest.approx((2 + 4) / 20)
    assert reading.overlap(covariance) == pytest.approx(1 / 2)  # r's two principal directions are features 4 and 3
    r = noise(7, 5)
    read, unread = reading.part(r)
    assert (read.shape, unread.shape) == ((7, 2), (7, 3))
    torch.testing.assert_close(read.abs(), r[:, [1, 3]].abs(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(unread.square().sum(dim=1), r[:, [0, 2, 4]].square().sum(dim=1), rtol=1e-5, atol=1e-5)


def test_a_head_that_reads_nothing():
    reading = Reading.of(mean_response(linear(torch.zeros(3, 5)), noise(50, 5)))
    covariance = torch.eye(5).double()
    assert reading.count == 0
    assert math.isnan(reading.variance_share(covariance))
    assert math.isnan(reading.overlap(covariance))


def test_a_batch_needs_the_features_that_its_loss_reads_and_no_more():
    weight = torch.zeros(6, 10)
    weight[0, 2], weight[1, 5], weight[2, 7], weight[3, 8] = 3.0, 3.0, 3.0, 1e-4
    images = noise(32, 10)
    r = torch.cat([images, images + 0.1 * noise(32, 10, seed=1)])
    projector = linear(weight)
    found = fewest_features(projector, r, temperature=0.5)
    assert found.kept.nonzero().flatten().tolist() == [2, 5, 7]
    assert found.loss == pytest.approx(float(nt_xent(*projector(r).chunk(2), 0.5)))
    masked = torch.where(found.kept, r, r.mean(dim=0))
    assert found.loss_kept == pytest.approx(float(nt_xent(*projector(masked).chunk(2), 0.5)))
    assert found.loss_kept <= 1.01 * found.loss


def test_a_loss_that_no_feature_changes_needs_none():
    found = fewest_features(linear(torch.zeros(4, 6)), noise(16, 6), temperature=0.5)
    assert int(found.kept.sum()) == 0


def test_overlap_of_subsets_and_by_chance():
    a = torch.tensor([1, 1, 0, 0], dtype=torch.bool)
    b = torch.tensor([0, 1, 1, 0], dtype=torch.bool)
    found, chance = overlap_of([a, b])
    assert found == pytest.approx(1 / 3)
    assert chance == pytest.approx(1 / (4 - 1))  # 2 · 2 / 4 = 1 in common
    assert overlap_of([a, a, b])[0] == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    empty = a & ~a
    assert overlap_of([a, empty, a, b, empty]) == overlap_of([a, a, b])  # batches that need nothing in particular do not count
    assert all(map(math.isnan, overlap_of([a, empty])))
