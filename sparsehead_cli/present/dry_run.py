"""`--dry-run` of `pretrain` and `sweep-lambda`: what the command would do, how long and with what memory. Nothing is written."""

from pathlib import Path

import torch
from rich.text import Text
from torch import nn

from sparsehead_cli.data.published import without_downloads
from sparsehead_cli.errors import printable
from sparsehead_cli.machine import distributed
from sparsehead_cli.machine.memory import memory_of
from sparsehead_cli.machine.plugins import load
from sparsehead_cli.present.console import Console
from sparsehead_cli.present.pretrain import describe
from sparsehead_cli.present.recipe import show_values
from sparsehead_cli.present.sweep import data_of, ended, lams_of, notes_of
from sparsehead_cli.runs.build import build, memory_needed
from sparsehead_cli.runs.checkpoint import load_checkpoint
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.folder import require_of_run
from sparsehead_cli.runs.method_names import method_name
from sparsehead_cli.runs.origins import resolve
from sparsehead_cli.runs.readable import counted, duration
from sparsehead_cli.runs.run import Run
from sparsehead_cli.runs.settings import Values, written
from sparsehead_cli.study.plan import read_plan
from sparsehead_cli.sweeps.confirm import check_confirm, confirming, frozen_plan, most_arms, require_whole
from sparsehead_cli.sweeps.engines import default_jobs, threads_of
from sparsehead_cli.sweeps.grid import AXES
from sparsehead_cli.sweeps.request import SweepRequest
from sparsehead_cli.sweeps.sweep import EVALUATION_SECONDS, SweepState, read_state
from sparsehead_cli.training.rehearsal import Rehearsal, rehearse


def show_dry_run(
    console: Console, experiment: str | None, experiments: Path | None, overrides: Values, callbacks: tuple[str, ...]
) -> None:
    """Print the settings with their origins, then parameters, steps, time and memory, as a few real steps show them.

    Raises: SparseheadError for whatever the command itself would end with before it trains, and for data that is not there.
    """
    config, values = resolve(experiment, experiments, overrides)
    for name in callbacks:
        load("callback", name)
    try:
        with without_downloads():
            run = build(config)
        lines = [*describe(run), ("parameters", parameters(run.method)), *estimates(run)]
    finally:
        distributed.stop()
    show_values(console, f"{config.experiment}, method {config.method}", values, ())
    show_lines(console, lines)


def show_sweep_dry_run(console: Console, request: SweepRequest) -> None:
    """Print the trials of a sweep, and how long they take, as a few steps of the first trial of each method show it.

    Raises: SparseheadError for whatever the command itself would end with before it trains, and for data that is not there.
    """
    if request.confirm is not None:
        check_confirm(request)
    with without_downloads():
        state = read_state(request)
        lines = [("experiment", request.experiment), ("data", data_of(state)), *grid_lines(request, state)]
        plan = read_plan(state.folder) if request.confirm is not None else None
        if plan:
            require_whole(state, is_planned=True)
            frozen_plan(request, state)  # which checks the one that is there
            lines.append(("plan", f"{plan.hash}, frozen {plan.written}"))
            state = confirming(request, plan, state)
        lines.append(("trials", f"{len(state.configs)} in {state.folder}: {ended(state)}, {len(state.pending())} to run"))
        lines += sweep_estimates(request, state, 0 if plan else most_arms(request.grid) * (request.confirm or 0))
    show_lines(console, lines)


def grid_lines(request: SweepRequest, state: SweepState) -> list[tuple[str, str]]:
    """(name, values) of each axis that the grid has values for, and how settings came about."""
    lines = []
    for axis in AXES:
        values = getattr(request.grid, axis)
        if values := (values if isinstance(values, tuple) else (values,)):
            lines.append((axis, ", ".join(map(written, values))))
    lines += [("lams", line) for line in (lams_of(state) if request.grid.auto else ())]
    return lines + [("note", line) for line in notes_of(state)]


def sweep_estimates(request: SweepRequest, state: SweepState, fresh: int) -> list[tuple[str, str]]:
    """(name, value) of the time of a trial of each method, that of all that are left, and memory.

    A pilot is followed by `fresh` trials of each method.
    """
    pending = [state.configs[name] for name in state.pending()]
    jobs, threads, where = 1, 1, "one after the other on one core of this machine"
    if request.engine == "local":
        jobs = request.jobs or default_jobs()
        threads = threads_of(jobs)
        where = f"{jobs} at a time, each with {counted(threads, 'thread')}"
    lines, total, later, peak, there = [], 0.0, 0.0, 0, 0
    methods = dict.fromkeys(config.method for config in (state.configs.values() if fresh else pending))
    for method in methods:
        left = sum(config.method == method for config in pending)
        first = next(config for config in (*pending, *state.configs.values()) if config.method == method)
        run, rehearsal = rehearsed(first, threads)
        of_one = rehearsal.seconds(run.total_steps, run.epochs) + EVALUATION_SECONDS
        total, later, peak, there = total + left * of_one, later + fresh * of_one, max(peak, rehearsal.peak), memory_of(run.device)
        step = f"{brief(rehearsal.step_seconds)} a step (measured on {counted(rehearsal.steps, 'step')})"
        lines.append((method_name(method), f"{counted(left, 'trial')}, each about {duration(of_one)}: {step}"))
    of_pilot = " of the pilot" * bool(fresh)
    time = f"about {duration(total / jobs)} on idle cores, {where}" if pending else f"nothing{of_pilot} is left to do"
    lines.append(("time", time))
    if fresh:
        runs = f"at most {counted(fresh * len(methods), 'fresh run')} (of λ 0, what is chosen and its control, for each method)"
        lines.append(("confirm", f"then a plan, and {runs}: about {duration(later / jobs)} more"))
    return [*lines, ("memory", f"{size(peak)} at most for each one in those steps, of {size(there)}")] if methods else lines


def rehearsed(config: Config, threads: int) -> tuple[Run, Rehearsal]:
    """A trial that was not begun, and some of its steps, on as many threads as the sweep gives it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run = build(config)
        return run, rehearse(run)
    finally:
        torch.set_num_threads(before)
        distributed.stop()


def show_lines(console: Console, lines: list[tuple[str, str]]) -> None:
    """Print names with their values, and that nothing was written."""
    width = max(10, *(len(name) for name, _ in lines))
    for name, value in lines:
        console.print(Text.assemble((f"{name:>{width}}", "dim"), f"  {printable(value)}"), soft_wrap=True)
    console.print("a dry run: nothing was written", soft_wrap=True)


def parameters(method: nn.Module) -> str:
    """How many parameters each part of a method has, those that learn and those that do not."""
    parts: dict[bool, list[str]] = {True: [], False: []}
    for name, part in method.named_children():
        for learns in (True, False):
            if count := sum(p.numel() for p in part.parameters() if p.requires_grad == learns):
                parts[learns].append(f"{name} {count:,}")
    text = f"learned: {', '.join(parts[True])}"
    return text + (f"; not learned: {', '.join(parts[False])}" if parts[False] else "")


def estimates(run: Run) -> list[tuple[str, str]]:
    """(name, value) of steps, time and memory."""
    done = steps_done(run)
    steps, epochs = run.total_steps - done, run.epochs - run.epochs_done(done)
    rehearsal = rehearse(run)
    before = f"; {done:,} were done before" if done else ""
    time = "nothing is left to do"
    if steps:
        of_steps = f"{brief(rehearsal.step_seconds)} a step (measured on {counted(rehearsal.steps, 'step')})"
        time = f"about {duration(rehearsal.seconds(steps, epochs))}: {of_steps}, {brief(rehearsal.probe_seconds)} after each epoch"
    kept, there = memory_needed(run.config, run.method), memory_of(run.device)
    weights = f"{size(kept)} for weights, gradients and optimizer"
    fewest, most = (of(run.steps_of(phase) for phase in run.phases) for of in (min, max))
    each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    return [
        ("steps", f"{each} an epoch, {run.total_steps:,} in {counted(run.epochs, 'epoch')}{before}"),
        ("time", time),
        ("memory", f"{weights}; {size(rehearsal.peak)} at most in those steps, of {size(there)}"),
    ]


def steps_done(run: Run) -> int:
    """The steps in the run's checkpoint, 0 without one. Raises: SparseheadError for one that the run could not go on from."""
    path = run.folder / "checkpoint.pt"
    if not path.exists():
        return 0
    state = load_checkpoint(path)
    require_of_run(state, run, path)
    return state["step"]


def brief(seconds: float) -> str:
    """A short time for people."""
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def size(count: float) -> str:
    """A number of bytes for people."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
