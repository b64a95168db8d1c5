"""Contrastive methods: an image is told from others, those of its batch or of earlier ones."""

import torch
from torch import Tensor, nn

from sparsehead_cli.data.contract import Batch, View, joined
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.distributed import all_gather
from sparsehead_cli.ssl import losses
from sparsehead_cli.ssl.contract import (
    Count,
    Method,
    Needs,
    Positive,
    Share,
    objective,
    output_dim,
    predictor_of,
    rising,
    teacher_of,
    too_low,
)


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


class SupCon(SimCLR):
    """SimCLR that knows the labels: all views of an image's class are its positives. The supervised upper line.

    Source: Khosla et al. 2020, without their linear classifier on top.
    """

    needs = Needs(labels=True)

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, temperature: Positive = 0.1) -> None:
        super().__init__(backbone, projector, temperature=temperature)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        _, z = self.embed(joined(views))
        return objective(losses.sup_con, *z.chunk(2), labels=all_gather(batch.labels), temperature=self.temperature), {}


class Queued(Method):
    """A method that compares with embeddings of earlier batches: `queue` of them are kept, the oldest leave first.

    They start as random directions. What a step sets as `keys` [n, E] goes into the queue after it, so that no batch meets its own.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, queue: int, *, keys_of_an_image: int = 1) -> None:
        super().__init__(backbone, projector)
        self.keys_of_an_image = keys_of_an_image
        self.register_buffer("queue", torch.randn(queue, output_dim(projector, backbone.dim)))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.long))  # where the next key goes
        self.register_buffer("keys", torch.empty(0), persistent=False)  # of this step, on their way into the queue

    def check(self, roles: tuple[str, ...], batch: int) -> None:
        super().check(roles, batch)
        keys = batch * self.keys_of_an_image
        if len(self.queue) < keys:
            raise SparseheadError(
                f"method.queue must hold the {keys} keys of a batch, given {len(self.queue)}. "
                f"Choose --set method.queue={keys} or more, or a smaller --batch-size."
            )

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        place = (self.oldest + torch.arange(len(self.keys), device=self.queue.device)) % len(self.queue)
        self.queue[place] = self.keys
        self.oldest.add_(len(self.keys)).remainder_(len(self.queue))


class MoCo(Queued):
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
        super().__init__(backbone, projector, queue, keys_of_an_image=1 + symmetric)
        self.temperature, self.momentum = temperature, momentum
        self.symmetric = symmetric
        self.teacher = teacher_of(backbone, projector)

    def suspects(self) -> list[str]:
        return too_low(temperature=self.temperature)

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

    def after_step(self, progress: float) -> None:
        self.move_teacher(self.momentum)
        super().after_step(progress)


class DCL(SimCLR):
    """SimCLR without the positive among the negatives, so that small batches lose no gradient. Source: Yeh et al. 2022."""

    sigma: float | None = None  # of no weights

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, temperature: Positive = 0.1) -> None:
        super().__init__(backbone, projector, temperature=temperature)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        _, z = self.embed(joined(views))
        return objective(losses.decoupled, *z.chunk(2), temperature=self.temperature, sigma=self.sigma), {}


class DCLW(DCL):
    """DCL in which a pair counts the more, the less alike its views are; a smaller `sigma` says so more sharply.

    Source: Yeh et al. 2022, eq. 7.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, temperature: Positive = 0.1, sigma: Positive = 0.5) -> None:
        super().__init__(backbone, projector, temperature=temperature)
        self.sigma = sigma


class MoCoV3(Method):
    """Predict a slow teacher's embedding of the other view better than those of other images. Source: Chen et al. 2021.

    The teacher's `momentum` rises to 1 along half a cosine; there is no queue. The predictor is an MLP of hidden width
    `predictor_hidden`. Their frozen patch projection is of vision transformers alone.
    """

    title = "MoCo v3"

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        temperature: Positive = 1.0,
        momentum: Share = 0.99,
        predictor_hidden: Count = 4096,
    ) -> None:
        super().__init__(backbone, projector)
        self.temperature, self.momentum = temperature, momentum
        self.predictor = predictor_of(backbone, projector, predictor_hidden)
        self.teacher = teacher_of(backbone, projector)

    def suspects(self) -> list[str]:
        return too_low(temperature=self.temperature)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        queries = [self.predictor(self.embed(view.inputs)[1]) for view in views]
        with torch.no_grad():
            keys = [self.embed(view.inputs, self.teacher)[1] for view in views]
        return objective(losses.moco_v3, *queries, *keys, temperature=self.temperature), {}

    def after_step(self, progress: float) -> None:
        self.move_teacher(rising(self.momentum, progress))


class NNCLR(Queued):
    """SimCLR whose positives are the nearest neighbours of an image among earlier ones. Source: Dwibedi et al. 2021.

    `queue` embeddings of first views are kept. The neighbour of each view has to find the prediction of the other; the predictor
    is an MLP of hidden width `predictor_hidden`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        temperature: Positive = 0.1,
        queue: Count = 98304,
        predictor_hidden: Count = 4096,
    ) -> None:
        super().__init__(backbone, projector, queue)
        self.temperature = temperature
        self.predictor = predictor_of(backbone, projector, predictor_hidden)

    def suspects(self) -> list[str]:
        return too_low(temperature=self.temperature)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings = [self.embed(view.inputs)[1] for view in views]
        neighbours = [losses.nearest(z.float(), self.queue) for z in embeddings]
        self.keys = all_gather(embeddings[0].detach().float())
        predictions = [self.predictor(z) for z in embeddings]
        return objective(losses.nnclr, *predictions, *neighbours, temperature=self.temperature), {}


class ReSSL(Queued):
    """See in one view the same similarities to other images as a slow teacher sees in the other. Source: Zheng et al. 2021.

    The first view is the student's, the second the teacher's, for which they augment less. `queue` embeddings of the teacher are
    the other images. The teacher's lower temperature sharpens what it sees; its `momentum` is constant.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        temperature: Positive = 0.1,
        teacher_temperature: Positive = 0.04,
        queue: Count = 131072,
        momentum: Share = 0.999,
    ) -> None:
        super().__init__(backbone, projector, queue)
        self.temperatures = {"temperature": temperature, "teacher_temperature": teacher_temperature}
        self.momentum = momentum
        self.teacher = teacher_of(backbone, projector)

    def suspects(self) -> list[str]:
        return too_low(**self.temperatures)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        _, z = self.embed(views[0].inputs)
        with torch.no_grad():
            keys = self.embed(views[1].inputs, self.teacher)[1].float()
        self.keys = all_gather(keys)
        return objective(losses.relations, z, keys, queue=self.queue, **self.temperatures), {}

    def after_step(self, progress: float) -> None:
        self.move_teacher(self.momentum)
        super().after_step(progress)
