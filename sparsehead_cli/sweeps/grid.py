"""What a sweep asks: λ × method × penalty × solver × regularisers × head × seed -> the settings of its trials. No torch here."""

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from sparsehead_cli.errors import SparseheadError, one_line, shown, unknown
from sparsehead_cli.machine.plain import folder_name, number
from sparsehead_cli.runs.config import FIELDS, METHOD, METHOD_PREFIX, SWEEP, Config, Layers, combined, load_entries, resolve
from sparsehead_cli.runs.experiments import Entries, Layer
from sparsehead_cli.runs.settings import Values, names_in, read, setting, settings_of
from sparsehead_cli.runs.tables import (
    NO_REGULARISER,
    USUAL_PROJECTOR,
    WITHOUT_PROJECTOR,
    penalty_name,
    penalty_settings,
    projector_settings,
    regularisers_setting,
)

MOST = 10_000  # trials
AUTO = "auto"
NAMES = "names with commas between"


@dataclass(frozen=True)
class Grid:
    """The values of each axis, in order. A penalty may be written with how it is applied, as `penalty_name` does: `l21-output`.

    `lams` is () for "auto": each method, penalty, solver and dimension has its own then. `dims` are widths of the embedding;
    () is that of each recipe. `settings` hold for every trial, keys as in `--set`: those of the entry, which has them in
    `layers`, and over them those that were `given`. `method` is the one that the entry is a recipe of, "" where it is of none.
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
        "{names}, with commas between; l21-output: units are groups; -first: of the first layer; -linear, -cosine: λ rises.",
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
    batch_norm: tuple[bool, ...] = setting(
        (), "Heads with BatchNorm: true, false, or both with a comma between.", words="true, false, or both with a comma between"
    )
    regularisers: tuple[str, ...] = setting(
        (),
        "Values with commas between: none, or {names}, each with its strength; a + adds several, as in none,koleo:0.1+decay:1e-3.",
        names="ssl.regularisers:REGULARISERS",
        words="none or NAME:strength, with commas between; + adds several",
    )
    projectors: tuple[str, ...] = setting(
        (),
        "What makes z of r, with commas between: mlp, or {names}, each with its width, as in mlp,direct:64; only mlp has a λ.",
        names="nets.heads:PROJECTORS",
        words="mlp, none or NAME:width, with commas between",
    )
    seeds: int = setting(3, "How many; the same for every λ, so that differences are paired.", least=1)
    auto: bool = False
    settings: Values = field(default_factory=dict)
    layers: Layers = ()
    given: Values = field(default_factory=dict)
    method: str = ""


AXES = settings_of(Grid)


def read_grid(experiment: str, experiments: Path | None, given: Values, settings: Values) -> Grid:
    """The grid of an experiment, with what was `given` (axes as text or numbers) and further settings over it.

    Of an entry without `sweep:` the axes are its own method, penalty and solver, and λ has to be given.

    Raises: SparseheadError that names everything wrong at once.
    """
    entries = load_entries(experiments)
    if experiment not in entries:
        raise unknown("experiment", experiment, sorted(entries, key=lambda name: not is_sweep(entries[name])))
    folder_name("sweep", experiment)
    entry = {key: value.value for key, value in combined(entries[experiment], Config.method).items()}
    stated = entry.pop(SWEEP, None) or {}
    if not isinstance(stated, dict):
        raise SparseheadError(f"{experiment} has {shown(stated)} as its `sweep:`; give it axes there, such as lams.")
    axes = {**axes_of(entry), **stated, **given}
    auto = axes.get("lams") == AUTO
    if auto:
        del axes["lams"]
    values, problems = read(AXES, axes, "axis")
    layers = tuple(replace(layer, settings=without_axes(layer.settings)) for layer in entries[experiment])
    everything = {**without_axes(entry), **settings}
    method = "" if is_sweep(entries[experiment]) and METHOD not in entry else str(entry.get(METHOD, Config.method))
    grid = Grid(**values, auto=auto, settings=everything, layers=layers, given=settings, method=method)
    problems += [f"{key} is an axis of the sweep: give {AXIS_OF[key]}." for key in settings if key in AXIS_OF]
    problems += contradictions(grid)
    if not auto and "lams" not in axes and not problems:
        problems = [f"{experiment} has no values of λ to sweep: give --lams auto, or such as --lams 0,1e-4,1e-3."]
    if problems:
        raise SparseheadError("\n".join(problems))
    return grid


def is_sweep(layers: Layers) -> bool:
    """Whether an entry has axes of a sweep."""
    return SWEEP in combined(layers, Config.method)


def axes_of(entry: Values) -> Values:
    """The axes that an entry has as settings of one run: its method, its penalty and its solver."""
    axes = {axis: entry[key] for key, axis in (("method", "methods"), ("solver", "solvers")) if key in entry}
    if "penalty" in entry or "groups" in entry:
        axes["penalties"] = penalty_name(str(entry.get("penalty", Config.penalty)), str(entry.get("groups", Config.groups)))
    return axes


def without_axes(settings: Values) -> Values:
    """The settings of an entry that are those of every trial; its method stays, since the method's numbers follow it."""
    return {key: value for key, value in settings.items() if key != SWEEP and (key == METHOD or key not in AXIS_OF)}


def contradictions(grid: Grid) -> list[str]:
    """A sentence for each thing that no grid can ask. Its names are checked later, where their tables are."""
    problems = []
    if "none" in grid.penalties:
        problems.append("none is no penalty to try values of λ with: λ 0 is without one.")
    problems += problems_of_heads(grid)
    for axis, key in OF_SETTING.items():
        if getattr(grid, axis) and key in grid.settings:
            problems.append(f"{key} is given twice: {axis} are its values.")
    for axis in ("lams", "methods", "penalties", "solvers", *OF_SETTING):
        values = getattr(grid, axis)
        repeated = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        if repeated:
            words = [f"{value:g}" if isinstance(value, float) else one_line(str(value)) for value in repeated]
            problems.append(f"{axis} has {', '.join(words)} more than once.")
    alike: dict[frozenset, list[str]] = {}
    for value in dict.fromkeys(grid.regularisers):
        alike.setdefault(frozenset(map(term_of, value.split("+"))), []).append(value)
    problems += [
        f"regularisers has {one_line(' and '.join(values))}, which are the same." for values in alike.values() if len(values) > 1
    ]
    return problems


def term_of(text: str) -> tuple[str, float | str]:
    """A regulariser's name and strength, however that is written; what is none is told where regularisers are known."""
    name, _, strength = text.partition(":")
    try:
        return name, number(strength)
    except ValueError:
        return name, strength


def problems_of_heads(grid: Grid) -> list[str]:
    """A sentence for each head that is none, and where the mlp that others are compared with is not one."""
    problems = []
    for value in grid.projectors:
        kind, _, width = value.partition(":")
        if kind not in names_in("nets.heads:PROJECTORS"):
            problems.append(str(unknown("projector", kind, names_in("nets.heads:PROJECTORS"))))
        elif kind == USUAL_PROJECTOR and ":" in value:
            problems.append(f"projectors has {one_line(value)}: give the widths of mlp as dims.")
        elif kind == WITHOUT_PROJECTOR and ":" in value:
            problems.append(f"projectors has {one_line(value)}: without a projector z is as wide as r. Give {kind}.")
        elif kind not in (USUAL_PROJECTOR, WITHOUT_PROJECTOR) and not re.fullmatch(r"[1-9][0-9]{0,8}", width):
            problems.append(f"projectors has {one_line(value)}: give its width as a whole number, as in {kind}:64.")
    if grid.lams and 0 not in grid.lams and set(grid.projectors) - {USUAL_PROJECTOR}:
        problems.append("heads other than mlp have no weights that λ could weigh: give 0 among --lams, or leave them out.")
    several = [axis for axis in ("dims", "batch_norm") if len(getattr(grid, axis)) > 1]
    if several and set(grid.projectors) - {USUAL_PROJECTOR}:
        problems.append(f"projectors are compared with one mlp: give {' and '.join(several)} one value, or leave other heads out.")
    return problems


# axes that are values of a setting
OF_SETTING = {
    **{"dims": "projector_out", "batch_norm": "projector_batch_norm"},
    **{"regularisers": "regularisers", "projectors": "projector"},
}
AXIS_OF = {  # settings of a run that trials are told apart by
    **{"method": "--methods", "lam": "--lams", "penalty": "--penalties", "solver": "--solvers", "seed": "--seeds"},
    "groups": "--penalties l21-output",
}


def trials(
    grid: Grid, experiment: str, experiments: Path | None = None, auto: Callable[[Config], tuple[float, ...]] | None = None
) -> list[Config]:
    """The settings of every trial, seed by seed so that a sweep that is stopped has whole pairs; each once.

    A method's own recipe comes first, then the sweep's settings; the method that the sweep's entry is a recipe of has no other.
    With λ 0 penalty, groups and solver make no difference and are the defaults: all penalties share that trial. What stands in
    the place of an mlp has no weights to penalise: it has λ 0 alone, and no regularisers where the grid has mlp and none, too.
    Where λ is "auto", `auto` gives the values for settings with λ 1.

    Raises: SparseheadError for settings that are wrong, and for more trials than MOST.
    """
    of_setting = [getattr(grid, axis) or (None,) for axis in OF_SETTING]
    axes = (grid.methods, *of_setting, grid.penalties, grid.solvers)
    if grid.seeds * math.prod(len(axis) for axis in (*axes, grid.lams or range(10))) > MOST:
        raise SparseheadError(f"the grid has more than {MOST:,} trials. Leave values out.")
    config_of = configs_of(grid, experiment, load_entries(experiments))
    lams = {point: lams_of(grid, point, config_of, auto) for point in itertools.product(*axes)}
    unpenalised = (FIELDS["penalty"].default, FIELDS["solver"].default)
    configs: dict[str, Config] = {}  # equal settings are one trial
    for seed in range(grid.seeds):
        for point in lams:
            for lam in lams[point]:
                config = config_of(seed, point if lam else (*point[:-2], *unpenalised), lam)
                configs[repr(config)] = config
    return list(configs.values())


def lams_of(
    grid: Grid, point: tuple, config_of: Callable[..., Config], auto: Callable[[Config], tuple[float, ...]] | None
) -> tuple[float, ...]:
    """The values of λ of a point of a grid, all seeds alike; () of one that is not trained."""
    of_axis = dict(zip(OF_SETTING, point[1:], strict=False))
    if of_axis["projectors"] not in (None, USUAL_PROJECTOR):
        alone = USUAL_PROJECTOR in grid.projectors and NO_REGULARISER in grid.regularisers
        return () if alone and of_axis["regularisers"] != NO_REGULARISER else (0.0,)
    return auto(config_of(0, point, 1.0)) if grid.auto else grid.lams


def configs_of(grid: Grid, experiment: str, entries: Entries) -> Callable[..., Config]:
    """What makes a trial's settings of its seed, its point (method, a value for each of OF_SETTING, penalty, solver) and λ."""
    from sparsehead_cli.runs.images import images_of  # not above: --help has no time for torch

    look = cache(images_of)  # once for all trials
    layers = grid.layers or (Layer("the sweep", grid.settings),)
    of_others = tuple(replace(layer, settings=without_method(layer.settings)) for layer in layers) if grid.method else layers

    def config_of(seed: int, point: tuple, lam: float) -> Config:
        method, *values, penalty, solver = point
        of_point = {"method": method, **penalty_settings(penalty), "solver": solver, "lam": lam, "seed": seed}
        stated = {key: value for key, value in zip(OF_SETTING.values(), values, strict=True) if value is not None}
        if "regularisers" in stated:
            stated["regularisers"] = regularisers_setting(stated["regularisers"])
        stated |= projector_settings(stated["projector"]) if "projector" in stated else {}
        settings = {**grid.given, **of_point, **stated}
        own = method == grid.method
        recipe = () if own else entries[method if method in entries else Config.experiment]
        config = resolve(entries, settings, recipe=recipe, named=layers if own else of_others, look=look).config
        return replace(config, experiment=experiment)

    return config_of


def without_method(settings: Values) -> Values:
    """Settings without those that only the entry's own method has."""
    return {key: value for key, value in settings.items() if key != METHOD and not key.startswith(METHOD_PREFIX)}
