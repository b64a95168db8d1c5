"""The callback that keeps a run: its tables and its checkpoint, after every epoch and where it was stopped."""

from sparsehead_cli.runs.folder import identity_columns, save
from sparsehead_cli.runs.run import Progress, Run
from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.runs.tables import METRICS
from sparsehead_cli.training.callbacks import Callback


class RunFiles(Callback):
    """Writes the tables and checkpoint.pt. It comes last of the callbacks, as it saves what the others added."""

    def __init__(self) -> None:
        self.saved = -1  # the step that the files are of

    def on_start(self, run: Run, progress: Progress) -> None:
        self.saved = progress.step

    def on_epoch(self, run: Run, progress: Progress, row: Row) -> None:
        row |= {**identity_columns(run.config, run.name), "seconds": round(progress.seconds(), 2)}
        progress.tables.setdefault(METRICS, []).append(row)
        self.save(run, progress)

    def on_end(self, run: Run, progress: Progress) -> None:
        if progress.step != self.saved:
            self.save(run, progress)

    def save(self, run: Run, progress: Progress) -> None:
        save(run, progress)
        self.saved = progress.step
