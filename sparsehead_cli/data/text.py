"""Sentences as sources: names, files with a sentence a line, tables with a column of text.

Until an encoder's tokenizer has made tokens of them, inputs are UTF-8 bytes, zeros behind their end: {"text": uint8 [N, L]}. Other
wordings of the same sentence, where a set has such, stand beside it under names of their own, such as "example".
"""

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparsehead_cli.data.memory import Memory
from sparsehead_cli.errors import SparseheadError

TEXT = "text"
ENDINGS = (".txt", ".tsv", ".csv")
COLUMNS = ("text", "sentence")  # of a table: that with the text, the first that is there
LONGEST = 1_000  # bytes of a sentence that are kept
WORDNET = Path(__file__).with_name("wordnet10k.tsv.gz")


@dataclass(frozen=True)
class TextSpec:
    """What an encoder must know of sentences, and people of their labels: the vocabulary, as the JSON of a tokenizer.

    `others` are the names of other wordings that each sentence may have. The vocabulary is "" until an encoder has one.
    """

    classes: tuple[str, ...]
    others: tuple[str, ...] = ()
    vocabulary: str = ""


class Texts:
    """A data set of sentences before its split: training and test sentences with labels, and other wordings by name."""

    def __init__(self, classes: Sequence[str], parts: dict[bool, dict[str, list[str]]], labels: dict[bool, list[int]]) -> None:
        self.classes, self.parts, self.labels = tuple(classes), parts, labels

    @property
    def tested(self) -> bool:
        """Whether it has test sentences."""
        return False in self.parts

    def source(self, *, train: bool, chosen: np.ndarray | None = None) -> Memory:
        """A part, or what is `chosen` of it, bool [N]."""
        spec = TextSpec(self.classes, tuple(name for name in self.parts[train] if name != TEXT))
        labels = torch.tensor(self.labels[train], dtype=torch.int64)
        memory = Memory({name: encoded(column) for name, column in self.parts[train].items()}, labels, spec)
        return memory if chosen is None else memory.take(torch.from_numpy(np.flatnonzero(chosen)))


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


def read_wordnet() -> Texts:
    """The embedded glosses. Other wordings: the synset's words, its example sentence, its hypernym's gloss; "" where there is none."""
    with gzip.open(WORDNET, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    classes = sorted({row["class"] for row in rows})
    parts, labels = {}, {}
    for train, part in ((True, "train"), (False, "test")):
        of_part = [row for row in rows if row["part"] == part]
        parts[train] = {TEXT: [row["gloss"] for row in of_part]}
        parts[train] |= {name: [row[name] for row in of_part] for name in ("words", "example", "hypernym")}
        labels[train] = [classes.index(row["class"]) for row in of_part]
    return Texts(classes, parts, labels)


def is_text(name: str) -> bool:
    """Whether a data set is of sentences: a name of TEXTS, or a file of them. A .csv that lists images is none."""
    return name in TEXTS or (name.endswith(ENDINGS) and Path(name).is_file() and has_text(Path(name)))


def has_text(path: Path) -> bool:
    """Whether a file has a sentence a line, or a column of text."""
    if path.suffix == ".txt":
        return True
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        return bool(set(COLUMNS) & set(next(csv.reader(file, delimiter=delimiter(path)), [])))


def delimiter(path: Path) -> str:
    """Between the columns of a table."""
    return "\t" if path.suffix == ".tsv" else ","


def read_file(path: Path) -> Texts:
    """Sentences of a file, to train on; labels are those of a column "label". Raises: SparseheadError for one without sentences."""
    try:
        if path.suffix == ".txt":
            sentences, names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()], None
        else:
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file, delimiter=delimiter(path)))
            column = next(name for name in COLUMNS if name in (rows[0] if rows else {}))
            rows = [row for row in rows if (row[column] or "").strip()]
            sentences = [row[column].strip() for row in rows]
            names = [row["label"] for row in rows] if rows and "label" in rows[0] else None
    except (OSError, UnicodeDecodeError, csv.Error, StopIteration) as error:
        raise SparseheadError(
            f"cannot read sentences from {path}: {error or 'it has no column text'}. Give another file."
        ) from None
    if not sentences:
        raise SparseheadError(f"{path} has no sentences. Give one a line, or a table with a column {' or '.join(COLUMNS)}.")
    classes = sorted(set(names)) if names else ["sentences"]
    labels = [classes.index(name) for name in names] if names else [-1] * len(sentences)
    return Texts(classes, {True: {TEXT: sentences}}, {True: labels})


def read_texts(name: str) -> Texts:
    """The sentences of a name or a file."""
    return TEXTS[name]() if name in TEXTS else read_file(Path(name))


TEXTS = {"wordnet10k": read_wordnet}
