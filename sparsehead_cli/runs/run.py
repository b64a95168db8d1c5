"""What a training needs, and what a run is beside that. Made by `build.py`; trained by `training/loop.py`."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsehead_cli.data.contract import Inputs, Source, Views
from sparsehead_cli.data.nouns import noun_of_spec
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.nets.optim import lr_at
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.runs.tasks import Tasks
from sparsehead_cli.sparse.sparse_head import SparseHead
from sparsehead_cli.ssl.contract import Method


@dataclass
class Progress:
    """Where a run is. `sums` adds up what was logged over the steps of the unfinished epoch, `tables` holds rows by file name.

    `skipped` counts the unreadable inputs of the unfinished epoch. What the last step logged is on the device: `.item()` waits.
    `spectra` are the eigenvalues of r and z, each [D], as they were measured after the last epoch.
    """

    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    skipped: int = 0
    tables: dict[str, list[Row]] = field(default_factory=dict)
    epoch: int = 0  # counted from 1
    logged: dict[str, Tensor] = field(default_factory=dict)
    spectra: dict[str, Tensor] = field(default_factory=dict)
    images_per_second: float = 0.0  # of this epoch, so far
    began: float = field(default_factory=time.perf_counter)  # the epoch, or the part of it since it was resumed

    def seconds(self) -> float:
        """Since the epoch began, or was resumed."""
        return time.perf_counter() - self.began


class Phase(NamedTuple):
    """A source to train on for some epochs, and what is held out of it. A training is one phase, or one a task."""

    train: Source
    val: Source | None
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Training:
    """All that `fit` needs. `forward` is the method, wrapped where several processes train together.

    `batch_size` is that of all processes, `local_batch` that of this one. `lam` is λ of a step. The schedule of the learning rate
    is one for all phases, or one for `each_phase`. A loss that is
    no longer finite ends the training, unless it need not be; `advice` says what may be done about it.
    """

    method: Method
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    views: Views
    phases: tuple[Phase, ...]
    batch_size: int
    local_batch: int
    seed: int
    device: torch.device
    peak_lr: float
    precision: torch.dtype = torch.float32
    warmup_steps: int = 0
    sparse: SparseHead | None = None
    lam: Callable[[int], float] = lambda step: 0.0
    each_phase: bool = False
    must_be_finite: bool = True
    advice: Callable[[], str] = lambda: ""

    @property
    def epochs(self) -> int:
        """Of all phases together."""
        return sum(phase.epochs for phase in self.phases)

    @cached_property
    def total_steps(self) -> int:
        return sum(phase.epochs * self.steps_of(phase) for phase in self.phases)

    @cached_property
    def generator(self) -> torch.Generator:
        """The device's global generator: what dropout and random masks draw from."""
        return torch.cuda.default_generators[self.device.index] if self.device.type == "cuda" else torch.default_generator

    def steps_of(self, phase: Phase) -> int:
        """Steps of one epoch of a phase: whole batches, each input at most once."""
        return len(phase.train) // self.batch_size

    def place(self, step: int) -> tuple[Phase, int, int]:
        """(phase, epoch counted from 0 over all phases, step within the epoch) of a step before the last."""
        ends = accumulate(phase.epochs * self.steps_of(phase) for phase in self.phases)
        before, epochs = 0, 0
        for phase, end in zip(self.phases, ends, strict=True):
            if step < end:
                epoch, within = divmod(step - before, self.steps_of(phase))
                return phase, epochs + epoch, within
            before, epochs = end, epochs + phase.epochs
        raise AssertionError(f"step {step} is beyond the last phase")

    def epochs_done(self, step: int) -> int:
        """How many epochs, over all phases, are finished after so many steps."""
        return self.epochs if step == self.total_steps else self.place(step)[1]

    def phases_done(self, step: int) -> int:
        """How many phases are finished after so many steps."""
        return sum(step >= self.steps_of_phases(number) for number in range(1, len(self.phases) + 1))

    def steps_of_phases(self, count: int) -> int:
        """The steps of the first phases together."""
        return sum(phase.epochs * self.steps_of(phase) for phase in self.phases[:count])

    def steps_until(self, epoch: int) -> int:
        """How many steps are done when an epoch, counted from 1 over all phases, is over."""
        lengths = [self.steps_of(phase) for phase in self.phases for _ in range(phase.epochs)]
        return sum(lengths[:epoch])

    def is_within_epoch(self, step: int) -> bool:
        """Whether an epoch is begun and not finished after so many steps."""
        return step < self.total_steps and self.place(step)[2] > 0

    def lr(self, step: int, peak: float | None = None) -> float:
        """The learning rate of a step, for parameters whose highest is `peak` (without it the training's)."""
        first, last = 0, self.total_steps
        if self.each_phase:
            done = self.phases_done(step)
            first, last = (self.steps_of_phases(number) for number in (done, done + 1))
        peak = self.peak_lr if peak is None else peak
        return lr_at(step - first, total=last - first, warmup=self.warmup_steps, lr=peak)

    def autocast(self) -> torch.autocast:
        """The context for every forward pass of the network."""
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)


@dataclass(frozen=True, kw_only=True)
class Run(Training):
    """One pretraining: its training, what it is called and where it lies.

    `spec` is what the encoder was told of the inputs, `prepare` makes inputs what is measured: views without augmentation.
    `trained_on` is the fingerprint of the inputs, "" where somebody's own have none. `initial` says where the weights of the
    encoder came from, "" where they were drawn from the seed. Of a sequence of tasks `tasks` are measured.
    """

    config: Config
    identity: dict[str, object]
    folder: Path
    spec: object
    prepare: Callable[[Inputs], Inputs]
    trained_on: str = ""
    initial: str = ""
    tasks: Tasks | None = None

    @property
    def name(self) -> str:
        """What the run is called, as its folder is."""
        return self.folder.name

    @property
    def noun(self) -> str:
        """What people call the inputs: images, or sentences."""
        return noun_of_spec(self.spec)

    @property
    def precision_name(self) -> str:
        """The precision as `--precision` spells it."""
        return str(self.precision).removeprefix("torch.")

    @property
    def steps_per_epoch(self) -> int:
        """Of the first phase."""
        return self.steps_of(self.phases[0])

    @property
    def train(self) -> Source:
        """The training inputs of the first phase."""
        return self.phases[0].train

    @property
    def val(self) -> Source:
        """The held-out inputs of the first phase."""
        return self.phases[0].val


def diverged(training: Training) -> SparseheadError:
    """The error of a training whose numbers are no longer numbers."""
    return SparseheadError(f"the loss or its gradient is no longer finite. {training.advice()}")
