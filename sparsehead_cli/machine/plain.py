"""Settings as people write them, YAML -> text, numbers, truth values, lists and tables; and names that become folders.

YAML 1.1 reads 1e-4 as text, 010 as 8, 1:30 as 90, 2024-01-01 as a date and yes as a key as True. Here 1e-4 is a number; whole
numbers are decimal; whatever else is no number is text; keys are text as written, each once. A file has a size, a depth and a
number of values that it may not exceed, aliases counted as often as they are used.
"""

import copy
import os
import re
from functools import lru_cache
from pathlib import Path

import yaml

from sparsehead_cli.errors import SparseheadError, of_system, one_line

MOST_BYTES, MOST_DEPTH, MOST_VALUES = 200_000, 12, 50_000
MOST_BRACKETS = 100  # open at once: PyYAML takes the longer the more, squared
MOST_DIGITS = 100  # of a whole number; one with more is read as a float
NUMBER = re.compile(r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?\.?(inf|Inf|INF)|\.?(nan|NaN|NAN)", re.ASCII)
WHOLE = re.compile(r"[-+]?(0|[1-9]\d*)", re.ASCII)
CONSTANTS = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
CONSTANTS |= {text: True for word in ("true", "yes", "on") for text in (word, word.title(), word.upper())}
CONSTANTS |= {text: False for word in ("false", "no", "off") for text in (word, word.title(), word.upper())}
TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Only for its parser: what a scalar is, `scalar` says; `<<` is the one key that means something."""

    yaml_implicit_resolvers = {"<": [(f"{TAG}merge", re.compile("<<"))]}


def read_yaml(text: str, most: int = MOST_BYTES) -> object:
    """The value that a text in YAML stands for. Raises: ValueError, a sentence, for what is no YAML or more than settings need."""
    return copy.deepcopy(_read_once(text, most))


@lru_cache(maxsize=8)  # a sweep asks for the same file once a trial, and it takes a sixth of a second
def _read_once(text: str, most: int) -> object:
    if len(text) > most:
        raise ValueError(f"it is longer than {most:,} characters")
    require_shallow(text)
    try:
        node = yaml.compose(text, Loader=_Loader)
        return _Reader().value(node, 0) if node else None
    except yaml.YAMLError as error:
        raise ValueError(one_line(" ".join(str(error).split()), 400)) from None
    except RecursionError:
        raise ValueError(f"it has lists in lists more than {MOST_DEPTH} deep") from None


def require_shallow(text: str) -> None:
    """Raises: ValueError for more brackets within each other than any value has, before time is spent on them."""
    depth = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if depth > MOST_BRACKETS:
            raise ValueError(f"it has lists in lists more than {MOST_DEPTH} deep")


class _Reader:
    """Nodes of YAML -> plain values, with a count of them."""

    def __init__(self) -> None:
        self.values = 0

    def value(self, node: yaml.Node, depth: int) -> object:
        self.values += 1
        if self.values > MOST_VALUES:
            raise ValueError(f"it stands for more than {MOST_VALUES:,} values")
        if depth > MOST_DEPTH:
            raise ValueError(f"it has lists in lists more than {MOST_DEPTH} deep")
        tagged = node.tag.removeprefix(TAG)
        if isinstance(node, yaml.SequenceNode) and tagged == "seq":
            return [self.value(child, depth + 1) for child in node.value]
        if isinstance(node, yaml.MappingNode) and tagged == "map":
            return self.table(node, depth)
        if isinstance(node, yaml.ScalarNode) and tagged in ("str", "merge"):
            return node.value if node.style else scalar(node.value)
        raise ValueError(f'it has the tag "{one_line(node.tag)}"; write plain text, numbers, lists and tables')

    def table(self, node: yaml.MappingNode, depth: int) -> dict[str, object]:
        """A table; what is merged into it by `<<` comes first, so that its own keys override it."""
        merged: dict[str, object] = {}
        own: dict[str, object] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {key.start_mark.line + 1} has a list or a table where a name belongs")
            value = self.value(child, depth + 1)
            if key.tag == f"{TAG}merge":
                tables = value if isinstance(value, list) else [value]
                if not all(isinstance(table, dict) for table in tables):
                    raise ValueError(f"line {key.start_mark.line + 1} merges by << what is no table")
                for table in reversed(tables):
                    merged |= table
            elif key.value in own:
                raise ValueError(f'line {key.start_mark.line + 1} gives "{one_line(key.value)}" a second time: remove one of them')
            else:
                own[key.value] = value
        return {**merged, **own}


def scalar(text: str) -> object:
    """A word without quotes: nothing, a truth value, a number, or else text."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if WHOLE.fullmatch(text) and len(text) <= MOST_DIGITS:
        return int(text)
    return number(text) if NUMBER.fullmatch(text) else text


def number(value: object) -> float:
    """A number, or a text that is one, as a float; one too large for it is infinite. Raises: ValueError for all else."""
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        return float(re.sub(r"\.(?=[in])", "", value.strip().lower()))  # .inf and .nan are YAML's
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
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
