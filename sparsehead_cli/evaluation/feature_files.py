"""Features that somebody has in .npy files -> the rows that a checkpoint has: for people without a checkpoint that can be read.

A file is never held in memory as a whole, and no pickle in it is ever loaded. What needs a network (augmented views, what the head
reads) is not there.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparsehead_cli.errors import SparseheadError, of_system, one_line
from sparsehead_cli.evaluation.spectrum_request import OnPart
from sparsehead_cli.evaluation.spectrum_rows import eigenvalue_rows, spectrum_numbers
from sparsehead_cli.machine.files import open_regular
from sparsehead_cli.machine.seeds import stable_seed
from sparsehead_cli.measure.moments import BlockMoments
from sparsehead_cli.measure.spectrum import Spectrum
from sparsehead_cli.runs.folder import code_version
from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.runs.tables import FILE

ROWS = 4096  # read at a time
WIDEST = 16_384  # columns: the covariance of more would not fit into the memory of most machines
SMALLEST, LARGEST = 1e-60, 1e60  # the squares of eigenvalues are fourth powers of numbers, which float64 must hold
REMEDY = "Save one array [N, D] of numbers with numpy.save."


class FeatureTask:
    """Features r [N, D] and, where they are given, z [N, E] of the same N images: what is measured of them, in rows."""

    report: tuple[str, ...] = ()

    def __init__(self, features: Path, embeddings: Path | None, seed: int) -> None:
        self.paths = {"r": features} | ({"z": embeddings} if embeddings else {})
        self.arrays = {name: read_array(path) for name, path in self.paths.items()}
        self.seed = seed
        counts = {name: len(array) for name, array in self.arrays.items()}
        if len(set(counts.values())) > 1:
            raise SparseheadError(
                f"{features} has {counts['r']:,} rows and {embeddings} {counts['z']:,}: give r and z of the same images."
            )
        self.digests = {name: digest_of(path) for name, path in self.paths.items()}

    def key(self) -> str:
        """What finds the rows in the tables."""
        return f"{stable_seed('features', *self.digests.items(), self.seed):016x}"[:12]

    def rows(self, on_part: OnPart) -> list[list[Row]]:
        """Those of the three tables, of which that of batches has none; `on_part` is told what is being measured."""
        features = self.paths["r"]
        common = {
            **{"experiment": features.resolve().parent.name, "run": features.stem, "method": "features", "backbone": "unknown"},
            **dict.fromkeys(("dataset", "penalty", "solver", "lam", "seed", "step", "total_steps", "assumed"), ""),
            **{"commit": code_version(), "checkpoint": self.digests["r"]},
            **{"eval_dataset": features.name, "split": FILE, "images": len(self.arrays["r"])},
        }
        curves: list[Row] = []
        numbers: list[Row] = []
        for name in self.arrays:
            on_part(f"{name} of {self.paths[name].name}")
            spectrum = Spectrum(self.observe(name))
            curves += eigenvalue_rows(name, spectrum.eigenvalues)
            numbers += spectrum_numbers(name, spectrum, self.seed)
        return [[], *([{**common, **row} for row in rows] for rows in (curves, numbers))]

    def observe(self, name: str) -> BlockMoments:
        """The moments of r or z, its rows taken in a random order.

        Raises: SparseheadError for rows that are not finite, and for numbers whose eigenvalues, or the squares of these, are none.
        """
        array = self.arrays[name]
        moments, largest = BlockMoments(array.shape[1], len(array)), 0.0
        for batch in shuffled(array, self.seed):
            moments.add(batch)
            largest = max(largest, float(batch.abs().max()))
        moments.close()
        if moments.broken:
            count = f"{int(moments.broken):,} of its {len(array):,} rows"
            raise SparseheadError(f"{self.paths[name]}: {count} have NaN or infinite numbers. Leave them out of all files.")
        if largest and not SMALLEST <= largest <= LARGEST:
            raise SparseheadError(
                f"{self.paths[name]}: its largest number is {largest:.0e}, and spectra are of features whose largest is from "
                f"{SMALLEST:.0e} to {LARGEST:.0e}. Multiply all by one factor: ranks do not depend on it."
            )
        return moments


def shuffled(array: np.ndarray, seed: int) -> Iterator[Tensor]:
    """The rows of an array in a random order, float64 [n, D] at a time: files are often sorted by class."""
    order = torch.randperm(len(array), generator=torch.Generator().manual_seed(stable_seed("spectrum", seed))).numpy()
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        ascending = np.argsort(rows)  # in which a disk reads them faster
        batch = np.empty((len(rows), array.shape[1]))
        batch[ascending] = array[rows[ascending]]
        yield torch.from_numpy(batch)


def read_array(path: Path) -> np.ndarray:
    """The array [N, D] of numbers in a .npy file, which stays on the disk.

    Raises: SparseheadError for a file that is missing or damaged, and for an array of anything else.
    """
    try:
        with open_regular(path):  # a pipe would never end
            pass
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise of_system(f"cannot read {path}", error, "Give another file.") from None
    except Exception as error:  # an odd header raises whatever its bytes lead to
        raise SparseheadError(f"{path} is no .npy file of numbers, or damaged ({one_line(str(error))}). {REMEDY}") from None
    if not isinstance(array, np.ndarray):
        raise SparseheadError(f"{path} is an archive, as .npz and .pt files are, and no single array. {REMEDY}")
    if array.dtype.kind not in "fiu" or array.ndim != 2:
        raise SparseheadError(f"{path} is {array.dtype} {list(array.shape)}, and features are numbers [N, D]. {REMEDY}")
    if len(array) < 2 or not 1 <= array.shape[1] <= WIDEST:
        raise SparseheadError(
            f"{path} is {list(array.shape)}: a spectrum needs at least 2 rows, one an image, and 1 to {WIDEST:,} columns."
        )
    return array


def digest_of(path: Path) -> str:
    """A hash of a file, in hexadecimals."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
