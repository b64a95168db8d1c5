"""A name -> images, labels, splits.

Every data set has four splits: "train" and "val" share the official training images (val is held out of every pretraining
and feeds the per-epoch probe), "train+val" is both, and "test" is the official test set, which pretraining never reads.
"""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparsehead_cli.data.augment import Normalisation
from sparsehead_cli.data.idx import FILES, read_fashion_mnist
from sparsehead_cli.errors import SparseheadError, unknown

SPLITS = ("train", "val", "train+val", "test")
HELD_OUT = 10  # one image in ten of each class is "val"
EMBEDDED = Path(__file__).with_name("fashion10k.npz")
EMBEDDED_SHA256 = "72576a8136b680462690fce5bb7ab884839727a48b1a51ae92f8faea0636e3f0"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is read. `normalise` holds its own training mean and deviation."""

    classes: tuple[str, ...]
    channels: int
    size: int  # side of the square images
    normalise: Normalisation
    read: Callable[[Path, bool], tuple[np.ndarray, np.ndarray]]  # (data_dir, train) -> uint8 images, labels


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, C, H, W] and labels int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "Split":
        """The same split with its tensors on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


def load_split(name: str, split: str, data_dir: Path) -> Split:
    """One split of a named data set, on the CPU.

    Raises: SparseheadError for an unknown name and for files that are missing, partial or damaged.
    """
    info = dataset_info(name)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    images, labels = info.read(data_dir, split != "test")
    if split in ("train", "val"):
        held_out = held_out_mask(labels)
        chosen = held_out if split == "val" else ~held_out
        images, labels = images[chosen], labels[chosen]
    pixels = torch.from_numpy(np.array(images)).reshape(len(images), info.channels, info.size, info.size)
    return Split(pixels, torch.from_numpy(labels.astype(np.int64)))


def dataset_info(name: str) -> DatasetInfo:
    """The entry of DATASETS. Raises: SparseheadError for an unknown name."""
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    return DATASETS[name]


def held_out_mask(labels: np.ndarray) -> np.ndarray:
    """True for "val": every tenth image of each class in file order, bool [N]. Fixed: no seed enters."""
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    place_in_class = np.empty(len(labels), dtype=np.int64)
    place_in_class[by_class] = np.arange(len(labels)) - starts
    return place_in_class % HELD_OUT == HELD_OUT - 1


def batches(split: Split, order: Tensor, size: int, start: int = 0) -> Iterator[Split]:
    """Whole batches of `size` images in the given order (indices on the images' device), from batch `start` on."""
    for i in range(start, len(order) // size):
        chosen = order[i * size : (i + 1) * size]
        yield Split(split.images[chosen], split.labels[chosen])


def _read_embedded(data_dir: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    data = EMBEDDED.read_bytes() if EMBEDDED.exists() else b""
    if hashlib.sha256(data).hexdigest() != EMBEDDED_SHA256:
        state = "is damaged (its SHA-256 is wrong)" if data else "is missing"
        raise SparseheadError(f"the embedded data set {EMBEDDED} {state}. Reinstall sparsehead.")
    part = "train" if train else "test"
    with np.load(io.BytesIO(data)) as arrays:
        return arrays[f"{part}_images"], arrays[f"{part}_labels"]


def _read_fashion_mnist(data_dir: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    for folder in (data_dir, data_dir / "FashionMNIST" / "raw", DEBIAN):
        if any((folder / name).exists() for name in FILES[train]):
            return read_fashion_mnist(folder, train=train)
    return read_fashion_mnist(_download_fashion_mnist(data_dir), train=train)


def _download_fashion_mnist(data_dir: Path) -> Path:
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(data_dir), download=True)
    except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise SparseheadError(
            f"fashion-mnist is not in {data_dir} nor in {DEBIAN}, and cannot be downloaded ({error}). "
            f"Put its four .gz files into {data_dir}, or: apt-get install dataset-fashion-mnist"
        ) from None
    return data_dir / "FashionMNIST" / "raw"


def _read_cifar10(data_dir: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    from torchvision.datasets import CIFAR10

    try:
        data = CIFAR10(str(data_dir), train=train, download=True)  # compares checksums; loads nothing that fails
    except Exception as error:  # a download fails in as many ways as there are networks
        raise SparseheadError(
            f"cifar10 is not complete in {data_dir} and cannot be downloaded ({error}). "
            f"Put cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html into {data_dir}."
        ) from None
    return data.data.transpose(0, 3, 1, 2), np.array(data.targets)


_FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR10 = Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))

DATASETS: dict[str, DatasetInfo] = {
    "fashion10k": DatasetInfo(_FASHION_CLASSES, 1, 28, Normalisation((0.2840,), (0.3513,)), _read_embedded),
    "fashion-mnist": DatasetInfo(_FASHION_CLASSES, 1, 28, Normalisation((0.2860,), (0.3530,)), _read_fashion_mnist),
    "cifar10": DatasetInfo(_CIFAR10_CLASSES, 3, 32, _CIFAR10, _read_cifar10),
}
