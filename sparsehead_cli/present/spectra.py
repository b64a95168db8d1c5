"""Spectra measured and drawn: what `sparsehead spectrum` and the Python function have in common, which print differently."""

import shlex
from pathlib import Path

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.spectrum_request import OnProgress, SpectrumRequest
from sparsehead_cli.machine.interrupts import stopped_by
from sparsehead_cli.machine.launch import command_alone
from sparsehead_cli.present import spectrum as show
from sparsehead_cli.present.console import Console
from sparsehead_cli.present.figures import FORMATS, check_figure, save_figure
from sparsehead_cli.present.figures_spectra import over_time_figure, spectra_figure
from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.study.spectra import study_spectra
from sparsehead_cli.study.tracked import spectra_over_time


def measured_spectra(
    request: SpectrumRequest, figure: Path | None, watch: OnProgress, *, paper: bool = False
) -> tuple[list[list[Row]], list[Row], list[Path]]:
    """As `study_spectra`, and the figure, where one was asked for, for a page or a `paper`. Raises: SparseheadError."""
    if figure:
        check_figure(figure)  # before anything is measured
    tables, lams, files = study_spectra(request, watch)
    return tables, lams, files + (save_figure(spectra_figure(*tables[1:], paper=paper), figure, kinds(paper)) if figure else [])


def kinds(paper: bool) -> tuple[str, ...]:
    """The formats of a figure without an ending."""
    return FORMATS[1:] if paper else FORMATS[:2]


def tracked_spectra(
    checkpoints: list[Path], figure: Path | None, *, paper: bool = False
) -> tuple[dict[str, list[Row]], list[Path]]:
    """As `spectra_over_time`, and the figure's files. Raises: SparseheadError."""
    if not checkpoints:
        raise SparseheadError("--over-time is of runs with --track-spectrum: sparsehead spectrum RUN [RUN …] --over-time")
    if figure:
        check_figure(figure)
    runs = spectra_over_time(checkpoints)
    return runs, save_figure(over_time_figure(runs, paper=paper), figure, kinds(paper)) if figure else []


def run_spectrum(console: Console, request: SpectrumRequest, figure: Path | None, *, over_time: bool, paper: bool = False) -> None:
    """What `sparsehead spectrum` does. Raises: SparseheadError; Stopped where it was interrupted."""
    if paper and not figure:
        raise SparseheadError(
            "--paper draws what --figure names as for a paper: add --figure NAME, which writes NAME.svg and NAME.pdf."
        )
    if over_time:
        checkpoints = [Path(checkpoint) for checkpoint in request.checkpoints]
        show.show_over_time(console, *tracked_spectra(checkpoints, figure, paper=paper))
        return
    try:
        with show.SpectrumDisplay(console) as display:
            tables, lams, files = measured_spectra(request, figure, display.watch, paper=paper)
    except KeyboardInterrupt as interrupt:
        raise stopped_by(interrupt, "The same command goes on; the checkpoints that were done are in the tables.") from None
    show.show_spectra(console, tables, lams)
    console.print(f" files   {', '.join(map(str, files))}", soft_wrap=True)
    show_next(console, request, tables[-1])


def show_next(console: Console, request: SpectrumRequest, metrics: list[Row]) -> None:
    """What to type next: of one checkpoint its accuracies, where there are test inputs; of others their page."""
    untested = request.split is None and not metrics[0]["split"].endswith("test")
    one = request.checkpoints[0] if len(request.checkpoints) == 1 and not (request.features or untested) else None
    told = "what r is good for, beside pixels and an untrained network" if one else "all of it on one page"
    dataset = ["--dataset", request.dataset] if request.dataset else []
    command = ["evaluate", one, *dataset, *request.options.typed(), "--baselines"] if one else ["report", str(request.out)]
    console.print(f" next    {told}: {shlex.join([*command_alone(), *command])}", soft_wrap=True)
