"""A file of anybody's -> the nested dicts of tensors in it. No code in it is ever run.

torch.load(weights_only=True) makes nothing but tensors and plain values. Checkpoints of Lightning and others hold more: their
settings, as objects of argparse, omegaconf, numpy or of classes of their own. Each such name is stood in for by a class of ours
that does nothing. A name that no data needs, such as os.system, is refused.
"""

import pickle
import pickletools
import re
import sys
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch

from sparsehead_cli.errors import SparseheadError, missing
from sparsehead_cli.foreign.tensors import listed, printable, tensors_of
from sparsehead_cli.machine.archive import Unsound, open_file, require_sound, zip_of

ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # what files begin with
ATTEMPTS = 100  # names that a file without a list of them, of before 2020, may ask for one after another
STATE_DICT = "Save its state_dict() instead: torch.save(model.state_dict(), FILE)."


class StandIn(list):
    """What stands for an object of an unknown class: takes any arguments, state and items.

    Of these it keeps a state of names and plain values as its attributes, which is what settings objects are; else nothing.
    """

    def __new__(cls, *arguments: object) -> "StandIn":
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Attributes for `facts.hints_of` to read."""
        if isinstance(state, dict):
            self.__dict__.update({str(name): value for name, value in state.items()})

    def append(self, item: object) -> None:
        """Nothing is kept."""

    def extend(self, items: object) -> None:
        """Nothing is kept."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class DictStandIn:
    """The same for a class whose objects are filled by key: the unpickler only fills dicts, so that it makes an empty one."""

    def __new__(cls, *arguments: object) -> OrderedDict:
        return OrderedDict()


def read_file(path: Path) -> tuple[object, tuple[str, ...]]:
    """The object in a file, its tensors on the CPU, and the names of the Python objects that were left out of it.

    Raises: SparseheadError for a file that is missing, damaged, claims more than it holds, holds a whole module, or wants to
    run code.
    """
    if not path.is_file():
        raise SparseheadError(f"{missing(path)}." if not path.exists() else f"{path} is no file.")
    if path.suffix == ".safetensors":
        return read_safetensors(path), ()
    start = read_start(path)
    if start and start != ZIP and start[:1] != PICKLE:
        raise damaged(path, "torch.save writes no such file")
    names = names_in(path) if start == ZIP else set()
    for name in sorted(names):
        require_harmless(name, path, names)
    state, names = unpickled(path, names)
    plain = [t for t in tensors_of(state).values() if t.layout == torch.strided and t.device.type == "cpu" and not t.is_nested]
    claimed = sum(tensor.numel() for tensor in plain)
    if claimed > path.stat().st_size:
        raise damaged(path, f"its tensors claim {claimed:,} numbers, more than it has bytes")
    if isinstance(state, StandIn):
        raise SparseheadError(f"{path} holds a whole Python object ({listed(sorted(names), 3)}). {STATE_DICT}")
    return state, tuple(sorted(names))


def read_start(path: Path) -> bytes:
    """The first four bytes. Raises: SparseheadError where the file cannot be opened."""
    try:
        with open(path, "rb") as file:
            return file.read(len(ZIP))
    except OSError as error:
        raise SparseheadError(f"cannot read {path}: {error.strerror}.") from None


def damaged(path: Path, reason: str) -> SparseheadError:
    """The error for a file that is no checkpoint, or no longer."""
    return SparseheadError(f"{path} is damaged or not a checkpoint ({reason}). Fetch it again, or save it again with torch.save.")


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file. Raises: SparseheadError where the package is missing or the file damaged."""
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise SparseheadError(f"{path} needs the package safetensors: pip install 'sparsehead[safetensors]'") from None
    try:
        return load_file(path, device="cpu")
    except Exception as error:
        raise damaged(path, short(error)) from None


def names_in(path: Path) -> set[str]:
    """The full names of all classes and functions that a zip file of torch.save asks for beyond tensors and plain values.

    Raises: SparseheadError for a damaged file.
    """
    require_sound_zip(path)
    try:
        with allowing([]):
            return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        raise damaged(path, short(error)) from None


def require_sound_zip(path: Path) -> None:
    """Raises: SparseheadError where entries claim more bytes than the file has, or have other bytes than were written.

    Other people's files may lack their checksums; what has one is compared with it.
    """
    try:
        with open_file(path) as file:
            with zip_of(file) as archive:
                if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                    raise SparseheadError(f"{path} is a TorchScript archive. {STATE_DICT}")
            require_sound(file, checksums=False)
    except Unsound as reason:
        raise damaged(path, printable(str(reason))) from None


def unpickled(path: Path, names: set[str]) -> tuple[object, set[str]]:
    """torch.load with something inert for each of `names`, and for those that a file of the old format turns out to ask for.

    Raises: SparseheadError as `read_file`.
    """
    inert: dict[str, type] = {name: stand_in(name, StandIn) for name in names}
    for _ in range(ATTEMPTS):
        try:
            with warnings.catch_warnings(action="ignore"), allowing([(made, name) for name, made in inert.items()]):
                return torch.load(path, map_location="cpu", weights_only=True), set(inert)
        except pickle.UnpicklingError as error:
            name, kind = asked_for(str(error))
            if name is None or issubclass(inert.get(name, object), kind):
                refuse_unread(path, error)
            require_harmless(name, path, {*inert, name})
            inert[name] = stand_in(name, kind)
        except Exception as error:  # a damaged file raises whatever its bytes lead to
            refuse_unread(path, error)
    raise damaged(path, f"it asks for more than {ATTEMPTS} classes")


@contextmanager
def allowing(classes: list[tuple[type, str]]) -> Iterator[None]:
    """The unpickler makes these classes and no others: what torch and libraries allow beyond plain data is put back after."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        torch.serialization.add_safe_globals(classes)
        yield
    finally:
        imported = set(torch.serialization.get_safe_globals()) - set(classes)  # modules that came with the first file allow theirs
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([*before, *imported])


def stand_in(name: str, kind: type) -> type:
    """A class of its own for each name, since the unpickler tells them apart; its own name is seen in errors."""
    return type(kind.__name__, (kind,), {"__module__": "inert", "__qualname__": name})


def asked_for(message: str) -> tuple[str | None, type]:
    """The name that the unpickler's error is about, and what must stand for it."""
    if match := re.search(r"Can only SETITEMS? for .*<class 'inert\.([^']+)'>", message):
        return match[1], DictStandIn
    if match := re.search(r"Unsupported global: GLOBAL (\S+) was not", message):
        return (match[1] if "." in match[1] else f"builtins.{match[1]}"), StandIn
    return None, StandIn


def refuse_unread(path: Path, error: Exception) -> NoReturn:
    """Raises: SparseheadError that names what the file wanted to call, or else says that it is damaged."""
    blocked = re.search(r"unsupported GLOBAL (\S+) whose module", str(error))
    names = {blocked[1]} if blocked else set()
    if read_start(path) != ZIP:
        names |= raw_names(path)
    for name in sorted(names):
        require_harmless(name, path, names)
    if "Only persistent_load of storage" in str(error):  # the old format keeps a module's source
        raise SparseheadError(f"{path} holds a whole Python object. {STATE_DICT}") from None
    reason = "it ends too early" if isinstance(error, EOFError) else short(error)
    raise damaged(path, reason) from None


def raw_names(path: Path) -> set[str]:
    """The names in a plain pickle, as far as it can be read; nothing is made of it."""
    names, texts = set(), ["", ""]
    try:
        with open(path, "rb") as file:
            for operation, argument, _ in pickletools.genops(file):
                if operation.name in ("GLOBAL", "INST"):
                    names.add(str(argument).replace(" ", "."))
                elif operation.name == "STACK_GLOBAL":
                    names.add(".".join(texts))
                elif isinstance(argument, str) and len(argument) < 200:
                    texts = [texts[1], argument]
    except Exception:  # what was read until here counts
        pass
    return names


def require_harmless(name: str, path: Path, names: set[str]) -> None:
    """Raises: SparseheadError for a name that data has no need of: of the standard library, or a function of torch's."""
    module, _, last = name.rpartition(".")
    # the name of today for one of Python 2: pickles for both write subprocess.call as commands.call
    name = ".".join(NAME_MAPPING.get((module, last), (IMPORT_MAPPING.get(module, module), last)))
    first, last = name.partition(".")[0], name.rpartition(".")[2]
    if first in sys.stdlib_module_names:
        if name in PLAIN or re.fullmatch(r"typing\.[A-Z]\w*", name):
            return
    elif first != "torch" or last[:1].isupper() or name.startswith(("torch._utils._rebuild_", *SETTINGS)):
        return
    elif any(other.startswith("torch.nn.modules.") for other in names):
        raise SparseheadError(f"{path} holds a whole module with its code ({printable(name)}), which is not run here. {STATE_DICT}")
    raise SparseheadError(
        f"{path} wants to call {printable(name)} when it is loaded. That is code, which no weights need: it was not run. "
        "Do not load the file elsewhere unless you trust who made it; ask for a plain state_dict."
    )


def short(error: Exception) -> str:
    """The first sentence of somebody else's error, on one line."""
    if isinstance(error, LookupError):  # whose words are a bare key
        return "its pickle refers to what is not there"
    text = " ".join(str(error).split())
    text = text.rpartition("WeightsUnpickler error: ")[2] or text
    return printable(re.split(r"\. | Check the documentation", text)[0][:120]) or type(error).__name__


SETTINGS = ("torch.nn.functional.", "torch.nn.init.")  # functions that settings name, as in activation=relu
PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
# what of the standard library is data, or a setting as harmless; all else may be code
PLAIN = {
    *(f"builtins.{kind}" for kind in ("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list")),
    *(f"builtins.{kind}" for kind in ("object", "range", "set", "slice", "str", "tuple")),
    *(f"collections.{kind}" for kind in ("ChainMap", "Counter", "OrderedDict", "UserDict", "UserList", "defaultdict", "deque")),
    *(f"datetime.{kind}" for kind in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"pathlib.{kind}" for kind in PATHS),
    *(f"pathlib._local.{kind}" for kind in PATHS),
    *("argparse.Namespace", "copyreg._reconstructor", "functools.partial", "types.SimpleNamespace", "enum.Enum", "enum.IntEnum"),
    *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "uuid.SafeUUID", "time.struct_time"),
}
