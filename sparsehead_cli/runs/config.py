"""What a run is: one frozen dataclass, and experiments.yaml -> Config. Imports torch only where images decide.

A value comes from, each overriding the one before: the default here, what suits the images (`images.py`), what an entry of
experiments.yaml extends, the entry itself, the command line.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparsehead_cli.errors import SparseheadError, did_you_mean, one_line, unknown
from sparsehead_cli.machine.plain import folder_name
from sparsehead_cli.machine.plugins import is_plugin
from sparsehead_cli.runs.experiments import (
    FILE,
    METHOD,
    METHOD_PREFIX,
    SWEEP,
    Entries,
    Layer,
    Value,
    combined,
    load_entries,
)
from sparsehead_cli.runs.settings import Values, names_in, read, setting, settings_of, typed

if TYPE_CHECKING:
    from sparsehead_cli.runs.images import Images

Layers = tuple[Layer, ...]
Note = tuple[str, str]  # a name and what the header of a run says under it
Look = Callable[[str, Path, int | None], "Images | None"]  # data set, data_dir, image_size
COMMAND_LINE, DEFAULT = "the command line", "the defaults"
DEEPEST = 1000  # residual blocks, or layers of a projector: no published network is much deeper, and each takes time to make
LARGEST = 4096  # pixels of a side of the images that a network is made for
MOST_CHARACTERS = 20_000  # of the value of one --set
MOST_WORKERS = 1_024  # processes that read images
NARROWEST = 8  # channels: below, oneDNN's weight gradient of a strided 1x1 convolution writes past its buffer with AVX2


@dataclass(frozen=True)
class Config:
    """One `pretrain`. The defaults are the experiment `quickstart`.

    `formerly` is the folder that an older version filed the run under, where that is another one than `experiment`; `notes` are
    what the header says of how the settings came about.
    """

    experiment: str = "quickstart"  # the folder of the run, and where its settings came from
    formerly: str = field(default="", compare=False, repr=False)
    notes: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)
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
    regularisers: tuple[str, ...] | None = setting(
        None,
        "Added to the objective, each with its strength, as in koleo:0.1,covariance:1: terms of z, of r or of the head's weights, "
        "or dropout of its hidden units; {names}.",
        names="ssl.regularisers:REGULARISERS",
        words="NAME:strength with commas between",
    )
    # data
    dataset: str = setting(
        "fashion10k",
        "{names}. fashion10k is embedded.",
        names="data.datasets:DATASETS",
        plug_in=True,
        others="the path of images: a folder (with train/CLASS/ and test/CLASS/, or without labels), a table.csv, tar shards; "
        "or of sentences: a .txt, or a .tsv or .csv with a column text",
    )
    views: str | tuple = setting(
        "grey-small",
        "The views of an image or a sentence: {names}; in YAML also a list of strengths. Without it what suits the data.",
        names="data.augment:RECIPES data.text_views:TEXT_VIEWS",
        plug_in=True,
    )
    image_size: int | None = setting(
        None, "Side of the views; without it that of the images, of a path at most 224.", unit="pixels", least=8, most=LARGEST
    )
    cache: str = setting(
        "auto",
        "Images in files, decoded once and kept in memory: {names}. auto does so with squares of one size, up to 2 GB.",
        names="data.datasets:CACHES",
        identity=False,  # but a run whose images are in memory is another one: runs/settled.py
    )
    tasks: str = setting(
        "",
        "One task after the other: into how many the classes are shared, or data sets with commas between, as in cifar10,svhn.",
    )
    continual: str = setting("none", "Against forgetting earlier tasks: {names}.", names="runs.tasks:REMEDIES")
    replay: int = setting(0, "Inputs of earlier tasks, drawn once, that each task trains on as well.", least=0)
    between_tasks: str = setting("keep", "What begins anew with a task: {names}.", names="runs.tasks:BETWEEN")
    skip_bad_images: bool = setting(False, "Train without images that cannot be read: a new run.")
    # network; None: the backbone's own
    backbone: str = setting(
        "narrow",
        "The network that makes r, of images or of sentences: {names}.",
        names="nets.backbones:BACKBONES nets.vit:VITS nets.bert:BERTS",
        prefixes=("timm:NAME", "hf:PATH"),
        plug_in=True,
    )
    pooling: str = setting(
        "mean", "How a network of sentences, or a vision transformer, makes r of its tokens: {names}.", names="nets.bert:POOLINGS"
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
    accumulate: int = setting(
        1,
        "Parts in which a batch goes through the backbone, whose memory is that of one part; each is computed twice.",
        least=1,
    )
    # machine, and where things lie: no part of what a run is
    device: str = setting("auto", "auto, cpu, cuda or cuda:N.", identity=False)
    checkpoint_activations: bool = setting(
        False, "Keep the activations between the backbone's blocks alone, and compute the others twice.", identity=False
    )
    workers: int | None = setting(
        None, "Processes that read image files; without it one a core, at most 4.", least=0, most=MOST_WORKERS, identity=False
    )
    shard_head: bool = setting(
        False, "Of several processes, let each keep a part of the head's linear layers, for heads of many GB.", identity=False
    )
    track_spectrum: bool = setting(
        False, "Keep the eigenvalues of r and z at epochs 1, 2, 3, 4, 6, 8, 11, 16, … and the last.", identity=False
    )
    data_dir: Path = setting(Path("data"), "Where data sets lie or are downloaded to.", identity=False)
    results: Path = setting(Path("results"), "Runs go to RESULTS/EXPERIMENT/RUN.", identity=False)

    @property
    def all_epochs(self) -> int:
        """The epochs of a whole run: `epochs` for each of the tasks that its settings name, unless they are trained all at once."""
        if not self.tasks or self.continual == "joint":
            return self.epochs
        return self.epochs * (int(self.tasks) if self.tasks.isdigit() else 1 + self.tasks.count(","))


FIELDS = settings_of(Config)


@dataclass(frozen=True)
class Recipe:
    """All settings of a run, and of those that are stated somewhere the words for that place, keys as in `--set`."""

    config: Config
    sources: dict[str, str]


def load_config(experiment: str | None, experiments: Path | None, overrides: Values) -> Config:
    """The settings of a run, as `load_recipe` finds them."""
    return load_recipe(experiment, experiments, overrides).config


def load_recipe(experiment: str | None, experiments: Path | None, overrides: Values) -> Recipe:
    """The named experiment, of the file `experiments` or of those that are always there, with `overrides`, keys as in `--set`.

    Without a name it is the recipe of the method, simclr where none is given: the entry that bears its name, or else `quickstart`.
    Where no method is given, a `quickstart` that takes the place of the built-in one comes first.

    Raises: SparseheadError that names every unknown key, wrong type and impossible number at once.
    """
    entries = load_entries(experiments)
    if experiment is None:
        own = entries[Config.experiment][-1].replaces
        method = overrides.get(METHOD, None if own else Config.method)
        name = method if isinstance(method, str) and method in entries else Config.experiment
        recipe = resolve(entries, overrides, recipe=entries[name])
        return replace(recipe, config=filed(recipe.config, name, combined(entries[name], Config.method)))
    if experiment not in entries:
        raise unknown(f"experiment in {experiments or FILE}:", experiment, entries)
    folder_name("experiment", experiment)
    if SWEEP in combined(entries[experiment], Config.method):
        raise SparseheadError(f"{experiment} is a sweep of many runs: sparsehead sweep-lambda --experiment {experiment}")
    recipe = resolve(entries, overrides, named=entries[experiment])
    return replace(recipe, config=replace(recipe.config, experiment=experiment))


def resolve(entries: Entries, overrides: Values, *, recipe: Layers = (), named: Layers = (), look: Look | None = None) -> Recipe:
    """A method's `recipe`, the experiment that was `named` over it, `overrides` over both, and under them what suits the images.

    Where the command line or the named experiment has views of images, they have a recipe, and images decide nothing. Otherwise the
    entry for inputs of their kind holds, and views are chosen where nothing has them. `look` says what images a data set has.

    Raises: SparseheadError that names everything wrong at once.
    """
    if look is None:
        from sparsehead_cli.runs.images import images_of as look  # not above: --help has no time for torch
    given = Layer(COMMAND_LINE, overrides)
    layers = (*recipe, *named, given)
    values, notes = clipped(combined(layers, Config.method))
    config = checked(values, entries)
    of_images = "views" in overrides and overrides["views"] not in names_in("data.text_views:TEXT_VIEWS")
    has_recipe = of_images or any("views" in layer.settings for layer in named)
    if not has_recipe and (images := look(config.dataset, config.data_dir, config.image_size)):
        suiting, fitting = entries.get(images.kind, ()), images.fitting(recipe)
        if not any("views" in layer.settings for layer in (*suiting, *fitting)):
            suiting = (Layer(f"suits {images.words}", {"views": images.views(config.method)}), *suiting)
        layers = (*suiting, *fitting, *named, given)
        values, notes = clipped(combined(layers, Config.method))
        config = checked(values, entries)
        notes = (*chosen(values, config, len(suiting), images.words), *notes)
    replaced = [("experiment", f"{layer.source}, in place of the built-in one") for layer in layers if layer.replaces]
    config = replace(config, notes=(*replaced, *notes))
    return Recipe(config, {key: value.source for key, value in values.items()})


def checked(values: dict[str, Value], entries: Entries) -> Config:
    """The settings as a run has them. Raises: SparseheadError that names everything wrong at once."""
    given, method_settings, problems = {}, {}, []
    views = {}
    for key, (value, *_) in values.items():
        if key.startswith(METHOD_PREFIX):
            method_settings[key.removeprefix(METHOD_PREFIX)] = value
        elif key == "views" and not isinstance(value, str):
            from sparsehead_cli.runs.views import read_views  # not above: as before

            try:
                views[key] = read_views(value)
            except SparseheadError as error:
                problems.append(str(error))
        elif key in FIELDS:
            given[key] = value
        else:
            problems.append(f'unknown setting "{one_line(key)}".{hint_for(key, entries)}')
    read_values, wrong = read(FIELDS, given)
    if problems or wrong:
        raise SparseheadError("\n".join(problems + wrong))
    named = str(read_values.get("tasks", "")).partition(",")[0].strip()
    if named.lstrip("+-").replace(".", "", 1).isdigit() and not named.isdigit():
        raise SparseheadError(f"tasks is a whole number of at least 2, or names of data sets; given {named}.")
    if named and not named.isdigit():
        read_values.setdefault("dataset", named)  # of data sets in turn it is the first
    if "dataset" in read_values:
        read_values["dataset"] = plain_path(read_values["dataset"])
    return Config(method_settings=method_settings, **read_values, **views)


def plain_path(dataset: str) -> str:
    """A data set with its path as everybody writes it, so that ./base, base/ and base are one run. Names stay what they are.

    A folder that bears the name of a data set keeps its ./, without which it would be that one; so does one like a module:load.
    Where a link's .. leads elsewhere, the path stays as it is.
    """
    path = os.path.normpath(dataset)
    if not dataset or os.path.realpath(path) != os.path.realpath(dataset):
        return dataset
    if path != dataset and (is_plugin(path) or path in names_in(FIELDS["dataset"].names)):
        return os.path.join(os.curdir, path)
    return path


def clipped(values: dict[str, Value]) -> tuple[dict[str, Value], tuple[Note, ...]]:
    """`values` with a warm-up that is no longer than the run, where it was inherited: stated before the epochs were; and a note."""
    stated = {}
    for name in ("warmup_epochs", "epochs"):
        default = Value(FIELDS[name].default, DEFAULT, -1)
        value = values.get(name, default)
        try:
            stated[name] = value._replace(value=typed(FIELDS[name], value.value))
        except ValueError:
            return values, ()  # the reader says it
    warmup, epochs = stated.values()
    if not 0 < epochs.value < warmup.value or warmup.layer >= epochs.layer:
        return values, ()
    said = f"{epochs.value:g} epochs, not the {warmup.value:g} of {warmup.source}: the run is no longer"
    return {**values, "warmup_epochs": epochs._replace(value=float(epochs.value))}, (("warm-up", said),)


def chosen(values: dict[str, Value], config: "Config", layers: int, images: str) -> tuple[Note, ...]:
    """What the header says of settings that the lowest `layers` have chosen for some `images`, in words."""
    names = [name for name, value in values.items() if value.layer < layers]
    notes = [("views", f"as suits {images}")] if "views" in names else []
    others = [f"{name} {getattr(config, name, values[name].value)}" for name in names if name != "views"]
    if others:
        notes.append(("chosen", f"{', '.join(others)}, as suits {images}; --set or an experiment changes it"))
    return tuple(notes)


def filed(config: Config, name: str, entry: dict[str, Value]) -> Config:
    """The settings of a run without a named experiment, with the folder it is filed under.

    That is the name of the `entry` that it is of, or where its method or data set is another one, what it is, such as
    byol-on-cifar10: nothing but quickstart is called quickstart.
    """
    entry_method, entry_dataset = (entry[key].value if key in entry else getattr(Config, key) for key in (METHOD, "dataset"))
    method = file_word(config.method)
    if config.dataset != entry_dataset:
        return replace(config, experiment=f"{method}-on-{file_word(config.dataset)}", formerly=name)
    if config.method != entry_method:
        return replace(config, experiment=method, formerly=name)
    return replace(config, experiment=name)


def file_word(name: str) -> str:
    """A method or data set as a part of a folder's name: of a path its last part, and letters, digits, dots and dashes alone."""
    last = name if is_plugin(name) else os.path.basename(os.path.abspath(name))
    return re.sub(r"[^\w.]+", "-", last)[:40].strip("-.") or "data"


def hint_for(key: str, entries: Entries) -> str:
    """What an unknown setting may be meant to be: one of a method that the experiments name, or one of FIELDS."""
    if any(METHOD_PREFIX + key in layer.settings for layers in entries.values() for layer in layers):
        return f' Did you mean "{METHOD_PREFIX}{key}"?'
    return did_you_mean(key, FIELDS) or f" Known: {', '.join(FIELDS)}, {METHOD_PREFIX}<name>."


def read_experiments(path: Path | None = None) -> dict[str, Values]:
    """name -> its settings, and those of what it extends; of `path`, the working directory, and of those that are always there."""
    entries = {name: combined(layers, Config.method) for name, layers in load_entries(path).items()}
    return {name: {key: value.value for key, value in values.items()} for name, values in entries.items()}


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
