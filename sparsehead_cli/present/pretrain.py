"""What `sparsehead pretrain` shows, on a console that cli.py hands over: progress while it runs, a table at its end."""

import math
import shlex
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from sparsehead_cli.errors import one_line, printable
from sparsehead_cli.machine import distributed
from sparsehead_cli.machine.launch import command, command_alone
from sparsehead_cli.measure.spectrum import is_collapsed
from sparsehead_cli.present.console import Console
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.folder import SPECTRA
from sparsehead_cli.runs.readable import UNDEFINED, number, readable
from sparsehead_cli.runs.run import Progress, Run
from sparsehead_cli.training.callbacks import Callback
from sparsehead_cli.training.loop import Result

Row = dict[str, object]
SHOW_SECONDS = 0.25


class PretrainDisplay(Callback):
    """A progress bar on a terminal, and everywhere one plain line an epoch."""

    def __init__(self, console: Console) -> None:
        self.console, self.shown = console, 0.0
        self.bar = Bar(
            TextColumn("epoch {task.fields[epoch]}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  loss {task.fields[loss]}  {task.fields[speed]} images/s ", markup=False),
            TimeRemainingColumn(),
            TextColumn("left", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "PretrainDisplay":
        self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def on_start(self, run: Run, progress: Progress) -> None:
        """Say what is trained and, of a run that was begun before, where it goes on."""
        self.task = self.bar.add_task("", total=run.total_steps, epoch=f"1/{run.epochs}", loss="–", speed="–")
        for name, value in describe(run):
            self.console.print(Text.assemble((f"{name:>10}", "dim"), f"  {printable(value)}"), soft_wrap=True)
        if progress.step:
            self.show_where(run, progress.step)

    def show_where(self, run: Run, step: int) -> None:
        """Say where a run goes on that has done so many steps before."""
        goes_on = f"goes on after step {step:,} of {run.total_steps:,}, in epoch {run.epochs_done(step) + 1}"
        where = "finished before" if step == run.total_steps else goes_on
        self.console.print(f"found this run's checkpoint: {where}", soft_wrap=True)

    def on_step(self, run: Run, progress: Progress) -> None:
        """Move the bar a few times a second: each look at the loss waits for the device."""
        now = time.perf_counter()
        if self.bar.disable or now - self.shown < SHOW_SECONDS:
            return
        self.shown = now
        self.bar.update(
            self.task,
            completed=progress.step,
            epoch=f"{progress.epoch}/{run.epochs}",
            loss=f"{progress.logged['loss'].item():.3f}",
            speed=f"{progress.images_per_second:,.0f}",
        )

    def on_epoch(self, run: Run, progress: Progress, row: Row) -> None:
        """Print the epoch's line, and a loud one for what has collapsed."""
        self.console.print(epoch_line(row, run.epochs), soft_wrap=True)
        for features in collapsed(row):
            self.console.print(collapse_text(features, row), soft_wrap=True)


def describe(run: Run) -> list[tuple[str, str]]:
    """What a run trains, in a few lines of (name, value)."""
    config, backbone = run.config, run.method.backbone
    parameters = sum(p.numel() for p in run.method.parameters() if p.requires_grad)
    strength = f"{config.lam:g}"
    if config.lam_schedule != "constant":
        strength += f" ({config.lam_schedule} over {counted(config.lam_ramp_epochs, 'epoch')})"
    head = describe_head(config, backbone.dim)
    stem = f"{backbone.stem} stem, " if hasattr(backbone, "stem") else ""
    one_class = "" if len(run.spec.classes) > 1 else "; one class: accuracy is not defined"
    shared = f", {distributed.world()} processes of {run.local_batch} images a step" if distributed.world() > 1 else ""
    return [
        ("method", f"{config.method}, {counted(config.epochs, 'epoch')} of batches of {config.batch_size}"),
        ("optimizer", f"{config.optimizer}, lr {config.lr:g}, cosine after {counted(config.warmup_epochs, 'warm-up epoch')}"),
        ("SparseHead", f"λ {strength}, {config.penalty}, {config.groups} groups, layers {config.layers}, {config.solver}"),
        ("data", f"{config.dataset}: {len(run.train):,} images, {len(run.val):,} held out; views {config.recipe}{one_class}"),
        ("network", f"{config.backbone}, {stem}D = {backbone.dim}; head {head}; {parameters:,} parameters"),
        ("machine", f"{run.device}, {run.precision_name}{', compiled' if config.compile else ''}{shared}"),
        ("folder", str(run.folder)),
    ]


def counted(number: float, name: str) -> str:
    """A number of things: "1 epoch", "2.5 epochs"."""
    return f"{number:g} {name}{'' if number == 1 else 's'}"


def describe_head(config: Config, dim: int) -> str:
    """The projector in a few words."""
    if config.projector == "none":
        return "none: z is r"
    if config.projector != "mlp":
        return {"orthogonal": "orthogonal, fixed", "direct": "DirectCLR, the first"}[config.projector] + f" {config.projector_out}"
    widths = [dim] + [config.projector_hidden] * (config.projector_layers - 1) + [config.projector_out]
    norm = "" if config.projector_layers == 1 else f" with{'' if config.projector_batch_norm else 'out'} BatchNorm"
    return "–".join(map(str, widths)) + norm


def epoch_line(row: Row, epochs: int) -> str:
    """One epoch in one line."""
    waiting = f"  waiting {100 * float(row['waiting_share']):.0f} %" if "waiting_share" in row else ""
    skipped = f"  skipped {row['skipped_images']}" if int(row.get("skipped_images", 0)) else ""
    return (
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  loss {float(row['loss']):.3f}"
        f"  kNN {readable(row['knn_accuracy'], 1, 100, ' %')}"
        f"  rank r {readable(row['effective_rank_r'], 1)}  z {readable(row['effective_rank_z'], 1)}"
        f"  groups {row['active_groups']}/{row['n_groups']}  {float(row['images_per_second']):,.0f} images/s{waiting}{skipped}"
    )


def collapsed(row: Row) -> list[str]:
    """Which of "r" and "z" have collapsed in this row of metrics.csv."""
    return [f for f in ("r", "z") if is_collapsed(number(row[f"effective_rank_{f}"]), float(row[f"std_{f}"]))]


def collapse_text(features: str, row: Row) -> Text:
    """The loud line for collapsed features."""
    name = {"r": "representation r", "z": "embedding z"}[features]
    rank, std = readable(row[f"effective_rank_{features}"], 2), float(row[f"std_{features}"])
    return Text(
        f"COLLAPSED: the {name} has effective rank {rank} and relative standard deviation {std:.3f}. "
        "The loss does not show it. Lower --lam or --lr.",
        style="bold red",
    )


def show_result(console: Console, result: Result, arguments: list[str]) -> None:
    """The end of a run: what came out first and last, where it lies, and what to type next (`arguments` with another λ)."""
    run, first, last = result.run, result.rows[0], result.rows[-1]
    table = Table(title=f"{run.name}", title_justify="left", title_style="bold")
    table.add_column("held-out images" if not result.was_finished else "held-out images (finished before)")
    shown = [last] if len(result.rows) == 1 else [first, last]
    for row in shown:
        table.add_column(f"epoch {row['epoch']}", justify="right")
    for name, show in _ROWS:
        table.add_row(name, *(show(row) for row in shown))
    console.print(table)
    if result.layers:
        console.print(layer_table(result.layers))
    for features in collapsed(last):
        console.print(collapse_text(features, last), soft_wrap=True)
    seconds = sum(float(row["seconds"]) for row in result.rows)
    twin = "1e-3" if run.config.lam == 0 else "0"
    tables = "metrics.csv, layers.csv" if result.layers else "metrics.csv"
    tables += f", {SPECTRA}" if (run.folder / SPECTRA).exists() else ""
    lines = [
        f" trained  in {seconds:,.0f} s, the measurements after each epoch included",
        f" files    {run.folder}/: checkpoint.pt, {tables}, config.yaml",
    ]
    if run.config.projector == "mlp":
        lines.append(f" next     the same run with λ = {twin}, to compare: {twin_command(arguments, twin)}")
    over_time = " --over-time" if (run.folder / SPECTRA).exists() else ""
    spectrum = shlex.join([*command_alone(), "spectrum", str(run.folder)])
    lines.append(f" collapse its spectrum: {spectrum}{over_time}")
    for line in lines:
        console.print(line, soft_wrap=True)


def layer_table(layers: list[Row]) -> Table:
    """The head's linear layers at the last epoch that `layers` (rows of layers.csv) has."""
    table = Table(title="the head's linear layers at the end", title_justify="left", title_style="bold")
    for name in ("layer", "inputs", "active", "needed", "outputs", "active", "dead"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    columns = ("layer", "inputs", "active_inputs", "functional_inputs", "outputs", "active_outputs", "dead_outputs")
    for row in layers:
        if row["epoch"] == layers[-1]["epoch"]:
            table.add_row(*(UNDEFINED if row[column] in (None, "") else one_line(str(row[column])) for column in columns))
    return table


def twin_command(arguments: list[str], lam: str) -> str:
    """The command line that was typed, started as it was, with another λ."""
    return shlex.join([*command(), *without(arguments, "--lam"), "--lam", lam])


def without(arguments: Sequence[str], option: str) -> tuple[str, ...]:
    """The arguments of a command line without an option and its value."""
    kept, skip = [], False
    for argument in arguments:
        if not (skip or argument == option or argument.startswith(f"{option}=")):
            kept.append(argument)
        skip = argument == option
    return tuple(kept)


def emphasis(line: str) -> str:
    """The style of a line about somebody else's checkpoint: what is not loaded is red, what is guessed yellow."""
    return "bold red" if line.startswith("NOT ") else "yellow" if line.startswith("guessed") else ""


def plus_minus(row: Row, scale: float, digits: int) -> str:
    """mean ± half of its interval, and below it the paired difference to λ 0 ± half of its own, where there is one."""

    def text(middle: object, high: object, sign: str = "") -> str:
        half = number(high) - number(middle)
        return readable(middle, digits, scale, sign=sign) + ("" if math.isnan(half) else f" ± {readable(half, digits, scale)}")

    line = text(row["mean"], row["high"])
    return line if math.isnan(number(row["difference"])) else f"{line}\n{text(row['difference'], row['difference_high'], '+')}"


def _percent(column: str) -> Callable[[Row], str]:
    return lambda row: readable(row[column], 1, 100, " %")


def _number(column: str, digits: int) -> Callable[[Row], str]:
    return lambda row: readable(row[column], digits)


def _share(part: str, whole: str) -> Callable[[Row], str]:
    return lambda row: f"{readable(row[part], 0)} of {row[whole]}" if int(row[whole]) else UNDEFINED


_ROWS = (
    ("loss", _number("loss", 3)),
    ("kNN accuracy of r (k = 20)", _percent("knn_accuracy")),
    ("kNN accuracy of z", _percent("knn_accuracy_z")),
    ("kNN accuracy of z, inactive groups pruned", _percent("knn_accuracy_z_pruned")),
    ("effective rank of r", _number("effective_rank_r", 1)),
    ("effective rank of z", _number("effective_rank_z", 1)),
    ("groups active by norm (> 1 % of the largest)", _share("active_groups", "n_groups")),
    ("features of r the head reads, by norm", _share("active_features", "n_features")),
    ("features of r the head needs (z within 1 %)", _share("functional_features", "n_features")),
)
