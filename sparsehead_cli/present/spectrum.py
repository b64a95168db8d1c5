"""What `sparsehead spectrum` shows: tables of what was read off the spectra, verdicts in words, and small curves."""

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torch
from rich.table import Table
from rich.text import Text

from sparsehead_cli.errors import one_line
from sparsehead_cli.evaluation.spectrum import BATCH_SIZE, TABLES, VIEWED, VIEWS, SpectrumProgress
from sparsehead_cli.measure import definitions
from sparsehead_cli.measure.head import READ_SHARE
from sparsehead_cli.measure.spectrum import PARTIAL_SHARE, dims_for, effective_rank
from sparsehead_cli.present.console import Console
from sparsehead_cli.present.pretrain import emphasis, plus_minus
from sparsehead_cli.runs.readable import UNDEFINED, readable
from sparsehead_cli.study.by_lam import SETTING
from sparsehead_cli.study.labels import groups, guess_notes, judged, labels

Row = dict[str, str]
Numbers = dict[tuple[str, str], Row]  # (features, metric) -> row
LEVELS = " ▁▂▃▄▅▆▇█"
DECADES = 6  # that a small curve shows
CURVE = 48  # columns of it
FEW_SEEDS = 3
PATIENCE_SECONDS = 10  # from which on a checkpoint has a line for each thing that is measured
WIDE = 118  # columns of a console on which all of SHOWN have room, intervals beside their numbers
SHOWN = {  # title -> (metric, digits, whether on narrow consoles as well)
    "effective\nrank": ("effective_rank", 1, True),
    "RankMe": ("rankme", 1, True),
    "99 % in": ("dims_99", 0, True),
    "α": ("alpha", 2, False),
    "LiDAR": ("lidar", 1, True),
    "alignment": ("alignment", 2, False),
    "uniformity": ("uniformity", 2, False),
}
BY_LAM = {  # (features, metric) -> (scale, digits)
    ("r", "effective_rank"): (1, 1),
    ("z", "effective_rank"): (1, 1),
    ("head", "probe_r"): (100, 1),
    ("head", "batch_features_median"): (1, 0),
}
BY_LAM_NAMES = ("effective\nrank of r", "effective\nrank of z", "linear probe\nof r, %", "a batch\nneeds")


class SpectrumDisplay:
    """One plain line a checkpoint; on a terminal, what is being measured."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.status = console.status("") if console.is_terminal else None
        self.told: set[int] = set()

    def __enter__(self) -> "SpectrumDisplay":
        if self.status:
            self.status.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.status:
            self.status.stop()

    def watch(self, moment: SpectrumProgress) -> None:
        """Name the checkpoint when it is loaded, with what was found in a foreign file; then each thing that is measured."""
        if self.status:
            self.status.update(Text(f"{one_line(moment.doing)} …"))
        if moment.doing == "loading":
            return
        before = f" ({moment.doing})" if moment.doing.startswith("measured before") else ""
        if moment.number not in self.told:
            self.told.add(moment.number)
            self.began = time.monotonic()
            self.say(f"{moment.number}/{moment.checkpoints}  {moment.checkpoint}{before}")
            for line in moment.report:
                self.say(f"     {line}", emphasis(line))
        elapsed = time.monotonic() - self.began
        if elapsed > PATIENCE_SECONDS and not self.status:  # on a terminal it is seen while it lasts
            self.say(f"     {elapsed:4.0f} s  {moment.doing}")

    def say(self, line: str, style: str = "") -> None:
        self.console.print(line, style=style, soft_wrap=True)


def show_spectra(console: Console, tables: list[list[Row]], lams: list[Row], files: list[Path]) -> None:
    """Everything in tables: the spectra, what the heads read, what λ does, curves, and where the files are."""
    _, eigenvalues, metrics = tables
    names = labels(metrics)
    names = {task: names[task] for tasks in groups(metrics).values() for task in tasks}  # by rising λ
    numbers: dict[str, Numbers] = {task: {} for task in names}
    for row in metrics:
        numbers[row["task"]][row["features"], row["metric"]] = row
    console.print(spectrum_table(names, numbers, narrow=console.width < WIDE))
    if any(("head", "read_dims") in found for found in numbers.values()):
        console.print(head_table(names, numbers))
    if lams:
        console.print(lam_table(lams))
    for line in curves(names, eigenvalues):
        console.print(line, soft_wrap=True)
    for task in names if len(names) == 1 else ():
        for line in words(numbers[task]):
            console.print(line, soft_wrap=True)
    for line in notes(numbers, narrow=console.width < WIDE, lams=lams):
        console.print(line, style="dim", soft_wrap=True)
    listed = ", ".join(str(file) for file in files)
    console.print(f" files   {listed}", soft_wrap=True)


def spectrum_table(names: dict[str, str], numbers: dict[str, Numbers], *, narrow: bool) -> Table:
    """A line a checkpoint and features: ranks with their intervals, and the verdict."""
    sets = dict.fromkeys((r["eval_dataset"], r["split"], r["images"]) for found in numbers.values() for r in found.values())
    title = ", ".join(f"{int(images):,} images of {one_line(dataset)} ({split})" for dataset, split, images in sets)
    table = Table(title=f"spectra on {title}", title_justify="left", title_style="bold")
    table.add_column("run", overflow="fold", min_width=8)
    table.add_column("")
    shown = {name: (metric, digits) for name, (metric, digits, always) in SHOWN.items() if always or not narrow}
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", min_width=9)
    for task, name in names.items():
        for features in dict.fromkeys(f for f, _ in numbers[task] if f != "head"):
            found = {metric: r for (f, metric), r in numbers[task].items() if f == features}
            cells = [cell(found.get(metric), digits, narrow) for metric, digits in shown.values()]
            cells[2] += "" if cells[2] == UNDEFINED else f" of {found['dim']['value']}"
            table.add_row(one_line(name), features, *cells, judged(found))
            name = ""
    return table


def cell(row: Row | None, digits: int, narrow: bool = True) -> str:
    """A number with its interval, where it has one; "–" for none."""
    text = readable(row and row["value"], digits)
    if row is None or row["low"] == "":
        return text
    interval = f"{float(row['low']):.{digits}f}–{float(row['high']):.{digits}f}"
    return f"{text}\n{interval}" if narrow else f"{text} ({interval})"


def percent(row: Row | None) -> str:
    """A share without its interval, in percent; "–" for none."""
    return readable(row and row["value"], 1, 100)


def head_table(names: dict[str, str], numbers: dict[str, Numbers]) -> Table:
    """A line a checkpoint: what its projector reads of r."""
    table = Table(title="what the head reads of r; shares and accuracies in %", title_justify="left", title_style="bold")
    table.add_column("run", overflow="fold", min_width=8)
    for name in ("reads", "of r's\nvar.", "probe\nof r", "of\nread", "of\nunread", "a batch\nneeds", "shared\n(chance)"):
        table.add_column(name, justify="right", no_wrap=True)
    for task, name in names.items():
        found = {metric: row for (features, metric), row in numbers[task].items() if features == "head"}
        if not found:
            continue
        cells = [percent(found.get(metric)) for metric in ("read_variance_share", "probe_r", "probe_read", "probe_unread")]
        ends = "–".join(cell(found.get(f"batch_features_{end}"), 0) for end in ("min", "max"))
        needs, shared = cell(found.get("batch_features_median"), 0), percent(found.get("batch_overlap"))
        needs += "" if needs == UNDEFINED else f"\n{ends}"
        shared += "" if shared == UNDEFINED else f"\n({percent(found.get('batch_overlap_by_chance'))})"
        read = cell(found["read_dims"], 0)
        read += "" if read == UNDEFINED else f" of {numbers[task]['r', 'dim']['value']}"
        table.add_row(one_line(name), read, *cells, needs, shared)
    return table


def lam_table(lams: list[Row]) -> Table:
    """A line a λ: means over seeds, and the paired differences to λ 0, with 95 % intervals."""
    table = Table(
        title="over seeds: mean, and below it the paired difference to λ 0, each ± its 95 % interval (Student's t)",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("λ", justify="right")
    table.add_column("seeds", justify="right")
    for name in BY_LAM_NAMES:
        table.add_column(name, justify="right", no_wrap=True)
    by_setting: dict[tuple, list[Row]] = defaultdict(list)
    for row in lams:
        by_setting[tuple(row[column] for column in SETTING)].append(row)
    for own in by_setting.values():
        for lam in dict.fromkeys(row["lam"] for row in own):
            found = {(row["features"], row["metric"]): row for row in own if row["lam"] == lam}
            cells = [
                plus_minus(found[key], scale, digits) if key in found else UNDEFINED for key, (scale, digits) in BY_LAM.items()
            ]
            table.add_row(f"{lam:g}", str(max(row["seeds"] for row in found.values())), *cells, end_section=True)
    return table


def show_over_time(console: Console, runs: dict[str, list[Row]], files: list[Path]) -> None:
    """How the spectra of runs came about: a table a run, a line a tracked epoch."""
    for name, rows in runs.items():
        table = Table(title=f"{one_line(name)}, on the held-out images", title_justify="left", title_style="bold")
        for title in ("epoch", "effective\nrank of r", "99 % in", "effective\nrank of z", "99 % in", "z's eigenvalues"):
            table.add_column(title, justify="left" if title.endswith("values") else "right", no_wrap=True)
        for epoch in dict.fromkeys(row["epoch"] for row in rows):
            cells = []
            for features in ("r", "z"):
                values = [float(row["eigenvalue"]) for row in rows if (row["epoch"], row["features"]) == (epoch, features)]
                spectrum = torch.tensor(values, dtype=torch.float64)
                dims = dims_for(spectrum, 0.99)
                cells += [readable(effective_rank(spectrum), 1), f"{dims} of {len(values)}" if dims else UNDEFINED]
            table.add_row(epoch, *cells, curve(values, 16))
        console.print(table)
    if files:
        console.print(f" files   {', '.join(map(str, files))}", soft_wrap=True)


def curves(names: dict[str, str], eigenvalues: list[Row]) -> Iterator[str]:
    """A line a checkpoint and features: log of eigenvalue / largest against its rank."""
    yield f" eigenvalues over their rank: the height is log10(eigenvalue / largest), from 0 down to -{DECADES}"
    width = max(map(len, names.values()))
    for task, name in names.items():
        for features in dict.fromkeys(row["features"] for row in eigenvalues if row["task"] == task):
            if features == "response":
                continue
            values = [float(row["eigenvalue"]) for row in eigenvalues if (row["task"], row["features"]) == (task, features)]
            yield f" {name:<{width}} {features:<2} 1 {curve(values)} {len(values)}"
            name = ""


def curve(values: list[float], width: int = CURVE) -> str:
    """Eigenvalues, largest first, as a line of `width` characters (fewer where there are fewer)."""
    if not values or values[0] <= 0:
        return "(no variance)"
    columns = min(width, len(values))
    picked = [values[round(i * (len(values) - 1) / max(1, columns - 1))] / values[0] for i in range(columns)]
    heights = [1 + math.log10(max(share, 10.0**-DECADES)) / DECADES for share in picked]
    return "".join(LEVELS[math.ceil(height * (len(LEVELS) - 1) - 1e-9)] for height in heights)


def words(found: Numbers) -> Iterator[str]:
    """The verdicts on one checkpoint, with their thresholds, in sentences."""
    for features, called in (("r", "representation r"), ("z", "embedding z")):
        own = {metric: row for (f, metric), row in found.items() if f == features}
        if own:
            dim, dims = int(own["dim"]["value"]), own["dims_99"]["value"]
            if not dims:
                yield f" {called}: {judged(own)}. It does not vary at all."
                continue
            images = int(own["dim"]["images"])
            threshold = f"fewer than {math.ceil(PARTIAL_SHARE * dim)} is partial collapse"
            measure = threshold if images > dim else f"no verdict: of {images:,} images, where at least {dim + 1:,} are needed"
            yield f" {called}: {judged(own)}. {dims} of {dim} dimensions carry 99 % of the variance ({measure})."
    value = {metric: float(row["value"]) for (f, metric), row in found.items() if f == "head" and row["value"]}
    if {"read_variance_share", "read_dims"} <= value.keys():
        share, part = value["read_variance_share"], f"{value['read_dims']:.0f} of {found['r', 'dim']['value']} directions"
        verdict_on_head = "reads only a part of r" if share < READ_SHARE else "reads all that varies in r"
        yield f" the head {verdict_on_head}: it responds to {part}, which hold {100 * share:.0f} % of the variance."
    if {"probe_r", "probe_read", "probe_unread"} <= value.keys():
        yield (
            f" a linear probe gets {100 * value['probe_r']:.1f} % from r, {100 * value['probe_read']:.1f} % from what the head "
            f"reads, {100 * value['probe_unread']:.1f} % from what it does not."
        )
    if "batch_features_median" in value:
        shared, chance = (value.get(name) for name in ("batch_overlap", "batch_overlap_by_chance"))
        yield (
            f" to keep its loss within 1 %, a batch needs {value['batch_features_median']:.0f} features "
            f"({value['batch_features_min']:.0f} to {value['batch_features_max']:.0f}); two batches share "
            f"{readable(shared, 0, 100, ' %')} of theirs (by chance {readable(chance, 0, 100, ' %')})."
        )
    elif ("head", "batch_features_median") in found:
        yield " the loss of a batch is that of chance with and without features of r: which ones it needs is not defined."


def notes(numbers: dict[str, Numbers], *, narrow: bool, lams: list[Row]) -> Iterator[str]:
    """What a reader of the tables has to know."""
    yield " intervals are 95 %: bootstrap over images; of few images a rank comes out too low, and its interval lies above it"
    batches = f"; NT-Xent of batches of {BATCH_SIZE}" if any(("head", "read_dims") in found for found in numbers.values()) else ""
    yield f" LiDAR, alignment and uniformity from {VIEWS} views of up to {VIEWED:,} images{batches}"
    if narrow:
        yield f" alignment, uniformity, α and more are in the tables, and on consoles of {WIDE} columns"
    if lams and min(row["seeds"] for row in lams) < FEW_SEEDS:
        yield f" fewer than {FEW_SEEDS} seeds: an interval over them says hardly anything, ± 0 least of all"
    yield from (f" {note}" for note in guess_notes([row for found in numbers.values() for row in found.values()]))
    yield " verdicts are a rule of thumb; a high rank is no quality, untrained networks have one. What each number is: --explain"


HEADINGS = {
    **{metric: title.replace("\n", " ") for title, (metric, _, _) in SHOWN.items()},
    "read_dims": "reads",
    "read_variance_share": "of r's var.",
    "probe_r": "probe of r",
    "probe_read": "of read",
    "probe_unread": "of unread",
    "batch_features_median": "a batch needs",
    "batch_overlap": "shared",
    "batch_overlap_by_chance": "(chance)",
}


def explain(console: Console) -> None:
    """Every number's definition."""
    console.print("F: features [N, D]. s: eigenvalues of the covariance of centred F, descending. All in float64.")
    parts = (
        ("of r, z and hidden layers (h1, h2, …)", definitions.SPECTRUM),
        ("of the head", definitions.HEAD),
        ("verdicts", definitions.VERDICTS),
    )
    for title, texts in parts:
        table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
        table.add_column(no_wrap=True)
        table.add_column()
        for name, text in texts.items():
            heading = f' "{HEADINGS[name]}" in tables.' if name in HEADINGS else ""
            table.add_row(name, text + heading)
        console.print(table)
    console.print(definitions.INTERVAL)
    console.print(f"Tables: {', '.join(TABLES)}; spectrum_by_lam.csv where λ and seeds can be compared.")
