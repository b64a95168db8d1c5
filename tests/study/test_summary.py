import numpy as np
import pytest
import scipy.stats

from sparsehead_cli.runs.table_files import frame
from sparsehead_cli.study.stats import bootstrap_interval
from sparsehead_cli.study.summary import (
    NUMBERS,
    SETTING,
    base_in_words,
    by_setting,
    choose,
    collapsed_lams,
    compare,
    name_of,
    summarise,
    verdicts,
)

DEFAULTS = {"experiment": "e", "method": "simclr", "dataset": "fashion10k", "backbone": "narrow", "penalty": "l21"}
DEFAULTS |= {"solver": "subgradient", "batch_norm": "True", "projector_out": "128", "epochs": "10", "regularisers": "none"}
DEFAULTS |= {"projector": "mlp"}


def row(lam, seed, accuracy, val=None, **changes):
    numbers = (
        dict.fromkeys(NUMBERS, "1.0")
        | {"effective_rank_r": "5.0", "effective_rank_z": "5.0"}
        | {"accuracy": str(accuracy), "val_accuracy": str(accuracy if val is None else val)}
    )
    return {**DEFAULTS, "lam": str(lam), "seed": str(seed), **numbers, **{k: str(v) for k, v in changes.items()}}


def rows(by_lam, **changes):
    return [row(lam, seed, value, **changes) for lam, values in by_lam.items() for seed, value in enumerate(values)]


def of(summary, lam, metric="accuracy"):
    return next(r for r in summary if (r["lam"], r["metric"]) == (lam, metric))


def test_differences_are_paired_by_seed_and_scipys():
    zero, thin = [0.80, 0.84, 0.82, 0.81], [0.82, 0.85, 0.85, 0.82]
    found = of(summarise(rows({0.0: zero, 1e-3: thin})), 1e-3)
    expected = scipy.stats.ttest_rel(thin, zero)
    interval = expected.confidence_interval(0.95)
    assert (found["difference"], found["difference_low"], found["difference_high"]) == pytest.approx(
        (np.mean(thin) - np.mean(zero), interval.low, interval.high)
    )
    assert (found["mean"], found["sd"], found["seeds"]) == pytest.approx((np.mean(thin), np.std(thin, ddof=1), 4))


def test_a_number_that_no_seed_has_is_not_defined_and_the_others_are():
    """As of a head all of whose inputs died: how many of them a batch needs is nothing."""
    dead = rows({1e-1: [0.5, 0.6]}, effective_rank_z="", functional_features_share="")
    summary = summarise(rows({0.0: [0.8, 0.9]}) + dead)
    for metric in ("effective_rank_z", "functional_features_share"):
        undefined = of(summary, 1e-1, metric)
        assert all(np.isnan(undefined[column]) for column in ("mean", "sd", "low", "difference", "bootstrap_low"))
    assert of(summary, 1e-1)["mean"] == pytest.approx(0.55)
    assert verdicts(summary)[0].startswith("SimCLR: no λ above 0 can be chosen on held-out images. At λ 0.1 r or z")


def test_the_bootstrap_is_scipys_percentile_bootstrap():
    values = list(np.random.default_rng(0).normal(size=12))
    expected = scipy.stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert bootstrap_interval(values) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert np.isnan(bootstrap_interval([1.0])).all()


def test_on_null_data_the_paired_interval_holds_zero_nineteen_times_of_twenty():
    """2,000 sweeps of five seeds in which λ does nothing, with a strong effect of the seed on both."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        seeds = rng.normal(0.8, 0.05, size=5)
        zero, thin = ({i: s + rng.normal(0, 0.01) for i, s in enumerate(seeds)} for _ in range(2))
        found = compare(thin, zero)
        inside += found["difference_low"] <= 0 <= found["difference_high"]
    assert 0.93 * 2000 <= inside <= 0.97 * 2000


def test_a_chosen_lam_is_claimed_to_improve_somewhat_more_often_than_a_fixed_one_and_seldom():
    """2,000 sweeps of five λ in which none does anything; what training leaves to chance is half common to both sets of images."""
    rng = np.random.default_rng(0)
    claimed = 0
    for _ in range(2000):
        by_lam, accuracies = {}, {}
        for lam in (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2):
            training, images = rng.normal(0.8, 0.01, size=5), rng.normal(0, 0.01, size=(2, 5))
            held_out, test = training + images
            by_lam[lam], accuracies[lam] = list(held_out), dict(enumerate(test))
        best, _ = choose(by_lam)
        claimed += best > 0 and compare(accuracies[best], accuracies[0.0])["difference_low"] > 0
    assert 0.025 * 2000 < claimed < 0.06 * 2000


def test_a_lam_that_lacks_seeds_is_not_chosen():
    """λ 1e-2 is worse in each seed that it has; its mean is better, for it failed in the worst."""
    trials = rows({0.0: [0.86, 0.80, 0.84], 1e-2: [0.857, 0.838]})
    trials[-1] |= {"seed": "2"}
    assert {r["lam"] for r in summarise(trials) if r["chosen"] in ("best", "both")} == {0.0}
    (verdict,) = verdicts(summarise(trials))
    assert "no λ above 0 can be chosen" in verdict
    assert "λ 0.01 lacks seeds" in verdict


@pytest.mark.parametrize("rank", ["", "1.05"])
def test_a_collapsed_head_is_never_the_best(rank):
    """Its r may still be the best by chance, and one seed is enough: whoever takes it may have that one."""
    trials = rows({0.0: [0.80, 0.80], 1e-3: [0.81, 0.82], 1e-1: [0.90, 0.90]})
    trials[-1] |= {"effective_rank_z": rank}
    summary = summarise(trials)
    assert {r["lam"]: r["chosen"] for r in summary} == {0.0: "", 1e-3: "best", 1e-1: "collapsed"}
    (text,) = verdicts(summary)
    assert "λ 0.001, chosen on held-out images" in text
    assert "At λ 0.1 r or z has collapsed, which is not chosen." in text
    assert "lacks seeds" not in text


def test_where_all_have_collapsed_none_is_chosen():
    trials = [row | {"effective_rank_r": "1.0"} for row in rows({0.0: [0.8, 0.8], 1e-3: [0.9, 0.9]})]
    assert {r["chosen"] for r in summarise(trials)} == {"collapsed"}
    (text,) = verdicts(summarise(trials))
    assert text == "SimCLR: no λ can be chosen. At λ 0, 0.001 r or z has collapsed, which is not chosen."


def test_regularisers_are_compared_with_neither():
    """λ 0 and no regulariser is the base line of all, seed by seed; the regulariser alone is compared with it, too."""
    trials = [
        *rows({0.0: [0.80, 0.82, 0.84], 1e-3: [0.79, 0.81, 0.83]}),
        *rows({0.0: [0.83, 0.85, 0.872], 1e-3: [0.84, 0.86, 0.883]}, regularisers="koleo:0.1"),
        *rows({0.0: [0.5, 0.5, 0.5]}, regularisers="koleo:0.1", method="byol"),
    ]
    summary = summarise(trials)
    by = {(r["method"], r["regularisers"], r["lam"]): r for r in summary if r["metric"] == "accuracy"}
    assert by["simclr", "none", 0.0]["difference"] == ""
    assert by["simclr", "none", 1e-3]["difference"] == pytest.approx(-0.01)
    assert by["simclr", "koleo:0.1", 0.0]["difference"] == pytest.approx((0.03 + 0.03 + 0.032) / 3)
    assert by["simclr", "koleo:0.1", 1e-3]["difference"] == pytest.approx((0.04 + 0.04 + 0.043) / 3)
    assert by["byol", "koleo:0.1", 0.0]["difference"] == ""  # without a base line it is one itself
    plain, cured, alone = verdicts(summary)
    no_better = "no λ has a better mean than 0 on held-out images; the next best, λ 0.001, is -1.0 points"
    assert plain.startswith(f"SimCLR, without regularisers: {no_better}")
    assert "λ 0.001, chosen on held-out images, is +4.1 points" in cured
    assert "from λ 0 without regularisers on test images: an improvement. The regulariser alone is +3.1 points" in cured
    assert alone == "BYOL, with koleo:0.1: λ 0 alone was trained, and there is no other to compare it with."


def test_what_stands_in_the_place_of_an_mlp_is_compared_with_it():
    """Its width is its own; the base line is of the recipe's."""
    trials = [
        *rows({0.0: [0.80, 0.82, 0.84], 1e-3: [0.79, 0.81, 0.83]}),
        *rows({0.0: [0.78, 0.80, 0.823]}, projector="direct:64", projector_out="64"),
    ]
    summary = summarise(trials)
    by = {(r["projector"], r["lam"]): r for r in summary if r["metric"] == "accuracy"}
    assert by["direct:64", 0.0]["difference"] == pytest.approx(-(0.02 + 0.02 + 0.017) / 3)
    assert by["mlp", 0.0]["difference"] == ""
    _, cut = verdicts(summary)
    assert cut.startswith("SimCLR, head direct:64: -1.9 points (-2.3 to -1.5) from λ 0 with an mlp on test images: a loss.")


@pytest.mark.parametrize(
    ("all_have", "varied"),
    [({"projector": "direct:64"}, {"regularisers": "koleo:1"}), ({"regularisers": "koleo:1"}, {"projector": "direct:64"})],
)
def test_what_all_trials_have_is_no_cure(all_have, varied):
    """Then the other cure is compared with λ 0 without it alone."""
    trials = [*rows({0.0: [0.80, 0.82]}, **all_have), *rows({0.0: [0.81, 0.83]}, **all_have, **varied)]
    ((column, value),) = varied.items()
    found = [r["difference"] for r in summarise(trials) if r["metric"] == "accuracy" and r[column] == value]
    assert found == [pytest.approx(0.01)]
    words = {"regularisers": "λ 0 without regularisers", "projector": "λ 0 with an mlp"}
    assert base_in_words(summarise(trials)) == words[column]


def test_regularisers_of_all_trials_are_not_what_is_compared():
    found = summarise(rows({0.0: [0.8, 0.8], 1e-3: [0.9, 0.9]}, regularisers="koleo:0.1"))
    assert of(found, 1e-3)["difference"] == pytest.approx(0.1)
    assert of(found, 0.0)["difference"] == ""
    assert "from λ 0 on test images" in verdicts(found)[0]


def test_the_largest_lam_is_not_praised_where_larger_ones_were_pruned():
    summary = summarise(rows({0.0: [0.8, 0.8], 1e-3: [0.9, 0.9]}))
    pruned = {**row(1e-2, 0, 0.5), "epoch": "2", "mean_knn_accuracy": "0.5", "best_knn_accuracy": "0.9"}
    assert "larger ones may be better" in verdicts(summary)[0]
    assert "larger ones may be better" not in verdicts(summary, [pruned])[0]


def test_lam_is_chosen_on_held_out_images_and_the_sparsest_within_one_standard_error():
    held_out = {0.0: [0.80, 0.82], 1e-3: [0.86, 0.84], 3e-3: [0.845, 0.845], 1e-2: [0.70, 0.70]}
    test = {0.0: [0.99, 0.99], 1e-3: [0.5, 0.5], 3e-3: [0.5, 0.5], 1e-2: [0.5, 0.5]}
    trials = [row(lam, s, test[lam][s], val=held_out[lam][s], active_groups_share=1 - lam) for lam in held_out for s in (0, 1)]
    assert choose(held_out) == (1e-3, 3e-3)
    chosen = {r["lam"]: r["chosen"] for r in summarise(trials)}
    assert chosen == {0.0: "", 1e-3: "best", 3e-3: "sparsest", 1e-2: ""}
    assert "The sparsest within one standard error of it is λ 0.003." in verdicts(summarise(trials))[0]
    everywhere = summarise([{**trial, "active_groups_share": "1.0"} for trial in trials])  # a head with all groups is not sparse
    assert {r["lam"]: r["chosen"] for r in everywhere} == {0.0: "", 1e-3: "best", 3e-3: "", 1e-2: ""}
    assert "sparsest" not in verdicts(everywhere)[0]


def test_where_a_network_has_collapsed_or_the_probe_has_fallen_a_rank_is_no_gain():
    numbers = {0.0: (0.8, "5.0"), 1e-3: (0.82, "1.05"), 1e-2: (0.74, "4.0"), 1e-1: (0.79, "")}
    trials = [row(lam, s, accuracy + s / 100, effective_rank_z=rank) for lam, (accuracy, rank) in numbers.items() for s in (0, 1)]
    assert collapsed_lams(frame(summarise(trials))) == [1e-3, 1e-2, 1e-1]


def test_of_sentences_a_verdict_speaks_of_sentences():
    (text,) = verdicts(summarise(rows({0.0: [0.8, 0.81], 1e-3: [0.7, 0.7]}, dataset="wordnet10k")))
    assert "held-out sentences" in text
    assert "images" not in text


def test_lam_zero_stands_under_every_penalty_and_solver_of_its_kind():
    trials = [
        *rows({0.0: [0.8, 0.8]}),
        *rows({1e-3: [0.9, 0.9]}),
        *rows({1e-4: [0.7, 0.7]}, penalty="l1"),
        *rows({1e-3: [0.6, 0.6]}, projector_out=16),
    ]
    assert [len(own) for own in by_setting(trials).values()] == [4, 4, 2]
    found = summarise(trials)
    differences = {(r["penalty"], r["projector_out"]): r["difference"] for r in found if r["lam"] and r["metric"] == "accuracy"}
    assert differences[("l21", "128")] == pytest.approx(0.1)
    assert differences[("l1", "128")] == pytest.approx(-0.1)
    assert differences[("l21", "16")] == ""  # there is no λ 0 of that head


@pytest.mark.parametrize(
    ("by_lam", "says"),
    [
        ({0.0: [0.80, 0.81, 0.82], 1e-3: [0.83, 0.84, 0.851]}, r"\+3.0 points \(\+2.9 to \+3.2\) from λ 0 .*: an improvement\."),
        ({0.0: [0.80, 0.81, 0.82], 1e-3: [0.80, 0.86, 0.80]}, "the interval includes 0, no change is shown"),
        ({0.0: [0.80, 0.81, 0.82], 1e-3: [0.70, 0.71, 0.72]}, r"λ 0.001, is -10.0 points .* test images: a loss\."),
        ({0.0: [0.80, 0.84], 1e-3: [0.79, 0.84]}, r"λ 0.001, is -0.5 points \(-6.9 to \+5.9\) .*: the interval includes 0"),
        ({0.0: [0.80, 0.84]}, "λ 0 alone was trained"),
        ({0.0: [0.80], 1e-3: [0.90]}, "in a single seed, which is no evidence"),
        ({1e-3: [0.90, 0.91]}, "without trials at λ 0 there is nothing to compare"),
    ],
)
def test_a_verdict_claims_no_more_than_its_interval_allows(by_lam, says):
    (text,) = verdicts(summarise(rows(by_lam)))
    import re

    assert re.search(says, text), text


def test_a_lam_that_is_best_held_out_and_worse_on_test_images_is_a_loss():
    trials = [row(0.0, s, 0.9 + s / 1000, val=0.8) for s in range(3)] + [row(1e-3, s, 0.85 + s / 999, val=0.9) for s in range(3)]
    assert ": a loss." in verdicts(summarise(trials))[0]


def test_settings_are_named_by_what_differs():
    summary = summarise([*rows({0.0: [0.8, 0.8], 1e-3: [0.9, 0.9]}), *rows({1e-3: [0.7, 0.7]}, projector_out=16)])
    told = [r for r in summary if r["metric"] == "accuracy"]
    assert {name_of(r, told) for r in told} == {"SimCLR, E = 128", "SimCLR, E = 16"}
    assert len({tuple(r[c] for c in SETTING) for r in told}) == 2


def test_what_recipes_bring_tells_the_settings_of_one_method_apart_and_not_methods():
    methods = [*rows({0.0: [0.8], 1e-3: [0.9]}), *rows({0.0: [0.7], 1e-3: [0.7]}, method="wmse", projector_out=64)]
    summary = summarise([*methods, *rows({1e-3: [0.7]}, method="wmse", projector_out=32)])
    assert {name_of(r, summary) for r in summary} == {"SimCLR", "W-MSE, E = 64", "W-MSE, E = 32"}
    other = summarise([*methods, *rows({1e-3: [0.7]}, penalty="l1")])
    assert {name_of(r, other) for r in other} == {"SimCLR, l21", "SimCLR, l1", "W-MSE, l21"}
