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
from sparsehead_cli.machine.distributed import all_gather, own_part, own_share, world
from sparsehead_cli.machine.ranges import Range, keywords_of, stated_range
from sparsehead_cli.nets.heads import mlp
from sparsehead_cli.nets.recompute import in_parts

# annotations for the numbers that a method takes as settings
Positive = Annotated[float, Range(above=0)]
Share = Annotated[float, Range(least=0, most=1)]
Count = Annotated[int, Range(least=1)]


class Needs(NamedTuple):
    """What a method needs of a batch."""

    views: int | None = 2  # how many global views; None: any number
    local: bool = False  # whether it can use local views
    labels: bool = False  # whether it needs the labels of all inputs
    memory: bool = False  # whether it remembers each input from one epoch to the next


class Method(nn.Module):
    """A backbone, a projector and an objective. Subclasses write `forward`.

    The backbone is an encoder: the inputs of a view -> r [B, D]; its attribute `dim` is D. What a method remembers from step
    to step is a buffer or a submodule, so that it is in the checkpoint. A method's numbers are keyword arguments of `__init__`,
    whose annotation states their range, such as `temperature: Positive = 0.2`.

    A batch goes through the backbone in `parts` parts, see `nets/recompute.py: in_parts`; the rest sees all of it.
    """

    needs = Needs()
    parts = 1
    alike: tuple[str, ...] = ()  # large buffers that every process fills by itself, and nobody has to send around
    title = ""  # what people call it, where that is not the class's name; a subclass does not inherit it

    def __new__(cls, *modules: nn.Module, **settings: object) -> Self:
        """Look at the numbers before `__init__` uses them. Raises: SparseheadError for those out of the range that it states."""
        problems = []
        for name, keyword in keywords_of(cls).items():
            _, bounds = stated_range(keyword.annotation)
            problem = bounds.problem(f"method.{name}", settings.get(name), others={})  # "" where it is left to its default
            problems += [problem] if problem else []
        if problems:
            raise SparseheadError("\n".join(problems))
        return super().__new__(cls)

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Views, and the batch that they were made from -> the objective [], and its terms by name, each [], for the log."""
        raise NotImplementedError

    def embed(self, inputs: Inputs, teacher: nn.Sequential | None = None) -> tuple[Tensor, Tensor]:
        """The inputs of one view -> representation r [B, D] and embedding z [B, E], or those of a teacher of both modules."""
        backbone, projector = (self.backbone, self.projector) if teacher is None else teacher
        r = in_parts(backbone, inputs, self.parts)
        return r, projector(r)

    def prepare(self, images: int, steps: int) -> None:
        """Take note of how many training images there are, which `batch.index` counts, and how many steps an epoch has."""

    def after_step(self, progress: float) -> None:
        """Move what the optimizer does not (EMA, queue, centre). `progress` is the share of the run that is over."""

    def move_teacher(self, momentum: float) -> None:
        """Let the teacher, of a method that has one, follow backbone and projector: see `move`."""
        move(self.teacher, nn.Sequential(self.backbone, self.projector), momentum)

    def check(self, roles: tuple[str, ...], batch: int) -> None:
        """Raises: SparseheadError where views of these roles, or (in subclasses) a joined batch of this size, cannot be used."""
        name, views = type(self).__name__, roles.count(GLOBAL)
        if self.needs.views not in (None, views):
            count = {1: "one view", 2: "two views"}.get(self.needs.views, f"{self.needs.views} views")
            raise SparseheadError(f"{name} compares {count}; the recipe makes {views}. Choose another recipe.")
        if LOCAL in roles and not self.needs.local:
            raise SparseheadError(
                f"{name} has no use for local views, of which the recipe makes {roles.count(LOCAL)}. Choose another."
            )

    def suspects(self) -> list[str]:
        """The settings, the likeliest first, that may be to blame when the objective is no longer finite: see `too_low`."""
        return []

    def constant_lr(self) -> Iterable[nn.Parameter]:
        """The parameters whose learning rate stays at its peak through the run."""
        return ()


def embed_by_size(method: Method, views: list[View]) -> list[Tensor]:
    """z [B, E] of every view, global views first. Views of one role have one size: they go through the network in one pass."""
    embeddings: list[Tensor] = []
    for role in (GLOBAL, LOCAL):
        of_role = [view for view in views if view.role == role]
        if of_role:
            _, z = method.embed(joined(of_role))
            embeddings += z.chunk(len(of_role))
    return embeddings


def objective(loss: Callable[..., Tensor], *embeddings: Tensor, **constants: object) -> Tensor:
    """`loss` of the batch joined over all processes, in float32 with autocast off."""
    gathered = [all_gather(z.float()) for z in embeddings]
    with torch.autocast(embeddings[0].device.type, enabled=False):
        return loss(*gathered, **constants)


def own_rows(draw: Callable[..., Tensor], batch: int, *shape: int, device: torch.device) -> Tensor:
    """Random numbers [B, *shape] of `draw`, such as torch.rand, for this process's B rows of the joined batch.

    Each process draws for all rows and keeps its own, so that a row has the same numbers however many processes share them.
    """
    return own_share(draw(world() * batch, *shape, device=device))


def teacher_of(*modules: nn.Module) -> nn.Sequential:
    """A copy of the modules, one behind the other, that no gradient reaches. Its BatchNorm statistics are its own, see `move`."""
    return copy.deepcopy(nn.Sequential(*modules)).requires_grad_(False)


@torch.no_grad()
def move(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher ← momentum · teacher + (1 - momentum) · student, parameter by parameter; buffers stay."""
    pairs = [list(map(own_part, network.parameters())) for network in (teacher, student)]
    get_ema_multi_avg_fn(momentum)(*pairs, None)  # torch does not use the last


def rising(momentum: float, progress: float) -> float:
    """From `momentum` to 1 along half a cosine. Source: BYOL (Grill et al. 2020), section 3.1."""
    return 1 - (1 - momentum) * (math.cos(math.pi * progress) + 1) / 2


def rising_evenly(momentum: float, progress: float) -> float:
    """From `momentum` to 1 along a line. Source: I-JEPA (Assran et al. 2023), appendix A; MSN likewise."""
    return momentum + (1 - momentum) * progress


def output_dim(projector: nn.Module, dim: int) -> int:
    """E, the width of a projector's embedding, measured on a copy: the projector itself stays in its mode."""
    with torch.no_grad():
        return copy.deepcopy(projector).eval()(torch.zeros(2, dim)).shape[1]


def predictor_of(backbone: nn.Module, projector: nn.Module, hidden: int) -> nn.Sequential:
    """An MLP [B, E] -> [B, E] behind the projector, with one hidden layer that has BatchNorm."""
    dim = output_dim(projector, backbone.dim)
    return mlp(dim, [hidden], dim)


class Prototypes(nn.Module):
    """Directions of length 1, [P, E]. They are random, and learn only after the share `frozen` of the run.

    Until then the embeddings have to spread over the directions, which do not come towards them.
    """

    def __init__(self, count: int, dim: int, frozen: float) -> None:
        super().__init__()
        self.directions = nn.Parameter(nn.functional.normalize(torch.randn(count, dim), dim=1))
        self.frozen = frozen
        self.register_buffer("learning", torch.tensor(float(frozen == 0)))  # 1, or 0 while frozen

    def forward(self) -> Tensor:
        """The directions; while they are frozen their gradient is 0, but not missing."""
        return self.learning * self.directions + (1 - self.learning) * self.directions.detach()

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Bring the directions back to length 1, and let them learn from `frozen` on."""
        self.directions.copy_(nn.functional.normalize(self.directions, dim=1))
        self.learning.fill_(progress >= self.frozen)


def too_low(**temperatures: float) -> list[str]:
    """The temperatures, which scores are divided by, that are so low that float32 may overflow; as texts for `suspects`."""
    return [f"method.{name} {value:g} (too low?)" for name, value in temperatures.items() if value < 0.01]


def reads(projector: nn.Module) -> float:
    """The most that the rank of z can be: how many numbers the projector's last linear layer reads; infinite without one."""
    linears = [module for module in projector.modules() if isinstance(module, nn.Linear)]
    return linears[-1].in_features if linears else math.inf
