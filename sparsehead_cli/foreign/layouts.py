"""Known layouts of other people's checkpoints, as data. Whoever wants to add one adds a row to VITS or LAYOUTS, and nothing else.

A row says how files of one origin are recognised, and what holds of the network in them that their shapes do not show. The
code that reads these tables knows no layout by name. Facts are named as `--assume` takes them (KEYS in facts.py).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

Settings = Mapping[str, object]


@dataclass(frozen=True)
class Layout:
    """Files of one origin, and the `facts` that hold of the network in each of them.

    They are recognised by regular expressions, each of which must be found in one line. `shows` looks at the tensors, by whole
    name ("module.fc.weight"), by name and shape ("module.fc.weight [1000, 2048]"), and at what was read off them: "kernel = 7",
    the side of a ResNet's first convolution, and "positions = rows" or "columns", where a vision transformer's positions are
    fixed sines and cosines. `lacks` must not be found there. `says` looks at the plain values in the file, such as
    "hyper_parameters.method = simclr".

    `by_kernel` has more facts, of ResNets whose first convolution has this side, and `by_dataset` of files that name this data
    set.
    """

    name: str
    shows: tuple[str, ...] = ()
    facts: Settings = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    by_kernel: Mapping[int, Settings] = field(default_factory=dict)
    by_dataset: Mapping[str, Settings] = field(default_factory=dict)

    def fits(self, shown: str, said: str) -> bool:
        """Whether a file is of this layout; `shown` and `said` are its lines."""
        needed = [(pattern, shown) for pattern in self.shows] + [(pattern, said) for pattern in self.says]
        there = all(re.search(pattern, text, re.MULTILINE) for pattern, text in needed)
        return there and not any(re.search(pattern, shown, re.MULTILINE) for pattern in self.lacks)


# ---------------------------------------------------------------------------------------------- images

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
LARGE = {**IMAGENET, "image_size": 224}
CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616), "image_size": 32}
CIFAR100 = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762), "image_size": 32}
STL10 = {"mean": (0.4914, 0.4823, 0.4466), "std": (0.247, 0.243, 0.261), "image_size": 96}  # as solo-learn has it
SOLO_LEARNS_IMAGES = {"cifar10": CIFAR10, "cifar100": CIFAR100, "stl10": STL10, "imagenet100": LARGE, "imagenet": LARGE}

# ---------------------------------------------------------------------------------------------- networks

RELU = {"activation": "relu"}
TORCHVISION = {"stride": "3x3", "stem_stride": 2, "padding": 3, "pool": True}  # its ResNets, and those built on it
CIFAR_STEM = {"stem_stride": 1, "padding": 2, "pool": False}  # solo-learn's, and that of code grown from it
IMAGENETS = {7: {**TORCHVISION, **LARGE}}
SOLO_LEARN = {
    "facts": {**RELU, "stride": "3x3", "branch": "trained"},
    "by_kernel": {7: TORCHVISION, 3: CIFAR_STEM},
    "by_dataset": SOLO_LEARNS_IMAGES,
}
USUAL = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1536: 24}  # attention heads by width: 64 to 88 channels each
TWELVE = {**USUAL, 192: 12, 384: 12}  # MoCo v3 and what grew from it
VIT = {**IMAGENET, "heads": USUAL, "tokens": "class"}
TEACHER = {**VIT, "branch": "teacher", "activation": "gelu"}  # DINO and what grew from it
SOLO_LEARNS_VIT = {**RELU, "heads": USUAL, "tokens": "class", "branch": "trained"}

# ---------------------------------------------------------------------------------------------- layouts

LIGHTNING = r"^pytorch-lightning_version = "
HUGGING_FACE = r"(^|\.)embeddings\.patch_embeddings\.projection\.weight$"
CLASS_TOKEN = r"(^|\.)cls_token$"
CLASSIFIER_OR_DECODER = r"(^|\.)classifier\.weight$|(^|\.)decoder\.decoder_embed\."
OF_SOLO_LEARN = (r"(^|\.)backbone\.patch_embed\.proj\.weight$", CLASSIFIER_OR_DECODER)
CHUNKS = r"(^|\.)blocks\.\d+\.\d+\.norm1\.weight$"  # DINOv2's training: blocks in chunks

# vision transformers; the first row that fits is taken, and where none does, one of LAYOUTS
VITS: tuple[Layout, ...] = (
    Layout(
        "Hugging Face's DINOv2 with registers",
        (HUGGING_FACE, r"embeddings\.register_tokens$"),
        {**VIT, "positions": "antialias"},
    ),
    Layout("Hugging Face's DINOv2", (HUGGING_FACE, r"\.layer_scale1\.lambda1$"), {**VIT, "positions": "bicubic"}),
    Layout(
        "Hugging Face's I-JEPA",
        (HUGGING_FACE,),
        {**VIT, "positions": "bicubic", "tokens": "average"},
        lacks=(CLASS_TOKEN,),
    ),
    Layout(
        "Hugging Face's ViTMAE",
        (HUGGING_FACE, r"decoder\.decoder_embed\.|^positions = columns$"),
        {**VIT, "positions": "bicubic"},
    ),
    Layout("Hugging Face's ViT", (HUGGING_FACE,), {"positions": "bicubic", "tokens": "class"}),
    Layout(
        "solo-learn's MoCo v3",
        OF_SOLO_LEARN,
        {**SOLO_LEARNS_VIT, "heads": TWELVE, "positions": "rows"},
        says=(LIGHTNING, r"(?i)(^|\.)(method|method_name) = mocov3$"),
        by_dataset=SOLO_LEARNS_IMAGES,
    ),
    Layout(
        "solo-learn's MAE",
        (*OF_SOLO_LEARN, r"decoder\.decoder_embed\."),
        {**SOLO_LEARNS_VIT, "heads": TWELVE, "positions": "bicubic"},
        says=(LIGHTNING,),
        by_dataset=SOLO_LEARNS_IMAGES,
    ),
    Layout("solo-learn", OF_SOLO_LEARN, SOLO_LEARNS_VIT, says=(LIGHTNING,), by_dataset=SOLO_LEARNS_IMAGES),
    Layout(
        "MoCo v3",
        (r"(^|\.)base_encoder\.|^positions = rows$",),
        {**VIT, **RELU, "heads": TWELVE, "positions": "rows"},
    ),
    Layout(
        "MSN",
        (r"^target_encoder\.", r"(^|\.)fc\.fc1\.weight$"),
        {**VIT, "activation": "gelu", "positions": "bicubic", "branch": "target"},
    ),
    Layout(
        "I-JEPA",
        (r"^target_encoder\.|^positions = columns$",),
        {**VIT, "positions": "columns", "tokens": "average", "branch": "target"},
        lacks=(CLASS_TOKEN,),
    ),
    Layout("DINOv2 with registers", (r"(^|\.)register_tokens$",), {**TEACHER, "positions": "antialias"}),
    Layout(
        "DINOv2",
        (rf"(^|\.)mask_token$|{CHUNKS}", rf"\.ls1\.gamma$|{CHUNKS}"),
        {**TEACHER, "positions": "offset"},
    ),
    Layout("iBOT", (r"(^|\.)masked_embed$|\.last_layer2\.",), {**TEACHER, "positions": "offset"}),
    Layout("DINO", (r"(^|\.)teacher\.", r"last_layer\.|head\.mlp\."), {**TEACHER, "positions": "offset"}),
    Layout("MAE", (r"(^|\.)decoder_embed\.|^positions = columns$",), {**VIT, "positions": "bicubic"}),
)

# ResNets, and all others; the first row that fits is taken
LAYOUTS: tuple[Layout, ...] = (
    Layout("lightly", (r"_head\.layers\.",)),
    Layout("moco", (r"(^|\.)(encoder_q|base_encoder)\.",), {**RELU, "branch": "trained"}, by_kernel=IMAGENETS),
    Layout(
        "dino",
        (r"(^|[._])(teacher|student)[._]", r"last_layer\.|head\.mlp\."),
        {"branch": "teacher"},
        by_kernel=IMAGENETS,
    ),
    Layout(
        "msn",
        (r"^target_encoder\.", r"^encoder\.", r"^prototypes$"),
        {"branch": "momentum", "activation": "gelu"},
        by_kernel=IMAGENETS,
    ),
    Layout("byol", (r"(online|target)_(encoder|network)",), {**RELU, "branch": "trained"}),
    Layout(
        "swav",
        (r"prototypes\.weight$", r"projection_head"),
        RELU,
        by_kernel={7: {**TORCHVISION, **LARGE, "std": (0.228, 0.224, 0.225)}},  # 0.228 in its code, too
    ),
    Layout("cassle", (r"(^|\.)frozen_encoder\.", r"(^|\.)projector\."), **SOLO_LEARN),
    Layout(
        "solo-learn",
        (r"(^|\.)(backbone|encoder)\.conv1\.weight$", r"(^|\.)classifier\.weight$", r"(^|\.)projector\."),
        says=(LIGHTNING,),
        **SOLO_LEARN,
    ),
    Layout("solo-learn", (r"(^|\.)momentum_(backbone|encoder)\.", r"(^|\.)momentum_projector\."), **SOLO_LEARN),
    Layout(
        "eb_jepa",
        (r"^kernel = 3$", r"(^|\.)backbone\.backbone\.conv1\.weight$", r"(^|\.)projector\."),
        {**RELU, **CIFAR_STEM, **CIFAR10, "std": (0.2023, 0.1994, 0.2010)},
    ),
    Layout(
        "simclr (sthalles)",
        (r"(^|\.)backbone\.fc\.0\.weight$", r"(^|\.)backbone\.fc\.2\.weight$"),
        {**RELU, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
        by_kernel={7: TORCHVISION},
    ),
    Layout(
        "simsiam",
        (r"(^|\.)encoder\.fc\.0\.weight$", r"(^|\.)predictor\.0\.weight$"),
        RELU,
        says=(r"(?i)(^|\.)arch = resnet\d+$",),
        by_kernel=IMAGENETS,
    ),
    Layout("timm's training", (r"^state_dict_ema\.",), {"branch": "ema"}),
    Layout("lightning", says=(LIGHTNING,)),
    Layout(
        "barlow",
        (r"(^|\.)backbone\.conv1\.weight$", r"(^|\.)projector\.", r"(^|\.)bn\.running_mean$"),
        RELU,
        by_kernel=IMAGENETS,
    ),
    Layout(
        "vicreg",
        (r"^model\.(module\.)?backbone\.conv1\.weight$", r"^model\.(module\.)?projector\."),
        RELU,
        by_kernel=IMAGENETS,
    ),
    Layout("lightly", (r"\.shortcut\.0\.weight$|(^|\.)[2-4]\.0\.conv1\.weight$",)),
    # A classifier of ImageNet's 1000 classes, in a bare state_dict or by torchvision's training script or PyTorch's example.
    # Other weights by torchvision's names have its architecture, but may be trained on any images.
    Layout("torchvision", (r"^conv1\.weight$", r"^fc\.weight \[1000,"), by_kernel=IMAGENETS),
    Layout(
        "torchvision",
        (r"(^|\.)fc\.weight \[1000,",),
        says=(r"(?i)(^|\.)(arch|model) = (wide_)?res?net\w+$",),
        by_kernel=IMAGENETS,
    ),
    Layout("torchvision", (r"^conv1\.weight$", r"^fc\.weight$"), by_kernel={7: TORCHVISION}),
)

# ---------------------------------------------------------------------------------------------- names of a method's networks

# the words in a prefix by which the copies of a method's network are told apart
MOMENTUM = {"momentum", "ema", "target", "key", "k", "slow"}
FROZEN = {"frozen", "old", "previous"}  # that of a task before
ALIASES = {"target": "momentum", "online": "trained"}  # what papers call them
RAW = "current_model_state."  # where Lightning keeps the weights whose average is in state_dict

# ---------------------------------------------------------------------------------------------- heads

# heads that no method calls its projector
OTHER_HEADS = ("predict", "prototype", "classif", "probe", "decod", "queue", "logit", "last_layer", "eval")
ONE_LAYER = "encoder_q"  # MoCo v1's network, whose fc of one layer is a projector; others' is a classifier
LAST_LAYER = "last_layer"  # beside DINO's head, which begins with it; its activations are GELU
LAST_LAYERS = {"z": "before the l2 norm and last_layer", "activation": "gelu"}

# ---------------------------------------------------------------------------------------------- names of tensors

_BLOCK = r"(?:encoder\.layer|layers)\.(\d{1,3})\."
_PARTS = r"(weight|bias)"
_CHUNK = r"blocks\.(?:\d{1,3}\.)?(\d{1,3})\."
# (the tensor by which such names are recognised, (a name, timm's name for it) …), for vision transformers
VIT_NAMES: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    # Hugging Face: ViT, DeiT, ViTMAE, ViTMSN, I-JEPA, DINOv2 (also with registers), in files and in memory since version 5
    (
        r"embeddings\.patch_embeddings\.projection\.weight",
        (
            (r"embeddings\.(cls_token|mask_token)", r"\1"),
            (r"embeddings\.distillation_token", "dist_token"),
            (r"embeddings\.register_tokens", "reg_token"),
            (r"embeddings\.position_embeddings", "pos_embed"),
            (rf"embeddings\.patch_embeddings\.projection\.{_PARTS}", r"patch_embed.proj.\1"),
            (rf"{_BLOCK}(?:layernorm_before|norm1)\.{_PARTS}", r"blocks.\1.norm1.\2"),
            (rf"{_BLOCK}(?:layernorm_after|norm2)\.{_PARTS}", r"blocks.\1.norm2.\2"),
            (rf"{_BLOCK}attention\.(?:attention\.query|q_proj)\.{_PARTS}", r"blocks.\1.attn.q.\2"),
            (rf"{_BLOCK}attention\.(?:attention\.key|k_proj)\.{_PARTS}", r"blocks.\1.attn.k.\2"),
            (rf"{_BLOCK}attention\.(?:attention\.value|v_proj)\.{_PARTS}", r"blocks.\1.attn.v.\2"),
            (rf"{_BLOCK}attention\.(?:output\.dense|o_proj)\.{_PARTS}", r"blocks.\1.attn.proj.\2"),
            (rf"{_BLOCK}(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.{_PARTS}", r"blocks.\1.mlp.fc1.\2"),
            (rf"{_BLOCK}(?:output\.dense|mlp\.fc2|mlp\.weights_out)\.{_PARTS}", r"blocks.\1.mlp.fc2.\2"),
            (rf"{_BLOCK}layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
            (rf"layernorm\.{_PARTS}", r"norm.\1"),
        ),
    ),
    # the code of DINOv2 and iBOT: registers, SwiGLU, layer scale, and blocks in chunks, whose second number goes on in the next
    (
        r"patch_embed\.proj\.weight",
        (
            (r"register_tokens", "reg_token"),
            (rf"{_CHUNK}mlp\.w12\.{_PARTS}", r"blocks.\1.mlp.fc1.\2"),
            (rf"{_CHUNK}mlp\.w3\.{_PARTS}", r"blocks.\1.mlp.fc2.\2"),
            (rf"{_CHUNK}gamma_([12])", r"blocks.\1.ls\2.gamma"),
            (rf"{_CHUNK}(.+)", r"blocks.\1.\2"),
        ),
    ),
)
