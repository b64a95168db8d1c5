"""Known layouts of vision transformers' files: what their shapes do not show, as data.

A row says how files of one origin are recognised and what holds of them; layouts.py says what becomes of that. `tokens` is what
r is (the class token behind the last norm, or the average of the patches' tokens), `positions` how those of another size are
made (vit_positions.py), `heads` are by the width. The fixed positions in a file are the best sign of who made it.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from sparsehead_cli.foreign.layouts import IMAGENET, SOLO_LEARN, Contents, Layout
from sparsehead_cli.foreign.vit_positions import order_of

USUAL = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1536: 24}  # attention heads by width: 64 to 88 channels each
TWELVE = {**USUAL, 192: 12, 384: 12}  # MoCo v3 and what grew from it
POSITIONS = r"(?:^|\.)(?:pos_embed|embeddings\.position_embeddings)$"
CLASS_TOKEN = r"(?:^|\.)cls_token$"
HUGGING_FACE = r"(?:^|\.)embeddings\.patch_embeddings\.projection\.weight$"
HUGGING_FACE_SCALE = r"\.layer_scale1\.lambda1$"
MASK_TOKEN = r"(?:^|\.)mask_token$"
REGISTERS = r"(?:^|\.)register_tokens$"
METHOD = r"method|method_name"
Holds = Callable[[Contents], bool]


def fixed(file: Contents) -> str | None:
    """The order of the sines and cosines that the file's positions are; None where they are learned or not there."""
    return order_of(first(file.tensors, POSITIONS)) if file.has(POSITIONS) else None


def first(tensors: Mapping[str, Tensor], pattern: str) -> Tensor:
    """The first tensor whose name fits."""
    return next(value for name, value in tensors.items() if Contents({name: value}).has(pattern))


def row(
    name: str, holds: Holds, heads: Mapping[int, int] = USUAL, *, positions: str, tokens: str = "class", **facts: object
) -> Layout:
    """A layout of weights that were trained on images normalised as ImageNet's."""
    return Layout(name, holds, {**IMAGENET, "heads": heads, "positions": positions, "tokens": tokens, **facts})


def solo_learn(name: str, holds: Holds, heads: Mapping[int, int], positions: str | None = None) -> Layout:
    """A layout of solo-learn's files, which name the data set whose images are normalised in its own way."""
    facts = {"heads": heads, "positions": positions, "tokens": "class", "branch": "trained", "activation": "relu"}
    return Layout(name, holds, facts, by_dataset=SOLO_LEARN["by_dataset"])


def is_solo_learn(file: Contents) -> bool:
    """A file of Lightning's with an online classifier or a decoder beside the backbone."""
    beside = file.has(r"(?:^|\.)classifier\.weight$") or file.has(r"(?:^|\.)decoder\.decoder_embed\.")
    return "pytorch-lightning_version" in file.hints and file.has(r"(?:^|\.)backbone\.patch_embed\.proj\.weight$") and beside


def is_mocov3(file: Contents) -> bool:
    """A base encoder, or fixed positions in an order that only MoCo v3 has."""
    return file.has(r"(?:^|\.)base_encoder\.") or fixed(file) == "rows"


def is_msn(file: Contents) -> bool:
    """A target encoder with MSN's three-layer head beside it."""
    return file.has(r"^target_encoder\.", r"(?:^|\.)fc\.fc1\.weight$")


def is_ijepa(file: Contents) -> bool:
    """No class token, and a target encoder or MAE's fixed positions."""
    return not file.has(CLASS_TOKEN) and (file.has(r"^target_encoder\.") or fixed(file) == "columns")


def is_dinov2(file: Contents) -> bool:
    """Layer scale with a token for masked patches, or blocks in chunks."""
    return file.has(MASK_TOKEN, r"\.ls1\.gamma$") or file.has(r"(?:^|\.)blocks\.\d+\.\d+\.norm1\.weight$")


def is_ibot(file: Contents) -> bool:
    """What stands for masked patches, or a second last layer, for the patches."""
    return file.has(r"(?:^|\.)masked_embed$") or file.has(r"\.last_layer2\.")


def is_dino(file: Contents) -> bool:
    """A teacher, and DINO's head."""
    return file.has(r"(?:^|\.)teacher\.", r"last_layer\.|head\.mlp\.")


# the first that holds is taken
VITS: tuple[Layout, ...] = (
    row(
        "Hugging Face's DINOv2 with registers",
        lambda file: file.has(HUGGING_FACE, r"embeddings\.register_tokens$"),
        positions="antialias",
    ),
    row("Hugging Face's DINOv2", lambda file: file.has(HUGGING_FACE, HUGGING_FACE_SCALE), positions="bicubic"),
    row(
        "Hugging Face's I-JEPA",
        lambda file: file.has(HUGGING_FACE) and not file.has(CLASS_TOKEN),
        positions="bicubic",
        tokens="average",
    ),
    row(
        "Hugging Face's ViTMAE",
        lambda file: file.has(HUGGING_FACE) and (file.has(r"decoder\.decoder_embed\.") or fixed(file) == "columns"),
        positions="bicubic",
    ),
    Layout("Hugging Face's ViT", lambda file: file.has(HUGGING_FACE), {"positions": "bicubic", "tokens": "class"}),
    solo_learn("solo-learn's MoCo v3", lambda file: is_solo_learn(file) and file.says(METHOD, "mocov3"), TWELVE, "rows"),
    solo_learn("solo-learn's MAE", lambda file: is_solo_learn(file) and file.has(r"decoder\.decoder_embed\."), TWELVE, "bicubic"),
    solo_learn("solo-learn", is_solo_learn, USUAL),
    row("MoCo v3", is_mocov3, TWELVE, positions="rows", activation="relu"),
    row("MSN", is_msn, positions="bicubic", branch="target", activation="gelu"),
    row("I-JEPA", is_ijepa, positions="columns", tokens="average", branch="target"),
    row("DINOv2 with registers", lambda file: file.has(REGISTERS), positions="antialias", branch="teacher", activation="gelu"),
    row("DINOv2", is_dinov2, positions="offset", branch="teacher", activation="gelu"),
    row("iBOT", is_ibot, positions="offset", branch="teacher", activation="gelu"),
    row("DINO", is_dino, positions="offset", branch="teacher", activation="gelu"),
    row("MAE", lambda file: file.has(r"(?:^|\.)decoder_embed\.") or fixed(file) == "columns", positions="bicubic"),
)
