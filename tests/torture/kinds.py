"""The kinds of inputs for `tests.torture.inputs`: how each is drawn, and what reads it."""

import contextlib
import dataclasses
import gzip
import io
import os
import pickle
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image

from sparsehead_cli import cli
from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.data.decoding import decode
from sparsehead_cli.data.idx import read_idx_pair
from sparsehead_cli.data.listing import reason_of
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation import evaluate
from sparsehead_cli.evaluation.load import load_subject
from sparsehead_cli.evaluation.subject import LoadOptions
from sparsehead_cli.measure.features import Features, cached
from sparsehead_cli.present import dry_run
from sparsehead_cli.present import pretrain as present_pretrain
from sparsehead_cli.present import spectra as present_spectra
from sparsehead_cli.runs import build
from sparsehead_cli.runs.checkpoint import load_checkpoint
from sparsehead_cli.runs.config import FIELDS, Config, load_config, parse_set
from sparsehead_cli.runs.folder import resume
from sparsehead_cli.runs.run import Progress
from sparsehead_cli.runs.settled import check_names
from sparsehead_cli.runs.table_files import read_csv
from sparsehead_cli.runs.tables import TABLES
from sparsehead_cli.study import spectra
from sparsehead_cli.sweeps import sweep
from sparsehead_cli.training import loop
from tests.conftest import TINY
from tests.torture.damage import CONTENTS

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
RUNS = tempfile.TemporaryDirectory()  # of this process, and gone with it


class Changed(Exception):
    """Something was read that is not what was written, and nothing was said."""


@dataclass(frozen=True)
class Kind:
    """How inputs are drawn, what reads one, what `prepare(folder)` lays out before, and how many there are beside other kinds."""

    name: str
    inputs: SearchStrategy
    read: Callable[[object], None]
    prepare: Callable[[Path], None] = lambda folder: None
    weight: int = 10


# ---------------------------------------------------------------------------------------------- settings and command lines

NASTY = [
    *(
        "2024-13-45",
        "0b_",
        "[a]",
        "9" * 400,
        "[" * 5000,
        "{" * 500,
        "!!python/object/apply:os.mkdir [code-was-run]",
        ".inf",
        ".nan",
    ),
    *(
        "1_000",
        "-1",
        "0",
        "1e400",
        "true",
        "null",
        "~",
        "",
        " ",
        "\0",
        "\x1b[31m",
        "[/red]",
        "../../esc",
        "/etc",
        "a\nb",
        "é",
        "💥",
    ),
    *(
        "&a [*a]",
        "&a [1, &b [*a, *a]]",
        "<<: {a: 1}",
        "? x",
        "!!binary aGk=",
        "2024-01-01",
        "0x1F",
        "1:30",
        "'",
        '"',
        "%",
        "@",
        "`",
    ),
    *("[8,8,8,8]", "8,8", "1" * 5000, "simclr", "resnet18", "1e-3", "0.5", "100000000000", "mine:Net", "-", "--", "C:\\x"),
]
BOMB = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" if i else "a0: &a0 [lol]" for i in range(7))
WORDS = st.one_of(st.sampled_from(NASTY), st.text(max_size=30), st.integers().map(str), st.floats().map(str))
KEYS = st.one_of(
    st.sampled_from([*FIELDS, "method.temperature", "method.symmetric", "method.nothing", "experiment", "sweep", ""]),
    st.text(max_size=10),
)


def read_setting(pairs: list[tuple[str, str]]) -> None:
    check_names(load_config(None, ROOT / "experiments.yaml", parse_set([f"{key}={text}" for key, text in pairs])))


def read_experiments_file(data: bytes) -> None:
    Path("mine.yaml").write_bytes(data)
    load_config("quickstart", Path("mine.yaml"), {})


def yaml_files() -> SearchStrategy:
    """Texts, bytes, and damaged copies of the repository's own file."""
    whole = (ROOT / "experiments.yaml").read_bytes()[:3000]
    entries = st.dictionaries(KEYS, WORDS, max_size=4).map(
        lambda d: "quickstart:\n" + "".join(f"  {k}: {v}\n" for k, v in d.items())
    )
    return st.one_of(
        st.binary(max_size=200),
        entries.map(lambda text: text.encode(errors="surrogatepass")),
        damaged(whole),
        st.just(BOMB.encode()),
    )


OPTIONS = [
    *("--method", "--lam", "--penalty", "--solver", "--dataset", "--data-dir", "--image-size", "--workers", "--skip-bad-images"),
    *("--backbone", "--epochs", "--batch-size", "--lr", "--seed", "--device", "--precision", "--compile", "--track-spectrum"),
    *("--results", "--experiments", "--set", "--experiment", "--protocol", "--transfer-to", "--weights", "--assume", "--split"),
    *("--layers", "--figure", "--out", "--lams", "--methods", "--seeds", "--engine", "--jobs", "--help", "--version", "--explain"),
]
COMMANDS = ["pretrain", "evaluate", "spectrum", "sweep-lambda", "report", "list", "show", "export", "nothing"]


def read_command_line(arguments: list[str]) -> None:
    """Through the console script, as far as the work; exit codes are 0, 1 and 2, and nobody sees a traceback."""
    sys.argv = ["sparsehead", *(a.replace("\0", "0") for a in arguments)]
    try:
        cli.main()
    except SystemExit as leaving:
        if leaving.code not in (None, 0, 1, 2):
            raise AssertionError(f"exit code {leaving.code}") from None


def without_work(folder: Path) -> None:
    """Commands end where their work would begin."""

    def reached(*arguments: object, **options: object) -> None:
        raise SparseheadError("the work would begin")

    build.build = evaluate.evaluate = spectra.study_spectra = sweep.read_state = reached
    present_pretrain.build = dry_run.build = present_spectra.study_spectra = reached  # the same, under the names of who calls them


# ---------------------------------------------------------------------------------------------- what a run leaves


def damaged(data: bytes) -> SearchStrategy:
    """The bytes of a file, damaged."""
    return st.builds(lambda damage, seed: damage(data, seed), st.sampled_from(list(CONTENTS.values())), st.integers(0, 2**32))


@cache
def trained() -> Path:
    """The folder of a run of two epochs, made once before the forks."""
    config = Config(**{**TINY, "track_spectrum": True, "results": Path(RUNS.name)})
    return loop.pretrain(build.build(config)).run.folder


@cache
def run_again() -> build.Run:
    """The same run, newly built."""
    return build.build(Config(**{**TINY, "track_spectrum": True, "results": trained().parents[1]}))


@cache
def state() -> dict:
    return load_checkpoint(trained() / "checkpoint.pt")


def equal(a: object, b: object) -> bool:
    """Whether two nests of tensors and plain values are the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def copy_run(folder: Path) -> None:
    """The run's folder, below an experiment's as usual."""
    shutil.copytree(trained(), folder / "quickstart" / trained().name)


def copied() -> Path:
    return Path("quickstart") / trained().name


def read_damaged_checkpoint(data: bytes) -> None:
    Path("checkpoint.pt").write_bytes(data)
    if not equal(load_checkpoint(Path("checkpoint.pt")), state()):
        raise Changed("other tensors or values")


PLAIN = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8), st.sampled_from([10**9, 10**6])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=4,
)
TENSORS = st.sampled_from([torch.zeros(()), torch.zeros(3), torch.full((2, 2), torch.nan), torch.zeros(1).expand(1000, 1000)])


def paths_of(value: object, prefix: tuple = ()) -> list[tuple]:
    """Every key in nested dicts."""
    if not isinstance(value, dict):
        return []
    return [path for key, item in value.items() for path in [(*prefix, key), *paths_of(item, (*prefix, key))]]


def odd_state(path: tuple, change: object, *, drop: bool) -> bytes:
    """The run's checkpoint, sound, with one of its values lost or replaced."""
    value = dict(state())
    inner = value
    for key in path[:-1]:
        inner[key] = dict(inner[key])
        inner = inner[key]
    if drop:
        inner.pop(path[-1])
    else:
        inner[path[-1]] = change
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def odd_checkpoints() -> SearchStrategy:
    every = st.sampled_from(paths_of(state()))
    settings = st.sampled_from([path for path in paths_of(state()) if path[0] != "method" and path[0] != "optimizer"])
    return st.builds(odd_state, st.one_of(every, settings), st.one_of(PLAIN, TENSORS), drop=st.booleans())


def read_odd_checkpoint(data: bytes) -> None:
    """As `evaluate` and `spectrum` read it, and as `pretrain` resumes from it."""
    (copied() / "checkpoint.pt").write_bytes(data)
    for read in (partial(load_subject, copied(), LoadOptions(device="cpu")), resumed):
        with contextlib.suppress(SparseheadError):
            read()


def resumed() -> Progress:
    return resume(dataclasses.replace(run_again(), folder=copied().absolute()))


RUN_TABLES = ("metrics.csv", "layers.csv", "spectrum_epochs.csv")


def read_run_table(given: tuple[str, bytes]) -> None:
    """A damaged table of a run is noticed when the run is resumed, or changes nothing."""
    name, data = given
    whole = (trained() / name).read_bytes()
    try:
        (copied() / name).write_bytes(data)
        tables = resumed().tables
    finally:
        (copied() / name).write_bytes(whole)
    for table in RUN_TABLES:
        if [as_text(row) for row in tables[table]] != [as_text(row) for row in read_csv(trained() / table)]:
            raise Changed(f"other rows of {table}")


def as_text(row: dict) -> dict[str, str]:
    return {key: "" if value is None else str(value) for key, value in row.items()}


def run_tables() -> SearchStrategy:
    return st.one_of([damaged((trained() / name).read_bytes()).map(partial(pair, name)) for name in RUN_TABLES])


def pair(name: str, data: bytes) -> tuple[str, bytes]:
    return name, data


def committed_tables() -> SearchStrategy:
    """The first lines of one committed table of each kind, damaged, and bytes of any kind."""
    found = {path.name: path for path in sorted((ROOT / "results").rglob("*.csv")) if path.name in TABLES}
    heads = {name: b"".join(path.read_bytes().splitlines(keepends=True)[:12]) for name, path in found.items()}
    any_bytes = st.tuples(st.sampled_from(sorted(heads)), st.binary(max_size=100))
    return st.one_of(any_bytes, *(damaged(head).map(partial(pair, name)) for name, head in heads.items()))


def read_committed_table(given: tuple[str, bytes]) -> None:
    name, data = given
    Path(name).write_bytes(data)
    read_csv(Path(name))


@cache
def features() -> Features:
    generator = torch.Generator().manual_seed(0)
    by_name = {name: torch.randn(20, width, generator=generator) for name, width in (("r", 8), ("z", 4))}
    return Features(by_name, torch.arange(20) % 3)


def cache_files() -> SearchStrategy:
    buffer = io.BytesIO()
    torch.save(vars(features()), buffer)
    return damaged(buffer.getvalue())


def read_cache(data: bytes) -> None:
    """A damaged cache is made anew: what comes back is always the same."""
    Path("features.pt").write_bytes(data)
    found = cached(Path("features.pt"), features, CPU, labels=features().labels, widths={"r": 8, "z": 4})
    if not equal(vars(found), vars(features())):
        raise Changed("other features")


# ---------------------------------------------------------------------------------------------- other people's checkpoints


class Hostile:
    """An object whose pickle wants to call something."""

    def __init__(self, call: Callable, *arguments: object) -> None:
        self.call = call, arguments

    def __reduce__(self) -> tuple:
        return self.call


@cache
def foreign_state() -> dict[str, torch.Tensor]:
    """A small ResNet with a head, as somebody might have saved it."""
    from sparsehead_cli.nets.backbones import make_backbone
    from sparsehead_cli.nets.heads import mlp

    torch.manual_seed(0)
    parts = {"backbone": make_backbone("resnet18", channels=3, image_size=32, widths=(8, 8, 8, 8)), "projector": mlp(8, [8], 4)}
    return {f"module.{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def saved(value: object, *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def odd_foreign(drops: list[int], renames: dict[int, str], extras: dict[str, object], wrap: str) -> bytes:
    """The small ResNet with names lost, changed and added."""
    names = list(foreign_state())
    dropped = {names[i % len(names)] for i in drops}
    renamed = {names[i % len(names)]: new for i, new in renames.items()}
    value = {renamed.get(name, name): tensor for name, tensor in foreign_state().items() if name not in dropped} | extras
    return saved({wrap: value, "hyper_parameters": extras} if wrap else value)


def foreign_files() -> SearchStrategy:
    indices = st.integers(0, 200)
    odd = st.builds(
        odd_foreign,
        st.lists(indices, max_size=3),
        st.dictionaries(indices, st.one_of(st.text(max_size=12), st.sampled_from(list(foreign_state()))), max_size=2),
        st.dictionaries(st.text(max_size=12), st.one_of(PLAIN, TENSORS), max_size=2),
        st.sampled_from(["", "state_dict", "model", "teacher", "x"]),
    )
    calls = [
        Hostile(os.mkdir, "code-was-run"),
        Hostile(os.system, "touch code-was-run"),
        Hostile(eval, "open('code-was-run', 'w')"),
    ]
    hostile = [pickle.dumps(call) for call in calls] + [saved({"model": call}, zipped=z) for call in calls for z in (True, False)]
    return st.one_of(
        odd, damaged(saved(foreign_state())), damaged(saved(foreign_state(), zipped=False)),
        st.sampled_from(hostile), st.binary(max_size=300),
    )  # fmt: skip


def read_foreign(data: bytes) -> None:
    Path("theirs.pth").write_bytes(data)
    load_subject("theirs.pth", LoadOptions(device="cpu", allow_partial=len(data) % 2 == 0))


# ---------------------------------------------------------------------------------------------- images


def idx_bytes(shape: tuple[int, ...], data: bytes, *, packed: bool) -> bytes:
    whole = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape) + data
    return gzip.compress(whole) if packed else whole


def idx_files() -> SearchStrategy:
    """(file's name, bytes): sound ones damaged, odd headers, gzip streams without end."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, 20 * 9, dtype=np.uint8).tobytes(), bytes(range(10)) * 2
    sides = st.lists(st.one_of(st.sampled_from([0, 1, 3, 20, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1)), min_size=0, max_size=5)
    sound = [idx_bytes((20, 3, 3), images, packed=True), idx_bytes((20,), labels, packed=True)]
    names = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
    bomb = gzip.compress(idx_bytes((2**31, 2**31, 4), b"", packed=False) + bytes(2**22))
    whole = [damaged(data).map(partial(pair, name)) for name, data in zip(names, sound, strict=True)]
    odd = st.builds(lambda name, shape: (name, idx_bytes(tuple(shape), images, packed=True)), st.sampled_from(names), sides)
    return st.one_of(*whole, odd, st.tuples(st.sampled_from(names), st.one_of(st.binary(max_size=60), st.just(bomb))))


def lay_idx(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(idx_bytes((20, 3, 3), bytes(180), packed=True))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(idx_bytes((20,), bytes(20), packed=True))


def read_idx_file(given: tuple[str, bytes]) -> None:
    name, data = given
    whole = Path(name).read_bytes()
    try:
        Path(name).write_bytes(data)
        images, labels = read_idx_pair(Path("."), train=True)
        if images.ndim != 3 or images.shape[0] != len(labels):
            raise Changed("images and labels that do not belong together")
    finally:
        Path(name).write_bytes(whole)


FORMATS = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    **{kind: ["RGB"] for kind in ("GIF", "WEBP", "BMP", "TIFF")},
}


@cache
def pictures() -> dict[str, bytes]:
    """Small images in the formats and modes that people have."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(np.add.outer(np.arange(24), np.arange(32)).astype(np.uint8)).convert("RGB")
    noise = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    found = {}
    for name, image in (("smooth", smooth), ("noise", noise)):
        for kind, modes in FORMATS.items():
            for mode in modes:
                buffer = io.BytesIO()
                made = (
                    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
                    if mode == "I;16"
                    else image.convert(mode)
                )
                made.save(buffer, kind)
                found[f"{name}-{mode}.{kind.lower()}"] = buffer.getvalue()
    progressive = io.BytesIO()
    noise.save(progressive, "JPEG", progressive=True)
    return {**found, "progressive.jpeg": progressive.getvalue()}


def read_picture(given: tuple[str, bytes]) -> None:
    """Decoded or refused, whatever is in it; the process that reads lives."""
    _, data = given
    Path("picture").write_bytes(data)
    try:
        image = decode("picture")
    except Exception as error:  # the reading process catches whatever it is
        if "\n" in reason_of(error) or not reason_of(error):
            raise AssertionError(f"a reason that is not one line: {reason_of(error)!r}") from None
        return
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise Changed(f"an image of {image.dtype} {tuple(image.shape)}")


NAMES = st.one_of(
    st.sampled_from(["train", "test", "a", "b", "x.jpg", "y.PNG", "z.txt", ".hidden.jpg", "-r", "é.jpg", "[/red]"]),
    st.text(min_size=1, max_size=6),
)
ENTRIES = st.tuples(
    st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["image", "empty", "folder", "link up", "dangling", "pipe", "copy"])
)


def read_tree(entries: list[tuple[list[str], str]]) -> None:
    """A folder with these entries, as a data set: each file counts at most once, and no link leads anywhere without end."""
    root = Path(tempfile.mkdtemp(dir="."))
    try:
        made = sum(lay(root, parts, kind) for parts, kind in entries)
        for split in ("train+val", "test"):
            try:
                if len(load_split(str(root), split, Path("data"), workers=0)) > made:
                    raise Changed("more images than files")
            except SparseheadError:
                pass
    finally:
        shutil.rmtree(root, ignore_errors=True)


def lay(root: Path, parts: list[str], kind: str) -> int:
    """Make one entry of a tree, where its name can be one; how many files it is."""
    parts = [part.replace("/", "_").replace("\0", "_") for part in parts]
    path = root.joinpath(*parts)
    try:
        if any(part in (".", "..") for part in parts) or os.path.lexists(path):
            return 0
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "folder":
            path.mkdir()
        elif kind == "link up":
            path.symlink_to(root.absolute(), target_is_directory=True)
        elif kind == "dangling":
            path.symlink_to("nowhere")
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.write_bytes(b"" if kind == "empty" else pictures()["smooth-RGB.png"])
    except (OSError, UnicodeEncodeError):
        return 0
    return int(kind not in ("folder", "link up"))  # a pipe is listed, too, and refused by name when it is read


def made_before_forks() -> None:
    """What all batches share, made once; then the kinds, whose inputs are damaged copies of it."""
    for make in (trained, run_again, state, features, foreign_state, pictures):
        make()


made_before_forks()
LINES = st.builds(
    lambda command, rest: [command, *rest],
    st.sampled_from(COMMANDS),
    st.lists(st.one_of(st.sampled_from(OPTIONS), WORDS), max_size=6),
)
CHECKPOINTS = damaged((trained() / "checkpoint.pt").read_bytes())
IMAGES = st.one_of([damaged(data).map(partial(pair, name)) for name, data in pictures().items()])
LIST = [  # those that take a millisecond more often than those that build a network
    Kind("settings", st.lists(st.tuples(KEYS, WORDS), max_size=3), read_setting, weight=40),
    Kind("experiments.yaml", yaml_files(), read_experiments_file, weight=4),
    Kind("command lines", LINES, read_command_line, without_work, weight=4),
    Kind("our checkpoints, damaged", CHECKPOINTS, read_damaged_checkpoint, weight=10),
    Kind("our checkpoints, odd", odd_checkpoints(), read_odd_checkpoint, copy_run, weight=1),
    Kind("tables of a run", run_tables(), read_run_table, copy_run, weight=4),
    Kind("other tables", committed_tables(), read_committed_table, weight=15),
    Kind("feature caches", cache_files(), read_cache, weight=8),
    Kind("others' checkpoints", foreign_files(), read_foreign, weight=2),
    Kind("IDX files", idx_files(), read_idx_file, lay_idx, weight=15),
    Kind("images", IMAGES, read_picture, weight=20),
    Kind("image folders", st.lists(ENTRIES, max_size=8), read_tree, weight=2),
]
KINDS: dict[str, Kind] = {kind.name: kind for kind in LIST}
