"""SparseHead: the penalty on a projector, for any training loop, ours or not.

sparse = SparseHead(projector, lam=1e-4)
loss = my_ssl_loss + sparse.penalty()                                    # subgradient solver, the paper's

SparseHead(projector, lam=1e-4, solver="proximal").attach(optimizer)     # exact zeros
"""

import math

import torch
from torch import Tensor, nn

from sparsehead_cli.errors import SparseheadError, unknown
from sparsehead_cli.sparse.penalties import GROUPS, PENALTIES

SOLVERS = ("subgradient", "proximal")
LAYERS = ("all", "first")


class SparseHead:
    """λ · Σ_l P(W_l) over the linear layers of a projector. Biases and norm layers are never penalised.

    `projector` is any module with trainable nn.Linear or 1x1 nn.Conv2d layers, looked up afresh at each use, so it may be
    moved, loaded or frozen in between. `groups` is "input" (a layer's input features, the default) or "output";
    `layers` is "all" or "first". The sum is plain, no averaging: lam means what the paper's λ means.

    The subgradient solver adds the term to the loss: groups come near zero, seldom to it. The proximal solver applies
    W ← prox(W, lr · lam) after each optimizer step: exact zeros. λ acts through the learning rate either way, so it is
    only comparable within one schedule; LARS also rescales the subgradient layer by layer.

    Raises: SparseheadError for a lam that is negative or not finite, an unknown name, or a projector without such layers.
    Source: Song et al. 2023 (arXiv 2307.08913).
    """

    def __init__(
        self,
        projector: nn.Module,
        lam: float,
        *,
        penalty: str = "l21",
        groups: str = "input",
        layers: str = "all",
        solver: str = "subgradient",
    ) -> None:
        if not (isinstance(lam, int | float) and math.isfinite(lam) and lam >= 0):
            raise SparseheadError(f"lam must be a finite number of at least 0, given {lam!r}.")
        if not isinstance(projector, nn.Module):
            raise SparseheadError(f"the projector must be an nn.Module, given {projector!r}.")
        for kind, given, allowed in (
            ("penalty", penalty, PENALTIES),
            ("groups", groups, GROUPS),
            ("layers", layers, LAYERS),
            ("solver", solver, SOLVERS),
        ):
            if given not in allowed:
                raise unknown(kind, given, allowed)
        self.projector, self.lam, self.groups, self.layers, self.solver = projector, lam, groups, layers, solver
        self.value, self.prox = PENALTIES[penalty]
        if not self.parameters():
            raise SparseheadError(
                f"{type(projector).__name__} has no trainable nn.Linear or 1x1 nn.Conv2d layer for SparseHead to penalise."
            )

    def parameters(self) -> list[nn.Parameter]:
        """The penalised weights, in the order of `projector.modules()`."""
        found = [m.weight for m in self.projector.modules() if _is_linear(m) and m.weight.requires_grad]
        return found[:1] if self.layers == "first" else found

    def weights(self) -> list[Tensor]:
        """The penalised weights as matrices [out, in], sharing memory with the parameters."""
        return [w.flatten(1) for w in self.parameters()]

    def value_of_penalty(self) -> Tensor:
        """Σ_l P(W_l), without λ, []; for the log."""
        return torch.stack([self.value(w, self.groups) for w in self.weights()]).sum()

    def penalty(self) -> Tensor:
        """λ · Σ_l P(W_l), [], to add to the loss. Exactly 0, without a graph, for λ = 0 and for the proximal solver."""
        if self.lam == 0 or self.solver == "proximal":
            return self.weights()[0].new_zeros(())
        return self.lam * self.value_of_penalty()

    def attach(self, optimizer: torch.optim.Optimizer) -> torch.utils.hooks.RemovableHandle:
        """Apply the proximal map after every `optimizer.step()`, with each weight's own current learning rate.

        For SGD this is the proximal gradient method. For adaptive optimizers it is the decoupled form, as AdamW decouples
        weight decay: the shrink is lr · lam, not rescaled by the preconditioner. Adam moves every weight by about lr a
        step however small its gradient, a group of n weights by up to lr · √n, so there a λ below about √n shrinks norms but
        makes no exact zeros.
        Returns the handle whose `remove()` ends it.
        Raises: SparseheadError for the subgradient solver, and for a penalised weight that the optimizer does not train.
        """
        if self.solver != "proximal":
            raise SparseheadError(
                'attach() is the proximal solver: use SparseHead(..., solver="proximal"), or add penalty() to the loss.'
            )
        self._groups_of(optimizer)
        return optimizer.register_step_post_hook(lambda optimizer, args, kwargs: self.shrink(optimizer))

    @torch.no_grad()
    def shrink(self, optimizer: torch.optim.Optimizer) -> None:
        """One proximal step W ← prox(W, lr · lam) on every penalised weight, in place."""
        if self.lam == 0:
            return
        for weight, group in self._groups_of(optimizer):
            matrix = weight.flatten(1)
            weight.copy_(self.prox(matrix, group["lr"] * self.lam, self.groups).view_as(weight))

    def _groups_of(self, optimizer: torch.optim.Optimizer) -> list[tuple[nn.Parameter, dict]]:
        group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        weights = self.parameters()
        if any(id(w) not in group_of for w in weights):
            raise SparseheadError("the optimizer does not train every penalised weight of the projector; give it them all.")
        return [(w, group_of[id(w)]) for w in weights]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
