"""How sparse a head is: by the norms of its groups, and by what it does."""

import torch
from torch import Tensor, nn

from sparsehead_cli.sparse.penalties import group_norms
from sparsehead_cli.sparse.sparse_head import SparseHead

ACTIVE_SHARE = 0.01  # a group is active when its norm is above this share of the largest in its layer
TOLERANCE = 0.01  # relative error of the embedding that a functionally inactive feature may cause


def active_groups(weight: Tensor, groups: str) -> Tensor:
    """How many groups of a weight have a norm above 1 % of the largest, [out, in] -> int64 []."""
    norms = group_norms(weight, groups)
    return (norms > ACTIVE_SHARE * norms.max()).sum()


@torch.no_grad()
def functional_features(projector: nn.Module, first: Tensor, r: Tensor, tolerance: float = TOLERANCE) -> int:
    """The fewest features of r [N, D] that keep the embedding within `tolerance`, an upper bound found by bisection.

    `first` [out, D] is the weight that reads r. Features are ranked by what they contribute to that layer, the column's
    norm times the feature's standard deviation, and dropped from the end of that list; a dropped feature is replaced by
    its mean over the N samples (which pruning folds into the bias). The error is ‖z_kept - z‖_F / ‖z - mean(z)‖_F.
    Unlike the norms this cannot be fooled by a BatchNorm that undoes a layer's scale. `projector` must be in eval mode.
    A constant embedding needs no feature: 0.
    """
    mean = r.mean(dim=0)
    order = (torch.linalg.vector_norm(first, dim=0) * r.std(dim=0)).argsort(descending=True)
    z = projector(r)
    scale = torch.linalg.vector_norm(z - z.mean(dim=0))

    def close_enough(k: int) -> bool:
        kept = torch.zeros_like(mean, dtype=torch.bool).index_fill_(0, order[:k], True)
        error = torch.linalg.vector_norm(projector(torch.where(kept, r, mean)) - z)
        return bool(error <= tolerance * scale)

    low, high = 0, r.shape[1]  # `high` features are always enough
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if close_enough(middle) else (middle + 1, high)
    return high


def head_sparsity(sparse: SparseHead, r: Tensor) -> dict[str, float]:
    """The sparsity columns of metrics.csv, for representations r [N, D] and a projector in eval mode.

    groups, active_groups: of all penalised layers, by norm. features, active_features: inputs of the first layer, by norm.
    functional_features: see there.
    """
    weights = sparse.weights()
    first = weights[0]
    return {
        "penalty_value": sparse.value_of_penalty().item(),
        "groups": sum(group_norms(w, sparse.groups).numel() for w in weights),
        "active_groups": sum(int(active_groups(w, sparse.groups)) for w in weights),
        "features": first.shape[1],
        "active_features": int(active_groups(first, "input")),
        "functional_features": functional_features(sparse.projector, first, r),
    }
