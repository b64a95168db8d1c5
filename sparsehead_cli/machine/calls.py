"""How the functions of the Python interface are called: with arguments of the kinds that they state, and one at a time."""

import inspect
import os
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path

from sparsehead_cli.errors import SparseheadError, shown
from sparsehead_cli.machine.plain import number, of_python, whole

Function = typing.TypeVar("Function", bound=Callable[..., object])
ONE = threading.RLock()  # not a plain Lock: a callback may call what its own thread is in
UNIONS = (types.UnionType, typing.Union)


def one_at_a_time(function: Function) -> Function:
    """The function, which waits until no other thread is in one of these.

    torch's random numbers belong to the process: two trainings that draw from them at once get each other's.
    """

    @wraps(function)
    def call(*positional: object, **keywords: object) -> object:
        with ONE:
            return function(*positional, **keywords)

    return typing.cast(Function, call)


def checked(function: Function) -> Function:
    """The function, with its arguments in the kinds that its signature states. What takes any keyword checks these itself.

    Raises: SparseheadError with a sentence for each argument of another kind.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*positional: object, **keywords: object) -> object:
        bound = signature.bind(*positional, **keywords)
        problems = []
        for name, value in bound.arguments.items():
            parameter = signature.parameters[name]
            kind = Mapping if parameter.kind is inspect.Parameter.VAR_KEYWORD else parameter.annotation
            try:
                bound.arguments[name] = fitted(value, kind)
            except ValueError:
                needs_list = isinstance(value, str) and any(typing.get_origin(one) is Sequence for one in kinds_of(kind))
                remedy = f": write [{shown(value)}]" if needs_list else ""
                problems.append(f"{name} must be {words(kind)}, given {shown(value)}{remedy}.")
        if problems:
            raise SparseheadError("\n".join(problems))
        return function(*bound.args, **bound.kwargs)

    return typing.cast(Function, call)


def fitted(value: object, kind: object) -> object:
    """`value` as the first of the kinds of an annotation that it can be. Raises: ValueError where it can be none."""
    value = of_python(value)
    for one in kinds_of(kind):
        with suppress(ValueError):
            return as_one(value, one)
    raise ValueError(value)


def as_one(value: object, kind: object) -> object:
    """`value` as one kind. Raises: ValueError where it is of another."""
    origin = typing.get_origin(kind) or kind
    if origin in (int, float):
        return whole(value) if origin is int else number(value)
    if origin is Mapping and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: of_python(one) for key, one in value.items()}
    if origin is Sequence and isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        (part,) = typing.get_args(kind)
        return list(value) if isinstance(part, str) else [fitted(one, part) for one in value]  # a name that is not imported here
    if origin is Path and isinstance(value, os.PathLike):
        return Path(value)
    if origin in (str, bool, types.NoneType) and isinstance(value, origin):
        return value
    raise ValueError(value)


def kinds_of(annotation: object) -> tuple[object, ...]:
    """The kinds that an annotation has between its bars."""
    return typing.get_args(annotation) if typing.get_origin(annotation) in UNIONS else (annotation,)


def words(annotation: object) -> str:
    """What an argument must be: "text, a list of texts or None"."""
    parts = [kind_words(kind) for kind in kinds_of(annotation)]
    return " or ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def kind_words(kind: object) -> str:
    """The words for one kind."""
    if typing.get_origin(kind) is Sequence:
        return f"a list of {SEVERAL.get(*typing.get_args(kind), 'paths')}"
    return WORDS.get(kind, "a dict whose keys are texts")


WORDS = {int: "a whole number", float: "a number", bool: "True or False", Path: "a path", str: "text", types.NoneType: "None"}
SEVERAL = {int: "whole numbers", float: "numbers", str: "texts", "str | Callback": "names or callbacks"}


@contextmanager
def apart_from_the_script() -> Iterator[None]:
    """New processes do not run the caller's script again, which needs no `if __name__ == "__main__"` then.

    multiprocessing would, to find what the script defines; a trial needs nothing of it.
    """
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    vars(main).pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(kept)
