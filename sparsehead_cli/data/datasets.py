"""A name or a path -> images or sentences, labels, splits.

Every data set has five splits: "train" and "val" share the official training images (val is held out of every pretraining
and feeds the per-epoch probe), "train+val" is both, and "test" is the official test set, which pretraining never reads.
"pretrain" is "train" and the images without a label, where a set has such. Where no image has a label, the other splits are
made of all images as if they were of one class.
"""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sparsehead_cli.data import published
from sparsehead_cli.data.classes import CIFAR10, CIFAR100, DIGITS, FASHION, STL10
from sparsehead_cli.data.contract import ImageSpec, Normalisation, Source, fingerprint
from sparsehead_cli.data.factors import SHAPES, read_factors
from sparsehead_cli.data.folders import Folder
from sparsehead_cli.data.hugging_face import hugging_face, is_hugging_face
from sparsehead_cli.data.label_table import is_table, label_table
from sparsehead_cli.data.layouts import image_folder, imagenet, tiny_imagenet
from sparsehead_cli.data.listing import Layout, Listing
from sparsehead_cli.data.looks import LARGEST, look
from sparsehead_cli.data.memory import Memory
from sparsehead_cli.data.prepare import for_channels
from sparsehead_cli.data.shards import is_shards, shards
from sparsehead_cli.data.text import TextSpec, described, header, is_text, read_wordnet
from sparsehead_cli.errors import SparseheadError, one_line, unknown
from sparsehead_cli.machine.memory import memory_of
from sparsehead_cli.machine.plugins import is_plugin, load

SPLITS = ("pretrain", "train", "val", "train+val", "test")
HELD_OUT = 10  # one image in ten of each class is "val"


@dataclass(frozen=True)
class DatasetInfo(ImageSpec):
    """What is known of a data set before its images are read. `normalise` holds the mean and deviation of training images.

    Either `read` gives all its images, or `layout` says where the files lie that they stream from; these are of any size, and
    cut to `size`. It is `labelled` where training images have labels, and `tested` where it has test images, with labels
    if training images have such; `notes` are sentences for people. Of images that are in memory as bytes, once they have been
    decoded, `cached` is the number of bytes.
    """

    read: Callable[[Path, bool], tuple[np.ndarray, np.ndarray]] | None = None  # (data_dir, train) -> uint8 images, labels
    unlabelled: Callable[[Path], np.ndarray] | None = None  # data_dir -> uint8 images
    layout: Callable[[Path], Layout] | None = None  # data_dir -> where the images of each class lie
    labelled: bool = True
    tested: bool = True
    notes: tuple[str, ...] = ()
    cached: int = 0


def load_split(
    name: str,
    split: str,
    data_dir: Path,
    *,
    image_size: int | None = None,
    skip_bad_images: bool = False,
    workers: int | None = None,
    cache: str = "auto",
) -> Source:
    """One split of a named data set, of a path of images or of what `module:load` returns, on the CPU.

    `module:load` is called with the split's name and data_dir, and returns a Source.

    The keywords are for images that lie in files: their size, whether unreadable ones are skipped, how many processes
    read them (0: this one; None: one a core, at most four), and whether they are decoded once and kept in memory (CACHES).
    Images in memory keep their own size.

    Raises: SparseheadError for an unknown name and for files that are missing, partial or damaged.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if is_own(name):
        return load("dataset", name)(split, data_dir)
    info, layout = _described(name, data_dir, cache)
    if isinstance(info, TextSpec):
        return _sentences(name, info, split)
    if layout is None:
        return _in_memory(name, info, split, data_dir)
    listing = layout.listing(split != "test")
    chosen = np.flatnonzero(_part(listing.labels, split, name, listing.held_out))
    if info.cached:
        return decoded(Folder(listing, chosen, info.size, spec=info, skip_bad_images=skip_bad_images, workers=workers, exact=True))
    return Folder(listing, chosen, image_size or info.size, spec=info, skip_bad_images=skip_bad_images, workers=workers)


def decoded(folder: Folder) -> Memory:
    """All images of a folder, read once and kept as bytes. Unreadable ones that are to be skipped are left out.

    Raises: SparseheadError for one of another size.
    """
    info: DatasetInfo = folder.spec
    pixels = torch.empty(len(folder), info.channels, info.size, info.size, dtype=torch.uint8)
    labels, done = torch.empty(len(folder), dtype=torch.int64), 0
    for batch in folder.batches(DECODED):
        end = done + len(batch.labels)
        pixels[done:end], labels[done:end] = batch.inputs, batch.labels
        done = end
    if folder.skipped:
        info = dataclasses.replace(info, notes=(*info.notes, f"{folder.skipped:,} unreadable images are left out"))
    return Memory(pixels[:done], labels[:done], info, folder.fingerprint())


def fingerprint_of(name: str, data_dir: Path) -> str:
    """What a run on this data set keeps of its images: the `fingerprint` of those it is trained on and those held out.

    Raises: SparseheadError as `load_split`.
    """
    parts = [load_split(name, split, data_dir, cache="none") for split in ("pretrain", "val")]
    return fingerprint(source for part in parts for source in (part if isinstance(part, list) else [part]))


def _sentences(name: str, spec: TextSpec, split: str) -> Memory:
    texts, train = spec.read(), split != "test"
    if not (train or spec.tested):
        raise SparseheadError(f"{name} has no test sentences: no line has {split} in a column split.")
    return texts.source(spec, _part(texts.labels[train], split, name, texts.held_out if train else None, spec.noun), train=train)


def _in_memory(name: str, info: DatasetInfo, split: str, data_dir: Path) -> Memory:
    images, labels = info.read(data_dir, split != "test")
    _check_labels(name, info, images, labels)
    if split in ("train+val", "test"):
        images = np.array(images)  # a reader's may not be written to
    else:
        chosen = _part(labels, split, name)
        images, labels = images[chosen], labels[chosen]  # copies already
    pixels = torch.from_numpy(images).reshape(len(images), info.channels, info.size, info.size)
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


def dataset_info(name: str, data_dir: Path, cache: str = "auto") -> ImageSpec | TextSpec:
    """The entry of DATASETS, or what a path of images looks like; where images lie in files, with the classes of these.

    Of a path `channels` and `size` are those of its images: 1 where all that were looked at are grey, and their short side, at
    most 224 pixels. Of somebody's own `module:load` it is the `spec` of the held-out part.

    Raises: SparseheadError for an unknown name, and where the files are not there.
    """
    if is_own(name):
        return load_split(name, "val", data_dir).spec
    return _described(name, data_dir, cache)[0]


def _described(name: str, data_dir: Path, cache: str) -> tuple[DatasetInfo | TextSpec, Layout | None]:
    """What is known of a data set, and where its images lie, if they lie in files of their own."""
    if cache not in CACHES:
        raise unknown("cache", cache, CACHES)
    if is_text(name) or isinstance(DATASETS.get(name), TextSpec):
        return described(name, DATASETS[name].read if name in DATASETS else None), None
    if name in DATASETS:
        info = DATASETS[name]
        layout = info.layout(data_dir) if info.layout else None
        info = dataclasses.replace(info, classes=layout.classes) if layout else info
        if layout and cache == "memory":
            listing = layout.listing(True)
            info = dataclasses.replace(info, cached=_require_fitting(name, _bytes_of(info, listing)))
        return info, layout
    require_known(name)
    path = Path(name)
    if found := published.cifar_below(path):
        known, folder = found
        return dataclasses.replace(
            DATASETS[known], read=lambda data_dir, train: published.read_cifar_at(known, folder, train)
        ), None
    layout = layout_of(name)
    return _looked_at(name, layout, cache), layout


def _looked_at(name: str, layout: Layout, cache: str) -> DatasetInfo:
    """What the images of a path look like. They are normalised like ImageNet's."""
    listing = layout.listing(True)
    looks = look(listing)
    notes = (*layout.notes, *listing.notes)
    if not layout.labelled:
        notes = ("no labels: ranks and spectra are measured, and no accuracy", *notes)
    elif missing := int((listing.labels < 0).sum()):
        notes = (f"{missing:,} of the {len(listing):,} training images have no label: they are trained on, not measured on", *notes)
    tested, test_notes, test_images = _test_part(layout)
    notes = (*test_notes, *notes, *(test_images.notes if test_images else ()))
    info = DatasetInfo(
        layout.classes,
        looks.channels,
        looks.size,
        for_channels(_IMAGENET, looks.channels),
        layout=lambda data_dir: layout,
        labelled=layout.labelled,
        tested=tested,
        notes=notes,
    )
    bytes_ = _bytes_of(info, listing)
    fits = looks.only == (looks.size, looks.size) and bytes_ <= CACHED
    if cache == "memory" and not fits:
        if looks.only != (looks.size, looks.size):
            what = "are of several sizes" if looks.only is None else f"are {looks.only[0]} x {looks.only[1]} pixels"
            raise SparseheadError(
                f"{name}: its images {what}, and only squares of one size, up to {LARGEST} pixels, are kept in memory. "
                "Let them stream: --set cache=none."
            )
        _require_fitting(name, bytes_)
    if cache != "memory" and not (cache == "auto" and fits):
        return info
    if test_images and look(test_images).only != looks.only:
        other = f"not all of {looks.size} x {looks.size} pixels, as images in memory must be"
        notes = (f"the test images are {other}: evaluate will refuse them, unless the run is trained with --set cache=none", *notes)
    return dataclasses.replace(info, cached=bytes_, notes=notes)


def _test_part(layout: Layout) -> tuple[bool, tuple[str, ...], Listing | None]:
    """Whether there are test images to measure on, what people should know of them before they train, and the images.

    Training reads none of them, so what is wrong with them ends no training.
    """
    needed = "evaluate needs such; the probe and spectrum measure held-out images"
    if not layout.tested:
        return False, (f"no test images: {needed}",), None
    try:
        listing = layout.listing(False)
    except SparseheadError as error:
        return True, (f"evaluate will refuse the test images: {str(error).rstrip('.')}",), None
    missing = int((listing.labels < 0).sum()) if layout.labelled else 0
    if missing == len(listing):
        none = "no test image has a label" if missing else "no test images"
        return False, (f"{none}: {needed}", *listing.notes), None
    notes = (f"{missing:,} of the {len(listing):,} test images have no label: they are not measured on",) if missing else ()
    return True, notes, listing


def _bytes_of(info: DatasetInfo, listing: Listing) -> int:
    """What the training images take in memory."""
    return len(listing) * info.channels * info.size**2


def _require_fitting(name: str, bytes_: int) -> int:
    """The number of bytes. Raises: SparseheadError where the machine has not got as many."""
    there = memory_of(torch.device("cpu"))
    if bytes_ > there:
        raise SparseheadError(
            f"{name}: its decoded images are {bytes_ / 1e9:,.1f} GB, and the machine has {there / 1e9:,.1f} GB. "
            "Let them stream: --set cache=none."
        )
    return bytes_


def layout_of(name: str) -> Layout:
    """Where the images of a path lie: a table, shards, a saved Hugging Face data set, or a folder. Raises: SparseheadError."""
    path = Path(name)
    if is_table(name):
        return label_table(path)
    if is_shards(name):
        return shards(name)
    return hugging_face(path) if is_hugging_face(path) else image_folder(path)


def is_own(name: str) -> bool:
    """Whether a data set is somebody's own `module:load`."""
    return is_plugin(name) and not is_path(name)


def is_path(name: str) -> bool:
    """Whether a data set's name is a path: of a folder, a table, shards or sentences."""
    return name not in DATASETS and (is_text(name) or is_table(name) or is_shards(name) or Path(name).is_dir())


def require_known(name: str) -> None:
    """Raises: SparseheadError for a name that is neither in DATASETS nor a path."""
    separators = {os.sep, os.altsep, "/"} - {None}
    if name in DATASETS or is_path(name) or is_plugin(name):
        return
    if Path(name).is_file():
        kinds = "a table.csv of images, shards, nor sentences (a .txt, or a table with a column text or sentence)"
        columns = ", ".join(map(one_line, header(Path(name)))) if name.lower().endswith((".tsv", ".csv")) else ""
        has = f" Its columns are {columns}." if columns else ""
        raise SparseheadError(f"dataset {name} is a file that is neither {kinds}.{has}")
    if any(separator in name for separator in separators):
        given = "Give one of images, as train/<class>/, a table.csv, or shards."
        raise SparseheadError(f"dataset {name}: there is no such folder. {given}")
    raise SparseheadError(f"{unknown('dataset', name, DATASETS)} Or the path of a folder of images, a table.csv, or shards.")


def require_measurable(name: str, data_dir: Path, why: str) -> None:
    """Raises: SparseheadError for a data set of files without labels, or without test images that have such."""
    if not is_path(name):
        return
    info = dataset_info(name, data_dir)
    test = "test images with labels" if info.labelled else "test images"
    lacking = [what for what, there in (("labels", info.labelled), (test, info.tested)) if not there]
    if lacking:
        raise SparseheadError(
            f"{why}, and {name} has no {' and no '.join(lacking)}. What needs none, ranks, spectra and invariance, is measured by: "
            f"sparsehead spectrum CHECKPOINT --dataset {name}. Or give a data set that has them: --dataset."
        )


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


def _part(labels: np.ndarray, split: str, name: str, published_val: np.ndarray | None = None, noun: str = "images") -> np.ndarray:
    """Which of the images (or what the `noun` says) belong to the split, bool [N].

    Only those with a label are measured on, unless none has one. `published_val` says what the data set itself holds out.

    Raises: SparseheadError where none can be held out.
    """
    measured = labels >= 0
    measured = measured if measured.any() else ~measured
    if split in ("train+val", "test"):
        return measured
    held_out = held_out_mask(labels) if published_val is None else published_val
    if split == "val" and not (held_out & measured).any():
        if held_out.any() and published_val is not None:
            raise SparseheadError(
                f"{name}: none of its {int(held_out.sum()):,} validation {noun} has a label, and those of training have. "
                f"Give them labels to measure on, or leave them out: a tenth of the training {noun} is held out then."
            )
        few = f"no class has {HELD_OUT}" if (labels >= 0).any() else f"there are fewer than {HELD_OUT}"
        raise SparseheadError(f"{name}: {few} training {noun}, so that none can be held out to measure on. Add {noun}.")
    if split == "pretrain":
        return ~held_out if published_val is not None else ~(held_out & measured)
    return measured & (held_out if split == "val" else ~held_out)


# Published mean and deviation of the training images: MNIST's of PyTorch's example, the others' as used throughout the
# literature. Where images stream from files it is ImageNet's, so that weights trained on it and others can be exchanged.
_FASHION = Normalisation((0.2860,), (0.3530,))
_MNIST = Normalisation((0.1307,), (0.3081,))
_CIFAR10 = Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_CIFAR100 = Normalisation((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
_STL10 = Normalisation((0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713))
_SVHN = Normalisation((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
_FACTORS = Normalisation((0.1962, 0.1960, 0.1967), (0.1900, 0.1903, 0.1911))
_IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

DATASETS: dict[str, DatasetInfo | TextSpec] = {
    "fashion10k": DatasetInfo(FASHION, 1, 28, Normalisation((0.2840,), (0.3513,)), published.read_embedded),
    "fashion-mnist": DatasetInfo(FASHION, 1, 28, _FASHION, published.read_fashion_mnist),
    "mnist": DatasetInfo(DIGITS, 1, 28, _MNIST, published.read_mnist),
    "cifar10": DatasetInfo(CIFAR10, 3, 32, _CIFAR10, published.read_cifar10),
    "cifar100": DatasetInfo(CIFAR100, 3, 32, _CIFAR100, published.read_cifar100),
    "stl10": DatasetInfo(STL10, 3, 96, _STL10, published.read_stl10, published.read_stl10_unlabelled),
    "svhn": DatasetInfo(DIGITS, 3, 32, _SVHN, published.read_svhn),
    "factors": DatasetInfo(SHAPES, 3, 32, _FACTORS, lambda data_dir, train: read_factors(train=train)),
    "tiny-imagenet": DatasetInfo((), 3, 64, _IMAGENET, layout=tiny_imagenet),
    "imagenet": DatasetInfo((), 3, 224, _IMAGENET, layout=imagenet),
    "wordnet10k": TextSpec(read=read_wordnet),
}

# Whether images in files are decoded once and kept in memory: where they are small squares of one size; always; never
CACHES = ("auto", "memory", "none")
CACHED = 2**31  # bytes of decoded training images, at most, that "auto" keeps
DECODED = 500  # images that are decoded at a time
