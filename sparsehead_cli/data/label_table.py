"""A table of labels, a CSV with the columns path, label and split: images anywhere, named line by line.

Paths are relative to the table. A label may be empty or missing; a split is train (also where it is empty or missing), val or test.
The names of columns are read in any case.
"""

import csv
import difflib
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsehead_cli.data.listing import Files
from sparsehead_cli.data.splits import TEST, TRAIN, VAL, Parts, class_labels, classes_of
from sparsehead_cli.errors import SparseheadError, did_you_mean, one_line

COLUMNS = PATH, LABEL, SPLIT = "path", "label", "split"
ALIKE = 0.8  # from which likeness on, of 1, another column's name is taken for a slip: labels, spilt
KNOWN = f"{PATH}, {LABEL} and {SPLIT}"
SPLITS = {"": TRAIN, TRAIN: TRAIN, VAL: VAL, "valid": VAL, "validation": VAL, TEST: TEST}
LONGEST = 10_000_000  # characters of a field: a quotation mark that is never closed is no name of a file


@dataclass(frozen=True)
class TableLayout:
    """What a table says: for each part the paths, and the label of each path; a `Layout`."""

    root: Path  # the folder of the table
    table: Path
    parts: Parts
    label_of: dict[str, str | None]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        return bool(self.classes)

    @property
    def tested(self) -> bool:
        return bool(self.parts.test)

    def listing(self, train: bool) -> Files:
        paths = (*self.parts.train, *self.parts.held_out) if train else self.parts.test
        if not paths:
            raise SparseheadError(f"{self.table} names no test images: no line has {TEST} or {VAL} in the column {SPLIT}.")
        labels = class_labels([self.label_of[path] for path in paths], self.classes, str(self.table), paths)
        held_out = np.arange(len(paths)) >= len(self.parts.train) if train and self.parts.held_out else None
        return Files.of(self.root, map(os.fsencode, paths), labels.tolist(), held_out)


def is_table(name: str) -> bool:
    """Whether a data set's name is one of a table of labels."""
    return name.lower().endswith(".csv")


def label_table(path: Path) -> TableLayout:
    """Read a table. Raises: SparseheadError that names the line, for all that is wrong with it and for a file that is not there."""
    by_split: dict[str, list[str]] = {TRAIN: [], VAL: [], TEST: []}
    lines: dict[str, tuple[int, str]] = {}  # of each file, by its real path: where it stands, and as what
    label_of: dict[str, str | None] = {}
    real_folder = functools.cache(os.path.realpath)  # of a million images few folders are looked up
    left_out, rows = rows_of(path)
    for line, row in rows:
        image = os.path.normpath(row[PATH].strip()) if row[PATH].strip() else ""
        split = (row.get(SPLIT) or "").strip()
        if not image:
            raise SparseheadError(f"{path}, line {line}: the path is empty.")
        if split.lower() not in SPLITS:
            hint = did_you_mean(split, SPLITS)
            raise SparseheadError(f'{path}, line {line}: the split "{one_line(split)}" is none of train, val and test.{hint}')
        file = path.parent / image
        if not os.path.isfile(file):
            raise SparseheadError(f"{path}, line {line}: there is no file {file}. Paths are relative to the table.")
        real = os.path.realpath(file) if file.is_symlink() else os.path.join(real_folder(file.parent), file.name)
        first, name = lines.setdefault(real, (line, image))
        if first != line:
            known = "" if name == image else f", as {one_line(name)}"
            raise SparseheadError(f"{path}, line {line}: {one_line(image)} stands in line {first} already{known}. Name it once.")
        label_of[image] = (row.get(LABEL) or "").strip() or None
        by_split[SPLITS[split.lower()]].append(image)
    if not by_split[TRAIN]:
        raise SparseheadError(f"{path} names no training images: no line has train, or nothing, in the column {SPLIT}.")
    parts = Parts.of(by_split[TRAIN], by_split[VAL], by_split[TEST])
    classes = classes_of([label_of[image] for image in (*parts.train, *parts.held_out)], str(path))
    notes = (f"the columns {one_line(', '.join(left_out))} of the table are left out: only {KNOWN} are read",) if left_out else ()
    return TableLayout(path.parent, path, parts, label_of, classes, notes)


def rows_of(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns that are left out, and (line, columns by their names in small letters) of each row.

    Raises: SparseheadError for a file that is no such table.
    """
    try:
        with long_fields(), open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            reader.fieldnames = columns = columns_of(path, list(reader.fieldnames or ()))
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise SparseheadError(f"{path}, line {reader.line_num}: it has not the {len(columns)} columns of line 1.")
                rows.append((reader.line_num, row))
    except FileNotFoundError:
        raise SparseheadError(f"dataset {path}: there is no such table.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SparseheadError(f"cannot read the table {path}: {getattr(error, 'strerror', None) or error}.") from None
    return [name for name in columns if name and name not in COLUMNS], rows


@contextmanager
def long_fields() -> Iterator[None]:
    """Within it, `csv` reads fields of LONGEST characters: its limit is the process's, and other tables have a shorter one."""
    before = csv.field_size_limit(LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def columns_of(path: Path, given: list[str]) -> list[str]:
    """The names of the columns, in small letters. Raises: SparseheadError where one of ours is missing, doubled or misspelt."""
    names = [name.strip().lower() for name in given]
    if PATH not in names:
        raise SparseheadError(
            f"{path}: line 1 must name the columns {PATH}, and where there are such {LABEL} and {SPLIT}; "
            f"it has {one_line(', '.join(given))[:200] or 'nothing'}."
        )
    for column in COLUMNS:
        if names.count(column) > 1:
            raise SparseheadError(f"{path}: line 1 names the column {column} {names.count(column)} times. Name it once.")
        near = difflib.get_close_matches(column, [name for name in names if name not in COLUMNS], n=1, cutoff=ALIKE)
        if column not in names and near:  # test images must not be trained on for want of a letter
            raise SparseheadError(
                f'{path}: line 1 names no column {column}, but "{one_line(near[0])}". Call it {column}, or remove it.'
            )
    return names
