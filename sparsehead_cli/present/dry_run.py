"""`sparsehead pretrain --dry-run`: what the command would do, how long it would take and with what memory. Nothing is written."""

from pathlib import Path

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
from sparsehead_cli.runs.build import build, memory_needed
from sparsehead_cli.runs.checkpoint import load_checkpoint
from sparsehead_cli.runs.folder import require_of_run
from sparsehead_cli.runs.origins import resolve
from sparsehead_cli.runs.readable import counted, duration
from sparsehead_cli.runs.run import Run
from sparsehead_cli.runs.settings import Values
from sparsehead_cli.training.rehearsal import rehearse


def show_dry_run(
    console: Console, experiment: str | None, experiments: Path | None, overrides: Values, callbacks: tuple[str, ...]
) -> None:
    """Print the settings with their origins, then parameters, steps, time and memory, as a few real steps show them.

    Raises: SparseheadError for whatever the command itself would end with before it trains, and for data that is not there.
    """
    config, values = resolve(experiment, experiments, overrides)
    for name in callbacks:
        load("callback", name)
    show_values(console, f"{config.experiment}, method {config.method}", values, ())
    try:
        with without_downloads():
            run = build(config)
        lines = [*describe(run), ("parameters", parameters(run.method)), *estimates(run)]
    finally:
        distributed.stop()
    for name, value in lines:
        console.print(Text.assemble((f"{name:>10}", "dim"), f"  {printable(value)}"), soft_wrap=True)
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
    kept, there = memory_needed(run.config, run.spec), memory_of(run.device)
    weights = "" if kept is None else f"{size(kept)} for weights, gradients and optimizer; "
    return [
        ("steps", f"{run.steps_per_epoch:,} an epoch, {run.total_steps:,} in {counted(run.epochs, 'epoch')}{before}"),
        ("time", time),
        ("memory", f"{weights}{size(rehearsal.peak)} at most in those steps, of {size(there)}"),
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
