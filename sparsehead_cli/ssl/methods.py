"""Self-supervised methods: nn.Modules on one contract (`contract.py`), which is all that the training loop knows of them.

Those that tell images from each other are in `contrastive.py`, those that shape what a batch looks like as a whole in
`decorrelation.py` and `whitening.py`, one that predicts clusters in `clustering.py`, those that rebuild images in `generative.py`,
those that hide patches of a vision transformer in `masked.py` and `masked_prototypes.py`, the others here.

To add one: its objective in `losses/`, a class, an entry in METHODS, its recipe in experiments.yaml. Its numbers are keyword
arguments of `__init__` with the paper's defaults and their range; `--set method.<name>=<value>` is checked against them. All that a
method remembers between steps (teacher, queue, centre) is a buffer or a submodule, so it is in the checkpoint.
"""

from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor, nn

from sparsehead_cli.data.contract import Batch, View, joined
from sparsehead_cli.machine.distributed import all_gather
from sparsehead_cli.machine.ranges import Range
from sparsehead_cli.ssl import losses
from sparsehead_cli.ssl.clustering import DeepCluster
from sparsehead_cli.ssl.contract import (
    Count,
    Method,
    Needs,
    Positive,
    Prototypes,
    Share,
    embed_by_size,
    objective,
    output_dim,
    predictor_of,
    rising,
    teacher_of,
    too_low,
)
from sparsehead_cli.ssl.contrastive import DCL, DCLW, NNCLR, MoCo, MoCoV3, Queued, ReSSL, SimCLR, SupCon
from sparsehead_cli.ssl.decorrelation import MMCR, BarlowTwins, FroSSL, LeJEPA, TiCo, VIbCReg, VICReg, VICRegL
from sparsehead_cli.ssl.generative import MAE, Autoencoder
from sparsehead_cli.ssl.masked import IJEPA, SimMIM
from sparsehead_cli.ssl.masked_prototypes import IBOT, MSN, DINOv2
from sparsehead_cli.ssl.whitening import WMSE, IterNorm, ShuffledDBN


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
        self.move_teacher(rising(self.momentum, progress))


class NNBYOL(Queued):
    """BYOL whose targets are the nearest neighbours of the teacher's embeddings among earlier ones. Source: Dwibedi et al. 2021.

    `queue` of the teacher's embeddings of first views are kept. The teacher's `momentum` rises to 1 along half a cosine.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        queue: Count = 98304,
        momentum: Share = 0.99,
        predictor_hidden: Count = 4096,
    ) -> None:
        super().__init__(backbone, projector, queue)
        self.momentum = momentum
        self.predictor = predictor_of(backbone, projector, predictor_hidden)
        self.teacher = teacher_of(backbone, projector)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        predictions = [self.predictor(self.embed(view.inputs)[1]) for view in views]
        with torch.no_grad():
            keys = [self.embed(view.inputs, self.teacher)[1].float() for view in views]
        self.keys = all_gather(keys[0])
        return objective(losses.byol, *predictions, *(losses.nearest(key, self.queue) for key in keys)), {}

    def after_step(self, progress: float) -> None:
        self.move_teacher(rising(self.momentum, progress))
        super().after_step(progress)


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


class NNSiam(Queued):
    """SimSiam whose targets are the nearest neighbours of embeddings among earlier ones. Source: Dwibedi et al. 2021.

    `queue` embeddings of first views are kept. The predictor's learning rate and the BatchNorm behind z are SimSiam's.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, queue: Count = 98304, predictor_hidden: Count = 512) -> None:
        super().__init__(backbone, projector, queue)
        self.predictor = predictor_of(backbone, projector, predictor_hidden)
        self.norm = nn.BatchNorm1d(output_dim(projector, backbone.dim), affine=False)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings = [self.norm(self.embed(view.inputs)[1]).float() for view in views]
        self.keys = all_gather(embeddings[0].detach())
        neighbours = [losses.nearest(z, self.queue) for z in embeddings]
        return objective(losses.simsiam, *(self.predictor(z) for z in embeddings), *neighbours), {}

    def constant_lr(self) -> Iterable[nn.Parameter]:
        return self.predictor.parameters()


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
        self.move_teacher(momentum)
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
    "dcl": DCL,
    "dclw": DCLW,
    "mocov3": MoCoV3,
    "nnclr": NNCLR,
    "nnbyol": NNBYOL,
    "nnsiam": NNSiam,
    "ressl": ReSSL,
    "vibcreg": VIbCReg,
    "tico": TiCo,
    "mmcr": MMCR,
    "frossl": FroSSL,
    "lejepa": LeJEPA,
    "deepcluster": DeepCluster,
    "vicregl": VICRegL,
    "shuffleddbn": ShuffledDBN,
    "iternorm": IterNorm,
    "autoencoder": Autoencoder,
    "mae": MAE,
    "simmim": SimMIM,
    "ijepa": IJEPA,
    "ibot": IBOT,
    "dinov2": DINOv2,
    "msn": MSN,
}
