"""A vision transformer's positions for images of another size than those of the file, made as the authors of the weights make them.

Positions are [1, first + n², D]: the `first` ones are of the class token and of registers, and stay as they are.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

OFFSET = 0.1  # of a patch, added to the new side: DINO's guard against a side that is rounded down, which shifts all positions
SAME = 1e-3  # positions are up to 1 where they are sines and cosines


def side_of_grid(count: int) -> int | None:
    """The side of a square of `count` patches, None where they are no square."""
    side = math.isqrt(max(count, 0))
    return side if side > 0 and side * side == count else None


def resized(positions: Tensor, first: int, side: int, how: str) -> Tensor:
    """Positions for `side` x `side` patches, [1, first + n², D] -> [1, first + side², D]; `how` is a name in WAYS."""
    old = side_of_grid(positions.shape[1] - first)
    if how in ORDERS:
        grid = sines(side, positions.shape[2], rows_first=ORDERS[how])
    else:
        grid = positions[:, first:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
        grid = interpolated(grid, old, side, how).permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([positions[:, :first].float(), grid], dim=1)


def interpolated(grid: Tensor, old: int, side: int, how: str) -> Tensor:
    """Bicubic interpolation, [1, D, old, old] -> [1, D, side, side], with the offset, with antialiasing, or with neither."""
    if how == "offset":
        scale = (side + OFFSET) / old
        return F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return F.interpolate(grid, size=(side, side), mode="bicubic", antialias=how == "antialias")


def sines(side: int, dim: int, *, rows_first: bool) -> Tensor:
    """Fixed positions of `side` x `side` patches, [1, side², dim]: sine and cosine of the one coordinate, then of the other.

    Source: Chen, Xie & He 2021, whose code begins with the row, and He et al. 2022 and Assran et al. 2023, with the column.
    """
    count = dim // 4
    frequency = 10_000 ** -(torch.arange(count, dtype=torch.float64) / count)
    angle = torch.arange(side, dtype=torch.float64)[:, None] * frequency
    one = torch.cat([angle.sin(), angle.cos()], dim=1)  # of one coordinate, [side, dim / 2]
    row, column = one[:, None].expand(side, side, -1), one[None].expand(side, side, -1)
    return torch.cat([row, column] if rows_first else [column, row], dim=2).reshape(1, side * side, -1).float()


def order_of(positions: Tensor) -> str | None:
    """Which of ORDERS the fixed positions in a file are of, [1, (1 +) n², D]; None where they are learned."""
    plain = not (positions.is_nested or positions.is_quantized) and positions.layout == torch.strided and positions.is_cpu
    if not plain or positions.ndim != 3 or positions.shape[2] % 4 or not positions.dtype.is_floating_point:
        return None
    for first in (0, 1):
        side = side_of_grid(positions.shape[1] - first)
        if side is not None and side > 1:
            grid = positions[:, first:].float()
            for how, rows_first in ORDERS.items():
                if (sines(side, positions.shape[2], rows_first=rows_first) - grid).abs().max() < SAME:
                    return how
    return None


# what fixed positions begin with
ORDERS = {"rows": True, "columns": False}
# how positions become those of another size: bicubic, and three ways of it, or computed anew
WAYS = ("bicubic", "offset", "antialias", *ORDERS)
