"""A name -> images, labels, splits.

Every data set has five splits: "train" and "val" share the official training images (val is held out of every pretraining
and feeds the per-epoch probe), "train+val" is both, and "test" is the official test set, which pretraining never reads.
"pretrain" is "train" and the images without a label, where a set has such.
"""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sparsehead_cli.data import published
from sparsehead_cli.data.augment import Normalisation
from sparsehead_cli.data.classes import CIFAR10, CIFAR100, DIGITS, FASHION, STL10
from sparsehead_cli.data.contract import ImageSpec, Source
from sparsehead_cli.data.folders import Folder
from sparsehead_cli.data.layouts import Layout, image_folder, imagenet, list_images, tiny_imagenet
from sparsehead_cli.data.memory import Memory
from sparsehead_cli.errors import SparseheadError, unknown
from sparsehead_cli.machine.plugins import is_plugin, load

SPLITS = ("pretrain", "train", "val", "train+val", "test")
HELD_OUT = 10  # one image in ten of each class is "val"


@dataclass(frozen=True)
class DatasetInfo(ImageSpec):
    """What is known of a data set before its images are read. `normalise` holds the mean and deviation of training images.

    Either `read` gives all its images, or `layout` says where the files lie that they stream from; these are of any size, and
    cut to `size`.
    """

    read: Callable[[Path, bool], tuple[np.ndarray, np.ndarray]] | None = None  # (data_dir, train) -> uint8 images, labels
    unlabelled: Callable[[Path], np.ndarray] | None = None  # data_dir -> uint8 images
    layout: Callable[[Path], Layout] | None = None  # data_dir -> where the images of each class lie


def load_split(
    name: str,
    split: str,
    data_dir: Path,
    *,
    image_size: int | None = None,
    skip_bad_images: bool = False,
    workers: int | None = None,
) -> Source:
    """One split of a named data set, of a folder of images or of what `module:load` returns, on the CPU.

    `module:load` is called with the split's name and data_dir, and returns a Source.

    The keywords are for images that stream from files: their size, whether unreadable ones are skipped, and how many processes
    read them (0: this one; None: one a core, at most four). Images in memory keep their own size.

    Raises: SparseheadError for an unknown name and for files that are missing, partial or damaged.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if is_own(name):
        return load("dataset", name)(split, data_dir)
    info = dataset_info(name, data_dir)
    if info.layout is None:
        return _in_memory(name, info, split, data_dir)
    listing = list_images(info.layout(data_dir), split != "test")
    chosen = np.flatnonzero(_part(listing.labels, split, name))
    return Folder(listing, chosen, image_size or info.size, spec=info, skip_bad_images=skip_bad_images, workers=workers)


def _in_memory(name: str, info: DatasetInfo, split: str, data_dir: Path) -> Memory:
    images, labels = info.read(data_dir, split != "test")
    _check_labels(name, info, images, labels)
    if split not in ("train+val", "test"):
        chosen = _part(labels, split, name)
        images, labels = images[chosen], labels[chosen]
    pixels = torch.from_numpy(np.array(images)).reshape(len(images), info.channels, info.size, info.size)
    labels = torch.from_numpy(labels.astype(np.int64))
    if split == "pretrain" and info.unlabelled:
        more = torch.from_numpy(info.unlabelled(data_dir))
        return Memory(torch.cat([pixels, more]), torch.cat([labels, torch.full((len(more),), -1)]), info)
    return Memory(pixels, labels, info)


def _check_labels(name: str, info: DatasetInfo, images: np.ndarray, labels: np.ndarray) -> None:
    """Raises: SparseheadError for no or other images, other than one label each, and a label that has no class."""
    pixels = info.channels * info.size**2
    if not len(images) or images[0].size != pixels:
        found = f"images of shape {images.shape[1:]}" if len(images) else "no images"
        raise SparseheadError(f"{name} is damaged: {found}, not of {info.size} x {info.size} pixels. Fetch its files again.")
    if len(images) != len(labels):
        raise SparseheadError(f"{name} is damaged: {len(images):,} images but {len(labels):,} labels. Fetch its files again.")
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(info.classes)):
        found = f"labels from {labels.min()} to {labels.max()} for {len(info.classes)} classes"
        raise SparseheadError(f"{name} is damaged: {found}. Fetch its files again.")


def dataset_info(name: str, data_dir: Path) -> ImageSpec:
    """The entry of DATASETS, or that of a folder of images; where images stream from files, with the classes of its folders.

    Of somebody's own `module:load` it is the `spec` of the held-out part.

    Raises: SparseheadError for an unknown name, and where the folders of the classes are not there.
    """
    if is_own(name):
        return load_split(name, "val", data_dir).spec
    info = DATASETS.get(name) or _folder_info(name)
    return dataclasses.replace(info, classes=info.layout(data_dir).classes) if info.layout else info


def _folder_info(name: str) -> DatasetInfo:
    """A folder of anybody's images, of ImageNet's size and normalised like it."""
    require_known(name)
    return DatasetInfo((), 3, 224, _IMAGENET, layout=lambda data_dir: image_folder(Path(name)))


def is_own(name: str) -> bool:
    """Whether a data set is somebody's own `module:load`."""
    return is_plugin(name) and not Path(name).is_dir()


def require_known(name: str) -> None:
    """Raises: SparseheadError for a name that is neither in DATASETS nor a folder's path."""
    separators = {os.sep, os.altsep, "/"} - {None}
    if name in DATASETS or Path(name).is_dir() or is_plugin(name):
        return
    if any(separator in name for separator in separators):
        raise SparseheadError(f"dataset {name}: there is no such folder. Give the one that holds train/<class>/.")
    raise SparseheadError(f"{unknown('dataset', name, DATASETS)} Or the path of a folder that holds train/<class>/.")


def held_out_mask(labels: np.ndarray) -> np.ndarray:
    """True for "val": every tenth image of each class in file order, bool [N]. Fixed: no seed enters."""
    return place_in_class(labels) % HELD_OUT == HELD_OUT - 1


def place_in_class(labels: np.ndarray) -> np.ndarray:
    """Of each image, how many of its class come before it, int64 [N]."""
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    place = np.empty(len(labels), dtype=np.int64)
    place[by_class] = np.arange(len(labels)) - starts
    return place


def _part(labels: np.ndarray, split: str, name: str) -> np.ndarray:
    """Which of the images that were read belong to the split, bool [N]. Raises: SparseheadError where none can be held out."""
    if split in ("train+val", "test"):
        return np.ones(len(labels), dtype=bool)
    held_out = held_out_mask(labels)
    if split == "val" and not held_out.any():
        raise SparseheadError(
            f"{name}: no class has {HELD_OUT} training images, so that none can be held out to measure on. Add images."
        )
    return held_out if split == "val" else ~held_out


# Published mean and deviation of the training images: MNIST's of PyTorch's example, the others' as used throughout the
# literature. Where images stream from files it is ImageNet's, so that weights trained on it and others can be exchanged.
_FASHION = Normalisation((0.2860,), (0.3530,))
_MNIST = Normalisation((0.1307,), (0.3081,))
_CIFAR10 = Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_CIFAR100 = Normalisation((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
_STL10 = Normalisation((0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713))
_SVHN = Normalisation((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
_IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

DATASETS: dict[str, DatasetInfo] = {
    "fashion10k": DatasetInfo(FASHION, 1, 28, Normalisation((0.2840,), (0.3513,)), published.read_embedded),
    "fashion-mnist": DatasetInfo(FASHION, 1, 28, _FASHION, published.read_fashion_mnist),
    "mnist": DatasetInfo(DIGITS, 1, 28, _MNIST, published.read_mnist),
    "cifar10": DatasetInfo(CIFAR10, 3, 32, _CIFAR10, published.read_cifar10),
    "cifar100": DatasetInfo(CIFAR100, 3, 32, _CIFAR100, published.read_cifar100),
    "stl10": DatasetInfo(STL10, 3, 96, _STL10, published.read_stl10, published.read_stl10_unlabelled),
    "svhn": DatasetInfo(DIGITS, 3, 32, _SVHN, published.read_svhn),
    "tiny-imagenet": DatasetInfo((), 3, 64, _IMAGENET, layout=tiny_imagenet),
    "imagenet": DatasetInfo((), 3, 224, _IMAGENET, layout=imagenet),
}
