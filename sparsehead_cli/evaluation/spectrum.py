"""spectra(request) -> rows: the spectra of checkpoints, what is read off them, and what their projectors read of r.

A checkpoint whose rows are in the tables already is not measured again.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsehead_cli.data.augment import ImageViews
from sparsehead_cli.data.contract import GLOBAL, Batch, Inputs, Source, View, Views, each, joined
from sparsehead_cli.data.datasets import dataset_info, held_out_mask
from sparsehead_cli.data.prepare import laid_out
from sparsehead_cli.errors import SparseheadError, naming_the_rest
from sparsehead_cli.evaluation.digests import Digests
from sparsehead_cli.evaluation.feature_files import FeatureTask
from sparsehead_cli.evaluation.load import load_subject
from sparsehead_cli.evaluation.spectrum_request import OnPart, OnProgress, SpectrumProgress, SpectrumRequest, check
from sparsehead_cli.evaluation.spectrum_rows import batch_rows, eigenvalue_rows, metric, spectrum_numbers
from sparsehead_cli.evaluation.subject import Subject, with_other_images_told
from sparsehead_cli.evaluation.table import TaskTables
from sparsehead_cli.foreign.assumptions import in_words
from sparsehead_cli.machine.archive import Unsound
from sparsehead_cli.machine.seeds import stable_seed
from sparsehead_cli.measure.definitions import BATCH_SIZE, BATCHES, KEPT, VIEWED, VIEWS
from sparsehead_cli.measure.features import BATCH, Features, features_file, kept, widths_of
from sparsehead_cli.measure.head import BatchSubset, Reading, fewest_features, mean_response, overlap_of
from sparsehead_cli.measure.intervals import wilson
from sparsehead_cli.measure.invariance import invariance
from sparsehead_cli.measure.linear import linear_probe
from sparsehead_cli.measure.moments import WIDEST, BlockMoments
from sparsehead_cli.measure.spectrum import Spectrum
from sparsehead_cli.runs.checkpoint import checkpoint_file
from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.runs.tables import PART_OF
from sparsehead_cli.sparse.layers import linear_layers
from sparsehead_cli.sparse.telemetry import functional_inputs

RESPONSE_IMAGES = 512  # that the projector's response is averaged over
TABLES = ("spectrum_batches.csv", "spectrum.csv", "spectrum_metrics.csv")
PARTS = {"invariance": "augmented views", "batches": "features that batches need"}  # what views are drawn for -> what that is
NAMES = {"r": "the representation r", "z": "the embedding z"}


def spectra(request: SpectrumRequest, on_progress: OnProgress = lambda progress: None) -> list[list[Row]]:
    """The rows of spectrum_batches.csv, spectrum.csv and spectrum_metrics.csv that answer the request.

    Raises: SparseheadError for whatever the user can mend; the checkpoints before the bad one stay in the tables.
    """
    check(request)
    tables = TaskTables(request.out, TABLES, TABLES[-1], other_tables)
    keys = []
    try:
        for number, checkpoint in enumerate(request.checkpoints, 1):
            progress = SpectrumProgress(checkpoint, number, len(request.checkpoints), "loading")
            with naming_the_rest(request.checkpoints[number:]):
                keys.append(measure_checkpoint(request, tables, progress, on_progress))
        if request.features is not None:
            keys.append(measure_features(request, tables, on_progress))
    finally:
        tables.write()
    return tables.of(keys)


def measure_checkpoint(request: SpectrumRequest, tables: TaskTables, progress: SpectrumProgress, on_progress: OnProgress) -> str:
    """Measure the checkpoint that `progress` names, unless its rows are in the tables already; what finds these rows."""
    on_progress(progress)
    key = lost_task(tables, progress.checkpoint, request)
    if key is not None:
        on_progress(progress.at("measured before; its checkpoint is not here"))
        return key
    folder = (request.options.weights or checkpoint_file(progress.checkpoint)).parent
    task = SpectrumTask(load_subject(progress.checkpoint, request.options, request.dataset), request, folder)
    key = task.key()
    finished = tables.has(key)
    on_progress(replace(progress, doing="measured before" if finished else "features", report=task.subject.report))
    if not finished:
        tables.add(key, task.rows(lambda *part: on_progress(progress.at(*part))))
    return key


def measure_features(request: SpectrumRequest, tables: TaskTables, on_progress: OnProgress) -> str:
    """Measure the features of the request, unless their rows are in the tables already; what finds these rows."""
    number = len(request.checkpoints) + 1
    progress = SpectrumProgress(request.features.name, number, number, "loading")
    on_progress(progress)
    task = FeatureTask(request.features, request.embeddings, request.seed)
    key = task.key()
    finished = tables.has(key)
    on_progress(progress.at("measured before" if finished else "features"))
    if not finished:
        tables.add(key, task.rows(lambda *part: on_progress(progress.at(*part))))
    return key


def other_tables(rows: list[Row]) -> tuple[str, ...]:
    """The tables that a task with these rows of spectrum_metrics.csv has rows in; batches are of a projector."""
    return TABLES[:-1] if any(row["features"] == "head" for row in rows) else TABLES[1:-1]


def lost_task(tables: TaskTables, checkpoint: str, request: SpectrumRequest) -> str | None:
    """The task of a run of ours whose checkpoint is gone (or never came along) and whose rows are in the tables; None else.

    Only for a path that is not there; the last that was measured, on the data set and split that were asked for.
    """
    path = checkpoint_file(checkpoint)
    if path.exists():
        return None
    name = Path(checkpoint).name if Path(checkpoint).suffix != ".pt" else path.parent.name
    rows = [row for row in tables.read(tables.main) if row["run"] == name and request.dataset in (None, row["eval_dataset"])]
    rows = [row for row in rows if is_answer(request, row["split"], int(row["images"]))]
    return rows[-1]["task"] if rows and tables.has(rows[-1]["task"]) else None


def is_answer(request: SpectrumRequest, split: str, images: int) -> bool:
    """Whether what was measured on so many images of a split, as tables name it, is what was asked for."""
    part, _, whole = split.rpartition(PART_OF)
    fits = request.images == images if part else request.images is None or request.images >= images
    return fits and request.split in (None, whole)


class Observed(NamedTuple):
    """What one pass over all images leaves: the `moments` of each of the features, and `r` [n, D] of the images at `places` [n]."""

    moments: dict[str, BlockMoments]
    r: Tensor
    places: Tensor


class SpectrumTask:
    """One network on one split: what is measured of it, in rows. Beside its weights, in `folder`, `evaluate` may have features."""

    def __init__(self, subject: Subject, request: SpectrumRequest, folder: Path) -> None:
        self.request, self.evaluated = request, folder / "features"
        self.dataset = request.dataset or subject.dataset
        if self.dataset is None:
            raise SparseheadError(
                f"{subject.columns['run']} does not say what images it was trained on: give some to look at, --dataset cifar10."
            )
        self.subject = with_other_images_told(subject, self.dataset, request.options)
        self.info = dataset_info(self.dataset, request.options.data_dir)
        own = is_same_data(self.dataset, subject.dataset)
        untested = "val" if own else "train+val"  # a run has not seen its val; of other data all is new to it
        self.split = request.split or ("test" if getattr(self.info, "tested", True) else untested)
        whole = subject.load_split(self.dataset, self.split, request.options)
        self.source = some(whole, request)
        self.is_part = len(self.source) < len(whole)
        self.most = min(KEPT, len(self.source)) if self.is_part else KEPT
        self.order = shuffled(len(self.source), request.seed)
        self.shuffled = self.source.take(self.order)  # a block of rows then stands for all of them, and so do the first few
        self.on_part: OnPart = lambda *part: None

    @cached_property
    def digest(self) -> str:
        """Of the images that are measured."""
        return Digests(self.request.out / "digests").of(self.source)

    def key(self) -> str:
        """What finds the rows in the tables."""
        request = self.request
        what = (self.dataset, self.split, self.digest, request.layers, request.seed, VIEWED, VIEWS, BATCHES)
        few = (self.most,) if self.is_part else ()  # of which the probes learn, too
        return f"{stable_seed(self.subject.digest, *what, *few):016x}"[:12]

    def rows(self, on_part: OnPart) -> list[list[Row]]:
        """Those of the three tables; `on_part` is told what is being measured, and how far that is."""
        self.on_part = on_part
        common = {
            **self.subject.columns,
            "checkpoint": self.subject.digest,
            "assumed": in_words(self.subject.assumed),
            "eval_dataset": self.dataset,
            "split": f"{len(self.source)}{PART_OF}{self.split}" if self.is_part else self.split,
            "images": len(self.source),
        }
        observed = self.observe()
        for name, moments in observed.moments.items():
            moments.require_finite(NAMES.get(name, f"the head's hidden layer {name}"))
        on_part("intervals")
        spectrums = {name: Spectrum(moments) for name, moments in observed.moments.items()}
        eigenvalues = {name: spectrum.eigenvalues for name, spectrum in spectrums.items()}
        numbers: list[Row] = []
        for name, spectrum in spectrums.items():
            numbers += spectrum_numbers(name, spectrum, self.request.seed)
        numbers += self.invariances()
        batches: list[BatchSubset] = []
        if "z" in spectrums:
            on_part("what the head reads")
            r = observed.r[observed.places < KEPT]
            reading = Reading.of(mean_response(self.subject.network.projector, r[:RESPONSE_IMAGES], self.request.seed))
            eigenvalues["response"] = reading.singular.square()
            batches = self.batches()
            numbers += self.head_numbers(reading, observed.moments["r"].covariance(), r, batches)
            numbers += self.probes(reading, observed)
        curves = itertools.chain.from_iterable(eigenvalue_rows(name, values) for name, values in eigenvalues.items())
        return [[{**common, **row} for row in rows] for rows in (batch_rows(batches), curves, numbers)]

    @torch.no_grad()
    def observe(self) -> Observed:
        """One pass over all images, in the shuffled order: the moments of r, z and, where they were asked for, of hidden layers.

        r is kept of the first KEPT images, and of those that the probes will need of this split.
        """
        wanted = torch.isin(self.order, spread(len(self.source), self.most)).to(self.subject.device)
        wanted[:KEPT] = True
        r, places = [], []
        moments: dict[str, BlockMoments] = {}
        for features, index in self.shuffled_features():
            for name, values in features.items():
                if name not in moments:
                    moments[name] = BlockMoments(values.shape[1], len(self.source), values.device)
                moments[name].add(values)
            r.append(features["r"][wanted[index]])
            places.append(index[wanted[index]])
        for observed in moments.values():
            observed.close()
        return Observed(moments, torch.cat(r), torch.cat(places))

    def shuffled_features(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Features by name [n, D] and their places [n] in the shuffled order, in batches: those that `evaluate` kept, or anew."""
        known = None if self.request.layers else self.kept_features(self.source)
        if known:
            order = self.order.to(self.subject.device)
            for place in torch.arange(len(order), device=order.device).split(BATCH):
                yield {name: known[name][order[place]] for name in self.subject.features}, place
            return
        with hidden_layers(self.subject.network.projector) as hidden:
            for batch in self.watched(self.shuffled, BATCH, "features"):
                features = self.subject.network(self.subject.prepare(batch.inputs))
                yield (
                    {name: features[name] for name in self.subject.features} | (hidden if self.request.layers else {}),
                    batch.index,
                )

    def watched(self, source: Source, size: int, doing: str) -> Iterator[Batch]:
        """The batches of a source; of each it is told that it is done when the next one is asked for."""
        done = 0
        for batch in source.batches(size):
            self.on_part(doing, done, len(source))
            yield batch
            done += len(batch.labels)

    def kept_features(self, source: Source) -> Features | None:
        """What `evaluate` has kept beside the weights of all images of a source; None where it has not, or it is of no use."""
        if not any(self.evaluated.glob(f"{self.subject.digest}-*.pt")):
            return None  # and no image has to be hashed
        digest = self.digest if source is self.source else Digests(self.evaluated).of(source)
        path = features_file(self.evaluated, self.subject.digest, digest)
        if not path.exists():
            return None
        widths = widths_of(self.subject.network, self.subject.prepare, self.subject.device)
        try:
            features = kept(path, self.subject.device, source.labels, widths)
        except (Unsound, SparseheadError):
            return None
        return features if len(features) == len(source) else None  # places in the order are those of all images

    @torch.no_grad()
    def views(self, images: int, count: int, batch: int, what: str) -> Iterator[dict[str, Tensor]]:
        """r and z of `count` views of each of the first `images` images, `batch` at a time: [n, count, D]."""
        few = self.shuffled.take(torch.arange(min(images, len(self.source))))
        for i, part in enumerate(self.watched(few, batch, PARTS[what])):
            generator = torch.Generator().manual_seed(stable_seed(what, self.request.seed, i))
            views = several(self.subject.views, self.subject.prepare.for_views(part.inputs), count, generator)
            features = self.subject.network(each(laid_out, joined(views)))
            yield {name: f.unflatten(0, (count, len(part.labels))).transpose(0, 1) for name, f in features.items()}

    def invariances(self) -> Iterator[Row]:
        """LiDAR, alignment and uniformity of r and z."""
        parts = list(self.views(VIEWED, VIEWS, BATCH // VIEWS, "invariance"))
        for name in self.subject.features:
            features = torch.cat([part[name] for part in parts])
            if features.shape[2] <= WIDEST and len(features) > 1:
                yield from (metric(name, key, value) for key, value in invariance(features).items())

    def batches(self) -> list[BatchSubset]:
        """The features of r that each of some batches needs."""
        projector, temperature = self.subject.network.projector, self.subject.temperature
        pairs = self.views(BATCHES * BATCH_SIZE, 2, BATCH_SIZE, "batches")
        return [fewest_features(projector, torch.cat([*pair["r"].unbind(1)]), temperature) for pair in pairs]

    def head_numbers(self, reading: Reading, covariance: Tensor, r: Tensor, batches: list[BatchSubset]) -> Iterator[Row]:
        """What the projector reads of r [N, D], whose covariance is [D, D]."""
        projector = self.subject.network.projector
        first = next((layer for _, layer in linear_layers(projector)), projector)
        counts = torch.tensor([count for batch in batches if (count := batch.needed())], dtype=torch.float64)
        numbers = {
            "read_dims": reading.count or None,
            "read_variance_share": reading.variance_share(covariance),
            "read_overlap": reading.overlap(covariance),
            "read_overlap_by_chance": reading.count / r.shape[1] if reading.count else None,
            "functional_features": functional_inputs(projector, first, r[:BATCH]),
        }
        for name in ("min", "median", "max"):
            numbers[f"batch_features_{name}"] = float(getattr(counts, name)()) if len(counts) else None
        if len(batches) > 1:
            numbers["batch_overlap"], numbers["batch_overlap_by_chance"] = overlap_of([batch.kept for batch in batches])
        yield from (metric("head", name, value) for name, value in numbers.items())

    def probes(self, reading: Reading, observed: Observed) -> list[Row]:
        """Linear evaluation of r, of what the projector reads of it and of what it does not, on at most KEPT images each."""
        classes = len(self.info.classes)
        if classes < 2 or not getattr(self.info, "tested", True):
            return []  # nothing to predict, or nothing to predict it of
        train, labels = self.sample("train+val", observed)
        test, truth = self.sample("test", observed)
        held_out = torch.from_numpy(held_out_mask(labels.cpu().numpy())).to(labels.device)
        if not held_out.any():
            return []  # too few images to choose a strength on
        rows = []
        for name, cut in (("r", lambda r: r), ("read", lambda r: reading.part(r)[0]), ("unread", lambda r: reading.part(r)[1])):
            features, queries = cut(train), cut(test)
            if queries.shape[1]:
                learnt = (features[~held_out], labels[~held_out]), (features[held_out], labels[held_out])
                predicted, _ = linear_probe(*learnt, queries, classes)
                right, count = int((predicted == truth).sum()), len(predicted)
                rows.append(metric("head", f"probe_{name}", right / count, *wilson(right, count)))
        return rows

    @torch.no_grad()
    def sample(self, part: str, observed: Observed) -> tuple[Tensor, Tensor]:
        """r [n, D] and labels [n] of at most KEPT images of a split, evenly spread; those of this split were observed."""
        if part == self.split:
            index = self.order.to(observed.places.device)[observed.places]
            index, rows = index.sort()
            chosen = torch.isin(index, spread(len(self.source), self.most).to(index.device))
            return observed.r[rows[chosen]], self.source.labels[index[chosen]]
        source = self.subject.load_split(self.dataset, part, self.request.options)
        if known := self.kept_features(source):
            few = spread(len(source), self.most).to(self.subject.device)
            return known["r"][few], known.labels[few]
        r, labels = [], []
        for batch in self.watched(source.take(spread(len(source), self.most)), BATCH, f"probes: features of {part}"):
            r.append(self.subject.network.backbone(self.subject.prepare(batch.inputs)))
            labels.append(batch.labels)
        return torch.cat(r), torch.cat(labels)


def is_same_data(name: str, other: str | None) -> bool:
    """Whether two names of data sets are of the same, however a path is spelt."""
    return name == other or (other is not None and os.path.exists(name) and os.path.exists(other) and os.path.samefile(name, other))


def some(source: Source, request: SpectrumRequest) -> Source:
    """So many of the images as were asked for, in the order that they lie in."""
    if request.images is None or request.images >= len(source):
        return source
    return source.take(shuffled(len(source), request.seed)[: request.images].sort().values)


def shuffled(count: int, seed: int) -> Tensor:
    """So many indices in an order of the seed's, int64 [count]."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(stable_seed("spectrum", seed)))


def spread(count: int, most: int) -> Tensor:
    """At most `most` of so many indices, evenly spread, int64 [n]."""
    few = min(most, count)
    return torch.arange(few) * count // few


def several(views: Views, inputs: Inputs, count: int, generator: torch.Generator) -> list[View]:
    """`count` views of the whole inputs: those that a network was trained on, again and again."""
    if isinstance(views, ImageViews):
        recipe = [augmentation for augmentation in views.recipe if augmentation.role == GLOBAL]
        return replace(views, recipe=tuple(itertools.islice(itertools.cycle(recipe), count)))(inputs, generator)
    made: list[View] = []
    while len(made) < count:
        made += [view for view in views(inputs, generator) if view.role == GLOBAL]
    return made[:count]


@contextmanager
def hidden_layers(projector: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What the projector's linear layers but the first read, as "h1", "h2", …: [B, width] of the last forward pass."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[name] = inputs[0].flatten(1)

    with ExitStack() as hooks:
        for i, (_, layer) in enumerate(linear_layers(projector)[1:], 1):
            hooks.enter_context(layer.register_forward_pre_hook(partial(keep, f"h{i}")))
        yield seen
