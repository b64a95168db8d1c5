"""The one reader of settings. A setting is stated once, as a field of a dataclass or a keyword argument of a method.

    lam: float = setting(1e-3, "λ, the strength of the penalty; 0 is none.", least=0)

`--set`, YAML, `--help`, the messages about what is wrong, and a run's identity are all read off that statement. Nothing here
imports torch, so that `--help` answers at once: the names of a table are read off its module's source.
"""

import ast
import dataclasses
import inspect
import math
import os
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path

from sparsehead_cli.errors import SparseheadError, shown, unknown
from sparsehead_cli.machine.calls import UNIONS
from sparsehead_cli.machine.plain import number, of_python, whole
from sparsehead_cli.machine.plugins import is_plugin
from sparsehead_cli.machine.ranges import UNBOUNDED, Range, keywords_of, stated_range

PACKAGE = Path(__file__).parents[1]
MOST_WHOLE = 2**31 - 1  # of any setting that is a whole number
MOST_NUMBER = 3e38  # of any other number: float32, in which tensors are computed, ends at 3.4e38
MOST_PARTS = 64  # of a list, where its setting says nothing else
NONE = "none"  # no value, of a setting that may have none
Values = dict[str, object]


@dataclass(frozen=True)
class Setting:
    """What is stated of a setting; `name` is as in `--set`.

    `names` is the place of the table with the names that it may have, such as "ssl.methods:METHODS", or several places with spaces
    between; they stand for "{names}" in its `help`. `also` are names before those, `prefixes` are what other names begin with, such
    as "timm:NAME", `others` says what else it may be, and with `plug_in` it may be anybody's "module:attribute". `words` say
    what it must be where those of its kind do not fit, and `parts` how long a list may be. `identity` is False for what changes no
    result, and `content` is True for a path that stands for what is in its file.
    """

    name: str
    kind: object
    default: object
    help: str = ""
    unit: str = ""
    bounds: Range = UNBOUNDED
    names: str = ""
    also: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    others: str = ""
    plug_in: bool = False
    words: str = ""
    parts: int = MOST_PARTS
    identity: bool = True
    content: bool = False

    def help_text(self) -> str:
        """What `--help` says of it, with its names and its unit."""
        text = self.help
        if self.names:
            names = [*self.also, *names_in(self.names)]
            names += self.prefixes
            names += ["MODULE:NAME"] if self.plug_in else []
            names += [self.others] if self.others else []
            text = text.replace("{names}", f"{', '.join(names[:-1])} or {names[-1]}")
        return f"{text} In {self.unit}." if self.unit else text

    def default_text(self) -> str:
        """The default as people write it, "" for none."""
        return "" if self.default is None else written(self.default)

    def kind_text(self) -> str:
        """What a value of it must be, in a few words: its kind, and its range."""
        if self.words:
            kind, many = self.words, False
        else:
            stated = self.kind
            if typing.get_origin(stated) in UNIONS:
                stated = next(part for part in typing.get_args(stated) if part is not types.NoneType)
            many = typing.get_origin(stated) is tuple
            kind = f"{SEVERAL[typing.get_args(stated)[0]]} with commas between" if many else WORDS.get(stated, str(stated))
            kind = "a name" if self.names and not many else kind
        most = self.bounds.most
        bounds = self.bounds.words(most).replace(f"{most} ({most})", str(most)) if self.bounds != UNBOUNDED else ""
        return f"{kind}, {'each ' if many else ''}{bounds}" if bounds else kind

    def has_prefix(self, value: object) -> bool:
        """Whether `value` is one of the other names, such as timm:resnet18."""
        return str(value).startswith(tuple(prefix[: prefix.index(":") + 1] for prefix in self.prefixes))

    def is_plug_in(self, value: object) -> bool:
        """Whether `value` names somebody's own code."""
        return self.plug_in and is_plugin(str(value)) and not self.has_prefix(value)

    def unknown_name(self, value: object) -> str:
        """A sentence where `value` is none of the names that it may have, else ""."""
        if not self.names or self.others or self.is_plug_in(value) or self.has_prefix(value) or isinstance(value, tuple | None):
            return ""
        names = (*self.also, *table_at(self.names))
        return "" if value in names else str(unknown(self.name, value, names))


def written(value: object) -> str:
    """A value of a setting as it is written for `--set`: 0.001, true, 8,16, a path or a name; "none" where there is none."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(written, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def setting(default: object, help: str, **facts: object) -> typing.Any:
    """A field of a dataclass that is a setting; `facts` are those of Setting, and the bounds of its Range."""
    bounds = {f.name: facts.pop(f.name) for f in dataclasses.fields(Range) if f.name in facts}
    return field(default=default, metadata={"help": help, "bounds": Range(**bounds), **facts})


@cache
def settings_of(stated: type | Callable, prefix: str = "") -> dict[str, Setting]:
    """name -> Setting: of a dataclass its fields made by `setting`, of a method the keyword arguments of its constructor."""
    if dataclasses.is_dataclass(stated):
        fields = [f for f in dataclasses.fields(stated) if "help" in f.metadata]
        return {prefix + f.name: Setting(prefix + f.name, f.type, f.default, **f.metadata) for f in fields}
    return {prefix + name: of_keyword(prefix + name, keyword) for name, keyword in keywords_of(stated).items()}


def of_keyword(name: str, keyword: inspect.Parameter) -> Setting:
    """The setting that a keyword argument states; its kind is its annotation, or else the type of its default."""
    if keyword.default is keyword.empty:
        raise SparseheadError(f"{name} has no default, and every setting of a method needs one.")
    kind, bounds = stated_range(keyword.annotation)
    if not (kind in WORDS or typing.get_origin(kind) in (tuple, *UNIONS)):
        kind = type(keyword.default)
    return Setting(name, kind, keyword.default, bounds=bounds)


def read(settings: Mapping[str, Setting], given: Values, what: str = "setting") -> tuple[Values, list[str]]:
    """`given` in the kinds of their settings, and a sentence for each thing that is wrong: a name, a kind or a number."""
    values, problems = {}, []
    for name, value in given.items():
        if name not in settings:
            problems.append(str(unknown(what, name, settings)))
            continue
        try:
            values[name] = typed(settings[name], value)
        except ValueError as error:
            problems.append(str(error))
    complete = {name: values.get(name, stated.default) for name, stated in settings.items()}
    return values, problems + out_of_range(settings, complete)


def out_of_range(settings: Mapping[str, Setting], values: Mapping[str, object]) -> list[str]:
    """A sentence for each number that is out of its range; a bound that is another setting counts where that one is in its own."""
    problems, sound = [], {}
    for name, stated in settings.items():
        problem = stated.bounds.problem(name, values[name], sound)
        if problem:
            problems.append(problem)
        else:
            sound[name] = values[name]
    return problems


def require_in_range(settings: Mapping[str, Setting], **values: object) -> None:
    """Raises: SparseheadError for values of some settings that are out of their range."""
    problems = out_of_range({name: settings[name] for name in values}, values)
    if problems:
        raise SparseheadError("\n".join(problems))


def problems_of(stated: object, prefix: str = "") -> list[str]:
    """A sentence for each number of a dataclass of settings that is out of its range."""
    settings = settings_of(type(stated), prefix)
    return out_of_range(settings, {name: getattr(stated, name.removeprefix(prefix)) for name in settings})


def unknown_names(stated: object) -> list[str]:
    """A sentence for each name of a dataclass of settings that is in no table. Imports the tables, and with them torch."""
    sentences = [entry.unknown_name(getattr(stated, name)) for name, entry in settings_of(type(stated)).items()]
    return [sentence for sentence in sentences if sentence]


def plug_ins_of(stated: object) -> list[str]:
    """The values of a dataclass of settings that name somebody's code, each once."""
    values = [(entry, getattr(stated, name)) for name, entry in settings_of(type(stated)).items()]
    return list(dict.fromkeys(value for entry, value in values if entry.is_plug_in(value)))


def typed(stated: Setting, value: object) -> object:
    """`value` as what the setting is: a number, true or false, text, a path, or a tuple of numbers or names; None where it may be.

    Raises: ValueError, a sentence, when it is not one; for a number of more than MOST_WHOLE or MOST_NUMBER.
    """
    kind, value = stated.kind, of_python(value)
    if typing.get_origin(kind) in UNIONS:
        if value in (None, NONE) and types.NoneType in typing.get_args(kind):
            return None
        kind = next(part for part in typing.get_args(kind) if part is not types.NoneType)
    try:
        if typing.get_origin(kind) is not tuple:
            return converted(stated.name, value, kind)
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        parts = [part.strip() if isinstance(part, str) else part for part in parts]
        if 0 < len(parts) <= stated.parts and "" not in parts:
            element = typing.get_args(kind)[0]
            if element is bool:  # of a command line, where nothing has made truth values of them
                parts = [TRUTH.get(part, part) for part in parts]
            return tuple(converted(stated.name, part, element) for part in parts)
    except Impossible as problem:
        raise ValueError(str(problem)) from None
    except ValueError:
        pass
    words = stated.words or WORDS.get(kind, str(kind))
    if not stated.words and typing.get_origin(kind) is tuple:
        words = f"a list of {SEVERAL[typing.get_args(kind)[0]]}, {stated.parts} at most"
    quotes = " (write it in quotes, key='\"1.10\"')" if kind in (str, Path) and isinstance(value, float) else ""
    raise ValueError(f"{stated.name} must be {words}, given {shown(value)}{quotes}.")


def converted(name: str, value: object, kind: type) -> object:
    """`value` as one number, truth value, text or path. Raises: ValueError, or Impossible with a sentence, where it is none."""
    value = of_python(value)
    if kind is float:
        return at_most(name, number(value), MOST_NUMBER)
    if kind is int:
        return at_most(name, whole(value), MOST_WHOLE)
    if kind is bool and type(value) is bool:
        return value
    if kind in (str, Path) and isinstance(value, str | Path | int) and not isinstance(value, bool):
        return kind(path_text(name, str(value)))
    raise ValueError(value)


class Impossible(ValueError):
    """A number that no setting can be, or a text that no path can hold: a sentence."""


def at_most(name: str, value: float, most: float) -> float:
    """`value`. Raises: Impossible for a finite one beyond `most` on either side; whether it may be infinite others say."""
    if most < abs(value) < math.inf:
        raise Impossible(f"{name} must be at most {most}, given {shown(value)}.")
    return value


def path_text(name: str, text: str) -> str:
    """`text`. Raises: Impossible for characters that no name of a file can have here."""
    try:
        if b"\0" in os.fsencode(text):
            raise Impossible(f"{name} must not have a zero byte, given {shown(text)}.")
    except UnicodeEncodeError:
        raise Impossible(f"{name} has characters that no file can have in this locale, given {shown(text)}.") from None
    return text


def table_at(place: str) -> Mapping[str, object] | tuple[str, ...]:
    """The table at a place such as "ssl.methods:METHODS", imported; those at several places, joined."""
    if " " in place:
        return {name: value for one in place.split() for name, value in table_at(one).items()}
    module, _, table = place.partition(":")
    return getattr(import_module(f"sparsehead_cli.{module}"), table)


@cache
def names_in(place: str) -> tuple[str, ...]:
    """The names of the table at a place such as "ssl.methods:METHODS", or at several, in order, read off the source of its module.

    The table is a literal dict or tuple that begins a line and ends with the first line that closes it; it may unpack another
    one of the same module.
    """
    if " " in place:
        return tuple(name for one in place.split() for name in names_in(one))
    module, _, table = place.partition(":")
    source = PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    literal = re.search(rf"^{table}\b[^\n]*?= (\([^\n]*\)$|{{[^\n]*}}$|.*?^[)}}])", source, re.MULTILINE | re.DOTALL)[1]
    parsed = ast.parse(literal, mode="eval").body
    names: list[str] = []
    for node in parsed.keys if isinstance(parsed, ast.Dict) else parsed.elts:
        names += names_in(f"{module}:{node.value.id}") if isinstance(node, ast.Starred) else [node.value]
    return tuple(names)


WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
SEVERAL = {int: "whole numbers", float: "numbers", str: "names"}
TRUTH = {"true": True, "false": False}
