"""Words and small files as people write them: numbers, truth values, text, and names that become folders."""

import os
import re
from pathlib import Path

from sparsehead_cli.errors import SparseheadError, of_system, one_line

MOST_BYTES = 200_000  # of a file of settings
MOST_DIGITS = 100  # of a whole number; one with more is read as a float
NUMBER = re.compile(r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?\.?(inf|Inf|INF)|\.?(nan|NaN|NAN)", re.ASCII)
WHOLE = re.compile(r"[-+]?(0|[1-9]\d*)", re.ASCII)
CONSTANTS = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
CONSTANTS |= {text: True for word in ("true", "yes", "on") for text in (word, word.title(), word.upper())}
CONSTANTS |= {text: False for word in ("false", "no", "off") for text in (word, word.title(), word.upper())}


def scalar(text: str) -> object:
    """A word without quotes: nothing, a truth value, a number, or else text."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if WHOLE.fullmatch(text) and len(text) <= MOST_DIGITS:
        return int(text)
    return number(text) if NUMBER.fullmatch(text) else text


def of_python(value: object) -> object:
    """A number, an array or a tensor of NumPy or torch as Python's own numbers, in lists; anything else as it is."""
    return value.tolist() if hasattr(value, "ndim") and hasattr(value, "tolist") else value


def number(value: object) -> float:
    """A number, or a text that is one, as a float; one too large for it is infinite, and -0.0 is 0.0: written otherwise, it is
    no other number. Raises: ValueError for all else.
    """
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        return float(re.sub(r"\.(?=[in])", "", value.strip().lower())) + 0.0  # .inf and .nan are YAML's
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value) + 0.0
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    raise ValueError(value)


def whole(value: object) -> int:
    """A whole number, or a text that is one; 2.7 is none, and is not cut off. Raises: ValueError for all else."""
    if isinstance(value, str):
        value = scalar(value.strip())
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(value)


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """A small file's text, which is UTF-8. Raises: SparseheadError for one that cannot be read, is no text, or is too large."""
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise of_system(f"cannot read {path}", error, "Give another file.") from None
    except ValueError:
        raise SparseheadError(f"cannot read {path}: its name has a character that no file can have.") from None
    if len(data) > most:
        raise SparseheadError(f"{path} is larger than {most:,} bytes: this is no file of settings.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SparseheadError(f"{path} is not UTF-8 in line {line}: {error.reason}. Save it as UTF-8.") from None


def folder_name(kind: str, name: str) -> str:
    """`name`, which becomes one folder or file below another. Raises: SparseheadError for one that could leave it, or be none."""
    try:
        size = len(os.fsencode(name))
    except UnicodeEncodeError:
        remedy = "Set LC_ALL=C.UTF-8, or rename it."
        raise SparseheadError(f'{kind} "{one_line(name)}" cannot be the name of a folder in this locale. {remedy}') from None
    reasons = {
        "it is empty": not name.strip(),
        "it has a slash or a backslash": "/" in name or "\\" in name,
        "it begins with a dot or a dash": name.startswith((".", "-")),
        "it has a character that cannot be printed": not name.isprintable(),
        "it is longer than 100 bytes": size > 100,
    }
    wrong = [reason for reason, holds in reasons.items() if holds]
    if wrong:
        raise SparseheadError(f'{kind} "{one_line(name)}" cannot be the name of a folder: {" and ".join(wrong)}. Rename it.')
    return name
