"""Every collective of the package: differentiable, and the identity for one process. Started by torchrun.

Also what processes owe to each other when one of them fails: one message, not one a process, and no endless waiting.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.launch import launched
from sparsehead_cli.machine.launch import rank as launched_rank

PATIENCE = timedelta(seconds=5)  # that a process waits for another one to say what it would have to say itself
CONTACT = timedelta(seconds=3)  # that it tries to reach the others' store


class Deserted(SparseheadError):
    """Another process of this run is no more, so this one cannot go on."""


def start(device: torch.device) -> None:
    """Join the process group that torchrun describes in the environment; nothing to do for one process."""
    if launched() and not dist.is_initialized():
        with deserted():
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


def is_sharded(x: object) -> bool:
    """Whether it is a tensor of which each process holds a part: a DTensor, which is not imported to be recognised."""
    return hasattr(x, "placements")


def whole(x: Tensor) -> Tensor:
    """All of a sharded tensor; any other tensor as it is."""
    return x.full_tensor() if is_sharded(x) else x


def of_all_parts(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of a tensor, differentiable; of a sharded one it is that of the whole, and the gradient is sharded as x is."""
    return function(x.redistribute(placements=x.placements)).full_tensor() if is_sharded(x) else function(x)


def own_part(x: Tensor) -> Tensor:
    """What this process holds of a sharded tensor, in the same memory; any other tensor as it is."""
    return x.to_local() if is_sharded(x) else x


def sharded_like(x: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, which all processes have, sharded as `other` is; as it is where `other` is whole."""
    if not is_sharded(other):
        return x
    from torch.distributed.tensor import distribute_tensor  # not above: it takes as long to import as a small run

    return distribute_tensor(x.to(other.device), other.device_mesh, other.placements)


def whole_state(state: object) -> object:
    """A state_dict with its sharded tensors whole, on the processor of the first process, one after the other; None elsewhere."""
    if isinstance(state, dict):
        return {key: whole_state(value) for key, value in state.items()}
    if not is_sharded(state):
        return state
    gathered = state.full_tensor()
    return gathered.cpu() if rank() == 0 else None


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of each of n tensors, of a sharded one over all processes, [n]. To be called without gradients."""
    found = list(torch._foreach_norm(list(map(own_part, tensors))))  # few kernels, however many tensors
    if places := [i for i, x in enumerate(tensors) if is_sharded(x)]:
        squares = torch.stack([found[i] for i in places]).square()
        dist.all_reduce(squares)
        for i, norm in zip(places, squares.sqrt().unbind(), strict=True):
            found[i] = norm
    return torch.stack(found)


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.barrier()


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


class Largest:
    """The largest of all processes' numbers. All make one at the same moment, and call it equally often.

    It goes over the processors, so no device is waited for; and what was asked in one call is known in the next, so nobody
    waits for the others either, unless `wait` says so. For one process it is the number itself, at once.
    """

    def __init__(self) -> None:
        self.group = dist.new_group(backend="gloo") if world() > 1 else None
        self.number, self.work = torch.zeros(1, dtype=torch.long), None

    def __call__(self, number: int, *, wait: bool = False) -> int:
        if self.group is None:
            return number
        before = self._known()
        self.number = torch.tensor([number])
        self.work = dist.all_reduce(self.number, dist.ReduceOp.MAX, group=self.group, async_op=True)
        return self._known() if wait else before

    def _known(self) -> int:
        if self.work is not None:
            self.work.wait()
        self.work = None
        return int(self.number)


@contextmanager
def deserted() -> Iterator[None]:
    """What a collective raises when another process is no more becomes one sentence. Raises: Deserted."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "Gloo", "NCCL"))
        if not (launched() and lost):
            raise
        raise Deserted(
            "another process of this run ended without a word: killed, or out of memory? The last saved checkpoint is kept, "
            "and the same command goes on from it."
        ) from None


def speaker(error: SparseheadError) -> str | None:
    """How an error's message begins in this process: "" or the process's number; None where another one says the same.

    What all processes have to say, the first one says. What one alone has to say, it says itself, with its number. That a
    process was deserted is said only where the one that is gone has said nothing.
    """
    if not launched():
        return ""
    me, of = launched_rank(), os.environ["WORLD_SIZE"]
    named = "" if me == 0 else f" in process {me} of {of}"
    try:
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=CONTACT)
        attempt = f"sparsehead/{os.environ.get('TORCHELASTIC_RUN_ID')}/{os.environ.get('TORCHELASTIC_RESTART_COUNT')}"
        if isinstance(error, Deserted):
            said = _comes(store, f"{attempt}/said")
            return named if not said and store.add(f"{attempt}/deserted", 1) == 1 else None
        store.set(f"{attempt}/said", "")
        message = f"{attempt}/{hashlib.sha256(str(error).encode()).hexdigest()}"
        if me == 0:
            store.set(f"{message}/by-first", "")
            return ""
        said = _comes(store, f"{message}/by-first")
        return named if not said and store.add(f"{message}/by-another", 1) == 1 else None
    except (RuntimeError, ValueError):  # nobody keeps the store any more: better twice than never
        return named


def _comes(store: dist.TCPStore, key: str) -> bool:
    """Whether another process sets the key within PATIENCE."""
    try:
        store.wait([key], PATIENCE)
    except dist.DistError:
        return False
    return True


def tell_torchrun(error: SparseheadError) -> None:
    """Leave an error where torchrun's own report of all processes, which is printed last, finds and repeats it."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        when = int(time.time()) + isinstance(error, Deserted)  # the report begins with the earliest: not with what followed from it
        extra = {"py_callstack": str(error), "timestamp": str(when)}
        with suppress(OSError):
            Path(path).write_text(json.dumps({"message": {"message": str(error), "extraInfo": extra}}), encoding="utf-8")


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
