"""What the options of several commands have in common: their help, their defaults and the names that a shell completes.

All of it is read off the statement of a setting (runs/settings.py), and nothing here imports torch: a shell asks at every TAB.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.config import SWEEP, Config, read_experiments
from sparsehead_cli.runs.settings import names_in, settings_of

if TYPE_CHECKING:
    from sparsehead_cli.evaluation.subject import LoadOptions

CHECKPOINT = "of ours or its folder, anybody's state_dict, or timm:NAME with --weights."
OF_EXPERIMENT = "the experiment's"  # the default of what a sweep leaves to its entry in experiments.yaml


def option(name: str, *flags: str, of: type = Config, more: str = "", default: str | bool | None = None) -> typer.models.OptionInfo:
    """The option of a setting, whose help, names and default stand where the setting is stated.

    `default` is what --help says of it instead: a text, True for the parameter's own, or False for nothing.
    """
    stated = settings_of(of)[name]
    shown = stated.default_text() if default is None else default
    completion = completing(stated.names) if stated.names else None
    return typer.Option(*flags, help=f"{stated.help_text()}{more}", show_default=shown or False, autocompletion=completion)


def completing(*places: str) -> Callable[[str], list[str]]:
    """What completes the names of the tables at these places, such as "ssl.methods:METHODS"; of a list the last one."""
    return completing_from(lambda: [name for place in places for name in names_in(place)])


def completing_from(read: Callable[[], list[str]]) -> Callable[[str], list[str]]:
    """What completes the names that `read` gives, those of a list with commas one after the other."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        return [before + comma + name for name in read() if name.startswith(last) and name not in given]

    return complete


def known_experiments(*, sweeps: bool | None = None) -> list[str]:
    """The names of the experiments that a command finds where it is started: all, or those that are sweeps, or are not."""
    with suppress(SparseheadError):  # a shell's TAB is no place to tell of a damaged file
        table = read_experiments()
        return [name for name, entry in table.items() if sweeps in (None, SWEEP in entry)]
    return []


def known_recipes() -> list[str]:
    """What `sparsehead show` knows by name: experiments, and methods."""
    return list(dict.fromkeys([*known_experiments(), *names_in("ssl.methods:METHODS")]))


def load_options(given: dict[str, object]) -> "LoadOptions":
    """Those of a command's arguments that say how a checkpoint and images are read."""
    from sparsehead_cli.evaluation.subject import LoadOptions

    names = ("weights", "allow_partial", "image_size", "device", "data_dir", "workers", "skip_bad_images")
    lists = {"assume": tuple(given["assume"] or ()), "plugins": tuple(given["plugin"] or ())}
    return LoadOptions(**{name: given[name] for name in names}, **lists)


# options that several commands have
MeasuredOn = Annotated[str | None, option("dataset", more=" Without it the checkpoint's own.", default=False)]
Weights = Annotated[Path | None, typer.Option(help="The file with the weights of timm:NAME.")]
AllowPartial = Annotated[bool, typer.Option("--allow-partial", help="Go on where a file lacks parts of its network.")]
ImageSize = Annotated[int | None, typer.Option(help="Side of the images for a network that is not ours.")]
Assume = Annotated[
    list[str] | None,
    typer.Option(
        "--assume", metavar="KEY=VALUE", help="What the file of a network that is not ours does not say; may be repeated."
    ),
]
Plugin = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="MODULE", help="A module of your own code that the checkpoint may use; may be repeated."),
]
DataDir = Annotated[Path, option("data_dir", default=True)]
Device = Annotated[str, option("device", default=True)]
Workers = Annotated[int | None, option("workers")]
Callback = Annotated[
    list[str] | None,
    typer.Option(
        "--callback",
        metavar="NAME",
        help=f"Called while a run trains: {', '.join(names_in('training.callbacks:CALLBACKS'))} or MODULE:CLASS. May be repeated.",
    ),
]
Paper = Annotated[
    bool, typer.Option("--paper", help="Figures as for a paper: SVG and PDF, as wide as a column (3.25 in), 8 pt, no prose.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would do, how long and with what memory; write nothing.")]
SkipBadImages = Annotated[bool, typer.Option("--skip-bad-images", help="Leave out unreadable images, and count them.")]
Experiments = Annotated[Path | None, typer.Option(help="Another experiments.yaml.", show_default=False)]
Experiment = Annotated[
    str | None,
    typer.Option(
        help="A name in experiments.yaml. Without it the method's own recipe, or quickstart.",
        autocompletion=completing_from(lambda: known_experiments(sweeps=False)),
    ),
]
Sweep = Annotated[
    str,
    typer.Option(help="A sweep in experiments.yaml.", autocompletion=completing_from(lambda: known_experiments(sweeps=True))),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other setting (sparsehead list settings); may be repeated.",
        autocompletion=completing_from(lambda: [f"{name}=" for name in settings_of(Config)]),
    ),
]
SetOfProtocol = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of a protocol (sparsehead list settings); may be repeated."),
]
Protocols = Annotated[
    str,
    typer.Option(
        help=f"Any of {', '.join(names_in('evaluation.plan:ASKABLE'))} and MODULE:NAME, with commas between.",
        autocompletion=completing("evaluation.plan:ASKABLE"),
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        help=f"Which images: {', '.join(names_in('data.datasets:SPLITS'))}; val is held out. "
        "Without it test, or else what was not trained on.",
        show_default=False,
        autocompletion=completing("data.datasets:SPLITS"),
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(names_in('sweeps.sweep:ENGINES'))}: processes here, Ray tasks, an array job, or command lines.",
        autocompletion=completing("sweeps.sweep:ENGINES"),
    ),
]
Kind = Annotated[
    str | None,
    typer.Argument(
        help=f"{', '.join(names_in('present.catalogue:KINDS'))}; without it, what these are.",
        autocompletion=completing("present.catalogue:KINDS"),
    ),
]
Name = Annotated[
    str,
    typer.Argument(
        help="An experiment, a method, a run's folder or its checkpoint.", autocompletion=completing_from(known_recipes)
    ),
]
