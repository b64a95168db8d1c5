"""Spectra of several checkpoints -> tables and the comparison over λ."""

from pathlib import Path

from sparsehead_cli.evaluation.spectrum import TABLES, spectra
from sparsehead_cli.evaluation.spectrum_request import OnProgress, SpectrumRequest
from sparsehead_cli.runs.table_files import Row, replace_csv
from sparsehead_cli.study.by_lam import by_lam
from sparsehead_cli.study.results import BY_LAM


def study_spectra(request: SpectrumRequest, watch: OnProgress) -> tuple[list[list[Row]], list[Row], list[Path]]:
    """Measure checkpoints: (rows of the TABLES, rows over λ where runs can be compared, the files written).

    Raises: SparseheadError for whatever the user can mend.
    """
    tables = spectra(request, watch)
    lams = by_lam(tables[-1])
    if lams:
        replace_csv(request.out / BY_LAM, lams)
    names = [*TABLES, *([BY_LAM] if lams else [])]
    return tables, lams, [request.out / name for name in names if (request.out / name).exists()]
