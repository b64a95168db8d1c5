"""What a command does where it cannot print as it would: another locale, a full or closed output, a reader that went away."""

import errno
import io
import os
import subprocess
import sys

import pytest

from sparsehead_cli.errors import SparseheadError, Stopped, one_line, printable, shown, unexpected
from sparsehead_cli.machine.streams import told_by_the_machine

ASCII = {"LANG": "C", "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def shell(arguments, redirection="", **environment):
    """A command line with a redirection of its streams -> (exit code, stdout, stderr)."""
    command = [sys.executable, "-m", "sparsehead_cli", *arguments]
    line = " ".join(f"'{part}'" for part in command) + f" {redirection}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=False, env={**os.environ, **environment})
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def test_a_locale_without_lambda():
    code, out, err = shell(["pretrain", "--help"], **ASCII)
    assert (code, err) == (0, "")
    assert "strength of the penalty" in out
    assert out.isascii()
    code, out, err = shell(["sweep-lambda", "--penalties", "none"], **ASCII)
    assert (code, out) == (1, "")
    assert err.startswith("Error: none is no penalty to try values of ? with: ? 0 is without one.")


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]], ids=lambda a: a[-1])
def test_a_full_disk_behind_the_output(arguments):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    code, _, err = shell(arguments, "> /dev/full")
    assert code == 1
    assert err == "Error: cannot read or write the output or a file: No space left on device. Make room, or write elsewhere.\n"


def test_closed_streams():
    assert shell(["--version"], ">&-") == (0, "", "")
    assert shell(["--version"], "<&- >&- 2>&-") == (0, "", "")
    assert shell(["sweep-lambda", "--lams", "-1"], "2>&-")[0] == 1


@pytest.mark.parametrize("printing", ["from sparsehead_cli.present.console import Console; Console().print('λ')", "print('λ')"])
def test_a_reader_that_went_away(printing):
    """What is printed goes nowhere; nothing is thrown at the user."""
    read, write = os.pipe()
    os.close(read)
    code = f"from sparsehead_cli import cli; cli.app = lambda: exec({printing!r}); cli.main()"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode == 128 + 13
    assert done.stderr == "stopped: nobody reads the output any more. The same command goes on.\n"


def test_ctrl_c_during_the_imports(sparsehead, monkeypatch):
    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsehead_cli.runs.config.load_config", pressed)
    assert sparsehead("pretrain") == (130, "", "stopped by SIGINT. The same command goes on where it was.\n")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "out/f"),
            "cannot read or write out/f: No space left on device. Make room",
        ),
        (OSError(errno.EROFS, "Read-only file system", b"out/\xff"), "out/\\udcff: Read-only file system. Write elsewhere."),
        (PermissionError(errno.EACCES, "Permission denied", "f"), "f: Permission denied. Change its permissions"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files. Raise `ulimit -n`"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "l"), "Its symbolic links point at each other"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 5000), "Choose a shorter name."),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "f/g"), "f/g: Not a directory. A part of the path is a file"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "[/red]", None, "b"), "[/red] to b: No such file"),
        (MemoryError(), "out of memory (this process may have no more). Choose a smaller --batch-size"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
            "out of memory (",
        ),
        (RuntimeError("operator torchvision::nms does not exist"), "torchvision's own library cannot be loaded: it is of another"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"), "out of memory (CUDA out of memory. Tried to allocate"),
    ],
    ids=lambda value: str(value)[:20].encode("unicode_escape").decode(),
)
def test_what_the_machine_refuses_is_one_line(error, says):
    with pytest.raises(SparseheadError) as told, told_by_the_machine():
        raise error
    assert says in str(told.value)
    assert len(str(told.value)) < 600


@pytest.mark.parametrize("mistake", [RuntimeError("shapes do not match"), OSError("of nobody"), ValueError("x"), KeyError("x")])
def test_our_own_mistakes_keep_their_traceback(mistake):
    assert unexpected(mistake) is None
    with pytest.raises(type(mistake)) as raised, told_by_the_machine():
        raise mistake
    assert raised.value is mistake


def test_a_broken_pipe_is_an_end_on_request(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(Stopped) as stopped, told_by_the_machine():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert stopped.value.exit_code == 141


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[/red] :smile: λ", "[/red] :smile: λ"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\r\nb\tc", "a\\r\nb\\tc"),
        ("\udcff\u202e\u2028\x85", "\\udcff\\u202e\\u2028\\x85"),
    ],
)
def test_control_characters_are_shown_as_escapes(text, expected):
    assert printable(text) == expected
    assert one_line(text) == expected.replace("\n", "\\n")


def test_what_was_given_is_shown_shortly():
    deep = []
    for _ in range(10**5):
        deep = [deep]
    wide = [["x" * 1000] * 1000] * 1000
    for value in (deep, wide, "x" * 10**6, 10**5000, {str(i): i for i in range(10**5)}, b"\xff" * 1000, {1, 2}, None, object()):
        assert len(shown(value)) <= 100
        assert "\n" not in shown(value)
    assert shown("a\nb") == "'a\\nb'"
    assert shown([1, "b", None, 2.5]) == "[1, 'b', None, 2.5]"
    assert shown(10**5000).startswith("a number of about 49")
    while deep:  # Python itself does not survive to take a list this deep apart at once
        deep = deep.pop()
