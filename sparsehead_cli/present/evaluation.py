"""Evaluations of a checkpoint as people see them: tables, and what `sparsehead evaluate` prints."""

import shlex
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from sparsehead_cli.data.nouns import noun_of
from sparsehead_cli.errors import naming_the_rest, one_line, printable
from sparsehead_cli.evaluation.evaluate import JobProgress, evaluate
from sparsehead_cli.evaluation.plan import EvaluateRequest, Job, each_once
from sparsehead_cli.evaluation.protocols import KS
from sparsehead_cli.evaluation.sentences import MEAN
from sparsehead_cli.foreign.assumptions import guesses_in
from sparsehead_cli.machine.interrupts import stopped_by
from sparsehead_cli.machine.launch import command_alone
from sparsehead_cli.present.console import Console, Display, emphasis, print_notes, print_table, progress_bar
from sparsehead_cli.present.pretrain import LINE_SECONDS
from sparsehead_cli.present.table import UNDEFINED_CELL, Cell, Column, Table
from sparsehead_cli.runs.readable import counted
from sparsehead_cli.runs.table_files import Row, frame

WIDE = 110  # columns of a console on which all base lines have room, intervals behind the numbers
MOST_NARROW = 5  # models that a console of 80 columns has room for
LOUD = ("has not finished its training", "were left out")  # of notes in bold
MODELS = {  # (model, features) in evaluations.csv -> heading
    ("checkpoint", "r"): "r",
    ("checkpoint", "z"): "z",
    ("untrained", "r"): "untrained r",
    ("untrained", "z"): "untrained z",
    ("initial", "r"): "r at the start",
    ("pixels", "pixels"): "pixels",
    ("words", "words"): "TF-IDF",
}
NEIGHBOURS = 20  # of the kNN that classes are shown of, or the nearest to it


def accuracy_table(dataset: str, rows: list[Row]) -> Table:
    """Accuracies on one data set, rows of evaluations.csv: a line a protocol, a column for r and z of each model."""
    largest = max(rows, key=lambda row: int(row["n_train"]))
    sizes = f"{int(largest['n_test']):,} test {noun_of(dataset)}, {int(largest['n_train']):,} for training"
    accuracies = shown(rows)
    measured = set(zip(accuracies["model"], accuracies["features"], strict=True))
    models = [pair for pair in MODELS if pair in measured]
    columns = [Column("protocol", text=True), *model_columns(models)]
    table = Table(f"{dataset}: accuracy on {sizes}", columns, wide=WIDE)
    for name, of_protocol in accuracies.groupby("label", sort=False):
        by_model = dict(list(of_protocol.groupby(["model", "features"])))
        table.add(Cell(name), *(accuracy_cell(by_model.get(pair)) for pair in models))
    return table


def model_columns(models: list[tuple[str, str]]) -> list[Column]:
    """A column a model and features. Where there are too many for a narrow console, it goes without the untrained z."""
    return [
        Column(MODELS[pair], digits=1, scale=100, minor=len(models) > MOST_NARROW and pair == ("untrained", "z")) for pair in models
    ]


def accuracy_cell(rows: pd.DataFrame | None) -> Cell:
    """One accuracy with its interval, or the mean ± the standard deviation over seeds."""
    if rows is None or rows["value"].isna().any():
        return UNDEFINED_CELL
    values = list(rows["value"])
    if len(values) > 1:
        return Cell(statistics.fmean(values), half=statistics.stdev(values))
    return Cell(values[0], low=rows["low"].iloc[0], high=rows["high"].iloc[0])


def class_table(dataset: str, rows: list[Row]) -> Table:
    """Accuracy of the checkpoint's r within each class, rows of per_class.csv: a column a protocol, of kNN one k."""
    ks = {int(row["k"]) for row in rows if row["k"]}
    k = min(ks, key=lambda k: abs(k - NEIGHBOURS), default=0)
    of_r = [row for row in rows if (row["model"], row["features"]) == ("checkpoint", "r") and row["k"] in ("", str(k))]
    classes = shown(of_r)
    protocols = list(classes["label"].unique())
    columns = [Column("class", text=True), Column("test images"), *(Column(name, digits=1, scale=100) for name in protocols)]
    table = Table(f"{dataset}: accuracy of r within each class", columns)
    for name, of_class in classes.groupby("class", sort=False):
        images = int(of_class["n_test"].iloc[0])
        by_protocol = dict(list(of_class.groupby("label")["value"]))
        cells = [Cell(name), Cell(images, text=f"{images:,}")]
        for protocol in protocols:
            cells.append(Cell(statistics.fmean(by_protocol[protocol])) if protocol in by_protocol else UNDEFINED_CELL)
        table.add(*cells)
    return table


def precision_table(rows: list[Row]) -> Table:
    """Average precisions of object detection, rows of evaluations.csv: a line a measure, a column a model."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    title = f"{rows[0]['eval_dataset']}: average precision on {int(rows[0]['n_test']):,} test images"
    table = Table(title, [Column("measure", text=True), *(Column(model, digits=1, scale=100) for model in models)])
    values = {(row["metric"], row["model"]): row["value"] for row in rows}
    for metric in dict.fromkeys(row["metric"] for row in rows):
        table.add(Cell(metric), *(Cell(values.get((metric, model))) for model in models))
    return table


def sts_table(rows: list[Row]) -> Table:
    """Correlations with people's scores, rows of evaluations.csv: a line a set of pairs, a column for r and z of each model."""
    measured = {(row["model"], row["features"]) for row in rows}
    models = [pair for pair in MODELS if pair in measured]
    columns = [Column("set", text=True), Column("pairs", minor=len(models) > MOST_NARROW), *model_columns(models)]
    notes = ("100 × Spearman's ρ of cosine similarity and people's scores, all pairs of a set together; 95 % intervals over pairs",)
    table = Table("sts: similarity as people see it", columns, wide=WIDE, notes=notes)
    values = {(row["eval_dataset"], row["model"], row["features"]): row for row in rows}
    for name in dict.fromkeys(row["eval_dataset"] for row in rows):
        of_set = [values.get((name, *pair)) for pair in models]
        count = int(next(row for row in of_set if row)["n_test"])
        cells = [Cell(row["value"], low=row["low"] or None, high=row["high"] or None) if row else UNDEFINED_CELL for row in of_set]
        table.add(Cell(name), UNDEFINED_CELL if name == MEAN else Cell(count, text=f"{count:,}"), *cells)
    return table


def factor_table(rows: list[Row]) -> Table:
    """What is read out of each factor, rows of evaluations.csv: a line a number, a column what it was read from."""
    pairs = list(dict.fromkeys((row["model"], row["features"]) for row in rows))
    names = [f"{'' if model == 'checkpoint' or model == features else f'{model} '}{features}" for model, features in pairs]
    columns = [Column("read out linearly", text=True), *(Column(name, digits=3) for name in names)]
    notes = ("accuracy of classes, R² of numbers; read, unread: the part of r that the head responds to, and the rest",)
    notes += (
        "kept, changed: the factors that the views keep, and those that they change; CKA: linear, with these factors; pairs: rank "
        "correlation of the similarity of pairs of images; 0 is none",
    )
    table = Table(f"factors: {int(rows[0]['n_test']):,} test images", columns, notes=notes)
    values = {(row["metric"], row["model"], row["features"]): row["value"] for row in rows}
    for metric in dict.fromkeys(row["metric"] for row in rows):
        text = metric.replace("_r2", ", R²").replace("_accuracy", ", accuracy").replace("cka_", "CKA, ")
        text = text.replace("rank_correlation_", "pairs, ")
        table.add(Cell(text), *(Cell(values.get((metric, *pair))) for pair in pairs))
    return table


def shown(rows: list[Row]) -> pd.DataFrame:
    """The rows that people see, with the `label` of their protocol: of sixteen kNN settings the four that others report."""
    reported = [row for row in rows if not row["k"] or (row["distance"], row["vote"]) == ("cosine", "weighted")]
    return frame(reported).assign(label=[label(row) for row in reported])


def label(row: Row) -> str:
    """A protocol with its setting, the same for r and z and for all models."""
    if row["k"]:
        return f"kNN, k = {row['k']}"
    text = str(row["protocol"])
    if row["label_share"]:
        text += f", {100 * float(row['label_share']):g} % of labels"
    if row["eval_epochs"]:
        text += f", {counted(float(row['eval_epochs']), 'epoch')}"
    return text


class EvaluateDisplay(Display):
    """A progress bar on a terminal, everywhere one plain line a job, and in a log more of them within long jobs."""

    def __init__(self, console: Console) -> None:
        self.job: Job | None = None
        self.shown = 0.0  # when the last line was printed
        self.bar = progress_bar(console, "{task.description}", "{task.fields[share]}")
        self.task = self.bar.add_task("", total=None, share="")
        super().__init__(console, self.bar)

    def tell(self, line: str) -> None:
        """A line about what a checkpoint holds; one that a reader must not miss is in bold."""
        self.say(f" {line}", emphasis(line))

    def watch(self, progress: JobProgress) -> None:
        """Name the job when it begins; move the bar."""
        if progress.job is not self.job:
            self.job = progress.job
            width = len(str(progress.jobs))
            before = " (measured before)" if progress.was_finished else ""
            self.say(f"{progress.number:>{width}}/{progress.jobs}  {describe(progress.job)}{before}")
            self.shown = time.monotonic()
        if self.bar.disable and progress.total and time.monotonic() - self.shown >= LINE_SECONDS:
            self.shown = time.monotonic()
            self.say(f"     step {progress.step:,} of {progress.total:,}")
        share = f"{100 * progress.step / progress.total:>3.0f} %" if progress.total else ""  # some jobs have no steps
        total = progress.total or None
        self.bar.update(self.task, description=progress.job.protocol, completed=progress.step, total=total, share=share)


def describe(job: Job) -> str:
    """A job in a few words."""
    few = f", {100 * job.share:g} % of the labels, seed {job.seed}" if job.share < 1 else ""
    return f"{job.protocol} on {one_line(job.dataset)}, {job.model}{few}"


def run_evaluate(console: Console, request: EvaluateRequest, checkpoints: Iterable[str]) -> None:
    """Measure one checkpoint after the other as was requested of the first, and print what came out of each.

    Raises: SparseheadError; Stopped where it was interrupted.
    """
    requests = [replace(request, checkpoint=checkpoint) for checkpoint in each_once(checkpoints, request.options)]
    for number, each in enumerate(requests, 1):
        if len(requests) > 1:
            console.print(f"{number}/{len(requests)}  {printable(str(each.checkpoint))}", style="bold", soft_wrap=True)
        try:
            with naming_the_rest([later.checkpoint for later in requests[number:]]), EvaluateDisplay(console) as display:
                rows, classes = evaluate(each, display.watch, display.tell)
        except KeyboardInterrupt as interrupt:
            raise stopped_by(interrupt, "What had been finished is in evaluations.csv; the same command goes on.") from None
        show_evaluation(console, each.folder, rows, classes)
    for line in next_steps(request, [str(each.checkpoint) for each in requests], rows):
        console.print(line, soft_wrap=True)


def next_steps(request: EvaluateRequest, checkpoints: list[str], rows: list[Row]) -> list[str]:
    """What to type next, and what a single run does not tell; `rows` are those of the last checkpoint."""
    dataset = ["--dataset", request.dataset] if request.dataset else []
    command = [*command_alone(), "spectrum", *checkpoints, *dataset, *request.options.typed()]
    lines = [f" next    collapse, and what the head reads: {shlex.join(command)}"]
    if rows and rows[0]["lam"] != "":
        lines.append("         these intervals are of one run: whether a λ helps, several seeds tell (sparsehead sweep-lambda)")
    return lines


def show_evaluation(console: Console, folder: Path, rows: list[Row], classes: list[Row]) -> None:
    """Tables of rows of evaluations.csv and per_class.csv, which are in the folder, and what a reader has to know of them."""
    accuracies = [row for row in rows if row["metric"] == "accuracy"]
    for dataset in dict.fromkeys(row["eval_dataset"] for row in accuracies):
        print_table(console, accuracy_table(dataset, [row for row in accuracies if row["eval_dataset"] == dataset]))
        if classes:
            print_table(console, class_table(dataset, [row for row in classes if row["eval_dataset"] == dataset]))
    if of_factors := [row for row in rows if row["protocol"] == "factors"]:
        table = factor_table(of_factors)
        print_table(console, table)
        print_notes(console, [table])
    if of_sts := [row for row in rows if row["protocol"] == "sts"]:
        table = sts_table(of_sts)
        print_table(console, table)
        print_notes(console, [table])
    precisions = [row for row in rows if row["metric"] != "accuracy" and row["protocol"] not in ("factors", "sts")]
    if precisions:
        print_table(console, precision_table(precisions))
    for note in notes(rows):
        console.print(f" {note}", style="bold" if any(words in note for words in LOUD) else "", soft_wrap=True)
    files = "evaluations.csv, per_class.csv" if classes else "evaluations.csv"
    console.print(f" files   {folder}/: {files}; features/ may be deleted", soft_wrap=True)


def notes(rows: list[Row]) -> Iterator[str]:
    """What a reader of the tables has to know."""
    if any(row["metric"] == "accuracy" for row in rows):
        semi = "; ± is the standard deviation over the seeds of semi" if any(row["label_share"] for row in rows) else ""
        nouns = dict.fromkeys(noun_of(row["eval_dataset"]) for row in rows if row["metric"] == "accuracy")
        yield f"in %, with the 95 % Wilson interval over test {' and '.join(nouns)}{semi}"
    if any(row["k"] for row in rows):
        yield "kNN     cosine, votes weighted (temperature 0.1); Euclidean and majority votes are in evaluations.csv"
    for name, bank in {row["eval_dataset"]: int(row["n_train"]) for row in rows if row["k"]}.items():
        if bank < max(KS):
            yield f"kNN     {name} has {bank:,} training {noun_of(name)}: a k beyond is left out"
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
