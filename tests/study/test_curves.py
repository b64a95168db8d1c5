"""curves.csv keeps what run folders hold, and what they held before they were gone."""

import math

import numpy as np
import pytest

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.present import figures_curves
from sparsehead_cli.present.figures import drawn
from sparsehead_cli.present.figures_curves import curves_figures
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.folder import identity_columns
from sparsehead_cli.runs.table_files import read_csv, replace_csv
from sparsehead_cli.runs.tables import RUN, TABLES
from sparsehead_cli.study.curves import keep_curves
from sparsehead_cli.study.results import CURVES_CSV
from sparsehead_cli.study.summary import summarise
from tests.study.test_summary import row as sweep_row


def trial(lam, seed, **changes):
    """A row of sweep.csv."""
    return {**sweep_row(lam, seed, 0.8 - lam), "run": f"run-{lam}-{seed}", "commit": "abc", **changes}


def metrics(of, epochs, knn=0.5):
    """Rows of its run's metrics.csv."""
    identity = {column: of[column] for column in RUN}
    numbers = dict.fromkeys(("gradient_norm", "lr", "knn_accuracy_z", "std_r", "std_z", "functional_features", "seconds"), 1)
    numbers |= {"loss": 4, "effective_rank_r": 3, "effective_rank_z": 2, "penalty_value": 280.5}
    numbers |= {"n_groups": 8, "active_groups": 6, "n_features": 4, "active_features": 1, "images_per_second": 99.0}
    return [{**identity, **numbers, "epoch": epoch, "knn_accuracy": knn + epoch / 10} for epoch in range(1, epochs + 1)]


@pytest.fixture
def trials():
    return [trial(lam, seed) for seed in (0, 1) for lam in (0.0, 1e-3)]


@pytest.fixture
def folder(tmp_path, trials):
    """A sweep's folder with the run folders of its trials, of three epochs."""
    for of in trials:
        (tmp_path / of["run"]).mkdir()
        replace_csv(tmp_path / of["run"] / "metrics.csv", metrics(of, 3))
    return tmp_path


def test_the_identity_is_that_of_every_table():
    assert list(identity_columns(Config(), "a run")) == list(RUN)


def test_rows_are_collected_in_the_order_of_the_grid_and_counts_become_shares(folder, trials):
    rows = keep_curves(folder, trials)
    assert rows == read_csv(folder / CURVES_CSV)
    assert [(row["run"], row["epoch"]) for row in rows] == [(of["run"], str(epoch)) for of in trials for epoch in (1, 2, 3)]
    assert list(rows[0]) == list(TABLES[CURVES_CSV].columns)
    assert (rows[0]["active_groups_share"], rows[0]["active_features_share"]) == ("0.75", "0.25")


def test_curves_outlive_their_run_folders_and_longer_ones_replace_them(folder, trials):
    before = keep_curves(folder, trials)
    first, second, third, last = (folder / of["run"] / "metrics.csv" for of in trials)
    first.unlink()
    replace_csv(second, metrics(trials[1], 4, knn=0.1))  # went on
    replace_csv(third, metrics(trials[2], 1, knn=0.1))  # is being trained anew
    replace_csv(last, metrics(trials[3], 3, knn=0.1))  # was trained anew
    found = [(row["run"], row["epoch"], row["knn_accuracy"]) for row in keep_curves(folder, trials)]
    old = [(row["run"], row["epoch"], row["knn_accuracy"]) for row in before]
    assert found[:3] == old[:3]
    assert found[3:7] == [(trials[1]["run"], str(epoch), str(0.1 + epoch / 10)) for epoch in (1, 2, 3, 4)]
    assert found[7:10] == old[6:9]
    assert found[10:] == [(trials[3]["run"], str(epoch), str(0.1 + epoch / 10)) for epoch in (1, 2, 3)]


def test_curves_of_a_trial_that_sweep_csv_lacks_are_kept_at_the_end(folder, trials):
    keep_curves(folder, trials)
    rows = keep_curves(folder, trials[1:])
    assert [row["run"] for row in rows[-3:]] == [trials[0]["run"]] * 3
    assert len(rows) == 12


def test_nothing_is_written_where_there_is_nothing(tmp_path, trials):
    assert keep_curves(tmp_path, trials) == []
    assert not (tmp_path / CURVES_CSV).exists()


@pytest.mark.parametrize("name", [CURVES_CSV, "run-0.0-0/metrics.csv"])
def test_a_damaged_table_is_told_with_its_line_and_left_alone(folder, trials, name):
    keep_curves(folder, trials)
    path = folder / name
    lines = path.read_text().splitlines()
    lines[2] = lines[2][:40]
    path.write_text("\n".join(lines) + "\n")
    kept = (folder / CURVES_CSV).read_bytes()
    with pytest.raises(SparseheadError, match=f"{name} is damaged in line 3: it has [0-9]+ cells"):
        keep_curves(folder, trials)
    assert (folder / CURVES_CSV).read_bytes() == kept


@pytest.mark.parametrize(("settings", "figures"), [(1, 1), (4, 2), (12, 4)])
def test_a_panel_has_a_mean_a_lam_and_a_line_a_seed(folder, settings, figures):
    trials = [
        trial(lam, s, method=f"m{i}", run=f"{i} {lam} {s}", effective_rank_z="2")
        for i in range(settings)
        for lam in (0.0, 1e-3)
        for s in (0, 1)
    ]
    curves = [
        {**row, "epoch": str(row["epoch"]), "active_groups_share": "0.75", "effective_rank_z": str(row["epoch"])}
        for i, of in enumerate(trials)
        for row in metrics(of, 3, knn=0.1 * (i % 2))
    ]
    sheets = curves_figures(trials, curves, summarise(trials))
    assert len(sheets) == figures
    axes = [ax for figure in sheets for ax in figure.axes if ax.get_visible()]
    assert len(axes) == 2 * settings  # of the four numbers the two that ever change
    assert len({tuple(ax.get_ylim()) for ax in axes if ax.get_title()}) == 1  # equal axes, over all figures
    knn = next(ax for ax in axes if ax.get_title())
    thick = {
        line.get_color() if isinstance(line.get_color(), str) else "λ": line for line in knn.get_lines() if line.get_linewidth() > 1
    }
    assert len(knn.get_lines()) == 2 + 2  # of each λ the seeds, and their mean
    seeds = [list(line.get_xdata()) for line in knn.get_lines() if line.get_linewidth() < 1]
    np.testing.assert_array_equal(seeds, [[1, 2, 3, math.nan, 1, 2, 3]] * 2)  # both of a λ, with the pen lifted between them
    assert list(thick["black"].get_ydata()) == pytest.approx([15, 25, 35])  # the mean of two seeds at λ 0
    assert list(thick["black"].get_xdata()) == [1, 2, 3]
    assert [text.get_text() for text in sheets[0].legends[0].get_texts()] == ["λ 0", "λ 0.001"]


def test_colours_go_from_dark_to_light_and_many_lams_have_a_bar():
    trials = [trial(lam, 0, accuracy="0.8", effective_rank_z="2") for lam in (0.0, *(10 ** -(i / 4) for i in range(16, 0, -1)))]
    curves = [{**row, "active_groups_share": "0.75"} for of in trials for row in metrics(of, 2)]
    (figure,) = curves_figures(trials, curves, summarise(trials))
    colors = [line.get_color() for line in figure.axes[0].get_lines()]
    lightness = [sum(color[:3]) for color in colors if color != "black"]
    assert colors[0] == "black"
    assert lightness == sorted(lightness)
    assert len(set(lightness)) == 16
    assert figure.axes[-1].get_xlabel() == "λ above 0 (log)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["λ 0"]


def test_single_seeds_of_a_large_study_are_pixels(monkeypatch, folder, trials):
    curves = keep_curves(folder, trials)
    for most, pixels in ((20_000, 0), (0, 1)):  # a picture a panel
        monkeypatch.setattr(figures_curves, "MANY_POINTS", most)
        (figure,) = curves_figures(trials, curves, summarise(trials))
        assert drawn(figure, "svg").count(b"data:image/png") == pixels


def test_without_curves_there_is_no_figure(trials):
    assert curves_figures(trials, [], summarise(trials)) == []
