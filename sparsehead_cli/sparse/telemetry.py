"""How sparse a head is: by the norms of its groups, and by what it does."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress

import numpy as np
import torch
from torch import Tensor, nn

from sparsehead_cli.errors import SparseheadError, shown
from sparsehead_cli.sparse.chain import is_elementwise
from sparsehead_cli.sparse.layers import is_linear, linear_layers, matrix, unwrap
from sparsehead_cli.sparse.penalties import active_groups, group_norms
from sparsehead_cli.sparse.sparse_head import SparseHead

TOLERANCE = 0.01  # relative error of the embedding that a functionally inactive input may cause
ROUNDING = 1e-6  # of the embedding: what varies by no more does not vary
DENSE = 512  # inputs or outputs of a layer up to which all of its singular values are computed, the largest among them
DEAD_SHARE = 1e-6  # a unit is dead when its standard deviation is at most this share of the largest in its layer


@torch.no_grad()
def stable_rank(weight: Tensor) -> float:
    """‖W‖_F² / ‖W‖₂² of a weight [out, in]: from 1 to its rank; NaN for a zero weight and for one that is not finite.

    Of a wide weight the largest singular value alone is computed, to about six digits, by products of the weight and a vector:
    all of them would take out · in · min(out, in) steps. The same each time.
    """
    largest = weight.abs().max()
    if not (weight.isfinite().all() and largest > 0):
        return torch.nan
    weight = weight / largest  # squares of small numbers would be 0
    norm = torch.linalg.vector_norm(weight).item()
    if min(weight.shape) > DENSE:
        from scipy.sparse.linalg import ArpackError, svds  # takes a moment to import, and a narrow head needs none of it

        start = np.random.default_rng(0).standard_normal(min(weight.shape))
        with suppress(ArpackError):  # it knows no way on where very few of the singular values differ, as those of an identity
            values = svds(weight.float().cpu().numpy(), k=1, tol=1e-4, v0=start, return_singular_vectors=False)
            return float((norm / values[0]) ** 2)
    return (norm / torch.linalg.matrix_norm(weight, ord=2).item()) ** 2


@torch.no_grad()
def relative_l21(weight: Tensor) -> float:
    """‖W‖₂,₁ / (√in · ‖W‖_F) of a weight [out, in]: 1 where all columns are alike, 1/√in where one has everything, at any scale.

    NaN for a zero weight. A penalty that only makes weights smaller leaves it as it is. Source: Hurley & Rickard 2009, the ratio of
    the l1 and the l2 norm, of the columns' norms.
    """
    norms = group_norms(weight.double(), "input")
    return (norms.mean() / norms.square().mean().sqrt()).item()


@torch.no_grad()
def functional_inputs(projector: nn.Module, layer: nn.Module, r: Tensor, tolerance: float = TOLERANCE) -> int | None:
    """The fewest inputs of `layer` that keep the embedding of r [N, D] within `tolerance`, an upper bound found by bisection.

    `layer` is a module inside the projector that reads features [N, in] or channels [N, in, h, w], or the projector itself.
    Inputs are ranked by what they contribute, the column's norm times the input's standard deviation (that alone for a
    layer that is not linear; for a projector without linear layers, by how far the embedding moves without them), and
    dropped from the end of that list; a dropped input is replaced by its mean over the samples (which pruning folds into
    the bias). The error is ‖z_kept - z‖_F / ‖z - mean(z)‖_F. Unlike the norms this cannot be fooled by a BatchNorm that undoes
    a layer's scale. `projector` must be in eval mode. None for an embedding that does not vary:
    there is nothing to keep then.

    Raises: SparseheadError for a layer that the projector does not use.
    """
    layer = unwrap(layer)
    z, seen = _observe(projector, [layer], r)
    inputs, _ = seen[layer]
    if is_linear(layer):
        influence = inputs.std(dim=0, correction=0) * group_norms(matrix(layer), "input")
    else:
        influence = _influence(projector, r) if layer is unwrap(projector) else inputs.std(dim=0, correction=0)
    order = influence.argsort(descending=True)
    shape = _channel_shape(layer)
    mean = inputs.mean(dim=0)
    scale = torch.linalg.vector_norm(z - z.mean(dim=0))
    if scale <= ROUNDING * torch.linalg.vector_norm(z):
        return None

    def close_enough(k: int) -> bool:
        kept = torch.zeros_like(mean, dtype=torch.bool).index_fill_(0, order[:k], True)
        masked = _with_input(projector, layer, r, lambda x: torch.where(kept.view(shape), x, mean.view(shape)))
        return bool(torch.linalg.vector_norm(masked - z) <= tolerance * scale)

    low, high = 0, len(order)  # `high` inputs are always enough
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if close_enough(middle) else (middle + 1, high)
    return high


@torch.no_grad()
def layer_sparsity(sparse: SparseHead, r: Tensor) -> list[dict[str, object]]:
    """One row per linear layer of the projector, penalised or not, in its order, for r [N, D] and a projector in eval mode.

    layer, its name; inputs, active_inputs (column norm above 1 % of the largest), functional_inputs (see there); outputs,
    active_outputs (row norm), dead_outputs: units that do not vary over the samples as the next linear layer, or the
    embedding, sees them, after BatchNorm and ReLU (where the widths differ: as the layer puts them out); stable_rank; weight_norm,
    the Frobenius norm; relative_l21: see there.
    """
    layers = linear_layers(sparse.projector)
    z, seen = _observe(sparse.projector, [layer for _, layer in layers], r)
    readings = [seen[layer][0] for _, layer in layers[1:]] + [z.flatten(1)]
    rows = []
    for (name, layer), reading in zip(layers, readings, strict=False):
        weight, own = matrix(layer), seen[layer][1]
        outputs, inputs = weight.shape
        rows.append(
            {
                "layer": name,
                "inputs": inputs,
                "active_inputs": int(active_groups(weight, "input")),
                "functional_inputs": functional_inputs(sparse.projector, layer, r),
                "outputs": outputs,
                "active_outputs": int(active_groups(weight, "output")),
                "dead_outputs": _dead(reading if reading.shape[1] == outputs else own),
                "stable_rank": stable_rank(weight),
                "weight_norm": torch.linalg.vector_norm(weight.float()).item(),
                "relative_l21": relative_l21(weight),
            }
        )
    return rows


@torch.no_grad()
def head_sparsity(sparse: SparseHead, r: Tensor, layers: list[dict[str, object]] | None = None) -> dict[str, float | None]:
    """The sparsity columns of metrics.csv, for representations r [N, D] and a projector in eval mode.

    n_groups, active_groups: of all penalised layers, by norm. n_features, active_features: inputs of the first linear layer, by
    norm. functional_features: its functional_inputs. Without linear layers: the D features of r, and those that matter to z.
    `layers`: what layer_sparsity(sparse, r) gave, where it is at hand, so that nothing is measured twice.
    """
    weights = sparse.weights()
    linear = linear_layers(sparse.projector)
    read = active_groups(matrix(linear[0][1]), "input") if linear else (_influence(sparse.projector, r) > 0).sum()
    first = linear[0][1] if linear else unwrap(sparse.projector)
    return {
        "penalty_value": sparse.value_of_penalty().item(),
        "n_groups": sum(group_norms(w, sparse.groups).numel() for w in weights),
        "active_groups": sum(int(active_groups(w, sparse.groups)) for w in weights),
        "n_features": matrix(first).shape[1] if linear else r.shape[1],
        "active_features": int(read),
        "functional_features": layers[0]["functional_inputs"] if layers else functional_inputs(sparse.projector, first, r),
    }


def _influence(projector: nn.Module, r: Tensor) -> Tensor:
    """How far the embedding moves when a feature of r [N, D] is replaced by its mean, feature by feature, [D].

    Where each number of the embedding is made of the feature in its place alone, all features are replaced at once: N · D numbers
    are looked at instead of N · D².
    """
    projector = unwrap(projector)
    z, mean = projector(r.clone()), r.mean(dim=0)
    features = torch.arange(r.shape[1], device=r.device)
    if is_elementwise(projector):
        moved = torch.linalg.vector_norm(projector(mean.expand_as(r).clone()) - z, dim=0)
        return nn.functional.pad(moved, (0, len(features) - len(moved)))
    return torch.stack([torch.linalg.vector_norm(projector(torch.where(features == j, mean, r)) - z) for j in features])


def _observe(projector: nn.Module, layers: list[nn.Module], r: Tensor) -> tuple[Tensor, dict[nn.Module, tuple[Tensor, Tensor]]]:
    """The embedding of r, and layer -> (inputs [n, in], outputs [n, out]); n counts samples, for a convolution positions too."""
    inputs: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}
    outputs: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}
    with _uncompiled(), ExitStack() as hooks:
        for layer in layers:
            before = layer.register_forward_pre_hook(lambda layer, args: inputs[layer].append(_rows(layer, args[0])))
            after = layer.register_forward_hook(lambda layer, args, output: outputs[layer].append(_rows(layer, output)))
            hooks.enter_context(before)
            hooks.enter_context(after)
        z = unwrap(projector)(r.clone())  # its first layer may work in place
    for layer in layers:
        if not inputs[layer]:
            raise SparseheadError(
                f"cannot measure {shown(layer)}: the projector does not call it; give a layer that its forward() runs as a module."
            )
    return z, {layer: (torch.cat(inputs[layer]), torch.cat(outputs[layer])) for layer in layers}


def _with_input(projector: nn.Module, layer: nn.Module, r: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The embedding of r with `change` done to what `layer` reads."""
    with _uncompiled(), layer.register_forward_pre_hook(lambda layer, args: (change(args[0]), *args[1:])):
        return unwrap(projector)(r.clone())


def _uncompiled() -> AbstractContextManager:
    """Code that torch.compile has compiled does not see new hooks; here it runs as it was written.

    Where the compiler was never imported, which takes two seconds, it has compiled nothing.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _channel_shape(layer: nn.Module) -> tuple[int, ...]:
    """The shape that broadcasts one number an input, [in], over what the layer reads."""
    return (-1, *(1 for _ in layer.kernel_size)) if _is_convolution(layer) else (-1,)


def _rows(layer: nn.Module, x: Tensor) -> Tensor:
    """[N, units, ...] of a convolution, [N, ..., units] of others -> [n, units], a copy since the next may work in place."""
    units_last = x.movedim(1, -1) if _is_convolution(layer) else x
    return units_last.flatten(0, -2).clone()


def _is_convolution(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)


def _dead(values: Tensor) -> int:
    """How many units do not vary, [n, units] -> int."""
    std = values.std(dim=0, correction=0)
    return int((std <= DEAD_SHARE * std.max()).sum())
