"""What a run is: one frozen dataclass, and experiments.yaml -> Config. Imports no torch.

A value comes from, each overriding the one before: the default here, the experiment in experiments.yaml, the command line.
"""

from dataclasses import dataclass, field
from pathlib import Path

from sparsehead_cli.errors import SparseheadError, did_you_mean, one_line, unknown
from sparsehead_cli.machine.plain import folder_name, read_text
from sparsehead_cli.runs.settings import read, setting, settings_of

PACKAGE = Path(__file__).parents[1]
METHOD_PREFIX = "method."
DEEPEST = 1000  # residual blocks, or layers of a projector: no published network is much deeper, and each takes time to make
LARGEST = 4096  # pixels of a side of the images that a network is made for
SWEEP = "sweep"  # the key under which an experiment has the axes of a sweep over λ
MOST_CHARACTERS = 20_000  # of the value of one --set
MOST_WORKERS = 1_024  # processes that read images
NARROWEST = 8  # channels: below, oneDNN's weight gradient of a strided 1x1 convolution writes past its buffer with AVX2


@dataclass(frozen=True)
class Config:
    """One `pretrain`. The defaults are the experiment `quickstart`."""

    experiment: str = "quickstart"  # the folder of the run, and where its settings came from
    method: str = setting("simclr", "The objective: {names}. supcon knows the labels.", names="ssl.methods:METHODS", plug_in=True)
    method_settings: dict[str, object] = field(default_factory=dict)  # written method.<name>; defaults in the method
    # SparseHead
    lam: float = setting(1e-3, "λ, strength of the penalty on the projector; 0 is none.", least=0)
    penalty: str = setting("l21", "What λ weighs: {names}.", names="sparse.penalties:PENALTIES", plug_in=True)
    groups: str = setting("input", "Weights that live or die together, those of one {names}.", names="sparse.penalties:GROUPS")
    layers: str = setting("all", "Layers of the projector that are penalised: {names}.", names="sparse.sparse_head:LAYERS")
    solver: str = setting("subgradient", "{names}: the paper's, or one that makes exact zeros.", names="sparse.sparse_head:SOLVERS")
    lam_schedule: str = setting(
        "constant", "{names}: λ may rise along a line or half a cosine.", names="sparse.sparse_head:SCHEDULES"
    )
    lam_ramp_epochs: float = setting(
        10.0, "How long λ rises.", unit="epochs", above=0, note=": a λ schedule cannot have zero length"
    )
    # data
    dataset: str = setting(
        "fashion10k",
        "{names}. fashion10k is embedded.",
        names="data.datasets:DATASETS",
        plug_in=True,
        others="the path of a folder with train/CLASS/ and test/CLASS/",
    )
    views: str = setting("grey-small", "The views that are made of an image: {names}.", names="data.augment:RECIPES", plug_in=True)
    image_size: int | None = setting(
        None, "Side of the views; without it the data set's own.", unit="pixels", least=8, most=LARGEST
    )
    skip_bad_images: bool = setting(False, "Train without images that cannot be read: a new run.")
    # network; None: the backbone's own
    backbone: str = setting(
        "narrow", "The network that makes r: {names}.", names="nets.backbones:BACKBONES", prefix="timm:", plug_in=True
    )
    widths: tuple[int, ...] | None = setting(None, "Channels of each stage.", least=NARROWEST)
    blocks: tuple[int, ...] | None = setting(None, "Residual blocks of each stage.", least=1, together=DEEPEST)
    init: Path | None = setting(
        None, "A checkpoint that the encoder starts from, as evaluate reads it; the head does not.", content=True
    )
    projector: str = setting("mlp", "What makes z of r: {names}.", names="nets.heads:PROJECTORS")
    projector_layers: int = setting(2, "Linear layers of the mlp; 1 is a linear head.", least=1, most=DEEPEST)
    projector_hidden: int = setting(256, "Width of its hidden layers.", least=1)
    projector_out: int = setting(128, "Width of z.", least=1)
    projector_batch_norm: bool = setting(True, "BatchNorm in its hidden layers.")
    # optimisation
    epochs: int = setting(26, "Passes over the training images.", least=1)
    warmup_epochs: float = setting(1.0, "How long the learning rate rises.", unit="epochs", least=0, most="epochs")
    batch_size: int = setting(128, "Images a step, over all processes.", least=2)
    optimizer: str = setting("sgd", "{names}; larc is lars with a clip.", names="nets.optim:OPTIMIZERS")
    lr: float = setting(0.25, "Peak learning rate, as it is used: never rescaled by the batch.", above=0)
    momentum: float = setting(0.9, "Of the optimizer; beta 1 of adamw.", least=0, below=1)
    weight_decay: float = setting(1e-4, "Of weights; biases and norm layers do not decay.", least=0)
    seed: int = setting(0, "Initial weights, order and views; the same for every λ.", least=0, most=2**31 - 1)
    precision: str = setting("auto", "Of the network's passes: {names}.", names="machine.device:PRECISIONS", also=("auto",))
    compile: bool = setting(False, "Compile the backbone.")
    # machine, and where things lie: no part of what a run is
    device: str = setting("auto", "auto, cpu, cuda or cuda:N.", identity=False)
    workers: int | None = setting(
        None, "Processes that read image files; without it one a core, at most 4.", least=0, most=MOST_WORKERS, identity=False
    )
    track_spectrum: bool = setting(
        False, "Keep the eigenvalues of r and z at epochs 1, 2, 3, 4, 6, 8, 11, 16, … and the last.", identity=False
    )
    data_dir: Path = setting(Path("data"), "Where data sets lie or are downloaded to.", identity=False)
    results: Path = setting(Path("results"), "Runs go to RESULTS/EXPERIMENT/RUN.", identity=False)


FIELDS = settings_of(Config)


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
    given, method_settings, problems = {}, {}, []
    for key, value in {**table[experiment], **overrides}.items():
        if key.startswith(METHOD_PREFIX):
            method_settings[key.removeprefix(METHOD_PREFIX)] = value
        elif key in FIELDS:
            given[key] = value
        else:
            problems.append(f'unknown setting "{one_line(key)}".{hint_for(key, table)}')
    values, wrong = read(FIELDS, given)
    if problems or wrong:
        raise SparseheadError("\n".join(problems + wrong))
    return Config(experiment=experiment, method_settings=method_settings, **values)


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
    from sparsehead_cli.machine.yaml_reader import read_yaml  # not above: --help has no time for it

    try:
        table = read_yaml(read_text(path))
    except ValueError as error:
        raise SparseheadError(f"{path} is not valid YAML, or not of settings: {error}.") from None
    if not isinstance(table, dict) or not all(isinstance(v, dict | None) for v in table.values()):
        raise SparseheadError(f"{path} must map each experiment's name to its settings.")
    return {name: settings or {} for name, settings in table.items()}


def parse_set(assignments: list[str]) -> dict[str, object]:
    """["width=48", "method.temperature=0.5"] -> {"width": 48, ...}; values are read as YAML."""
    from sparsehead_cli.machine.yaml_reader import read_yaml

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
