"""How the trials of a sweep are run: on this machine, or printed for somebody else's scheduler. Both run the same command lines."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sparsehead_cli.files import make_folder, replace_file
from sparsehead_cli.study.trial import FAILED, LOG, PARENT, TRIAL

POLL_SECONDS = 0.2
TAIL = 400  # letters of a log that tell why a trial failed


@dataclass(frozen=True)
class Task:
    """A trial to run: its folder, whose name is the run's, and the arguments behind `sparsehead` that run it."""

    folder: Path
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """A trial that ended; `error` says why it failed, "" where it did not."""

    task: Task
    error: str = ""


def default_jobs() -> int:
    """One trial a GPU where there are GPUs, else one a core: trials of one thread do more work together than one of many."""
    return torch.cuda.device_count() or cores()


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_local(tasks: list[Task], jobs: int, watch: Callable[[list[Task]], None]) -> Iterator[Ended]:
    """Run the tasks, `jobs` at a time, each in a process of its own with its share of the cores, or its GPU.

    `watch` is called with the running tasks a few times a second. A task that fails leaves FAILED in its folder and does not
    stop the others. When this process ends, so do its children.
    """
    waiting, running = list(tasks), {}
    gpus = torch.cuda.device_count()
    try:
        while waiting or running:
            for slot in range(jobs):
                if waiting and slot not in running:
                    task = waiting.pop(0)
                    running[slot] = (task, start(task, max(1, cores() // jobs), str(slot % gpus) if gpus else None))
            for slot, (task, process) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    yield ended(task, process.returncode)
            watch([task for task, _ in running.values()])
            time.sleep(POLL_SECONDS)
    finally:
        for _, process in running.values():
            process.terminate()  # it saves, and goes on next time
        for _, process in running.values():
            process.wait()


def start(task: Task, threads: int, gpu: str | None) -> subprocess.Popen:
    """One trial in its own process; what it prints goes to LOG in its folder."""
    task.folder.parent.mkdir(parents=True, exist_ok=True)
    make_folder(task.folder)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), PARENT: str(os.getpid())}
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[int(gpu)] if visible[0] else gpu
    with open(task.folder / LOG, "wb") as log:
        command = [sys.executable, "-m", "sparsehead_cli", *task.arguments]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment)


def ended(task: Task, code: int) -> Ended:
    """How a process ended. One that was killed has not failed: the trial goes on when the sweep is called again."""
    if code == 0 and (task.folder / TRIAL).exists():
        return Ended(task)
    if code < 0 or code in (130, 143):
        return Ended(task, "it was stopped from outside; the same command goes on")
    text = (task.folder / LOG).read_text(errors="replace").strip()
    reason = text[-TAIL:].rpartition("Error: ")[2].splitlines()[-1] if text else f"it ended with code {code} and said nothing"
    replace_file(task.folder / FAILED, f"{reason}\n".encode())
    return Ended(task, reason)
