"""A .safetensors file with an encoder of ours: its tensors by their names in the run's checkpoint, and what the run was.

It is a run's checkpoint without what training needs: no optimizer, and the head only where that was asked for. What the run was is
text in the file's metadata, under KEY, as JSON: its identity, the images that the encoder expects, and a digest of the tensors.
"""

import hashlib
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from sparsehead_cli.data.contract import ImageSpec, Normalisation
from sparsehead_cli.data.text import TextSpec
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.archive import finite
from sparsehead_cli.nets.bert import VOCABULARY, vocabulary_from
from sparsehead_cli.runs.checkpoint import FIELDS

KEY = "sparsehead"
FORMAT = "sparsehead-encoder-1"
HEADS = ("none", "full", "pruned")
OF_RUN = ("identity", "input", "step", "total_steps", "trained_on")  # fields of a checkpoint that an encoder's file has, too
REMEDY = "Export it again, or fetch it again."
MOST = 1_000_000  # characters of the metadata


def require_safetensors(what: str) -> ModuleType:
    """safetensors.torch. Raises: SparseheadError that says how to install it."""
    try:
        import safetensors.torch
    except ImportError:
        raise SparseheadError(
            f"{what} needs the package safetensors, which is not installed: pip install 'sparsehead[safetensors]'"
        ) from None
    return safetensors.torch


def describe_encoder(
    state: Mapping[str, object], columns: Mapping[str, object], tensors: Mapping[str, Tensor], head: str
) -> dict[str, object]:
    """The metadata of a run's encoder: `state` is that of its checkpoint, `columns` begin every row about it."""
    of_run = {name: state[name] for name in OF_RUN if name in state}
    named = {name: columns[name] for name in ("experiment", "run")}
    return {"format": FORMAT, **named, **of_run, "head": head, "digest": digest_of(tensors)}


def spec_in(state: Mapping[str, Mapping[str, object]]) -> ImageSpec | TextSpec | None:
    """What a network of ours was told of its training views; None of old checkpoints, which leave that to the data set."""
    if VOCABULARY in state["method"]:
        return TextSpec(vocabulary=vocabulary_from(state["method"][VOCABULARY]))
    if not state.get("input"):
        return None
    kept = state["input"]
    channels, size, _ = kept["image"]
    return ImageSpec((), channels, size, Normalisation(tuple(kept["mean"]), tuple(kept["std"])))


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """A hash of tensors with their names and shapes, in hexadecimals: the format itself has no checksums."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def is_encoder_file(path: Path) -> bool:
    """Whether a file is an encoder of ours, whole or not; False where safetensors cannot say it."""
    return path.suffix == ".safetensors" and path.is_file() and metadata_of(path) is not None


def metadata_of(path: Path) -> str | None:
    """What stands under KEY in a file's metadata; None where nothing does."""
    require_safetensors(str(path))
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return (file.metadata() or {}).get(KEY)
    except Exception:  # the reader of other people's files says what is wrong with it
        return None


def load_encoder_file(path: Path) -> dict[str, object]:
    """The fields that a checkpoint has, too, with `method` the tensors by name, `head` one of HEADS, `experiment` and `run`.

    Raises: SparseheadError for a file that is damaged, or was made by a newer sparsehead.
    """
    text = metadata_of(path) or ""
    try:
        state = json.loads(text) if len(text) <= MOST else None
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict):
        raise damaged(path, "its metadata is not readable")
    named = state.get("format")
    if isinstance(named, str) and named.startswith(FORMAT.rstrip("1")) and named != FORMAT:
        raise SparseheadError(f"{path} was made by a newer sparsehead ({reprlib.repr(named)}). Upgrade sparsehead.")
    for name in OF_RUN:
        is_right, must, _ = FIELDS[name]
        if (name in state or name in ("identity", "step")) and not is_right(state.get(name)):
            raise damaged(path, f"its {name} must be {must}")
    texts = all(isinstance(state.get(name), str) for name in ("experiment", "run", "digest"))
    if not texts or state.get("head") not in HEADS or named != FORMAT:
        raise damaged(path, "its metadata lacks what the run was")
    try:
        tensors = require_safetensors(str(path)).load_file(path, device="cpu")
    except Exception:
        raise damaged(path, "its tensors are not readable") from None
    if digest_of(tensors) != state["digest"]:
        raise damaged(path, "its tensors are not those that were written")
    if not finite(tensors.values()):
        raise SparseheadError(f"{path} is of no use: some of its weights are NaN or infinite. {REMEDY}")
    return {**state, "method": tensors}


def damaged(path: Path, reason: str) -> SparseheadError:
    """The one sentence for a file that is not what was written."""
    return SparseheadError(f"{path} is damaged: {reason}. {REMEDY}")
