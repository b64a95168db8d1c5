"""pretrain(build(config)) -> a run folder. One batch from disk to loss is `train_step`, one run is `train`.

Nothing random has a memory: the order of an epoch, the views of a step and whatever a method draws are functions of
(seed, epoch or step, place in the batch). So a checkpoint needs no generator's state, a resumed run is bit for bit the run that
was never stopped, and the number of processes that share the batches changes only how sums are rounded.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsehead_cli.data.augment import RECIPES, Crops
from sparsehead_cli.data.datasets import dataset_info
from sparsehead_cli.data.folders import Folder
from sparsehead_cli.data.memory import Memory
from sparsehead_cli.data.prepare import Prepare
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine import distributed
from sparsehead_cli.machine.seeds import stable_seed
from sparsehead_cli.machine.signals import Interrupted, Stop, catch_signals
from sparsehead_cli.measure.features import Encoder, Waiting, extract
from sparsehead_cli.measure.knn import knn_accuracy
from sparsehead_cli.measure.spectrum import Spectrum, effective_rank
from sparsehead_cli.runs.build import Run
from sparsehead_cli.runs.folder import Position, identity_columns, locked, resume, save
from sparsehead_cli.sparse.layers import eval_mode
from sparsehead_cli.sparse.telemetry import ACTIVE_SHARE, head_sparsity, layer_sparsity

NEIGHBOURS = 20
WATCH_SECONDS = 0.25  # between two looks at the loss, each of which waits for the device


@dataclass(frozen=True)
class Moment:
    """What a watcher sees: a few times a second, and with `row` at the end of each epoch."""

    step: int
    total_steps: int
    epoch: int
    loss: float
    images_per_second: float
    row: dict[str, object] | None = None


@dataclass(frozen=True)
class Result:
    """A finished run, its rows of metrics.csv and layers.csv, and whether it had been finished before."""

    run: Run
    rows: list[dict[str, object]]
    layers: list[dict[str, object]]
    was_finished: bool


def pretrain(
    run: Run, watch: Callable[[Moment], None] = lambda moment: None, resumed: Callable[[Run, int], None] = lambda run, step: None
) -> Result:
    """Train one run (made by `build(config)`) to its end, going on where it was stopped; a finished one returns at once.

    `resumed` is called with the number of steps that were done before, where there are any.

    Raises: SparseheadError for whatever the user can mend; Interrupted, after saving, for SIGINT and SIGTERM.
    """
    with distributed.deserted(), locked(run.folder):
        position = resume(run)
        share_position(position, run.device)
        if position.step:
            resumed(run, position.step)
        was_finished = position.step == run.total_steps
        if not was_finished:
            with run.sparse.attach(run.optimizer) if run.sparse.solver == "proximal" else nullcontext():
                train(run, position, watch)
    return Result(run, position.rows, position.layers, was_finished)


def share_position(position: Position, device: torch.device) -> None:
    """Where all processes go on together. Raises: SparseheadError where they do not read the same files."""
    steps = distributed.all_gather(torch.tensor([position.step], device=device))
    if (steps != position.step).any():
        raise SparseheadError(
            f"the processes of this run see different checkpoints (steps {', '.join(map(str, steps.tolist()))}). Give them all "
            "the same --results, on a disk that all machines share."
        )
    if distributed.rank() > 0:
        position.skipped = 0  # the first process goes on counting for all


def train(run: Run, position: Position, watch: Callable[[Moment], None]) -> None:
    """The loop: from `position`, which it moves, to the last step."""
    with catch_signals() as stop:
        while position.step < run.total_steps:
            epoch, first = divmod(position.step, run.steps_per_epoch)
            clock = Clock(run, position)
            for batch in clock.waiting.watch(epoch_batches(run, epoch, first)):
                logged = train_step(run, batch, position.step)
                position.sums = {name: position.sums.get(name, 0) + value for name, value in logged.items()}
                position.step += 1
                position.skipped += batch.skipped
                if clock.is_time():
                    watch(clock.moment(epoch, logged["loss"].item()))
                if stop.requested() and position.step % run.steps_per_epoch:
                    require_finite(run, position)
                    position.skipped = total_skipped(position, run.device)
                    save(run, position)
                    raise stopped(run, position, stop)
            row = finish_epoch(run, position, epoch, clock)
            watch(clock.moment(epoch, row["loss"], row))
            if stop.requested(wait=True):
                raise stopped(run, position, stop)


def stopped(run: Run, position: Position, stop: Stop) -> Interrupted:
    """The end of a run that has saved on request; no process ends before the first has saved."""
    stop.requested(wait=True)
    return Interrupted(stop.agreed, run.folder, position.step, run.total_steps)


def train_step(run: Run, batch: Memory, step: int) -> dict[str, Tensor]:
    """One batch uint8 [B, C, H, W] (or its crops) with its labels -> one update; what is logged, each [], on the device."""
    seed = run.config.seed
    for group in run.optimizer.param_groups:
        group["lr"] = run.config.lr if group["constant_lr"] else run.lr(step)
    run.sparse.lam = run.lam(step)
    run.generator.manual_seed(stable_seed("method", seed, step))  # masks and noise, drawn for the joined batch
    generator = torch.Generator().manual_seed(stable_seed("views", seed, step, 0))  # likewise, and 0 was the process's number
    views = run.views(batch.inputs, generator=generator)

    with run.autocast():
        loss, terms = run.forward(views, batch.labels)
    run.optimizer.zero_grad()
    (loss + run.sparse.penalty()).backward()
    gradient_norm = torch.nn.utils.get_total_norm(p.grad for p in run.method.parameters() if p.grad is not None)
    run.optimizer.step()  # and after it, attached to it, the proximal map
    run.method.after_step((step + 1) / run.total_steps)
    return {"loss": loss.detach(), **{name: t.detach() for name, t in terms.items()}, "gradient_norm": gradient_norm}


def epoch_batches(run: Run, epoch: int, first: int) -> Iterator[Memory]:
    """The batches of this process in this epoch, from the epoch's step `first` on; streamed images come as crops."""
    size, step = run.method.backbone.image[1], epoch * run.steps_per_epoch
    crops = Crops(RECIPES[run.config.recipe], size, run.config.seed, step, first=distributed.rank() * run.local_batch)
    return run.train.batches(run.local_batch, order=epoch_order(run, epoch), start=first, read=crops)


def epoch_order(run: Run, epoch: int) -> Tensor:
    """The indices that this process sees in this epoch, on the device; processes share each batch among them."""
    generator = torch.Generator().manual_seed(stable_seed("order", run.config.seed, epoch))
    order = torch.randperm(len(run.train), generator=generator)[: run.steps_per_epoch * run.config.batch_size]
    shares = order.view(run.steps_per_epoch, distributed.world(), run.local_batch)
    return shares[:, distributed.rank()].flatten().to(run.device)


def finish_epoch(run: Run, position: Position, epoch: int, clock: "Clock") -> dict[str, object]:
    """Measure, append the epoch's row, save. Raises: SparseheadError for a non-finite epoch, before anything is written."""
    require_finite(run, position)
    speed, streaming = clock.images_per_second(), streaming_columns(run, position, clock)  # of training, without what follows
    columns, layers, spectra = probe_epoch(run)
    common = identity_columns(run.config, run.name)
    row = {
        **common,
        "epoch": epoch + 1,
        **{name: value.item() / run.steps_per_epoch for name, value in position.sums.items()},
        "lr": run.lr(position.step - 1),
        **columns,
        **streaming,
        "images_per_second": round(speed, 1),
        "seconds": round(clock.seconds(), 2),
    }
    position.rows.append(row)
    position.layers += [{**common, "epoch": epoch + 1, **layer} for layer in layers]
    if run.config.track_spectrum and is_tracked(epoch + 1, run.config.epochs):
        position.spectra += [
            {**common, "epoch": epoch + 1, "features": features, "index": index, "eigenvalue": value}
            for features, spectrum in spectra.items()
            for index, value in enumerate(spectrum.eigenvalues.tolist(), 1)
        ]
    position.sums, position.skipped = {}, 0
    save(run, position)
    return row


def streaming_columns(run: Run, position: Position, clock: "Clock") -> dict[str, object]:
    """Of images that stream from files: how many of this epoch could not be read, and the share of time spent waiting."""
    if not isinstance(run.train, Folder):
        return {}
    return {"skipped_images": total_skipped(position, run.device), "waiting_share": round(clock.waiting.share(), 4)}


def total_skipped(position: Position, device: torch.device) -> int:
    """The unreadable images of the unfinished epoch, those of all processes."""
    return int(distributed.all_gather(torch.tensor([position.skipped], device=device)).sum())


def is_tracked(epoch: int, epochs: int) -> bool:
    """Whether the spectrum of this epoch (from 1) is kept: two an octave, 1, 2, 3, 4, 6, 8, 11, 16, 23, …, and the last."""
    return epoch == epochs or epoch in {round(2 ** (i / 2)) for i in range(2 * epochs.bit_length())}


def probe_epoch(run: Run) -> tuple[dict[str, float], list[dict[str, object]], dict[str, Spectrum]]:
    """kNN accuracy, effective ranks and sparsity on the held-out images; a row for each layer of the head; r and z's spectra.

    Ranks and standard deviations are of the N held-out images. The kNN looks its neighbours up in the run's bank. The
    pruned head has lost the groups that are inactive by norm. The test set is never touched.
    """
    network = Encoder(run.method.backbone, run.method.projector)
    prepare = Prepare(run.method.backbone.image, run.normalise)
    with run.autocast():
        bank_features, features = extract(network, run.bank, prepare), extract(network, run.val, prepare)
    (bank_r, bank_z), (r, z) = ((f["r"], f["z"]) for f in (bank_features, features))
    if not (r.isfinite().all() and z.isfinite().all()):
        raise diverged(run)

    def knn(neighbours: Tensor, queries: Tensor) -> float:
        return knn_accuracy(neighbours, bank_features.labels, queries, features.labels, k=NEIGHBOURS, classes=classes)

    classes = len(dataset_info(run.config.dataset, run.config.data_dir).classes)
    with eval_mode(run.method), torch.no_grad():
        layers = layer_sparsity(run.sparse, r)
        sparsity = head_sparsity(run.sparse, r, layers)
        pruned = run.sparse.prune(ACTIVE_SHARE) if run.sparse.parameters() else run.method.projector
        pruned_accuracy = knn(pruned(bank_r), pruned(r))
    spectra = {"r": Spectrum.of(r), "z": Spectrum.of(z)}
    columns = {
        "knn_accuracy": knn(bank_r, r),
        "knn_accuracy_z": knn(bank_z, z),
        "knn_accuracy_z_pruned": pruned_accuracy,
        "effective_rank_r": effective_rank(spectra["r"].eigenvalues),
        "effective_rank_z": effective_rank(spectra["z"].eigenvalues),
        "std_r": spectra["r"].std,
        "std_z": spectra["z"].std,
        **sparsity,
    }
    return columns, layers, spectra


def require_finite(run: Run, position: Position) -> None:
    """Raises: SparseheadError when a loss, term or gradient since the last save was not finite."""
    if not all(math.isfinite(value.item()) for value in position.sums.values()):
        raise diverged(run)


def diverged(run: Run) -> SparseheadError:
    """The error of a run whose numbers are no longer numbers; it suspects only what is at work."""
    config = run.config
    kept = "The last good checkpoint is kept. " if (run.folder / "checkpoint.pt").exists() else ""
    suspects = [*run.method.suspects(), f"lr {config.lr:g} (too high?)"]
    if config.lam:
        suspects.append(f"lam {config.lam:g} (too strong?)")
    if run.precision != torch.float32:
        suspects.append(f"precision {run.precision_name} (try --set precision=float32)")
    return SparseheadError(f"the loss or its gradient is no longer finite. {kept}Suspects: {', '.join(suspects)}.")


class Clock:
    """Times one epoch of this process."""

    def __init__(self, run: Run, position: Position) -> None:
        self.run, self.position = run, position
        self.started = self.looked = time.perf_counter()
        self.first_step = position.step
        self.waiting = Waiting()

    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def images_per_second(self) -> float:
        return (self.position.step - self.first_step) * self.run.config.batch_size / self.seconds()

    def is_time(self) -> bool:
        """True a few times a second: time for a watcher to look."""
        now = time.perf_counter()
        if now - self.looked < WATCH_SECONDS:
            return False
        self.looked = now
        return True

    def moment(self, epoch: int, loss: float, row: dict[str, object] | None = None) -> Moment:
        return Moment(self.position.step, self.run.total_steps, epoch + 1, loss, self.images_per_second(), row)
