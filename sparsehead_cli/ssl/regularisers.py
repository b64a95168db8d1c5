"""Other cures for collapse, added to any objective beside SparseHead: terms of z, of r, and of the head's weights, and dropout.

Each is a pure function of one view's embeddings, or of one linear layer's weight; what is added is its strength times its mean over
the views, or its sum over the layers. Dropout adds nothing: it changes what the head's layers read while the objective is computed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsehead_cli.data.contract import Batch, View
from sparsehead_cli.errors import SparseheadError, unknown
from sparsehead_cli.machine.distributed import whole
from sparsehead_cli.machine.plain import number
from sparsehead_cli.ssl import losses
from sparsehead_cli.ssl.contract import Method, objective, own_rows

DIRECTIONS = 256  # that a step looks along for `sigreg`


def correlation(z: Tensor) -> Tensor:
    """Squared off-diagonal correlations over E, [B, E] -> []. Source: Barlow Twins (Zbontar et al. 2021), eq. 1, within a view."""
    standardised = losses.standardise(z)
    return losses.off_diagonal_squares(standardised.T @ standardised / len(z)) / z.shape[1]


def sigreg(z: Tensor) -> Tensor:
    """Distance from a standard normal, over B, along random directions, [B, E] -> []. Source: LeJEPA (Balestriero & LeCun 2025).

    The directions are those of the step: the device's generator is seeded by the seed and the step.
    """
    return losses.sigreg(z, torch.randn(z.shape[1], DIRECTIONS, dtype=z.dtype, device=z.device)) / len(z)


def koleo(z: Tensor) -> Tensor:
    """-log of the distance to the nearest other embedding, normalised, mean over B, [B, E] -> []; 1e-8 is added to distances.

    Source: Sablayrolles et al. 2019, eq. 2; DINOv2 (Oquab et al. 2024).
    """
    z = F.normalize(z, dim=1)
    with torch.no_grad():
        nearest = (z @ z.T).fill_diagonal_(-torch.inf).argmax(dim=1)
    return -((z - z[nearest]).norm(dim=1) + 1e-8).log().mean()


def whiteness(z: Tensor) -> Tensor:
    """‖C / mean variance - I‖_F² over E for the covariance C, 0 where z is white whatever its scale, [B, E] -> [].

    What W-MSE (Ermolov et al. 2021) has exactly, asked for softly.
    """
    c = losses.covariance_matrix(z)
    identity = torch.eye(len(c), dtype=c.dtype, device=c.device)
    return (c / (c.diagonal().mean() + 1e-12) - identity).square().sum() / len(c)


def orthogonal(weight: Tensor) -> Tensor:
    """‖W Wᵀ - I‖_F², or of WᵀW where W is tall, [out, in] -> []. Source: Bansal et al. 2018, eq. 2 (soft orthogonality)."""
    wide = weight if weight.shape[0] <= weight.shape[1] else weight.T
    return (wide @ wide.T - torch.eye(len(wide), dtype=wide.dtype, device=wide.device)).square().sum()


def spectral(weight: Tensor) -> Tensor:
    """½ σ², σ the largest singular value, [out, in] -> []. Source: Yoshida & Miyato 2017, eq. 5; here σ is exact."""
    return torch.linalg.matrix_norm(weight, 2).square() / 2


def decay(weight: Tensor) -> Tensor:
    """½ ‖W‖_F², [out, in] -> []: weight decay of the head alone."""
    return weight.square().sum() / 2


def dropout(hidden: Tensor, p: float, rows: int) -> Tensor:
    """Hidden units of the head to 0 with probability p, its strength, the others over 1 - p. Source: Srivastava et al. 2014.

    [N, ..., C] -> the same shape; N counts the views of `rows` inputs one behind the other. Each view's masks are drawn apart.
    """
    draws = [own_rows(torch.rand, len(view), *view.shape[1:], device=view.device) for view in hidden.split(rows)]
    return hidden * (torch.cat(draws) >= p) / (1 - p)


class Regulariser(NamedTuple):
    """What is added, and of what it is: "z", "r" or "weights". What is of "hidden" units is done to these in place of that."""

    term: Callable[..., Tensor]
    of: str
    below: float = math.inf  # what its strength has to be


REGULARISERS: dict[str, Regulariser] = {
    "variance": Regulariser(losses.variance_hinge, "z"),
    "covariance": Regulariser(losses.covariances, "z"),
    "correlation": Regulariser(correlation, "z"),
    "sigreg": Regulariser(sigreg, "z"),
    "koleo": Regulariser(koleo, "z"),
    "whiteness": Regulariser(whiteness, "z"),
    "r-variance": Regulariser(losses.variance_hinge, "r"),
    "r-covariance": Regulariser(losses.covariances, "r"),
    "r-correlation": Regulariser(correlation, "r"),
    "r-sigreg": Regulariser(sigreg, "r"),
    "r-koleo": Regulariser(koleo, "r"),
    "r-whiteness": Regulariser(whiteness, "r"),
    "orthogonal": Regulariser(orthogonal, "weights"),
    "spectral": Regulariser(spectral, "weights"),
    "decay": Regulariser(decay, "weights"),
    "dropout": Regulariser(dropout, "hidden", below=1),
}


class Regularised(Method):
    """What regularisers add to a method, of which it is a base class beside this one: see `regularised`."""

    strengths: Mapping[str, float]

    def check(self, roles: tuple[str, ...], batch: int) -> None:
        super().check(roles, batch)
        of_weights = [name for name in self.strengths if REGULARISERS[name].of == "weights"]
        if of_weights and not self.layers():
            raise SparseheadError(f"regulariser {of_weights[0]} is of the head's weights, and this head has none. Leave it out.")
        if "dropout" in self.strengths and len(self.layers()) < 2:
            raise SparseheadError("regulariser dropout is of the head's hidden units, and this head has none. Leave it out.")

    def suspects(self) -> list[str]:
        added = {name: strength for name, strength in self.strengths.items() if REGULARISERS[name].of != "hidden"}
        return [*super().suspects(), *(f"regulariser {name}:{strength:g} (too strong?)" for name, strength in added.items())]

    def layers(self) -> list[nn.Linear]:
        """The head's linear layers that learn."""
        return [m for m in self.projector.modules() if isinstance(m, nn.Linear) and m.weight.requires_grad]

    def forward(self, views: list[View], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        seen: dict[str, list[Tensor]] = {"r": [], "z": []}

        def watch(head: nn.Module, inputs: tuple[Tensor, ...], z: Tensor) -> None:
            seen["r"] += inputs
            seen["z"].append(z)

        rows = len(batch.labels)  # of a view: views may have gone through the head one by one, or together; patches come after
        hooks = [self.projector.register_forward_hook(watch)]
        if p := self.strengths.get("dropout"):
            behind = self.layers()[1:]  # of all layers but the first the inputs are hidden units
            hooks += [layer.register_forward_pre_hook(lambda _, inputs: dropout(inputs[0], p, rows)) for layer in behind]
        try:
            loss, terms = super().forward(views, batch)
        finally:
            for hook in hooks:
                hook.remove()
        embeddings = {name: [view for passed in of for view in passed.split(rows)][: len(views)] for name, of in seen.items()}
        for name, strength in self.strengths.items():
            if REGULARISERS[name].of == "hidden":
                continue
            added = self.added(REGULARISERS[name], embeddings)
            loss, terms = loss + strength * added, {**terms, f"{name.replace('-', '_')}_added": added}
        return loss, terms

    def added(self, regulariser: Regulariser, embeddings: Mapping[str, Sequence[Tensor]]) -> Tensor:
        """One term: the mean over the views, of the batch of all processes; of weights the sum over the head's linear layers."""
        if regulariser.of == "weights":
            return sum(regulariser.term(whole(layer.weight)) for layer in self.layers())
        views = embeddings[regulariser.of]
        return sum(objective(regulariser.term, view) for view in views) / len(views)


def regularised(kind: type[Method], strengths: Mapping[str, float]) -> type[Method]:
    """A method with these terms, name -> strength, added to its objective; itself without any."""
    return type(kind.__name__, (Regularised, kind), {"strengths": dict(strengths)}) if strengths else kind


def added_terms(stated: Sequence[str]) -> dict[str, float]:
    """Texts such as "koleo:0.1" -> name -> strength. Raises: SparseheadError for another name, form or number."""
    strengths: dict[str, float] = {}
    for text in stated:
        name, colon, written = text.partition(":")
        if name not in REGULARISERS:
            raise unknown("regulariser", name, REGULARISERS)
        try:
            strength = number(written)
        except ValueError:
            strength = math.nan
        below = REGULARISERS[name].below
        if not (colon and 0 < strength < below):
            bounds = "above 0" if below == math.inf else f"between 0 and {below:g}"
            raise SparseheadError(f"a regulariser is written NAME:strength, a strength {bounds}, as {name}:0.1; given {text!r}.")
        if name in strengths:
            raise SparseheadError(f"regulariser {name} is given twice. Leave one out.")
        strengths[name] = strength
    return strengths
