"""What a sweep asks: λ × method × penalty × solver × projection dimension × seed -> the settings of its trials. No torch here."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sparsehead_cli.errors import SparseheadError, one_line, shown, unknown
from sparsehead_cli.machine.plain import folder_name, number, whole
from sparsehead_cli.runs.config import FIELDS, SWEEP, Config, default_experiments, load_config, read_experiments
from sparsehead_cli.runs.settings import MOST_WHOLE

MOST = 10_000  # trials


@dataclass(frozen=True)
class Grid:
    """The values of each axis, in order. A penalty may be written `l21-output`: groups are a layer's outputs then.

    `lams` is () for "auto": each method, penalty, solver and dimension has its own then. `dims` are widths of the embedding;
    () is that of each recipe. `settings` hold for every trial, keys as in `--set`.
    """

    lams: tuple[float, ...]
    methods: tuple[str, ...] = ("simclr",)
    penalties: tuple[str, ...] = ("l21",)
    solvers: tuple[str, ...] = ("subgradient",)
    dims: tuple[int, ...] = ()
    seeds: int = 3
    auto: bool = False
    settings: dict[str, object] = dataclasses.field(default_factory=dict)

    def problems(self) -> list[str]:
        """Everything wrong with the numbers, one sentence each; names are checked where their tables are."""
        rules = [
            (f"seeds must be at least 1, given {shown(self.seeds)}.", self.seeds >= 1),
            (f"seeds and dims must be at most {MOST_WHOLE}.", max(self.seeds, *self.dims, 0) <= MOST_WHOLE),
            ("every λ must be a finite number of at least 0.", all(math.isfinite(x) and x >= 0 for x in self.lams)),
            ("every projection dimension must be at least 1.", all(x >= 1 for x in self.dims)),
            ("none is no penalty to try values of λ with: λ 0 is without one.", "none" not in self.penalties),
            ("projector_out is given twice: dims are its values.", not (self.dims and "projector_out" in self.settings)),
        ]
        for axis in ("lams", "methods", "penalties", "solvers", "dims"):
            values = getattr(self, axis)
            twice = [f"{v:g}" if isinstance(v, float) else one_line(str(v)) for v in dict.fromkeys(values) if values.count(v) > 1]
            rules += [
                (f"{axis} has {', '.join(twice)} more than once.", not twice),
                (f"the grid is empty: {axis} has no value.", bool(values) or axis == "dims" or (axis == "lams" and self.auto)),
            ]
        return [problem for problem, holds in rules if not holds]


def read_grid(experiment: str, experiments: Path | None, given: dict[str, object], settings: dict[str, object]) -> Grid:
    """The grid under `sweep:` of an experiment, with what was `given` (axes as text or numbers) and further settings over it.

    Raises: SparseheadError that names everything wrong at once.
    """
    table = read_experiments(experiments or default_experiments())
    if experiment not in table:
        raise unknown("sweep", experiment, [name for name, entry in table.items() if SWEEP in entry])
    folder_name("sweep", experiment)
    entry = dict(table[experiment])
    axes = entry.pop(SWEEP, None)
    if not isinstance(axes, dict):
        raise SparseheadError(f"{experiment} is no sweep: it has no `sweep:` with lams. Train it with sparsehead pretrain.")
    fields = {f.name for f in dataclasses.fields(Grid)} - {"settings", "auto"}
    problems = [str(unknown("axis", name, sorted(fields))) for name in axes if name not in fields]
    problems += [f"{key} is an axis of the sweep: give {AXIS_OF[key]}." for key in settings if key in AXIS_OF]
    found: dict[str, object] = {}
    for name, value in {**axes, **given}.items():
        if name == "lams" and value == "auto":
            found |= {"auto": True, "lams": ()}
        elif name in fields:
            try:
                found[name] = AXES[name](value)
            except (TypeError, ValueError):
                problems.append(f"{name} must be {WORDS[name]}, given {shown(value)}.")
    if "lams" not in found and not problems:
        problems.append(f"{experiment} has no lams under `sweep:`: give them there or by --lams.")
    if not problems:
        grid = Grid(**found, settings={**entry, **settings})
        problems = grid.problems()
    if problems:
        raise SparseheadError("\n".join(problems))
    return grid


def listed(kind: type) -> object:
    """A reader of one axis: "0, 1e-3", a list or a single value -> a tuple."""

    def read(value: object) -> tuple:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        return tuple(kind(part.strip() if isinstance(part, str) else part) for part in parts if part != "")

    return read


def name(value: object) -> str:
    """A word. Raises: ValueError for what is no text."""
    if isinstance(value, str):
        return value
    raise ValueError(value)


AXES = {
    "lams": listed(number),
    "methods": listed(name),
    "penalties": listed(name),
    "solvers": listed(name),
    "dims": listed(whole),
    "seeds": whole,
}
AXIS_OF = {  # settings of a run that trials are told apart by
    **{"method": "--methods", "lam": "--lams", "penalty": "--penalties", "solver": "--solvers", "seed": "--seeds"},
    "groups": "--penalties l21-output",
}
WORDS = {
    "lams": "numbers with commas between, or auto",
    "methods": "names with commas between",
    "penalties": "names with commas between",
    "solvers": "names with commas between",
    "dims": "whole numbers with commas between",
    "seeds": "a whole number",
}


def trials(
    grid: Grid, experiment: str, experiments: Path | None = None, auto: Callable[[Config], tuple[float, ...]] | None = None
) -> list[Config]:
    """The settings of every trial, seed by seed so that a sweep that is stopped has whole pairs; each once.

    A method's own recipe comes first, then the sweep's settings. With λ 0 penalty, groups and solver make no difference and are
    the defaults: all penalties share that trial. Where λ is "auto", `auto` gives the values for settings with λ 1.

    Raises: SparseheadError for settings that are wrong, and for more trials than MOST.
    """
    found: dict[Config, None] = {}
    names = read_experiments(experiments or default_experiments())
    axes = (range(grid.seeds), grid.methods, grid.dims or (None,), grid.penalties, grid.solvers)
    if math.prod(len(axis) for axis in (*axes, grid.lams or range(10))) > MOST:
        raise SparseheadError(f"the grid has more than {MOST:,} trials. Leave values out.")

    def config_of(seed: int, method: str, dim: int | None, penalty: str, solver: str, lam: float) -> Config:
        name = penalty.removesuffix("-output")
        settings = {**grid.settings, "method": method, "penalty": name, "solver": solver, "lam": lam, "seed": seed}
        settings |= {"projector_out": dim} if dim else {}
        settings |= {"groups": "output"} if penalty != name else {}
        config = load_config(method if method in names else None, experiments, settings)
        return dataclasses.replace(config, experiment=experiment)

    own = cache(lambda *setting: auto(config_of(0, *setting, 1.0)))
    for seed, *setting in itertools.product(*axes):
        for lam in own(*setting) if grid.auto else grid.lams:
            unpenalised = (*setting[:2], FIELDS["penalty"].default, FIELDS["solver"].default)
            found[HashableConfig(config_of(seed, *(setting if lam else unpenalised), lam))] = None
    return [key.config for key in found]


class HashableConfig:
    """A Config as a key: equal settings are one trial."""

    def __init__(self, config: Config) -> None:
        self.config, self.key = config, repr(config)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HashableConfig) and self.key == other.key
