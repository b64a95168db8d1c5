"""Config -> the objects of a run. The only place where settings meet constructors; nothing is written to the disk here."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from sparsehead_cli.data.augment import RECIPES, ImageViews
from sparsehead_cli.data.contract import ImageSpec, Inputs, Source, Views, fingerprint
from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.data.nouns import noun_of_spec
from sparsehead_cli.data.prepare import Prepare
from sparsehead_cli.data.text import TextSpec
from sparsehead_cli.data.text_views import TEXT_VIEWS, TextViews
from sparsehead_cli.data.tokens import tokenised
from sparsehead_cli.errors import SparseheadError, one_line
from sparsehead_cli.machine import distributed
from sparsehead_cli.machine.device import choose_device, choose_precision, compile_mode
from sparsehead_cli.machine.memory import memory_of
from sparsehead_cli.machine.plugins import is_plugin, named
from sparsehead_cli.machine.plugins import load as plugin
from sparsehead_cli.nets.heads import make_projector
from sparsehead_cli.nets.norms import join_batch_norms
from sparsehead_cli.nets.optim import make_optimizer, parameter_groups
from sparsehead_cli.nets.sharding import shard_heads, shardable, synchronised
from sparsehead_cli.runs.backbone import build_backbone, call, vocabulary_of
from sparsehead_cli.runs.config import FIELDS, Config
from sparsehead_cli.runs.identity import run_folder, run_identity
from sparsehead_cli.runs.initial import Initial, initial_encoder
from sparsehead_cli.runs.method_settings import method_settings
from sparsehead_cli.runs.run import Phase, Run
from sparsehead_cli.runs.settled import settled
from sparsehead_cli.runs.tasks import Tasks, in_tasks
from sparsehead_cli.runs.views import name_of, strengths_of
from sparsehead_cli.sparse.penalties import GROUPS
from sparsehead_cli.sparse.sparse_head import SparseHead, lam_at
from sparsehead_cli.ssl.cassle import cassle
from sparsehead_cli.ssl.contract import Method
from sparsehead_cli.ssl.methods import METHODS
from sparsehead_cli.ssl.regularisers import added_terms, regularised

T = TypeVar("T")


def build(config: Config) -> Run:
    """Everything of a run; the global generator stays as it was. Raises: SparseheadError, all wrong names together."""
    config = settled(config)
    device = choose_device(config.device)
    distributed.start(device)
    identity = run_identity(config)
    phases, tasks = phases_of(config, device)
    spec = spec_of_views(phases[0].train.spec, config)
    views, initial = make_views(config, spec), initial_encoder(config, spec)
    method = method_on_device(config, spec, views, device, phases, initial)
    groups = parameter_groups(method, config.weight_decay, method.constant_lr())
    steps_per_epoch = len(phases[0].train) // config.batch_size
    precision, folder = choose_precision(config.precision, device), run_folder(config, identity)
    return Run(
        method=method,
        forward=synchronised(method),
        optimizer=make_optimizer(config.optimizer, groups, config.lr, config.momentum),
        views=views,
        phases=phases,
        batch_size=config.batch_size,
        local_batch=config.batch_size // distributed.world(),
        seed=config.seed,
        device=device,
        precision=precision,
        peak_lr=config.lr,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        sparse=build_sparse_head(config, method.projector),
        lam=lam_schedule(config, steps_per_epoch),
        advice=partial(advice, config, method, folder, precision),
        config=replace(config, experiment=folder.parent.name),  # an older version may have filed the run elsewhere
        identity=identity,
        folder=folder,
        spec=spec,
        prepare=plain_views(views, spec),
        trained_on=fingerprint(tasks.sources if tasks else [*(p.train for p in phases), *(p.val for p in phases)]),
        initial=initial.words,
        tasks=tasks,
        each_phase=tasks is not None,
    )


def phases_of(config: Config, device: torch.device) -> tuple[tuple[Phase, ...], Tasks | None]:
    """The phases of a run, and what is measured of its tasks: one phase, or one a task of the settings, or of a data set of
    somebody's own that gives a list of sources, one a task.

    Raises: SparseheadError for inputs without labels where the method reads them, and for fewer inputs than a batch has.
    """
    sources = as_read(config, [load(config, split) for split in ("pretrain", "val")])
    (trains, vals), tasks = in_tasks(config, load, sources)
    if not trains or len(trains) != len(vals):
        raise SparseheadError(
            f"{config.dataset} has {len(trains)} tasks to train on and {len(vals)} held out: give both, one a task."
        )
    for train in trains:
        check_labels(config, train)
        check_batch(config, train)
    if tasks:
        tasks = tasks._replace(sources=tuple(source.to(device) for source in tasks.sources))
    return tuple(Phase(train.to(device), val.to(device), config.epochs) for train, val in zip(trains, vals, strict=True)), tasks


def as_read(config: Config, sources: list[Source]) -> list[Source]:
    """Sources as the backbone reads them: sentences become tokens of its vocabulary.

    Raises: SparseheadError without the extra `text`, and for pairs of sentences that have no other wording.
    """
    if not isinstance(getattr(sources[0], "spec", None), TextSpec):
        return sources
    if config.views == "pairs" and len(sources[0].inputs) == 1:
        raise SparseheadError(
            f"views pairs are a sentence and another wording of it, as wordnet10k has, and {config.dataset} has none. Choose --set "
            "views=dropout, deletion or span."
        )
    vocabulary = vocabulary_of(config, sources[0])
    return [tokenised(source, vocabulary, others=config.views == "pairs") for source in sources]


def method_on_device(
    config: Config, spec: object, views: Views, device: torch.device, phases: tuple[Phase, ...], initial: Initial | None = None
) -> Method:
    """The method as it is trained: on the device, its norms joined over the processes; compiled and sharded where that is set."""
    require_buildable(config, spec, views, device)
    method = join_batch_norms(build_method(config, spec, initial), device)
    method.check(views.roles, config.batch_size)
    if method.needs.memory:
        prepare(config, method, phases)
    method = method.to(device=device, memory_format=torch.channels_last)
    method.parts = config.accumulate
    if config.checkpoint_activations:
        checkpoint_activations(config, method.backbone)
    if config.compile:
        for network in (m for m in method.modules() if type(m) is type(method.backbone)):  # a teacher's as well
            network.compile(mode=compile_mode(device))  # in place: torch.compile(backbone) would rename the state_dict's keys
    if config.shard_head and distributed.world() > 1:
        shard_heads(method, groups_dim(config))
    return method


def prepare(config: Config, method: Method, phases: tuple[Phase, ...]) -> None:
    """Tell a method of the images. Raises: SparseheadError for one that remembers each of them, and tasks that have others."""
    require_one_task(config, len(phases))
    images = len(phases[0].train)
    method.prepare(images, images // config.batch_size)


def require_one_task(config: Config, tasks: int) -> None:
    """Raises: SparseheadError for several tasks, with a method that remembers each image."""
    if tasks > 1:
        raise SparseheadError(
            f"{config.method} remembers each image from one epoch to the next, and a task has others. Choose another --method."
        )


def checkpoint_activations(config: Config, backbone: nn.Module) -> None:
    """Have the backbone compute activations again. Raises: SparseheadError for one that cannot, and for a compiled one."""
    if config.compile:
        raise SparseheadError(
            "compile and checkpoint_activations do not go together: a compiled network chooses itself what it computes again. "
            "Choose one of them, or --set accumulate=2 with compile."
        )
    if not hasattr(backbone, "set_grad_checkpointing"):
        raise SparseheadError(
            f"backbone {config.backbone} cannot compute activations again: it has no set_grad_checkpointing(). "
            "Give it one, or choose --set accumulate=2 instead of checkpoint_activations."
        )
    backbone.set_grad_checkpointing()


def plain_views(views: Views, spec: object) -> Callable[[Inputs], Inputs]:
    """What makes inputs views without augmentation, which are measured: the views' own `plain`, of images `Prepare`."""
    if hasattr(views, "plain"):
        return views.plain
    return Prepare(spec.image, spec.normalise) if isinstance(spec, ImageSpec) else lambda inputs: inputs


def lam_schedule(config: Config, steps_per_epoch: int) -> Callable[[int], float]:
    """λ of a step."""
    ramp = max(1, round(config.lam_ramp_epochs * steps_per_epoch))
    return partial(lam_at, lam=config.lam, ramp=ramp, schedule=config.lam_schedule)


def advice(config: Config, method: Method, folder: Path, precision: torch.dtype) -> str:
    """What may be wrong where the loss of a run is no longer finite; it suspects only what is at work."""
    kept = "The last good checkpoint is kept. " if (folder / "checkpoint.pt").exists() else ""
    suspects = [*method.suspects(), f"lr {config.lr:g} (too high?)"]
    if config.lam:
        suspects.append(f"lam {config.lam:g} (too strong?)")
    if precision != torch.float32:
        suspects.append(f"precision {str(precision).removeprefix('torch.')} (try --set precision=float32)")
    return f"{kept}Suspects: {', '.join(suspects)}."


def load(config: Config, split: str) -> Source | list[Source]:
    """A split of the run's data set, read as its settings say; a list with one a task, where it has tasks."""
    return load_split(
        config.dataset,
        split,
        config.data_dir,
        image_size=config.image_size,
        skip_bad_images=config.skip_bad_images,
        workers=config.workers,
        cache=config.cache,
    )


def spec_of_views(spec: object, config: Config) -> object:
    """What an encoder must know of the views of a run: of images, that they have the run's size."""
    if isinstance(spec, ImageSpec):
        return ImageSpec(spec.classes, spec.channels, config.image_size or spec.size, spec.normalise)
    return spec


def make_views(config: Config, spec: object) -> Views:
    """The views of this run: some of ours, written ones, or what `module:make` returns when it is called with the spec.

    Raises: SparseheadError for views of images where there are sentences, and the other way round.
    """
    strengths, part = strengths_of(config.views), (distributed.rank(), distributed.world())
    ours = strengths is not None or config.views in TEXT_VIEWS
    if ours and isinstance(spec, TextSpec) != (strengths is None):
        given, others = ("sentences", TEXT_VIEWS) if isinstance(spec, TextSpec) else ("images", RECIPES)
        raise SparseheadError(
            f"views {name_of(config.views)} are not of {given}, which {config.dataset} has. "
            f"Leave --set views out, or choose one of {', '.join(others)}."
        )
    if not ours:
        return call("views", config.views, plugin("views", config.views), spec)
    if strengths is None:
        return TextViews(config.views, part)
    return ImageViews(strengths, spec.normalise, spec.size, part)


def build_encoder(config: Config, spec: object) -> tuple[nn.Module, nn.Module]:
    """The backbone and the projector of a run, with weights that are a function of the seed, never of λ.

    Raises: SparseheadError as `build_backbone`.
    """
    torch.default_generator.manual_seed(config.seed)  # the CPU's: weights are drawn there
    backbone = build_backbone(config, spec)
    hidden = [config.projector_hidden] * (config.projector_layers - 1)
    projector = make_projector(
        backbone.dim, hidden, config.projector_out, batch_norm=config.projector_batch_norm, kind=config.projector
    )
    return backbone, projector


def build_method(config: Config, spec: object, initial: Initial | None = None) -> Method:
    """Encoder, projector and objective; the global generator stays as it was, and no GPU is opened.

    The encoder has the `initial` weights, where there are such, before the method is made of it, which may copy it.
    """
    with torch.random.fork_rng(devices=[]):
        backbone, projector = build_encoder(config, spec)
        if initial:
            initial.put_into(backbone)
        settings = method_settings(config.method, config.method_settings)
        kind = named("method", config.method, METHODS)
        kind = regularised(kind, added_terms(config.regularisers or ()))
        return (cassle(kind) if config.continual == "cassle" else kind)(backbone, projector, **settings)


def outline(make: Callable[[Config, object], T], config: Config, spec: object) -> T:
    """What `build_encoder` or `build_method` makes, with weights that have names, shapes and types but no values.

    They take no memory. Raises: SparseheadError for widths whose weights no machine could count.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return make(config, spec)
    except (RuntimeError, TypeError, OverflowError) as error:  # of torch, for shapes beyond its own numbers
        if "overflow" not in str(error).lower():
            raise
        raise SparseheadError(
            "this network is larger than any machine. Choose smaller widths, projector_hidden, projector_out or method settings."
        ) from None


def require_buildable(config: Config, spec: object, views: Views, device: torch.device | None) -> None:
    """Raises: SparseheadError for a method, head or views that `build` cannot make or use, before anything of them takes memory.

    Without a device nobody asks whether there is enough. Code of one's own says itself what it cannot do, when it is called: it
    may not know how to be made without memory.
    """
    if FIELDS["backbone"].is_plug_in(config.backbone) or is_plugin(config.method):
        return
    method = outline(build_method, config, spec)
    if device:
        require_memory(config, method, device)
    method.check(views.roles, config.batch_size)
    if method.needs.memory:
        require_one_task(config, config.all_epochs // config.epochs)
    if config.checkpoint_activations:
        checkpoint_activations(config, method.backbone)
    if isinstance(views, ImageViews):
        require_sides(config, views, method.backbone)
    build_sparse_head(config, method.projector)


def require_sides(config: Config, views: ImageViews, backbone: nn.Module) -> None:
    """Raises: SparseheadError where the views' sides are not all ones that the backbone, in outline, can read."""
    channels, whole, _ = backbone.image
    for side in {augmentation.size_in(whole) for augmentation in views.recipe} - {whole}:
        try:
            backbone(torch.empty(2, channels, side, side, device="meta"))
        except NotImplementedError:  # an operation that has no outline
            return
        except Exception as error:
            raise SparseheadError(
                f"backbone {config.backbone} cannot read views of {side} pixels, which {name_of(config.views)} has beside those of "
                f"{whole}: {one_line(str(error)).rstrip('.')}. Choose a larger --set image_size, another --backbone or --set views."
            ) from error


def memory_needed(config: Config, method: Method) -> int:
    """The bytes, in one process, of weights, gradients and what the optimizer keeps of them; activations and images come on top.

    The method may be in outline.
    """
    of_each = {True: 4 if config.optimizer == "adamw" else 3, False: 1}  # numbers kept of a weight that learns, and of another
    sharded = shardable(method, groups_dim(config)).values() if config.shard_head else ()
    in_parts = {p for layer in sharded for p in layer.parameters()}
    count = sum(p.numel() * of_each[p.requires_grad] / (distributed.world() if p in in_parts else 1) for p in method.parameters())
    return round(4 * (count + sum(b.numel() for b in method.buffers())))


def require_memory(config: Config, method: Method, device: torch.device) -> None:
    """Raises: SparseheadError where `memory_needed` exceeds the device's memory."""
    needed, there = memory_needed(config, method), memory_of(device)
    if needed > there:
        raise SparseheadError(
            f"this network needs {needed / 1e9:,.1f} GB for its weights, gradients and optimizer, and the {device.type} has "
            f"{there / 1e9:,.1f} GB. Choose smaller widths, projector_hidden, projector_out or method settings."
        )


def groups_dim(config: Config) -> int:
    """The dimension of a weight [out, in] that counts the groups of a run: the other one than a group's norm runs over."""
    return 1 - GROUPS[config.groups]


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


def check_labels(config: Config, train: Source) -> None:
    """Raises: SparseheadError for a method that reads labels, and training images without."""
    missing = int((train.labels < 0).sum())
    if missing and named("method", config.method, METHODS).needs.labels:
        raise SparseheadError(
            f"{config.method} reads labels, and {missing:,} of the {len(train):,} training {noun_of_spec(train.spec)} of "
            f"{config.dataset} have none. Choose another --method or --dataset."
        )


def check_batch(config: Config, train: Source) -> None:
    """Raises: SparseheadError when the batch exceeds the data or cannot be divided among the processes, or into its parts."""
    if config.batch_size > len(train):
        raise SparseheadError(
            f"batch_size {config.batch_size:,} is larger than the {len(train):,} training {noun_of_spec(train.spec)} of "
            f"{config.dataset} (one in ten is held out). Choose --batch-size {len(train)} or less."
        )
    if config.batch_size % distributed.world():
        raise SparseheadError(f"batch_size {config.batch_size} cannot be shared by {distributed.world()} processes.")
    local = config.batch_size // distributed.world()
    if local % config.accumulate or (config.accumulate > 1 and local == config.accumulate):
        raise SparseheadError(
            f"accumulate must divide the {local} images of a step into equal parts of at least two, given {config.accumulate}. "
            "Choose another --set accumulate or --batch-size."
        )
