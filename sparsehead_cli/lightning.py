"""SparseHead as a Lightning callback; the one file that imports Lightning, itself imported only when asked for.

from sparsehead_cli import SparseHeadCallback

lightning.Trainer(callbacks=[SparseHeadCallback("projector", lam=1e-4)]).fit(my_module, my_data)
"""

import torch
from torch import nn

from sparsehead_cli.errors import SparseheadError, unknown
from sparsehead_cli.sparse.sparse_head import SparseHead

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
except ModuleNotFoundError as missing:
    raise SparseheadError("SparseHeadCallback needs Lightning: pip install lightning") from missing


class SparseHeadCallback(Callback):
    """SparseHead on the part of a LightningModule that `projector` names ("projector", "model.head"), during `fit`.

    Everything else is for SparseHead: lam, and solver, penalty, groups, layers. λ is per optimizer step: accumulating gradients
    over k batches applies it once, not k times, and the weights are those of a plain loop with `loss + sparse.penalty()` or
    `attach`. Each epoch ends with `sparsehead/penalty` in the log, λ · Σ_l P(W_l). `callback.sparse` is the SparseHead, from
    the start of the fit on; its `lam` may be set between steps. With manual optimization, step the optimizers that
    `self.optimizers()` gives: Lightning tells callbacks of no others.

    Raises: SparseheadError here for what SparseHead refuses; when the fit starts, for a name that the module does not have,
    a projector that no single optimizer trains, an old-style weight_norm, and a strategy that shards the weights.
    """

    def __init__(self, projector: str, lam: float, **options: str) -> None:
        super().__init__()
        # The module is not known yet; a stand-in finds wrong settings here, not after the data is loaded. On "meta" it draws
        # no random numbers.
        SparseHead(nn.Linear(1, 1, device="meta"), lam, **options)
        self.projector, self.lam, self.options = projector, lam, options
        self.sparse: SparseHead | None = None
        self._optimizer = self._handle = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._detach()
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            given = type(trainer.strategy).__name__
            raise SparseheadError(f'SparseHeadCallback needs whole weights on every device, which {given} may shard; use "ddp".')
        self.sparse = SparseHead(_submodule(pl_module, self.projector), self.lam, **self.options)
        moved = _moved(self.sparse)
        trains = [o for o in trainer.optimizers if moved <= {id(p) for group in o.param_groups for p in group["params"]}]
        if not trains:
            raise SparseheadError(f'no optimizer trains every penalised weight of "{self.projector}"; give them all to one.')
        self._optimizer = trains[0]
        if self.sparse.solver == "proximal":
            self._handle = self.sparse.attach(self._optimizer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        # Not on_after_backward: that one comes once per accumulated batch, and before float16 gradients are unscaled. Here
        # they are accumulated, averaged over devices and unscaled but not yet clipped, so clipping sees loss + penalty, as in
        # a plain loop; and each device adds the same gradient, which DDP, done with this step, leaves alone.
        if optimizer is not self._optimizer:
            return
        with torch.enable_grad():  # some optimizers call back from inside no_grad
            penalty = self.sparse.penalty()
            if penalty.requires_grad:  # not for the proximal solver, nor for λ = 0
                (_loss_scale(trainer, optimizer) * penalty).backward()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = self.sparse.lam * self.sparse.value_of_penalty().detach()
        pl_module.log("sparsehead/penalty", value, sync_dist=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._detach()  # Lightning calls no teardown then

    def _detach(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._optimizer = self._handle = None


def _submodule(module: nn.Module, name: str) -> nn.Module:
    """module.get_submodule(name), but an error says what there is instead, at the part of the name that is wrong."""
    for part in name.split("."):
        child = getattr(module, part, None)
        if not isinstance(child, nn.Module):
            raise unknown(f"submodule of {type(module).__name__}", part, [n for n, _ in module.named_children()])
        module = child
    return module


def _moved(sparse: SparseHead) -> set[int]:
    """The ids of the parameters that the penalty moves: the weights, or what a parametrization computes them from."""
    weights = sparse.parameters()
    if not weights:
        return set()
    if any(w is same and not isinstance(w, nn.Parameter) for w, same in zip(weights, sparse.parameters(), strict=True)):
        # computed in forward only, so its graph is gone after backward, when the callback comes
        raise SparseheadError(
            "SparseHeadCallback cannot follow torch.nn.utils.weight_norm: use torch.nn.utils.parametrizations.weight_norm, "
            "or add SparseHead(...).penalty() to the loss in training_step."
        )
    parameters = [p for p in sparse.projector.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(sparse.value_of_penalty(), parameters, allow_unused=True)
    return {id(p) for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _loss_scale(trainer: Trainer, optimizer: torch.optim.Optimizer) -> float:
    """What the gradients are still multiplied by: 1, but for fused optimizers in float16, which unscale inside their step."""
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)  # the attribute that torch's GradScaler itself asks
    return trainer.scaler.get_scale() if fused and trainer.scaler is not None else 1.0
