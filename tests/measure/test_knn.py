import math

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from sparsehead_cli.measure.knn import DISTANCES, VOTES, knn_accuracy, knn_predict
from tests.measure.blobs import blobs


def test_knn_is_the_brute_force_vote():
    bank, labels = blobs(60)
    queries, _ = blobs(30, seed=1)
    expected = []
    for q in queries:
        similarity = [float(q @ b / (q.norm() * b.norm())) for b in bank]
        nearest = sorted(range(60), key=lambda i: -similarity[i])[:7]
        votes = [sum(torch.tensor(similarity[i] / 0.1).exp() for i in nearest if labels[i] == c) for c in range(4)]
        expected.append(max(range(4), key=lambda c: votes[c]))
    assert knn_predict(bank, labels, queries, classes=4, ks=[7])[7, "weighted"].tolist() == expected


@pytest.mark.parametrize("k", [1, 5, 20, 200])
@pytest.mark.parametrize(
    ("distance", "vote", "weights"), [*((d, "majority", "uniform") for d in DISTANCES), ("euclidean", "weighted", "distance")]
)
def test_knn_is_scikit_learns(k, distance, vote, weights):
    bank, labels = blobs(400, noise=1.5)
    queries, _ = blobs(150, noise=1.5, seed=1)
    theirs = KNeighborsClassifier(k, metric=distance, weights=weights, algorithm="brute").fit(bank.double(), labels)
    ours = knn_predict(bank, labels, queries, classes=4, ks=[k], distance=distance)[k, vote]
    assert ours.tolist() == theirs.predict(queries.double()).tolist()


def test_a_neighbour_at_distance_zero_decides_alone_as_in_scikit_learn():
    bank = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [0.1, 0.1]]) + 100  # far from the origin, where digits are lost
    labels = torch.tensor([1, 0, 0, 0])
    assert knn_predict(bank, labels, bank[:1], classes=2, ks=[4], distance="euclidean")[4, "weighted"].tolist() == [1]
    assert knn_predict(bank, labels, bank[:1], classes=2, ks=[4], distance="euclidean")[4, "majority"].tolist() == [0]
    theirs = KNeighborsClassifier(4, weights="distance").fit(bank, labels)
    assert theirs.predict(bank[:1]).tolist() == [1]


def test_knn_of_the_bank_itself_with_one_neighbour_is_perfect_and_k_may_exceed_the_bank():
    bank, labels = blobs(20)
    assert knn_accuracy(bank, labels, bank, labels, k=1, classes=4) == 1
    assert 0 <= knn_accuracy(bank, labels, bank, labels, k=500, classes=4) <= 1


@pytest.mark.parametrize("distance", DISTANCES)
def test_every_k_from_one_search_and_in_blocks(monkeypatch, distance):
    bank, labels = blobs(60, noise=1.5)
    queries, _ = blobs(33, noise=1.5, seed=1)
    together = knn_predict(bank, labels, queries, classes=4, ks=[1, 5, 20], distance=distance)
    monkeypatch.setattr("sparsehead_cli.measure.knn.CELLS", 600)  # some rows at a time
    for k in (1, 5, 20):
        alone = knn_predict(bank, labels, queries, classes=4, ks=[k], distance=distance)
        for vote in VOTES:
            assert torch.equal(together[k, vote], alone[k, vote])


def test_rotation_and_scale_change_no_neighbour():
    bank, labels = blobs(60)
    queries, _ = blobs(30, seed=1)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    for distance in DISTANCES:
        a = knn_predict(bank, labels, queries, classes=4, ks=[5], distance=distance)
        b = knn_predict(3 * bank @ rotation, labels, 3 * queries @ rotation, classes=4, ks=[5], distance=distance)
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_accuracy_is_not_defined_where_there_is_one_class():
    features, labels = torch.randn(6, 3), torch.zeros(6, dtype=torch.int64)
    assert math.isnan(knn_accuracy(features, labels, features, labels, k=2, classes=1))
    assert knn_accuracy(features, labels, features, labels, k=2, classes=2) == 1
