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
from sparsehead_cli.runs.views import described
from sparsehead_cli.study.results import CURVES_CSV, FIGURE, PRUNED_CSV, SUMMARY_CSV, SWEEP_CSV, read_sweep
from sparsehead_cli.study.summary import SETTING, name_of, verdicts, without_pruned
from sparsehead_cli.sweep.engines import Task, default_jobs
from sparsehead_cli.sweep.sweep import SweepRequest, SweepState, seconds_left, sweep
from sparsehead_cli.sweep.trial import LOG
from sparsehead_cli.training.callbacks import Callback

REFRESH_SECONDS = 2.0
ENOUGH_SEEDS = 5  # an interval is Student's t standard errors to either side: 2.8 of them with 5 seeds, 12.7 with 2
RUNNING = {  # what the table of running trials shows: numbers of metrics.csv, and their columns
    "loss": Column("loss", digits=3),
    "knn_accuracy": Column("kNN", digits=1, scale=100, suffix=" %"),
    "effective_rank_r": Column("rank of r", digits=1),
    "effective_rank_z": Column("rank of z", digits=1),
}
CHOSEN = {"both": "best, sparsest"}  # what is written for a λ chosen as "both"; "best" and "sparsest" are written as they are
ACCURACY = Column("linear\nprobe, %", digits=1, scale=100)
RANK_R, RANK_Z = Column("effective\nrank of r", digits=1), Column("effective\nrank of z", digits=1)
FROM_ZERO = ACCURACY.from_zero("from λ 0,\npoints")


def bootstrap(row: Row) -> Cell:
    """The interval by bootstrap of a row's difference to λ 0; its lower end is what the column is sorted by."""
    low, high = (FROM_ZERO.written(Cell(row[end])) for end in ("bootstrap_low", "bootstrap_high"))
    return Cell(row["bootstrap_low"], text=f"{low} to {high}")


SUMMARY = (  # the columns of numbers: the metric in sweep_summary.csv, the column, and how its cell is made of the metric's row
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
    """Rows of sweep_summary.csv and pruned.csv -> one table per setting, one line per λ. A pruned λ has no numbers."""
    if not summary:
        return []
    columns = [Column("λ"), Column("chosen", text=True), Column("seeds"), *(column for _, column, _ in SUMMARY)]
    accuracies = [row for row in summary if row["metric"] == "accuracy"]
    pruned_lams: dict[tuple[str, ...], set[float]] = {}
    for row in pruned:
        pruned_lams.setdefault(tuple(str(row[column]) for column in SETTING), set()).add(number(row["lam"]))
    tables = []
    for setting, rows in frame(summary, text=SETTING).groupby(list(SETTING), sort=False):
        table = Table(name_of(rows.iloc[0], accuracies), columns, wide=math.inf, ruled=True)
        by_lam = {lam: of_lam.set_index("metric").to_dict("index") for lam, of_lam in rows.groupby("lam")}
        without_numbers = pruned_lams.get(setting, set())
        for lam in sorted({*by_lam, *without_numbers}):
            if lam in without_numbers:
                table.add(lam_cell(lam), Cell("pruned"), *[UNDEFINED_CELL] * (len(columns) - 2))
                continue
            row_of = by_lam[lam]  # metric -> its row; what is chosen and the seeds are the same in all of them
            chosen, seeds = row_of["accuracy"]["chosen"], row_of["accuracy"]["seeds"]
            cells = [cell_of(row_of[metric]) for metric, _, cell_of in SUMMARY]
            table.add(lam_cell(lam), Cell(CHOSEN.get(chosen, chosen)), Cell(seeds), *cells, marked=chosen != "")
        tables.append(table)
    return tables


class SweepDisplay(Display):
    """One line for each trial that ends; on a terminal, below these, a live table of the trials that run (`moving`)."""

    def __init__(self, console: Console, request: SweepRequest, state: SweepState) -> None:
        super().__init__(console, Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None)
        self.request, self.state = request, state
        self.named = set(state.rows) | set(state.failed)  # trials that have their line, or ended before this sweep
        self.refreshed, self.estimated = 0.0, False  # when it was refreshed last; whether the time was said

    def __enter__(self) -> "SweepDisplay":
        state = self.state
        pending = len(state.pending())
        counts = f"{len(state.rows)} finished, {len(state.failed)} failed before"
        self.say(f"{len(state.configs)} trials in {state.folder}: {counts}")
        for line in notes_of(state):
            self.say(line)
        if state.failed:
            self.say("failed ones are run again with --retry-failed")
        for line in lams_of(state) if self.request.grid.auto else ():
            self.say(line)
        if pending:
            where = "on Ray" if self.request.engine == "ray" else f"{self.request.jobs or default_jobs()} at a time"
            self.say(f"{pending} to run, {where}; the time is estimated after the first epoch of a trial")
        return super().__enter__()

    def watch(self, state: SweepState, running: list[Task]) -> None:
        """Print a line for each trial that has ended since the last call; every REFRESH_SECONDS, `refresh`."""
        done = len(state.rows) + len(state.failed)
        ended = [name for name in (*state.rows, *state.failed) if name not in self.named]
        for name in ended:
            self.named.add(name)
            if name in state.failed:
                self.say(f"{name}: {state.failed[name]} (log: {state.folder / name / LOG})", "red")
            else:
                row = state.rows[name]
                self.say(f"{done}/{len(state.configs)}  {name}  linear probe {100 * float(row['accuracy']):.1f} %")
        wanted = self.moving or not self.estimated  # without a terminal, only until the time was said
        if running and wanted and time.monotonic() - self.refreshed > REFRESH_SECONDS:
            self.refreshed = time.monotonic()
            self.refresh({task.folder.name: rows_so_far(task.folder) for task in running})

    def refresh(self, running: dict[str, list[Row]]) -> None:
        """Say once how long all will take, and show the live table. `running`: a trial's name -> its rows of metrics.csv."""
        left = seconds_left(self.state, running)
        if left is not None and not self.estimated:
            self.estimated = True
            trials = len(self.state.pending())
            self.say(f"about {minutes(left)} for the {trials} trial{'s that are' if trials > 1 else ' that is'} left")
        if self.moving:
            table = running_table(self.state, running, left)
            self.moving.update(terminal_table(table, self.console.width), refresh=True)


def running_table(state: SweepState, running: dict[str, list[Row]], left: float | None) -> Table:
    """How far each running trial is (name -> its rows of metrics.csv), under a title that says how many seconds are `left`."""
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
    """A running trial's rows of metrics.csv. A damaged table gives none: the trial itself ends with that error."""
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
    """Run a sweep: show its progress, draw its figure (also where it is stopped), and print its answer.

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
    """Draw the figure of a sweep from the trials that have finished; without any, draw nothing."""
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
    """Raises: SparseheadError where trials of a sweep that has ended failed."""
    if state.failed:
        count, first = len(state.failed), next(iter(state.failed.values())).rstrip(".")
        trials = f"{count} trial{'s' if count > 1 else ''} of {len(state.configs)}"
        raise SparseheadError(
            f"{trials} did not finish (the first: {first}). The tables are without; --retry-failed runs them again."
        )


def notes_of(state: SweepState) -> list[str]:
    """How the settings of the trials came about, each line once: views that suit the images, a warm-up that was cut."""
    lines: list[str] = []
    for config in state.configs.values():
        for name, text in config.notes:
            lines.append(f"{name}: {described(config.views)}, {text}" if name == "views" else f"{name}: {text}")
    return list(dict.fromkeys(lines))


def lams_of(state: SweepState) -> list[str]:
    """The values of λ that auto has chosen, one line per setting; 0 is in each, and named first."""
    lams: dict[str, list[str]] = {}  # setting -> the others, as text
    for config in state.configs.values():
        name = f"{config.method}, {penalty_name(config.penalty, config.groups)}, {config.solver}, E = {config.projector_out}"
        lam = f"{config.lam:g}"
        if config.lam and lam not in lams.setdefault(name, []):
            lams[name].append(lam)
    return [f"{name}: λ 0, {', '.join(values)}" for name, values in lams.items()]


def show_summary(console: Console, summary: list[Row], pruned: list[Row]) -> None:
    """Print one table per setting, the verdicts, and how to read them, from rows of sweep_summary.csv and pruned.csv."""
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
    """Print one command line for each trial that is not finished, from the `arguments` of the sweep."""
    arguments = without(without(arguments, "--trial"), "--engine")  # each runs one trial, and prints no commands
    if not state.pending():
        failed = f"; {len(state.failed)} failed before: --retry-failed" if state.failed else ""
        line = f"nothing to run: {len(state.rows)} trials have finished{failed}"
        Console(stderr=True).print(line, style="yellow")  # stdout has nothing but commands
    for name in state.pending():
        console.print(shlex.join(["sparsehead", *arguments, "--trial", name]), soft_wrap=True)


class EpochLines(Callback):
    """Prints one line per epoch, for the log of a trial."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_epoch(self, run: Run, progress: Progress, row: Row) -> None:
        self.console.print(epoch_line(row), soft_wrap=True)
