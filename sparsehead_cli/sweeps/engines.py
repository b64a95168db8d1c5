"""How the trials of a sweep are run on this machine: a process each, forked from one that has imported everything already."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.cores import cores
from sparsehead_cli.machine.files import make_folder, replace_file
from sparsehead_cli.runs.config import Config
from sparsehead_cli.sweeps.trial import FAILED, TRIAL, attempt, end_with_parent, log_everything

POLL_SECONDS = 0.1
UNWRITABLE = 3  # exit code of a trial that could not leave why it failed
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)


@dataclass(frozen=True)
class Task:
    """A trial to run: its folder, whose name is the run's, its settings, and callbacks written module:attribute."""

    folder: Path
    config: Config
    callbacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """A trial that ended; `error` says why it did not finish, "" where it did."""

    task: Task
    error: str = ""


OnPoll = Callable[[list[Task]], set[str]]  # the running tasks -> names of runs that nobody wants any more


def default_jobs() -> int:
    """One trial a GPU where there are GPUs, else one a core: trials of one thread do more work together than one of many."""
    return torch.cuda.device_count() or cores()


def threads_of(jobs: int) -> int:
    """Each one's share of the cores, of so many trials at a time, and no more than OMP_NUM_THREADS, where that is given."""
    share, given = cores() // jobs, os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(share, int(given)) if given.isdecimal() else share)


def processes() -> multiprocessing.context.BaseContext:
    """How trials get a process of their own: as a fork of one that has done nothing but import, where there are forks.

    A fork starts in no time and shares the memory of the imports, and no trial sees what another one did.
    """
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload([__name__])
        forkserver.ensure_running()  # which begins to import; this process need not wait for it
    return context


def run_local(tasks: list[Task], jobs: int, on_poll: OnPoll) -> Iterator[Outcome]:
    """Run the tasks, `jobs` at a time, each in a process of its own with its share of the cores, or its GPU.

    `on_poll` is called a few times a second. A task that fails leaves FAILED in its folder and does not stop the others. When
    this process ends, so do its children.
    """
    waiting, running, stopped = list(tasks), {}, set()  # running: slot -> (task, process)
    context, gpus, threads = processes(), torch.cuda.device_count(), threads_of(jobs)
    try:
        while waiting or running:
            for slot in range(jobs):
                if waiting and slot not in running:
                    task = waiting.pop(0)
                    try:
                        make_folder(task.folder)
                    except SparseheadError as error:
                        yield Outcome(task, str(error))
                        continue
                    arguments = (task, threads, slot % gpus if gpus else None)
                    process = context.Process(target=run_task, args=arguments, name=task.folder.name)
                    process.start()
                    running[slot] = (task, process)
            for slot, (task, process) in list(running.items()):
                if process.exitcode is not None:
                    del running[slot]
                    yield outcome_of(task, process.exitcode)
            unwanted = on_poll([task for task, _ in running.values()])
            waiting = [task for task in waiting if task.folder.name not in unwanted]
            for task, process in running.values():
                if task.folder.name in unwanted - stopped:
                    process.terminate()  # once: it saves after its step, unless it is told again
            stopped |= unwanted
            time.sleep(POLL_SECONDS)
    finally:
        for _, process in running.values():
            process.terminate()  # and goes on next time
        for _, process in running.values():
            process.join()


def run_task(task: Task, threads: int, gpu: int | None) -> None:
    """One trial, in a process that has nothing else to do; what it prints goes to LOG in its folder."""
    end_with_parent()
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[gpu] if visible[0] else str(gpu)
    torch.set_num_threads(threads)
    try:
        log_everything(task.folder)
        attempt(task.config, task.callbacks)
    except SparseheadError:
        sys.exit(UNWRITABLE)


def outcome_of(task: Task, code: int) -> Outcome:
    """How a process ended. One that was killed has not failed: the trial goes on when the sweep is called again."""
    if code == 0 and (task.folder / TRIAL).exists():
        return Outcome(task)
    if -code in CRASHES:
        replace_file(task.folder / FAILED, f"it crashed: {signal.Signals(-code).name}\n".encode())
    if (task.folder / FAILED).exists():
        return Outcome(task, (task.folder / FAILED).read_text(encoding="utf-8", errors="replace").strip())
    if code == UNWRITABLE:
        reason = f"it failed and could not say why in {task.folder}: is the disk full? Make room; the same command goes on"
        return Outcome(task, reason)
    return Outcome(task, "it was stopped from outside, or another process runs it; the same command goes on")
