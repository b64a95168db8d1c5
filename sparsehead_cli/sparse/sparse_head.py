"""SparseHead: the penalty on a projector, for any training loop, ours or not.

sparse = SparseHead(projector, lam=1e-4)
loss = my_ssl_loss + sparse.penalty()                                    # subgradient solver, the paper's

SparseHead(projector, lam=1e-4, solver="proximal").attach(optimizer)     # exact zeros
"""

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from sparsehead_cli.errors import SparseheadError, shown, unknown
from sparsehead_cli.machine.distributed import of_all_parts
from sparsehead_cli.machine.plugins import named
from sparsehead_cli.sparse.attach import Attachment, attach, learning_rates, require_optimizers
from sparsehead_cli.sparse.layers import CONVOLUTIONS, Matrix, RawMatrices, is_linear, is_trainable, matrices, named_layers, overlap
from sparsehead_cli.sparse.numbers import plain_number
from sparsehead_cli.sparse.penalties import GROUPS, PENALTIES, Penalty, active_groups, group_norms
from sparsehead_cli.sparse.prune import load_pruned, prune_projector

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
        raise SparseheadError(f'a λ schedule of zero length: "{schedule}" needs a ramp of at least 1 step, given {shown(ramp)}.')
    share = min(1.0, (step + 1) / ramp)
    return lam * (share if schedule == "linear" else (1 - math.cos(math.pi * share)) / 2)


class SparseHead:
    """λ · Σ_l P(W_l) over the linear layers of a projector. Biases and norm layers are never penalised.

    `projector` is any module with trainable nn.Linear or ungrouped 1x1 convolution layers (or Hugging Face's Conv1D), looked up
    afresh at each use, so it may be moved, loaded, compiled or frozen in between; a weight that two layers share counts once.
    Matrices that no such layer owns are given themselves: an nn.Parameter, an nn.ParameterList or a dict name -> nn.Parameter,
    each [out, in], as an attention's in_proj_weight is; for one that your code keeps as [in, out], "output" groups are its
    inputs. `groups` is "input" (a layer's input features, the default) or "output"; `layers` is "all" or "first". The sum is
    plain, no averaging: lam means what the paper's λ means. `sparse.lam` may be set between steps. Every SparseHead that acts
    on a weight adds its own λ. `print(sparse)` says what is penalised and what is not.

    The subgradient solver adds the term to the loss: groups come near zero, seldom to it. The proximal solver applies
    W ← prox(W, lr · lam) after each optimizer step: exact zeros. λ acts through the learning rate either way, so it is
    only comparable within one schedule; LARS also rescales the subgradient layer by layer.

    Raises: SparseheadError for a lam that is negative or not finite, a penalty that is neither ours nor `module:penalty` of your
    own, another unknown name, a lazy layer that has not seen a batch, a weight that is sharded (FSDP, DTensor) or empty, and,
    unless lam is 0, a projector without a weight to penalise; the last also at any later use.
    Source: Song et al. 2023 (arXiv 2307.08913).
    """

    def __init__(
        self,
        projector: nn.Module | nn.Parameter | Mapping[str, nn.Parameter],
        lam: float,
        *,
        penalty: str = "l21",
        groups: str = "input",
        layers: str = "all",
        solver: str = "subgradient",
    ) -> None:
        self.lam = lam
        for kind, given, allowed in (
            ("groups", groups, GROUPS),
            ("layers", layers, LAYERS),
            ("solver", solver, SOLVERS),
        ):
            if not isinstance(given, str) or given not in allowed:
                raise unknown(kind, given, allowed)
        self.projector, self.penalty_name, self.groups, self.layers, self.solver = (
            _module(projector),
            penalty,
            groups,
            layers,
            solver,
        )
        if not isinstance(penalty, str):
            raise unknown("penalty", penalty, PENALTIES)
        self._penalty: Penalty = named("penalty", penalty, PENALTIES)
        self.steps = 0  # proximal steps that changed, or could change, a weight
        self._attachments: list[Attachment] = []  # what attach() returned, the last of them at least
        self._known: tuple[list[tuple], list[Matrix]] | None = None  # the projector as it was looked up last, and its matrices
        self._watched: dict[str, tuple[int, Tensor]] = {}  # of half-precision layers: steps seen, whether one moved (on the device)
        self.parameters()

    @property
    def lam(self) -> float:
        """λ, a number of at least 0. Set it between steps; `lam_at` gives the values of a schedule."""
        return self._lam

    @lam.setter
    def lam(self, lam: float) -> None:
        number = plain_number(lam)
        if number is None or number < 0:
            optimizer = isinstance(lam, torch.optim.Optimizer)
            what = f"the optimizer {type(lam).__name__}, which goes to attach()" if optimizer else shown(lam)
            raise SparseheadError(f"lam must be a finite number of at least 0, given {what}.")
        self._lam = number

    def parameters(self) -> list[nn.Parameter]:
        """The penalised weights, in the order of `projector.modules()`; [] only for λ = 0.

        A weight with a parametrization (weight_norm) is the computed tensor, not a parameter.
        """
        return [each.stored for each in self.matrices()]

    def matrices(self) -> list[Matrix]:
        """The penalised weights with their layers' names, in the order of `projector.modules()`; [] only for λ = 0."""
        if self._known and is_unchanged(self.projector, self._known[0]):
            return list(self._known[1])
        found = self._penalised()
        if self.lam > 0 and not torch.compiler.is_compiling():  # __init__ has looked, and a compiler knows no addresses
            _require_apart(found)
        if not found and self.lam > 0:
            if isinstance(self.projector, RawMatrices) and not self.projector.names:
                raise SparseheadError("the dict of matrices is empty: give SparseHead a matrix [out, in] by name, or set lam to 0.")
            kind = "the dict of matrices" if isinstance(self.projector, RawMatrices) else type(self.projector).__name__
            if any(is_linear(module) for module in self.projector.modules()):
                raise SparseheadError(
                    f"every linear layer of {kind} is frozen (requires_grad=False), so SparseHead has nothing to penalise: let one "
                    "be trained, or set lam to 0."
                )
            raise SparseheadError(
                f"{kind} has no trainable nn.Linear or 1x1 nn.Conv2d layer for SparseHead to penalise: "
                "give it one, name the matrices themselves (a dict name -> nn.Parameter), or set lam to 0."
            )
        # Weights that are computed from others are other tensors each time, and a compiler must not hold on to any.
        plain = self.lam > 0 and all(isinstance(each.stored, nn.Parameter) for each in found)
        read_off = outline(self.projector) if plain and not torch.compiler.is_compiling() else None
        self._known = (read_off, found) if read_off else None
        return found

    def weights(self) -> list[Tensor]:
        """The penalised weights as matrices [out, in], sharing memory with the parameters."""
        return [each.values for each in self.matrices()]

    def active_groups(self) -> dict[str, tuple[int, int]]:
        """layer's name -> (groups whose norm is above 1 % of the largest in the layer, all of its groups); for the log."""
        with torch.no_grad():
            weights = {each.name: each.values for each in self.matrices()}
            return {name: (int(active_groups(w, self.groups)), w.shape[1 - GROUPS[self.groups]]) for name, w in weights.items()}

    def value_of_penalty(self) -> Tensor:
        """Σ_l P(W_l), without λ, []; for the log. 0 where nothing is penalised. Half-precision weights are summed in float32."""
        values = [of_all_parts(self._value_of, weight) for weight in self.weights()]
        return torch.stack(values).sum() if values else self._zero()

    def _value_of(self, weight: Tensor) -> Tensor:
        return self._penalty.value(_at_least_float32(weight), self.groups)

    def penalty(self) -> Tensor:
        """λ · Σ_l P(W_l), [], to add to the loss. Exactly 0, without a graph, for λ = 0 and for the proximal solver.

        Raises: SparseheadError for a proximal SparseHead that is attached to no optimizer, or to none any more.
        """
        if self.lam > 0 and self.solver == "proximal" and self._unattached():
            raise SparseheadError(
                f"this proximal SparseHead is attached to no optimizer{self._any_more()}, so nothing is penalised: call "
                'attach(optimizer) once before training, or use solver="subgradient" for a penalty in the loss.'
            )
        if self.lam == 0 or self.solver == "proximal":
            return self._zero()
        return self.lam * self.value_of_penalty()

    def attach(self, *optimizers: torch.optim.Optimizer) -> Attachment:
        """Apply the proximal map after every `optimizer.step()`, with each weight's own current learning rate.

        For SGD this is the proximal gradient method. For adaptive optimizers it is the decoupled form, as AdamW decouples
        weight decay: the shrink is lr · lam, not rescaled by the preconditioner. Adam moves every weight by about lr a
        step however small its gradient, a group of n weights by up to lr · √n, so there a λ below about √n shrinks norms but
        makes no exact zeros. Where several optimizers share the weights, as Muon and AdamW often do, give them all at once:
        attach(muon, adamw). The wrappers of accelerate, Hugging Face's Trainer and Lightning stand for the optimizer inside.
        Returns what ends it by `remove()`, or by leaving `with`. A copy of an attached SparseHead is not attached.
        Raises: SparseheadError for the subgradient solver, what is no optimizer or does not run torch's hooks, one without "lr", a
        weight that an attached SparseHead shrinks with this optimizer already, and a penalised weight that none of the
        optimizers trains or that is computed from others.
        """
        if self.solver != "proximal":
            raise SparseheadError(
                'attach() is the proximal solver: use SparseHead(..., solver="proximal"), or add penalty() to the loss.'
            )
        attachment = attach(self, optimizers)
        self._attachments = [*(each for each in self._attachments if each.is_alive()), attachment]
        return attachment

    def _unattached(self) -> bool:
        """Whether the proximal map is never applied: no optimizer has its hook, and nobody calls shrink() instead."""
        alive = any(each.is_alive() for each in self._attachments)
        return not alive and bool(self._attachments or not self.steps)

    def _any_more(self) -> str:
        return " any more (it was removed, or the optimizer made anew)" if self._attachments else ""

    @torch.no_grad()
    def shrink(self, *optimizers: torch.optim.Optimizer) -> None:
        """One proximal step W ← prox(W, lr · lam) on every penalised weight, in place, with the rates of the optimizers given.

        `attach` calls it; call it yourself after the step() of an optimizer that knows no hooks.
        Raises: SparseheadError as attach(). Warns of half-precision weights that none of their first 100 steps could change.
        """
        if self.lam > 0:
            self.shrink_weights(learning_rates(self.matrices(), require_optimizers(optimizers)))

    @torch.no_grad()
    def shrink_weights(self, rates: list[tuple[Matrix, float | Tensor]]) -> None:
        """W ← prox(W, lr · lam) in place, for pairs of a matrix and its learning rate."""
        prox = self._penalty.prox
        for weight, rate in rates:
            values = _at_least_float32(weight.values)
            shrunk = prox(values, rate * self.lam, self.groups)
            if values.dtype != weight.values.dtype and self.penalty_name != "none" and (isinstance(rate, Tensor) or rate > 0):
                self._watch(weight, shrunk, rate)
            weight.values.copy_(shrunk)
        self.steps += 1

    def _watch(self, weight: Matrix, shrunk: Tensor, rate: float | Tensor) -> None:
        """Say of a half-precision layer that did not move in its first PATIENCE steps of lr · lam > 0 that nothing shrinks it.

        A weight that is all zero has nothing to lose and counts as moved. A warning and no error, since a rate that is still
        warming up may move it later; and never after the first steps, since a schedule may end in rates that move nothing. The
        device is waited for once a layer.
        """
        seen, moved = self._watched.get(weight.name, (0, torch.zeros((), dtype=torch.bool, device=shrunk.device)))
        if seen == PATIENCE:
            return
        before = weight.values
        seen, moved = seen + 1, moved | (before != shrunk.to(before.dtype)).any() | ~before.any()
        self._watched[weight.name] = seen, moved
        if seen < PATIENCE or moved:
            return
        if float(rate) == 0:  # a rate on the device, of which only now is known that it was no step
            del self._watched[weight.name]
            return
        dtype = str(before.dtype).removeprefix("torch.")
        warnings.warn(
            f'none of the first {PATIENCE} proximal steps changed a weight of layer "{weight.name}": lr · lam '
            f"({float(rate) * self.lam:.2g} now) is below what {dtype} resolves, so unless it rises nothing shrinks. Keep these "
            "weights in float32 (under autocast the arithmetic stays in half precision), or raise lam.",
            stacklevel=2,
        )

    def prune(self, threshold: float = 0.0) -> nn.Sequential:
        """A physically smaller projector with the same embedding in eval mode; what and how: see `prune_projector`.

        By exact zeros in every layer, penalised or not. With a threshold above 0 the groups of norm <= threshold · the
        largest in their layer count as zero, and the embedding is an approximation.
        Raises: SparseheadError for a projector of which no smaller copy gives the same embedding, saying why.
        """
        return prune_projector(self.projector, threshold, self.groups)

    def load_pruned(self, state: dict[str, Tensor]) -> nn.Sequential:
        """What prune() gave, from its saved `state_dict()`, for a projector of the same architecture, trained or not."""
        return load_pruned(self.projector, state)

    def __repr__(self) -> str:
        penalised = {each.name: each.values for each in self._penalised()}
        head = f"lam={self.lam:g}, penalty={self.penalty_name}, groups={self.groups}, layers={self.layers}, solver={self.solver}"
        lines = [
            f"  {name}: {type(module).__name__}, "
            + (_shape(penalised[name], self.groups) if name in penalised else _why_not(module, self.layers))
            for name, module in self._named_parts()
            if _has_weights(module)
        ]
        if self.solver == "proximal" and self._unattached():
            lines.append(f"  attached to no optimizer{self._any_more()}: nothing shrinks before attach(optimizer)")
        return "\n".join([f"SparseHead({head})", *lines])

    def _named_parts(self) -> list[tuple[str, nn.Module | nn.Parameter]]:
        if isinstance(self.projector, RawMatrices):
            return list(zip(self.projector.names, self.projector.matrices, strict=True))
        return named_layers(self.projector)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "steps": 0, "_attachments": [], "_watched": {}, "_known": None}  # a copy is attached to nothing

    def _penalised(self) -> list[Matrix]:
        return matrices(self.projector)[: 1 if self.layers == "first" else None]

    def _zero(self) -> Tensor:
        some = next((tensor for tensors in (self.projector.parameters(), self.projector.buffers()) for tensor in tensors), None)
        return torch.zeros((), device=None if some is None else some.device)


def _module(projector: object) -> nn.Module:
    """What the user calls a projector as a module, raw matrices under their names."""
    if isinstance(projector, nn.Parameter):
        return RawMatrices({"projector": projector})
    if isinstance(projector, nn.ParameterList | nn.ParameterDict):
        return RawMatrices(dict(projector.named_parameters()))
    if isinstance(projector, Mapping):
        return RawMatrices(projector)
    if not isinstance(projector, nn.Module):
        where = ", which goes to attach()" if isinstance(projector, torch.optim.Optimizer) else ""
        raise SparseheadError(
            f"the projector must be an nn.Module, an nn.Parameter or a dict name -> nn.Parameter, given a "
            f"{type(projector).__name__}{where}."
        )
    return projector


def _require_apart(found: list[Matrix]) -> None:
    """Raises: SparseheadError for two parameters over the same memory, which would both be penalised and shrunk."""
    if pair := overlap([each.stored for each in found]):
        one, two = (found[i].name for i in pair)
        raise SparseheadError(
            f'the weights of "{one}" and "{two}" are two parameters over the same memory, which would be penalised twice: let both '
            "layers have the same nn.Parameter, give one a copy (nn.Parameter(weight.detach().clone())), or penalise one layer "
            "alone: SparseHead(layer, …)."
        )


def outline(projector: nn.Module) -> list[tuple[nn.Module, nn.Parameter, bool, int]] | None:
    """What the matrices of a projector are read off: (module, parameter, whether it is trained, where it lies) of each.

    None where a parameter has no place of its own, as in a lazy layer that has not seen a batch, or one that is sharded.
    """
    entries = []
    for module in projector.modules():
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            if type(parameter) is not nn.Parameter:
                return None
            entries.append((module, parameter, parameter.requires_grad, parameter.data_ptr()))
    return entries


def is_unchanged(projector: nn.Module, before: list[tuple[nn.Module, nn.Parameter, bool, int]]) -> bool:
    """Whether a projector has the modules and parameters of an `outline`, in their places, frozen or not as they were."""
    if torch.compiler.is_compiling():
        return False
    rest = iter(before)
    for module in projector.modules():
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            was_in, was, trained, place = next(rest, (None, None, False, 0))
            if was_in is not module or was is not parameter or type(parameter) is not nn.Parameter:
                return False
            if parameter.requires_grad != trained or parameter.data_ptr() != place:
                return False
    return next(rest, None) is None


def _at_least_float32(weight: Tensor) -> Tensor:
    return weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight


def _has_weights(module: nn.Module | nn.Parameter) -> bool:
    """Whether a module has weights of its own that could be penalised: anything with two dimensions or more."""
    if isinstance(module, nn.Parameter):
        return True
    if isinstance(module, ParametrizationList):
        return False  # its layer is listed
    own = module.parameters(recurse=False)
    wide = (isinstance(p, nn.UninitializedParameter) or p.dim() > 1 for p in own)
    return is_linear(module) or is_parametrized(module, "weight") or any(wide)


def _shape(weights: Tensor, groups: str) -> str:
    count = group_norms(weights, groups).numel()
    return f"{count} {groups} groups of {weights.numel() // count} weights penalised"


def _why_not(module: nn.Module | nn.Parameter, layers: str) -> str:
    if isinstance(module, nn.Parameter):
        trainable = module.requires_grad
    elif isinstance(module, CONVOLUTIONS) and not is_linear(module):
        kernel = "x".join(map(str, module.kernel_size))
        return f"not penalised: a {'grouped ' if module.groups > 1 else ''}{kernel} convolution"
    elif not is_linear(module):
        return "not penalised: not a linear layer"
    else:
        trainable = is_trainable(module)
    if not trainable:
        return "not penalised: frozen"
    return "not penalised: " + ("not the first layer" if layers == "first" else "shares its weight with a layer above")


PATIENCE = 100  # proximal steps in which half precision must let something move
