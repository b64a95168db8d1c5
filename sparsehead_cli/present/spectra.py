"""Spectra measured and drawn: what `sparsehead spectrum` and the Python function have in common, which print differently."""

from pathlib import Path

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.spectrum import OnProgress, SpectrumRequest
from sparsehead_cli.machine.interrupts import stopped_by
from sparsehead_cli.present import spectrum as show
from sparsehead_cli.present.console import Console
from sparsehead_cli.present.figures import check_figure, over_time_figure, save_figure, spectra_figure
from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.study.spectra import study_spectra
from sparsehead_cli.study.tracked import spectra_over_time


def measured_spectra(
    request: SpectrumRequest, figure: Path | None, watch: OnProgress
) -> tuple[list[list[Row]], list[Row], list[Path]]:
    """As `study_spectra`, and the figure, where one was asked for. Raises: SparseheadError."""
    if figure:
        check_figure(figure)  # before anything is measured
    tables, lams, files = study_spectra(request, watch)
    return tables, lams, files + (save_figure(spectra_figure(*tables[1:]), figure) if figure else [])


def tracked_spectra(checkpoints: list[Path], figure: Path | None) -> tuple[dict[str, list[Row]], list[Path]]:
    """As `spectra_over_time`, and the figure's files. Raises: SparseheadError."""
    if not checkpoints:
        raise SparseheadError("--over-time is of runs with --track-spectrum: sparsehead spectrum RUN [RUN …] --over-time")
    if figure:
        check_figure(figure)
    runs = spectra_over_time(checkpoints)
    return runs, save_figure(over_time_figure(runs), figure) if figure else []


def run_spectrum(console: Console, request: SpectrumRequest, figure: Path | None, *, over_time: bool) -> None:
    """What `sparsehead spectrum` does. Raises: SparseheadError; Stopped where it was interrupted."""
    if over_time:
        show.show_over_time(console, *tracked_spectra([Path(checkpoint) for checkpoint in request.checkpoints], figure))
        return
    try:
        with show.SpectrumDisplay(console) as display:
            tables, lams, files = measured_spectra(request, figure, display.watch)
    except KeyboardInterrupt as interrupt:
        raise stopped_by(interrupt, "The checkpoints before are in the tables; the same command goes on.") from None
    show.show_spectra(console, tables, lams, files)
