"""What benchmarks of whole commands have in common: durations of new processes, and the machine that they were measured on."""

import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from machine import facts

from sparsehead_cli.runs.table_files import replace_csv

LIBRARIES = ("numpy", "pandas", "matplotlib", "scipy")


def seconds_of(arguments: list[str], folder: Path, repeats: int, code: int = 0) -> float:
    """The wall-clock of `sparsehead` with these arguments in a new process that starts in `folder`, median of `repeats`.

    It has to end with the exit `code`.
    """
    return statistics.median(once(["-m", "sparsehead_cli", *arguments], folder, code) for _ in range(repeats))


def once(arguments: list[str], folder: Path, code: int) -> float:
    """How long one new Python takes from its start to its end; what it says is seen only where it ends otherwise."""
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", ""))))
    command, environment = [sys.executable, *arguments], {**os.environ, "PYTHONPATH": paths}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode != code:
        raise SystemExit(done.stderr)
    return seconds


def keep(path: Path | None, measured: list[tuple[str, float, str]]) -> None:
    """Print measurements, (name, value, unit) each, and write them to a CSV with the machine and the versions."""
    for name, value, unit in measured:
        print(f"{name:60} {value:7.2f} {unit}")
    if path:
        versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in LIBRARIES)])
        rows = [{"measurement": name, "value": round(value, 3), "unit": unit} for name, value, unit in measured]
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_csv(path, [{**row, "versions": versions, **facts()} for row in rows], "durations.csv")
