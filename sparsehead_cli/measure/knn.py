"""k-nearest-neighbour classification: functions of features and labels, blockwise, on the device where they are."""

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 2**24  # numbers of the distance matrix, or of the neighbours' features, held at once
TEMPERATURE = 0.1
DISTANCES = ("cosine", "euclidean")
VOTES = ("weighted", "majority")


def neighbours(bank: Tensor, queries: Tensor, k: int, distance: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The k nearest of the bank for each query, [N, D], [M, D] -> blocks of (closeness [m, k], index [m, k]), nearest first.

    Closeness is the cosine similarity, or minus the Euclidean distance. A zero vector is similar to nothing (0).
    """
    rows = max(1, CELLS // max(len(bank), k * bank.shape[1]))
    if distance == "cosine":
        bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
        for block in queries.split(rows):
            yield (block @ bank.T).topk(k, dim=1)
        return
    centre = bank.mean(dim=0)  # distances stay, and ‖a‖² + ‖b‖² - 2ab loses fewer digits near the origin
    bank, queries = bank - centre, queries - centre
    half_squares = bank.square().sum(dim=1) / 2
    for block in queries.split(rows):
        near = (block @ bank.T).sub_(half_squares).topk(k, dim=1).indices
        exact = torch.linalg.vector_norm(bank[near] - block[:, None], dim=2)  # digits lost above are found here
        away, order = exact.sort(dim=1, stable=True)
        yield -away, near.gather(1, order)


def vote_weights(closeness: Tensor, distance: str, vote: str) -> Tensor:
    """What each neighbour's vote counts, [m, k] -> [m, k].

    majority: 1. weighted: exp(similarity / 0.1) for cosine (Wu et al. 2018, section 3.4), 1 / distance for Euclidean, where
    neighbours at distance 0, if there are any, are the only ones to vote.
    """
    if vote == "majority":
        return torch.ones_like(closeness)
    if distance == "cosine":
        return (closeness / TEMPERATURE).exp()
    same = closeness == 0
    return torch.where(same.any(dim=1, keepdim=True), same.to(closeness.dtype), -1 / closeness)


def knn_predict(
    bank: Tensor, labels: Tensor, queries: Tensor, *, classes: int, ks: Iterable[int], distance: str = "cosine"
) -> dict[tuple[int, str], Tensor]:
    """Predicted classes for each k and vote, [N, D], [N], [M, D] -> {(k, "weighted" or "majority"): int64 [M]}.

    Every k reads the same search for neighbours; each is cut to the size of the bank. Equal votes go to the lower class.
    """
    ks = list(ks)
    predicted: dict[tuple[int, str], list[Tensor]] = {(k, vote): [] for k in ks for vote in VOTES}
    for closeness, index in neighbours(bank, queries, min(max(ks), len(bank)), distance):
        neighbour_labels = labels[index]
        for k, vote in predicted:
            votes = torch.zeros(len(index), classes, device=bank.device)
            votes.scatter_add_(1, neighbour_labels[:, :k], vote_weights(closeness[:, :k], distance, vote))
            predicted[k, vote].append(votes.argmax(dim=1))
    return {key: torch.cat(blocks) for key, blocks in predicted.items()}


def knn_accuracy(bank: Tensor, labels: Tensor, queries: Tensor, truth: Tensor, *, k: int, classes: int) -> float:
    """Share of queries that the weighted cosine vote of k neighbours gets right, in [0, 1]; NaN where there is one class only.

    Where nothing can be wrong, 1 would not be a measurement.
    """
    if classes < 2:
        return math.nan
    predicted = knn_predict(bank, labels, queries, classes=classes, ks=[k])[k, "weighted"]
    return float((predicted == truth).double().mean())
