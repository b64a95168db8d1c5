"""`sweep-lambda --confirm` as people see it: the pilot, the plan, the fresh seeds, and what they say."""

import itertools
import shlex
from pathlib import Path

from sparsehead_cli.present.confirmation import FIGURE, confirmation_figure, show_confirmation
from sparsehead_cli.present.console import Console, print_table
from sparsehead_cli.present.figures import save_figure
from sparsehead_cli.present.summary import summary_tables
from sparsehead_cli.present.sweep import require_all, watched_sweep
from sparsehead_cli.present.table import Table
from sparsehead_cli.study.confirm import WORDS, setting_in_words
from sparsehead_cli.study.plan import Choice, Plan, cure_of
from sparsehead_cli.study.results import CONFIRM, CONFIRMATION_CSV, PLAN
from sparsehead_cli.study.summary import summarise, without_pruned
from sparsehead_cli.sweeps.confirm import confirm
from sparsehead_cli.sweeps.request import SweepRequest
from sparsehead_cli.sweeps.sweep import SweepState


def run_confirm(console: Console, request: SweepRequest, pilot: SweepState) -> None:
    """Run what is missing of the pilot, freeze the plan, run what is missing of the fresh seeds, and say what they say.

    Raises: SparseheadError where trials failed, or for a plan that cannot be kept; Stopped where it was interrupted.
    """
    found, state = confirm(
        request,
        pilot,
        run=lambda state: ran(console, request, state, pilot),
        on_plan=lambda plan, is_new: show_plan(console, plan, pilot.folder, is_new=is_new),
    )
    if found.rows:
        save_figure(confirmation_figure(found), pilot.folder / FIGURE)
    show_confirmation(console, found)
    console.print(f" files   {pilot.folder}/: {PLAN}, {CONFIRMATION_CSV}, {FIGURE}.png, {FIGURE}.svg, {CONFIRM}/", soft_wrap=True)
    console.print(f" page    of all of it: sparsehead report {shlex.quote(str(pilot.folder))}", soft_wrap=True)
    require_all(state)


def ran(console: Console, request: SweepRequest, state: SweepState, pilot: SweepState) -> None:
    """Run what is pending, and show the numbers of a pilot. Raises: as `watched_sweep`."""
    if state is pilot:
        console.print("the pilot: its seeds choose, and judge nothing", style="bold")
    watched_sweep(console, request, state)
    for table in pilot_tables(pilot) if state is pilot else ():
        print_table(console, table)


def show_plan(console: Console, plan: Plan, folder: Path, *, is_new: bool) -> None:
    """Print what was chosen, what will be judged, and how small a change would be found."""
    console.print(f"the plan {plan.hash}, {'frozen now' if is_new else f'frozen {plan.written}'}: {folder / PLAN}", style="bold")
    if is_new:
        console.print(f" commit it now: git add {folder / PLAN} && git commit -m 'The plan, before its runs'", soft_wrap=True)
    promised = [", ".join(f"{WORDS[name][0]} {smallest(choice, name)}" for name in plan.outcomes) for choice in plan.choices]
    for choice, promise, below in itertools.zip_longest(plan.choices, promised, promised[1:]):
        console.print(f" {choice.method}: {setting_in_words(choice)}; held-out probe {100 * choice.held_out:.2f} %", soft_wrap=True)
        if promise != below:  # said once of cures, of which one scatter is known
            console.print(f"    {len(plan.seeds)} fresh seeds find with 80 % power: {promise}", soft_wrap=True)
    if names := left_out(plan):
        console.print(f" left out, since r or z collapsed or seeds are missing: {', '.join(names)}", soft_wrap=True)


def left_out(plan: Plan) -> list[str]:
    """The cures of a pilot of which none could be chosen, each with its method."""
    tried = dict.fromkeys(cure_of(one, one["lam"]) for one in plan.tried)
    chosen = {cure_of(choice.setting, choice.lam) for choice in plan.choices}
    return [f"{cure} ({method})" for method, cure in tried if (method, cure) not in chosen]


def smallest(choice: Choice, outcome: str) -> str:
    """The change that would be found, in its unit."""
    value, (_, scale, unit) = choice.detectable[outcome], WORDS[outcome]
    return "unknown" if value is None else f"±{scale * value:.2f}{unit}"


def pilot_tables(pilot: SweepState) -> list[Table]:
    """The numbers of a pilot, without the verdicts of a sweep: it chooses, and judges nothing."""
    return summary_tables(summarise(without_pruned(list(pilot.rows.values()), pilot.pruned())), pilot.pruned())
