"""The trials of a sweep as Ray tasks: on a cluster that is there (`--address`), or on one that Ray starts here."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.files import replace_file
from sparsehead_cli.machine.interrupts import hear_sigterm
from sparsehead_cli.runs.config import Config
from sparsehead_cli.sweeps.engines import OnPoll, Outcome, Task
from sparsehead_cli.sweeps.trial import FAILED, TRIAL, absolute, attempt, folder_of, wait_for_the_dead

POLL_SECONDS = 0.2
CONNECT_SECONDS = 5
NAMED = ("auto", "local")  # addresses that Ray knows by name: the cluster of this machine, and one of its own
RETRIES = 5  # of a trial whose node died or whose process was killed


def run_ray(tasks: list[Task], jobs: int | None, on_poll: OnPoll, address: str | None) -> Iterator[Outcome]:
    """Run the tasks on Ray, at most `jobs` at a time, a process and one core or one GPU (with its share of the cores) each.

    All nodes must see the folders of the trials. A trial whose node dies goes on, on another, from its last checkpoint.
    Raises: SparseheadError without Ray, and for an address where nobody answers.
    """
    with connected(address) as ray:
        waiting, running, cancelled = list(tasks), {}, set()
        while waiting or running:
            slots, threads, gpus = shares(ray.cluster_resources())
            remote = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=RETRIES, max_calls=1)(run_remote)
            while waiting and len(running) < min(slots, jobs or slots):
                task = waiting.pop(0)
                running[remote.remote(absolute(task.config), threads, task.callbacks)] = task
            ended = ray.wait(list(running), timeout=POLL_SECONDS)[0] if running else []
            for ref in ended:
                yield outcome_of(ray, ref, running.pop(ref))
            unwanted = on_poll(list(running.values()))
            waiting = [task for task in waiting if task.folder.name not in unwanted]
            for ref, task in running.items():
                if task.folder.name in unwanted - cancelled:
                    ray.cancel(ref)
            cancelled |= unwanted


@contextmanager
def connected(address: str | None) -> Iterator[ModuleType]:
    """Ray, connected for as long as the block lasts."""
    check_ray(address)
    import ray

    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError) as error:
        raise unreachable(address, error) from None
    with suppress(ValueError):  # outside of the main thread
        hear_sigterm()  # where Ray has put a handler of its own, which ends the process without a word
    try:
        yield ray
    finally:
        ray.shutdown()


def check_ray(address: str | None) -> None:
    """Raises: SparseheadError without Ray, and at once for a HOST:PORT where nobody answers (Ray itself would wait forever)."""
    try:
        import ray  # noqa: F401
    except ImportError:
        raise SparseheadError("--engine ray needs Ray, which is not installed: pip install 'sparsehead[ray]'") from None
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if address and address not in NAMED and not (host and port.isdigit()):
        raise SparseheadError(f"no Ray cluster answers at --address {address}: it must be HOST:PORT, or {' or '.join(NAMED)}.")
    if host:
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise unreachable(address, error) from None


def unreachable(address: str | None, error: Exception) -> SparseheadError:
    """The error for a cluster that does not answer."""
    reason = str(error).rstrip(".")
    return SparseheadError(
        f"no Ray cluster answers at --address {address}: {reason}. "
        "`ray start --head --port=6379` starts one; without --address Ray starts its own here."
    )


def shares(resources: dict[str, float]) -> tuple[int, int, int]:
    """What a cluster has -> (trials at a time, cores of each, GPUs of each)."""
    cpus, gpus = max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0))
    return (gpus, max(1, cpus // gpus), 1) if gpus else (cpus, 1, 0)


def run_remote(config: Config, threads: int, callbacks: tuple[str, ...]) -> tuple[str, str]:
    """One trial on some node; (why it did not finish, or ""; the node's name)."""
    torch.set_num_threads(threads)
    folder = folder_of(config)
    folder.mkdir(parents=True, exist_ok=True)
    wait_for_the_dead(folder)
    return attempt(config, callbacks), os.uname().nodename


def outcome_of(ray: ModuleType, ref: object, task: Task) -> Outcome:
    """How a Ray task ended."""
    try:
        reason, node = ray.get(ref)
    except (ray.exceptions.TaskCancelledError, KeyboardInterrupt):
        return Outcome(task, "it was stopped")
    except ray.exceptions.RayError as error:  # its process or its node died again and again
        reason, node = f"{type(error).__name__}: {error}".splitlines()[0], ""
        if task.folder.exists():
            replace_file(task.folder / FAILED, f"{reason}\n".encode())
    if not reason and not (task.folder / TRIAL).exists():
        reason = f"it finished on {node}, which does not share {task.folder.parent} with this machine. Choose another --results."
    return Outcome(task, reason)
