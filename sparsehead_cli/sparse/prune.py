"""Make a sparse projector physically smaller: the same embedding from fewer numbers."""

import copy
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from sparsehead_cli.errors import SparseheadError, shown
from sparsehead_cli.sparse.chain import BATCH_NORMS, CONVOLUTIONS, LAYERS, Chain, chain_of
from sparsehead_cli.sparse.layers import eval_mode, is_trainable, linear_layers, unwrap, weight_of
from sparsehead_cli.sparse.numbers import plain_number
from sparsehead_cli.sparse.penalties import GROUPS, group_norms
from sparsehead_cli.sparse.select import SelectFeatures


@torch.inference_mode(False)  # what is made within it could not be trained
@torch.no_grad()
def prune_projector(projector: nn.Module, threshold: float = 0.0, groups: str = "input") -> nn.Sequential:
    """A smaller copy of an MLP projector, [..., D] -> [..., E], equal in eval mode: SelectFeatures, then the layers that are left.

    Removed, over and over until nothing changes: input features and hidden units that the next layer does not read (a zero
    column), and hidden units that read nothing (a zero row): their output is a constant, which goes into the next
    layer's bias, made where there is none. Outputs are never removed, and of each layer's inputs at least one is kept.
    With a threshold above 0 the `groups` of norm <= threshold · the largest in their layer count as zero, in every layer;
    then the embedding is an approximation. With threshold 0 the copy is compared with the projector on random batches
    before it is handed out. `projector` is a Linear or a Sequential, nested or wrapped, of Linear layers (or 1x1
    convolutions, [B, D, ...] -> [B, E, ...]), BatchNorm and elementwise modules; modules without weights may come before and
    after. It is left as it is.

    Raises: SparseheadError for any other module, and for a threshold outside [0, 1).
    """
    number = plain_number(threshold)
    if number is None or not 0 <= number < 1:
        raise SparseheadError(f"the pruning threshold is a share of the largest norm in [0, 1), given {shown(threshold)}.")
    chain = _copied(projector)
    layers = [module for module in chain.core if isinstance(module, LAYERS)]
    for layer in layers:
        norms = group_norms(layer.weight.flatten(1), groups)
        zero = (norms <= number * norms.max()).unsqueeze(GROUPS[groups])
        layer.weight.masked_fill_(zero.view(*zero.shape, *_ones(layer)), 0)
    places = [i for i, module in enumerate(chain.core) if isinstance(module, (SelectFeatures, *LAYERS))]
    while any(_drop_units(chain.core[a], chain.core[a + 1 : b], chain.core[b]) for a, b in pairwise(places)):
        pass  # a unit removed may leave others that are not read, or read nothing
    pruned = _joined(chain, projector)
    if number == 0 and layers:
        _require_same(pruned, unwrap(projector), chain.core[0], layers[0])
    return pruned


@torch.inference_mode(False)
@torch.no_grad()
def load_pruned(projector: nn.Module, state: dict[str, Tensor]) -> nn.Sequential:
    """The pruned copy of `projector` whose `state_dict()` is `state`: the projector's modules in the state's sizes.

    Raises: SparseheadError for a state of anything else, also of a projector with other inputs or outputs.
    """
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise SparseheadError(
            f"load_pruned() takes the state_dict() of a pruned head, as torch.load gives it, given {shown(state)}."
        )
    chain = _copied(projector)
    before = _ends(chain)
    for i, module in enumerate(chain.core, len(chain.before)):
        prefix = f"{i}."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix) and torch.is_tensor(value)}
        _resize(module, own)
    pruned = _joined(chain, projector)
    try:
        pruned.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        reason = _longer_names(pruned, state) or " ".join(str(error).split())
        raise SparseheadError(f"this state is not of a pruned copy of this {type(projector).__name__}: {reason}") from None
    if (after := _ends(chain)) != before:
        raise SparseheadError(
            "this state is of a pruned head of {} features and {} outputs, but the projector has {} features and {} outputs: give "
            "SparseHead the modules in the sizes that they had before prune().".format(*after, *before)
        )
    select = next((module for module in chain.core if isinstance(module, SelectFeatures)), None)
    if select is not None and not ((select.index >= 0) & (select.index < select.features)).all():
        raise SparseheadError(f"this state reads features that the projector, which takes {select.features}, does not have.")
    return pruned


def _longer_names(pruned: nn.Module, state: Mapping[str, object]) -> str:
    """What to do where the state is of a whole model, in which the head's keys begin with its name there; "" where it is not."""
    wanted = list(pruned.state_dict())
    names = {key.removesuffix(wanted[0]) for key in state if wanted and key.endswith(f".{wanted[0]}")}
    name = next((name for name in sorted(names) if all(f"{name}{key}" in state for key in wanted)), "")
    if not name:
        return ""
    return (
        f'its keys begin with "{name}", as in the state_dict() of a whole model. Give the head\'s part of it: '
        f'{{key.removeprefix("{name}"): value for key, value in state.items() if key.startswith("{name}")}}'
    )


def _ends(chain: Chain) -> tuple[int, int] | None:
    """How many features the core takes before it selects, and how many outputs it has: pruning changes neither."""
    layers = [module for module in chain.core if isinstance(module, LAYERS)]
    return (int(chain.core[0].width), layers[-1].weight.shape[0]) if layers else None


def _copied(projector: nn.Module) -> Chain:
    """The projector's chain as copies that may be cut, its core begun by a SelectFeatures."""
    layers = linear_layers(projector)  # says what is wrong with a weight that is no whole matrix
    if any(tensor.is_meta for _, layer in layers for tensor in layer.parameters()):
        raise SparseheadError("cannot prune a projector on the meta device, whose weights have no values: load them first.")
    before, core, after = chain_of(projector)
    modules = [_copy(module) for module in core]
    if modules and not isinstance(modules[0], SelectFeatures):
        first = next(module for module in modules if isinstance(module, LAYERS))
        width = first.weight.shape[1]
        dim = 1 if isinstance(first, CONVOLUTIONS) else -1
        modules.insert(0, SelectFeatures(torch.arange(width, device=first.weight.device), width, dim))
    return Chain([copy.deepcopy(m) for m in before], modules, [copy.deepcopy(m) for m in after])


def _joined(chain: Chain, projector: nn.Module) -> nn.Sequential:
    pruned = nn.Sequential(*chain.before, *chain.core, *chain.after)
    pruned.training = projector.training
    return pruned


def _copy(module: nn.Module) -> nn.Module:
    if not isinstance(module, LAYERS):
        return copy.deepcopy(module)
    # a new layer, because the weight may be a computed one
    weight = weight_of(module)
    kind = next(kind for kind in LAYERS if isinstance(module, kind))
    sizes, options = (weight.shape[1], weight.shape[0]), {"bias": False, "device": weight.device}
    if kind is not nn.Linear:
        options |= {"kernel_size": 1, "stride": module.stride}
    layer = nn.utils.skip_init(kind, *sizes, **options)
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=is_trainable(module))
    with eval_mode(module):
        bias = module.bias
    trained = bias is not None and (bias.requires_grad or is_parametrized(module, "bias"))
    layer.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=trained)
    layer.training = module.training
    return layer


def _parameter(value: Tensor, *, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(), requires_grad=like.requires_grad)


def _ones(layer: nn.Module) -> tuple[int, ...]:
    """The shape of a 1x1 kernel; () for Linear."""
    return (1,) * (layer.weight.dim() - 2)


def _drop_units(first: nn.Module, between: list[nn.Module], last: nn.Module) -> bool:
    """Remove in place the units from `first` to `last` that make no difference; whether there were any."""
    unread = (last.weight.flatten(1) == 0).all(dim=0)
    constant = (first.weight.flatten(1) == 0).all(dim=1) if isinstance(first, LAYERS) else torch.zeros_like(unread)
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
    _state_sizes(last)
    return True


def _fold(folded: Tensor, first: nn.Module, between: list[nn.Module], last: nn.Module) -> None:
    """Add what the constant units `folded` [units] contribute to the bias of `last`."""
    start = first.weight.new_zeros(len(folded)) if first.bias is None else first.bias
    batch = start.clone().view(1, -1, *_ones(first))
    constants = copy.deepcopy(nn.Sequential(*between)).eval()(batch).flatten()
    shift = (last.weight.flatten(1) * torch.where(folded, constants, 0)).sum(dim=1)
    last.bias = _parameter(shift, like=last.weight) if last.bias is None else _parameter(last.bias + shift, like=last.bias)


def _keep_outputs(module: nn.Module, kept: Tensor) -> None:
    """Keep some of the units that a module puts out, in place; most elementwise modules need no change."""
    if isinstance(module, SelectFeatures):
        module.index = module.index[kept]
    elif isinstance(module, BATCH_NORMS):
        module.running_mean, module.running_var = module.running_mean[kept], module.running_var[kept]
    if isinstance(module, (*LAYERS, *BATCH_NORMS)) or (isinstance(module, nn.PReLU) and module.num_parameters > 1):
        for name, old in list(module.named_parameters(recurse=False)):
            setattr(module, name, _parameter(old[kept], like=old))
    _state_sizes(module)


def _resize(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give a module of the core tensors of the sizes that a state has, in place; their values come later."""
    for name, value in tensors.items():
        old = getattr(module, name, None)
        if name == "bias" and isinstance(module, LAYERS) and old is None:
            old = nn.Parameter(module.weight[:, 0].flatten())  # pruning makes a bias where there was none
        if not isinstance(old, Tensor) or old.dim() != value.dim():
            continue  # load_state_dict says so
        if isinstance(old, nn.Parameter):
            setattr(module, name, nn.Parameter(old.new_empty(value.shape), requires_grad=old.requires_grad))
        else:
            setattr(module, name, old.new_zeros(value.shape))
    _state_sizes(module)


def _state_sizes(module: nn.Module) -> None:
    """Let the attributes that tell a module's sizes follow its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, CONVOLUTIONS):
        module.out_channels, module.in_channels = module.weight.shape[:2]
    elif isinstance(module, BATCH_NORMS):
        module.num_features = len(module.running_mean)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)


def _require_same(pruned: nn.Module, projector: nn.Module, select: SelectFeatures, layer: nn.Module) -> None:
    """Compare both in eval mode on random batches. Raises: SparseheadError where they differ by more than rounding."""
    weight = layer.weight
    shape = (12, select.features, *(2 for _ in _ones(layer)))
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    scales = torch.tensor([0.1, 1, 3], device=weight.device, dtype=weight.dtype).repeat(4)
    batch = batch * scales.view(-1, *(1 for _ in shape[1:]))
    with torch.autocast(weight.device.type, enabled=False), eval_mode(projector), eval_mode(pruned):
        try:
            expected = projector(batch.clone())
        except Exception as error:  # whatever somebody's module raises
            raise SparseheadError(
                f"cannot prune this {type(projector).__name__}: the smaller copy is compared with it on a batch of shape {shape}, "
                f"which it does not take ({type(error).__name__}: {' '.join(str(error).split())[:200]}). Prune its head alone."
            ) from error
        found = pruned(batch)
    if not (torch.is_tensor(expected) and expected.isfinite().all()):
        raise SparseheadError(f"cannot prune this {type(projector).__name__}: its embedding of random numbers is not finite.")
    found, expected = found.double(), expected.double()
    spread, size = (torch.linalg.vector_norm(x) for x in (expected - expected.mean(dim=0), expected))
    eps = torch.finfo(weight.dtype).eps
    difference = torch.linalg.vector_norm(found - expected)
    if not difference <= 4 * eps**0.5 * spread + 64 * eps * size:  # the second for an embedding that hardly varies
        raise SparseheadError(
            f"cannot prune this {type(projector).__name__}: the embedding of the smaller copy would differ by "
            f"{difference / size:.1%}, so one of its modules computes something else than its class says. Prune the part that is "
            "a plain chain of Linear, BatchNorm and elementwise modules."
        )
