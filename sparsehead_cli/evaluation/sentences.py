"""What is measured of sentences alone: how far the similarity of their features is that which people see."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sparsehead_cli.data.sts import read_sts
from sparsehead_cli.data.tokens import tokens_of
from sparsehead_cli.evaluation.task import Outcome, Task
from sparsehead_cli.measure.features import extract

MEAN = "mean of sets"


def sts(task: Task) -> Iterator[Outcome]:
    """Spearman's ρ of cosine similarity with people's scores of pairs of sentences, all pairs of a set as one; and their mean.

    Source: SentEval (Conneau & Kiela 2018); as in the tables of Gao et al. 2021 (SimCSE, appendix B: "all").
    """
    subject = task.subject
    found: dict[str, list[float]] = {}
    for pairs in read_sts(task.settings.sts):
        sentences = list(dict.fromkeys((*pairs.first, *pairs.second)))
        features = extract(subject.network, tokens_of(sentences, subject.vocabulary).to(subject.device), subject.prepare)
        place = {sentence: i for i, sentence in enumerate(sentences)}
        for name in subject.features:
            directions = nn.functional.normalize(features[name].double(), dim=1)
            one, other = (directions[[place[sentence] for sentence in side]] for side in (pairs.first, pairs.second))
            rho, low, high = spearman((one * other).sum(dim=1).cpu(), torch.tensor(pairs.scores))
            found.setdefault(name, []).append(rho)
            columns = {"features": name, "eval_dataset": pairs.name, "n_train": 0, "n_val": 0, "n_test": len(pairs.scores)}
            yield Outcome({**columns, "metric": "spearman", "value": rho, "low": low, "high": high})
    for name, values in found.items():
        columns = {"features": name, "eval_dataset": MEAN, "n_train": 0, "n_val": 0, "n_test": len(values)}
        yield Outcome({**columns, "metric": "spearman", "value": sum(values) / len(values)})


def spearman(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """Spearman's ρ of two lists [N], and its 95 % interval by Fisher's transform with the variance of Bonett & Wright 2000."""
    from scipy.stats import spearmanr  # takes a moment to import

    rho = float(spearmanr(a.numpy(), b.numpy()).statistic)
    if math.isnan(rho) or len(a) < 4:
        return rho, math.nan, math.nan
    half = 1.959964 * math.sqrt((1 + rho**2 / 2) / (len(a) - 3))
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, rho)))
    return rho, math.tanh(z - half), math.tanh(z + half)
