"""The same numbers as lightly's; needs the extra `peers`, which .ci/run installs after the main tests."""

import pytest
import torch
import torch.nn.functional as F

from sparsehead_cli.measure.knn import knn_predict
from tests.measure.blobs import blobs

knn = pytest.importorskip("lightly.utils.benchmarking.knn")


@pytest.mark.parametrize("k", [1, 20, 200])
def test_weighted_cosine_knn_is_lightlys(k):
    bank, labels = blobs(500, d=16, classes=10, noise=1.5)
    queries, _ = blobs(200, d=16, classes=10, noise=1.5, seed=1)
    theirs = knn.knn_predict(F.normalize(queries, dim=1), F.normalize(bank, dim=1).T, labels, 10, knn_k=k, knn_t=0.1)[:, 0]
    assert torch.equal(knn_predict(bank, labels, queries, classes=10, ks=[k])[k, "weighted"], theirs)
