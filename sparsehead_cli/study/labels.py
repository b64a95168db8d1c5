"""Words for checkpoints that are shown together: what tells them apart, which differ in their seed alone, the verdict on each."""

from collections import defaultdict

from sparsehead_cli.foreign.facts import guesses_in
from sparsehead_cli.measure.spectrum import verdict
from sparsehead_cli.runs.readable import number

Row = dict[str, str]
JUDGED_BY = ("effective_rank", "std", "dims_99", "dim")  # metrics that every verdict needs
ALWAYS = ("lam", "seed")  # said even where they are the same
SETTING = ("experiment", "method", "dataset", "backbone", "penalty", "solver", "lam", "eval_dataset", "split")


def labels(rows: list[Row], columns: tuple[str, ...] = (*SETTING, "seed")) -> dict[str, str]:
    """task -> label, for the rows of checkpoints: λ, the seed and the columns in which they differ, or else the runs' names."""
    first = {row["task"]: row for row in reversed(rows)}
    first = {task: first[task] for task in dict.fromkeys(row["task"] for row in rows)}
    told = [c for c in columns if c in ALWAYS or len({row[c] for row in first.values()}) > 1]
    ours = all(row["lam"] != "" for row in first.values())
    by_columns = {task: ", ".join(say(column, row[column]) for column in told) for task, row in first.items()}
    by_run = {task: row["run"] for task, row in first.items()}
    by_place = {task: f"{row['experiment']}/{row['run']}" for task, row in first.items()}
    by_weights = {task: f"{row['run']} {row['checkpoint'][:6]} {row['eval_dataset']}" for task, row in first.items()}
    for found in (by_columns if ours else by_run, by_run, by_place):
        if len(set(found.values())) == len(first):
            return found
    return by_weights


def say(column: str, value: str) -> str:
    """A column's value as a label says it."""
    if column == "lam":
        return f"λ {float(value):g}" if value else "no λ"
    return f"seed {value}" if column == "seed" else value


def groups(rows: list[Row]) -> dict[str, list[str]]:
    """label -> the tasks of runs that differ only in their seed, by rising λ; other checkpoints are groups of their own."""
    first = {row["task"]: row for row in reversed(rows)}
    members: dict[tuple, list[str]] = defaultdict(list)
    for task in dict.fromkeys(row["task"] for row in rows):
        row = first[task]
        setting = tuple(row[column] for column in SETTING)
        taken = {first[other]["seed"] for other in members[setting]}
        members[setting if row["lam"] != "" and row["seed"] not in taken else (task,)].append(task)
    one_each = [first[tasks[0]] for tasks in members.values() if tasks]
    names = labels(one_each, SETTING)
    found = {}
    for tasks in (tasks for tasks in members.values() if tasks):
        row, many = first[tasks[0]], len(tasks) > 1
        name = names[tasks[0]]
        found[f"{name} ({len(tasks)} seeds)" if many else name] = tasks
    return dict(sorted(found.items(), key=lambda item: float(first[item[1][0]]["lam"] or 0)))


def is_sequence(rows: list[Row], grouped: dict[str, list[str]]) -> bool:
    """Whether the groups differ in λ alone, so that their colours can be an order."""
    first = {row["task"]: row for row in rows}
    several = [first[tasks[0]] for tasks in grouped.values()]
    differing = [column for column in SETTING if len({row[column] for row in several}) > 1]
    return differing == ["lam"] and all(row["lam"] != "" for row in several)


def judged(found: dict[str, Row]) -> str:
    """The verdict on the numbers of one checkpoint's features: metric -> row of spectrum_metrics.csv. "*": it rests on guesses."""
    numbers = (number(found[metric]["value"]) for metric in JUDGED_BY)
    mark = " *" if guesses_in(found["dim"].get("assumed") or "") else ""
    return verdict(*numbers, images=float(found["dim"]["images"])) + mark


def guess_notes(rows: list[Row]) -> list[str]:
    """What "*" at a verdict means: a sentence for each run whose file left something to be guessed."""
    guesses = {row["run"]: guesses_in(row.get("assumed") or "") for row in rows}
    return [f"* {run}: guessed {', '.join(g)}; if wrong, so are its numbers: --assume KEY=VALUE" for run, g in guesses.items() if g]
