"""Fewer images than the embedded ones, as files: for what runs in a process of its own, where conftest's fashion1k is not known."""

import gzip
import struct
from pathlib import Path

import numpy as np

from sparsehead_cli.data.idx import FILES
from sparsehead_cli.data.published import read_embedded


def write_fashion1k(folder: Path) -> None:
    """1,000 images of fashion10k to train on and 200 to test, as Fashion-MNIST's publisher lays them out."""
    folder.mkdir(parents=True)
    for train, count in ((True, 1000), (False, 200)):
        for array, name in zip(read_embedded(folder, train), FILES[train], strict=True):
            data = array[:count]
            header = struct.pack(f">4B{data.ndim}I", 0, 0, 8, data.ndim, *data.shape)
            (folder / name).write_bytes(gzip.compress(header + data.astype(np.uint8).tobytes(), mtime=0))
