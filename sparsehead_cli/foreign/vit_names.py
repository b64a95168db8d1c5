"""A vision transformer's tensors under the names that timm gives them, whoever saved them. The names are data.

tensors = timms_names(tensors)                          # "vit.encoder.layer.0.attention.output.dense.weight" ->
                                                        # "vit.blocks.0.attn.proj.weight"
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

BLOCK = r"(?:encoder\.layer|layers)\.(\d{1,3})\."
PARTS = r"(weight|bias)"
# Hugging Face: ViT, DeiT, ViTMAE, ViTMSN, I-JEPA, DINOv2 (also with registers), in files and in memory since version 5
HUGGING_FACE: tuple[tuple[str, str], ...] = (
    (r"embeddings\.(cls_token|mask_token)", r"\1"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (rf"embeddings\.patch_embeddings\.projection\.{PARTS}", r"patch_embed.proj.\1"),
    (rf"{BLOCK}(?:layernorm_before|norm1)\.{PARTS}", r"blocks.\1.norm1.\2"),
    (rf"{BLOCK}(?:layernorm_after|norm2)\.{PARTS}", r"blocks.\1.norm2.\2"),
    (rf"{BLOCK}attention\.(?:attention\.query|q_proj)\.{PARTS}", r"blocks.\1.attn.q.\2"),
    (rf"{BLOCK}attention\.(?:attention\.key|k_proj)\.{PARTS}", r"blocks.\1.attn.k.\2"),
    (rf"{BLOCK}attention\.(?:attention\.value|v_proj)\.{PARTS}", r"blocks.\1.attn.v.\2"),
    (rf"{BLOCK}attention\.(?:output\.dense|o_proj)\.{PARTS}", r"blocks.\1.attn.proj.\2"),
    (rf"{BLOCK}(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.{PARTS}", r"blocks.\1.mlp.fc1.\2"),
    (rf"{BLOCK}(?:output\.dense|mlp\.fc2|mlp\.weights_out)\.{PARTS}", r"blocks.\1.mlp.fc2.\2"),
    (rf"{BLOCK}layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (rf"layernorm\.{PARTS}", r"norm.\1"),
)
# the code of DINOv2 and iBOT: registers, SwiGLU, layer scale, and blocks in chunks, whose second number goes on in the next
CHUNK = r"blocks\.(?:\d{1,3}\.)?(\d{1,3})\."
AUTHORS: tuple[tuple[str, str], ...] = (
    (r"register_tokens", "reg_token"),
    (rf"{CHUNK}mlp\.w12\.{PARTS}", r"blocks.\1.mlp.fc1.\2"),
    (rf"{CHUNK}mlp\.w3\.{PARTS}", r"blocks.\1.mlp.fc2.\2"),
    (rf"{CHUNK}gamma_([12])", r"blocks.\1.ls\2.gamma"),
    (rf"{CHUNK}(.+)", r"blocks.\1.\2"),
)
# the tensor by which a place in the file is known to have names of the one or the other kind
SIGNS = ((r"embeddings\.patch_embeddings\.projection\.weight", HUGGING_FACE), (r"patch_embed\.proj\.weight", AUTHORS))


def timms_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with timm's names for those of vision transformers; query, key and value become one [3 D, D]."""
    signs = [(re.compile(rf"((?:.*\.)?){sign}"), table) for sign, table in SIGNS]
    places = {match[1]: table for sign, table in signs for match in filter(None, map(sign.fullmatch, tensors))}
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        ends = [0, *(match.end() for match in re.finditer(r"\.", name))]
        prefix = next((name[:end] for end in reversed(ends) if name[:end] in places), None)
        new = name if prefix is None else prefix + timms_name(name.removeprefix(prefix), places[prefix])
        renamed[name if new in renamed else new] = value
    return joined(renamed)


def timms_name(name: str, table: tuple[tuple[str, str], ...]) -> str:
    """One name behind its prefix in timm's words; itself where the table says nothing of it."""
    for pattern, new in table:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(new)
    return name


def joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value of each block as timm has them: one layer, the query first. Where one is missing all stay apart."""
    whole: dict[str, Tensor] = {}
    for name, value in tensors.items():
        match = re.fullmatch(rf"((?:.*\.)?blocks\.\d+\.attn\.)[qkv]\.{PARTS}", name)
        names = [f"{match[1]}{part}.{match[2]}" for part in "qkv"] if match else []
        if not names or not can_join([tensors.get(part) for part in names]):
            whole[name] = value
        elif name == names[0]:
            whole[f"{match[1]}qkv.{match[2]}"] = torch.cat([tensors[part] for part in names])
    return whole


def can_join(parts: list[Tensor | None]) -> bool:
    """Whether these are three plain tensors of one shape and kind."""
    if any(part is None or part.is_nested or part.is_quantized or part.layout != torch.strided for part in parts):
        return False
    return len({(part.shape, part.dtype, part.device.type) for part in parts}) == 1 and parts[0].ndim in (1, 2)
