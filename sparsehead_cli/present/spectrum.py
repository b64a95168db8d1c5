"""Spectra of checkpoints as people see them: tables, verdicts in words, small curves, and what `sparsehead spectrum` prints."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import rich.console
from rich.text import Text

from sparsehead_cli.data.nouns import noun_of
from sparsehead_cli.errors import one_line
from sparsehead_cli.measure import definitions
from sparsehead_cli.measure.definitions import BATCH_SIZE, KEPT, VIEWED, VIEWS
from sparsehead_cli.measure.dimensions import dims_for, effective_rank
from sparsehead_cli.present.console import Console, Display, emphasis, print_notes, print_sentence, print_table
from sparsehead_cli.present.table import UNDEFINED_CELL, Cell, Column, Table, difference, lam_cell, mean
from sparsehead_cli.runs.readable import duration
from sparsehead_cli.runs.table_files import Row, frame
from sparsehead_cli.study.by_lam import SETTING
from sparsehead_cli.study.labels import groups, guess_notes, judged, labels, measured_on, of_features, say, verdicts
from sparsehead_cli.study.results import BATCHES_CSV, EIGENVALUES_CSV, METRICS_CSV

if TYPE_CHECKING:
    from sparsehead_cli.evaluation.spectrum_request import SpectrumProgress

LEVELS = " ▁▂▃▄▅▆▇█"
DECADES = 6  # that a small curve shows
CURVE = 48  # columns of it
FEW_SEEDS = 3
PATIENCE_SECONDS = 10  # after which a log gets another line, and from which on it is said how long something takes
WIDE = 118  # columns of a console on which all of a spectrum's numbers have room, intervals behind them
SPECTRUM = {  # numbers of r, z and hidden layers in spectrum_metrics.csv
    "effective_rank": Column("effective\nrank", digits=1),
    "rankme": Column("RankMe", digits=1),
    "dims_99": Column("dimensions\nfor 99 % of\nthe variance"),
    "alpha": Column("α", digits=2, minor=True),
    "lidar": Column("LiDAR", digits=1),
    "alignment": Column("alignment", digits=2, minor=True),
    "uniformity": Column("uniformity", digits=2, minor=True),
}
HEAD = {  # numbers of the head in spectrum_metrics.csv
    "read_dims": Column("directions\nthe head\nreads"),
    "read_variance_share": Column("share of r's\nvariance in\nthem, %", digits=1, scale=100, short="r's\nvariance\nin them"),
    "probe_r": Column("linear\nprobe of r, %", digits=1, scale=100, short="probe\nof r"),
    "probe_read": Column("probe of what\nis read, %", digits=1, scale=100, short="of what\nis read"),
    "probe_unread": Column("probe of\nthe rest, %", digits=1, scale=100, short="of the\nrest"),
    "batch_features_median": Column(
        "features a batch\nneeds (loss\nwithin 1 %)", short="features\na batch\nneeds\n(loss\nwithin\n1 %)"
    ),
    "batch_overlap": Column("overlap of\nbatches, %", digits=1, scale=100, short="overlap of\nbatches"),
    "batch_overlap_by_chance": Column("expected\nby chance, %", digits=1, scale=100, short="(expected\nby chance)", below="({})"),
}
BY_LAM = {  # numbers in spectrum_by_lam.csv
    ("r", "effective_rank"): Column("effective\nrank of r", digits=1),
    ("z", "effective_rank"): Column("effective\nrank of z", digits=1),
    ("head", "probe_r"): Column("linear probe\nof r, %", digits=1, scale=100),
    ("head", "batch_features_median"): Column("features a\nbatch needs"),
}
OVER_SEEDS = "over seeds: the mean and the paired difference to λ 0, each ± half of its 95 % interval (Student's t)"


@dataclass(frozen=True)
class Checkpoint:
    """A measured checkpoint: its key in the tables, what it is called beside the others, (features, metric) -> its rows."""

    task: str
    label: str
    numbers: dict[tuple[str, str], Row]


def checkpoints(metrics: list[Row]) -> list[Checkpoint]:
    """The checkpoints in spectrum_metrics.csv, by rising λ."""
    numbers: dict[str, dict[tuple[str, str], Row]] = {}
    for row in metrics:
        numbers.setdefault(row["task"], {})[row["features"], row["metric"]] = row
    names = labels(metrics)
    return [Checkpoint(task, names[task], numbers[task]) for tasks in groups(metrics).values() for task in tasks]


def spectra_tables(metrics: list[Row]) -> list[Table]:
    """Rows of spectrum_metrics.csv -> a line a checkpoint and features, and a line a checkpoint of what its head reads of r."""
    measured = checkpoints(metrics)
    heads = [checkpoint for checkpoint in measured if ("head", "read_dims") in checkpoint.numbers]
    batches = f"; losses are NT-Xent of batches of {BATCH_SIZE}" if heads else ""
    noun = noun_of(metrics[0]["eval_dataset"])
    probed = any(("head", "probe_r") in checkpoint.numbers for checkpoint in measured)
    viewed = any((features, "lidar") in checkpoint.numbers for checkpoint in measured for features in ("r", "z"))
    notes = (
        f"intervals are 95 %: bootstrap over {noun}; of few {noun} a rank comes out too low, and its interval lies above it",
        *([f"LiDAR, alignment and uniformity from {VIEWS} views of up to {VIEWED:,} {noun}{batches}"] if viewed else []),
        *([f"probes learn from at most {KEPT:,} {noun}, or as few as --images says; those of evaluate from all"] if probed else []),
        *guess_notes(metrics),
        "verdicts are a rule of thumb; a high rank is no quality, untrained networks have one. "
        "What each number is: sparsehead spectrum --explain",
    )
    run, verdict = Column("run", text=True), Column("verdict", text=True)
    columns = [run, Column("features", text=True, short=""), *SPECTRUM.values(), verdict]
    spectra = Table(f"spectra on {measured_on(metrics)}", columns, notes=notes, wide=WIDE)
    for checkpoint in measured:
        for features in dict.fromkeys(name for name, _ in checkpoint.numbers if name != "head"):
            rows = of_features(checkpoint.numbers, features)
            spectra.add(Cell(checkpoint.label), Cell(features), *spectrum_cells(rows), Cell(judged(rows)))
    if not heads:
        return [spectra]
    reads = Table("what the head reads of r; shares and accuracies of linear probes in %", [run, *HEAD.values()], wide=math.inf)
    for checkpoint in heads:
        reads.add(Cell(checkpoint.label), *head_cells(checkpoint.numbers))
    return [spectra, reads]


def spectrum_cells(rows: dict[str, Row]) -> list[Cell]:
    """The numbers of a checkpoint's features, with their intervals."""
    cells = dict.fromkeys(SPECTRUM, UNDEFINED_CELL)
    for metric in SPECTRUM.keys() & rows.keys():
        row = rows[metric]
        cells[metric] = Cell(row["value"], low=row["low"], high=row["high"])
    cells["dims_99"] = Cell(rows["dims_99"]["value"], of=rows["dim"]["value"])
    return list(cells.values())


def head_cells(numbers: dict[tuple[str, str], Row]) -> list[Cell]:
    """The numbers of a checkpoint's head; what a batch needs goes from the fewest to the most."""
    values = {metric: row["value"] for metric, row in of_features(numbers, "head").items()}
    cells = {metric: Cell(values.get(metric)) for metric in HEAD}
    cells["read_dims"] = Cell(values["read_dims"], of=numbers["r", "dim"]["value"])
    needed, fewest, most = (values.get(f"batch_features_{name}") for name in ("median", "min", "max"))
    cells["batch_features_median"] = Cell(needed, low=fewest, high=most)
    return list(cells.values())


def by_lam_tables(lams: list[Row]) -> list[Table]:
    """Rows of spectrum_by_lam.csv -> a table a setting, a line a λ: means over seeds, and paired differences to λ 0."""
    rows = [row for row in lams if (row["features"], row["metric"]) in BY_LAM]
    if not rows:
        return []
    compared = frame(rows)
    differing = [column for column in SETTING if compared[column].nunique() > 1]
    tables = []
    for _, setting in compared.groupby(list(SETTING), sort=False):
        measured = set(zip(setting["features"], setting["metric"], strict=True))
        columns, notes = [Column("λ"), Column("seeds")], [OVER_SEEDS]
        for key, column in BY_LAM.items():
            columns += [column, column.from_zero()] if key in measured else []
        if setting["seeds"].min() < FEW_SEEDS:
            notes.append(f"fewer than {FEW_SEEDS} seeds: an interval over them says hardly anything, ± 0 least of all")
        title = ", ".join(["spectra over seeds", *(say(column, setting[column].iloc[0]) for column in differing)])
        table = Table(title, columns, notes=tuple(notes), ruled=True)
        for lam, of_lam in setting.groupby("lam", sort=False):
            numbers = of_lam.set_index(["features", "metric"]).to_dict("index")
            cells = [lam_cell(lam), Cell(of_lam["seeds"].max())]
            for key in (key for key in BY_LAM if key in measured):
                cells += [mean(numbers[key]), difference(numbers[key])] if key in numbers else [UNDEFINED_CELL] * 2
            table.add(*cells)
        tables.append(table)
    return tables


def over_time_table(name: str, rows: list[Row]) -> Table:
    """A run's rows of spectrum_epochs.csv -> a line a tracked epoch."""
    columns = [Column("epoch")]
    for features in ("r", "z"):
        columns += [Column(f"effective\nrank of {features}", digits=1), Column("dimensions\nfor 99 %\nof its\nvariance")]
    table = Table(f"{name}, on the held-out {noun_of(rows[0]['dataset'])}", [*columns, Column("z's eigenvalues", text=True)])
    for epoch, of_epoch in frame(rows).groupby("epoch", sort=False):
        cells = [Cell(epoch, text=f"{epoch:g}")]
        spectra = dict(list(of_epoch.groupby("features")["eigenvalue"]))
        for features in ("r", "z"):
            spectrum = spectra[features].to_numpy()
            cells += [Cell(effective_rank(spectrum)), Cell(dims_for(spectrum, 0.99) or "", of=len(spectrum))]
        table.add(*cells, Cell(curve(spectra["z"].to_list(), 16)))
    return table


def curves(measured: list[Checkpoint], eigenvalues: list[Row]) -> Iterator[str]:
    """A line a checkpoint and features: log of eigenvalue / largest against its rank."""
    yield f" eigenvalues over their rank: the height is log10(eigenvalue / largest), from 0 down to -{DECADES}"
    width = max(len(checkpoint.label) for checkpoint in measured)
    spectra = frame(eigenvalues).groupby("task")
    for checkpoint in measured:
        label = checkpoint.label
        for features, spectrum in spectra.get_group(checkpoint.task).groupby("features", sort=False)["eigenvalue"]:
            if features != "response":
                yield f" {label:<{width}} {features:<2} 1 {curve(spectrum.to_list())} {len(spectrum)}"
                label = ""


def curve(values: list[float], width: int = CURVE) -> str:
    """Eigenvalues, largest first, as a line of `width` characters (fewer where there are fewer)."""
    if not values or values[0] <= 0:
        return "(no variance)"
    columns = min(width, len(values))
    line = ""
    for column in range(columns):
        share = values[round(column * (len(values) - 1) / max(1, columns - 1))] / values[0]
        height = 1 + math.log10(max(share, 10.0**-DECADES)) / DECADES
        line += LEVELS[math.ceil(height * (len(LEVELS) - 1) - 1e-9)]
    return line


class SpectrumDisplay(Display):
    """One plain line a checkpoint; on a terminal, what is being measured, and how far that is; in a log now and then a line."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, console.status("") if console.is_terminal else None)
        self.named: set[int] = set()  # the numbers of checkpoints that have their line
        self.doing, self.since = "", 0.0  # what is being measured, and since when

    def watch(self, progress: "SpectrumProgress") -> None:
        """Name the checkpoint when it is loaded, with what a foreign file has; then each thing that is measured."""
        now = time.monotonic()
        if progress.doing != self.doing or not progress.done:
            self.doing, self.since = progress.doing, now
        doing = far(progress, now - self.since)
        if self.moving:
            self.moving.update(Text(f"{one_line(doing)} …"))
        if progress.doing == "loading":
            return
        before = f" ({progress.doing})" if progress.doing.startswith("measured before") else ""
        if progress.number not in self.named:
            self.named.add(progress.number)
            self.began = self.shown = now
            self.say(f"{progress.number}/{progress.checkpoints}  {progress.checkpoint}{before}")
            for line in progress.report:
                self.say(f"     {line}", emphasis(line))
        if now - self.shown > PATIENCE_SECONDS and not self.moving:  # on a terminal it is seen while it lasts
            self.shown = now
            self.say(f"     {now - self.began:4.0f} s  {doing}")


def far(progress: "SpectrumProgress", seconds: float) -> str:
    """What is being measured, how far it is after so many seconds, and about how long the rest of it takes."""
    if not progress.total:
        return progress.doing
    text = f"{progress.doing}: {progress.done:,} of {progress.total:,}"
    left = seconds / progress.done * (progress.total - progress.done) if progress.done else 0
    return f"{text}, about {duration(left)} left" if left > PATIENCE_SECONDS else text


def show_spectra(console: rich.console.Console, tables: list[list[Row]], lams: list[Row]) -> None:
    """Everything in tables: the spectra, what the heads read, what λ does, and curves.

    `tables` are rows of evaluation.spectrum.TABLES, `lams` those of spectrum_by_lam.csv.
    """
    _, eigenvalues, metrics = tables
    shown = [*spectra_tables(metrics), *by_lam_tables(lams)]
    for table in shown:
        print_table(console, table)
    measured = checkpoints(metrics)
    for line in curves(measured, eigenvalues):
        console.print(line, soft_wrap=True)
    for sentence in verdicts(measured[0].numbers) if len(measured) == 1 else ():
        print_sentence(console, f" {sentence}")
    if console.width < WIDE:
        others = (
            f"alignment, uniformity, α and more are in the tables, and on consoles of {WIDE} columns (in a pipe: COLUMNS={WIDE})"
        )
        print_sentence(console, f" {others}", "dim")
    print_notes(console, shown)


def show_over_time(console: Console, runs: dict[str, list[Row]], files: list[Path]) -> None:
    """How the spectra of runs came about: label -> rows of spectrum_epochs.csv."""
    for name, rows in runs.items():
        print_table(console, over_time_table(name, rows))
    if files:
        console.print(f" files   {', '.join(map(str, files))}", soft_wrap=True)


def explain(console: Console) -> None:
    """Every number's definition."""
    console.print("F: features [N, D]. s: eigenvalues of the covariance of centred F, descending. All in float64.")
    headings = {metric: (column.short or column.name).replace("\n", " ") for metric, column in (SPECTRUM | HEAD).items()}
    parts = {
        "of r, z and hidden layers (h1, h2, …)": definitions.SPECTRUM,
        "of the head": definitions.HEAD,
        "verdicts": definitions.VERDICTS,
    }
    for title, texts in parts.items():
        table = Table(title, [Column("", text=True), Column("", text=True)])
        for name, text in texts.items():
            table.add(Cell(name), Cell(f'{text} "{headings[name]}" in tables.' if name in headings else text))
        print_table(console, table)
    console.print(definitions.INTERVAL)
    tables = f"{BATCHES_CSV}, {EIGENVALUES_CSV}, {METRICS_CSV}"
    console.print(f"Tables: {tables}; spectrum_by_lam.csv where λ and seeds can be compared.")
