"""The IDX files of the MNIST family, as published: gzip-compressed, big-endian header, then bytes."""

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
        data = gzip.decompress(path.read_bytes())
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


def read_fashion_mnist(folder: Path, *, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Official images uint8 [N, 28, 28] and labels uint8 [N]; N is 60,000 or 10,000."""
    images, labels = (read_idx(folder / name) for name in FILES[train])
    if len(images) != len(labels):
        raise SparseheadError(f"{folder}: {len(images):,} images but {len(labels):,} labels. Fetch both files again.")
    return images, labels
