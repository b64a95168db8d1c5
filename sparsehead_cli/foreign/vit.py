"""timm's vision transformer as the authors of a file had it: the names of its tensors, its heads, its tokens and its positions.

`file` holds the tensors of one network of the file by timm's names, `net` is timm's model of the name given. Positions are
[1, first + n², D]: the `first` ones are of the class token and of registers, and stay as they are.
"""

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign.facts import Facts
from sparsehead_cli.foreign.layouts import VIT_NAMES
from sparsehead_cli.foreign.tensors import plain

POOLS = {"class": "token", "average": "avg"}  # what r is, and what timm calls that
TOKENS = {pool: tokens for tokens, pool in POOLS.items()}
# beginnings of the names that only the network itself has; what the model lacks of them is an error
STRUCTURE = {"cls_token", "dist_token", "reg_token", "pos_embed", "patch_embed", "norm_pre", "norm", "fc_norm", "attn_pool"}
ORDERS = {"rows": True, "columns": False}  # what fixed positions begin with, and whether that is the row
OFFSET = 0.1  # of a patch, added to the new side: DINO's guard against a side that is rounded down, which shifts all positions
SAME = 1e-3  # positions are up to 1 where they are sines and cosines

# ---------------------------------------------------------------------------------------------- names


def timms_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with timm's names for those of vision transformers; query, key and value become one [3 D, D]."""
    places = {}
    for sign, table in VIT_NAMES:
        for name in tensors:
            if match := re.fullmatch(rf"((?:.*\.)?){sign}", name):
                places[match[1]] = table
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        ends = [0, *(match.end() for match in re.finditer(r"\.", name))]
        prefix = next((name[:end] for end in reversed(ends) if name[:end] in places), "")
        new = name
        for pattern, timms in places.get(prefix, ()):
            if match := re.fullmatch(pattern, name.removeprefix(prefix)):
                new = prefix + match.expand(timms)
                break
        renamed[name if new in renamed else new] = value
    return joined(renamed)


def joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value of each block as timm has them: one layer, the query first. Where one is missing all stay apart."""
    whole: dict[str, Tensor] = {}
    for name, value in tensors.items():
        match = re.fullmatch(r"((?:.*\.)?blocks\.\d+\.attn\.)[qkv]\.(weight|bias)", name)
        names = [f"{match[1]}{part}.{match[2]}" for part in "qkv"] if match else []
        parts = [tensors[part] for part in names if part in tensors]
        plain_ones = [part for part in parts if part.layout == torch.strided and not part.is_nested and not part.is_quantized]
        kinds = {(part.shape, part.dtype, part.device.type) for part in plain_ones}
        if len(plain_ones) < 3 or len(kinds) > 1 or parts[0].ndim not in (1, 2):
            whole[name] = value
        elif name == names[0]:
            whole[f"{match[1]}qkv.{match[2]}"] = torch.cat(parts)
    return whole


# ---------------------------------------------------------------------------------------------- heads and tokens


def settings_of(net: nn.Module, file: Mapping[str, Tensor], facts: Facts, source: str) -> dict[str, object]:
    """What timm's model must be made with to be the file's: only what differs from timm's.

    Raises: SparseheadError for a number of heads that does not divide the width.
    """
    settings: dict[str, object] = {}
    heads = net.blocks[0].attn.num_heads
    by_width = facts.known.get("heads")
    facts.known["heads"] = by_width.get(net.embed_dim) if isinstance(by_width, Mapping) else by_width
    taken = facts.take("heads", guess=heads)
    if net.embed_dim % taken:
        raise SparseheadError(f"{source}: {taken} heads do not divide a width of {net.embed_dim}. Give another --assume heads=N.")
    if taken != heads:
        settings["num_heads"] = taken
    has_class = has_class_token(net, file)
    if has_class != net.has_class_token:
        settings["class_token"] = has_class
    registers = count_of(file, "reg_token")
    if registers and registers != net.num_reg_tokens:
        settings |= {"reg_tokens": registers, "no_embed_class": True}
    if "blocks.0.ls1.gamma" in file and isinstance(net.blocks[0].ls1, nn.Identity):
        settings["init_values"] = 1.0
    return settings | pooling_of(net, file, has_class, facts, source)


def has_class_token(net: nn.Module, file: Mapping[str, Tensor]) -> bool:
    """Whether the file's network has a class token; timm's has where the file has lost its own."""
    return "cls_token" in file or (net.has_class_token and side_of_grid(count_of(file, "pos_embed")) is None)


def count_of(file: Mapping[str, Tensor], name: str) -> int:
    """How many tokens a tensor [1, tokens, D] holds; 0 where it is not there or of another kind."""
    value = file.get(name)
    return value.shape[1] if value is not None and not value.is_nested and value.ndim == 3 else 0


def pooling_of(net: nn.Module, file: Mapping[str, Tensor], has_class: bool, facts: Facts, source: str) -> dict[str, object]:
    """What r is, as timm's settings; none for a model that pools in a way of its own.

    Raises: SparseheadError for the class token of a network that has none.
    """
    if net.global_pool not in TOKENS:
        return {}
    after = "fc_norm.weight" in file  # the last norm stands behind the average
    known_norm = after or "norm.weight" in file
    tokens = facts.take("tokens", read="average" if after or not has_class else None, guess=TOKENS[net.global_pool])
    if tokens == "class" and not has_class:
        raise SparseheadError(f"{source}: its vision transformer has no class token: --assume tokens=average.")
    settings: dict[str, object] = {}
    if POOLS[tokens] != net.global_pool:
        settings["global_pool"] = POOLS[tokens]
    if settings or (known_norm and after != isinstance(net.fc_norm, nn.LayerNorm)):
        settings["fc_norm"] = after if known_norm else isinstance(net.fc_norm, nn.LayerNorm)
    return settings


# ---------------------------------------------------------------------------------------------- positions


def with_positions(net: nn.Module, file: Mapping[str, Tensor], size: int | None, facts: Facts, source: str) -> dict[str, Tensor]:
    """The tensors that change where `net`, made for the file, has positions for another size of images or adds them otherwise.

    `size` is the side of the images that the user wants. Raises: SparseheadError that names the file's, where none is.
    """
    positions, kernel, patch = file.get("pos_embed"), file.get("patch_embed.proj.weight"), net.patch_embed.patch_size[0]
    if not net.patch_embed.num_patches:
        raise SparseheadError(f"{source}: images of {size} pixels hold no patch of {patch}. Give more.")
    firsts = (0, 1) if net.no_embed_class else (net.num_prefix_tokens, 1, 0)
    first = next((n for n in firsts if side_of_grid(count_of(file, "pos_embed") - n)), None)
    fits = first is not None and net.pos_embed is not None and positions.shape[::2] == (1, net.embed_dim)
    if not fits or kernel is None or kernel.is_nested or kernel.shape != net.patch_embed.proj.weight.shape:
        return {}  # what does not fit is reported with all the rest
    positions, changed = plain("pos_embed", positions, source), {}
    if first == 1 and net.no_embed_class and count_of(file, "cls_token") == 1:  # timm gives patches alone a position
        token = plain("cls_token", file["cls_token"], source)
        if token.shape != positions[:, :1].shape:
            return {}
        changed["cls_token"] = token + positions[:, :1]
        positions, first = positions[:, 1:], 0
    old, side = side_of_grid(positions.shape[1] - first), net.patch_embed.grid_size[0]
    if old == side:
        facts.take("image_size", read=net.patch_embed.img_size[0])
        return changed | {"pos_embed": positions}
    if size is None:
        raise SparseheadError(
            f"{source}: its positions are for images of {old * patch} pixels, those of the model for {side * patch}. "
            f"Add --image-size {old * patch}, or another size to interpolate them."
        )
    known = facts.known.get("positions")
    if known in ORDERS and order_of(positions) is None:  # they are fixed in this layout, and learned in this file
        known = "bicubic"
    way = facts.take("positions", known=known, guess="antialias")
    return changed | {"pos_embed": resized(positions, first, side, way)}


def side_of_grid(count: int) -> int | None:
    """The side of a square of `count` patches, None where they are no square."""
    side = math.isqrt(max(count, 0))
    return side if side > 0 and side * side == count else None


def resized(positions: Tensor, first: int, side: int, how: str) -> Tensor:
    """Positions for `side` x `side` patches, [1, first + n², D] -> [1, first + side², D]; `how` is one of --assume positions."""
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


def fixed_order(tensors: Mapping[str, Tensor]) -> str | None:
    """Which of ORDERS the fixed positions in a file are of, by whatever name; None where they are learned or not there."""
    names = [name for name in tensors if re.search(r"(^|\.)(pos_embed|embeddings\.position_embeddings)$", name)]
    return order_of(tensors[names[0]]) if names else None


def order_of(positions: Tensor) -> str | None:
    """Which of ORDERS these positions [1, (1 +) n², D] are of; None where they are learned."""
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
