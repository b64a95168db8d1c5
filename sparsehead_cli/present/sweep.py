"""A sweep over λ as people see it: its trials while they run, the summary as tables, and what `sparsehead sweep-lambda` prints."""

import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from rich.live import Live

from sparsehead_cli.errors import SparseheadError, Stopped
from sparsehead_cli.machine.launch import without
from sparsehead_cli.present.console import Console, Display, print_table, terminal_table
from sparsehead_cli.present.figures import save_figure
from sparsehead_cli.present.figures_sweep import sweep_figure
from sparsehead_cli.present.pretrain import epoch_line
from sparsehead_cli.present.table import UNDEFINED_CELL, Cell, Column, Table, difference, lam_cell, mean
from sparsehead_cli.runs.folder import METRICS, locked
from sparsehead_cli.runs.readable import number
from sparsehead_cli.runs.run import Progress, Run
from sparsehead_cli.runs.table_files import Row, frame, read_csv
from sparsehead_cli.runs.tables import penalty_name
from sparsehead_cli.study.results import CURVES_CSV, FIGURE, PRUNED_CSV, SUMMARY_CSV, SWEEP_CSV, read_sweep
from sparsehead_cli.study.summary import SETTING, name_of, verdicts, without_pruned
from sparsehead_cli.sweep.engines import Task, default_jobs
from sparsehead_cli.sweep.sweep import SweepRequest, SweepState, seconds_left, sweep
from sparsehead_cli.sweep.trial import LOG
from sparsehead_cli.training.callbacks import Callback

REFRESH_SECONDS = 2.0
ENOUGH_SEEDS = 5  # with which Student's t is 2.8; with 2 it is 12.7
RUNNING = {  # numbers in metrics.csv of a trial that is running
    "loss": Column("loss", digits=3),
    "knn_accuracy": Column("kNN", digits=1, scale=100, suffix=" %"),
    "effective_rank_r": Column("rank of r", digits=1),
    "effective_rank_z": Column("rank of z", digits=1),
}
CHOSEN = {"both": "best, sparsest"}  # in words
ACCURACY = Column("linear\nprobe, %", digits=1, scale=100)
RANK_R, RANK_Z = Column("effective\nrank of r", digits=1), Column("effective\nrank of z", digits=1)
FROM_ZERO = ACCURACY.from_zero("from λ 0,\npoints")


def bootstrap(row: Row) -> Cell:
    """The interval of a row's difference to λ 0 by bootstrap."""
    low, high = (FROM_ZERO.written(Cell(row[end])) for end in ("bootstrap_low", "bootstrap_high"))
    return Cell(row["bootstrap_low"], text=f"{low} to {high}")


SUMMARY = (  # a number of sweep_summary.csv, its column, and what that has of it
    ("accuracy", ACCURACY, mean),
    ("accuracy", FROM_ZERO, difference),
    ("accuracy", Column("95 % by\nbootstrap", minor=True), bootstrap),
    ("val_accuracy", Column("held-out\nprobe, %", digits=1, scale=100, minor=True), mean),
    ("knn_accuracy", Column("kNN\nof r, %", digits=1, scale=100, minor=True), mean),
    ("accuracy_z", Column("probe\nof z, %", digits=1, scale=100, minor=True), mean),
    ("effective_rank_r", RANK_R, mean),
    ("effective_rank_r", RANK_R.from_zero(), difference),
    ("effective_rank_z", RANK_Z, mean),
    ("effective_rank_z", RANK_Z.from_zero(), difference),
    ("active_groups_share", Column("groups\nactive, %", scale=100), mean),
)


def summary_tables(summary: list[Row], pruned: Sequence[Row]) -> list[Table]:
    """Rows of sweep_summary.csv and pruned.csv -> a table a setting, a line a λ; those that were pruned have no numbers."""
    if not summary:
        return []
    columns = [Column("λ"), Column("chosen", text=True), Column("seeds"), *(column for _, column, _ in SUMMARY)]
    accuracies = [row for row in summary if row["metric"] == "accuracy"]
    tables = []
    for setting, rows in frame(summary, text=SETTING).groupby(list(SETTING), sort=False):
        table = Table(name_of(rows.iloc[0], accuracies), columns, wide=math.inf, ruled=True)
        by_lam = dict(list(rows.groupby("lam")))
        stopped = {number(row["lam"]) for row in pruned if setting == tuple(str(row[column]) for column in SETTING)}
        for lam in sorted({*by_lam, *stopped}):
            if lam in stopped:
                table.add(lam_cell(lam), Cell("pruned"), *[UNDEFINED_CELL] * (len(columns) - 2))
                continue
            numbers = by_lam[lam].set_index("metric").to_dict("index")
            chosen, seeds = numbers["accuracy"]["chosen"], numbers["accuracy"]["seeds"]
            cells = [cell_of(numbers[metric]) for metric, _, cell_of in SUMMARY]
            table.add(lam_cell(lam), Cell(CHOSEN.get(chosen, chosen)), Cell(seeds), *cells, marked=chosen != "")
        tables.append(table)
    return tables


class SweepDisplay(Display):
    """A live table of the running trials on a terminal, and everywhere one plain line a trial that ends."""

    def __init__(self, console: Console, request: SweepRequest, state: SweepState) -> None:
        super().__init__(console, Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None)
        self.request, self.state = request, state
        self.named = set(state.rows) | set(state.failed)  # the trials that have their line
        self.refreshed, self.estimated = 0.0, False

    def __enter__(self) -> "SweepDisplay":
        state = self.state
        pending = len(state.pending())
        counts = f"{len(state.rows)} finished, {len(state.failed)} failed before"
        self.say(f"{len(state.configs)} trials in {state.folder}: {counts}")
        if state.failed:
            self.say("failed ones are run again with --retry-failed")
        for line in lams_of(state) if self.request.grid.auto else ():
            self.say(line)
        if pending:
            where = "on Ray" if self.request.engine == "ray" else f"{self.request.jobs or default_jobs()} at a time"
            self.say(f"{pending} to run, {where}; the time is estimated after the first epoch of a trial")
        return super().__enter__()

    def watch(self, state: SweepState, running: list[Task]) -> None:
        """A line for each trial that has ended since; now and then the table of those that run."""
        done = len(state.rows) + len(state.failed)
        for name in [name for name in (*state.rows, *state.failed) if name not in self.named]:
            self.named.add(name)
            if name in state.failed:
                self.say(f"{name}: {state.failed[name]} (log: {state.folder / name / LOG})", "red")
            else:
                row = state.rows[name]
                self.say(f"{done}/{len(state.configs)}  {name}  linear probe {100 * float(row['accuracy']):.1f} %")
        if running and (self.moving or not self.estimated) and time.monotonic() - self.refreshed > REFRESH_SECONDS:
            self.refreshed = time.monotonic()
            self.refresh({task.folder.name: rows_so_far(task.folder) for task in running})

    def refresh(self, running: dict[str, list[Row]]) -> None:
        """Say once how long all will take; on a terminal show the running trials, whose rows of metrics.csv are given."""
        left = seconds_left(self.state, running)
        if left is not None and not self.estimated:
            self.estimated = True
            trials = len(self.state.pending())
            self.say(f"about {minutes(left)} for the {trials} trial{'s that are' if trials > 1 else ' that is'} left")
        if self.moving:
            table = running_table(self.state, running, left)
            self.moving.update(terminal_table(table, self.console.width), refresh=True)


def running_table(state: SweepState, running: dict[str, list[Row]], left: float | None) -> Table:
    """The running trials, rows of metrics.csv by their names, how far each is, and when all will be done."""
    title = f"{len(state.rows)} of {len(state.configs)} trials finished"
    if left is not None:
        title += f", about {minutes(left)} left"
    if state.rows:
        best = max(state.rows.values(), key=lambda row: float(row["val_accuracy"]))
        title += f"; best held-out so far {100 * float(best['val_accuracy']):.1f} %, λ {float(best['lam']):g}"
    table = Table(title, [Column("running", text=True), Column("epoch"), *RUNNING.values()])
    for name, rows in running.items():
        epoch = Cell(len(rows), text=f"{len(rows)}/{state.configs[name].epochs}")
        last = rows[-1] if rows else {}
        table.add(Cell(name), epoch, *(Cell(last.get(metric)) for metric in RUNNING))
    return table


def rows_so_far(folder: Path) -> list[Row]:
    """A running trial's rows of metrics.csv; none where they are damaged, for the trial itself ends with that error."""
    try:
        return read_csv(folder / METRICS)
    except SparseheadError:
        return []


def minutes(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def run_sweep(console: Console, request: SweepRequest, state: SweepState) -> None:
    """Run a sweep, show how it goes and what it says, and draw its figure, also where it is stopped.

    Raises: SparseheadError where trials failed; Stopped where it was interrupted.
    """
    try:
        with locked(state.folder, "another sweep runs here"), SweepDisplay(console, request, state) as display:
            try:
                rows, summary = sweep(request, state, display.watch)
            finally:
                draw_sweep(state.folder)
    except KeyboardInterrupt:
        raise Stopped("stopped. sweep.csv and the figure have what had finished; the same command goes on.", 130) from None
    show_sweep(console, state, rows, summary)


def draw_sweep(folder: Path) -> None:
    """Draw the figure of a sweep from the tables of what has finished; nothing where nothing has."""
    trials = without_pruned(list(read_sweep(folder).values()), read_csv(folder / PRUNED_CSV))
    if trials:
        save_figure(sweep_figure(trials, frame(folder / SUMMARY_CSV, text=SETTING).to_dict("records")), folder / FIGURE)


def show_sweep(console: Console, state: SweepState, rows: list[Row], summary: list[Row]) -> None:
    """The answer, and where the files are. Raises: SparseheadError where not all trials finished."""
    show_summary(console, summary, state.pruned())
    if state.halving and not state.pruned():
        console.print(" --prune: nothing was clearly dominated", style="dim")
    fewest = min((row["seeds"] for row in summary), default=0)
    if fewest < ENOUGH_SEEDS:
        console.print(f" few seeds make wide intervals; --seeds {ENOUGH_SEEDS} goes on from these", style="dim")
    files = f"{SWEEP_CSV} ({len(rows)} trials), {SUMMARY_CSV}, {CURVES_CSV}, sweep.png, sweep.svg"
    console.print(f" files   {state.folder}/: {files}", soft_wrap=True)
    console.print(f" page    of all of it: sparsehead report {shlex.quote(str(state.folder))}", soft_wrap=True)
    require_all(state)


def require_all(state: SweepState) -> None:
    """Raises: SparseheadError at the end of a sweep of which not all trials finished."""
    if state.failed:
        count, first = len(state.failed), next(iter(state.failed.values())).rstrip(".")
        trials = f"{count} trial{'s' * (count > 1)} of {len(state.configs)}"
        raise SparseheadError(
            f"{trials} did not finish (the first: {first}). The tables are without; --retry-failed runs them again."
        )


def lams_of(state: SweepState) -> list[str]:
    """The values of λ that auto has chosen, a line a setting."""
    lams: dict[str, list[str]] = {}
    for config in state.configs.values():
        name = f"{config.method}, {penalty_name(config.penalty, config.groups)}, {config.solver}, E = {config.projector_out}"
        lam = f"{config.lam:g}"
        if config.lam and lam not in lams.setdefault(name, []):
            lams[name].append(lam)
    return [f"{name}: λ 0, {', '.join(values)}" for name, values in lams.items()]


def show_summary(console: Console, summary: list[Row], pruned: list[Row]) -> None:
    """Rows of sweep_summary.csv and pruned.csv: a table a setting, and the verdicts."""
    for table in summary_tables(summary, pruned):
        print_table(console, table)
    for line in verdicts(summary, pruned):
        console.print(line, soft_wrap=True)
    console.print(
        " mean ± half of the 95 % interval (Student's t over seeds); below it the paired difference to λ 0;\n"
        " best: on held-out images; sparsest: the largest λ within a standard error of it\n"
        " active: norm above 1 % of the largest, which says little where all are small (curves.csv has the penalty's value)",
        style="dim",
        soft_wrap=True,
    )


def show_commands(console: Console, state: SweepState, arguments: Sequence[str]) -> None:
    """A command line for each trial that is not finished, from the `arguments` of the sweep."""
    arguments = without(without(arguments, "--trial"), "--engine")
    if not state.pending():
        failed = f"; {len(state.failed)} failed before: --retry-failed" if state.failed else ""
        line = f"nothing to run: {len(state.rows)} trials have finished{failed}"
        Console(stderr=True).print(line, style="yellow")
    for name in state.pending():
        console.print(shlex.join(["sparsehead", *arguments, "--trial", name]), soft_wrap=True)


class EpochLines(Callback):
    """Prints a line an epoch, for the log of a trial."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_epoch(self, run: Run, progress: Progress, row: Row) -> None:
        self.console.print(epoch_line(row), soft_wrap=True)
