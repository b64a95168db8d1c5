"""A source whose inputs are tensors in memory."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsehead_cli.data.contract import Batch, Inputs, each

HASHED = 10_000  # inputs hashed at a time: a device's are not copied to the processor all at once


@dataclass(frozen=True)
class Memory:
    """N inputs, such as images uint8 [N, C, H, W], and labels int64 [N]; label -1 where there is none.

    `spec` says what an encoder must know of the inputs; whoever needs the tensors alone may leave it out. Of inputs that were
    decoded from files, `of_files` is the fingerprint of these: not every machine decodes a file to the same bits.
    """

    inputs: Inputs
    labels: Tensor
    spec: object = None
    of_files: str = ""
    streams = False
    skipped = 0

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Memory":
        """The same split with its tensors on `device`."""
        return replace(self, inputs=each(lambda tensor: tensor.to(device), self.inputs), labels=self.labels.to(device))

    def take(self, indices: Tensor) -> "Memory":
        """The inputs at `indices` int64 [n], in that order."""
        indices = indices.to(self.labels.device)
        return replace(self, inputs=each(lambda tensor: tensor[indices], self.inputs), labels=self.labels[indices], of_files="")

    def batches(self, size: int, *, order: Tensor | None = None, start: int = 0, read: object = None) -> Iterator[Batch]:
        """Batches of `size` inputs, from batch `start` on.

        With an `order` (indices, best on the inputs' device) only whole batches; without one the inputs as they lie, the
        last smaller batch included. Images in memory are cropped on their device, so there is nothing to `read`.
        """
        last = len(order) // size if order is not None else -(-len(self) // size)
        index = order if order is not None else torch.arange(len(self), device=self.labels.device)
        for number in range(start, last):
            chosen = index[number * size : (number + 1) * size]
            # a slice of what lies in order is not copied
            rows = chosen if order is not None else slice(number * size, (number + 1) * size)
            yield Batch(each(lambda tensor, rows=rows: tensor[rows], self.inputs), self.labels[rows], chosen)

    def fingerprint(self) -> str:
        """That of the files they were decoded from, or else the digest of the inputs themselves."""
        return self.of_files or self.digest()

    def digest(self) -> str:
        """A hash of the inputs, their shape and their labels, in hexadecimals, the same on every machine."""
        tensors = [self.inputs] if isinstance(self.inputs, Tensor) else [self.inputs[name] for name in sorted(self.inputs)]
        result = hashlib.blake2b(digest_size=16)
        for tensor in tensors:
            result.update(repr(tuple(tensor.shape)).encode())
            for i in range(0, len(tensor), HASHED):
                result.update(tensor[i : i + HASHED].cpu().contiguous().view(torch.uint8).numpy())  # of bfloat16, too
        result.update(self.labels.cpu().contiguous().numpy().astype("<i8"))
        return result.hexdigest()
