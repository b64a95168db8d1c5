"""TF-IDF: sentences as the words in them, the base line without any network."""

import torch
from torch import Tensor, nn

from sparsehead_cli.data.contract import Inputs, Source
from sparsehead_cli.measure.features import BATCH

WIDEST = 4_096  # pieces of words, at most, that are counted


class Words(nn.Module):
    """TF-IDF of the pieces of words, the base line without any network: tokens -> {"words": [B, K]}, each row of length 1.

    K pieces are counted, those that the most training sentences have; 1 + log of the count, times 1 + log(N / sentences with it).
    """

    names = ("words",)

    def __init__(self, train: Source) -> None:
        super().__init__()
        size = int(max(batch.inputs["input_ids"].max() for batch in train.batches(BATCH))) + 1
        having = sum(present(batch.inputs, size).sum(dim=0) for batch in train.batches(BATCH))
        pieces = having.argsort(descending=True, stable=True)[: min(WIDEST, int((having > 0).sum()))].sort().values
        column = torch.full((size + 1,), -1, device=pieces.device)
        column[pieces] = torch.arange(len(pieces), device=pieces.device)
        self.register_buffer("column", column)  # of each piece, -1 for one that is not counted
        self.register_buffer("idf", 1 + (len(train) / having[pieces].float()).log())

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        ids = inputs["input_ids"].long().clamp(max=len(self.column) - 1)
        columns = self.column[ids]
        counted = (columns >= 0) & inputs["attention_mask"].bool()
        counts = torch.zeros(len(ids), len(self.idf), device=ids.device).scatter_add_(1, columns.clamp(min=0), counted.float())
        return {"words": nn.functional.normalize(torch.where(counts > 0, 1 + counts.log(), 0) * self.idf, dim=1)}


def present(inputs: Inputs, size: int) -> Tensor:
    """Which of `size` pieces each sentence has, bool [B, size]."""
    ids, mask = inputs["input_ids"].long(), inputs["attention_mask"].bool()
    return torch.zeros(len(ids), size, dtype=torch.bool, device=ids.device).scatter_(1, ids, mask) & (torch.arange(size) > 0)
