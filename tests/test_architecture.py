"""The house rules of the design that a machine can check."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sparsehead_cli"
FILES = sorted(PACKAGE.rglob("*.py"))
# a room may import from its own floor and from those below it
FLOORS = [
    {"cli", "__main__", "cli_export", "options", "ending"},
    {"api"},
    {"present"},
    {"sweeps"},
    {"study"},
    {"exports"},
    {"evaluation"},
    {"training"},
    {"runs"},
    {"foreign"},
    {"measure"},
    {"ssl", "sparse"},
    {"nets"},
    {"data"},
    {"machine"},
    {"errors", "__init__"},
]


def room(module: str) -> str:
    return (module.split(".") + ["__init__"])[1]


def floor(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if name in rooms)


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sparsehead_cli"):
            yield from [f"{node.module}.{a.name}" if node.module == "sparsehead_cli" else node.module for a in node.names]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_go_downward(path):
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here == "__init__":
        return  # hands SparseHead out, and imports it only when asked
    for module in imports(path):
        name = room(module) if room(module) in set().union(*FLOORS) else "__init__"
        assert floor(name) >= floor(here), f"{path.name} imports {module} from a floor above"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_are_short_and_named_for_readers(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert ".cuda()" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            limit = 60 if path.name in ("cli.py", "api.py") else 40  # a command's options are its signature
            assert node.end_lineno - node.lineno < limit, f"{path.name}: {node.name} is too long"
    if text and path.name != "__main__.py":
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_cli_and_its_display_print(path):
    calls = [n.func.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert "print" not in calls or path.name in ("cli.py", "fashion10k.py", "wordnet10k.py")


def test_help_and_config_import_no_torch():
    code = "import sys, sparsehead_cli.cli, sparsehead_cli.runs.config; sys.exit(bool({'torch', 'rich.table'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


KNOW_NEITHER = [
    *(PACKAGE / "training" / name for name in ("loop.py", "callbacks.py", "files.py")),
    *(PACKAGE / "ssl" / name for name in ("contract.py", "methods.py")),
    *(PACKAGE / "ssl" / "losses").glob("*.py"),
    *(PACKAGE / "sparse").glob("*.py"),
    *(PACKAGE / "evaluation").glob("spectrum*.py"),
    *(PACKAGE / "sweeps").glob("*.py"),
]


@pytest.mark.parametrize("path", KNOW_NEITHER, ids=lambda p: p.name)
def test_what_is_common_knows_neither_sentences_nor_sequences_of_tasks(path):
    imported = " ".join(imports(path))
    for room_of_its_own in (
        "data.text",
        "data.tokens",
        "data.tasks",
        "data.sts",
        "nets.bert",
        "foreign.berts",
        "ssl.cassle",
        "runs.tasks",
    ):
        assert room_of_its_own not in imported
    code = path.read_text().lower()
    assert not [word for word in ("vocabulary", "tokeniz", "input_ids", "cassle", "continual") if word in code]
