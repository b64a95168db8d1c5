"""What the features are good for: functions of features and labels, never of images."""

import torch
import torch.nn.functional as F
from torch import Tensor

QUERIES = 1024  # rows of the similarity matrix held at once


def knn_predict(bank: Tensor, labels: Tensor, queries: Tensor, *, k: int, classes: int, temperature: float) -> Tensor:
    """Weighted k-nearest-neighbour classes, [N, D], [N], [M, D] -> int64 [M].

    Cosine similarity; a neighbour votes with exp(similarity / temperature). k is cut to the size of the bank.
    Source: Wu et al. 2018, section 3.4.
    """
    bank = F.normalize(bank, dim=1)
    predicted = []
    for block in F.normalize(queries, dim=1).split(QUERIES):
        similarity, neighbour = (block @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(block), classes, device=bank.device)
        votes.scatter_add_(1, labels[neighbour], (similarity / temperature).exp())
        predicted.append(votes.argmax(dim=1))
    return torch.cat(predicted)


def knn_accuracy(bank: Tensor, labels: Tensor, queries: Tensor, truth: Tensor, *, k: int, classes: int) -> float:
    """Share of queries that `knn_predict` at temperature 0.1 gets right, in [0, 1]."""
    predicted = knn_predict(bank, labels, queries, k=k, classes=classes, temperature=0.1)
    return float((predicted == truth).double().mean())


def fit_logistic(features: Tensor, labels: Tensor, classes: int, l2: float) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression, [N, D], [N] -> weight [classes, D] and bias [classes], float64.

    Minimises mean cross-entropy + l2/2 · ‖weight‖² by L-BFGS to convergence, from zero; the bias is not penalised.
    (scikit-learn's C is 1 / (N · l2).)
    """
    x = features.double()
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, device=x.device, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-5, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), labels) + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return weight.detach(), bias.detach()


def linear_probe(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Linear evaluation of frozen features; each argument is features [N, D] and labels [N].

    Features are standardised with the training statistics. The L2 strength is chosen on `val`, never on `test`; the probe
    is then fitted on train and val together and read once on `test`. Returns accuracy and val_accuracy in [0, 1], and l2.
    """
    mean, std = train[0].double().mean(dim=0), train[0].double().std(dim=0).clamp(min=1e-6)
    classes = int(max(labels.max() for _, labels in (train, val, test))) + 1
    train, val, test = (((f.double() - mean) / std, labels) for f, labels in (train, val, test))

    def accuracy(fitted: tuple[Tensor, Tensor], part: tuple[Tensor, Tensor]) -> float:
        return float((F.linear(part[0], *fitted).argmax(dim=1) == part[1]).double().mean())

    scores = {l2: accuracy(fit_logistic(*train, classes, l2), val) for l2 in L2_GRID}
    best = max(scores, key=scores.get)
    joined = tuple(torch.cat(pair) for pair in zip(train, val, strict=True))
    return {"accuracy": accuracy(fit_logistic(*joined, classes, best), test), "val_accuracy": scores[best], "l2": best}


L2_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
