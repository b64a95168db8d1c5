"""One trial of a sweep: a pretraining and its linear evaluation -> one row, kept in the run's folder. All engines call this.

A trial is a run folder and nothing else is shared, so that a trial that was stopped goes on where it was, on any machine that
sees the folder, and one that is finished is never repeated.
"""

import dataclasses
import multiprocessing
import os
import shutil
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sparsehead_cli.errors import Busy, SparseheadError, Stopped, printable
from sparsehead_cli.evaluation.evaluate import evaluate
from sparsehead_cli.evaluation.load import own_code
from sparsehead_cli.evaluation.plan import EvaluateRequest
from sparsehead_cli.evaluation.subject import LoadOptions
from sparsehead_cli.machine.files import make_folder, replace_file
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.folder import LOCK, identity_columns, locked
from sparsehead_cli.runs.identity import run_folder, run_identity
from sparsehead_cli.runs.readable import number, share
from sparsehead_cli.runs.run import Run
from sparsehead_cli.runs.table_files import Row, replace_csv
from sparsehead_cli.runs.tables import projector_name, regularisers_name
from sparsehead_cli.sweeps.beat import BeatFile
from sparsehead_cli.training.callbacks import Callback, load_callbacks
from sparsehead_cli.training.loop import pretrain

TRIAL, FAILED, LOG = "trial.csv", "failed.txt", "trial.log"
LOCK_SECONDS = 60  # that a process whose node died may need to notice it


def folder_of(config: Config) -> Path:
    """Where a trial lies; its last part is the run's name."""
    return run_folder(config, run_identity(config))


def absolute(config: Config) -> Config:
    """The same trial wherever the process that runs it stands."""
    return dataclasses.replace(config, results=config.results.absolute(), data_dir=config.data_dir.absolute())


def wait_for_the_dead(folder: Path) -> None:
    """Wait until whoever ran this trial on a node that died, or in a job that was ended, is gone."""
    with suppress(Timeout), FileLock(folder / LOCK, timeout=LOCK_SECONDS):
        pass


def run_trial(config: Config, callbacks: Sequence[Callback] = ()) -> Row:
    """Train and evaluate one trial to its end and keep its row. Raises: SparseheadError as these two."""
    run = build(config)
    result = pretrain(run, [*callbacks, BeatFile()])
    options = LoadOptions(
        plugins=tuple(own_code(config)),
        device=config.device,
        data_dir=config.data_dir,
        workers=config.workers,
        skip_bad_images=config.skip_bad_images,
    )
    with locked(run.folder / "features", "another process evaluates this trial"):
        rows, _ = evaluate(EvaluateRequest(checkpoint=run.folder, protocols=("linear",), options=options))
        row = trial_row(run, result.rows, rows)
        replace_csv(run.folder / TRIAL, [row])
        shutil.rmtree(run.folder / "features", ignore_errors=True)  # a sweep has many, and none is read again
    return row


def trial_row(run: Run, metrics: list[Row], evaluations: list[Row]) -> Row:
    """What a sweep keeps of a trial. Accuracies are shares; `val_accuracy` is of held-out images, to choose by."""
    config, last = run.config, metrics[-1]
    linear = {row["features"]: row for row in evaluations}
    of_z = linear.get("z", linear["r"])
    return {
        **identity_columns(config, run.name),
        **setting_columns(config),
        "sum_lr": sum(run.lr(step) for step in range(run.total_steps)),
        "val_accuracy": float(linear["r"]["val_accuracy"]),
        "accuracy": float(linear["r"]["value"]),
        "accuracy_z": float(of_z["value"]),
        "knn_accuracy": float(last["knn_accuracy"]),
        "effective_rank_r": number(last["effective_rank_r"]),
        "effective_rank_z": number(last["effective_rank_z"]),
        "active_groups_share": share(last["active_groups"], last["n_groups"]),
        "active_features_share": share(last["active_features"], last["n_features"]),
        "functional_features_share": share(last["functional_features"], last["n_features"]),
        "loss": float(last["loss"]),
        "train_seconds": round(sum(float(row["seconds"]) for row in metrics), 1),
        "trained_on": run.trained_on,
    }


def setting_columns(config: Config) -> dict[str, object]:
    """What tells trials of a sweep apart, beside the identity columns."""
    return {
        "batch_norm": config.projector_batch_norm,
        "projector_out": config.projector_out,
        "epochs": config.epochs,
        "regularisers": regularisers_name(config.regularisers),
        "projector": projector_name(config.projector, config.projector_out),
    }


def attempt(config: Config, callbacks: tuple[str, ...] = ()) -> str:
    """`run_trial`, and why it failed, "" where it did not. A failure leaves its reason in FAILED and the traceback in LOG.

    One that is stopped from outside, or that another process runs, has not failed.

    Raises: SparseheadError where the reason cannot be written: then the disk is full, too.
    """
    folder = folder_of(config)
    try:
        make_folder(folder)
        (folder / FAILED).unlink(missing_ok=True)
        run_trial(config, load_callbacks(callbacks))
    except (Stopped, Busy) as not_failed:
        return str(not_failed)
    except Exception as error:  # whatever it is, the other trials go on
        reason = str(error) if isinstance(error, SparseheadError) else f"{type(error).__name__}: {error}"
        with suppress(OSError), open(folder / LOG, "a", encoding="utf-8", errors="backslashreplace") as log:
            traceback.print_exc(file=log)
        replace_file(folder / FAILED, f"{printable(reason)}\n".encode())
        return reason
    return ""


def log_everything(folder: Path) -> None:
    """Send what this process prints, also below Python, to LOG in `folder`."""
    make_folder(folder)
    with open(folder / LOG, "ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)


def end_with_parent() -> None:
    """End this process when the one that started it is no more: a killed sweep leaves nobody behind.

    It leaves that one's process group: what a terminal or a scheduler signals to all reaches the sweep, which tells its trials
    once, so that each saves after its step. A second signal would end it before.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
