"""Self-supervised methods: nn.Modules on one contract (`contract.py`), which is all that the training loop knows of them.

To add one: its objective in `losses.py`, a class here, an entry in METHODS, its recipe in experiments.yaml. Its numbers are
keyword arguments of `__init__` with the paper's defaults and their range; `--set method.<name>=<value>` is checked against them.
All that a method remembers between steps (teacher, queue, centre) is a buffer or a submodule, so it is in the checkpoint.
"""

from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor, nn

from sparsehead_cli.data.contract import Batch, View, joined
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.distributed import all_gather
from sparsehead_cli.machine.ranges import Range
from sparsehead_cli.ssl import losses
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
    predictor_of,
    reads,
    rising,
    teacher_of,
    too_low,
)
from sparsehead_cli.ssl.generative import MAE, Autoencoder


class SimCLR(Method):
    """Contrast the two views of an image with all other images of the batch. Source: Chen et al. 2020.

    `temperature` divides cosine similarities. Both views go through the network in one pass, as in the authors' code,
    so they share BatchNorm statistics.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, temperature: Positive = 0.2) -> None:
        super().__init__(backbone, projector)
        self.temperature = temperature

    def suspects(self) -> list[str]:
        return too_low(temperature=self.temperature)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        _, z = self.embed(joined(views))
        return objective(losses.nt_xent, *z.chunk(2), temperature=self.temperature), {}


class SupCon(Method):
    """SimCLR that knows the labels: all views of an image's class are its positives. The supervised upper line.

    Source: Khosla et al. 2020, without their linear classifier on top.
    """

    needs = Needs(labels=True)

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, temperature: Positive = 0.1) -> None:
        super().__init__(backbone, projector)
        self.temperature = temperature

    def suspects(self) -> list[str]:
        return too_low(temperature=self.temperature)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        _, z = self.embed(joined(views))
        return objective(losses.sup_con, *z.chunk(2), labels=all_gather(batch.labels), temperature=self.temperature), {}


class MoCo(Method):
    """Contrast queries with a queue of keys, which a slow teacher made from earlier batches. Source: MoCo v2, Chen et al. 2020.

    `queue` keys are kept, the oldest leave first; they start as random directions. `momentum` is the teacher's. With
    `symmetric` each view is query and key in turn (their later code). There is no shuffling of BatchNorm between processes.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        temperature: Positive = 0.2,
        queue: Count = 65536,
        momentum: Share = 0.999,
        symmetric: bool = False,
    ) -> None:
        super().__init__(backbone, projector)
        self.temperature, self.momentum = temperature, momentum
        self.symmetric = symmetric
        self.teacher = teacher_of(backbone, projector)
        self.register_buffer("queue", torch.randn(queue, output_dim(projector, backbone.dim)))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.long))  # where the next key goes
        self.register_buffer("keys", torch.empty(0), persistent=False)  # of this step, on their way into the queue

    def suspects(self) -> list[str]:
        return too_low(temperature=self.temperature)

    def check(self, roles: tuple[str, ...], batch: int) -> None:
        super().check(roles, batch)
        keys = batch * (1 + self.symmetric)
        if len(self.queue) < keys:
            raise SparseheadError(
                f"method.queue must hold the {keys} keys of a batch, given {len(self.queue)}. "
                f"Choose --set method.queue={keys} or more, or a smaller --batch-size."
            )

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        directions = [views, views[::-1]] if self.symmetric else [views]
        total, keys = 0, []
        for query, key in directions:
            _, q = self.embed(query.inputs)
            with torch.no_grad():
                keys.append(self.embed(key.inputs, self.teacher)[1].float())
            total = total + objective(losses.info_nce, q, keys[-1], queue=self.queue, temperature=self.temperature)
        self.keys = torch.cat([all_gather(k) for k in keys])
        return total / len(directions), {}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        move(self.teacher, nn.Sequential(self.backbone, self.projector), self.momentum)
        place = (self.oldest + torch.arange(len(self.keys), device=self.queue.device)) % len(self.queue)
        self.queue[place] = self.keys
        self.oldest.add_(len(self.keys)).remainder_(len(self.queue))


class BYOL(Method):
    """Predict a slow teacher's embedding of the other view. Source: Grill et al. 2020.

    The teacher's `momentum` rises to 1 along half a cosine. The predictor is an MLP of hidden width `predictor_hidden`.
    """

    def __init__(
        self, backbone: nn.Module, projector: nn.Module, *, momentum: Share = 0.99, predictor_hidden: Count = 4096
    ) -> None:
        super().__init__(backbone, projector)
        self.momentum = momentum
        self.predictor = predictor_of(backbone, projector, predictor_hidden)
        self.teacher = teacher_of(backbone, projector)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        predictions = [self.predictor(self.embed(view.inputs)[1]) for view in views]
        with torch.no_grad():
            targets = [self.embed(view.inputs, self.teacher)[1] for view in views]
        return objective(losses.byol, *predictions, *targets), {}

    def after_step(self, progress: float) -> None:
        move(self.teacher, nn.Sequential(self.backbone, self.projector), rising(self.momentum, progress))


class SimSiam(Method):
    """Predict the own embedding of the other view, without a gradient through the target. Source: Chen & He 2021.

    The predictor's learning rate stays constant (their section 4.2). Their BatchNorm on the projector's output stands here,
    between z and the objective.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, predictor_hidden: Count = 512) -> None:
        super().__init__(backbone, projector)
        self.predictor = predictor_of(backbone, projector, predictor_hidden)
        self.norm = nn.BatchNorm1d(output_dim(projector, backbone.dim), affine=False)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings = [self.norm(self.embed(view.inputs)[1]) for view in views]
        return objective(losses.simsiam, *(self.predictor(z) for z in embeddings), *embeddings), {}

    def constant_lr(self) -> Iterable[nn.Parameter]:
        return self.predictor.parameters()


class BarlowTwins(Method):
    """Make the views' cross-correlation the identity. Source: Zbontar et al. 2021.

    `off_diagonal` is their λ; `scale` multiplies the whole objective (0.1 in solo-learn's CIFAR recipes).
    """

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


class SwAV(Method):
    """Predict from one view the equally shared prototype codes of the other. Source: Caron et al. 2020.

    Codes are those of the two global views; local views, small crops, predict both. Without a queue. The prototypes learn after
    the share `frozen` of the run.
    """

    needs = Needs(local=True)

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        prototypes: Annotated[int, Range(least=2)] = 3000,
        temperature: Positive = 0.1,
        epsilon: Positive = 0.05,
        iterations: Count = 3,
        frozen: Share = 0.01,
    ) -> None:
        super().__init__(backbone, projector)
        self.temperature, self.epsilon = temperature, epsilon
        self.iterations = iterations
        self.prototypes = Prototypes(prototypes, output_dim(projector, backbone.dim), frozen)

    def suspects(self) -> list[str]:
        return too_low(temperature=self.temperature, epsilon=self.epsilon)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings = embed_by_size(self, views)
        constants = {"temperature": self.temperature, "epsilon": self.epsilon, "iterations": self.iterations}
        return objective(losses.swav, *embeddings, prototypes=self.prototypes(), **constants), {}

    def after_step(self, progress: float) -> None:
        self.prototypes.after_step(progress)


class DINO(Method):
    """Match a slow, centred, sharpened teacher's distribution over prototypes. Source: Caron et al. 2021.

    The teacher sees the two global views, the student local ones, small crops, as well. The prototypes learn after the share
    `frozen` of the run.
    """

    needs = Needs(local=True)

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        prototypes: Annotated[int, Range(least=2)] = 65536,
        student_temperature: Positive = 0.1,
        teacher_temperature: Positive = 0.04,
        momentum: Share = 0.996,
        centre_momentum: Share = 0.9,
        frozen: Share = 0.01,
    ) -> None:
        super().__init__(backbone, projector)
        self.temperatures = {"student_temperature": student_temperature, "teacher_temperature": teacher_temperature}
        self.momentum, self.centre_momentum = momentum, centre_momentum
        self.prototypes = Prototypes(prototypes, output_dim(projector, backbone.dim), frozen)
        self.teacher = teacher_of(backbone, projector)
        self.register_buffer("teacher_prototypes", self.prototypes.directions.detach().clone())
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer("mean_scores", torch.zeros(prototypes), persistent=False)  # of this step, on their way into the centre

    def suspects(self) -> list[str]:
        return too_low(**self.temperatures)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        first, second, *small = embed_by_size(self, views)
        with torch.no_grad():
            _, targets = self.embed(joined(views[:2]), self.teacher)
        state = {"teacher_prototypes": self.teacher_prototypes, "centre": self.centre}
        embeddings = (first, second, *targets.chunk(2), *small)
        loss, self.mean_scores = objective(losses.dino, *embeddings, prototypes=self.prototypes(), **state, **self.temperatures)
        return loss, {}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        momentum = rising(self.momentum, progress)
        self.prototypes.after_step(progress)
        move(self.teacher, nn.Sequential(self.backbone, self.projector), momentum)
        self.teacher_prototypes.lerp_(self.prototypes.directions, 1 - momentum)
        self.centre.lerp_(self.mean_scores, 1 - self.centre_momentum)


METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "moco": MoCo,
    "byol": BYOL,
    "simsiam": SimSiam,
    "barlow": BarlowTwins,
    "vicreg": VICReg,
    "wmse": WMSE,
    "swav": SwAV,
    "dino": DINO,
    "supcon": SupCon,
    "autoencoder": Autoencoder,
    "mae": MAE,
}
