"""Methods that keep an embedding from collapsing by what its batch as a whole looks like: its moments or its distribution."""

from typing import Annotated

import torch
from torch import Tensor, nn

from sparsehead_cli.data.contract import Batch, View
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.ranges import Range
from sparsehead_cli.ssl import losses
from sparsehead_cli.ssl.contract import (
    Count,
    Method,
    Positive,
    Share,
    objective,
    output_dim,
    reads,
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


class WMSE(Method):
    """Near views after whitening over the batch. Source: Ermolov et al. 2021.

    `eps` mixes the identity into the covariance. The whole joined batch is whitened at once, without sub-batches, so it must
    be larger than the embedding is wide; twice as large is their choice. Without `eps` the embedding must not be wider than what
    the head's last layer reads.
    """

    title = "W-MSE"

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, eps: Share = 0.0) -> None:
        super().__init__(backbone, projector)
        self.eps = eps
        self.dim = output_dim(projector, backbone.dim)

    def check(self, roles: tuple[str, ...], batch: int) -> None:
        super().check(roles, batch)
        if batch <= self.dim:
            raise SparseheadError(
                f"wmse whitens a batch in {self.dim} dimensions and needs more than {self.dim} images in it, given {batch}. "
                f"Choose a larger --batch-size or --set projector_out={max(1, batch // 2)}."
            )
        rank = reads(self.projector)
        if self.dim > rank and self.eps == 0:
            raise SparseheadError(
                f"wmse cannot whiten {self.dim} dimensions of z: the head's last layer reads {rank}, so their covariance is "
                f"singular. Choose --set projector_out={rank} or less (half of it whitens well), or --set method.eps=0.01."
            )

    def suspects(self) -> list[str]:
        if self.eps:
            return []
        return [f"the covariance of z in {self.dim} dimensions (singular? try a smaller projector_out, or --set method.eps=0.01)"]

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(losses.w_mse, *(self.embed(view.inputs)[1] for view in views), eps=self.eps), {}


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
    step, drawn from the seed. No teacher, no stop-gradient.
    """

    def __init__(
        self, backbone: nn.Module, projector: nn.Module, *, regularisation: Share = 0.05, directions: Count = 1024
    ) -> None:
        super().__init__(backbone, projector)
        self.regularisation, self.directions = regularisation, directions

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings = [self.embed(view.inputs)[1] for view in views]
        sketch = torch.randn(embeddings[0].shape[1], self.directions, device=embeddings[0].device)
        return objective(losses.lejepa, *embeddings, directions=sketch, regularisation=self.regularisation)
