"""`--prune`: values of λ that others clearly dominate are stopped, by successive halving (Optuna).

A value of λ is pruned with all its seeds: the mean of the seeds that survive would flatter it. It is never averaged and never
chosen. λ 0 is what the others are compared with, and stays.
"""

import dataclasses
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.config import FIELDS, Config
from sparsehead_cli.runs.folder import identity_columns
from sparsehead_cli.runs.table_files import read_csv, replace_csv
from sparsehead_cli.study.results import CURVES_CSV, PRUNED_CSV
from sparsehead_cli.sweep.trial import setting_columns

Row = dict[str, str]
FACTOR = 2  # one in so many goes on at each rung
FIRST_RUNG = 4  # the first rung is after this part of a run's epochs, the next ones each FACTOR times later
ERRORS = 2  # standard errors that something must be behind the best to be clearly dominated
LOOK_SECONDS = 1.0
UNPENALISED = {name: FIELDS[name].default for name in ("penalty", "groups", "solver")}


class Halving:
    """Successive halving over the values of λ of each method, penalty, solver and dimension; what it is spent on are epochs.

    A value's epochs are those of its seeds, one seed after the other, and what it has reached after so many is the mean
    over these seeds of the kNN accuracy on held-out images. At a rung it is pruned where that is not in the better half of
    those that have been there, and lies ERRORS standard errors of such an accuracy, √(p (1 - p) / N), below the best of
    them. All values have seen the same seeds there, so the comparison is paired.

    `configs` are a sweep's trials by their runs' names, `pruned` rows of PRUNED_CSV. Raises: SparseheadError without Optuna.
    """

    def __init__(self, configs: dict[str, Config], folder: Path, pruned: list[Row]) -> None:
        optuna = require_optuna()
        self.configs, self.folder, self.rows = configs, folder, list(pruned)
        first = next(iter(configs.values()))
        self.images = len(load_split(first.dataset, "val", first.data_dir))
        self.curves: dict[str, list[Row]] = defaultdict(list)  # of runs whose folders are gone
        for row in read_csv(folder / CURVES_CSV):
            self.curves[row["run"]].append(row)
        self.looked, self.out = -LOOK_SECONDS, dropped(configs, self.rows)
        self.studies = []  # (Optuna's study, its trial of each value: the runs of a value by their seeds -> trial)
        for values in competitors(configs):
            rung = max(1, configs[values[0][0]].epochs // FIRST_RUNG)
            halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=rung, reduction_factor=FACTOR)
            study = optuna.create_study(direction="maximize", pruner=halving)
            self.studies.append((study, {names: study.ask() for names in values}))

    def unwanted(self) -> set[str]:
        """Now and then look at what the trials have reached; the names of all that need not go on or begin."""
        if time.monotonic() - self.looked < LOOK_SECONDS:
            return self.out
        self.looked = time.monotonic()
        for study, trials in self.studies:
            for names, trial in trials.items():
                for name, epoch, step, reached in self.reached(names):
                    others = study.get_trials(deepcopy=False)
                    if step in others[trial.number].intermediate_values:
                        continue
                    trial.report(reached, step)
                    best = max(other.intermediate_values.get(step, 0.0) for other in others)
                    behind = best - reached > ERRORS * math.sqrt(best * (1 - best) / self.images)
                    if trial.should_prune() and behind and self.configs[name].lam > 0:
                        self.keep(name, epoch, reached, best)
        self.out = dropped(self.configs, self.rows)
        return self.out

    def reached(self, names: tuple[str, ...]) -> Iterator[tuple[str, int, int, float]]:
        """(run, its epoch, epochs of all seeds so far, their mean accuracy) of one value of λ, seed after seed."""
        before: list[float] = []
        for name in names:
            epochs = self.configs[name].epochs
            rows = read_csv(self.folder / name / "metrics.csv") or self.curves[name]
            accuracies = [float(row["knn_accuracy"]) for row in rows]
            for epoch, accuracy in enumerate(accuracies, 1):
                yield name, epoch, len(before) * epochs + epoch, statistics.fmean([*before, accuracy])
            if len(rows) < epochs:
                return
            before.append(accuracies[-1])

    def keep(self, name: str, epoch: int, reached: float, best: float) -> None:
        """A row of PRUNED_CSV for the value of λ of a run, unless it has one."""
        if name in dropped(self.configs, self.rows):
            return
        config = self.configs[name]
        numbers = {"epoch": epoch, "mean_knn_accuracy": reached, "best_knn_accuracy": best}
        self.rows.append({**identity_columns(config, name), **setting_columns(config), **numbers})
        replace_csv(self.folder / PRUNED_CSV, self.rows)


def require_optuna() -> ModuleType:
    """Optuna, quiet. Raises: SparseheadError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise SparseheadError("--prune needs Optuna, which is not installed: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def competitors(configs: dict[str, Config]) -> list[list[tuple[str, ...]]]:
    """Lists of what differs in λ alone: each value of λ as the names of its runs, by seed.

    λ 0 competes with each penalty, grouping and solver of its kind.
    """
    values: dict[str, list[str]] = defaultdict(list)
    for name, config in configs.items():
        values[repr(dataclasses.replace(config, seed=0))].append(name)
    found: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for names in values.values():
        config = dataclasses.replace(configs[names[0]], seed=0, lam=0.0)
        if configs[names[0]].lam > 0:
            zero = values.get(repr(dataclasses.replace(config, **UNPENALISED)), [])
            found[repr(config)] += [tuple(zero)] if zero and not found[repr(config)] else []
            found[repr(config)].append(tuple(names))
    return list(found.values())


def dropped(configs: dict[str, Config], rows: list[Row]) -> set[str]:
    """The names of all trials, of whatever seed, of the values of λ that `rows` of PRUNED_CSV name."""
    pruned = {repr(dataclasses.replace(configs[row["run"]], seed=0)) for row in rows if row["run"] in configs}
    return {name for name, config in configs.items() if repr(dataclasses.replace(config, seed=0)) in pruned}
