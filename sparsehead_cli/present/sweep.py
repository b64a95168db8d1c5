"""A sweep over λ as people see it: its trials while they run, and what `sparsehead sweep-lambda` prints."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from rich.live import Live

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.interrupts import stopped_by
from sparsehead_cli.machine.launch import without
from sparsehead_cli.present.console import Console, Display, terminal_table
from sparsehead_cli.present.figures import FORMATS, save_figure
from sparsehead_cli.present.pretrain import StepLines, epoch_line
from sparsehead_cli.present.study_figures import figures_of_sweep, remove_outdated, sweep_figure_names
from sparsehead_cli.present.summary import show_summary
from sparsehead_cli.present.table import Cell, Column, Table
from sparsehead_cli.runs.folder import locked
from sparsehead_cli.runs.readable import counted, duration
from sparsehead_cli.runs.run import Progress, Run
from sparsehead_cli.runs.table_files import Row, frame, read_csv
from sparsehead_cli.runs.tables import NO_REGULARISER, USUAL, USUAL_PROJECTOR, penalty_name
from sparsehead_cli.runs.views import described
from sparsehead_cli.study.results import CURVES_CSV, PRUNED_CSV, SUMMARY_CSV, SWEEP_CSV, plan_above, read_sweep
from sparsehead_cli.study.summary import CURES, SETTING, SHARED, without_pruned
from sparsehead_cli.sweeps.engines import Task, default_jobs
from sparsehead_cli.sweeps.on_slurm import array_jobs
from sparsehead_cli.sweeps.request import SweepRequest
from sparsehead_cli.sweeps.sweep import Reached, SweepState, seconds_left, sweep
from sparsehead_cli.sweeps.trial import LOG

REFRESH_SECONDS = 2.0
LOG_SECONDS = 60.0  # between two lines about running trials, where no terminal shows a table of them
ENOUGH_SEEDS = 5  # an interval is Student's t standard errors to either side: 2.8 of them with 5 seeds, 12.7 with 2
RUNNING = {  # what the table of running trials shows: numbers of metrics.csv, and their columns
    "loss": Column("loss", digits=3),
    "knn_accuracy": Column("kNN", digits=1, scale=100, suffix=" %"),
    "effective_rank_r": Column("rank of r", digits=1),
    "effective_rank_z": Column("rank of z", digits=1),
}
ELSEWHERE = {"ray": "on Ray", "slurm": "as jobs of Slurm"}  # where trials run that are not this machine's


class SweepDisplay(Display):
    """One line for each trial that ends; on a terminal, below these, a live table of the trials that run (`moving`)."""

    def __init__(self, console: Console, request: SweepRequest, state: SweepState) -> None:
        super().__init__(console, Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None)
        self.request, self.state = request, state
        self.named = set(state.rows) | set(state.failed)  # trials that have their line, or ended before this sweep
        self.refreshed, self.estimated = 0.0, False  # when it was refreshed last; whether the time was said
        self.logged = time.monotonic()  # when, without a terminal, the last line about running trials was printed

    def __enter__(self) -> "SweepDisplay":
        state = self.state
        pending = len(state.pending())
        self.say(f"{len(state.configs)} trials in {state.folder}: {ended(state)}")
        self.say(f"each of {data_of(state)}")
        for line in notes_of(state):
            self.say(line)
        if state.failed:
            self.say("failed ones are run again with --retry-failed")
        for line in lams_of(state) if self.request.grid.auto else ():
            self.say(line)
        if pending:
            where = ELSEWHERE.get(self.request.engine) or f"{self.request.jobs or default_jobs()} at a time"
            self.say(f"{pending} to run, {where}; the time is estimated once a trial has begun")
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
                probe = f"linear probe {100 * float(row['accuracy']):.1f} %"
                self.say("  ".join([f"{done}/{len(state.configs)}", name, *cures_of(row), probe]))
        if running and time.monotonic() - self.refreshed > REFRESH_SECONDS:
            self.refreshed = time.monotonic()
            self.refresh({task.folder.name: Reached.read(task.folder) for task in running})

    def refresh(self, running: dict[str, Reached]) -> None:
        """Say once how long all will take; then show the live table, or print a line now and then where there is no terminal."""
        left = seconds_left(self.state, running)
        if left is not None and not self.estimated:
            self.estimated = True
            trials = len(self.state.pending())
            self.say(f"about {duration(left)} for the {trials} trial{'s that are' if trials > 1 else ' that is'} left")
        if self.moving:
            table = running_table(self.state, running, left)
            self.moving.update(terminal_table(table, self.console.width), refresh=True)
        elif time.monotonic() - self.logged > LOG_SECONDS:
            self.logged = time.monotonic()
            self.say(running_line(self.state, running, left))


def cures_of(row: Row) -> list[str]:
    """The regularisers and the head of a trial, where they are not the usual ones; its name does not say them."""
    return [row[column] for column in CURES if row[column] != USUAL[column]]


def ended(state: SweepState) -> str:
    """How many trials are over before a sweep goes on."""
    return f"{len(state.rows)} finished, {len(state.failed)} failed before"


def data_of(state: SweepState) -> str:
    """What the trials are trained on, and for how long."""
    configs = state.configs.values()
    epochs = sorted({config.all_epochs for config in configs})
    count = counted(epochs[-1], "epoch")
    return f"{', '.join(dict.fromkeys(config.dataset for config in configs))}, {f'{epochs[0]} to ' * (len(epochs) > 1)}{count}"


def running_title(state: SweepState, left: float | None) -> str:
    """How far a sweep is, and how many seconds are `left`."""
    title = f"{len(state.rows)} of {len(state.configs)} trials finished"
    return title if left is None else f"{title}, about {duration(left)} left"


def running_table(state: SweepState, running: dict[str, Reached], left: float | None) -> Table:
    """How far each running trial is, under a title that says how far all are."""
    table = Table(running_title(state, left), [Column("running", text=True), Column("epochs", text=True), *RUNNING.values()])
    for name, reached in running.items():
        last = reached.rows[-1] if reached.rows else {}
        table.add(Cell(name), Cell(epochs_text(state, name, reached)), *(Cell(last.get(metric)) for metric in RUNNING))
    return table


def running_line(state: SweepState, running: dict[str, Reached], left: float | None) -> str:
    """The same in one line, for a log."""
    trials = [f"{name} {epochs_text(state, name, reached)}" for name, reached in running.items()]
    return f"{running_title(state, left)}; running: {', '.join(trials)}"


def epochs_text(state: SweepState, name: str, reached: Reached) -> str:
    """How far a trial is: 3.4 of 10, which is 40 % of its fourth epoch; in the end it is evaluated."""
    epochs = reached.beat.epochs if reached.beat else state.configs[name].all_epochs
    whole = float(reached.epochs).is_integer()
    return f"{reached.epochs:.{0 if whole else 1}f} of {epochs}{', evaluating' if reached.epochs >= epochs else ''}"


def stop_text(request: SweepRequest, state: SweepState) -> str:
    """What a sweep that was stopped keeps, and what the same command does next."""
    pending = state.pending()
    begun = sum((state.folder / name / "checkpoint.pt").exists() for name in pending)
    kept = f" and are in {SWEEP_CSV}" + " and the figure" * (plan_above(state.folder) is None) if state.rows else ""
    text = f"{len(state.rows)} of {counted(len(state.configs), 'trial')} have finished{kept}. "
    if begun:
        last = "step" if request.engine == "local" else "epoch"
        text += f"Of those that had not, {begun} had begun; the folder of each holds it as it was after its last {last}. "
    goes_on = f", goes on with the {begun} begun" if begun else ""
    starts = f", starts {len(pending) - begun} more" if len(pending) > begun else ""
    text += f"The same command goes on: it repeats no finished trial{goes_on}{starts}."
    jobs = array_jobs([state.folder / name for name in pending]) if request.engine == "slurm" else []
    if jobs and request.limits.cluster == "slurm":
        text += f" The jobs run on meanwhile, and it picks up what they leave; `scancel {' '.join(jobs)}` ends them."
    return text


def run_sweep(console: Console, request: SweepRequest, state: SweepState) -> None:
    """Run a sweep: show its progress, draw its figure, also where it is stopped, and print its answer.

    Raises: SparseheadError where trials failed; Stopped where it was interrupted.
    """
    rows, summary = watched_sweep(console, request, state)
    show_sweep(console, state, rows, summary)


def watched_sweep(console: Console, request: SweepRequest, state: SweepState) -> tuple[list[Row], list[Row]]:
    """`sweep`, with its progress shown and its figure drawn, also where it is stopped. Raises: as `run_sweep`, but for failures."""
    try:
        with locked(state.folder, "another sweep runs here"), SweepDisplay(console, request, state) as display:
            try:
                return sweep(request, state, display.watch)
            finally:
                draw_sweep(state.folder)
    except KeyboardInterrupt as interrupt:
        raise stopped_by(interrupt, stop_text(request, state)) from None


def draw_sweep(folder: Path) -> None:
    """Draw the figures of a sweep from the trials that have finished; without any, draw nothing.

    Nor of a plan's fresh seeds, of which nothing is compared before its time.
    """
    if plan_above(folder):
        return
    trials = without_pruned(list(read_sweep(folder).values()), read_csv(folder / PRUNED_CSV))
    summary = frame(folder / SUMMARY_CSV, text=SETTING).to_dict("records")
    if not summary:  # what ended the sweep may have come before its tables
        return
    figures = figures_of_sweep(trials, summary)
    for name, (figure,) in figures.items():
        save_figure(figure, folder / name)
    remove_outdated(figures, folder)


def show_sweep(console: Console, state: SweepState, rows: list[Row], summary: list[Row]) -> None:
    """The answer, and where the files are. Raises: SparseheadError where not all trials finished."""
    show_summary(console, summary, state.pruned())
    if state.halving and not state.pruned():
        console.print(" --prune: nothing was clearly dominated", style="dim")
    fewest = min((row["seeds"] for row in summary), default=0)
    if fewest < ENOUGH_SEEDS:
        few = f" few seeds make wide intervals, and by luck narrow ones; --seeds {ENOUGH_SEEDS} goes on from these"
        console.print(few, style="dim", soft_wrap=True)
    figures = [f"{name}.{kind}" for name in sweep_figure_names(rows, summary) for kind in FORMATS[:2]]
    files = f"{SWEEP_CSV} ({len(rows)} trials), {', '.join([SUMMARY_CSV, CURVES_CSV, *figures])}"
    console.print(f" files   {state.folder}/: {files}", soft_wrap=True)
    console.print(f" page    of all of it: sparsehead report {shlex.quote(str(state.folder))}", soft_wrap=True)
    for line in next_step(state.folder, rows, summary):
        console.print(line, soft_wrap=True)
    lams = {float(row["lam"]) for row in rows}
    if 0 in lams and len(lams) > 1:
        seeds = f"--seeds {ENOUGH_SEEDS} " if fewest < 2 else ""  # a pilot needs two, to know how far they scatter
        console.print(f" test    what was chosen on fresh seeds: the same command with {seeds}--confirm 16", soft_wrap=True)
    require_all(state)


def next_step(folder: Path, rows: list[Row], summary: list[Row]) -> list[str]:
    """What to type next: the spectra of a run at λ 0, and of one at the first λ above 0 that was chosen, or else at the largest."""
    best = next((row for row in summary if row["chosen"] in ("best", "both") and float(row["lam"]) > 0), None)
    alike = [row for row in rows if best is None or all(str(row[column]) == str(best[column]) for column in SETTING)]
    above = [row for row in alike if float(row["lam"]) == (float(best["lam"]) if best else max(float(row["lam"]) for row in alike))]
    if not above or float(above[0]["lam"]) == 0:
        return []
    same = [column for column in SETTING if column not in SHARED]
    zero = [row for row in rows if float(row["lam"]) == 0 and all(row[column] == above[0][column] for column in same)]
    runs = [str(folder / row["run"]) for row in (*zero[:1], above[0])]
    command = shlex.join(["sparsehead", "spectrum", *runs, "--out", str(folder)])
    return [f" next    what λ {float(above[0]['lam']):g} does to the spectra: {command}"]


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
    return list(dict.fromkeys([*lines, *lacking(state)]))


def lacking(state: SweepState) -> list[str]:
    """What a grid lacks to compare with."""
    configs = state.configs.values()
    lams, cures, heads = ({getattr(config, name) for config in configs} for name in ("lam", "regularisers", "projector"))
    own = "is not among them, so that each is compared with its own λ 0"
    lines = [f"regularisers: {NO_REGULARISER} {own}"] * (len(cures) > 1 and None not in cures)
    if len(heads) > 1 and USUAL_PROJECTOR not in heads:
        lines.append(f"projectors: {USUAL_PROJECTOR} {own}")
    if 0 not in lams:
        lines.append("λ: 0 is not among its values, so that there is nothing to compare with")
    elif len(lams) == 1 and USUAL_PROJECTOR not in heads:
        lines.append("λ: 0 is its only value, since no head has weights to penalise; put mlp among --projectors")
    elif len(lams) == 1:
        lines.append("λ: 0 is its only value; others are given as in --lams 0,1e-4,1e-3")
    return lines


def lams_of(state: SweepState) -> list[str]:
    """The values of λ that auto has chosen, one line per setting; 0 is in each, and named first."""
    lams: dict[str, list[str]] = {}  # setting -> the others, as text
    for config in state.configs.values():
        penalty = penalty_name(config.penalty, config.groups, config.layers, config.lam_schedule)
        name = f"{config.method}, {penalty}, {config.solver}, E = {config.projector_out}"
        lam = f"{config.lam:g}"
        if config.lam and lam not in lams.setdefault(name, []):
            lams[name].append(lam)
    return [f"{name}: λ 0, {', '.join(values)}" for name, values in lams.items()]


def show_commands(console: Console, state: SweepState, arguments: Sequence[str]) -> None:
    """Print one command line for each trial that is not finished, from the `arguments` of the sweep."""
    arguments = without(without(arguments, "--trial"), "--engine")  # each runs one trial, and prints no commands
    if not state.pending():
        failed = f"; {len(state.failed)} failed before: --retry-failed" if state.failed else ""
        line = f"nothing to run: {len(state.rows)} trials have finished{failed}"
        Console(stderr=True).print(line, style="yellow")  # stdout has nothing but commands
    for name in state.pending():
        console.print(shlex.join(["sparsehead", *arguments, "--trial", name]), soft_wrap=True)


class EpochLines(StepLines):
    """Prints one line per epoch, and more of them within long ones, for the log of a trial."""

    def on_epoch(self, run: Run, progress: Progress, row: Row) -> None:
        self.console.print(epoch_line(row), soft_wrap=True)
