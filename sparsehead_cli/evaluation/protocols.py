"""The protocols: each a function of a task -> outcomes, one a kind of features and setting. No file is read or written here.

Somebody's own protocol is such a function, too, which the user names as module:function. What it needs is in task.py.

    def nearest_mean(task: Task) -> Iterator[Outcome]:
        train, test = task.features()
        ...
        yield classified(task, "r", predicted, test.labels, n_train=len(train), n_val=0)
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from sparsehead_cli.data.factors import CLASSES, changed_by, code, factors_of, numbers_of
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.sentences import sts
from sparsehead_cli.evaluation.sgd import end_to_end, linear_sgd, semi_finetune
from sparsehead_cli.evaluation.task import FOLDS, Outcome, Predictions, Task, classified, few_labels, held_out_tenth, in_folds
from sparsehead_cli.measure.factors import linear_cka, rank_correlation, read_out
from sparsehead_cli.measure.head import Reading, mean_response
from sparsehead_cli.measure.intervals import wilson
from sparsehead_cli.measure.knn import DISTANCES, knn_predict
from sparsehead_cli.measure.linear import Standardise, cross_validated_l2, fit_logistic, linear_probe
from sparsehead_cli.runs.views import strengths_of

KS = (1, 5, 20, 200)


def knn(task: Task) -> Iterator[Outcome]:
    """k nearest neighbours among all training images; a k beyond their number is left out."""
    bank, test = task.features()
    learnt = len(bank) * (FOLDS - 1) // FOLDS if task.data.folds else len(bank)
    for name in task.subject.features:
        for distance in DISTANCES:
            settings = {"classes": task.classes, "ks": [k for k in KS if k <= learnt], "distance": distance}
            predictions = in_folds(task, name, partial(knn_predict, **settings))
            for (k, vote), predicted in predictions.items():
                columns = {**said(task), "n_train": learnt, "n_val": 0, "k": k, "distance": distance, "vote": vote}
                yield classified(task, name, predicted, test.labels, **columns)


def said(task: Task) -> dict[str, str]:
    """The column that says where a protocol is cross-validated."""
    return {"protocol": f"{task.protocol}, ten-fold"} if task.data.folds else {}


def linear(task: Task) -> Iterator[Outcome]:
    """Logistic regression to convergence on all training images; its L2 strength is chosen on a tenth held out of them."""
    _, test = task.features()

    def predict(f: Tensor, y: Tensor, queries: Tensor) -> Predictions:
        held_out = held_out_tenth(y)
        predicted, found = linear_probe((f[~held_out], y[~held_out]), (f[held_out], y[held_out]), queries, task.classes)
        chosen.update(found, n_train=len(y), n_val=int(held_out.sum()))
        return {"": predicted}

    for name in task.subject.features:
        chosen: dict[str, float] = {}
        predicted = in_folds(task, name, predict)[""]
        strength = {} if task.data.folds else {"l2": chosen["l2"], "val_accuracy": chosen["val_accuracy"]}  # one a fold
        sizes = {key: int(chosen[key]) for key in ("n_train", "n_val")}
        yield classified(task, name, predicted, test.labels, **said(task), **sizes, **strength)


def semi_linear(task: Task) -> Iterator[Outcome]:
    """Logistic regression on a share of the labels, its strength chosen by cross-validation among them alone."""
    train, test = task.features()
    known = few_labels(train.labels, task.classes, task.share, task.part_seed())
    for name in task.subject.features:
        standardise = Standardise.of(train[name][known])
        f, y = standardise(train[name][known]), train.labels[known]
        l2, val_accuracy = cross_validated_l2(f, y, task.classes)
        predicted = fit_logistic(f, y, task.classes, l2).predict(standardise(test[name]))
        columns = {"l2": l2, "val_accuracy": val_accuracy, "label_share": task.share, "eval_seed": task.seed}
        yield classified(task, name, predicted, test.labels, n_train=len(known), n_val=0, **columns)


def factors(task: Task) -> Iterator[Outcome]:
    """What r, z, and what the head reads and does not read of r, hold of each known factor of the data set factors.

    A linear read-out each: the accuracy of shape and texture, R² of the others. And how far similarity in r and z is that of the
    factors that the views keep, and of those that they change: linear CKA, and the rank correlation over pairs of test images.
    These two are on different scales (the factors themselves would have a CKA of 0.34 with shape and texture, 0.94 with the
    others): compare runs with each other, and never what is kept with what is changed.
    """
    if task.data.name != "factors":
        raise SparseheadError(
            f"the protocol factors measures known factors, which {task.data.name} has not got: --dataset factors."
        )
    train, test = task.features()
    held_out = held_out_tenth(train.labels)
    of_train, of_test = factors_of(train=True), factors_of(train=False)
    parts = {name: (train[name], test[name]) for name in task.subject.features}
    if "z" in parts:
        reading = Reading.of(mean_response(task.subject.network.projector, train["r"][:RESPONDING]))
        parts |= dict(zip(("read", "unread"), zip(reading.part(train["r"]), reading.part(test["r"]), strict=True), strict=True))
    for name, (f, queries) in parts.items():
        if not queries.shape[1]:
            continue
        columns = {"features": name, "n_train": len(f), "n_val": int(held_out.sum()), "n_test": len(queries)}
        for factor, classes in CLASSES.items():
            y, truth = (torch.from_numpy(getattr(of, factor)).to(f.device) for of in (of_train, of_test))
            predicted, _ = linear_probe((f[~held_out], y[~held_out]), (f[held_out], y[held_out]), queries, len(classes))
            right = int((predicted == truth).sum())
            low, high = wilson(right, len(truth))
            yield Outcome({**columns, "metric": f"{factor}_accuracy", "value": right / len(truth), "low": low, "high": high})
        for factor in NUMBERS:
            y, truth = (torch.from_numpy(numbers_of(of, factor)).to(f.device) for of in (of_train, of_test))
            value = read_out((f[~held_out], y[~held_out]), (f[held_out], y[held_out]), (queries, truth))
            yield Outcome({**columns, "metric": f"{factor}_r2", "value": value})
    changed = changed_by(strengths_of(task.subject.config.views if task.subject.config else "colour-small") or ())
    for what, names in (("kept", [n for n in FACTORS if n not in changed]), ("changed", [n for n in FACTORS if n in changed])):
        codes = torch.from_numpy(code(of_test, names)) if names else None
        for name in task.subject.features if names else ():
            columns = {"features": name, "n_train": len(train), "n_val": 0, "n_test": len(test)}
            yield Outcome({**columns, "metric": f"cka_{what}", "value": linear_cka(test[name].cpu(), codes)})
            yield Outcome({**columns, "metric": f"rank_correlation_{what}", "value": rank_correlation(test[name], codes)})


FACTORS = ("shape", "texture", "colour", "x", "y", "size", "ground")
NUMBERS = FACTORS[2:]
RESPONDING = 2_000  # images whose mean response says what the head reads

# the settings that each protocol reads, by the beginnings of their names
READS = {
    "sts": ("sts",),
    "linear-sgd": ("sgd_",),
    "finetune": ("finetune_",),
    "semi-finetune": ("finetune_batch", "finetune_lr", "semi_epochs"),
}

PROTOCOLS: dict[str, Callable[[Task], Iterator[Outcome]]] = {
    "knn": knn,
    "linear": linear,
    "linear-sgd": linear_sgd,
    "semi-linear": semi_linear,
    "semi-finetune": semi_finetune,
    "finetune": end_to_end,
    "factors": factors,
    "sts": sts,
}
