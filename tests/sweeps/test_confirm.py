"""`sweep-lambda --confirm`: a pilot chooses, a plan is frozen, fresh seeds judge. Tables are made up here; no trial is run."""

import dataclasses
import re

import numpy as np
import pytest
import yaml

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.present.commands import commands_of
from sparsehead_cli.present.confirm import show_plan
from sparsehead_cli.present.confirmation import confirmation_figure, confirmation_tables, cures_tables, show_confirmation
from sparsehead_cli.present.console import Console
from sparsehead_cli.present.report import write_study
from sparsehead_cli.present.sweep import stop_text
from sparsehead_cli.runs.config import parse_set
from sparsehead_cli.runs.folder import identity_columns
from sparsehead_cli.runs.table_files import read_csv, replace_csv
from sparsehead_cli.runs.tables import TABLES
from sparsehead_cli.study.confirm import read_confirmation, sentences
from sparsehead_cli.study.equal import AT_EQUAL
from sparsehead_cli.study.plan import CONTROL, first_seed, read_plan
from sparsehead_cli.study.results import CONFIRMATION_CSV, CURVES_CSV, PLAN, SUMMARY_CSV, SWEEP_CSV
from sparsehead_cli.study.stats import holm
from sparsehead_cli.study.study import read_study
from sparsehead_cli.sweeps.confirm import check_confirm, confirm, confirmed, confirming, frozen_plan, most_arms
from sparsehead_cli.sweeps.grid import read_grid
from sparsehead_cli.sweeps.request import SweepRequest
from sparsehead_cli.sweeps.sweep import read_state, write_tables
from sparsehead_cli.sweeps.trial import setting_columns
from tests.rows import full_row
from tests.sweeps.conftest import SMALL

AXES = {"lams": "0,1e-3,1e-2", "methods": "simclr,byol", "penalties": "l21,l2-matched", "seeds": 3}


@pytest.fixture
def request_(tmp_path):
    def make(confirm=8, **axes):
        settings = {"epochs": 2, "dataset": "fashion1k", "results": tmp_path / "r", **parse_set(SMALL[7::2])}
        grid = read_grid("lambda-quick", None, AXES | axes, settings)
        return SweepRequest(grid=grid, experiment="lambda-quick", confirm=confirm)

    return make


def made_up(state, effect=lambda config: 0.0, points=0.002):
    """Rows of a sweep whose seeds differ by much, and the differences within a seed by `points`; effects are of the probe.

    Their commit is always the same: a plan's fresh seeds follow its pilot's rows, and another commit would draw other numbers.
    """
    rows = []
    for name, config in state.configs.items():
        point = [int(config.lam * 1e6), len(config.method), len(config.penalty), len(config.regularisers or ())]
        lot = np.random.default_rng([config.seed, *point])
        level = 0.6 + 0.05 * np.random.default_rng(config.seed).standard_normal() + effect(config)
        numbers = {column: level + points * lot.standard_normal() for column in ("accuracy", "val_accuracy")}
        ranks = {f"effective_rank_{of}": 8 + 0.1 * lot.standard_normal() for of in "rz"}
        columns = {**identity_columns(config, name), **setting_columns(config), "trained_on": "", "commit": "made-up"}
        rows.append(full_row("sweep.csv", **columns, **numbers, **ranks))
    return rows


def keep(state, rows):
    """Write a sweep's tables."""
    state.folder.mkdir(parents=True, exist_ok=True)
    replace_csv(state.folder / SWEEP_CSV, rows)
    columns = TABLES[CURVES_CSV].columns
    kept = [{column: value for column, value in row.items() if column in columns} for row in rows]
    replace_csv(state.folder / CURVES_CSV, [full_row(CURVES_CSV, **row, epoch=1) for row in kept])


def better(config):
    """λ 1e-2 of l21 is better by two points, and its control by one; more so with SimCLR."""
    return {"l21": 0.02, CONTROL: 0.01}[config.penalty] * (config.lam == 1e-2) * (1 if config.method == "simclr" else 0.5)


@pytest.fixture
def planned(request_):
    """(request, the state of a pilot whose trials are there, its plan)."""
    request = request_()
    keep(read_state(request), made_up(read_state(request), better))
    pilot = read_state(request)
    return request, pilot, frozen_plan(request, pilot)[0]


def finish(request, pilot, plan, effect=better, seeds=8):
    """Write the confirming sweep's table, of so many of its seeds."""
    state = confirming(request, plan, pilot)
    keep(state, made_up(state, effect)[: seeds * len(state.configs) // len(plan.seeds)])
    return state


def test_a_plan_has_the_best_of_each_method_and_nothing_of_the_control(planned):
    _, pilot, plan = planned
    assert [(choice.method, choice.setting["penalty"], choice.lam) for choice in plan.choices] == [
        ("simclr", "l21", 0.01),
        ("byol", "l21", 0.01),
    ]
    first = plan.seeds[0]
    assert (plan.pilot_seeds, plan.seeds) == ([0, 1, 2], list(range(first, first + 8)))
    assert first == first_seed(plan.pilot, 8) > 1_000
    assert len({first_seed("a", 8), first_seed("a", 16), first_seed("b", 8)}) == 3  # no second look at the same seeds
    assert len(plan.tried) == 2 * (3 + 3)  # λ 0 is in the table of each penalty
    for choice in plan.choices:
        assert {arm: len(runs) for arm, runs in choice.runs.items()} == {"zero": 8, "chosen": 8, "control": 8}
        assert all(0 < found < 1 for found in (choice.detectable["accuracy"], choice.detectable["effective_rank_r"]))
    assert read_plan(pilot.folder) == plan
    assert plan.hash in (pilot.folder / PLAN).read_text()


def test_the_confirming_runs_are_whole_pairs_of_fresh_seeds(planned):
    request, pilot, plan = planned
    state = confirming(request, plan, pilot)
    configs = list(state.configs.values())
    assert state.folder == pilot.folder / "confirm"
    assert [config.seed for config in configs] == [seed for seed in plan.seeds for _ in range(6)]
    assert {config.penalty for config in configs if config.lam} == {"l21", CONTROL}
    changed = {"seed": 0, "experiment": "", "lam": 0.0, "penalty": "l21", "results": None}
    for config in configs:  # but for these a run is what the pilot's was
        pilots = [one for one in pilot.configs.values() if one.method == config.method]
        assert dataclasses.replace(config, **changed) == dataclasses.replace(pilots[0], **changed)
    assert frozen_plan(request, pilot) == (plan, False)  # called again, it is read


def test_nothing_is_judged_before_every_run_is_there(planned):
    request, pilot, plan = planned
    finish(request, pilot, plan, seeds=6)
    found = read_confirmation(pilot.folder)
    assert (found.done, found.planned, found.rows) == (36, 48, [])
    assert len(sentences(found)) == 1
    assert "36 of 48 confirming runs are there. Nothing is compared before all are" in sentences(found)[0]
    state, summary = confirming(request, plan, pilot), pilot.folder / "confirm" / SUMMARY_CSV
    summary.write_text("which an older version left")
    assert write_tables(state)[1] == []
    assert not summary.exists()
    assert stop_text(request, state).startswith("36 of 48 trials have finished and are in sweep.csv. The same command")
    finish(request, pilot, plan)
    assert write_tables(confirming(request, plan, pilot))[1]
    assert read_csv(summary)


def test_a_true_effect_is_shown_beside_what_its_control_does(planned):
    request, pilot, plan = planned
    finish(request, pilot, plan)
    found = read_confirmation(pilot.folder)
    rows = {(row["method"], row["contrast"], row["metric"]): row for row in found.rows}
    probe = rows["simclr", "chosen - zero", "accuracy"]
    assert probe["difference"] == pytest.approx(0.02, abs=0.003)
    assert probe["p_t"] < probe["p_holm"] < 0.05
    assert rows["simclr", "control - zero", "accuracy"]["difference"] == pytest.approx(0.01, abs=0.003)
    assert rows["simclr", "chosen - control", "accuracy"]["difference"] == pytest.approx(0.01, abs=0.003)
    text = "\n".join(sentences(found))
    assert re.search(
        r"SimCLR: λ 0\.01 of l21 \(subgradient\), head with BatchNorm, E = 8, chosen by 3 pilot seeds, on 8 fresh ones:", text
    )
    assert re.search(r"linear probe of r \+[12]\.\d\d points \(.*\), p \S+ after Holm: a rise is shown", text)
    assert re.search(
        r"effective rank of r .* no change is shown; one of \d\.\d\d would have been found in 80 % of such studies", text
    )


def test_a_collapsed_embedding_counts_with_rank_zero(planned):
    request, pilot, plan = planned
    state = finish(request, pilot, plan)
    rows = list(read_csv(state.folder / SWEEP_CSV))
    for row in rows:
        if row["method"] == "byol" and row["penalty"] == "l21" and float(row["lam"]):
            row["effective_rank_z"] = ""
    replace_csv(state.folder / SWEEP_CSV, rows)
    found = read_confirmation(pilot.folder)
    rank = next(r for r in found.rows if (r["method"], r["contrast"], r["metric"]) == ("byol", "chosen - zero", "effective_rank_z"))
    assert (rank["seeds"], rank["mean"]) == (8, 0.0)
    assert rank["difference"] == pytest.approx(-8, abs=0.2)


def test_what_the_control_does_not_match_has_none(request_):
    request = request_(penalties="l1", methods="simclr")
    keep(read_state(request), made_up(read_state(request)))
    pilot = read_state(request)
    plan, _ = frozen_plan(request, pilot)
    assert set(plan.choices[0].runs) == {"zero", "chosen"}
    finish(request, pilot, plan, effect=lambda config: 0.0)
    found = read_confirmation(pilot.folder)
    assert found.complete
    assert {row["contrast"] for row in found.rows} == {"chosen - zero"}
    assert not any("control" in line for line in sentences(found))


CURED = {"penalties": "l21", "methods": "simclr", "regularisers": "none,koleo:0.1,variance:1"}


def cured(config):
    """Koleo is better by a point, λ 1e-2 beside it by another one."""
    return (config.regularisers == ("koleo:0.1",)) * (0.01 + 0.01 * (config.lam == 1e-2))


def test_each_cure_is_a_choice_of_its_own(request_, capsys):
    request = request_(**CURED)
    keep(read_state(request), made_up(read_state(request), cured))
    pilot = read_state(request)
    plan, _ = frozen_plan(request, pilot)
    assert {choice.regularisers for choice in plan.choices if choice.lam == 0} == {"koleo:0.1", "variance:1"}
    alone, choice = (choice for choice in plan.choices if choice.lam)
    assert (alone.regularisers, choice.regularisers, choice.lam) == ("none", "koleo:0.1", 1e-2)
    assert set(choice.runs) == {"zero", "chosen", "control", "regularisers"}
    of_koleo = next(other for other in plan.choices if (other.lam, other.regularisers) == (0, "koleo:0.1"))
    assert of_koleo.runs == {"zero": choice.runs["zero"], "chosen": choice.runs["regularisers"]}
    state = finish(request, pilot, plan, cured)
    by_arm = {arm: state.configs[names[0]] for arm, names in choice.runs.items()}
    stated = {arm: (config.lam, config.penalty, config.regularisers) for arm, config in by_arm.items()}
    assert stated == {
        "zero": (0, "l21", None),
        "chosen": (1e-2, "l21", ("koleo:0.1",)),
        "control": (1e-2, CONTROL, ("koleo:0.1",)),
        "regularisers": (0, "l21", ("koleo:0.1",)),
    }
    found = read_confirmation(pilot.folder)
    assert (found.done, found.planned) == (len(state.configs), 7 * 8)  # two controls among them
    primary = [row for row in found.rows if row.get("p_holm") not in (None, "")]
    assert len(primary) == 4 * 3
    assert [row["p_holm"] for row in primary] == holm([row["p_t"] for row in primary])
    rows = {row["contrast"]: row["difference"] for row in found.rows if row["metric"] == "accuracy" and choice.is_of(row)}
    assert rows["chosen - zero"] == pytest.approx(0.02, abs=0.003)
    assert rows["regularisers - zero"] == pytest.approx(0.01, abs=0.003)
    assert rows["chosen - regularisers"] == pytest.approx(0.01, abs=0.003)
    text = "\n".join(sentences(found))
    assert "λ 0.01 of l21 (subgradient), regularisers koleo:0.1, head with BatchNorm" in text
    assert "koleo:0.1 alone, from λ 0 without: linear probe of r +" in text
    assert confirmed(plan, pilot.folder, confirming(request, plan, pilot)).rows == found.rows
    kept = read_csv(pilot.folder / CONFIRMATION_CSV)
    assert [float(row["difference"]) for row in kept] == pytest.approx([row["difference"] for row in found.rows])
    labels = [label.get_text() for label in confirmation_figure(found).axes[0].get_yticklabels()]
    cures = {f"λ {alone.lam:g}", "koleo:0.1", "variance:1", "λ 0.01 and koleo:0.1"}
    added = {f"λ {alone.lam:g} − its control", "λ 0.01 and koleo:0.1 − its control", "λ 0.01 and koleo:0.1 − koleo:0.1 alone"}
    assert set(labels) == cures | added
    assert len(confirmation_tables(found)) == 4
    table, beside = cures_tables(found)
    assert table.lines[0][0].value == "λ 0: the mean"
    assert {line[0].value for line in table.lines[1:]} == cures
    assert {line[0].value for line in beside.lines} == added
    (of_both,) = [line for line in table.lines if line[0].value == "λ 0.01 and koleo:0.1"]
    assert re.fullmatch(r"\+[12]\.\d\d ± 0\.\d\d \*", of_both[1].text)  # the probe, which is made to rise by two points
    judged = [row for row in primary if choice.is_of(row)]
    assert [cell.text for cell in of_both[2:7:2]] == [f"{row['p_holm']:.2g}" for row in judged]
    assert not of_both[3].text.endswith("*")
    show_plan(Console(), plan, pilot.folder, is_new=False)
    assert capsys.readouterr().out.count("8 fresh seeds find with 80 % power: linear probe of r ±") == 1  # for all four
    show_confirmation(Console(), found)
    out = capsys.readouterr().out
    assert "after Holm over 12 tests" in " ".join(out.split())
    assert "− its control" in out
    assert f"{CONTROL} at the same λ, which only shrinks" in " ".join(out.split())
    assert re.search(r"linear probe of r: a rise is shown with .*λ 0\.01 and koleo:0\.1", " ".join(out.split()))
    assert "effective rank of r: none of the 4 cures is shown to change it; a change of " in " ".join(out.split())
    assert frozen_plan(request, read_state(request)) == (plan, False)


def test_regularisers_alone_can_be_chosen(request_):
    request = request_(**CURED, lams="0")
    keep(read_state(request), made_up(read_state(request), cured))
    pilot = read_state(request)
    plan, _ = frozen_plan(request, pilot)
    assert [(choice.lam, choice.regularisers) for choice in plan.choices] == [(0, "koleo:0.1"), (0, "variance:1")]
    assert all(set(choice.runs) == {"zero", "chosen"} for choice in plan.choices)
    finish(request, pilot, plan, cured)
    assert "SimCLR: λ 0, regularisers koleo:0.1, head with BatchNorm" in sentences(read_confirmation(pilot.folder))[0]


def test_of_a_regulariser_the_better_strength_is_chosen(request_):
    request = request_(methods="simclr", lams="0", regularisers="none,koleo:0.1,decay:1e-3+koleo:1,koleo:2+decay:1e-3")
    effect = lambda config: 0.02 * (config.regularisers == ("koleo:2", "decay:1e-3"))  # noqa: E731
    keep(read_state(request), made_up(read_state(request), effect))
    plan, _ = frozen_plan(request, read_state(request))
    assert [choice.regularisers for choice in plan.choices] == ["koleo:0.1", "koleo:2+decay:1e-3"]


def test_a_head_in_the_place_of_the_mlp_is_a_choice(request_):
    request = request_(methods="simclr", penalties="l21", projectors="mlp,direct:4,direct:8", confirm=8)
    effect = lambda config: 0.02 * (config.projector_out == 8)  # noqa: E731
    keep(read_state(request), made_up(read_state(request), effect))
    pilot = read_state(request)
    plan, _ = frozen_plan(request, pilot)
    of_lam, of_head = plan.choices
    assert (of_lam.projector, of_head.projector, of_head.lam) == ("mlp", "direct:8", 0)
    assert of_head.runs["zero"] == of_lam.runs["zero"]
    state = finish(request, pilot, plan, effect)
    assert state.configs[of_head.runs["chosen"][0]].projector == "direct"
    assert len(state.configs) == 4 * 8 <= most_arms(request.grid) * 8
    found = read_confirmation(pilot.folder)
    assert [line[0].value for line in cures_tables(found)[0].lines] == ["λ 0: the mean", f"λ {of_lam.lam:g}", "head direct:8"]
    assert "SimCLR: λ 0, head direct:8, chosen by 3 pilot seeds" in "\n".join(sentences(found))
    ((_, command), *_) = commands_of(read_study(pilot.folder))
    assert "--projectors mlp,direct:4,direct:8" in command
    assert "--dims 32" in command.replace(str(of_lam.setting["projector_out"]), "32")


def test_what_has_collapsed_is_not_chosen(request_):
    request = request_(methods="simclr")
    rows = made_up(read_state(request), better)
    for row in rows:
        if row["lam"] == 1e-2 and row["seed"] == 1:
            row["effective_rank_z"] = ""
    keep(read_state(request), rows)
    assert frozen_plan(request, read_state(request))[0].choices[0].lam == 1e-3


def test_a_method_that_lacks_a_seed_is_not_lost(request_):
    request = request_()
    state = read_state(request)
    keep(state, [row for row in made_up(state, better) if not (row["method"] == "byol" and row["seed"] == 2)])
    pilot = read_state(request)
    plan, _ = frozen_plan(request, pilot)
    assert [choice.method for choice in plan.choices] == ["simclr", "byol"]


def test_the_command_shows_and_keeps_what_fresh_seeds_say(planned, sparsehead, tmp_path):
    request, pilot, plan = planned
    finish(request, pilot, plan)
    axes = [part for key, value in AXES.items() for part in (f"--{key}", value)]
    line = [*axes, "--epochs", 2, *SMALL[6:], "--dataset", "fashion1k", "--results", tmp_path / "r", "--confirm"]
    code, out, _ = sparsehead("sweep-lambda", *line, 8)
    assert code == 0
    assert f"the plan {plan.hash}, frozen {plan.written}" in out
    assert "a rise is shown" in out
    rows = read_csv(pilot.folder / CONFIRMATION_CSV)
    assert {row["plan"] for row in rows} == {plan.hash}
    assert (pilot.folder / "confirmation.png").stat().st_size > 10_000
    code, _, err = sparsehead("sweep-lambda", *line, 16)
    assert code == 1
    assert "has 8 fresh seeds, given --confirm 16: their number is part of the plan" in err


def refused(call, match):
    with pytest.raises(SparseheadError, match=match):
        call()


def test_a_changed_plan_is_refused(planned):
    request, pilot, plan = planned
    path, last = pilot.folder / PLAN, plan.seeds[-1]
    written = path.read_text()
    for before, after in (
        ("lam: 0.01", "lam: 0.001"),
        ("level: 0.05", "level: 0.5"),
        (f"- {last}", f"- {last + 1}"),
        ("hash: sha256-", "hash: "),
    ):
        assert before in written
        path.write_text(written.replace(before, after))
        refused(lambda: frozen_plan(request, pilot), "is not the plan that was written: its hash does not fit")
    for text in ("", "- 1", "hash: x", "{", written.replace("outcomes:", "ends:")):
        path.write_text(text)
        refused(lambda: frozen_plan(request, pilot), r"plan\.yaml")
    values = yaml.safe_load(written)
    path.write_text(yaml.safe_dump(values))  # another order of the same is the same
    assert read_plan(pilot.folder).hash == values["hash"]


def test_a_plan_of_another_pilot_is_refused(planned, request_):
    request, pilot, plan = planned
    larger = request_(seeds=4)
    rows = made_up(read_state(larger), better)
    replace_csv(pilot.folder / SWEEP_CSV, rows)
    refused(lambda: frozen_plan(larger, read_state(larger)), "the pilot in .* is not the one that plan.yaml was made of")
    refused(lambda: frozen_plan(request_(confirm=9), pilot), "has 8 fresh seeds, given --confirm 9")
    pilot.rows[next(iter(pilot.rows))]["seed"] = str(plan.seeds[2])
    refused(lambda: frozen_plan(request, pilot), r"seeds \[\d+\] are in the pilot and in the plan")


def test_what_was_seen_is_not_planned(planned):
    request, pilot, plan = planned
    finish(request, pilot, plan, seeds=1)
    (pilot.folder / PLAN).unlink()
    refused(
        lambda: frozen_plan(request, pilot), r"confirm is there, and .* has no plan\.yaml: what was seen can no more be planned"
    )


def test_no_plan_is_made_of_a_part_of_the_pilot(request_):
    request = request_()
    state = read_state(request)
    keep(state, made_up(state, better)[:-1])
    state = read_state(request)
    state.failed[list(state.configs)[-1]] = "it was stopped from outside"
    refused(
        lambda: confirm(request, state, run=lambda state: None),
        r"1 of the pilot's 30 trials did not finish \(byol-.*: it was stopped from outside\), and no plan is made of a part",
    )
    assert not (state.folder / PLAN).exists()


def test_a_larger_grid_is_no_pilot_of_the_plan(planned, request_):
    larger = request_(lams="0,1e-3,1e-2,1e-1")
    refused(
        lambda: confirm(larger, read_state(larger), run=lambda state: None), "the grid has 12 trials that the pilot of .* had not"
    )


@pytest.mark.parametrize(
    ("column", "value"), [("seed", "3"), ("method", "byol"), ("lam", "0.001"), ("penalty", "nuclear"), ("regularisers", "koleo:1")]
)
def test_a_report_judges_no_runs_but_the_plans(planned, column, value):
    request, pilot, plan = planned
    state = finish(request, pilot, plan)
    rows = read_csv(state.folder / SWEEP_CSV)
    next(row for row in rows if row["run"] == plan.choices[0].runs["chosen"][2])[column] = value
    replace_csv(state.folder / SWEEP_CSV, rows)
    refused(lambda: read_study(pilot.folder), "is not the run of the plan: it has method")


@pytest.mark.parametrize("lost", [slice(0, 3), slice(None)])
def test_without_the_epochs_of_its_runs_nothing_is_judged_and_nothing_is_left_out_in_silence(planned, lost):
    request, pilot, plan = planned
    state = finish(request, pilot, plan)
    assert {row["metric"] for row in read_confirmation(pilot.folder).rows} > set(AT_EQUAL)
    curves = read_csv(state.folder / CURVES_CSV)
    del curves[lost]
    (state.folder / CURVES_CSV).unlink()
    if curves:
        replace_csv(state.folder / CURVES_CSV, curves)
    count = len(state.configs) - len(curves)
    told = f"confirm/curves.csv has no epochs of {count} of the plan's {len(state.configs)} runs"
    refused(lambda: read_study(pilot.folder), told)
    refused(lambda: confirmed(plan, pilot.folder, confirming(request, plan, pilot)), told)


def test_a_report_judges_no_other_pilot(planned):
    request, pilot, plan = planned
    finish(request, pilot, plan)
    rows = read_csv(pilot.folder / SWEEP_CSV)
    rows[0]["accuracy"] = "0.99"
    replace_csv(pilot.folder / SWEEP_CSV, rows)
    refused(lambda: read_study(pilot.folder), "the pilot in .* is not the one that plan.yaml was made of")


def test_fresh_seeds_have_no_report_of_their_own(planned):
    request, pilot, plan = planned
    state = finish(request, pilot, plan, seeds=2)
    refused(lambda: read_study(state.folder), "has the fresh seeds of a plan, which judges them together: sparsehead report")
    study = read_study(pilot.folder)
    assert study.confirmation.rows == []
    files = write_study(study)
    assert not any(path.name.startswith("confirmation") for path in files)
    assert "Nothing is compared before all are" in files[-1].read_text()


def test_other_settings_than_those_of_the_plan_are_refused(planned):
    request, pilot, plan = planned
    pilot.configs = {name: dataclasses.replace(config, lr=0.1) for name, config in pilot.configs.items()}
    refused(lambda: confirming(request, plan, pilot), "the plan has the run simclr-.* and today's settings give simclr-")


@pytest.mark.parametrize(
    ("confirm", "axes", "match"),
    [
        (7, {}, "confirm must be at least 8 and at most 200 fresh seeds, given 7"),
        (8, {"lams": "1e-3,1e-2"}, "give --lams with 0, and something to compare"),
        (8, {"lams": "0"}, "give --lams with 0, and something to compare"),
        (8, {"regularisers": "koleo:1,koleo:2"}, "--confirm compares regularisers with none: give --regularisers none as well"),
        (8, {"penalties": "l2-matched,l2-matched-first"}, "l2-matched is the control that a choice is compared with"),
        (8, {"seeds": 1}, "a pilot needs at least 2 seeds"),
        (8, {"seeds": 1001}, "a pilot has at most 1,000 seeds"),
    ],
)
def test_what_no_plan_can_be_made_of(request_, confirm, axes, match):
    refused(lambda: check_confirm(request_(confirm, **axes)), match)
