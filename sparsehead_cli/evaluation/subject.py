"""What is evaluated: the network of a checkpoint, the same network untrained, or the pixels themselves."""

import copy
import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsehead_cli.config import Config
from sparsehead_cli.data.augment import Normalisation
from sparsehead_cli.data.datasets import Folder, Split, dataset_info
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.measure.features import BATCH, Encoder, Pixels, Prepare
from sparsehead_cli.ssl.contract import Method
from sparsehead_cli.training.build import build_method
from sparsehead_cli.training.checkpoint import load_checkpoint
from sparsehead_cli.training.folder import identity_columns

CALIBRATED = 10_000  # images, at most, that an untrained network's BatchNorm takes its statistics from


@dataclass(frozen=True)
class Subject:
    """A network with the view that it expects, and where it comes from.

    `model` is "checkpoint", "untrained" or "pixels"; `columns` begin every row about it; `digest` is a hash of its weights.
    """

    model: str
    network: nn.Module
    prepare: Prepare
    columns: dict[str, object]
    digest: str
    device: torch.device

    @property
    def features(self) -> tuple[str, ...]:
        """The features to evaluate: r and z, or r alone where z is r."""
        if isinstance(self.network, Pixels):
            return ("pixels",)
        return ("r",) if isinstance(self.network.projector, nn.Identity) else ("r", "z")


def load_subject(path: Path, device: torch.device, data_dir: Path) -> tuple[Subject, Config]:
    """The trained network of a checkpoint of ours, and the settings of its run.

    Raises: SparseheadError for a file that is no such checkpoint, or whose weights do not fit its own settings.
    """
    path = path / "checkpoint.pt" if path.is_dir() else path
    state = load_checkpoint(path)
    config = config_of(state["identity"], path)
    image, normalise = made_for(state, config, data_dir)
    method = build_method(config, image)
    try:
        method.load_state_dict(state["method"])
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SparseheadError(f"the weights in {path} are of another architecture than its settings say: {reason}") from None
    return subject_of("checkpoint", method, Prepare(image, normalise), run_columns(path, config, state), device), config


def config_of(identity: dict[str, object], path: Path) -> Config:
    """The settings in a checkpoint. Raises: SparseheadError for settings that this version does not know."""
    known = {f.name for f in dataclasses.fields(Config)}
    foreign = sorted(set(identity) - known - {"views", "processes"})
    if foreign:
        raise SparseheadError(f"{path} has settings that this version does not know: {', '.join(foreign)}. Upgrade sparsehead.")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in identity.items() if k in known}
    return Config(experiment=path.resolve().parent.parent.name, **values)


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


def subject_of(model: str, method: Method, prepare: Prepare, columns: dict[str, object], device: torch.device) -> Subject:
    """Only backbone and projector are kept: what else a method trains with is no part of its features."""
    network = Encoder(method.backbone, method.projector).to(device=device, memory_format=torch.channels_last).eval()
    network.requires_grad_(False)
    return Subject(model, network, prepare, columns, digest_of(network, prepare), device)


def untrained(subject: Subject, config: Config, images: Split | Folder) -> Subject:
    """The same architecture with the initial weights of the run's seed; BatchNorm's statistics are of `images`, unaugmented.

    Without those statistics the features of an untrained network would mean less still.
    """
    columns = subject.columns
    twin = subject_of("untrained", build_method(config, subject.prepare.image), subject.prepare, columns, subject.device)
    norms = [m for m in twin.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    few = images.take(torch.arange(0, len(images), -(-len(images) // CALIBRATED)))
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
    twin.network.train()
    with torch.no_grad():
        for batch in few.batches(BATCH):
            if len(batch) > 1:
                twin.network(subject.prepare(batch.images))
    twin.network.eval()
    for norm in norms:
        norm.momentum = 0.1
    return dataclasses.replace(twin, digest=digest_of(twin.network, subject.prepare))


def pixels(subject: Subject, channels: int) -> Subject:
    """The images as they are, in [0, 1]."""
    prepare = Prepare(None, Normalisation((0.0,) * channels, (1.0,) * channels))
    return Subject("pixels", Pixels(), prepare, subject.columns, digest_of(Pixels(), prepare), subject.device)


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
