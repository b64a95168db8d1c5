"""The protocols: each a function of a task -> outcomes, one a kind of features and setting. No file is read or written here.

Somebody's own protocol is such a function, too, which the user names as module:function. What it needs is in task.py.

    def nearest_mean(task: Task) -> Iterator[Outcome]:
        train, test = task.features()
        ...
        yield classified(task, "r", predicted, test.labels, n_train=len(train), n_val=0)
"""

from collections.abc import Callable, Iterator

from sparsehead_cli.evaluation.sgd import end_to_end, linear_sgd, semi_finetune
from sparsehead_cli.evaluation.task import Outcome, Task, classified, few_labels, held_out_tenth
from sparsehead_cli.measure.knn import DISTANCES, knn_predict
from sparsehead_cli.measure.linear import Standardise, cross_validated_l2, fit_logistic, linear_probe

KS = (1, 5, 20, 200)


def knn(task: Task) -> Iterator[Outcome]:
    """k nearest neighbours among all training images; a k beyond their number is left out."""
    bank, test = task.features()
    ks = [k for k in KS if k <= len(bank)]
    for name in task.subject.features:
        for distance in DISTANCES:
            predictions = knn_predict(bank[name], bank.labels, test[name], classes=task.classes, ks=ks, distance=distance)
            for (k, vote), predicted in predictions.items():
                columns = {"n_train": len(bank), "n_val": 0, "k": k, "distance": distance, "vote": vote}
                yield classified(task, name, predicted, test.labels, **columns)


def linear(task: Task) -> Iterator[Outcome]:
    """Logistic regression to convergence on all training images; its L2 strength is chosen on a tenth held out of them."""
    train, test = task.features()
    held_out = held_out_tenth(train)
    for name in task.subject.features:
        f, y = train[name], train.labels
        predicted, chosen = linear_probe((f[~held_out], y[~held_out]), (f[held_out], y[held_out]), test[name], task.classes)
        columns = {"l2": chosen["l2"], "val_accuracy": chosen["val_accuracy"]}
        yield classified(task, name, predicted, test.labels, n_train=len(train), n_val=int(held_out.sum()), **columns)


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


# the settings that each protocol reads, by the beginnings of their names
READS = {"linear-sgd": ("sgd_",), "finetune": ("finetune_",), "semi-finetune": ("finetune_batch", "finetune_lr", "semi_epochs")}

PROTOCOLS: dict[str, Callable[[Task], Iterator[Outcome]]] = {
    "knn": knn,
    "linear": linear,
    "linear-sgd": linear_sgd,
    "semi-linear": semi_linear,
    "semi-finetune": semi_finetune,
    "finetune": end_to_end,
}
