"""What `sparsehead evaluate` shows: the job at hand while it runs, then tables of what came out."""

import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sparsehead_cli.errors import one_line
from sparsehead_cli.evaluation.evaluate import Job, JobProgress
from sparsehead_cli.evaluation.protocols import KS
from sparsehead_cli.foreign.facts import guesses_in
from sparsehead_cli.present.console import Console
from sparsehead_cli.present.pretrain import counted, emphasis
from sparsehead_cli.runs.readable import UNDEFINED, number, readable

Row = dict[str, str]
WIDE = 110  # columns in which the table with all base lines has room for intervals beside the numbers
LOUD = ("has not finished its training", "were left out")  # of notes in bold
MODELS = (("checkpoint", "r"), ("checkpoint", "z"), ("untrained", "r"), ("untrained", "z"), ("pixels", "pixels"))


class EvaluateDisplay:
    """A progress bar on a terminal, and everywhere one plain line a job."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.job: Job | None = None
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} % ", markup=False),
            TimeRemainingColumn(),
            TextColumn("left", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "EvaluateDisplay":
        self.progress.start()
        self.bar = self.progress.add_task("", total=None)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def tell(self, line: str) -> None:
        """A line about what was found in a checkpoint; one that a reader must not miss is in bold."""
        self.console.print(f" {line}", style=emphasis(line), soft_wrap=True)

    def watch(self, moment: JobProgress) -> None:
        """Name the job when it begins; move the bar."""
        if moment.job is not self.job:
            self.job = moment.job
            width = len(str(moment.jobs))
            found = " (measured before)" if moment.was_finished else ""
            line = f"{moment.number:>{width}}/{moment.jobs}  {describe(moment.job)}{found}"
            self.console.print(line, soft_wrap=True)
        self.progress.update(self.bar, description=moment.job.protocol, completed=moment.step, total=moment.total or None)


def describe(job: Job) -> str:
    """A job in a few words."""
    few = f", {100 * job.share:g} % of the labels, seed {job.seed}" if job.share < 1 else ""
    return f"{job.protocol} on {one_line(job.dataset)}, {job.model}{few}"


def show_evaluation(console: Console, folder: Path, rows: list[Row], classes: list[Row]) -> None:
    """Tables of the rows: a line a protocol, a column for r and z of each model; the classes; and the `folder` of all rows."""
    accuracies = [row for row in rows if row["metric"] == "accuracy"]
    for dataset in dict.fromkeys(row["eval_dataset"] for row in accuracies):
        narrow = console.width < WIDE
        console.print(accuracy_table(dataset, [row for row in accuracies if row["eval_dataset"] == dataset], narrow))
        if classes:
            console.print(class_table(dataset, [row for row in classes if row["eval_dataset"] == dataset]))
    precisions = [row for row in rows if row["metric"] != "accuracy"]
    if precisions:
        console.print(precision_table(precisions))
    for note in notes(rows):
        console.print(f" {note}", style="bold" if any(words in note for words in LOUD) else "", soft_wrap=True)
    files = "evaluations.csv, per_class.csv" if classes else "evaluations.csv"
    console.print(f" files   {folder}/: {files}; features/ may be deleted", soft_wrap=True)


def accuracy_table(dataset: str, rows: list[Row], narrow: bool) -> Table:
    """Accuracies on one data set; the intervals below them on a narrow console."""
    sizes = max(rows, key=lambda row: int(row["n_train"]))
    title = f"{one_line(dataset)}: accuracy on {int(sizes['n_test']):,} test images, {int(sizes['n_train']):,} for training"
    table = Table(title=title, title_justify="left", title_style="bold")
    columns = [pair for pair in MODELS if any((row["model"], row["features"]) == pair for row in rows)]
    table.add_column("protocol")
    for model, features in columns:
        table.add_column({"checkpoint": features, "pixels": "pixels"}.get(model, f"{model} {features}"), justify="right")
    for name in dict.fromkeys(label(row) for row in shown(rows)):
        cells = [
            cell([row for row in rows if label(row) == name and (row["model"], row["features"]) == column], narrow)
            for column in columns
        ]
        table.add_row(one_line(name), *cells)
    return table


def shown(rows: list[Row]) -> Iterator[Row]:
    """The rows for the terminal: of the sixteen kNN settings the four that others report, weighted cosine votes."""
    return (row for row in rows if not row["k"] or (row["distance"], row["vote"]) == ("cosine", "weighted"))


def label(row: Row) -> str:
    """A protocol with its setting, the same for r and z and for all models."""
    if row["k"]:
        return f"kNN, k = {row['k']}" + ("" if (row["distance"], row["vote"]) == ("cosine", "weighted") else f", {row['distance']}")
    few = f", {100 * float(row['label_share']):g} % of labels" if row["label_share"] else ""
    return f"{row['protocol']}{few}" + (f", {counted(float(row['eval_epochs']), 'epoch')}" if row["eval_epochs"] else "")


def cell(rows: list[Row], narrow: bool) -> str:
    """One accuracy with its interval, or the mean and standard deviation over seeds."""
    values = [100 * number(row["value"]) for row in rows]
    if not rows or any(map(math.isnan, values)):
        return UNDEFINED
    if len(rows) > 1:
        return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
    interval = f"{100 * float(rows[0]['low']):.1f}–{100 * float(rows[0]['high']):.1f}"
    return f"{values[0]:.1f}\n{interval}" if narrow else f"{values[0]:.1f} ({interval})"


def class_table(dataset: str, rows: list[Row]) -> Table:
    """Accuracy of the checkpoint's r within each class; a column for each protocol, of kNN that with the k nearest to 20."""
    rows = [row for row in shown(rows) if (row["model"], row["features"]) == ("checkpoint", "r")]
    k = min({int(row["k"]) for row in rows if row["k"]}, key=lambda k: abs(k - 20), default=0)
    rows = [row for row in rows if row["k"] in ("", str(k))]
    table = Table(title=f"{one_line(dataset)}: accuracy of r within each class", title_justify="left", title_style="bold")
    table.add_column("class")
    table.add_column("test images", justify="right")
    heads = list(dict.fromkeys(label(row) for row in rows))
    for name in heads:
        table.add_column(name, justify="right")
    for name in dict.fromkeys(row["class"] for row in rows):
        of_class = [row for row in rows if row["class"] == name]
        values = [[row["value"] for row in of_class if label(row) == head] for head in heads]
        cells = [f"{100 * statistics.mean(map(float, v)):.1f}" if v and all(v) else UNDEFINED for v in values]
        table.add_row(one_line(name), f"{int(of_class[0]['n_test']):,}", *cells)
    return table


def precision_table(rows: list[Row]) -> Table:
    """Average precisions of object detection."""
    first = rows[0]
    title = f"{one_line(first['eval_dataset'])}: average precision on {int(first['n_test']):,} test images"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("measure")
    models = list(dict.fromkeys(row["model"] for row in rows))
    for model in models:
        table.add_column(model, justify="right")
    for metric in dict.fromkeys(row["metric"] for row in rows):
        found = {row["model"]: row["value"] for row in rows if row["metric"] == metric}
        table.add_row(one_line(metric), *(readable(found.get(model), 1, 100) for model in models))
    return table


def notes(rows: list[Row]) -> Iterator[str]:
    """What a reader of the tables has to know."""
    if any(row["metric"] == "accuracy" for row in rows):
        semi = "; ± is the standard deviation over the seeds of semi" if any(row["label_share"] for row in rows) else ""
        yield f"in %, with the 95 % Wilson interval over test images{semi}"
    if any(row["k"] for row in rows):
        yield "kNN     cosine, votes weighted (temperature 0.1); Euclidean and majority votes are in evaluations.csv"
    for name, bank in {row["eval_dataset"]: int(row["n_train"]) for row in rows if row["k"]}.items():
        if bank < max(KS):
            yield f"kNN     {name} has {bank:,} training images: a k beyond is left out"
    if guesses := guesses_in(rows[0].get("assumed") or ""):
        yield f"guessed {', '.join(guesses)}: if wrong, so are these numbers; --assume KEY=VALUE"
    first = rows[0]
    if first["total_steps"] and int(first["step"]) < int(first["total_steps"]):
        steps = f"{int(first['step']):,} of {int(first['total_steps']):,}"
        yield f"this checkpoint has not finished its training: step {steps}"
    for name, share in {row["eval_dataset"]: row["waiting_share"] for row in rows if row["waiting_share"]}.items():
        yield f"reading {name}: {100 * float(share):.0f} % of the time that its features took went by waiting for images"
    skipped = {row["eval_dataset"]: int(row["skipped_images"]) for row in rows}
    for name, count in skipped.items():
        if count:
            yield f"{count:,} unreadable images of {name} were left out"
