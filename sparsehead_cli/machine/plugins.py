"""`module:attribute`: code of the user's own, accepted wherever a name is chosen."""

import importlib
import os
import re
import sys
from collections.abc import Mapping
from typing import TypeVar

from sparsehead_cli.errors import SparseheadError, did_you_mean, one_line, unknown

T = TypeVar("T")


def is_plugin(name: str) -> bool:
    """Whether a name is written `module:attribute`, such as mine:Net or package.module:Net."""
    return re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", name) is not None


def named(kind: str, name: str, table: Mapping[str, T]) -> T:
    """The entry of a table of ours, or what `module:attribute` names.

    Raises: SparseheadError for a name that is neither, and for code that cannot be imported.
    """
    if name in table:
        return table[name]
    if is_plugin(name):
        return load(kind, name)
    raise SparseheadError(f"{unknown(kind, name, table)} Or module:name, of your own code.")


def load(kind: str, name: str) -> object:
    """What `module:attribute` names, imported from the working directory or the environment.

    Raises: SparseheadError where the module is not there, fails, or has no such attribute.
    """
    module_name, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # code of somebody else's may fail in any way
        if isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or "?"):
            where = f"there is no module {error.name} in {here} or the environment"
        else:
            where = f"importing {module_name} fails: {type(error).__name__}: {one_line(str(error))}"
        raise SparseheadError(f"{kind} {name}: {where}.") from None
    if not hasattr(module, attribute):
        public = [word for word in vars(module) if not word.startswith("_")]
        raise SparseheadError(f'{kind} {name}: {module_name} has no "{attribute}".{did_you_mean(attribute, public)}')
    return getattr(module, attribute)
