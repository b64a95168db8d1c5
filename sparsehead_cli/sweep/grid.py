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
from sparsehead_cli.runs.config import FIELDS, MOST_WHOLE, SWEEP, Config, default_experiments, load_config, read_experiments

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
    problems = [str(unknown("axis", name, sorted(AXES))) for name in axes if name not in AXES]
    problems += [f"{key} is an axis of the sweep: give {AXIS_OF[key]}." for key in settings if key in AXIS_OF]
    values: dict[str, object] = {}
    for name, value in {**axes, **given}.items():
        if name == "lams" and value == "auto":
            values |= {"auto": True, "lams": ()}
        elif name in AXES:
            read, words = AXES[name]
            try:
                values[name] = read(value)
            except (TypeError, ValueError):
                problems.append(f"{name} must be {words}, given {shown(value)}.")
    if "lams" not in values and not problems:
        problems.append(f"{experiment} has no lams under `sweep:`: give them there or by --lams.")
    if not problems:
        grid = Grid(**values, settings={**entry, **settings})
        problems = grid.problems()
    if problems:
        raise SparseheadError("\n".join(problems))
    return grid


def several(read: Callable[[object], object]) -> Callable[[object], tuple]:
    """A reader of an axis from the reader of one value: "0, 1e-3", a list or a single value -> a tuple."""

    def read_several(value: object) -> tuple:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        return tuple(read(part.strip() if isinstance(part, str) else part) for part in parts if part != "")

    return read_several


def name(value: object) -> str:
    """A word. Raises: ValueError for what is no text."""
    if isinstance(value, str):
        return value
    raise ValueError(value)


AXES = {  # name -> (how its values are read, what they must be)
    "lams": (several(number), "numbers with commas between, or auto"),
    "methods": (several(name), "names with commas between"),
    "penalties": (several(name), "names with commas between"),
    "solvers": (several(name), "names with commas between"),
    "dims": (several(whole), "whole numbers with commas between"),
    "seeds": (whole, "a whole number"),
}
AXIS_OF = {  # settings of a run that trials are told apart by
    **{"method": "--methods", "lam": "--lams", "penalty": "--penalties", "solver": "--solvers", "seed": "--seeds"},
    "groups": "--penalties l21-output",
}


def trials(
    grid: Grid, experiment: str, experiments: Path | None = None, auto: Callable[[Config], tuple[float, ...]] | None = None
) -> list[Config]:
    """The settings of every trial, seed by seed so that a sweep that is stopped has whole pairs; each once.

    A method's own recipe comes first, then the sweep's settings. With λ 0 penalty, groups and solver make no difference and are
    the defaults: all penalties share that trial. Where λ is "auto", `auto` gives the values for settings with λ 1.

    Raises: SparseheadError for settings that are wrong, and for more trials than MOST.
    """
    axes = (range(grid.seeds), grid.methods, grid.dims or (None,), grid.penalties, grid.solvers)
    if math.prod(len(axis) for axis in (*axes, grid.lams or range(10))) > MOST:
        raise SparseheadError(f"the grid has more than {MOST:,} trials. Leave values out.")
    recipes = read_experiments(experiments or default_experiments())

    def config_of(seed: int, method: str, dim: int | None, penalty: str, solver: str, lam: float) -> Config:
        name = penalty.removesuffix("-output")
        settings = {**grid.settings, "method": method, "penalty": name, "solver": solver, "lam": lam, "seed": seed}
        if penalty.endswith("-output"):
            settings["groups"] = "output"
        if dim:
            settings["projector_out"] = dim
        config = load_config(method if method in recipes else None, experiments, settings)
        return dataclasses.replace(config, experiment=experiment)

    auto_lams = cache(lambda *setting: auto(config_of(0, *setting, 1.0)))
    configs: dict[str, Config] = {}  # by all that they say, for those with λ 0 come again with each penalty and solver
    for seed, method, dim, penalty, solver in itertools.product(*axes):
        for lam in auto_lams(method, dim, penalty, solver) if grid.auto else grid.lams:
            if lam == 0:
                config = config_of(seed, method, dim, FIELDS["penalty"].default, FIELDS["solver"].default, lam)
            else:
                config = config_of(seed, method, dim, penalty, solver, lam)
            configs[repr(config)] = config
    return list(configs.values())
