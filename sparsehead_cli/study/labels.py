"""Words for checkpoints that are shown together: what tells them apart, which differ in their seed alone, the verdict on each."""

from sparsehead_cli.foreign.facts import guesses_in
from sparsehead_cli.measure.spectrum import verdict
from sparsehead_cli.runs.readable import number
from sparsehead_cli.runs.table_files import Row, frame

JUDGED_BY = ("effective_rank", "std", "dims_99", "dim")  # metrics that every verdict needs
ALWAYS = ("lam", "seed")  # said even where they are the same
SETTING = ("experiment", "method", "dataset", "backbone", "penalty", "solver", "lam", "eval_dataset", "split")
NAMES = ("{run}", "{experiment}/{run}", "{run} {checkpoint:.6} {eval_dataset}")  # of checkpoints, longer and longer


def first_rows(rows: list[Row]) -> dict[str, Row]:
    """task -> its first row, which names the checkpoint."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["task"], row)
    return first


def labels(rows: list[Row], columns: tuple[str, ...] = (*SETTING, "seed")) -> dict[str, str]:
    """task -> label, for the rows of checkpoints: λ, the seed and the columns in which they differ, or else the runs' names."""
    first = first_rows(rows)
    candidates = [{task: name.format(**row) for task, row in first.items()} for name in NAMES]
    if all(row["lam"] != "" for row in first.values()):
        said = [column for column in columns if column in ALWAYS or len({row[column] for row in first.values()}) > 1]
        candidates.insert(0, {task: ", ".join(say(column, row[column]) for column in said) for task, row in first.items()})
    for names in candidates:
        if len(set(names.values())) == len(first):
            return names
    return candidates[-1]


def say(column: str, value: str) -> str:
    """A column's value as a label says it."""
    if column == "lam":
        return f"λ {float(value):g}" if value else "no λ"
    return f"seed {value}" if column == "seed" else value


def groups(rows: list[Row]) -> dict[str, list[str]]:
    """label -> the tasks of runs that differ only in their seed, by rising λ; other checkpoints are groups of their own."""
    if not rows:
        return {}
    first = first_rows(rows)
    checkpoints = frame(list(first.values()), text=(*SETTING, "seed"))
    alone = checkpoints.duplicated([*SETTING, "seed"]) | (checkpoints["lam"] == "")
    own_group = checkpoints["task"].where(alone, "")
    members = [list(own["task"]) for _, own in checkpoints.groupby([*SETTING, own_group], sort=False)]
    names = labels([first[tasks[0]] for tasks in members], SETTING)
    grouped = {}
    for tasks in sorted(members, key=lambda tasks: float(first[tasks[0]]["lam"] or 0)):
        name = names[tasks[0]]
        grouped[f"{name} ({len(tasks)} seeds)" if len(tasks) > 1 else name] = tasks
    return grouped


def is_sequence(rows: list[Row], grouped: dict[str, list[str]]) -> bool:
    """Whether the groups differ in λ alone, so that their colours can be an order."""
    first = first_rows(rows)
    members = [first[tasks[0]] for tasks in grouped.values()]
    differing = [column for column in SETTING if len({row[column] for row in members}) > 1]
    return differing == ["lam"] and all(row["lam"] != "" for row in members)


def judged(metrics: dict[str, Row]) -> str:
    """The verdict on the numbers of one checkpoint's features: metric -> row of spectrum_metrics.csv. "*": it rests on guesses."""
    numbers = (number(metrics[metric]["value"]) for metric in JUDGED_BY)
    mark = " *" if guesses_in(metrics["dim"].get("assumed") or "") else ""
    return verdict(*numbers, images=float(metrics["dim"]["images"])) + mark


def guess_notes(rows: list[Row]) -> list[str]:
    """What "*" at a verdict means: a sentence for each run whose file left something to be guessed."""
    guesses = {row["run"]: guesses_in(row.get("assumed") or "") for row in rows}
    return [f"* {run}: guessed {', '.join(g)}; if wrong, so are its numbers: --assume KEY=VALUE" for run, g in guesses.items() if g]
