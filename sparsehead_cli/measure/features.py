"""A method and a split -> representations and embeddings, extracted once, in eval mode, without augmentation."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparsehead_cli.data.augment import Normalisation

BATCH = 500


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """`module` in eval mode; every submodule's own mode is put back, so BatchNorm buffers and frozen parts stay."""
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode


@torch.no_grad()
def extract(method: nn.Module, images: Tensor, normalise: Normalisation) -> tuple[Tensor, Tensor]:
    """uint8 [N, C, H, W] -> r [N, D] and z [N, E], float32, on the images' device. The caller chooses autocast."""
    rs, zs = [], []
    with eval_mode(method):
        for batch in images.split(BATCH):
            view = normalise(batch.float() / 255).contiguous(memory_format=torch.channels_last)
            r, z = method.embed(view)
            rs.append(r.float())
            zs.append(z.float())
    return torch.cat(rs), torch.cat(zs)
