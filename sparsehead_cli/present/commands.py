"""The commands that make a study again, read off its tables: what a page has to say of itself."""

import shlex

from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.runs.tables import PART_OF, USUAL
from sparsehead_cli.study.results import METRICS_CSV
from sparsehead_cli.study.study import Study
from sparsehead_cli.study.summary import CURES, PROJECTOR

AXES = {
    **{"methods": "method", "penalties": "penalty", "solvers": "solver", "regularisers": "regularisers", "projectors": "projector"},
    **{"dims": "projector_out", "epochs": "epochs"},
}


def commands_of(study: Study) -> list[tuple[str, str]]:
    """(what it does, the command), in the order in which they are typed; folders as they are seen from the repository's."""
    folder = shlex.quote("/".join(study.folder.resolve().parts[-2:]))
    commands = []
    if study.trials:
        confirming = ["--confirm", str(len(study.confirmation.plan.seeds))] if study.confirmation else []
        commands.append(("the trials", shlex.join([*sweep_command(study.trials), *confirming])))
    if study.metrics:
        runs = [run for run in dict.fromkeys(row["run"] for row in study.metrics) if run]
        options = "".join(f" {shlex.quote(word)}" for word in measured_on(study.metrics))
        command = f"sparsehead spectrum {spectra_arguments(folder, runs)}{options} --out {folder}"
        commands.append((f"the spectra ({METRICS_CSV})", command))
    return [*commands, ("tables, figures and this page", f"sparsehead report {folder}")]


def sweep_command(trials: list[Row]) -> list[str]:
    """`sparsehead sweep-lambda` with the axes that these trials have. λ that not all settings share are the experiment's."""
    command = ["sparsehead", "sweep-lambda", "--experiment", trials[0]["experiment"], "--dataset", trials[0]["dataset"]]
    above = [row for row in trials if float(row["lam"]) > 0] or trials  # λ 0 has no penalty
    of_mlp = [row for row in above if row[PROJECTOR] == USUAL[PROJECTOR]]  # what stands in its place names its width
    for axis, column in AXES.items():
        of_axis = trials if column in CURES else of_mlp if column == "projector_out" else above
        values = list(dict.fromkeys(row[column] for row in of_axis))
        if values and values != [USUAL.get(column)]:
            command += [f"--{axis}", ",".join(values)]
    norms = dict.fromkeys(row["batch_norm"].lower() for row in trials)
    by_setting: dict[tuple[str, ...], set[float]] = {}
    for row in trials:
        if lam := float(row["lam"]):
            by_setting.setdefault(tuple(row[column] for column in (*AXES.values(), "batch_norm")), set()).add(lam)
    command += ["--batch-norm", ",".join(norms)]
    if len({frozenset(lams) for lams in by_setting.values()}) <= 1:
        command += ["--lams", ",".join(f"{lam:g}" for lam in sorted({float(row["lam"]) for row in trials}))]
    return [*command, "--seeds", str(len({row["seed"] for row in trials}))]


def measured_on(metrics: list[Row]) -> list[str]:
    """The options that say on what all spectra were measured, where that is not what is measured without them."""
    given = []
    for option, default, value in (
        ("--dataset", "", lambda row: row["eval_dataset"] if row["eval_dataset"] != row["dataset"] else ""),
        ("--split", "test", lambda row: row["split"].rpartition(PART_OF)[2]),
        ("--images", "", lambda row: row["images"] if PART_OF in row["split"] else ""),
    ):
        values = set(map(value, metrics)) - {default}
        given += [option, values.pop()] if len(values) == 1 else []
    return given


def spectra_arguments(folder: str, runs: list[str]) -> str:
    """The checkpoints: a few by name, many by what their names begin with."""
    if len(runs) <= 4:
        return " ".join(f"{folder}/{shlex.quote(run)}" for run in runs)
    return " ".join(f"{folder}/{shlex.quote(method)}-*" for method in dict.fromkeys(run.partition("-")[0] for run in runs))
