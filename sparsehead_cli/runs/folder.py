"""A run's folder: config.yaml, metrics.csv, layers.csv, spectrum_epochs.csv (where it is tracked), checkpoint.pt, and a lock.

The lock keeps a second process out.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
import yaml
from filelock import FileLock, Timeout

from sparsehead_cli.data.contract import ImageSpec
from sparsehead_cli.errors import Busy, SparseheadError, of_system
from sparsehead_cli.machine import distributed
from sparsehead_cli.machine.files import cannot_write, changed_line, make_folder, read_regular, replace_witnessed
from sparsehead_cli.runs.checkpoint import load_checkpoint, load_optimizer, require_weights, save_checkpoint
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.identity import SCHEMA, all_settings, is_same_run
from sparsehead_cli.runs.run import Progress, Run
from sparsehead_cli.runs.settings import plug_ins_of
from sparsehead_cli.runs.table_files import Row, read_csv, replace_csv
from sparsehead_cli.runs.tables import LAYERS, METRICS, PUT_BACK, SPECTRA, TASKS, penalty_name

CONFIG, LOCK = "config.yaml", ".lock"


@contextmanager
def locked(folder: Path, by_whom: str = "another process is training this run") -> Iterator[None]:
    """Make the folder of a run (or a sweep) and keep other processes out; the lock ends with the process, even by kill -9.

    Raises: Busy when another process is in it, SparseheadError when the folder cannot be made.
    """
    if distributed.rank() > 0:  # the first process holds the lock for all
        yield
        return
    make_folder(folder, "Choose another --results.")
    try:
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise Busy(f"{by_whom} ({folder}). Wait for it, or stop it first.") from None
    except OSError as error:
        raise cannot_write(folder / LOCK, error) from None
    try:
        yield
    finally:
        lock.release()


def resume(run: Run) -> Progress:
    """Load the run's checkpoint, where there is one, into its method and optimizer; else write config.yaml and start.

    Raises: SparseheadError for a checkpoint that is damaged, foreign, of another precision, or without its metrics.
    """
    path = run.folder / "checkpoint.pt"
    begun = os.path.lexists(path)  # a link to what is not there is no new run
    if distributed.rank() == 0:
        keep_config(run, begun=begun)
    if not begun:
        return Progress()
    state = load_checkpoint(path)
    require_of_run(state, run, path)
    tables = kept_tables(run, run.epochs_done(state["step"]))
    run.method.load_state_dict(
        {name: distributed.sharded_like(state["method"][name], own) for name, own in run.method.state_dict().items()}
    )
    load_optimizer(run.optimizer, state["optimizer"], path, begun=state["step"] > 0)
    sums = {name: value.to(run.device) for name, value in state["sums"].items()}
    return Progress(state["step"], sums, state.get("skipped", 0), tables)


def kept_tables(run: Run, epochs_done: int) -> dict[str, list[Row]]:
    """The rows of metrics.csv, layers.csv and spectrum_epochs.csv up to the checkpoint's epoch, as they were written.

    Raises: SparseheadError for tables that are damaged, lack epochs, or are another run's.
    """
    tables = {}
    for name in (METRICS, LAYERS, SPECTRA, TASKS):
        path = run.folder / name
        if path.is_symlink() and not path.exists():  # a table was there, and what it said is not to be taken for nothing
            raise SparseheadError(f"{path} is a link to {os.readlink(path)}, which is not there. {PUT_BACK}")
        rows = [row for row in read_csv(path) if int(row["epoch"]) <= epochs_done]
        require_epochs(path, rows, epochs_done)
        tables[name] = [own_row(path, row, run) for row in rows]
    return tables


def require_epochs(path: Path, rows: list[dict[str, str]], epochs_done: int) -> None:
    """Raises: SparseheadError where epochs are missing. A layer's may begin later: older versions had no layers.csv."""
    if path.name == METRICS and epochs_done and not path.exists():
        raise SparseheadError(f"{path} is missing: the checkpoint beside it is of epoch {epochs_done}. {PUT_BACK}")
    epochs = sorted({int(row["epoch"]) for row in rows})
    whole = epochs[-epochs_done:] if path.name == METRICS else list(range(epochs[0], epochs_done + 1)) if epochs else []
    if (path.name == METRICS and len(epochs) < epochs_done) or (path.name == LAYERS and epochs != whole):
        raise SparseheadError(f"{path} has {len(epochs)} of the {epochs_done} epochs in the checkpoint beside it. {PUT_BACK}")


def own_row(path: Path, row: dict[str, str], run: Run) -> dict[str, object]:
    """A row of this run, whose penalty older versions named without its groups. Raises: SparseheadError for another run's."""
    own = identity_columns(run.config, run.name)
    row = {**row, "penalty": own["penalty"] if row["penalty"] == run.config.penalty else row["penalty"]}
    for column in ("run", "method", "dataset", "backbone", "penalty", "solver", "lam", "seed"):
        if row[column] != str(own[column]):
            raise SparseheadError(f"{path}: {column} is {row[column]}, this run's is {own[column]}. {PUT_BACK}")
    return row


def require_of_run(state: dict, run: Run, path: Path) -> None:
    """Raises: SparseheadError where a checkpoint is another run's, or this one's on other images or in another precision."""
    if not is_same_run(state["identity"], run.identity):
        raise SparseheadError(f"{path} belongs to another run. Move it away to start anew.")
    if state.get("total_steps", run.total_steps) != run.total_steps or state["step"] > run.total_steps:
        raise SparseheadError(
            f"{path} is of a run of {state.get('total_steps', state['step']):,} steps, which would have {run.total_steps:,} now: "
            f"the images of {run.config.dataset} have changed. Put them back, or move the file away to start anew."
        )
    expected = input_of(run.spec).get("input", {})
    if any(list(value) != list(expected[key]) for key, value in state.get("input", {}).items() if key in expected):
        raise SparseheadError(
            f"{path} was trained on images of another size or normalisation than {run.config.dataset} has now. "
            "Move it away to start anew."
        )
    if is_other(state.get("trained_on"), run.trained_on):
        raise SparseheadError(
            f"{path} was trained on other images, or other labels, than {run.config.dataset} has now. "
            "Put them back, or choose another --results."
        )
    precision = run.precision_name
    if state["precision"] != precision and state["step"] < run.total_steps:
        raise SparseheadError(
            f"{run.folder} was begun in {state['precision']}, this machine would go on in {precision}. "
            f"Finish it on a machine like the first, or start anew with --precision {precision}."
        )
    if bool(state["sums"]) != run.is_within_epoch(state["step"]):
        raise SparseheadError(f"{path} is damaged: its sums are not those of step {state['step']}. Move it away to start anew.")
    require_weights(state["method"], run.method.state_dict(), path)


def is_other(kept: object, now: str) -> bool:
    """Whether what was kept of a run's images is of others than there are now; older versions kept nothing, which says nothing."""
    return bool(kept and now) and kept != now


def save(run: Run, progress: Progress) -> None:
    """Write the tables, then checkpoint.pt, each atomically; a kill in between leaves rows too many, cut at resume."""
    method, optimizer = (distributed.whole_state(part.state_dict()) for part in (run.method, run.optimizer))  # of all processes
    if distributed.rank() > 0:
        return
    for name, rows in progress.tables.items():
        if rows:
            replace_csv(run.folder / name, rows)
    save_checkpoint(
        run.folder / "checkpoint.pt",
        {
            "identity": run.identity,
            "precision": run.precision_name,
            "step": progress.step,
            "total_steps": run.total_steps,
            "skipped": progress.skipped,
            "sums": {name: value.cpu() for name, value in progress.sums.items()},
            **input_of(run.spec),
            "trained_on": run.trained_on,
            "method": method,
            "optimizer": optimizer,
        },
    )


def input_of(spec: object) -> dict[str, dict[str, tuple]]:
    """What a checkpoint says of a run's views: {"input": …} with the (channels, height, width) of images and the normalisation."""
    if not isinstance(spec, ImageSpec):
        return {}
    return {"input": {"image": spec.image, "mean": spec.normalise.mean, "std": spec.normalise.std}}


def keep_config(run: Run, *, begun: bool) -> None:
    """Write config.yaml, of a run that has begun only where it is gone. Raises: SparseheadError where it was changed."""
    path = run.folder / CONFIG
    if not begun or not os.path.lexists(path):
        replace_witnessed(path, describe(run).encode())
        return
    try:
        line = changed_line(path, read_regular(path))
    except OSError as error:
        raise of_system(f"cannot read {path}", error, "Remove it: the same command writes it anew.") from None
    if line is not None:
        raise SparseheadError(
            f"{path} is damaged in line {line + 1}: it is not what was written. Remove it: the same command writes it anew."
        )


def describe(run: Run) -> str:
    """config.yaml: the settings in full, the machine and code it began on, and what the identity says nothing about."""
    machine = {
        "commit": code_version(),
        "torch": str(torch.__version__),
        "device": run.device.type,
        "precision": run.precision_name,
        "threads": torch.get_num_threads(),
    }
    described = {"experiment": run.config.experiment, "schema": SCHEMA, **all_settings(run.config)}
    if run.initial:
        described["init_from"] = run.initial
    if plug_ins := plug_ins_of(run.config):
        described["plug_ins"] = f"{', '.join(plug_ins)}: the name of the run does not tell versions of their code apart"
    return yaml.safe_dump({**described, "began_on": machine}, sort_keys=False, allow_unicode=True, width=200)


def identity_columns(config: Config, name: str) -> dict[str, object]:
    """The columns that every table of ours begins with; `name` is the run's."""
    columns = ("method", "dataset", "backbone", "penalty", "solver", "lam", "seed")
    penalty = penalty_name(config.penalty, config.groups, config.layers, config.lam_schedule)
    of_run = {column: getattr(config, column) for column in columns} | {"penalty": penalty}
    return {"experiment": config.experiment, "run": name, **of_run, "commit": code_version()}


@cache
def code_version() -> str:
    """The commit of the code (with -dirty where the package was changed since), or its version where it is no checkout."""
    package = Path(__file__).resolve().parents[1]
    if (package.parent / ".git").exists():

        def git(*arguments: str) -> str:
            command = ["git", "-C", str(package), *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

        try:
            changed = git("status", "--porcelain", "--untracked-files=no", ".")  # results that fill are no change of the code
            return git("describe", "--always", "--abbrev=10", "--exclude=*") + ("-dirty" if changed else "")
        except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or one that does not trust this folder
            pass
    from sparsehead_cli import __version__  # not above: looking it up takes its time

    return f"v{__version__}"
