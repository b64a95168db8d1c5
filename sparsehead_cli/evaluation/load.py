"""A checkpoint -> the network in it, as a Subject: of ours, of anybody's, or of timm's with its weights."""

import dataclasses
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsehead_cli.data.contract import ImageSpec, Normalisation
from sparsehead_cli.data.datasets import DATASETS, dataset_info
from sparsehead_cli.data.prepare import Prepare, for_channels
from sparsehead_cli.data.text import TextSpec
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.subject import TEMPERATURE, LoadOptions, Subject, digest_of, ready, require_readable, usual_views
from sparsehead_cli.foreign.assumptions import GIVEN, GUESSED
from sparsehead_cli.foreign.berts import is_pretrained
from sparsehead_cli.foreign.facts import Facts, parse_assume
from sparsehead_cli.foreign.file import read_file
from sparsehead_cli.foreign.networks import ForeignNetwork, Search
from sparsehead_cli.foreign.resnets import find_resnet
from sparsehead_cli.foreign.timm_models import PREFIX as TIMM
from sparsehead_cli.foreign.timm_models import find_timm
from sparsehead_cli.machine.device import choose_device
from sparsehead_cli.measure.features import EncoderAndHead
from sparsehead_cli.nets.backbones import ResNet
from sparsehead_cli.runs.build import build_encoder, make_views, outline, plain_views
from sparsehead_cli.runs.checkpoint import MEASURED, NEEDED, checkpoint_file, is_checkpoint, load_checkpoint, require_weights
from sparsehead_cli.runs.config import FIELDS, Config
from sparsehead_cli.runs.encoder_file import OF_RUN, is_encoder_file, load_encoder_file, spec_in
from sparsehead_cli.runs.folder import code_version, identity_columns, input_of
from sparsehead_cli.runs.identity import config_in, digests
from sparsehead_cli.runs.initial import initial_encoder
from sparsehead_cli.runs.method_settings import method_settings
from sparsehead_cli.sparse.prune import load_pruned

SMALL = 64  # pixels, up to which a network for small images takes them in their own size
DUST = 1e-30
CONTRASTIVE = ("simclr", "moco", "supcon")  # methods whose temperature is that of a contrastive loss
MAY_BE_OWN = ("backbone", "views", "dataset")  # settings that evaluation reads, and that may name code of somebody's own


def load_subject(checkpoint: str | Path, options: LoadOptions, dataset: str | None = None) -> Subject:
    """The trained network of a checkpoint: of ours (the file or its folder), of anybody's, or timm:NAME with its weights.

    `dataset` is the one that it is to be measured on.

    Raises: SparseheadError for a file without a network, or whose weights do not fit its settings or architecture.
    """
    options.check()
    timm, given = timm_name(checkpoint, options.weights), parse_assume(options.assume)
    path, device = options.weights or checkpoint_file(checkpoint), choose_device(options.device)
    if timm is None and (is_checkpoint(path) or is_encoder_file(path)):
        if options.allow_partial or options.image_size or options.assume:
            raise SparseheadError(f"{path} is a checkpoint of ours, whole and with its own image size. Leave the options out.")
        subject, foreign = own_subject(path, device, options), False
        info = dataset_info(dataset, options.data_dir, subject.cache) if dataset else None
    else:
        info = dataset_info(dataset, options.data_dir, "none") if dataset else None
        facts = Facts(given | ({"image_size": options.image_size} if options.image_size else {}))
        subject, foreign = foreign_subject(path, timm, facts, info, device, options), True
    if info is None:
        return subject
    require_readable(subject, dataset, info)
    if subject.vocabulary:
        return subject
    changes = changed_images(dataset, info, subject.prepare.image, foreign=foreign)
    return dataclasses.replace(subject, report=(*subject.report, *changes))


def timm_name(checkpoint: str | Path, weights: Path | None) -> str | None:
    """NAME of timm:NAME, None for a file. Raises: SparseheadError for a name without weights, and for weights without one."""
    named = str(checkpoint).startswith(TIMM)
    if named and weights is None:
        raise SparseheadError(f"{checkpoint} needs its weights, and nothing is downloaded: add --weights FILE.")
    if weights is not None and not named:
        raise SparseheadError("--weights goes with the name of a timm model: sparsehead evaluate timm:NAME --weights FILE.")
    return str(checkpoint).removeprefix(TIMM) if named else None


def changed_images(name: str, info: ImageSpec, image: tuple[int, int, int], *, foreign: bool) -> tuple[str, ...]:
    """A line about what becomes of a data set's images before the network sees them; none where they stay as they are.

    Images that stream from files are cut to the network's size anyhow, and those that are smaller are enlarged. Of enlarged ones it
    says what a `foreign` network, whose size is a guess or a choice, may be given in its place.
    """
    channels, side, _ = image
    streams = getattr(info, "layout", None) and not info.cached
    size = min(side, info.size) if streams else info.size
    changes = []
    if size != side:
        changes.append(f"{'enlarged' if size < side else 'reduced'} to {side} x {side}")
    if info.channels != channels:
        changes.append("made three equal channels" if channels == 3 else "made grey")
    if not changes:
        return ()
    line = f"{name}: its {info.channels} x {size} x {size} images are {' and '.join(changes)}"
    smaller = f". --image-size {size} is faster, and right if it was trained on images of that size"
    return (line + (smaller if foreign and size < side else ""),)


# ---------------------------------------------------------------------------------------------- checkpoints of ours


def own_subject(path: Path, device: torch.device, options: LoadOptions) -> Subject:
    """The network of a checkpoint of ours, or of an encoder that was exported from one.

    Raises: SparseheadError where its weights do not fit its settings.
    """
    state, experiment, run = own_state(path)
    try:
        config = config_in(state["identity"], experiment)
    except SparseheadError as error:
        raise SparseheadError(f"{path}: {' '.join(str(error).split())[:500]}") from None
    require_named(config, options.plugins, path)
    spec, head = spec_of(state, config, options.data_dir), state.get("head", "full")
    weights = {name: value for name, value in state["method"].items() if name.startswith(("backbone.", "projector."))}
    require_fitting(weights, config, spec, path, head)
    if path.suffix != ".safetensors":  # which bears its run's name itself
        require_own_folder(path, state["identity"])
    network = with_head(make_network(config, spec), head, weights)
    require_weights(weights, network.state_dict(), path, MEASURED)
    network.load_state_dict(weights)
    views = make_views(config, spec)
    network, prepare = ready(network, device), plain_views(views, spec)
    digest = digest_of(network, prepare)
    remove_dust(network.projector)  # the digest is that of the file
    step = {"step": state["step"], "total_steps": state.get("total_steps", "")}
    return Subject(
        model="checkpoint",
        network=network,
        prepare=prepare,
        columns={**identity_columns(config, run), **step},
        digest=digest,
        device=device,
        fresh=partial(fresh_network, config, spec, head),
        views=views,
        dataset=config.dataset,
        temperature=temperature_of(config),
        config=config,
        stored={**{name: state[name] for name in OF_RUN if name in state}, **input_of(spec)},
        initial=partial(initial_network, config, spec) if config.init or is_pretrained(config.backbone) else None,
        vocabulary=getattr(spec, "vocabulary", ""),
    )


@torch.no_grad()
def remove_dust(projector: nn.Module) -> None:
    """Set weights below DUST to 0.

    A penalty leaves a thin head full of numbers near 1e-40, which a processor multiplies a hundred times slower than others.
    Without them no sum in float32 changes.
    """
    for weight in projector.parameters():
        weight[weight.abs() < DUST] = 0


def temperature_of(config: Config) -> float:
    """That of a run's contrastive loss, or the usual one where it has none."""
    if config.method not in CONTRASTIVE:
        return TEMPERATURE
    return float(method_settings(config.method, config.method_settings)["temperature"])


def own_state(path: Path) -> tuple[dict[str, object], str, str]:
    """What a file of ours holds, and its run's experiment and name, which a checkpoint has from its folder.

    Raises: SparseheadError for a file that is damaged.
    """
    if path.suffix == ".safetensors":
        state = load_encoder_file(path)
        return state, str(state["experiment"]), str(state["run"])
    state = load_checkpoint(path, MEASURED)
    folder = path.resolve().parent
    return state, folder.parent.name, folder.name


def make_network(config: Config, spec: ImageSpec | TextSpec) -> EncoderAndHead:
    """The network of a run with its initial weights; the global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        return EncoderAndHead(*build_encoder(config, spec))


def fresh_network(config: Config, spec: ImageSpec | TextSpec, head: str) -> EncoderAndHead:
    """The network of a run with its initial weights, without its head where a file has none."""
    network = make_network(config, spec)
    return EncoderAndHead(network.backbone, nn.Identity()) if head == "none" else network


def initial_network(config: Config, spec: ImageSpec | TextSpec) -> EncoderAndHead:
    """The encoder of a run as it began, with weights that were trained before, and no head. Raises: SparseheadError."""
    network = make_network(config, spec)
    initial_encoder(config, spec).put_into(network.backbone)
    return EncoderAndHead(network.backbone, nn.Identity())


def with_head(network: EncoderAndHead, head: str, weights: Mapping[str, Tensor]) -> EncoderAndHead:
    """The network with what a file has of its head: "full", "pruned" in the sizes of the weights, or "none"."""
    if head == "full":
        return network
    if head == "none":
        return EncoderAndHead(network.backbone, nn.Identity())
    own = {name.removeprefix("projector."): value for name, value in weights.items() if name.startswith("projector.")}
    return EncoderAndHead(network.backbone, load_pruned(network.projector, own))


def require_named(config: Config, plugins: tuple[str, ...], path: Path) -> None:
    """Raises: SparseheadError for code of somebody's own that a checkpoint names, and that the user does not."""
    for module, code in own_code(config).items():
        if module not in plugins:
            raise SparseheadError(
                f"{path} names code of somebody's own, {code}, which is imported only where you name it, too. "
                f"If you trust it: --plugin {module}"
            )


def own_code(config: Config) -> dict[str, str]:
    """The modules of somebody's own code that evaluating a run needs, each with the first setting that names it."""
    modules: dict[str, str] = {}
    for key in MAY_BE_OWN:
        name = getattr(config, key)
        if FIELDS[key].is_plug_in(name):
            modules.setdefault(name.partition(":")[0], f"{key} {name}")
    return modules


def require_own_folder(path: Path, identity: dict[str, object]) -> None:
    """Raises: SparseheadError for a checkpoint in the folder of another run, whose name all rows about it would bear."""
    folder = path.resolve().parent.name
    named = re.search(r"-seed\d+-([0-9a-f]{7})$", folder)
    if named and named[1] not in digests(identity):
        raise SparseheadError(f"{path} is not the checkpoint of the run that its folder is named after. Move it to another folder.")


def require_fitting(weights: dict[str, Tensor], config: Config, spec: ImageSpec | TextSpec, path: Path, head: str = "full") -> None:
    """Raises: SparseheadError where weights are not those of the settings' network, before a number of it is made.

    Code of somebody's own may not know how to be made without numbers; its weights are compared once it is made. Of a head that is
    not "full" only the encoder beside it is compared here.
    """
    deep = sum(config.blocks or ()) + (config.projector_layers if head == "full" else 0)
    if deep > len(weights):
        raise SparseheadError(f"{path} has {len(weights)} tensors, too few for the {deep} layers and blocks of its settings.")
    if FIELDS["backbone"].is_plug_in(config.backbone):
        return
    try:
        network = EncoderAndHead(*outline(build_encoder, config, spec))
    except SparseheadError as error:
        raise SparseheadError(f"{path}: {error}") from None
    expected = network.state_dict()
    if head != "full":
        weights, expected = ({n: v for n, v in of.items() if n.startswith("backbone.")} for of in (weights, expected))
    require_weights(weights, expected, path, MEASURED)


def spec_of(state: dict, config: Config, data_dir: Path) -> ImageSpec | TextSpec:
    """What the network was told of its training views; older checkpoints leave that to the data set."""
    if spec := spec_in(state):
        return spec
    info = dataset_info(config.dataset, data_dir)
    return ImageSpec((), info.channels, config.image_size or info.size, info.normalise)


# ---------------------------------------------------------------------------------------------- checkpoints of others


def foreign_subject(
    path: Path, timm: str | None, facts: Facts, info: ImageSpec | None, device: torch.device, options: LoadOptions
) -> Subject:
    """A network from somebody else's file, as far as the file says what it is. Raises: SparseheadError where it does not run."""
    foreign, prepare = find_in(path, timm, facts, info, allow_partial=options.allow_partial)
    facts.require_used(str(path))

    def fresh() -> EncoderAndHead:
        backbone, projector = foreign.fresh()
        backbone.image = prepare.image
        return EncoderAndHead(backbone, projector)

    foreign.backbone.image = prepare.image
    network = ready(EncoderAndHead(foreign.backbone, foreign.projector), device)
    require_running(network, prepare.image, device, str(path))
    columns = {
        "experiment": path.resolve().parent.name,
        "run": foreign.name if foreign.layout == "timm" else path.stem,
        "method": foreign.layout,
        "dataset": "",
        "backbone": foreign.name,
        **dict.fromkeys(("penalty", "solver", "lam", "seed"), ""),
        "commit": code_version(),
        "step": "",
        "total_steps": "",
    }
    channels, size, _ = prepare.image
    assumed = tuple(facts.assumptions)
    return Subject(
        model="checkpoint",
        network=network,
        prepare=prepare,
        columns=columns,
        digest=digest_of(network, prepare, assumed),
        device=device,
        fresh=fresh,
        views=usual_views(ImageSpec((), channels, size, prepare.normalise)),
        report=(*foreign.report, f"images: {' x '.join(map(str, prepare.image))}", *facts.report()),
        assumed=assumed,
    )


def find_in(
    path: Path, timm: str | None, facts: Facts, info: ImageSpec | None, *, allow_partial: bool
) -> tuple[ForeignNetwork, Prepare]:
    """The network in somebody else's file, and the views that it expects; `info` is the data set that it is measured on.

    Raises: SparseheadError where there is none, and for a checkpoint of ours that has lost its format.
    """
    state, skipped = read_file(path)
    if isinstance(state, dict) and state.keys() >= NEEDED:
        raise SparseheadError(f"{path} has all that a checkpoint of ours has but our format in it: it was changed or damaged.")
    search = Search(str(path), facts, allow_partial, skipped)
    if timm is None:
        foreign = find_resnet(state, search)
        return foreign, prepare_for(foreign.backbone, info, facts)
    given = facts.given.get("image_size")
    foreign = find_timm(timm, state, search, given)
    prepare = Prepare(foreign.backbone.image, normalisation_of(facts, foreign.backbone.normalise))
    if "image_size" not in {a.key for a in facts.assumptions}:
        facts.note("image_size", prepare.image[1], GIVEN if given else GUESSED)
    return foreign, prepare


def prepare_for(backbone: ResNet, measured_on: ImageSpec | None, facts: Facts) -> Prepare:
    """What a view of a foreign ResNet looks like.

    A guess is the data set that the file names, else ImageNet behind its stem, else the data set measured on.
    """
    named, large = DATASETS.get(facts.dataset), backbone.stem == "imagenet"
    info = named or (None if large else measured_on)
    guess = 224 if large else 32
    if info is not None and (named or info.size <= SMALL):
        guess = info.size
    size = facts.take("image_size", guess=guess)
    normalise = (info or DATASETS["imagenet"]).normalise
    return Prepare((backbone.image[0], size, size), normalisation_of(facts, for_channels(normalise, backbone.image[0])))


def normalisation_of(facts: Facts, guess: Normalisation) -> Normalisation:
    """That of the images a foreign network was trained on, for as many channels as the guess has."""
    values = facts.take("mean", guess=guess.mean), facts.take("std", guess=guess.std)
    channels = max(len(guess.mean), *map(len, values))
    return for_channels(Normalisation(*(v * channels if len(v) == 1 else v for v in values)), len(guess.mean))


@torch.no_grad()
def require_running(network: EncoderAndHead, image: tuple[int, int, int], device: torch.device, source: str) -> None:
    """Raises: SparseheadError where two images of this size do not become finite r [2, D] and z [2, E]."""
    size = " x ".join(map(str, image))
    try:
        view = torch.stack([torch.zeros(image), torch.randn(image, generator=torch.Generator().manual_seed(0))])
        features = network(view.to(device=device, memory_format=torch.channels_last))
    except Exception as error:  # a network may fail at an unfit size in many ways
        reason = " ".join(str(error).split())[:200]
        raise SparseheadError(f"{source}: the network fails on images of {size}: {reason}. Try another --image-size.") from None
    shapes = {name: tuple(value.shape) for name, value in features.items()}
    if shapes["r"] != (2, network.backbone.dim) or len(shapes["z"]) != 2:
        raise SparseheadError(
            f"{source}: two images of {size} become {shapes}, which must be [2, {network.backbone.dim}] and [2, E]."
        )
    if not all(bool(value.isfinite().all()) for value in features.values()):
        raise SparseheadError(f"{source}: its features of images of {size} are NaN or infinite: its weights are damaged.")
