"""Tar files as WebDataset lays them out: a.jpg and a.cls (or a.json) are one sample, a training set is many such files.

Each tar file is indexed once, by reading its headers: where the bytes of every image lie. From then on it is a random-access
source like a folder, so that any order, any number of reading processes and any place to go on from gives the same batches, and
an epoch is shuffled over all shards. An index is kept in memory as long as the file's size, time and number stay what they were.
Reading at a known place is faster than tarfile reads on (benchmarks/own_images.py).

Source: the WebDataset format, https://github.com/webdataset/webdataset ("The WebDataset Format"): the name of a sample is that
of its member up to the first dot behind the last slash, and members of one sample stand side by side.
"""

import glob
import itertools
import json
import os
import re
import tarfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from sparsehead_cli.data.listing import BYTES
from sparsehead_cli.data.splits import TRAIN, Parts, class_labels, classes_of, part_named, parts_by_name
from sparsehead_cli.data.tree import SUFFIXES, folders_in, has_images
from sparsehead_cli.errors import SparseheadError, one_line

IMAGES = frozenset(suffix.removeprefix(".") for suffix in (*SUFFIXES, ".gif", ".bmp"))
LABEL_KEYS = ("label", "cls", "class")  # of a sample's .json, the first that is there
LABEL_BYTES = 2**20  # of a .cls or .json, at most
PACKED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
BLOCK = 512  # bytes, of which a tar file consists


@dataclass(frozen=True)
class Index:
    """Where the n images of one tar file lie in it, what they are called and what their labels are (None: it has none)."""

    offsets: np.ndarray  # int64 [n]
    sizes: np.ndarray  # int64 [n]
    names: tuple[bytes, ...]
    labels: tuple[str | None, ...]


@dataclass
class Sample:
    """What is gathered of one sample while its tar file is indexed."""

    key: str = ""
    image: tarfile.TarInfo | None = None
    labels: dict[str, tuple[str, str]] = field(default_factory=dict)  # what follows the key -> the member's name and its text


@dataclass(frozen=True)
class Shards:
    """The images of tar files, and their labels int64 [N]; a `Listing`. `state` [S, 2] are sizes and times of the indexed files."""

    paths: tuple[str, ...]
    state: np.ndarray
    shard: np.ndarray  # int32 [N]: of `paths`, the one that holds the image
    offsets: np.ndarray
    lengths: np.ndarray
    names: np.ndarray  # all names in one array of bytes, as of Files
    ends: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray | None = None
    root: Path = field(default=Path(), compare=False)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, i: int) -> bytes:
        """The name of the tar file and of the member in it."""
        member = self.names[self.ends[i - 1] if i else 0 : self.ends[i]].tobytes()
        return os.fsencode(os.path.basename(self.paths[self.shard[i]])) + b"/" + member

    def where(self, i: int) -> str:
        member = self.names[self.ends[i - 1] if i else 0 : self.ends[i]].tobytes()
        return f"{os.fsdecode(member)} in {self.paths[self.shard[i]]}"

    def read(self, i: int) -> np.ndarray:
        """The bytes of the i-th image. Raises: OSError; ValueError where its tar file is another than the one that was indexed."""
        number = self.shard[i]
        size = int(self.lengths[i])
        if not size:
            raise ValueError("the file is empty")
        if size > BYTES:
            raise ValueError(f"the file has {size:,} bytes, and more than {BYTES:,} are not read")
        file = os.open(self.paths[number], os.O_RDONLY)
        try:
            status = os.fstat(file)
            if (status.st_size, status.st_mtime_ns) != tuple(self.state[number]):
                raise ValueError("the tar file was changed while it was read")
            data = np.empty(size, np.uint8)
            if os.preadv(file, [data], int(self.offsets[i])) != size:
                raise ValueError("the file could not be read to its end")
        finally:
            os.close(file)
        return data

    def sizes(self, index: np.ndarray) -> np.ndarray:
        return self.lengths[index]

    def files(self, index: Iterable[int]) -> Iterator[Path]:
        return (Path(self.paths[number]) for number in np.unique(self.shard[np.asarray(index)]))


@dataclass(frozen=True)
class ShardLayout:
    """The parts of a set of tar files, by their names; a `Layout`."""

    root: Path
    parts: Parts
    classes: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def labelled(self) -> bool:
        return bool(self.classes)

    @property
    def tested(self) -> bool:
        return bool(self.parts.test)

    def listing(self, train: bool) -> Shards:
        if not train and not self.parts.test:
            raise SparseheadError(
                f"{self.root} has no test images: no shards beside train have the word test or val in their names."
            )
        files = (*self.parts.train, *self.parts.held_out) if train else self.parts.test
        indices = [index_of(path) for path in files]
        texts = [text for index in indices for text in index.labels]
        labels = class_labels(texts, self.classes, str(self.root))
        count = np.array([len(index.offsets) for index in indices])
        kept = sum(count[len(self.parts.train) :]) if train and self.parts.held_out else 0
        held_out = np.arange(len(labels)) >= len(labels) - kept if kept else None
        states = [os.stat(path) for path in files]
        names = [name for index in indices for name in index.names]
        return Shards(
            tuple(files),
            np.array([(status.st_size, status.st_mtime_ns) for status in states], np.int64),
            np.repeat(np.arange(len(files), dtype=np.int32), count),
            np.concatenate([index.offsets for index in indices]),
            np.concatenate([index.sizes for index in indices]),
            np.frombuffer(b"".join(names), np.uint8),
            np.cumsum([len(name) for name in names], dtype=np.int64),
            labels,
            held_out,
            self.root,
        )


def shards(name: str) -> ShardLayout:
    """The tar files that a path, a pattern or a folder names, with the classes of the training samples.

    Raises: SparseheadError for a pattern that names nothing or a file that is not there, and for damaged files.
    """
    files = shard_files(name)
    if os.path.isdir(name) and has_images(Path(name)):
        raise SparseheadError(
            f"dataset {name}: it holds images in files of their own, and tar files such as {files[0]}. Move the ones or the others "
            f"away, or give the tar files by a pattern: '{os.path.join(os.path.dirname(files[0]), '*.tar')}'."
        )
    parts, notes = parts_by_name(files)
    indices = [index_of(path) for path in (*parts.train, *parts.held_out)]
    if not sum(len(index.offsets) for index in indices):
        raise SparseheadError(f"the training shards of {name} hold no images ({', '.join(sorted(IMAGES))}).")
    texts = {text for index in indices for text in index.labels}
    return ShardLayout(Path(name), parts, classes_of(texts, name, counted=True), notes)


def is_shards(name: str) -> bool:
    """Whether a name is one of tar files, by its ending, or a folder with such in it or in its folder of training images."""
    if name.endswith(".tar"):
        return True
    root = Path(name)
    if not root.is_dir():
        return False
    folders = [root, *(root / folder for folder in folders_in(root) if part_named(folder) == TRAIN)]
    return any(next(folder.glob("*.tar"), None) for folder in folders)


def shard_files(name: str) -> list[str]:
    """The tar files of a name, sorted. Raises: SparseheadError where one is missing."""
    if os.path.isdir(name):
        return sorted(map(str, [*Path(name).glob("*.tar"), *Path(name).glob("*/*.tar")]))
    found: list[str] = []
    for pattern in expanded(name):
        matches = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not matches:
            raise SparseheadError(f"dataset {name}: no file has a name like {pattern}.")
        found += matches
    missing = [path for path in found if not os.path.isfile(path)]
    if missing:
        more = f", nor {len(missing) - 1:,} others" if len(missing) > 1 else ""
        raise SparseheadError(f"dataset {name}: {missing[0]} is not there{more}. {len(found):,} files were looked for.")
    return list(dict.fromkeys(found))


def expanded(pattern: str) -> list[str]:
    """What a shell makes of {000..019} and {a,b}: "a-{08..10}.tar" -> ["a-08.tar", "a-09.tar", "a-10.tar"]."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [[part] if number % 2 == 0 else alternatives(part) for number, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def alternatives(inside: str) -> list[str]:
    """What stands for the inside of a pair of braces."""
    span = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if span is None:
        return inside.split(",")
    width = max(map(len, span.groups())) if any(text.startswith("0") for text in span.groups()) else 0
    return [f"{number:0{width}}" for number in range(int(span[1]), int(span[2]) + 1)]


def index_of(path: str) -> Index:
    """The index of a tar file. Raises: SparseheadError where it is damaged or packed."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise SparseheadError(f"cannot read the shard {path}: {error.strerror}.") from None
    return _indexed(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=100_000)
def _indexed(path: str, size: int, changed: int, inode: int) -> Index:
    """The index of the file that a path is of at the moment; the numbers tell it from another that takes its place."""
    offsets, sizes = array("q"), array("q")
    names: list[bytes] = []
    labels: list[str | None] = []
    for sample in samples_of(path, size):
        label = label_of(sample, path)
        if sample.image is not None:
            offsets.append(sample.image.offset_data)
            sizes.append(sample.image.size)
            names.append(os.fsencode(sample.image.name))
            labels.append(label)
    return Index(np.array(offsets, np.int64), np.array(sizes, np.int64), tuple(names), tuple(labels))


def samples_of(path: str, size: int) -> Iterator[Sample]:
    """The samples of a tar file in their order. Raises: SparseheadError for a file that is damaged, cut short or packed."""
    try:
        with open(path, "rb") as file:
            require_unpacked(path, file.read(8))
            file.seek(0)
            sample = Sample()
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    tar.members = []  # it would keep them all
                    if not member.isreg():
                        continue
                    if member.offset_data + member.size > size:
                        raise damaged(path, f"{member.name} goes beyond its end: it was cut short")
                    folder, _, base = member.name.rpartition("/")
                    if base.startswith("."):
                        continue  # hidden, as macOS puts one beside each file
                    key, _, kind = base.partition(".")
                    key = f"{folder}/{key}"
                    if key != sample.key:
                        yield sample
                        sample = Sample(key)
                    add(sample, member, kind.lower(), file, path)
                end = tar.offset
            yield sample
            file.seek(end)
            # tarfile takes a header that it cannot read for the end
            if file.read(BLOCK) != bytes(BLOCK):
                what = "it has no end mark: it was cut short" if end >= size else f"the header at byte {end:,} is damaged"
                raise damaged(path, what)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise damaged(path, str(error) or type(error).__name__) from None


def add(sample: Sample, member: tarfile.TarInfo, kind: str, file: object, path: str) -> None:
    """Take a member into its sample. Raises: SparseheadError for a second image, and for a label that is no text."""
    ending = kind.rpartition(".")[2]
    if ending in IMAGES:
        if sample.image is not None:
            raise damaged(path, f"{sample.image.name} and {member.name} are two images of one sample")
        sample.image = member
    elif ending in ("cls", "json"):
        place = file.tell()
        file.seek(member.offset_data)
        content = file.read(min(member.size, LABEL_BYTES))
        file.seek(place)
        try:
            sample.labels[kind] = (member.name, content.decode("utf-8").strip())
        except UnicodeDecodeError:
            raise damaged(path, f"{member.name} is no text") from None


def label_of(sample: Sample, path: str) -> str | None:
    """The label of a sample: of a.v1.jpg in a.v1.cls, else a.cls, else in such a .json; None where it has none.

    Raises: SparseheadError for a label that cannot be read, and for one without an image.
    """
    if not sample.labels:
        return None
    key, kind = sample.key.rpartition("/")[2], ""
    if sample.image is not None:
        kind = sample.image.name.rpartition("/")[2].lower().removeprefix(f"{key.lower()}.").rpartition(".")[0]
    kinds = [f"{before}.{ending}".removeprefix(".") for ending in ("cls", "json") for before in (kind, "")]
    taken = list(sample.labels) if sample.image is None else kinds
    for name, text in (sample.labels[kind] for kind in taken if kind in sample.labels):
        is_text = name.lower().endswith(".cls")
        label = (text or None) if is_text else label_in(text or "{}", name, path)
        if label is not None and sample.image is None:
            raise damaged(path, f"{name} is a label, and no image ({', '.join(sorted(IMAGES))}) of that name stands beside it")
        if label is not None or is_text:
            return label
    return None


def label_in(text: str, name: str, path: str) -> str | None:
    """The label in a sample's .json, under the first of LABEL_KEYS that has one; None where none of them is there.

    Raises: SparseheadError for what is no JSON, and where what they have is neither a whole number nor text.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise damaged(path, f"{name} is no JSON ({error})") from None
    there = {key: content[key] for key in LABEL_KEYS if isinstance(content, dict) and content.get(key) is not None}
    labels = [str(value) for value in there.values() if type(value) in (int, str)]
    if there and not labels:
        key, value = next(iter(there.items()))
        raise damaged(path, f"the {key} in {name} is {one_line(json.dumps(value))[:50]}, and a label is a whole number or text")
    return labels[0] if labels else None


def require_unpacked(path: str, beginning: bytes) -> None:
    """Raises: SparseheadError for a tar file that is compressed as a whole, in which nothing has a place of its own."""
    for magic, program in PACKED.items():
        if beginning.startswith(magic):
            raise SparseheadError(f"the shard {path} is compressed, and images are read from any place in it: {program} {path}")


def damaged(path: str, what: str) -> SparseheadError:
    return SparseheadError(f"the shard {path} is damaged: {what}. Fetch or write it again, or remove it.")
