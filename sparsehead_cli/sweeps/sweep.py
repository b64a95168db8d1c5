"""`sparsehead sweep-lambda`: a grid -> trials -> sweep.csv -> what they say. What is there already is not run again.

Everything is in the folder RESULTS/EXPERIMENT: a folder a trial, sweep.csv (a row a finished trial, in the order of the grid) and
what is made of it. A sweep that was killed goes on where it was; so does one whose sweep.csv came from somewhere else.
"""

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, Self

from sparsehead_cli.data.datasets import fingerprint_of, require_measurable
from sparsehead_cli.errors import SparseheadError, shown
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.folder import identity_columns, is_other
from sparsehead_cli.runs.readable import number
from sparsehead_cli.runs.settled import check_names, settled
from sparsehead_cli.runs.table_files import Row, read_csv, replace_csv
from sparsehead_cli.runs.tables import METRICS, TABLES, USUAL, VARIED
from sparsehead_cli.study.curves import keep_curves
from sparsehead_cli.study.results import PRUNED_CSV, SUMMARY_CSV, SWEEP_CSV, plan_above, read_sweep
from sparsehead_cli.study.summary import summarise, without_pruned
from sparsehead_cli.sweeps.auto import auto_lams, read_tasks
from sparsehead_cli.sweeps.beat import Beat
from sparsehead_cli.sweeps.buildable import require_all_buildable
from sparsehead_cli.sweeps.engines import OnPoll, Outcome, Task, default_jobs, run_local
from sparsehead_cli.sweeps.grid import trials
from sparsehead_cli.sweeps.on_ray import check_ray, run_ray
from sparsehead_cli.sweeps.on_slurm import require_submitit, run_slurm
from sparsehead_cli.sweeps.prune import Halving, dropped
from sparsehead_cli.sweeps.request import SweepRequest
from sparsehead_cli.sweeps.trial import FAILED, TRIAL, folder_of, run_trial, setting_columns
from sparsehead_cli.training.callbacks import Callback, load_callbacks

EVALUATION_SECONDS = 10  # of a trial's linear evaluation, about
MOST_JOBS = 1_024
BEHIND = 20  # of so many rows of sweep.csv, one at most is not written yet while trials run
TOLD_BY = ("method", "dataset", "backbone", "penalty", "solver", "lam", "seed", *VARIED)  # columns that tell trials apart
ENGINES = ("local", "ray", "slurm", "print")


@dataclass
class SweepState:
    """Where a sweep is: its trials by their runs' names in the order of the grid, the rows of the finished, why others failed.

    With `halving`, of --prune, trials of values of λ that are dominated are not waited for.
    """

    folder: Path
    configs: dict[str, Config]
    rows: dict[str, Row] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    halving: Halving | None = None
    saved: int = 0  # rows that sweep.csv had when it was written last

    def pending(self) -> list[str]:
        """The trials that neither finished nor failed nor were pruned."""
        out = self.halving.dropped if self.halving else set()
        return [name for name in self.configs if name not in self.rows and name not in self.failed and name not in out]

    def pruned(self) -> list[Row]:
        """The rows of pruned.csv."""
        return read_csv(self.folder / PRUNED_CSV)

    def finished(self, name: str, row: Row) -> None:
        """Take in a trial that has finished, and write sweep.csv where a twentieth of its rows, or more, are new.

        After each trial anew it would be written in a time that grows with the square of their number. The trial's own file has
        the row meanwhile.
        """
        self.rows[name] = row
        if BEHIND * (len(self.rows) - self.saved) >= len(self.rows):
            self.save()

    def save(self) -> list[Row]:
        """Write sweep.csv, and return its rows."""
        rows = [self.rows[name] for name in self.configs if name in self.rows]
        if rows:
            replace_csv(self.folder / SWEEP_CSV, rows)
        self.saved = len(rows)
        return rows


Watch = Callable[[SweepState, list[Task]], None]  # is called with the tasks that run, a few times a second


def check_request(request: SweepRequest) -> None:
    """Raises: SparseheadError for what cannot be done, before anything is read."""
    if request.engine not in ENGINES:
        raise SparseheadError(f'unknown engine "{request.engine}"; known: {", ".join(ENGINES)}.')
    if request.address and request.engine != "ray":
        raise SparseheadError(f"--address {request.address} is of a Ray cluster: it needs --engine ray.")
    if request.engine == "ray":
        check_ray(request.address)
    if request.engine == "slurm":
        require_submitit(request.limits)
    if request.prune and request.engine == "print":
        raise SparseheadError("--prune needs somebody who watches the trials: --engine local, ray or slurm.")
    if request.jobs is not None and not 1 <= request.jobs <= MOST_JOBS:
        raise SparseheadError(f"jobs must be at least 1 and at most {MOST_JOBS:,}, given {shown(request.jobs)}.")
    load_callbacks(request.callbacks)


def read_state(request: SweepRequest) -> SweepState:
    """Read what is there. Raises: SparseheadError for a wrong request or grid, trials that can never be trained among it, and for a
    folder that holds another sweep.
    """
    state = state_of(request)
    if request.engine != "print":  # whose trials may run where there is what this machine lacks
        require_all_buildable((state.configs[name] for name in state.pending()), here=request.engine == "local")
    return state


def state_of(request: SweepRequest) -> SweepState:
    """As `read_state`, where nobody but the trials themselves looks at whether they can be trained."""
    check_request(request)
    auto = partial(auto_lams, read=cache(read_tasks))
    configs = trials(request.grid, request.experiment, request.experiments, auto)
    for config in {(c.method, c.penalty, c.solver, c.groups, c.regularisers, c.projector): c for c in configs}.values():
        check_names(config)
    configs = settle_all(configs)
    named = {folder_of(config).name: config for config in configs}
    state = SweepState(folder_of(configs[0]).parent, named)
    read_known(request, state)
    if request.prune:
        state.halving = Halving(state.configs, state.folder, state.pruned())
    return state


def read_known(request: SweepRequest, state: SweepState) -> None:
    """Put into a state which of its trials have finished or failed. Raises: SparseheadError for a folder of another sweep."""
    state.rows = known_rows(state)
    require_same_images(state)
    for name in state.pending():
        reason = state.folder / name / FAILED
        if reason.exists() and not request.retry_failed:
            state.failed[name] = reason.read_text(encoding="utf-8", errors="replace").strip()


def settle_all(configs: list[Config]) -> list[Config]:
    """The trials with the settings that follow the images, which are looked at once. Raises: SparseheadError.

    A sweep compares accuracies on test images: without them, or their labels, it is an error now, and not after hours.
    """
    looked: dict[tuple, Config] = {}
    result = []
    for config in configs:
        of_images = (config.dataset, config.data_dir, config.image_size, config.cache)
        if of_images not in looked:
            require_measurable(config.dataset, config.data_dir, "a sweep compares accuracies")
            looked[of_images] = settled(config)
        same = looked[of_images]
        result.append(replace(config, image_size=same.image_size, cache=same.cache))
    return result


def known_rows(state: SweepState) -> dict[str, Row]:
    """The rows of sweep.csv, and of trials that finished since. Raises: SparseheadError for a damaged or foreign sweep.csv."""
    path, rows = state.folder / SWEEP_CSV, read_sweep(state.folder)
    foreign = [name for name in rows if name not in state.configs]
    if foreign:
        results = state.folder.parent
        if results.name in ("", ".."):  # as in --results .
            results = results.resolve() / "mine"
        free = next(name for i in itertools.count(2) if not (name := results.with_name(f"{results.name}-{i}")).exists())
        raise SparseheadError(
            f"{path} has {len(foreign)} trials that are not in this grid ({foreign[0]} …), {differing(state, rows)}: it is another "
            f"sweep's. Choose another --results, such as {free}, or ask for a grid that has them."
        )
    for name, config in state.configs.items():
        if name in rows:
            require_own(path, rows[name], name, config, TABLES[SWEEP_CSV].remedy)
        elif row := row_of_trial(state.folder / name / TRIAL, config):
            rows[name] = row
    return rows


def differing(state: SweepState, rows: Mapping[str, Row]) -> str:
    """What trials in sweep.csv have that none of the grid has: with lam 0.01, epochs 1."""
    asked = [setting_columns(config) | identity_columns(config, name) for name, config in state.configs.items()]
    found = []
    for column in TOLD_BY:
        known = {str(one[column]) for one in asked}
        if others := [value for value in dict.fromkeys(row[column] for row in rows.values()) if value not in known]:
            found.append(f"{column} {', '.join(others)}")
    return f"with {'; '.join(found)}" if found else "with other combinations of its values"


def require_same_images(state: SweepState) -> None:
    """Raises: SparseheadError for a finished trial that was trained on other images than its data set has now."""
    now = cache(fingerprint_of)
    for name, row in state.rows.items():
        config = state.configs[name]
        if row.get("trained_on") and is_other(row["trained_on"], now(config.dataset, config.data_dir)):
            raise SparseheadError(
                f"{state.folder / name} was trained on other images, or other labels, than {config.dataset} has now, and trials "
                "on different ones are not compared. Put them back, or choose another --results."
            )


def row_of_trial(path: Path, config: Config) -> Row | None:
    """A finished trial's own row, or None. Raises: SparseheadError for a file that is damaged, or is another trial's."""
    rows = read_csv(path)
    for row in rows:
        require_own(path, row, path.parent.name, config, TABLES[TRIAL].remedy)
    return rows[0] if rows else None


def require_own(path: Path, row: Row, name: str, config: Config, remedy: str) -> None:
    """Raises: SparseheadError for a row that does not have the settings of the trial whose name it has."""
    expected = {**identity_columns(config, name), **setting_columns(config)}
    if row["projector"] == USUAL["projector"]:  # of a table that was written before there was this column
        row["projector"] = expected["projector"]
    for column in ("run", *TOLD_BY):
        if row[column] != str(expected[column]):
            raise SparseheadError(
                f"{path} is another trial's: {column} is {row[column]}, that of {name} is {expected[column]}. {remedy}"
            )


def sweep(request: SweepRequest, state: SweepState, watch: Watch) -> tuple[list[Row], list[Row]]:
    """Run what is pending; (the rows of sweep.csv, those of sweep_summary.csv). Stopped, it leaves both of what had finished.

    Raises: SparseheadError where no trial has ever finished.
    """
    state.rows |= known_rows(state)  # a sweep that ended since has left more
    tasks = [Task(state.folder / name, state.configs[name], request.callbacks) for name in state.pending()]

    def on_poll(running: list[Task]) -> set[str]:
        watch(state, running)
        return state.halving.unwanted() if state.halving else set()

    try:
        for outcome in run(request, tasks, on_poll):
            name = outcome.task.folder.name
            if outcome.error and state.halving and name in state.halving.dropped:
                continue  # it was stopped because it was pruned
            row = None if outcome.error else row_of_trial(outcome.task.folder / TRIAL, outcome.task.config)
            if row is None:
                state.failed[name] = outcome.error
            else:
                state.finished(name, row)
            watch(state, [])
    finally:
        rows, summary = write_tables(state)
    if not rows:
        again = " --retry-failed runs them again." if state.failed else ""
        raise SparseheadError(f"no trial finished. The first: {next(iter(state.failed.values()), 'nothing was run')}{again}")
    return rows, summary


def run(request: SweepRequest, tasks: list[Task], on_poll: OnPoll) -> Iterator[Outcome]:
    """The tasks on the engine that was asked for."""
    if request.engine == "ray":
        return run_ray(tasks, request.jobs, on_poll, request.address)
    if request.engine == "slurm":
        return run_slurm(tasks, request.jobs, on_poll, request.limits)
    return run_local(tasks, request.jobs or default_jobs(), on_poll)


def write_tables(state: SweepState) -> tuple[list[Row], list[Row]]:
    """Write sweep.csv, sweep_summary.csv and curves.csv, of the trials that have finished; the rows of the first two.

    Of a plan's fresh seeds there is no summary before all are there: it compares them.
    """
    rows = state.save()
    if state.halving is None:
        forget_completed(state)
    if rows:
        keep_curves(state.folder, rows)
    if plan_above(state.folder) and state.configs.keys() - state.rows.keys():
        (state.folder / SUMMARY_CSV).unlink(missing_ok=True)  # which older versions left
        return rows, []
    summary = summarise(without_pruned(rows, state.pruned()))
    if summary:
        replace_csv(state.folder / SUMMARY_CSV, summary)
    return rows, summary


def forget_completed(state: SweepState) -> None:
    """Take values of λ out of pruned.csv whose trials have all finished; those of another grid stay."""
    path, rows = state.folder / PRUNED_CSV, state.pruned()
    kept = [row for row in rows if row["run"] not in state.configs or dropped(state.configs, [row]) - set(state.rows)]
    if not kept:
        path.unlink(missing_ok=True)
    elif len(kept) < len(rows):
        replace_csv(path, kept)


def run_one(request: SweepRequest, name: str, callbacks: Sequence[Callback] = ()) -> None:
    """The trial `name` of the grid, in this process. Raises: SparseheadError for one that is not in it."""
    configs = state_of(request).configs
    if name not in configs:
        raise SparseheadError(f"{name} is no trial of this grid.")
    run_trial(configs[name], [*load_callbacks(request.callbacks), *callbacks])


class Reached(NamedTuple):
    """How far a running trial is: its rows of metrics.csv, and the steps since."""

    rows: list[Row]
    beat: Beat | None = None

    @property
    def epochs(self) -> float:
        """How many epochs are done, with a part of the last one."""
        return max(len(self.rows), self.beat.epochs_done if self.beat else 0)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What a trial has written so far. A damaged table gives no rows: the trial itself ends with that error."""
        try:
            return cls(read_csv(folder / METRICS), Beat.read(folder))
        except SparseheadError:
            return cls([])


def seconds_left(state: SweepState, running: dict[str, Reached]) -> float | None:
    """About how long the pending trials take, as many at a time as now; `running` says how far each running one is.

    Told by what epochs of the sweep took so far, or else by the first steps; None before there are any.
    """
    seconds = [number(row["seconds"]) for reached in running.values() for row in reached.rows]
    trained = {name: float(row["train_seconds"]) for name, row in state.rows.items() if row.get("train_seconds")}
    seconds += [of_run / state.configs[name].all_epochs for name, of_run in trained.items() if name in state.configs]
    seconds = seconds or [reached.beat.epoch_seconds for reached in running.values() if reached.beat]
    if not seconds or not running:
        return None
    pending = state.pending()
    done = {name: reached.epochs for name, reached in running.items()}
    epochs = sum(max(0, state.configs[name].all_epochs - done.get(name, 0)) for name in pending)
    return (epochs * statistics.fmean(seconds) + len(pending) * EVALUATION_SECONDS) / len(running)
