"""Vision transformers as encoders: images -> r, or their patches, some of them hidden, -> tokens. Parameters are called as timm's.

Source: Dosovitskiy et al. 2021 (arXiv 2010.11929); sizes of tiny and small: Touvron et al. 2021 (arXiv 2012.12877).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsehead_cli.data.contract import Inputs
from sparsehead_cli.errors import SparseheadError, unknown

POOLINGS = ("mean", "cls")  # r is the mean over the patches' tokens, or the class token, which only this one has


class Shape(NamedTuple):
    """What a vision transformer is made of."""

    width: int
    depth: int
    heads: int


class VisionTransformer(nn.Module):
    """Images [B, C, h, w] -> r [B, D], D = `dim`; or {"patches": [B, R, C, D], "visible": bool [B, R, C]} -> tokens [B, T, D].

    In the second form patches are embedded, see `patches`, and somebody may have put other things in their place. T is R · C, and
    one more where there is a class token, the first; no token reads one that is not visible. `image` is the (C, h, w) that it is
    made for, cut into squares of `patch` pixels; what is left over at the right and below is not seen. On images of another size
    the positions are interpolated.
    """

    def __init__(self, shape: Shape, image: tuple[int, int, int], patch: int, pooling: str = "mean") -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise unknown("pooling", pooling, POOLINGS)
        channels, height, width = image
        if patch > min(height, width):
            raise SparseheadError(f"a vision transformer needs images of {patch} pixels or more, given {min(height, width)}.")
        self.dim, self.heads, self.image, self.patch = shape.width, shape.heads, image, patch
        self.grid = (height // patch, width // patch)
        self.prefix = int(pooling == "cls")  # tokens before those of the patches
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(channels, shape.width, patch, stride=patch)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width)) if self.prefix else None
        self.pos_embed = nn.Parameter(torch.zeros(1, self.prefix + self.grid[0] * self.grid[1], shape.width))
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=EPS)
        self.apply(initialise)
        for tokens in (self.pos_embed, self.cls_token):
            if tokens is not None and not tokens.is_meta:
                nn.init.trunc_normal_(tokens, std=0.02)

    def forward(self, inputs: Inputs) -> Tensor:
        if isinstance(inputs, dict):
            return self.tokens(**inputs)
        return self.pool(self.tokens(self.patches(inputs)))

    def patches(self, x: Tensor) -> Tensor:
        """What is embedded of each patch, without its position, [B, C, h, w] -> [B, R, C, D].

        Raises: SparseheadError for images that are smaller than a patch.
        """
        if min(x.shape[2:]) < self.patch:
            raise SparseheadError(f"an image of {min(x.shape[2:])} pixels is smaller than a patch, which has {self.patch}.")
        proj = self.patch_embed["proj"]
        return F.linear(squares(x, self.patch), proj.weight.flatten(1), proj.bias)  # a convolution without overlap

    def tokens(self, patches: Tensor, visible: Tensor | None = None) -> Tensor:
        """All tokens behind the last norm, [B, R, C, D] -> [B, T, D]."""
        x = patches.flatten(1, 2) + self.positions(patches.shape[1:3])
        if self.prefix:
            first = self.cls_token + self.pos_embed[:, :1]
            x = torch.cat([first.expand(len(x), -1, -1), x], dim=1)
        if visible is not None:
            visible = F.pad(visible.flatten(1), (self.prefix, 0), value=True)
        for block in self.blocks:
            x = block(x, visible)
        return self.norm(x)

    def positions(self, grid: Sequence[int]) -> Tensor:
        """What the places of a grid add to their patches, [1, R · C, D]."""
        own = self.pos_embed[:, self.prefix :]
        if tuple(grid) == self.grid:
            return own
        spread = F.interpolate(own.mT.unflatten(2, self.grid), size=tuple(grid), mode="bicubic", align_corners=False)
        return spread.flatten(2).mT

    def pool(self, tokens: Tensor, visible: Tensor | None = None) -> Tensor:
        """r [B, D] of tokens [B, T, D]; a mean is that of the patches that are visible, bool [B, R, C]."""
        if self.prefix:
            return tokens[:, 0]
        if visible is None:
            return tokens.mean(dim=1)
        weight = visible.flatten(1).unsqueeze(2).to(tokens.dtype)
        return (tokens * weight).sum(dim=1) / weight.sum(dim=1)

    def stages(self) -> list[nn.Module]:
        """From input to output, for fine-tuning."""
        return [self.patch_embed, *self.blocks, self.norm]


class Block(nn.Module):
    """Attention and a perceptron, each with a norm before it and a residual, [B, T, D] -> [B, T, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), visible)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Attention(nn.Module):
    """Each token reads all tokens, or those that are `visible`, bool [B, T]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = attended(query, key, value, None if visible is None else visible[:, None, None])
        return self.proj(read.transpose(1, 2).flatten(2))


def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √E) v over the keys that a mask selects, [B, H, T, E] each, bool [B, 1, 1, T] -> [B, H, T, E].

    On a processor by the formula: in bfloat16 the backward pass of torch's own function takes eight times as long there.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = query @ key.mT * query.shape[-1] ** -0.5
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1) @ value


class Predictor(nn.Module):
    """A narrow transformer that says what is at places it does not see; z [B, R, C, E] -> [B, M, R · C, D].

    It sees `context`, bool [B, R, C], and is asked for each of M sets of `targets`, bool [B, M, R, C], by itself; what it says of
    other places means nothing. Its positions learn, as the encoder's. Source: I-JEPA (Assran et al. 2023), section 3, appendix A.
    """

    def __init__(self, dim: int, out: int, shape: Shape, grid: tuple[int, int]) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(dim, shape.width), nn.Linear(shape.width, out)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=EPS)
        self.asked = nn.Parameter(torch.zeros(shape.width))  # what stands where something is to be said
        self.positions = nn.Parameter(torch.zeros(grid[0] * grid[1], shape.width))
        self.apply(initialise)
        for tokens in (self.asked, self.positions):
            if not tokens.is_meta:
                nn.init.trunc_normal_(tokens, std=0.02)

    def forward(self, z: Tensor, context: Tensor, targets: Tensor) -> Tensor:
        batch, sets = targets.shape[:2]
        seen, asked = self.read(z).flatten(1, 2)[:, None], targets.flatten(2)
        x = torch.where(asked.unsqueeze(3), self.asked.to(seen.dtype), seen) + self.positions  # [B, M, T, width]
        visible = (asked | context.flatten(1)[:, None]).flatten(0, 1)
        x = x.flatten(0, 1)
        for block in self.blocks:
            x = block(x, visible)
        return self.write(self.norm(x)).unflatten(0, (batch, sets))


def squares(x: Tensor, side: int) -> Tensor:
    """The pixels of each square of a grid, [B, C, h, w] -> [B, R, C, C · side²]; what does not fill a square is left out."""
    height, width = (n // side * side for n in x.shape[2:])
    return F.pixel_unshuffle(x[:, :, :height, :width], side).permute(0, 2, 3, 1)


def initialise(module: nn.Module) -> None:
    """Linear layers as the authors have them, uniform by their widths (Glorot & Bengio 2010), with biases 0."""
    if isinstance(module, nn.Linear) and not module.weight.is_meta:
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def make_vit(
    name: str,
    *,
    channels: int,
    image_size: int,
    pooling: str,
    widths: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
) -> VisionTransformer:
    """A named vision transformer for images [B, channels, image_size, image_size], by `pooling`.

    It has one stage, whose width and blocks `widths` and `blocks` may override; heads keep their width as far as they can.

    Raises: SparseheadError for more stages, and for a pooling that is none of POOLINGS.
    """
    own = VITS[name]
    given = {"widths": widths or (own.width,), "blocks": blocks or (own.depth,)}
    for setting, values in given.items():
        if len(values) != 1:
            raise SparseheadError(f"a vision transformer has one stage: {setting} takes one number, given {list(values)}.")
    width, depth = given["widths"][0], given["blocks"][0]
    heads = max(n for n in range(1, max(1, width * own.heads // own.width) + 1) if width % n == 0)
    return VisionTransformer(Shape(width, depth, heads), (channels, image_size, image_size), patch_for(image_size), pooling)


def patch_for(image_size: int) -> int:
    """The side of the patches, in pixels, follows the image size as a ResNet's stem does."""
    return 16 if image_size > 64 else 4


EPS = 1e-6  # of the norms, as in timm
VITS: dict[str, Shape] = {
    "vit-mini": Shape(width=64, depth=4, heads=2),
    "vit-tiny": Shape(width=192, depth=12, heads=3),
    "vit-small": Shape(width=384, depth=12, heads=6),
    "vit-base": Shape(width=768, depth=12, heads=12),
}
