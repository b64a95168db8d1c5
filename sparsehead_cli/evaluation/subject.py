"""What is evaluated: the network of a checkpoint, the same network untrained, or the pixels themselves."""

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from sparsehead_cli.data.augment import RECIPES, ImageViews
from sparsehead_cli.data.contract import ImageSpec, Normalisation, Source, Views
from sparsehead_cli.data.datasets import DATASETS, fingerprint_of, load_split
from sparsehead_cli.data.folders import Folder
from sparsehead_cli.data.looks import look
from sparsehead_cli.data.nouns import noun_of
from sparsehead_cli.data.prepare import Prepare
from sparsehead_cli.data.text import TextSpec
from sparsehead_cli.data.text_views import TextViews
from sparsehead_cli.data.tokens import tokenised
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign.assumptions import Assumption, in_words
from sparsehead_cli.measure.features import BATCH, EncoderAndHead, Pixels
from sparsehead_cli.measure.words import Words
from sparsehead_cli.runs.config import FIELDS, Config
from sparsehead_cli.runs.folder import is_other
from sparsehead_cli.runs.settings import require_in_range

CALIBRATED = 10_000  # images, at most, that an untrained network's BatchNorm takes its statistics from
LARGEST = 1024  # pixels of a side
TEMPERATURE = 0.2  # of a contrastive loss, where a checkpoint has none of its own


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a checkpoint and the images that it is measured on are read.

    `weights` is the file of timm:NAME. `allow_partial`, `image_size` and `assume`, facts as KEY=VALUE, are for files that are not
    ours. `plugins` are the modules of somebody's own code that a checkpoint of ours may name.
    """

    weights: Path | None = None
    allow_partial: bool = False
    image_size: int | None = None
    assume: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    device: str = "auto"
    data_dir: Path = Path("data")
    workers: int | None = None
    skip_bad_images: bool = False

    def check(self) -> None:
        """Raises: SparseheadError for numbers that cannot be."""
        require_in_range(FIELDS, workers=self.workers)
        if self.image_size is not None and not 8 <= self.image_size <= LARGEST:
            raise SparseheadError(f"image_size must be between 8 and {LARGEST}, given {self.image_size}.")

    def typed(self) -> list[str]:
        """What of them has to be typed for another command to read the same in the same way."""
        values = [("--weights", self.weights), ("--image-size", self.image_size)]
        values += [*(("--assume", fact) for fact in self.assume), *(("--plugin", name) for name in self.plugins)]
        values += [("--data-dir", self.data_dir if self.data_dir != LoadOptions.data_dir else None)]
        words = [word for option, value in values if value is not None for word in (option, str(value))]
        return words + ["--allow-partial"] * self.allow_partial + ["--skip-bad-images"] * self.skip_bad_images


@dataclass(frozen=True)
class Subject:
    """A network with the view that it expects, and where it comes from.

    `model` is "checkpoint", or a base line: "initial", "untrained", "pixels" or "words"; `columns` begin every row about it;
    `digest` is a hash of its weights. `dataset`, `views` and `temperature` are those it was trained with: a data set is None,
    and the others are the usual ones, where the file does not say. `report` has a line for each thing that was found in a file
    of somebody else's. `fresh()` is the same architecture with its initial weights; `config` holds the settings of a run of
    ours, and `stored` what its checkpoint says of it (identity, step, total_steps, input, trained_on); a network of sentences
    has a `vocabulary`. `assumed` are the facts that the shapes in somebody else's file do not show, each with what it rests on.
    """

    model: str
    network: nn.Module
    prepare: Prepare
    columns: dict[str, object]
    digest: str
    device: torch.device
    fresh: Callable[[], EncoderAndHead]
    views: Views
    dataset: str | None = None
    temperature: float = TEMPERATURE
    report: tuple[str, ...] = ()
    config: Config | None = None
    stored: Mapping[str, object] = field(default_factory=dict)
    vocabulary: str = ""
    initial: Callable[[], EncoderAndHead] | None = None
    assumed: tuple[Assumption, ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        """The features to evaluate: r and z, or r alone where z is r."""
        if not isinstance(self.network, EncoderAndHead):
            return self.network.names
        return ("r",) if isinstance(self.network.projector, nn.Identity) else ("r", "z")

    def load_split(self, name: str, part: str, options: LoadOptions) -> Source:
        """A split of a data set, on the device; images from files come in the size that the network is made for.

        They stream and are cut. Where `takes_squares_whole`, squares of one size stay whole, in memory up to what "auto" keeps.
        """
        if self.vocabulary:
            sentences = load_split(name, part, options.data_dir)
            require_readable(self, name, sentences.spec)
            return tokenised(
                sentences, self.vocabulary, others=isinstance(self.views, TextViews) and self.views.kind == "pairs"
            ).to(self.device)
        source = load_split(
            name,
            part,
            options.data_dir,
            image_size=self.prepare.image[1],
            skip_bad_images=options.skip_bad_images,
            workers=options.workers,
            cache=self.cache,
        )
        if self.takes_squares_whole and isinstance(source, Folder):
            looks = look(source.listing)
            if looks.only == (looks.size, looks.size):  # more of them than "auto" keeps
                source.size, source.exact = looks.size, True
        return source.to(self.device)

    @property
    def takes_squares_whole(self) -> bool:
        """Whether square images are not cut: the run's own were in memory, where they are whole. Where they lie is no matter."""
        if self.config is None:
            return False
        known = DATASETS.get(self.config.dataset)
        return self.config.cache == "memory" or (known is not None and known.layout is None)

    @property
    def cache(self) -> str:
        """How images from files are kept, one of CACHES."""
        return "auto" if self.takes_squares_whole else "none"


def require_readable(subject: Subject, dataset: str, spec: object) -> None:
    """Raises: SparseheadError for images where the network reads sentences, and the other way round."""
    if isinstance(spec, TextSpec) != bool(subject.vocabulary):
        has, reads = ("sentences", "images") if isinstance(spec, TextSpec) else ("images", "sentences")
        raise SparseheadError(f"{dataset} has {has}, and {subject.columns['run']} reads {reads}. Choose another --dataset.")


def with_other_images_told(subject: Subject, dataset: str, options: LoadOptions) -> Subject:
    """The subject, with a line in its report where `dataset` is the run's own by name, and has other images than it was trained on.

    Raises: SparseheadError where they cannot be found.
    """
    kept = subject.stored.get("trained_on")
    if not kept or dataset != subject.dataset or not is_other(kept, fingerprint_of(dataset, options.data_dir)):
        return subject
    others = f"its training {noun_of(dataset)}, or their labels, are others than the run was trained on"
    line = f"{dataset}: {others}. Those of now are measured"
    return dataclasses.replace(subject, report=(*subject.report, line))


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


def initial(subject: Subject) -> Subject:
    """The encoder with the trained weights that its run began with, and no head. Raises: SparseheadError where they are gone."""
    network = ready(subject.initial(), subject.device)
    return dataclasses.replace(subject, model="initial", network=network, digest=digest_of(network, subject.prepare))


def words(subject: Subject, train: Source) -> Subject:
    """TF-IDF of the sentences, fitted on the training sentences that it is measured with."""
    network = Words(train).to(subject.device)
    return dataclasses.replace(subject, model="words", network=network, digest=digest_of(network, subject.prepare))


def pixels(subject: Subject, channels: int) -> Subject:
    """The images as they are, in [0, 1]."""
    prepare = Prepare(None, Normalisation((0.0,) * channels, (1.0,) * channels))
    digest = digest_of(Pixels(), prepare)
    return dataclasses.replace(subject, model="pixels", network=Pixels(), prepare=prepare, digest=digest, assumed=())


def usual_views(spec: ImageSpec) -> ImageViews:
    """Two views of the usual strengths, for a network that says nothing of its own."""
    return ImageViews(RECIPES["grey-small" if spec.channels == 1 else "symmetric"], spec.normalise, spec.size)


def trainable(network: nn.Module) -> nn.Module:
    """A copy to train: the one that is evaluated stays bit for bit what it is."""
    return copy.deepcopy(network).requires_grad_(True).train()


def digest_of(network: nn.Module, prepare: Prepare, assumed: tuple[Assumption, ...] = ()) -> str:
    """A hash of all weights and buffers, of the views they expect and of what is assumed, in hexadecimals."""
    digest = hashlib.blake2b((repr(prepare) + in_words(assumed)).encode(), digest_size=8)
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
