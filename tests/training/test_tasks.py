"""Sequences of tasks: they are measured, they go on bit for bit, and what ends with a task ends."""

import os
import signal

import pytest
import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.signals import Interrupted
from sparsehead_cli.nets.optim import lr_at
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.table_files import read_csv
from sparsehead_cli.study.continual import continual, matrix_of
from sparsehead_cli.training import loop
from sparsehead_cli.training.loop import pretrain
from tests.conftest import method_recipe
from tests.training.test_loop import outcome, stop_after


@pytest.fixture
def tasks(tiny):
    """tasks(**changes) -> a Config of three tasks, of two epochs of two or three steps each."""
    return lambda **changes: tiny(**{"tasks": "3", "lr": 0.05, **changes})


def table(folder):
    return read_csv(folder / "tasks.csv")


def test_after_each_task_all_are_measured(tasks):
    result = pretrain(build(tasks()))
    rows = table(result.run.folder)
    assert [(row["after_task"], row["on_task"]) for row in rows] == [(str(a), o) for a in range(4) for o in ("1", "2", "3", "all")]
    matrix = matrix_of(rows)
    assert all(0.2 < value <= 1 for row in matrix for value in row)
    assert len(continual(matrix)) == 4
    whole = [row for row in rows if row["on_task"] == "all"]
    assert all(float(row["effective_rank_r"]) >= 1 for row in whole)
    assert [bool(row["support_kept"]) for row in whole] == [False, True, True, True]
    assert len({int(row["n_test"]) for row in whole}) == 1
    of_tasks = [int(row["n_test"]) for row in rows[:3]]
    assert sum(of_tasks) == int(whole[0]["n_test"])
    # the schedule of the learning rate begins anew with each task
    rates = [float(row["lr"]) for row in read_csv(result.run.folder / "metrics.csv")]
    steps = [result.run.steps_of(phase) for phase in result.run.phases for _ in range(2)]
    warmup = result.run.warmup_steps
    expected = [lr_at(steps[i] * (1 + i % 2) - 1, total=2 * steps[i], warmup=warmup, lr=0.05) for i in range(6)]
    assert rates == pytest.approx(expected)


def test_each_task_sees_its_own_classes_and_what_is_replayed(tasks):
    run = build(tasks(replay=20))
    counts = [torch.bincount(phase.train.labels, minlength=10) for phase in run.phases]
    for number, (count, classes) in enumerate(zip(counts, run.tasks.classes, strict=True)):
        others = [label for label in range(10) if label not in classes]
        assert count[list(classes)].min() > 50
        assert count[others].sum() == (20 if number else 0)
        assert count[[label for group in run.tasks.classes[number + 1 :] for label in group]].sum() == 0
    assert {label for group in run.tasks.classes for label in group} == set(range(10))
    assert build(tasks(seed=7)).tasks.classes != run.tasks.classes


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        ({"method": "simclr", "continual": "cassle", "solver": "proximal"}, [2, 5, 9]),
        pytest.param({"method": "byol", "continual": "cassle", "between_tasks": "new-head"}, [4, 12], marks=pytest.mark.slow),
        pytest.param({"method": "barlow", "between_tasks": "new-optimizer", "replay": 30}, [4, 12], marks=pytest.mark.slow),
    ],
)
def test_stopping_within_a_task_and_at_its_end_changes_nothing(tasks, tmp_path, monkeypatch, changes, stops):
    changes = {"method_settings": method_recipe(changes["method"]), **changes}
    whole = pretrain(build(tasks(**changes)))
    stop_after(monkeypatch, stops)
    for _ in range(len(stops)):
        with pytest.raises(Interrupted):
            pretrain(build(tasks(**changes, results=tmp_path / "parts")))
    parts = pretrain(build(tasks(**changes, results=tmp_path / "parts")))
    assert outcome(parts.run.folder) == outcome(whole.run.folder)
    assert table(parts.run.folder) == table(whole.run.folder)


def test_what_was_known_is_what_the_task_before_left(tasks, monkeypatch):
    result = pretrain(build(tasks(continual="cassle", epochs=1)))
    method = result.run.method
    assert method.tasks_done == 3
    own = torch.nn.Sequential(method.backbone, method.projector).state_dict()
    assert all(torch.equal(value, own[name]) for name, value in method.before.state_dict().items())
    rows = read_csv(result.run.folder / "metrics.csv")
    assert rows[0]["distillation"] == ""
    assert all(float(row["distillation"]) > 0 for row in rows[1:])


def test_a_new_head_and_a_new_optimizer(tasks, monkeypatch):
    """As the first step of the second task finds them."""
    seen = {}
    real = loop.train_step

    def watched(run, batch, step):
        if step == run.steps_of_phases(1):
            weights = [p.detach().clone() for p in run.method.projector.parameters()]
            remembered = sum(bool(entry["momentum_buffer"].any()) for entry in run.optimizer.state.values())
            seen[run.config.between_tasks] = (weights, remembered)
        return real(run, batch, step)

    monkeypatch.setattr(loop, "train_step", watched)
    for between in ("keep", "new-head", "new-optimizer"):
        pretrain(build(tasks(between_tasks=between)))
    assert seen["new-optimizer"][1] == 0 < seen["new-head"][1] < seen["keep"][1]
    for kept, same, renewed in zip(*(seen[name][0] for name in ("keep", "new-optimizer", "new-head")), strict=True):
        assert torch.equal(kept, same)
        assert not torch.equal(kept, renewed)


def test_joint_training_is_one_phase_that_is_measured_by_tasks(tasks):
    result = pretrain(build(tasks(continual="joint", epochs=1)))
    assert len(result.run.phases) == 1
    rows = table(result.run.folder)
    assert {row["after_task"] for row in rows} == {"0", "1"}
    assert {row["on_task"] for row in rows} == {"1", "2", "3", "all"}
    assert matrix_of(rows) is None


def test_data_sets_in_turn(tiny):
    run = build(tiny(tasks="fashion1k,fashion10k", epochs=1))
    assert [len(phase.train) for phase in run.phases] == [len(build(tiny()).train), 9000]
    assert run.tasks.classes == (tuple(range(10)), tuple(range(10, 20)))
    assert run.phases[1].train.labels.min() == 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": "1"}, "tasks must be from 2 to the 10 classes that there are, given 1"),
        ({"tasks": "11"}, "given 11"),
        ({"tasks": "fashion10k,fashion1k"}, r"two or more, of which --dataset \(fashion1k\) is the first"),
        ({"tasks": "fashion1k,cifar12"}, "cifar12"),
        ({"tasks": "fashion1k,factors"}, "must be images in memory, all of one size"),
        ({"continual": "cassle"}, r"continual: that is of a sequence of tasks\. Say of which: --tasks 5"),
        ({"replay": 5, "between_tasks": "new-head"}, "replay, between_tasks: that is of a sequence of tasks"),
        ({"tasks": "3", "continual": "joined"}, 'unknown continual "joined"; known: none, cassle, joint'),
        ({"tasks": "2", "dataset": "tests.tasks:load"}, "is a sequence of tasks already"),
        ({"tasks": "3", "batch_size": 400}, "batch_size 400 is larger"),
    ],
)
def test_tasks_that_cannot_be_are_refused(tiny, changes, words):
    with pytest.raises(SparseheadError, match=words):
        build(tiny(**changes))


@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 3])
def test_kill_nine_between_tasks_changes_nothing(tasks, tmp_path, moment):
    whole = pretrain(build(tasks(continual="cassle")))
    config = tasks(continual="cassle", results=tmp_path / "killed")
    pid = os.fork()
    if not pid:
        real, saved = loop.RunFiles.save, []

        def save(self, run, progress):
            real(self, run, progress)
            saved.append(progress.step)
            if len(saved) == moment + 1:
                os.kill(os.getpid(), signal.SIGKILL)

        loop.RunFiles.save = save
        pretrain(build(config))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    parts = pretrain(build(config))
    assert outcome(parts.run.folder) == outcome(whole.run.folder)
    assert table(parts.run.folder) == table(whole.run.folder)


def test_a_report_shows_sequences(tasks, sparsehead):
    for lam in (0.0, 1e-2):
        folder = pretrain(build(tasks(lam=lam, experiment="sequence"))).run.folder
    _, shown, _ = sparsehead("report", str(folder.parent))
    assert "sequences of tasks" in shown
    assert "forgetting" in shown
    assert [row["lam"] for row in read_csv(folder.parent / "continual.csv")] == ["0.0", "0.01"]
    assert (folder.parent / "tasks.png").stat().st_size > 10_000
    assert "Sequences of tasks" in (folder.parent / "report.html").read_text()
    settings = ("--tasks", "3", "--epochs", "1", "--set", "widths=8,8,8,8", "--results", folder.parents[1])
    _, printed, _ = sparsehead("pretrain", *settings)
    assert "what is known after each task" in printed
    assert "forgetting, from each task's best" in printed
