"""Parts and labels as folders, tables, shards and Hugging Face data sets name them."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sparsehead_cli.errors import SparseheadError

TRAIN, VAL, TEST = "train", "val", "test"
NAMES = {
    TRAIN: (TRAIN, "training", "trainset"),
    VAL: (VAL, "valid", "validation", "valset"),
    TEST: (TEST, "testing", "testset"),
}
WORDS = {word: part for part, words in NAMES.items() for word in words}
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


def part_named(name: str) -> str | None:
    """The part that a folder, or a part of a saved set, is called: train, val or test, in any case and any of WORDS."""
    return WORDS.get(name.lower())


def parts_by_name(paths: list[str]) -> tuple[Parts, tuple[str, ...]]:
    """Paths of files by the part that a word in their name names, or in that of a folder that not all of them lie in.

    Files that name no part are trained on, and so are all files where they are of one part; notes say so.

    Raises: SparseheadError for a file that names two parts, and for files of val and test without any to train on.
    """
    common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]) if paths else ""
    by_part: dict[str, list[str]] = {TRAIN: [], VAL: [], TEST: [], "": []}
    alike = False  # whether a word only begins like one of WORDS
    for path in paths:
        words = re.split(r"[\W\d_]+", os.path.relpath(os.path.abspath(path), common).lower())
        named = {WORDS[word] for word in words if word in WORDS}
        if len(named) > 1:
            raise SparseheadError(f"{path} names {' and '.join(sorted(named))}, and is to be of one part. Rename it.")
        alike |= not named and any(word.startswith((TRAIN, VAL, TEST)) for word in words)
        by_part[named.pop() if named else ""].append(path)
    others, kinds = by_part[""], [part for part, files in by_part.items() if part and files]
    if not by_part[TRAIN] and not others and len(kinds) > 1:
        raise SparseheadError(f"{paths[0]} and others name {' and '.join(kinds)}, and none train. Give those of train as well.")
    if kinds in ([VAL], [TEST]) and not others:
        return Parts(tuple(paths), (), ()), (f"all files name {kinds[0]}, and are trained on: give those of train as well",)
    notes = ()
    if others and (kinds or alike):
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        notes = (f"{others[0]}{more}: no word of the name is train, val or test, so that it is trained on",)
    return Parts.of([*by_part[TRAIN], *others], by_part[VAL], by_part[TEST]), notes


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


def class_labels(texts: Iterable[str | None], classes: tuple[str, ...], what: str, places: Sequence[str] = ()) -> np.ndarray:
    """The label of each text, int64 [N], -1 where it is None, and for a negative number; `places` say where each stands.

    Raises: SparseheadError for one that names none of the classes.
    """
    place = {name: label for label, name in enumerate(classes)}
    labels = []
    for row, text in enumerate(texts):
        known = str(int(text)) if text is not None and is_number(text) and text not in place else text
        if text is None or not classes or (is_number(text) and int(text) < 0):
            labels.append(-1)
        elif known in place:
            labels.append(place[known])
        else:
            place = f" of {places[row]}" if places else ""
            raise SparseheadError(f'{what}: the label "{text[:50]}"{place} is of none of the {len(classes):,} classes of training.')
    return np.array(labels, np.int64)


def is_number(text: str) -> bool:
    """Whether a label is a whole number."""
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()
