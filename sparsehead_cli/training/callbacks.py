"""Who is called while a run trains. The probe, the files and the display are callbacks like anybody's own."""

from sparsehead_cli.machine.plugins import load, named
from sparsehead_cli.runs.run import Progress, Training
from sparsehead_cli.runs.table_files import Row


class Callback:
    """What is called, in the order in which callbacks are given. All processes call theirs at the same moments.

    A callback may add columns to the `row` of an epoch, and rows to `progress.tables`. `on_step` comes after every step and
    should not wait for the device.
    """

    def on_start(self, run: Training, progress: Progress) -> None:
        """Before the first step; of a run that goes on, `progress.step` steps were done before."""

    def on_step(self, run: Training, progress: Progress) -> None:
        """After a step."""

    def on_epoch(self, run: Training, progress: Progress, row: Row) -> None:
        """After an epoch; `row` will be its row in metrics.csv."""

    def on_end(self, run: Training, progress: Progress) -> None:
        """After the last step, or the last one before a stop that was asked for."""


def load_callbacks(names: tuple[str, ...]) -> list[Callback]:
    """A new callback of each name in CALLBACKS or `module:Class`.

    Raises: SparseheadError for an unknown name, code that cannot be imported, and a client that is not installed.
    """
    callbacks = []
    for name in names:
        make = named("callback", name, CALLBACKS)
        callbacks.append((load("callback", make) if name in CALLBACKS else make)())
    return callbacks


CALLBACKS = {  # where each is; its client is imported only where it is asked for
    "tensorboard": "sparsehead_cli.training.loggers:tensorboard",
    "wandb": "sparsehead_cli.training.loggers:wandb",
}
