"""`--set method.<name>=<value>` -> the keyword arguments of a method, read off its signature."""

import inspect

from sparsehead_cli.errors import SparseheadError, unknown
from sparsehead_cli.machine.plugins import named
from sparsehead_cli.runs.config import typed
from sparsehead_cli.ssl.methods import METHODS


def method_settings(name: str, given: dict[str, object]) -> dict[str, object]:
    """All keyword arguments of a method: its defaults, overridden by what was `given`.

    Raises: SparseheadError for an unknown method or setting, or a value of another type than the default's.
    """
    parameters = inspect.signature(named("method", name, METHODS).__init__).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    values: dict[str, object] = {}
    for key, value in given.items():
        if key not in defaults:
            raise unknown(f"setting of {name}", f"method.{key}", [f"method.{d}" for d in defaults])
        try:
            values[key] = typed(f"method.{key}", value, type(defaults[key]))
        except ValueError as error:
            raise SparseheadError(str(error)) from None
    return {key: values.get(key, default) for key, default in defaults.items()}
