"""What a checkpoint's shapes do not show: every such fact about a network, with what it rests on.

    facts = Facts(parse_assume(["padding=2"]))
    facts.recognise("resnet", tensors, hints_of(state), kernel=3)
    padding = facts.take("padding", guess=1)                # 2, and facts.assumptions says: given by you

A fact is, in this order, what the user gives by --assume, what is read off the file, what is known of the file's layout
(layouts.py), or a guess. Whatever is taken is listed; a fact that was given and never taken is an error.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsehead_cli.errors import SparseheadError, unknown
from sparsehead_cli.foreign.assumptions import GIVEN, GUESSED, KNOWN, READ, Assumption
from sparsehead_cli.foreign.layouts import IMAGENET, LARGE, LAYOUTS, VITS, Layout

NAMED = {"method": "method", "dataset": "dataset|dataset_name|data_set", "network": "arch|backbone|encoder|backbone.name"}
DEPTH, MOST, LONGEST = 8, 5_000, 200  # dicts within dicts, plain values, and letters of one value: what hints are looked for in


class Facts:
    """The facts of one network: each is taken once, and kept with what it rests on in `assumptions`."""

    def __init__(self, given: Mapping[str, object] | None = None) -> None:
        self.given = dict(given or {})
        self.layout, self.known = Layout("unknown"), {}
        self.assumptions: list[Assumption] = []
        self.named: dict[str, str] = {}
        self.dataset = ""

    def recognise(self, network: str, tensors: Mapping[str, Tensor], hints: Mapping[str, str], **read: object) -> None:
        """Find the layout of a file, whose facts are known from now on, and the data set that the file names.

        `network` is "resnet", "vit" or "timm", `tensors` and `hints` are all of the file's, and `read` is what was read off the
        tensors (see `Layout`).
        """
        shown = [*tensors, *(f"{name} = {value}" for name, value in read.items())]
        shown += [f"{name} {list(value.shape)}" for name, value in tensors.items() if not value.is_nested]
        lines = "\n".join(shown), "\n".join(f"{name} = {value}" for name, value in hints.items())
        rows = (*VITS, *LAYOUTS) if network == "vit" else LAYOUTS
        nameless = Layout("resnet" if network == "resnet" else "timm")
        self.layout = next((layout for layout in rows if layout.fits(*lines)), nameless)
        self.named = {}
        for name, key in NAMED.items():  # the first plain value whose name ends so
            ends = re.compile(rf"(?:^|\.)(?:{key})$", re.IGNORECASE)
            text = next((text for place, text in hints.items() if ends.search(place)), "")
            if text:
                self.named[name] = text
        self.dataset = self.named.get("dataset", "").lower()
        by_kernel = self.layout.by_kernel.get(read.get("kernel"), {})
        by_dataset = self.layout.by_dataset.get(self.dataset, {})
        self.known = {**self.layout.facts, **by_kernel, **by_dataset}
        elsewhere = self.dataset and not by_dataset and "imagenet" not in self.dataset
        if elsewhere and self.known.get("mean") == IMAGENET["mean"]:  # the layout's images are ImageNet's, the file's are not
            self.known = {key: value for key, value in self.known.items() if key not in LARGE}

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
        names = {KNOWN: f"as {self.layout.name} has it"}
        named = ", ".join(f"{name} {text if text.isprintable() else '?'}" for name, text in self.named.items())
        lines = [f"named in the file: {named}"] if named else []
        for how in (GIVEN, READ, KNOWN, GUESSED):
            facts = ", ".join(f"{a.key}={a.value}" for a in self.assumptions if a.rests_on == how)
            if facts:
                hint = ". Wrong numbers come of a wrong guess: --assume KEY=VALUE" if how == GUESSED else ""
                lines.append(f"{names.get(how, how)}: {facts}{hint}")
        return tuple(lines)


def written(value: object) -> str:
    """A fact's value as --assume takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(written, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------------------------------- what a file shows


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
    """A fact that --assume takes: what it is `allowed` to be, in words and as a `pattern` of the whole text.

    `convert` makes its value of the text, and may raise ValueError.
    """

    allowed: str
    pattern: str = r"(?s).+"
    convert: Callable[[str], object] = str

    def parse(self, text: str) -> object:
        """The value. Raises: ValueError for a text that is not allowed."""
        if not re.fullmatch(self.pattern, text):
            raise ValueError
        return self.convert(text)


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


def names(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(part.strip() for part in text.split(","))


def between(low: float, high: float) -> Callable[[str], tuple[float, ...]]:
    """How one number a channel, or one for all three, is read; each must lie between the bounds."""

    def convert(text: str) -> tuple[float, ...]:
        values = tuple(map(float, text.split(",")))
        if len(values) not in (1, 3) or not all(low <= value <= high for value in values):
            raise ValueError
        return values

    return convert


_ACTIVATION = r"(relu|gelu|silu|tanh|none|softmax(:[1-9][0-9]{0,4}(:[0-9]{0,3}\.?[0-9]{1,4})?)?)"
KEYS: dict[str, Key] = {
    "branch": Key("a network of the file: trained, student, teacher, momentum, average, raw, or its place in the file"),
    "padding": Key("the padding of the first convolution, 0 to 3", "[0-3]", int),
    "stem_stride": Key("the stride of the first convolution, 1 to 4", "[1-4]", int),
    "pool": Key(
        "true or false: whether a max-pool follows the first convolution",
        "(?i)true|yes|false|no",
        lambda text: text.lower() in ("true", "yes"),
    ),
    "stride": Key("1x1 or 3x3: which convolution of a bottleneck has the stride", "(?i)1x1|3x3", str.lower),
    "heads": Key("the number of attention heads, 1 to 128", "[1-9][0-9]?|1[01][0-9]|12[0-8]", int),
    "tokens": Key("class or average: which of a vision transformer's tokens r is", "(?i)class|average", str.lower),
    "positions": Key(
        "bicubic, offset (DINO's), antialias, or computed anew as fixed ones of MoCo v3 (rows) or MAE (columns)",
        "(?i)bicubic|offset|antialias|rows|columns",
        str.lower,
    ),
    "activation": Key(
        "what stands between a projector's layers: relu, gelu, silu, tanh, none, softmax, or softmax:V:T over each V features at "
        "temperature T; one for all places, or one a place with commas between",
        rf"(?i){_ACTIVATION}(\s*,\s*{_ACTIVATION})*",
        lambda text: ",".join(names(text.lower())),
    ),
    "layers": Key("the parts of the projector that are used, in order, as layer1,layer3", convert=names),
    "mean": Key("1 or 3 numbers between -1 and 1 with commas between, for images in [0, 1]", convert=between(-1, 1)),
    "std": Key("1 or 3 numbers between 0.001 and 10 with commas between, for images in [0, 1]", convert=between(1e-3, 10)),
}
