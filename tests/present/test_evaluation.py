"""Tables of evaluations as people read them."""

import pytest

from sparsehead_cli.present.console import Console, print_table
from sparsehead_cli.present.evaluation import MODELS, accuracy_table, sts_table
from tests.rows import full_row


@pytest.mark.parametrize(("width", "columns"), [(80, 5), (200, 6)])
def test_all_base_lines_of_sentences_fit_a_narrow_console(width, columns, monkeypatch, capsys):
    """A number and its interval are in one piece each; a wide console has all columns."""
    monkeypatch.setenv("COLUMNS", str(width))
    empty = dict.fromkeys(("k", "distance", "vote", "label_share", "eval_epochs"), "")
    row = full_row("evaluations.csv", eval_dataset="sick-r-test", metric="accuracy", value=0.761, low=0.747, high=0.774, **empty)
    rows = [{**row, "model": model, "features": features} for model, features in MODELS if model != "pixels"]
    for table in (accuracy_table("wordnet10k", rows), sts_table(rows)):
        print_table(Console(), table)
        text = capsys.readouterr().out
        assert text.count("76.1") == text.count("74.7–77.4") == columns
        assert ("untrained z" in text) == (columns == 6)
