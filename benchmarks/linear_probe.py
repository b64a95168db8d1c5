"""Linear evaluation of a run, by a script until `sparsehead evaluate` is here.

    python benchmarks/linear_probe.py results/quickstart/RUN/checkpoint.pt [--test fashion-mnist]

A probe is trained on the labels of the run's own training images (its L2 strength chosen on the held-out tenth), and read
once on the test images of `--test`, which must have the same classes: for fashion10k the official 10,000 of fashion-mnist.
Printed for the representation r, the embedding z, and raw pixels.
"""

import argparse
from pathlib import Path

import torch

from sparsehead_cli.config import Config
from sparsehead_cli.data.datasets import Split, dataset_info, load_split
from sparsehead_cli.measure.features import extract
from sparsehead_cli.measure.probes import linear_probe
from sparsehead_cli.ssl.methods import Method
from sparsehead_cli.training.build import build_method
from sparsehead_cli.training.checkpoint import load_checkpoint


def load_method(path: Path) -> tuple[Method, Config]:
    """The trained method of a checkpoint of ours, and its settings."""
    state = load_checkpoint(path)
    fields = {key: value for key, value in state["identity"].items() if key in Config.__dataclass_fields__}
    config = Config(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
    method = build_method(config).to(memory_format=torch.channels_last)
    method.load_state_dict(state["method"])
    return method, config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--test", default="fashion-mnist", help="the data set whose test images are read")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    options = parser.parse_args()
    method, config = load_method(options.checkpoint)
    normalise = dataset_info(config.dataset).normalise
    train, val = (load_split(config.dataset, split, options.data_dir) for split in ("train", "val"))
    test = load_split(options.test, "test", options.data_dir)

    def show(name: str, features: list[torch.Tensor]) -> None:
        parts: list[Split] = [train, val, test]
        found = linear_probe(*((f, part.labels) for f, part in zip(features, parts, strict=True)))
        print(f"{name:<22} {100 * found['accuracy']:6.2f} %   (held-out {100 * found['val_accuracy']:.2f} %, l2 {found['l2']:g})")

    print(f"{len(train) + len(val):,} labels of {config.dataset}, {len(test):,} test images of {options.test}")
    both = [extract(method, part.images, normalise) for part in (train, val, test)]
    show(f"r, D = {both[0][0].shape[1]}", [r for r, _ in both])
    show(f"z, E = {both[0][1].shape[1]}", [z for _, z in both])
    show("raw pixels", [part.images.flatten(1).float() / 255 for part in (train, val, test)])


if __name__ == "__main__":
    main()
