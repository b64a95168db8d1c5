"""Which patches of an image are hidden: masks over a grid, functions of the seed, the step and the image's row in the joined batch.

The loop seeds the device's generator by the seed and the step; each process draws for all rows and keeps its own.
"""

import torch
from torch import Tensor

from sparsehead_cli.ssl.contract import own_rows

TRIES = 16  # of blocks to hide, one after the other; those that do not fit are left out
BLOCK_ASPECTS = (0.3, 1 / 0.3)  # height to width of BEiT's blocks
TARGETS, CONTEXT = (0.15, 0.2), (0.85, 1.0)  # shares of the image that I-JEPA's blocks take
TARGET_ASPECTS = (0.75, 1.5)


def at_random(batch: int, rows: int, columns: int, share: float, device: torch.device) -> Tensor:
    """A random `share` of the places, rounded, but at least one and not all, bool [B, rows, columns]."""
    order = own_rows(torch.rand, batch, rows * columns, device=device).argsort(dim=1).argsort(dim=1)
    count = min(max(1, round(share * rows * columns)), rows * columns - 1)  # something to see, something to rebuild
    return (order < count).view(batch, rows, columns)


def in_units(batch: int, rows: int, columns: int, share: float, unit: int, device: torch.device) -> Tensor:
    """A random `share` of squares of unit x unit places, bool [B, rows, columns]; those at the border may be smaller."""
    hidden = at_random(batch, -(-rows // unit), -(-columns // unit), share, device)
    return hidden.repeat_interleave(unit, dim=1).repeat_interleave(unit, dim=2)[:, :rows, :columns]


def rectangles(area: Tensor, aspect: Tensor, place: Tensor, rows: int, columns: int, most: int) -> Tensor:
    """Rectangles of about `area` places whose height is about `aspect` times their width; [...], [...], [..., 2] -> [..., R, C].

    `place` in [0, 1) says where, from top to bottom and from left to right, as far as the rectangle has room. A side is at least 1
    and at most `most` less than the grid's.
    """
    inside = []
    for side, where, length in (((area * aspect).sqrt(), 0, rows), ((area / aspect).sqrt(), 1, columns)):
        side = side.round().clamp(1, max(1, length - most))
        first = (place[..., where] * (length - side + 1)).floor()
        along = torch.arange(length, device=area.device) - first.unsqueeze(-1)
        inside.append((along >= 0) & (along < side.unsqueeze(-1)))
    return inside[0].unsqueeze(-1) & inside[1].unsqueeze(-2)


def blockwise(batch: int, rows: int, columns: int, chance: float, shares: tuple[float, float], device: torch.device) -> Tensor:
    """Blocks that take a share, uniform between `shares`, of an image with this `chance`, else nothing; bool [B, rows, columns].

    Blocks come one after the other, uniform in area up to what is still to be hidden and log-uniform in aspect ratio; one that
    would hide more than that, or nothing new, is left out. So it may be a little less in the end, and never more.
    Source: BEiT (Bao et al. 2022), algorithm 1; iBOT (Zhou et al. 2022), section 3.3.
    """
    draws = own_rows(torch.rand, batch, 2 + 4 * TRIES, device=device)
    least, most = shares
    count = ((least + (most - least) * draws[:, 1]) * rows * columns).round().clamp(min=1) * (draws[:, 0] < chance)
    smallest = max(1, min(rows, columns) // 3) ** 2
    hidden = torch.zeros(batch, rows, columns, dtype=torch.bool, device=device)
    low, high = BLOCK_ASPECTS
    for draw in draws[:, 2:].unflatten(1, (TRIES, 4)).unbind(dim=1):
        left = count - hidden.sum(dim=(1, 2))
        area = smallest + draw[:, 0] * (left - smallest)
        block = rectangles(area.clamp(min=1), low * (high / low) ** draw[:, 1], draw[:, 2:], rows, columns, most=1)
        new = (block & ~hidden).sum(dim=(1, 2))
        hidden = hidden | (block & ((new > 0) & (new <= left))[:, None, None])
    return hidden


def multi_block(batch: int, rows: int, columns: int, blocks: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What is to be predicted, `blocks` rectangles that may overlap, bool [B, M, R, C], and what is seen, bool [B, R, C].

    Seen is one large square without the targets; where they would leave nothing of it, with them.
    Source: I-JEPA (Assran et al. 2023), section 3 and appendix A.
    """
    draws = own_rows(torch.rand, batch, blocks + 1, 4, device=device)
    area, aspect = (low + (high - low) * draws[:, :blocks, i] for i, (low, high) in enumerate((TARGETS, TARGET_ASPECTS)))
    targets = rectangles(area * rows * columns, aspect, draws[:, :blocks, 2:], rows, columns, most=1)
    area = (CONTEXT[0] + (CONTEXT[1] - CONTEXT[0]) * draws[:, blocks, 0]) * rows * columns
    block = rectangles(area, torch.ones_like(area), draws[:, blocks, 2:], rows, columns, most=0)
    seen = block & ~targets.any(dim=1)
    return targets, torch.where(seen.any(dim=(1, 2), keepdim=True), seen, block)


def hidden_first(hidden: Tensor, count: int) -> Tensor:
    """The numbers of `count` places of each image, the hidden ones before others, bool [B, R, C] -> int64 [B, count]."""
    return hidden.flatten(1).to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
