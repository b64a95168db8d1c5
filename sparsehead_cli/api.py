"""What Python users call: the commands as functions, with the commands' keywords. They return tables, and print nothing.

    result = sparsehead_cli.pretrain(method="byol", lam=1e-4, epochs=10)
    accuracy = sparsehead_cli.evaluate(result.folder).table

An option that may be repeated is a list here, and `--set key=value` is `set={"key": value}`. What a user can mend is a
SparseheadError. Heavy imports stand inside the functions, as they do in the commands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsehead_cli.errors import SparseheadError, naming_the_rest, shown
from sparsehead_cli.machine.calls import apart_from_the_script, checked, one_at_a_time

if TYPE_CHECKING:
    import pandas as pd

    from sparsehead_cli.evaluation.subject import LoadOptions
    from sparsehead_cli.exports.export import Exported
    from sparsehead_cli.exports.model import Model
    from sparsehead_cli.sweeps.request import SweepRequest
    from sparsehead_cli.sweeps.sweep import SweepState
    from sparsehead_cli.training.callbacks import Callback

Names = str | Sequence[str]  # one or several: "linear,knn" or ["linear", "knn"]
PathLike = str | Path


@dataclass(frozen=True)
class Pretrained:
    """A finished run: its folder, metrics.csv (a row an epoch) and layers.csv (a row an epoch and layer of the head)."""

    folder: Path
    metrics: "pd.DataFrame"
    layers: "pd.DataFrame"
    was_finished: bool


@dataclass(frozen=True)
class Evaluation:
    """The rows of evaluations.csv that answer a request, those of per_class.csv, and what was found in somebody else's file."""

    table: "pd.DataFrame"
    per_class: "pd.DataFrame"
    report: tuple[str, ...]


@dataclass(frozen=True)
class Spectra:
    """The rows of spectrum.csv, spectrum_metrics.csv, spectrum_batches.csv and spectrum_by_lam.csv, and the files written.

    A table without rows is empty. `report` says what was found in files of somebody else's.
    """

    eigenvalues: "pd.DataFrame"
    metrics: "pd.DataFrame"
    batches: "pd.DataFrame"
    by_lam: "pd.DataFrame"
    files: tuple[Path, ...]
    report: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """A finished sweep: its folder, sweep.csv (a row a trial) and sweep_summary.csv (a row a λ and number), and what they say.

    With `confirm`, `confirmation` is confirmation.csv and the verdicts are those of the plan's fresh seeds; else it is empty.
    """

    folder: Path
    trials: "pd.DataFrame"
    summary: "pd.DataFrame"
    verdicts: tuple[str, ...]
    confirmation: "pd.DataFrame"


@checked
def load(
    checkpoint: PathLike,
    *,
    weights: PathLike | None = None,
    allow_partial: bool = False,
    image_size: int | None = None,
    assume: Sequence[str] = (),
    plugin: Sequence[str] = (),
    data_dir: PathLike = "data",
    device: str = "auto",
) -> "Model":
    """A trained encoder, its head, and the transform that makes images their input: of a run, or of anything `evaluate` reads.

    Raises: SparseheadError for a file without a network, or whose weights do not fit it.
    """
    from sparsehead_cli.exports.model import load as load_model

    return load_model(checkpoint, load_options(locals()))


@checked
@one_at_a_time
def pretrain(
    experiment: str | None = None,
    *,
    experiments: PathLike | None = None,
    callback: Sequence["str | Callback"] = (),
    set: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Pretrained:
    """`sparsehead pretrain`. A keyword is any setting (method, lam, dataset, epochs, …; `sparsehead list settings`).

    A method's own numbers are written set={"method.temperature": 0.5}. Callbacks are names or objects. The same call finds its own
    run: unfinished, it goes on; finished, it returns at once.

    Raises: SparseheadError; for Ctrl-C, once it has saved, Stopped, which is one.
    """
    from sparsehead_cli.machine import distributed
    from sparsehead_cli.runs.build import build
    from sparsehead_cli.runs.config import load_config
    from sparsehead_cli.runs.table_files import frame
    from sparsehead_cli.training.callbacks import Callback, load_callbacks
    from sparsehead_cli.training.loop import pretrain as run_pretrain

    config = load_config(experiment, as_path(experiments), {**(set or {}), **given(settings)})
    if strange := [one for one in callback if not isinstance(one, str | Callback)]:
        raise SparseheadError(f"a callback is a name, or an object of a class that extends Callback, given {shown(strange[0])}.")
    callbacks = [load_callbacks((one,))[0] if isinstance(one, str) else one for one in callback]
    try:
        result = run_pretrain(build(config), callbacks)
    finally:
        distributed.stop()
    return Pretrained(result.run.folder, frame(result.rows), frame(result.layers), result.was_finished)


@checked
@one_at_a_time
def evaluate(
    checkpoints: PathLike | Sequence[PathLike],
    *,
    protocol: Names = "linear,knn",
    dataset: PathLike | None = None,
    transfer_to: Names = (),
    detection_set: PathLike = "voc",
    baselines: bool = False,
    per_class: bool = False,
    weights: PathLike | None = None,
    allow_partial: bool = False,
    image_size: int | None = None,
    assume: Sequence[str] = (),
    plugin: Sequence[str] = (),
    data_dir: PathLike = "data",
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    skip_bad_images: bool = False,
    set: Mapping[str, Any] | None = None,
) -> Evaluation:
    """`sparsehead evaluate`: what the representation r and the embedding z of checkpoints are good for.

    Rows go to evaluations.csv beside each checkpoint; what is there already is not measured again. Raises: SparseheadError.
    """
    from sparsehead_cli.evaluation.evaluate import evaluate as run_evaluate
    from sparsehead_cli.evaluation.evaluate import read_settings
    from sparsehead_cli.evaluation.plan import EvaluateRequest, each_once
    from sparsehead_cli.runs.table_files import frame

    settings, detection = read_settings(dict(set or {}))
    if not (several := paths(checkpoints)):
        raise SparseheadError("which checkpoint? The list of checkpoints is empty.")
    request = EvaluateRequest(
        checkpoint=several[0],
        protocols=names(protocol),
        dataset=as_name(dataset),
        transfer_to=names(transfer_to),
        detection_set=str(detection_set),
        baselines=baselines,
        per_class=per_class,
        seed=seed,
        settings=settings,
        detection=detection,
        options=load_options(locals()),
    )
    report: list[str] = []
    found, several = [], each_once(several, request.options)
    for number, each in enumerate(several, 1):
        with naming_the_rest(several[number:]):
            found.append(run_evaluate(replace(request, checkpoint=each), on_line=report.append))
    rows, classes = ([row for tables in found for row in tables[part]] for part in (0, 1))
    return Evaluation(frame(rows), frame(classes), tuple(dict.fromkeys(report)))


@checked
@one_at_a_time
def spectrum(
    checkpoints: PathLike | Sequence[PathLike] = (),
    *,
    features: PathLike | None = None,
    embeddings: PathLike | None = None,
    dataset: PathLike | None = None,
    split: str | None = None,
    images: int | None = None,
    layers: bool = False,
    over_time: bool = False,
    figure: PathLike | None = None,
    paper: bool = False,
    out: PathLike = "results/spectra",
    weights: PathLike | None = None,
    allow_partial: bool = False,
    image_size: int | None = None,
    assume: Sequence[str] = (),
    plugin: Sequence[str] = (),
    data_dir: PathLike = "data",
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    skip_bad_images: bool = False,
) -> Spectra:
    """`sparsehead spectrum`: eigenvalue spectra of r and z of checkpoints, or of features in .npy files.

    With `over_time`, `eigenvalues` are those that runs with track_spectrum kept, and the other tables are empty.

    Raises: SparseheadError.
    """
    from sparsehead_cli.evaluation.spectrum_request import SpectrumRequest
    from sparsehead_cli.present.spectra import measured_spectra, tracked_spectra
    from sparsehead_cli.runs.table_files import frame

    several = paths(checkpoints)
    if over_time:
        runs, drawn = tracked_spectra([Path(checkpoint) for checkpoint in several], as_path(figure), paper=paper)
        return Spectra(frame([row for rows in runs.values() for row in rows]), frame([]), frame([]), frame([]), tuple(drawn))
    request = SpectrumRequest(
        checkpoints=tuple(several),
        features=as_path(features),
        embeddings=as_path(embeddings),
        dataset=as_name(dataset),
        split=split,
        images=images,
        layers=layers,
        out=Path(out),
        seed=seed,
        options=load_options(locals()),
    )
    report: list[str] = []
    measured, lams, files = measured_spectra(request, as_path(figure), lambda now: report.extend(now.report), paper=paper)
    batches, *spectra = measured
    return Spectra(*map(frame, (*spectra, batches, lams)), tuple(files), tuple(dict.fromkeys(report)))


@checked
@one_at_a_time
def sweep(
    experiment: str = "lambda-quick",
    *,
    lams: Names | float | Sequence[float] | None = None,
    methods: Names | None = None,
    penalties: Names | None = None,
    solvers: Names | None = None,
    dims: Names | int | Sequence[int] | None = None,
    batch_norm: Names | bool | Sequence[bool] | None = None,
    regularisers: Names | None = None,
    projectors: Names | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
    engine: str = "local",
    address: str | None = None,
    jobs: int | None = None,
    retry_failed: bool = False,
    prune: bool = False,
    confirm: int | None = None,
    dataset: PathLike | None = None,
    data_dir: PathLike | None = None,
    device: str | None = None,
    results: PathLike | None = None,
    experiments: PathLike | None = None,
    callback: Sequence[str] = (),
    set: Mapping[str, Any] | None = None,
) -> Sweep:
    """`sparsehead sweep-lambda`: many runs on a grid, paired by seed, to a table with intervals. Each trial is a process.

    A sweep that was stopped goes on with the same call; a trial that is finished is never repeated. With `confirm` the grid is a
    pilot, and so many fresh seeds judge what it chose.

    Raises: SparseheadError, also where a trial failed: the tables are then without it.
    """
    from sparsehead_cli.sweeps.request import sweep_request

    if engine == "print":
        raise SparseheadError("engine print prints commands, which a call has no use for: sparsehead sweep-lambda --engine print")
    arguments = {**locals(), "dataset": as_name(dataset), "experiments": as_path(experiments)}
    return run_request(sweep_request(arguments, dict(set or {})))


def run_request(request: "SweepRequest") -> Sweep:
    """Run what is missing of a sweep, or of a pilot and its confirmation. Raises: SparseheadError."""
    from sparsehead_cli.present.sweep import draw_sweep, require_all
    from sparsehead_cli.runs.folder import locked
    from sparsehead_cli.runs.table_files import frame, read_csv
    from sparsehead_cli.study.confirm import sentences
    from sparsehead_cli.study.results import SUMMARY_CSV, read_sweep
    from sparsehead_cli.study.summary import verdicts
    from sparsehead_cli.sweeps.confirm import confirm
    from sparsehead_cli.sweeps.sweep import read_state
    from sparsehead_cli.sweeps.sweep import sweep as run_sweep

    state = read_state(request)

    def run(state: "SweepState") -> None:
        with apart_from_the_script(), locked(state.folder, "another sweep runs here"):
            try:
                run_sweep(request, state, lambda state, running: None)
            finally:
                draw_sweep(state.folder)

    if request.confirm is None:
        run(state)
        require_all(state)
        said, judged = verdicts(read_csv(state.folder / SUMMARY_CSV), state.pruned()), []
    else:
        found, fresh = confirm(request, state, run)
        require_all(fresh)
        said, judged = sentences(found), found.rows
    trials, summary = frame(list(read_sweep(state.folder).values())), frame(state.folder / SUMMARY_CSV)
    return Sweep(state.folder, trials, summary, tuple(said), frame(judged))


@checked
def export(
    checkpoint: PathLike,
    to: str,
    *,
    out: PathLike | None = None,
    head: str = "none",
    threshold: float = 0.0,
    overwrite: bool = False,
    weights: PathLike | None = None,
    allow_partial: bool = False,
    image_size: int | None = None,
    assume: Sequence[str] = (),
    plugin: Sequence[str] = (),
    data_dir: PathLike = "data",
) -> "Exported":
    """`sparsehead export`: an encoder in a file that torchvision, timm, safetensors or onnx reads, and its model card.

    Raises: SparseheadError.
    """
    from sparsehead_cli.exports.export import ExportRequest
    from sparsehead_cli.exports.export import export as run_export

    file, options = as_path(out), load_options(locals())
    return run_export(
        ExportRequest(checkpoint=checkpoint, to=to, out=file, head=head, threshold=threshold, overwrite=overwrite, options=options)
    )


def load_options(arguments: Mapping[str, Any]) -> "LoadOptions":
    """Those of a function's arguments that say how a checkpoint and images are read, under the commands' names."""
    from sparsehead_cli.evaluation.subject import LoadOptions

    names = ("allow_partial", "image_size", "device", "workers", "skip_bad_images")
    return LoadOptions(
        weights=as_path(arguments["weights"]),
        assume=tuple(arguments["assume"]),
        plugins=tuple(arguments["plugin"]),
        data_dir=Path(arguments["data_dir"]),
        **{name: arguments[name] for name in names if name in arguments},
    )


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that say something."""
    return {name: value for name, value in arguments.items() if value is not None}


def names(text: Names) -> tuple[str, ...]:
    """ "knn, linear" or ["knn", "linear"] -> ("knn", "linear"), each once."""
    parts = text.split(",") if isinstance(text, str) else list(text)
    return tuple(dict.fromkeys(name.strip() for name in parts if name.strip()))


def paths(given: PathLike | Sequence[PathLike]) -> list[str]:
    """A path or several as text, each once."""
    return list(dict.fromkeys(map(str, [given] if isinstance(given, str | Path) else given)))


def as_path(path: PathLike | None) -> Path | None:
    """A path, where one was given."""
    return None if path is None else Path(path)


def as_name(name: PathLike | None) -> str | None:
    """The name of a data set, or the path of one, as text."""
    return None if name is None else str(name)
