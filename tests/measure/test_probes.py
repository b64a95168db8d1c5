import torch
import torch.nn.functional as F

from sparsehead_cli.measure.probes import fit_logistic, knn_accuracy, knn_predict, linear_probe


def blobs(n, d=8, classes=4, noise=0.7, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(n) % classes
    return centres[labels] + noise * torch.randn(n, d, generator=g), labels


def test_knn_is_the_brute_force_vote():
    bank, labels = blobs(60)
    queries, _ = blobs(30, seed=1)
    expected = []
    for q in queries:
        similarity = [float(q @ b / (q.norm() * b.norm())) for b in bank]
        nearest = sorted(range(60), key=lambda i: -similarity[i])[:7]
        votes = [sum(torch.tensor(similarity[i] / 0.1).exp() for i in nearest if labels[i] == c) for c in range(4)]
        expected.append(max(range(4), key=lambda c: votes[c]))
    assert knn_predict(bank, labels, queries, k=7, classes=4, temperature=0.1).tolist() == expected


def test_knn_of_the_bank_itself_with_one_neighbour_is_perfect_and_k_may_exceed_the_bank():
    bank, labels = blobs(20)
    assert knn_accuracy(bank, labels, bank, labels, k=1, classes=4) == 1
    assert 0 <= knn_accuracy(bank, labels, bank, labels, k=500, classes=4) <= 1


def test_knn_in_blocks_is_knn_at_once(monkeypatch):
    bank, labels = blobs(60)
    queries, _ = blobs(33, seed=1)
    whole = knn_predict(bank, labels, queries, k=5, classes=4, temperature=0.1)
    monkeypatch.setattr("sparsehead_cli.measure.probes.QUERIES", 10)
    assert torch.equal(knn_predict(bank, labels, queries, k=5, classes=4, temperature=0.1), whole)


def test_logistic_regression_converges_to_the_optimum():
    """A convex problem: where the gradient vanishes is the minimum."""
    x, y = blobs(200)
    weight, bias = (t.requires_grad_() for t in fit_logistic(x, y, 4, 1e-3))
    loss = F.cross_entropy(F.linear(x.double(), weight, bias), y) + 1e-3 / 2 * weight.square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 1e-4
    assert bias.grad.abs().max() < 1e-4


def test_linear_probe_never_looks_at_test_labels_to_choose():
    train, val, test = blobs(200), blobs(80, seed=1), blobs(80, seed=2)
    honest = linear_probe(train, val, test)
    shuffled = linear_probe(train, val, (test[0], test[1].roll(1)))
    assert honest["l2"] == shuffled["l2"]
    assert honest["accuracy"] > 0.8 > 0.4 > shuffled["accuracy"]
