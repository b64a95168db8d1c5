"""Every CSV that the suite writes or reads: its columns, once. `table_files` reads and writes them by this.

A column is declared once for all tables, so that a name means one thing wherever it stands and tables can be joined. What is
not defined (an effective rank without variance, an interval over one seed) is an empty cell, never a number.
"""

from collections.abc import Sequence

from sparsehead_cli.runs.benchmark_tables import BENCHMARK_COLUMNS, BENCHMARKS
from sparsehead_cli.runs.columns import Column, Table


def penalty_name(penalty: str, groups: str = "input", layers: str = "all", lam_schedule: str = "constant") -> str:
    """A penalty with how it is applied, as tables and --penalties write it: other penalties, to whoever compares runs.

    Behind its name: -output where units are groups, -first for the first layer alone, -linear or -cosine where λ rises.
    """
    applied = {"groups": groups, "layers": layers, "lam_schedule": lam_schedule}
    return penalty + "".join(ending for ending, (setting, value) in ENDINGS.items() if applied[setting] == value)


def penalty_settings(name: str) -> dict[str, str]:
    """The settings that a name of `penalty_name` stands for; of those that it does not name, none."""
    settings: dict[str, str] = {}
    for ending, (setting, value) in reversed(ENDINGS.items()):
        if setting not in settings and name.endswith(ending):
            name, settings = name.removesuffix(ending), {setting: value, **settings}
    return {"penalty": name, **settings}


def regularisers_name(regularisers: Sequence[str] | None) -> str:
    """Terms that are added to the objective, as tables and --regularisers write them: koleo:0.1+covariance:1, or none."""
    return "+".join(regularisers or (NO_REGULARISER,))


def terms_in(name: str) -> tuple[str, ...]:
    """The names without their strengths, in alphabetical order: of a name of `regularisers_name`, or of `projector_name`."""
    return tuple(sorted(part.partition(":")[0] for part in name.split("+")))


def regularisers_setting(name: str) -> tuple[str, ...] | None:
    """The setting that a name of `regularisers_name` stands for."""
    return None if name == NO_REGULARISER else tuple(name.split("+"))


def projector_name(kind: str, out: int) -> str:
    """What makes z of r, as tables and --projectors write it: mlp, none, or what stands in its place with its width: direct:64."""
    return kind if kind in (USUAL_PROJECTOR, WITHOUT_PROJECTOR) else f"{kind}:{out}"


def projector_settings(name: str) -> dict[str, str]:
    """The settings that a name of `projector_name` stands for."""
    kind, _, out = name.partition(":")
    return {"projector": kind, **({"projector_out": out} if out else {})}


NO_REGULARISER, USUAL_PROJECTOR, WITHOUT_PROJECTOR = "none", "mlp", "none"
ENDINGS = {  # of a penalty's name, in this order -> the setting that it stands for
    "-output": ("groups", "output"),
    "-first": ("layers", "first"),
    "-linear": ("lam_schedule", "linear"),
    "-cosine": ("lam_schedule", "cosine"),
}

COLUMNS = {
    # ------------------------------------------------------------------------------- which run
    "experiment": Column("text", "", "the folder of the run: a key of experiments.yaml, or what the run is"),
    "run": Column("text", "", "the run's name, which ends in its identity's hash"),
    "method": Column("text", "", "self-supervised method, or the layout of somebody else's checkpoint"),
    "dataset": Column("text", "", "data set of the pretraining"),
    "backbone": Column("text", "", "network from images to r"),
    "penalty": Column(
        "text",
        "",
        "penalty of SparseHead and how it is applied: -output, -first, -linear, -cosine",
    ),
    "solver": Column("text", "", "how the penalty is applied: subgradient or proximal"),
    "lam": Column("amount", "", "λ, the strength of the penalty"),
    "seed": Column("whole", "", "seed of the pretraining"),
    "commit": Column("text", "", "commit or version of the code that measured the row"),
    "batch_norm": Column("truth", "", "whether the head has BatchNorm"),
    "projector_out": Column("whole", "", "E, the width of the embedding"),
    "epochs": Column("whole", "epochs", "length of the pretraining"),
    "regularisers": Column(
        "text", "", "terms added to the objective and their strengths, such as koleo:0.1; none where it is absent"
    ),
    "projector": Column("text", "", "what makes z of r, with its width where that is no mlp: direct:64; mlp where it is absent"),
    "sum_lr": Column("amount", "", "sum of the learning rates of all steps"),
    "trained_on": Column("text", "", "digest of the images and labels of the pretraining"),
    # ------------------------------------------------------------------------------- where in it
    "epoch": Column("whole", "epochs", "how many epochs of the pretraining were done"),
    "step": Column("whole", "steps", "how many steps the checkpoint has done"),
    "total_steps": Column("whole", "steps", "how many steps the whole pretraining has"),
    "checkpoint": Column("text", "", "digest of the weights"),
    "assumed": Column("text", "", "what somebody else's file does not say of its network, and what each value rests on"),
    # ------------------------------------------------------------------------------- the pretraining
    "loss": Column("number", "", "objective of the pretraining without the penalty, mean over the steps of an epoch"),
    "gradient_norm": Column("amount", "", "norm of the whole gradient, mean over the steps of an epoch"),
    "lr": Column("amount", "", "learning rate of the pretraining's last step in an epoch"),
    "knn_accuracy": Column("share", "", "kNN accuracy of r on held-out images"),
    "knn_accuracy_z": Column("share", "", "kNN accuracy of z on held-out images"),
    "knn_accuracy_z_pruned": Column("share", "", "the same without the groups that are inactive by norm"),
    "mean_knn_accuracy": Column("share", "", "kNN accuracy of r on held-out images, mean over the seeds that got so far"),
    "best_knn_accuracy": Column("share", "", "the same of the best λ at that time"),
    "effective_rank_r": Column("amount", "dimensions", "effective rank of r on held-out images"),
    "effective_rank_z": Column("amount", "dimensions", "effective rank of z on held-out images"),
    "std_r": Column("amount", "", "relative standard deviation of r: 1 spread evenly, 0 collapsed"),
    "std_z": Column("amount", "", "relative standard deviation of z: 1 spread evenly, 0 collapsed"),
    "penalty_value": Column("amount", "", "the penalty without λ"),
    "n_groups": Column("whole", "groups", "groups of the penalised layers"),
    "active_groups": Column("whole", "groups", "those with a norm above 1 % of the largest in their layer"),
    "active_groups_share": Column("share", "", "active_groups / n_groups"),
    "n_features": Column("whole", "features", "features of r that the head is given"),
    "active_features": Column("whole", "features", "those of n_features that the first layer reads, by norm"),
    "active_features_share": Column("share", "", "active_features / n_features"),
    "functional_features": Column("whole", "features", "the fewest of n_features that keep z within 1 %"),
    "functional_features_share": Column("share", "", "functional_features / n_features"),
    "images_per_second": Column("amount", "images/s", "speed of the training"),
    "train_seconds": Column("amount", "s", "what the pretraining took, its measurements included"),
    "seconds": Column("amount", "s", "what the work behind the row took"),
    "skipped_images": Column("whole", "images", "unreadable images that were left out"),
    "waiting_share": Column("share", "", "share of the time in which no batch of images was ready"),
    # ------------------------------------------------------------------------------- layers of the head
    "layer": Column("text", "", "name of a linear layer of the head"),
    "inputs": Column("whole", "features", "inputs of the layer"),
    "active_inputs": Column("whole", "features", "those whose column has a norm above 1 % of the largest"),
    "functional_inputs": Column("whole", "features", "the fewest inputs that keep z within 1 %"),
    "outputs": Column("whole", "features", "outputs of the layer"),
    "active_outputs": Column("whole", "features", "those whose row has a norm above 1 % of the largest"),
    "dead_outputs": Column("whole", "features", "those that the next layer sees as constant"),
    "stable_rank": Column("amount", "", "squared Frobenius norm over squared spectral norm of the weight"),
    "weight_norm": Column("amount", "", "Frobenius norm of the weight"),
    "relative_l21": Column("amount", "", "l21 over √inputs times weight_norm: 1 if all columns are equally long, at any scale"),
    "effective_lr": Column(
        "amount", "", "lr over the square of weight_norm: how far a step of SGD turns a weight that BatchNorm follows"
    ),
    # ------------------------------------------------------------------------------- sequences of tasks
    "after_task": Column("whole", "tasks", "how many tasks had been trained on, one after the other; 0: untrained"),
    "on_task": Column("text", "", "the task whose classes were measured, counted from 1, or all"),
    "linear_accuracy": Column("share", "", "linear evaluation of r on held-out images, of the classes of on_task alone"),
    "support_kept": Column("share", "", "of the inputs that the head read one task before, those that it still reads, by norm"),
    "support": Column("text", "", "inputs that the head reads, by norm: bits of a hexadecimal number, input 0 the lowest"),
    "n_tasks": Column("whole", "tasks", "tasks of the sequence"),
    "average_accuracy": Column("share", "", "mean of linear_accuracy over the tasks, after the last"),
    "forgetting": Column("number", "", "mean over tasks of the best linear_accuracy before the last task, less that after it"),
    "backward_transfer": Column("number", "", "mean over tasks of linear_accuracy after the last task, less that after its own"),
    "forward_transfer": Column("number", "", "mean over tasks of linear_accuracy before its own task, less that when untrained"),
    "accuracy_all": Column("share", "", "linear_accuracy of all classes, after the last task"),
    # ------------------------------------------------------------------------------- what was measured of what
    "model": Column("text", "", "checkpoint, or a base line: initial, untrained, pixels or words"),
    "protocol": Column("text", "", "how r or z was evaluated"),
    "features": Column("text", "", "what the row is about: r, z, a hidden layer, pixels, the head or its response"),
    "eval_dataset": Column("text", "", "data set of the measurement"),
    "split": Column("text", "", "split of eval_dataset; of a part that --images drew: 200 of test"),
    "images": Column("whole", "images", "how many were measured on"),
    "label_share": Column("share", "", "share of the labels that was known"),
    "eval_seed": Column("whole", "", "seed of the evaluation"),
    "n_train": Column("whole", "images", "images that the evaluation learnt from"),
    "n_val": Column("whole", "images", "those of them that only chose"),
    "n_test": Column("whole", "images", "images that it was tested on"),
    "k": Column("whole", "", "neighbours of kNN"),
    "distance": Column("text", "", "distance of kNN"),
    "vote": Column("text", "", "vote of kNN"),
    "l2": Column("amount", "", "strength of the logistic regression's L2 penalty"),
    "eval_lr": Column("amount", "", "learning rate of the evaluation"),
    "eval_epochs": Column("whole", "epochs", "length of the evaluation's training"),
    "eval_batch_size": Column("whole", "images", "batch size of the evaluation"),
    "val_accuracy": Column("share", "", "accuracy of the linear or other evaluation on the images that chose its setting"),
    "accuracy": Column("share", "", "linear evaluation of r on test images"),
    "accuracy_z": Column("share", "", "linear evaluation of z on test images"),
    "class": Column("text", "", "class of the test images"),
    "task": Column("text", "", "key of the measurement, the same in all tables that it fills"),
    # ------------------------------------------------------------------------------- numbers by name
    "metric": Column("text", "", "name of the number in value or mean"),
    "value": Column("number", "", "the number that metric or measurement names"),
    "low": Column("number", "", "lower end of the 95 % interval of value or mean"),
    "high": Column("number", "", "upper end of the 95 % interval of value or mean"),
    "index": Column("whole", "", "rank of the eigenvalue, 1 for the largest"),
    "eigenvalue": Column("amount", "", "eigenvalue of the features' covariance, or of the response E[JᵀJ]"),
    "batch": Column("whole", "", "number of a batch, from 1"),
    "features_kept": Column("whole", "features", "the fewest of n_features with which the batch's NT-Xent rises by at most 1 %"),
    "batches": Column("whole", "", "how many batches were looked at"),
    "batch_overlap": Column("share", "", "shared part of the features that two batches need, mean over pairs"),
    "batch_overlap_by_chance": Column("share", "", "the same of random features, as many"),
    "batch_loss": Column("number", "", "NT-Xent of the batch with all features of r"),
    "batch_loss_kept": Column("number", "", "NT-Xent of the batch with features_kept of them"),
    # ------------------------------------------------------------------------------- over seeds
    "seeds": Column("whole", "seeds", "how many the mean is over"),
    "chosen": Column("text", "", "best, sparsest or both, for a λ that held-out images chose; collapsed for one that they may not"),
    "mean": Column("number", "", "mean over seeds"),
    "sd": Column("amount", "", "standard deviation over seeds"),
    "difference": Column("number", "", "mean paired difference to λ 0, without regularisers and with an mlp"),
    "difference_low": Column("number", "", "lower end of its 95 % interval, Student's t"),
    "difference_high": Column("number", "", "upper end of its 95 % interval, Student's t"),
    "bootstrap_low": Column("number", "", "lower end of its 95 % interval, bootstrap"),
    "bootstrap_high": Column("number", "", "upper end of its 95 % interval, bootstrap"),
    "contrast": Column("text", "", "which arm of a plan less which other one"),
    "reference_mean": Column("number", "", "mean over seeds of the arm that is compared with"),
    "effect_size": Column("number", "", "mean paired difference over the standard deviation of the differences (Cohen's d)"),
    "p_t": Column("share", "", "two-sided p of the paired t test"),
    "p_permutation": Column("share", "", "two-sided p of the paired permutation test: all signs, or 50,000 by lot"),
    "p_holm": Column("share", "", "p_t after Holm, over the primary outcomes of all methods and cures of the plan"),
    "detectable": Column("amount", "", "true difference that the plan finds with 80 % power, as the pilot's seeds scatter"),
    "plan": Column("text", "", "hash of the plan that the row is judged by"),
    **BENCHMARK_COLUMNS,
}

RUN = ("experiment", "run", "method", "dataset", "backbone", "penalty", "solver", "lam", "seed", "commit")
FOREIGN = ("experiment", "dataset", "penalty", "solver", "lam", "seed", "step", "total_steps")  # that other people's files lack
KIND = ("experiment", "method", "dataset", "backbone", "penalty", "solver")
VARIED = ("batch_norm", "projector_out", "epochs", "regularisers", "projector")  # what tells a sweep's trials apart, beside RUN
USUAL = {"regularisers": NO_REGULARISER, "projector": USUAL_PROJECTOR}
RANKS = ("effective_rank_r", "effective_rank_z")
COUNTS = ("penalty_value", "n_groups", "active_groups", "n_features", "active_features", "functional_features")
SHARES = ("active_groups_share", "active_features_share", "functional_features_share")
PROBED = (
    *("knn_accuracy", "knn_accuracy_z", "knn_accuracy_z_pruned", *RANKS, "std_r", "std_z", *COUNTS),
    *("skipped_images", "waiting_share", "images_per_second", "seconds"),
)
ADDED = ("knn_accuracy_z", "knn_accuracy_z_pruned", "skipped_images", "waiting_share")
MEASURED = (*RUN, "step", "total_steps", "checkpoint")
ON = ("eval_dataset", "split", "images")
EVALUATION = ("protocol", "features", "eval_dataset", "label_share", "eval_seed", "n_train", "n_val")
SETTINGS = ("skipped_images", "waiting_share", "k", "distance", "vote", "l2", "eval_lr", "eval_epochs", "eval_batch_size")
PERHAPS = (*FOREIGN, "assumed", "label_share", "eval_seed", *SETTINGS, "val_accuracy", "value", "low", "high")
OLD_COUNTS = {"groups": "n_groups", "features": "n_features"}
OLD_SHARES = {name.removesuffix("_share"): name for name in SHARES}
OLD_EVALUATION = {name.removeprefix("eval_"): name for name in ("eval_lr", "eval_epochs", "eval_batch_size")}
DIFFERENCES = ("difference", "difference_low", "difference_high")
BOOTSTRAP = ("bootstrap_low", "bootstrap_high")
PUT_BACK = "Put the file back, or move the folder away to start anew."
AGAIN = "Remove all lines of that task, and measure it again."

SWEEP = Table(
    (
        *(*RUN, *VARIED, "sum_lr", "val_accuracy", "accuracy", "accuracy_z", "knn_accuracy", *RANKS, *SHARES, "loss"),
        *("train_seconds", "trained_on"),
    ),
    empty=(*RANKS, *SHARES, "trained_on"),
    added=("sum_lr", "loss", "train_seconds", "trained_on"),
    usual=USUAL,
    key=("run",),
    renamed=OLD_SHARES,
    remedy="Mend or remove that line; its trial is then run again, if its folder is gone, too.",
)

METRICS, LAYERS, SPECTRA, TASKS = "metrics.csv", "layers.csv", "spectrum_epochs.csv", "tasks.csv"  # of a run's folder
FILE = "file"  # the column `split` of features that came in a file
PART_OF = " of "  # in the column `split`, of a part that --images drew: "200 of test"; all of test are told apart from it

TABLES = {
    METRICS: Table(
        (*RUN, "epoch", "loss", "gradient_norm", "lr", *PROBED),
        empty=("knn_accuracy", "knn_accuracy_z", "knn_accuracy_z_pruned", *RANKS, "functional_features"),
        added=ADDED,
        extra="loss",
        key=("run", "epoch"),
        counts="epoch",
        renamed=OLD_COUNTS,
        remedy=PUT_BACK,
    ),
    LAYERS: Table(
        (
            *(*RUN, "epoch", "layer", "inputs", "active_inputs", "functional_inputs"),
            *("outputs", "active_outputs", "dead_outputs", "stable_rank", "weight_norm", "relative_l21", "effective_lr"),
        ),
        empty=("functional_inputs", "stable_rank", "relative_l21", "effective_lr"),
        added=("weight_norm", "relative_l21", "effective_lr"),
        key=("run", "epoch", "layer"),
        repeats="epoch",
        remedy=PUT_BACK,
    ),
    TASKS: Table(
        (
            *(*RUN, "epoch", "after_task", "on_task", "linear_accuracy", "knn_accuracy", "n_test", *RANKS),
            *("active_inputs", "support_kept", "support"),
        ),
        empty=("linear_accuracy", "knn_accuracy", *RANKS, "active_inputs", "support_kept", "support"),
        key=("run", "after_task", "on_task"),
        remedy=PUT_BACK,
    ),
    "continual.csv": Table(
        (*RUN, "n_tasks", "average_accuracy", "forgetting", "backward_transfer", "forward_transfer", "accuracy_all"), key=("run",)
    ),
    SPECTRA: Table(
        (*RUN, "epoch", "features", "index", "eigenvalue"),
        key=("run", "epoch", "features", "index"),
        counts="index",
        falls="eigenvalue",
        repeats="epoch",
        remedy=PUT_BACK,
    ),
    "evaluations.csv": Table(
        (
            *(*MEASURED, "model", "assumed", *EVALUATION, "n_test", *SETTINGS, "val_accuracy"),
            *("metric", "value", "low", "high", "seconds", "task"),
        ),
        empty=PERHAPS,
        added=("assumed", "skipped_images", "waiting_share"),
        key=("task", "eval_dataset", "features", "metric", "k", "distance", "vote"),
        renamed=OLD_EVALUATION,
        remedy=AGAIN,
    ),
    "per_class.csv": Table(
        (*MEASURED, "model", "assumed", *EVALUATION, *SETTINGS, "metric", "task", "class", "n_test", "value", "low", "high"),
        empty=PERHAPS,
        added=("assumed", "skipped_images", "waiting_share"),
        key=("task", "features", "metric", "k", "distance", "vote", "class"),
        renamed=OLD_EVALUATION,
        remedy=AGAIN,
    ),
    "spectrum.csv": Table(
        (*MEASURED, "assumed", *ON, "features", "index", "eigenvalue", "task"),
        empty=(*FOREIGN, "assumed"),
        added=("assumed",),
        key=("task", "features", "index"),
        counts="index",
        falls="eigenvalue",
        remedy=AGAIN,
    ),
    "spectrum_metrics.csv": Table(
        (*MEASURED, "assumed", *ON, "features", "metric", "value", "low", "high", "task"),
        empty=(*FOREIGN, "assumed", "value", "low", "high"),
        added=("assumed",),
        key=("task", "features", "metric"),
        remedy=AGAIN,
    ),
    "spectrum_batches.csv": Table(
        (*MEASURED, "assumed", *ON, "batch", "features_kept", "n_features", "batch_loss", "batch_loss_kept", "task"),
        empty=(*FOREIGN, "assumed", "features_kept"),
        added=("assumed",),
        key=("task", "batch"),
        counts="batch",
        renamed={"features": "n_features", "loss": "batch_loss", "loss_kept": "batch_loss_kept"},
        remedy=AGAIN,
    ),
    "spectrum_by_lam.csv": Table(
        (*KIND, "eval_dataset", "split", "lam", "features", "metric", "seeds", "mean", "low", "high", *DIFFERENCES),
        empty=(*FOREIGN, "low", "high", *DIFFERENCES),
        key=(*KIND, "eval_dataset", "split", "lam", "features", "metric"),
        remedy="Remove the file: it is made of spectrum_metrics.csv.",
    ),
    "sweep.csv": SWEEP,
    "trial.csv": Table(**{**vars(SWEEP), "remedy": "Remove the file: the trial is then evaluated again."}),
    "sweep_summary.csv": Table(
        (*KIND, *VARIED, "lam", "seeds", "chosen", "metric", "mean", "sd", "low", "high", *DIFFERENCES, *BOOTSTRAP),
        empty=("chosen", "mean", "sd", "low", "high", *DIFFERENCES, *BOOTSTRAP),
        usual=USUAL,
        key=(*KIND, *VARIED, "lam", "metric"),
        remedy="Remove the file: it is made of sweep.csv.",
    ),
    "confirmation.csv": Table(
        (
            *(*KIND, *VARIED, "lam", "contrast", "metric", "seeds", "mean", "reference_mean", *DIFFERENCES),
            *("effect_size", "p_t", "p_permutation", "p_holm", "detectable", "plan"),
        ),
        empty=("difference_low", "difference_high", "effect_size", "p_t", "p_holm", "detectable"),
        usual=USUAL,
        key=(*KIND, *VARIED, "lam", "contrast", "metric"),
        remedy="Remove the file: it is made of plan.yaml and of the confirming runs.",
    ),
    "curves.csv": Table(
        (*RUN, *VARIED, "epoch", "loss", "knn_accuracy", *RANKS, "penalty_value", "active_groups_share", "active_features_share"),
        empty=(*RANKS, "active_groups_share", "active_features_share"),
        usual=USUAL,
        key=("run", "epoch"),
        counts="epoch",
        renamed=OLD_SHARES,
        remedy="Remove all lines of that run; if its folder is there, they come back.",
    ),
    "pruned.csv": Table(
        (*RUN, *VARIED, "epoch", "mean_knn_accuracy", "best_knn_accuracy"),
        usual=USUAL,
        key=("run",),
        renamed={"knn_accuracy": "mean_knn_accuracy"},
    ),
    "methods.csv": Table(
        (
            *(*RUN, "epoch", "knn_accuracy", "effective_rank_r", "std_r", "knn_accuracy_z", "knn_accuracy_z_pruned"),
            *("effective_rank_z", "std_z", *COUNTS, "loss", "gradient_norm", "lr", "images_per_second", "seconds"),
        ),
        empty=("run", "loss", "gradient_norm", "lr", *PROBED),
        extra="seconds",
        key=("method", "backbone", "lam", "seed"),
        renamed=OLD_COUNTS,
    ),
    "factors.csv": Table(
        (*RUN, "features", "metric", "value", "low", "high"), empty=("value", "low", "high"), key=("run", "features", "metric")
    ),
    "subsets.csv": Table(
        (*RUN, "eval_batch_size", "batches", "features_kept", "n_features", "batch_overlap", "batch_overlap_by_chance"),
        empty=("features_kept", "batch_overlap", "batch_overlap_by_chance"),
        key=("run", "eval_batch_size"),
    ),
    **BENCHMARKS,
}
