"""CaSSLe: a method that does not forget, by predicting what it knew. Source: Fini et al. 2022 (arXiv 2112.04215)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import torch
from torch import Tensor, nn

from sparsehead_cli.data.contract import Batch, View
from sparsehead_cli.ssl import losses
from sparsehead_cli.ssl.contract import Method, objective, predictor_of, teacher_of

HIDDEN = 2048  # of the predictor, as the authors have it


class Distilling(Method):
    """What CaSSLe adds to a method, of which it is a base class beside this one: see `cassle`."""

    tasks_done = 0

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with outputs_of(self.projector) as seen:
            loss, terms = super().forward(views, batch)
        if not self.tasks_done:  # the predictor gets a gradient, 0, as the optimizer and several processes want of all weights
            return loss + 0 * sum(parameter.sum() for parameter in self.distiller.parameters()), terms
        z = torch.cat(seen)  # of all views, or of the first where the others go through a teacher; and then of their patches
        with torch.no_grad():
            known = torch.cat([self.embed(view.inputs, self.before)[1] for view in views])[: len(z)]
        z = z[: len(known)]
        function, names = DISTILLATIONS.get(type(self).__name__, OTHERS)
        numbers = {name: getattr(self, name) for name in names}
        distilled = objective(function, self.distiller(z), known, **numbers)
        return loss + distilled, {**terms, "distillation": distilled}

    def end_task(self) -> None:
        """What is known now is what the next task's embedding is to predict."""
        self.before.load_state_dict(nn.Sequential(self.backbone, self.projector).state_dict())
        self.tasks_done += 1

    def train(self, mode: bool = True) -> Method:
        super().train(mode)
        self.before.eval()  # what was known does not move, BatchNorm's statistics included
        return self

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.tasks_done)

    def set_extra_state(self, state: Tensor) -> None:
        self.tasks_done = int(state)


def cassle(kind: type[Method]) -> type[Method]:
    """A method that after its first task adds the loss of predicting, from its embedding, that of the network before the task.

    The loss is of the method's own kind, as in the paper: contrastive for SimCLR and its like, decorrelation for Barlow Twins,
    and for all others the distance of directions, also where the authors have another, for VICReg and SwAV.
    """

    @wraps(kind.__init__)
    def make(self: Distilling, backbone: nn.Module, projector: nn.Module, **settings: object) -> None:
        kind.__init__(self, backbone, projector, **settings)
        self.before = teacher_of(backbone, projector).eval()
        self.distiller = predictor_of(backbone, projector, HIDDEN)

    return type(kind.__name__, (Distilling, kind), {"__init__": make})


@contextmanager
def outputs_of(network: nn.Module) -> Iterator[list[Tensor]]:
    """What a network returns meanwhile, call by call."""
    seen: list[Tensor] = []
    handle = network.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def contrast(predicted: Tensor, known: Tensor, temperature: float) -> Tensor:
    """-log of how much nearer a prediction is to what was known of its own view than to that of any view, [B, E], [B, E] -> [].

    Cosine similarities over the temperature, mean over the B views. Source: CaSSLe, the contrastive row of its table 1; the
    authors' code averages this with the other way round, of what was known among predictions.
    """
    return losses.in_batch_nce(predicted, known, temperature)


def decorrelation(predicted: Tensor, known: Tensor, off_diagonal: float, scale: float) -> Tensor:
    """Barlow Twins of predictions and what was known, [B, E], [B, E] -> [], scaled as the method's own."""
    return scale * losses.barlow_twins(predicted, known, off_diagonal)[0]


def direction(predicted: Tensor, known: Tensor) -> Tensor:
    """2 - 2 cos(prediction, what was known), mean over B, [B, E], [B, E] -> []: the row of BYOL."""
    return 2 + 2 * losses.negative_cosine(predicted, known)


# of a method, by its class: the loss of predictions, and which of its numbers that takes
DISTILLATIONS: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "SimCLR": (contrast, ("temperature",)),
    "SupCon": (contrast, ("temperature",)),
    "MoCo": (contrast, ("temperature",)),
    "BarlowTwins": (decorrelation, ("off_diagonal", "scale")),
}
OTHERS = (direction, ())
