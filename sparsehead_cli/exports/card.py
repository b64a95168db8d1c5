"""The model card beside an exported encoder, in Markdown: what it is, how good it was found to be, and how it is loaded."""

import json
from collections.abc import Iterator
from pathlib import Path

from sparsehead_cli.data.tokens import LONGEST
from sparsehead_cli.errors import one_line
from sparsehead_cli.evaluation.subject import Subject
from sparsehead_cli.exports.formats import Encoder
from sparsehead_cli.nets.backbones import ResNet
from sparsehead_cli.runs.identity import plain
from sparsehead_cli.runs.readable import readable
from sparsehead_cli.runs.table_files import Row, read_csv
from sparsehead_cli.runs.tables import METRICS, penalty_name

EVALUATIONS = "evaluations.csv"
ACCURACIES = 12  # rows of the table of accuracies, at most
HEADS = {"none": "no", "full": "yes: it makes the embedding z of r", "pruned": "yes, pruned: it makes the embedding z of r"}


def model_card(encoder: Encoder, file: Path, lines: tuple[str, ...], folder: Path) -> str:
    """The card of an encoder that is in `file` and is loaded by `lines`; `folder` is where its evaluations.csv lies.

    Raises: SparseheadError for a damaged evaluations.csv.
    """
    subject = encoder.subject
    parts = [
        f"# {one_line(str(subject.columns['run']))}",
        f"An encoder, {encoder.name}, that turns {what_it_reads(encoder)} into representations r of "
        f"{encoder.backbone.dim} numbers. {trained_in_words(subject)}",
        table([("", ""), *facts(encoder, file, folder)]),
        "## To load it",
        fenced("python", lines),
        *input_in_words(encoder),
        "## How good it is",
        *accuracies(subject, folder),
        *recipe(subject),
        "## Licence",
        "Not stated: who hands these weights on says under which terms, and minds those of the data that they were trained on.",
    ]
    return "\n\n".join(parts) + "\n"


def what_it_reads(encoder: Encoder) -> str:
    """Images with their shape, or sentences."""
    return "sentences" if encoder.reads_text else f"{' x '.join(map(str, encoder.image))} images"


def trained_in_words(subject: Subject) -> str:
    """Where the weights came from, in a sentence."""
    if subject.config is None:
        return f"Read from a file of the layout {subject.columns['method']}, which does not say how it was trained."
    config = subject.config
    how = f"by {config.method}, λ = {config.lam:g}" if config.lam else f"by {config.method}, without a penalty (λ = 0)"
    return f"Trained on {config.dataset} without labels {how}, with sparsehead."


def facts(encoder: Encoder, file: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """The rows of the first table."""
    subject = encoder.subject
    columns, backbone = subject.columns, encoder.backbone
    stem = f", {backbone.stem} stem" if isinstance(backbone, ResNet) else ""
    yield "file", f"`{file.name}`"
    yield "network", f"{encoder.name}{stem}, D = {backbone.dim}, {sum(p.numel() for p in backbone.parameters()):,} parameters"
    yield "head in the file", HEADS[encoder.kind]
    if (config := subject.config) is not None:
        penalty = f"{penalty_name(config.penalty, config.groups)}, layers {config.layers}, {config.solver}"
        if subject.dataset:
            yield "data", config.dataset
        epochs = f"{config.epochs} epoch{'' if config.epochs == 1 else 's'}"
        yield "method", f"{config.method}, {epochs} of batches of {config.batch_size}, seed {config.seed}"
        yield "λ", f"{config.lam:g}" + (f" ({penalty})" if config.lam else "")
        steps = f"{columns['step']:,}" + (f" of {columns['total_steps']:,}" if columns["total_steps"] else "")
        yield "trained", f"{steps} steps"
        epochs_done = [row for row in read_csv(folder / METRICS) if row["run"] == columns["run"]]
        if epochs_done:
            yield "trained by", f"sparsehead, commit {epochs_done[-1]['commit']}"
    if encoder.reads_text:
        yield "sentences", f"tokens of its own vocabulary, at most {LONGEST} of a sentence"
    else:
        normalise = subject.prepare.normalise
        yield "images", f"{' x '.join(map(str, encoder.image))} (channels, height, width), in [0, 1] before they are normalised"
        yield "mean", ", ".join(f"{value:.6g}" for value in normalise.mean)
        yield "std", ", ".join(f"{value:.6g}" for value in normalise.std)
    if subject.assumed:
        yield "assumed", one_line("; ".join(map(str, subject.assumed)), 1000)
    yield "exported by", f"sparsehead, commit {columns['commit']}"
    yield "digest of the weights", f"`{subject.digest}`"


def input_in_words(encoder: Encoder) -> Iterator[str]:
    """How images or sentences are made what the network reads."""
    if encoder.reads_text:
        yield "`sparsehead_cli.load(...).transform` makes a sentence, or a list of them, the tokens that it reads."
        return
    channels, side, _ = encoder.image
    kind = "RGB" if channels == 3 else "grey"
    yield (
        f"It expects {kind} images of {side} x {side} pixels in [0, 1], from which the mean of the table above is subtracted and "
        "which are divided by its std, channel by channel. `sparsehead_cli.load(...).transform` does all of that."
    )


def accuracies(subject: Subject, folder: Path) -> Iterator[str]:
    """What evaluations.csv says of these very weights, with 95 % intervals; the last of rows that the table does not tell apart."""
    rows = list({named(row): row for row in read_csv(folder / EVALUATIONS) if is_about(row, subject)}.values())
    if not rows:
        yield "Not measured: `sparsehead evaluate` writes what this card then says here, once it is exported again."
        return
    shown = sorted(rows, key=lambda row: (row["features"] != "r", row["protocol"] != "linear"))[:ACCURACIES]
    lines = [("protocol", "images", "of", "accuracy", "95 % interval", "test images")]
    for row in shown:
        value, low, high = (readable(row[column], 1, 100, " %") for column in ("value", "low", "high"))
        *names, images = named(row)
        lines.append((*names, value, f"{low} to {high}", images))
    yield table(lines)
    yield "The interval is over test images (Wilson); another seed of the training may differ by more."


def is_about(row: Row, subject: Subject) -> bool:
    """Whether a row of evaluations.csv is an accuracy of these weights; of kNN that by cosine with weighted votes and k 20."""
    of_these = row["checkpoint"] == subject.digest and row["model"] == "checkpoint" and row["metric"] == "accuracy"
    usual = row["protocol"] != "knn" or (row["k"], row["distance"], row["vote"]) == ("20", "cosine", "weighted")
    return of_these and usual and row["value"] != ""


def named(row: Row) -> tuple[str, str, str, str]:
    """What the table says of a row but its accuracy: protocol, images, features and how many images."""
    return protocol_of(row), row["eval_dataset"], row["features"], f"{int(row['n_test']):,}"


def protocol_of(row: Row) -> str:
    """A protocol with what sets its rows apart."""
    share = f", {float(row['label_share']):.0%} of the labels" if row["label_share"] not in ("", "1.0") else ""
    neighbours = f", k = {row['k']}" if row["k"] else ""
    return f"{row['protocol']}{neighbours}{share}"


def recipe(subject: Subject) -> Iterator[str]:
    """All settings of a run of ours that are not the default."""
    if subject.config is None:
        return
    yield "## Recipe"
    yield "What differs from sparsehead's defaults:"
    settings = plain(dict(subject.stored["identity"]))
    yield fenced("yaml", tuple(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in settings.items()))


def table(lines: list[tuple[str, ...]]) -> str:
    """A Markdown table, its first line the headings."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    cells.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def fenced(language: str, lines: tuple[str, ...]) -> str:
    """A block of code."""
    return "\n".join([f"```{language}", *lines, "```"])
