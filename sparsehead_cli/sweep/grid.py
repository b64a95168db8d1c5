"""What a sweep asks: λ × method × penalty × solver × projection dimension × seed -> the settings of its trials. No torch here."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sparsehead_cli.errors import SparseheadError, one_line, unknown
from sparsehead_cli.machine.plain import folder_name
from sparsehead_cli.runs.config import FIELDS, SWEEP, Config, default_experiments, load_config, read_experiments
from sparsehead_cli.runs.settings import read, setting, settings_of

MOST = 10_000  # trials
AUTO = "auto"
NAMES = "names with commas between"


@dataclass(frozen=True)
class Grid:
    """The values of each axis, in order. A penalty may be written `l21-output`: groups are a layer's outputs then.

    `lams` is () for "auto": each method, penalty, solver and dimension has its own then. `dims` are widths of the embedding;
    () is that of each recipe. `settings` hold for every trial, keys as in `--set`.
    """

    lams: tuple[float, ...] = setting(
        (),
        "Values of λ with commas between, with 0 to compare to; or auto.",
        least=0,
        words="numbers with commas between, or auto",
        parts=MOST,
    )
    methods: tuple[str, ...] = setting(
        ("simclr",), "{names}, with commas between, each by its own recipe.", names="ssl.methods:METHODS", plug_in=True, words=NAMES
    )
    penalties: tuple[str, ...] = setting(
        ("l21",),
        "{names}, with commas between; l21-output: units are groups.",
        names="sparse.penalties:PENALTIES",
        plug_in=True,
        words=NAMES,
    )
    solvers: tuple[str, ...] = setting(
        ("subgradient",), "{names}, or both with a comma between.", names="sparse.sparse_head:SOLVERS", words=NAMES
    )
    dims: tuple[int, ...] = setting(
        (), "Widths of the embedding with commas between.", least=1, words="whole numbers with commas between", parts=MOST
    )
    seeds: int = setting(3, "How many; the same for every λ, so that differences are paired.", least=1)
    auto: bool = False
    settings: dict[str, object] = field(default_factory=dict)


AXES = settings_of(Grid)


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
    axes = {**axes, **given}
    auto = axes.get("lams") == AUTO
    if auto:
        del axes["lams"]
    values, problems = read(AXES, axes, "axis")
    grid = Grid(**values, auto=auto, settings={**entry, **settings})
    problems += [f"{key} is an axis of the sweep: give {AXIS_OF[key]}." for key in settings if key in AXIS_OF]
    problems += contradictions(grid)
    if not auto and "lams" not in axes and not problems:
        problems = [f"{experiment} has no lams under `sweep:`: give them there or by --lams."]
    if problems:
        raise SparseheadError("\n".join(problems))
    return grid


def contradictions(grid: Grid) -> list[str]:
    """A sentence for each thing that no grid can ask. Its names are checked later, where their tables are."""
    problems = []
    if "none" in grid.penalties:
        problems.append("none is no penalty to try values of λ with: λ 0 is without one.")
    if grid.dims and "projector_out" in grid.settings:
        problems.append("projector_out is given twice: dims are its values.")
    for axis in ("lams", "methods", "penalties", "solvers", "dims"):
        values = getattr(grid, axis)
        repeated = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        if repeated:
            words = [f"{value:g}" if isinstance(value, float) else one_line(str(value)) for value in repeated]
            problems.append(f"{axis} has {', '.join(words)} more than once.")
    return problems


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
    axes = (grid.methods, grid.dims or (None,), grid.penalties, grid.solvers)
    if grid.seeds * math.prod(len(axis) for axis in (*axes, grid.lams or range(10))) > MOST:
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

    lams = {point: auto(config_of(0, *point, 1.0)) if grid.auto else grid.lams for point in itertools.product(*axes)}
    unpenalised = (FIELDS["penalty"].default, FIELDS["solver"].default)
    configs: dict[str, Config] = {}  # equal settings are one trial
    for seed in range(grid.seeds):
        for point in lams:
            for lam in lams[point]:
                config = config_of(seed, *(point if lam else (*point[:2], *unpenalised)), lam)
                configs[repr(config)] = config
    return list(configs.values())
