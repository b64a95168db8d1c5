"""How this process was started: alone, or by torchrun (or a scheduler that sets the same variables) as one of several.

Read off the environment and the command line alone, without torch, so that every command can ask.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what `torch.distributed` needs to find the others
MODULE = "sparsehead_cli"


def launched() -> bool:
    """Whether this is one of several processes that can find each other; a stray RANK or WORLD_SIZE alone makes none."""
    return all(os.environ.get(name) for name in VARIABLES) and number("WORLD_SIZE", 1) > 1


def number(name: str, default: int) -> int:
    """A variable of the environment as a whole number of at least 0, or the default where it is not one."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default


def rank() -> int:
    """This process's number, 0 where it is alone."""
    return number("RANK", 0) if launched() else 0


def command() -> list[str]:
    """What stands before the arguments of the command line that started this process, and all the others with it."""
    if not launched():
        return command_alone()
    here, machines = number("LOCAL_WORLD_SIZE", number("WORLD_SIZE", 1)), number("GROUP_WORLD_SIZE", 1)
    across = [f"--nnodes={machines}", "--rdzv-endpoint=HOST:PORT"] if machines > 1 else []  # the address, only torchrun knows
    return ["torchrun", *across, f"--nproc-per-node={here}", "-m", MODULE]


def command_alone() -> list[str]:
    """What stands before the arguments of a command that runs in one process, started as this one was."""
    if launched():
        return ["python", "-m", MODULE]
    if Path(sys.argv[0]).parts[-2:] == (MODULE, "__main__.py"):
        return sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]  # python -m sparsehead_cli, as it was typed
    return ["sparsehead"]


def twin_command(arguments: Sequence[str], lam: str) -> str:
    """The command line that was typed, started as it was, with another λ."""
    return shlex.join([*command(), *without(arguments, "--lam"), "--lam", lam])


def without(arguments: Sequence[str], option: str) -> tuple[str, ...]:
    """The arguments of a command line without an option and its value."""
    kept, skip = [], False
    for argument in arguments:
        if not (skip or argument == option or argument.startswith(f"{option}=")):
            kept.append(argument)
        skip = argument == option
    return tuple(kept)
