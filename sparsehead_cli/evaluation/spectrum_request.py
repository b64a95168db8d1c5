"""What `sparsehead spectrum` was asked for, and how far it is."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from sparsehead_cli.data.datasets import dataset_info
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.subject import LoadOptions
from sparsehead_cli.runs.config import FIELDS
from sparsehead_cli.runs.settings import require_in_range


@dataclass(frozen=True, kw_only=True)
class SpectrumRequest:
    """What `sparsehead spectrum` was asked for. Without a data set it is the one of each run, without a split the test images;
    where there are none, those that the run held out, and all images of a data set that it was not trained on.

    `images` of them, at most, are measured: a part that the seed draws, and all of them where it is None. `features` and
    `embeddings` are .npy files with r and z, which are measured beside the checkpoints.
    """

    checkpoints: tuple[str, ...] = ()
    features: Path | None = None
    embeddings: Path | None = None
    dataset: str | None = None
    split: str | None = None
    images: int | None = None
    layers: bool = False
    out: Path = Path("results/spectra")
    seed: int = 0
    options: LoadOptions = field(default_factory=LoadOptions)


@dataclass(frozen=True)
class SpectrumProgress:
    """Which of the checkpoints is at hand, what is being measured of it, and what was found in a file of somebody else's.

    Where it is measured input by input, `done` of `total` inputs have been.
    """

    checkpoint: str
    number: int
    checkpoints: int
    doing: str
    report: tuple[str, ...] = ()
    done: int = 0
    total: int = 0

    def at(self, doing: str, done: int = 0, total: int = 0) -> "SpectrumProgress":
        """The same checkpoint, further on."""
        return replace(self, doing=doing, done=done, total=total)


OnProgress = Callable[[SpectrumProgress], None]
OnPart = Callable[..., None]  # the arguments of SpectrumProgress.at


def check(request: SpectrumRequest) -> None:
    """Raises: SparseheadError for numbers that cannot be, for names that are not there, and for nothing to measure."""
    require_in_range(FIELDS, seed=request.seed)
    if request.images is not None and request.images < 2:
        raise SparseheadError(f"--images must be at least 2, given {request.images}: one image alone varies in no direction.")
    if request.embeddings is not None and request.features is None:
        raise SparseheadError("--embeddings goes with the features r of the same images: --features r.npy --embeddings z.npy.")
    if not request.checkpoints and request.features is None:
        raise SparseheadError("which checkpoint? sparsehead spectrum CHECKPOINT [CHECKPOINT …], --features r.npy, or --explain.")
    if not request.checkpoints and (request.dataset or request.images or request.layers):
        raise SparseheadError(
            "--dataset, --images and --layers are of checkpoints, and say nothing about features in a file. Leave them out."
        )
    request.options.check()
    if request.dataset is not None:
        dataset_info(request.dataset, request.options.data_dir)  # an unknown name, or a folder that is not there, is an error now
