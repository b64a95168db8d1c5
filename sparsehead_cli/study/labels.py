"""Words for checkpoints that are shown together: what tells them apart, which differ in their seed alone, the verdict on each."""

import math
from collections.abc import Iterator

from sparsehead_cli.data.nouns import noun_of
from sparsehead_cli.foreign.assumptions import guesses_in
from sparsehead_cli.measure.definitions import READ_SHARE
from sparsehead_cli.measure.dimensions import COLLAPSED_RANK, COLLAPSED_STD, PARTIAL_SHARE, verdict
from sparsehead_cli.runs.method_names import method_name
from sparsehead_cli.runs.readable import number, readable
from sparsehead_cli.runs.table_files import Row, frame
from sparsehead_cli.runs.tables import FILE, KIND

JUDGED_BY = ("effective_rank", "std", "dims_99", "dim")  # metrics that every verdict needs
ALWAYS = ("lam", "seed")  # said even where they are the same
SETTING = (*KIND, "lam", "eval_dataset", "split")
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
    return f"seed {value}" if column == "seed" else method_name(value) if column == "method" else value


def groups(rows: list[Row]) -> dict[str, list[str]]:
    """label -> the tasks of runs that differ only in their seed, by rising λ; other checkpoints are groups of their own."""
    if not rows:
        return {}
    first = first_rows(rows)
    checkpoints = frame(list(first.values()), text=(*SETTING, "seed"))
    alone = checkpoints.duplicated([*SETTING, "seed"]) | (checkpoints["lam"] == "")
    apart = checkpoints["task"].where(alone, "")
    members = [list(group["task"]) for _, group in checkpoints.groupby([*SETTING, apart], sort=False)]
    names = labels([first[tasks[0]] for tasks in members], SETTING)
    grouped = {}
    for tasks in sorted(members, key=lambda tasks: float(first[tasks[0]]["lam"] or 0)):
        name = names[tasks[0]]
        grouped[f"{name} ({len(tasks)} seeds)" if len(tasks) > 1 else name] = tasks
    return grouped


def measured_on(rows: list[Row]) -> str:
    """What checkpoints were measured on, in words."""
    named = []
    for row in rows:
        count, dataset = f"{int(row['images']):,}", row["eval_dataset"]
        named.append(
            f"{count} rows of {dataset}" if row["split"] == FILE else f"{count} {noun_of(dataset)} of {dataset} ({row['split']})"
        )
    return ", ".join(dict.fromkeys(named))


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


def of_features(numbers: dict[tuple[str, str], Row], features: str) -> dict[str, Row]:
    """metric -> row, of all that was measured of r, z, a hidden layer or the head."""
    return {metric: row for (name, metric), row in numbers.items() if name == features}


def verdicts(numbers: dict[tuple[str, str], Row]) -> Iterator[str]:
    """The verdicts on one checkpoint, with their thresholds, in sentences."""
    for features, name in (("r", "representation r"), ("z", "embedding z")):
        rows = of_features(numbers, features)
        if rows:
            yield f"{name}: {judged(rows)}. {reason(rows)}"
    values = {metric: float(row["value"]) for metric, row in of_features(numbers, "head").items() if row["value"]}
    if {"read_variance_share", "read_dims"} <= values.keys():
        share = values["read_variance_share"]
        reads = "reads only a part of r" if share < READ_SHARE else "reads all that varies in r"
        directions = f"{values['read_dims']:.0f} of {numbers['r', 'dim']['value']} directions"
        yield f"the head {reads}: it responds to {directions}, which hold {100 * share:.0f} % of the variance."
    if {"probe_r", "probe_read", "probe_unread"} <= values.keys():
        yield (
            f"a linear probe gets {100 * values['probe_r']:.1f} % from r, {100 * values['probe_read']:.1f} % from what the head "
            f"reads, {100 * values['probe_unread']:.1f} % from what it does not."
        )
    if "batch_features_median" in values:
        shared, chance = (readable(values.get(f"batch_overlap{of}"), 0, 100, " %") for of in ("", "_by_chance"))
        yield (
            f"to keep its loss within 1 %, a batch needs {values['batch_features_median']:.0f} features "
            f"({values['batch_features_min']:.0f} to {values['batch_features_max']:.0f}); two batches share "
            f"{shared} of theirs (by chance {chance})."
        )
    elif ("head", "batch_features_median") in numbers:
        yield "the loss of a batch is that of chance with and without features of r: which ones it needs is not defined."


def reason(rows: dict[str, Row]) -> str:
    """Why the verdict on some features is what it is: the number that decided it, and its bound."""
    rank, std = (number(rows[metric]["value"]) for metric in ("effective_rank", "std"))
    dim, images, carry = int(rows["dim"]["value"]), int(rows["dim"]["images"]), rows["dims_99"]["value"]
    least, noun = math.ceil(PARTIAL_SHARE * dim), noun_of(rows["dim"]["eval_dataset"])
    if not carry:
        return "It does not vary at all."
    if std < COLLAPSED_STD:
        return f"All {noun} are nearly at one point: the relative standard deviation is {std:.2g}, below {COLLAPSED_STD:g}."
    if images <= dim:
        return f"No verdict: of {images:,} {noun}, where at least {dim + 1:,} are needed."
    if rank < COLLAPSED_RANK:
        return f"Next to all of the variance is in one dimension: the effective rank is {rank:.2f}, below {COLLAPSED_RANK:g}."
    bound = f"fewer than {least}, a quarter" if int(carry) < least else f"not fewer than {least}, a quarter"
    return f"{carry} of {dim} dimensions carry 99 % of the variance, {bound}; the effective rank is {rank:.1f}."
