"""What a trial may use on a cluster: settings of `--engine slurm`, written `--set slurm.<name>=…`. No torch here."""

from dataclasses import dataclass

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.settings import read, setting, settings_of

PREFIX = "slurm."
CLUSTERS = ("slurm", "local")


@dataclass(frozen=True)
class Limits:
    """Of one trial. What else a cluster wants (an account, a constraint) is given by the variables that sbatch reads."""

    minutes: int = setting(240, "After which a trial is saved and queued again.", unit="minutes", least=1)
    cpus: int = setting(1, "Cores.", least=1)
    gpus: int = setting(0, "GPUs.", least=0, most=1)
    memory: float | None = setting(None, "Without it the partition's own.", unit="GB", above=0)
    partition: str | None = setting(None, "Without it the cluster's own.")
    cluster: str = setting("slurm", "slurm, or local: processes on this machine, for a try.")


def split_limits(given: dict[str, object], engine: str) -> tuple[Limits, dict[str, object]]:
    """--set's values -> (the limits of --engine slurm, the settings of the runs).

    Raises: SparseheadError that names every unknown limit, wrong type and impossible number at once, and for limits of another
    engine.
    """
    limits = {name: value for name, value in given.items() if name.startswith(PREFIX)}
    others = {name: value for name, value in given.items() if name not in limits}
    if engine != "slurm":
        if limits:
            raise SparseheadError(f"{', '.join(limits)} is of Slurm: it needs --engine slurm.")
        return Limits(), others
    values, problems = read(settings_of(Limits, PREFIX), limits)
    cluster = values.get(f"{PREFIX}cluster", Limits.cluster)
    if cluster not in CLUSTERS:
        problems.append(f'{PREFIX}cluster must be {" or ".join(CLUSTERS)}, given "{cluster}".')
    if problems:
        raise SparseheadError("\n".join(problems))
    return Limits(**{name.removeprefix(PREFIX): value for name, value in values.items()}), others
