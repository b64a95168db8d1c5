"""What `sparsehead report` shows: tables and verdicts, as the commands that measured them do, and where the page is."""

from pathlib import Path

from sparsehead_cli.console import Console
from sparsehead_cli.display_spectrum import show_spectra
from sparsehead_cli.display_sweep import show_summary
from sparsehead_cli.report.study import Study


def show_report(console: Console, study: Study, files: list[Path]) -> None:
    """One study; `files` are those that were written, the page last."""
    *others, page = files
    if study.trials:
        show_summary(console, study.summary, study.pruned)
    if study.metrics:
        show_spectra(console, [[], study.eigenvalues, study.metrics], study.lams, others)
    else:
        console.print(f" files   {study.folder}/: {', '.join(file.name for file in others)}", soft_wrap=True)
    console.print(f" page    {page}", soft_wrap=True)
