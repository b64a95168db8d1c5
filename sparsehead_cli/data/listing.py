"""Where the bytes of images lie, and their labels: known before any image is opened, read one by one in any order.

Files of their own, members of tar files and rows of a Hugging Face data set all are a Listing, so that whoever streams images
neither knows nor cares which: what a batch contains is a function of its number and its order alone.
"""

import hashlib
import os
import re
import stat
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

BYTES = 2**29  # of an image's file: more than any image that is decoded can need
SIZED = 100_000  # images, at most, whose sizes tell a data set from another


class Listing(Protocol):
    """N images with labels int64 [N], -1 where there is none. `held_out` bool [N] says which are "val", where the publisher does.
    `notes` say what was left out.

    Reading processes get a copy: it must be small, and hold no open file.
    """

    labels: np.ndarray
    held_out: np.ndarray | None
    notes: tuple[str, ...]

    def __len__(self) -> int: ...

    def name(self, i: int) -> bytes:
        """What the i-th image is called, the same on every machine."""

    def where(self, i: int) -> str:
        """How an error names the i-th image, so that people find it."""

    def read(self, i: int) -> np.ndarray:
        """The bytes of the i-th image, uint8 [n]. Raises: OSError, ValueError."""

    def sizes(self, index: np.ndarray) -> np.ndarray:
        """How many bytes each image at `index` [n] has, int64 [n], without reading one; -1 where that is not known."""

    def files(self, index: Iterable[int]) -> Iterator[Path]:
        """The files in which the images at `index` lie, each once."""


class Layout(Protocol):
    """A data set in files: its classes, its parts, and what people should know of it before it is trained on (`notes`).

    It is `labelled` where training images have labels, `tested` where it has test images.
    """

    root: Path
    classes: tuple[str, ...]
    labelled: bool
    tested: bool
    notes: tuple[str, ...]

    def listing(self, train: bool) -> Listing:
        """The training or test images. Raises: SparseheadError for what is missing or damaged."""


@dataclass(frozen=True)
class Files:
    """N image files below `root` and their labels int64 [N].

    The names stand one after the other in a single array of bytes, `ends` [N] says where each ends. A list of a million
    strings would be copied, page by page, into every reading process: looking at a Python object writes to it.
    """

    root: Path
    names: np.ndarray
    ends: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        root: Path,
        names: Iterable[bytes],
        labels: Iterable[int],
        held_out: np.ndarray | None = None,
        notes: tuple[str, ...] = (),
    ) -> "Files":
        """Files with these paths below `root`, as the file system spells them."""
        joined, ends = bytearray(), array("q")
        for name in names:
            joined += name
            ends.append(len(joined))
        kinds = ((joined, np.uint8), (ends, np.int64), (array("q", labels), np.int64))
        return cls(root, *(np.frombuffer(part, kind) for part, kind in kinds), held_out, notes)

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, i: int) -> bytes:
        """The i-th file's path below `root`, as the file system spells it."""
        return self.names[self.ends[i - 1] if i else 0 : self.ends[i]].tobytes()

    def path(self, i: int) -> Path:
        return self.root / os.fsdecode(self.name(i))

    def where(self, i: int) -> str:
        return str(self.path(i))

    def read(self, i: int) -> np.ndarray:
        return read_file(self.path(i))

    def sizes(self, index: np.ndarray) -> np.ndarray:
        root = os.path.join(os.fsencode(self.root), b"")
        return np.array([size_of(os.path.join(root, self.name(i))) for i in index], np.int64)

    def files(self, index: Iterable[int]) -> Iterator[Path]:
        return map(self.path, index)


def size_of(path: bytes) -> int:
    """The bytes of a file, -1 where it cannot be asked."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def fingerprint(listing: Listing, index: np.ndarray) -> str:
    """A hash of the names, labels and sizes of the images at `index` [n], in their order, in hexadecimals.

    No image is opened, and of more than SIZED the sizes of some, evenly spread, are asked for: a million of them keep a training
    waiting for a few seconds, on a network's disk, too. A copy of a folder has the same.
    """
    found = hashlib.blake2b(digest_size=16)
    for i in index:
        found.update(listing.name(i) + b"\0")
    sized = index[:: -(-len(index) // SIZED) or 1]
    for numbers in (listing.labels[index], listing.sizes(sized)):
        found.update(numbers.astype("<i8").tobytes())
    return found.hexdigest()


def read_file(path: str | Path) -> np.ndarray:
    """The bytes of an image's file, uint8 [n]. Raises: OSError; ValueError for an empty file, for a link
    to nowhere and for what is no file of images.

    A pipe or a device would keep its reader waiting, or never end.
    """
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))  # no pipe is waited for
    except FileNotFoundError:
        if os.path.islink(path):
            raise ValueError(f"it is a symbolic link to {os.readlink(path)}, which is not there") from None
        raise
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a file")
        if not status.st_size:
            raise ValueError("the file is empty")
        if status.st_size > BYTES:
            raise ValueError(f"the file has {status.st_size:,} bytes, and more than {BYTES:,} are not read")
        data = np.empty(status.st_size, np.uint8)
        if os.readv(file, [data]) != len(data):
            raise ValueError("the file could not be read to its end")
        return data
    finally:
        os.close(file)


def reason_of(error: Exception) -> str:
    """What is wrong with a file, in one line and without the place in the decoder's source."""
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
    return re.sub(r"^.*\.cpp:\d+, ", "", text).strip().rstrip(".")
