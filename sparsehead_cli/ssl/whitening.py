"""Methods that whiten a batch of embeddings, and then compare the views of an image."""

import torch
from torch import Tensor, nn

from sparsehead_cli.data.contract import Batch, View
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.ssl import losses
from sparsehead_cli.ssl.contract import Count, Method, Share, objective, output_dim, reads


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
                f"Choose a larger --batch-size or {of_width(self.projector, max(1, batch // 2))}."
            )
        rank = reads(self.projector)
        if self.dim > rank and self.eps == 0:
            raise SparseheadError(
                f"wmse cannot whiten {self.dim} dimensions of z: the head's last layer reads {rank}, so their covariance is "
                f"singular. Choose {of_width(self.projector, rank)} or less (half of it whitens well), or --set method.eps=0.01."
            )

    def suspects(self) -> list[str]:
        if self.eps:
            return []
        return [f"the covariance of z in {self.dim} dimensions (singular? try a smaller projector_out, or --set method.eps=0.01)"]

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(losses.w_mse, *(self.embed(view.inputs)[1] for view in views), eps=self.eps), {}


def of_width(projector: nn.Module, width: int) -> str:
    """What gives z this width, for people: without a projector z is as wide as r, and needs one."""
    return f"--set {'projector=mlp --set ' * isinstance(projector, nn.Identity)}projector_out={width}"


class ShuffledDBN(Method):
    """Near views after ZCA whitening of groups of dimensions, other ones each step. Source: Hua et al. 2021.

    `size` dimensions are a group, and the joined batch must be larger. `eps` mixes the identity into their covariance.
    """

    title = "Shuffled-DBN"

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, size: Count = 32, eps: Share = 1e-5) -> None:
        super().__init__(backbone, projector)
        self.eps = eps
        self.dim = output_dim(projector, backbone.dim)
        self.size = min(size, self.dim)

    def check(self, roles: tuple[str, ...], batch: int) -> None:
        super().check(roles, batch)
        if batch <= self.size:
            raise SparseheadError(
                f"shuffleddbn whitens {self.size} dimensions at a time and needs more than {self.size} images in a batch, given "
                f"{batch}. Choose a larger --batch-size or --set method.size={max(1, batch // 2)}."
            )

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings = [self.embed(view.inputs)[1] for view in views]
        order = torch.randperm(self.dim, device=embeddings[0].device)
        return objective(losses.shuffled_dbn, *embeddings, order=order, size=self.size, eps=self.eps), {}


class IterNorm(Method):
    """Near views after whitening by a few of Newton's iterations, which leaves small directions small. Source: Huang et al. 2019.

    It is W-MSE's objective with their whitening, which the batch need not exceed. `eps` mixes the identity into the covariance.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, iterations: Count = 5, eps: Share = 1e-5) -> None:
        super().__init__(backbone, projector)
        self.iterations, self.eps = iterations, eps

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings = (self.embed(view.inputs)[1] for view in views)
        return objective(losses.iter_norm, *embeddings, iterations=self.iterations, eps=self.eps), {}
