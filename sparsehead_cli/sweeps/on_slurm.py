"""The trials of a sweep as an array job of Slurm, by submitit. Whoever submits it may leave: the same command finds the jobs again.

A trial that reaches its time limit, or is preempted, saves after its step, is queued again and goes on where it was.
"""

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from sparsehead_cli.errors import SparseheadError, one_line
from sparsehead_cli.machine.files import make_folder, replace_file
from sparsehead_cli.sweeps.engines import OnPoll, Outcome, Task
from sparsehead_cli.sweeps.limits import CLUSTERS, Limits
from sparsehead_cli.sweeps.trial import FAILED, TRIAL, absolute, attempt, folder_of, log_everything, wait_for_the_dead

if TYPE_CHECKING:
    from submitit import Job
    from submitit.helpers import DelayedSubmission

POLL_SECONDS = 0.5
JOB = "job.txt"  # in a trial's folder: the cluster and the job that runs it, or did
JOBS = "slurm"  # the folder of what submitit writes, in the sweep's
LARGEST_ARRAY = 1_000  # jobs; Slurm's own default is 1,001
MOST_TIMEOUTS = 24  # after which a trial is not queued again: it needs more than a day of hours, or stands still
REMEMBERED_SECONDS = 600  # after which a job that Slurm knows nothing of is over; a new one it may not know yet
NOTICE_SECONDS = 120  # within which a job that was told to end learns whether it is to be queued again


def run_slurm(tasks: list[Task], jobs: int | None, on_poll: OnPoll, limits: Limits) -> Iterator[Outcome]:
    """Run the tasks as jobs, `jobs` of them at a time (without it as many as the cluster lets run); all see their folders.

    What an earlier command submitted, and is not over, is waited for and not submitted again. When this process ends, the jobs
    go on. Raises: SparseheadError without submitit or Slurm, and where jobs are refused.
    """
    submitit = require_submitit(limits)
    running = [(task, job) for task in tasks if (job := earlier_job(submitit, task))]
    known = {task.folder for task, _ in running}
    running += submit(submitit, [task for task in tasks if task.folder not in known], jobs, limits)
    cancelled: set[str] = set()
    while running:
        going = []
        for task, job in running:
            if is_over(job):
                yield outcome_of(task, job)
            else:
                going.append((task, job))
        running = going
        unwanted = on_poll([task for task, job in running if job.paths.stdout.exists()])
        for task, job in running:
            if task.folder.name in unwanted - cancelled:
                job.cancel(check=False)
        cancelled |= unwanted
        time.sleep(POLL_SECONDS)


def require_submitit(limits: Limits) -> ModuleType:
    """The module. Raises: SparseheadError where it is not installed, and where there is no Slurm."""
    try:
        import submitit
    except ImportError:
        raise SparseheadError("--engine slurm needs submitit, which is not installed: pip install 'sparsehead[slurm]'") from None
    if limits.cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise SparseheadError(
            "--engine slurm finds no sbatch and srun here: start it on a machine of the cluster. "
            "--set slurm.cluster=local tries it without one, --engine print gives a command line a trial."
        )
    return submitit


def submit(submitit: ModuleType, tasks: list[Task], jobs: int | None, limits: Limits) -> list[tuple[Task, "Job"]]:
    """Each task with its job, which the task's folder knows from then on. Raises: SparseheadError where jobs are refused."""
    submitted = []
    for first in range(0, len(tasks), LARGEST_ARRAY):
        some = tasks[first : first + LARGEST_ARRAY]
        for task in some:
            make_folder(task.folder)
        executor = executor_of(submitit, some[0].folder.parent / JOBS, jobs or len(some), limits)
        try:
            with executor.batch():
                of_array = [executor.submit(Trial(task, limits.cpus)) for task in some]
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise SparseheadError(f"Slurm does not take the jobs: {one_line(str(error), 600)}") from None
        for task, job in zip(some, of_array, strict=True):
            replace_file(task.folder / JOB, f"{limits.cluster} {job.job_id}\n".encode())
            submitted.append((task, job))
    return submitted


def executor_of(submitit: ModuleType, folder: Path, jobs: int, limits: Limits) -> object:
    """submitit's executor, which submits to the cluster within the limits."""
    timeouts = {"slurm_max_num_timeout": MOST_TIMEOUTS, "local_max_num_timeout": MOST_TIMEOUTS}
    executor = submitit.AutoExecutor(folder.absolute(), cluster=limits.cluster, **timeouts)
    executor.update_parameters(
        name=folder.parent.name,
        timeout_min=limits.minutes,
        cpus_per_task=limits.cpus,
        gpus_per_node=limits.gpus or None,
        mem_gb=limits.memory,
        slurm_partition=limits.partition,
        slurm_array_parallelism=jobs,
    )
    return executor


def earlier_job(submitit: ModuleType, task: Task) -> "Job | None":
    """The job that an earlier command submitted for a task, where it is not over."""
    try:
        cluster, job_id = (task.folder / JOB).read_text(encoding="utf-8").split()
    except (OSError, ValueError):  # should one run all the same, the run's lock keeps a second one out
        return None
    kinds = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}
    if cluster not in CLUSTERS or not job_id.replace("_", "").isdecimal():
        return None
    job = kinds[cluster](task.folder.parent / JOBS, job_id)
    age = time.time() - (task.folder / JOB).stat().st_mtime
    forgotten = job.state == "UNKNOWN" and age > REMEMBERED_SECONDS
    return None if is_over(job) or forgotten else job


def is_over(job: "Job") -> bool:
    """Whether a job has ended. submitit itself knows of a local one only in the process that started it."""
    if type(job).__name__ != "LocalJob" or job._process is not None:
        return job.done()
    if job.paths.result_pickle.exists():
        return True
    try:
        return b"submitit" not in Path("/proc", job.job_id, "cmdline").read_bytes()  # its number may be another process's by now
    except OSError:
        return True


def outcome_of(task: Task, job: "Job") -> Outcome:
    """How a job ended. One that was killed has not failed: the trial goes on when the sweep is called again."""
    if (task.folder / TRIAL).exists():
        return Outcome(task)
    if (task.folder / FAILED).exists():
        return Outcome(task, (task.folder / FAILED).read_text(encoding="utf-8", errors="replace").strip())
    return Outcome(task, f"its job {job.job_id} was ended from outside ({job.paths.stderr} may say why); the same command goes on")


def array_jobs(folders: list[Path]) -> list[str]:
    """The numbers of the jobs, of an array the one of all, that trials' folders know."""
    texts = [(folder / JOB).read_text(encoding="utf-8").split() for folder in folders if (folder / JOB).exists()]
    return list(dict.fromkeys(text[1].partition("_")[0] for text in texts if len(text) == 2))


class Trial:
    """One trial, in a job. submitit pickles it, calls it, and calls `checkpoint` when the job is to be queued again."""

    def __init__(self, task: Task, threads: int) -> None:
        self.config, self.callbacks, self.threads = absolute(task.config), task.callbacks, threads

    def __call__(self) -> str:
        """Why the trial did not finish, "" where it did."""
        torch.set_num_threads(self.threads)
        folder = folder_of(self.config)
        notice = Notice()
        log_everything(folder)
        wait_for_the_dead(folder)
        reason = attempt(self.config, self.callbacks)
        if not (folder / TRIAL).exists() and not (folder / FAILED).exists():
            notice.queue_again()
        return reason

    def checkpoint(self) -> "DelayedSubmission":
        """What the job does when it runs again: the same, which goes on where it was."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Notice:
    """Slurm's notice that a job will end, which submitit's handler answers by queueing it again and ending it at once.

    Here a run that trains saves first. Its loop takes SIGTERM for that, which submitit ignores everywhere else; a job that is
    preempted gets it as well, a moment before its notice.
    """

    def __init__(self) -> None:
        import submitit

        self.number = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
        self.answer, self.ignored = signal.getsignal(self.number), signal.getsignal(signal.SIGTERM)
        self.came = False
        signal.signal(self.number, self.take)

    def take(self, number: int, frame: object) -> None:
        """Ask the loop to save; where none runs, or it saves already, what there is to keep is on the disk."""
        if signal.getsignal(signal.SIGTERM) == self.ignored:
            self.answer(number, frame)
        self.came = True
        signal.raise_signal(signal.SIGTERM)

    def queue_again(self) -> None:
        """Queue the job again once it has its notice. One that was cancelled gets none, and is killed meanwhile."""
        until = time.monotonic() + NOTICE_SECONDS
        while not self.came and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        if self.came:
            self.answer(self.number, None)
