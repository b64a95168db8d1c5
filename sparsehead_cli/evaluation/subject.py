"""What is evaluated: the network of a checkpoint, the same network untrained, or the pixels themselves."""

import copy
import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsehead_cli.data.augment import RECIPES, Augmentation, Normalisation, luma
from sparsehead_cli.data.contract import ImageSpec, Source
from sparsehead_cli.data.datasets import DATASETS, DatasetInfo, dataset_info
from sparsehead_cli.data.prepare import Prepare
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign.facts import GIVEN, GUESSED, Assumption, Facts, in_words, parse_assume
from sparsehead_cli.foreign.file import read_file
from sparsehead_cli.foreign.networks import ForeignNetwork, Search
from sparsehead_cli.foreign.resnets import find_resnet
from sparsehead_cli.foreign.timm_models import PREFIX as TIMM
from sparsehead_cli.foreign.timm_models import find_timm
from sparsehead_cli.measure.features import BATCH, EncoderAndHead, Pixels
from sparsehead_cli.nets.backbones import ResNet
from sparsehead_cli.runs.build import build_method, outline_method
from sparsehead_cli.runs.checkpoint import MEASURED, NEEDED, is_checkpoint, load_checkpoint, require_weights
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.folder import code_version, identity_columns
from sparsehead_cli.runs.identity import config_in, digests
from sparsehead_cli.runs.method_settings import method_settings

CALIBRATED = 10_000  # images, at most, that an untrained network's BatchNorm takes its statistics from
SMALL = 64  # pixels, up to which a network for small images takes them in their own size
LARGEST = 1024  # pixels of a side
DUST = 1e-30
TEMPERATURE = 0.2  # of a contrastive loss, where a checkpoint has none of its own
CONTRASTIVE = ("simclr", "moco", "supcon")  # methods whose temperature is that of a contrastive loss


@dataclass(frozen=True)
class Subject:
    """A network with the view that it expects, and where it comes from.

    `model` is "checkpoint", "untrained" or "pixels"; `columns` begin every row about it; `digest` is a hash of its weights.
    `dataset`, `recipe` and `temperature` are those it was trained with: a data set is None, and the others are the usual ones,
    where the file does not say. `report` has a line for each thing that was found in a file of somebody else's.
    `fresh()` is the same architecture with its initial weights; `config` holds the settings of a run of ours; `assumed` are the
    facts that the shapes in somebody else's file do not show, each with what it rests on.
    """

    model: str
    network: nn.Module
    prepare: Prepare
    columns: dict[str, object]
    digest: str
    device: torch.device
    fresh: Callable[[], EncoderAndHead]
    dataset: str | None = None
    recipe: tuple[Augmentation, ...] = RECIPES["symmetric"]
    temperature: float = TEMPERATURE
    report: tuple[str, ...] = ()
    config: Config | None = None
    assumed: tuple[Assumption, ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        """The features to evaluate: r and z, or r alone where z is r."""
        if isinstance(self.network, Pixels):
            return ("pixels",)
        return ("r",) if isinstance(self.network.projector, nn.Identity) else ("r", "z")


def load_subject(
    checkpoint: str | Path,
    device: torch.device,
    data_dir: Path,
    *,
    weights: Path | None = None,
    allow_partial: bool = False,
    image_size: int | None = None,
    dataset: str | None = None,
    assume: Sequence[str] = (),
) -> Subject:
    """The trained network of a checkpoint: of ours (the file or its folder), of anybody's, or timm:NAME with its `weights`.

    `allow_partial`, `image_size`, `dataset`, the data set that it is to be measured on, and `assume`, facts as KEY=VALUE, are for
    files that are not ours.

    Raises: SparseheadError for a file without a network, or whose weights do not fit its settings or architecture.
    """
    if image_size is not None and not 8 <= image_size <= LARGEST:
        raise SparseheadError(f"image_size must be between 8 and {LARGEST}, given {image_size}.")
    timm, given = timm_name(checkpoint, weights), parse_assume(assume)
    path = weights or checkpoint_file(checkpoint)
    if timm is None and is_checkpoint(path):
        if allow_partial or image_size or assume:
            raise SparseheadError(f"{path} is a checkpoint of ours, whole and with its own image size. Leave the options out.")
        own = without_dust(own_subject(load_checkpoint(path, MEASURED), path, device, data_dir))
        changed = changed_images(dataset, dataset_info(dataset, data_dir), own.prepare.image) if dataset else ()
        return dataclasses.replace(own, report=changed)
    facts = Facts(given | ({"image_size": image_size} if image_size else {}))
    info = dataset_info(dataset, data_dir) if dataset else None
    found, prepare = find_in(path, timm, facts, info, allow_partial=allow_partial)
    found.backbone.image = prepare.image
    facts.require_used(str(path))
    changed = changed_images(dataset, info, prepare.image, ". A smaller --image-size is faster") if info else ()
    subject = foreign_subject(found, prepare, path, device, facts)
    return dataclasses.replace(subject, report=(*subject.report, *changed))


def changed_images(name: str, info: DatasetInfo, image: tuple[int, int, int], faster: str = "") -> tuple[str, ...]:
    """A line about what becomes of a data set's images before the network sees them; none where they stay as they are.

    Images that stream from files are cut to the network's size anyhow. `faster` is said of enlarged ones, which cost time.
    """
    size = image[1] if info.layout else info.size
    sizes = "" if size == image[1] else f"{'enlarged' if size < image[1] else 'reduced'} to {image[1]} x {image[1]}"
    colours = "" if info.channels == image[0] else "made three equal channels" if image[0] == 3 else "made grey"
    done = " and ".join(filter(None, (sizes, colours)))
    return (f"{name}: its {info.channels} x {size} x {size} images are {done}{faster if size < image[1] else ''}",) if done else ()


def find_in(
    path: Path, timm: str | None, facts: Facts, info: DatasetInfo | None, *, allow_partial: bool
) -> tuple[ForeignNetwork, Prepare]:
    """The network in somebody else's file, and the views that it expects; `info` is the data set that it is measured on.

    Raises: SparseheadError where there is none, and for a checkpoint of ours that has lost its format.
    """
    state, skipped = read_file(path)
    if isinstance(state, dict) and state.keys() >= NEEDED:
        raise SparseheadError(f"{path} has all that a checkpoint of ours has but our format in it: it was changed or damaged.")
    search = Search(str(path), facts, allow_partial, skipped)
    if timm is None:
        found = find_resnet(state, search)
        return found, prepare_for(found.backbone, info, facts)
    given = facts.given.get("image_size")
    found = find_timm(timm, state, search, given)
    prepare = Prepare(found.backbone.image, normalisation_of(facts, found.backbone.normalise))
    if "image_size" not in {a.key for a in facts.assumptions}:
        facts.note("image_size", prepare.image[1], GIVEN if given else GUESSED)
    return found, prepare


def normalisation_of(facts: Facts, guess: Normalisation) -> Normalisation:
    """That of the images a foreign network was trained on, for as many channels as the guess has."""
    values = facts.take("mean", guess=guess.mean), facts.take("std", guess=guess.std)
    channels = max(len(guess.mean), *map(len, values))
    return for_channels(Normalisation(*(v * channels if len(v) == 1 else v for v in values)), len(guess.mean))


@torch.no_grad()
def without_dust(subject: Subject) -> Subject:
    """The same with every weight below DUST set to 0, which changes no sum in float32. Its digest is that of the file.

    A penalty leaves a thin head full of numbers near 1e-40, which a processor multiplies a hundred times slower than others.
    """
    for weight in subject.network.projector.parameters():
        weight[weight.abs() < DUST] = 0
    return subject


def timm_name(checkpoint: str | Path, weights: Path | None) -> str | None:
    """NAME of timm:NAME, None for a file. Raises: SparseheadError for a name without weights, and for weights without one."""
    named = str(checkpoint).startswith(TIMM)
    if named and weights is None:
        raise SparseheadError(f"{checkpoint} needs its weights, and nothing is downloaded: add --weights FILE.")
    if weights is not None and not named:
        raise SparseheadError("--weights goes with the name of a timm model: sparsehead evaluate timm:NAME --weights FILE.")
    return str(checkpoint).removeprefix(TIMM) if named else None


def checkpoint_file(checkpoint: str | Path) -> Path:
    """A folder stands for the checkpoint.pt in it."""
    path = Path(checkpoint)
    return path / "checkpoint.pt" if path.is_dir() else path


def prepare_for(backbone: ResNet, measured_on: DatasetInfo | None, facts: Facts) -> Prepare:
    """What a view of a foreign ResNet looks like.

    A guess is the data set that the file names, else ImageNet behind its stem, else the data set measured on.
    """
    named, large = DATASETS.get(facts.dataset), backbone.stem == "imagenet"
    info = named or (None if large else measured_on)
    size = info.size if info is not None and (named or info.size <= SMALL) else 224 if large else 32
    size = facts.take("image_size", guess=size)
    own = (info or DATASETS["imagenet"]).normalise
    return Prepare((backbone.image[0], size, size), normalisation_of(facts, for_channels(own, backbone.image[0])))


def for_channels(normalise: Normalisation, channels: int) -> Normalisation:
    """The normalisation of colour images for grey ones, by the weights of the luma, or of grey ones for three equal channels."""
    if len(normalise.mean) == channels:
        return normalise
    if channels == 3:
        return Normalisation(normalise.mean * 3, normalise.std * 3)
    grey = [luma(torch.tensor(values)[None, :, None, None]).item() for values in (normalise.mean, normalise.std)]
    return Normalisation((grey[0],), (grey[1],))


def foreign_subject(found: ForeignNetwork, prepare: Prepare, path: Path, device: torch.device, facts: Facts) -> Subject:
    """A network from somebody else's file, as far as the file says what it is. Raises: SparseheadError where it does not run."""

    def fresh() -> EncoderAndHead:
        backbone, projector = found.fresh()
        backbone.image = prepare.image
        return EncoderAndHead(backbone, projector)

    network = ready(EncoderAndHead(found.backbone, found.projector), device)
    require_running(network, prepare.image, device, str(path))
    run = found.name if found.layout == "timm" else path.stem
    columns = {"experiment": path.resolve().parent.name, "run": run, "method": found.layout, "dataset": "", "backbone": found.name}
    columns |= {**dict.fromkeys(("penalty", "solver", "lam", "seed"), ""), "commit": code_version(), "step": "", "total_steps": ""}
    assumed = tuple(facts.assumptions)
    view = (f"images: {' x '.join(map(str, prepare.image))}",)
    return Subject(
        "checkpoint",
        network,
        prepare,
        columns,
        digest_of(network, prepare, assumed),
        device,
        fresh,
        recipe=RECIPES["grey-small" if prepare.image[0] == 1 else "symmetric"],
        report=(*found.report, *view, *facts.report()),
        assumed=assumed,
    )


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


def own_subject(state: dict, path: Path, device: torch.device, data_dir: Path) -> Subject:
    """The network of a checkpoint of ours. Raises: SparseheadError where its weights do not fit its settings."""
    config = config_of(state["identity"], path)
    image, normalise = made_for(state, config, data_dir)
    spec = ImageSpec((), image[0], image[1], normalise)
    require_fitting(state["method"], config, spec, path)
    require_own_folder(path, state["identity"])

    def fresh() -> EncoderAndHead:
        method = build_method(config, spec)
        return EncoderAndHead(method.backbone, method.projector)

    method = build_method(config, spec)
    method.load_state_dict(state["method"])
    prepare, columns = Prepare(image, normalise), run_columns(path, config, state)
    network = ready(EncoderAndHead(method.backbone, method.projector), device)
    return Subject(
        "checkpoint",
        network,
        prepare,
        columns,
        digest_of(network, prepare),
        device,
        fresh,
        dataset=config.dataset,
        recipe=RECIPES[config.recipe],
        temperature=temperature_of(config),
        config=config,
    )


def temperature_of(config: Config) -> float:
    """The temperature of a run's contrastive loss, or the usual one where it has none."""
    if config.method not in CONTRASTIVE:
        return TEMPERATURE
    return float(method_settings(config.method, config.method_settings)["temperature"])


def config_of(identity: dict[str, object], path: Path) -> Config:
    """The settings in a checkpoint, all of them checked. Raises: SparseheadError for settings that this version does not know."""
    try:
        return config_in(identity, path.resolve().parent.parent.name)
    except SparseheadError as error:
        raise SparseheadError(f"{path}: {' '.join(str(error).split())[:500]}") from None


def require_own_folder(path: Path, identity: dict[str, object]) -> None:
    """Raises: SparseheadError for a checkpoint in the folder of another run, whose name all rows about it would bear."""
    folder = path.resolve().parent.name
    named = re.search(r"-seed\d+-([0-9a-f]{7})$", folder)
    if named and named[1] not in digests(identity):
        raise SparseheadError(f"{path} is not the checkpoint of the run that its folder is named after. Move it to another folder.")


def require_fitting(weights: dict[str, Tensor], config: Config, spec: ImageSpec, path: Path) -> None:
    """Raises: SparseheadError where weights are not those of the settings' network, before a number of it is made."""
    deep = config.projector_layers + sum(config.blocks or ())
    if deep > len(weights):
        raise SparseheadError(f"{path} has {len(weights)} tensors, too few for the {deep} layers and blocks of its settings.")
    try:
        expected = outline_method(config, spec).state_dict()
    except SparseheadError as error:
        raise SparseheadError(f"{path}: {error}") from None
    require_weights(weights, expected, path, MEASURED)


def made_for(state: dict, config: Config, data_dir: Path) -> tuple[tuple[int, int, int], Normalisation]:
    """The (C, h, w) and the normalisation of the network's training views; older checkpoints leave them to the data set."""
    if "input" in state:
        kept = state["input"]
        return tuple(kept["image"]), Normalisation(tuple(kept["mean"]), tuple(kept["std"]))
    info = dataset_info(config.dataset, data_dir)
    size = config.image_size or info.size
    return (info.channels, size, size), info.normalise


def run_columns(path: Path, config: Config, state: dict) -> dict[str, object]:
    """The columns that every table of ours begins with, and the step at which the checkpoint was saved."""
    step = {"step": state["step"], "total_steps": state.get("total_steps", "")}
    return {**identity_columns(config, path.resolve().parent.name), **step}


def ready(network: EncoderAndHead, device: torch.device) -> EncoderAndHead:
    """The network as it is measured: on the device, in eval mode, without gradients. Nothing else of a method is in it."""
    network = network.to(device=device, memory_format=torch.channels_last).eval()
    return network.requires_grad_(False)


def untrained(subject: Subject, images: Source) -> Subject:
    """The same architecture with the initial weights of the run's seed; BatchNorm's statistics are of `images`, unaugmented.

    Without those statistics the features of an untrained network would mean less still.
    """
    network = ready(subject.fresh(), subject.device)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    few = images.take(torch.arange(0, len(images), -(-len(images) // CALIBRATED)))
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
    network.train()
    with torch.no_grad():
        for batch in few.batches(BATCH):
            if len(batch.labels) > 1:
                network(subject.prepare(batch.inputs))
    network.eval()
    for norm in norms:
        norm.momentum = 0.1
    digest = digest_of(network, subject.prepare, subject.assumed)
    return dataclasses.replace(subject, model="untrained", network=network, digest=digest)


def pixels(subject: Subject, channels: int) -> Subject:
    """The images as they are, in [0, 1]."""
    prepare = Prepare(None, Normalisation((0.0,) * channels, (1.0,) * channels))
    digest = digest_of(Pixels(), prepare)
    return dataclasses.replace(subject, model="pixels", network=Pixels(), prepare=prepare, digest=digest, assumed=())


def trainable(network: nn.Module) -> nn.Module:
    """A copy to train: the one that is evaluated stays bit for bit what it is."""
    return copy.deepcopy(network).requires_grad_(True).train()


def digest_of(network: nn.Module, prepare: Prepare, assumed: tuple[Assumption, ...] = ()) -> str:
    """A hash of all weights and buffers, of the views they expect and of what is assumed, in hexadecimals."""
    found = hashlib.blake2b((repr(prepare) + in_words(assumed)).encode(), digest_size=8)
    for name, value in sorted(network.state_dict().items()):
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(_bytes(value))
    return found.hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
