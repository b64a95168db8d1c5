"""What `sparsehead sweep-lambda` and `sparsehead_cli.sweep` were asked for. No torch here: a grid is refused without it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsehead_cli.runs.settings import Values
from sparsehead_cli.sweeps.grid import AXES, Grid, read_grid
from sparsehead_cli.sweeps.limits import Limits, split_limits


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """What `sparsehead sweep-lambda` was asked for; `callbacks` are names of what each trial calls, `limits` those of Slurm.

    `confirm` is the number of fresh seeds that are to judge what the grid chooses (confirm.py), None for a sweep alone.
    """

    grid: Grid
    experiment: str
    experiments: Path | None = None
    engine: str = "local"
    address: str | None = None
    jobs: int | None = None
    retry_failed: bool = False
    prune: bool = False
    confirm: int | None = None
    callbacks: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


def sweep_request(arguments: Mapping[str, Any], settings: Values) -> SweepRequest:
    """The request that a command's or a call's arguments make, by their names, with further settings as of `--set`.

    Raises: SparseheadError that names everything wrong at once.
    """
    limits, others = split_limits(settings, arguments["engine"])
    axes, of_runs = (
        {name: arguments[name] for name in names if arguments[name] is not None}
        for names in (AXES, ("dataset", "epochs", "data_dir", "device", "results"))
    )
    grid = read_grid(arguments["experiment"], arguments["experiments"], axes, {**others, **of_runs})
    same = ("experiment", "experiments", "engine", "address", "jobs", "retry_failed", "prune", "confirm")
    callbacks = tuple(arguments["callback"] or ())
    return SweepRequest(grid=grid, limits=limits, callbacks=callbacks, **{name: arguments[name] for name in same})
