"""What `sparsehead pretrain` shows, on a console that cli.py hands over: progress while it runs, a table at its end."""

import shlex
import time
from dataclasses import replace

from rich.text import Text

from sparsehead_cli.data.contract import ImageSpec
from sparsehead_cli.errors import one_line, printable
from sparsehead_cli.machine import distributed
from sparsehead_cli.machine.launch import command_alone, twin_command
from sparsehead_cli.measure.dimensions import is_collapsed
from sparsehead_cli.present.console import Console, Display, print_notes, print_table, progress_bar
from sparsehead_cli.present.table import Cell, Column, Table
from sparsehead_cli.present.tasks import task_tables
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.identity import run_folder, run_identity
from sparsehead_cli.runs.readable import counted, duration, number, readable
from sparsehead_cli.runs.run import Progress, Run
from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.runs.tables import LAYERS, METRICS, SPECTRA, TASKS
from sparsehead_cli.runs.views import described, idle
from sparsehead_cli.training.callbacks import Callback, load_callbacks
from sparsehead_cli.training.loop import Result, pretrain

SHOW_SECONDS = 0.25  # between two movements of the bar
LINE_SECONDS = 10.0  # between two lines within an epoch, where no terminal shows a bar


def train(console: Console, config: Config, callbacks: tuple[str, ...], arguments: list[str]) -> None:
    """Train the run of these settings with callbacks named module:Class, and show it; `arguments` are the command line's.

    Raises: SparseheadError, as `training.loop.pretrain`.
    """
    try:
        with PretrainDisplay(console) as display:
            result = pretrain(build(config), [*load_callbacks(callbacks), display])
        show_result(console, result, arguments)
    finally:
        distributed.stop()


class PretrainDisplay(Display, Callback):
    """A progress bar on a terminal, everywhere one plain line an epoch, and in a log more of them within long epochs."""

    def __init__(self, console: Console) -> None:
        after = "{task.percentage:>3.0f} %  loss {task.fields[loss]}  {task.fields[speed]} {task.fields[noun]}/s "
        self.bar, self.shown = progress_bar(console, "epoch {task.fields[epoch]}", after), 0.0
        self.lines = StepLines(console)
        super().__init__(console, self.bar)

    def on_start(self, run: Run, progress: Progress) -> None:
        """Say what is trained and, of a run that was begun before, where it goes on."""
        self.task = self.bar.add_task("", total=run.total_steps, epoch=f"1/{run.epochs}", loss="–", speed="–", noun=run.noun)
        for name, value in describe(run):
            self.say(Text.assemble((f"{name:>10}", "dim"), f"  {printable(value)}"))
        if progress.step:
            self.show_where(run, progress.step)

    def show_where(self, run: Run, step: int) -> None:
        """Say where a run goes on that has done so many steps before."""
        goes_on = f"goes on after step {step:,} of {run.total_steps:,}, in epoch {run.epochs_done(step) + 1}"
        where = "finished before" if step == run.total_steps else goes_on
        self.say(f"found this run's checkpoint: {where}")

    def on_step(self, run: Run, progress: Progress) -> None:
        """Move the bar a few times a second: each look at the loss waits for the device."""
        now = time.perf_counter()
        if self.bar.disable:
            self.lines.on_step(run, progress)
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
        self.say(epoch_line(row, run.epochs, run.noun))
        for features in collapsed(row):
            self.say(collapse_text(features, row, run.config.lam))


class StepLines(Callback):
    """A line every LINE_SECONDS within an epoch, so that a log shows life; none for epochs that are shorter."""

    def __init__(self, console: Console) -> None:
        self.console, self.shown = console, 0.0

    def on_step(self, run: Run, progress: Progress) -> None:
        """Print a line, where one is due; only then the device is waited for."""
        now = time.perf_counter()
        if now - max(self.shown, progress.began) >= LINE_SECONDS and run.is_within_epoch(progress.step):
            self.shown = now
            self.console.print(step_line(run, progress), soft_wrap=True)


def describe(run: Run) -> list[tuple[str, str]]:
    """What a run trains, in a few lines of (name, value)."""
    config, backbone = run.config, run.method.backbone
    parameters = sum(p.numel() for p in run.method.parameters() if p.requires_grad)
    penalised = f"λ {config.lam:g}"
    if config.lam_schedule != "constant":
        penalised += f" ({config.lam_schedule} over {counted(config.lam_ramp_epochs, 'epoch')})"
    penalised += f", {config.penalty}, {config.groups} groups, layers {config.layers}, {config.solver}"
    train, val = run.tasks.sources if run.tasks else (run.train, run.val)
    head = describe_head(config, backbone.dim)
    stem = f"{backbone.stem} stem, " if hasattr(backbone, "stem") else ""
    one_class = "; one class: accuracy is not defined" if len(run.spec.classes) == 1 and getattr(run.spec, "labelled", True) else ""
    shared = f", {distributed.world()} processes of {run.local_batch} {run.noun} a step" if distributed.world() > 1 else ""
    parts = f", each in {config.accumulate} parts" if config.accumulate > 1 else ""
    return [
        ("method", f"{config.method}, {counted(config.epochs, 'epoch')} of batches of {config.batch_size}{parts}"),
        ("optimizer", f"{config.optimizer}, lr {config.lr:g}, cosine after {counted(config.warmup_epochs, 'warm-up epoch')}"),
        ("SparseHead", penalised if config.lam else "off, λ 0"),
        ("data", f"{config.dataset}: {len(train):,} {run.noun}, {len(val):,} held out{one_class}"),
        *(describe_tasks(run) if run.tasks else ()),
        *describe_images(run),
        ("views", views_line(run)),
        ("network", f"{config.backbone}, {stem}D = {backbone.dim}; head {head}; {parameters:,} parameters"),
        *([("init", f"the encoder starts from {run.initial}")] if run.initial else []),
        ("machine", f"{run.device}, {run.precision_name}{', compiled' if config.compile else ''}{shared}"),
        *(note for note in config.notes if note[0] != "views"),
        ("folder", str(run.folder)),
    ]


def describe_tasks(run: Run) -> list[tuple[str, str]]:
    """The sequence of tasks that a run is trained on, in a line; of a stretch without labels there are no classes to name."""
    config, names = run.config, run.spec.classes
    groups = [", ".join(one_line(names[number]) for number in group if number < len(names)) for group in run.tasks.classes]
    one_by_one = "all at once" if config.continual == "joint" else f"one after the other, {counted(config.epochs, 'epoch')} each"
    parts = [f"{max(len(groups), len(run.phases))} tasks, {one_by_one}"]
    parts += [config.continual] if config.continual == "cassle" else []
    parts += [f"replay of {config.replay:,}"] if config.replay else []
    parts += [config.between_tasks] if config.between_tasks != "keep" else []
    return [("tasks", ", ".join(parts)), *(("", f"{number}: {group}") for number, group in enumerate(groups, 1) if group)]


def views_line(run: Run) -> str:
    """The views of a run: which, why these where they were chosen, and what of them does nothing to its images."""
    channels = run.spec.channels if isinstance(run.spec, ImageSpec) else 0
    parts = [described(run.config.views), *(text for name, text in run.config.notes if name == "views")]
    remark = idle(run.config.views, channels) if channels else ""
    return ", ".join(parts) + (f"; {remark}" if remark else "")


def describe_images(run: Run) -> list[tuple[str, str]]:
    """Of images in files their size and colours, whether they are in memory; of any data what people should know of them."""
    info = run.train.spec
    notes = [("note", note) for note in getattr(info, "notes", ())]
    if getattr(info, "layout", None) is None:
        return notes
    size = run.spec.image[1]
    kind = f"{size} x {size} pixels, {'grey' if info.channels == 1 else 'colour'}"
    place = f"decoded, in memory as {info.cached / 1e6:,.0f} MB" if info.cached else "read from files while it trains"
    return [("images", f"{kind}; {place}"), *notes]


def describe_head(config: Config, dim: int) -> str:
    """The projector in a few words."""
    if config.projector == "none":
        return "none: z is r"
    if config.projector != "mlp":
        return {"orthogonal": "orthogonal, fixed", "direct": "DirectCLR, the first"}[config.projector] + f" {config.projector_out}"
    widths = [dim] + [config.projector_hidden] * (config.projector_layers - 1) + [config.projector_out]
    norm = "" if config.projector_layers == 1 else f" with{'' if config.projector_batch_norm else 'out'} BatchNorm"
    return "–".join(map(str, widths)) + norm


def step_line(run: Run, progress: Progress) -> str:
    """Where a run is within an epoch, in one line."""
    phase, _, within = run.place(progress.step)
    steps = run.steps_of(phase)
    left = (steps - within) * run.batch_size / progress.images_per_second
    parts = [
        f"epoch {progress.epoch:>{len(str(run.epochs))}}/{run.epochs}",
        f"step {within:,} of {steps:,}",
        f"loss {progress.logged['loss'].item():.3f}",
        f"{progress.images_per_second:,.0f} {run.noun}/s",
        f"about {duration(left)} left of this epoch",
    ]
    return "  ".join(parts)


def epoch_line(row: Row, epochs: int | None = None, noun: str = "images") -> str:
    """One epoch, of so many where that is known, in one line; `noun` is what it trains on."""
    epoch = str(row["epoch"]) if epochs is None else f"{row['epoch']:>{len(str(epochs))}}/{epochs}"
    parts = [
        f"epoch {epoch}",
        f"loss {readable(row['loss'], 3)}",
        f"kNN {readable(row['knn_accuracy'], 1, 100, ' %')}",
        f"rank r {readable(row['effective_rank_r'], 1)}",
        f"z {readable(row['effective_rank_z'], 1)}",
        f"groups {row['active_groups']}/{row['n_groups']}",
        f"{float(row['images_per_second']):,.0f} {noun}/s",
    ]
    if "waiting_share" in row:
        parts.append(f"waiting {readable(row['waiting_share'], 0, 100, ' %')}")
    if int(row.get("skipped_images", 0)):
        parts.append(f"skipped {row['skipped_images']}")
    return "  ".join(parts)


def collapsed(row: Row) -> list[str]:
    """Which of "r" and "z" have collapsed in this row of metrics.csv."""
    return [f for f in ("r", "z") if is_collapsed(number(row[f"effective_rank_{f}"]), float(row[f"std_{f}"]))]


def collapse_text(features: str, row: Row, lam: float) -> Text:
    """The loud line for collapsed features of a run with this λ."""
    name = {"r": "representation r", "z": "embedding z"}[features]
    rank, std = readable(row[f"effective_rank_{features}"], 2), float(row[f"std_{features}"])
    remedy = "Lower --lam or --lr." if lam > 0 else "Lower --lr."
    return Text(
        f"COLLAPSED: the {name} has effective rank {rank} and relative standard deviation {std:.3f}. "
        f"The loss does not show it. {remedy}",
        style="bold red",
    )


RESULT = {  # numbers in metrics.csv that the end of a run shows, and what they are a part of
    "loss": (Column("loss", digits=3), ""),
    "knn_accuracy": (Column("kNN accuracy of r (k = 20)", digits=1, scale=100, suffix=" %"), ""),
    "knn_accuracy_z": (Column("kNN accuracy of z", digits=1, scale=100, suffix=" %"), ""),
    "knn_accuracy_z_pruned": (Column("kNN accuracy of z, inactive groups pruned", digits=1, scale=100, suffix=" %"), ""),
    "effective_rank_r": (Column("effective rank of r", digits=1), ""),
    "effective_rank_z": (Column("effective rank of z", digits=1), ""),
    "active_groups": (Column("groups active by norm (> 1 % of the largest)"), "n_groups"),
    "active_features": (Column("features of r the head reads, by norm"), "n_features"),
    "functional_features": (Column("features of r the head needs (z within 1 %)"), "n_features"),
}
OF_LAYER = {  # numbers in layers.csv
    "inputs": Column("inputs"),
    "active_inputs": Column("norm > 1 %\nof the\nlargest"),
    "functional_inputs": Column("inputs\nneeded (z\nwithin 1 %)"),
    "outputs": Column("outputs"),
    "active_outputs": Column("norm > 1 %\nof the\nlargest"),
    "dead_outputs": Column("constant"),
}


def result_table(result: Result) -> Table:
    """The first and the last row of metrics.csv, side by side: a line a number."""
    shown = result.rows if len(result.rows) == 1 else [result.rows[0], result.rows[-1]]
    before = " (finished before)" if result.was_finished else ""
    noun = result.run.noun
    columns = [Column(f"held-out {noun}{before}", text=True), *(Column(f"epoch {row['epoch']}") for row in shown)]
    table = Table(result.run.name, columns)
    for metric, (column, whole) in RESULT.items():
        cells = [Cell(row[metric], of=row.get(whole, "")) for row in shown]
        table.add(Cell(column.name), *(replace(cell, text=column.written(cell)) for cell in cells))
    return table


def layer_table(layers: list[Row]) -> Table:
    """The head's linear layers at the last epoch that `layers` (rows of layers.csv) has."""
    table = Table("the head's linear layers at the end", [Column("layer", text=True), *OF_LAYER.values()])
    for row in layers:
        if row["epoch"] == layers[-1]["epoch"]:
            table.add(Cell(row["layer"]), *(Cell(row[name]) for name in OF_LAYER))
    return table


def show_result(console: Console, result: Result, arguments: list[str]) -> None:
    """The end of a run: what came out first and last, where it lies, and what to type next (`arguments` with another λ)."""
    run = result.run
    print_table(console, result_table(result))
    if result.layers:
        print_table(console, layer_table(result.layers))
    if of_tasks := result.tables.get(TASKS):
        tables = task_tables(of_tasks)
        for table in tables:
            print_table(console, table)
        print_notes(console, tables)
    for features in collapsed(result.rows[-1]):
        console.print(collapse_text(features, result.rows[-1], run.config.lam), soft_wrap=True)
    seconds = sum(float(row["seconds"]) for row in result.rows)
    tracked = (run.folder / SPECTRA).exists()
    tables = [name for name in (METRICS, LAYERS, SPECTRA, TASKS) if (run.folder / name).exists()]
    lines = [
        f" trained  in {seconds:,.0f} s, the measurements after each epoch included",
        f" files    {run.folder}/: checkpoint.pt, {', '.join(tables)}, config.yaml",
    ]
    steps = next_steps(run, arguments, tracked)
    lines += [f" {'next' if step is steps[0] else '':<8} {step}" for step in steps]
    for line in lines:
        console.print(line, soft_wrap=True)


def next_steps(run: Run, arguments: list[str], tracked: bool) -> list[str]:
    """What to type after a run: it with another λ, or where that is there a look at both; how good it is, whether it collapsed."""
    steps, beside = [], []
    if run.config.projector == "mlp":
        lam = "1e-3" if run.config.lam == 0 else "0"
        other = replace(run.config, lam=float(lam))
        folder = run_folder(other, run_identity(other))
        if (folder / "checkpoint.pt").exists():
            beside = [str(folder)]
        else:
            steps.append(f"the same run with λ = {lam}, to compare: {twin_command(arguments, lam)}")
    if getattr(run.train.spec, "tested", False):
        measure = [*command_alone(), "evaluate", *beside, str(run.folder), "--baselines"]
        base = "pixels" if run.noun == "images" else "TF-IDF"
        steps.append(f"accuracy, beside {base} and an untrained network: {shlex.join(measure)}")
    spectrum = [*command_alone(), "spectrum", *beside, str(run.folder), *(["--over-time"] if tracked else [])]
    whose = f", and that of λ = {lam}" if beside else ""
    return [*steps, f"its spectrum{whose}, to look for collapse: {shlex.join(spectrum)}"]
