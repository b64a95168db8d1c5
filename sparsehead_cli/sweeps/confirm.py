"""`--confirm N`: a pilot chooses, a plan is frozen, fresh seeds judge. The pilot is the sweep; its folder has the plan.

RESULTS/EXPERIMENT has the pilot's tables, plan.yaml and confirmation.csv, and in confirm/ the sweep of the fresh seeds.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sparsehead_cli.errors import SparseheadError, shown
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.folder import code_version, locked
from sparsehead_cli.runs.table_files import Row, read_csv, replace_csv
from sparsehead_cli.runs.tables import NO_REGULARISER, USUAL_PROJECTOR, penalty_settings, terms_in
from sparsehead_cli.study.confirm import Confirmation, confirmation
from sparsehead_cli.study.plan import (
    CONTROL,
    CONTROLLED,
    FIRST_SEED,
    OUTCOMES,
    Candidate,
    Choice,
    Plan,
    candidates,
    chosen,
    detectable_of,
    digest_of,
    first_seed,
    read_plan,
    require_pilot,
    tried,
    write_plan,
)
from sparsehead_cli.study.results import CONFIRM, CONFIRMATION_CSV, CURVES_CSV, PLAN
from sparsehead_cli.study.summary import without_pruned
from sparsehead_cli.sweeps.grid import Grid
from sparsehead_cli.sweeps.prune import dropped
from sparsehead_cli.sweeps.request import SweepRequest
from sparsehead_cli.sweeps.sweep import SweepState, read_known
from sparsehead_cli.sweeps.trial import folder_of

FEWEST_PILOT = 2  # seeds of a pilot
LEAST, MOST = 8, 200  # fresh seeds: of fewer neither test can be sure of anything, after Holm


def confirm(
    request: SweepRequest,
    pilot: SweepState,
    run: Callable[[SweepState], None],
    on_plan: Callable[[Plan, bool], None] = lambda plan, is_new: None,
) -> tuple[Confirmation, SweepState]:
    """The whole protocol, as far as it is not done yet: (what the fresh seeds say, the state of their sweep).

    `run` runs what is pending of a sweep; `on_plan` is called with the plan, and whether it was frozen just now, before any of its
    runs. Raises: SparseheadError for what no plan can be made of, or kept.
    """
    check_confirm(request)
    is_planned = (pilot.folder / PLAN).exists()
    if not is_planned:
        run(pilot)
    require_whole(pilot, is_planned=is_planned)
    with locked(pilot.folder, "another sweep runs here"):
        plan, is_new = frozen_plan(request, pilot)
    on_plan(plan, is_new)
    state = confirming(request, plan, pilot)
    run(state)  # also where nothing is missing: it writes the tables
    return confirmed(plan, pilot.folder, state), state


def require_whole(pilot: SweepState, *, is_planned: bool) -> None:
    """Raises: SparseheadError where trials of the grid are missing: a plan of a part would depend on which part it is."""
    missing = [name for name in pilot.configs if name not in pilot.rows and name not in dropped(pilot.configs, pilot.pruned())]
    if missing and is_planned:
        raise SparseheadError(
            f"the grid has {len(missing)} trials that the pilot of {pilot.folder / PLAN} had not ({missing[0]} …), and a frozen "
            "plan is not changed. Ask for the grid as it was, or choose another --results."
        )
    if missing:
        reason = pilot.failed.get(missing[0], "it was stopped").rstrip(".")
        raise SparseheadError(
            f"{len(missing)} of the pilot's {len(pilot.configs)} trials did not finish ({missing[0]}: {reason}), and no plan is "
            "made of a part. The same command goes on; --retry-failed runs again what failed. What always fails is nothing to "
            "choose: leave it out of the grid, with another --results."
        )


def check_confirm(request: SweepRequest) -> None:
    """Raises: SparseheadError for what no plan can be made of, before anything is run."""
    grid = request.grid
    if not LEAST <= request.confirm <= MOST:
        raise SparseheadError(f"confirm must be at least {LEAST} and at most {MOST:,} fresh seeds, given {shown(request.confirm)}.")
    if request.engine == "print":
        raise SparseheadError("--confirm runs a pilot before it knows what to confirm: --engine local, ray or slurm.")
    regularised, replaced = set(grid.regularisers) - {NO_REGULARISER}, set(grid.projectors) - {USUAL_PROJECTOR}
    if not grid.auto and (0.0 not in grid.lams or not (any(grid.lams) or regularised or replaced)):
        raise SparseheadError(
            "--confirm compares with λ 0: give --lams with 0, and something to compare: a value above it (or auto), --regularisers "
            "or --projectors."
        )
    if regularised and NO_REGULARISER not in grid.regularisers:
        raise SparseheadError("--confirm compares regularisers with none: give --regularisers none as well.")
    if replaced and USUAL_PROJECTOR not in grid.projectors:
        raise SparseheadError("--confirm compares other heads with an mlp: give --projectors mlp as well.")
    if all(penalty_settings(penalty)["penalty"] == CONTROL for penalty in grid.penalties):
        raise SparseheadError(f"{CONTROL} is the control that a choice is compared with: give --penalties one to choose.")
    if grid.seeds < FEWEST_PILOT:
        raise SparseheadError(
            f"a pilot needs at least {FEWEST_PILOT} seeds to know how far seeds scatter, given --seeds {grid.seeds}."
        )
    if grid.seeds > FIRST_SEED:
        raise SparseheadError(f"a pilot has at most {FIRST_SEED:,} seeds: those that confirm begin there. Given {grid.seeds:,}.")


def most_arms(grid: Grid) -> int:
    """How many arms the confirmation of a method has at most: λ 0, λ and its control, each cure, and λ beside one, likewise."""
    cures, heads = set(map(terms_in, grid.regularisers)), set(map(terms_in, grid.projectors))
    others, penalised = cures - {(NO_REGULARISER,)}, grid.auto or any(grid.lams)
    beside = 3 if others and penalised else 0  # that regulariser alone may be another one than what is chosen of it alone
    mlps = max(1, len(grid.dims)) * max(1, len(grid.batch_norm))  # each with a λ 0 of its own
    chosen_ones = penalised + len(others) + (beside > 0)
    return min(mlps, chosen_ones or 1) + 2 * penalised + len(others) + len(heads - {(USUAL_PROJECTOR,)}) + beside


def frozen_plan(request: SweepRequest, pilot: SweepState) -> tuple[Plan, bool]:
    """(the plan of a pilot, whether it was made now); one that is there is checked against the pilot and the request.

    Raises: SparseheadError for a plan that was changed, one of another pilot or number of seeds, and results without one.
    """
    rows = pilot_rows(pilot)
    plan = read_plan(pilot.folder)
    if plan is not None:
        require_pilot(pilot.folder, plan, rows)
        if len(plan.seeds) != request.confirm:
            raise SparseheadError(
                f"{pilot.folder / PLAN} has {len(plan.seeds)} fresh seeds, given --confirm {request.confirm}: their number is part "
                "of the plan, and a frozen plan is not changed. Give the same number, or choose another --results."
            )
        return plan, False
    seen = [path for path in (pilot.folder / CONFIRM, pilot.folder / CONFIRMATION_CSV) if path.exists()]
    if seen:
        raise SparseheadError(
            f"{seen[0]} is there, and {pilot.folder} has no {PLAN}: what was seen can no more be planned. Put the plan back (git "
            "checkout), or choose another --results."
        )
    plan = made_plan(request, pilot, rows)
    write_plan(pilot.folder, plan)
    return plan, True


def pilot_rows(pilot: SweepState) -> list[Row]:
    """The finished trials that a pilot may choose by: none of a λ that was pruned."""
    return without_pruned(list(pilot.rows.values()), pilot.pruned())


def made_plan(request: SweepRequest, pilot: SweepState, rows: list[Row]) -> Plan:
    """The plan that a finished pilot's rows lead to. Raises: SparseheadError for a pilot that leaves nothing to choose."""
    best = chosen(candidates(rows))
    if not best:
        raise SparseheadError(
            f"the pilot in {pilot.folder} has nothing but λ 0 with as many seeds as λ 0 that has not collapsed, so nothing to "
            "choose: see why its trials failed, and run them again with --retry-failed."
        )
    digest = digest_of(rows)
    first = first_seed(digest, request.confirm)
    seeds = [first + i for i in range(request.confirm)]
    family = len(best) * len(OUTCOMES)
    choices = [
        Choice(
            setting=one.setting,
            lam=one.lam,
            held_out=round(one.held_out, 5),
            detectable=detectable_of(one, len(seeds), family),
            runs={arm: [folder_of(config).name for config in of_arm] for arm, of_arm in arms(one, pilot, seeds).items()},
        )
        for one in best
    ]
    return Plan(
        experiment=request.experiment,
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        code=f"commit {code_version()}",
        pilot=digest,
        pilot_seeds=sorted({int(row["seed"]) for row in rows}),
        seeds=seeds,
        choices=choices,
        tried=tried(list(pilot.rows.values()), pilot.pruned()),
    )


def arms(candidate: Candidate, pilot: SweepState, seeds: list[int]) -> dict[str, list[Config]]:
    """The settings of the confirming runs of each arm, by seed: the base line, what was chosen, and where there are such, the
    control, and the chosen regularisers without λ.
    """
    of_lam, of_zero = (pilot.configs[next(iter(runs.values()))] for runs in (candidate.runs, candidate.zeros))
    first = {"zero": of_zero, "chosen": of_lam}
    if of_lam.lam and of_lam.penalty == CONTROLLED:
        first["control"] = replace(of_lam, penalty=CONTROL)
    if candidate.alone:
        first["regularisers"] = pilot.configs[next(iter(candidate.alone.values()))]
    experiment = f"{of_lam.experiment}/{CONFIRM}"
    return {arm: [replace(one, seed=seed, experiment=experiment, formerly="") for seed in seeds] for arm, one in first.items()}


def confirming(request: SweepRequest, plan: Plan, pilot: SweepState) -> SweepState:
    """The sweep of the plan's runs, seed by seed so that what is stopped has whole pairs.

    Raises: SparseheadError where today's settings give other runs than those of the plan.
    """
    best = chosen(candidates(pilot_rows(pilot)))
    by_arm = [
        (config, run)
        for choice, one in zip(plan.choices, best, strict=True)
        for arm, of_arm in arms(one, pilot, plan.seeds).items()
        for config, run in zip(of_arm, choice.runs[arm], strict=True)
    ]
    configs: dict[str, Config] = {}
    for config, run in sorted(by_arm, key=lambda pair: pair[0].seed):
        name = folder_of(config).name
        if name != run:
            raise SparseheadError(
                f"the plan has the run {run}, and today's settings give {name}: the code or the "
                f"experiment was changed since {PLAN} was written by {plan.code}. Go on with that version."
            )
        configs[name] = config
    state = SweepState(pilot.folder / CONFIRM, configs)
    read_known(request, state)
    return state


def confirmed(plan: Plan, folder: Path, state: SweepState) -> Confirmation:
    """What the fresh seeds say so far, written to the pilot's folder as confirmation.csv."""
    found = confirmation(plan, list(state.rows.values()), read_csv(state.folder / CURVES_CSV))
    if found.rows:
        replace_csv(folder / CONFIRMATION_CSV, found.rows)
    return found
