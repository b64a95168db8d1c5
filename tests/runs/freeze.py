"""`python -m tests.runs.freeze` adds what is new in this code to the newest schema, the frozen defaults of identities.

It is for new names only: a default that changes needs a schema with the next number, since runs of the old one keep its defaults.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from sparsehead_cli.data.augment import RECIPES
from sparsehead_cli.nets.optim import OPTIMIZERS, adaptation
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.identity import SCHEMA, identity_defaults, plain, recipe_deviations, schema, schema_file
from sparsehead_cli.runs.settings import Values, settings_of
from sparsehead_cli.ssl.methods import METHODS


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


def add_new(frozen: dict[str, object], defaults: dict[str, object]) -> dict[str, object]:
    """Frozen defaults with what is new in `defaults`; what is there stays, since runs are named after it."""
    added = dict(defaults)
    for name, value in frozen.items():
        nested = isinstance(value, dict) and isinstance(defaults.get(name), dict)
        added[name] = add_new(value, defaults[name]) if nested else value
    return added


if __name__ == "__main__":
    write(add_new(schema(SCHEMA), defaults_of_this_code()), schema_file(SCHEMA))
