"""evaluate(request) -> rows. Every task whose rows are in evaluations.csv already is not run again; each is saved as it ends."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sparsehead_cli.data.contract import Source
from sparsehead_cli.data.datasets import dataset_info, load_split
from sparsehead_cli.data.detection import DetectionSet, load_detection
from sparsehead_cli.data.folders import Folder, own_workers
from sparsehead_cli.errors import SparseheadError, shown, unknown
from sparsehead_cli.evaluation.detection import DetectionSettings, detect, require_extra
from sparsehead_cli.evaluation.protocols import PROTOCOLS, SHARES, Labelled, Settings, Task
from sparsehead_cli.evaluation.subject import Subject, checkpoint_file, load_subject, pixels, untrained
from sparsehead_cli.evaluation.table import Row, TaskTables, per_class_rows
from sparsehead_cli.foreign.facts import in_words
from sparsehead_cli.machine.device import choose_device
from sparsehead_cli.machine.seeds import stable_seed
from sparsehead_cli.measure.features import Features, cached, extract, widths_of
from sparsehead_cli.nets.backbones import ResNet
from sparsehead_cli.runs.config import MOST_WORKERS
from sparsehead_cli.runs.settings import read, settings_of


@dataclass(frozen=True)
class Request:
    """What `sparsehead evaluate` was asked for. Without a data set it is the one of the run.

    `checkpoint` is a file, the folder of a run, or timm:NAME with `weights`; `load_subject` says what the four last are for.
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
    device: str = "auto"
    data_dir: Path = Path("data")
    skip_bad_images: bool = False
    workers: int | None = None
    weights: Path | None = None
    allow_partial: bool = False
    image_size: int | None = None
    assume: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the tables go: beside the file of the weights."""
        return (self.weights or checkpoint_file(self.checkpoint)).parent


@dataclass(frozen=True)
class Job:
    """One line of the plan: which protocol, on which data set, for which network, with how many of the labels known."""

    protocol: str
    dataset: str
    model: str
    share: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Moment:
    """What a watcher sees: the job at hand, how many there are, and its steps, where it counts them."""

    job: Job
    number: int
    jobs: int
    step: int = 0
    total: int = 0
    was_finished: bool = False


Watch = Callable[[Moment], None]
Tell = Callable[[str], None]
DETECTION_PREFIX = "detection."
ASKABLE = ("knn", "linear", "linear-sgd", "semi", "finetune", "transfer", "detection")


def evaluate(request: Request, watch: Watch = lambda moment: None, tell: Tell = lambda line: None) -> tuple[list[Row], list[Row]]:
    """The rows of evaluations.csv that answer the request, and those of per_class.csv where they were asked for.

    `tell` is called with each line about what was found in somebody else's checkpoint, before the first job, and with one about
    each file of kept features that is damaged and made anew.

    Raises: SparseheadError for whatever the user can mend; what had been finished stays in the tables.
    """
    check(request)
    evaluation = Evaluation(request, tell)
    for line in evaluation.subject.report:
        tell(line)
    if "detection" in request.protocols:
        require_extra()
        require_stages(evaluation.subject)
        _ = evaluation.detection_sets  # a missing package or set is an error now, and not after hours
    jobs = plan(request, evaluation.dataset)
    keys = []
    for number, job in enumerate(jobs, 1):
        keys.append(evaluation.key(job))
        moment = Moment(job, number, len(jobs), was_finished=evaluation.tables.has(keys[-1]))
        watch(moment)
        if moment.was_finished:
            continue

        def steps(step: int, total: int, loss: float = 0.0, moment: Moment = moment) -> None:
            watch(dataclasses.replace(moment, step=step, total=total))

        evaluation.run(job, steps)
    rows, *classes = evaluation.tables.of(keys)
    return rows, classes[0] if classes else []


def tables_of(folder: Path, *, per_class: bool) -> TaskTables:
    """evaluations.csv and, where they are asked for, the accuracies within classes. Precisions of detection have none."""
    names = ("evaluations.csv", "per_class.csv") if per_class else ("evaluations.csv",)
    return TaskTables(folder, names, names[0], lambda rows: names[1:] if rows[0]["metric"] == "accuracy" else ())


def check(request: Request) -> None:
    """Raises: SparseheadError for protocols that are not there, or that lack what they need."""
    if not request.protocols:
        raise SparseheadError(f"--protocol names no protocol; known: {', '.join(ASKABLE)}.")
    if not 0 <= request.seed < 2**31:
        raise SparseheadError(f"seed must be between 0 and {2**31 - 1}, given {request.seed}.")
    if request.workers is not None and not 0 <= request.workers <= MOST_WORKERS:
        raise SparseheadError(f"workers must be at least 0 and at most {MOST_WORKERS}, given {shown(request.workers)}.")
    for name in request.protocols:
        if name not in ASKABLE:
            raise unknown("protocol", name, ASKABLE)
    if "transfer" in request.protocols and not request.transfer_to:
        raise SparseheadError("the protocol transfer needs labelled data sets to transfer to: --transfer-to cifar100,stl10")
    if request.transfer_to and "transfer" not in request.protocols:
        raise SparseheadError("--transfer-to is read by the protocol transfer only: add it, --protocol linear,knn,transfer")
    for name in (request.dataset, *request.transfer_to):
        if name is not None:
            dataset_info(name, request.data_dir)  # an unknown name, or a folder that is not there, is an error now


def require_classes(name: str, data_dir: Path) -> tuple[str, ...]:
    """The classes of a data set. Raises: SparseheadError for one class, where accuracy is 100 % whatever the network does."""
    classes = dataset_info(name, data_dir).classes
    if len(classes) == 1:
        raise SparseheadError(
            f"{name} has one class, {classes[0]}, and where no image can be classified wrongly accuracy is not defined. Give "
            f"images of several classes, or look at features without labels: sparsehead spectrum CHECKPOINT --dataset {name}"
        )
    return classes


def require_stages(subject: Subject) -> None:
    """Raises: SparseheadError for a network that a detector cannot read stage by stage."""
    if not isinstance(subject.network.backbone, ResNet):
        name = subject.columns["backbone"]
        raise SparseheadError(f"detection reads the stages of a ResNet, which timm:{name} does not show. Leave detection out.")


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


def plan(request: Request, dataset: str) -> list[Job]:
    """The jobs of a request, those on one data set and network beside each other: what they share is kept that long."""
    models = ("checkpoint", "untrained", "pixels") if request.baselines else ("checkpoint",)
    asked = {dataset: [p for p in DIRECT if p in request.protocols]}
    asked |= {name: [*asked.get(name, []), *(p for p in TRANSFER if p not in asked.get(name, []))] for name in request.transfer_to}
    jobs = []
    for name, protocols in asked.items():
        for model in models:
            few = [
                Job(protocol, name, model, share, request.seed + seed)
                for protocol in ("semi-linear", "semi-finetune")
                for share in SHARES
                for seed in range(request.settings.semi_seeds)
                if "semi" in request.protocols and name == dataset
            ]
            jobs += [Job(protocol, name, model, seed=request.seed) for protocol in protocols] + few
    if "detection" in request.protocols:
        jobs += [Job("detection", request.detection_set, model, seed=request.seed) for model in models]
    return [job for job in jobs if job.model != "pixels" or job.protocol not in TUNING]


class Evaluation:
    """A checkpoint, and what its jobs share: the data set, the network and the features of the last job are kept for the next."""

    def __init__(self, request: Request, tell: Tell = lambda line: None) -> None:
        self.request, self.tell = request, tell
        self.device = choose_device(request.device)
        self.subject = load_subject(
            request.checkpoint,
            self.device,
            request.data_dir,
            weights=request.weights,
            allow_partial=request.allow_partial,
            image_size=request.image_size,
            dataset=request.dataset,
            assume=request.assume,
        )
        self.dataset = request.dataset or self.subject.dataset
        if self.dataset is None:
            raise SparseheadError(
                f"{request.checkpoint} does not say on which data set to measure it: add --dataset, as in cifar10."
            )
        self.folder = request.folder
        self.tables = tables_of(self.folder, per_class=request.per_class)
        self.data: Labelled | None = None
        self.kept: dict[tuple, tuple[Features, Features]] = {}

    def key(self, job: Job) -> str:
        """What finds the job's rows in the table."""
        if job.protocol != "detection":
            return self.task(job).key()
        sizes = [len(part) for part in self.detection_sets]
        return f"{stable_seed(job, self.network(job.model).digest, self.request.detection, *sizes):016x}"[:12]

    def task(self, job: Job, steps: Callable[..., None] = lambda step, total: None) -> Task:
        """The job with the data and the network that it needs."""
        data = self.labelled(job.dataset)
        subject = self.network(job.model)
        features = lambda: self.features(subject, data)  # noqa: E731
        return Task(job.protocol, subject, data, self.request.settings, features, job.share, job.seed, steps)

    def run(self, job: Job, steps: Callable[..., None]) -> None:
        """Run one job and save its rows."""
        key = self.key(job)
        if job.protocol == "detection":
            self.save(key, self.detected(job, key, steps), [])
            return
        task = self.task(job, steps)
        train, test = task.features()
        began = time.perf_counter()
        outcomes = list(PROTOCOLS[job.protocol](task))
        common = self.common(job, task.subject, key, time.perf_counter() - began)
        common |= {"skipped_images": train.skipped + test.skipped}
        if isinstance(task.data.train, Folder):  # images in memory keep nobody waiting
            common |= {"waiting_share": round(train.waiting_share, 4)}
        rows = [{**common, **outcome.columns} for outcome in outcomes]
        classes = task.data.classes
        self.save(key, rows, [line for r, o in zip(rows, outcomes, strict=True) for line in per_class_rows(r, o, classes)])

    def save(self, key: str, rows: list[Row], classes: list[Row]) -> None:
        """Put the rows of a job into the tables that were asked for."""
        self.tables.add(key, [rows, classes] if self.request.per_class else [rows])

    def detected(self, job: Job, key: str, steps: Callable[..., None]) -> list[Row]:
        """Object detection, whose sets and numbers are of another kind: one row a precision, without an interval."""
        request, settings = self.request, self.request.detection
        train, test = self.detection_sets
        subject = self.network(job.model)
        workers = min(settings.workers, own_workers()) if request.workers is None else request.workers
        began = time.perf_counter()
        found = detect(
            subject.network.backbone,
            subject.prepare.normalise,
            train,
            test,
            dataclasses.replace(settings, workers=workers),
            job.seed,
            self.device,
            steps,
        )
        common = self.common(job, subject, key, time.perf_counter() - began)
        common |= {
            "features": "r",
            "eval_seed": job.seed,
            "skipped_images": 0,
            "eval_lr": settings.lr,
            "eval_epochs": settings.epochs,
        }
        common |= {"eval_batch_size": settings.batch_size, **{n: int(found.pop(n)) for n in ("n_train", "n_test")}, "n_val": 0}
        return [{**common, "metric": metric, "value": value} for metric, value in found.items()]

    def common(self, job: Job, subject: Subject, key: str, seconds: float) -> Row:
        """The columns that all rows of a job have in common, in the order of the table."""
        about = {"protocol": job.protocol, "eval_dataset": job.dataset, "seconds": round(seconds, 2), "task": key}
        return {
            **subject.columns,
            "checkpoint": self.subject.digest,
            "model": subject.model,
            "assumed": in_words(subject.assumed),
            "waiting_share": "",
            **about,
        }

    def labelled(self, name: str) -> Labelled:
        """A labelled data set on the device; images from files come in the size that the network is made for."""
        if self.data is None or self.data.name != name:
            self.data = None  # makes room for the next
            request, size = self.request, self.subject.prepare.image[1]
            classes = require_classes(name, request.data_dir)
            reading = {"image_size": size, "skip_bad_images": request.skip_bad_images, "workers": request.workers}
            parts = [load_split(name, part, request.data_dir, **reading).to(self.device) for part in ("train+val", "test")]
            digests = tuple(part.digest() for part in parts)
            self.data = Labelled(name, classes, *parts, digests)
        return self.data

    def network(self, model: str) -> Subject:
        """The checkpoint's network, the untrained one, or the pixels of the data set at hand."""
        if model == "pixels":
            return pixels(self.subject, dataset_info(self.data.name, self.request.data_dir).channels)
        return self.subject if model == "checkpoint" else self.untrained

    @cached_property
    def detection_sets(self) -> tuple[DetectionSet, DetectionSet]:
        """The training and the test part of the detection set; COCO's annotations take long to read."""
        return load_detection(self.request.detection_set, self.request.data_dir)

    @cached_property
    def untrained(self) -> Subject:
        """The untrained twin, calibrated on the images that the checkpoint was pretrained on, or else that it is measured on."""
        train = load_split(
            self.subject.dataset or self.dataset,
            "train",
            self.request.data_dir,
            image_size=self.subject.prepare.image[1],
            skip_bad_images=self.request.skip_bad_images,
            workers=self.request.workers,
        )
        return untrained(self.subject, train.to(self.device))

    def features(self, subject: Subject, data: Labelled) -> tuple[Features, Features]:
        """Those of the training and the test images, extracted once."""
        key = (subject.digest, data.digests)
        if key not in self.kept:
            self.kept.clear()  # never those of two networks or two data sets in memory
            parts = zip((data.train, data.test), data.digests, strict=True)
            self.kept[key] = tuple(self.features_of(subject, split, digest) for split, digest in parts)
        return self.kept[key]

    def features_of(self, subject: Subject, split: Source, digest: str) -> Features:
        """The features of a split, kept beside the run in features/; pixels are not worth their place."""
        if subject.model == "pixels":
            return extract(subject.network, split, subject.prepare)
        path = self.folder / "features" / f"{subject.digest}-{digest}.pt"
        shape = {"labels": split.labels, "widths": widths_of(subject.network, subject.prepare, self.device)}
        return cached(path, lambda: extract(subject.network, split, subject.prepare), self.device, **shape, tell=self.tell)


DETECTION_PREFIX = "detection."
ASKABLE = ("knn", "linear", "linear-sgd", "semi", "finetune", "transfer", "detection")
DIRECT = ("linear", "knn", "linear-sgd", "finetune")
TRANSFER = ("linear", "knn", "finetune")
TUNING = ("finetune", "semi-finetune", "detection")  # these need weights to train
