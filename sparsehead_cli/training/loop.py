"""The loop. One batch from disk to loss is `train_step`, one training is `fit`, one run is `pretrain`.

Nothing random has a memory: the order of an epoch, the views of a step and whatever a method draws are functions of
(seed, epoch or step, place in the batch). So a checkpoint needs no generator's state, a resumed run is bit for bit the run that
was never stopped, and the number of processes that share the batches changes only how sums are rounded.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsehead_cli.data.contract import Batch
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine import distributed
from sparsehead_cli.machine.memory import keep_freed_memory
from sparsehead_cli.machine.seeds import stable_seed
from sparsehead_cli.machine.signals import Interrupted, Stop, catch_signals
from sparsehead_cli.measure.features import Waiting
from sparsehead_cli.runs.folder import LAYERS, METRICS, locked, resume
from sparsehead_cli.runs.run import Phase, Progress, Run, Training, diverged
from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.training.callbacks import Callback
from sparsehead_cli.training.files import RunFiles
from sparsehead_cli.training.probe import Probe
from sparsehead_cli.training.tasks import TaskTable


@dataclass(frozen=True)
class Result:
    """A finished run, its rows by the table's name, and whether it had been finished before."""

    run: Run
    tables: dict[str, list[Row]]
    was_finished: bool

    @property
    def rows(self) -> list[Row]:
        """Of metrics.csv, one an epoch."""
        return self.tables.get(METRICS, [])

    @property
    def layers(self) -> list[Row]:
        """Of layers.csv, one an epoch and layer of the head."""
        return self.tables.get(LAYERS, [])


def pretrain(run: Run, callbacks: Sequence[Callback] = ()) -> Result:
    """Train one run (made by `build(config)`) to its end, going on where it was stopped; a finished one returns at once.

    Raises: SparseheadError for whatever the user can mend; Interrupted, after saving, for SIGINT and SIGTERM.
    """
    everybody = [Probe(), *([TaskTable()] if run.tasks else []), *callbacks, RunFiles()]
    with distributed.deserted(), locked(run.folder):
        progress = resume(run)
        share_progress(progress, run.device)
        was_finished = progress.step == run.total_steps
        with catch_signals() as stop:
            fit(run, everybody, progress, stop)
    return Result(run, progress.tables, was_finished)


def fit(run: Training, callbacks: Sequence[Callback], progress: Progress, stop: Stop | None = None) -> None:
    """The loop: from `progress`, which it moves, to the last step of the last phase. The global generator stays as it was.

    Raises: SparseheadError for an epoch whose numbers are not finite, and Interrupted where `stop` was asked for.
    """
    if run.device.type == "cpu":
        keep_freed_memory()
    for callback in callbacks:
        callback.on_start(run, progress)
    proximal = run.sparse is not None and run.sparse.solver == "proximal" and progress.step < run.total_steps
    shrinking = run.sparse.attach(run.optimizer) if proximal else nullcontext()
    with shrinking, torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        while progress.step < run.total_steps:
            row = train_epoch(run, callbacks, progress, stop)
            for callback in callbacks:
                callback.on_epoch(run, progress, row)
            if stop and stop.requested(wait=True):
                raise stopped(run, callbacks, progress, stop)
    for callback in callbacks:
        callback.on_end(run, progress)


def train_epoch(run: Training, callbacks: Sequence[Callback], progress: Progress, stop: Stop | None) -> Row:
    """The rest of an epoch, step by step; its row. Raises: as `fit`."""
    phase, epoch, first = run.place(progress.step)
    begun_at, last = progress.step, progress.step + run.steps_of(phase) - first
    progress.epoch, progress.began = epoch + 1, time.perf_counter()
    waiting = Waiting()
    for batch in waiting.watch(epoch_batches(run, progress.step)):
        try:
            progress.logged = train_step(run, batch, progress.step)
        except torch.linalg.LinAlgError as error:  # decompositions have no NaN to give where they cannot find numbers
            raise diverged(run) from error
        for name, value in progress.logged.items():
            progress.sums[name] = progress.sums.get(name, 0) + value
        progress.step += 1
        progress.skipped += batch.skipped
        progress.images_per_second = (progress.step - begun_at) * run.batch_size / progress.seconds()
        for callback in callbacks:
            callback.on_step(run, progress)
        if stop and stop.requested() and progress.step < last:
            raise stopped(run, callbacks, progress, stop)
    require_finite(run, progress)
    row = {
        "epoch": epoch + 1,
        **{name: value.item() / run.steps_of(phase) for name, value in progress.sums.items()},
        "lr": run.lr(progress.step - 1),
        "images_per_second": round(progress.images_per_second, 1),
    }
    if phase.train.streams:
        row |= {"skipped_images": total_skipped(progress, run.device), "waiting_share": round(waiting.share(), 4)}
    progress.sums, progress.skipped = {}, 0
    return row


def train_step(run: Training, batch: Batch, step: int) -> dict[str, Tensor]:
    """One batch with B inputs, from inputs to update; what is logged, each [], on the device."""
    for group in run.optimizer.param_groups:
        group["lr"] = run.peak_lr if group["constant_lr"] else run.lr(step, group.get("peak"))
    run.generator.manual_seed(stable_seed("method", run.seed, step))  # masks and noise, drawn for the joined batch
    generator = torch.Generator().manual_seed(stable_seed("views", run.seed, step, 0))  # likewise, and 0 was the process's number
    views = run.views(batch.inputs, generator)

    run.optimizer.zero_grad()  # before the forward pass: its activations may have the memory
    with run.autocast():
        loss, terms = run.forward(views, batch)
    total = loss
    if run.sparse:
        run.sparse.lam = run.lam(step)
        total = loss + run.sparse.penalty()
    total.backward()
    gradients = [p.grad for group in run.optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradient_norm = torch.linalg.vector_norm(distributed.norms(gradients))
    run.optimizer.step()  # and after it, attached to it, the proximal map
    run.method.after_step((step + 1) / run.total_steps)
    return {"loss": loss.detach(), **{name: t.detach() for name, t in terms.items()}, "gradient_norm": gradient_norm}


def epoch_batches(run: Training, step: int) -> Iterator[Batch]:
    """The batches of this process from a step on to the end of its epoch."""
    phase, epoch, first = run.place(step)
    read = run.views.read(run.seed, step - first, first=distributed.rank() * run.local_batch)
    return phase.train.batches(run.local_batch, order=epoch_order(run, phase, epoch), start=first, read=read)


def epoch_order(run: Training, phase: Phase, epoch: int) -> Tensor:
    """The indices that this process sees in this epoch, on the device; processes share each batch among them."""
    steps = run.steps_of(phase)
    generator = torch.Generator().manual_seed(stable_seed("order", run.seed, epoch))
    order = torch.randperm(len(phase.train), generator=generator)[: steps * run.batch_size]
    shares = order.view(steps, distributed.world(), run.local_batch)
    return shares[:, distributed.rank()].flatten().to(run.device)


def share_progress(progress: Progress, device: torch.device) -> None:
    """Where all processes go on together. Raises: SparseheadError where they do not read the same files."""
    steps = distributed.all_gather(torch.tensor([progress.step], device=device))
    if (steps != progress.step).any():
        raise SparseheadError(
            f"the processes of this run see different checkpoints (steps {', '.join(map(str, steps.tolist()))}). Give them all "
            "the same --results, on a disk that all machines share."
        )
    if distributed.rank() > 0:
        progress.skipped = 0  # the first process goes on counting for all


def stopped(run: Training, callbacks: Sequence[Callback], progress: Progress, stop: Stop) -> Interrupted:
    """The end of a run that was asked for, once the callbacks have saved; no process ends before the first has."""
    require_finite(run, progress)
    progress.skipped = total_skipped(progress, run.device)
    for callback in callbacks:
        callback.on_end(run, progress)
    stop.requested(wait=True)
    return Interrupted(stop.agreed, run.folder, progress.step, run.total_steps)


def total_skipped(progress: Progress, device: torch.device) -> int:
    """The unreadable inputs of the unfinished epoch, those of all processes."""
    return int(distributed.all_gather(torch.tensor([progress.skipped], device=device)).sum())


def require_finite(run: Training, progress: Progress) -> None:
    """Raises: SparseheadError when a loss, term or gradient since the last save was not finite."""
    if run.must_be_finite and not all(math.isfinite(value.item()) for value in progress.sums.values()):
        raise diverged(run)
