"""`--set method.<name>=<value>` -> the keyword arguments of a method, read off its signature."""

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.plugins import named
from sparsehead_cli.runs.config import METHOD_PREFIX
from sparsehead_cli.runs.settings import read, settings_of
from sparsehead_cli.ssl.methods import METHODS


def method_settings(name: str, given: dict[str, object]) -> dict[str, object]:
    """All keyword arguments of a method: its defaults, overridden by what was `given`.

    Raises: SparseheadError for an unknown method, and for unknown settings and values that they cannot have, all together.
    """
    settings = settings_of(named("method", name, METHODS), METHOD_PREFIX)
    values, problems = read(settings, {METHOD_PREFIX + key: value for key, value in given.items()}, f"setting of {name}")
    if problems:
        raise SparseheadError("\n".join(problems))
    complete = {key: setting.default for key, setting in settings.items()} | values
    return {key.removeprefix(METHOD_PREFIX): value for key, value in complete.items()}
