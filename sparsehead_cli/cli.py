"""The commands. Each parses, calls one function, prints; nothing else in the package prints or exits.

Heavy imports stand inside the commands, so that --help answers at once.
"""

import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from sparsehead_cli import __version__
from sparsehead_cli.errors import SparseheadError, Stopped
from sparsehead_cli.machine.launch import command_alone, launched, rank
from sparsehead_cli.machine.streams import open_streams, told_by_the_machine
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.settings import settings_of
from sparsehead_cli.sweep.grid import Grid

if TYPE_CHECKING:
    from sparsehead_cli.evaluation.subject import LoadOptions

MOST_TOLD = 8_000  # characters of an error


class Commands(TyperGroup):
    """Typer answers Ctrl-C, which may come while torch is imported, with exit code 1; the shell's is 130."""

    def invoke(self, context: typer.Context) -> object:
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            raise Stopped("stopped. The same command goes on where it was.", 130) from None


app = typer.Typer(
    cls=Commands,
    help="Self-supervised learning with a structured-sparse projection head (arXiv 2307.08913).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
CHECKPOINT = "of ours or its folder, anybody's state_dict, or timm:NAME with --weights."


def option(name: str, *flags: str, of: type = Config, more: str = "") -> typer.models.OptionInfo:
    """The option of a setting, whose help stands where the setting is stated."""
    return typer.Option(*flags, help=f"{settings_of(of)[name].help_text()}{more}")


# options that several commands have
MeasuredOn = Annotated[str | None, option("dataset", more=" Without it the checkpoint's own.")]
Weights = Annotated[Path | None, typer.Option(help="The file with the weights of timm:NAME.")]
AllowPartial = Annotated[bool, typer.Option("--allow-partial", help="Go on where a file lacks parts of its network.")]
ImageSize = Annotated[int | None, typer.Option(help="Side of the images for a network that is not ours.")]
Assume = Annotated[
    list[str] | None,
    typer.Option(
        "--assume", metavar="KEY=VALUE", help="What the file of a network that is not ours does not say; may be repeated."
    ),
]
Plugin = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="MODULE", help="A module of your own code that the checkpoint may use; may be repeated."),
]
DataDir = Annotated[Path, option("data_dir")]
Device = Annotated[str, option("device")]
Workers = Annotated[int | None, option("workers")]
Callback = Annotated[
    list[str] | None,
    typer.Option("--callback", metavar="MOD:CLASS", help="Called while the run trains; code of your own. May be repeated."),
]
SkipBadImages = Annotated[bool, typer.Option("--skip-bad-images", help="Leave out unreadable images, and count them.")]
Experiments = Annotated[Path | None, typer.Option(help="Another experiments.yaml.", show_default=False)]


def main() -> None:
    """The console script: a SparseheadError becomes one red message on stderr and exit code 1."""
    open_streams()
    try:
        with told_by_the_machine():
            app()
    except SparseheadError as error:
        beginning = beginning_of(error)
        stopped = isinstance(error, Stopped)  # on request, which is no error
        if beginning is not None:
            text = str(error)[:MOST_TOLD] if stopped else f"Error{beginning}: {error}"[:MOST_TOLD]
            show_error(text, "yellow" if stopped else "bold red")
        sys.exit(getattr(error, "exit_code", 1))


def show_error(text: str, style: str) -> None:
    """A message on stderr; without its colour where there is no memory left for what draws it."""
    with suppress(OSError):  # where nobody hears it, the exit code tells
        try:
            from sparsehead_cli.present.console import Console

            Console(stderr=True).print(text, style=style, soft_wrap=True)
        except (ImportError, MemoryError):
            sys.stderr.write(f"{text}\n")


def beginning_of(error: SparseheadError) -> str | None:
    """What stands behind "Error": which of several processes it is of, where that is of interest; None: another one says it."""
    if not launched():
        return ""
    from sparsehead_cli.machine.distributed import speaker, tell_torchrun

    tell_torchrun(error)
    return speaker(error)


@app.callback(invoke_without_command=True)
def _sparsehead(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        print(f"sparsehead {__version__}")
        raise typer.Exit
    command = context.invoked_subcommand
    if launched() and command != "pretrain":
        again = shlex.join([*command_alone(), *sys.argv[1:]])
        raise SparseheadError(
            f"{command} works in one process, and was started in {os.environ['WORLD_SIZE']}; only pretrain can be shared. "
            f"Start it without torchrun: {again}"
        )


@app.command()
def pretrain(
    experiment: Annotated[
        str | None, typer.Option(help="A name in experiments.yaml. Without it the method's own recipe, or quickstart.")
    ] = None,
    method: Annotated[str | None, option("method")] = None,
    lam: Annotated[float | None, option("lam")] = None,
    penalty: Annotated[str | None, option("penalty")] = None,
    solver: Annotated[str | None, option("solver")] = None,
    dataset: Annotated[str | None, option("dataset")] = None,
    data_dir: Annotated[Path | None, option("data_dir")] = None,
    image_size: Annotated[int | None, option("image_size")] = None,
    workers: Workers = None,
    skip_bad_images: Annotated[bool | None, option("skip_bad_images", "--skip-bad-images")] = None,
    backbone: Annotated[str | None, option("backbone")] = None,
    epochs: Annotated[int | None, option("epochs")] = None,
    batch_size: Annotated[int | None, option("batch_size")] = None,
    lr: Annotated[float | None, option("lr")] = None,
    seed: Annotated[int | None, option("seed")] = None,
    device: Annotated[str | None, option("device")] = None,
    precision: Annotated[str | None, option("precision")] = None,
    compile: Annotated[bool | None, option("compile", "--compile/--no-compile")] = None,
    track_spectrum: Annotated[bool | None, option("track_spectrum", "--track-spectrum")] = None,
    results: Annotated[Path | None, option("results")] = None,
    experiments: Experiments = None,
    callback: Callback = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other; may be repeated.")] = None,
) -> None:
    """Train a backbone with a sparse projection head.

    Values come from the defaults, then the experiment, then this command line. The same command finds its own run:
    unfinished, it goes on where it was; finished, it says so.
    """
    given = {key: value for key, value in locals().items() if value is not None}
    for key in ("experiment", "experiments", "callback", "set_"):
        given.pop(key, None)
    from sparsehead_cli.runs.config import load_config, parse_set

    config = load_config(experiment, experiments, {**parse_set(set_ or []), **given})

    from sparsehead_cli.machine import distributed
    from sparsehead_cli.present.console import Console
    from sparsehead_cli.present.pretrain import PretrainDisplay, show_result
    from sparsehead_cli.runs.build import build
    from sparsehead_cli.training.callbacks import load_callbacks
    from sparsehead_cli.training.loop import pretrain as run_pretrain

    console = Console(quiet=rank() > 0)
    try:
        with PretrainDisplay(console) as display:
            result = run_pretrain(build(config), [*load_callbacks(tuple(callback or ())), display])
        show_result(console, result, sys.argv[1:])
    finally:
        distributed.stop()


def load_options(given: dict[str, object]) -> "LoadOptions":
    """Those of a command's arguments that say how a checkpoint and images are read."""
    from sparsehead_cli.evaluation.subject import LoadOptions

    names = ("weights", "allow_partial", "image_size", "device", "data_dir", "workers", "skip_bad_images")
    lists = {"assume": tuple(given["assume"] or ()), "plugins": tuple(given["plugin"] or ())}
    return LoadOptions(**{name: given[name] for name in names}, **lists)


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help=f"A checkpoint {CHECKPOINT}")],
    protocol: Annotated[
        str,
        typer.Option(help="Any of linear, knn, linear-sgd, semi, finetune, transfer, detection, MODULE:NAME; with commas between."),
    ] = "linear,knn",
    dataset: MeasuredOn = None,
    transfer_to: Annotated[str | None, typer.Option(help="Data sets of the protocol transfer, with commas between.")] = None,
    detection_set: Annotated[str, typer.Option(help="voc, voc0712, coco, or a folder in either layout.")] = "voc",
    baselines: Annotated[bool, typer.Option("--baselines", help="The same for an untrained network and for the pixels.")] = False,
    per_class: Annotated[bool, typer.Option("--per-class", help="Accuracy within each class, too.")] = False,
    weights: Weights = None,
    allow_partial: AllowPartial = False,
    image_size: ImageSize = None,
    assume: Assume = None,
    plugin: Plugin = None,
    data_dir: DataDir = Path("data"),
    seed: Annotated[int, typer.Option(help="Which labels are known, and the order and views of protocols that train.")] = 0,
    device: Device = "auto",
    workers: Workers = None,
    skip_bad_images: SkipBadImages = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of a protocol; may be repeated.")
    ] = None,
) -> None:
    """Measure what a checkpoint's representation r and embedding z are good for.

    Rows go to evaluations.csv beside the checkpoint; what is there already is not measured again.
    """
    options = load_options(locals())
    from sparsehead_cli.evaluation.evaluate import EvaluateRequest, read_settings
    from sparsehead_cli.evaluation.evaluate import evaluate as run_evaluate
    from sparsehead_cli.runs.config import parse_set

    settings, detection = read_settings(parse_set(set_ or []))
    request = EvaluateRequest(
        checkpoint=checkpoint,
        protocols=names(protocol),
        dataset=dataset,
        transfer_to=names(transfer_to or ""),
        detection_set=detection_set,
        baselines=baselines,
        per_class=per_class,
        seed=seed,
        settings=settings,
        detection=detection,
        options=options,
    )
    from sparsehead_cli.present.console import Console
    from sparsehead_cli.present.evaluation import EvaluateDisplay, show_evaluation

    console = Console()
    try:
        with EvaluateDisplay(console) as display:
            rows, classes = run_evaluate(request, display.watch, display.tell)
    except KeyboardInterrupt:
        raise Stopped("stopped. What had been finished is in evaluations.csv; the same command goes on.", 130) from None
    show_evaluation(console, request.folder, rows, classes)


@app.command()
def spectrum(
    checkpoints: Annotated[list[str] | None, typer.Argument(help=f"Any number; each {CHECKPOINT}")] = None,
    dataset: MeasuredOn = None,
    split: Annotated[
        str | None, typer.Option(help="test, val (held out), train, train+val or pretrain. Without it test, or else val.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="The hidden layers of the projector, too.")] = False,
    over_time: Annotated[bool, typer.Option("--over-time", help="How the spectra of a run with --track-spectrum came.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Draw it: .png, .svg or .pdf; without an ending .png and .svg.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="What each number is, and where verdicts begin.")] = False,
    out: Annotated[Path, typer.Option(help="The folder of the tables.")] = Path("results/spectra"),
    weights: Weights = None,
    allow_partial: AllowPartial = False,
    image_size: ImageSize = None,
    assume: Assume = None,
    plugin: Plugin = None,
    data_dir: DataDir = Path("data"),
    seed: Annotated[int, typer.Option(help="The order of images, and augmented views.")] = 0,
    device: Device = "auto",
    workers: Workers = None,
    skip_bad_images: SkipBadImages = False,
) -> None:
    """Look for dimensional collapse: eigenvalue spectra of r and z, and what the head reads of r.

    Rows go to spectrum.csv, spectrum_metrics.csv and spectrum_batches.csv; what is there already is not measured again.
    """
    options = load_options(locals())
    from sparsehead_cli.present import spectrum as show
    from sparsehead_cli.present.console import Console

    console = Console()
    if explain:
        return show.explain(console)
    if not checkpoints:
        raise SparseheadError("which checkpoint? sparsehead spectrum CHECKPOINT [CHECKPOINT …], or --explain.")
    from sparsehead_cli.evaluation.spectrum import SpectrumRequest
    from sparsehead_cli.present.figures import check_figure, over_time_figure, save_figure, spectra_figure
    from sparsehead_cli.study.spectra import spectra_over_time, study_spectra

    if figure:
        check_figure(figure)  # before anything is measured
    if over_time:
        runs = spectra_over_time([Path(checkpoint) for checkpoint in checkpoints])
        return show.show_over_time(console, runs, save_figure(over_time_figure(runs), figure) if figure else [])
    request = SpectrumRequest(
        checkpoints=tuple(dict.fromkeys(checkpoints)),
        dataset=dataset,
        split=split,
        layers=layers,
        out=out,
        seed=seed,
        options=options,
    )
    try:
        with show.SpectrumDisplay(console) as display:
            tables, lams, files = study_spectra(request, display.watch)
    except KeyboardInterrupt:
        raise Stopped("stopped. The checkpoints before are in the tables; the same command goes on.", 130) from None
    files += save_figure(spectra_figure(*tables[1:]), figure) if figure else []
    return show.show_spectra(console, tables, lams, files)


@app.command()
def sweep_lambda(
    experiment: Annotated[str, typer.Option(help="A sweep in experiments.yaml.")] = "lambda-quick",
    lams: Annotated[str | None, option("lams", of=Grid)] = None,
    methods: Annotated[str | None, option("methods", of=Grid)] = None,
    penalties: Annotated[str | None, option("penalties", of=Grid)] = None,
    solvers: Annotated[str | None, option("solvers", of=Grid)] = None,
    dims: Annotated[str | None, option("dims", of=Grid)] = None,
    seeds: Annotated[int | None, option("seeds", of=Grid)] = None,
    epochs: Annotated[int | None, option("epochs")] = None,
    engine: Annotated[
        str, typer.Option(help="local; ray (tasks of a cluster); or print: a command line a trial, for Slurm or GNU parallel.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT of a Ray cluster, or auto; without it one is started here.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Trials at a time; without it one a GPU, or one a core.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run trials again that failed before.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Stop values of λ that others clearly dominate, and mark them.")] = False,
    dataset: Annotated[str | None, option("dataset")] = None,
    data_dir: Annotated[Path | None, option("data_dir")] = None,
    device: Annotated[str | None, option("device")] = None,
    results: Annotated[Path | None, typer.Option(help="The sweep goes to RESULTS/EXPERIMENT.")] = None,
    experiments: Experiments = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of a run.")] = None,
    callback: Callback = None,
    trial: Annotated[str | None, typer.Option(hidden=True, help="Run this one trial, here.")] = None,
) -> None:
    """Which λ? Many runs on a grid, paired by seed, to a table with intervals and a verdict.

    A sweep that was stopped goes on with the same command; a trial that is finished is never repeated.
    """
    from sparsehead_cli.runs.config import parse_set
    from sparsehead_cli.sweep.grid import read_grid

    axes = {"lams": lams, "methods": methods, "penalties": penalties, "solvers": solvers, "dims": dims, "seeds": seeds}
    settings = {"dataset": dataset, "epochs": epochs, "data_dir": data_dir, "device": device, "results": results}
    axes, settings = ({key: value for key, value in given.items() if value is not None} for given in (axes, settings))
    grid = read_grid(experiment, experiments, axes, {**parse_set(set_ or []), **settings})

    from sparsehead_cli.present import sweep as show
    from sparsehead_cli.present.console import Console
    from sparsehead_cli.sweep.sweep import SweepRequest, read_state, run_one

    running = {"engine": engine, "address": address, "jobs": jobs, "retry_failed": retry_failed, "prune": prune}
    callbacks = tuple(callback or ())
    request = SweepRequest(grid=grid, experiment=experiment, experiments=experiments, callbacks=callbacks, **running)
    state, console = read_state(request), Console()
    if trial:
        return run_one(request, state, trial, [show.EpochLines(console)])
    if engine == "print":
        return show.show_commands(console, state, sys.argv[1:])
    return show.run_sweep(console, request, state)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Of sweeps or spectra, such as results/lambda-quick.")],
) -> None:
    """Rebuild a study's tables and figures from its CSVs alone, and write one page with all of them: FOLDER/report.html."""
    from sparsehead_cli.present.console import Console
    from sparsehead_cli.present.report import show_report, write_study
    from sparsehead_cli.study.study import read_study

    studies = [read_study(folder) for folder in dict.fromkeys(folders)]  # all of them before one is written
    for study in studies:
        show_report(Console(), study, write_study(study))


def names(text: str) -> tuple[str, ...]:
    """`knn, linear` -> ("knn", "linear"), each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
