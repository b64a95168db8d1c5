"""What `sparsehead sweep-lambda` shows: the trials while they run, then the answer in a table and a sentence a setting."""

import shlex
import time
from pathlib import Path
from types import TracebackType

from rich.live import Live
from rich.table import Table

from sparsehead_cli.errors import SparseheadError, one_line
from sparsehead_cli.present.console import Console
from sparsehead_cli.present.pretrain import epoch_line, plus_minus, without
from sparsehead_cli.runs.folder import METRICS
from sparsehead_cli.runs.readable import UNDEFINED, readable
from sparsehead_cli.runs.run import Progress, Run
from sparsehead_cli.runs.table_files import read_csv
from sparsehead_cli.runs.tables import penalty_name
from sparsehead_cli.study.results import CURVES_CSV, SUMMARY_CSV, SWEEP_CSV
from sparsehead_cli.study.summary import SETTING, name_of, verdicts
from sparsehead_cli.sweep.engines import Task, default_jobs, processes
from sparsehead_cli.sweep.sweep import Request, Standing, estimate
from sparsehead_cli.sweep.trial import LOG
from sparsehead_cli.training.callbacks import Callback

Row = dict[str, object]
REFRESH_SECONDS = 2.0
ENOUGH_SEEDS = 5  # with which Student's t is 2.8; with 2 it is 12.7
SHOWN = {
    "linear\nprobe, %": ("accuracy", 100, 1),
    "effective\nrank of r": ("effective_rank_r", 1, 1),
    "effective\nrank of z": ("effective_rank_z", 1, 1),
    "groups\nactive, %": ("active_groups_share", 100, 0),
}


class SweepDisplay:
    """A live table of the running trials on a terminal, and everywhere one plain line a trial that ends."""

    def __init__(self, console: Console, request: Request, standing: Standing) -> None:
        self.console, self.standing = console, standing
        self.jobs = request.jobs or default_jobs()
        self.remote, self.auto = request.engine == "ray", request.grid.auto
        self.live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self.told = set(standing.rows) | set(standing.failed)
        self.before, self.began, self.looked = len(standing.rows), time.monotonic(), 0.0

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
            self.say(
                f"{pending} to run on Ray; one takes about {minutes(estimate(standing, 1) / pending)} on one core of this machine"
            )
        elif pending:
            processes()  # they import while the estimate is made
            self.say(f"{pending} to run, {self.jobs} at a time: about {minutes(estimate(standing, self.jobs))}")
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.stop()

    def say(self, line: str, style: str = "") -> None:
        self.console.print(line, style=style, soft_wrap=True)

    def watch(self, standing: Standing, running: list[Task]) -> None:
        """A line for each trial that has ended since; now and then the table of those that run."""
        done = len(standing.rows) + len(standing.failed)
        for name in [name for name in (*standing.rows, *standing.failed) if name not in self.told]:
            self.told.add(name)
            if name in standing.failed:
                self.say(f"{name}: {standing.failed[name]} (log: {standing.folder / name / LOG})", "red")
            else:
                row = standing.rows[name]
                self.say(f"{done}/{len(standing.configs)}  {name}  linear probe {100 * float(row['accuracy']):.1f} %")
        if self.live and running and time.monotonic() - self.looked > REFRESH_SECONDS:
            self.looked = time.monotonic()
            self.live.update(self.table(running), refresh=True)

    def table(self, running: list[Task]) -> Table:
        """The running trials, how far each is, and when all will be done."""
        table = Table(title=self.progress(), title_justify="left")
        for name in ("running", "epoch", "loss", "kNN", "rank of r", "rank of z"):
            table.add_column(name, justify="left" if name == "running" else "right")
        for task in running:
            rows = rows_so_far(task.folder)
            epochs = self.standing.configs[task.folder.name].epochs
            if not rows:
                table.add_row(task.folder.name, f"0/{epochs}", *[UNDEFINED] * 4)
                continue
            last = rows[-1]
            numbers = (readable(last[f"effective_rank_{f}"], 1) for f in ("r", "z"))
            knn = readable(last["knn_accuracy"], 1, 100, " %")
            table.add_row(task.folder.name, f"{last['epoch']}/{epochs}", f"{float(last['loss']):.3f}", knn, *numbers)
        return table

    def progress(self) -> str:
        """How many are done, the time left, the best so far."""
        standing, finished = self.standing, len(self.standing.rows) - self.before
        left = ""
        if finished:
            left = f", about {minutes((time.monotonic() - self.began) / finished * len(standing.pending()))} left"
        best = max(standing.rows.values(), key=lambda row: float(row["val_accuracy"]), default=None)
        told = f"; best held-out so far {100 * float(best['val_accuracy']):.1f} %, λ {float(best['lam']):g}" if best else ""
        return f"{len(standing.rows)} of {len(standing.configs)} trials finished{left}{told}"


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
    """The values of λ that were found, a line a setting."""
    found: dict[str, dict[float, None]] = {}
    for config in standing.configs.values():
        if config.lam:
            name = f"{config.method}, {penalty_name(config.penalty, config.groups)}, {config.solver}, E = {config.projector_out}"
            found.setdefault(name, {})[config.lam] = None
    return [f"{name}: λ 0, {', '.join(f'{lam:g}' for lam in lams)}" for name, lams in found.items()]


def show_summary(console: Console, summary: list[Row], pruned: list[Row]) -> None:
    """Rows of sweep_summary.csv as a table a setting with the values of λ in pruned.csv, and the verdicts."""
    told = [row for row in summary if row["metric"] == "accuracy"]
    for setting in dict.fromkeys(tuple(row[c] for c in SETTING) for row in summary):
        own = [row for row in summary if tuple(row[c] for c in SETTING) == setting]
        stopped = {float(row["lam"]): row for row in pruned if all(row[c] == str(own[0][c]) for c in SETTING)}
        console.print(summary_table(one_line(name_of(own[0], told)), own, stopped))
    for line in verdicts(summary, pruned):
        console.print(line, soft_wrap=True)
    console.print(
        " mean ± half of the 95 % interval (Student's t over seeds); below it the paired difference to λ 0;\n"
        " best: on held-out images; sparsest: the largest λ within a standard error of it\n"
        " active: norm above 1 % of the largest, which says little where all are small (curves.csv has the penalty's value)",
        style="dim",
        soft_wrap=True,
    )


def summary_table(title: str, rows: list[Row], pruned: dict[float, Row]) -> Table:
    """A line a λ of one setting; those that were pruned have no numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)  # two columns more for 80 of them
    for name in ("λ", "seeds", *SHOWN, "chosen"):
        table.add_column(name, justify="left" if name == "chosen" else "right", no_wrap=True)
    for lam in sorted({row["lam"] for row in rows} | set(pruned)):
        if lam in pruned:
            table.add_row(f"{lam:g}", "", *[UNDEFINED] * len(SHOWN), "pruned", end_section=True)
            continue
        found = {row["metric"]: row for row in rows if row["lam"] == lam}
        first = next(iter(found.values()))
        cells = [plus_minus(found[metric], scale, digits) for metric, scale, digits in SHOWN.values()]
        table.add_row(f"{lam:g}", str(first["seeds"]), *cells, CHOSEN[first["chosen"]], end_section=True)
    return table


CHOSEN = {"": "", "best": "best", "sparsest": "sparsest", "both": "best,\nsparsest"}


def show_commands(console: Console, request: Request, standing: Standing) -> None:
    """A command line for each trial that is not finished."""
    arguments = without(request.arguments, "--engine")
    if not standing.pending():
        failed = f"; {len(standing.failed)} failed before: --retry-failed" if standing.failed else ""
        said = f"nothing to run: {len(standing.rows)} trials have finished{failed}"
        Console(stderr=True).print(said, style="yellow")
    for name in standing.pending():
        console.print(shlex.join(["sparsehead", *arguments, "--trial", name]), soft_wrap=True)


class EpochLines(Callback):
    """Prints a line an epoch, for the log of a trial."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_epoch(self, run: Run, progress: Progress, row: Row) -> None:
        self.console.print(epoch_line(row, 0).replace("/0", ""), soft_wrap=True)
