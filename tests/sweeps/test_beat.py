"""How far a trial is between two epochs, and how a sweep shows it."""

import json

import pytest

from sparsehead_cli.present import sweep as present
from sparsehead_cli.present.console import Console
from sparsehead_cli.present.sweep import SweepDisplay, epochs_text, running_line, running_table, stop_text
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.table_files import replace_csv
from sparsehead_cli.sweeps import beat as module
from sparsehead_cli.sweeps.beat import BEAT, Beat, BeatFile
from sparsehead_cli.sweeps.engines import Task
from sparsehead_cli.sweeps.grid import Grid
from sparsehead_cli.sweeps.request import SweepRequest
from sparsehead_cli.sweeps.sweep import Reached, SweepState
from sparsehead_cli.sweeps.trial import folder_of
from sparsehead_cli.training.callbacks import Callback
from sparsehead_cli.training.loop import pretrain
from tests.rows import full_row


class Look(Callback):
    """What stands in the file after each step."""

    def __init__(self):
        self.beats = []

    def on_step(self, run, progress):
        self.beats.append(Beat.read(run.folder))


def test_a_trial_says_after_each_step_but_the_first_how_far_it_is_and_leaves_nothing(tiny, monkeypatch):
    """The first takes longer than all others, and tells nothing of how long they take."""
    monkeypatch.setattr(module, "BEAT_SECONDS", 0)
    run, look = build(tiny()), Look()
    run.folder.mkdir(parents=True)
    (run.folder / BEAT).write_text("of a process that was killed")
    pretrain(run, [BeatFile(), look])
    assert look.beats[0] is None
    assert [(beat.step, beat.total_steps, beat.epochs) for beat in look.beats[1:]] == [(step, 18, 2) for step in range(2, 19)]
    assert all(0 < beat.step_seconds < 5 for beat in look.beats[1:])
    assert look.beats[8].epochs_done == 1
    assert look.beats[3].epoch_seconds == pytest.approx(9 * look.beats[3].step_seconds)
    assert not list(run.folder.glob(f"*{BEAT}*"))


def test_a_quick_trial_writes_nothing(tiny, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 1e9)  # quick on any machine
    run, look = build(tiny()), Look()
    pretrain(run, [BeatFile(), look])
    assert set(look.beats) == {None}


SOUND = {"step": 3, "total_steps": 18, "epochs": 2, "step_seconds": 0.5}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", json.dumps({"step": 3}), "[" * 5000]
    + [json.dumps(SOUND | change) for change in ({"step": 19}, {"step": 0}, {"epochs": 0}, {"step_seconds": -1}, {"step": "3"})]
    + [json.dumps(SOUND | {"step_seconds": float("nan")}), json.dumps(SOUND | {"step": True})],
)
def test_what_makes_no_sense_is_not_believed(tmp_path, text):
    assert Beat.read(tmp_path) is None
    (tmp_path / BEAT).write_text(json.dumps(SOUND))
    assert Beat.read(tmp_path) == Beat(**SOUND)
    (tmp_path / BEAT).write_text(text)
    assert Beat.read(tmp_path) is None


@pytest.fixture
def state(tiny):
    configs = [tiny(epochs=10, lam=lam) for lam in (0.0, 1e-3, 1e-2)]
    return SweepState(folder_of(configs[0]).parent, {folder_of(config).name: config for config in configs})


def test_the_table_and_the_line_say_how_far_each_trial_is(state):
    first, second, _ = state.configs
    running = {first: Reached([], Beat(step=34, total_steps=100, epochs=10, step_seconds=1)), second: Reached([{}] * 10)}
    table = running_table(state, running, 600)
    assert [line[1].value for line in table.lines] == ["3.4 of 10", "10 of 10, evaluating"]
    line = running_line(state, running, 600)
    assert line == (f"0 of 3 trials finished, about 10 minutes left; running: {first} 3.4 of 10, {second} 10 of 10, evaluating")
    assert epochs_text(state, first, Reached([{}])) == "1 of 10"


def test_a_trial_of_several_tasks_has_the_epochs_of_all(tiny):
    config = tiny(epochs=10, tasks="5")
    state = SweepState(folder_of(config).parent, {"a": config})
    assert epochs_text(state, "a", Reached([{}] * 12)) == "12 of 50"
    assert epochs_text(state, "a", Reached([{}] * 50)) == "50 of 50, evaluating"


def test_a_log_shows_running_trials_now_and_then(state, monkeypatch, capsys):
    monkeypatch.setattr(present, "REFRESH_SECONDS", 0)
    request, name = SweepRequest(grid=Grid((0.0,)), experiment="x", jobs=1), next(iter(state.configs))
    folder = state.folder / name
    folder.mkdir(parents=True)
    (folder / BEAT).write_text(json.dumps({"step": 5, "total_steps": 100, "epochs": 10, "step_seconds": 2}))
    with SweepDisplay(Console(), request, state) as display:
        capsys.readouterr()
        display.watch(state, [Task(folder, state.configs[name])])
        assert capsys.readouterr().out == "about 10 minutes for the 3 trials that are left\n"  # 29.5 epochs of 20 s, and 3 x 10 s
        monkeypatch.setattr(present, "LOG_SECONDS", 0)
        replace_csv(folder / "metrics.csv", [full_row("metrics.csv", epoch=1, seconds=5)])
        display.watch(state, [Task(folder, state.configs[name])])
        line = f"0 of 3 trials finished, about 3 minutes left; running: {name} 1 of 10\n"
        assert capsys.readouterr().out == line


def test_a_stop_says_what_is_kept_and_what_comes_next(state):
    first, second, _ = state.configs
    request = SweepRequest(grid=Grid((0.0,)), experiment="x")
    starts = "The same command goes on: it repeats no finished trial, starts 3 more."
    assert stop_text(request, state) == f"0 of 3 trials have finished. {starts}"
    state.rows[first] = {}
    (state.folder / second).mkdir(parents=True)
    (state.folder / second / "checkpoint.pt").touch()
    text = stop_text(request, state)
    assert text.startswith("1 of 3 trials have finished and are in sweep.csv and the figure. Of those that had not, 1 had begun; ")
    assert text.endswith("it repeats no finished trial, goes on with the 1 begun, starts 1 more.")
    on_ray = stop_text(SweepRequest(grid=Grid((0.0,)), experiment="x", engine="ray"), state)
    assert "as it was after its last epoch" in on_ray
