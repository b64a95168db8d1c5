"""Mean and scatter of features that come in batches, in float64, and the bootstrap that they allow without the features.

N features of width D take D² numbers, however large N is. The same features in blocks of rows take one D² more a block, and a
bootstrap draws blocks instead of samples: no second pass over the data.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sparsehead_cli.errors import SparseheadError

BLOCKS = (20, 100)  # at least and at most
BLOCK_NUMBERS = 8 * 10**7  # that all blocks together may hold, 640 MB; in float32 their rounding would count for RankMe
WIDEST = 2_048  # features above this width have no interval: their blocks would not fit
REPLICATES = (100, 40)  # bootstrap samples for features of up to NARROW dimensions, and for wider ones
NARROW = 512


class Moments:
    """Count N, mean [D] and scatter Σ (f - mean)(f - mean)ᵀ [D, D] of the features that it was given; float64.

    Batches are joined by the pairwise update of Chan, Golub & LeVeque 1983, which loses no digits to a large mean. Also counts
    the rows that are not finite, and keeps the same two moments of the l2-normalised features, without their correlations.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        zeros = {"dtype": torch.float64, "device": device}
        self.count = 0
        self.mean, self.scatter = torch.zeros(dim, **zeros), torch.zeros(dim, dim, **zeros)
        self.unit_mean, self.unit_scatter = torch.zeros(dim, **zeros), torch.zeros(dim, **zeros)
        self.broken = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, features: Tensor) -> None:
        """Take in a batch [n, D]."""
        x = features.double()
        unit = torch.nn.functional.normalize(x, dim=1)
        batch = object.__new__(Moments)
        batch.count, batch.mean, batch.unit_mean = len(x), x.mean(dim=0), unit.mean(dim=0)
        centred = x - batch.mean
        batch.scatter, batch.unit_scatter = centred.T @ centred, (unit - batch.unit_mean).square().sum(dim=0)
        batch.broken = (~features.isfinite().all(dim=1)).sum()
        self.merge(batch)

    def merge(self, other: "Moments") -> None:
        """Become the moments of both sets of features together, in the memory of this one."""
        count = self.count + other.count
        share, weight = other.count / max(1, count), self.count * other.count / max(1, count)
        step, unit_step = other.mean - self.mean, other.unit_mean - self.unit_mean
        self.scatter.add_(other.scatter).addr_(step, step, alpha=weight)
        self.unit_scatter += other.unit_scatter + weight * unit_step.square()
        self.mean, self.unit_mean = self.mean + share * step, self.unit_mean + share * unit_step
        self.broken = self.broken + other.broken
        self.count = count

    def covariance(self) -> Tensor:
        """Of the centred features, unbiased (divided by N - 1), [D, D]."""
        return self.scatter / max(1, self.count - 1)

    def gram(self) -> Tensor:
        """Fᵀ F of the features as they are, not centred, [D, D]: its eigenvalues are the squared singular values of F."""
        return torch.addr(self.scatter, self.mean, self.mean, alpha=self.count)

    def relative_std(self) -> float:
        """Mean standard deviation of the l2-normalised features times √D: 1 spread evenly, 0 collapsed.

        Source: SimSiam (Chen & He 2021), section 4.1.
        """
        std = (self.unit_scatter / max(1, self.count - 1)).sqrt()
        return float(std.mean() * len(self.mean) ** 0.5)

    def require_finite(self, name: str) -> None:
        """Raises: SparseheadError that counts the features that are not finite, and where there are fewer than two."""
        if self.count < 2:
            raise SparseheadError(f"a spectrum needs at least 2 images, given {self.count}.")
        if self.broken:
            raise SparseheadError(
                f"{name} is not finite (NaN or infinite) for {int(self.broken):,} of {self.count:,} images: it has no spectrum. "
                "The weights have diverged, or the images are not what the network expects."
            )


class BlockMoments(Moments):
    """Moments that are also kept for blocks of consecutive rows, from which `interval` draws.

    `rows` is how many will come, about. The rows must come in a random order: a block then stands for all of them. Features
    wider than WIDEST have no blocks.
    """

    def __init__(self, dim: int, rows: int, device: torch.device | str = "cpu") -> None:
        super().__init__(dim, device)
        low, high = BLOCKS
        self.rows_a_block = max(2, math.ceil(rows / min(high, max(low, BLOCK_NUMBERS // dim**2))))
        self.blocks: list[tuple[int, Tensor, Tensor]] = []  # count, mean [D], scatter [D, D]
        self.open: Moments | None = None

    def add(self, features: Tensor) -> None:
        """Take in a batch [n, D]."""
        if len(self.mean) > WIDEST:
            super().add(features)
            return
        while len(features):
            self.open = self.open or Moments(len(self.mean), self.mean.device)
            room = self.rows_a_block - self.open.count
            self.open.add(features[:room])
            features = features[room:]
            if self.open.count == self.rows_a_block:
                self.close()

    def close(self) -> None:
        """End the block at hand; once after the last batch."""
        if self.open is not None:
            self.merge(self.open)
            self.blocks.append((self.open.count, self.open.mean, self.open.scatter))
            self.open = None

    def resampled(self, seed: int) -> Iterator[Moments]:
        """Bootstrap samples: as many blocks as there are, drawn with replacement; REPLICATES of them."""
        counts = torch.tensor([float(count) for count, _, _ in self.blocks], dtype=torch.float64, device=self.mean.device)
        means = torch.stack([mean for _, mean, _ in self.blocks])
        generator = torch.Generator().manual_seed(seed)
        blocks = len(self.blocks)
        for _ in range(REPLICATES[len(self.mean) > NARROW]):
            drawn = torch.randint(blocks, (blocks,), generator=generator)
            weights = (times := torch.bincount(drawn, minlength=blocks).to(counts)) * counts
            sample = object.__new__(Moments)
            sample.count = int(weights.sum())
            sample.mean = weights @ means / weights.sum()
            apart = means - sample.mean
            sample.scatter = (apart * weights[:, None]).T @ apart
            for (_, _, scatter), weight in zip(self.blocks, times.tolist(), strict=True):
                if weight:
                    sample.scatter.add_(scatter, alpha=weight)
            yield sample

    def intervals(self, *numbers: Callable[[Moments], float], seed: int = 0) -> list[tuple[float, float] | None]:
        """95 % bootstrap intervals of numbers computed from moments; None for features that are too wide or too few.

        2θ - mean(θ*) ± t · sd(θ*), with t of (blocks - 1) degrees of freedom and sd scaled up by √(blocks / (blocks - 1)). The
        first part takes away the bias that few samples give a rank; so where N is small against D the interval lies above
        the number itself. For ranks: bounds are kept within [1, min(N, D)]. None with fewer blocks than BLOCKS allows, and where
        the number is not defined for all samples.
        """
        from scipy.special import stdtrit  # takes 0.3 s, and whoever trains needs no interval

        self.close()
        blocks = len(self.blocks)
        if blocks < BLOCKS[0]:
            return [None] * len(numbers)
        drawn = torch.tensor([[number(sample) for number in numbers] for sample in self.resampled(seed)], dtype=torch.float64)
        width = float(stdtrit(blocks - 1, 0.975)) * math.sqrt(blocks / (blocks - 1))
        intervals = []
        for number, values in zip(numbers, drawn.T, strict=True):
            centre, half = 2 * number(self) - float(values.mean()), width * float(values.std())
            most = float(min(self.count, len(self.mean)))
            bounds = tuple(min(max(1.0, bound), most) for bound in (centre - half, centre + half))
            intervals.append(bounds if math.isfinite(centre + half) else None)
        return intervals
