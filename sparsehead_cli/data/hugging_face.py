"""Data sets that Hugging Face's `datasets` saved to disk (`save_to_disk`), read row by row; needs the extra `hf`.

The images keep the bytes that they were saved with and are decoded by us, like all others.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsehead_cli.data.listing import BYTES, read_file
from sparsehead_cli.data.splits import TEST, TRAIN, VAL, class_labels, classes_of, part_named
from sparsehead_cli.errors import SparseheadError

DICT, STATE = "dataset_dict.json", "state.json"  # what save_to_disk writes of several parts, and of one
LABELS = ("label", "labels", "fine_label", "class", "target")  # columns of labels, the first that is there, without a ClassLabel


@dataclass(frozen=True)
class Rows:
    """The images of parts of a saved data set, one behind the other, and their labels; a `Listing`."""

    root: Path
    parts: tuple[tuple[str, object], ...]  # (name, datasets.Dataset whose images are not decoded)
    column: str
    ends: np.ndarray  # of each part
    labels: np.ndarray
    held_out: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def place(self, i: int) -> tuple[int, int]:
        """(number of the part, row in it) of the i-th image."""
        part = int(np.searchsorted(self.ends, i, side="right"))
        return part, int(i) - (int(self.ends[part - 1]) if part else 0)

    def name(self, i: int) -> bytes:
        part, row = self.place(i)
        return f"{self.parts[part][0]}/{row}".encode()

    def where(self, i: int) -> str:
        part, row = self.place(i)
        return f"in row {row:,} of {self.parts[part][0]} of {self.root}"

    def read(self, i: int) -> np.ndarray:
        """The bytes of the i-th image. Raises: OSError, ValueError."""
        part, row = self.place(i)
        image = self.parts[part][1][row][self.column]
        if not image or not (image["bytes"] or image["path"]):
            raise ValueError("the row holds no image")
        if not image["bytes"]:
            return read_file(image["path"])
        if len(image["bytes"]) > BYTES:
            raise ValueError(f"the file has {len(image['bytes']):,} bytes, and more than {BYTES:,} are not read")
        return np.frombuffer(image["bytes"], np.uint8).copy()  # torch takes no array that cannot be written to

    def sizes(self, index: np.ndarray) -> np.ndarray:
        return np.concatenate([sizes_of(part, self.column) for _, part in self.parts])[index]

    def files(self, index: Iterable[int]) -> Iterator[Path]:
        return (Path(file["filename"]) for _, part in self.parts for file in part.cache_files)


@dataclass(frozen=True)
class HuggingFaceLayout:
    """The parts of a saved data set by our names for them, and its columns; a `Layout`."""

    root: Path
    parts: dict[str, tuple[str, object]]
    image: str
    label: str | None
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        return bool(self.classes)

    @property
    def tested(self) -> bool:
        return TEST in self.parts

    def listing(self, train: bool) -> Rows:
        if not train and not self.tested:
            raise SparseheadError(f"{self.root} has no test images: no part is called test, or validation.")
        names = [name for name in ((TRAIN, VAL) if train else (TEST,)) if name in self.parts]
        parts = tuple(self.parts[name] for name in names)
        ends = np.cumsum([len(part) for _, part in parts])
        texts = [text for _, part in parts for text in texts_of(part, self.label)]
        held_out = np.arange(len(texts)) >= ends[0] if len(parts) > 1 else None
        return Rows(self.root, parts, self.image, ends, class_labels(texts, self.classes, str(self.root)), held_out)


def is_hugging_face(path: Path) -> bool:
    """Whether a folder is one that `save_to_disk` wrote."""
    return (path / DICT).is_file() or ((path / STATE).is_file() and (path / "dataset_info.json").is_file())


def opened(path: Path) -> dict[str, object]:
    """The parts of a saved data set by name. Raises: SparseheadError without the extra, and for one that is damaged."""
    try:
        import datasets
    except ImportError:
        raise SparseheadError(
            f"{path} is a data set of Hugging Face: it is read with the package datasets. pip install 'sparsehead[hf]'"
        ) from None
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # pyarrow and json fail in many ways on damaged files
        reason = " ".join(str(error).split())[:200]
        raise SparseheadError(f"the data set {path} is damaged or not complete: {reason}. Save it again.") from None
    return dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {TRAIN: loaded}


def hugging_face(path: Path) -> HuggingFaceLayout:
    """Open a saved data set of images. Raises: SparseheadError as `opened`, and for one that has no images."""
    named = opened(path)
    import datasets  # which is there now

    image = column_of(named, path, datasets.Image)
    undecoded = datasets.Image(decode=False)
    parts = {}
    for name, part in named.items():
        ours = part_named(name)
        if ours in parts:
            raise SparseheadError(f"{path}: the parts {parts[ours][0]} and {name} both are {ours}. Save it with one of them.")
        if ours:
            parts[ours] = (name, part.cast_column(image, undecoded).with_format(None))
    if TRAIN not in parts:
        raise SparseheadError(f"{path} has no part that is called train, but {', '.join(named)}.")
    if TEST not in parts and VAL in parts:
        parts[TEST] = parts.pop(VAL)
    first = parts[TRAIN][1]
    label = label_column(first)
    classes = () if label is None else class_names(parts, first.features[label], label, str(path))
    left_out = [name for name in named if not part_named(name)]
    notes = (f"the parts {', '.join(left_out)} are left out: only train, validation and test are read",) if left_out else ()
    return HuggingFaceLayout(path, parts, image, label, classes, notes)


def label_column(part: object) -> str | None:
    """The column of labels: the first ClassLabel, or of LABELS the first that is there."""
    named = next((name for name, kind in part.features.items() if hasattr(kind, "str2int")), None)  # a ClassLabel
    return named or next((name for name in LABELS if name in part.features), None)


def column_of(named: dict[str, object], path: Path, kind: type) -> str:
    """The one column of images. Raises: SparseheadError where there is none, or several."""
    features = next(iter(named.values())).features
    columns = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(columns) != 1:
        what = "no column" if not columns else f"the columns {', '.join(columns)}"
        raise SparseheadError(f"{path} has {what} of images, and one is needed; its columns are {', '.join(features)}.")
    return columns[0]


def class_names(parts: dict[str, tuple[str, object]], feature: object, label: str, what: str) -> tuple[str, ...]:
    """The names of the classes: those of a ClassLabel, or of the labels that there are."""
    if hasattr(feature, "names"):
        return tuple(feature.names)
    return classes_of({text for name in (TRAIN, VAL) if name in parts for text in texts_of(parts[name][1], label)}, what)


def sizes_of(part: object, column: str) -> np.ndarray:
    """How many bytes the image of each row has, int64 [n]; -1 where it lies in a file of its own, or is missing."""
    from pyarrow import compute

    images = part.with_format("arrow")[column][:]
    lengths = compute.binary_length(compute.struct_field(images, "bytes"))
    return compute.fill_null(lengths, -1).to_numpy().astype(np.int64)


def texts_of(part: object, label: str | None) -> list[str | None]:
    """The label of each row as text: of a ClassLabel its class's name."""
    if label is None:
        return [None] * len(part)
    values = part.with_format("arrow")[label][:]
    names = getattr(part.features[label], "names", None)
    texts = []
    for value in values.to_pylist():
        if value is None or (names and value < 0):
            texts.append(None)
        else:
            texts.append(names[value] if names else str(value))
    return texts
