"""Inputs made at random, or damaged at random, for everything that reads something; a seed reproduces them.

    python -m tests.torture.inputs --count 100000 --seed 0 --out results/torture/inputs.csv

An input ends well if it is read, or refused by a SparseheadError of a few lines. It ends badly in any other exception, in a crash,
a hang, more than 2 GB of memory, code that a file made run, or a value that is not the one that was written. Each batch of inputs
runs in a fork of this process, so that a crash costs that batch and is counted. `tests.torture.kinds` has the inputs.
"""

import argparse
import io
import json
import os
import random
import shutil
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pandas as pd
from hypothesis import HealthCheck, Phase, given, seed, settings

from sparsehead_cli.errors import SparseheadError
from tests.torture.commands import resident_megabytes
from tests.torture.kinds import KINDS, Changed, Kind

BATCH = 250
SECONDS, MEGABYTES = 300, 2048  # of a batch
LONGEST = 4000  # characters of an error


def judged(kind: Kind, value: object) -> str:
    """What became of one input: "read", "refused", or what is wrong."""
    try:
        kind.read(value)
    except SparseheadError as error:
        return "refused" if len(str(error)) <= LONGEST else f"an error of {len(str(error)):,} characters"
    except Changed as change:
        return f"WRONG without a word: {change}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "read"


def run_batch(kind: Kind, count: int, number: int) -> tuple[Counter, list[str]]:
    """Judge `count` inputs in this process: counts of their ends, and a line for each that ended badly."""
    ends, bad = Counter(), []

    @seed(number)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(kind.inputs)
    def each(value: object) -> None:
        end = judged(kind, value)
        ends[end if end in ("read", "refused") else "badly"] += 1
        if end not in ("read", "refused"):
            bad.append(f"{end} <- {repr(value)[:300]}")

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        each()
    return ends, bad


def forked(kind: Kind, count: int, number: int, scratch: Path) -> tuple[Counter, list[str]]:
    """`run_batch` in a fork, in a folder of its own, which must not hold what only code in a file could have made."""
    folder, answer = scratch / f"{kind.name}-{number}", scratch / f"{kind.name}-{number}.json"
    folder.mkdir()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            kind.prepare(folder)
            ends, bad = run_batch(kind, count, number)
            answer.write_text(json.dumps([ends, bad]), encoding="utf-8")
            os._exit(0)
        except BaseException as error:
            answer.write_text(json.dumps([{}, [f"the batch ended in {type(error).__name__}: {error}"]]), encoding="utf-8")
            os._exit(1)
    began, megabytes, done = time.monotonic(), 0.0, 0
    while not done and time.monotonic() < began + SECONDS:
        megabytes = max(megabytes, resident_megabytes(pid))
        done, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)
    if not done:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    ends, bad = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else ({}, [])
    problems = [
        (not done, f"hang: {SECONDS} s for {count} inputs"),
        (done and os.waitstatus_to_exitcode(status) < 0, "crash"),
        (megabytes > MEGABYTES, f"{megabytes:.0f} MB"),
        ((folder / "code-was-run").exists(), "code in a file was run"),
    ]
    bad += [problem for happened, problem in problems if happened]
    shutil.rmtree(folder, ignore_errors=True)
    return Counter(ends), bad


def fuzz(counts: dict[str, int], number: int, watch: Callable[[str, str], None] = lambda kind, line: None) -> pd.DataFrame:
    """Judge so many inputs of each kind: a row a kind with its counts."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, count in counts.items():
            ends: Counter = Counter()
            for start in range(0, count, BATCH):
                batch = zlib.crc32(f"{number} {name} {start}".encode())
                found, bad = forked(KINDS[name], min(BATCH, count - start), batch, Path(scratch))
                ends += found
                ends["badly"] += max(0, len(bad) - found["badly"])
                for line in bad:
                    watch(name, f"batch {batch}: {line}")
            rows.append({"inputs": name, **{end: ends[end] for end in ("read", "refused", "badly")}})
    return pd.DataFrame(rows)


def shares(count: int, names: list[str]) -> dict[str, int]:
    """How many inputs of each kind make `count` together."""
    weights = {name: KINDS[name].weight for name in names}
    return {name: -(-count * weight // sum(weights.values())) for name, weight in weights.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--out", type=Path, help="write the counts to this CSV")
    options = parser.parse_args()
    random.seed(options.seed)
    table = fuzz(shares(options.count, options.kinds), options.seed, lambda kind, line: print(f"{kind}: {line}", flush=True))
    print(table.to_string(index=False))
    print(f"{table[['read', 'refused', 'badly']].to_numpy().sum():,} inputs, {table['badly'].sum()} of them ended badly")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
