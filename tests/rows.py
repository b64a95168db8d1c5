"""Rows of any table, for tests that care for a few of their columns."""

from sparsehead_cli.runs.tables import COLUMNS, TABLES

EXAMPLES = {"text": "some", "truth": "True", "whole": "3", "share": "0.25", "amount": "1.5", "number": "-1e-05"}


def full_row(name, **values):
    """A row of the table called `name` with these values, and any that fit in its other columns."""
    return {column: EXAMPLES[COLUMNS[column].kind] for column in TABLES[name].columns} | values
