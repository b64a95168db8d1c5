"""What the committed studies' tables say is what they said when they were committed, to the last digit."""

from pathlib import Path

import pytest

from sparsehead_cli.runs.table_files import read_csv, replace_csv
from sparsehead_cli.runs.tables import TASKS
from sparsehead_cli.study.by_lam import by_lam
from sparsehead_cli.study.continual import runs_of_tasks, sequences
from sparsehead_cli.study.curves import keep_curves
from sparsehead_cli.study.results import BY_LAM, CONTINUAL_CSV, CURVES_CSV, METRICS_CSV, PRUNED_CSV, SUMMARY_CSV, SWEEP_CSV
from sparsehead_cli.study.study import read_study
from sparsehead_cli.study.summary import summarise, without_pruned

RESULTS = Path(__file__).parents[2] / "results"
SWEEPS = sorted(path.parent.name for path in RESULTS.glob(f"*/{SUMMARY_CSV}"))
SEQUENCES = sorted(path.parent.name for path in RESULTS.glob(f"*/{CONTINUAL_CSV}"))
SPECTRA = sorted(path.parent.name for path in RESULTS.glob(f"*/{BY_LAM}"))


@pytest.mark.parametrize("name", SWEEPS)
def test_the_summary_of_a_sweep(name, tmp_path):
    trials, pruned = (read_csv(RESULTS / name / table) for table in (SWEEP_CSV, PRUNED_CSV))
    replace_csv(tmp_path / SUMMARY_CSV, summarise(without_pruned(trials, pruned)))
    assert (tmp_path / SUMMARY_CSV).read_bytes() == (RESULTS / name / SUMMARY_CSV).read_bytes()


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_numbers_of_sequences_of_tasks(name, tmp_path):
    replace_csv(tmp_path / CONTINUAL_CSV, sequences(runs_of_tasks(RESULTS / name)))
    assert (tmp_path / CONTINUAL_CSV).read_bytes() == (RESULTS / name / CONTINUAL_CSV).read_bytes()


def test_a_run_of_tasks_alone_is_a_study():
    run = next((RESULTS / "lambda-continual").glob(f"*/{TASKS}")).parent
    assert [rows[0]["run"] for rows in read_study(run).sequences] == [run.name]


@pytest.mark.parametrize("name", ["lambda-auto", "lambda-penalties"])
def test_the_curves_of_a_sweep_whose_run_folders_are_gone(name, tmp_path):
    before = (RESULTS / name / CURVES_CSV).read_bytes()
    (tmp_path / CURVES_CSV).write_bytes(before)
    keep_curves(tmp_path, read_csv(RESULTS / name / SWEEP_CSV))
    assert (tmp_path / CURVES_CSV).read_bytes() == before


@pytest.mark.parametrize("name", SPECTRA)
def test_the_comparison_of_spectra_over_lam(name, tmp_path):
    replace_csv(tmp_path / BY_LAM, by_lam(read_csv(RESULTS / name / METRICS_CSV)))
    assert (tmp_path / BY_LAM).read_bytes() == (RESULTS / name / BY_LAM).read_bytes()
