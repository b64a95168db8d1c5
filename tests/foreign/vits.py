"""A vision transformer written from the papers, against which the ones that are read from files are compared.

    vit = Reference(dim=64, depth=6, heads=4).eval()
    r = vit(images)                                         # [B, 64]: the class token, or the average of the patches' tokens

Source: Dosovitskiy et al. 2021; layer scale: Touvron et al. 2021; registers: Darcet et al. 2024; fixed positions: Chen, Xie &
He 2021 (MoCo v3) and He et al. 2022 (MAE). Names are those of the first releases, which DINO, MAE and MoCo v3 share with timm.
"""

import math

import torch
from torch import Tensor, nn


class Reference(nn.Module):
    """Images [B, 3, h, h] -> r [B, dim]. `tokens` is "class" or "average"; `image` the size that its positions are for."""

    def __init__(
        self, dim=64, depth=6, heads=4, *, patch=16, image=32, mlp=3, tokens="class", registers=0, scale=False, has_class=True
    ):
        super().__init__()
        side = image // patch
        self.heads, self.tokens, self.has_class = heads, tokens, has_class
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, patch, stride=patch)})
        if has_class:
            self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        if registers:
            self.register_tokens = nn.Parameter(torch.randn(1, registers, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, side**2 + has_class, dim))
        self.blocks = nn.ModuleList(block(dim, mlp, scale) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        for name, value in self.named_parameters():  # far from the usual initial values, so that nothing cancels
            if value.ndim == 1:
                nn.init.normal_(value, mean=float(name.endswith(("weight", "gamma"))), std=0.3)
            elif name.startswith(("blocks", "patch_embed")):
                nn.init.normal_(value, std=1.5 / math.sqrt(value[0].numel()))

    @torch.no_grad()
    def forward(self, images: Tensor, positions: Tensor | None = None) -> Tensor:
        """`positions` are used in place of its own, as for images of another size."""
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        if self.has_class:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + (self.pos_embed if positions is None else positions)
        first = int(self.has_class)
        if hasattr(self, "register_tokens"):
            x = torch.cat([x[:, :first], self.register_tokens.expand(len(x), -1, -1), x[:, first:]], dim=1)
            first += self.register_tokens.shape[1]
        for layer in self.blocks:
            y = attention(layer["attn"], layer["norm1"](x), self.heads)
            x = x + (y * layer["ls1"]["gamma"] if "ls1" in layer else y)
            y = layer["mlp"]["fc2"](nn.functional.gelu(layer["mlp"]["fc1"](layer["norm2"](x))))
            x = x + (y * layer["ls2"]["gamma"] if "ls2" in layer else y)
        x = self.norm(x)
        return x[:, 0] if self.tokens == "class" else x[:, first:].mean(dim=1)


def block(dim: int, mlp: int, scale: bool) -> nn.ModuleDict:
    """The layers of one block, by their published names."""
    layers = {
        "norm1": nn.LayerNorm(dim, eps=1e-6),
        "attn": nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)}),
        "norm2": nn.LayerNorm(dim, eps=1e-6),
        "mlp": nn.ModuleDict({"fc1": nn.Linear(dim, mlp * dim), "fc2": nn.Linear(mlp * dim, dim)}),
    }
    scales = {name: nn.ParameterDict({"gamma": torch.ones(dim)}) for name in ("ls1", "ls2") if scale}
    return nn.ModuleDict({**layers, **scales})


def attention(layers: nn.ModuleDict, x: Tensor, heads: int) -> Tensor:
    """Scaled dot-product attention, one head after another, [B, T, D] -> [B, T, D]."""
    q, k, v = layers["qkv"](x).chunk(3, dim=-1)
    out = []
    for a, b, c in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        out.append(torch.softmax(a @ b.transpose(1, 2) / math.sqrt(a.shape[-1]), dim=-1) @ c)
    return layers["proj"](torch.cat(out, dim=-1))


def bicubic(old: int, new: int, scale: float | None = None) -> Tensor:
    """The matrix [new, old] of Keys' cubic convolution (a = -0.75), not antialiased; `scale` is new / old but for DINO's offset."""
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        place = (i + 0.5) / (scale or new / old) - 0.5
        for j in range(math.floor(place) - 1, math.floor(place) + 3):
            t = abs(place - j)
            near = (1.25 * t - 2.25) * t * t + 1
            far = -0.75 * (((t - 5) * t + 8) * t - 4)
            matrix[i, min(max(j, 0), old - 1)] += near if t <= 1 else far
    return matrix


def resized(positions: Tensor, matrix: Tensor, first: int = 1) -> Tensor:
    """Positions [1, first + old², D] -> [1, first + new², D]; the first ones, of the class token, stay."""
    side = matrix.shape[1]
    grid = positions[0, first:].double().reshape(side, side, -1)
    grid = torch.einsum("ia,jb,abd->ijd", matrix, matrix, grid).flatten(0, 1)
    return torch.cat([positions[0, :first].double(), grid])[None].float()


def fixed(side: int, dim: int, *, rows_first: bool, has_class: bool = True) -> Tensor:
    """Sines and cosines of the patches' places, [1, side² (+ 1), dim]: MoCo v3 begins with the row, MAE with the column."""
    values = torch.zeros(side * side, dim)
    for token in range(side * side):
        places = divmod(token, side) if rows_first else divmod(token, side)[::-1]
        for half, place in enumerate(places):
            for i in range(dim // 4):
                angle = place / 10000 ** (i / (dim // 4))
                values[token, half * dim // 2 + i] = math.sin(angle)
                values[token, half * dim // 2 + dim // 4 + i] = math.cos(angle)
    return torch.cat([torch.zeros(int(has_class), dim), values])[None]


def behind(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with a prefix before their names."""
    return {f"{prefix}{name}": value for name, value in state.items()}


def in_chunks(state: dict[str, Tensor], chunk: int) -> dict[str, Tensor]:
    """DINOv2's training files: blocks in chunks, whose second number goes on: blocks.1.3.norm1."""
    named = {}
    for name, value in state.items():
        first, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        named[f"blocks.{int(number) // chunk}.{rest}" if first == "blocks" else name] = value
    return named


def hugging_face(state: dict[str, Tensor], *, scaled: bool = False, version: int = 4) -> dict[str, Tensor]:
    """The names of transformers, as its files have them (4) or as its version 5 has them in memory; `scaled`: those of DINOv2."""
    named = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] in ("cls_token", "mask_token", "register_tokens"):
            named[f"embeddings.{name}"] = value
        elif parts[0] == "pos_embed":
            named["embeddings.position_embeddings"] = value
        elif parts[0] == "patch_embed":
            named[f"embeddings.patch_embeddings.projection.{parts[-1]}"] = value
        elif parts[0] == "norm":
            named[f"layernorm.{parts[-1]}"] = value
        else:
            layer = f"{'layers' if version == 5 and not scaled else 'encoder.layer'}.{parts[1]}"
            named |= hugging_faces_block(layer, parts[2:], value, scaled=scaled, version=version)
    return named


def hugging_faces_block(layer: str, parts: list[str], value: Tensor, *, scaled: bool, version: int) -> dict[str, Tensor]:
    """A tensor of a block by transformers' names; query, key and value are three."""
    last = parts[-1]
    if parts[1] == "qkv":
        names = ("q_proj", "k_proj", "v_proj") if version == 5 else ("attention.query", "attention.key", "attention.value")
        return {f"{layer}.attention.{name}.{last}": part for name, part in zip(names, value.chunk(3), strict=True)}
    if parts[0].startswith("ls"):
        return {f"{layer}.layer_scale{parts[0][2]}.lambda1": value}
    places = {
        "norm1": "norm1" if scaled else "layernorm_before",
        "norm2": "norm2" if scaled else "layernorm_after",
        "attn.proj": "attention.o_proj" if version == 5 else "attention.output.dense",
        "mlp.fc1": "mlp.fc1" if scaled or version == 5 else "intermediate.dense",
        "mlp.fc2": "mlp.fc2" if scaled or version == 5 else "output.dense",
    }
    return {f"{layer}.{places['.'.join(parts[:-1])]}.{last}": value}


def register_short_models() -> None:
    """timm's models whose number of heads, tokens or positions are not all authors', with two blocks only: short_small …"""
    from timm.models import is_model, register_model
    from timm.models.vision_transformer import VisionTransformer, _cfg

    def define(name, **settings):
        def create(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **more):
            model = VisionTransformer(depth=2, **{**settings, **more})
            model.pretrained_cfg = _cfg()
            return model

        create.__name__, create.__module__ = name, __name__
        if not is_model(name):
            register_model(create)

    define("short_small", embed_dim=384, num_heads=6)
    define("short_base", embed_dim=768, num_heads=16, class_token=False, global_pool="avg", fc_norm=False)
    define("short_dinov2", embed_dim=384, num_heads=6, patch_size=14, img_size=518, init_values=1e-5)
    define("short_reg4_dinov2", embed_dim=384, num_heads=6, patch_size=14, init_values=1e-5, reg_tokens=4, no_embed_class=True)
