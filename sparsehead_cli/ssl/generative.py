"""Generative methods: the embedding is all that a decoder sees, so the projector is the bottleneck that SparseHead thins."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsehead_cli.data.contract import Batch, View, joined
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.distributed import all_gather
from sparsehead_cli.machine.ranges import Range
from sparsehead_cli.nets.heads import Decoder
from sparsehead_cli.ssl import losses, masks
from sparsehead_cli.ssl.contract import Count, Method, Needs, output_dim, own_rows


def image_of(backbone: nn.Module, method: str) -> tuple[int, int, int]:
    """(C, h, w) of the images that a backbone is made for. Raises: SparseheadError for one that reads none."""
    if not hasattr(backbone, "image"):
        raise SparseheadError(f"{method} rebuilds images, and its backbone reads none. Choose another --method.")
    return backbone.image


class Autoencoder(Method):
    """Rebuild a view from its embedding, given the view with Gaussian noise. Source: Vincent et al. 2010 (denoising).

    `noise` is the noise's standard deviation in units of the normalised view's.
    """

    needs = Needs(views=None)

    def __init__(self, backbone: nn.Module, projector: nn.Module, *, noise: Annotated[float, Range(least=0)] = 0.5) -> None:
        super().__init__(backbone, projector)
        self.noise = noise
        self.decoder = Decoder(output_dim(projector, backbone.dim), image_of(backbone, "an autoencoder"))

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x = joined(views)
        noise = torch.cat([own_rows(torch.randn, *view.inputs.shape, device=x.device) for view in views])
        _, z = self.embed(x + self.noise * noise)
        error = losses.reconstruction(self.decoder(z).float(), x, torch.ones_like(x[:, :1]))
        return all_gather(error).mean(), {}


class MAE(Method):
    """Rebuild the hidden squares of a view from the embedding of the others. Source: He et al. 2022, with a convolutional network.

    `masked` is the share of squares `patch` pixels wide that are hidden: set to the data set's mean colour, since a
    convolution cannot leave them out. With `standardise` each square of the target has mean 0 and variance 1, the paper's
    better target; without, it is the pixels.
    """

    needs = Needs(views=None)

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        *,
        patch: Count = 4,
        masked: Annotated[float, Range(above=0, below=1)] = 0.75,
        standardise: bool = True,
    ) -> None:
        super().__init__(backbone, projector)
        image = image_of(backbone, "mae")
        side = max(image[1:])
        if patch >= side:
            raise SparseheadError(f"method.patch must be smaller than the image, which has {side} pixels, given {patch}.")
        self.patch, self.masked, self.standardise = patch, masked, standardise
        self.decoder = Decoder(output_dim(projector, backbone.dim), image)

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x = joined(views)
        hidden = torch.cat([self.hidden_pixels(view.inputs) for view in views])
        _, z = self.embed(x * (1 - hidden))
        target = standardise_patches(x, self.patch) if self.standardise else x
        error = losses.reconstruction(self.decoder(z).float(), target, hidden)
        return all_gather(error).mean(), {}

    def hidden_pixels(self, view: Tensor) -> Tensor:
        """1 for the pixels of a random `masked` share of squares, 0 elsewhere, [B, C, h, w] -> [B, 1, h, w]."""
        batch, _, height, width = view.shape
        rows, columns = -(-height // self.patch), -(-width // self.patch)
        hidden = masks.at_random(batch, rows, columns, self.masked, view.device).unsqueeze(1).to(view.dtype)
        return nn.functional.interpolate(hidden, scale_factor=self.patch)[:, :, :height, :width]


def standardise_patches(x: Tensor, patch: int) -> Tensor:
    """Every patch x patch square to zero mean and unit variance over its pixels and channels, [B, C, h, w] -> same shape.

    A square at the border may be smaller. Source: MAE (He et al. 2022), section 3, "reconstruction target".
    """
    height, width = x.shape[2:]
    grid = F.pad(x, (0, -width % patch, 0, -height % patch), mode="replicate")
    squares = F.pixel_unshuffle(grid, patch)  # [B, C·patch², rows, columns]
    mean, var = squares.mean(dim=1, keepdim=True), squares.var(dim=1, keepdim=True)
    return F.pixel_shuffle((squares - mean) / (var + 1e-6).sqrt(), patch)[:, :, :height, :width]
