"""The protocol `factors`, on a few of the images whose factors are known."""

import pytest

from sparsehead_cli.data import factors
from sparsehead_cli.runs.table_files import read_csv
from tests.test_cli import assert_one_error

TINY = ["--epochs", 1, "--batch-size", 100, "--set", "widths=8,8,8,8", "--set", "projector_hidden=16", "--set", "projector_out=8"]


@pytest.fixture
def few(monkeypatch):
    """Six hundred and two hundred of the images."""
    monkeypatch.setattr(factors, "COUNTS", {True: 600, False: 200})
    factors.read_factors.cache_clear()
    yield
    factors.read_factors.cache_clear()


def test_each_factor_is_read_out_of_each_part(few, sparsehead, tmp_path):
    code, out, err = sparsehead("pretrain", "--dataset", "factors", *TINY, "--results", tmp_path)
    assert (code, err) == (0, "")
    (folder,) = tmp_path.glob("*/*")
    code, out, err = sparsehead("evaluate", folder, "--protocol", "factors", "--baselines")
    assert (code, err) == (0, "")
    rows = {(row["model"], row["features"], row["metric"]): float(row["value"]) for row in read_csv(folder / "evaluations.csv")}
    numbers = {"shape_accuracy", "texture_accuracy", "colour_r2", "x_r2", "y_r2", "size_r2", "ground_r2"}
    similar = {f"{what}_{which}" for what in ("cka", "rank_correlation") for which in ("kept", "changed")}
    for features, expected in {"r": numbers | similar, "z": numbers | similar, "read": numbers, "unread": numbers}.items():
        assert {metric for model, name, metric in rows if (model, name) == ("checkpoint", features)} == expected
    assert rows["pixels", "pixels", "ground_r2"] > 0.95  # the corners are the ground
    assert rows["checkpoint", "r", "colour_r2"] > rows["checkpoint", "r", "x_r2"]  # from the averages of a small network
    assert all(value <= 1 for value in rows.values())
    assert "pairs, kept" in out
    assert "colour, R²" in out


def test_other_images_have_no_known_factors(run_folder, sparsehead):
    err = assert_one_error(sparsehead("evaluate", run_folder, "--protocol", "factors"))
    assert "measures known factors, which fashion1k has not got: --dataset factors" in err
