"""Self-supervised methods: nn.Modules on one contract, which is all that the training loop knows of them.

To add one: its objective in `losses.py`, a class here, an entry in METHODS. Its numbers are keyword arguments of
`__init__` with the paper's defaults; `--set method.<name>=<value>` is checked against that signature.
"""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsehead_cli.distributed import all_gather
from sparsehead_cli.errors import SparseheadError, unknown
from sparsehead_cli.ssl import losses


class Method(nn.Module):
    """A backbone, a projector and an objective. Subclasses write `forward`."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, views: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Views -> the objective [], and its terms by name, each [], for the log."""
        raise NotImplementedError

    def embed(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """One view -> representation r [B, D] and embedding z [B, E]."""
        r = self.backbone(view)
        return r, self.projector(r)

    def after_step(self, progress: float) -> None:
        """What moves outside of the optimizer (EMA, queue, prototypes); progress of the run in [0, 1]."""


def objective(loss: Callable[..., Tensor], *embeddings: Tensor, **constants: float) -> Tensor:
    """`loss` of the batch joined over all processes, in float32 with autocast off."""
    joined = [all_gather(z.float()) for z in embeddings]
    with torch.autocast(embeddings[0].device.type, enabled=False):
        return loss(*joined, **constants)


class SimCLR(Method):
    """Contrast the two views of an image with all other images of the batch. Source: Chen et al. 2020.

    `temperature` divides cosine similarities. Both views go through the network in one pass, as in the authors' code,
    so they share BatchNorm statistics.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, temperature: float = 0.2) -> None:
        super().__init__(backbone, projector)
        if not temperature > 0:
            raise SparseheadError(f"method.temperature must be above 0, given {temperature}.")
        self.temperature = temperature

    def forward(self, views: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        _, z = self.embed(torch.cat(views))
        z1, z2 = z.chunk(2)
        return objective(losses.nt_xent, z1, z2, temperature=self.temperature), {}


def method_settings(name: str, given: dict[str, object]) -> dict[str, object]:
    """All keyword arguments of a method: its defaults, overridden by what was `given`.

    Raises: SparseheadError for an unknown method or setting, or a value of another type than the default's.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    parameters = inspect.signature(METHODS[name].__init__).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for key, value in given.items():
        if key not in defaults:
            raise unknown(f"setting of {name}", f"method.{key}", [f"method.{d}" for d in defaults])
        if not isinstance(value, type(defaults[key])) and not (isinstance(defaults[key], float) and type(value) is int):
            raise SparseheadError(f"method.{key} must be {type(defaults[key]).__name__}, given {value!r}.")
    return {key: type(default)(given.get(key, default)) for key, default in defaults.items()}


METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
}
