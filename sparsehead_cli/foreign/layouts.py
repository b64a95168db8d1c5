"""What a checkpoint's shapes do not show: known layouts of files, and every fact about a network with what it rests on.

    facts = Facts(parse_assume(["padding=2"]))
    facts.recognise(Contents(tensors, hints_of(state)))
    padding = facts.take("padding", guess=1)                # 2, and facts.assumptions says: given by you

A fact is, in this order, what the user gives by --assume, what is read off the file, what is known of the file's layout, or a
guess. Whatever is taken is listed; a fact that was given and never taken is an error.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from sparsehead_cli.errors import SparseheadError, unknown

GIVEN, READ, KNOWN, GUESSED = "given by you", "read off the file", "known of this layout", "guessed"
NAMED = {"method": "method", "dataset": "dataset|dataset_name|data_set", "network": "arch|backbone|encoder|backbone.name"}
DEPTH, MOST, LONGEST = 8, 5_000, 200  # dicts within dicts, plain values, and letters of one value: what hints are looked for in


@dataclass(frozen=True)
class Assumption:
    """One fact that no shape shows: `key=value` as --assume takes it, and which of the four it rests on."""

    key: str
    value: str
    rests_on: str

    def __str__(self) -> str:
        return f"{self.key}={self.value} ({self.rests_on})"


@dataclass(frozen=True)
class Contents:
    """What a layout is recognised by: all tensors by their whole names, and plain values by theirs (see `hints_of`).

    `model` is what the tensors are loaded into: "resnet", or the name of a model of timm's or of another library.
    `kernel` is the side of a ResNet's first convolution, `prefix` where the network lies; both are empty before it is chosen.
    """

    tensors: Mapping[str, Tensor]
    hints: Mapping[str, str] = field(default_factory=dict)
    model: str = "resnet"
    kernel: int | None = None

    def has(self, *patterns: str) -> bool:
        """Whether each of these regular expressions is found in some tensor's whole name."""
        return all(any(re.search(pattern, name) for name in self.tensors) for pattern in patterns)

    def shape(self, pattern: str) -> tuple[int, ...]:
        """The shape of the first tensor whose whole name the regular expression is found in; () for none."""
        return next((tuple(value.shape) for name, value in self.tensors.items() if re.search(pattern, name)), ())

    def says(self, key: str, value: str) -> bool:
        """Whether the plain value whose name ends in the regular expression `key` matches `value`; case is ignored."""
        return re.fullmatch(value, self.said(key), re.IGNORECASE) is not None

    def said(self, key: str) -> str:
        """The first plain value whose name ends in the regular expression `key`; "" for none."""
        ends = re.compile(rf"(?:^|\.)(?:{key})$", re.IGNORECASE)
        return next((text for name, text in self.hints.items() if ends.search(name)), "")


@dataclass(frozen=True)
class Layout:
    """Files of one origin: how they are recognised, and the facts that hold of them, by the keys of KEYS.

    `by_kernel` holds more for ResNets whose first convolution has this side, `by_dataset` for files that name this data set.
    """

    name: str
    holds: Callable[[Contents], bool]
    facts: Mapping[str, object] = field(default_factory=dict)
    by_kernel: Mapping[int, Mapping[str, object]] = field(default_factory=dict)
    by_dataset: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


class Facts:
    """The facts of one network: each is taken once, and kept with what it rests on in `assumptions`."""

    def __init__(self, given: Mapping[str, object] | None = None) -> None:
        self.given = dict(given or {})
        self.layout, self.known = Layout("unknown", lambda contents: False), {}
        self.assumptions: list[Assumption] = []
        self.named: dict[str, str] = {}
        self.dataset = ""

    def recognise(self, contents: Contents, special: tuple[Layout, ...] = ()) -> Layout:
        """Find the layout of the file, whose facts are known from now on, and the data set that the file names.

        `special` layouts go before those of LAYOUTS.
        """
        self.layout = next(layout for layout in (*special, *LAYOUTS) if layout.holds(contents))
        self.named = {name: text for name, key in NAMED.items() if (text := contents.said(key))}
        self.dataset = self.named.get("dataset", "").lower()
        by_kernel, by_dataset = self.layout.by_kernel.get(contents.kernel, {}), self.layout.by_dataset.get(self.dataset, {})
        self.known = {**self.layout.facts, **by_kernel, **by_dataset}
        elsewhere = self.dataset and not by_dataset and "imagenet" not in self.dataset
        if elsewhere and self.known.get("mean") == IMAGENET["mean"]:  # the layout's images are ImageNet's, the file's are not
            self.known = {key: value for key, value in self.known.items() if key not in LARGE}
        return self.layout

    def take(self, key: str, *, read: object = None, known: object = None, guess: object = None) -> object:
        """The value of a fact: given, else `read` off the file, else `known` (or the layout's), else the `guess`. None is none."""
        known = self.known.get(key) if known is None else known
        values = {GIVEN: self.given.get(key), READ: read, KNOWN: known, GUESSED: guess}
        rests_on = next((how for how, value in values.items() if value is not None), None)
        if rests_on is None:
            return None
        self.note(key, values[rests_on], rests_on)
        return values[rests_on]

    def note(self, key: str, value: object, rests_on: str) -> None:
        """List a fact, in place of what was said about it before."""
        self.assumptions = [a for a in self.assumptions if a.key != key] + [Assumption(key, written(value), rests_on)]

    def require_used(self, source: str) -> None:
        """Raises: SparseheadError for facts that were given and that this network has no place for."""
        idle = [key for key in self.given if key not in {a.key for a in self.assumptions}]
        if idle:
            taken = ", ".join(a.key for a in self.assumptions if a.key in KEYS) or "none"
            raise SparseheadError(
                f"{source}: --assume {idle[0]}={written(self.given[idle[0]])} says nothing about this network; "
                f"what can be assumed of it: {taken}."
            )

    def report(self) -> tuple[str, ...]:
        """What the file names, and a line for each of the four that facts rest on, for people; guesses come last."""
        names = {KNOWN: f"known of {self.layout.name}"}
        named = ", ".join(f"{name} {text if text.isprintable() else '?'}" for name, text in self.named.items())
        lines = [f"named in the file: {named}"] if named else []
        for how in (GIVEN, READ, KNOWN, GUESSED):
            facts = ", ".join(f"{a.key}={a.value}" for a in self.assumptions if a.rests_on == how)
            if facts:
                hint = ". Wrong numbers come of a wrong guess: --assume KEY=VALUE" if how == GUESSED else ""
                lines.append(f"{names.get(how, how)}: {facts}{hint}")
        return tuple(lines)


def in_words(assumptions: Iterable[Assumption]) -> str:
    """Assumptions as the column `assumed` holds them."""
    return "; ".join(map(str, assumptions))


def guesses_in(assumed: str) -> list[str]:
    """`key=value` of those in a column `assumed` that are guessed."""
    return [part.removesuffix(f" ({GUESSED})") for part in assumed.split("; ") if part.endswith(f" ({GUESSED})")]


def written(value: object) -> str:
    """A fact's value as --assume takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(written, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def parse_assume(texts: Iterable[str]) -> dict[str, object]:
    """`padding=2` … -> {"padding": 2, …}. Raises: SparseheadError for no key=value, unknown keys and impossible values."""
    given: dict[str, object] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if key in ("image_size", "image-size"):
            raise SparseheadError("the side of the images has an option of its own: --image-size N.")
        if key not in KEYS:
            raise unknown("fact for --assume", key, KEYS)
        if not equals or not value:
            raise SparseheadError(f'--assume takes KEY=VALUE, given "{text}"; {key} is {KEYS[key].allowed}.')
        if key in given:
            raise SparseheadError(f"--assume {key} is given twice, {written(given[key])} and {value}.")
        try:
            given[key] = KEYS[key].parse(value)
        except ValueError:
            raise SparseheadError(f'--assume {key} must be {KEYS[key].allowed}, given "{value}".') from None
    return given


def hints_of(state: object) -> dict[str, str]:
    """The plain values in nested dicts and settings objects, as text, by their whole names: hyper_parameters.method -> simclr.

    Each dict is read once; what is too deep, too long or too much is left out. No code of an object is run. OmegaConf keeps values
    as attributes `_val` of nodes in `_content`.
    """
    hints: dict[str, str] = {}
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], object]] = [((), state)]
    while waiting and len(hints) < MOST:
        names, value = waiting.pop()
        if isinstance(value, bool | int | float | str):
            if names and len(str(value)) <= LONGEST:
                hints[".".join(names)] = str(value)
        elif not isinstance(value, Tensor) and id(value) not in seen and len(names) < DEPTH:
            seen.add(id(value))
            inside = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
            for key, item in reversed(list(inside.items())):
                if key in ("_content", "_val"):
                    waiting.append((names, item))
                elif not str(key).startswith("_"):
                    waiting.append(((*names, str(key)), item))
    return hints


# ---------------------------------------------------------------------------------------------- what --assume takes


@dataclass(frozen=True)
class Key:
    """A fact that --assume takes: `parse` raises ValueError for what it is not `allowed` to be."""

    parse: Callable[[str], object]
    allowed: str


def one_of(*values: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in values:
            raise ValueError
        return text.lower()

    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,6}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return parse


def activations(text: str) -> str:
    kinds = [kind.strip() for kind in text.lower().split(",")]
    if not all(re.fullmatch(ACTIVATION, kind) for kind in kinds):
        raise ValueError
    return ",".join(kinds)


def boolean(text: str) -> bool:
    return {"true": True, "yes": True, "false": False, "no": False}[one_of("true", "yes", "false", "no")(text)]


def numbers(low: float, high: float) -> Callable[[str], tuple[float, ...]]:
    def parse(text: str) -> tuple[float, ...]:
        values = tuple(float(part) for part in text.split(","))
        if len(values) not in (1, 3) or not all(low <= value <= high for value in values):
            raise ValueError
        return values

    return parse


ACTIVATION = r"relu|gelu|silu|tanh|none|softmax(:[1-9][0-9]{0,4}(:[0-9]{0,3}\.?[0-9]{1,4})?)?"
KEYS: dict[str, Key] = {
    "branch": Key(str, "a network of the file: trained, student, teacher, momentum, average, raw, or its place in the file"),
    "padding": Key(whole(0, 3), "the padding of the first convolution, 0 to 3"),
    "stem_stride": Key(whole(1, 4), "the stride of the first convolution, 1 to 4"),
    "pool": Key(boolean, "true or false: whether a max-pool follows the first convolution"),
    "stride": Key(one_of("1x1", "3x3"), "1x1 or 3x3: which convolution of a bottleneck has the stride"),
    "heads": Key(whole(1, 128), "the number of attention heads, 1 to 128"),
    "tokens": Key(one_of("class", "average"), "class or average: which of a vision transformer's tokens r is"),
    "positions": Key(
        one_of("bicubic", "offset", "antialias", "rows", "columns"),
        "bicubic, offset (DINO's), antialias, or computed anew as fixed ones of MoCo v3 (rows) or MAE (columns)",
    ),
    "activation": Key(
        activations,
        "what stands between a projector's layers: relu, gelu, silu, tanh, none, softmax, or softmax:V:T over each V features at "
        "temperature T; one for all places, or one a place with commas between",
    ),
    "layers": Key(
        lambda text: tuple(part.strip() for part in text.split(",")),
        "the parts of the projector that are used, in order, as layer1,layer3",
    ),
    "mean": Key(numbers(-1, 1), "1 or 3 numbers between -1 and 1 with commas between, for images in [0, 1]"),
    "std": Key(numbers(1e-3, 10), "1 or 3 numbers between 0.001 and 10 with commas between, for images in [0, 1]"),
}

# ---------------------------------------------------------------------------------------------- known layouts

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616), "image_size": 32}
CIFAR100 = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762), "image_size": 32}
STL10 = {"mean": (0.4914, 0.4823, 0.4466), "std": (0.247, 0.243, 0.261), "image_size": 96}  # as solo-learn has it
LARGE = {**IMAGENET, "image_size": 224}
TORCHVISION = {"stride": "3x3", "stem_stride": 2, "padding": 3, "pool": True}  # its ResNets, and those built on it
CIFAR_STEM = {"stem_stride": 1, "padding": 2, "pool": False}  # solo-learn's, and that of code grown from it
RELU = {"activation": "relu"}
SIDE = r"(^|[._])(teacher|student)[._]"


def is_solo_learn(file: Contents) -> bool:
    """An online classifier beside the backbone in Lightning's files, or momentum copies of backbone and projector."""
    lightning = "pytorch-lightning_version" in file.hints
    beside = file.has(r"(^|\.)(backbone|encoder)\.conv1\.weight$", r"(^|\.)classifier\.weight$", r"(^|\.)projector\.")
    return (lightning and beside) or file.has(r"(^|\.)momentum_(backbone|encoder)\.", r"(^|\.)momentum_projector\.")


def is_torchvisions_own(file: Contents) -> bool:
    """A classifier of ImageNet's 1000 classes, in a bare state_dict or by torchvision's training script or PyTorch's example.

    Other weights by torchvision's names have its architecture, but may be trained on any images.
    """
    bare = "conv1.weight" in file.tensors and "fc.weight" in file.tensors
    return (bare or file.says("arch|model", r"(wide_)?res?net\w+")) and file.shape(r"(^|\.)fc\.weight$")[:1] == (1000,)


SOLO_LEARN = {
    "facts": {**RELU, "stride": "3x3", "branch": "trained"},
    "by_kernel": {7: TORCHVISION, 3: CIFAR_STEM},
    "by_dataset": {"cifar10": CIFAR10, "cifar100": CIFAR100, "stl10": STL10, "imagenet100": LARGE, "imagenet": LARGE},
}
# the first that holds is taken
LAYOUTS: tuple[Layout, ...] = (
    Layout("lightly", lambda file: file.has(r"_head\.layers\."), {}),
    Layout(
        "moco",
        lambda file: file.has(r"(^|\.)(encoder_q|base_encoder)\."),
        {**RELU, "branch": "trained"},
        {7: {**TORCHVISION, **LARGE}},
    ),
    Layout(
        "dino",
        lambda file: file.has(SIDE, r"last_layer\.|head\.mlp\."),
        {"branch": "teacher"},
        {7: {**TORCHVISION, **LARGE}},
    ),
    Layout(
        "msn",
        lambda file: file.has(r"^target_encoder\.", r"^encoder\.", r"^prototypes$"),
        {"branch": "momentum", "activation": "gelu"},
        {7: {**TORCHVISION, **LARGE}},
    ),
    Layout("byol", lambda file: file.has(r"(online|target)_(encoder|network)"), {**RELU, "branch": "trained"}),
    Layout(
        "swav",
        lambda file: file.has(r"prototypes\.weight$", r"projection_head"),
        RELU,
        {7: {**TORCHVISION, **LARGE, "std": (0.228, 0.224, 0.225)}},  # 0.228 in its code, too
    ),
    Layout("cassle", lambda file: file.has(r"(^|\.)frozen_encoder\.", r"(^|\.)projector\."), **SOLO_LEARN),
    Layout("solo-learn", is_solo_learn, **SOLO_LEARN),
    Layout(
        "eb_jepa",
        lambda file: file.kernel == 3 and file.has(r"(^|\.)backbone\.backbone\.conv1\.weight$", r"(^|\.)projector\."),
        {**RELU, **CIFAR_STEM, **CIFAR10, "std": (0.2023, 0.1994, 0.2010)},
    ),
    Layout(
        "simclr (sthalles)",
        lambda file: file.has(r"(^|\.)backbone\.fc\.0\.weight$", r"(^|\.)backbone\.fc\.2\.weight$"),
        {**RELU, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
        {7: TORCHVISION},
    ),
    Layout(
        "simsiam",
        lambda file: file.has(r"(^|\.)encoder\.fc\.0\.weight$", r"(^|\.)predictor\.0\.weight$") and file.says("arch", r"resnet\d+"),
        RELU,
        {7: {**TORCHVISION, **LARGE}},
    ),
    Layout("timm's training", lambda file: file.has(r"^state_dict_ema\."), {"branch": "ema"}),
    Layout("lightning", lambda file: "pytorch-lightning_version" in file.hints),
    Layout(
        "barlow",
        lambda file: file.has(r"(^|\.)backbone\.conv1\.weight$", r"(^|\.)projector\.", r"(^|\.)bn\.running_mean$"),
        RELU,
        {7: {**TORCHVISION, **LARGE}},
    ),
    Layout(
        "vicreg",
        lambda file: file.has(r"^model\.(module\.)?backbone\.conv1\.weight$", r"^model\.(module\.)?projector\."),
        RELU,
        {7: {**TORCHVISION, **LARGE}},
    ),
    Layout("lightly", lambda file: file.has(r"\.shortcut\.0\.weight$") or file.has(r"(^|\.)[2-4]\.0\.conv1\.weight$")),
    Layout("torchvision", is_torchvisions_own, {}, {7: {**TORCHVISION, **LARGE}}),
    Layout("torchvision", lambda file: "conv1.weight" in file.tensors and "fc.weight" in file.tensors, {}, {7: TORCHVISION}),
    Layout("resnet", lambda file: file.model == "resnet"),
    Layout("timm", lambda file: True),
)
