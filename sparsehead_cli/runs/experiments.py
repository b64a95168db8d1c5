"""experiments.yaml -> named entries, each a few layers of settings. Imports no torch.

The entries that come with the package are always there. Over them lie those of experiments.yaml in the working directory, and
over these those of `--experiments FILE`: an entry of a name that is there already takes its place. What an entry `extends` is
looked up in its own file first, then in those below it; an entry may extend the one whose place it takes.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sparsehead_cli.errors import SparseheadError, shown, unknown
from sparsehead_cli.machine.plain import read_text

PACKAGE = Path(__file__).parents[1]
FILE = "experiments.yaml"
EXTENDS = "extends"  # the key under which an entry has the name of another one, whose settings it has where it says nothing else
SWEEP = "sweep"  # the key under which it has the axes of a sweep over λ
METHOD, METHOD_PREFIX = "method", "method."
BUILT_IN = "built in"
ENTRY = re.compile(r"^(\"[^\"]+\"|'[^']+'|[^\s#:'\"][^:#]*):")  # a line that begins one
Values = dict[str, object]


@dataclass(frozen=True)
class Layer:
    """Settings that are stated in one place, keys as in `--set`, and the words for that place.

    `built_in`: they come with the package. `replaces`: they are an entry that takes the place of a built-in one.
    """

    source: str
    settings: Values
    built_in: bool = False
    replaces: bool = False


class Value(NamedTuple):
    """A setting's value, the words for where it is stated, and the number of the layer that states it."""

    value: object
    source: str
    layer: int


Entries = dict[str, tuple[Layer, ...]]  # name -> its layers: first what it extends, farthest first, and last the entry itself


def combined(layers: Iterable[Layer], method: str) -> dict[str, Value]:
    """Settings of several layers, each over those before it. `method` is the one that is meant before a layer names another.

    The numbers of a method go with it: a layer that names another method has none of those below. The axes of a sweep are
    combined one by one.
    """
    values: dict[str, Value] = {}
    for number, layer in enumerate(layers):
        named = layer.settings.get(METHOD, method)
        if named != method:
            values = {key: value for key, value in values.items() if not key.startswith(METHOD_PREFIX)}
            method = named
        for key, value in layer.settings.items():
            if key == SWEEP and value is None:  # an entry that extends a sweep, and is none
                values.pop(SWEEP, None)
                continue
            below = values[key].value if key in values else None
            if key == SWEEP and isinstance(value, dict) and isinstance(below, dict):
                value = {**below, **value}
            values[key] = Value(value, layer.source, number)
    return values


def default_experiments() -> Path:
    """The file of the built-in entries: the one that travels inside the package, else the repository's."""
    inside = PACKAGE / FILE
    return inside if inside.exists() else PACKAGE.parent / FILE


def files_of(path: Path | None) -> list[Path]:
    """The files whose entries there are, the lowest first; `path` is that of `--experiments`, and each file counts once."""
    files = [default_experiments()]
    for other in (Path(FILE), path):
        if other is None or (other == Path(FILE) and not other.exists()):
            continue
        if not any(other.exists() and other.samefile(file) for file in files):
            files.append(other)
    return files


def read_file(path: Path) -> dict[str, Values]:
    """name -> what the entry itself says. Raises: SparseheadError for a file that is not such a table."""
    from sparsehead_cli.machine.yaml_reader import read_yaml  # not above: --help has no time for it

    try:
        table = read_yaml(read_text(path))
    except ValueError as error:
        raise SparseheadError(f"{path} is not valid YAML, or not of settings: {error}.") from None
    if not isinstance(table, dict) or not all(isinstance(v, dict | None) for v in table.values()):
        raise SparseheadError(f"{path} must map each experiment's name to its settings.")
    return {name: settings or {} for name, settings in table.items()}


def load_entries(path: Path | None = None) -> Entries:
    """The entries of all files, with `path` that of `--experiments`. Raises: SparseheadError, also for what `extends` cannot be."""
    files = files_of(path)
    tables = [read_file(file) for file in files]
    names = dict.fromkeys(name for table in reversed(tables) for name in table)
    level = {name: max(i for i, table in enumerate(tables) if name in table) for name in names}
    return {name: layers_of(name, level[name], files, tables) for name in names}


def layers_of(name: str, level: int, files: list[Path], tables: list[dict[str, Values]]) -> tuple[Layer, ...]:
    """The layers of the entry `name` in the file number `level`. Raises: SparseheadError for an unknown base, and for a circle."""
    layers: list[Layer] = []
    visited: list[tuple[str, int]] = []
    while True:
        visited.append((name, level))
        stated, file = tables[level][name], files[level]
        settings = {key: value for key, value in stated.items() if key != EXTENDS}
        built_in = tables[0].get(name) == stated  # the whole file may be a copy
        source = f"{name}, {BUILT_IN}" if level == 0 else f"{name} in {file}"
        layers.insert(0, Layer(source, settings, built_in=built_in, replaces=name in tables[0] and not built_in))
        if EXTENDS not in stated:
            return tuple(layers)
        base = stated[EXTENDS]
        if not isinstance(base, str):
            raise SparseheadError(f"{file}: {name} extends {shown(base)}; give the name of one entry.")
        below = level if base == name else level + 1  # files in which the base may be
        places = [number for number in range(below) if base in tables[number]]
        if not places:
            if base == name:
                raise SparseheadError(f"{file}: {name} extends itself, and no other file has an entry of that name.")
            known = dict.fromkeys(name for table in reversed(tables[:below]) for name in table)
            raise SparseheadError(f"{file}: {name} extends what is not there: {unknown('experiment', base, known)}")
        if (base, places[-1]) in visited:
            circle = [one for one, _ in visited[visited.index((base, places[-1])) :]]
            raise SparseheadError(f"{file}: entries extend each other in a circle: {' -> '.join([*circle, base])}.")
        name, level = base, places[-1]


def load_comments(path: Path | None = None) -> dict[str, str]:
    """name -> the comment above the entry of that name that holds; files as of `load_entries`."""
    comments: dict[str, str] = {}
    for file in files_of(path):
        comments |= comments_in(file)
    return comments


def comments_in(path: Path) -> dict[str, str]:
    """name -> the comment right above it, without lines that are commands; "" for an entry without."""
    comments: dict[str, str] = {}
    above: list[str] = []
    for line in read_text(path).splitlines():
        if line.startswith("#"):
            above.append(line.lstrip("#- ").rstrip())
            continue
        if entry := ENTRY.match(line):
            text = " ".join(part for part in above if not part.startswith(("sparsehead ", "torchrun ")))
            comments[entry[1].strip("'\"")] = text
        above = []
    return comments
