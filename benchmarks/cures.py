"""What does a step cost with each cure that a plan judges? All beside each other in one run, medians; the machine should be idle.

    python benchmarks/cures.py results/cures        # results/cures/steps.csv; a minute or two on two cores

A step is everything that training does for a batch, as in throughput.py: gather, views, objective, penalty, regularisers, update.
The settings are those of the plan, on the embedded images in the size and the colours of CIFAR-10: what images show costs nothing.
`ratio` is the speed beside that of the plan's base line, the median over rounds in which each had its turn.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from machine import facts
from throughput import alternate, pipeline_step, speed_ratio

from sparsehead_cli.present.confirmation import called
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.table_files import Row, replace_csv
from sparsehead_cli.runs.tables import NO_REGULARISER, USUAL_PROJECTOR, projector_name, regularisers_name
from sparsehead_cli.study.plan import Plan, read_plan
from sparsehead_cli.sweeps.grid import read_grid, trials

STEPS = "steps.csv"
DATASET = "fashion-rgb32"  # throughput.py makes it of the embedded images
Cure = tuple[str, str, str, float]  # method, regularisers, head, λ


def settings_of(plan: Plan) -> dict[Cure, Config]:
    """The settings of each base line and choice of a plan, of which only the size counts: one seed has them all."""
    grid = read_grid(plan.experiment, None, {"seeds": 1}, {"dataset": DATASET})
    every = {cure_of(config): config for config in trials(grid, plan.experiment)}
    lines = [(choice.method, NO_REGULARISER, USUAL_PROJECTOR, 0.0) for choice in plan.choices]
    chosen = [(choice.method, choice.regularisers, choice.projector, choice.lam) for choice in plan.choices]
    return {cure: every[cure] for cure in dict.fromkeys([*lines, *chosen])}


def cure_of(config: Config) -> Cure:
    """What tells settings of a plan apart here."""
    return (
        config.method,
        regularisers_name(config.regularisers),
        projector_name(config.projector, config.projector_out),
        config.lam,
    )


def measured(settings: dict[Cure, Config], rounds: int, block: int) -> list[Row]:
    """Rows of steps.csv, the base line first."""
    seconds = alternate({cure: pipeline_step(build(config)) for cure, config in settings.items()}, rounds, block)
    names = ("method", "regularisers", "projector", "lam")
    return [
        {**dict(zip(names, cure, strict=True)), "seconds": round(median, 5), "ratio": round(ratio, 4)}
        for cure, (median, ratio) in speed_ratio(seconds).items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="that of a sweep with a plan")
    parser.add_argument("--quick", action="store_true", help="little work: to see that it runs, not to quote")
    options = parser.parse_args()
    plan = read_plan(options.folder)
    if plan is None:
        raise SystemExit(f"{options.folder} has no plan: sparsehead sweep-lambda --confirm N writes it")
    settings = settings_of(plan)
    if options.quick:
        settings = {cure: replace(config, batch_size=32) for cure, config in settings.items()}
    rows = measured(settings, *((1, 1) if options.quick else (12, 2)))
    for row in rows:
        name = next((called(choice, plan) for choice in plan.choices if choice.is_of(row)), "λ 0")
        print(f"{name:40} {1000 * row['seconds']:7.1f} ms  {100 * (1 / row['ratio'] - 1):+6.1f} %")
    if not options.quick:
        replace_csv(options.folder / STEPS, [{**row, **facts()} for row in rows])


if __name__ == "__main__":
    main()
