"""Is our arithmetic on small maps quicker than torch's? Each convolution of two networks forward and backward, in turn, medians.

    python benchmarks/convolution.py --out results/throughput/convolution.csv       # a minute on two cores

Those of the default network, and of ResNet-18 at 32x32 pixels, as they stand in training: inputs of their shapes, channels last, in
the precision that auto chooses. `ratio` is how many times as fast as torch's own. Only those that `nets/convolution.py` treats
otherwise than torch are measured: the rest is torch's own.
"""

import argparse
from pathlib import Path

import torch
from machine import facts
from throughput import alone, alternate, make_run, shapes_of, speed_ratio
from torch import nn

from sparsehead_cli.nets import convolution
from sparsehead_cli.runs.table_files import replace_csv

NETWORKS = (("narrow", "fashion10k", 128), ("resnet18", "fashion-rgb32", 32))


def is_treated(conv: nn.Conv2d, shape: torch.Size, dtype: torch.dtype) -> bool:
    """Whether ours does other arithmetic than torch in this layer."""
    called = []
    names = ("as_linear", "weight_gradient")
    own = {name: getattr(convolution, name) for name in names}
    for name in names:
        setattr(convolution, name, lambda *given, name=name: called.append(name) or own[name](*given))
    conv(torch.randn(2, *shape[1:], dtype=dtype)).sum().backward()
    for name in names:
        setattr(convolution, name, own[name])
    return bool(called)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="little work: to see that it runs, not to quote")
    parser.add_argument("--out", type=Path, help="write the rows to this CSV")
    options = parser.parse_args()
    rows, seen = [], set()
    for network, dataset, batch in NETWORKS[: 1 if options.quick else 2]:
        run = make_run(network, dataset, 8 if options.quick else batch)
        for conv, shape in shapes_of(run):
            layer = f"{conv.kernel_size[0]}x{conv.kernel_size[0]}, stride {conv.stride[0]}, {shape[1]} to {conv.out_channels}, "
            layer += f"{shape[2]}x{shape[3]}"
            conv = conv.to(run.precision)
            if (network, layer) in seen or not is_treated(conv, shape, run.precision):
                continue
            seen.add((network, layer))
            steps = {"torch": alone(conv, shape, run.precision), "ours": alone(conv, shape, run.precision, ours=True)}
            seconds = alternate(steps, 2 if options.quick else 25, block=1)
            for workload, (median, ratio) in speed_ratio(seconds).items():
                print(f"{network:>10}  {layer:<36} {workload:<6} {1e3 * median:8.2f} ms  {ratio:6.2f} × torch", flush=True)
                row = {"network": network, "setting": f"{layer}, {shape[0]} images", "workload": workload}
                rows.append({**row, "seconds": round(median, 6), "ratio": round(ratio, 3), "dtype": str(run.precision)[6:]})
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        replace_csv(options.out, [{**row, **facts()} for row in rows], "convolution.csv")


if __name__ == "__main__":
    main()
