"""Where the images of a folder lie and what their labels are: found by listing folders, before any image is opened.

Three layouts: any image folder (train/<class>/..., and test/ or val/ like it), ImageNet's (the same with train and val), and
Tiny-ImageNet's own. Of Tiny-ImageNet and ImageNet the official validation images are "test": nobody publishes the labels of theirs.
"""

import os
import stat
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsehead_cli.data.tree import SUFFIXES, Tree, entries, images_below, require_apart
from sparsehead_cli.errors import SparseheadError

BYTES = 2**29  # of a file: more than any image that is decoded can need


@dataclass(frozen=True)
class Listing:
    """N image files below `root` and their labels int64 [N].

    The names stand one after the other in a single array of bytes, `ends` [N] says where each ends. A list of a million
    strings would be copied, page by page, into every reading process: looking at a Python object writes to it.
    """

    root: Path
    names: np.ndarray
    ends: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, i: int) -> bytes:
        """The i-th file's path below `root`, as the file system spells it."""
        return self.names[self.ends[i - 1] if i else 0 : self.ends[i]].tobytes()

    def path(self, i: int) -> Path:
        return self.root / os.fsdecode(self.name(i))


@dataclass(frozen=True)
class Layout:
    """The classes of a set of files, and where to look for each one's training and test images."""

    root: Path
    classes: tuple[str, ...]
    folders: tuple[str, ...]  # of the classes, below train/ and test/
    test: str = ""  # the folder of the test images
    annotations: str = ""  # a file below `test` that names each test image's class, where no folder does


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


def image_folder(root: Path) -> Layout:
    """train/<class>/ and, for the test images, test/<class>/ or else val/<class>/.

    Raises: SparseheadError where there are no such folders.
    """
    classes = class_folders(root / "train")
    test = next((name for name in ("test", "val") if (root / name).is_dir()), "")
    return Layout(root, classes, classes, test)


def imagenet(data_dir: Path) -> Layout:
    """data_dir/imagenet or data_dir itself, with train/<wnid>/ and val/<wnid>/. Raises: SparseheadError."""
    root = data_dir / "imagenet" if (data_dir / "imagenet").is_dir() else data_dir
    if not (root / "train").is_dir():
        raise SparseheadError(
            f"imagenet is not in {data_dir}: no folder {root / 'train'}. Unpack the training and validation images of "
            "https://image-net.org (ILSVRC2012, an account is needed) as train/<wnid>/*.JPEG and val/<wnid>/*.JPEG."
        )
    classes = class_folders(root / "train")
    return Layout(root, classes, classes, "val")


def tiny_imagenet(data_dir: Path) -> Layout:
    """data_dir/tiny-imagenet-200 or data_dir itself, as published; classes in the order of wnids.txt. Raises: SparseheadError."""
    root = data_dir / "tiny-imagenet-200" if (data_dir / "tiny-imagenet-200").is_dir() else data_dir
    if not (root / "wnids.txt").exists() and not (root / "words.txt").exists():
        raise SparseheadError(f"tiny-imagenet is not in {data_dir}. {_TINY}")
    wnids = _lines(root / "wnids.txt")
    words = dict(line.split("\t", 1) for line in _lines(root / "words.txt") if "\t" in line)
    classes = tuple(words.get(wnid, wnid).split(",")[0] for wnid in wnids)
    return Layout(root, classes, tuple(wnids), "val", "val_annotations.txt")


def list_images(layout: Layout, train: bool) -> Listing:
    """The training or test images in the order of their classes, then of their names.

    Raises: SparseheadError for a folder that is missing, a class without images, classes that training does not have, and an
    image that symbolic links put into two classes, or into training and test.
    """
    if not train and not layout.test:
        raise SparseheadError(f"{layout.root} has no test images: no folder test/ or val/ beside train/.")
    folder = layout.root / ("train" if train else layout.test)
    if layout.annotations and not train:
        return _listing(layout.root, _annotated(layout, folder))
    if not train:
        _require_known(layout, folder)
    classes = [(label, folder / name) for label, name in enumerate(layout.folders)]
    trees = [(label, path, _images_of(path)) for label, path in classes if train or path.is_dir()]  # a test set may lack a class
    require_apart((f"{folder.name}/{path.name}", tree) for _, path, tree in trees)
    if layout.test and any(tree.leaves(folder) for _, _, tree in trees):
        other = layout.root / (layout.test if train else "train")
        theirs = [images_below(other / name) for name in layout.folders if (other / name).is_dir()]
        require_apart([(folder.name, tree) for _, _, tree in trees] + [(other.name, tree) for tree in theirs])
    return _listing(layout.root, ((label, tree.paths) for label, _, tree in trees))


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the folders in `folder`, sorted. Raises: SparseheadError where there are none."""
    if not folder.is_dir():
        raise SparseheadError(f"there is no folder {folder}. Images belong in {folder}/<class>/, one folder a class.")
    names = [name for name, is_folder, _ in entries(folder) if is_folder and not name.startswith(".")]
    if not names:
        raise SparseheadError(f"{folder} has no folder of a class in it. Sort its images into {folder}/<class>/.")
    return tuple(names)


def _listing(root: Path, classes: Iterable[tuple[int, list[str]]]) -> Listing:
    """(label, paths) of each class -> a Listing with names relative to `root`."""
    names, ends, labels = bytearray(), array("q"), array("q")
    start = len(os.fsencode(os.path.join(root, ""))) if root != Path() else 0  # Path() / "train" is "train"
    for label, paths in classes:
        for path in paths:
            names += os.fsencode(path)[start:]
            ends.append(len(names))
            labels.append(label)
    return Listing(root, *(np.frombuffer(part, kind) for part, kind in ((names, np.uint8), (ends, np.int64), (labels, np.int64))))


def _images_of(folder: Path) -> Tree:
    """The image files in and below the folder of one class. Raises: SparseheadError where there are none."""
    tree = images_below(folder) if folder.is_dir() else Tree()
    if not tree.paths:
        state = "has no images in it" if folder.is_dir() else "is missing"
        raise SparseheadError(f"the class folder {folder} {state} ({', '.join(SUFFIXES)}). Fill it, or remove the class.")
    return tree


def _require_known(layout: Layout, folder: Path) -> None:
    """Raises: SparseheadError for test classes that no training image has."""
    strange = sorted(set(class_folders(folder)) - set(layout.folders))
    if strange:
        shown = ", ".join(strange[:3]) + (", ..." if len(strange) > 3 else "")
        raise SparseheadError(f"{folder} has classes that {layout.root / 'train'} lacks: {shown}. Add or remove them.")


def _annotated(layout: Layout, folder: Path) -> list[tuple[int, list[str]]]:
    """Tiny-ImageNet's validation images by class. Raises: SparseheadError unless file and folder name the same images."""
    labels = {wnid: label for label, wnid in enumerate(layout.folders)}
    classes: list[list[str]] = [[] for _ in labels]
    path, images = folder / layout.annotations, folder / "images"
    named = [line.split("\t") for line in _lines(path)]
    if not all(len(parts) >= 2 and parts[1] in labels for parts in named):
        raise SparseheadError(f"{path} is damaged: a line without an image and a class of wnids.txt. {_TINY}")
    there = {file for file in (os.listdir(images) if images.is_dir() else ()) if file.lower().endswith(SUFFIXES)}
    if sorted(there) != sorted(parts[0] for parts in named):  # each once
        raise SparseheadError(f"{path} names {len(named):,} images, {images} holds {len(there):,} or others. {_TINY}")
    for name, wnid, *_ in sorted(named):
        classes[labels[wnid]].append(str(images / name))
    return list(enumerate(classes))


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises: SparseheadError where it is missing or empty."""
    try:
        lines = [line for line in read_file(path).tobytes().decode().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise SparseheadError(f"tiny-imagenet: cannot read {path} ({getattr(error, 'strerror', error)}). {_TINY}") from None
    if not lines:
        raise SparseheadError(f"tiny-imagenet: {path} is empty. {_TINY}")
    return lines


_TINY = "Unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip there, as it is."
