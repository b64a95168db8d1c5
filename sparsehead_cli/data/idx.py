"""The IDX files of the MNIST family, as published: big-endian header, then bytes; gzip-compressed, or unpacked beside that."""

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sparsehead_cli.errors import SparseheadError, missing

BYTES = 2**29  # unpacked: eleven times MNIST
FILES = {
    True: ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    False: ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def read_idx(path: Path) -> np.ndarray:
    """An unsigned-byte IDX file -> uint8 array of the shape that its header says; no more of it is unpacked than that.

    Raises: SparseheadError for a file that is missing, damaged, or shorter or longer than its header says.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a file")
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            shape = _read_shape(file)
            size = math.prod(shape)
            data = file.read(size + 1) if shape and size <= BYTES else b""
    except FileNotFoundError:
        raise SparseheadError(f"{missing(path)}.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise SparseheadError(f"{path} is damaged ({error}). Delete it and fetch it again.") from None
    if not shape:
        raise SparseheadError(f"{path} is damaged: it does not begin as an IDX file of bytes. Fetch it again.")
    if size > BYTES:
        claim = f"its header says {size:,} bytes, and more than {BYTES:,} are not read"
        raise SparseheadError(f"{path} is damaged: {claim}. Fetch it again.")
    if len(data) != size:
        held = f"more than {size:,}" if len(data) > size else f"{len(data):,}"
        raise SparseheadError(f"{path} is damaged: its header does not fit its {held} bytes. Fetch it again.")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_shape(file: BinaryIO) -> tuple[int, ...]:
    """The sides of the array that a header announces; () for no header of at most three, as the MNIST family has."""
    start = file.read(4)
    rank = start[3] if len(start) == 4 and start[:3] == b"\0\0\x08" else 0
    sides = file.read(4 * rank) if 1 <= rank <= 3 else b""
    return tuple(np.frombuffer(sides, ">u4").tolist()) if sides and len(sides) == 4 * rank else ()


def has_idx(folder: Path, *, train: bool) -> bool:
    """Whether one of the two files is there, compressed or not."""
    return any(packed_or_not(folder / name).exists() for name in FILES[train])


def packed_or_not(path: Path) -> Path:
    """The compressed file, or else the one that was unpacked from it."""
    unpacked = path.with_suffix("")
    return unpacked if unpacked.exists() and not path.exists() else path


def read_idx_pair(folder: Path, *, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Official images uint8 [N, 28, 28] and labels uint8 [N]; N is 60,000 or 10,000."""
    images, labels = (read_idx(packed_or_not(folder / name)) for name in FILES[train])
    if images.ndim != 3 or labels.ndim != 1:
        raise SparseheadError(f"{folder}: images of shape {images.shape}, labels of shape {labels.shape}. Fetch both files again.")
    if len(images) != len(labels):
        raise SparseheadError(f"{folder}: {len(images):,} images but {len(labels):,} labels. Fetch both files again.")
    return images, labels
