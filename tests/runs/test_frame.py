"""Tables as DataFrames: the kinds that are declared, and numbers to the last digit."""

import math

import numpy as np

from sparsehead_cli.runs.table_files import frame, replace_csv
from tests.rows import full_row


def test_numbers_are_floats_to_the_last_digit_and_what_is_not_defined_is_nan(tmp_path):
    values = [float(value) for value in np.random.default_rng(0).normal(size=200) * 10.0 ** np.arange(-100, 100)]
    rows = [full_row("spectrum_metrics.csv", task=str(i), value=value, low="") for i, value in enumerate(values)]
    replace_csv(tmp_path / "spectrum_metrics.csv", rows)
    for read in (frame(rows), frame(tmp_path / "spectrum_metrics.csv")):
        assert list(read["value"]) == values
        assert read["low"].isna().all()
        assert list(read["task"]) == [str(i) for i in range(200)]
        assert {str(read[column].dtype) for column in ("value", "low", "lam", "seed", "images")} == {"float64"}


def test_text_stays_text_also_where_it_looks_like_a_number_or_is_not_there():
    rows = [{"run": "007", "penalty": "", "batch_norm": True, "lam": None}, {"run": "nan", "penalty": None, "my_loss": "0.5"}]
    read = frame(rows)
    assert list(read["run"]) == ["007", "nan"]
    assert list(read["penalty"]) == ["", ""]
    assert list(read["batch_norm"]) == ["True", ""]
    assert read["lam"].isna().all()
    assert math.isnan(read["my_loss"][0])
    assert read["my_loss"][1] == 0.5
    assert list(frame([{"lam": "1e-3", "epochs": "20"}], text=("epochs",)).iloc[0]) == [1e-3, "20"]


def test_no_rows_have_no_columns_and_no_file_has_those_of_its_table(tmp_path):
    assert frame([]).shape == (0, 0)
    empty = frame(tmp_path / "pruned.csv")
    assert len(empty) == 0
    assert {"lam", "epoch", "best_knn_accuracy"} <= set(empty)
