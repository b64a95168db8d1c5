"""What a run would take: a few of its own steps and its probe on some images are timed; nothing is written, nothing kept."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from sparsehead_cli.data.contract import Batch, Source
from sparsehead_cli.machine import distributed
from sparsehead_cli.machine.memory import peak_memory
from sparsehead_cli.runs.run import Run
from sparsehead_cli.training.loop import epoch_batches, train_step
from sparsehead_cli.training.probe import bank_of, measure

SECONDS = 3.0  # that steps are timed for, about; at least one is
MOST_STEPS = 50
FEW = 1_000  # inputs that the probe is timed on, where all of them would take longer than SECONDS


@dataclass(frozen=True)
class Rehearsal:
    """Seconds of a step, the mean of `steps` of them after a first one, and of the probe after an epoch; peak memory in bytes."""

    step_seconds: float
    steps: int
    probe_seconds: float
    peak: int

    def seconds(self, steps: int, epochs: int) -> float:
        """What so many steps take, and the probes after so many epochs."""
        return steps * self.step_seconds + epochs * self.probe_seconds


def rehearse(run: Run) -> Rehearsal:
    """Train a run for some steps, from its initial weights. The run is of no further use; the global generator stays as it was."""
    shrinking = run.sparse.attach(run.optimizer) if run.sparse.solver == "proximal" else nullcontext()
    with distributed.deserted():
        with shrinking, torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
            step_seconds, steps = time_steps(run)
        return Rehearsal(step_seconds, steps, time_probe(run), peak_memory(run.device))


def time_steps(run: Run) -> tuple[float, int]:
    """(mean seconds, number) of the steps that were timed; the first two show how many these shall be."""
    batches = endless(run)
    seconds_of(run, batches, 1)  # warms up, or compiles
    first = seconds_of(run, batches, 1)
    wanted = torch.tensor([min(MOST_STEPS, int(SECONDS / first) + 1)], device=run.device)
    count = int(distributed.all_gather(wanted).min())  # processes train together
    return seconds_of(run, batches, count) / count, count


def seconds_of(run: Run, batches: Iterator[Batch], count: int) -> float:
    """How long so many steps take, reading included."""
    began = time.perf_counter()
    for step in range(count):
        logged = train_step(run, next(batches), step % run.total_steps)  # beyond the last step there is no learning rate
    logged["loss"].item()  # waits for the device
    return time.perf_counter() - began


def endless(run: Run) -> Iterator[Batch]:
    """The batches of the first epoch, again and again."""
    while True:
        yield from epoch_batches(run, 0)


def time_probe(run: Run) -> float:
    """About how many seconds the measurements after an epoch take."""
    bank, val = bank_of(run.train), run.val
    few = [spread(source, FEW) for source in (bank, val)]
    share = (len(few[0]) + len(few[1])) / (len(bank) + len(val))
    seconds = seconds_of_probe(run, *few)
    if share < 1 and seconds / share < SECONDS and distributed.world() == 1:
        return seconds_of_probe(run, bank, val)
    return seconds / share


def seconds_of_probe(run: Run, bank: Source, val: Source) -> float:
    began = time.perf_counter()
    measure(run, bank, val)  # its numbers come to the processor: nothing is left to be waited for
    return time.perf_counter() - began


def spread(source: Source, count: int) -> Source:
    """At most so many of the inputs, evenly spread."""
    count = min(count, len(source))
    return source.take(torch.arange(count, device=source.labels.device) * len(source) // max(1, count))
