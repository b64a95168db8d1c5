"""What finding a network in a file has in common, whatever its architecture: its tensors are fitted, and its projector is found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign.facts import Facts
from sparsehead_cli.foreign.heads import Head, find_head
from sparsehead_cli.foreign.tensors import TIMM_HINT, fit, listed, printable, side_of

Backbone = TypeVar("Backbone", bound=nn.Module)
SEED = 0  # of the initial weights: of an untrained twin, and of what a partial file lacks


@dataclass(frozen=True)
class Search:
    """In which file a network is looked for, and how.

    `source` is the file's name, for errors, `skipped` what Python objects were left out of it. `facts` holds those that the user
    gives, and lists those that are taken. With `allow_partial` what is missing is reported, and no error.
    """

    source: str
    facts: Facts = field(default_factory=Facts)
    allow_partial: bool = False
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a network lies in a file: behind `prefix`. `keys` maps its own names to those of the file's `tensors`.

    `start` is the number of a ResNet's first stage in an nn.Sequential; None where its stages have names.
    """

    prefix: str
    keys: dict[str, str]
    tensors: Mapping[str, Tensor]
    start: int | None = None

    @property
    def where(self) -> str:
        """The prefix as a place: "module.encoder_q", or "the top level"."""
        return printable(self.prefix.rstrip(".")) or "the top level"

    def own(self) -> dict[str, Tensor]:
        """The network's tensors by its own names."""
        return {name: self.tensors[key] for name, key in self.keys.items()}

    def changed(self, values: Mapping[str, Tensor]) -> "Place":
        """The same with other values for some of its own names."""
        return replace(self, tensors={**self.tensors, **{self.keys[name]: value for name, value in values.items()}})


@dataclass(frozen=True)
class ForeignNetwork:
    """A network from a file. `fresh()` is the same with its initial weights; `report` says what was found, for people.

    `layout` is whose file it seems to be, by the names of LAYOUTS, and `where` the backbone's place in it.
    """

    layout: str
    name: str
    where: str
    backbone: nn.Module
    projector: nn.Module
    fresh: Callable[[], tuple[nn.Module, nn.Module]]
    report: tuple[str, ...]


def assemble(
    search: Search,
    place: Place,
    outline: nn.Module,
    make: Callable[[], nn.Module],
    *,
    name: str,
    words: str,
    notes: tuple[str, ...] = (),
) -> ForeignNetwork:
    """The backbone with the tensors at a place, and the projector beside it; nn.Identity where there is none.

    `outline` is the backbone on the meta device, which has no numbers, `make` makes it with initial ones. `words` describe it for
    people, and `notes` are more lines for the report.

    Raises: SparseheadError where a part of it is missing or of another architecture, and for weights that are no finite numbers.
    """
    source, facts = search.source, search.facts
    values, misfits = fitting(search, place, outline, name)
    head = find_head(place.tensors, place.prefix, set(place.keys.values()), outline.dim, facts)

    def fresh() -> tuple[nn.Module, nn.Module]:
        """Backbone and projector with initial weights, always the same; the global generator stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return make(), head.build() if head else nn.Identity()

    backbone, projector = loaded(outline, values, fresh, head)
    if head:
        projector.load_state_dict(head.values(place.tensors, source), strict=False)
    report = (
        f"layout: {facts.layout.name}",
        f"backbone: {words}, D = {outline.dim}, at {place.where}",
        f"projector: {f'{printable(head.path)}, {head.words()}' if head else 'none found, so that only r is there'}",
        *notes,
        *never_trained(backbone),
        *misfits,
        *left_out(place, head, search.skipped),
    )
    return ForeignNetwork(facts.layout.name, name, place.where, backbone, projector, fresh, report)


def fitting(search: Search, place: Place, outline: nn.Module, name: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors that fit, and where others do not, and partial ones are allowed, the line that says so loudly.

    Raises: SparseheadError that lists what does not fit, and always where nothing does.
    """
    values, misfits = fit(bare(outline), place.keys, place.tensors, search.source)
    if not misfits:
        return values, ()
    if not values or not search.allow_partial:
        whose = "a" if bare(outline) is outline else "timm's"
        hint = " --allow-partial goes on with initial values there." if values else ""
        raise SparseheadError(f"{search.source} does not fit {whose} {name} at {place.where}. {misfits}. {TIMM_HINT}{hint}")
    return values, (f"NOT LOADED, initial values instead: {misfits}",)


def on_meta(make: Callable[[], Backbone]) -> Backbone:
    """What `make` makes, without numbers, at once."""
    with torch.device("meta"):
        return make()


def bare(backbone: nn.Module) -> nn.Module:
    """The module whose names a file has: a model of timm's is wrapped."""
    return getattr(backbone, "net", backbone)


def loaded(
    outline: nn.Module, values: Mapping[str, Tensor], fresh: Callable[[], tuple[nn.Module, nn.Module]], head: Head | None
) -> tuple[nn.Module, nn.Module]:
    """The backbone with the file's values, and the projector with its initial ones."""
    if set(bare(outline).state_dict()) == set(values) and not list(outline.buffers()):
        # of large models initial values take longer than all the rest; in a file two names may share their numbers
        bare(outline).load_state_dict({name: value.clone() for name, value in values.items()}, assign=True)
        with torch.random.fork_rng(devices=[]):
            return outline, head.build() if head else nn.Identity()
    backbone, projector = fresh()
    bare(backbone).load_state_dict(values, strict=False)
    return backbone, projector


def never_trained(backbone: nn.Module) -> tuple[str, ...]:
    """A line where all BatchNorms have the statistics that they begin with: such features may well look healthy."""
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    untouched = [not norm.running_mean.any() and bool((norm.running_var == 1).all()) for norm in norms]
    return ("NOT TRAINED, as it seems: its BatchNorms have not seen a single batch",) if norms and all(untouched) else ()


def left_out(place: Place, head: Head | None, skipped: tuple[str, ...]) -> tuple[str, ...]:
    """A line that names the parts of the file that are not evaluated, and one for Python objects; none where there are none."""
    inside = set(place.keys.values())
    own = place.prefix.split(".")[:-1]
    parts: dict[str, str] = {}
    for name in place.tensors:
        if name in inside or (head and name.startswith(f"{head.path}.")):
            continue
        names = name.split(".")
        common = 0  # names that it shares with the network's prefix
        while common < min(len(own), len(names) - 1) and names[common] == own[common]:
            common += 1
        part, side = names[common], side_of(".".join(names[: common + 1]))
        what = f"{side} network " if side and side != side_of(place.prefix) else ""
        what = what or ("classifier " if part in ("fc", "linear", "head") else "")
        parts.setdefault(part, what + part)
    lines = [f"left out: {listed(parts.values())}"] if parts else []
    if skipped:
        lines.append(f"left unread: Python objects ({listed(skipped, 3)})")
    return tuple(lines)
