"""plan.yaml: what a pilot chose and how it will be judged, frozen with its hash before any of the confirming runs.

The pilot may look at whatever it likes: its seeds judge nothing. The confirming seeds choose nothing: all is chosen by then.
"""

import hashlib
import json
import math
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import yaml

from sparsehead_cli.errors import SparseheadError, shown
from sparsehead_cli.machine.files import read_regular, replace_file
from sparsehead_cli.machine.yaml_reader import read_yaml
from sparsehead_cli.runs.table_files import Row, cell
from sparsehead_cli.runs.tables import NO_REGULARISER, USUAL, USUAL_PROJECTOR, terms_in
from sparsehead_cli.study.results import PLAN
from sparsehead_cli.study.stats import detectable, deviation, differences
from sparsehead_cli.study.summary import (
    CHOOSE_BY,
    CURES,
    PROJECTOR,
    REGULARISERS,
    SETTING,
    base_lines,
    by_setting,
    has_collapsed,
    is_bare,
)

OUTCOMES = ("accuracy", "effective_rank_r", "effective_rank_z")  # primary: each method's are one family with all others'
CONTROL, CONTROLLED = "l2-matched", "l21"  # the control, and the penalty that it is matched to: others have none
ARMS = ("zero", "chosen", "control", "regularisers")  # the last two only where there is such a control, or λ beside regularisers
BASE = -1.0  # stands for the base line among the values of λ of a setting that has another λ 0
LEVEL, POWER = 0.05, 0.8
MOST_CHARACTERS = 2_000_000  # of a plan
FIRST_SEED = 1000  # seeds of pilots are smaller; those of confirming runs begin beyond, each plan's elsewhere
HEADING = """\
# What `sparsehead sweep-lambda --confirm` will run and how it will judge, written when the pilot had ended and before any run of
# its seeds. Commit it now. A plan that was changed is refused.
"""
JUDGED = (
    "paired differences, chosen - zero, of the fresh seeds alone, all of them and no sooner; two-sided paired t tests, Holm over "
    "the primary outcomes of all methods and cures; permutation tests, intervals, the control and all other numbers beside, "
    "uncorrected; an effective rank that is not defined, as of a collapsed embedding, counts as 0"
)


@dataclass(frozen=True)
class Choice:
    """What a pilot chose of a method's cure: a setting (columns of SETTING) and λ, and the names of the runs of each arm, by seed.

    `detectable` is, by outcome, the smallest true difference that the confirmation finds with POWER, as the pilot's seeds scatter.
    """

    setting: dict[str, str]
    lam: float
    held_out: float
    detectable: dict[str, float | None]
    runs: dict[str, list[str]]

    @property
    def method(self) -> str:
        """Its name; a method's other choices are of other cures."""
        return self.setting["method"]

    @property
    def regularisers(self) -> str:
        """Their names and strengths; plans of older versions have none."""
        return self.setting.get(REGULARISERS, NO_REGULARISER)

    @property
    def projector(self) -> str:
        """What makes z of r, with its width where it is no mlp; plans of older versions have none other."""
        return self.setting.get(PROJECTOR, USUAL_PROJECTOR)

    def is_of(self, row: Row) -> bool:
        """Whether a row of confirmation.csv is of this choice."""
        stated = (row["method"], *(row.get(column, USUAL[column]) for column in CURES), float(row["lam"]))
        return stated == (self.method, self.regularisers, self.projector, self.lam)


@dataclass(frozen=True)
class Plan:
    """A frozen plan. `pilot` is the digest of its table, `tried` every setting and λ with its mean held-out accuracy."""

    experiment: str
    written: str
    code: str
    pilot: str
    pilot_seeds: list[int]
    seeds: list[int]
    choices: list[Choice]
    tried: list[dict[str, object]]
    outcomes: tuple[str, ...] = OUTCOMES
    level: float = LEVEL
    power: float = POWER
    judged: str = JUDGED

    @property
    def hash(self) -> str:
        """Of everything in it: the first 16 hexadecimals of a SHA-256."""
        return f"sha256-{hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()[:16]}"

    def content(self) -> dict[str, object]:
        """As plain values."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Candidate:
    """A setting and λ of a pilot: the names of its trials and of the base line's by seed, and its mean held-out accuracy.

    `alone` are the trials of its regularisers without λ, where it has both.
    """

    setting: dict[str, str]
    lam: float
    held_out: float
    runs: dict[int, str]
    zeros: dict[int, str]
    alone: dict[int, str]
    trials: pd.DataFrame  # by which it scatters: all of its setting, and the base line's

    @property
    def cure(self) -> tuple[str, str]:
        """See `cure_of`."""
        return cure_of(self.setting, self.lam)


def cure_of(setting: Row, lam: float) -> tuple[str, str]:
    """A setting's method, and what it sets against collapse, however strong: λ, regularisers or a head by name, or λ beside any."""
    others = [setting[column] for column in CURES if setting.get(column, USUAL[column]) != USUAL[column]]
    names = "+".join(name for other in others for name in terms_in(other))
    return setting["method"], f"λ beside {REGULARISERS}" if names and lam else names or "λ"


def candidates(rows: list[Row]) -> list[Candidate]:
    """What a pilot's rows of sweep.csv let choose: settings and λ, other than the base line, with the base line's seeds, as many as
    any of their method, none of which has collapsed.

    The control is none: it is what the chosen one is compared with. Regularisers without λ are one.
    """
    every: list[Candidate] = []
    base_line = base_lines(rows)
    for setting, trials in by_setting(rows).items():
        named, base = dict(zip(SETTING, setting, strict=True)), base_line(setting)
        by_lam = {float(lam): of_lam.set_index("seed") for lam, of_lam in trials.groupby("lam")}
        if named["penalty"].startswith(CONTROL) or base.empty:
            continue
        zeros = runs_of(base.set_index("seed"))
        itself = is_bare(named, base)
        if not itself:
            trials = pd.concat([base.assign(lam=BASE), trials])
        for lam, of_lam in by_lam.items():
            is_base = lam == 0 and itself
            if not is_base and zeros.keys() == runs_of(of_lam).keys() and not has_collapsed(of_lam):
                alone = runs_of(by_lam[0.0]) if lam and not itself and 0.0 in by_lam else {}
                held_out = statistics.fmean(of_lam[CHOOSE_BY])
                every.append(Candidate(named, lam, held_out, runs_of(of_lam), zeros, alone, trials))
    most: dict[str, int] = {}
    for one in every:
        most[one.setting["method"]] = max(len(one.runs), most.get(one.setting["method"], 0))
    return with_all_that_scatters([one for one in every if len(one.runs) == most[one.setting["method"]]])


def with_all_that_scatters(every: list[Candidate]) -> list[Candidate]:
    """The candidates, those of several cures with the trials of all that share their base line.

    A cure has a few strengths and a pilot a few seeds, which say little of how far seeds scatter; all cures together say more.
    """
    alike: dict[tuple[str, ...], list[Candidate]] = {}
    for one in every:
        alike.setdefault(tuple(one.zeros.values()), []).append(one)
    together = {}
    for zeros, group in alike.items():
        if len({one.cure for one in group}) > 1:
            base = group[0].trials[group[0].trials["run"].isin(zeros)].assign(lam=BASE)
            own = [one.trials[one.trials["run"].isin(one.runs.values())] for one in group]
            together[zeros] = pd.concat([base, *(trials.assign(lam=i) for i, trials in enumerate(own))])
    return [replace(one, trials=together.get(tuple(one.zeros.values()), one.trials)) for one in every]


def runs_of(trials: pd.DataFrame) -> dict[int, str]:
    """seed -> name of the run."""
    return {int(seed): name for seed, name in trials["run"].items()}


def chosen(every: list[Candidate]) -> list[Candidate]:
    """The best of each method's cures by held-out accuracy; of equals the one with the smallest λ."""
    best: dict[tuple[str, str], Candidate] = {}
    for one in sorted(every, key=lambda one: (-one.held_out, one.lam)):
        best.setdefault(one.cure, one)
    return [best[cure] for cure in dict.fromkeys(one.cure for one in every)]


def spread(trials: pd.DataFrame, metric: str) -> tuple[float, float]:
    """(standard deviation of a paired difference to λ 0, its degrees of freedom) of one setting, pooled over its values of λ.

    The differences of all λ have the runs of λ 0 in common. If all runs scatter alike, their variances are correlated by a quarter,
    which costs degrees of freedom (Satterthwaite 1946). (NaN, 0) where nothing is there twice.
    """
    by_lam = {lam: of_lam.set_index("seed")[metric].to_dict() for lam, of_lam in trials.groupby("lam")}
    base = min(by_lam)
    paired = [differences(values, by_lam[base]) for lam, values in by_lam.items() if lam > base]
    paired = [values for values in paired if len(values) > 1]
    if not paired:
        return math.nan, 0.0
    freedom = sum(len(values) - 1 for values in paired)
    squares = sum(deviation(values) ** 2 * (len(values) - 1) for values in paired)
    return math.sqrt(squares / freedom), freedom / (1 + (len(paired) - 1) / 4)


def detectable_of(candidate: Candidate, pairs: int, family: int) -> dict[str, float | None]:
    """outcome -> the smallest difference that `pairs` fresh seeds find with POWER at Holm's strictest level; None: not known."""
    smallest = {}
    for outcome in OUTCOMES:
        value = detectable(*spread(candidate.trials, outcome), pairs, LEVEL / family, POWER)
        smallest[outcome] = None if math.isnan(value) else float(f"{value:.4g}")
    return smallest


def tried(rows: list[Row], pruned: list[Row]) -> list[dict[str, object]]:
    """Every setting and λ of a pilot with its seeds and mean held-out accuracy, and what was pruned: nothing is hidden."""
    columns = [column for column in SETTING if column not in ("experiment", "dataset")]
    listed = [{**{column: row[column] for column in columns}, "lam": float(row["lam"]), "pruned": True} for row in pruned]
    for setting, trials in by_setting(rows).items():
        for lam, of_lam in trials.groupby("lam"):
            named = {
                column: value for column, value in zip(SETTING, setting, strict=True) if column not in ("experiment", "dataset")
            }
            mean = round(float(of_lam[CHOOSE_BY].mean()), 5)
            listed.append({**named, "lam": float(lam), "seeds": len(of_lam), CHOOSE_BY: mean})
    return listed


def first_seed(pilot: str, count: int) -> int:
    """Where the fresh seeds of a plan begin: elsewhere for another pilot and another number, so that no second look reuses any."""
    return FIRST_SEED + int(hashlib.sha256(f"{pilot} {count}".encode()).hexdigest()[:6], 16)


def digest_of(rows: list[Row]) -> str:
    """Of a table's rows, whatever their order and whether they were written yet."""
    stated = [{name: cell(value) for name, value in row.items() if name not in USUAL or value != USUAL[name]} for row in rows]
    lines = sorted(json.dumps(row, sort_keys=True) for row in stated)
    return f"sha256-{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:16]}"


def write_plan(folder: Path, plan: Plan) -> None:
    """Freeze a plan in the folder of its pilot."""
    text = yaml.safe_dump({**plan.content(), "hash": plan.hash}, sort_keys=False, allow_unicode=True, width=120)
    replace_file(folder / PLAN, (HEADING + text).encode())


def read_plan(folder: Path) -> Plan | None:
    """The plan in a folder; None where there is none. Raises: SparseheadError for one that is not as it was written."""
    path = folder / PLAN
    try:
        values = read_yaml(read_regular(path).decode(), MOST_CHARACTERS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise SparseheadError(f"cannot read {path}: {why}. Put the committed file back.") from None
    try:
        stated = str(values.pop("hash"))
        choices = [Choice(**{**one, "lam": float(one["lam"])}) for one in values.pop("choices")]
        plan = Plan(choices=choices, **{**values, "outcomes": tuple(values["outcomes"])})
        as_written = plan.hash == stated and is_sound(plan)
    except (TypeError, KeyError, ValueError, AttributeError):
        as_written = False
    if not as_written:
        raise SparseheadError(
            f"{path} is not the plan that was written: its hash does not fit what is in it, and a frozen plan is not changed. Put "
            "the committed file back, or choose another --results for a study with another plan."
        )
    return plan


def is_sound(plan: Plan) -> bool:
    """Whether a plan is as `write_plan` makes them. Raises: as Python does for values of other kinds."""
    return (
        plan.outcomes == OUTCOMES
        and 0 < plan.level < 1
        and all(type(seed) is int for seed in (*plan.seeds, *plan.pilot_seeds))
        and len(plan.choices) > 0
        and all(
            set(SETTING) - set(USUAL) <= choice.setting.keys() <= set(SETTING)
            and choice.detectable.keys() == set(OUTCOMES)
            and {"zero", "chosen"} <= choice.runs.keys() <= set(ARMS)
            and all(len(names) == len(plan.seeds) for names in choice.runs.values())
            for choice in plan.choices
        )
    )


def require_pilot(folder: Path, plan: Plan, rows: list[Row]) -> None:
    """Raises: SparseheadError where the pilot is not the one that the plan was made of, or has seeds that confirm."""
    reused = sorted({int(row["seed"]) for row in rows} & set(plan.seeds))
    if reused:
        raise SparseheadError(
            f"seeds {shown(reused)} are in the pilot and in the plan: a seed that helped to choose confirms nothing. Choose "
            "another --results for a study of its own."
        )
    if digest_of(rows) != plan.pilot:
        raise SparseheadError(
            f"the pilot in {folder} is not the one that {PLAN} was made of: trials came or changed since. A plan is not changed "
            "once it is frozen. Put the table back (git checkout), or choose another --results."
        )
