"""Make a sparse projector physically smaller: the same embedding from fewer numbers."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.sparse.layers import unwrap
from sparsehead_cli.sparse.penalties import GROUPS, group_norms


class SelectFeatures(nn.Module):
    """Keep some features of a representation, [B, D] -> [B, len(index)]."""

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, r: Tensor) -> Tensor:
        return r[:, self.index]

    def extra_repr(self) -> str:
        return f"{len(self.index)} features"


@torch.no_grad()
def prune_projector(projector: nn.Module, threshold: float = 0.0, groups: str = "input") -> nn.Sequential:
    """A smaller copy of an MLP projector, [B, D] -> [B, E], equal in eval mode: SelectFeatures, then the layers that are left.

    Removed, over and over until nothing changes: input features and hidden units that the next Linear does not read (a zero
    column), and hidden units that read nothing (a zero row): their output is a constant, which goes into the next
    Linear's bias, made where there is none. Outputs are never removed, and of each layer's inputs at least one is kept.
    With a threshold above 0 the `groups` of norm <= threshold · the largest in their layer count as zero, in every Linear;
    then the embedding is an approximation. `projector` is a Linear or a Sequential of Linear, BatchNorm1d and elementwise
    modules, nested or wrapped; it is left as it is.

    Raises: SparseheadError for any other module, and for a threshold outside [0, 1).
    """
    if not 0 <= threshold < 1:
        raise SparseheadError(f"the pruning threshold is a share of the largest norm in [0, 1), given {threshold!r}.")
    projector = unwrap(projector)
    modules = [_copy(module) for module in _chain(projector)]
    linears = [module for module in modules if isinstance(module, nn.Linear)]
    if linears:
        for linear in linears:
            norms = group_norms(linear.weight, groups).unsqueeze(GROUPS[groups])
            linear.weight.masked_fill_(norms <= threshold * norms.max(), 0)
        modules.insert(0, SelectFeatures(torch.arange(linears[0].in_features, device=linears[0].weight.device)))
        places = [i for i, module in enumerate(modules) if isinstance(module, SelectFeatures | nn.Linear)]
        while any(_drop_units(modules[a], modules[a + 1 : b], modules[b]) for a, b in pairwise(places)):
            pass  # a unit removed may leave others that are not read, or read nothing
    pruned = nn.Sequential(*modules)
    pruned.training = projector.training
    return pruned


def _chain(module: nn.Module) -> list[nn.Module]:
    """The modules that act one after the other, nested Sequentials laid flat."""
    if isinstance(module, nn.Sequential):
        return [inner for outer in module for inner in _chain(outer)]
    if isinstance(module, BATCH_NORM) and module.running_mean is None:
        raise SparseheadError("cannot prune past a batch norm without running statistics; use track_running_stats=True.")
    if not isinstance(module, nn.Linear | BATCH_NORM | ELEMENTWISE):
        raise SparseheadError(
            f"cannot prune past {type(module).__name__}; a projector to prune is a Linear or a Sequential of Linear, BatchNorm1d "
            "and elementwise activations."
        )
    return [module]


def _copy(module: nn.Module) -> nn.Module:
    if not isinstance(module, nn.Linear):
        return copy.deepcopy(module)
    # a new layer, because the weight may be a computed one
    linear = nn.utils.skip_init(nn.Linear, module.in_features, module.out_features, bias=False, device=module.weight.device)
    linear.weight = _parameter(module.weight, like=module.weight)
    linear.bias = None if module.bias is None else _parameter(module.bias, like=module.bias)
    linear.training = module.training
    return linear


def _parameter(value: Tensor, *, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(), requires_grad=like.requires_grad)


def _drop_units(first: nn.Module, between: list[nn.Module], last: nn.Linear) -> bool:
    """Remove in place the units from `first` to `last` that make no difference; whether there were any."""
    unread = (last.weight == 0).all(dim=0)
    constant = (first.weight == 0).all(dim=1) if isinstance(first, nn.Linear) else torch.zeros_like(unread)
    drop = unread | constant
    if drop.all():
        drop[0] = False  # torch allows a Linear without inputs, but few who read it or export it do
    if not drop.any():
        return False
    if (folded := drop & constant & ~unread).any():
        _fold(folded, first, between, last)
    kept = (~drop).nonzero().squeeze(1)
    for module in (first, *between):
        _keep_outputs(module, kept)
    last.weight = _parameter(last.weight[:, kept], like=last.weight)
    last.in_features = len(kept)
    return True


def _fold(folded: Tensor, first: nn.Linear, between: list[nn.Module], last: nn.Linear) -> None:
    """Add what the constant units `folded` [units] contribute to the bias of `last`."""
    start = first.weight.new_zeros(first.out_features) if first.bias is None else first.bias
    constants = copy.deepcopy(nn.Sequential(*between)).eval()(start.clone()[None])[0]
    shift = (last.weight * torch.where(folded, constants, 0)).sum(dim=1)
    last.bias = _parameter(shift, like=last.weight) if last.bias is None else _parameter(last.bias + shift, like=last.bias)


def _keep_outputs(module: nn.Module, kept: Tensor) -> None:
    """Keep some of the units that a module puts out, in place; elementwise modules need no change."""
    if isinstance(module, SelectFeatures):
        module.index = module.index[kept]
    elif isinstance(module, nn.Linear):
        module.out_features = len(kept)
    elif isinstance(module, BATCH_NORM):
        module.num_features = len(kept)
        module.running_mean, module.running_var = module.running_mean[kept], module.running_var[kept]
    if isinstance(module, nn.Linear | BATCH_NORM):
        for name in ("weight", "bias"):
            if (old := getattr(module, name)) is not None:
                setattr(module, name, _parameter(old[kept], like=old))


BATCH_NORM = nn.BatchNorm1d | nn.SyncBatchNorm  # what several processes train with
ELEMENTWISE = (
    nn.ReLU
    | nn.ReLU6
    | nn.LeakyReLU
    | nn.ELU
    | nn.CELU
    | nn.SELU
    | nn.GELU
    | nn.SiLU
    | nn.Mish
    | nn.Softplus
    | nn.Softsign
    | nn.Tanh
    | nn.Hardtanh
    | nn.Hardswish
    | nn.Hardsigmoid
    | nn.Sigmoid
    | nn.Dropout
    | nn.Identity
)
