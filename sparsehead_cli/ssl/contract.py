"""What methods are made of: the contract that the training loop knows, and the parts that several of them share."""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Annotated, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sparsehead_cli.data.contract import GLOBAL, LOCAL, Batch, Inputs, View, joined
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.distributed import all_gather, own_share, world
from sparsehead_cli.machine.ranges import Range, keywords_of, stated_range
from sparsehead_cli.nets.heads import mlp

# what the numbers of a method are annotated with
Positive = Annotated[float, Range(above=0)]
Share = Annotated[float, Range(least=0, most=1)]
Count = Annotated[int, Range(least=1)]


class Needs(NamedTuple):
    """What a method needs: how many global views (None: any number), whether it can use local ones, and labels of all inputs."""

    views: int | None = 2
    local: bool = False
    labels: bool = False


class Method(nn.Module):
    """A backbone, a projector and an objective. Subclasses write `forward`.

    The backbone is an encoder: inputs of a view -> r [B, D], with `dim`, the width D of r. What a method remembers from step to
    step is a buffer or a submodule, so that it is in the checkpoint. Its numbers are keyword arguments with their range in the
    annotation, such as `temperature: Positive = 0.2`.
    """

    needs = Needs()

    def __new__(cls, *modules: nn.Module, **settings: object) -> Self:
        """Raises: SparseheadError for numbers that are out of the range that `__init__` states, before anything is made of them."""
        problems = []
        for name, keyword in keywords_of(cls).items():
            _, bounds = stated_range(keyword.annotation)
            problems.append(bounds.problem(f"method.{name}", settings.get(name), {}))
        if any(problems):
            raise SparseheadError("\n".join(filter(None, problems)))
        return super().__new__(cls)

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """V views and the batch that they are of -> the objective [], and its terms by name, each [], for the log."""
        raise NotImplementedError

    def embed(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The inputs of one view -> representation r [B, D] and embedding z [B, E]."""
        r = self.backbone(inputs)
        return r, self.projector(r)

    def after_step(self, progress: float) -> None:
        """What moves outside of the optimizer (EMA, queue, centre); progress of the run in [0, 1]."""

    def check(self, roles: tuple[str, ...], batch: int) -> None:
        """Raises: SparseheadError where the objective cannot use views of these roles, or a joined batch of this size."""
        name, views = type(self).__name__, roles.count(GLOBAL)
        if self.needs.views not in (None, views):
            count = {1: "one view", 2: "two views"}.get(self.needs.views, f"{self.needs.views} views")
            raise SparseheadError(f"{name} compares {count}; the recipe makes {views}. Choose another recipe.")
        if LOCAL in roles and not self.needs.local:
            raise SparseheadError(
                f"{name} has no use for local views, of which the recipe makes {roles.count(LOCAL)}. Choose another."
            )

    def suspects(self) -> list[str]:
        """What of its own settings may be the reason where its numbers are no longer finite, the likeliest first."""
        return []

    def constant_lr(self) -> Iterable[nn.Parameter]:
        """The parameters whose learning rate stays at its peak through the run."""
        return ()


def embed_by_size(method: Method, views: list[View]) -> list[Tensor]:
    """z [B, E] of every view, global views first; those of one role have one size and go through the network in one pass."""
    embeddings: list[Tensor] = []
    for role in (GLOBAL, LOCAL):
        equal = [view for view in views if view.role == role]
        if equal:
            embeddings += method.embed(joined(equal))[1].chunk(len(equal))
    return embeddings


def objective(loss: Callable[..., Tensor], *embeddings: Tensor, **constants: object) -> Tensor:
    """`loss` of the batch joined over all processes, in float32 with autocast off."""
    joined = [all_gather(z.float()) for z in embeddings]
    with torch.autocast(embeddings[0].device.type, enabled=False):
        return loss(*joined, **constants)


def own_rows(draw: Callable[..., Tensor], batch: int, *shape: int, device: torch.device) -> Tensor:
    """This process's rows of random numbers for the joined batch, [B, *shape]: the same however many processes share it."""
    return own_share(draw(world() * batch, *shape, device=device))


def teacher_of(*modules: nn.Module) -> nn.Sequential:
    """A copy that no gradient reaches; with BatchNorm statistics of its own."""
    return copy.deepcopy(nn.Sequential(*modules)).requires_grad_(False)


@torch.no_grad()
def move(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher ← momentum · teacher + (1 - momentum) · student, parameter by parameter."""
    get_ema_multi_avg_fn(momentum)(list(teacher.parameters()), list(student.parameters()), None)


def rising(momentum: float, progress: float) -> float:
    """From `momentum` to 1 along half a cosine. Source: BYOL (Grill et al. 2020), section 3.1."""
    return 1 - (1 - momentum) * (math.cos(math.pi * progress) + 1) / 2


def output_dim(projector: nn.Module, dim: int) -> int:
    """E, the width of a projector's embedding."""
    with torch.no_grad():
        return copy.deepcopy(projector).eval()(torch.zeros(2, dim)).shape[1]


def predictor_of(backbone: nn.Module, projector: nn.Module, hidden: int) -> nn.Sequential:
    """An MLP [B, E] -> [B, E] with one hidden layer and BatchNorm in it."""
    dim = output_dim(projector, backbone.dim)
    return mlp(dim, [hidden], dim)


class Prototypes(nn.Module):
    """Directions of length 1, [P, E], random at first, which learn only after the share `frozen` of the run.

    Until then embeddings have to spread over directions that do not come towards them.
    """

    def __init__(self, count: int, dim: int, frozen: float) -> None:
        super().__init__()
        self.directions = nn.Parameter(nn.functional.normalize(torch.randn(count, dim), dim=1))
        self.frozen = frozen
        self.register_buffer("learning", torch.tensor(float(frozen == 0)))  # 1 or 0

    def forward(self) -> Tensor:
        return self.learning * self.directions + (1 - self.learning) * self.directions.detach()

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Back to length 1, and thawed in time."""
        self.directions.copy_(nn.functional.normalize(self.directions, dim=1))
        self.learning.fill_(progress >= self.frozen)


def too_low(**temperatures: float) -> list[str]:
    """Of the settings that scores are divided by, those so low that the quotients may leave float32's exponents."""
    return [f"method.{name} {value:g} (too low?)" for name, value in temperatures.items() if value < 0.01]


def reads(projector: nn.Module) -> float:
    """How many numbers the projector's last linear layer reads, infinitely many where there is none: z has at most this rank."""
    linears = [module for module in projector.modules() if isinstance(module, nn.Linear)]
    return linears[-1].in_features if linears else math.inf
