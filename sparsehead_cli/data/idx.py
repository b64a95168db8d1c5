"""The IDX files of the MNIST family, as published: big-endian header, then bytes; gzip-compressed, or unpacked beside that."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from sparsehead_cli.errors import SparseheadError

FILES = {
    True: ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    False: ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def read_idx(path: Path) -> np.ndarray:
    """An unsigned-byte IDX file -> uint8 array of the shape that its header says.

    Raises: SparseheadError for a file that is missing, damaged, or shorter or longer than its header says.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except FileNotFoundError:
        raise SparseheadError(f"{path} does not exist.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise SparseheadError(f"{path} is damaged ({error}). Delete it and fetch it again.") from None
    rank = data[3] if len(data) >= 4 and data[:3] == b"\0\0\x08" else 0
    header = 4 + 4 * rank
    shape = tuple(np.frombuffer(data[4:header], ">u4").tolist()) if rank and len(data) >= header else ()
    if not shape or len(data) - header != np.prod(shape):
        raise SparseheadError(f"{path} is damaged: its header does not fit its {len(data):,} bytes. Fetch it again.")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


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
    if len(images) != len(labels):
        raise SparseheadError(f"{folder}: {len(images):,} images but {len(labels):,} labels. Fetch both files again.")
    return images, labels
