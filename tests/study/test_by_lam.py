import pytest

from sparsehead_cli.study.by_lam import by_lam
from sparsehead_cli.study.labels import groups, labels
from sparsehead_cli.study.stats import mean_interval


def row(lam, seed, value, **changes):
    name = f"simclr-l21-lam{lam}-seed{seed}"
    found = {"experiment": "e", "run": name, "method": "simclr", "dataset": "fashion10k", "backbone": "narrow"}
    found |= {"penalty": "l21", "solver": "subgradient", "lam": str(lam), "seed": str(seed), "eval_dataset": "fashion10k"}
    found |= {"split": "test", "checkpoint": name, "features": "r", "metric": "effective_rank", "value": str(value)}
    found |= changes
    return {"task": f"{found['experiment']}{found['method']}{found['run']}{found['checkpoint']}", **found}


VALUES = {(0.0, 0): 12.0, (0.0, 1): 11.0, (0.0, 2): 13.0, (1e-3, 0): 10.0, (1e-3, 1): 10.5, (1e-3, 2): 11.0}
ROWS = [row(*key, value) for key, value in VALUES.items()]


def test_means_and_paired_differences():
    zero, thin = by_lam(ROWS)
    assert (zero["lam"], thin["lam"], thin["seeds"]) == (0.0, 1e-3, 3)
    assert (zero["mean"], zero["low"], zero["high"]) == mean_interval([12.0, 11.0, 13.0])
    assert zero["difference"] == ""
    assert tuple(thin[c] for c in ("difference", "difference_low", "difference_high")) == mean_interval([-2.0, -0.5, -2.0])


def test_only_seeds_that_both_have_are_paired():
    (_, thin) = by_lam([r for r in ROWS if r["run"] != "simclr-l21-lam0.0-seed1"])
    assert thin["seeds"] == 3
    assert thin["difference"] == pytest.approx(-2)


def test_without_a_lam_of_zero_there_are_no_differences():
    found = by_lam([{**r, "lam": "0.003"} if r["lam"] == "0.0" else r for r in ROWS])
    assert [r["lam"] for r in found] == [1e-3, 3e-3]
    assert {r["difference"] for r in found} == {""}


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[:3],  # one λ
        [ROWS[0], ROWS[3]],  # one seed
        [*ROWS, row(0.0, 0, 5.0, checkpoint="another head")],  # a λ and seed twice
        [*ROWS, *(row(lam, 0, width, features="z", metric="dim") for lam, width in ((0.0, 64), (1e-3, 128)))],  # two widths
        [{**row(0.0, seed, 1.0), "lam": "", "seed": ""} for seed in (0, 1)],  # somebody else's
    ],
)
def test_what_cannot_be_compared_is_not(rows):
    assert by_lam(rows) == []


def test_settings_are_apart_and_numbers_that_are_none_are_left_out():
    other = [{**r, "method": "byol", "value": "nan" if r["seed"] == "0" else r["value"]} for r in ROWS]
    found = by_lam([*ROWS, *other])
    assert [(r["method"], r["lam"], r["seeds"]) for r in found] == [
        ("simclr", 0.0, 3),
        ("simclr", 1e-3, 3),
        ("byol", 0.0, 2),
        ("byol", 1e-3, 2),
    ]


def test_labels_say_what_differs():
    assert list(labels(ROWS).values())[:4] == ["λ 0, seed 0", "λ 0, seed 1", "λ 0, seed 2", "λ 0.001, seed 0"]
    assert list(labels(ROWS[:1]).values()) == ["λ 0, seed 0"]
    assert list(labels(ROWS[:2]).values()) == ["λ 0, seed 0", "λ 0, seed 1"]
    foreign = {**row(0.0, 0, 1.0, run="resnet50", experiment="downloads"), "lam": "", "seed": ""}
    assert list(labels([ROWS[0], foreign]).values()) == ["simclr-l21-lam0.0-seed0", "resnet50"]
    again = {**foreign, "experiment": "elsewhere", "checkpoint": "0123456789", "task": "another"}
    assert list(labels([foreign, again]).values()) == ["downloads/resnet50", "elsewhere/resnet50"]
    twins = [row(0.0, 0, 1.0, checkpoint=c, eval_dataset="mnist") for c in ("aaaaaaaa", "bbbbbbbb")]
    assert len(set(labels(twins).values())) == 2


def test_groups_are_runs_that_differ_in_their_seed_alone_by_rising_lam():
    found = groups(ROWS[::-1])
    assert list(found) == ["λ 0 (3 seeds)", "λ 0.001 (3 seeds)"]
    assert all(len(tasks) == 3 for tasks in found.values())
    assert list(groups(ROWS[:3])) == ["λ 0 (3 seeds)"]
    assert list(groups([ROWS[0], ROWS[3]])) == ["λ 0", "λ 0.001"]
    twice = groups([*ROWS[:3], row(0.0, 0, 5.0, checkpoint="another head", run="another")])
    assert [len(tasks) for tasks in twice.values()] == [3, 1]
