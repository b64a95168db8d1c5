"""Where each value of a run's settings comes from: a default, an entry of experiments.yaml, or the command line."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sparsehead_cli.machine.plugins import is_plugin
from sparsehead_cli.runs.config import FIELDS, METHOD_PREFIX, SWEEP, Config, default_experiments, load_config, read_experiments
from sparsehead_cli.runs.method_settings import method_settings
from sparsehead_cli.runs.settings import Values, typed

DEFAULT, GIVEN, OWN = "default", "the command line", "the run's own"


class Origin(NamedTuple):
    """A value of a setting, and in a few words where it comes from."""

    value: object
    source: str


def resolve(experiment: str | None, experiments: Path | None, overrides: Values) -> tuple[Config, dict[str, Origin]]:
    """The settings that `load_config` gives for the same arguments, and of each its value with its origin, keys as in `--set`.

    Those of the method are behind the others. Raises: SparseheadError, as `load_config`, and for wrong settings of the method.
    """
    config = load_config(experiment, experiments, overrides)
    path = experiments or default_experiments()
    entry, of_entry = read_experiments(path)[config.experiment], source_of(config.experiment, path)

    def source(key: str, default: str) -> str:
        return GIVEN if key in overrides else of_entry if key in entry else default

    values = {name: Origin(getattr(config, name), source(name, DEFAULT)) for name in FIELDS}
    for name, value in method_settings(config.method, config.method_settings).items():
        key = METHOD_PREFIX + name
        values[key] = Origin(value, source(key, f"default of {config.method}"))
    return config, values


def of_run(config: Config, experiments: Path | None) -> dict[str, Origin]:
    """The settings of a run that was begun before, each with what gives the same value today: an entry, or a default.

    What neither gives was said on its command line, or was otherwise when it began. Code of somebody's own is not imported:
    of its method there are the settings that deviate.
    """
    path = experiments or default_experiments()
    table = read_experiments(path)
    names = [config.experiment, *([config.method] if SWEEP in table.get(config.experiment, {SWEEP: None}) else [])]
    entries = [(table[name], source_of(name, path)) for name in names if name in table]
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


def today(key: str, value: object, entries: Iterable[tuple[Values, str]], otherwise: str) -> str:
    """The first of `entries` (settings, words) that gives this value, or else `otherwise`."""
    return next((words for entry, words in entries if key in entry and same(key, entry[key], value)), otherwise)


def same(key: str, written: object, value: object) -> bool:
    """Whether what is written in an entry is this value."""
    try:
        return (typed(FIELDS[key], written) if key in FIELDS else written) == value
    except ValueError:
        return False


def source_of(name: str, path: Path) -> str:
    """The words for an entry of a file of experiments."""
    return f"{name} in {path}"
