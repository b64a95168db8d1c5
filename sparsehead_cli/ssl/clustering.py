"""A method that predicts clusters: those that an image's embedding was in when the epoch began."""

from typing import Annotated

import torch
from torch import Tensor, nn

from sparsehead_cli.data.contract import Batch, View
from sparsehead_cli.machine.distributed import all_gather
from sparsehead_cli.machine.ranges import Range
from sparsehead_cli.ssl import losses
from sparsehead_cli.ssl.contract import Count, Method, Needs, Positive, embed_by_size, objective, output_dim, too_low

SWAV = {"epsilon": 0.05, "iterations": 3}  # its codes, by its own numbers


class DeepCluster(Method):
    """Predict the cluster that the image was in when the epoch began (v2). Source: SwAV (Caron et al. 2020), appendix.

    An epoch begins with spherical k-means of the embeddings that first views had in the last one: `clusterings` of `prototypes`
    each, from different rows, in so many `iterations`. All views predict the prototype that is then nearest. In the first epoch,
    before which theirs looks at all images once, the codes are SwAV's, of random prototypes. All embeddings are kept, [N, E].
    """

    title = "DeepCluster v2"
    needs = Needs(local=True, memory=True)
    alike = ("memory", "assigned")

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        prototypes: Annotated[int, Range(least=2)] = 3000,
        clusterings: Count = 3,
        temperature: Positive = 0.1,
        iterations: Count = 10,
    ) -> None:
        super().__init__(backbone, projector)
        self.temperature, self.iterations = temperature, iterations
        directions = torch.randn(clusterings, prototypes, output_dim(projector, backbone.dim))
        self.register_buffer("prototypes", nn.functional.normalize(directions, dim=2))
        self.step = 0
        self.prepare(0, 1)

    def prepare(self, images: int, steps: int) -> None:
        self.steps = steps
        of = {"device": self.prototypes.device}
        self.register_buffer("memory", torch.zeros(images, self.prototypes.shape[2], **of))
        self.register_buffer("assigned", torch.full((len(self.prototypes), images), -1, **of))

    def suspects(self) -> list[str]:
        return too_low(temperature=self.temperature)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if self.step and self.step % self.steps == 0:
            self.cluster()
        embeddings, index = embed_by_size(self, views), all_gather(batch.index)
        self.memory[index] = nn.functional.normalize(all_gather(embeddings[0].detach().float()), dim=1)
        if self.step < self.steps:
            constants = {"prototypes": self.prototypes[0], "temperature": self.temperature}
            return objective(losses.swav, *embeddings, **constants, **SWAV), {}
        constants = {"prototypes": self.prototypes, "assigned": self.assigned[:, index], "temperature": self.temperature}
        return objective(losses.deepcluster, *embeddings, **constants), {}

    def cluster(self) -> None:
        """The prototypes, and where each image is; of one that the last epoch left out nobody knows (-1). Then it forgets."""
        known = self.memory.any(dim=1).nonzero().flatten()
        count = torch.arange(self.prototypes.shape[1], device=known.device)
        with torch.autocast(known.device.type, enabled=False):
            for number in range(len(self.prototypes)):
                drawn = known[torch.randperm(len(known), device=known.device)]
                starts = self.memory[drawn[count % len(drawn)]]  # of fewer images than prototypes some more than once
                found = losses.spherical_kmeans(self.memory, starts, self.iterations)
                self.prototypes[number], self.assigned[number] = found
        self.memory.zero_()

    def after_step(self, progress: float) -> None:
        self.step += 1

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.step)

    def set_extra_state(self, state: Tensor) -> None:
        self.step = int(state)
