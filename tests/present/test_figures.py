"""Figures hold what the tables say, and are the same bytes each time. That they look right was looked at."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.measure.dimensions import NUMERICAL
from sparsehead_cli.present.figures import COLUMN, LAM_COLORS, color_of, save_figure, save_for_paper
from sparsehead_cli.present.figures_spectra import DASHES, FLOOR, over_time_figure, spectra_figure, styles
from sparsehead_cli.present.figures_sweep import sweep_caption, sweep_figures
from sparsehead_cli.present.sheets import BEYOND
from sparsehead_cli.study.summary import summarise
from tests.study.test_by_lam import row
from tests.study.test_summary import row as sweep_row


def tables(lams=(0.0, 1e-3), seeds=(0, 1), dims=(("r", 30), ("z", 12)), **changes):
    """(rows of spectrum.csv, rows of spectrum_metrics.csv) of runs whose eigenvalues fall the faster the larger λ."""
    eigenvalues, metrics = [], []
    for lam in lams:
        for seed in seeds:
            for name, dim in dims:
                base = row(lam, seed, dim / (1 + 1000 * lam) + seed, features=name, images="500", low="1", high="9", **changes)
                metrics.append(base)
                eigenvalues += [
                    {**base, "index": str(i), "eigenvalue": str(7.0 * 10 ** -(i * (0.1 + 1000 * lam)))} for i in range(1, dim + 1)
                ]
    return eigenvalues, metrics


def test_spectra_are_drawn_over_the_largest_down_to_the_floor():
    r, z, ranks = spectra_figure(*tables()).axes
    curves = [line for line in r.get_lines() if len(line.get_xdata()) > 2]
    assert len(curves) == 4
    first = np.array(curves[0].get_ydata())
    assert first[0] == 1
    assert first[10] == pytest.approx(0.1)
    steep = np.array(curves[2].get_ydata())  # λ 1e-3: a factor of 10^1.1 an index
    assert steep[-1] == FLOOR
    assert len(steep) == 8
    assert any(set(line.get_ydata()) == {NUMERICAL} for line in z.get_lines())
    assert [label.get_text() for label in ranks.get_yticklabels()] == ["λ 0.001 (2 seeds)", "λ 0 (2 seeds)"]
    assert (r.get_title(), z.get_title(), ranks.get_xlabel()) == (
        "representation r",
        "embedding z",
        "effective rank (95 % interval)",
    )


def test_checkpoints_without_a_projector_have_two_panels():
    assert len(spectra_figure(*tables(dims=(("r", 5),))).axes) == 2


def test_a_constant_embedding_can_be_drawn():
    eigenvalues, metrics = tables(lams=(0.0,), seeds=(0,))
    eigenvalues = [{**r, "eigenvalue": "0.0"} if r["features"] == "z" else r for r in eigenvalues]
    assert len(spectra_figure(eigenvalues, metrics).axes) == 3


def test_colours_go_with_lam_and_twelve_methods_keep_apart():
    zero, *looks = styles(tables(lams=(0.0, 1e-4, 1e-3))[1]).values()
    lightness = [np.dot(line.color, [0.3, 0.6, 0.1, 0]) for line in looks]
    assert zero.color == "black"
    assert lightness == sorted(lightness)
    many = styles([m for i in range(12) for m in tables(lams=(0.0,), seeds=(0,), method=f"method {i:02}")[1]])
    assert len({(look.color, look.dash) for look in many.values()}) == 12
    assert {look.dash for look in many.values()} == set(DASHES)


def test_methods_with_several_lams_have_a_row_each_and_a_lam_one_colour():
    pairs = [tables(lams=lams, method=method) for method, lams in (("simclr", (0.0, 1e-3)), ("byol", (0.0, 2e-3)))]
    eigenvalues, metrics = ([row for pair in pairs for row in pair[i]] for i in (0, 1))
    figure = spectra_figure(eigenvalues, metrics)
    left = [ax for ax in figure.axes if "largest" in ax.get_ylabel()]
    assert [ax.get_ylabel().split("\n")[0] for ax in left] == ["SimCLR", "BYOL"]
    simclr, byol = ([line.get_color() for line in ax.get_lines() if len(line.get_xdata()) > 2] for ax in left)
    assert simclr[:2] == byol[:2]  # λ 0
    assert len(set(simclr + byol)) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts[:3]] == ["λ 0", "λ 0.001", "λ 0.002"]
    assert len({ax.get_xlim() for ax in figure.axes[2::3]}) == 1


def epochs(dim=6):
    return [
        {"dataset": "fashion10k", "epoch": str(epoch), "features": name, "index": str(i), "eigenvalue": str(float(i <= epoch))}
        for epoch in (1, 2, 4)
        for name in ("r", "z")
        for i in range(1, dim + 1)
    ]


def test_over_time_a_column_an_epoch():
    figure = over_time_figure({"a run": epochs()})
    r, z, bar = figure.axes
    (image,) = r.collections
    assert image.get_array().shape == (6, 3)
    assert np.array_equal(image.get_array()[:, 1] == 0, [True] * 2 + [False] * 4)  # log10(1) where epoch 2 has variance
    rank, above = r.get_lines()
    assert list(rank.get_ydata()) == pytest.approx([1, 2, 4])
    assert list(above.get_ydata()) == [1, 2, 4]
    assert list(rank.get_xdata()) == [1, 2, 4]  # as far apart as they are
    assert list(image.get_coordinates()[0, :, 0]) == [0.5, 1.5, 3, 5]
    assert figure.get_suptitle().endswith("held-out images")
    sentences = [{**row, "dataset": "wordnet10k"} for row in epochs()]
    assert over_time_figure({"a run": sentences}).get_suptitle().endswith("held-out sentences")
    assert "log10" in bar.get_ylabel()
    assert (z.get_title(), r.get_ylabel()) == ("embedding z", "a run\nrank of the eigenvalue (log)")
    assert r.get_ylim()[0] < r.get_ylim()[1]  # a higher rank is higher


@pytest.mark.slow
def test_formats_and_equal_bytes(tmp_path):
    drawn = [
        {p.name: p.read_bytes() for p in save_figure(spectra_figure(*tables()), tmp_path / folder / "f")} for folder in ("a", "b")
    ]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {"f.png", "f.svg"}
    pdfs = [save_figure(spectra_figure(*tables()), tmp_path / f"{name}.PDF")[0].read_bytes() for name in "fg"]
    assert pdfs[0].startswith(b"%PDF")
    assert pdfs[0] == pdfs[1]
    with pytest.raises(SparseheadError, match=r'a figure is \.png, \.svg or \.pdf.*given "\.gif"'):
        save_figure(over_time_figure({"a": epochs()}), tmp_path / "f.gif")


@pytest.mark.parametrize(("methods", "rows", "columns"), [(1, 3, 1), (3, 3, 3), (12, 12, 3)])
def test_a_sweep_has_a_column_a_setting_and_equal_axes(methods, rows, columns):
    lams = (0.0, 1e-3, 1e-2)
    trials = [
        sweep_row(lam, seed, 0.8 + 0.01 * i - lam, method=f"method {i:02}", effective_rank_r=5 - lam, active_groups_share=1 - lam)
        for i in range(methods)
        for lam in lams
        for seed in range(3)
    ]
    axes = [ax for ax in sweep_figures(trials, summarise(trials), whole=True)[0].axes if ax.get_visible()]
    assert len(axes) == 3 * methods
    places = [ax.get_position() for ax in axes]
    assert (len({p.y0 for p in places}), len({p.x0 for p in places})) == (rows, columns)
    titled = [ax for ax in axes if ax.get_title()]
    assert [ax.get_title() for ax in titled] == [f"method {i:02}" for i in range(methods)]
    assert len({ax.get_ylim() for ax in titled}) == 1  # the same number has the same axis everywhere
    (joined,) = (line for line in titled[0].get_lines() if len(line.get_xdata()) == 2 and line.get_xdata()[1] == -2)
    assert list(joined.get_ydata()) == pytest.approx([79.9, 79.0])  # the means of λ 1e-3 and 1e-2, in %
    dots = [line for line in titled[0].get_lines() if line.get_marker() == "."]
    assert sum(len(line.get_xdata()) for line in dots) == 9
    lowest = [ax for ax in axes if ax.get_xlabel() == "λ (log)"]
    assert [t.get_text() for t in lowest[0].get_xticklabels()] == ["0", "0.001", "0.01"]


def test_nothing_around_the_panels_of_a_sweep_is_cut_off_or_covers_another():
    trials = [
        sweep_row(lam, 0, 0.8 + 1e-5 * i - lam / 1e3, method=f"method {i}", effective_rank_r=5 - lam, active_groups_share=1 - lam)
        for i in range(4)
        for lam in (0.0, 1e-3)
    ]
    figure = sweep_figures(trials, summarise(trials), whole=True)[0]
    renderer, edge = FigureCanvasAgg(figure).get_renderer(), figure.bbox
    panels = [ax.get_tightbbox(renderer) for ax in figure.axes]
    heading = figure._suptitle.get_window_extent(renderer)
    for box in (*panels, heading):
        assert edge.x0 <= box.x0 < box.x1 <= edge.x1
        assert edge.y0 <= box.y0 < box.y1 <= edge.y1
    boxes = [*panels, heading, figure.legends[0].get_window_extent(renderer)]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    label = figure.axes[0].yaxis.label.get_window_extent(renderer)
    numbers = [text.get_window_extent(renderer) for text in figure.axes[0].get_yticklabels()]
    assert not any(label.overlaps(number) for number in numbers)  # numbers of five digits, as accuracies that hardly differ have


def test_the_chosen_lam_has_a_band_and_wide_intervals_do_not_flatten_the_rest():
    trials = [sweep_row(lam, seed, 0.8 + lam + 0.01 * seed, val=0.7 - lam) for lam in (0.0, 1e-3) for seed in range(2)]
    figure = sweep_figures(trials, summarise(trials), whole=True)[0]
    probe = figure.axes[0]
    (band,) = probe.patches
    dots = next(line for line in probe.get_lines() if line.get_marker() == ".")
    places = dict(zip(dots.get_ydata().round(9), dots.get_xdata(), strict=True))
    assert set(places) == {80, 81, 80.1, 81.1}
    assert band.get_x() < places[80] == places[81] < band.get_x() + band.get_width() < places[81.1]
    assert places[80] not in {x for drawn in probe.containers for x in drawn.lines[0].get_xdata()}  # a mean would hide it
    low, high = probe.get_ylim()  # the seeds are at 80 to 81.1; the interval of two goes from 74 to 87
    assert 79 < low < 80
    assert 81.1 < high < 82
    arrows = [line for line in probe.get_lines() if line.get_label() == BEYOND]
    assert {(line.get_marker(), *line.get_ydata()) for line in arrows} == {("v", low), ("^", high)}
    assert len(arrows) == 4  # both ends of both intervals
    assert "fashion10k" in figure.get_suptitle()


def test_many_lams_are_written_at_powers_of_ten():
    lams = [0.0, *(10 ** (-5 + i / 3) for i in range(10))]
    trials = [sweep_row(lam, 0, 0.8) for lam in lams]
    figure = sweep_figures(trials, summarise(trials), whole=True)[0]
    assert [t.get_text() for t in figure.axes[-1].get_xticklabels()] == ["0", "1e-05", "0.0001", "0.001", "0.01"]
    assert figure.get_suptitle() == "fashion10k, 10 epochs"  # what marks are is in the caption
    assert sweep_caption(trials, summarise(trials), "images").startswith("One seed. ")


def test_a_panel_that_would_show_nothing_is_left_out_and_the_caption_says_so():
    trials = [sweep_row(lam, seed, 0.8 - lam, effective_rank_z=3 - lam) for lam in (0.0, 1e-3) for seed in range(2)]
    labels = [ax.get_ylabel() for ax in sweep_figures(trials, summarise(trials), whole=True)[0].axes]
    assert labels == ["linear probe of r, %", "effective rank"]  # all groups are active in all trials
    assert "same in all trials beside each other: active groups." in sweep_caption(trials, summarise(trials), "images")
    one = trials[:1]
    (figure,) = sweep_figures(one, summarise(one), whole=True)
    assert [ax.get_ylabel() for ax in figure.axes] == [*labels, "active groups, %"]


def test_collapsed_runs_are_crossed_out_where_a_rank_rises():
    ranks = {0.0: (5.0, 3.0), 1e-3: (4.0, 2.0), 1e-2: (9.0, 1.02), 1e-1: (8.0, "")}
    trials = [
        sweep_row(lam, seed, 0.8 - 0.2 * (lam > 1e-2), effective_rank_r=r, effective_rank_z=z)
        for lam, (r, z) in ranks.items()
        for seed in range(2)
    ]
    summary = summarise(trials)
    figure = sweep_figures(trials, summary, whole=True)[0]
    crosses = [line for ax in figure.axes for line in ax.get_lines() if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[-2, -1]] * 2  # of r and of z
    assert [list(line.get_ydata()) for line in crosses] == [[9, 8], [1.02, 0]]  # what is not defined has it at 0
    assert "collapsed" in [text.get_text() for text in figure.legends[0].texts]
    assert "there a higher rank of r is no gain" in sweep_caption(trials, summary, "images")


def test_no_colour_is_too_light_for_white_paper():
    def luminance(color):
        parts = np.array(color[:3])
        return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    contrasts = [1.05 / (luminance(LAM_COLORS(i / 255)) + 0.05) for i in range(256)]
    assert min(contrasts) > 2.8
    assert max(contrasts) < 15  # nor is any as dark as λ 0
    assert color_of(1e-3, [0.0, 1e-4, 1e-3]) == LAM_COLORS(1.0)


def test_eigenvalues_are_drawn_as_many_as_images_allow():
    eigenvalues, metrics = tables(lams=(0.0,), seeds=(0,))
    few = [{**m, "images": "8"} for m in metrics]
    r = spectra_figure(eigenvalues, few).axes[0]
    assert max(len(line.get_xdata()) for line in r.get_lines()) == 7
    assert r.get_xlabel().endswith("of 7")


@pytest.mark.slow
def test_for_a_paper_figures_are_as_wide_as_a_column_without_a_heading(tmp_path):
    trials = [sweep_row(lam, seed, 0.8 - lam, method=m) for m in ("simclr", "byol") for lam in (0.0, 1e-3) for seed in range(2)]
    eigenvalues, metrics = tables()
    figures = {
        "sweep": sweep_figures(trials, summarise(trials), paper=True),
        "spectra": [spectra_figure(eigenvalues, metrics, paper=True)],
        "epochs": [over_time_figure({"a": epochs()}, paper=True)],
    }
    files = save_for_paper(figures, tmp_path)
    assert [path.relative_to(tmp_path / "paper").as_posix() for path in files] == [
        f"{name}.{kind}" for name in ("sweep-1", "sweep-2", "spectra", "epochs") for kind in ("svg", "pdf")
    ]
    for figure in (figure for of_name in figures.values() for figure in of_name):
        assert figure.get_size_inches()[0] == COLUMN
        assert figure.get_suptitle() == ""
        assert {text.get_fontsize() for ax in figure.axes for text in (ax.title, ax.xaxis.label, ax.yaxis.label)} == {8}
    assert [figure.axes[0].get_title() for figure in figures["sweep"]] == ["SimCLR", "BYOL"]
