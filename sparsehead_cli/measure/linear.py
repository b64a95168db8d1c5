"""Multinomial logistic regression on frozen features, to convergence, its strength chosen on held-out labels."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsehead_cli.data.datasets import place_in_class

L2_GRID = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
PATIENCE = 2  # weaker strengths in a row that bring nothing, until the search ends
ROUNDS = (15, 500)  # steps at most before and after the curvature is measured again
TOLERANCE = 5e-5  # largest element of the preconditioned gradient; the loss is then about ½‖gradient‖² above its minimum
COARSE = 1e-3  # the same while strengths are compared
SAMPLE = 4_000  # rows that the curvature is measured on, or four times as many as it has
CHANGED = 1.5  # times as much as another a class became more certain since the curvature was measured: then it is again
FOLDS = 5
ROWS = 65_536  # rows whose class probabilities are held at once


class Curvature(NamedTuple):
    """The Hessian's diagonal blocks, averaged over the classes, float64 [D, D], and each class's mean of p(1 - p), [classes]."""

    hessian: Tensor
    uncertainty: Tensor


@dataclass(frozen=True)
class Linear:
    """A fitted classifier: weight [classes, D] and bias [classes] in float32, the loss it reached, in how many steps, and the
    curvature that was last measured.
    """

    weight: Tensor
    bias: Tensor
    loss: float
    steps: int
    curvature: Curvature

    def predict(self, features: Tensor) -> Tensor:
        """Features [N, D], standardised as those it was fitted on -> classes int64 [N]."""
        return F.linear(features, self.weight, self.bias).argmax(dim=1)

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Share of labels [N] that it predicts, in [0, 1]."""
        return float((self.predict(features) == labels).double().mean())


@dataclass(frozen=True)
class Standardise:
    """Features [M, D] -> zero mean and unit variance over those that it was made of; constant ones become 0.

    Made of fewer samples than features, it turns them onto the samples' span, [M, rank]: no weight leaves it, since L2 would
    only punish that, so the regression is the same and cheaper.
    """

    mean: Tensor
    std: Tensor
    axes: Tensor | None = None  # [D, rank], orthonormal

    @classmethod
    def of(cls, features: Tensor) -> "Standardise":
        """The statistics of the training features, [N, D]."""
        std = features.std(dim=0, correction=0)
        plain = cls(features.mean(dim=0), torch.where(std > 1e-6 * std.max().clamp(min=1e-30), std, torch.inf))
        if len(features) >= features.shape[1]:
            return plain
        x = plain(features).double()
        squares, directions = torch.linalg.eigh(x @ x.T)
        kept = squares > 1e-9 * squares[-1].clamp(min=1e-30)
        axes = (x.T @ directions[:, kept]) / squares[kept].sqrt()
        return cls(plain.mean, plain.std, axes.float())

    def __call__(self, features: Tensor) -> Tensor:
        x = (features - self.mean).div_(self.std)
        return x if self.axes is None else x @ self.axes


def fit_logistic(
    x: Tensor, labels: Tensor, classes: int, l2: float, start: Linear | None = None, tolerance: float = TOLERANCE
) -> Linear:
    """Minimises mean cross-entropy + l2/2 · ‖weight‖² over weight and bias, [N, D], [N]; the bias is not penalised.

    L-BFGS with a strong Wolfe line search, from `start` or from zero, in coordinates in which the Hessian is near the
    identity: weight = u · P. P follows the curvature at the start, and again after some steps. On r of
    Fashion-MNIST that takes a third of the steps of the plain coordinates. (scikit-learn's C is 1 / (N · l2).)
    """
    weight, bias = (start.weight, start.bias) if start else (x.new_zeros(classes, x.shape[1]), x.new_zeros(classes))
    curvature = start.curvature if start else None
    steps = 0
    for most in ROUNDS if tolerance < COARSE else ROUNDS[-1:]:
        curvature, times = measured(x, weight, bias, curvature)
        p, p_inverse, bias_scale = preconditioner(curvature, times, l2)
        u, v = weight @ p_inverse, bias / bias_scale
        solver = torch.optim.LBFGS(
            [u, v], max_iter=most, tolerance_grad=tolerance, tolerance_change=1e-9, history_size=20, line_search_fn="strong_wolfe"
        )

        def closure(u=u, v=v, p=p, bias_scale=bias_scale) -> float:
            loss, grad_weight, grad_bias = loss_and_gradient(x, labels, u @ p, v * bias_scale, l2)
            u.grad, v.grad = grad_weight @ p.T, grad_bias * bias_scale
            return loss

        solver.step(closure)
        weight, bias = u @ p, v * bias_scale
        steps += solver.state[u]["n_iter"]
    return Linear(weight, bias, loss_and_gradient(x, labels, weight, bias, l2)[0], steps, curvature)


def measured(x: Tensor, weight: Tensor, bias: Tensor, known: Curvature | None) -> tuple[Curvature, float]:
    """The curvature of the loss at these weights, [classes, D], [classes], and 1. Or, if all classes became about equally more
    or less certain since, the one `known`, and how many times as large it is now.

    H = mean over samples of x xᵀ · s with s the mean over classes of p(1 - p): the Hessian's diagonal blocks, averaged. A
    sample that is classified with certainty bends the loss no more, which is what the plain covariance does not see.
    To multiply x of thousands of features (raw pixels) is most of the work of a fit: hence `known`.
    """
    x = x[:: len(x) // max(SAMPLE, 4 * x.shape[1]) + 1]
    p = torch.softmax(F.linear(x, weight, bias), dim=1)
    spread = p * (1 - p)
    uncertainty = spread.mean(dim=0).clamp(min=1e-6)
    if known is not None:
        ratio = uncertainty / known.uncertainty
        if ratio.max() < CHANGED * ratio.min():
            return known, float(ratio.mean())
    x = x.double()  # of features that are one another's multiples the product in float32 is not even positive
    return Curvature((x * spread.mean(dim=1, keepdim=True)).T @ x / len(x), uncertainty), 1.0


def preconditioner(curvature: Curvature, times: float, l2: float) -> tuple[Tensor, Tensor, Tensor]:
    """P with Pᵀ P = (times · H + l2)^(-1) [D, D], its inverse, and a scale for the bias [classes]; all classes share P."""
    hessian, uncertainty = (times * part for part in curvature)
    jitter = l2 + 1e-9 * hessian.diagonal().mean()  # rounding must not make it indefinite
    hessian.diagonal().add_(jitter)
    root = torch.linalg.cholesky(hessian).float()
    identity = torch.eye(len(root), device=root.device)
    return torch.linalg.solve_triangular(root, identity, upper=False), root, uncertainty.rsqrt()


def loss_and_gradient(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, l2: float) -> tuple[float, Tensor, Tensor]:
    """Mean cross-entropy + l2/2 · ‖weight‖², and its gradient over weight and bias; sums in float64, ROWS rows at a time."""
    loss = l2 / 2 * weight.double().square().sum()
    grad_weight, grad_bias = l2 * weight, torch.zeros_like(bias)
    for rows, truth in zip(x.split(ROWS), labels.split(ROWS), strict=True):
        log_p = torch.log_softmax(F.linear(rows, weight, bias).double(), dim=1)
        loss -= log_p.gather(1, truth[:, None]).sum() / len(x)
        residual = log_p.exp_().scatter_add_(1, truth[:, None], -torch.ones_like(log_p[:, :1])).div_(len(x)).float()
        grad_weight = grad_weight.addmm(residual.T, rows)
        grad_bias += residual.sum(dim=0)
    return float(loss), grad_weight, grad_bias


def choose_l2(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], classes: int) -> tuple[float, float, Linear]:
    """(l2, its accuracy on `val`, the classifier of the last strength tried) of the L2_GRID; of equals the stronger.

    From strong to weak, each fit starting where the last one ended, until PATIENCE strengths in a row were no better.
    """
    scores: dict[float, float] = {}
    fitted = None
    for l2 in L2_GRID:
        fitted = fit_logistic(*train, classes, l2, fitted, COARSE)
        scores[l2] = fitted.accuracy(*val)
        if is_over(scores):
            break
    best = max(scores, key=scores.get)  # the first, and so the strongest, of equals
    return best, scores[best], fitted


def is_over(scores: dict[float, float]) -> bool:
    """Whether the last PATIENCE strengths were no better than one before them; scores in the order in which they came."""
    values = list(scores.values())
    return len(values) > PATIENCE and max(values[-PATIENCE:]) <= max(values[:-PATIENCE])


def linear_probe(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], test: Tensor, classes: int
) -> tuple[Tensor, dict[str, float]]:
    """Linear evaluation of frozen features: features and labels of train and val, features of test -> predictions int64 [N].

    The strength is chosen on val, the probe is then fitted on train and val together; the labels of test are never seen.
    Also returns l2, val_accuracy, loss and steps of the final fit.
    """
    standardise = Standardise.of(train[0])
    train, val = ((standardise(features), labels) for features, labels in (train, val))
    l2, val_accuracy, fitted = choose_l2(train, val, classes)
    joined = tuple(torch.cat(pair) for pair in zip(train, val, strict=True))
    fitted = fit_logistic(*joined, classes, l2, fitted)
    chosen = {"l2": l2, "val_accuracy": val_accuracy, "loss": fitted.loss, "steps": fitted.steps}
    return fitted.predict(standardise(test)), chosen


def cross_validated_l2(x: Tensor, labels: Tensor, classes: int) -> tuple[float, float | None]:
    """(l2, accuracy) by cross-validation on standardised features [N, D] with few labels [N], of equals the stronger.

    FOLDS folds, each with its share of every class. A single label a class leaves nothing to hold out: then it is 1e-3,
    and there is no accuracy.
    """
    fold = torch.from_numpy(place_in_class(labels.cpu().numpy()) % FOLDS).to(labels.device)
    if not (fold > 0).any():
        return L2_GRID[3], None
    folds = range(int(fold.max()) + 1)
    fitted: dict[int, Linear | None] = dict.fromkeys(folds)
    scores: dict[float, float] = {}
    for l2 in L2_GRID:
        right = 0
        for k in folds:
            fitted[k] = fit_logistic(x[fold != k], labels[fold != k], classes, l2, fitted[k], COARSE)
            right += int((fitted[k].predict(x[fold == k]) == labels[fold == k]).sum())
        scores[l2] = right / len(labels)
        if is_over(scores):
            break
    best = max(scores, key=scores.get)  # the first, and so the strongest, of equals
    return best, scores[best]
