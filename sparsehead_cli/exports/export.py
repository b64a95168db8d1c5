"""export(request) -> an encoder in a file that other tools read, and its model card beside it. Both are written, or neither."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from sparsehead_cli.errors import SparseheadError, unknown
from sparsehead_cli.evaluation.load import load_subject
from sparsehead_cli.evaluation.subject import LoadOptions, Subject
from sparsehead_cli.exports.card import model_card
from sparsehead_cli.exports.formats import FORMATS, Encoder
from sparsehead_cli.machine.files import make_folder, read_regular, replace_file
from sparsehead_cli.runs.checkpoint import checkpoint_file
from sparsehead_cli.runs.encoder_file import HEADS
from sparsehead_cli.sparse.prune import prune_projector

CONTIGUOUS = torch.contiguous_format  # in which weights are handed on
ENDINGS = {"torchvision": (".pth", ".pt"), "timm": (".pth", ".pt"), "safetensors": (".safetensors",), "onnx": (".onnx",)}


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What `sparsehead export` was asked for. Without `out` the file lies beside the checkpoint.

    `threshold` is for a pruned head: groups of at most this share of the largest norm in their layer count as empty.
    """

    checkpoint: str | Path
    to: str
    out: Path | None = None
    head: str = "none"
    threshold: float = 0.0
    overwrite: bool = False
    options: LoadOptions = field(default_factory=LoadOptions)

    @property
    def folder(self) -> Path:
        """Where the checkpoint lies, and the tables about it."""
        return (self.options.weights or checkpoint_file(self.checkpoint)).parent


@dataclass(frozen=True)
class Exported:
    """The files that were written, or were there with the same content; the lines that load the encoder; what there is to say."""

    path: Path
    card: Path
    lines: tuple[str, ...]
    report: tuple[str, ...]


def export(request: ExportRequest) -> Exported:
    """Write an encoder and its card.

    Raises: SparseheadError where the architecture has no counterpart in the format, where a package is missing, and for a file
    that is there with other content.
    """
    check(request)
    subject = load_subject(request.checkpoint, replace(request.options, device="cpu"))
    encoder, report = encoder_of(subject, request)
    if encoder.reads_text and request.to != "safetensors":
        raise SparseheadError(f"{encoder.name} reads sentences, and this format is of encoders of images. --to safetensors")
    made = FORMATS[request.to](encoder)
    path = request.out or request.folder / default_name(request, subject)
    lines = tuple(line.replace("{file}", str(path)) for line in made.lines)
    card = path.with_name(f"{path.name}.md")
    text = model_card(encoder, path, tuple(line.replace("{file}", path.name) for line in made.lines), request.folder)
    contents = {path: made.data, card: text.encode()}
    make_folder(path.parent)
    there = {target for target, data in contents.items() if not is_new(target, data, request)}  # all of them before one is written
    for target, data in contents.items():
        if target not in there:
            replace_file(target, data)
    same = ("it was there already, with the same content",) if len(there) == len(contents) else ()
    checked = (f"checked: {made.checked}",) if made.checked else ()
    return Exported(path, card, lines, (*subject.report, *report, *checked, *same))


def check(request: ExportRequest) -> None:
    """Raises: SparseheadError for what cannot be done, before anything is read."""
    request.options.check()
    if request.to not in FORMATS:
        raise unknown("--to", request.to, FORMATS)
    if request.head not in HEADS:
        raise unknown("--head", request.head, HEADS)
    if request.head != "none" and request.to in ("torchvision", "timm"):
        raise SparseheadError(
            f"{request.to}'s networks have no place for a head: --to safetensors and --to onnx hold it beside the encoder."
        )
    if request.threshold and request.head != "pruned":
        raise SparseheadError(f"--threshold {request.threshold:g} is of a pruned head: add --head pruned.")
    if request.out is not None and request.out.suffix not in ENDINGS[request.to]:
        endings = " or ".join(ENDINGS[request.to])
        raise SparseheadError(f"--out {request.out}: a file for {request.to} ends in {endings}.")


def encoder_of(subject: Subject, request: ExportRequest) -> tuple[Encoder, tuple[str, ...]]:
    """What is exported of a network, and a line about its head. Raises: SparseheadError for a head that is not there."""
    backbone, projector = subject.network.backbone, subject.network.projector
    for module in (backbone, projector):
        module.to(memory_format=CONTIGUOUS)
    if request.head == "none":
        return Encoder(subject, backbone, None, "none"), ()
    if isinstance(projector, nn.Identity):
        raise SparseheadError(f"{request.checkpoint} has no head. Export it with --head none.")
    if request.head == "full":
        return Encoder(subject, backbone, projector, "full"), ()
    groups = subject.config.groups if subject.config else "input"
    pruned = prune_projector(projector, request.threshold, groups).eval()
    before, after = (sum(p.numel() for p in head.parameters()) for head in (projector, pruned))
    line = f"head: {after:,} of {before:,} numbers are left"
    if after >= before:
        line = (
            "head: nothing in it is empty, so it is as it was. Trained with --solver proximal it would be; or try --threshold 0.01"
        )
    return Encoder(subject, backbone, pruned, "pruned"), (line,)


def default_name(request: ExportRequest, subject: Subject) -> str:
    """What the file is called where nobody says it."""
    whose = "encoder" if subject.config is not None else f"{Path(str(subject.columns['run'])).name}-encoder"
    head = {"none": "", "full": "-head", "pruned": "-pruned-head"}[request.head]
    layout = f"-{request.to}" if request.to in ("torchvision", "timm") else ""
    return f"{whose}{head}{layout}{ENDINGS[request.to][0]}"


def is_new(path: Path, data: bytes, request: ExportRequest) -> bool:
    """Whether this content is still to be written. Raises: SparseheadError where something else is at the path.

    Never over the checkpoint itself, asked or not.
    """
    if not path.exists() and not path.is_symlink():
        return True
    source = request.options.weights or checkpoint_file(request.checkpoint)
    if path.exists() and path.samefile(source):
        raise SparseheadError(f"--out {path} is the checkpoint itself. Choose another file.")
    try:
        same = read_regular(path) == data
    except OSError:
        same = False
    if not same and not request.overwrite:
        raise SparseheadError(f"{path} is there, with other content. Choose another --out, or write over it with --overwrite.")
    return not same
