"""`sparsehead sweep-lambda`: a grid -> trials -> sweep.csv -> what they say. What is there already is not run again.

Everything is in the folder RESULTS/EXPERIMENT: a folder a trial, sweep.csv (a row a finished trial, in the order of the grid) and
what is made of it. A sweep that was killed goes on where it was; so does one whose sweep.csv came from somewhere else.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sparsehead_cli.data.datasets import require_known
from sparsehead_cli.errors import SparseheadError, shown
from sparsehead_cli.present.figures import save_figure
from sparsehead_cli.present.figures_sweep import sweep_figure
from sparsehead_cli.runs.build import build, check_names
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.folder import identity_columns
from sparsehead_cli.runs.table_files import read_csv, replace_csv
from sparsehead_cli.runs.tables import HEAD, TABLES
from sparsehead_cli.study.curves import keep_curves
from sparsehead_cli.study.results import FIGURE, PRUNED_CSV, SUMMARY_CSV, SWEEP_CSV, read_sweep
from sparsehead_cli.study.summary import summarise, without_pruned
from sparsehead_cli.sweep.auto import auto_lams
from sparsehead_cli.sweep.engines import Ended, Look, Task, cores, default_jobs, run_local
from sparsehead_cli.sweep.grid import Grid, trials
from sparsehead_cli.sweep.on_ray import check_ray, run_ray
from sparsehead_cli.sweep.prune import Halving, dropped
from sparsehead_cli.sweep.trial import FAILED, TRIAL, folder_of, run_trial, setting_columns
from sparsehead_cli.training.callbacks import Callback
from sparsehead_cli.training.loop import epoch_batches, train_step

Row = dict[str, str]
TIMED_STEPS = (3, 8)  # that the estimate warms up for, and times
EVALUATION_SECONDS = 10  # of a trial's linear evaluation, about
SIDE_BY_SIDE = 1.25  # trials beside each other are slower than one alone, about
MOST_JOBS = 1_024
ENGINES = ("local", "ray", "print")


@dataclass(frozen=True)
class Request:
    """What `sparsehead sweep-lambda` was asked for. `arguments` are those behind `sparsehead`, for the processes of trials."""

    grid: Grid
    experiment: str
    arguments: tuple[str, ...]
    experiments: Path | None = None
    engine: str = "local"
    address: str | None = None
    jobs: int | None = None
    retry_failed: bool = False
    prune: bool = False


@dataclass
class Standing:
    """Where a sweep is: its trials by their runs' names in the order of the grid, the rows of the finished, why others failed.

    With `halving`, of --prune, trials of values of λ that are dominated are not waited for.
    """

    folder: Path
    configs: dict[str, Config]
    rows: dict[str, Row] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    halving: Halving | None = None

    def pending(self) -> list[str]:
        """The trials that neither finished nor failed nor were pruned."""
        out = dropped(self.configs, self.pruned()) if self.halving else set()
        return [name for name in self.configs if name not in self.rows and name not in self.failed and name not in out]

    def pruned(self) -> list[Row]:
        """The rows of pruned.csv."""
        return read_csv(self.folder / PRUNED_CSV)

    def save(self) -> list[Row]:
        """Write sweep.csv, and return its rows."""
        rows = [self.rows[name] for name in self.configs if name in self.rows]
        if rows:
            replace_csv(self.folder / SWEEP_CSV, rows)
        return rows


Watch = Callable[[Standing, list[Task]], None]


def stand(request: Request) -> Standing:
    """Read what is there. Raises: SparseheadError for a wrong grid, and for a folder that holds another sweep."""
    if request.engine not in ENGINES:
        raise SparseheadError(f'unknown engine "{request.engine}"; known: {", ".join(ENGINES)}.')
    if request.address and request.engine != "ray":
        raise SparseheadError(f"--address {request.address} is of a Ray cluster: it needs --engine ray.")
    if request.engine == "ray":
        check_ray(request.address)
    if request.prune and request.engine == "print":
        raise SparseheadError("--prune needs somebody who watches the trials: --engine local or ray.")
    if request.jobs is not None and not 1 <= request.jobs <= MOST_JOBS:
        raise SparseheadError(f"jobs must be at least 1 and at most {MOST_JOBS:,}, given {shown(request.jobs)}.")
    configs = trials(request.grid, request.experiment, request.experiments, auto_lams)
    for config in {(c.method, c.penalty, c.solver, c.groups): c for c in configs}.values():
        check_names(config)
        require_known(config.dataset)
    named = {folder_of(config).name: config for config in configs}
    standing = Standing(folder_of(configs[0]).parent, named)
    standing.rows = known_rows(standing)
    for name in standing.pending():
        reason = standing.folder / name / FAILED
        if reason.exists() and not request.retry_failed:
            standing.failed[name] = reason.read_text(encoding="utf-8", errors="replace").strip()
    if request.prune:
        standing.halving = Halving(standing.configs, standing.folder, standing.pruned())
    return standing


def known_rows(standing: Standing) -> dict[str, Row]:
    """The rows of sweep.csv, and of trials that finished since. Raises: SparseheadError for a damaged or foreign sweep.csv."""
    path, rows = standing.folder / SWEEP_CSV, read_sweep(standing.folder)
    foreign = [name for name in rows if name not in standing.configs]
    if foreign:
        raise SparseheadError(
            f"{path} has {len(foreign)} trials that are not in this grid ({foreign[0]} …): "
            "it is another sweep's. Ask for a grid that has them, or choose another --results."
        )
    for name, config in standing.configs.items():
        if name in rows:
            require_own(path, rows[name], name, config, TABLES[SWEEP_CSV].remedy)
        elif row := row_of_trial(standing.folder / name / TRIAL, config):
            rows[name] = row
    return rows


def row_of_trial(path: Path, config: Config) -> Row | None:
    """A finished trial's own row, or None. Raises: SparseheadError for a file that is damaged, or is another trial's."""
    rows = read_csv(path)
    for row in rows:
        require_own(path, row, path.parent.name, config, TABLES[TRIAL].remedy)
    return rows[0] if rows else None


def require_own(path: Path, row: Row, name: str, config: Config, remedy: str) -> None:
    """Raises: SparseheadError for a row that does not have the settings of the trial whose name it has."""
    own = {**identity_columns(config, name), **setting_columns(config)}
    for column in ("run", "method", "dataset", "backbone", "penalty", "solver", "lam", "seed", *HEAD):
        if row[column] != str(own[column]):
            raise SparseheadError(
                f"{path} is another trial's: {column} is {row[column]}, that of {name} is {own[column]}. {remedy}"
            )


def sweep(request: Request, standing: Standing, watch: Watch) -> tuple[list[Row], list[dict[str, object]]]:
    """Run what is pending; (the rows of sweep.csv, those of sweep_summary.csv). Stopped, it leaves both of what had finished.

    Raises: SparseheadError where no trial has ever finished.
    """
    standing.rows |= known_rows(standing)  # a sweep that ended since has left more
    tasks = [Task(standing.folder / name, standing.configs[name]) for name in standing.pending()]

    def look(running: list[Task]) -> set[str]:
        watch(standing, running)
        return standing.halving.unwanted() if standing.halving else set()

    try:
        for ended in run(request, tasks, look):
            name = ended.task.folder.name
            if ended.error and standing.halving and name in dropped(standing.configs, standing.pruned()):
                continue  # it was stopped because it was pruned
            row = row_of_trial(ended.task.folder / TRIAL, ended.task.config) if not ended.error else None
            if row is None:
                standing.failed[name] = ended.error
            else:
                standing.rows[name] = row
                standing.save()
            watch(standing, [])
    finally:
        rows, summary = tables(standing)
    if not rows:
        again = " --retry-failed runs them again." if standing.failed else ""
        raise SparseheadError(f"no trial finished. The first: {next(iter(standing.failed.values()), 'nothing was run')}{again}")
    return rows, summary


def run(request: Request, tasks: list[Task], look: Look) -> Iterator[Ended]:
    """The tasks on the engine that was asked for."""
    if request.engine == "ray":
        return run_ray(tasks, request.jobs, look, request.address)
    return run_local(tasks, request.jobs or default_jobs(), look)


def tables(standing: Standing) -> tuple[list[Row], list[dict[str, object]]]:
    """Write sweep.csv, what it says, its figure and curves.csv, of the trials that have finished."""
    rows = standing.save()
    if standing.halving is None:
        forget_completed(standing)
    averaged = without_pruned(rows, standing.pruned())
    summary = summarise(averaged)
    if summary:
        replace_csv(standing.folder / SUMMARY_CSV, summary)
        save_figure(sweep_figure(averaged, summary), standing.folder / FIGURE)
        keep_curves(standing.folder, rows)
    return rows, summary


def forget_completed(standing: Standing) -> None:
    """Take values of λ out of pruned.csv whose trials have all finished; those of another grid stay."""
    path, rows = standing.folder / PRUNED_CSV, standing.pruned()
    kept = [row for row in rows if row["run"] not in standing.configs or dropped(standing.configs, [row]) - set(standing.rows)]
    if not kept:
        path.unlink(missing_ok=True)
    elif len(kept) < len(rows):
        replace_csv(path, kept)


def run_one(standing: Standing, name: str, callbacks: Sequence[Callback] = ()) -> None:
    """The trial `name` of the grid, in this process. Raises: SparseheadError for one that is not in it."""
    if name not in standing.configs:
        raise SparseheadError(f"{name} is no trial of this grid.")
    run_trial(standing.configs[name], callbacks)


def estimate(standing: Standing, jobs: int) -> float:
    """About how many seconds the pending trials take, from a few steps of each method."""
    pending = [standing.configs[name] for name in standing.pending()]
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, cores() // jobs))
    total = 0.0
    try:
        for method in dict.fromkeys(config.method for config in pending):
            own = [config for config in pending if config.method == method]
            run = build(own[0])
            batches = itertools.chain.from_iterable(
                epoch_batches(run, epoch * run.steps_per_epoch) for epoch in range(own[0].epochs)
            )
            warm, timed = TIMED_STEPS
            for step in range(warm + timed):
                if step == warm:
                    began = time.perf_counter()
                train_step(run, next(batches), step)
            seconds = (time.perf_counter() - began) / timed
            total += sum(config.epochs for config in own) * run.steps_per_epoch * seconds + EVALUATION_SECONDS * len(own)
    finally:
        torch.set_num_threads(threads)
    return total / jobs * (SIDE_BY_SIDE if jobs > 1 else 1)
