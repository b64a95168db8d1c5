"""The callback that measures a run after every epoch: kNN accuracy, effective ranks and sparsity, on held-out inputs."""

import torch
from torch import Tensor

from sparsehead_cli.data.contract import Source
from sparsehead_cli.measure.dimensions import effective_rank
from sparsehead_cli.measure.features import EncoderAndHead, extract
from sparsehead_cli.measure.knn import knn_accuracy
from sparsehead_cli.measure.spectrum import Spectrum
from sparsehead_cli.nets.sharding import with_whole_layers
from sparsehead_cli.runs.folder import identity_columns
from sparsehead_cli.runs.readable import share
from sparsehead_cli.runs.run import Phase, Progress, Run, diverged
from sparsehead_cli.runs.table_files import Row
from sparsehead_cli.runs.tables import LAYERS, SPECTRA
from sparsehead_cli.sparse.layers import eval_mode
from sparsehead_cli.sparse.penalties import ACTIVE_SHARE
from sparsehead_cli.sparse.telemetry import head_sparsity, layer_sparsity
from sparsehead_cli.training.callbacks import Callback

BANK = 10_000  # training inputs, at most, that the kNN looks its neighbours up in
NEIGHBOURS = 20


class Probe(Callback):
    """Adds its columns to the epoch's row, and rows to layers.csv and (where they are tracked) spectrum_epochs.csv.

    The test set is never touched.
    """

    def __init__(self) -> None:
        self.phase: Phase | None = None
        self.bank: Source | None = None  # of that phase, the same after each of its epochs

    def on_epoch(self, run: Run, progress: Progress, row: Row) -> None:
        phase, _, _ = run.place(progress.step - 1)
        if phase is not self.phase:
            self.phase, self.bank = phase, bank_of(phase.train)
        columns, layers, spectra = measure(run, self.bank, phase.val)
        row |= columns
        progress.spectra = {name: spectrum.eigenvalues for name, spectrum in spectra.items()}
        common = {**identity_columns(run.config, run.name), "epoch": progress.epoch}
        for layer in layers:
            turning = {"effective_lr": share(row["lr"], layer["weight_norm"] ** 2)}
            progress.tables.setdefault(LAYERS, []).append({**common, **layer, **turning})
        if run.config.track_spectrum and is_tracked(progress.epoch, run.epochs):
            for name, spectrum in spectra.items():
                for index, value in enumerate(spectrum.eigenvalues.tolist(), 1):
                    eigenvalue = {**common, "features": name, "index": index, "eigenvalue": value}
                    progress.tables.setdefault(SPECTRA, []).append(eigenvalue)


def measure(run: Run, bank: Source, val: Source) -> tuple[Row, list[Row], dict[str, Spectrum]]:
    """Columns of metrics.csv; a row for each layer of the head; the spectra of r and z.

    Ranks and standard deviations are of the N held-out inputs. The kNN looks its neighbours up in the bank. The pruned head
    has lost the groups that are inactive by norm.

    Raises: SparseheadError for features that are not finite.
    """
    sparse = with_whole_layers(run.sparse, run.method.projector)
    head = sparse.projector
    network = EncoderAndHead(run.method.backbone, head)
    classes = len(getattr(val.spec, "classes", ()))
    with run.autocast():
        features = extract(network, val, run.prepare)
        bank_features = extract(network, bank, run.prepare) if classes > 1 else features  # where nothing can be predicted
    bank_r, bank_z, r, z = bank_features["r"], bank_features["z"], features["r"], features["z"]
    if not (r.isfinite().all() and z.isfinite().all()):
        raise diverged(run)

    def knn(neighbours: Tensor, queries: Tensor) -> float:
        return knn_accuracy(neighbours, bank_features.labels, queries, features.labels, k=NEIGHBOURS, classes=classes)

    with eval_mode(run.method), eval_mode(head), torch.no_grad():
        layers = layer_sparsity(sparse, r)
        sparsity = head_sparsity(sparse, r, layers)
        pruned = sparse.prune(ACTIVE_SHARE) if sparse.parameters() else head
        pruned_accuracy = knn(pruned(bank_r), pruned(r))
    spectra = {"r": Spectrum.of(r), "z": Spectrum.of(z)}
    columns = {
        "knn_accuracy": knn(bank_r, r),
        "knn_accuracy_z": knn(bank_z, z),
        "knn_accuracy_z_pruned": pruned_accuracy,
        "effective_rank_r": effective_rank(spectra["r"].eigenvalues),
        "effective_rank_z": effective_rank(spectra["z"].eigenvalues),
        "std_r": spectra["r"].std,
        "std_z": spectra["z"].std,
        **sparsity,
    }
    return columns, layers, spectra


def bank_of(train: Source) -> Source:
    """At most BANK of the inputs that have a label, evenly spread over all of them: files come sorted by class."""
    labelled = (train.labels >= 0).nonzero().flatten()
    count = min(BANK, len(labelled))
    return train.take(labelled[torch.arange(count, device=labelled.device) * len(labelled) // max(1, count)])


def is_tracked(epoch: int, epochs: int) -> bool:
    """Whether the spectrum of this epoch (from 1) is kept: two an octave, 1, 2, 3, 4, 6, 8, 11, 16, 23, …, and the last."""
    return epoch == epochs or epoch in {round(2 ** (i / 2)) for i in range(2 * epochs.bit_length())}
