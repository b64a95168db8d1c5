"""YAML -> text, numbers, truth values, lists and tables. It stands apart because PyYAML takes a sixth of what --help may take.

YAML 1.1 reads 1e-4 as text, 010 as 8, 1:30 as 90, 2024-01-01 as a date and yes as a key as True. Here 1e-4 is a number; whole
numbers are decimal; whatever else is no number is text; keys are text as written, each once. A file has a size, a depth and a
number of values that it may not exceed, aliases counted as often as they are used.
"""

import copy
import re
from functools import lru_cache

import yaml

from sparsehead_cli.errors import one_line
from sparsehead_cli.machine.plain import MOST_BYTES, scalar

MOST_DEPTH, MOST_VALUES = 12, 50_000
MOST_BRACKETS = 100  # open at once: PyYAML takes the longer the more, squared
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
