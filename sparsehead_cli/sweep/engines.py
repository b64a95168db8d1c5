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
from sparsehead_cli.machine.files import make_folder, replace_file
from sparsehead_cli.runs.config import Config
from sparsehead_cli.sweep.trial import FAILED, TRIAL, attempt, end_with_parent, log_everything

POLL_SECONDS = 0.1
UNWRITABLE = 3  # exit code of a trial that could not leave why it failed
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)


@dataclass(frozen=True)
class Task:
    """A trial to run: its folder, whose name is the run's, and its settings."""

    folder: Path
    config: Config


@dataclass(frozen=True)
class Ended:
    """A trial that ended; `error` says why it did not finish, "" where it did."""

    task: Task
    error: str = ""


Look = Callable[[list[Task]], set[str]]  # the running tasks -> names of runs that nobody wants any more


def default_jobs() -> int:
    """One trial a GPU where there are GPUs, else one a core: trials of one thread do more work together than one of many."""
    return torch.cuda.device_count() or cores()


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def run_local(tasks: list[Task], jobs: int, look: Look) -> Iterator[Ended]:
    """Run the tasks, `jobs` at a time, each in a process of its own with its share of the cores, or its GPU.

    `look` is called with the running tasks a few times a second. A task that fails leaves FAILED in its folder and does not
    stop the others. When this process ends, so do its children.
    """
    waiting, running, told = list(tasks), {}, set()
    context, gpus, threads = processes(), torch.cuda.device_count(), max(1, cores() // jobs)
    try:
        while waiting or running:
            for slot in (slot for slot in range(jobs) if slot not in running):
                if waiting:
                    task = waiting.pop(0)
                    try:
                        make_folder(task.folder)
                    except SparseheadError as error:
                        yield Ended(task, str(error))
                        continue
                    own = (task, threads, slot % gpus if gpus else None)
                    process = context.Process(target=run_task, args=own, name=task.folder.name)
                    process.start()
                    running[slot] = (task, process)
            for slot, (task, process) in list(running.items()):
                if process.exitcode is not None:
                    del running[slot]
                    yield ended(task, process.exitcode)
            unwanted = look([task for task, _ in running.values()])
            waiting = [task for task in waiting if task.folder.name not in unwanted]
            for task, process in running.values():
                if task.folder.name in unwanted - told:
                    process.terminate()  # it saves after its step, if it is not told twice
            told |= unwanted
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
        attempt(task.config)
    except SparseheadError:
        sys.exit(UNWRITABLE)


def ended(task: Task, code: int) -> Ended:
    """How a process ended. One that was killed has not failed: the trial goes on when the sweep is called again."""
    if code == 0 and (task.folder / TRIAL).exists():
        return Ended(task)
    if -code in CRASHES:
        replace_file(task.folder / FAILED, f"it crashed: {signal.Signals(-code).name}\n".encode())
    if (task.folder / FAILED).exists():
        return Ended(task, (task.folder / FAILED).read_text(encoding="utf-8", errors="replace").strip())
    if code == UNWRITABLE:
        reason = f"it failed and could not say why in {task.folder}: is the disk full? Make room; the same command goes on"
        return Ended(task, reason)
    return Ended(task, "it was stopped from outside, or another process runs it; the same command goes on")
