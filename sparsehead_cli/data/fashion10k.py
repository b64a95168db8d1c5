"""Makes fashion10k.npz from the official Fashion-MNIST files, byte for byte reproducibly.

    apt-get install dataset-fashion-mnist
    python -m sparsehead_cli.data.fashion10k /usr/share/datasets/fashion-mnist

Of each of the ten classes it draws 1,000 of the 6,000 official training images and 200 of the 1,000 official test images
with numpy's PCG64(0), and keeps the official index of every image, so that any overlap can be computed.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

from sparsehead_cli.data.idx import read_idx_pair

OUT = Path(__file__).with_name("fashion10k.npz")


def draw(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `per_class` images of every class, without replacement, in mixed order."""
    chosen = [rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in range(10)]
    return rng.permutation(np.concatenate(chosen))


def main(folder: Path) -> None:
    """Write fashion10k.npz beside this script and print its SHA-256 and the training mean and standard deviation."""
    rng = np.random.Generator(np.random.PCG64(0))
    arrays = {}
    for part, per_class in (("train", 1000), ("test", 200)):
        images, labels = read_idx_pair(folder, train=part == "train")
        index = draw(labels, per_class, rng)
        arrays |= {f"{part}_images": images[index], f"{part}_labels": labels[index]}
        arrays[f"{part}_index"] = index.astype(np.uint16)
    np.savez_compressed(OUT, **arrays)
    pixels = arrays["train_images"] / 255
    print(f"{hashlib.sha256(OUT.read_bytes()).hexdigest()}  {OUT.name}")
    print(f"mean {pixels.mean():.4f}, standard deviation {pixels.std():.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
