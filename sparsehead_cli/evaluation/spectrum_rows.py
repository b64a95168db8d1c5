"""The rows of the tables of spectra: what is read off one spectrum, its eigenvalues, and what batches need."""

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from sparsehead_cli.measure.head import BatchSubset
from sparsehead_cli.measure.moments import Moments
from sparsehead_cli.measure.spectrum import INTERVALS, NUMBERS, Spectrum
from sparsehead_cli.runs.table_files import Row


def spectrum_numbers(features: str, spectrum: Spectrum, seed: int) -> Iterator[Row]:
    """What is read off one spectrum, with the intervals of INTERVALS."""
    numbers = [partial(number_of, name) for name in INTERVALS]
    bounds = dict(zip(INTERVALS, spectrum.moments.intervals(*numbers, seed=seed), strict=True))
    yield metric(features, "dim", len(spectrum.eigenvalues))
    for name, number in NUMBERS.items():
        yield metric(features, name, number(spectrum), *(bounds.get(name) or ()))


def number_of(name: str, moments: Moments) -> float:
    """One of NUMBERS of features with these moments."""
    return NUMBERS[name](Spectrum(moments))


def metric(features: str, name: str, value: float | None, low: float | str = "", high: float | str = "") -> Row:
    """The own columns of a row of spectrum_metrics.csv; low and high bound the 95 % interval."""
    return {"features": features, "metric": name, "value": value, "low": low, "high": high}


def eigenvalue_rows(features: str, eigenvalues: Tensor) -> Iterator[Row]:
    """The own columns of the rows of spectrum.csv, largest eigenvalue first."""
    for index, value in enumerate(eigenvalues.tolist(), 1):
        yield {"features": features, "index": index, "eigenvalue": value}


def batch_rows(batches: list[BatchSubset]) -> Iterator[Row]:
    """The own columns of the rows of spectrum_batches.csv."""
    for number, batch in enumerate(batches, 1):
        losses = {"batch_loss": batch.loss, "batch_loss_kept": batch.loss_kept}
        yield {"batch": number, "features_kept": batch.needed(), "n_features": len(batch.kept), **losses}
