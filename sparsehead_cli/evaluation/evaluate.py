"""evaluate(request) -> rows. Every task whose rows are in evaluations.csv already is not run again; each is saved as it ends."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from sparsehead_cli.data.contract import Source
from sparsehead_cli.data.datasets import dataset_info, require_measurable
from sparsehead_cli.data.folders import own_workers
from sparsehead_cli.data.sts import digest_of as sts_digest
from sparsehead_cli.data.text import TextSpec
from sparsehead_cli.errors import SparseheadError, one_line
from sparsehead_cli.evaluation.digests import Digests
from sparsehead_cli.evaluation.load import load_subject
from sparsehead_cli.evaluation.plan import ASKABLE, WEIGHTLESS, EvaluateRequest, Job, plan
from sparsehead_cli.evaluation.protocols import PROTOCOLS, READS
from sparsehead_cli.evaluation.subject import (
    CALIBRATED,
    Subject,
    digest_of,
    initial,
    pixels,
    untrained,
    with_other_images_told,
    words,
)
from sparsehead_cli.evaluation.table import TaskTables, per_class_rows
from sparsehead_cli.evaluation.task import DetectionSettings, Labelled, Settings, Task
from sparsehead_cli.foreign.assumptions import in_words
from sparsehead_cli.machine.plugins import is_plugin, named
from sparsehead_cli.machine.seeds import stable_seed
from sparsehead_cli.measure.features import Features, cached, extract, features_file, widths_of
from sparsehead_cli.nets.backbones import ResNet
from sparsehead_cli.runs.config import FIELDS
from sparsehead_cli.runs.settings import read, require_in_range, settings_of
from sparsehead_cli.runs.table_files import Row

if TYPE_CHECKING:  # torchvision takes seconds to import, and only detection needs it
    from sparsehead_cli.data.detection import DetectionSet


@dataclass(frozen=True)
class JobProgress:
    """The job at hand, how many there are, and its steps, where it counts them."""

    job: Job
    number: int
    jobs: int
    step: int = 0
    total: int = 0
    was_finished: bool = False


DETECTION_PREFIX = "detection."
OnProgress = Callable[[JobProgress], None]
OnLine = Callable[[str], None]
OnStep = Callable[..., None]  # (step, total), and where there is one the loss


def evaluate(
    request: EvaluateRequest, on_progress: OnProgress = lambda progress: None, on_line: OnLine = lambda line: None
) -> tuple[list[Row], list[Row]]:
    """The rows of evaluations.csv that answer the request, and those of per_class.csv where they were asked for.

    `on_line` is called with each line about what was found in somebody else's checkpoint, before the first job, and with one
    about each file of kept features that is damaged and made anew.

    Raises: SparseheadError for whatever the user can mend; what had been finished stays in the tables.
    """
    check(request)
    evaluation = Evaluation(request, on_line)
    for line in evaluation.subject.report:
        on_line(line)
    if "detection" in request.protocols:
        from sparsehead_cli.evaluation.detection import require_extra

        require_extra()
        if not isinstance(evaluation.subject.network.backbone, ResNet):
            columns = evaluation.subject.columns
            name = f"{'timm:' if columns['method'] == 'timm' else ''}{columns['backbone']}"
            raise SparseheadError(f"detection reads the stages of a ResNet, which {name} does not show. Leave detection out.")
        _ = evaluation.detection_sets  # a missing package or set is an error now, and not after hours
    require_trainable(evaluation.subject, request.protocols)
    jobs = plan(request, evaluation.dataset, evaluation.baselines if request.baselines else ())
    keys = []
    try:
        for number, job in enumerate(jobs, 1):
            keys.append(evaluation.key(job))
            progress = JobProgress(job, number, len(jobs), was_finished=evaluation.tables.has(keys[-1]))
            on_progress(progress)
            if not progress.was_finished:
                evaluation.run(job, lambda step, total, loss=0.0, at=progress: on_progress(replace(at, step=step, total=total)))
    finally:
        evaluation.tables.write()
    rows, *classes = evaluation.tables.of(keys)
    return rows, classes[0] if classes else []


def tables_of(folder: Path, *, per_class: bool) -> TaskTables:
    """evaluations.csv and, where they are asked for, the accuracies within classes. Precisions of detection have none."""
    names = ("evaluations.csv", "per_class.csv") if per_class else ("evaluations.csv",)
    return TaskTables(folder, names, names[0], lambda rows: names[1:] if rows[0]["metric"] == "accuracy" else ())


def check(request: EvaluateRequest) -> None:
    """Raises: SparseheadError for protocols that are not there, or that lack what they need."""
    if not request.protocols:
        raise SparseheadError(f"--protocol names no protocol; known: {', '.join(ASKABLE)}. Or module:name, of your own code.")
    require_in_range(FIELDS, seed=request.seed)
    request.options.check()
    for name in request.protocols:
        named("protocol", name, dict.fromkeys(ASKABLE))
    if "transfer" in request.protocols and not request.transfer_to:
        raise SparseheadError("the protocol transfer needs labelled data sets to transfer to: --transfer-to cifar100,stl10")
    if request.transfer_to and "transfer" not in request.protocols:
        raise SparseheadError("--transfer-to is read by the protocol transfer only: add it, --protocol linear,knn,transfer")
    for name in (request.dataset, *request.transfer_to):
        if name is not None:
            dataset_info(name, request.options.data_dir)  # an unknown name, or a folder that is not there, is an error now


def require_trainable(subject: Subject, protocols: tuple[str, ...]) -> None:
    """Raises: SparseheadError for protocols that train on images, where the network reads sentences, and for sts of images."""
    if "sts" in protocols and not subject.vocabulary:
        raise SparseheadError(f"the protocol sts measures networks of sentences, and {subject.columns['run']} reads images.")
    if subject.vocabulary and (given := [name for name in protocols if name in ("linear-sgd", "semi", "finetune", "transfer")]):
        raise SparseheadError(
            f"{', '.join(given)}: that trains on views of images, and {subject.columns['run']} reads sentences. "
            "Choose of linear, knn, sts, --dataset for other sentences, or write a protocol of your own, module:function."
        )


def require_labels(name: str, what: str, labels: Tensor, classes: int) -> None:
    """Raises: SparseheadError for images without a label, or with one that has no class; labels int64 [N]."""
    if wrong := int(((labels < 0) | (labels >= classes)).sum()):
        raise SparseheadError(
            f"{name}: {wrong:,} of its {len(labels):,} {what} images have no label from 0 to {classes - 1}, and evaluate measures "
            "accuracy. Give them labels, or leave them out; what needs none is measured by: "
            f"sparsehead spectrum CHECKPOINT --dataset {name}"
        )


def read_settings(given: dict[str, object]) -> tuple[Settings, DetectionSettings]:
    """--set's values -> what protocols can be told; those of detection are written detection.<name>.

    Raises: SparseheadError that names every unknown setting, wrong type and impossible number at once.
    """
    values, problems = read(settings_of(Settings) | settings_of(DetectionSettings, DETECTION_PREFIX), given)
    if problems:
        raise SparseheadError("\n".join(problems))
    detection = {name: value for name, value in values.items() if name.startswith(DETECTION_PREFIX)}
    others = {name: value for name, value in values.items() if name not in detection}
    return Settings(**others), DetectionSettings(**{name.removeprefix(DETECTION_PREFIX): v for name, v in detection.items()})


class Evaluation:
    """A checkpoint, and what its jobs share: the data set, the network and the features of the last job are kept for the next."""

    def __init__(self, request: EvaluateRequest, on_line: OnLine = lambda line: None) -> None:
        self.request, self.options, self.on_line = request, request.options, on_line
        self.subject = load_subject(request.checkpoint, request.options, request.dataset)
        self.device = self.subject.device
        self.dataset = request.dataset or self.subject.dataset
        if self.dataset is None:
            raise SparseheadError(
                f"{request.checkpoint} does not say on which data set to measure it: add --dataset, as in cifar10."
            )
        self.subject = with_other_images_told(self.subject, self.dataset, self.options)
        self.folder = request.folder
        self.tables = tables_of(self.folder, per_class=request.per_class)
        self.digests = Digests(self.folder / "features")
        self.data: Labelled | None = None
        self.kept: dict[tuple, tuple[Features, Features]] = {}

    def key(self, job: Job) -> str:
        """What finds the job's rows in the tables: a hash of all that its outcome depends on, in hexadecimals."""
        if job.protocol == "detection":
            sizes = [len(part) for part in self.detection_sets]
            return f"{stable_seed(job, self.digest(job.model), self.request.detection, *sizes):016x}"[:12]
        data = self.labelled(job.dataset)
        # what code of somebody's own reads of the settings is not known: it may be any
        prefixes = ("",) if is_plugin(job.protocol) else READS.get(job.protocol, ())
        read = [value for name, value in vars(self.request.settings).items() if name.startswith(prefixes)]
        parts = (job.protocol, self.digest(job.model), data.digest, read, job.share, job.seed)
        if job.protocol == "sts":
            parts = (*parts, sts_digest(self.request.settings.sts))
        if job.protocol.endswith("finetune") and not isinstance(self.subject.network.backbone, ResNet):
            parts = (*parts, "stages")  # rows without it are from when other backbones had two rates
        return f"{stable_seed(*parts):016x}"[:12]

    def run(self, job: Job, on_step: OnStep) -> None:
        """Run one job and save its rows."""
        if job.protocol == "detection":
            rows, classes = self.detected(job, on_step), []
        else:
            rows, classes = self.classified(job, on_step)
        self.tables.add(self.key(job), [rows, classes] if self.request.per_class else [rows])

    def classified(self, job: Job, on_step: OnStep) -> tuple[list[Row], list[Row]]:
        """The rows of a protocol, and those of its classes."""
        subject, data = self.network(job.model), self.labelled(job.dataset)
        features = partial(self.features, subject, data)
        task = Task(job.protocol, subject, data, self.request.settings, features, job.share, job.seed, on_step)
        train, test = features()
        began = time.perf_counter()
        try:
            outcomes = list(named("protocol", job.protocol, PROTOCOLS)(task))
        except Exception as error:
            if isinstance(error, SparseheadError) or not is_plugin(job.protocol):
                raise
            raise SparseheadError(f"protocol {job.protocol} fails: {type(error).__name__}: {one_line(str(error))}.") from error
        common = self.common(job, subject, time.perf_counter() - began)
        common |= {"skipped_images": train.skipped + test.skipped}
        if data.train.streams:  # images in memory keep nobody waiting
            common |= {"waiting_share": round(train.waiting_share, 4)}
        rows, classes = [], []
        for outcome in outcomes:
            rows.append({**common, **outcome.columns})
            if outcome.right is not None:
                classes += per_class_rows(rows[-1], outcome, data.classes)
        return rows, classes

    def detected(self, job: Job, on_step: OnStep) -> list[Row]:
        """Object detection, whose sets and numbers are of another kind: one row a precision, without an interval."""
        from sparsehead_cli.evaluation.detection import detect

        settings, subject = self.request.detection, self.network(job.model)
        workers = min(settings.workers, own_workers()) if self.options.workers is None else self.options.workers
        began = time.perf_counter()
        measured = detect(
            subject.network.backbone,
            subject.prepare.normalise,
            *self.detection_sets,
            replace(settings, workers=workers),
            seed=job.seed,
            device=self.device,
            watch=on_step,
        )
        common = {
            **self.common(job, subject, time.perf_counter() - began),
            "features": "r",
            "eval_seed": job.seed,
            "skipped_images": 0,
            "eval_lr": settings.lr,
            "eval_epochs": settings.epochs,
            "eval_batch_size": settings.batch_size,
            "n_train": int(measured.pop("n_train")),
            "n_test": int(measured.pop("n_test")),
            "n_val": 0,
        }
        return [{**common, "metric": metric, "value": value} for metric, value in measured.items()]

    def common(self, job: Job, subject: Subject, seconds: float) -> Row:
        """The columns that all rows of a job have in common."""
        return {
            **subject.columns,
            "checkpoint": self.subject.digest,
            "model": subject.model,
            "assumed": in_words(subject.assumed),
            "waiting_share": "",
            "protocol": job.protocol,
            "eval_dataset": job.dataset,
            "seconds": round(seconds, 2),
        }

    def labelled(self, name: str) -> Labelled:
        """A labelled data set on the device. Raises: SparseheadError for one class, where accuracy is 100 % whatever is done."""
        if self.data is None or self.data.name != name:
            self.data = None  # makes room for the next
            info = dataset_info(name, self.options.data_dir)
            folds, classes = isinstance(info, TextSpec) and info.labelled and not info.tested, info.classes
            if not folds:
                require_measurable(name, self.options.data_dir, "evaluate measures accuracy on test images")
            if len(classes) == 1:
                raise SparseheadError(
                    f"{name} has one class, {classes[0]}, and where no image can be classified wrongly accuracy is not defined. "
                    "Give images of several classes, or look at features without labels: "
                    f"sparsehead spectrum CHECKPOINT --dataset {name}"
                )
            splits = ("train+val", "train+val" if folds else "test")
            parts = [self.subject.load_split(name, part, self.options) for part in splits]
            for what, part in zip(("training", "test"), parts, strict=True):
                require_labels(name, what, part.labels, len(classes))
            self.data = Labelled(name, classes, *parts, tuple(map(self.digests.of, parts)), folds)
        return self.data

    def digest(self, model: str) -> str:
        """A hash of a network's weights."""
        return self.untrained_digest if model == "untrained" else self.network(model).digest

    @cached_property
    def untrained_digest(self) -> str:
        """That of the untrained network, which is kept: to calibrate it takes thousands of images."""
        fresh = digest_of(self.subject.fresh(), self.subject.prepare, self.subject.assumed)
        name = f"untrained-{stable_seed(fresh, self.digests.of(self.calibration), CALIBRATED):016x}"
        return self.digests.kept(name, lambda: self.untrained.digest)

    def network(self, model: str) -> Subject:
        """The checkpoint's network, the untrained one, or the pixels of the data set at hand."""
        if model == "words":
            return words(self.subject, self.data.train)
        if model == "initial":
            return self.initial
        if model == "pixels":
            return pixels(self.subject, dataset_info(self.data.name, self.options.data_dir).channels)
        return self.subject if model == "checkpoint" else self.untrained

    @cached_property
    def baselines(self) -> tuple[str, ...]:
        """The base lines that there are: the encoder that the run began with, if it was trained; untrained; without a network."""
        before = ()
        if self.subject.initial:
            try:
                before = (self.initial.model,)
            except SparseheadError as error:
                self.on_line(f"no base line of the weights that the run began with: {error}")
        return (*before, "untrained", "words" if self.subject.vocabulary else "pixels")

    @cached_property
    def initial(self) -> Subject:
        """The encoder with the trained weights that its run began with. Raises: SparseheadError where they are gone."""
        return initial(self.subject)

    @cached_property
    def detection_sets(self) -> tuple["DetectionSet", "DetectionSet"]:
        """The training and the test part of the detection set; COCO's annotations take long to read."""
        from sparsehead_cli.data.detection import load_detection

        return load_detection(self.request.detection_set, self.options.data_dir)

    @cached_property
    def calibration(self) -> Source:
        """The images that the checkpoint was pretrained on, or else those that it is measured on."""
        return self.subject.load_split(self.subject.dataset or self.dataset, "train", self.options)

    @cached_property
    def untrained(self) -> Subject:
        """The untrained twin, calibrated on these images."""
        return untrained(self.subject, self.calibration)

    def features(self, subject: Subject, data: Labelled) -> tuple[Features, Features]:
        """Those of the training and the test images, extracted once."""
        key = (subject.digest, data.digests)
        if key not in self.kept:
            self.kept.clear()  # never those of two networks or two data sets in memory
            train, test = data.digests
            self.kept[key] = (self.features_of(subject, data.train, train), self.features_of(subject, data.test, test))
        return self.kept[key]

    def features_of(self, subject: Subject, source: Source, digest: str) -> Features:
        """The features of a source, kept beside the run in features/; pixels are not worth their place."""
        make = partial(extract, subject.network, source, subject.prepare)
        if subject.model in WEIGHTLESS:
            return make()
        path = features_file(self.folder / "features", subject.digest, digest)
        widths = widths_of(subject.network, subject.prepare, self.device)
        return cached(path, make, self.device, labels=source.labels, widths=widths, on_damage=self.on_line)
