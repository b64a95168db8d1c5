"""Features with known classes: noise around one centre a class."""

import torch


def blobs(n, d=8, classes=4, noise=0.7, seed=0):
    """Features [n, d] and labels int64 [n]; the centres are the same for every seed."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(n) % classes
    return centres[labels] + noise * torch.randn(n, d, generator=g), labels
