"""`--prune`: values of λ that are clearly dominated are stopped, by successive halving within each seed (Optuna).

What is pruned is pruned as a value of λ, with all its seeds: the mean of the seeds that survive would flatter it. It is never
averaged and never chosen. λ 0 is what the others are compared with, and stays.
"""

import dataclasses
import math
from collections import defaultdict
from pathlib import Path

from sparsehead_cli.config import FIELDS, Config
from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.files import read_csv, replace_csv
from sparsehead_cli.study.engines import Task
from sparsehead_cli.study.summary import SETTING
from sparsehead_cli.study.trial import setting_columns
from sparsehead_cli.training.folder import identity_columns

Row = dict[str, str]
PRUNED_CSV = "pruned.csv"
FACTOR = 2  # one in so many goes on at each rung
RUNGS = 5  # the first rung is after 1/RUNGS of the epochs, the next ones each FACTOR times later
UNPENALISED = {name: FIELDS[name].default for name in ("penalty", "groups", "solver")}


class Halving:
    """Successive halving over the values of λ, those of the same seed and otherwise equal settings against each other.

    A trial is stopped at a rung where its kNN accuracy on held-out images is not in the better half of those that have
    been there, and lies more than a standard error of such an accuracy, √(p (1 - p) / N), below the best of them.

    Raises: SparseheadError without Optuna.
    """

    def __init__(self, configs: dict[str, Config], folder: Path) -> None:
        self.optuna = require_optuna()
        self.configs, self.folder = configs, folder
        self.rows = {row["run"]: row for row in read_csv(folder / PRUNED_CSV)}
        first = next(iter(configs.values()))
        self.images = len(load_split(first.dataset, "val", first.data_dir))
        self.studies = {}
        self.trials = defaultdict(list)  # run -> (its study, its trial there): λ 0 has one for each penalty
        for key, names in competitors(configs).items():
            epochs = configs[names[0]].epochs
            halving = self.optuna.pruners.SuccessiveHalvingPruner(max(1, epochs // RUNGS), reduction_factor=FACTOR)
            self.studies[key] = self.optuna.create_study(direction="maximize", pruner=halving)
            for name in names:
                self.trials[name].append((self.studies[key], self.studies[key].ask()))
        for name in configs:  # of an earlier call of the same command
            self.report(name)

    def unwanted(self, running: list[Task]) -> set[str]:
        """Look at the running trials; the names of all that need not go on or begin."""
        for task in running:
            self.report(task.folder.name)
        return dropped(self.configs, list(self.rows.values()))

    def report(self, name: str) -> None:
        """Tell what a trial has reached, epoch by epoch; where that is too little, keep a row in PRUNED_CSV."""
        for row in read_csv(self.folder / name / "metrics.csv"):
            epoch, accuracy = int(row["epoch"]), float(row["knn_accuracy"])
            for study, trial in self.trials[name]:
                if epoch in study.trials[trial.number].intermediate_values:
                    continue
                trial.report(accuracy, epoch)
                best = max(other.intermediate_values.get(epoch, 0.0) for other in study.trials)
                behind = best - accuracy > math.sqrt(best * (1 - best) / self.images)
                goes_on = epoch == self.configs[name].epochs or self.configs[name].lam == 0
                if trial.should_prune() and behind and not goes_on and name not in self.rows:
                    self.rows[name] = self.row(name, epoch, accuracy, best)
                    replace_csv(self.folder / PRUNED_CSV, list(self.rows.values()))

    def row(self, name: str, epoch: int, accuracy: float, best: float) -> dict[str, object]:
        config = self.configs[name]
        reached = {"epoch": epoch, "knn_accuracy": accuracy, "best_knn_accuracy": best}
        return {**identity_columns(config, name), **setting_columns(config), **reached}


def require_optuna() -> object:
    """Optuna, quiet. Raises: SparseheadError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise SparseheadError("--prune needs Optuna, which is not installed: pip install 'sparsehead[prune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def competitors(configs: dict[str, Config]) -> dict[str, list[str]]:
    """Names of runs that differ in λ alone; one with λ 0 competes with each penalty, grouping and solver of its kind."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, config in configs.items():
        if config.lam > 0:
            found[repr(dataclasses.replace(config, lam=0.0))].append(name)
    unpenalised = {repr(config): name for name, config in configs.items() if config.lam == 0}
    for names in found.values():
        zero = unpenalised.get(repr(dataclasses.replace(configs[names[0]], lam=0.0, **UNPENALISED)))
        names += [zero] if zero else []
    return found


def dropped(configs: dict[str, Config], rows: list[Row]) -> set[str]:
    """The names of all trials, of whatever seed, of the values of λ that `rows` of PRUNED_CSV name."""
    pruned = {repr(dataclasses.replace(configs[row["run"]], seed=0)) for row in rows if row["run"] in configs}
    return {name for name, config in configs.items() if repr(dataclasses.replace(config, seed=0)) in pruned}


def without_pruned(trials: list[Row], pruned: list[Row]) -> list[Row]:
    """The rows of sweep.csv that may be averaged: none of a value of λ that was pruned in any seed."""

    def value(row: Row) -> tuple:
        return (*(str(row[column]) for column in SETTING), float(row["lam"]))

    out = {value(row) for row in pruned}
    return [row for row in trials if value(row) not in out]
