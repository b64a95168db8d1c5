"""How long commands take until they do what they were started for.

    python benchmarks/start.py --out results/start/durations.csv        # about two minutes on two cores

Each is the real command in a new process, the median of five: `pretrain` with its defaults from the shell to the end of its first
step (a callback ends the process there), the same command for a run that is finished, and commands that need no network.
"""

import argparse
import tempfile
from pathlib import Path

from durations import keep, seconds_of

FIRST = """
import os

from sparsehead_cli.training.callbacks import Callback


class First(Callback):
    def on_step(self, run, progress):
        progress.logged["loss"].item()  # waits for the device
        os._exit(0)
"""
TINY = ["--epochs", "1", "--batch-size", "4500", "--set", "widths=8,8,8,8"]  # a run that is soon finished


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="each once: to see that it runs, not to quote")
    options = parser.parse_args()
    repeats = 1 if options.quick else 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "first.py").write_text(FIRST)
        (folder / "empty").mkdir()
        seconds_of(["pretrain", *TINY], folder, 1)  # and compiles what Python has not compiled yet
        numbers = {
            "pretrain, until its first step": seconds_of(["pretrain", "--callback", "first:First"], folder, repeats),
            "pretrain of a finished run": seconds_of(["pretrain", *TINY], folder, repeats),
            "--help": seconds_of(["--help"], folder, repeats),
            "pretrain --help": seconds_of(["pretrain", "--help"], folder, repeats),
            "list": seconds_of(["list"], folder, repeats),
            "list settings": seconds_of(["list", "settings"], folder, repeats),
            "report of an empty folder": seconds_of(["report", "empty"], folder, repeats, code=1),
        }
        keep(options.out, [(name, seconds, "s") for name, seconds in numbers.items()])


if __name__ == "__main__":
    main()
