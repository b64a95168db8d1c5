"""The map of a sweep: a square for each difference, grey where it is noise. That it looks right was looked at."""

from sparsehead_cli.present.figures_map import NOISE, has_map, map_figure
from sparsehead_cli.study.summary import summarise
from tests.study.test_summary import rows


def summary(**more):
    trials = [
        *rows({0.0: [0.80, 0.82, 0.84], 1e-3: [0.85, 0.87, 0.8901], 1e-1: [0.81, 0.80, 0.85]}, **more),
        *rows({0.0: [0.70, 0.72, 0.74], 1e-3: [0.69, 0.71, 0.7301], 1e-1: [0.2, 0.2, 0.2]}, method="byol", **more),
    ]
    for row in trials[-3:]:
        row["effective_rank_z"] = ""
    return summarise(trials)


def test_what_is_written_in_which_squares():
    figure = map_figure(summary())
    probe, _, rank_z = figure.axes
    assert [label.get_text() for label in probe.get_yticklabels()] == ["SimCLR", "BYOL"]
    assert [label.get_text() for label in probe.get_xticklabels()] == ["0.001", "0.1"]
    texts = [text.get_text() for text in probe.texts]
    assert texts == ["+5.0", "+0.0", "-1.0", "-52×"]
    colors = [patch.get_facecolor() for patch in probe.patches]
    grey = tuple(int(NOISE[i : i + 2], 16) / 255 for i in (1, 3, 5))
    assert [color[:3] == grey for color in colors] == [False, True, False, False]
    gain, _, loss, most = colors
    assert gain[0] > gain[2]  # orange
    assert most[2] > most[0]  # violet
    assert loss[2] > loss[0]
    assert [text.get_text() for text in rank_z.texts] == ["+0.0", "+0.0", "+0.0", "×"]  # it has no rank
    assert "of 11 squares without any effect" in figure.get_suptitle()


def test_what_has_no_map():
    assert has_map(summary())
    assert not has_map(summarise(rows({0.0: [0.8, 0.8], 1e-3: [0.9, 0.9]})))  # one setting
    single = [*rows({0.0: [0.8], 1e-3: [0.9]}), *rows({0.0: [0.8], 1e-3: [0.9]}, method="byol")]
    assert not has_map(summarise(single))  # one seed: nothing but noise
    of_their_own = [
        *rows({0.0: [0.8, 0.8], 1e-3: [0.9, 0.91], 1e-2: [0.9, 0.91]}),
        *rows({0.0: [0.8, 0.8], 2e-3: [0.9, 0.91], 2e-2: [0.9, 0.91]}, method="byol"),
    ]
    assert not has_map(summarise(of_their_own))  # most squares would be empty


def test_regularisers_alone_have_a_column():
    trials = [
        *rows({0.0: [0.80, 0.82], 1e-3: [0.85, 0.87]}),
        *rows({0.0: [0.70, 0.721], 1e-3: [0.69, 0.711]}, regularisers="koleo:0.1"),
    ]
    probe = map_figure(summarise(trials)).axes[0]
    assert [label.get_text() for label in probe.get_xticklabels()] == ["0", "0.001"]
    assert [label.get_text() for label in probe.get_yticklabels()] == [
        "SimCLR, without regularisers",
        "SimCLR, with koleo:0.1",
    ]
    assert len(probe.texts) == 3  # λ 0 without regularisers is what they are compared with
