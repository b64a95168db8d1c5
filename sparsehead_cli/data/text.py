"""Sentences as sources: names, files with a sentence a line, tables with a column of text.

Until an encoder's tokenizer has made tokens of them, inputs are UTF-8 bytes, zeros behind their end: {"text": uint8 [N, L]}. Other
wordings of the same sentence, where a set has such, stand beside it under names of their own, such as "example".
"""

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparsehead_cli.data.hugging_face import is_hugging_face, label_column, opened
from sparsehead_cli.data.hugging_face import texts_of as texts_of_column
from sparsehead_cli.data.memory import Memory
from sparsehead_cli.data.nouns import ENDINGS
from sparsehead_cli.data.splits import TEST, TRAIN, VAL, Parts, class_labels, classes_of, part_named
from sparsehead_cli.errors import SparseheadError, one_line

TEXT = "text"
PLACE = "\n"  # beside a row's columns: where it stands in its file, for people; no column is called so
COLUMNS = ("text", "sentence")  # of a table: that with the text, the first that is there
LONGEST = 1_000  # bytes of a sentence that are kept
WORDNET = Path(__file__).with_name("wordnet10k.tsv.gz")


@dataclass(frozen=True)
class TextSpec:
    """What an encoder must know of sentences, and people of their labels: the `vocabulary` is the JSON of a tokenizer.

    It is "" until an encoder has one. `read` gives all sentences; they are `labelled` where training sentences have labels, and
    `tested` where there are test sentences; `notes` are sentences for people.
    """

    classes: tuple[str, ...] = ()
    vocabulary: str = ""
    read: Callable[[], "Texts"] | None = field(default=None, compare=False)
    labelled: bool = True
    tested: bool = True
    notes: tuple[str, ...] = ()
    noun = "sentences"
    layout = None  # of images in files
    cached = 0


@dataclass(frozen=True)
class Texts:
    """A data set before its split: of training (True) and of test sentences (False) the columns of wordings, and the labels.

    A label is the number of a class, -1 where there is none. `held_out` are the training sentences of a published val, bool [N];
    `empty` rows had no sentence, and are left out.
    """

    classes: tuple[str, ...]
    columns: dict[bool, dict[str, list[str]]]
    labels: dict[bool, np.ndarray]
    held_out: np.ndarray | None = None
    empty: int = 0

    def source(self, spec: TextSpec, chosen: np.ndarray, *, train: bool) -> Memory:
        """What is `chosen` of a part, bool [N]."""
        rows = np.flatnonzero(chosen)
        inputs = {name: encoded([column[row] for row in rows]) for name, column in self.columns[train].items()}
        return Memory(inputs, torch.from_numpy(self.labels[train][rows]), spec)


def encoded(sentences: Sequence[str]) -> Tensor:
    """Sentences -> their UTF-8 bytes, uint8 [N, L], zeros behind their end; what is longer than LONGEST bytes is cut."""
    rows = [sentence.encode()[:LONGEST].decode(errors="ignore").encode() for sentence in sentences]
    table = np.zeros((len(rows), max(map(len, rows), default=1) or 1), dtype=np.uint8)
    for row, data in zip(table, rows, strict=True):
        row[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    return torch.from_numpy(table)


def decoded(rows: Tensor) -> list[str]:
    """The inverse of `encoded`."""
    return [bytes(row).rstrip(b"\0").decode() for row in rows.cpu().numpy()]


@cache
def read_wordnet() -> Texts:
    """12,000 glosses of WordNet 3.0, embedded; the classes are its 45 lexicographer files.

    Other wordings: the synset's words, its example sentence, its hypernym's gloss; "" where there is none.
    """
    with gzip.open(WORDNET, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    renamed = [{**row, TEXT: row["gloss"], "label": row["class"], "split": row["part"]} for row in rows]
    return texts_of(renamed, "wordnet10k", others=("words", "example", "hypernym"))


def texts_of(rows: list[dict[str, str]], what: str, others: tuple[str, ...] = ()) -> Texts:
    """Rows of a table -> its texts, by the columns text (or sentence), label and split, of which only the first must be there.

    Raises: SparseheadError for a table without sentences, or with other parts than train, val and test.
    """
    columns = rows[0].keys() if rows else ()
    text = next((name for name in COLUMNS if name in columns), None)
    stated, rows = len(rows), [row for row in rows if (row[text] or "").strip()] if text else []
    if not rows:
        raise SparseheadError(f"{what} has no sentences. Give one a line, or a table with a column {' or '.join(COLUMNS)}.")
    by_part: dict[str, list[dict[str, str]]] = {TRAIN: [], VAL: [], TEST: []}
    for row in rows:
        name = (row.get("split") or TRAIN).strip()
        if part_named(name) is None:
            raise SparseheadError(
                f'{what}: the split "{one_line(name)}" of {row[PLACE]} is none of train, val and test. Correct it.'
            )
        by_part[part_named(name)].append(row)
    parts = Parts.of(by_part[TRAIN], by_part[VAL], by_part[TEST])
    if not parts.train:
        raise SparseheadError(f"{what} has no training sentences: none has {TRAIN} in its column split. Add some.")
    classes = classes_of({row["label"] for row in parts.train if row.get("label")}, what)
    found, labels = {}, {}
    for train, of_part in ((True, (*parts.train, *parts.held_out)), (False, parts.test)):
        if of_part:
            found[train] = {TEXT: [one_line_of(row[text]) for row in of_part]}
            found[train] |= {name: [one_line_of(row[name]) for row in of_part] for name in others}
            labels[train] = class_labels(
                [row.get("label") or None for row in of_part], classes, what, [row.get(PLACE, "") for row in of_part]
            )
    held_out = np.arange(len(labels[True])) >= len(parts.train) if parts.held_out else None
    return Texts(classes or ("sentences",), found, labels, held_out, stated - len(rows))


def one_line_of(text: str | None) -> str:
    """A sentence without line breaks and doubled spaces."""
    return " ".join((text or "").split())


def is_text(name: str) -> bool:
    """Whether a data set is a file or a saved set of sentences. A .csv that lists images is none."""
    path = Path(name)
    if name.lower().endswith(ENDINGS):
        return path.is_file() and (path.suffix.lower() == ".txt" or bool(set(COLUMNS) & set(header(path))))
    return is_hugging_face(path) and bool(set(COLUMNS) & set(saved_columns(path)))


def header(path: Path) -> list[str]:
    """The names of a table's columns, in small letters; [] where it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            return [name.strip().lower() for name in next(csv.reader(file, delimiter=delimiter(path)), [])]
    except (OSError, csv.Error):
        return []


def delimiter(path: Path) -> str:
    """Between the columns of a table."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def described(name: str, read: Callable[[], Texts] | None = None) -> TextSpec:
    """What is known of sentences: of a path, or of what `read` gives. Raises: SparseheadError for what has none."""
    read = read or partial(read_saved if is_hugging_face(Path(name)) else read_file, Path(name))
    texts = read()
    labelled, tested = bool((texts.labels[True] >= 0).any()), False in texts.labels
    notes = () if labelled else ("no labels: ranks and spectra are measured, and no accuracy",)
    without = sum(int((of_part < 0).sum()) for of_part in texts.labels.values())
    if labelled and without:
        notes = (f"rows without a label: {without:,}, which are trained on, and left out of accuracy", *notes)
    if texts.empty:
        notes = (f"rows without a sentence: {texts.empty:,}, which are left out", *notes)
    if not tested:
        notes = ("no test sentences: evaluate needs such; the probe and spectrum measure held-out sentences", *notes)
    return TextSpec(texts.classes, read=read, labelled=labelled, tested=tested, notes=notes)


def read_file(path: Path) -> Texts:
    """Sentences of a .txt, one a line, or of a table .tsv or .csv. Raises: SparseheadError for one without, or that is damaged."""
    try:
        if path.suffix.lower() == ".txt":
            return texts_of([{TEXT: line} for line in path.read_text(encoding="utf-8-sig").splitlines()], str(path))
        quoting = csv.QUOTE_MINIMAL if delimiter(path) == "," else csv.QUOTE_NONE  # a lone quotation mark is common in text
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, header(path), delimiter=delimiter(path), quoting=quoting)
            return texts_of([{**row, PLACE: f"line {rows.line_num}"} for row in rows][1:], str(path))
    except UnicodeDecodeError as error:
        raise SparseheadError(f"cannot read sentences from {path}: {one_line(str(error))}. Save it as UTF-8.") from None
    except (OSError, csv.Error) as error:
        raise SparseheadError(f"cannot read sentences from {path}: {one_line(str(error))}. Give another file.") from None


def read_saved(path: Path) -> Texts:
    """Sentences that Hugging Face's `datasets` saved. Raises: SparseheadError without the extra `hf`, and for damaged ones."""
    rows: list[dict[str, str]] = []
    for name, part in opened(path).items():
        if part_named(name):
            text = next(column for column in COLUMNS if column in part.column_names)
            label = label_column(part)
            labels = texts_of_column(part, label)
            of_part = enumerate(zip(part[text], labels, strict=True), 1)
            rows += [{TEXT: sentence, "label": of, "split": name, PLACE: f"{name}'s row {row}"} for row, (sentence, of) in of_part]
    return texts_of(rows, str(path))


def saved_columns(path: Path) -> list[str]:
    """The columns of a saved data set, as its JSON has them; [] where that is damaged."""
    found = next(iter(sorted(path.glob("**/dataset_info.json"))), None)
    try:
        return list(json.loads(found.read_text(encoding="utf-8"))["features"]) if found else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
