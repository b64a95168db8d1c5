"""BatchNorm whose statistics are of the batch that all processes share, so that their number changes no result."""

import torch
from torch import Tensor, nn

from sparsehead_cli.machine.distributed import all_gather, world


def join_batch_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with every BatchNorm's statistics joined over the processes; names, weights and buffers stay.

    On a GPU by torch's own SyncBatchNorm, which is for GPUs only. For one process the module is left as it is.
    """
    if world() == 1:
        return module
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for norm in module.modules():
        if type(norm) in JOINED:
            norm.__class__ = JOINED[type(norm)]  # the same weights and buffers, another forward
    return module


def joined_batch_norm(norm: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    """What `norm` makes of this process's share [B, C, ...] of a batch in training mode, statistics of the whole batch.

    In float32 whatever x is, as torch's own. Every process must bring as many samples. With m_p and v_p the mean and biased
    variance of process p's share, the joined mean is m = mean m_p, the joined variance mean v_p + mean (m_p - m)².
    """
    dims, shape = [d for d in range(x.ndim) if d != 1], [1, -1] + [1] * (x.ndim - 2)
    with torch.autocast(x.device.type, enabled=False):
        own = torch.cat(torch.var_mean(x.float(), dims, correction=0)[::-1])
        means, variances = all_gather(own[None]).chunk(2, dim=1)  # [W, C] each
        mean = means.mean(dim=0)
        variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
        count = world() * x.numel() // x.shape[1]
        if norm.track_running_stats:
            remember(norm, mean.detach(), variance.detach() * (count / (count - 1)))
        scale = (variance + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
        return torch.addcmul(shift.view(shape), x.float(), scale.view(shape)).to(x.dtype)


@torch.no_grad()
def remember(norm: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics towards a batch's mean and unbiased variance, [C] each."""
    norm.num_batches_tracked.add_(1)
    momentum = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance, momentum)


class JoinedBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d over all processes, [B, C] or [B, C, L] -> the same; in eval mode the plain one."""

    def forward(self, x: Tensor) -> Tensor:
        return joined_batch_norm(self, x) if self.training else super().forward(x)


class JoinedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over all processes, [B, C, H, W] -> the same; in eval mode the plain one."""

    def forward(self, x: Tensor) -> Tensor:
        return joined_batch_norm(self, x) if self.training else super().forward(x)


JOINED = {nn.BatchNorm1d: JoinedBatchNorm1d, nn.BatchNorm2d: JoinedBatchNorm2d}
