"""Faults planted into the suite's commands at random, and what became of each; a seed reproduces them.

    python -m tests.torture.faults --count 1000 --seed 0 --out results/torture/faults.csv

A case is a command, a fault while it runs (or damage to a file that it left), and then the same command again, undisturbed. It
ends well if the results are those of a command that nothing disturbed, or, where a file was damaged, if the command names the
damage and stops. It ends badly in a wrong result without a word, a traceback, a crash, a hang, or more than 2 GB of memory.
"""

import argparse
import errno
import functools
import hashlib
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sparsehead_cli.evaluation import spectrum
from tests.images import write_fashion1k
from tests.torture import commands
from tests.torture.commands import Ended, start
from tests.torture.damage import FILES

SECONDS = 120  # until a command counts as hung
MEGABYTES = 2048
SMALL = {
    "widths": "8,8,8,8",
    "projector_hidden": 16,
    "projector_out": 8,
    "batch_size": 300,
    "precision": "float32",
    "warmup_epochs": 0,
}
SETTINGS = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
RUN = "results/simclr-on-fashion-mnist"  # the folder of the only run below it is found by its name
PRETRAIN = ["pretrain", "--dataset", "fashion-mnist", "--epochs", "2", "--track-spectrum", *SETTINGS]
EVALUATE = ["evaluate", "{run}", "--protocol", "linear,knn", "--per-class"]
SPECTRUM = ["spectrum", "{run}", "--out", "results/spectra"]
SWEEP = [
    "sweep-lambda",
    "--lams",
    "0,1e-3",
    "--seeds",
    "1",
    "--epochs",
    "1",
    "--jobs",
    "1",
    "--dataset",
    "fashion-mnist",
    *SETTINGS,
]
REPORT = ["report", "results/lambda-quick"]
COMMANDS = {  # name -> (commands before it, the command itself, how often it is drawn)
    "pretrain": ([], PRETRAIN, 15),
    "evaluate": ([PRETRAIN], EVALUATE, 10),
    "spectrum": ([PRETRAIN], SPECTRUM, 10),
    "report": ([SWEEP], REPORT, 5),
    "sweep-lambda": ([], SWEEP, 1),
}
TIMED = ("seconds", "images_per_second", "waiting_share", "commit")  # endings of columns that need not be the same twice
IGNORED = (".sha256", ".lock", ".part", ".log", "trial.csv", "log.txt")  # no results


@dataclass(frozen=True)
class Case:
    """A fault: its number, the command, the kind, the damaged file, and what became of it.

    `verdict` is "" for a case that ended well, `end` tells how the command ended.
    """

    number: int
    command: str
    fault: str
    file: str
    verdict: str
    end: str


def run_again(name: str, folder: Path, *more: str) -> Ended:
    """The command, undisturbed."""
    return start([*arguments_of(name, folder), *more], folder).wait(SECONDS)


def arguments_of(name: str, folder: Path) -> list[str]:
    """The command line; {run} is the folder of the run that was pretrained before."""
    return [a.format(run=run_of(folder)) if a == "{run}" else a for a in COMMANDS[name][1]]


def run_of(folder: Path) -> str:
    """The only run below RUN, as a relative path; a name that is not there where there is none."""
    runs = sorted((folder / RUN).glob("*/"))
    return str(runs[0].relative_to(folder)) if runs else f"{RUN}/none"


def contents(folder: Path) -> dict[str, object]:
    """The results below a folder: path -> a hash, or the rows of a table without what is measured by the clock."""
    found = {}
    for path in sorted((folder / "results").rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not name.endswith(IGNORED) and "/features/" not in name:
            found[name] = rows_of(path) if path.suffix == ".csv" else hashlib.sha256(held_in(path)).hexdigest()
    return found


def held_in(path: Path) -> bytes:
    """The bytes of a file, of a checkpoint those of its entries: what fills the gaps between them, nobody reads."""
    if path.suffix == ".pt" and zipfile.is_zipfile(path):
        with suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(path) as archive:
            return b"".join(name.encode() + archive.read(name) for name in archive.namelist())
    return path.read_bytes()


def rows_of(path: Path) -> list[dict[str, object]]:
    """A table's cells as text, without the columns that may differ; in any order, as tasks may end in any."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError):  # damaged, and left as it was
        return [{"damaged": str(path.read_bytes()[:1000])}]
    kept = table[[column for column in table if not column.endswith(TIMED)]]
    return sorted(kept.to_dict("records"), key=str)


# ---------------------------------------------------------------------------------------------- faults


def at_event(nth: int, act: Callable[[], None]) -> None:
    """Call `act` when this process opens a file to write, renames, removes or makes something for the `nth` time."""
    seen = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal seen
        writes = event == "open" and arguments[2] is not None and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes and "/dev/" not in str(arguments[0])) or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            seen += 1
            if seen == nth:
                act()

    sys.addaudithook(watch)


def fail(number: int) -> None:
    """The error that the operating system would give."""
    raise OSError(number, os.strerror(number))


def limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


def planted(draw: random.Random) -> dict[str, Callable[[], None]]:
    """Faults that are planted into the process before it starts."""
    nth = draw.randint(1, 40)
    addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return {
        "kill -9 at a write": lambda: at_event(nth, lambda: os.kill(os.getpid(), signal.SIGKILL)),
        "full disk": lambda: at_event(nth, functools.partial(fail, errno.ENOSPC)),
        "read-only disk": lambda: at_event(nth, functools.partial(fail, errno.EROFS)),
        "input/output error": lambda: at_event(nth, functools.partial(fail, errno.EIO)),
        "files of limited size": lambda: limit(resource.RLIMIT_FSIZE, draw.choice([0, 100, 1_000, 10_000, 100_000])),
        "few open files": lambda: limit(resource.RLIMIT_NOFILE, draw.randint(6, 40)),
        "little memory": lambda: limit(resource.RLIMIT_AS, addresses + draw.choice([0, 10, 50, 100, 200, 400]) * 2**20),
        "closed stdout": lambda: commands.without_output(1),
        "closed stderr": lambda: commands.without_output(2),
        "stdout on a full disk": commands.into_a_full_disk,
        "ASCII locale": commands.in_ascii,
    }


SIGNALS = {"kill -9": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT, "SIGSTOP, SIGCONT": signal.SIGSTOP}
OTHERS = ("two writers", "folder removed")


def disturb(name: str, fault: str, folder: Path, draw: random.Random) -> Ended:
    """Run the command with the fault."""
    arguments = arguments_of(name, folder)
    if fault in (faults := planted(draw)):
        return start(arguments, folder, faults[fault]).wait(SECONDS)
    child = start(arguments, folder)
    delay = draw.uniform(0, DURATIONS[name])
    if fault == "two writers":
        time.sleep(delay / 2)
        other = start(arguments, folder).wait(SECONDS)
        ended = child.wait(SECONDS)
        return other if other.has_traceback or other.code is None else ended
    time.sleep(delay)
    if fault == "folder removed":
        shutil.rmtree(folder / "results", ignore_errors=True)
    else:
        child.send(SIGNALS[fault])
        if SIGNALS[fault] == signal.SIGSTOP:
            time.sleep(0.05)
            child.send(signal.SIGCONT)
    return child.wait(SECONDS)


# ---------------------------------------------------------------------------------------------- cases

BASES: dict[str, Path] = {}  # command -> a folder as it is before the command
FINISHED: dict[str, Path] = {}  # and after it
EXPECTED: dict[str, dict[str, object]] = {}
DURATIONS: dict[str, float] = {}


def prepare(root: Path, names: list[str]) -> None:
    """Run each command undisturbed, once: what is expected of it, and how long it takes."""
    for key, value in {"VIEWED": 40, "VIEWS": 4, "BATCHES": 3, "BATCH_SIZE": 32, "RESPONSE_IMAGES": 50}.items():
        setattr(spectrum, key, value)
    for name in names:
        BASES[name], FINISHED[name] = root / f"{name}-before", root / f"{name}-after"
        write_fashion1k(BASES[name] / "data")
        for before in COMMANDS[name][0]:
            ended = start(before, BASES[name]).wait(SECONDS)
            assert ended.code == 0, ended.err
        shutil.copytree(BASES[name], FINISHED[name])
        began = time.monotonic()
        ended = run_again(name, FINISHED[name])
        assert ended.code == 0, ended.err
        DURATIONS[name] = time.monotonic() - began
        EXPECTED[name] = contents(FINISHED[name])


def draw_case(number: int, seed: int, names: list[str]) -> tuple[str, str, random.Random]:
    """The command and the fault of a case, and the generator of everything else about it."""
    draw = random.Random(f"{seed} {number}")
    name = draw.choices(names, [COMMANDS[name][2] for name in names])[0]
    kinds = [*planted(draw), *SIGNALS, *OTHERS, *[f"damage: {kind}" for kind in FILES] * 2]
    return name, draw.choice(kinds), draw


def run_case(number: int, seed: int, names: list[str], root: Path) -> Case:
    """Plant one fault, run the command again, and say what became of it."""
    name, fault, draw = draw_case(number, seed, names)
    damages = fault.startswith("damage: ")
    folder, file = root / f"case{number}", ""
    shutil.copytree((FINISHED if damages else BASES)[name], folder)
    try:
        if damages:
            file = damage_one(folder, fault.removeprefix("damage: "), draw)
            first = run_again(name, folder)
        else:
            first = disturb(name, fault, folder, draw)
        verdict, end = judge_end(first, killed=fault.startswith("kill -9"))
        if not verdict and not damages:
            if fault == "folder removed":
                shutil.rmtree(folder)
                shutil.copytree(BASES[name], folder)
            again = run_again(name, folder, "--retry-failed") if name == "sweep-lambda" else run_again(name, folder)
            verdict, _ = judge_end(again, killed=False)
            verdict = verdict or ("does not go on" if again.code else "")
            end += f"; again: {again.err.strip()[:200] or again.code}" if verdict else ""
        if not verdict and (not damages or first.code == 0):
            # a damaged file that came from a command before may stay as it is, as long as nothing else is other than it should be
            # (a sweep does not read again what is in the folder of a trial that has finished)
            there = [*contents(BASES[name]), *(path for path in EXPECTED[name] if name == "sweep-lambda" and path.count("/") > 2)]
            kept = {path for path in there if damages and path.endswith(f"/{file}")}
            found, expected = ({p: v for p, v in c.items() if p not in kept} for c in (contents(folder), EXPECTED[name]))
            verdict = "" if found == expected else "WRONG without a word"
        return Case(number, name, fault, file, verdict, end)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def damage_one(folder: Path, kind: str, draw: random.Random) -> str:
    """Damage one of the files that a command left; its name."""
    files = [path for path in sorted((folder / "results").rglob("*")) if path.is_file() and not path.name.endswith(".lock")]
    path = draw.choice(files)
    FILES[kind](path, draw.randrange(2**32))
    return path.name if path.suffix != ".pt" or path.name == "checkpoint.pt" else "features/*.pt"


def judge_end(ended: Ended, *, killed: bool) -> tuple[str, str]:
    """What is wrong with how a command ended, "" for nothing; and how it ended, in words."""
    words = ended.err.strip().splitlines()
    end = f"exit {ended.code}" + (f": {words[-1][:200]}" if words else "")
    if ended.has_traceback:
        return "traceback", f"exit {ended.code}: {ended.err[-1500:]}"
    if ended.code is None:
        return "hang", end
    if ended.code < 0 and not (killed and ended.code == -signal.SIGKILL) and ended.code not in (-signal.SIGTERM, -signal.SIGINT):
        return f"crash by signal {-ended.code}", end
    if ended.megabytes > MEGABYTES:
        return f"{ended.megabytes:.0f} MB", end
    return "", end


def torture(numbers: range, seed: int, names: list[str], jobs: int = 1, watch: Callable = lambda case: None) -> list[Case]:
    """Run the cases of these numbers, `jobs` at a time."""
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch), names)

        def run(job: int) -> list[Case]:
            cases = []
            for number in numbers[job::jobs]:
                cases.append(run_case(number, seed, names, Path(scratch)))
                watch(cases[-1])
            return cases

        if jobs == 1:
            return run(0)
        answers = [Path(scratch, f"job{job}") for job in range(jobs)]
        children = [fork(lambda job=job: answers[job].write_bytes(pickle.dumps(run(job)))) for job in range(jobs)]
        for child in children:
            os.waitpid(child, 0)
        return [case for answer in answers for case in pickle.loads(answer.read_bytes())]


def fork(work: Callable[[], object]) -> int:
    """Do `work` in a fork of this process, which then ends; its process number."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def table_of(cases: list[Case]) -> pd.DataFrame:
    """Counts: a row a command and kind of fault."""
    rows = [(case.command, case.fault, case.verdict or "well") for case in cases]
    counts = Counter(rows)
    verdicts = sorted({verdict for *_, verdict in rows} | {"well"})
    keys = sorted({row[:2] for row in rows})
    return pd.DataFrame([{"command": c, "fault": f, **{v: counts[c, f, v] for v in verdicts}} for c, f in keys])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--out", type=Path, help="write the counts to this CSV")
    options = parser.parse_args()

    def watch(case: Case) -> None:
        if case.verdict:
            print(f"case {case.number}: {case.command}, {case.fault} {case.file}: {case.verdict}\n    {case.end}", flush=True)

    numbers = range(options.first, options.first + options.count)
    cases = torture(numbers, options.seed, options.commands, options.jobs, watch)
    table = table_of(cases)
    print(table.to_string(index=False))
    print(f"{len(cases)} faults, {sum(bool(case.verdict) for case in cases)} of them ended badly")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
