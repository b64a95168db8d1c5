"""What would bound the ImageNet entries on 8 and on 1,024 GPUs? Computed from counts and published peaks, not measured on GPUs.

    python benchmarks/clusters.py --reading 150

`--reading` is how many images a second one core decodes and crops, as `python benchmarks/imagenet.py` prints it. Floating-point
operations are counted by torch over one step of the entry's own network at 224 pixels, forward and backward, on tensors without
values; a multiplication and an addition are two. Constants: see PEAKS. Per entry and number of GPUs:

    images a GPU             of the joined batch
    TFLOP an image           counted, the objective left out
    compute, ms              images · FLOP / (SHARE · peak)
    objective, ms            the joined batch's, which every GPU computes as a whole, in float32 without tensor cores
    gradients, ms            2 · (W - 1) / W · 4 bytes · parameters / bandwidth: a ring; mostly hidden behind the backward pass
    joined batch, ms         z of the views (BYOL: and of the teacher) gathered, its gradient summed in a ring:
                             (views or twice as many, + 2 · views) · (W - 1) / W · 4 bytes · B · E / bandwidth
    cores a GPU              that have to read images: images / (compute + objective) / reading
    100 epochs, h            of 1,281,167 images, where nothing waits: max(compute + objective, gradients) + joined batch
    matrices, GB             of similarities, as many as are held at once, or correlations, and gradients: three float32 copies
"""

import argparse
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from sparsehead_cli.data.contract import ImageSpec
from sparsehead_cli.data.datasets import DATASETS
from sparsehead_cli.runs.build import build_method, outline
from sparsehead_cli.runs.config import Config, load_config
from sparsehead_cli.ssl.losses import MOST_SIMILARITIES
from sparsehead_cli.ssl.methods import Method

ENTRIES = ("imagenet-simclr", "imagenet-byol", "imagenet-barlow")
SHARE = 0.3  # of the peak that a ResNet-50 in bfloat16 with channels_last is taken to reach
PEAKS = {  # NVIDIA's data sheets: H100 SXM, dense bfloat16 and float32; NVLink 4 a direction; one InfiniBand NDR port a GPU
    "bfloat16": 989e12,
    "float32": 67e12,
    "nvlink": 450e9,
    "infiniband": 50e9,
}
TRAINED = 1_281_167
VIEWS = 2


def counted(config: Config) -> tuple[Method, float]:
    """The method without values, and the FLOP of a step of it an image: of a view of two images, forward and backward."""
    spec = ImageSpec(tuple(map(str, range(1000))), 3, 224, DATASETS["imagenet"].normalise)
    method, view = outline(build_method, config, spec), torch.empty(2, 3, 224, 224, device="meta")
    with FlopCounterMode(display=False) as counter:
        _, z = method.embed(view)
        if config.method == "byol":
            z = method.predictor(z)
            with torch.no_grad():
                method.teacher(view)
        z.sum().backward()
    return method, counter.get_total_flops() / 2 * VIEWS


def objective_flops(config: Config, batch: int) -> float:
    """Of the joined batch: similarities [2B, 2B] or correlations [E, E] and the gradients of both factors; BYOL has none.

    Similarities that are not all held at once are computed twice.
    """
    width, similarities = config.projector_out, (2 * batch) ** 2
    products = 4 if similarities > MOST_SIMILARITIES else 3
    return {"simclr": 2 * products * similarities * width, "barlow": 6 * batch * width**2}.get(config.method, 0)


def row(config: Config, method: Method, flops: float, world: int, batch: int, reading: float) -> list[str]:
    """The numbers of one entry on `world` GPUs, as text."""
    ring, local = (world - 1) / world, batch / world
    bandwidth = PEAKS["nvlink" if world <= 8 else "infiniband"]
    parameters = sum(p.numel() for p in method.parameters() if p.requires_grad)
    compute = local * flops / (SHARE * PEAKS["bfloat16"])
    objective = objective_flops(config, batch) / (SHARE * PEAKS["float32"])
    gradients = 2 * ring * 4 * parameters / bandwidth
    gathered = VIEWS * (2 if config.method == "byol" else 1)  # its teacher's, too
    joined = (gathered + 2 * VIEWS) * ring * 4 * batch * config.projector_out / bandwidth
    held = {"simclr": min((2 * batch) ** 2, MOST_SIMILARITIES), "barlow": config.projector_out**2}.get(config.method, 0)
    step = max(compute + objective, gradients) + joined
    hours = 100 * (TRAINED // batch) * step / 3600
    cores = local / (compute + objective) / reading
    numbers = [f"{local:g}", f"{flops / 1e12:.3f}", *(f"{1e3 * s:.2f}" for s in (compute, objective, gradients, joined))]
    return [config.experiment.removeprefix("imagenet-"), f"{world:,}", f"{batch:,}", *numbers, f"{cores:.0f}", f"{hours:.2g}"] + [
        f"{3 * 4 * held / 1e9:.1f}"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reading", type=float, required=True, help="images a second that one core decodes and crops")
    options = parser.parse_args()
    head = ["entry", "GPUs", "batch", "images a GPU", "TFLOP an image", "compute, ms", "objective, ms", "gradients, ms"]
    head += ["joined batch, ms", "cores a GPU", "100 epochs, h", "matrices, GB"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for entry in ENTRIES:
        config = load_config(entry, Path(__file__).parents[1] / "experiments.yaml", {})
        method, flops = counted(config)
        for world, batch in ((8, config.batch_size), (1024, config.batch_size), (1024, 32_768)):
            print("| " + " | ".join(row(config, method, flops, world, batch, options.reading)) + " |")
        learned = sum(p.numel() for p in method.parameters() if p.requires_grad)
        held = sum(p.numel() for p in method.parameters()) + learned  # weights and teacher, and the momentum
        print(f"<!-- {entry}: {learned / 1e6:.1f} M parameters that learn, checkpoint {4 * held / 1e6:,.0f} MB -->")


if __name__ == "__main__":
    main()
