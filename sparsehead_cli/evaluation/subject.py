"""What is evaluated: the network of a checkpoint, the same network untrained, or the pixels themselves."""

import copy
import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsehead_cli.config import Config
from sparsehead_cli.data.augment import RECIPES, Normalisation, View, luma
from sparsehead_cli.data.datasets import DATASETS, DatasetInfo, Folder, Split, dataset_info
from sparsehead_cli.errors import SparseheadError, unknown
from sparsehead_cli.measure.features import BATCH, Encoder, Pixels, Prepare
from sparsehead_cli.nets.backbones import ResNet
from sparsehead_cli.nets.foreign import Found, find_network
from sparsehead_cli.nets.timm_models import PREFIX as TIMM
from sparsehead_cli.nets.timm_models import find_timm
from sparsehead_cli.ssl.methods import method_settings
from sparsehead_cli.training.build import build_method
from sparsehead_cli.training.checkpoint import FORMAT
from sparsehead_cli.training.folder import code_version, identity_columns
from sparsehead_cli.training.foreign_file import read_file

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
    `fresh()` is the same architecture with its initial weights; `config` holds the settings of a run of ours.
    """

    model: str
    network: nn.Module
    prepare: Prepare
    columns: dict[str, object]
    digest: str
    device: torch.device
    fresh: Callable[[], Encoder]
    dataset: str | None = None
    recipe: tuple[View, ...] = RECIPES["symmetric"]
    temperature: float = TEMPERATURE
    report: tuple[str, ...] = ()
    config: Config | None = None

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
) -> Subject:
    """The trained network of a checkpoint: of ours (the file or its folder), of anybody's, or timm:NAME with its `weights`.

    `allow_partial`, `image_size` and `dataset`, the data set that it is to be measured on, are for files that are not ours.

    Raises: SparseheadError for a file without a network, or whose weights do not fit its settings or architecture.
    """
    if image_size is not None and not 8 <= image_size <= LARGEST:
        raise SparseheadError(f"image_size must be between 8 and {LARGEST}, given {image_size}.")
    timm = timm_name(checkpoint, weights)
    path = weights or checkpoint_file(checkpoint)
    state, skipped = read_file(path)
    if timm is None and isinstance(state, dict) and state.get("format") == FORMAT:
        if allow_partial or image_size:
            raise SparseheadError(f"{path} is a checkpoint of ours, whole and with its own image size. Leave the options out.")
        return without_dust(own_subject(state, path, device, data_dir))
    options = {"allow_partial": allow_partial, "skipped": skipped}
    if timm is not None:
        found = find_timm(timm, state, str(path), image_size=image_size, **options)
        return foreign_subject(found, Prepare(found.backbone.image, found.backbone.normalise), path, device)
    found = find_network(state, str(path), **options)
    prepare = prepare_for(found.backbone, dataset_info(dataset, data_dir) if dataset else None, image_size)
    found.backbone.image = prepare.image
    return foreign_subject(found, prepare, path, device)


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


def prepare_for(backbone: ResNet, info: DatasetInfo | None, image_size: int | None) -> Prepare:
    """What a view of a foreign ResNet looks like: as on ImageNet behind its stem, else as the data set measured on."""
    small = info.size if info is not None and info.size <= SMALL else 32
    size = image_size or (224 if backbone.stem == "imagenet" else small)
    own = DATASETS["imagenet"].normalise if info is None or backbone.stem == "imagenet" else info.normalise
    return Prepare((backbone.image[0], size, size), for_channels(own, backbone.image[0]))


def for_channels(normalise: Normalisation, channels: int) -> Normalisation:
    """The normalisation of colour images for grey ones, by the weights of the luma, or of grey ones for three equal channels."""
    if len(normalise.mean) == channels:
        return normalise
    if channels == 3:
        return Normalisation(normalise.mean * 3, normalise.std * 3)
    grey = [luma(torch.tensor(values)[None, :, None, None]).item() for values in (normalise.mean, normalise.std)]
    return Normalisation((grey[0],), (grey[1],))


def foreign_subject(found: Found, prepare: Prepare, path: Path, device: torch.device) -> Subject:
    """A network from somebody else's file, as far as the file says what it is. Raises: SparseheadError where it does not run."""

    def fresh() -> Encoder:
        backbone, projector = found.fresh()
        backbone.image = prepare.image
        return Encoder(backbone, projector)

    network = ready(Encoder(found.backbone, found.projector), device)
    require_running(network, prepare.image, device, str(path))
    run = found.name if found.layout == "timm" else path.stem
    columns = {"experiment": path.resolve().parent.name, "run": run, "method": found.layout, "dataset": "", "backbone": found.name}
    columns |= {**dict.fromkeys(("penalty", "solver", "lam", "seed"), ""), "commit": code_version(), "step": "", "total_steps": ""}
    mean = ", ".join(f"{value:.3g}" for value in prepare.normalise.mean)
    view = (f"images: {prepare.image[0]} x {prepare.image[1]} x {prepare.image[2]}, normalised with mean {mean}",)
    return Subject(
        "checkpoint",
        network,
        prepare,
        columns,
        digest_of(network, prepare),
        device,
        fresh,
        recipe=RECIPES["grey-small" if prepare.image[0] == 1 else "symmetric"],
        report=(*found.report, *view),
    )


@torch.no_grad()
def require_running(network: Encoder, image: tuple[int, int, int], device: torch.device, source: str) -> None:
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

    def fresh() -> Encoder:
        method = build_method(config, image)
        return Encoder(method.backbone, method.projector)

    method = build_method(config, image)
    try:
        method.load_state_dict(state["method"])
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SparseheadError(f"the weights in {path} are of another architecture than its settings say: {reason}") from None
    prepare, columns = Prepare(image, normalise), run_columns(path, config, state)
    network = ready(Encoder(method.backbone, method.projector), device)
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
    """The settings in a checkpoint. Raises: SparseheadError for settings that this version does not know."""
    known = {f.name for f in dataclasses.fields(Config)}
    foreign = sorted(set(identity) - known - {"views", "processes"})
    if foreign:
        raise SparseheadError(f"{path} has settings that this version does not know: {', '.join(foreign)}. Upgrade sparsehead.")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in identity.items() if k in known}
    config = Config(experiment=path.resolve().parent.parent.name, **values)
    if config.recipe not in RECIPES:
        raise SparseheadError(f"{path}: {unknown('recipe', config.recipe, RECIPES)} Upgrade sparsehead.")
    return config


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


def ready(network: Encoder, device: torch.device) -> Encoder:
    """The network as it is measured: on the device, in eval mode, without gradients. Nothing else of a method is in it."""
    network = network.to(device=device, memory_format=torch.channels_last).eval()
    return network.requires_grad_(False)


def untrained(subject: Subject, images: Split | Folder) -> Subject:
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
            if len(batch) > 1:
                network(subject.prepare(batch.images))
    network.eval()
    for norm in norms:
        norm.momentum = 0.1
    digest = digest_of(network, subject.prepare)
    return dataclasses.replace(subject, model="untrained", network=network, digest=digest)


def pixels(subject: Subject, channels: int) -> Subject:
    """The images as they are, in [0, 1]."""
    prepare = Prepare(None, Normalisation((0.0,) * channels, (1.0,) * channels))
    digest = digest_of(Pixels(), prepare)
    return dataclasses.replace(subject, model="pixels", network=Pixels(), prepare=prepare, digest=digest)


def trainable(network: nn.Module) -> nn.Module:
    """A copy to train: the one that is evaluated stays bit for bit what it is."""
    return copy.deepcopy(network).requires_grad_(True).train()


def digest_of(network: nn.Module, prepare: Prepare) -> str:
    """A hash of all weights and buffers and of the views they expect, in hexadecimals."""
    found = hashlib.blake2b(repr(prepare).encode(), digest_size=8)
    for name, value in sorted(network.state_dict().items()):
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(_bytes(value))
    return found.hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
