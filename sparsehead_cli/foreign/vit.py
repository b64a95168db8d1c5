"""timm's vision transformer as the file's authors had it: its heads, its tokens and its positions.

`file` holds the tensors of one network of the file by timm's names (vit_names.py), `net` is timm's model of the name given.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign.layouts import Facts
from sparsehead_cli.foreign.tensors import plain
from sparsehead_cli.foreign.vit_positions import ORDERS, order_of, resized, side_of_grid

POOLS = {"class": "token", "average": "avg"}  # what r is, and what timm calls that
TOKENS = {pool: tokens for tokens, pool in POOLS.items()}
# beginnings of the names that only the network itself has; what the model lacks of them is an error
STRUCTURE = {"cls_token", "dist_token", "reg_token", "pos_embed", "patch_embed", "norm_pre", "norm", "fc_norm", "attn_pool"}


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


def with_positions(net: nn.Module, file: Mapping[str, Tensor], asked: int | None, facts: Facts, source: str) -> dict[str, Tensor]:
    """The tensors that change where `net`, made for the file, has positions for another size of images or adds them otherwise.

    `asked` is the side of the images that the user wants. Raises: SparseheadError that names the file's, where none is.
    """
    positions, kernel = file.get("pos_embed"), file.get("patch_embed.proj.weight")
    if not net.patch_embed.num_patches:
        raise SparseheadError(f"{source}: images of {asked} pixels hold no patch of {net.patch_embed.patch_size[0]}. Give more.")
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
    patch, old, side = net.patch_embed.patch_size[0], side_of_grid(positions.shape[1] - first), net.patch_embed.grid_size[0]
    if old == side:
        facts.take("image_size", read=net.patch_embed.img_size[0])
        return changed | {"pos_embed": positions}
    if asked is None:
        raise SparseheadError(
            f"{source}: its positions are for images of {old * patch} pixels, those of the model for {side * patch}. "
            f"Add --image-size {old * patch}, or another size to interpolate them."
        )
    return changed | {"pos_embed": resized(positions, first, side, way_of(positions, facts))}


def way_of(positions: Tensor, facts: Facts) -> str:
    """How positions of another size are made; those that a layout has fixed may be learned in this file."""
    known = facts.known.get("positions")
    learned = known in ORDERS and order_of(positions) is None
    return facts.take("positions", known="bicubic" if learned else known, guess="antialias")
