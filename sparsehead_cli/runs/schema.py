"""The defaults that identities deviate from, frozen in schema-<n>.json, so that what comes later renames no run.

`settings`, `views`, `recipes`, `methods` and `optimizers` are what every run of the schema has had. `later` are settings, strengths
of a view and keyword arguments of a method that came after its first runs: they are part of a run's name only where they deviate.

`python -m sparsehead_cli.runs.schema` adds what is new in this code to the newest file. It is for new names only: a default that
changes needs a file of its own with the next number, since runs of the old schema keep the old default.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

from sparsehead_cli.data.augment import RECIPES
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.optim import OPTIMIZERS, adaptation
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.settings import settings_of
from sparsehead_cli.ssl.methods import METHODS

SCHEMA = 1  # the newest
Values = dict[str, object]


@cache
def schema(number: int) -> dict[str, dict]:
    """The frozen defaults with this number. Raises: SparseheadError for one that a later version has made."""
    if not path_of(number).exists():
        raise SparseheadError(f"settings of schema {number} are not known to this version. Upgrade sparsehead.")
    return json.loads(path_of(number).read_text(encoding="utf-8"))


def path_of(number: int) -> Path:
    """The file of a schema."""
    return Path(__file__).with_name(f"schema-{number}.json")


def plain(values: object) -> object:
    """Values as JSON gives them back: tuples become lists."""
    return json.loads(json.dumps(values))


def deviations(values: Values, defaults: Mapping[str, object]) -> Values:
    """The values that are not the default, as plain ones."""
    expected = plain(defaults)
    return {name: value for name, value in plain(values).items() if name not in expected or value != expected[name]}


def identity_defaults(stated: type[Config]) -> Values:
    """The defaults of this code for the settings that are part of a run's identity."""
    return {name: setting.default for name, setting in settings_of(stated).items() if setting.identity}


def frozen_defaults(table: str, name: str | None = None) -> Values:
    """The newest schema's defaults in a table, or of one entry of it: those that were there from the first, and later ones."""
    frozen = schema(SCHEMA)
    first, later = frozen[table], frozen["later"][table]
    return later | first if name is None else later.get(name, {}) | first.get(name, {})


def recipe_deviations(name: str) -> list[Values]:
    """What each view of a recipe of this code does otherwise than a view does by default."""
    return [deviations(asdict(view), asdict(type(view)()) | frozen_defaults("views")) for view in RECIPES[name]]


def defaults_of_this_code() -> dict[str, dict]:
    """The defaults of this code in the form of the newest schema; equal to it where no default has changed."""
    frozen = schema(SCHEMA)
    any_view = RECIPES["symmetric"][0]
    tables = {"settings": identity_defaults(Config), "views": asdict(type(any_view)())}
    tables_of = {
        "methods": {name: {key: s.default for key, s in settings_of(method).items()} for name, method in METHODS.items()},
        "optimizers": {name: adaptation(name) for name in OPTIMIZERS if adaptation(name)},
    }
    later = {}
    for table, values in tables.items():
        tables[table], later[table] = divided(values, frozen[table])
    for table, entries in tables_of.items():
        later[table] = {}
        for name, values in entries.items():
            entries[name], new = divided(values, frozen[table].get(name, values))
            if new:
                later[table][name] = new
    recipes = {name: recipe_deviations(name) for name in RECIPES}
    return plain({**tables, "recipes": recipes, **tables_of, "later": later})


def divided(values: Values, first: Mapping[str, object]) -> tuple[Values, Values]:
    """The values whose names were there from the first, and those of later names."""
    return {k: v for k, v in values.items() if k in first}, {k: v for k, v in values.items() if k not in first}


def write(defaults: dict[str, dict], path: Path) -> None:
    """The file of a schema: a line for each setting, recipe and method."""
    tables = []
    for name, table in defaults.items():
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in table.items()]
        tables.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    path.write_text("{\n" + ",\n".join(tables) + "\n}\n", encoding="utf-8")


def add_new(frozen: dict[str, dict], defaults: dict[str, dict]) -> dict[str, dict]:
    """Frozen defaults with what is new in `defaults`; what is there stays, since runs are named after it."""
    tables = {name: defaults[name] | table for name, table in frozen.items() if name != "later"}
    return tables | {"later": {name: defaults["later"][name] | table for name, table in frozen["later"].items()}}


if __name__ == "__main__":
    write(add_new(schema(SCHEMA), defaults_of_this_code()), path_of(SCHEMA))
