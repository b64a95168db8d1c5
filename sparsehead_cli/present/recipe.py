"""`sparsehead show NAME`: the settings of an experiment, a method's recipe, a sweep or a run, with where each value comes from."""

import shlex
from pathlib import Path

from sparsehead_cli.errors import SparseheadError, unknown
from sparsehead_cli.machine.plugins import is_plugin
from sparsehead_cli.present.console import Console, print_notes, print_table
from sparsehead_cli.present.table import Cell, Column, Table
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.experiments import SWEEP, combined, load_comments, load_entries
from sparsehead_cli.runs.origins import DEFAULT, GIVEN, Origin, of_run, resolve
from sparsehead_cli.runs.settings import Values, written
from sparsehead_cli.sweeps.grid import AXES, is_sweep, read_grid

CHECKPOINT = "checkpoint.pt"


def show(console: Console, name: str, experiments: Path | None, overrides: Values) -> None:
    """Print what a name stands for. Raises: SparseheadError for one that is no experiment, method, run or checkpoint."""
    entries = load_entries(experiments)
    if name in entries and is_sweep(entries[name]):
        return show_sweep_entry(console, name, experiments, overrides)
    if name in entries:
        return show_experiment(console, name, experiments, overrides)
    if Path(name).exists():
        return show_run(console, Path(name), experiments, overrides)
    from sparsehead_cli.ssl.methods import METHODS

    if name not in METHODS and not is_plugin(name):
        raise unknown("experiment or method", name, dict.fromkeys([*entries, *METHODS]))
    return show_experiment(console, None, experiments, {**overrides, "method": name})


def show_experiment(console: Console, name: str | None, experiments: Path | None, overrides: Values) -> None:
    """Print an experiment; without a name the recipe of the method that is among the `overrides`."""
    config, values = resolve(name, experiments, overrides)
    show_comment(console, config.experiment, experiments)
    command = f"--experiment {shlex.quote(name)}" if name else f"--method {shlex.quote(config.method)}"
    notes = (f"sparsehead pretrain {command} trains it; with --dry-run it says how long that takes",)
    show_values(console, f"{config.experiment}, method {config.method}", values, notes)


def show_sweep_entry(console: Console, name: str, experiments: Path | None, overrides: Values) -> None:
    """Print the axes of a sweep, and the settings that hold for all its trials."""
    grid = read_grid(name, experiments, {}, overrides)
    entry = combined(load_entries(experiments)[name], Config.method)
    show_comment(console, name, experiments)
    values = {}
    for axis in AXES:
        value = "auto" if axis == "lams" and grid.auto else getattr(grid, axis) or "each recipe's"
        values[axis] = Origin(value, entry[SWEEP].source if axis in entry[SWEEP].value else DEFAULT)
    for key, value in grid.settings.items():
        values[key] = Origin(value, GIVEN if key in overrides else entry[key].source)
    notes = ("every other setting is that of each method's recipe: sparsehead show METHOD",)
    notes += (f"sparsehead sweep-lambda --experiment {shlex.quote(name)} runs it",)
    show_values(console, f"{name}, a sweep", values, notes)


def show_run(console: Console, place: Path, experiments: Path | None, overrides: Values) -> None:
    """Print the settings in a run's checkpoint, and how far it is."""
    from sparsehead_cli.runs.checkpoint import MEASURED, is_checkpoint, load_checkpoint
    from sparsehead_cli.runs.identity import config_in

    file = place / CHECKPOINT if place.is_dir() else place
    if overrides:
        raise SparseheadError(f"{place} is a run, whose settings are what they are: --set is for experiments and methods.")
    if not file.exists():
        raise SparseheadError(f"{place} has no {CHECKPOINT}: it is no run, or one without a finished epoch.")
    if not is_checkpoint(file):
        raise SparseheadError(f"{file} was not written by sparsehead pretrain; what it holds, sparsehead evaluate {file} says.")
    state = load_checkpoint(file, MEASURED)
    config = config_in(state["identity"], file.resolve().parent.parent.name)
    steps = f"step {state['step']:,}" + (f" of {state['total_steps']:,}" if "total_steps" in state else "")
    notes = (f"{steps}, {state['precision']}; the origins are those that would give the same values now",)
    console.print(str(file), soft_wrap=True)
    show_values(console, file.resolve().parent.name, of_run(config, experiments), notes)


def show_comment(console: Console, name: str, experiments: Path | None) -> None:
    """Print what the file of experiments says of an entry."""
    if text := load_comments(experiments).get(name):
        console.print(text, soft_wrap=True)


def show_values(console: Console, title: str, values: dict[str, Origin], notes: tuple[str, ...]) -> None:
    """Print settings as a table; those that are no default stand out, and those that make up a run's results come first."""
    table = Table(title, [Column(name, text=True) for name in ("setting", "value", "comes from")], notes=notes)
    for name, (value, source) in values.items():
        table.add(Cell(name), Cell(written(value)), Cell(source), marked=not source.startswith(DEFAULT))
    print_table(console, table)
    print_notes(console, [table])
