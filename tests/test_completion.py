"""What a shell completes, by the variables that it sets, in this process; and the help that stands beside it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from sparsehead_cli.cli import app
from sparsehead_cli.data.datasets import SPLITS
from sparsehead_cli.evaluation.plan import ASKABLE
from sparsehead_cli.options import completing
from sparsehead_cli.runs.config import FIELDS, SWEEP, read_experiments
from sparsehead_cli.runs.experiments import default_experiments
from sparsehead_cli.ssl.methods import METHODS
from sparsehead_cli.sweeps.sweep import ENGINES
from tests.conftest import PUBLISHED

TABLE = read_experiments(default_experiments())


@pytest.fixture
def command(capfd):
    """command(*arguments) -> (exit code, stdout, stderr) of the program under its own name, which a shell completes by."""

    def run(*arguments):
        with pytest.raises(SystemExit) as leaving:
            get_command(app)(args=arguments, prog_name="sparsehead")
        return (leaving.value.code or 0, *capfd.readouterr())

    return run


@pytest.fixture
def complete(command, monkeypatch):
    """complete("sparsehead pretrain --method b") -> what bash offers for the last word."""

    def ask(line):
        monkeypatch.setenv("_SPARSEHEAD_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        code, out, err = command()
        assert (code, err) == (0, "")
        return out.split()

    return ask


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sparsehead sp", ["spectrum"]),
        ("sparsehead pretrain --dry", ["--dry-run"]),
        ("sparsehead pretrain --method ", [*METHODS]),
        ("sparsehead pretrain --method b", ["byol", "barlow"]),
        ("sparsehead pretrain --penalty n", ["nuclear", "none"]),
        ("sparsehead pretrain --dataset ", [*PUBLISHED]),
        ("sparsehead pretrain --set projector_", [f"{name}=" for name in FIELDS if name.startswith("projector_")]),
        ("sparsehead pretrain --experiment ", [name for name, entry in TABLE.items() if SWEEP not in entry]),
        ("sparsehead sweep-lambda --experiment ", [name for name, entry in TABLE.items() if SWEEP in entry]),
        ("sparsehead sweep-lambda --methods simclr,b", ["simclr,byol", "simclr,barlow"]),
        ("sparsehead sweep-lambda --methods byol,b", ["byol,barlow"]),
        ("sparsehead sweep-lambda --engine ", [*ENGINES]),
        ("sparsehead evaluate x --protocol linear,k", ["linear,knn"]),
        ("sparsehead spectrum x --split ", [*SPLITS]),
        ("sparsehead list meth", ["methods"]),
        ("sparsehead show byo", [name for name in TABLE if name.startswith("byo")]),
        ("sparsehead show simcl", ["simclr-cifar", "simclr"]),
        ("sparsehead pretrain --method nothing", []),
    ],
)
def test_names_are_completed(complete, line, offered):
    assert complete(line) == offered


def test_a_damaged_file_of_experiments_completes_nothing(complete, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("experiments.yaml").write_text("a: [")
    assert complete("sparsehead pretrain --experiment ") == []


def test_a_shell_is_answered_without_torch():
    variables = {"_SPARSEHEAD_COMPLETE": "complete_bash", "COMP_WORDS": "sparsehead show b", "COMP_CWORD": "2"}
    code = "import sys; sys.argv = ['sparsehead']; from sparsehead_cli.cli import main\n"
    code += "try: main()\nfinally: print(sorted({'torch', 'numpy', 'pandas', 'rich'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [name for name in TABLE if name.startswith("b")]
    assert done.stderr == "[]\n"


def test_completion_can_be_shown_and_installed(command, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # no shell started this
    code, out, err = command("--show-completion", "bash")
    assert (code, err) == (0, "")
    assert "_SPARSEHEAD_COMPLETE=complete_bash" in out
    code, out, err = command("--install-completion", "bash")
    assert (code, err) == (0, "")
    (script,) = (path for path in tmp_path.rglob("*") if path.is_file() and "_SPARSEHEAD_COMPLETE" in path.read_text())
    assert script.name in (tmp_path / ".bashrc").read_text()


def test_a_name_that_is_there_already_is_not_offered_again():
    assert completing("evaluation.plan:ASKABLE")("knn,linear,") == [f"knn,linear,{name}" for name in ASKABLE[2:]]


def help_of(sparsehead, command):
    code, out, err = sparsehead(command, "--help")
    assert (code, err) == (0, "")
    return " ".join(out.split())


def test_help_says_defaults(sparsehead):
    text = help_of(sparsehead, "pretrain")
    defaults = {"epochs": "26", "lam": "0.001", "method": "simclr", "device": "auto", "results": "results"}
    for name, default in defaults.items():
        assert f"[default: ({default})]" in text.partition(f" --{name} ")[2].partition(" --")[0], name
    assert "[default: (false)]" in text.partition("--compile")[2]
    assert "[default: linear,knn]" in help_of(sparsehead, "evaluate")
    assert "Without it test, or else what was not trained on." in " ".join(help_of(sparsehead, "spectrum").split())
    assert help_of(sparsehead, "sweep-lambda").count("[default: (the experiment's)]") == 13


def test_help_names_what_the_tables_have(sparsehead):
    assert f"Any of {', '.join(ASKABLE)} and MODULE:NAME" in help_of(sparsehead, "evaluate")
    assert f"Which images: {', '.join(SPLITS)};" in help_of(sparsehead, "spectrum")
    assert f"{', '.join(ENGINES)}:" in help_of(sparsehead, "sweep-lambda")


def test_the_first_sentence_of_a_command_is_shown_whole(sparsehead):
    code, out, _ = sparsehead("--help")
    assert code == 0
    assert "..." not in out.partition("Commands:")[2]
    assert all(name in out for name in get_command(app).commands)
