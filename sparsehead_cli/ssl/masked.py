"""Methods that hide patches of a vision transformer: SimMIM and I-JEPA; and what those with prototypes share with them.

The papers have no projection head here, and nothing for SparseHead to act on. So the head stands between the encoder and what
reads its tokens, a decoder or a predictor, as in `generative.py`: they see nothing but z, token by token.
"""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsehead_cli.data.contract import Batch, View, joined
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.distributed import all_gather
from sparsehead_cli.machine.ranges import Range
from sparsehead_cli.nets.recompute import in_parts
from sparsehead_cli.nets.vit import VITS, Predictor, Shape, squares
from sparsehead_cli.ssl import masks
from sparsehead_cli.ssl.contract import Count, Method, Needs, Share, move, output_dim, rising_evenly, teacher_of

Part = Annotated[float, Range(above=0, below=1)]

# ------------------------------------------------------------------------------------------------ objectives


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean over the places that a mask selects, [..., T], bool [..., T] -> [...]; 0 where it selects none."""
    return (x * mask).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)


def simmim(decoded: Tensor, pixels: Tensor, hidden: Tensor) -> Tensor:
    """Mean absolute error over the pixels of hidden patches, a number a sample, [B, T, C], [B, T, C], bool [B, T] -> [B].

    C are the pixels of a patch, of all channels. Source: SimMIM (Xie et al. 2022), eq. 1.
    """
    return masked_mean((decoded - pixels).abs().mean(dim=2), hidden)


def ijepa(predicted: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of the predicted to the teacher's tokens, [B, M, T, D], [B, T, D], bool [B, M, T] -> [B].

    The mean is over dimensions, over the patches of a block, and over the M blocks. The teacher's tokens get no gradient; each is
    brought to mean 0 and variance 1, as in the authors' code, which has the smooth L1 distance in place of the squared one.
    Source: I-JEPA (Assran et al. 2023), section 3, "loss".
    """
    teacher = F.layer_norm(teacher.detach(), teacher.shape[2:])
    return masked_mean((predicted - teacher[:, None]).square().mean(dim=3), targets).mean(dim=1)


# ------------------------------------------------------------------------------------------------ what they share


def require_patches(backbone: nn.Module, method: str) -> None:
    """Raises: SparseheadError for a backbone that does not show its patches, and for images that are one."""
    if not hasattr(backbone, "patches"):
        raise SparseheadError(
            f"{method} hides patches of a vision transformer, and this backbone has none. Choose another --method, or for images "
            f"--backbone {', '.join(VITS)}."
        )
    if math.prod(backbone.grid) < 2:
        raise SparseheadError(
            f"{method} hides some patches of an image, and one of {backbone.image[1]} pixels is a single patch. Choose a larger "
            "--set image_size, or images that are."
        )


def mask_token(backbone: nn.Module) -> nn.Parameter:
    """What stands in the place of a hidden patch, [D]. Source: BEiT (Bao et al. 2022), section 2.3."""
    token = torch.empty(backbone.dim)
    return nn.Parameter(token if token.is_meta else nn.init.trunc_normal_(token, std=0.02))


def with_hidden(patches: Tensor, hidden: Tensor, token: Tensor) -> Tensor:
    """Embedded patches with the token in the place of those that are hidden, [B, R, C, D], bool [B, R, C], [D] -> [B, R, C, D]."""
    return torch.where(hidden.unsqueeze(3), token.to(patches.dtype), patches)


def by_token(head: nn.Module, tokens: Tensor, r: Tensor | None = None) -> Tensor:
    """z of each token by itself, [B, T, D] -> [B, T, E].

    r [B, D] goes through the head before them: regularisers and CaSSLe, which watch the head, find z of each view there. Then come
    the first tokens of all inputs, and so on: dropout, too, finds whole views, and draws for them as one process would for all.
    """
    rows = tokens.transpose(0, 1).flatten(0, 1)
    z = head(rows if r is None else torch.cat([r, rows]))
    return z[-len(rows) :].unflatten(0, (tokens.shape[1], len(tokens))).transpose(0, 1)


# ------------------------------------------------------------------------------------------------ without a head of their own


class SimMIM(Method):
    """Rebuild the pixels of hidden patches of a view, by one linear layer on z of their tokens. Source: Xie et al. 2022.

    `masked` is the share of squares of `unit` x `unit` patches that are hidden, the paper's 32 pixels at its patches of 16.
    """

    needs = Needs(views=None)

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, masked: Part = 0.6, unit: Count = 2) -> None:
        super().__init__(backbone, projector)
        require_patches(backbone, "simmim")
        if unit >= max(backbone.grid):
            raise SparseheadError(f"method.unit must be below the {max(backbone.grid)} patches of a side, given {unit}.")
        self.masked, self.unit = masked, unit
        self.mask_token = mask_token(backbone)
        self.decoder = nn.Linear(output_dim(projector, backbone.dim), backbone.image[0] * backbone.patch**2)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x = joined(views)
        patches = self.backbone.patches(x)
        drawn = [masks.in_units(len(v.inputs), *patches.shape[1:3], self.masked, self.unit, x.device) for v in views]
        hidden = torch.cat(drawn)
        tokens = in_parts(self.backbone, {"patches": with_hidden(patches, hidden, self.mask_token)}, self.parts)
        z = by_token(self.projector, tokens[:, self.backbone.prefix :], self.backbone.pool(tokens))
        pixels = squares(x, self.backbone.patch).flatten(1, 2)
        return all_gather(simmim(self.decoder(z).float(), pixels.float(), hidden.flatten(1))).mean(), {}


class IJEPA(Method):
    """Predict a slow teacher's tokens of some blocks of a view from z of the tokens of the rest. Source: Assran et al. 2023.

    There are `blocks` targets. The predictor is a transformer of `predictor_depth` blocks, `predictor_width` wide, with as many
    heads as the encoder. The teacher, of the encoder alone, sees the whole view; its `momentum` rises to 1 along a line.
    """

    title = "I-JEPA"
    needs = Needs(views=None)

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        blocks: Count = 4,
        momentum: Share = 0.996,
        predictor_width: Count = 384,
        predictor_depth: Count = 6,
    ) -> None:
        super().__init__(backbone, projector)
        require_patches(backbone, "ijepa")
        if predictor_width % backbone.heads:
            raise SparseheadError(
                f"method.predictor_width must be a multiple of the encoder's {backbone.heads} heads, given {predictor_width}."
            )
        self.blocks, self.momentum = blocks, momentum
        shape = Shape(predictor_width, predictor_depth, backbone.heads)
        self.predictor = Predictor(output_dim(projector, backbone.dim), backbone.dim, shape, backbone.grid)
        self.teacher = teacher_of(backbone)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x = joined(views)
        patches, prefix = self.backbone.patches(x), self.backbone.prefix
        drawn = [masks.multi_block(len(v.inputs), *patches.shape[1:3], self.blocks, x.device) for v in views]
        targets, seen = map(torch.cat, zip(*drawn, strict=True))
        tokens = in_parts(self.backbone, {"patches": patches, "visible": seen}, self.parts)
        with torch.no_grad():
            (teacher,) = self.teacher
            goal = in_parts(teacher, {"patches": teacher.patches(x)}, self.parts)[:, prefix:]
        z = by_token(self.projector, tokens[:, prefix:], self.backbone.pool(tokens, seen))
        predicted = self.predictor(z.unflatten(1, seen.shape[1:]), seen, targets)
        return all_gather(ijepa(predicted.float(), goal.float(), targets.flatten(2))).mean(), {}

    def after_step(self, progress: float) -> None:
        move(self.teacher, nn.Sequential(self.backbone), rising_evenly(self.momentum, progress))
