"""Runs that were never trained, with numbers in their norms that no initial network has: what is exported wrongly shows."""

import torch
from torch import nn

from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.folder import save
from sparsehead_cli.runs.run import Progress

SMALL = {"dataset": "fashion1k", "projector_hidden": 16, "projector_out": 8, "batch_size": 100, "precision": "float32"}


def make_untrained(results, **settings):
    """The folder of a run with a checkpoint at step 0."""
    run = build(Config(**{**SMALL, **settings, "results": results}))
    scatter_norms(run.method)
    run.folder.mkdir(parents=True)
    save(run, Progress())
    return run.folder


def scatter_norms(network):
    """Give every BatchNorm statistics, scales and shifts of its own; a new one is the identity."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
