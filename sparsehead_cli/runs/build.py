"""Config -> the objects of a run. The only place where settings meet constructors; nothing is written to the disk here."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparsehead_cli.data.augment import RECIPES, ImageViews, Normalisation
from sparsehead_cli.data.contract import Source
from sparsehead_cli.data.datasets import dataset_info, load_split, require_known
from sparsehead_cli.errors import SparseheadError, unknown
from sparsehead_cli.machine import distributed
from sparsehead_cli.machine.device import PRECISIONS, choose_device, choose_precision
from sparsehead_cli.machine.memory import memory_of
from sparsehead_cli.nets.backbones import BACKBONES, make_backbone
from sparsehead_cli.nets.heads import PROJECTORS, make_projector
from sparsehead_cli.nets.norms import join_batch_norms
from sparsehead_cli.nets.optim import OPTIMIZERS, adaptation, lr_at, make_optimizer, parameter_groups
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.method_settings import method_settings
from sparsehead_cli.sparse.penalties import GROUPS, PENALTIES
from sparsehead_cli.sparse.sparse_head import LAYERS, SCHEDULES, SOLVERS, SparseHead, lam_at
from sparsehead_cli.ssl.contract import Method
from sparsehead_cli.ssl.methods import METHODS

BANK = 10_000  # training images, at most, that the per-epoch kNN probe looks its neighbours up in


@dataclass(frozen=True)
class Run:
    """All that one pretraining needs. `forward` is the method, wrapped where several processes train together."""

    config: Config
    identity: dict[str, object]
    name: str
    folder: Path
    device: torch.device
    precision: torch.dtype
    method: Method
    forward: nn.Module
    sparse: SparseHead
    optimizer: torch.optim.Optimizer
    views: Callable[[Tensor, torch.Generator], list[Tensor]]
    normalise: Normalisation
    train: Source
    bank: Source
    val: Source
    local_batch: int
    steps_per_epoch: int

    @property
    def precision_name(self) -> str:
        """The precision as `--precision` spells it."""
        return str(self.precision).removeprefix("torch.")

    def autocast(self) -> torch.autocast:
        """The context for every forward pass of the network."""
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    @property
    def generator(self) -> torch.Generator:
        """The device's global generator: what dropout and random masks draw from."""
        return torch.cuda.default_generators[self.device.index] if self.device.type == "cuda" else torch.default_generator

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self.steps_per_epoch

    def lr(self, step: int) -> float:
        """The learning rate of a step."""
        warmup = round(self.config.warmup_epochs * self.steps_per_epoch)
        return lr_at(step, total=self.total_steps, warmup=warmup, lr=self.config.lr)

    def lam(self, step: int) -> float:
        """λ of a step."""
        ramp = max(1, round(self.config.lam_ramp_epochs * self.steps_per_epoch))
        return lam_at(step, lam=self.config.lam, ramp=ramp, schedule=self.config.lam_schedule)


def build(config: Config) -> Run:
    """Everything of a run, with weights drawn from the seed. Raises: SparseheadError, all wrong names together."""
    check_names(config)
    device = choose_device(config.device)
    distributed.start(device)
    identity = run_identity(config)
    train, val = (load(config, split).to(device) for split in ("pretrain", "val"))
    check_labels(config, train)
    local_batch = check_batch(config, len(train))
    info = dataset_info(config.dataset, config.data_dir)
    size = config.image_size or info.size
    require_memory(config, (info.channels, size, size), device)
    method = join_batch_norms(build_method(config, (info.channels, size, size)), device)
    method = method.to(device=device, memory_format=torch.channels_last)
    method.check(len(RECIPES[config.recipe]), config.batch_size)
    sparse = build_sparse_head(config, method.projector)
    groups = parameter_groups(method, config.weight_decay, method.constant_lr())
    if config.compile:
        for network in (m for m in method.modules() if type(m) is type(method.backbone)):  # a teacher's as well
            network.compile()  # in place: torch.compile(backbone) would rename the state_dict's keys
    name = run_name(config, identity)
    return Run(
        config=config,
        identity=identity,
        name=name,
        folder=config.results / config.experiment / name,
        device=device,
        precision=choose_precision(config.precision, device),
        method=method,
        forward=DistributedDataParallel(method) if distributed.world() > 1 else method,
        sparse=sparse,
        optimizer=make_optimizer(config.optimizer, groups, config.lr, config.momentum),
        views=image_views(config),
        normalise=info.normalise,
        train=train,
        bank=bank_of(train),
        val=val,
        local_batch=local_batch,
        steps_per_epoch=len(train) // config.batch_size,
    )


def load(config: Config, split: str) -> Source:
    """A split of the run's data set, read as its settings say."""
    return load_split(
        config.dataset,
        split,
        config.data_dir,
        image_size=config.image_size,
        skip_bad_images=config.skip_bad_images,
        workers=config.workers,
    )


def bank_of(train: Source) -> Source:
    """At most BANK of the images that have a label, evenly spread over all of them: files come sorted by class."""
    labelled = (train.labels >= 0).nonzero().flatten()
    count = min(BANK, len(labelled))
    return train.take(labelled[torch.arange(count, device=labelled.device) * len(labelled) // max(1, count)])


def build_method(config: Config, image: tuple[int, int, int]) -> Method:
    """Backbone, projector and objective for views of `image` = (C, h, w); weights are a function of the seed, never of λ."""
    torch.manual_seed(config.seed)
    backbone = make_backbone(config.backbone, channels=image[0], image_size=image[1], widths=config.widths, blocks=config.blocks)
    hidden = [config.projector_hidden] * (config.projector_layers - 1)
    projector = make_projector(
        backbone.dim, hidden, config.projector_out, batch_norm=config.projector_batch_norm, kind=config.projector
    )
    return METHODS[config.method](backbone, projector, **method_settings(config.method, config.method_settings))


def outline_method(config: Config, image: tuple[int, int, int]) -> Method:
    """`build_method` with weights that have names, shapes and types but no values, and take no memory.

    Raises: SparseheadError for widths whose weights no machine could count.
    """
    try:
        with torch.device("meta"):
            return build_method(config, image)
    except (RuntimeError, TypeError, OverflowError) as error:  # of torch, for shapes beyond its own numbers
        if "overflow" not in str(error).lower():
            raise
        raise SparseheadError(
            "this network is larger than any machine. Choose smaller widths, projector_hidden, projector_out or method settings."
        ) from None


def require_memory(config: Config, image: tuple[int, int, int], device: torch.device) -> None:
    """Raises: SparseheadError where weights, their gradients and what the optimizer keeps of them exceed the device's memory."""
    method = outline_method(config, image)
    of_each = {True: 4 if config.optimizer == "adamw" else 3, False: 1}  # numbers kept of a weight that learns, and of another
    count = sum(p.numel() * of_each[p.requires_grad] for p in method.parameters()) + sum(b.numel() for b in method.buffers())
    needed, there = 4 * count, memory_of(device)
    if needed > there:
        raise SparseheadError(
            f"this network needs {needed / 1e9:,.1f} GB for its weights, gradients and optimizer, and the {device.type} has "
            f"{there / 1e9:,.1f} GB. Choose smaller widths, projector_hidden, projector_out or method settings."
        )


def build_sparse_head(config: Config, projector: nn.Module) -> SparseHead:
    """SparseHead with the run's λ, penalty, groups, layers and solver.

    Raises: SparseheadError for a λ above 0 and a projector without weights to train.
    """
    if config.lam and config.projector != "mlp":
        raise SparseheadError(
            f"projector {config.projector} has no weights to penalise, given lam {config.lam:g}. Choose --lam 0, or the mlp."
        )
    return SparseHead(
        projector,
        config.lam,
        penalty=config.penalty,
        groups=config.groups,
        layers=config.layers,
        solver=config.solver,
    )


def image_views(config: Config) -> Callable[[Tensor, torch.Generator], list[Tensor]]:
    """images -> views for this run's recipe and data set. The loop never looks inside either."""
    info = dataset_info(config.dataset, config.data_dir)
    size, part = config.image_size or info.size, (distributed.rank(), distributed.world())
    return ImageViews(RECIPES[config.recipe], info.normalise, size, part)


def check_names(config: Config) -> None:
    """Raises: SparseheadError that lists every setting whose value is in none of our tables."""
    problems = unknown_names(config)
    try:
        require_known(config.dataset)
    except SparseheadError as problem:
        problems.append(str(problem))
    if problems:
        raise SparseheadError("\n".join(problems))


def unknown_names(config: Config) -> list[str]:
    """A sentence for each setting whose value is in none of our tables; the data set may be a folder, and is not among them."""
    tables = {
        "method": METHODS,
        "penalty": PENALTIES,
        "groups": GROUPS,
        "layers": LAYERS,
        "solver": SOLVERS,
        "lam_schedule": SCHEDULES,
        "projector": PROJECTORS,
        "recipe": RECIPES,
        "backbone": BACKBONES,
        "optimizer": OPTIMIZERS,
        "precision": ("auto", *PRECISIONS),
    }
    return [str(unknown(key, getattr(config, key), table)) for key, table in tables.items() if getattr(config, key) not in table]


def run_identity(config: Config) -> dict[str, object]:
    """Everything that changes the result, as plain values: settings, the method's own numbers, the recipe's strengths."""
    identity = config.identity()
    identity["method_settings"] = method_settings(config.method, config.method_settings)
    identity["views"] = [asdict(view) for view in RECIPES[config.recipe]]
    identity |= adaptation(config.optimizer)
    identity["processes"] = 1  # how many share the work is no part of what a run is; the entry keeps the names of older runs
    return json.loads(json.dumps(identity))  # tuples become lists, as they will be when read back


def run_name(config: Config, identity: dict[str, object]) -> str:
    """Readable, and ending in a hash of the identity: simclr-l21-lam1e-04-seed0-3f2a91c."""
    lam = f"{config.lam:.1e}".replace(".0e", "e") if config.lam else "0"
    return f"{config.method}-{config.penalty}-lam{lam}-seed{config.seed}-{identity_digest(identity)}"


def identity_digest(identity: dict[str, object]) -> str:
    """What the name of a run with this identity ends in: seven hexadecimals."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:7]


def check_labels(config: Config, train: Source) -> None:
    """Raises: SparseheadError for a method that reads labels, and training images without."""
    missing = int((train.labels < 0).sum())
    if missing and METHODS[config.method].reads_labels:
        raise SparseheadError(
            f"{config.method} reads labels, and {missing:,} of the {len(train):,} training images of {config.dataset} have none. "
            "Choose another --method or --dataset."
        )


def check_batch(config: Config, images: int) -> int:
    """The batch of one process. Raises: SparseheadError when the batch exceeds the data or cannot be divided."""
    if config.batch_size > images:
        raise SparseheadError(
            f"batch_size {config.batch_size:,} is larger than the {images:,} training images of {config.dataset} "
            f"(one in ten is held out). Choose --batch-size {images} or less."
        )
    if config.batch_size % distributed.world():
        raise SparseheadError(f"batch_size {config.batch_size} cannot be shared by {distributed.world()} processes.")
    return config.batch_size // distributed.world()
