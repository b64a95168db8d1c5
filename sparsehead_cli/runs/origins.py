"""Where each value of a run's settings comes from: a default, an entry of experiments.yaml, or the command line."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sparsehead_cli.machine.plugins import is_plugin
from sparsehead_cli.runs.config import COMMAND_LINE, FIELDS, METHOD_PREFIX, Config, load_recipe
from sparsehead_cli.runs.experiments import SWEEP, Value, combined, load_entries
from sparsehead_cli.runs.method_settings import method_settings
from sparsehead_cli.runs.settings import Values, typed
from sparsehead_cli.runs.views import read_views

DEFAULT, GIVEN, OWN = "default", COMMAND_LINE, "the run's own"


class Origin(NamedTuple):
    """A value of a setting, and in a few words where it comes from."""

    value: object
    source: str


def resolve(experiment: str | None, experiments: Path | None, overrides: Values) -> tuple[Config, dict[str, Origin]]:
    """The settings that `load_config` gives for the same arguments, and of each its value with its origin, keys as in `--set`.

    Those of the method are behind the others. Raises: SparseheadError, as `load_config`, and for wrong settings of the method.
    """
    recipe = load_recipe(experiment, experiments, overrides)
    config, sources = recipe.config, recipe.sources
    values = {name: Origin(getattr(config, name), sources.get(name, DEFAULT)) for name in FIELDS}
    for name, value in method_settings(config.method, config.method_settings).items():
        key = METHOD_PREFIX + name
        values[key] = Origin(value, sources.get(key, f"default of {config.method}"))
    return config, values


def of_run(config: Config, experiments: Path | None) -> dict[str, Origin]:
    """The settings of a run that was begun before, each with what gives the same value today: an entry, or a default.

    What neither gives was said on its command line, or was otherwise when it began. Code of somebody's own is not imported:
    of its method there are the settings that deviate.
    """
    table = {name: combined(layers, Config.method) for name, layers in load_entries(experiments).items()}
    names = [config.experiment, *([config.method] if SWEEP in table.get(config.experiment, {SWEEP: None}) else [])]
    entries = [table[name] for name in names if name in table]
    values = {}
    for name, stated in FIELDS.items():
        if stated.identity:
            value = getattr(config, name)
            values[name] = Origin(value, today(name, value, entries, DEFAULT if value == stated.default else OWN))
    defaults = {} if is_plugin(config.method) else method_settings(config.method, {})
    for name, value in {**defaults, **config.method_settings}.items():
        is_default = name in defaults and value == defaults[name]
        otherwise = f"default of {config.method}" if is_default else OWN
        values[METHOD_PREFIX + name] = Origin(value, today(METHOD_PREFIX + name, value, entries, otherwise))
    return values


def today(key: str, value: object, entries: Iterable[dict[str, Value]], otherwise: str) -> str:
    """Where the first of `entries` that gives this value has it stated, or else `otherwise`."""
    return next((entry[key].source for entry in entries if key in entry and same(key, entry[key].value, value)), otherwise)


def same(key: str, stated: object, value: object) -> bool:
    """Whether what is stated in an entry is this value."""
    try:
        if key == "views" and not isinstance(stated, str):
            return read_views(stated) == value
        return (typed(FIELDS[key], stated) if key in FIELDS else stated) == value
    except ValueError:
        return False
