"""Where a run computes and in which precision, chosen by what this machine has."""

import torch

from sparsehead_cli.errors import SparseheadError, unknown
from sparsehead_cli.machine import distributed

PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def choose_device(name: str) -> torch.device:
    """auto: this process's GPU where there is one, else the CPU. Raises: SparseheadError for one that is not there."""
    cuda = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if cuda else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number.isdecimal() or not number):
        raise unknown("device", name, ("auto", "cpu", "cuda", "cuda:N"))
    index = int(number or distributed.local_rank())
    if index >= (torch.cuda.device_count() if cuda else 0):
        raise SparseheadError(f"device {name} is not there: {torch.cuda.device_count()} GPUs found. Use --device auto.")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The autocast type; auto: bfloat16 where this machine computes it fast, else float32."""
    if name == "auto":
        name = "bfloat16" if has_fast_bfloat16(device) else "float32"
    return PRECISIONS[name]


def compile_mode(device: torch.device) -> str:
    """The mode for torch.compile: CUDA graphs on a GPU, since a small network's kernels end before the next ones are launched.

    Of several processes SyncBatchNorm makes the processor wait in each layer, which no graph can hold: these have the default.
    """
    return "reduce-overhead" if device.type == "cuda" and distributed.world() == 1 else "default"


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 beats float32 here: a GPU of Ampere or later, a processor with AMX or AVX512-BF16.

    A processor without them emulates bfloat16 and is slower than in float32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
