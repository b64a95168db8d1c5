"""spectra(request) -> rows: the spectra of checkpoints, what is read off them, and what their projectors read of r.

A checkpoint whose rows are in the tables already is not measured again.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsehead_cli.data.augment import Augmentation, ImageViews
from sparsehead_cli.data.contract import Source, joined
from sparsehead_cli.data.datasets import dataset_info, held_out_mask, load_split
from sparsehead_cli.data.prepare import with_channels
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.subject import Subject, checkpoint_file, load_subject
from sparsehead_cli.evaluation.table import Row, TaskTables
from sparsehead_cli.foreign.facts import in_words
from sparsehead_cli.machine.device import choose_device
from sparsehead_cli.machine.seeds import stable_seed
from sparsehead_cli.measure.features import BATCH
from sparsehead_cli.measure.head import BatchSubset, Reading, fewest_features, mean_response, overlap_of
from sparsehead_cli.measure.intervals import wilson
from sparsehead_cli.measure.invariance import invariance
from sparsehead_cli.measure.linear import linear_probe
from sparsehead_cli.measure.moments import WIDEST, BlockMoments
from sparsehead_cli.measure.spectrum import INTERVALS, NUMBERS, Spectrum
from sparsehead_cli.runs.config import MOST_WORKERS
from sparsehead_cli.sparse.layers import linear_layers
from sparsehead_cli.sparse.telemetry import functional_inputs

KEPT = 10_000  # images, at most, whose features are held at once: for the probes, and r for what the head reads
RESPONSE_IMAGES = 512  # that the projector's response is averaged over
VIEWED, VIEWS = 1_000, 10  # images, and augmented views of each, for LiDAR, alignment and uniformity
BATCHES, BATCH_SIZE = 20, 128  # batches whose loss is kept with few features, and their images
TABLES = ("spectrum_batches.csv", "spectrum.csv", "spectrum_metrics.csv")
NAMES = {"r": "the representation r", "z": "the embedding z"}


@dataclass(frozen=True)
class Request:
    """What `sparsehead spectrum` was asked for. Without a data set it is the one of each run."""

    checkpoints: tuple[str, ...]
    dataset: str | None = None
    split: str = "test"
    layers: bool = False
    out: Path = Path("results/spectra")
    seed: int = 0
    device: str = "auto"
    data_dir: Path = Path("data")
    weights: Path | None = None
    allow_partial: bool = False
    image_size: int | None = None
    skip_bad_images: bool = False
    workers: int | None = None
    assume: tuple[str, ...] = ()


@dataclass(frozen=True)
class Moment:
    """What a watcher sees: which of the checkpoints is looked at, what is measured, and what was found in a foreign file."""

    checkpoint: str
    number: int
    checkpoints: int
    doing: str
    report: tuple[str, ...] = ()


Watch = Callable[[Moment], None]


def spectra(request: Request, watch: Watch = lambda moment: None) -> list[list[Row]]:
    """The rows of spectrum_batches.csv, spectrum.csv and spectrum_metrics.csv that answer the request.

    Raises: SparseheadError for whatever the user can mend; the checkpoints before the bad one stay in the tables.
    """
    check(request)
    device = choose_device(request.device)
    tables = TaskTables(request.out, TABLES, TABLES[-1], other_tables)
    keys = []
    for number, checkpoint in enumerate(request.checkpoints, 1):

        def tell(doing: str, report: tuple[str, ...] = (), at: tuple = (checkpoint, number, len(request.checkpoints))) -> None:
            watch(Moment(*at, doing, report))

        tell("loading")
        kept = kept_task(tables, checkpoint, request)
        if kept is not None:
            keys.append(kept)
            tell("measured before; its checkpoint is not here")
            continue
        subject = load_subject(
            checkpoint,
            device,
            request.data_dir,
            weights=request.weights,
            allow_partial=request.allow_partial,
            image_size=request.image_size,
            dataset=request.dataset,
            assume=request.assume,
        )
        look = Look(subject, request)
        keys.append(look.key())
        found = tables.has(keys[-1])
        tell("measured before" if found else "features", subject.report)
        if not found:
            tables.add(keys[-1], look.rows(tell))
    return tables.of(keys)


def other_tables(rows: list[Row]) -> tuple[str, ...]:
    """The tables that a task with these rows of spectrum_metrics.csv has rows in; batches are of a projector."""
    return TABLES[:-1] if any(row["features"] == "z" for row in rows) else TABLES[1:-1]


def check(request: Request) -> None:
    """Raises: SparseheadError for numbers that cannot be, and for names that are not there."""
    if not 0 <= request.seed < 2**31:
        raise SparseheadError(f"seed must be between 0 and {2**31 - 1}, given {request.seed}.")
    if request.workers is not None and not 0 <= request.workers <= MOST_WORKERS:
        raise SparseheadError(f"workers must be at least 0 and at most {MOST_WORKERS}, given {request.workers}.")
    if request.dataset is not None:
        dataset_info(request.dataset, request.data_dir)  # an unknown name, or a folder that is not there, is an error now


def kept_task(tables: TaskTables, checkpoint: str, request: Request) -> str | None:
    """The task of a run of ours whose checkpoint is gone (or never came along) and whose rows are in the tables; None else.

    Only for a path that is not there; the last that was measured, on the data set and split that were asked for.
    """
    path = checkpoint_file(checkpoint)
    if path.exists():
        return None
    name = Path(checkpoint).name if Path(checkpoint).suffix != ".pt" else path.parent.name
    rows = [row for row in tables.read(tables.main) if row["run"] == name and row["split"] == request.split]
    rows = [row for row in rows if request.dataset in (None, row["eval_dataset"])]
    return rows[-1]["task"] if rows and tables.has(rows[-1]["task"]) else None


class Look:
    """One network on one split: what is measured of it, in rows."""

    def __init__(self, subject: Subject, request: Request) -> None:
        self.subject, self.request = subject, request
        self.dataset = request.dataset or subject.dataset
        if self.dataset is None:
            raise SparseheadError(
                f"{subject.columns['run']} does not say what images it was trained on: give some to look at, --dataset cifar10."
            )
        split = self.load(request.split)
        shuffled = torch.randperm(len(split), generator=torch.Generator().manual_seed(stable_seed("spectrum", request.seed)))
        self.split = split.take(shuffled)  # a block of rows then stands for all of them, and so do the first few
        self.digest = split.digest()

    def load(self, part: str) -> Source:
        """A split of the data set, on the device, in the network's size."""
        request = self.request
        return load_split(
            self.dataset,
            part,
            request.data_dir,
            image_size=self.subject.prepare.image[1],
            skip_bad_images=request.skip_bad_images,
            workers=request.workers,
        ).to(self.subject.device)

    def key(self) -> str:
        """What finds the rows in the tables."""
        request = self.request
        what = (self.dataset, request.split, self.digest, request.layers, request.seed, VIEWED, VIEWS, BATCHES)
        return f"{stable_seed(self.subject.digest, *what):016x}"[:12]

    def rows(self, tell: Callable[[str], None]) -> list[list[Row]]:
        """Those of the three tables."""
        common = {
            **self.subject.columns,
            "checkpoint": self.subject.digest,
            "assumed": in_words(self.subject.assumed),
            "eval_dataset": self.dataset,
            "split": self.request.split,
            "images": len(self.split),
        }
        moments, r = self.observe()
        for name, seen in moments.items():
            seen.require_finite(NAMES.get(name, f"the head's hidden layer {name}"))
        tell("intervals")
        found = {name: Spectrum(seen) for name, seen in moments.items()}
        eigenvalues = {name: spectrum.eigenvalues for name, spectrum in found.items()}
        numbers = [number for name, spectrum in found.items() for number in spectrum_numbers(name, spectrum, self.request.seed)]
        tell("augmented views")
        numbers += self.invariances()
        batches: list[BatchSubset] = []
        if "z" in found:
            tell("what the head reads")
            reading, head, batches = self.head(found["r"], r)
            eigenvalues["response"] = reading.singular.square()
            numbers += head
        return [
            [{**common, **batch_row(i, batch)} for i, batch in enumerate(batches, 1)],
            [{**common, **row} for name, values in eigenvalues.items() for row in eigenvalue_rows(name, values)],
            [{**common, **number} for number in numbers],
        ]

    @torch.no_grad()
    def observe(self) -> tuple[dict[str, BlockMoments], Tensor]:
        """The moments of r, z and, where they were asked for, of the hidden layers; and r of the first KEPT images."""
        moments: dict[str, BlockMoments] = {}
        kept: list[Tensor] = []
        with hidden_layers(self.subject.network.projector) as hidden:
            for batch in self.split.batches(BATCH):
                features = self.subject.network(self.subject.prepare(batch.inputs))
                features = {name: features[name] for name in self.subject.features} | (hidden if self.request.layers else {})
                for name, values in features.items():
                    if name not in moments:
                        moments[name] = BlockMoments(values.shape[1], len(self.split), values.device)
                    moments[name].add(values)
                if len(kept) * BATCH < KEPT:
                    kept.append(features["r"])
        for seen in moments.values():
            seen.close()
        return moments, torch.cat(kept)

    @torch.no_grad()
    def views(self, images: int, count: int, batch: int, what: str) -> Iterator[dict[str, Tensor]]:
        """r and z of `count` views of each of the first `images` images, `batch` at a time: [n, count, D]."""
        recipe = self.subject.recipe
        views: tuple[Augmentation, ...] = tuple(itertools.islice(itertools.cycle(recipe), count))
        channels, size, _ = self.subject.prepare.image
        few = self.split.take(torch.arange(min(images, len(self.split))))
        for i, part in enumerate(few.batches(batch)):
            generator = torch.Generator().manual_seed(stable_seed(what, self.request.seed, i))
            make = ImageViews(views, self.subject.prepare.normalise, size)
            made = make(with_channels(part.inputs, channels), generator)
            stacked = joined(made).contiguous(memory_format=torch.channels_last)
            features = self.subject.network(stacked)
            yield {name: f.unflatten(0, (count, len(part.labels))).transpose(0, 1) for name, f in features.items()}

    def invariances(self) -> Iterator[Row]:
        """LiDAR, alignment and uniformity of r and z."""
        parts = list(self.views(VIEWED, VIEWS, BATCH // VIEWS, "invariance"))
        for name in self.subject.features:
            features = torch.cat([part[name] for part in parts])
            if features.shape[2] <= WIDEST and len(features) > 1:
                yield from (metric(name, key, value) for key, value in invariance(features).items())

    def head(self, spectrum: Spectrum, r: Tensor) -> tuple[Reading, list[Row], list[BatchSubset]]:
        """What the projector reads of r [N, D]."""
        projector = self.subject.network.projector
        reading = Reading.of(mean_response(projector, r[:RESPONSE_IMAGES], self.request.seed))
        covariance = spectrum.moments.covariance()
        first = next((layer for _, layer in linear_layers(projector)), projector)
        pairs = self.views(BATCHES * BATCH_SIZE, 2, BATCH_SIZE, "batches")
        batches = [fewest_features(projector, torch.cat([*p["r"].unbind(1)]), self.subject.temperature) for p in pairs]
        counts = torch.tensor([count for batch in batches if (count := batch.needed())], dtype=torch.float64)
        numbers = {
            "read_dims": reading.count or None,
            "read_variance_share": reading.variance_share(covariance),
            "read_overlap": reading.overlap(covariance),
            "read_overlap_by_chance": reading.count / r.shape[1] if reading.count else None,
            "functional_features": functional_inputs(projector, first, r[:BATCH]),
            **{
                f"batch_features_{name}": float(getattr(counts, name)()) if len(counts) else None
                for name in ("min", "median", "max")
            },
        }
        if len(batches) > 1:
            numbers["batch_overlap"], numbers["batch_overlap_by_chance"] = overlap_of([batch.kept for batch in batches])
        return reading, [metric("head", name, value) for name, value in numbers.items()] + self.probes(reading), batches

    def probes(self, reading: Reading) -> list[Row]:
        """Linear evaluation of r, of what the projector reads of it and of what it does not, on at most KEPT images each."""
        (train, labels), test = self.sample("train+val"), self.sample("test")
        held_out = torch.from_numpy(held_out_mask(labels.cpu().numpy())).to(labels.device)
        parts = {"train": (train[~held_out], labels[~held_out]), "val": (train[held_out], labels[held_out]), "test": test}
        classes = len(dataset_info(self.dataset, self.request.data_dir).classes)
        if classes < 2 or not held_out.any():
            return []  # nothing to predict, or too few images to choose a strength on
        found = []
        for name, cut in (("r", lambda r: r), ("read", lambda r: reading.part(r)[0]), ("unread", lambda r: reading.part(r)[1])):
            cuts = {part: cut(r) for part, (r, _) in parts.items()}
            if cuts["test"].shape[1]:
                predicted, _ = linear_probe(
                    (cuts["train"], parts["train"][1]), (cuts["val"], parts["val"][1]), cuts["test"], classes
                )
                right, all_ = int((predicted == parts["test"][1]).sum()), len(predicted)
                found.append(metric("head", f"probe_{name}", right / all_, *wilson(right, all_)))
        return found

    @torch.no_grad()
    def sample(self, part: str) -> tuple[Tensor, Tensor]:
        """r [n, D] and labels [n] of at most KEPT images of a split, evenly spread."""
        split = self.load(part)
        count = min(KEPT, len(split))
        few = split.take(torch.arange(count) * len(split) // count)
        found = [(self.subject.network.backbone(self.subject.prepare(b.inputs)), b.labels) for b in few.batches(BATCH)]
        return torch.cat([r for r, _ in found]), torch.cat([labels for _, labels in found])


@contextmanager
def hidden_layers(projector: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What the projector's linear layers but the first read, as "h1", "h2", …: [B, width] of the last forward pass."""
    seen: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for i, (_, layer) in enumerate(linear_layers(projector)[1:], 1):
            keep = lambda layer, inputs, name=f"h{i}": seen.__setitem__(name, inputs[0].flatten(1))  # noqa: E731
            hooks.enter_context(layer.register_forward_pre_hook(keep))
        yield seen


def spectrum_numbers(features: str, spectrum: Spectrum, seed: int) -> Iterator[Row]:
    """What is read off one spectrum, with the intervals of INTERVALS."""
    rank, me = (lambda moments, name=name: NUMBERS[name](Spectrum(moments)) for name in INTERVALS)
    bounds = dict(zip(INTERVALS, spectrum.moments.intervals(rank, me, seed=seed), strict=True))
    yield metric(features, "dim", len(spectrum.eigenvalues))
    for name, number in NUMBERS.items():
        yield metric(features, name, number(spectrum), *(bounds.get(name) or ()))


def metric(features: str, name: str, value: float | None, low: float | str = "", high: float | str = "") -> Row:
    """The own columns of a row of spectrum_metrics.csv; low and high bound the 95 % interval."""
    return {"features": features, "metric": name, "value": value, "low": low, "high": high}


def eigenvalue_rows(features: str, eigenvalues: Tensor) -> Iterator[Row]:
    """The own columns of the rows of spectrum.csv, largest eigenvalue first."""
    for index, value in enumerate(eigenvalues.tolist(), 1):
        yield {"features": features, "index": index, "eigenvalue": value}


def batch_row(number: int, batch: BatchSubset) -> Row:
    """The own columns of a row of spectrum_batches.csv."""
    losses = {"batch_loss": batch.loss, "batch_loss_kept": batch.loss_kept}
    return {"batch": number, "features_kept": batch.needed(), "n_features": len(batch.kept), **losses}
