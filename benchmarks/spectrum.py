"""What spectra cost: time and memory of every number of N features of width D, generated batch by batch.

python benchmarks/spectrum.py                                    # 60,000 x 256
python benchmarks/spectrum.py --rows 1280000 --dim 2048          # ImageNet's size: half an hour on two cores
python benchmarks/spectrum.py --out results/spectrum/cost.csv    # adds a row
python benchmarks/spectrum.py --quick                            # 2,000 x 32

The features are random with variances 1 / rank; making them is timed apart. Memory is the whole process's largest resident
size, PyTorch and the batch of features included.
"""

import argparse
import resource
import time
from pathlib import Path

import torch

from sparsehead_cli.evaluation.spectrum import spectrum_numbers
from sparsehead_cli.measure.definitions import VIEWED, VIEWS
from sparsehead_cli.measure.features import BATCH
from sparsehead_cli.measure.invariance import invariance
from sparsehead_cli.measure.moments import BlockMoments
from sparsehead_cli.measure.spectrum import Spectrum
from sparsehead_cli.runs.folder import code_version
from sparsehead_cli.runs.table_files import read_csv, replace_csv


def measure(rows: int, dim: int) -> dict[str, float]:
    """Seconds of each part, and the largest memory in MB, for `rows` features of width `dim`."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, dim + 1) ** -0.5
    moments = BlockMoments(dim, rows)
    making = adding = 0.0
    for start in range(0, rows, BATCH):
        began = time.perf_counter()
        features = torch.randn(min(BATCH, rows - start), dim, generator=generator) * scale
        made = time.perf_counter()
        moments.add(features)
        making, adding = making + made - began, adding + time.perf_counter() - made
    moments.close()
    began = time.perf_counter()
    numbers = {row["metric"]: row for row in spectrum_numbers("r", Spectrum(moments), seed=0)}
    numbered = time.perf_counter()
    views = (torch.randn(VIEWED, 1, dim, generator=generator) + 0.3 * torch.randn(VIEWED, VIEWS, dim, generator=generator)) * scale
    viewed = time.perf_counter()
    invariance(views)
    share = scale.double().square() / scale.double().square().sum()
    return {
        "rows": rows,
        "dim": dim,
        "threads": torch.get_num_threads(),
        "moments_seconds": round(adding, 2),
        "numbers_and_intervals_seconds": round(numbered - began, 2),
        "invariance_seconds": round(time.perf_counter() - viewed, 2),
        "generating_seconds": round(making, 2),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "true_effective_rank": float(torch.special.entr(share).sum().exp()),
        **{
            name: numbers["effective_rank"][column]
            for name, column in (("effective_rank", "value"), ("rank_low", "low"), ("rank_high", "high"))
        },
        "commit": code_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="little work: to see that it runs, not to quote")
    options = parser.parse_args()
    row = measure(2_000, 32) if options.quick else measure(options.rows, options.dim)
    for name, value in row.items():
        print(f"{name:>30}  {value}")
    if options.out:
        replace_csv(options.out, [*read_csv(options.out, "cost.csv"), row], "cost.csv")


if __name__ == "__main__":
    main()
