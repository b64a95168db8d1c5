"""On what was it measured? The columns that every benchmark's table carries."""

import platform
from pathlib import Path

import torch

from sparsehead_cli.runs.folder import code_version
from sparsehead_cli.sweeps.engines import cores


def facts() -> dict[str, object]:
    """Processor, cores that this process may use, threads of torch, and the versions of torch and of this code."""
    return {
        "processor": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "commit": code_version(),
    }


def processor() -> str:
    """What the processor calls itself, and the widest arithmetic that torch uses on it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
