"""Methods that keep an embedding from collapsing by what its batch as a whole looks like: its moments or its distribution."""

from typing import Annotated

import torch
from torch import Tensor, nn

from sparsehead_cli.data.contract import Batch, View
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.ranges import Range
from sparsehead_cli.nets.heads import mlp
from sparsehead_cli.nets.recompute import in_parts
from sparsehead_cli.ssl import losses
from sparsehead_cli.ssl.contract import (
    Count,
    Method,
    Needs,
    Positive,
    Share,
    embed_by_size,
    objective,
    output_dim,
    rising,
    teacher_of,
)


class BarlowTwins(Method):
    """Make the views' cross-correlation the identity. Source: Zbontar et al. 2021.

    `off_diagonal` is their λ; `scale` multiplies the whole objective (0.1 in solo-learn's CIFAR recipes).
    """

    title = "Barlow Twins"

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, off_diagonal: Positive = 0.005, scale: Positive = 1.0) -> None:
        super().__init__(backbone, projector)
        self.off_diagonal, self.scale = off_diagonal, scale

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings = [self.embed(view.inputs)[1] for view in views]
        loss, terms = objective(losses.barlow_twins, *embeddings, off_diagonal=self.off_diagonal)
        return self.scale * loss, terms


class VICReg(Method):
    """Near views, and every dimension of unit variance and uncorrelated with the others. Source: Bardes et al. 2022."""

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        invariance: Positive = 25.0,
        variance: Positive = 25.0,
        covariance: Positive = 1.0,
    ) -> None:
        super().__init__(backbone, projector)
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(losses.vicreg, *(self.embed(view.inputs)[1] for view in views), **self.weights)


class VICRegL(VICReg):
    """VICReg of whole images, and of the places of their maps that are alike in both views. Source: Bardes et al. 2022b.

    `whole` is the first one's weight, 1 - `whole` the second's, in which each image has up to `places` pairs of places, nearest by
    an embedding of their own, `place_width` wide. `covariance` weighs the mean over the views, where VICReg has the sum, as in the
    authors' code. Pairs by where the crops lay in the image, which views do not say, are left out.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        whole: Share = 0.75,
        places: Count = 20,
        place_width: Count = 512,
        invariance: Positive = 25.0,
        variance: Positive = 25.0,
        covariance: Positive = 1.0,
    ) -> None:
        super().__init__(backbone, projector, invariance=invariance, variance=variance, covariance=covariance / 2)
        if not hasattr(backbone, "maps"):
            raise SparseheadError(
                "vicregl reads maps, and this backbone gives none. Choose another --method, or for images --backbone resnet18."
            )
        self.whole, self.places = whole, places
        self.place_projector = mlp(backbone.dim, [place_width] * 2, place_width)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        maps = [in_parts(Maps(self.backbone), view.inputs, self.parts) for view in views]  # [B, L, D]
        loss, terms = objective(losses.vicreg, *(self.projector(places.mean(dim=1)) for places in maps), **self.weights)
        a, b = (self.place_projector(places.flatten(0, 1)).view(*places.shape[:2], -1).float() for places in maps)
        local = [self.of_places(*pair) for pair in ((a, b), (b, a))]
        terms["places"] = sum(local) / 2
        return self.whole * loss + (1 - self.whole) * terms["places"], terms

    def of_places(self, a: Tensor, b: Tensor) -> Tensor:
        """VICReg of the places of one view and their nearest in the other."""
        pairs = losses.nearest_places(a, b, min(self.places, a.shape[1]))
        return objective(losses.vicreg_of_places, *pairs, **self.weights)[0]


class Maps(nn.Module):
    """Images -> the last maps of a backbone, place by place, [B, C, h, w] -> [B, L, D]."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone.maps(x).flatten(2).mT


class VIbCReg(Method):
    """VICReg with correlations in place of covariances, which any scale of z leaves as they are. Source: Lee & Aune 2021.

    Their iterative normalisation behind the projector is left out.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        invariance: Positive = 25.0,
        variance: Positive = 25.0,
        covariance: Positive = 200.0,
    ) -> None:
        super().__init__(backbone, projector)
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(losses.vibcreg, *(self.embed(view.inputs)[1] for view in views), **self.weights)


class TiCo(Method):
    """Follow a slow teacher, and keep away from directions that embeddings have taken often. Source: Zhu et al. 2022.

    `beta` is how slowly the running second moment of z forgets, `rho` what its penalty weighs. The teacher's `momentum` rises to 1.
    """

    def __init__(
        self, backbone: nn.Module, projector: nn.Module, *, beta: Share = 0.9, rho: Positive = 8.0, momentum: Share = 0.99
    ) -> None:
        super().__init__(backbone, projector)
        self.beta, self.rho, self.momentum = beta, rho, momentum
        self.teacher = teacher_of(backbone, projector)
        dim = output_dim(projector, backbone.dim)
        self.register_buffer("moment", torch.zeros(dim, dim))
        self.register_buffer("new_moment", torch.zeros(dim, dim), persistent=False)  # of this step, on its way there

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        _, z = self.embed(views[0].inputs)
        with torch.no_grad():
            _, target = self.embed(views[1].inputs, self.teacher)
        loss, self.new_moment = objective(losses.tico, z, target, covariance=self.moment, beta=self.beta, rho=self.rho)
        return loss, {}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.move_teacher(rising(self.momentum, progress))
        self.moment.copy_(self.new_moment)


class MMCR(Method):
    """Spread the centroids of images over all directions, measured by their nuclear norm. Source: Yerxa et al. 2023.

    `compression` weighs the nuclear norm of an image's own views, which they find needless (0).
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, compression: Annotated[float, Range(least=0)] = 0.0) -> None:
        super().__init__(backbone, projector)
        self.compression = compression

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(losses.mmcr, *(self.embed(view.inputs)[1] for view in views), compression=self.compression), {}


class FroSSL(Method):
    """Near views, and a flat spectrum of z by the Frobenius norm of its second moment. Source: Skean et al. 2024."""

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, invariance: Positive = 1.0) -> None:
        super().__init__(backbone, projector)
        self.invariance = invariance

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(losses.frossl, *(self.embed(view.inputs)[1] for view in views), invariance=self.invariance)


class LeJEPA(Method):
    """Near views, and z distributed as a standard normal, tested along random directions. Source: Balestriero & LeCun 2025.

    `regularisation` is the share of that test (SIGReg) in the objective, `directions` how many a step looks along: other ones each
    step, drawn from the seed. Local views, small crops, are drawn to the mean of the global two. No teacher, no stop-gradient.
    """

    needs = Needs(local=True)

    def __init__(
        self, backbone: nn.Module, projector: nn.Module, *, regularisation: Share = 0.05, directions: Count = 1024
    ) -> None:
        super().__init__(backbone, projector)
        self.regularisation, self.directions = regularisation, directions

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings = [*(self.embed(view.inputs)[1] for view in views[:2]), *embed_by_size(self, views[2:])]
        sketch = torch.randn(embeddings[0].shape[1], self.directions, device=embeddings[0].device)
        return objective(losses.lejepa, *embeddings, directions=sketch, regularisation=self.regularisation)
