"""What `evaluate` was asked for, and the jobs that this makes."""

import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sparsehead_cli.errors import SparseheadError, missing
from sparsehead_cli.evaluation.subject import LoadOptions
from sparsehead_cli.evaluation.task import SHARES, DetectionSettings, Settings
from sparsehead_cli.foreign.timm_models import PREFIX
from sparsehead_cli.machine.plugins import is_plugin
from sparsehead_cli.runs.checkpoint import checkpoint_file

ASKABLE = ("knn", "linear", "linear-sgd", "semi", "finetune", "transfer", "detection", "factors", "sts")
COMPOSED = {  # what those do that are no function of protocols.py
    "semi": "semi-linear and semi-finetune on 1 % and 10 % of the labels, each for several draws of them.",
    "transfer": "linear, knn and finetune on other data sets, those of --transfer-to.",
    "detection": "Train a detector on the backbone; average precision of boxes, and of masks, on --detection-set.",
}
DIRECT = ("linear", "knn", "linear-sgd", "finetune", "factors", "sts")
TRANSFER = ("linear", "knn", "finetune")
WEIGHTLESS = ("pixels", "words")  # base lines without any network
TUNING = ("finetune", "semi-finetune", "detection")  # these need weights to train


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """What `sparsehead evaluate` was asked for. Without a data set it is the one of the run.

    `checkpoint` is a file, the folder of a run, or timm:NAME with weights in the `options`.
    """

    checkpoint: str | Path
    protocols: tuple[str, ...] = ("linear", "knn")
    dataset: str | None = None
    transfer_to: tuple[str, ...] = ()
    detection_set: str = "voc"
    baselines: bool = False
    per_class: bool = False
    seed: int = 0
    settings: Settings = field(default_factory=Settings)
    detection: DetectionSettings = field(default_factory=DetectionSettings)
    options: LoadOptions = field(default_factory=LoadOptions)

    @property
    def folder(self) -> Path:
        """Where the tables go: beside the file of the weights."""
        return (self.options.weights or checkpoint_file(self.checkpoint)).parent


def each_once(checkpoints: Iterable[str | Path], options: LoadOptions) -> list[str]:
    """Checkpoints in their order, each once however it is spelt. Raises: SparseheadError for one that is not there."""
    found: dict[Path, str] = {}
    for checkpoint in map(str, checkpoints):
        named = options.weights is not None or checkpoint.startswith(PREFIX)  # timm:NAME, whose file the weights are
        file = Path(checkpoint) if named else checkpoint_file(checkpoint)
        if not named and not os.path.lexists(file):
            raise SparseheadError(f"{missing(file)}.")
        found.setdefault(file if named else file.resolve(), checkpoint)
    return list(found.values())


@dataclass(frozen=True)
class Job:
    """One line of the plan: which protocol, on which data set, for which network, with how many of the labels known."""

    protocol: str
    dataset: str
    model: str
    share: float = 1.0
    seed: int = 0


def plan(request: EvaluateRequest, dataset: str, baselines: tuple[str, ...] = ()) -> list[Job]:
    """The jobs of a request and of base lines, those on one data set and network beside each other: what they share is kept that
    long.

    Code of somebody's own is a protocol of the data set itself, and comes after ours.
    """
    models = ("checkpoint", *baselines)
    jobs = []
    for name in dict.fromkeys((dataset, *request.transfer_to)):
        protocols = []
        if name == dataset:
            protocols += [protocol for protocol in DIRECT if protocol in request.protocols]
            protocols += [protocol for protocol in request.protocols if is_plugin(protocol)]
        if name in request.transfer_to:
            protocols += [protocol for protocol in TRANSFER if protocol not in protocols]
        for model in models:
            jobs += [Job(protocol, name, model, seed=request.seed) for protocol in protocols]
            if "semi" in request.protocols and name == dataset:
                seeds = range(request.seed, request.seed + request.settings.semi_seeds)
                each = itertools.product(("semi-linear", "semi-finetune"), SHARES, seeds)
                jobs += [Job(protocol, name, model, share, seed) for protocol, share, seed in each]
    if "detection" in request.protocols:
        jobs += [Job("detection", request.detection_set, model, seed=request.seed) for model in models]
    return [job for job in jobs if job.model not in WEIGHTLESS or job.protocol not in TUNING]
