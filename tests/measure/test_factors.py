import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from sparsehead_cli.measure.factors import linear_cka, rank_correlation, read_out


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parts(x, y):
    return (x[:600], y[:600]), (x[600:800], y[600:800]), (x[800:], y[800:])


def test_read_out_is_least_squares_where_features_are_few():
    x = random(1000, 5)
    y = x @ random(5, 2, seed=1) + random(1000, 2, seed=2)
    train, val, test = parts(x, y)
    fitted = LinearRegression().fit(*(part.numpy() for part in train)).predict(test[0].numpy())
    assert read_out(train, val, test) == pytest.approx(r2_score(test[1].numpy(), fitted), abs=0.005)
    assert 0.3 < read_out(train, val, test) < 0.95


def test_read_out_of_everything_and_of_nothing():
    x = random(1000, 5)
    assert read_out(*parts(x, x[:, :1] * 3 + 7)) == pytest.approx(1, abs=1e-6)
    assert read_out(*parts(x, random(1000, 1, seed=3))) == pytest.approx(0, abs=0.03)
    assert read_out(*parts(torch.ones(1000, 3), random(1000, 1))) == pytest.approx(0, abs=0.03)  # features that do not vary


def test_read_out_of_many_features_does_not_fit_noise():
    x = random(1000, 550)
    y = x[:, :1] + random(1000, 1, seed=1)
    assert read_out(*parts(x, y)) > 0.1  # least squares, of 550 weights by 600 images, would be far below 0


def test_cka_knows_no_rotation_and_no_scale():
    x = random(300, 6)
    turned = 3 * x @ torch.linalg.qr(random(6, 6, seed=1))[0] + 5
    assert linear_cka(x, turned) == pytest.approx(1)
    assert linear_cka(x, random(300, 6, seed=2)) < 0.1
    grams = [c @ c.T for c in (f - f.mean(0) for f in (x, x[:, :2]))]
    by_grams = (grams[0] * grams[1]).sum() / (torch.linalg.matrix_norm(grams[0]) * torch.linalg.matrix_norm(grams[1]))
    assert linear_cka(x, x[:, :2]) == pytest.approx(by_grams.item())  # equation 3 as it stands
    assert np.isnan(linear_cka(torch.ones(5, 2), x[:5]))


def test_pairs_that_are_near_are_similar():
    angles = torch.rand(500, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    directions = torch.cat([angles.cos(), angles.sin()], dim=1)
    assert rank_correlation(directions, angles) == pytest.approx(1)
    assert rank_correlation(random(500, 2), angles) == pytest.approx(0, abs=0.05)
