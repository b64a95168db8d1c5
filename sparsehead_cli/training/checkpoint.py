"""Atomic save, safe load. A checkpoint holds only tensors and plain Python values."""

import io
import pickle
import sys
from pathlib import Path

import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.files import replace_file

FORMAT = "sparsehead-run-1"


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


def load_checkpoint(path: Path) -> dict:
    """The state that `save_checkpoint` was given, on the CPU; no code in the file is ever run.

    Raises: SparseheadError for a file that is missing, truncated, of another kind, or wants to run code.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SparseheadError(f"{path} does not exist.") from None
    except Exception as error:  # a damaged zip or pickle raises whatever its bytes lead to
        refused = isinstance(error, pickle.UnpicklingError)
        reason = "it holds more than tensors and plain values" if refused else "it cannot be read to its end"
        raise SparseheadError(f"{path} is damaged or not a checkpoint ({reason}). Move it away to start anew.") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise SparseheadError(f"{path} was not written by sparsehead pretrain. Move it away to start anew.")
    return state
