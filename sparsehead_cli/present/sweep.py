"""A sweep over λ as people see it: its trials while they run, the summary as tables, and what `sparsehead sweep-lambda` prints."""

import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import rich.table
from rich.live import Live

from sparsehead_cli.errors import SparseheadError, one_line
from sparsehead_cli.present.console import Console, Display, print_table, terminal_table
from sparsehead_cli.present.pretrain import epoch_line, without
from sparsehead_cli.present.table import UNDEFINED_CELL, Cell, Column, Table, difference, lam_cell, mean
from sparsehead_cli.runs.folder import METRICS
from sparsehead_cli.runs.readable import number
from sparsehead_cli.runs.run import Progress, Run
from sparsehead_cli.runs.table_files import Row, frame, read_csv
from sparsehead_cli.runs.tables import penalty_name
from sparsehead_cli.study.results import CURVES_CSV, SUMMARY_CSV, SWEEP_CSV
from sparsehead_cli.study.summary import SETTING, name_of, verdicts
from sparsehead_cli.sweep.engines import Task, default_jobs, processes
from sparsehead_cli.sweep.sweep import Request, Standing, estimate
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
ACTIVE = Column("groups\nactive, %", scale=100)
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
    ("active_groups_share", ACTIVE, mean),
    ("active_groups_share", ACTIVE.from_zero(), difference),
)


def summary_tables(summary: list[Row], pruned: Sequence[Row]) -> list[Table]:
    """Rows of sweep_summary.csv and pruned.csv -> a table a setting, a line a λ; those that were pruned have no numbers."""
    if not summary:
        return []
    columns = [Column("λ"), Column("chosen", text=True), Column("seeds"), *(column for _, column, _ in SUMMARY)]
    accuracies = [row for row in summary if row["metric"] == "accuracy"]
    tables = []
    for setting, rows in frame(summary, text=SETTING).groupby(list(SETTING), sort=False):
        table = Table(one_line(name_of(rows.iloc[0], accuracies)), columns, wide=math.inf, ruled=True)
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

    def __init__(self, console: Console, request: Request, standing: Standing) -> None:
        super().__init__(console, Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None)
        self.standing = standing
        self.jobs = request.jobs or default_jobs()
        self.remote, self.auto = request.engine == "ray", request.grid.auto
        self.named = set(standing.rows) | set(standing.failed)  # the trials that have their line
        self.finished_before, self.began, self.refreshed = len(standing.rows), time.monotonic(), 0.0

    def __enter__(self) -> "SweepDisplay":
        standing = self.standing
        pending = len(standing.pending())
        counts = f"{len(standing.rows)} finished, {len(standing.failed)} failed before"
        self.say(f"{len(standing.configs)} trials in {standing.folder}: {counts}")
        if standing.failed:
            self.say("failed ones are run again with --retry-failed")
        for line in lams_of(standing) if self.auto else ():
            self.say(line)
        if pending and self.remote:
            seconds = estimate(standing, 1) / pending
            self.say(f"{pending} to run on Ray; one takes about {minutes(seconds)} on one core of this machine")
        elif pending:
            processes()  # they import while the estimate is made
            self.say(f"{pending} to run, {self.jobs} at a time: about {minutes(estimate(standing, self.jobs))}")
        return super().__enter__()

    def watch(self, standing: Standing, running: list[Task]) -> None:
        """A line for each trial that has ended since; now and then the table of those that run."""
        done = len(standing.rows) + len(standing.failed)
        for name in [name for name in (*standing.rows, *standing.failed) if name not in self.named]:
            self.named.add(name)
            if name in standing.failed:
                self.say(f"{name}: {standing.failed[name]} (log: {standing.folder / name / LOG})", "red")
            else:
                row = standing.rows[name]
                self.say(f"{done}/{len(standing.configs)}  {name}  linear probe {100 * float(row['accuracy']):.1f} %")
        if self.moving and running and time.monotonic() - self.refreshed > REFRESH_SECONDS:
            self.refreshed = time.monotonic()
            self.moving.update(self.running_table(running), refresh=True)

    def running_table(self, running: list[Task]) -> rich.table.Table:
        """The running trials, how far each is, and when all will be done."""
        table = Table(self.counts(), [Column("running", text=True), Column("epoch"), *RUNNING.values()])
        for task in running:
            rows, config = rows_so_far(task.folder), self.standing.configs[task.folder.name]
            last = rows[-1] if rows else {}
            epoch = Cell(len(rows), text=f"{last.get('epoch', 0)}/{config.epochs}")
            table.add(Cell(task.folder.name), epoch, *(Cell(last.get(metric)) for metric in RUNNING))
        return terminal_table(table, self.console.width)

    def counts(self) -> str:
        """How many are done, the time left, the best so far."""
        standing, finished = self.standing, len(self.standing.rows) - self.finished_before
        text = f"{len(standing.rows)} of {len(standing.configs)} trials finished"
        if finished:
            seconds = (time.monotonic() - self.began) / finished * len(standing.pending())
            text += f", about {minutes(seconds)} left"
        if standing.rows:
            best = max(standing.rows.values(), key=lambda row: float(row["val_accuracy"]))
            text += f"; best held-out so far {100 * float(best['val_accuracy']):.1f} %, λ {float(best['lam']):g}"
        return text


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


def show_sweep(console: Console, standing: Standing, rows: list[Row], summary: list[Row]) -> None:
    """The answer, and where the files are. Raises: SparseheadError where not all trials finished."""
    show_summary(console, summary, standing.pruned())
    if standing.halving and not standing.pruned():
        console.print(" --prune: nothing was clearly dominated", style="dim")
    fewest = min((row["seeds"] for row in summary), default=0)
    if fewest < ENOUGH_SEEDS:
        console.print(f" few seeds make wide intervals; --seeds {ENOUGH_SEEDS} goes on from these", style="dim")
    files = f"{SWEEP_CSV} ({len(rows)} trials), {SUMMARY_CSV}, {CURVES_CSV}, sweep.png, sweep.svg"
    console.print(f" files   {standing.folder}/: {files}", soft_wrap=True)
    console.print(f" page    of all of it: sparsehead report {shlex.quote(str(standing.folder))}", soft_wrap=True)
    require_all(standing)


def require_all(standing: Standing) -> None:
    """Raises: SparseheadError at the end of a sweep of which not all trials finished."""
    if standing.failed:
        count, first = len(standing.failed), next(iter(standing.failed.values())).rstrip(".")
        trials = f"{count} trial{'s' * (count > 1)} of {len(standing.configs)}"
        raise SparseheadError(
            f"{trials} did not finish (the first: {first}). The tables are without; --retry-failed runs them again."
        )


def lams_of(standing: Standing) -> list[str]:
    """The values of λ that auto has chosen, a line a setting."""
    lams: dict[str, list[str]] = {}
    for config in standing.configs.values():
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


def show_commands(console: Console, request: Request, standing: Standing) -> None:
    """A command line for each trial that is not finished."""
    arguments = without(request.arguments, "--engine")
    if not standing.pending():
        failed = f"; {len(standing.failed)} failed before: --retry-failed" if standing.failed else ""
        line = f"nothing to run: {len(standing.rows)} trials have finished{failed}"
        Console(stderr=True).print(line, style="yellow")
    for name in standing.pending():
        console.print(shlex.join(["sparsehead", *arguments, "--trial", name]), soft_wrap=True)


class EpochLines(Callback):
    """Prints a line an epoch, for the log of a trial."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_epoch(self, run: Run, progress: Progress, row: Row) -> None:
        self.console.print(epoch_line(row), soft_wrap=True)
