"""The tables of a study's page: rows of its CSVs -> what people read, rounded. Full precision stays in the CSVs."""

import math
from collections import defaultdict

from sparsehead_cli.present.page import Cell, Column, Line, Table, number_cell, plain, signed, text_cell
from sparsehead_cli.runs.readable import UNDEFINED, number, readable
from sparsehead_cli.study import by_lam
from sparsehead_cli.study.labels import groups, guess_notes, judged, labels
from sparsehead_cli.study.summary import SETTING, name_of

Row = dict[str, object]
MEANS = {  # heading -> (number of sweep_summary.csv, scale, digits)
    "held-out\nprobe, %": ("val_accuracy", 100, 1),
    "kNN\nof r, %": ("knn_accuracy", 100, 1),
    "probe\nof z, %": ("accuracy_z", 100, 1),
    "effective\nrank of r": ("effective_rank_r", 1, 1),
    "effective\nrank of z": ("effective_rank_z", 1, 1),
    "groups\nactive, %": ("active_groups_share", 100, 0),
}
CHOSEN = {"": "", "best": "best", "sparsest": "sparsest", "both": "best, sparsest"}
SPECTRUM = {  # heading -> (number of spectrum_metrics.csv, digits)
    "effective\nrank": ("effective_rank", 1),
    "RankMe": ("rankme", 1),
    "99 %\nin": ("dims_99", 0),
    "α": ("alpha", 2),
    "LiDAR": ("lidar", 1),
    "alignment": ("alignment", 2),
    "uniformity": ("uniformity", 2),
}
HEAD = {  # heading -> (number of the head in spectrum_metrics.csv, scale, digits)
    "reads,\ndirections": ("read_dims", 1, 0),
    "of r's\nvariance, %": ("read_variance_share", 100, 1),
    "probe\nof r, %": ("probe_r", 100, 1),
    "probe of\nread, %": ("probe_read", 100, 1),
    "probe of\nunread, %": ("probe_unread", 100, 1),
    "a batch\nneeds": ("batch_features_median", 1, 0),
    "shared by\nbatches, %": ("batch_overlap", 100, 1),
    "by\nchance, %": ("batch_overlap_by_chance", 100, 1),
}
BY_LAM = {  # heading -> (features and number of spectrum_by_lam.csv, scale, digits)
    "effective\nrank of r": (("r", "effective_rank"), 1, 1),
    "effective\nrank of z": (("z", "effective_rank"), 1, 1),
    "linear probe\nof r, %": (("head", "probe_r"), 100, 1),
    "a batch\nneeds": (("head", "batch_features_median"), 1, 0),
}


def summary_tables(summary: list[Row]) -> list[Table]:
    """Rows of sweep_summary.csv -> a table a setting, a line a λ."""
    told = [row for row in summary if row["metric"] == "accuracy"]
    compared = ("linear\nprobe, %", "from λ 0,\npoints", "95 %\nby t", "95 % by\nbootstrap")
    columns = [Column("λ"), Column("chosen", number=False), Column("seeds"), *map(Column, (*compared, *MEANS))]
    found = []
    for setting in dict.fromkeys(tuple(row[c] for c in SETTING) for row in summary):
        by_lam: dict[float, dict[str, Row]] = defaultdict(dict)
        for row in summary:
            if tuple(row[c] for c in SETTING) == setting:
                by_lam[row["lam"]][row["metric"]] = row
        title = name_of(next(iter(by_lam.values()))["accuracy"], told)
        found.append(Table(title, columns, [summary_line(lam, metrics) for lam, metrics in by_lam.items()]))
    return found


def summary_line(lam: float, metrics: dict[str, Row]) -> Line:
    """One λ of one setting."""
    first = metrics["accuracy"]
    compared = [
        mean_cell(first, 100, 1),
        difference_cell(first, 100, 1),
        *(interval_cell(first, kind) for kind in ("difference", "bootstrap")),
    ]
    means = [mean_cell(metrics[metric], scale, digits) for metric, scale, digits in MEANS.values()]
    chosen = CHOSEN[first["chosen"]]
    cells = [lam_cell(lam), text_cell(chosen), number_cell(str(first["seeds"]), first["seeds"]), *compared, *means]
    return Line(cells, marked=bool(chosen))


def lam_cell(lam: float) -> Cell:
    """λ as people write it."""
    return number_cell(f"{lam:g}", lam)


def mean_cell(row: Row, scale: float, digits: int) -> Cell:
    """mean ± half of its 95 % interval, where there are several seeds."""
    half = number(row["high"]) - number(row["mean"])
    text = readable(row["mean"], digits, scale) + ("" if math.isnan(half) else f" ± {readable(half, digits, scale)}")
    return number_cell(text, row["mean"])


def difference_cell(row: Row, scale: float, digits: int) -> Cell:
    """The paired difference to λ 0; "–" where there is none."""
    return number_cell(signed(scale * number(row["difference"]), digits), row["difference"])


def interval_cell(row: Row, kind: str) -> Cell:
    """The interval of the difference, in points, sorted by its lower end."""
    low, high = number(row[f"{kind}_low"]), number(row[f"{kind}_high"])
    return number_cell(f"{signed(100 * low, 1)} to {signed(100 * high, 1)}", low)


def spectra_tables(metrics: list[Row]) -> list[Table]:
    """Rows of spectrum_metrics.csv -> a line a checkpoint and features, and a line a checkpoint of what its head reads of r."""
    names = labels(metrics)
    names = {task: names[task] for tasks in groups(metrics).values() for task in tasks}  # by rising λ
    numbers: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in metrics:
        numbers[row["task"], row["features"]][row["metric"]] = row
    lines = [
        Line([text_cell(name), text_cell(features), *spectrum_cells(found), text_cell(judged(found))])
        for task, name in names.items()
        for (of, features), found in numbers.items()
        if of == task and features != "head"
    ]
    columns = [Column("checkpoint", number=False), Column("features", number=False), *map(Column, SPECTRUM)]
    note = "95 % intervals in brackets: bootstrap over images. Verdicts are a rule of thumb; a high rank is no quality."
    note = " ".join([note, *(f"{text}." for text in guess_notes(metrics))])
    found = [Table("spectra of checkpoints", [*columns, Column("verdict", number=False)], lines, note)]
    heads = {task: numbers[task, "head"] for task in names if (task, "head") in numbers}
    if heads:
        lines = [Line([text_cell(names[task]), *head_cells(own)]) for task, own in heads.items()]
        found.append(Table("what the head reads of r", [Column("checkpoint", number=False), *map(Column, HEAD)], lines))
    return found


def spectrum_cells(found: dict[str, Row]) -> list[Cell]:
    """The numbers of one checkpoint's features, with their intervals."""
    cells = []
    for metric, digits in SPECTRUM.values():
        row = found.get(metric, {"value": "", "low": ""})
        interval = "" if row["low"] == "" else f" ({float(row['low']):.{digits}f}–{float(row['high']):.{digits}f})"
        dim = f" of {found['dim']['value']}" if metric == "dims_99" else ""
        cells.append(number_cell(f"{plain(number(row['value']), digits)}{dim}{interval}", row["value"]))
    return cells


def head_cells(found: dict[str, Row]) -> list[Cell]:
    """The numbers of one checkpoint's head."""
    values = [(found[metric]["value"] if metric in found else "", scale, digits) for metric, scale, digits in HEAD.values()]
    return [number_cell(readable(value, digits, scale), value) for value, scale, digits in values]


def by_lam_tables(rows: list[Row]) -> list[Table]:
    """Rows of spectrum_by_lam.csv -> a table a setting, a line a λ: means, and paired differences to λ 0, over seeds."""
    settings = list(dict.fromkeys(tuple(row[c] for c in by_lam.SETTING) for row in rows))
    told = [i for i in range(len(by_lam.SETTING)) if len({setting[i] for setting in settings}) > 1]
    found = []
    for setting in settings:
        own: dict[float, dict[tuple[str, str], Row]] = defaultdict(dict)
        for row in rows:
            if tuple(row[c] for c in by_lam.SETTING) == setting:
                own[row["lam"]][row["features"], row["metric"]] = row
        shown = {name: spec for name, spec in BY_LAM.items() if any(spec[0] in numbers for numbers in own.values())}
        columns = [Column(part) for name in shown for part in (name, "from λ 0")]
        lines = [by_lam_line(lam, numbers, shown) for lam, numbers in own.items()]
        title = ", ".join(["spectra over seeds", *(setting[i] for i in told)])
        found.append(Table(title, [Column("λ"), Column("seeds"), *columns], lines, "± half of the 95 % interval by Student's t."))
    return found


def by_lam_line(lam: float, numbers: dict[tuple[str, str], Row], shown: dict[str, tuple]) -> Line:
    """One λ of one setting."""
    seeds = max(row["seeds"] for row in numbers.values())
    cells = [lam_cell(lam), number_cell(str(seeds), seeds)]
    for key, scale, digits in shown.values():
        row = numbers.get(key)
        if row is None:
            cells += [Cell(UNDEFINED, ""), Cell(UNDEFINED, "")]
            continue
        half, difference = number(row["difference_high"]) - number(row["difference"]), difference_cell(row, scale, digits)
        text = difference.text + ("" if math.isnan(half) else f" ± {readable(half, digits, scale)}")
        cells += [mean_cell(row, scale, digits), Cell(text, difference.key)]
    return Line(cells)
