"""Representation r -> embedding z: projectors; and what reads z: predictors (an `mlp`) and the decoder."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsehead_cli.errors import SparseheadError, unknown

PROJECTORS = ("mlp", "none", "orthogonal", "direct")


def make_projector(dim: int, hidden: Sequence[int], out: int, *, batch_norm: bool = True, kind: str = "mlp") -> nn.Module:
    """A projector [B, dim] -> [B, E].

    "mlp" (E = out) is the usual one. "none" is no projector at all: z is r, E = dim. "orthogonal" (E = out) is linear, its
    orthonormal rows drawn once and never trained. "direct" is DirectCLR (Jing et al. 2022): z is the first E = out
    dimensions of r. `hidden` and `batch_norm` matter to "mlp" only.

    Raises: SparseheadError for an unknown kind, widths below 1, and an `out` above dim where z is a part of r.
    """
    if kind not in PROJECTORS:
        raise unknown("projector", kind, PROJECTORS)
    if kind == "mlp":
        return mlp(dim, hidden, out, batch_norm=batch_norm)
    if kind == "none":
        return nn.Identity()
    if not 1 <= out <= dim:
        raise SparseheadError(f"projector_out must be between 1 and {dim} for projector {kind}, given {out}.")
    return FirstFeatures(out) if kind == "direct" else orthogonal(dim, out)


def mlp(dim: int, hidden: Sequence[int], out: int, *, batch_norm: bool = True) -> nn.Sequential:
    """[B, dim] -> [B, out]: Linear (BatchNorm) ReLU for every hidden width, then a Linear.

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


def orthogonal(dim: int, out: int) -> nn.Linear:
    """A fixed linear map with orthonormal rows, [B, dim] -> [B, out]; its weight is never trained."""
    layer = nn.Linear(dim, out, bias=False)
    nn.init.orthogonal_(layer.weight)
    return layer.requires_grad_(False)


class FirstFeatures(nn.Module):
    """The first `count` features, [B, D] -> [B, count]. Source: DirectCLR (Jing et al. 2022), section 6."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, r: Tensor) -> Tensor:
        return r[:, : self.count]


class Decoder(nn.Module):
    """Embedding [B, E] -> image [B, *image]: a linear layer to a small map, then transposed convolutions that double it.

    The map starts at a side of at most START and 64 channels; what the last doubling makes too much is cut off.
    """

    def __init__(self, dim: int, image: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = image
        self.image, doublings = image, 0
        while max(height, width) > START:
            height, width, doublings = -(-height // 2), -(-width // 2), doublings + 1
        self.start = (WIDTH, height, width)
        layers: list[nn.Module] = []
        for i in range(doublings):
            wide, narrow = max(WIDTH >> i, 16), max(WIDTH >> (i + 1), 16)
            layers += [nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
            layers.append(nn.ConvTranspose2d(wide, channels if i == doublings - 1 else narrow, 4, stride=2, padding=1))
        self.spread = nn.Linear(dim, WIDTH * height * width)
        self.grow = nn.Sequential(*layers) if layers else nn.Conv2d(WIDTH, channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.spread(z).unflatten(1, self.start).contiguous(memory_format=torch.channels_last)
        return self.grow(x)[:, :, : self.image[1], : self.image[2]]


START = 8  # largest side of the map that the decoder starts from
WIDTH = 64  # its channels
