"""Parts and labels as tables, shards and Hugging Face data sets name them."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sparsehead_cli.errors import SparseheadError

TRAIN, VAL, TEST = "train", "val", "test"
MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class Parts:
    """What there is of each part. Where a publisher gives both "val" and "test", val is held out of pretraining; a val alone
    is the test part, as with ImageNet.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    test: tuple[str, ...]

    @classmethod
    def of(cls, train: Iterable[str], val: Iterable[str], test: Iterable[str]) -> "Parts":
        train, val, test = tuple(train), tuple(val), tuple(test)
        return cls(train, val, test) if test else cls(train, (), val)


def parts_by_name(paths: list[str]) -> Parts:
    """Paths by what their name, or that of their folder, begins with: train, val or test. All are for training where none does."""
    by_part: dict[str, list[str]] = {TRAIN: [], VAL: [], TEST: [], "": []}
    for path in paths:
        folder, name = os.path.split(path)
        words = (name.lower(), os.path.basename(folder).lower())
        part = next((part for word in words for part in (TRAIN, VAL, TEST) if word.startswith(part)), "")
        by_part[part].append(path)
    if not by_part[TRAIN]:
        return Parts(tuple(paths), (), ())
    return Parts.of([*by_part[TRAIN], *by_part[""]], by_part[VAL], by_part[TEST])


def classes_of(texts: Iterable[str | None], what: str, *, counted: bool = False) -> tuple[str, ...]:
    """The names of the classes that labels name, sorted, whole numbers by size. `counted` numbers are places of classes: there
    is one for each from 0 to the largest.

    Raises: SparseheadError for a number that no class can have.
    """
    names = {text for text in texts if text is not None}
    numbers = all(is_number(name) for name in names)
    if numbers and not counted:
        return tuple(map(str, sorted({int(name) for name in names if int(name) >= 0})))
    if numbers and names:
        largest = max(map(int, names))
        if largest >= MOST_CLASSES:
            raise SparseheadError(f"{what}: a label is {largest:,}, and there are at most {MOST_CLASSES:,} classes.")
        return tuple(map(str, range(max(0, largest + 1))))
    return tuple(sorted(names))


def class_labels(texts: Iterable[str | None], classes: tuple[str, ...], what: str) -> np.ndarray:
    """The label of each text, int64 [N], -1 where it is None, and for a negative number.

    Raises: SparseheadError for one that names none of the classes.
    """
    place = {name: label for label, name in enumerate(classes)}
    labels = []
    for text in texts:
        known = str(int(text)) if text is not None and is_number(text) and text not in place else text
        if text is None or not classes or (is_number(text) and int(text) < 0):
            labels.append(-1)
        elif known in place:
            labels.append(place[known])
        else:
            raise SparseheadError(f'{what}: the label "{text[:50]}" is of none of the {len(classes):,} classes of training.')
    return np.array(labels, np.int64)


def is_number(text: str) -> bool:
    """Whether a label is a whole number."""
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()
