"""`sparsehead sweep-lambda`: trials that are killed, fail, are run elsewhere or were finished before."""

import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.files import witness
from sparsehead_cli.present.console import Console
from sparsehead_cli.present.sweep import SweepDisplay
from sparsehead_cli.runs.config import parse_set
from sparsehead_cli.runs.folder import locked
from sparsehead_cli.runs.table_files import read_csv, replace_csv
from sparsehead_cli.runs.tables import RUN, VARIED
from sparsehead_cli.sweeps import engines, on_ray, on_slurm, trial
from sparsehead_cli.sweeps.beat import Beat
from sparsehead_cli.sweeps.engines import UNWRITABLE, Task, outcome_of, run_local, run_task
from sparsehead_cli.sweeps.grid import Grid, read_grid
from sparsehead_cli.sweeps.request import SweepRequest
from sparsehead_cli.sweeps.sweep import EVALUATION_SECONDS, Reached, SweepState, read_state, run_one, seconds_left
from sparsehead_cli.sweeps.trial import FAILED, LOG, attempt, folder_of
from tests.rows import full_row
from tests.sweeps.conftest import SMALL, same
from tests.test_cli import assert_one_error


@pytest.fixture
def sweep(sparsehead, tmp_path):
    return lambda *arguments: sparsehead("sweep-lambda", *SMALL, "--dataset", "fashion1k", "--results", tmp_path / "r", *arguments)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "r" / "lambda-quick"


@pytest.fixture(scope="session")
def swept(tmp_path_factory):
    """The folder of a sweep whose four trials have been run, and nothing else."""
    settings = {"epochs": 2, "dataset": "fashion1k", "results": tmp_path_factory.mktemp("swept"), **parse_set(SMALL[7::2])}
    grid = read_grid("lambda-quick", None, {"lams": "0,3e-2", "seeds": 2}, settings)
    request = SweepRequest(grid=grid, experiment="lambda-quick")
    state = read_state(request)
    for name in state.configs:
        run_one(request, name)
    return state.folder


@pytest.fixture
def finished(swept, sweep, folder):
    """A copy of it in its place; the names of the trials in their order."""
    names = [shlex.split(line)[-1] for line in sweep("--engine", "print")[1].splitlines()]
    shutil.copytree(swept, folder)
    return names


def test_the_lines_that_print_prints_run_the_trials(sweep, folder):
    """One by one, as a scheduler would."""
    _, out, _ = sweep("--engine", "print")
    lines = out.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("sparsehead sweep-lambda --lams 0,3e-2") and "--engine" not in line for line in lines)
    name = shlex.split(lines[0])[-1]
    code, out, err = sweep("--trial", name)
    assert (code, err) == (0, "")
    assert "epoch 2  loss" in out
    assert read_csv(folder / name / "trial.csv")[0]["run"] == name
    assert sweep("--engine", "print")[1].splitlines() == lines[1:]


def test_trials_run_elsewhere_become_tables_and_a_verdict(finished, sweep, folder):
    code, out, err = sweep()
    assert (code, err) == (0, "")
    assert "4 trials in" in out
    assert "4 finished" in out
    assert "to run" not in out
    rows = read_csv(folder / "sweep.csv")
    assert [row["run"] for row in rows] == finished
    assert [(row["lam"], row["seed"]) for row in rows] == [("0.0", "0"), ("0.03", "0"), ("0.0", "1"), ("0.03", "1")]
    assert all(0.1 < float(row["accuracy"]) < 1 and 0.1 < float(row["val_accuracy"]) < 1 for row in rows)
    assert float(rows[1]["active_groups_share"]) <= float(rows[0]["active_groups_share"]) == 1
    summary = read_csv(folder / "sweep_summary.csv")
    assert {row["metric"] for row in summary} >= {"accuracy", "effective_rank_r", "effective_rank_z", "active_groups_share"}
    assert "λ 0" in out
    assert not list(folder.glob("*/features"))
    assert sweep("--engine", "print")[1] == ""  # nothing is left to run


@pytest.mark.slow
def test_a_grid_goes_on_with_regularisers(finished, sweep, folder):
    """What is there already has none of them, and is what they are compared with."""
    sweep()
    assert "regularisers" not in (folder / "sweep.csv").read_text()
    axis = ("--regularisers", "none,koleo:0.1")
    lines = sweep(*axis, "--engine", "print")[1].splitlines()
    assert len(lines) == 4
    for line in lines:
        assert sweep(*axis, "--trial", shlex.split(line)[-1])[0] == 0
    code, out, err = sweep(*axis)
    assert (code, err) == (0, "")
    assert "SimCLR, with koleo:0.1: " in out
    assert "paired difference to λ 0 without regularisers" in out
    rows = read_csv(folder / "sweep.csv")
    assert [(row["regularisers"], row["lam"]) for row in rows[:4]] == [
        *(("none", "0.0"), ("none", "0.03"), ("koleo:0.1", "0.0"), ("koleo:0.1", "0.03"))
    ]
    probe = {row["run"]: float(row["accuracy"]) for row in rows}
    differences = [probe[rows[i + 2]["run"]] - probe[rows[i]["run"]] for i in (0, 4)]
    alone = next(
        row
        for row in read_csv(folder / "sweep_summary.csv")
        if (row["regularisers"], row["lam"], row["metric"]) == ("koleo:0.1", "0.0", "accuracy")
    )
    assert float(alone["difference"]) == pytest.approx(sum(differences) / 2)
    assert (folder / "sweep_map.png").stat().st_size > 10_000
    assert "sweep_map.svg" in out


def test_a_row_in_sweep_csv_is_not_run_again_even_without_its_folder(finished, sweep, folder, monkeypatch):
    sweep()
    before = (folder / "sweep.csv").read_bytes()
    for name in finished:
        (folder / name / "trial.csv").unlink()
        (folder / name / "checkpoint.pt").unlink()
    assert sweep()[0] == 0
    assert (folder / "sweep.csv").read_bytes() == before


def test_trials_on_other_images_are_not_taken_for_finished(finished, sweep, folder):
    path = folder / finished[1] / "trial.csv"
    (row,) = read_csv(path)
    replace_csv(path, [{**row, "trained_on": "of others"}])
    error = assert_one_error(sweep("--lams", "0,3e-2,1e-1"))
    assert f"{finished[1]} was trained on other images, or other labels, than fashion1k has now" in error
    assert not (folder / "sweep.csv").exists()
    replace_csv(path, [{name: value for name, value in row.items() if name != "trained_on"}])  # as older versions wrote it
    assert sweep("--engine", "print")[1] == ""


def test_a_damaged_table_and_another_sweeps_folder_are_left_alone(finished, sweep, folder):
    sweep()
    whole = (folder / "sweep.csv").read_text()
    (folder / "sweep.csv").write_text(whole[: len(whole) - 60])
    assert "sweep.csv is damaged in line 5" in assert_one_error(sweep())
    (folder / "sweep.csv").write_text(whole)
    error = assert_one_error(sweep("--lams", "0,1e-3"))
    assert re.search(r"has 2 trials that are not in this grid \(.*\), with lam 0.03: it is another sweep's", error)
    assert f"Choose another --results, such as {folder.parent}-2, or" in error
    assert (folder / "sweep.csv").read_text() == whole
    assert sweep("--lams", "0,3e-2,1e-1", "--engine", "print")[1].count("--trial") == 2  # a larger grid has them


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--lams", ""], "lams must be numbers with commas between, or auto, given ''"),
        (["--lams", "0,1e-3,0.001"], "lams has 0.001 more than once"),
        (["--seeds", "0"], "seeds must be at least 1"),
        (["--methods", "simclr,boyl"], 'Did you mean "byol"?'),
        (["--penalties", "l12"], "unknown penalty"),
        (["--engine", "rya"], 'unknown engine "rya"; known: local, ray, slurm, print'),
        (["--jobs", "0"], "jobs must be at least 1"),
        (["--trial", "nobody"], "nobody is no trial of this grid"),
        (["--dataset", "fashoin10k"], 'Did you mean "fashion10k"?'),
        (["--set", "method=byol"], "method is an axis of the sweep: give --methods"),
        (["--set", "seed=3"], "seed is an axis of the sweep: give --seeds"),
        (["--dims", "4,8"], "projector_out is given twice"),
        (["--penalties", "l21,none"], "none is no penalty to try values of λ with"),
        (["--regularisers", "none,koelo:1"], 'Did you mean "koleo"?'),
        (["--regularisers", "koleo:1+koleo:2"], "koleo is given twice"),
    ],
)
def test_bad_input(sweep, folder, arguments, says):
    assert says in assert_one_error(sweep(*arguments))
    assert not folder.exists()


def test_a_trial_that_fails_or_crashes_is_told_and_stops_nobody_and_one_that_was_killed_has_not_failed(tiny, tmp_path):
    endless = {"dataset": "fashion10k", "epochs": 9000}
    configs = {"bad": tiny(backbone="narow"), "killed": tiny(**endless), "crashed": tiny(**endless, seed=1)}
    tasks = {name: Task(folder_of(config), config) for name, config in configs.items()}
    signals = {tasks["killed"].folder.name: signal.SIGKILL, tasks["crashed"].folder.name: signal.SIGSEGV}
    sent = set()

    def on_poll(running):
        for process in multiprocessing.active_children():
            if process.name in signals and process.name not in sent and list(tmp_path.glob(f"**/{process.name}/config.yaml")):
                os.kill(process.pid, signals[process.name])
                sent.add(process.name)
        return set()

    found = {outcome.task.folder.name: outcome.error for outcome in run_local(list(tasks.values()), 3, on_poll)}
    errors = {name: found[task.folder.name] for name, task in tasks.items()}
    assert errors["bad"].startswith('unknown backbone "narow"')
    assert (tasks["bad"].folder / FAILED).read_text().strip() == errors["bad"]
    assert "Traceback" in (tasks["bad"].folder / LOG).read_text()
    assert errors["crashed"] == (tasks["crashed"].folder / FAILED).read_text().strip() == "it crashed: SIGSEGV"
    assert "stopped from outside" in errors["killed"]
    assert not (tasks["killed"].folder / FAILED).exists()


def test_a_second_sweep_of_a_folder_is_refused_and_spoils_nothing(sweep, folder):
    with locked(folder):
        assert f"another sweep runs here ({folder})" in assert_one_error(sweep()).replace("\n", "")
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_trial_that_another_process_runs_has_not_failed(tiny):
    config = tiny()
    with locked(folder_of(config)):
        assert "another process is training this run" in attempt(config)
    assert not (folder_of(config) / FAILED).exists()
    assert attempt(config) == ""


def test_a_folder_that_cannot_be_made_is_one_clear_line(sweep, folder, tmp_path):
    (tmp_path / "r").write_text("a file")
    assert "cannot write to" in assert_one_error(sweep())


def test_a_trial_whose_folder_cannot_be_made_stops_nobody(finished, sweep, folder):
    shutil.rmtree(folder / finished[3])
    (folder / finished[3]).write_text("a file in its place")
    code, _, err = sweep()
    assert code == 1
    assert f"{folder / finished[3]} is no folder" in err.replace("\n", "")
    assert len(read_csv(folder / "sweep.csv")) == 3


def test_a_pruned_lam_whose_named_run_finished_after_all_stays_pruned(finished, sweep, folder):
    """A rung at the end of a run, whose evaluation was faster than the look. Without --prune the lam is completed."""
    named = read_csv(folder / finished[1] / "trial.csv")[0]
    numbers = {"epoch": "2", "mean_knn_accuracy": "0.2", "best_knn_accuracy": "0.8"}
    replace_csv(folder / "pruned.csv", [{column: named[column] for column in (*RUN, *VARIED)} | numbers])
    shutil.rmtree(folder / finished[3])
    assert sweep("--prune")[0] == 0
    assert [float(row["lam"]) for row in read_csv(folder / "sweep.csv")] == [0, 3e-2, 0]
    assert {float(row["lam"]) for row in read_csv(folder / "sweep_summary.csv")} == {0}
    sweep("--trial", finished[3])
    assert sweep()[0] == 0
    assert not (folder / "pruned.csv").exists()
    assert {(float(row["lam"]), row["seeds"]) for row in read_csv(folder / "sweep_summary.csv")} == {(0, "2"), (3e-2, "2")}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[:-60], "is damaged in line 2: it is cut off. Remove the file: the trial is then evaluated again"),
        (lambda text: text.replace(",0.03,", ",0.3,"), "is another trial's: lam is 0.3, that of"),
        (lambda text: re.sub(r"(\d+\.\d+,)0\.", r"\g<1>7.", text), "is damaged in line 2"),
    ],
)
def test_a_damaged_trial_becomes_no_result(finished, sweep, folder, damage, says):
    path = folder / finished[1] / "trial.csv"
    path.write_text(damage(path.read_text()))
    witness(path).unlink()  # by which any change would be told
    assert says in assert_one_error(sweep()).replace("\n", " ")
    assert not (folder / "sweep.csv").exists()
    path.unlink()
    sweep("--trial", finished[1])
    assert sweep()[0] == 0
    assert len(read_csv(folder / "sweep.csv")) == 4


def test_a_sweep_of_many_trials_writes_its_table_in_proportion_to_them(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("sparsehead_cli.sweeps.sweep.replace_csv", lambda path, rows: written.append(len(rows)))
    state = SweepState(tmp_path, dict.fromkeys(map(str, range(400))))
    for count, name in enumerate(state.configs, 1):
        state.finished(name, {"run": name})
        assert written[-1] >= 0.95 * count  # so few are not in the file yet, and none while there are few
    assert written[:20] == [*range(1, 21)]
    assert sum(written) <= 22 * 400


def test_a_line_twice_in_sweep_csv_is_told(finished, sweep, folder):
    sweep()
    with open(folder / "sweep.csv", "a") as file:
        file.write((folder / "sweep.csv").read_text().splitlines()[-1] + "\n")
    assert f"it is a second line of {finished[-1]}" in assert_one_error(sweep()).replace("\n", "")


def test_settings_of_reading_hold_for_the_evaluation_too(tiny, monkeypatch):
    requests = []
    monkeypatch.setattr(trial, "evaluate", lambda request: requests.append(request) or 1 / 0)
    config = tiny(skip_bad_images=True, workers=3)
    with pytest.raises(ZeroDivisionError):
        trial.run_trial(config)
    options = requests[0].options
    assert (options.skip_bad_images, options.workers) == (True, 3)


def descendants(of):
    """The ids of the processes below `of`."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parents = dict(zip(map(int, table[::2]), map(int, table[1::2]), strict=True))
    found = {of}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {of}


def test_failed_trials_are_run_again_when_asked(finished, sweep, folder):
    (folder / finished[2] / "trial.csv").unlink()
    (folder / finished[2] / FAILED).write_text("out of memory\n")
    _, out, _ = sweep("--engine", "print")
    assert out == ""
    code, out, err = sweep()
    assert code == 1
    assert "3 finished, 1 failed before" in out
    assert "linear" in out  # the answer of the others
    assert "1 trial of 4 did not finish (the first: out of memory)" in err
    assert sweep("--engine", "print", "--retry-failed")[1].count("--trial") == 1


@pytest.mark.slow
def test_a_sweep_killed_with_its_children_is_completed_by_the_same_command(two_trials, uninterrupted, tmp_path):
    command = [sys.executable, "-m", "sparsehead_cli", *two_trials, "--jobs", "2", "--results", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600  # of a sweep that hangs
    while not list(tmp_path.glob("lambda-quick/*/metrics.csv")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    orphans = descendants(process.pid)
    process.kill()  # -9
    process.wait()
    assert len(orphans) > 2  # the two trials, and what they are forked from
    while any(os.path.exists(f"/proc/{pid}") for pid in orphans):  # they notice that nobody waits for them
        assert time.monotonic() < deadline
        time.sleep(0.05)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    for name in ("sweep.csv", "sweep_summary.csv"):
        assert same(tmp_path / "lambda-quick" / name) == same(uninterrupted / name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_leaves_the_tables_of_what_had_finished(finished, sweep, folder, monkeypatch, number):
    from sparsehead_cli.sweeps import sweep as module

    (folder / finished[3] / "trial.csv").unlink()

    def interrupted(*arguments):
        os.kill(os.getpid(), number)
        time.sleep(5)  # which the signal ends

    monkeypatch.setattr(module, "run_local", interrupted)
    code, _, err = sweep()
    assert code == 128 + number
    assert err == (
        f"stopped by {number.name}. 3 of 4 trials have finished and are in sweep.csv and the figure. Of those that had not, "
        "1 had begun; the folder of each holds it as it was after its last step. The same command goes on: it repeats no "
        "finished trial, goes on with the 1 begun.\n"
    )
    assert len(read_csv(folder / "sweep.csv")) == 3
    assert (folder / "sweep_summary.csv").exists()
    assert (folder / "sweep.png").exists()


def test_a_trial_that_cannot_even_say_why_it_failed(tiny, tmp_path, monkeypatch):
    """On a full disk: its process ends with a code, and the sweep says what is likely; no traceback of the process itself."""
    config = tiny(experiment="x", dataset="nowhere")
    task = Task(folder_of(config), config)

    def full(path, data):
        raise SparseheadError(f"cannot write to {path}: No space left on device.")

    monkeypatch.setattr(trial, "replace_file", full)
    for name in ("end_with_parent", "log_everything"):
        monkeypatch.setattr(engines, name, lambda *_: None)
    with pytest.raises(SystemExit) as leaving:
        run_task(task, 1, None)
    assert leaving.value.code == UNWRITABLE
    assert not (task.folder / FAILED).exists()
    assert "is the disk full? Make room; the same command goes on" in outcome_of(task, UNWRITABLE).error


def test_jobs_have_an_end(sweep):
    for jobs in (0, 10**9):
        assert f"jobs must be at least 1 and at most 1,024, given {jobs}" in assert_one_error(sweep("--jobs", str(jobs)))


def test_the_time_that_is_left_is_told_from_epochs_that_are_over(tiny):
    configs = {name: tiny(epochs=4, lam=lam) for name, lam in (("a", 0.0), ("b", 1e-3), ("c", 1e-2), ("d", 0.1))}
    state = SweepState(folder_of(configs["a"]).parent, configs)
    none, epoch = Reached([]), {"seconds": "6.0"}
    assert seconds_left(state, {"a": none, "b": none}) is None
    assert seconds_left(state, {"a": Reached([epoch]), "b": none}) == ((4 * 4 - 1) * 6 + 4 * EVALUATION_SECONDS) / 2
    beat = Beat(step=5, total_steps=40, epochs=4, step_seconds=0.5)  # half of the first of four epochs of ten steps
    assert seconds_left(state, {"a": Reached([], beat), "b": none}) == ((4 * 4 - 0.5) * 5 + 4 * EVALUATION_SECONDS) / 2
    state.rows["a"] = {"train_seconds": "8.0", "epochs": "4"}
    left = seconds_left(state, {"b": Reached([epoch, epoch])})
    assert left == pytest.approx((4 * 3 - 2) * (6 + 6 + 2) / 3 + 3 * EVALUATION_SECONDS)
    assert seconds_left(SweepState(state.folder, configs), {}) is None


def test_the_time_that_is_left_counts_the_epochs_of_all_tasks(tiny):
    configs = {name: tiny(epochs=4, tasks="5", lam=lam) for name, lam in (("a", 0.0), ("b", 1e-3))}
    state = SweepState(folder_of(configs["a"]).parent, configs)
    state.rows["a"] = {"train_seconds": "40.0", "epochs": "4"}  # of each task
    left = seconds_left(state, {"b": Reached([{"seconds": "2.0"}] * 8)})
    assert left == pytest.approx((20 - 8) * 2 + EVALUATION_SECONDS)


def test_the_display_tells_the_time_once_an_epoch_is_over(tiny, monkeypatch, capsys):
    monkeypatch.setattr("sparsehead_cli.present.sweep.REFRESH_SECONDS", 0)
    config = tiny(epochs=7)
    folder = folder_of(config)
    request = SweepRequest(grid=Grid((0.0,)), experiment="x", jobs=1)
    state = SweepState(folder.parent, {folder.name: config})
    with SweepDisplay(Console(), request, state) as display:
        display.watch(state, [Task(folder, config)])
        before = capsys.readouterr().out
        folder.mkdir(parents=True)
        replace_csv(folder / "metrics.csv", [full_row("metrics.csv", epoch=1, seconds=5)])
        for _ in range(2):
            display.watch(state, [Task(folder, config)])
    assert "1 to run, 1 at a time; the time is estimated once a trial has begun" in before
    assert "about" not in before
    assert capsys.readouterr().out == "about 40 s for the 1 trial that is left\n"


WATCHING = """
from sparsehead_cli.training.callbacks import Callback

class Watch(Callback):
    def on_epoch(self, run, progress, row):
        with open(run.folder / "watched.txt", "a") as file:
            file.write(f"{progress.epoch}\\n")
"""


@pytest.fixture
def watching(tmp_path, monkeypatch):
    """The name of a callback of one's own, in a module of the working directory."""
    (tmp_path / "watching.py").write_text(WATCHING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield "watching:Watch"
    sys.modules.pop("watching", None)


def test_a_trial_calls_the_callbacks_of_its_sweep(tiny, watching, monkeypatch):
    monkeypatch.setattr(trial, "evaluate", lambda request: 1 / 0)
    assert attempt(tiny(), (watching,)) == "ZeroDivisionError: division by zero"
    assert (folder_of(tiny()) / "watched.txt").read_text() == "1\n2\n"


def test_callbacks_reach_the_trials_of_every_engine(sweep, folder, tiny, watching, monkeypatch):
    reached = []
    for module in (engines, on_ray, on_slurm):
        monkeypatch.setattr(module, "attempt", lambda config, callbacks: reached.append(callbacks))
    for module, name in ((engines, "end_with_parent"), (engines, "log_everything"), (on_slurm, "log_everything")):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(on_slurm, "Notice", lambda: SimpleNamespace(queue_again=lambda: None))
    run_task(Task(folder_of(tiny()), tiny(), (watching,)), 1, None)
    on_ray.run_remote(tiny(), 1, (watching,))
    on_slurm.Trial(Task(folder_of(tiny()), tiny(), (watching,)), 1)()
    monkeypatch.setattr("sparsehead_cli.sweeps.sweep.run_local", lambda tasks, *_: reached.extend(t.callbacks for t in tasks) or [])
    sweep("--callback", watching)
    assert reached == [(watching,)] * (3 + 4)
    lines = sweep("--callback", watching, "--engine", "print")[1].splitlines()
    assert all(f"--callback {watching}" in line for line in lines)
    monkeypatch.setattr("sparsehead_cli.sweeps.sweep.run_trial", lambda config, callbacks: reached.append(callbacks))
    sweep("--callback", watching, "--trial", shlex.split(lines[0])[-1])
    assert [type(callback).__name__ for callback in reached[-1]] == ["Watch", "EpochLines"]


def test_a_callback_that_is_not_there_is_told_before_anything_runs(sweep, folder, watching):
    error = assert_one_error(sweep("--callback", "watching:Wacth")).replace("\n", " ")
    assert 'callback watching:Wacth: watching has no "Wacth". Did you mean "Watch"?' in error
    assert not folder.exists()
