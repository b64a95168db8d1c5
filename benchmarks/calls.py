"""How many of the package's functions one training step runs, and one `pretrain` of an epoch: what a reader has to follow.

    python benchmarks/calls.py
    python benchmarks/calls.py --names

A function counts once, however often it runs; lambdas and comprehensions count with the function around them,
bodies of classes not at all.
"""

import argparse
import importlib
import inspect
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import sparsehead_cli
from sparsehead_cli.cli import app
from sparsehead_cli.present import pretrain as display

PACKAGE = Path(sparsehead_cli.__file__).parent
STEP = ("training/loop.py", "train_step")
SETTINGS = ["--epochs", "1", "--batch-size", "4500", "--set", "widths=8,8,8,8", "--set", "precision=float32", "--device", "cpu"]
Functions = set[tuple[str, str, int]]  # file, name, first line


def functions_of(work: Callable[[], object]) -> tuple[Functions, Functions]:
    """(all functions of the package that `work` runs, those that run within a training step)."""
    everything, in_step, depth = set(), set(), 0
    files = {str(path): str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal depth
        code = frame.f_code
        is_function = code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith("<")
        if event not in ("call", "return") or code.co_filename not in files or not is_function:
            return
        function = (files[code.co_filename], code.co_qualname, code.co_firstlineno)
        is_step = function[:2] == STEP
        if event == "return":
            depth -= is_step
            return
        depth += is_step
        everything.add(function)
        if depth:
            in_step.add(function)

    for library in ("torch._dynamo", "torchvision"):  # else all that they do when they are imported passes through `note`
        importlib.import_module(library)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return everything, in_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", action="store_true", help="list them")
    options = parser.parse_args()
    display.LINE_SECONDS = math.inf  # lines within an epoch are of slow machines alone
    with tempfile.TemporaryDirectory() as results:
        counts = functions_of(lambda: app(["pretrain", *SETTINGS, "--results", results], standalone_mode=False))
    for name, functions in zip(("pretrain of one epoch", "one training step"), counts, strict=True):
        print(f"{name}: {len(functions)} functions in {len({file for file, *_ in functions})} files")
        if options.names:
            for file, function, line in sorted(functions):
                print(f"    {file}:{line} {function}")


if __name__ == "__main__":
    main()
