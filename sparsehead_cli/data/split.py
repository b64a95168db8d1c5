"""A split in memory, and what the images that stream from files need to know to be cropped where they are decoded."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsehead_cli.data.augment import View


@dataclass(frozen=True)
class Crops:
    """How a batch of training images is cropped while it is read: one crop a view of `recipe`, each `size` pixels wide.

    `step` is the step of batch 0 of the order, `first` the place of a batch's first image in the batch that all processes
    share: with the seed and the place behind it they fix each box.
    """

    recipe: tuple[View, ...]
    size: int
    seed: int
    step: int = 0
    first: int = 0


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, C, H, W] and labels int64 [N]; label -1 where there is none.

    Where the images were read from files, `skipped` of them could not be, and were left out or replaced by others.
    """

    images: Tensor
    labels: Tensor
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        """The side of its images in pixels."""
        return self.images.shape[-1]

    def to(self, device: torch.device) -> "Split":
        """The same split with its tensors on `device`."""
        return Split(self.images.to(device), self.labels.to(device), self.skipped)

    def take(self, indices: Tensor) -> "Split":
        """The images at `indices` int64 [n], in that order."""
        indices = indices.to(self.images.device)
        return Split(self.images[indices], self.labels[indices])

    def batches(self, size: int, *, order: Tensor | None = None, start: int = 0, crops: Crops | None = None) -> Iterator["Split"]:
        """Batches of `size` images, from batch `start` on.

        With an `order` (indices, best on the images' device) only whole batches; without one the images as they lie, the
        last smaller batch included. `crops` are for images that stream from files; these here are cropped on their device.
        """
        if order is None:
            for i in range(start * size, len(self), size):
                yield Split(self.images[i : i + size], self.labels[i : i + size])
            return
        for i in range(start, len(order) // size):
            yield self.take(order[i * size : (i + 1) * size])

    def digest(self) -> str:
        """A hash of the images, their shape and their labels, in hexadecimals, the same on every machine."""
        found = hashlib.blake2b(repr(tuple(self.images.shape)).encode(), digest_size=16)
        for i in range(0, len(self), _HASHED):
            found.update(self.images[i : i + _HASHED].cpu().contiguous().numpy())
        found.update(self.labels.cpu().contiguous().numpy().astype("<i8"))
        return found.hexdigest()


_HASHED = 10_000  # images hashed at a time: a device's images are not copied to the processor all at once
