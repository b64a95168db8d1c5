"""The four kinds of files that an encoder is written as: each a function that makes the bytes, and says in Python how to load them.

What they hold is compared with the encoder before it is handed out: on random images, in the very library that it is for.
"""

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.subject import Subject
from sparsehead_cli.exports.counterparts import Counterpart, plain_state, require_equal, timm_counterpart, torchvision_counterpart
from sparsehead_cli.runs.encoder_file import KEY, describe_encoder, require_safetensors

OPSET = 17  # of ONNX: read by every runtime of 2023 and later, and all that our networks need


@dataclass(frozen=True)
class Encoder:
    """What is exported: the network of a `subject`, on the CPU, and the head that goes with it, where one does.

    `kind` is what --head says: none, full or pruned.
    """

    subject: Subject
    backbone: nn.Module
    head: nn.Module | None
    kind: str

    @property
    def name(self) -> str:
        """What the network is called, for people."""
        return str(self.subject.columns["backbone"])

    @property
    def image(self) -> tuple[int, int, int]:
        """(C, h, w) of the images that it is made for; an encoder of sentences has none."""
        return self.subject.prepare.image

    @property
    def reads_text(self) -> bool:
        """Whether it is an encoder of sentences."""
        return bool(self.subject.vocabulary)


@dataclass(frozen=True)
class Made:
    """A file's bytes, the lines of Python that load it (`{file}` stands for its name), and how it was checked, for people.

    `checked` is "" for a format that only we read, which is checked whenever it is.
    """

    data: bytes
    lines: tuple[str, ...]
    checked: str


def to_torchvision(encoder: Encoder) -> Made:
    """A state_dict for torchvision's ResNet. Raises: SparseheadError where torchvision has no such network."""
    counterpart = torchvision_counterpart(encoder.backbone, encoder.name)
    return compared(encoder, counterpart, "torchvision's network", "import torch, torchvision")


def to_timm(encoder: Encoder) -> Made:
    """A state_dict for timm's model. Raises: SparseheadError where timm has no such network, or is not installed."""
    return compared(encoder, timm_counterpart(encoder.backbone, encoder.name), "timm's model", "import timm, torch")


def compared(encoder: Encoder, counterpart: Counterpart, name: str, imports: str) -> Made:
    """The encoder's weights for somebody else's network, called `name`, which must give the same r. Raises: SparseheadError."""
    state = plain_state(encoder.backbone)
    counterpart.model.load_state_dict(state)
    difference = require_equal(encoder.backbone, counterpart.model.eval(), encoder.image, name)
    return Made(saved(state), (imports, *counterpart.lines, *LOAD), f"{name} gives the same r{within(difference)}")


def within(difference: float) -> str:
    """How exactly, for the end of a sentence."""
    return f", to {difference:.0e} of its size" if difference else " to the last bit"


def saved(state: dict[str, Tensor]) -> bytes:
    """What torch.save writes of a state_dict; the same bytes for the same weights."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def to_safetensors(encoder: Encoder) -> Made:
    """Tensors by our names, `backbone.*` and `projector.*`, and what sparsehead needs to read them back.

    Raises: SparseheadError where the package is not there.
    """
    save = require_safetensors("--to safetensors").save
    parts = {"backbone": encoder.backbone} | ({"projector": encoder.head} if encoder.head else {})
    state = {
        f"{part}.{name}": value.detach().cpu().contiguous().clone()  # two names may share numbers, which the format does not know
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }
    subject = encoder.subject
    metadata = {"format": "pt"}
    if subject.config is not None:
        metadata[KEY] = json.dumps(describe_encoder(subject.stored, subject.columns, state, encoder.kind))
        arguments = ""
    else:
        metadata["assumed"] = "; ".join(map(str, subject.assumed))
        arguments = "".join(f", {argument}" for argument in arguments_of(subject))
    name = f'"timm:{encoder.backbone.name}", weights="{{file}}"' if subject.columns["method"] == "timm" else '"{file}"'
    lines = (
        "import sparsehead_cli",
        f"model = sparsehead_cli.load({name}{arguments})",
        f"r = model.encoder(model.transform({'sentences' if encoder.reads_text else 'image'}))",
    )
    return Made(in_order(save(state, metadata)), lines, "")


def in_order(data: bytes) -> bytes:
    """A .safetensors file with its header in alphabetical order: the library's own order of the metadata is another each time.

    The header is JSON behind its length in 8 bytes, filled up with spaces to a multiple of 8.
    """
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def arguments_of(subject: Subject) -> list[str]:
    """What `sparsehead_cli.load` has to be told of a network that is not ours: all that its file does not say."""
    facts = {assumption.key: assumption.value for assumption in subject.assumed}
    size = facts.pop("image_size", "")
    assume = [f"{key}={value}" for key, value in facts.items() if key not in ("branch", "layers", "activation", "positions")]
    return [*([f"image_size={size}"] if size else []), *([f"assume={assume}"] if assume else [])]


class Both(nn.Module):
    """An encoder and its head as one network, images -> (r, z)."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        r = self.backbone(images)
        return r, self.head(r)


def to_onnx(encoder: Encoder) -> Made:
    """An ONNX graph, normalised images [batch, C, h, w] -> r, and z where a head goes with it; any batch.

    Raises: SparseheadError where the packages of the extra are not there, and for a network that ONNX cannot express.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise SparseheadError(f"--to onnx needs {error.name}, which is not installed: pip install 'sparsehead[onnx]'") from None
    outputs = ["r", "z"] if encoder.head else ["r"]
    network = (Both(encoder.backbone, encoder.head) if encoder.head else encoder.backbone).eval()
    graph = onnx.load_from_string(traced(network, encoder.image, outputs))
    normalise = encoder.subject.prepare.normalise
    facts = {"run": encoder.subject.columns["run"], "mean": list(normalise.mean), "std": list(normalise.std)}
    for name, value in facts.items():
        graph.metadata_props.add(key=name, value=str(value))
    onnx.checker.check_model(graph)
    data = graph.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    worst = 0.0
    for place, name in enumerate(outputs):

        def ours(images: Tensor, place: int = place) -> Tensor:
            made = network(images)
            return made[place] if isinstance(made, tuple) else made

        def theirs(images: Tensor, name: str = name) -> Tensor:
            return torch.from_numpy(session.run([name], {"images": images.numpy()})[0])

        worst = max(worst, require_equal(ours, theirs, encoder.image, f"{name} of ONNX Runtime"))
    lines = (
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])',
        f'{", ".join(outputs)}{"," if len(outputs) == 1 else ""} = session.run(None, {{"images": images}})  # float32, normalised',
    )
    return Made(data, lines, f"ONNX Runtime gives the same {' and '.join(outputs)}{within(worst)}")


def traced(network: nn.Module, image: tuple[int, int, int], outputs: list[str]) -> bytes:
    """What torch.onnx writes of a network, with a batch of any size. Raises: SparseheadError for what it cannot express.

    The exporter that traces needs no package beside torch, as the newer one does, and suits networks without branches.
    """
    buffer = io.BytesIO()
    axes = {name: {0: "batch"} for name in ("images", *outputs)}
    try:
        with warnings.catch_warnings(action="ignore"):  # it is called legacy; a head's own check of widths is not in the graph
            torch.onnx.export(
                network,
                (torch.zeros(2, *image),),
                buffer,
                dynamo=False,
                input_names=["images"],
                output_names=outputs,
                dynamic_axes=axes,
                opset_version=OPSET,
            )
    except Exception as error:  # whatever code of somebody's own does in its forward pass
        reason = " ".join(str(error).split())[:200]
        raise SparseheadError(f"this network cannot be written as ONNX: {reason}. Export it --to safetensors.") from None
    return buffer.getvalue()


LOAD = ('model.load_state_dict(torch.load("{file}", weights_only=True))', "model.eval()")
FORMATS: dict[str, Callable[[Encoder], Made]] = {
    "torchvision": to_torchvision,
    "timm": to_timm,
    "safetensors": to_safetensors,
    "onnx": to_onnx,
}
