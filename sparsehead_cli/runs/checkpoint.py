"""Atomic save, checked load. A checkpoint holds only tensors and plain Python values, each of which is declared in FIELDS."""

import io
import math
import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sparsehead_cli.data.tree import part_folders
from sparsehead_cli.errors import SparseheadError, printable
from sparsehead_cli.machine.archive import Unsound, finite, pickle_start, read_archive, tensors_in
from sparsehead_cli.machine.distributed import sharded_like
from sparsehead_cli.machine.files import replace_file
from sparsehead_cli.runs.config import LARGEST
from sparsehead_cli.runs.readable import counted

FAMILY = "sparsehead-run-"
FORMAT = f"{FAMILY}1"
REMEDY = "Move it away to start anew."  # of a run that is to go on
MEASURED = "Put it back, or pretrain again."  # of one that is to be measured
NESTED, ITEMS = 4, 64  # levels of the settings in a checkpoint, and items of each, at most


def save_checkpoint(path: Path, state: dict) -> None:
    """Replace the checkpoint at `path` atomically; equal states give equal bytes.

    Raises: SparseheadError when it cannot be written; the old one stays.
    """
    buffer = io.BytesIO()
    torch.save(_canonical({"format": FORMAT, **state}), buffer)
    replace_file(path, buffer.getbuffer())


def _canonical(value: object) -> object:
    """The same value with every container its own and every text shared, as pickle writes shared objects only once.

    Without it a resumed run's checkpoint, equal in every value, would differ in its bytes.
    """
    if isinstance(value, dict):
        return {_canonical(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_canonical(item) for item in value])
    return sys.intern(value) if isinstance(value, str) else value


def checkpoint_file(checkpoint: str | Path) -> Path:
    """A folder stands for the checkpoint.pt in it. Raises: SparseheadError for one of several runs, of images or of other files."""
    path = Path(checkpoint)
    if not path.is_dir():
        return path
    if (path / "checkpoint.pt").exists():
        return path / "checkpoint.pt"
    if others := sorted(entry.name for entry in path.iterdir() if entry.suffix in (".pt", ".pth", ".ckpt", ".safetensors")):
        raise SparseheadError(f"{path} is no folder of a run: it has no checkpoint.pt, but {_first(others, 5)}. Give the file.")
    if runs := sorted(str(file.parent) for file in path.glob("*/checkpoint.pt")):
        raise SparseheadError(f"{path} is no run, but a folder of {counted(len(runs), 'run')}. Give one of them: {_first(runs, 3)}")
    if part_folders(path):
        raise SparseheadError(f"{path} is no run, but a folder of images. Give a run or a checkpoint, and --dataset {path}.")
    return path / "checkpoint.pt"


def _first(names: list[str], count: int) -> str:
    """So many names for people, and whether there are more."""
    return printable(", ".join(names[:count]) + (", …" if len(names) > count else ""))


def is_checkpoint(path: Path) -> bool:
    """Whether a file calls itself a checkpoint of ours, of this version or another, whole or not."""
    return FAMILY.encode() in pickle_start(path)


def load_checkpoint(path: Path, remedy: str = REMEDY) -> dict:
    """The state that `save_checkpoint` was given, on the CPU, its bytes and its fields checked; no code in it is ever run.

    `remedy` says what to do about a file that is of no use.

    Raises: SparseheadError for a file that is missing, damaged, of another kind, made by a newer sparsehead, or without what
    a run needs to go on.
    """
    try:
        state = read_archive(path)
    except Unsound as reason:
        raise SparseheadError(f"{path} is damaged or not a checkpoint ({reason}). {remedy}") from None
    named = state.get("format") if isinstance(state, dict) else None
    if isinstance(named, str) and named.startswith(FAMILY) and named != FORMAT:
        raise SparseheadError(f"{path} was made by a newer sparsehead ({reprlib.repr(named)}). Upgrade sparsehead.")
    if named != FORMAT:
        raise SparseheadError(f"{path} was not written by sparsehead pretrain. {remedy}")
    for name, (is_right, must, is_needed) in FIELDS.items():
        if name not in state and is_needed:
            raise SparseheadError(f"{path} has no {name}: it is damaged. {remedy}")
        if name in state and not is_right(state[name]):
            raise SparseheadError(f"{path} is damaged: its {name} must be {must}, found {shown(state[name])}. {remedy}")
    if state["step"] > state.get("total_steps", math.inf):
        raise SparseheadError(f"{path} is damaged: it stands at step {state['step']} of {state['total_steps']}. {remedy}")
    if not finite(tensors_in(state)):
        raise SparseheadError(f"{path} is of no use: some of its weights are NaN or infinite. {remedy}")
    return state


def shown(value: object) -> str:
    """A value on one line, short."""
    return "tensors" if isinstance(value, Tensor) else " ".join(reprlib.repr(value).split())[:60]


def require_weights(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, remedy: str = REMEDY) -> None:
    """Raises: SparseheadError where weights differ from those that a network has in name, shape or type."""
    differs = next((name for name in (*expected, *given) if outline(given, name) != outline(expected, name)), None)
    if differs is not None:
        raise SparseheadError(
            f"the weights in {path} are of another architecture than its settings say: "
            f"{differs[:100]} is {outline(given, differs)} and must be {outline(expected, differs)}. {remedy}"
        )


def outline(weights: Mapping[str, Tensor], name: str) -> str:
    """The type and shape of a weight in words, such as float32 [16, 8]."""
    return f"{weights[name].dtype} {list(weights[name].shape)}".removeprefix("torch.") if name in weights else "not there"


def load_optimizer(optimizer: torch.optim.Optimizer, given: dict, path: Path, *, begun: bool) -> None:
    """Put what a checkpoint's optimizer remembers of its parameters into this one, which keeps its own settings.

    Once the run has `begun` it remembers the same of every parameter.

    Raises: SparseheadError where that is not what this optimizer remembers of its parameters.
    """
    own = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names, state = remembered(optimizer), given["state"]
    fits = [group["params"] for group in given["param_groups"]] == [group["params"] for group in own]
    fits &= set(state) == set(range(len(parameters))) or (not state and not (begun and names))
    if not (fits and all(_is_memory(entry, parameters[index], names) for index, entry in state.items())):
        raise SparseheadError(f"{path} is damaged: its optimizer's state is not that of the run's weights. {REMEDY}")
    for index, entry in state.items():
        whole = {name for name, value in entry.items() if value is not None and value.shape == parameters[index].shape}
        state[index] = {name: sharded_like(v, parameters[index]) if name in whole else v for name, v in entry.items()}
    optimizer.load_state_dict({"state": state, "param_groups": own})


def remembered(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """What an optimizer keeps of each parameter from step to step."""
    if isinstance(optimizer, torch.optim.AdamW):
        return ("step", "exp_avg", "exp_avg_sq")
    plain = isinstance(optimizer, torch.optim.SGD) and not optimizer.defaults["momentum"]
    return () if plain else ("momentum_buffer",)


def _is_memory(entry: dict, parameter: Tensor, names: tuple[str, ...]) -> bool:
    if {name for name, value in entry.items() if value is not None} != set(names):
        return False
    shapes = {name: torch.Size(()) if name == "step" else parameter.shape for name in names}
    return all(type(v := entry[n]) is Tensor and v.shape == shape and v.dtype == parameter.dtype for n, shape in shapes.items())


def _whole_number(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_plain(value: object, levels: int = NESTED) -> bool:
    """Whether it is what JSON can say, in few levels and items, and with numbers that fit in 64 bits."""
    if isinstance(value, dict | list | tuple):
        named = not isinstance(value, dict) or all(type(key) is str for key in value)
        items = value.values() if isinstance(value, dict) else value
        return named and levels > 0 and len(value) <= ITEMS and all(_is_plain(item, levels - 1) for item in items)
    return value is None or type(value) in (bool, float) or (type(value) is int and abs(value) < 2**63) or type(value) is str


def _is_settings(value: object) -> bool:
    """Whether it may be an identity: of a schema, or of older versions, which had every setting in it."""
    if not (isinstance(value, dict) and _is_plain(value) and isinstance(value.get("method_settings", {}), dict)):
        return False
    views = value.get("views", [])
    if not (isinstance(views, list) and all(isinstance(view, dict) for view in views)):
        return False
    return _whole_number(value["schema"]) if "schema" in value else "method" in value


def _is_weights(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(type(k) is str and type(t) is Tensor for k, t in value.items())


def _is_sums(value: object) -> bool:
    scalars = isinstance(value, dict) and all(type(k) is str and type(t) is Tensor and not t.ndim for k, t in value.items())
    return scalars and (not value or {"loss", "gradient_norm"} <= set(value))


def _is_optimizer(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("state"), dict)
        and all(type(index) is int and isinstance(entry, dict) for index, entry in value["state"].items())
        and isinstance(value.get("param_groups"), list)
        and all(isinstance(group, dict) and isinstance(group.get("params"), list) for group in value["param_groups"])
        and all(type(number) is int for group in value["param_groups"] for number in group["params"])
    )


def _is_input(value: object) -> bool:
    if not (isinstance(value, dict) and all(isinstance(value.get(key), list | tuple) for key in ("image", "mean", "std"))):
        return False
    image, mean, std = (value[key] for key in ("image", "mean", "std"))
    sides = len(image) == 3 and all(type(n) is int and 1 <= n <= LARGEST for n in image) and image[0] in (1, 3)
    numbers = all(type(n) in (int, float) and math.isfinite(n) for n in (*mean, *std)) and all(n > 0 for n in std)
    return sides and len(mean) == len(std) == image[0] and numbers


# the fields of a checkpoint: whether a value is right, what it must be, and whether every checkpoint has it
FIELDS = {
    "identity": (_is_settings, "the run's settings by name", True),
    "precision": (lambda value: type(value) is str, "text", True),
    "step": (_whole_number, "a whole number of at least 0", True),
    "total_steps": (_whole_number, "a whole number of at least 0", False),
    "skipped": (_whole_number, "a whole number of at least 0", False),
    "sums": (_is_sums, "numbers by name, loss and gradient_norm among them, or empty", True),
    "input": (_is_input, "image = (channels 1 or 3, height, width), and a mean and a std above 0 for each channel", False),
    "trained_on": (lambda value: type(value) is str, "text", False),
    "method": (_is_weights, "tensors by name", True),
    "optimizer": (_is_optimizer, "the state_dict of an optimizer", True),
}
NEEDED = {name for name, (_, _, is_needed) in FIELDS.items() if is_needed}
