"""What training and measuring read: a source gives batches, views are made of their inputs, an encoder reads the inputs of a view.

A source knows nothing of views, and the training loop looks inside neither inputs nor views: images and tokens go the same way.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Inputs = Tensor | dict[str, Tensor]  # images uint8 [B, C, H, W]; or tokens by name, [B, T] each; or what a plug-in needs
GLOBAL, LOCAL = "global", "local"  # the roles of views: most of an input, or a small part of it
ROLES = ("global", "local")


class Batch(NamedTuple):
    """B inputs, their labels int64 [B] (-1 where there is none) and which of the source they are, int64 [B].

    Where inputs were read from files, `skipped` of them could not be, and were left out or replaced by others.
    """

    inputs: Inputs
    labels: Tensor
    index: Tensor
    skipped: int = 0


class View(NamedTuple):
    """One augmented, normalised form of a batch. Its role is "global" or "local"; its size is that of its inputs."""

    inputs: Inputs
    role: str = GLOBAL


class Source(Protocol):
    """One split of a data set: its labels, its batches. `spec` is what an encoder must know of the inputs.

    A source that `streams` reads its inputs from files while it is asked for batches; `skipped` counts those that it could not.
    """

    spec: object
    labels: Tensor
    streams: bool
    skipped: int

    def __len__(self) -> int: ...

    def to(self, device: torch.device) -> "Source":
        """The same inputs, whose batches will be on `device`."""

    def take(self, indices: Tensor) -> "Source":
        """The inputs at `indices` int64 [n], in that order."""

    def batches(self, size: int, *, order: Tensor | None = None, start: int = 0, read: object = None) -> Iterator[Batch]:
        """Batches of `size` inputs from batch `start` on; with an `order` (indices) only whole ones.

        `read` is what the views have for a source that streams from files: the part of their work that is done where it reads.
        """

    def digest(self) -> str:
        """A hash of inputs and labels, in hexadecimals, the same on every machine.

        Where it takes long, a source may have a `fingerprint` beside it, which tells it from others and is cheap.
        """


def fingerprint(sources: Iterable[Source]) -> str:
    """A hash that tells these sources, in their order, from others, in hexadecimals.

    It is "" where somebody's own source, which is only trained on, has no digest.
    """
    found = hashlib.blake2b(digest_size=16)
    for source in sources:
        own = getattr(source, "fingerprint", None) or getattr(source, "digest", None)
        if own is None:
            return ""
        found.update(own().encode() + b"\0")
    return found.hexdigest()


class Views(Protocol):
    """Inputs -> views, drawn from `generator` alone (a CPU generator). `roles` has a role for each view."""

    roles: tuple[str, ...]

    def __call__(self, inputs: Inputs, generator: torch.Generator) -> list[View]: ...

    def read(self, seed: int, step: int, first: int) -> object:
        """What `Source.batches` is given for the batches from `step` on, whose first input is `first` in the joined batch.

        None, unless a part of the work is to be done where a source reads.
        """
        return None


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of a data set's training images, on the scale [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Images in [0, 1] -> zero mean, unit variance over the data set, [B, C, h, w] -> [B, C, h, w]."""
        mean, std = _on_device(self, x.device)
        return (x - mean).div_(std)


@cache
def _on_device(normalise: Normalisation, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation, [C, 1, 1] each; copied to a device once, since every copy makes the processor wait."""
    return tuple(torch.tensor(v, device=device)[:, None, None] for v in (normalise.mean, normalise.std))


@dataclass(frozen=True)
class ImageSpec:
    """What an encoder must know of images, and people of their labels: channels, the side of the square, the statistics."""

    classes: tuple[str, ...]
    channels: int
    size: int
    normalise: Normalisation

    @property
    def image(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        return (self.channels, self.size, self.size)


def each(function: Callable[..., Tensor], *inputs: Inputs) -> Inputs:
    """`function` of tensors, or of the tensors of each name."""
    if isinstance(inputs[0], dict):
        return {name: function(*(one[name] for one in inputs)) for name in inputs[0]}
    return function(*inputs)


def joined(views: list[View]) -> Inputs:
    """The inputs of views of one size as one batch, [B, ...] each -> [V · B, ...], the views one behind the other."""
    return each(lambda *tensors: torch.cat(tensors), *(view.inputs for view in views))
