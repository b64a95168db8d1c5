"""Where the images of a folder lie and what their labels are: found by listing folders, before any image is opened.

Three layouts: any image folder (train/<class>/..., and test/ or val/ like it), ImageNet's (the same with train and val), and
Tiny-ImageNet's own. Of Tiny-ImageNet and ImageNet the official validation images are "test": nobody publishes the labels of theirs.
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sparsehead_cli.data.listing import Files, read_file
from sparsehead_cli.data.splits import TEST, TRAIN, VAL, part_named
from sparsehead_cli.data.tree import SUFFIXES, Tree, folders_in, has_images, images_below, part_folders, require_apart
from sparsehead_cli.errors import SparseheadError


@dataclass(frozen=True)
class FolderLayout:
    """The classes of a set of files, and where to look for each one's training and test images; a `Layout` of the contract.

    Without `folders` no image has a label. `train` is "" where the training images lie in `root` itself.
    """

    root: Path
    classes: tuple[str, ...]
    folders: tuple[str, ...]  # of the classes, below train/ and test/
    test: str = ""  # the folder of the test images
    annotations: str = ""  # a file below `test` that names each test image's class, where no folder does
    train: str = "train"
    notes: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        return bool(self.folders)

    @property
    def tested(self) -> bool:
        return bool(self.test)

    def listing(self, train: bool) -> Files:
        return list_images(self, train)


def image_folder(root: Path) -> FolderLayout:
    """train/<class>/ and, for the test images, test/<class>/ or else val/<class>/; or images without labels.

    These lie in train/ without folders of classes, or, where there is no train/, anywhere below the root. The folders of parts
    may have any of the names that stand for them.

    Raises: SparseheadError where there are no such folders, two of one part, or where they lie deeper than the root.
    """
    parts = part_folders(root)
    if not parts:
        _require_no_parts_below(root)
    if not parts and has_images(root):
        return FolderLayout(root, (), (), train="", notes=(_no_classes(root),))
    train, test = parts.get(TRAIN, TRAIN), parts.get(TEST, parts.get(VAL, ""))
    beside = [name for name in (train, test) if name and has_images(root / name, deep=False)]
    folders = folders_in(root / train) if train in beside else class_folders(root / train)
    if train in beside and not any(has_images(root / train / name) for name in folders):
        return FolderLayout(root, (), (), test, train=train)
    notes = [f"images that lie in {root / name} itself are left out: they are in no folder of a class" for name in beside]
    if TEST in parts and VAL in parts:
        notes.append(f"{root / parts[VAL]} is not read: {root / parts[TEST]} has the test images")
    return FolderLayout(root, folders, folders, test, train=train, notes=tuple(notes))


def _require_no_parts_below(root: Path) -> None:
    """Raises: SparseheadError where a folder below the root has both training images and others, which would all be trained on.

    Of a symbolic link to a folder only what lies directly in that folder is looked at.
    """
    for folder, folders, _ in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        linked = [path for name in folders if os.path.islink(path := os.path.join(folder, name))]
        for found, names in ((folder, folders), *((path, folders_in(Path(path))) for path in linked)):
            named = [name for name in names if part_named(name)]
            if len({part_named(name) for name in named}) > 1:
                raise SparseheadError(
                    f"{root} has no train/ in it, but {found} has {' and '.join(named)}: give that folder. To train on all "
                    f"images, rename these folders."
                )


def _no_classes(root: Path) -> str:
    """What is said of a folder without train/, whose images have no label."""
    return f"the folders in {root} are not taken for classes: images with labels belong in {root / 'train'}/<class>/"


def imagenet(data_dir: Path) -> FolderLayout:
    """data_dir/imagenet or data_dir itself, with train/<wnid>/ and val/<wnid>/. Raises: SparseheadError."""
    root = data_dir / "imagenet" if (data_dir / "imagenet").is_dir() else data_dir
    if not (root / "train").is_dir():
        raise SparseheadError(
            f"imagenet is not in {data_dir}: no folder {root / 'train'}. Unpack the training and validation images of "
            "https://image-net.org (ILSVRC2012, an account is needed) as train/<wnid>/*.JPEG and val/<wnid>/*.JPEG."
        )
    classes = class_folders(root / "train")
    return FolderLayout(root, classes, classes, "val")


def tiny_imagenet(data_dir: Path) -> FolderLayout:
    """data_dir/tiny-imagenet-200 or data_dir itself, as published; classes in the order of wnids.txt. Raises: SparseheadError."""
    root = data_dir / "tiny-imagenet-200" if (data_dir / "tiny-imagenet-200").is_dir() else data_dir
    if not (root / "wnids.txt").exists() and not (root / "words.txt").exists():
        raise SparseheadError(f"tiny-imagenet is not in {data_dir}. {_TINY}")
    wnids = _lines(root / "wnids.txt")
    words = dict(line.split("\t", 1) for line in _lines(root / "words.txt") if "\t" in line)
    classes = tuple(words.get(wnid, wnid).split(",")[0] for wnid in wnids)
    return FolderLayout(root, classes, tuple(wnids), "val", "val_annotations.txt")


def list_images(layout: FolderLayout, train: bool) -> Files:
    """The training or test images in the order of their classes, then of their names.

    Raises: SparseheadError for a folder that is missing, a class without images, classes that training does not have, and an
    image that symbolic links put into two classes, or into training and test.
    """
    if not train and not layout.test:
        raise SparseheadError(f"{layout.root} has no test images: no folder test/ or val/ beside train/.")
    folder = layout.root / (layout.train if train else layout.test)
    if layout.annotations and not train:
        return _listing(layout.root, _annotated(layout, folder))
    if not layout.folders:
        tree = _unlabelled(layout, folder)
        return _listing(layout.root, [(-1, tree.paths)], _left_out(folder, [tree]))
    if not train:
        _require_known(layout, folder)
    classes = [(label, folder / name) for label, name in enumerate(layout.folders)]
    trees = [(label, path, _images_of(path)) for label, path in classes if train or path.is_dir()]  # a test set may lack a class
    require_apart((f"{folder.name}/{path.name}", tree) for _, path, tree in trees)
    if layout.test and any(tree.leaves(folder) for _, _, tree in trees):
        other = layout.root / (layout.test if train else layout.train)
        theirs = [images_below(other / name) for name in layout.folders if (other / name).is_dir()]
        require_apart([(folder.name, tree) for _, _, tree in trees] + [(other.name, tree) for tree in theirs])
    notes = _left_out(folder, [tree for _, _, tree in trees])
    return _listing(layout.root, ((label, tree.paths) for label, _, tree in trees), notes)


def _left_out(folder: Path, trees: list[Tree]) -> tuple[str, ...]:
    """What is said of images in `folder` with endings that are not taken."""
    others = sum((tree.others for tree in trees), Counter())
    kinds = ", ".join(f"{count:,} {ending}" for ending, count in sorted(others.items()))
    return (f"images in {folder} are left out ({kinds}): taken are {', '.join(SUFFIXES)}",) if others else ()


def _unlabelled(layout: FolderLayout, folder: Path) -> Tree:
    """The image files in and below a folder without classes. Raises: SparseheadError where links lead into the other part."""
    tree = images_below(folder)
    if layout.test and tree.leaves(folder):
        parts = [layout.root / name for name in (layout.train, layout.test)]
        require_apart((part.name, images_below(part)) for part in parts if part.is_dir())
    return tree


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the folders in `folder`, sorted. Raises: SparseheadError where there are none."""
    if not folder.is_dir():
        raise SparseheadError(f"there is no folder {folder}. Images belong in {folder}/<class>/, one folder a class.")
    names = folders_in(folder)
    if not names:
        raise SparseheadError(f"{folder} has no folder of a class in it. Sort its images into {folder}/<class>/.")
    return names


def _listing(root: Path, classes: Iterable[tuple[int, list[str]]], notes: tuple[str, ...] = ()) -> Files:
    """(label, paths) of each class -> Files with names relative to `root`."""
    start = len(os.fsencode(os.path.join(root, ""))) if root != Path() else 0  # Path() / "train" is "train"
    labels: list[int] = []
    names: list[bytes] = []
    for label, paths in classes:
        names += [os.fsencode(path)[start:] for path in paths]
        labels += [label] * len(paths)
    return Files.of(root, names, labels, notes=notes)


def _images_of(folder: Path) -> Tree:
    """The image files in and below the folder of one class. Raises: SparseheadError where there are none."""
    tree = images_below(folder) if folder.is_dir() else Tree()
    if not tree.paths:
        state = "has no images in it" if folder.is_dir() else "is missing"
        raise SparseheadError(f"the class folder {folder} {state} ({', '.join(SUFFIXES)}). Fill it, or remove the class.")
    return tree


def _require_known(layout: FolderLayout, folder: Path) -> None:
    """Raises: SparseheadError for test classes that no training image has."""
    strange = sorted(set(class_folders(folder)) - set(layout.folders))
    if strange:
        shown = ", ".join(strange[:3]) + (", ..." if len(strange) > 3 else "")
        raise SparseheadError(f"{folder} has classes that {layout.root / layout.train} lacks: {shown}. Add or remove them.")


def _annotated(layout: FolderLayout, folder: Path) -> list[tuple[int, list[str]]]:
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
