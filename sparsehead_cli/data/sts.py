"""Pairs of sentences and how alike people find them, read from folders as they are passed around.

sts13.tsv …          tables with the columns score, sentence1 and sentence2, one a set, called as their file
STS/STS13-en-test/   as SentEval has them: STS.input.NAME.txt and STS.gs.NAME.txt, all of a year one set
STS/STSBenchmark/sts-test.csv and SICK/SICK_test_annotated.txt, likewise
"""

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sparsehead_cli.errors import SparseheadError, one_line

OF_TRAINING = ("train", "dev")  # words in the names of files that are no test


class Scored(NamedTuple):
    """A set of pairs: the sentences on both sides, and the score of each pair."""

    name: str
    first: list[str]
    second: list[str]
    scores: list[float]


def read_sts(folder: Path) -> list[Scored]:
    """The test sets in a folder, by name. Raises: SparseheadError where there is none, and for a damaged one."""
    found = []
    for name, files in sorted(files_of(folder).items()):
        pairs = [pair for path in files for pair in pairs_in(path)]
        if len(pairs) < 2:
            raise SparseheadError(
                f"{folder}: {name} has fewer than two pairs with a score, which a correlation needs. Leave it out."
            )
        found.append(Scored(name, *map(list, zip(*pairs, strict=True))))
    if not found:
        raise SparseheadError(
            f"{folder} has no pairs of sentences. Give a folder with tables of score, sentence1 and sentence2, such as sts13.tsv, "
            "or SentEval's downstream: --set sts=FOLDER."
        )
    return found


def files_of(folder: Path) -> dict[str, list[Path]]:
    """The files of each test set in a folder: tables, or as SentEval has them."""
    tables = [path for path in sorted(folder.glob("*.tsv")) if not set(path.stem.lower().split("-")) & set(OF_TRAINING)]
    found = {path.stem: [path] for path in tables}
    for year in sorted(folder.glob("STS/STS*-en-test")):
        found[year.name.partition("-")[0].lower()] = sorted(year.glob("STS.input.*.txt"))
    for name, place in (("sts-b", "STS/STSBenchmark/sts-test.csv"), ("sick-r", "SICK/SICK_test_annotated.txt")):
        if (folder / place).is_file():
            found[name] = [folder / place]
    return found


def pairs_in(path: Path) -> Iterator[tuple[str, str, float]]:
    """(first, second, score) of each pair in a file that has a score. Raises: SparseheadError for a damaged one."""
    try:
        for row in rows_in(path):
            if len(row) < 3:
                raise ValueError(f"a line has {len(row)} columns, not three")
            if row[2].strip():
                yield row[0].strip(), row[1].strip(), float(row[2])
    except KeyError as error:
        raise SparseheadError(f"{path} lacks the column {error.args[0]}. It needs score, sentence1 and sentence2.") from None
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise SparseheadError(f"cannot read pairs from {path}: {one_line(str(error))}. Fetch it again.") from None


def rows_in(path: Path) -> Iterator[list[str]]:
    """[first, second, score] of each line. Raises: OSError, KeyError, ValueError."""
    text = path.read_text(encoding="utf-8-sig")
    lines = text.splitlines()
    if path.name.startswith("STS.input."):
        scores = path.with_name(path.name.replace(".input.", ".gs.")).read_text(encoding="utf-8").splitlines()
        yield from ([*line.split("\t")[:2], score] for line, score in zip(lines, scores, strict=True))
    elif path.suffix == ".csv":  # of STSBenchmark: seven columns with tabs between
        yield from (columns[5:7] + columns[4:5] for columns in (line.split("\t") for line in lines))
    elif path.suffix == ".txt":  # of SICK
        yield from (columns[1:4] for columns in (line.split("\t") for line in lines[1:]))
    else:
        for row in csv.DictReader(text.splitlines(keepends=True), delimiter="\t"):
            yield [row["sentence1"], row["sentence2"], row["score"]]


def digest_of(folder: Path) -> str:
    """A hash of the pairs in a folder, in hexadecimals. Raises: SparseheadError as `read_sts`."""
    return hashlib.blake2b(repr(read_sts(folder)).encode(), digest_size=8).hexdigest()
