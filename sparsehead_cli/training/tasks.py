"""The callback of a sequence of tasks: after each, what is known of all of them, in tasks.csv; and what ends with a task."""

import torch
from torch import Tensor, nn

from sparsehead_cli.data.datasets import held_out_mask
from sparsehead_cli.data.tasks import Classes, of_classes
from sparsehead_cli.machine.seeds import stable_seed
from sparsehead_cli.measure.dimensions import effective_rank
from sparsehead_cli.measure.features import EncoderAndHead, Features, extract
from sparsehead_cli.measure.knn import knn_accuracy
from sparsehead_cli.measure.linear import linear_probe
from sparsehead_cli.measure.spectrum import Spectrum
from sparsehead_cli.runs.folder import identity_columns
from sparsehead_cli.runs.readable import share
from sparsehead_cli.runs.run import Progress, Run
from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.runs.tables import TASKS
from sparsehead_cli.sparse.layers import linear_layers, matrix
from sparsehead_cli.sparse.penalties import ACTIVE_SHARE, group_norms
from sparsehead_cli.training.callbacks import Callback
from sparsehead_cli.training.probe import NEIGHBOURS

ALL = "all"


class TaskTable(Callback):
    """Measures the untrained network, and that after each task, on the held-out inputs of each task and of all.

    Then it ends the task: the method keeps what it wants to know, and what does not go on, head or optimizer, begins anew.
    """

    def on_start(self, run: Run, progress: Progress) -> None:
        if progress.step == 0:
            self.measure(run, progress, task=0)

    def on_epoch(self, run: Run, progress: Progress, row: Row) -> None:
        done = run.phases_done(progress.step)
        if done and progress.step == run.steps_of_phases(done):
            self.measure(run, progress, task=done)
            end_task(run, done)

    def measure(self, run: Run, progress: Progress, task: int) -> None:
        """Add the rows of a moment to the table."""
        network = EncoderAndHead(run.method.backbone, run.sparse.projector)
        with run.autocast():
            bank, held_out = (extract(network, source, run.prepare) for source in run.tasks.sources)
        support, before = support_of(run), [row["support"] for row in progress.tables.get(TASKS, []) if row["support"]][-1:]
        common = {**identity_columns(run.config, run.name), "epoch": progress.epoch if task else 0, "after_task": task}
        rows = progress.tables.setdefault(TASKS, [])
        nothing = dict.fromkeys(("effective_rank_r", "effective_rank_z", "active_inputs", "support_kept", "support"))
        for name, classes in (*enumerate(run.tasks.classes, 1), (ALL, tuple(range(run.tasks.count)))):
            rows.append({**common, "on_task": str(name), **accuracies(bank, held_out, classes, run.tasks.count), **nothing})
        ranks = {f"effective_rank_{name}": effective_rank(Spectrum.of(held_out[name]).eigenvalues) for name in "rz"}
        kept = share((support & int(before[0], 16)).bit_count(), int(before[0], 16).bit_count()) if before else None
        rows[-1] |= {**ranks, "active_inputs": support.bit_count(), "support_kept": kept, "support": f"{support:x}"}


def support_of(run: Run) -> int:
    """Which inputs of the head's first layer are active by norm, as the bits of a number: input 0 is the lowest."""
    layers = linear_layers(run.sparse.projector)
    if not layers:
        return 0
    norms = group_norms(matrix(layers[0][1]), "input")
    return sum(1 << place for place in (norms > ACTIVE_SHARE * norms.max()).nonzero().flatten().tolist())


def accuracies(bank: Features, held_out: Features, classes: Classes, count: int) -> Row:
    """Of a linear probe and of kNN, both learnt and tested on some classes alone; None where none is held out."""
    train, test = (of_classes(part.labels, classes) for part in (bank, held_out))
    if not len(train) or not len(test) or len(classes) < 2:
        return {"linear_accuracy": None, "knn_accuracy": None, "n_test": len(test)}
    x, y, queries, truth = bank["r"][train], bank.labels[train], held_out["r"][test], held_out.labels[test]
    chosen = torch.from_numpy(held_out_mask(y.cpu().numpy())).to(y.device)
    predicted, _ = linear_probe((x[~chosen], y[~chosen]), (x[chosen], y[chosen]), queries, count)
    return {
        "linear_accuracy": float((predicted == truth).double().mean()),
        "knn_accuracy": knn_accuracy(x, y, queries, truth, k=NEIGHBOURS, classes=count),
        "n_test": len(test),
    }


def end_task(run: Run, task: int) -> None:
    """What a task leaves to the next one, as the run's settings say."""
    if hasattr(run.method, "end_task"):
        run.method.end_task()
    if run.config.between_tasks == "new-head":
        renew(run.method.projector, stable_seed("head", run.seed, task))
        forget(run.optimizer, list(run.method.projector.parameters()))
    if run.config.between_tasks == "new-optimizer":
        forget(run.optimizer, list(run.optimizer.state))


def forget(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """What an optimizer remembers of parameters is 0, as at the start."""
    for parameter in parameters:
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor):
                value.zero_()


def renew(head: nn.Module, seed: int) -> None:
    """Draw a head's weights anew; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for module in head.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
