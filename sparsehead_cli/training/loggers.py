"""`--callback tensorboard` and `--callback wandb`: callbacks that log a run with the official clients of the two.

`Logger` collects what is logged, which is the same for both; `TensorBoard` and `WeightsAndBiases` hand it to their client.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sparsehead_cli.errors import SparseheadError, one_line
from sparsehead_cli.machine import distributed, launch
from sparsehead_cli.machine.files import read_regular, replace_file
from sparsehead_cli.runs.config import FIELDS
from sparsehead_cli.runs.folder import code_version
from sparsehead_cli.runs.method_settings import method_settings
from sparsehead_cli.runs.readable import number
from sparsehead_cli.runs.run import Progress, Run
from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.runs.tables import COLUMNS, METRICS
from sparsehead_cli.training.callbacks import Callback

MOST_POINTS = 10_000  # of a curve over steps: of a longer run each 2nd, 3rd, … step is logged
TOGETHER = 50  # logged steps that are fetched from the device and written at once
PATIENCE_SECONDS = 10  # after which fewer are written, so that slow runs can be watched
SMALLEST_SHARE = -10.0  # log10 of the share of the variance below which directions are counted together
EDGES = np.linspace(SMALLEST_SHARE, 0, 61)  # of the bins of a spectrum, the same for all epochs and runs
RESUME = "resume.json"  # W&B's run and the last step that it has, in the run's folder wandb/


class Log(Protocol):
    """Where a run is logged. All names are `step/…`, `epoch/…` or `spectrum/…`; `step` counts the steps that are done."""

    name: str

    def open(self, run: Run, step: int) -> None:
        """Begin, or go on after `step` steps: what was logged of later ones is replaced or not logged again."""

    def is_new(self, run: Run) -> bool:
        """Whether nothing of the run has been logged before."""

    def write(self, step: int, values: dict[str, float], spectra: dict[str, np.ndarray]) -> None:
        """Numbers, and of spectra the logarithms of the shares, as `log_shares` gives them."""

    def flush(self) -> None:
        """What was written must survive a kill of the process."""

    def close(self, *, finished: bool) -> None:
        """The run is finished, or goes on another time."""


class Logger(Callback):
    """Logs every step and every epoch; of several processes, the first one does.

    What a step computes stays on the device until TOGETHER steps are fetched at once, so the loop does not wait for it. Before the
    run's checkpoint is written, everything up to it has been logged.

    Raises: SparseheadError with what the client says, whatever it is.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.points: list[tuple[int, dict[str, Tensor | float]]] = []
        self.written = 0.0  # when points were written last
        self.is_open = False

    def on_start(self, run: Run, progress: Progress) -> None:
        if distributed.rank() > 0:
            return
        self.points, self.written = [], time.monotonic()
        with plain_faults(self.log.name):
            is_new = self.log.is_new(run)
            self.is_open = is_new or progress.step < run.total_steps
            if self.is_open:
                self.log.open(run, progress.step)
            if is_new and progress.step:  # it was begun without being logged
                for row in progress.tables.get(METRICS, []):
                    self.log.write(run.steps_until(int(row["epoch"])), epoch_values(row), {})
                self.log.flush()

    def on_step(self, run: Run, progress: Progress) -> None:
        if not self.is_open:
            return
        every = -(-run.total_steps // MOST_POINTS)
        is_last = not run.is_within_epoch(progress.step)
        if progress.step % every == 0 or is_last:
            self.points.append((progress.step, step_values(run, progress)))
        waited = time.monotonic() - self.written > PATIENCE_SECONDS
        if len(self.points) >= TOGETHER or is_last or waited:
            self.write_points(run.device)

    def on_epoch(self, run: Run, progress: Progress, row: Row) -> None:
        if not self.is_open:
            return
        values = epoch_values({**row, "seconds": progress.seconds()})
        spectra = {f"spectrum/{name}": log_shares(eigenvalues) for name, eigenvalues in progress.spectra.items()}
        with plain_faults(self.log.name):
            self.log.write(progress.step, values, spectra)
            self.log.flush()

    def on_end(self, run: Run, progress: Progress) -> None:
        if not self.is_open:
            return
        self.write_points(run.device)
        with plain_faults(self.log.name):
            self.log.close(finished=progress.step == run.total_steps)

    def write_points(self, device: torch.device) -> None:
        """Fetch what was collected, all of it at once, and write it."""
        points, self.points, self.written = self.points, [], time.monotonic()
        if not points:
            return
        tensors = [value for _, values in points for value in values.values() if isinstance(value, Tensor)]
        fetched = iter(torch.stack([tensor.detach().to(device, torch.float32) for tensor in tensors]).tolist())
        with plain_faults(self.log.name):
            for step, values in points:
                numbers = {k: next(fetched) if isinstance(value, Tensor) else value for k, value in values.items()}
                self.log.write(step, numbers, {})
            self.log.flush()


def step_values(run: Run, progress: Progress) -> dict[str, Tensor | float]:
    """What is logged of the step that was done last: loss, its terms, the gradient's norm, penalty, λ and learning rate."""
    values: dict[str, Tensor | float] = {f"step/{name}": value for name, value in progress.logged.items()}
    if run.sparse:
        with torch.no_grad():
            values["step/penalty"] = run.sparse.lam * run.sparse.value_of_penalty()
        values["step/lam"] = run.sparse.lam
    return {**values, "step/lr": run.lr(progress.step - 1)}


def epoch_values(row: Row) -> dict[str, float]:
    """The numbers of a row of metrics.csv, without what is the same in all of them; what is not defined is left out."""
    same = ("epoch", "lam", "seed")
    named = {name: value for name, value in row.items() if name not in same and is_number(name)}
    values = {f"epoch/{name}": number(value) for name, value in named.items() if value is not None}
    return {"epoch": number(row["epoch"]), **{name: value for name, value in values.items() if np.isfinite(value)}}


def is_number(column: str) -> bool:
    """Whether a column of metrics.csv holds numbers; those that a method or a callback adds all do."""
    return column not in COLUMNS or COLUMNS[column].kind not in ("text", "truth")


def log_shares(eigenvalues: Tensor) -> np.ndarray:
    """log10 of each direction's share of the variance, [D] -> [D], at least SMALLEST_SHARE."""
    shares = eigenvalues.clamp(min=0) / eigenvalues.sum().clamp(min=torch.finfo(eigenvalues.dtype).tiny)
    return shares.clamp(min=10**SMALLEST_SHARE).log10().cpu().numpy()


def settings_of_run(run: Run) -> dict[str, object]:
    """All settings of a run by name, those of its method as `method.<name>`, and the commit of the code; plain values."""
    config = run.config
    values = {name: getattr(config, name) for name, stated in FIELDS.items() if stated.identity}
    of_method = method_settings(config.method, config.method_settings)
    values |= {f"method.{name}": value for name, value in of_method.items()}
    lists = {name: ",".join(map(str, value)) for name, value in values.items() if isinstance(value, tuple | list)}
    return {"experiment": config.experiment, **values, **lists, "commit": code_version()}


@contextmanager
def plain_faults(name: str) -> Iterator[None]:
    """Raises: SparseheadError for whatever a client raises. What the machine refuses, such as a full disk, is said elsewhere."""
    try:
        yield
    except (SparseheadError, OSError, MemoryError):
        raise
    except Exception as error:
        reason = one_line(str(error), 300).rstrip(".")
        raise SparseheadError(
            f"callback {name} fails: {type(error).__name__}: {reason}. What was saved of the run is kept; "
            f"the same command goes on, also without --callback {name}."
        ) from error


class TensorBoard:
    """Event files in the run's folder, read by `tensorboard --logdir results`. Steps that are done again replace the former."""

    name = "tensorboard"

    def is_new(self, run: Run) -> bool:
        return not any(run.folder.glob("events.out.tfevents.*"))

    def open(self, run: Run, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.writer = SummaryWriter(str(run.folder), purge_step=step + 1)
        shown = dict.fromkeys(("epoch/knn_accuracy", "epoch/effective_rank_r", "epoch/effective_rank_z"), 0)
        experiment, start, self.end = hparams(settings_of_run(run), shown)
        self.writer.file_writer.add_summary(experiment)
        self.writer.file_writer.add_summary(start)

    def write(self, step: int, values: dict[str, float], spectra: dict[str, np.ndarray]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        for name, shares in spectra.items():
            self.writer.add_histogram(name, shares, step, bins=EDGES)

    def flush(self) -> None:
        self.writer.flush()

    def close(self, *, finished: bool) -> None:
        if finished:
            self.writer.file_writer.add_summary(self.end)
        self.writer.close()


class WeightsAndBiases:
    """A run of W&B, which goes on where it was by its id, kept in the folder wandb/ of the run's folder.

    Steps of W&B only rise, so a step that is done again is not logged again: it gives the same numbers.
    """

    name = "wandb"

    def is_new(self, run: Run) -> bool:
        return not resume_file(run).exists()

    def open(self, run: Run, step: int) -> None:
        import wandb

        self.path = resume_file(run)
        self.path.parent.mkdir(exist_ok=True)
        before = read_resume(self.path)
        self.logged, self.step, self.row = before["step"], before["step"], {}
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "sparsehead"),
            group=run.config.experiment,
            name=run.name,
            id=before["id"],
            resume="allow" if before["id"] else None,
            dir=run.folder,
            config=settings_of_run(run),
            reinit="finish_previous",  # in this process, by an error
            settings=wandb.Settings(console="off"),
        )
        self.flush()

    def write(self, step: int, values: dict[str, float], spectra: dict[str, np.ndarray]) -> None:
        import wandb

        if step <= self.logged:
            return
        if step > self.step:
            self.log_row()
        histograms = {name: wandb.Histogram(np_histogram=np.histogram(shares, EDGES)) for name, shares in spectra.items()}
        self.step, self.row = step, {**self.row, **values, **histograms}
        if "epoch" in values:
            self.log_row()

    def log_row(self) -> None:
        """Log what there is of one step. It is kept back until then, as W&B takes nothing more of a step that it has."""
        if self.row:
            self.run.log(self.row, step=self.step, commit=True)
        self.logged, self.row = self.step, {}

    def flush(self) -> None:
        replace_file(self.path, json.dumps({"id": self.run.id, "step": self.logged}).encode())

    def close(self, *, finished: bool) -> None:
        self.log_row()
        self.flush()
        self.run.finish()


def resume_file(run: Run) -> Path:
    """Where the id of W&B's run and the last step that it has are kept."""
    return run.folder / "wandb" / RESUME


def read_resume(path: Path) -> dict:
    """The `id` of W&B's run, None before the first, and the last `step` that it has.

    Raises: SparseheadError for a file that says anything else.
    """
    if not path.exists():
        return {"id": None, "step": 0}
    try:
        before = json.loads(read_regular(path))
        if {name: type(value) for name, value in before.items()} == {"id": str, "step": int}:
            return before
    except (ValueError, AttributeError):
        pass
    raise SparseheadError(f"{path} is damaged. Remove it: the same command goes on, and begins another run of W&B.")


def tensorboard() -> Callback:
    """The callback `tensorboard`. Raises: SparseheadError where its client is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise missing("tensorboard") from None
    return Logger(TensorBoard())


def wandb() -> Callback:
    """The callback `wandb`. Raises: SparseheadError where its client is not installed, or nobody is logged in."""
    try:
        import wandb
    except ImportError:
        raise missing("wandb") from None
    if launch.rank() == 0 and wandb.setup().settings.mode not in ("offline", "disabled", "dryrun"):
        try:
            wandb.login()
        except wandb.errors.Error as error:
            reason = one_line(str(error)).rstrip(".")
            raise SparseheadError(
                f"callback wandb: {reason}. Log in with `wandb login`, or set WANDB_MODE=offline: then nothing leaves this machine."
            ) from None
    return Logger(WeightsAndBiases())


def missing(name: str) -> SparseheadError:
    """The error for a client that is not installed; the extra is called as the callback is."""
    return SparseheadError(f"callback {name} needs {name}, which is not installed: pip install 'sparsehead[{name}]'")
