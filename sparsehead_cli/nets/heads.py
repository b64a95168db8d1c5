"""Representation r -> embedding z: projectors."""

from collections.abc import Sequence

from torch import nn

from sparsehead_cli.errors import SparseheadError


def make_projector(dim: int, hidden: Sequence[int], out: int, *, batch_norm: bool = True) -> nn.Sequential:
    """An MLP [B, dim] -> [B, out]: Linear (BatchNorm) ReLU for every hidden width, then a Linear.

    Each width in `hidden` is one hidden layer, so () is a linear head. A Linear before BatchNorm has no bias: the norm
    would remove it. Source: SimCLR (Chen et al. 2020), section 4.2; the head's output has no BatchNorm.
    """
    if min(dim, out, *hidden) < 1:
        raise SparseheadError(f"projector widths must be at least 1, given hidden {list(hidden)} and out {out}.")
    layers: list[nn.Module] = []
    for width in hidden:
        layers.append(nn.Linear(dim, width, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU(inplace=True))
        dim = width
    return nn.Sequential(*layers, nn.Linear(dim, out))
