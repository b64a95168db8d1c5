"""What a run is: one frozen dataclass, and experiments.yaml -> Config. Imports no torch.

A value comes from, each overriding the one before: the default here, the experiment in experiments.yaml, the command line.
"""

import dataclasses
import math
import os
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

from sparsehead_cli.errors import SparseheadError, did_you_mean, one_line, shown, unknown
from sparsehead_cli.machine.plain import folder_name, number, read_text, read_yaml, whole

PACKAGE = Path(__file__).parents[1]
METHOD_PREFIX = "method."
DEEPEST = 1000  # residual blocks, or layers of a projector: no published network is much deeper, and each takes time to make
LARGEST = 4096  # pixels of a side of the images that a network is made for
SWEEP = "sweep"  # the key under which an experiment has the axes of a sweep over λ
MOST_WHOLE = 2**31 - 1  # of any setting that is a whole number
MOST_NUMBER = 3e38  # of any other number: float32, in which tensors are computed, ends at 3.4e38
MOST_CHARACTERS = 20_000  # of the value of one --set
MOST_WORKERS = 1_024  # processes that read images
MOST_PARTS = 64  # stages of a network, and other numbers in one list
LATER = ("image_size", "skip_bad_images")  # settings that came after runs had been named by all the others


@dataclass(frozen=True)
class Config:
    """One `pretrain`. The defaults are the experiment `quickstart`."""

    experiment: str = "quickstart"  # the folder of the run, and where its settings came from
    method: str = "simclr"
    method_settings: dict[str, object] = field(default_factory=dict)  # written method.<name>; defaults in the method
    # SparseHead
    lam: float = 1e-3
    penalty: str = "l21"
    groups: str = "input"
    layers: str = "all"
    solver: str = "subgradient"
    lam_schedule: str = "constant"  # or risen to lam along a line or half a cosine
    lam_ramp_epochs: float = 10.0  # how long it rises
    # data
    dataset: str = "fashion10k"
    recipe: str = "grey-small"
    image_size: int | None = None  # side of the views; None: the data set's own
    skip_bad_images: bool = False  # go on without images that cannot be read
    # network; None: the backbone's own
    backbone: str = "narrow"
    widths: tuple[int, ...] | None = None  # channels of each stage
    blocks: tuple[int, ...] | None = None  # residual blocks of each stage
    projector: str = "mlp"  # or none, orthogonal (fixed), direct
    projector_layers: int = 2  # linear layers: 1 is a linear head
    projector_hidden: int = 256
    projector_out: int = 128
    projector_batch_norm: bool = True
    # optimisation
    epochs: int = 26
    warmup_epochs: float = 1.0
    batch_size: int = 128  # over all processes
    optimizer: str = "sgd"
    lr: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 1e-4
    seed: int = 0
    # machine
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    workers: int | None = None  # processes that read images from files; None: one a core, at most four
    track_spectrum: bool = False  # keep the eigenvalues of r and z at epochs 1, 2, 3, 4, 6, 8, 11, 16, … and the last
    # where things lie: no part of what a run is
    data_dir: Path = Path("data")
    results: Path = Path("results")

    def problems(self) -> list[str]:
        """Everything wrong with the numbers, one sentence each; names are checked where their tables are."""
        rules = [
            ("lam", self.lam >= 0, "at least 0"),
            ("projector_layers", 1 <= self.projector_layers <= DEEPEST, f"between 1 and {DEEPEST}"),
            ("projector_hidden", self.projector_hidden >= 1, "at least 1"),
            ("projector_out", self.projector_out >= 1, "at least 1"),
            # below 8, oneDNN's weight gradient of a strided 1x1 convolution writes past its buffer on processors with AVX2
            ("widths", self.widths is None or min(self.widths) >= 8, "numbers of at least 8"),
            ("blocks", self.blocks is None or min(self.blocks) >= 1, "numbers of at least 1"),
            ("blocks", self.blocks is None or sum(self.blocks) <= DEEPEST, f"{DEEPEST} together at most"),
            ("image_size", self.image_size is None or 8 <= self.image_size <= LARGEST, f"between 8 and {LARGEST}"),
            ("workers", self.workers is None or self.workers >= 0, "at least 0"),
            ("workers", self.workers is None or self.workers <= MOST_WORKERS, f"at most {MOST_WORKERS}"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("warmup_epochs", self.epochs < 1 or 0 <= self.warmup_epochs <= self.epochs, f"between 0 and epochs ({self.epochs})"),
            ("lam_ramp_epochs", self.lam_ramp_epochs > 0, "above 0: a λ schedule cannot have zero length"),
            ("batch_size", self.batch_size >= 2, "at least 2"),
            ("lr", self.lr > 0, "above 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("seed", 0 <= self.seed < 2**31, f"between 0 and {2**31 - 1}"),
        ]
        found = [f"{key} must be {must}, given {shown(getattr(self, key))}." for key, holds, must in rules if not holds]
        for key, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                found = [f for f in found if not f.startswith(f"{key} ")] + [f"{key} must be finite, given {value}."]
        return found

    def identity(self) -> dict[str, object]:
        """The settings that change the result, as plain values; of LATER only those that are not the default."""
        where = ("experiment", "data_dir", "results", "workers", "track_spectrum")
        found = {key: value for key, value in dataclasses.asdict(self).items() if key not in where}
        return {key: value for key, value in found.items() if key not in LATER or value != FIELDS[key].default}


FIELDS = {f.name: f for f in dataclasses.fields(Config) if f.name not in ("experiment", "method_settings")}


def load_config(experiment: str | None, experiments: Path | None, overrides: dict[str, object]) -> Config:
    """The named experiment of `experiments` (or of the default file) with `overrides`, keys as in `--set`.

    Without a name it is the recipe of the method: the experiment that bears the method's name, or else `quickstart`.

    Raises: SparseheadError that names every unknown key, wrong type and impossible number at once.
    """
    path = experiments or default_experiments()
    table = read_experiments(path)
    if experiment is None:
        method = overrides.get("method")
        experiment = method if isinstance(method, str) and method in table else Config.experiment
    if experiment not in table:
        raise unknown(f"experiment in {path}:", experiment, table)
    folder_name("experiment", experiment)
    if SWEEP in table[experiment]:
        raise SparseheadError(f"{experiment} is a sweep of many runs: sparsehead sweep-lambda --experiment {experiment}")
    values, problems = {}, []
    settings = {}
    for key, value in {**table[experiment], **overrides}.items():
        if key.startswith(METHOD_PREFIX):
            settings[key.removeprefix(METHOD_PREFIX)] = value
        elif key not in FIELDS:
            problems.append(f'unknown setting "{one_line(key)}".{hint_for(key, table)}')
        else:
            try:
                values[key] = coerce(key, value)
            except ValueError as error:
                problems.append(str(error))
    config = Config(experiment=experiment, method_settings=settings, **values)
    problems += config.problems()
    if problems:
        raise SparseheadError("\n".join(problems))
    return config


def hint_for(key: str, table: dict[str, dict[str, object]]) -> str:
    """What an unknown setting may be meant to be: one of a method that the experiments name, or one of FIELDS."""
    if any(METHOD_PREFIX + key in entry for entry in table.values()):
        return f' Did you mean "{METHOD_PREFIX}{key}"?'
    return did_you_mean(key, FIELDS) or f" Known: {', '.join(FIELDS)}, {METHOD_PREFIX}<name>."


def default_experiments() -> Path:
    """experiments.yaml of the working directory, else the one that travels inside the package, else the repository's."""
    candidates = (Path("experiments.yaml"), PACKAGE / "experiments.yaml", PACKAGE.parent / "experiments.yaml")
    return next(path for path in candidates if path.exists())


def read_experiments(path: Path) -> dict[str, dict[str, object]]:
    """name -> its deviations from the defaults. Raises: SparseheadError for a file that is not such a table."""
    try:
        table = read_yaml(read_text(path))
    except ValueError as error:
        raise SparseheadError(f"{path} is not valid YAML, or not of settings: {error}.") from None
    if not isinstance(table, dict) or not all(isinstance(v, dict | None) for v in table.values()):
        raise SparseheadError(f"{path} must map each experiment's name to its settings.")
    return {name: settings or {} for name, settings in table.items()}


def parse_set(assignments: list[str]) -> dict[str, object]:
    """["width=48", "method.temperature=0.5"] -> {"width": 48, ...}; values are read as YAML."""
    values = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise SparseheadError(f'--set wants key=value, given "{one_line(assignment)}".')
        try:
            values[key.strip()] = read_yaml(text, MOST_CHARACTERS)
        except ValueError as error:
            raise SparseheadError(f'--set {one_line(key)}: "{one_line(text)}" is no value of a setting: {error}.') from None
    return values


def coerce(key: str, value: object, fields: dict[str, dataclasses.Field] = FIELDS) -> object:
    """`value` as the type of the dataclass's field. Raises: ValueError, a sentence, when it is not one."""
    kinds = typing.get_args(fields[key].type) if isinstance(fields[key].type, types.UnionType) else (fields[key].type,)
    if value is None and type(None) in kinds:
        return None
    return typed(key, value, kinds[0])


def typed(key: str, value: object, kind: type) -> object:
    """`value` as a whole number, a number, true or false, text, a path or a tuple of whole numbers, which `kind` says.

    Raises: ValueError, a sentence, when it is not one; for a number of more than MOST_WHOLE or MOST_NUMBER.
    """
    several = typing.get_origin(kind) is tuple
    try:
        if kind is float:
            return at_most(key, number(value), MOST_NUMBER)
        if kind is int and type(value) is int:
            return at_most(key, value, MOST_WHOLE)
        if several:
            parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
            if 0 < len(parts) <= MOST_PARTS:
                return tuple(at_most(key, whole(part), MOST_WHOLE) for part in parts)
        if kind in (str, Path) and isinstance(value, str | Path | int) and not isinstance(value, bool):
            return kind(path_text(key, str(value)))
        if kind is bool and type(value) is bool:
            return value
    except Impossible as problem:
        raise ValueError(str(problem)) from None
    except ValueError:
        pass
    name = f"a list of whole numbers, {MOST_PARTS} at most" if several else WORDS.get(kind, str(kind))
    quotes = " (write it in quotes, key='\"1.10\"')" if kind in (str, Path) and isinstance(value, float) else ""
    raise ValueError(f"{key} must be {name}, given {shown(value)}{quotes}.")


class Impossible(ValueError):
    """A number that no setting can be, or a text that no path can hold: a sentence."""


def at_most(key: str, value: float, most: float) -> float:
    """`value`. Raises: Impossible for a finite one beyond `most` on either side; whether it may be infinite others say."""
    if most < abs(value) < math.inf:
        raise Impossible(f"{key} must be at most {most}, given {shown(value)}.")
    return value


def path_text(key: str, text: str) -> str:
    """`text`. Raises: Impossible for characters that no name of a file can have here."""
    try:
        if b"\0" in os.fsencode(text):
            raise Impossible(f"{key} must not have a zero byte, given {shown(text)}.")
    except UnicodeEncodeError:
        raise Impossible(f"{key} has characters that no file can have in this locale, given {shown(text)}.") from None
    return text


WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
