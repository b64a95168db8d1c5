"""The same sweep as jobs of Slurm, by submitit: with its local executor, and as far as sbatch with a cluster that is acted."""

import os
import signal
from pathlib import Path

import pytest

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.signals import Interrupted
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.checkpoint import load_checkpoint
from sparsehead_cli.runs.table_files import read_csv
from sparsehead_cli.sweeps import on_slurm
from sparsehead_cli.sweeps.engines import Task
from sparsehead_cli.sweeps.limits import Limits, split_limits
from sparsehead_cli.sweeps.trial import folder_of
from sparsehead_cli.training.callbacks import Callback
from sparsehead_cli.training.loop import pretrain
from tests.sweeps.conftest import same
from tests.test_cli import assert_one_error

LOCAL = ["--engine", "slurm", "--set", "slurm.cluster=local"]


def test_limits_are_read_and_the_rest_are_settings_of_runs():
    given = {"slurm.minutes": 30, "slurm.partition": "gpu", "slurm.memory": 7.5, "batch_size": 300}
    assert split_limits(given, "slurm") == (Limits(minutes=30, partition="gpu", memory=7.5), {"batch_size": 300})
    assert split_limits({"batch_size": 300}, "local") == (Limits(), {"batch_size": 300})


@pytest.mark.parametrize(
    ("given", "engine", "said"),
    [
        ({"slurm.minute": 1}, "slurm", 'unknown setting "slurm.minute"'),
        ({"slurm.minutes": 0, "slurm.gpus": 2}, "slurm", "slurm.gpus must be"),
        ({"slurm.cluster": "pbs"}, "slurm", 'slurm.cluster must be slurm or local, given "pbs"'),
        ({"slurm.minutes": 9}, "local", "slurm.minutes is of Slurm: it needs --engine slurm"),
    ],
)
def test_wrong_limits_are_one_error(given, engine, said):
    with pytest.raises(SparseheadError, match=said):
        split_limits(given, engine)


def test_without_slurm_it_is_one_error_and_nothing_is_written(sparsehead, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    error = assert_one_error(sparsehead("sweep-lambda", "--engine", "slurm", "--results", tmp_path / "r"))
    assert "--engine slurm finds no sbatch and srun here" in error
    assert not (tmp_path / "r").exists()


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A Slurm that takes every array job as number 77, or says why not, and runs none; the scripts that it was given."""
    pytest.importorskip("submitit")
    (tmp_path / "bin").mkdir()
    sbatch = f'test -e {tmp_path}/refuse && echo "Invalid partition" >&2 && exit 1\ncat "$1" >> {tmp_path}/scripts\n'
    commands = {"sbatch": f"{sbatch}echo Submitted batch job 77", "srun": "", "sacct": "echo 'JobID|State|NodeList'"}
    for name, text in commands.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def test_what_slurm_is_asked_for(cluster, tiny):
    import submitit

    tasks = [Task(folder_of(config), config) for config in (tiny(), tiny(seed=1), tiny(seed=2))]
    limits = Limits(minutes=90, cpus=4, gpus=1, memory=16, partition="gpu")
    jobs = on_slurm.submit(submitit, tasks, 2, limits)
    asked = (cluster / "scripts").read_text()
    for line in ("array=0-2%2", "cpus-per-task=4", "gpus-per-node=1", "mem=16GB", "partition=gpu", "time=90"):
        assert f"#SBATCH --{line}\n" in asked
    assert "#SBATCH --signal=USR2@90\n" in asked  # seconds in which a run saves and is queued again
    assert [job.job_id for _, job in jobs] == ["77_0", "77_1", "77_2"]
    assert [(task.folder / on_slurm.JOB).read_text() for task in tasks] == ["slurm 77_0\n", "slurm 77_1\n", "slurm 77_2\n"]
    assert on_slurm.array_jobs([task.folder for task in tasks]) == ["77"]
    pickled = submitit.core.utils.DelayedSubmission.load(jobs[2][1].paths.submitted_pickle)
    assert pickled.function.config.seed == 2
    assert pickled.function.config.results.is_absolute()


def test_a_job_that_was_submitted_is_found_again_until_slurm_has_forgotten_it(cluster, tiny):
    import submitit

    task = Task(folder_of(tiny()), tiny())
    assert on_slurm.earlier_job(submitit, task) is None
    on_slurm.submit(submitit, [task], None, Limits())
    note = task.folder / on_slurm.JOB
    assert on_slurm.earlier_job(submitit, task).job_id == "77"
    os.utime(note, (0, 0))
    assert on_slurm.earlier_job(submitit, task) is None
    note.write_text("nonsense")
    assert on_slurm.earlier_job(submitit, task) is None


def test_jobs_that_are_refused_are_one_error(cluster, tiny):
    import submitit

    (cluster / "refuse").touch()
    with pytest.raises(SparseheadError, match="Slurm does not take the jobs: .*Invalid partition"):
        on_slurm.submit(submitit, [Task(folder_of(tiny()), tiny())], None, Limits())


class Told(Callback):
    def __init__(self, number, step):
        self.number, self.step = number, step

    def on_step(self, run, progress):
        if progress.step == self.step:
            signal.raise_signal(self.number)


@pytest.fixture
def handlers():
    """A job's handlers as submitit sets them: SIGTERM is ignored, and its notice ends the process."""
    pytest.importorskip("submitit")

    def queued_again(number, frame):
        raise SystemExit("queued again")

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.signal(signal.SIGUSR2, queued_again)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_job_that_will_end_saves_its_run_and_is_queued_again(tiny, handlers):
    notice, config = on_slurm.Notice(), tiny()
    with pytest.raises(Interrupted) as stop:
        pretrain(build(config), [Told(signal.SIGUSR2, 3)])
    assert "step 3 of" in str(stop.value)
    assert load_checkpoint(folder_of(config) / "checkpoint.pt")["step"] == 3
    with pytest.raises(SystemExit, match="queued again"):
        notice.queue_again()


def test_a_job_that_does_not_train_is_queued_again_at_once(handlers):
    on_slurm.Notice()
    with pytest.raises(SystemExit, match="queued again"):
        signal.raise_signal(signal.SIGUSR2)


def test_a_job_that_was_cancelled_is_not_queued_again(handlers, monkeypatch):
    monkeypatch.setattr(on_slurm, "NOTICE_SECONDS", 0)
    assert on_slurm.Notice().queue_again() is None


def process_of(job):
    """The process that runs the trial of a local job, which is the child of its controller."""
    return int(Path(f"/proc/{job}/task/{job}/children").read_text().split()[0])


@pytest.mark.slow
def test_jobs_that_are_stopped_left_and_killed_end_as_the_sweep_does_here(
    two_trials, uninterrupted, sparsehead, tmp_path, monkeypatch
):
    """The first is told to end and queued again; the command leaves, and finds both when it comes back; the second is killed."""
    pytest.importorskip("submitit")
    from sparsehead_cli.present.sweep import SweepDisplay

    command = [*two_trials, *LOCAL, "--results", tmp_path]
    folder, watch, submitted, steps = tmp_path / "lambda-quick", SweepDisplay.watch, [], []
    submit = on_slurm.submit

    def submit_and_note(submitit, tasks, *others):
        submitted.append(len(tasks))
        return submit(submitit, tasks, *others)

    def disturb(display, state, running):
        watch(display, state, running)
        begun = [task.folder for task in running if read_csv(task.folder / "metrics.csv")]
        jobs = [(path / on_slurm.JOB).read_text().split()[1] for path in begun]
        if not steps and len(begun) == 2:
            steps.append("told")
            os.kill(process_of(jobs[0]), signal.SIGUSR2)
            raise KeyboardInterrupt
        if steps == ["told"] and begun and submitted[1:]:
            steps.append("killed")
            os.kill(process_of(jobs[-1]), signal.SIGKILL)

    monkeypatch.setattr(on_slurm, "submit", submit_and_note)
    monkeypatch.setattr(SweepDisplay, "watch", disturb)
    code, _, err = sparsehead(*command)
    assert code == 130
    assert "The same command goes on" in err
    code, _, err = sparsehead(*command)
    assert (code, submitted) == (1, [2, 0])
    assert "was ended from outside" in " ".join(err.split())
    code, _, err = sparsehead(*command)
    assert (code, err, submitted, steps) == (0, "", [2, 0, 1], ["told", "killed"])
    told = [path for path in folder.glob("*/trial.log") if "Requeued job" in path.read_text()]
    assert len(told) == 1
    for name in ("sweep.csv", "sweep_summary.csv"):
        assert same(folder / name) == same(uninterrupted / name)
