"""How fast is the training loop beside those of its peers? Images a second, two views each, side by side on one machine.

    pip install -r benchmarks/peers/requirements.txt            # README.md says how to make an environment for it
    python benchmarks/peers/compare.py --solo-learn ../solo-learn --out results/peers/peers.csv

Network, head, images, batch of 256 and view recipe are the same for all; README.md says what else each peer was given. Without
the peers it measures ours alone. `ratio` is how many times as fast as the peer; the rows of a peer hold one.

Each loop runs in a process of its own, which is stopped with its workers while it is not its turn. Turns alternate, a few
batches at a time, so a machine whose speed drifts slows all alike, and no worker prepares views in another's time. One peer is
measured after the other, ours beside each, so that no more than six loops hold their memory at once.
"""

import argparse
import importlib.util
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TextIO

import torch
import torch._dynamo  # every optimizer imports it: once here, and not once in each process

sys.path.insert(0, str(Path(__file__).parents[1]))
import loops
from loops import Setting
from machine import facts
from throughput import alternate, report

from sparsehead_cli.machine.device import choose_device, has_fast_bfloat16
from sparsehead_cli.runs.table_files import replace_csv

Loop = Callable[[Setting, Callable[[], None]], None]
FORK = multiprocessing.get_context("fork")  # what is imported here, is imported once

OURS: dict[str, Loop] = {
    "sparsehead float32": partial(loops.sparsehead, precision="float32"),
    "sparsehead auto": partial(loops.sparsehead, precision="auto"),
    "sparsehead auto, compiled": partial(loops.sparsehead, precision="auto", compile=True),
}
# peer -> its loops in float32, and those in bfloat16, which are measured where the processor is fast in it, as with our auto
PEERS: dict[str, tuple[dict[str, Loop], dict[str, Loop]]] = {
    "lightly": (
        {"lightly, PIL": partial(loops.lightly, pil=True), "lightly, tensors": partial(loops.lightly, pil=False)},
        {"lightly, PIL, bfloat16": partial(loops.lightly, pil=True, bfloat16=True)},
    ),
    "solo-learn": (
        {"solo-learn": partial(loops.solo_learn, precision="32-true")},
        {"solo-learn, bfloat16": partial(loops.solo_learn, precision="bf16-mixed")},
    ),
    "stable-pretraining": (
        {"stable-pretraining": partial(loops.stable_pretraining, precision="32-true")},
        {"stable-pretraining, bfloat16": partial(loops.stable_pretraining, precision="bf16-mixed")},
    ),
}
MODULES = {"lightly": "lightly", "stable-pretraining": "stable_pretraining", "kornia": "kornia"}  # solo-learn is not installed
VIEWS: dict[str, tuple[str, Loop]] = {  # workload -> its library and loop
    "torchvision, by image": ("torchvision", partial(loops.torchvision_views, batched=False)),
    "torchvision, by batch": ("torchvision", partial(loops.torchvision_views, batched=True)),
    "kornia, by batch": ("kornia", loops.kornia_views),
}
# network, method, rounds, batches a turn
FULL = (("narrow32", "simclr", 5, 3), ("narrow32", "byol", 3, 3), ("narrow32", "barlow", 3, 3), ("resnet18", "simclr", 2, 1))
QUICK = (("narrow32", "simclr", 1, 1),)


class Contender:
    """A loop in a process of its own; to call it lets it run for one batch. Whoever starts it ends it."""

    def __init__(self, name: str, loop: Loop, setting: Setting, words: TextIO) -> None:
        self.name, self.words = name, words
        self.pipe, end = FORK.Pipe()
        self.process = FORK.Process(target=contend, args=(loop, setting, end, words.fileno()), name=name)
        self.process.start()
        os.setpgid(self.process.pid, self.process.pid)  # one group with the workers that it will start
        end.close()

    def __call__(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)
        self.pipe.send(None)
        self.wait()

    def wait(self) -> None:
        """Until its batch is over; then it stands still, and its workers with it."""
        try:
            self.pipe.recv()
        except EOFError:
            self.words.seek(0)
            raise SystemExit(f"{self.words.read()[-4000:]}\n{self.name} broke off, see above.") from None
        os.killpg(self.process.pid, signal.SIGSTOP)

    def end(self) -> None:
        """With its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()


def contend(loop: Loop, setting: Setting, end: Connection, words: int) -> None:
    """The process of a loop: says when a batch is over, and goes on when it is told to. What it prints goes to the file `words`."""
    os.dup2(words, 1)
    os.dup2(words, 2)

    def turn() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        end.send(None)
        end.recv()

    loop(setting, turn)


def measure(setting: Setting, contenders: dict[str, Loop], rounds: int, block: int) -> dict[str, list[float]]:
    """Seconds a batch of each, taken in turn, once each has had its first, with whatever is read and compiled for it."""
    with ExitStack() as stack:
        steps = {}
        for name, loop in contenders.items():
            words = stack.enter_context(tempfile.TemporaryFile("w+"))
            steps[name] = Contender(name, loop, setting, words)
            stack.callback(steps[name].end)
            steps[name].wait()
        return alternate(steps, rounds, block)


def compare(network: str, method: str, batch_size: int, seconds: dict[str, list[float]]) -> list[dict[str, object]]:
    """The rows of each of a peer's loops, and of ours beside it; where there is no peer, of ours beside its first."""
    ours = {name: times for name, times in seconds.items() if name.startswith("sparsehead")}
    rows = []
    for peer in [name for name in seconds if name not in ours] or list(ours)[:1]:
        beside = report(network, batch_size, {peer: seconds[peer], **ours})
        rows += [{**row, "method": method, "peer": peer} for row in beside]
    return rows


def versions(solo_learn: Path | None) -> dict[str, str]:
    """Library -> its version, of those that are there; of a clone of solo-learn also its commit."""
    there = {"torchvision": metadata.version("torchvision")}
    there |= {name: metadata.version(name) for name, module in MODULES.items() if importlib.util.find_spec(module)}
    if solo_learn:
        stated = re.search(r'version="([^"]+)"', (solo_learn / "setup.py").read_text())
        command = ["git", "-C", str(solo_learn), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        there["solo-learn"] = f"{stated[1] if stated else ''} {commit}".strip()
    return there


def fast_in_bfloat16() -> bool:
    """Whether our auto is bfloat16 here."""
    return has_fast_bfloat16(choose_device("auto"))


def loops_of(peers: Iterable[str]) -> list[dict[str, Loop]]:
    """The loops of each of these peers, in the precisions that this machine is fast in."""
    with FORK.Pool(1) as pool:  # a GPU that this process has opened could not be used by those that it forks
        fast = pool.apply(fast_in_bfloat16)
    if not fast:
        print("This machine emulates bfloat16: the peers are measured in float32 alone, and our auto chooses it, too.")
    return [PEERS[peer][0] | (PEERS[peer][1] if fast else {}) for peer in peers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="beside which (default: all)")
    parser.add_argument("--solo-learn", type=Path, metavar="PATH", help="a clone of github.com/vturrisi/solo-learn")
    parser.add_argument("--quick", action="store_true", help="little work: to see that it runs, not to quote")
    parser.add_argument("--out", type=Path, help="write the rows to this CSV")
    options = parser.parse_args()
    if options.solo_learn:
        if not (options.solo_learn / "solo").is_dir():
            parser.error(f"--solo-learn {options.solo_learn} is no clone of solo-learn: it has no folder solo")
        sys.path.append(str(options.solo_learn))
    there = versions(options.solo_learn)
    missing = [name for name in (*options.peers, "kornia") if name not in there]
    if missing:
        print(f"Not measured, for want of the library: {', '.join(missing)}")
    peers = loops_of([name for name in options.peers if name in there])
    ours = dict(list(OURS.items())[:2]) if options.quick else OURS  # to compile takes half a minute
    batch_size, rows = 32 if options.quick else 256, []
    for network, method, rounds, block in QUICK if options.quick else FULL:
        print(f"{method}, {network}, batches of {batch_size}")
        setting = Setting(network, method, batch_size)
        for beside in peers or [{}]:
            rows += compare(network, method, batch_size, measure(setting, {**beside, **ours}, rounds, block))
    print("the views alone, in one process")
    setting = Setting("narrow32", "simclr", batch_size)
    views = {name: loop for name, (library, loop) in VIEWS.items() if library in there}
    seconds = measure(setting, {**views, "sparsehead": loops.sparsehead_views}, 1 if options.quick else 6, 1)
    rows += compare("none", "views", batch_size, seconds)
    if options.out:
        write(options.out, rows, there)


def write(path: Path, rows: list[dict[str, object]], there: dict[str, str]) -> None:
    """The rows as a table, with the machine and the version of each peer."""
    machine = facts()
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in rows:
        name = row["peer"].partition(",")[0]
        row["peer_version"] = f"{name} {there[name]}" if name in there else name
    replace_csv(path, [{**row, **machine} for row in rows], "peers.csv")


if __name__ == "__main__":
    main()
