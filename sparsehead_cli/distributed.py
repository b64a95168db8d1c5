"""Every collective of the package: differentiable, and the identity for one process. Started by torchrun."""

import os

import torch
import torch.distributed as dist
from torch import Tensor


def start(device: torch.device) -> None:
    """Join the process group that torchrun describes in the environment; nothing to do for one process."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def rank() -> int:
    """This process's number, 0 where there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """W, how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """This process's number on its own machine: which GPU is its own."""
    return int(os.environ.get("LOCAL_RANK", 0))


def all_gather(x: Tensor) -> Tensor:
    """The joined batch in rank order, [B, E] -> [W·B, E]; every process must bring the same shape.

    Differentiable: the backward pass sums what all processes ask of these rows. With DistributedDataParallel, which
    averages over processes, an objective of the joined batch then has exactly the gradient of one process.
    """
    return _AllGather.apply(x) if world() > 1 else x


def own_share(x: Tensor) -> Tensor:
    """This process's rows of a joined batch, [W·B, ...] -> [B, ...]; the inverse of `all_gather`."""
    return x.chunk(world())[rank()]


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.barrier()


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)  # sum: each process's objective reads every row
        return grad.chunk(world())[rank()]
