"""The commands. Each parses, calls one function, prints; nothing else in the package prints or exits.

Heavy imports stand inside the commands, so that --help answers at once.
"""

import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from sparsehead_cli import __version__
from sparsehead_cli.errors import SparseheadError, Stopped
from sparsehead_cli.machine.launch import command_alone, launched, rank
from sparsehead_cli.machine.streams import open_streams, told_by_the_machine

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
DATASET = (
    "fashion10k (embedded), fashion-mnist, mnist, cifar10, cifar100, stl10, svhn, tiny-imagenet, imagenet, "
    "or the path of a folder with train/CLASS/ and test/CLASS/."
)
CHECKPOINT = "of ours or its folder, anybody's state_dict, or timm:NAME with --weights."
# options that several commands have
MeasuredOn = Annotated[str | None, typer.Option(help=f"{DATASET} Without it the checkpoint's own.")]
Weights = Annotated[Path | None, typer.Option(help="The file with the weights of timm:NAME.")]
AllowPartial = Annotated[bool, typer.Option("--allow-partial", help="Go on where a file lacks parts of its network.")]
ImageSize = Annotated[int | None, typer.Option(help="Side of the images for a network that is not ours.")]
Assume = Annotated[
    list[str] | None,
    typer.Option(
        "--assume", metavar="KEY=VALUE", help="What the file of a network that is not ours does not say; may be repeated."
    ),
]
DataDir = Annotated[Path, typer.Option(help="Where data sets lie or are downloaded to.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Workers = Annotated[int | None, typer.Option(help="Processes that read image files; without it one a core, at most 4.")]
Callback = Annotated[
    list[str] | None,
    typer.Option("--callback", metavar="MODULE:CLASS", help="Called while the run trains; code of your own. May be repeated."),
]
SkipBadImages = Annotated[bool, typer.Option("--skip-bad-images", help="Leave out unreadable images, and count them.")]


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
    method: Annotated[
        str | None,
        typer.Option(
            help="simclr, moco, byol, simsiam, barlow, vicreg, wmse, swav, dino, supcon (knows the labels), autoencoder or mae."
        ),
    ] = None,
    lam: Annotated[float | None, typer.Option(help="λ, strength of the penalty on the projector; 0 is none.")] = None,
    penalty: Annotated[str | None, typer.Option(help="l21, l1, l2, sparse-group, nuclear or none.")] = None,
    solver: Annotated[str | None, typer.Option(help="subgradient (the paper's) or proximal (exact zeros).")] = None,
    dataset: Annotated[str | None, typer.Option(help=DATASET)] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where data sets lie or are downloaded to.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the views in pixels; without it the data set's own.")] = None,
    workers: Workers = None,
    skip_bad_images: Annotated[bool | None, typer.Option("--skip-bad-images", help="Train without bad images: a new run.")] = None,
    backbone: Annotated[str | None, typer.Option(help="narrow, resnet18, resnet34 or resnet50.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step, over all processes.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate, as it is used: never rescaled by the batch.")] = None,
    seed: Annotated[int | None, typer.Option(help="Initial weights, order and views; the same for every λ.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, bfloat16 or float32.")] = None,
    compile: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Compile the backbone.")] = None,
    track_spectrum: Annotated[bool | None, typer.Option("--track-spectrum", help="Keep spectra at log-spaced epochs.")] = None,
    results: Annotated[Path | None, typer.Option(help="Runs go to RESULTS/EXPERIMENT/RUN.")] = None,
    experiments: Annotated[Path | None, typer.Option(help="Another experiments.yaml.", show_default=False)] = None,
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


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help=f"A checkpoint {CHECKPOINT}")],
    protocol: Annotated[
        str, typer.Option(help="Any of linear, knn, linear-sgd, semi, finetune, transfer and detection, with commas between.")
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
    from sparsehead_cli.evaluation.evaluate import Request, read_settings
    from sparsehead_cli.evaluation.evaluate import evaluate as run_evaluate
    from sparsehead_cli.runs.config import parse_set

    settings, detection = read_settings(parse_set(set_ or []))
    asked = (checkpoint, names(protocol), dataset, names(transfer_to or ""), detection_set, baselines, per_class, seed)
    reading = (device, data_dir, skip_bad_images, workers, weights, allow_partial, image_size, tuple(assume or ()))
    request = Request(*asked, settings, detection, *reading)
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
    split: Annotated[str, typer.Option(help="test, val (held out), train, train+val or pretrain.")] = "test",
    layers: Annotated[bool, typer.Option("--layers", help="The hidden layers of the projector, too.")] = False,
    over_time: Annotated[bool, typer.Option("--over-time", help="How the spectra of a run with --track-spectrum came.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Draw it: .png, .svg or .pdf; without an ending .png and .svg.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="What each number is, and where verdicts begin.")] = False,
    out: Annotated[Path, typer.Option(help="The folder of the tables.")] = Path("results/spectra"),
    weights: Weights = None,
    allow_partial: AllowPartial = False,
    image_size: ImageSize = None,
    assume: Assume = None,
    data_dir: DataDir = Path("data"),
    seed: Annotated[int, typer.Option(help="The order of images, and augmented views.")] = 0,
    device: Device = "auto",
    workers: Workers = None,
    skip_bad_images: SkipBadImages = False,
) -> None:
    """Look for dimensional collapse: eigenvalue spectra of r and z, and what the head reads of r.

    Rows go to spectrum.csv, spectrum_metrics.csv and spectrum_batches.csv; what is there already is not measured again.
    """
    from sparsehead_cli.present import spectrum as show
    from sparsehead_cli.present.console import Console

    console = Console()
    if explain:
        return show.explain(console)
    if not checkpoints:
        raise SparseheadError("which checkpoint? sparsehead spectrum CHECKPOINT [CHECKPOINT …], or --explain.")
    from sparsehead_cli.evaluation.spectrum import Request
    from sparsehead_cli.present.figures import check_figure, over_time_figure, save_figure, spectra_figure
    from sparsehead_cli.study.spectra import spectra_over_time, study_spectra

    if figure:
        check_figure(figure)  # before anything is measured
    if over_time:
        runs = spectra_over_time([Path(checkpoint) for checkpoint in checkpoints])
        return show.show_over_time(console, runs, save_figure(over_time_figure(runs), figure) if figure else [])
    reading = (weights, allow_partial, image_size, skip_bad_images, workers, tuple(assume or ()))
    request = Request(tuple(dict.fromkeys(checkpoints)), dataset, split, layers, out, seed, device, data_dir, *reading)
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
    lams: Annotated[str | None, typer.Option(help="Values of λ with commas between, with 0 to compare to; or auto.")] = None,
    methods: Annotated[str | None, typer.Option(help="Methods with commas between, each by its own recipe.")] = None,
    penalties: Annotated[str | None, typer.Option(help="Penalties with commas between; l21-output: units are groups.")] = None,
    solvers: Annotated[str | None, typer.Option(help="subgradient, proximal or both with a comma between.")] = None,
    dims: Annotated[str | None, typer.Option(help="Widths of the embedding with commas between.")] = None,
    seeds: Annotated[int | None, typer.Option(help="How many; the same for every λ, so that differences are paired.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    engine: Annotated[
        str, typer.Option(help="local; ray (tasks of a cluster); or print: a command line a trial, for Slurm or GNU parallel.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT of a Ray cluster, or auto; without it one is started here.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Trials at a time; without it one a GPU, or one a core.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run trials again that failed before.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Stop values of λ that others clearly dominate, and mark them.")] = False,
    dataset: Annotated[str | None, typer.Option(help=DATASET)] = None,
    data_dir: DataDir | None = None,
    device: Device | None = None,
    results: Annotated[Path | None, typer.Option(help="The sweep goes to RESULTS/EXPERIMENT.")] = None,
    experiments: Annotated[Path | None, typer.Option(help="Another experiments.yaml.", show_default=False)] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of a run.")] = None,
    trial: Annotated[str | None, typer.Option(hidden=True, help="Run this one trial, here.")] = None,
) -> None:
    """Which λ? Many runs on a grid, paired by seed, to a table with intervals and a verdict.

    A sweep that was stopped goes on with the same command; a trial that is finished is never repeated.
    """
    from sparsehead_cli.runs.config import parse_set
    from sparsehead_cli.sweep.grid import read_grid

    axes = {"lams": lams, "methods": methods, "penalties": penalties, "solvers": solvers, "dims": dims, "seeds": seeds}
    settings = {"dataset": dataset, "epochs": epochs, "data_dir": data_dir, "device": device, "results": results}
    given = [{key: value for key, value in found.items() if value is not None} for found in (axes, settings)]
    grid = read_grid(experiment, experiments, given[0], {**parse_set(set_ or []), **given[1]})

    from sparsehead_cli.present import sweep as show
    from sparsehead_cli.runs.folder import locked
    from sparsehead_cli.sweep.sweep import Request, run_one, stand, sweep

    request = Request(
        grid, experiment, show.without(sys.argv[1:], "--trial"), experiments, engine, address, jobs, retry_failed, prune
    )
    standing = stand(request)
    from sparsehead_cli.present.console import Console

    console = Console()
    if trial:
        return run_one(standing, trial, [show.EpochLines(console)])
    if engine == "print":
        return show.show_commands(console, request, standing)
    try:
        with locked(standing.folder, "another sweep runs here"), show.SweepDisplay(console, request, standing) as display:
            rows, summary = sweep(request, standing, display.watch)
    except KeyboardInterrupt:
        raise Stopped("stopped. sweep.csv and the figure have what had finished; the same command goes on.", 130) from None
    return show.show_sweep(console, standing, rows, summary)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Of sweeps or spectra, such as results/lambda-quick.")],
) -> None:
    """Rebuild a study's tables and figures from its CSVs alone, and write one page with all of them: FOLDER/report.html."""
    from sparsehead_cli.present.console import Console
    from sparsehead_cli.present.report import read_study, show_report, write_study

    studies = [read_study(folder) for folder in dict.fromkeys(folders)]  # all of them before one is written
    for study in studies:
        show_report(Console(), study, write_study(study))


def names(text: str) -> tuple[str, ...]:
    """`knn, linear` -> ("knn", "linear"), each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
