"""Methods that hide patches from a student and show them to a slow teacher, both of which score prototypes: iBOT, DINOv2 and MSN.

They have a projection head, which SparseHead acts on.
"""

import copy
from collections.abc import Callable
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from sparsehead_cli.data.contract import Batch, View, joined
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.ranges import Range
from sparsehead_cli.nets.recompute import in_parts
from sparsehead_cli.ssl import losses, masks
from sparsehead_cli.ssl.contract import (
    Count,
    Method,
    Needs,
    Positive,
    Prototypes,
    Share,
    embed_by_size,
    move,
    objective,
    output_dim,
    rising,
    rising_evenly,
    teacher_of,
    too_low,
)
from sparsehead_cli.ssl.masked import Part, by_token, mask_token, masked_mean, require_patches, with_hidden
from sparsehead_cli.ssl.regularisers import koleo

# ------------------------------------------------------------------------------------------------ objectives


def ibot(
    z: Tensor,
    t: Tensor,
    hidden: Tensor,
    *,
    prototypes: Tensor,
    teacher_prototypes: Tensor,
    centre: Tensor | Callable[[Tensor], Tensor],
    student_temperature: float,
    teacher_temperature: float,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of hidden patches to what a teacher makes of them, who sees them; [V, T, E], [V, T, E], [V, T] -> [].

    Mean over the hidden patches of a view, then over all V views; one without a hidden patch counts as 0. The teacher's scores are
    centred and sharpened as in `losses.sharpened`, and get no gradient. Also returns their mean over hidden patches, [P].
    Source: iBOT (Zhou et al. 2022), eq. 2.
    """
    target, teacher = losses.sharpened(t.flatten(0, 1), teacher_prototypes, centre, teacher_temperature)
    log_p = (losses.prototype_scores(z.flatten(0, 1), prototypes) / student_temperature).log_softmax(dim=1)
    loss = masked_mean(-(target * log_p).sum(dim=1).view_as(hidden), hidden).mean()
    return loss, masked_mean(teacher.T, hidden.flatten())


def sinkhorn_centre(scores: Tensor, weight: Tensor, temperature: float, iterations: int) -> Tensor:
    """The centre that shares rows equally among prototypes, [N, P], [N] -> [P]: softmax((scores - centre) / temperature) are the
    codes that `losses.sinkhorn` has, epsilon the temperature. Rows of weight 0 do not count.

    Source: DINOv2 (Oquab et al. 2024), section 4, "Sinkhorn-Knopp centering"; Cuturi 2013.
    """
    counted = weight.log().clamp(min=-1e4)  # finite: where no row counts the centre means nothing, but is a number
    rows = torch.zeros_like(counted)
    for _ in range(iterations):
        centre = temperature * (scores / temperature + (rows + counted)[:, None]).logsumexp(dim=0)
        rows = -((scores - centre) / temperature).logsumexp(dim=1)
    return centre


def dino_by_sinkhorn(
    z1: Tensor, z2: Tensor, t1: Tensor, t2: Tensor, *local: Tensor, iterations: int, **constants: Tensor | float
) -> Tensor:
    """`losses.dino` with the centre that shares the teacher's views equally among prototypes; [B, E] each -> []."""

    def centre(scores: Tensor) -> Tensor:
        return sinkhorn_centre(scores, torch.ones_like(scores[:, 0]), constants["teacher_temperature"], iterations)

    return losses.dino(z1, z2, t1, t2, *local, centre=centre, **constants)[0]


def ibot_by_sinkhorn(z: Tensor, t: Tensor, hidden: Tensor, *, iterations: int, **constants: Tensor | float) -> Tensor:
    """`ibot` with the centre that shares hidden patches equally among prototypes; [V, T, E], [V, T, E], [V, T] -> []."""

    def centre(scores: Tensor) -> Tensor:
        return sinkhorn_centre(scores, hidden.flatten(), constants["teacher_temperature"], iterations)

    return ibot(z, t, hidden, centre=centre, **constants)[0]


# ------------------------------------------------------------------------------------------------ methods


class Seen(NamedTuple):
    """Of two joined views: r [V, D] and z [V, E] of the student, who does not see what is hidden, z [V, E] of the teacher; of some
    patches z [V, M, E] of both, and which of these are hidden, [V, M]; of each local view the student's z [B, E].
    """

    r: Tensor
    z: Tensor
    teacher: Tensor
    patches: Tensor
    teacher_patches: Tensor
    hidden: Tensor
    local: list[Tensor]


class HiddenFromStudent(Method):
    """A student, from whom patches are hidden, and a slow teacher, who sees them: scores over prototypes of r and of patches.

    In a global view blocks are hidden with the chance `hiding`, of a share of its patches that is uniform between `least` and
    `most`. The teacher's `momentum` rises to 1 along half a cosine; the prototypes learn after the share `frozen` of the run.
    """

    needs = Needs(local=True)

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        prototypes: int,
        temperatures: dict[str, float],
        momentum: float,
        frozen: float,
        hiding: tuple[float, float, float],
    ) -> None:
        super().__init__(backbone, projector)
        require_patches(backbone, type(self).__name__.lower())
        self.chance, *self.shares = hiding
        if self.shares[0] > self.shares[1]:
            raise SparseheadError(f"method.least must not be above method.most, given {self.shares[0]:g} and {self.shares[1]:g}.")
        self.temperatures, self.momentum = temperatures, momentum
        self.mask_token = mask_token(backbone)
        self.prototypes = Prototypes(prototypes, output_dim(projector, backbone.dim), frozen)
        self.teacher, self.teacher_prototypes = teacher_of(backbone, projector), teacher_of(self.prototypes)

    def suspects(self) -> list[str]:
        return too_low(**self.temperatures)

    def patch_heads(self) -> tuple[nn.Module, nn.Module]:
        """What makes z of the student's patches, and of the teacher's."""
        return self.projector, self.teacher[1]

    def see(self, views: list[View]) -> Seen:
        """What student and teacher make of the views, of which the first two are global."""
        (backbone, head), prefix, whole = self.teacher, self.backbone.prefix, views[:2]
        x = joined(whole)
        patches = self.backbone.patches(x)
        grid = patches.shape[1:3]
        hidden = torch.cat([masks.blockwise(len(v.inputs), *grid, self.chance, self.shares, x.device) for v in whole])
        chosen = masks.hidden_first(hidden, max(1, round(self.shares[1] * hidden[0].numel())))

        def of_chosen(tokens: Tensor) -> Tensor:
            return tokens.gather(1, (chosen + prefix).unsqueeze(2).expand(-1, -1, tokens.shape[2]))

        student_head, teacher_head = self.patch_heads()
        tokens = in_parts(self.backbone, {"patches": with_hidden(patches, hidden, self.mask_token)}, self.parts)
        r = self.backbone.pool(tokens)
        z, local = self.projector(r), embed_by_size(self, views[2:])
        z_patches = by_token(student_head, of_chosen(tokens))  # last: what watches the head reads views before it
        with torch.no_grad():
            tokens = in_parts(backbone, {"patches": backbone.patches(x)}, self.parts)
            t, t_patches = head(backbone.pool(tokens)), by_token(teacher_head, of_chosen(tokens))
        return Seen(r, z, t, z_patches, t_patches, hidden.flatten(1).gather(1, chosen), local)

    def constants(self, prototypes: Prototypes, teachers: Prototypes) -> dict[str, Tensor | float]:
        """What objectives read beside embeddings."""
        return {"prototypes": prototypes(), "teacher_prototypes": teachers.directions, **self.temperatures}

    def after_step(self, progress: float) -> None:
        momentum = rising(self.momentum, progress)
        self.prototypes.after_step(progress)
        self.move_teacher(momentum)
        move(self.teacher_prototypes, nn.Sequential(self.prototypes), momentum)


class IBOT(HiddenFromStudent):
    """DINO, whose student also says of patches that it does not see what the teacher says who sees them. Source: Zhou et al. 2022.

    Class tokens and patches share head and prototypes, and have a centre each. In a global view blocks of patches are hidden with
    the chance `hiding`, a share between `least` and `most`. The teacher's temperature, which the authors warm up, is constant, and
    the centre of patches is that of hidden ones, where theirs is of all.
    """

    title = "iBOT"

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        prototypes: Annotated[int, Range(least=2)] = 8192,
        student_temperature: Positive = 0.1,
        teacher_temperature: Positive = 0.07,
        momentum: Share = 0.996,
        centre_momentum: Share = 0.9,
        frozen: Share = 0.01,
        hiding: Share = 0.5,
        least: Part = 0.1,
        most: Part = 0.5,
    ) -> None:
        temperatures = {"student_temperature": student_temperature, "teacher_temperature": teacher_temperature}
        super().__init__(backbone, projector, prototypes, temperatures, momentum, frozen, (hiding, least, most))
        self.centre_momentum = centre_momentum
        self.register_buffer("centres", torch.zeros(2, prototypes))  # of class tokens and of patches
        self.register_buffer("mean_scores", torch.zeros(2, prototypes), persistent=False)  # of this step, on their way into them

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        seen = self.see(views)
        constants = self.constants(self.prototypes, self.teacher_prototypes[0])
        embeddings = (*seen.z.chunk(2), *seen.teacher.chunk(2), *seen.local)
        classes, mean = objective(losses.dino, *embeddings, centre=self.centres[0], **constants)
        of_patches = (seen.patches, seen.teacher_patches, seen.hidden)
        patches, patch_mean = objective(ibot, *of_patches, centre=self.centres[1], **constants)
        self.mean_scores = torch.stack([mean, patch_mean])
        return classes + patches, {"of_classes": classes, "of_patches": patches}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        self.centres.lerp_(self.mean_scores, 1 - self.centre_momentum)


class DINOv2(HiddenFromStudent):
    """iBOT with prototypes that share the batch equally, a head for patches, and class tokens apart. Source: Oquab et al. 2024.

    The teacher's scores are centred by `iterations` of Sinkhorn-Knopp; `koleo` weighs KoLeo of r of each global view, summed.
    Patches have a head and prototypes of their own, which λ does not weigh: it weighs the head of r. Masks and the constant
    temperature are iBOT's.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        prototypes: Annotated[int, Range(least=2)] = 65536,
        student_temperature: Positive = 0.1,
        teacher_temperature: Positive = 0.07,
        momentum: Share = 0.994,
        frozen: Share = 0.01,
        hiding: Share = 0.5,
        least: Part = 0.1,
        most: Part = 0.5,
        iterations: Count = 3,
        koleo: Annotated[float, Range(least=0)] = 0.1,
    ) -> None:
        temperatures = {"student_temperature": student_temperature, "teacher_temperature": teacher_temperature}
        super().__init__(backbone, projector, prototypes, temperatures, momentum, frozen, (hiding, least, most))
        self.iterations, self.koleo = iterations, koleo
        own = Prototypes(prototypes, output_dim(projector, backbone.dim), frozen)
        self.patch_head = nn.Sequential(copy.deepcopy(projector), own)
        self.patch_teacher = teacher_of(*self.patch_head)

    def patch_heads(self) -> tuple[nn.Module, nn.Module]:
        return self.patch_head[0], self.patch_teacher[0]

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        seen = self.see(views)
        constants = self.constants(self.prototypes, self.teacher_prototypes[0])
        embeddings = (*seen.z.chunk(2), *seen.teacher.chunk(2), *seen.local)
        classes = objective(dino_by_sinkhorn, *embeddings, iterations=self.iterations, **constants)
        constants = self.constants(self.patch_head[1], self.patch_teacher[1])
        of_patches = (seen.patches, seen.teacher_patches, seen.hidden)
        patches = objective(ibot_by_sinkhorn, *of_patches, iterations=self.iterations, **constants)
        spread = sum(objective(koleo, r) for r in seen.r.chunk(2))
        loss = classes + patches + self.koleo * spread
        return loss, {"of_classes": classes, "of_patches": patches, "koleo": spread}

    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        self.patch_head[1].after_step(progress)
        move(self.patch_teacher, self.patch_head, rising(self.momentum, progress))


class MSN(Method):
    """Read a part of one view's patches, and match what a slow teacher makes of the other view. Source: Assran et al. 2022.

    The first view, without a random share `masked` of its patches, and local views, small crops, are compared over prototypes with
    the second. `regularisation` weighs the entropy of their mean, which keeps all prototypes in use; `iterations` of Sinkhorn-Knopp
    (or 0) share out the teacher's. The teacher's `momentum` rises to 1 along a line.
    """

    needs = Needs(local=True)

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        prototypes: Annotated[int, Range(least=2)] = 1024,
        student_temperature: Positive = 0.1,
        teacher_temperature: Positive = 0.025,
        momentum: Share = 0.996,
        masked: Part = 0.15,
        regularisation: Annotated[float, Range(least=0)] = 1.0,
        iterations: Annotated[int, Range(least=0)] = 3,
    ) -> None:
        super().__init__(backbone, projector)
        require_patches(backbone, "msn")
        self.temperatures = {"student_temperature": student_temperature, "teacher_temperature": teacher_temperature}
        self.momentum, self.masked = momentum, masked
        self.numbers = {"regularisation": regularisation, "iterations": iterations}
        self.prototypes = Prototypes(prototypes, output_dim(projector, backbone.dim), frozen=0.0)
        self.teacher = teacher_of(backbone, projector)

    def suspects(self) -> list[str]:
        return too_low(**self.temperatures)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        anchor, target, *local = views
        patches = self.backbone.patches(anchor.inputs)
        seen = ~masks.at_random(*patches.shape[:3], self.masked, patches.device)
        tokens = in_parts(self.backbone, {"patches": patches, "visible": seen}, self.parts)
        anchors = [self.projector(self.backbone.pool(tokens, seen)), *embed_by_size(self, local)]
        with torch.no_grad():
            _, t = self.embed(target.inputs, self.teacher)
        return objective(losses.msn, t, *anchors, prototypes=self.prototypes(), **self.temperatures, **self.numbers)

    def after_step(self, progress: float) -> None:
        self.prototypes.after_step(progress)
        self.move_teacher(rising_evenly(self.momentum, progress))
