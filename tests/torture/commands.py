"""The suite's commands as forks of this process: a command starts in milliseconds, and a fault can be planted in its process.

    child = start(["pretrain", "--epochs", "2"], folder, plant=lambda: None)
    ended = child.wait(seconds=60)

Everything is imported once, here; a fork has computed nothing yet, so that it behaves as a command that was just started.
"""

import contextlib
import io
import os
import resource
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch._dynamo
import torchvision.io  # noqa: F401  (with it, what a fork would import anew: an optimizer the compiler, a JPEG its decoder)

from sparsehead_cli import cli
from sparsehead_cli.evaluation import evaluate, spectrum  # noqa: F401
from sparsehead_cli.present import evaluation, pretrain, report, sweep  # noqa: F401
from sparsehead_cli.runs import build  # noqa: F401
from sparsehead_cli.training import loop  # noqa: F401

torch.set_num_threads(1)  # threads that compute do not survive a fork
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: the signal that killed it, None: it had to be killed as it hung)."""

    code: int | None
    out: str
    err: str
    megabytes: float

    @property
    def has_traceback(self) -> bool:
        return TRACEBACK in self.err or TRACEBACK in self.out


class Child:
    """A command that runs in a fork, in a session of its own, so that its children can be ended with it."""

    def __init__(self, pid: int, out: Path, err: Path) -> None:
        self.pid, self.out, self.err = pid, out, err
        self.code: int | None = None
        self.megabytes = 0.0

    def is_running(self) -> bool:
        """Whether it has not ended yet; notes the most memory that it was seen to have."""
        if self.code is None:
            self.megabytes = max(self.megabytes, resident_megabytes(self.pid))
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is None

    def send(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.is_running():
            os.kill(self.pid, number)

    def wait(self, seconds: float) -> Ended:
        """Wait for its end, at most so long; then it and its children are killed, and its exit code is None."""
        ends = time.monotonic() + seconds
        while self.is_running() and time.monotonic() < ends:
            time.sleep(0.005)
        hung = self.is_running()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if hung:
            os.waitpid(self.pid, 0)
        texts = [path.read_bytes().decode("utf-8", "replace") for path in (self.out, self.err)]
        return Ended(None if hung else self.code, *texts, self.megabytes)


def resident_megabytes(pid: int) -> float:
    """The largest resident size that a process has had so far, by the kernel; 0 for one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def start(arguments: list[str], folder: Path, plant: Callable[[], None] = lambda: None) -> Child:
    """Start `sparsehead ARGUMENTS` in `folder`; `plant` is called in its process before anything else."""
    logs = folder.parent / "logs"
    logs.mkdir(exist_ok=True)
    out, err = (logs / f"{folder.name}-{time.monotonic_ns()}.{kind}" for kind in ("out", "err"))
    pid = os.fork()
    if pid == 0:
        become(arguments, folder, out, err, plant)
    return Child(pid, out, err)


def become(arguments: list[str], folder: Path, out: Path, err: Path, plant: Callable[[], None]) -> None:
    """Turn this fork into the command; never returns."""
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = text_to(1), text_to(2)
        sys.argv, sys.modules["__main__"] = ["sparsehead", *arguments], types.ModuleType("__main__")  # as in a command of its own
        os.environ |= {"COLUMNS": "100", "OMP_NUM_THREADS": "1"}
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        plant()
        code = exit_code()
    except BaseException:  # whatever a command lets through is a traceback for its user
        traceback.print_exc(file=text_to(2))
        code = 1
    finally:
        os._exit(code)


def exit_code() -> int:
    """Run the console script's own entry point; the exit code that a shell would see."""
    try:
        cli.main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # as at the interpreter's own end: 120 where it was stdout
            code = code or 120 * (stream is sys.stdout)
    return code


def without_output(number: int) -> None:
    """Close an output, as `>&-` does."""
    os.close(number)
    setattr(sys, {1: "stdout", 2: "stderr"}[number], None)


def text_to(number: int, encoding: str = "utf-8", errors: str = "strict") -> io.TextIOWrapper:
    """A text stream into an open file descriptor, which stays open."""
    return io.TextIOWrapper(os.fdopen(number, "wb", closefd=False), encoding=encoding, errors=errors)


def into_a_full_disk() -> None:
    """stdout is /dev/full."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    sys.stdout = text_to(1)


def in_ascii() -> None:
    """Outputs of an odd locale: ASCII, strictly, as Python opens them there."""
    sys.stdout, sys.stderr = text_to(1, "ascii"), text_to(2, "ascii", "backslashreplace")
