"""SparseHead as a Lightning callback; the one file that imports Lightning, itself imported only when asked for.

from sparsehead_cli import SparseHeadCallback

lightning.Trainer(callbacks=[SparseHeadCallback("projector", lam=1e-4)]).fit(my_module, my_data)
"""

import torch
from torch import nn

from sparsehead_cli.errors import SparseheadError, shown, unknown
from sparsehead_cli.sparse.attach import Attachment
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
    `attach`. Each epoch ends with two lines in the log: `sparsehead/penalty/` and the projector's name, λ · Σ_l P(W_l), and
    `sparsehead/active_groups/`, the share of its groups that are active. `callback.sparse` is the SparseHead, from the start of
    the fit on; its `lam` may be set between steps, and is that of the callback again after a resume. A module or an optimizer
    that is replaced during the fit is followed. With manual optimization, step the optimizers that `self.optimizers()` gives:
    Lightning tells callbacks of no others.

    Raises: SparseheadError here for what SparseHead refuses; when the fit starts, for a name that the module does not have,
    a penalised weight that no optimizer trains or another SparseHeadCallback penalises, a strategy that shards the weights, and
    a Trainer of the package pytorch_lightning; after an epoch in which the weights moved by steps that the callback did not see.
    """

    def __init__(self, projector: str, lam: float, **options: str) -> None:
        super().__init__()
        if not isinstance(projector, str):
            given = f"a {type(projector).__name__}" if isinstance(projector, nn.Module) else shown(projector)
            raise SparseheadError(
                'SparseHeadCallback takes the name of the projector in your module, such as "projector" or "model.head", '
                f"given {given}."
            )
        # The module is not known yet; a stand-in finds wrong settings here, not after the data is loaded. On "meta" it draws
        # no random numbers.
        SparseHead(nn.Linear(1, 1, device="meta"), lam, **options)
        self.projector, self.lam, self.options = projector, lam, options
        self.sparse: SparseHead | None = None
        self._attachment: Attachment | None = None
        self._followed: list[torch.optim.Optimizer] = []  # those that it is attached to
        self._moved: list[nn.Parameter] = []  # what the penalty moves
        self._seen = self._version = 0  # steps seen in this epoch; how often the weights had been written to at its start

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._detach()
        if type(trainer).__module__.startswith("pytorch_lightning"):
            raise SparseheadError(
                "SparseHeadCallback is for the package lightning, given a Trainer of pytorch_lightning: import lightning, and use "
                "lightning.Trainer and lightning.LightningModule."
            )
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            given = type(trainer.strategy).__name__
            raise SparseheadError(f'SparseHeadCallback needs whole weights on every device, which {given} may shard; use "ddp".')
        self._set_up(trainer, pl_module, self.lam)

    def _set_up(self, trainer: Trainer, pl_module: LightningModule, lam: float) -> None:
        self.sparse = SparseHead(_submodule(pl_module, self.projector), lam, **self.options)
        self._moved = _moved(self.sparse)
        self._seen, self._version = 0, _writes(self._moved)
        trained = {id(p) for optimizer in trainer.optimizers for p in _parameters(optimizer)}
        if any(id(p) not in trained for p in self._moved):
            raise SparseheadError(
                f'no optimizer trains every penalised weight of "{self.projector}"; give them all to one or more.'
            )
        for other in trainer.callbacks:
            if isinstance(other, SparseHeadCallback) and other is not self and _share(other._moved, self._moved):
                raise SparseheadError(
                    f'two SparseHeadCallbacks, for "{other.projector}" and "{self.projector}", penalise the same weights, which '
                    "would count twice; give each part of the module to one."
                )
        if self.sparse.solver == "proximal" and self._moved:
            self._followed = [o for o in trainer.optimizers if _share(_parameters(o), self._moved)]
            self._attachment = self.sparse.attach(*self._followed)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen, self._version = -self.sparse.steps, _writes(self._moved)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        # Not on_after_backward: that one comes once per accumulated batch, and before float16 gradients are unscaled. Here
        # they are accumulated, averaged over devices and unscaled but not yet clipped, so clipping sees loss + penalty, as in
        # a plain loop; and each device adds the same gradient, which DDP, done with this step, leaves alone.
        own = {id(p) for p in _parameters(optimizer)}
        is_new = self._attachment is not None and not any(optimizer is known for known in self._followed)
        if (is_new and own & {id(p) for p in self._moved}) or _submodule(pl_module, self.projector) is not self.sparse.projector:
            self._detach()
            self._set_up(trainer, pl_module, self.sparse.lam)
        if not (here := [p for p in self._moved if id(p) in own]):
            return
        self._seen += 1
        with torch.enable_grad():  # some optimizers call back from inside no_grad
            penalty = self.sparse.penalty()
            if penalty.requires_grad:  # not for the proximal solver, nor for λ = 0
                (_loss_scale(trainer, optimizer) * penalty).backward(inputs=here)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._seen + self.sparse.steps == 0 and _writes(self._moved) > self._version and self.sparse.lam > 0:
            raise SparseheadError(
                f'the weights of "{self.projector}" were trained in this epoch by steps that SparseHeadCallback did not see, so '
                "nothing was penalised: in manual optimization, step what self.optimizers() returns, not the optimizers inside."
            )
        value = self.sparse.lam * self.sparse.value_of_penalty().detach()
        pl_module.log(f"sparsehead/penalty/{self.projector}", value, sync_dist=True)
        active = self.sparse.active_groups().values()
        share = sum(there for there, _ in active) / max(1, sum(of for _, of in active))
        pl_module.log(f"sparsehead/active_groups/{self.projector}", share, sync_dist=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._detach()  # Lightning calls no teardown then

    def _detach(self) -> None:
        if self._attachment is not None:
            self._attachment.remove()
        self._attachment, self._followed, self._moved = None, [], []


def _submodule(module: nn.Module, name: str) -> nn.Module:
    """module.get_submodule(name), but an error says what there is instead, at the part of the name that is wrong."""
    for part in name.split("."):
        child = getattr(module, part, None)
        if not isinstance(child, nn.Module):
            raise unknown(f"submodule of {type(module).__name__}", part, [n for n, _ in module.named_children()])
        module = child
    return module


def _moved(sparse: SparseHead) -> list[nn.Parameter]:
    """The parameters that the penalty moves: the weights, or what they are computed from."""
    parameters = [p for p in sparse.projector.parameters() if p.requires_grad]
    value = sparse.value_of_penalty()
    if not value.requires_grad:
        return []
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _share(some: list[nn.Parameter], others: list[nn.Parameter]) -> bool:
    return bool({id(p) for p in some} & {id(p) for p in others})


def _writes(parameters: list[nn.Parameter]) -> int:
    """How often the parameters were written to in place, as every step of an optimizer does."""
    return sum(p._version for p in parameters)


def _loss_scale(trainer: Trainer, optimizer: torch.optim.Optimizer) -> float:
    """What the gradients are still multiplied by: 1, but for fused optimizers in float16, which unscale inside their step."""
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)  # the attribute that torch's GradScaler itself asks
    return trainer.scaler.get_scale() if fused and trainer.scaler is not None else 1.0
