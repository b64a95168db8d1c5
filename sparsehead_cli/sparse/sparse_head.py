"""SparseHead: the penalty on a projector, for any training loop, ours or not.

sparse = SparseHead(projector, lam=1e-4)
loss = my_ssl_loss + sparse.penalty()                                    # subgradient solver, the paper's

SparseHead(projector, lam=1e-4, solver="proximal").attach(optimizer)     # exact zeros
"""

import math
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from sparsehead_cli.errors import SparseheadError, unknown
from sparsehead_cli.sparse.layers import is_linear, is_trainable, linear_layers, matrix, named_layers
from sparsehead_cli.sparse.penalties import GROUPS, PENALTIES, group_norms
from sparsehead_cli.sparse.prune import prune_projector

SOLVERS = ("subgradient", "proximal")
LAYERS = ("all", "first")
SCHEDULES = ("constant", "linear", "cosine")


def lam_at(step: int, *, lam: float, ramp: int, schedule: str) -> float:
    """λ for optimizer step `step`, counted from 0: "constant", or risen from 0 to `lam` over the first `ramp` steps.

    Set it before each step: sparse.lam = lam_at(step, ...). Step ramp - 1 is the first with the whole lam.
    Raises: SparseheadError for an unknown schedule, and for a rise over less than one step.
    """
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    if schedule == "constant":
        return lam
    if ramp < 1:
        raise SparseheadError(f'a λ schedule of zero length: "{schedule}" needs a ramp of at least 1 step, given {ramp!r}.')
    share = min(1.0, (step + 1) / ramp)
    return lam * (share if schedule == "linear" else (1 - math.cos(math.pi * share)) / 2)


class SparseHead:
    """λ · Σ_l P(W_l) over the linear layers of a projector. Biases and norm layers are never penalised.

    `projector` is any module with trainable nn.Linear or ungrouped 1x1 convolution layers, looked up afresh at each use, so
    it may be moved, loaded, compiled or frozen in between; a weight that two layers share counts once. `groups` is "input"
    (a layer's input features, the default) or "output"; `layers` is "all" or "first". The sum is plain, no averaging: lam
    means what the paper's λ means. `sparse.lam` may be set between steps. `print(sparse)` says what is penalised and what is not.

    The subgradient solver adds the term to the loss: groups come near zero, seldom to it. The proximal solver applies
    W ← prox(W, lr · lam) after each optimizer step: exact zeros. λ acts through the learning rate either way, so it is
    only comparable within one schedule; LARS also rescales the subgradient layer by layer.

    Raises: SparseheadError for a lam that is negative or not finite, an unknown name, a lazy layer that has not seen a
    batch, and, unless lam is 0, a projector without a weight to penalise; the last also at any later use.
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
        self.lam = lam
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
        self.projector, self.penalty_name, self.groups, self.layers, self.solver = projector, penalty, groups, layers, solver
        self._handles: WeakKeyDictionary = WeakKeyDictionary()  # optimizer -> the handle of our hook
        self.parameters()

    @property
    def lam(self) -> float:
        """λ, at least 0. Set it between steps; `lam_at` gives the values of a schedule."""
        return self._lam

    @lam.setter
    def lam(self, lam: float) -> None:
        if not (isinstance(lam, int | float) and math.isfinite(lam) and lam >= 0):
            raise SparseheadError(f"lam must be a finite number of at least 0, given {lam!r}.")
        self._lam = lam

    def parameters(self) -> list[nn.Parameter]:
        """The penalised weights, in the order of `projector.modules()`; [] only for λ = 0.

        A weight with a parametrization (weight_norm) is the computed tensor, not a parameter.
        """
        weights = list(self._penalised().values())
        if not weights and self.lam > 0:
            raise SparseheadError(
                f"{type(self.projector).__name__} has no trainable nn.Linear or 1x1 nn.Conv2d layer for SparseHead to penalise: "
                "give it one, or set lam to 0."
            )
        return weights

    def weights(self) -> list[Tensor]:
        """The penalised weights as matrices [out, in], sharing memory with the parameters."""
        return [w.flatten(1) for w in self.parameters()]

    def value_of_penalty(self) -> Tensor:
        """Σ_l P(W_l), without λ, []; for the log. 0 where nothing is penalised."""
        values = [PENALTIES[self.penalty_name].value(w, self.groups) for w in self.weights()]
        return torch.stack(values).sum() if values else self._zero()

    def penalty(self) -> Tensor:
        """λ · Σ_l P(W_l), [], to add to the loss. Exactly 0, without a graph, for λ = 0 and for the proximal solver."""
        if self.lam == 0 or self.solver == "proximal":
            return self._zero()
        return self.lam * self.value_of_penalty()

    def attach(self, optimizer: torch.optim.Optimizer) -> torch.utils.hooks.RemovableHandle:
        """Apply the proximal map after every `optimizer.step()`, with each weight's own current learning rate.

        For SGD this is the proximal gradient method. For adaptive optimizers it is the decoupled form, as AdamW decouples
        weight decay: the shrink is lr · lam, not rescaled by the preconditioner. Adam moves every weight by about lr a
        step however small its gradient, a group of n weights by up to lr · √n, so there a λ below about √n shrinks norms but
        makes no exact zeros.
        Returns the handle whose `remove()` ends it. A copy of an attached SparseHead is not attached.
        Raises: SparseheadError for the subgradient solver, an optimizer that it is attached to already, and a penalised weight
        that the optimizer does not train or that is computed from others.
        """
        if self.solver != "proximal":
            raise SparseheadError(
                'attach() is the proximal solver: use SparseHead(..., solver="proximal"), or add penalty() to the loss.'
            )
        old = self._handles.get(optimizer)
        if old is not None and old.id in (old.hooks_dict_ref() or ()):
            raise SparseheadError(
                "this SparseHead is attached to this optimizer already and would shrink twice a step; "
                "call remove() on the handle of the first attach(), or attach once."
            )
        self._groups_of(optimizer)
        handle = optimizer.register_step_post_hook(lambda optimizer, args, kwargs: self.shrink(optimizer))
        self._handles[optimizer] = handle
        return handle

    @torch.no_grad()
    def shrink(self, optimizer: torch.optim.Optimizer) -> None:
        """One proximal step W ← prox(W, lr · lam) on every penalised weight, in place."""
        if self.lam == 0:
            return
        prox = PENALTIES[self.penalty_name].prox
        for weight, group in self._groups_of(optimizer):
            weight.copy_(prox(weight.flatten(1), group["lr"] * self.lam, self.groups).view_as(weight))

    def prune(self, threshold: float = 0.0) -> nn.Sequential:
        """A physically smaller projector with the same embedding in eval mode; what and how: see `prune_projector`.

        By exact zeros in every Linear, penalised or not. With a threshold above 0 the groups of norm <= threshold · the
        largest in their layer count as zero, and the embedding is an approximation.
        """
        return prune_projector(self.projector, threshold, self.groups)

    def __repr__(self) -> str:
        names = self._penalised()
        head = f"lam={self.lam:g}, penalty={self.penalty_name}, groups={self.groups}, layers={self.layers}, solver={self.solver}"
        lines = [
            f"  {name}: {type(module).__name__}, "
            + (_shape(module, self.groups) if name in names else _why_not(module, self.layers))
            for name, module in named_layers(self.projector)
            if _has_weights(module)
        ]
        return "\n".join([f"SparseHead({head})", *lines])

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_handles"}  # a copy is attached to nothing

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _handles=WeakKeyDictionary())

    def _penalised(self) -> dict[str, Tensor]:
        """layer name -> its weight, penalised ones only."""
        found: dict[str, Tensor] = {}
        for name, layer in linear_layers(self.projector):
            weight = layer.weight
            if is_trainable(layer) and not any(weight is other for other in found.values()):
                found[name] = weight
            if found and self.layers == "first":
                break
        return found

    def _zero(self) -> Tensor:
        some = next((tensor for tensors in (self.projector.parameters(), self.projector.buffers()) for tensor in tensors), None)
        return torch.zeros((), device=None if some is None else some.device)

    def _groups_of(self, optimizer: torch.optim.Optimizer) -> list[tuple[nn.Parameter, dict]]:
        for name, weight in self._penalised().items():
            if not isinstance(weight, nn.Parameter):
                raise SparseheadError(
                    f'the weight of layer "{name}" is computed by a parametrization (such as weight_norm) and cannot be shrunk: '
                    'remove the parametrization, or use solver="subgradient" and add penalty() to the loss.'
                )
        group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        weights = self.parameters()
        if any(id(w) not in group_of for w in weights):
            raise SparseheadError("the optimizer does not train every penalised weight of the projector; give it them all.")
        return [(w, group_of[id(w)]) for w in weights]


def _has_weights(module: nn.Module) -> bool:
    """Whether a module has weights of its own that could be penalised: anything with two dimensions or more."""
    if isinstance(module, ParametrizationList):
        return False  # its layer is listed
    own = module.parameters(recurse=False)
    wide = (isinstance(p, nn.UninitializedParameter) or p.dim() > 1 for p in own)
    return is_linear(module) or is_parametrized(module, "weight") or any(wide)


def _shape(layer: nn.Module, groups: str) -> str:
    weights = matrix(layer)
    count = group_norms(weights, groups).numel()
    return f"{count} {groups} groups of {weights.numel() // count} weights penalised"


def _why_not(module: nn.Module, layers: str) -> str:
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and not is_linear(module):
        kernel = "x".join(map(str, module.kernel_size))
        return f"not penalised: a {'grouped ' if module.groups > 1 else ''}{kernel} convolution"
    if not is_linear(module):
        return "not penalised: not a linear layer"
    if not is_trainable(module):
        return "not penalised: frozen"
    return "not penalised: " + ("not the first layer" if layers == "first" else "shares its weight with a layer above")
