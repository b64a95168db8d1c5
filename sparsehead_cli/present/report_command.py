"""What `sparsehead report` shows: tables and verdicts, as the commands that measured them do, and where the page is."""

from pathlib import Path

from sparsehead_cli.present.console import Console
from sparsehead_cli.present.spectrum import show_spectra
from sparsehead_cli.present.study import Study
from sparsehead_cli.present.sweep import show_summary


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
