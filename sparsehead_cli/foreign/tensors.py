"""What any checkpoint is at its bottom: tensors with names. Finding them, fitting them to a network, and whether they are numbers.

Names are whole: {"state_dict": {"module.fc.weight": w}} has the one name "state_dict.module.fc.weight".
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.foreign.facts import Facts
from sparsehead_cli.foreign.layouts import ALIASES, FROZEN, MOMENTUM, RAW

DEPTH = 12  # dicts within dicts, at most; no checkpoint has more than five
MOST = 100_000  # tensors, at most
LONGEST = 300  # letters of one name
HUGE = 1e15  # no trained weight is; one flipped bit makes such
SHOWN = 10  # names in an error
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
COUNTER = "num_batches_tracked"  # of BatchNorm: no weight, and not in files from before 2018
TIMM_HINT = "For another architecture give its name in timm: timm:NAME --weights FILE."


def tensors_of(state: object) -> dict[str, Tensor]:
    """The tensors in nested dicts by their whole names, in the file's order. Each dict is read once, so circles end.

    What no network has is left out: more than MOST tensors, or names longer than LONGEST.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], object]] = [((), state)]
    while waiting and len(tensors) < MOST:
        names, value = waiting.pop()
        if isinstance(value, Tensor):
            tensors[".".join(names)] = value
        elif isinstance(value, Mapping) and id(value) not in seen and len(names) < DEPTH:
            seen.add(id(value))
            for key, item in reversed(list(value.items())):
                if len(str(key)) <= LONGEST:
                    waiting.append(((*names, str(key)), item))
    return tensors


def side_of(name: str) -> str:
    """Which of a method's networks a name belongs to: "teacher", "student", "momentum" (target, key …), "frozen" or "".

    The last is the one that is trained, "frozen" is that of a task before.

    "raw", alone or before one of them, are the weights of the last step in a file that has their average.
    """
    if f"{name}.".startswith(RAW):
        return f"raw {side_of(f'{name}.'.removeprefix(RAW))}".strip()
    words = set(re.split(r"[._]", name.lower()))
    for side in ("teacher", "student"):
        if side in words:
            return side
    return "momentum" if words & MOMENTUM else "frozen" if words & FROZEN else ""


def preferred(prefixes: Iterable[str]) -> list[str]:
    """The prefixes of several networks, the one to evaluate first: DINO's teacher, else the trained one, else what there is.

    Where a file has averaged weights and raw ones, the raw ones are last. Of equals the shorter is first.
    """
    prefixes = list(dict.fromkeys(prefixes))
    sides = {side_of(prefix) for prefix in prefixes}
    order = ("teacher", "", "student") if {"teacher", "student"} <= sides else ("", "student", "teacher")
    order = (*order, "momentum", "frozen")

    def key(prefix: str) -> tuple:
        side = side_of(prefix)
        return side.startswith("raw"), order.index(side.removeprefix("raw").strip()), prefix.count("."), prefix

    return sorted(prefixes, key=key)


def choose_branch(prefixes: list[str], facts: Facts, source: str) -> str:
    """Which of several networks is evaluated: the one that the user or the layout names, else the first of `prefixes`.

    Raises: SparseheadError for a name that none of them has.
    """
    names = branch_names(prefixes)
    if len(prefixes) == 1 and "branch" not in facts.given:
        return prefixes[0]
    averaged = any(side_of(prefix).startswith("raw") for prefix in prefixes)
    known = first_called("average" if averaged else facts.known.get("branch"), names)
    value = facts.take("branch", known=names[known][0] if known else None, guess=names[prefixes[0]][0])
    chosen = first_called(value, names)
    if chosen is None:
        there = listed(calls[0] for calls in names.values())
        raise SparseheadError(f"{source}: --assume branch={printable(value)} names none of its networks; there are: {there}.")
    return chosen


def first_called(value: str | None, names: Mapping[str, tuple[str, ...]]) -> str | None:
    """The first network that has this name, by its whole name before parts of one."""
    whole = [prefix for prefix, calls in names.items() if calls[0] == value]
    return next(iter(whole + [prefix for prefix, calls in names.items() if value in calls]), None)


def branch_names(prefixes: list[str]) -> dict[str, tuple[str, ...]]:
    """What each network may be called for --assume branch: first what it is, then its place, and the words of both.

    Of several that are the same by what they are, the place is the name.
    """
    averaged = any(side_of(prefix).startswith("raw") for prefix in prefixes)
    kinds = {}
    for prefix in prefixes:
        side = side_of(prefix)
        kinds[prefix] = f"average {side}".strip() if averaged and not side.startswith("raw") else side or "trained"
    names = {}
    for prefix, kind in kinds.items():
        place = prefix.rstrip(".") or "top"
        first = kind if list(kinds.values()).count(kind) == 1 else place
        aliases = [alias for alias, side in ALIASES.items() if side in kind.split()]
        names[prefix] = tuple(dict.fromkeys((first, kind, place, *kind.split(), *aliases, *re.split(r"[._]", place.lower()))))
    return names


def fit(network: nn.Module, keys: Mapping[str, str], tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], str]:
    """The tensors that fit `network`, by its own names, and what does not fit, in words; "" where everything does.

    The network may be on the meta device; `keys` maps its names to the file's.

    Raises: SparseheadError for tensors that are not plain finite numbers.
    """
    expected = {name: value for name, value in network.state_dict().items() if not name.endswith(COUNTER)}
    keys = {name: key for name, key in keys.items() if not name.endswith(COUNTER)}
    values, misshapen = {}, []
    for name in expected.keys() & keys.keys():
        value, shape = tensors[keys[name]], expected[name].shape
        if value.is_nested:  # has no shape to compare
            plain(keys[name], value, source)
        of_norm = name.endswith(("running_mean", "running_var")) and value.ndim == 1 and len(shape) == 1
        if of_norm and 0 < shape[0] < len(value) and len(value) % shape[0] == 0:
            # a BatchNorm that imitates several GPUs has the statistics of each, and in eval mode lightly's takes their mean
            value = plain(keys[name], value, source).view(-1, *shape).mean(dim=0)
        if value.shape != shape:
            misshapen.append(f"{name} {list(value.shape)} instead of {list(shape)}")
        else:
            places = expected[name].dtype == value.dtype == torch.int64  # which features a pruned head reads
            values[name] = value if places else plain(keys[name], value, source)
    missing = [name for name in expected if name not in keys]
    unexpected = [name for name in keys if name not in expected]
    parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", sorted(misshapen)))
    return values, "; ".join(f"{len(names)} {word}: {listed(names)}" for word, names in parts if names)


def plain(name: str, value: Tensor, source: str) -> Tensor:
    """The tensor as float32. Raises: SparseheadError for one without numbers, of another kind, or with NaN or infinity."""
    name = printable(name)
    if value.device.type == "meta":
        raise SparseheadError(f"{source}: {name} is on the meta device: it has a shape and no numbers. Save the real weights.")
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        kind = "quantised" if value.is_quantized else "sparse or nested"
        raise SparseheadError(f"{source}: {name} is a {kind} tensor. Save it as a plain one (to_dense, dequantize).")
    if value.dtype not in FLOATS:
        raise SparseheadError(f"{source}: {name} has numbers of the type {value.dtype}; weights are float32, float16 or bfloat16.")
    value = value.detach().float()
    wrong = value.numel() - int((value.abs() < HUGE).sum())  # NaN is less than nothing
    if wrong:
        raise SparseheadError(
            f"{source}: {wrong:,} of {value.numel():,} numbers in {name} are NaN, infinite or beyond {HUGE:g}. "
            "Its training failed, or the file is damaged."
        )
    return value


def without_network(tensors: Mapping[str, Tensor], source: str, skipped: tuple[str, ...], what: str) -> SparseheadError:
    """The error for a file in which no network was found."""
    if any(name.startswith("torch.nn.modules.") for name in skipped) or (skipped and not tensors):
        return SparseheadError(
            f"{source} holds whole Python objects ({listed(skipped, 3)}), whose code is not run here. "
            "Save its state_dict() instead: torch.save(model.state_dict(), FILE)."
        )
    if not any(tensors):  # a tensor alone has no name
        return SparseheadError(f"{source} holds no tensors by name. Give a checkpoint, or a state_dict.")
    return SparseheadError(f"{source} has no {what} in it. Its first names: {listed(tensors)}. {TIMM_HINT}")


def listed(names: Iterable[str], most: int = SHOWN) -> str:
    """The first of many names, fit to print."""
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(printable(name) for name in names[:most]) + more


def printable(name: str) -> str:
    """A name from a file on one line, without control characters, and not too long."""
    text = "".join(letter if letter.isprintable() else "?" for letter in name)
    return text if len(text) <= 100 else text[:97] + "..."
