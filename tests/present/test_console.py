"""Everything that comes from outside is text: no markup, no emoji, no control characters; each command's tables and lines."""

import ast
from pathlib import Path

import pytest
from rich.progress import Progress

from sparsehead_cli.present.console import TimeLeft
from sparsehead_cli.runs.table_files import read_csv

ODD = "[/red][bold]:smile:\x1b[31m"
SEEN = "[/red][bold]:smile:\\x1b[31m"
PACKAGE = Path(__file__).parents[2] / "sparsehead_cli"


def joined(text):
    """What was printed, without the line breaks that a narrow column makes."""
    return "".join(text.split())


def assert_text(answer, code=0):
    status, out, err = answer
    assert status == code, err
    assert "\x1b" not in out + err
    assert SEEN in joined(out + err)
    return out, err


def test_the_console_prints_what_it_is_given(capsys):
    from rich.table import Table

    from sparsehead_cli.present.console import Console

    table = Table(title=ODD)
    table.add_column(ODD)
    table.add_row(ODD)
    Console().print(table, ODD, "1/2 'x' http://x.y", style="bold")
    assert joined(capsys.readouterr().out).count(SEEN) == 4


@pytest.mark.parametrize(
    "command",
    [
        ("pretrain", "--experiment", ODD),
        ("pretrain", "--method", ODD),
        ("pretrain", "--dataset", ODD),
        ("pretrain", "--set", f"{ODD}=1"),
        ("pretrain", "--experiments", ODD),
        ("evaluate", ODD),
        ("spectrum", ODD),
        ("sweep-lambda", "--experiment", ODD),
        ("sweep-lambda", "--methods", ODD),
        ("sweep-lambda", "--engine", ODD),
        ("report", ODD),
    ],
    ids=lambda c: " ".join(c[:-1]),
)
def test_in_every_error(sparsehead, command):
    assert_text(sparsehead(*command), 1)


FAST = ("--dataset", "fashion1k", "--epochs", "1", "--batch-size", "100", "--precision", "float32", "--set", "widths=8,8,8,8")
FAST += ("--set", "projector_hidden=16", "--set", "projector_out=8")


def test_in_pretrain(sparsehead, tmp_path):
    folder = tmp_path / ODD
    _, err = assert_text(sparsehead("pretrain", *FAST, "--results", folder))
    assert err == ""
    assert list(folder.glob("simclr-on-fashion1k/*/checkpoint.pt"))


def test_in_evaluate_with_odd_classes(sparsehead, run_folder, damageable):
    for part in ("train", "test"):
        (damageable / part / "cat").rename(damageable / part / "[bold]:smile:\x1b[31m\n[red]")
    out, err = sparsehead("evaluate", run_folder, "--dataset", damageable, "--protocol", "knn", "--per-class")[1:]
    assert err == ""
    assert "\x1b" not in out
    assert "[bold]:smile:\\x1b[31m\\n[red]" in joined(out)
    assert {row["class"] for row in read_csv(run_folder / "per_class.csv")} >= {"[bold]:smile:\\x1b[31m\\n[red]"}


def test_in_spectrum_and_its_report(sparsehead, run_folder, tmp_path):
    odd = run_folder.rename(run_folder.with_name("[bold]:smile:\x1b[31m"))
    out = tmp_path / "[red]"
    code, printed, err = sparsehead("spectrum", odd, "--out", out)
    assert (code, err) == (0, "")
    assert "\x1b" not in printed
    assert "[red]/spectrum.csv" in joined(printed)
    code, printed, err = sparsehead("report", out)
    assert (code, err) == (0, "")
    assert "\x1b" not in printed
    assert "[red]/report.html" in joined(printed)


def test_every_text_file_is_read_and_written_as_utf_8():
    """No call in the package leaves the encoding to the machine's locale."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = (
                node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
            )
            words = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            binary = any(isinstance(word, str) and set(word) <= set("rwxab+") and "b" in word for word in words)
            is_file = isinstance(node.func, ast.Name) and name == "open" and not binary
            if is_file or name in ("read_text", "write_text"):
                named = any(keyword.arg == "encoding" for keyword in node.keywords)
                assert named or (name == "read_text" and isinstance(node.func, ast.Name)), f"{path.name}:{node.lineno}"


def test_no_display_prints_on_another_console():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "from rich.console import" not in text, path.name
        assert "from_markup" not in text, path.name


def test_the_time_that_is_left_is_said_where_it_is_known():
    bar = Progress(TimeLeft(), get_time=iter(range(100)).__next__)
    bar.add_task("", total=None)
    bar.add_task("", total=10)
    endless, known = bar.tasks
    assert TimeLeft().render(endless).plain == ""
    for done in (1, 2, 3):
        bar.update(known.id, completed=done)
    assert TimeLeft().render(known).plain.endswith(" left")
