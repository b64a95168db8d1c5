"""`--prune`: values of λ that others clearly dominate are stopped, by successive halving.

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

from sparsehead_cli.runs.config import FIELDS, Config
from sparsehead_cli.runs.folder import identity_columns
from sparsehead_cli.runs.readable import number
from sparsehead_cli.runs.table_files import Row, frame, read_csv, replace_csv
from sparsehead_cli.runs.tables import METRICS
from sparsehead_cli.study.results import CURVES_CSV, PRUNED_CSV
from sparsehead_cli.sweeps.auto import read_tasks
from sparsehead_cli.sweeps.trial import setting_columns

FIRST_RUNG = 4  # the first rung is after this part of a run's epochs, the next ones each twice as late
ERRORS = 2  # standard errors that something must be behind the best to be clearly dominated
READ_SECONDS = 1.0  # between two readings of what the trials have reached
UNPENALISED = {name: FIELDS[name].default for name in ("penalty", "groups", "solver")}

Value = tuple[str, ...]  # a value of λ: the names of its runs, by seed


class Halving:
    """Which trials of a sweep need not go on or begin: successive halving of the values of λ of each setting.

    A value's epochs are those of its seeds, one seed after the other, and what it has reached after so many is the mean
    over these seeds of the kNN accuracy on held-out images. At a rung it is pruned where it does not go on, and lies ERRORS
    standard errors of such an accuracy, √(p (1 - p) / N), below the best that has been there. All values have seen the same
    seeds there, so the comparison is paired.

    `configs` are a sweep's trials by their runs' names, `pruned` rows of PRUNED_CSV.
    """

    def __init__(self, configs: dict[str, Config], folder: Path, pruned: list[Row]) -> None:
        self.configs, self.folder, self.rows = configs, folder, list(pruned)
        first = next(iter(configs.values()))
        tasks = read_tasks(first.dataset, first.data_dir, "val")
        self.images, self.tasks = len(tasks[0]), len(tasks)
        curves = frame(folder / CURVES_CSV)  # of runs whose folders are gone
        self.curves = curves.groupby("run")["knn_accuracy"].agg(list).to_dict()
        self.settings = competitors(configs)
        self.reached: dict[tuple[int, int], dict[Value, float]] = defaultdict(dict)  # setting, rung -> value -> accuracy
        self.was_read, self.dropped = -READ_SECONDS, dropped(configs, self.rows)

    def epochs(self, name: str) -> int:
        """How many a trial has in all its tasks."""
        return self.tasks * self.configs[name].all_epochs

    def unwanted(self) -> set[str]:
        """The names of all trials that need not go on or begin. What trials have reached is read now and then."""
        if time.monotonic() - self.was_read >= READ_SECONDS:
            self.was_read = time.monotonic()
            for setting, values in enumerate(self.settings):
                for value in values:
                    self.compare(setting, value)
        return self.dropped

    def compare(self, setting: int, value: Value) -> None:
        """Take a value of λ to the rungs that it has reached since, and prune it where it must be."""
        first = max(1, self.epochs(value[0]) // FIRST_RUNG)
        for name, epoch, epochs, accuracy in self.means(value):
            if not is_rung(epochs, first) or math.isnan(accuracy):
                continue
            here = self.reached[setting, epochs]
            if value in here:
                continue
            here[value] = accuracy
            best = max(here.values())
            behind = best - accuracy > ERRORS * math.sqrt(best * (1 - best) / self.images)
            config = self.configs[name]
            if behind and config.lam > 0 and name not in self.dropped and not goes_on(accuracy, list(here.values())):
                numbers = {"epoch": epoch, "mean_knn_accuracy": accuracy, "best_knn_accuracy": best}
                self.rows.append({**identity_columns(config, name), **setting_columns(config), **numbers})
                replace_csv(self.folder / PRUNED_CSV, self.rows)
                self.dropped = dropped(self.configs, self.rows)

    def means(self, value: Value) -> Iterator[tuple[str, int, int, float]]:
        """(run, its epoch, epochs of all seeds so far, their mean accuracy) of one value of λ, seed after seed."""
        before: list[float] = []
        for name in value:
            epochs = self.epochs(name)
            rows = read_csv(self.folder / name / METRICS)
            accuracies = [number(row["knn_accuracy"]) for row in rows] or self.curves.get(name, [])
            for epoch, accuracy in enumerate(accuracies, 1):
                yield name, epoch, len(before) * epochs + epoch, statistics.fmean([*before, accuracy])
            if len(accuracies) < epochs:
                return
            before.append(accuracies[-1])


def is_rung(epochs: int, first: int) -> bool:
    """Whether values are compared after so many epochs: first, 2 · first, 4 · first, …"""
    rung, rest = divmod(epochs, first)
    return rest == 0 and rung.bit_count() == 1


def goes_on(accuracy: float, reached: list[float]) -> bool:
    """Whether an accuracy is in the better half of what was `reached` at a rung so far, itself among it.

    Half is rounded down, but the best always goes on. Nobody is stopped by what others reach later. Source: successive halving
    (Jamieson and Talwalkar 2016) without waiting for all (Li et al. 2020), as in Optuna's SuccessiveHalvingPruner.
    """
    return accuracy >= sorted(reached)[-max(1, len(reached) // 2)]


def without_seed(config: Config, **changes: object) -> str:
    """A key that trials share which differ in their seed alone."""
    return repr(dataclasses.replace(config, seed=0, **changes))


def competitors(configs: dict[str, Config]) -> list[list[Value]]:
    """Lists of values that differ in λ alone. λ 0 competes with each penalty, grouping and solver of its kind."""
    values: dict[str, list[str]] = {}
    for name, config in configs.items():
        values.setdefault(without_seed(config), []).append(name)
    competing: dict[str, list[Value]] = {}
    for names in values.values():
        config = configs[names[0]]
        if config.lam > 0:
            others = competing.setdefault(without_seed(config, lam=0.0), [])
            zero = values.get(without_seed(config, lam=0.0, **UNPENALISED))
            if zero and not others:
                others.append(tuple(zero))
            others.append(tuple(names))
    return list(competing.values())


def dropped(configs: dict[str, Config], rows: list[Row]) -> set[str]:
    """The names of all trials, of whatever seed, of the values of λ that `rows` of PRUNED_CSV name."""
    pruned = {without_seed(configs[row["run"]]) for row in rows if row["run"] in configs}
    return {name for name, config in configs.items() if without_seed(config) in pruned}
