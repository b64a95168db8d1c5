"""The commands. Each parses, calls one function, prints; nothing else in the package prints or exits.

Heavy imports stand inside the commands, so that --help answers at once.
"""

import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup

from sparsehead_cli.api import names
from sparsehead_cli.cli_export import export
from sparsehead_cli.ending import tell
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.interrupts import told_of_interrupts
from sparsehead_cli.machine.launch import command_alone, launched, rank
from sparsehead_cli.machine.streams import open_streams, told_by_the_machine, writable
from sparsehead_cli.options import (
    CHECKPOINT,
    OF_EXPERIMENT,
    AllowPartial,
    Assume,
    Callback,
    DataDir,
    Device,
    DryRun,
    Engine,
    Experiment,
    Experiments,
    ImageSize,
    Kind,
    MeasuredOn,
    Name,
    Paper,
    Plugin,
    Protocols,
    Set,
    SetOfProtocol,
    SkipBadImages,
    Split,
    Sweep,
    Weights,
    Workers,
    load_options,
    option,
)
from sparsehead_cli.sweeps.grid import Grid


class Commands(TyperGroup):
    """Typer answers Ctrl-C, which may come while torch is imported, with exit code 1; the shell's is 130, and 143 for SIGTERM."""

    def invoke(self, context: typer.Context) -> object:
        with told_of_interrupts():
            return super().invoke(context)

    def get_help(self, context: typer.Context) -> str:
        return writable(super().get_help(context))


class Command(TyperCommand):
    """Typer writes UTF-8 where the locale has no λ; here it is a question mark, as in all that we print."""

    def get_help(self, context: typer.Context) -> str:
        return writable(super().get_help(context))


app = typer.Typer(
    cls=Commands,
    help="Self-supervised learning with a structured-sparse projection head (arXiv 2307.08913).",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich takes longer to import than all the rest, and its boxes leave little room for the text
    context_settings={"max_content_width": 120, "help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
)
command = partial(app.command, cls=Command)


def main() -> None:
    """The console script: a SparseheadError becomes one red message on stderr and its exit code, which is mostly 1."""
    open_streams()
    try:
        with told_by_the_machine(), told_of_interrupts():  # of those before `invoke`, too: Typer imports while it builds options
            app()
    except SparseheadError as error:
        tell(error)
        sys.exit(getattr(error, "exit_code", 1))


@app.callback(invoke_without_command=True)
def _sparsehead(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        from sparsehead_cli import __version__

        print(f"sparsehead {__version__}")
        raise typer.Exit
    command = context.invoked_subcommand
    if launched() and command != "pretrain":
        again = shlex.join([*command_alone(), *sys.argv[1:]])
        raise SparseheadError(
            f"{command} works in one process, and was started in {os.environ['WORLD_SIZE']}; only pretrain can be shared. "
            f"Start it without torchrun: {again}"
        )


@command()
def pretrain(
    experiment: Experiment = None,
    method: Annotated[str | None, option("method")] = None,
    lam: Annotated[float | None, option("lam")] = None,
    penalty: Annotated[str | None, option("penalty")] = None,
    solver: Annotated[str | None, option("solver")] = None,
    dataset: Annotated[str | None, option("dataset")] = None,
    tasks: Annotated[str | None, option("tasks")] = None,
    data_dir: Annotated[Path | None, option("data_dir")] = None,
    image_size: Annotated[int | None, option("image_size")] = None,
    workers: Workers = None,
    skip_bad_images: Annotated[bool | None, option("skip_bad_images", "--skip-bad-images")] = None,
    backbone: Annotated[str | None, option("backbone")] = None,
    init: Annotated[Path | None, option("init")] = None,
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
    set_: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Train a backbone with a sparse projection head.

    Values come from the defaults, then the experiment, then this command line. The same command finds its own run:
    unfinished, it goes on where it was; finished, it says so. A default in parentheses is that of quickstart; an experiment
    or a method's recipe may have another, which `sparsehead show NAME` says.
    """
    given = {key: value for key, value in locals().items() if value is not None}
    for key in ("experiment", "experiments", "callback", "set_", "dry_run"):
        given.pop(key, None)
    from sparsehead_cli.present.console import Console
    from sparsehead_cli.runs.config import load_config, parse_set

    overrides = {**parse_set(set_ or []), **given}

    console = Console(quiet=rank() > 0)
    if dry_run:
        from sparsehead_cli.present.dry_run import show_dry_run

        return show_dry_run(console, experiment, experiments, overrides, tuple(callback or ()))

    config = load_config(experiment, experiments, overrides)
    from sparsehead_cli.present.pretrain import train

    return train(console, config, tuple(callback or ()), sys.argv[1:])


@command()
def evaluate(
    checkpoints: Annotated[list[str], typer.Argument(help=f"One after the other; each {CHECKPOINT}")],
    protocol: Protocols = "linear,knn",
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
    set_: SetOfProtocol = None,
) -> None:
    """Measure what a checkpoint's r and z are good for.

    Rows go to evaluations.csv beside each checkpoint; what is there already is not measured again.
    """
    options = load_options(locals())
    from sparsehead_cli.evaluation.evaluate import read_settings
    from sparsehead_cli.evaluation.plan import EvaluateRequest
    from sparsehead_cli.runs.config import parse_set

    settings, detection = read_settings(parse_set(set_ or []))
    request = EvaluateRequest(
        checkpoint=checkpoints[0],
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
    from sparsehead_cli.present.evaluation import run_evaluate

    run_evaluate(Console(), request, checkpoints)


@command()
def spectrum(
    checkpoints: Annotated[list[str] | None, typer.Argument(help=f"Any number; each {CHECKPOINT}")] = None,
    features: Annotated[Path | None, typer.Option(help="A .npy file with r of images, [N, D], in place of a checkpoint.")] = None,
    embeddings: Annotated[Path | None, typer.Option(help="A .npy file with z of the same images, [N, E].")] = None,
    dataset: MeasuredOn = None,
    split: Split = None,
    images: Annotated[int | None, typer.Option(help="So many of them, drawn by the seed; without it all.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="The hidden layers of the projector, too.")] = False,
    over_time: Annotated[bool, typer.Option("--over-time", help="How the spectra of a run with --track-spectrum came.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Draw it: .png, .svg or .pdf; without an ending .png and .svg.")] = None,
    paper: Paper = False,
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
    """Look for collapse: spectra of r and z, what the head reads.

    Rows go to spectrum.csv, spectrum_metrics.csv and spectrum_batches.csv; what is there already is not measured again.
    """
    options = load_options(locals())
    from sparsehead_cli.present.console import Console

    if explain:
        from sparsehead_cli.present.spectrum import explain as explain_all

        return explain_all(Console())
    from sparsehead_cli.evaluation.spectrum_request import SpectrumRequest
    from sparsehead_cli.present.spectra import run_spectrum

    request = SpectrumRequest(
        checkpoints=tuple(dict.fromkeys(checkpoints or ())),
        features=features,
        embeddings=embeddings,
        dataset=dataset,
        split=split,
        images=images,
        layers=layers,
        out=out,
        seed=seed,
        options=options,
    )
    return run_spectrum(Console(), request, figure, over_time=over_time, paper=paper)


@command()
def sweep_lambda(
    experiment: Sweep = "lambda-quick",
    lams: Annotated[str | None, option("lams", of=Grid, default=OF_EXPERIMENT)] = None,
    methods: Annotated[str | None, option("methods", of=Grid, default=OF_EXPERIMENT)] = None,
    penalties: Annotated[str | None, option("penalties", of=Grid, default=OF_EXPERIMENT)] = None,
    solvers: Annotated[str | None, option("solvers", of=Grid, default=OF_EXPERIMENT)] = None,
    dims: Annotated[str | None, option("dims", of=Grid, default=OF_EXPERIMENT)] = None,
    batch_norm: Annotated[str | None, option("batch_norm", of=Grid, default=OF_EXPERIMENT)] = None,
    regularisers: Annotated[str | None, option("regularisers", of=Grid, default=OF_EXPERIMENT)] = None,
    projectors: Annotated[str | None, option("projectors", of=Grid, default=OF_EXPERIMENT)] = None,
    seeds: Annotated[int | None, option("seeds", of=Grid, default=OF_EXPERIMENT)] = None,
    epochs: Annotated[int | None, option("epochs", default=OF_EXPERIMENT)] = None,
    engine: Engine = "local",
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT of a Ray cluster, or auto; without it one is started here.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Trials at a time; without it one a GPU, or one a core.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run trials again that failed before.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Stop values of λ that others clearly dominate, and mark them.")] = False,
    confirm: Annotated[
        int | None, typer.Option(help="Fresh seeds that judge what the grid, as a pilot, chose and a plan froze.")
    ] = None,
    dataset: Annotated[str | None, option("dataset", default=OF_EXPERIMENT)] = None,
    data_dir: Annotated[Path | None, option("data_dir", default=OF_EXPERIMENT)] = None,
    device: Annotated[str | None, option("device", default=OF_EXPERIMENT)] = None,
    results: Annotated[Path | None, typer.Option(help="The sweep goes to RESULTS/EXPERIMENT.")] = None,
    experiments: Experiments = None,
    set_: Set = None,
    callback: Callback = None,
    dry_run: DryRun = False,
    trial: Annotated[str | None, typer.Option(hidden=True, help="Run this one trial, here.")] = None,
) -> None:
    """Which λ? A grid of paired runs, a table and a verdict.

    A sweep that was stopped goes on with the same command; a trial that is finished is never repeated.
    """
    from sparsehead_cli.runs.config import parse_set
    from sparsehead_cli.sweeps.request import sweep_request

    request = sweep_request(locals(), parse_set(set_ or []))

    from sparsehead_cli.present import sweep as show
    from sparsehead_cli.present.console import Console
    from sparsehead_cli.sweeps.sweep import read_state, run_one

    if dry_run:
        from sparsehead_cli.present.dry_run import show_sweep_dry_run

        return show_sweep_dry_run(Console(), request)

    if trial:
        return run_one(request, trial, [show.EpochLines(Console())])
    state, console = read_state(request), Console()
    if confirm is not None:
        from sparsehead_cli.present.confirm import run_confirm

        return run_confirm(console, request, state)
    if engine == "print":
        return show.show_commands(console, state, sys.argv[1:])
    return show.run_sweep(console, request, state)


@command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Of sweeps or spectra, such as results/lambda-quick.")],
    beside: Annotated[
        Path | None, typer.Option(help="A page more, such as studies.html, with all of the studies beside each other.")
    ] = None,
    paper: Paper = False,
) -> None:
    """Write one page of a study from its CSVs: FOLDER/report.html.

    Its tables and figures are made anew, too."""
    from sparsehead_cli.present.beside import write_beside
    from sparsehead_cli.present.console import Console
    from sparsehead_cli.present.report import show_report, write_study
    from sparsehead_cli.study.study import read_study

    console = Console()
    studies = [read_study(folder) for folder in dict.fromkeys(folders)]  # all of them before one is written
    if beside:
        write_beside(studies, beside)
    for study in studies:
        show_report(console, study, write_study(study, paper=paper))
    if beside:
        console.print(f" beside  each other: {beside}", soft_wrap=True)


@command("list")
def list_(
    kind: Kind = None,
    experiments: Experiments = None,
) -> None:
    """List what there is to choose from, and what each is."""
    from sparsehead_cli.present.catalogue import show_list
    from sparsehead_cli.present.console import Console

    show_list(Console(), kind, experiments)


@command()
def show(
    name: Name,
    experiments: Experiments = None,
    set_: Set = None,
) -> None:
    """Show the settings of a recipe or run, and where they come from."""
    from sparsehead_cli.present.console import Console
    from sparsehead_cli.present.recipe import show as show_recipe
    from sparsehead_cli.runs.config import parse_set

    show_recipe(Console(), name, experiments, parse_set(set_ or []))


command()(export)
