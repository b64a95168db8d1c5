"""Successive halving over λ: who is stopped, what it takes along, and that nobody averages it."""

import random

import pytest

from sparsehead_cli.runs.table_files import read_csv, replace_csv
from sparsehead_cli.study.summary import SETTING, without_pruned
from sparsehead_cli.sweeps import prune
from sparsehead_cli.sweeps.prune import Halving, dropped, goes_on, is_rung
from sparsehead_cli.sweeps.trial import folder_of
from tests.rows import full_row
from tests.test_cli import assert_one_error

EPOCHS = 8  # rungs after 2, 4, 8 epochs of the first seed, 8 of the second


@pytest.fixture
def sweep(tiny, monkeypatch):
    """sweep(λ -> accuracy of each of its seeds after each epoch) -> Halving, whose folder has them."""
    monkeypatch.setattr(prune, "READ_SECONDS", 0)

    def make(reached, dataset="fashion1k", **changes):
        configs = {}
        for seed in range(3):
            for lam in reached:
                config = tiny(dataset=dataset, lam=lam, seed=seed, epochs=EPOCHS, **({} if lam == 0 else changes))
                configs[folder_of(config).name] = config
        folder = folder_of(config).parent
        write(configs, folder, reached)
        return Halving(configs, folder, [])

    return make


def write(configs, folder, reached):
    """metrics.csv of each run."""
    for name, config in configs.items():
        values = enumerate(reached[config.lam][config.seed], 1)
        rows = [full_row("metrics.csv", epoch=i, knn_accuracy=value) for i, value in values]
        if rows:
            (folder / name).mkdir(parents=True, exist_ok=True)
            replace_csv(folder / name / "metrics.csv", rows)


def of(halving, names):
    return sorted((halving.configs[name].lam, halving.configs[name].seed) for name in names)


def test_what_is_clearly_behind_at_a_rung_is_dropped_with_all_its_seeds(sweep):
    halving = sweep({0.0: [[0.7, 0.8], [], []], 1e-3: [[0.7, 0.8], [], []], 1e-1: [[0.7, 0.5], [], []]})
    assert of(halving, halving.unwanted()) == [(1e-1, 0), (1e-1, 1), (1e-1, 2)]
    (row,) = read_csv(halving.folder / "pruned.csv")
    columns = ("lam", "seed", "epoch", "mean_knn_accuracy", "best_knn_accuracy")
    assert [row[column] for column in columns] == ["0.1", "0", "2", "0.5", "0.8"]
    again = Halving(halving.configs, halving.folder, read_csv(halving.folder / "pruned.csv"))
    assert again.unwanted() == halving.unwanted()  # also in a later call, and once
    assert len(read_csv(halving.folder / "pruned.csv")) == 1


def test_nobody_is_dropped_between_rungs_nor_for_less_than_two_standard_errors(sweep):
    error = (0.8 * 0.2 / 96) ** 0.5  # fashion1k holds 96 images out
    assert len(sweep({1e-3: [[], [], []]}).unwanted()) == 0
    assert sweep({0.0: [[0.8], [], []], 1e-1: [[0.1], [], []]}).images == 96
    assert not sweep({0.0: [[0.8], [], []], 1e-1: [[0.1], [], []]}).unwanted()
    assert not sweep({0.0: [[0.8, 0.8], [], []], 1e-1: [[0.8, 0.8 - 1.9 * error], [], []]}).unwanted()
    assert sweep({0.0: [[0.8, 0.8], [], []], 1e-1: [[0.8, 0.8 - 2.1 * error], [], []]}).unwanted()


def test_lam_0_stays_however_bad_it_is(sweep):
    halving = sweep({0.0: [[], [], []], 1e-3: [[0.7, 0.8], [], []], 1e-1: [[0.7, 0.8], [], []]})
    assert not halving.unwanted()
    zero = next(name for name, config in halving.configs.items() if config.lam == 0)
    write({zero: halving.configs[zero]}, halving.folder, {0.0: [[0.2, 0.2], [], []]})  # it comes last, when it could be dropped
    assert not halving.unwanted()


def test_lam_0_competes_with_every_penalty(sweep):
    halving = sweep({0.0: [[0.8, 0.8], [], []], 1e-1: [[0.1, 0.1], [], []]}, penalty="l1", solver="proximal")
    assert of(halving, halving.unwanted()) == [(1e-1, 0), (1e-1, 1), (1e-1, 2)]


def test_later_seeds_count_in_the_mean(sweep):
    """Level after the first seed; 0.3 less in the second are 0.15 less in the mean of both."""
    whole = [0.8] * EPOCHS
    halving = sweep({0.0: [whole, whole, []], 1e-3: [whole, whole, []], 1e-1: [whole, [0.5] * EPOCHS, []]})
    assert of(halving, halving.unwanted()) == [(1e-1, 0), (1e-1, 1), (1e-1, 2)]
    (row,) = read_csv(halving.folder / "pruned.csv")
    assert (row["seed"], row["epoch"]) == ("1", str(EPOCHS))
    assert float(row["mean_knn_accuracy"]) == pytest.approx(0.65)


def test_epochs_are_those_of_all_tasks(sweep):
    """With two tasks of eight epochs the first rung is after four of the first task."""
    early, late = [0.8, 0.5, 0.5], [0.8, 0.8, 0.8, 0.5]
    good = [0.8] * 4
    assert not sweep({0.0: [good, [], []], 1e-1: [early, [], []]}, "tests.tasks:load").unwanted()
    assert sweep({0.0: [good, [], []], 1e-1: [[0.8, 0.5], [], []]}).unwanted()
    halving = sweep({0.0: [good, [], []], 1e-1: [late, [], []]}, "tests.tasks:load")
    assert of(halving, halving.unwanted()) == [(1e-1, 0), (1e-1, 1), (1e-1, 2)]


def test_what_was_pruned_is_not_averaged_in_any_seed():
    def row(lam, seed):
        return {**dict.fromkeys(SETTING, "x"), "lam": lam, "seed": seed}

    trials = [row("0.0", "0"), row("0.1", "0"), row("0.1", "1"), {**row("0.1", "0"), "method": "byol"}]
    assert without_pruned(trials, [row("1e-1", "1")]) == [trials[0], trials[3]]
    assert without_pruned(trials, []) == trials


def test_dropped_knows_only_its_own_grid(tiny):
    assert dropped({"a": tiny()}, [{"run": "another"}]) == set()


def test_without_prune_what_was_pruned_is_pending_again(sparsehead, tmp_path, monkeypatch):
    from tests.sweeps.conftest import SMALL

    arguments = ["sweep-lambda", *SMALL, "--dataset", "fashion1k", "--results", tmp_path]
    lines = sparsehead(*arguments, "--engine", "print")[1].splitlines()
    runs = [line.split()[-1] for line in lines]
    folder = tmp_path / "lambda-quick"
    for name, value in zip(runs[:2], (0.8, 0.2), strict=True):
        (folder / name).mkdir(parents=True)
        replace_csv(folder / name / "metrics.csv", [full_row("metrics.csv", epoch=1, knn_accuracy=value)])
    from sparsehead_cli.sweeps import sweep as module

    def engine(tasks, jobs, on_poll):
        asked.append([task.folder.name for task in tasks])
        monkeypatch.setattr(prune, "READ_SECONDS", 0)
        unwanted.append(on_poll(tasks[:2]))
        yield from ()

    asked, unwanted = [], []
    monkeypatch.setattr(module, "run_local", engine)
    assert "no trial finished" in assert_one_error(sparsehead(*arguments, "--prune"))
    assert asked[-1] == runs
    assert unwanted[-1] == {runs[1], runs[3]}  # λ 3e-2, both seeds
    sparsehead(*arguments, "--prune")
    assert asked[-1] == [runs[0], runs[2]]
    sparsehead(*arguments)
    assert asked[-1] == runs


def test_bad_input(sparsehead, tmp_path):
    error = assert_one_error(sparsehead("sweep-lambda", "--prune", "--engine", "print", "--results", tmp_path))
    assert "--prune needs somebody who watches" in error


@pytest.mark.parametrize("seed", range(20))
def test_half_goes_on_as_optuna_lets_it(seed):
    """Values that come to the rungs in any order, which go on with two in three though they were to be pruned."""
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = random.Random(seed)
    first, count = rng.randint(1, 5), rng.randint(1, 12)
    halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=2)
    study = optuna.create_study(direction="maximize", pruner=halving)
    epochs = {study.ask(): 0 for _ in range(count)}
    reached: dict[int, list[float]] = {}
    while epochs:
        value = rng.choice(list(epochs))
        epochs[value] += 1
        accuracy = rng.choice([rng.random(), 0.5])  # also equal ones
        value.report(accuracy, epochs[value])
        pruned = False
        if is_rung(epochs[value], first):
            reached.setdefault(epochs[value], []).append(accuracy)
            pruned = not goes_on(accuracy, reached[epochs[value]])
        assert value.should_prune() == pruned
        if epochs[value] == 40 or (pruned and rng.random() < 1 / 3):
            del epochs[value]
