"""The console script as a user meets it: exit codes, texts, and nothing half-written."""

import os
import pty
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.main import get_command

from sparsehead_cli.cli import app
from sparsehead_cli.data import published
from sparsehead_cli.nets.backbones import BACKBONES
from sparsehead_cli.runs.table_files import read_csv
from sparsehead_cli.sparse.penalties import PENALTIES
from sparsehead_cli.ssl.methods import METHODS
from tests.conftest import PUBLISHED

FAST = ["--dataset", "fashion1k", "--epochs", "2", "--batch-size", "100", "--precision", "float32"]
FAST += ["--set", "widths=8,8,8,8", "--set", "projector_hidden=16", "--set", "projector_out=8"]


@pytest.fixture
def pretrain(sparsehead, tmp_path):
    return lambda *arguments: sparsehead("pretrain", *FAST, "--results", tmp_path / "results", *arguments)


def assert_one_error(answer, code=1):
    status, out, err = answer
    assert status == code
    assert err.startswith("Error: ") if code == 1 else "\nError: " in err
    assert "Traceback" not in out + err
    return err


def test_help_is_complete_and_imports_nothing_slow():
    command = [sys.executable, "-X", "importtime", "-m", "sparsehead_cli", "pretrain", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "sparsehead_cli.cli" in imported
    assert not {"torch", "numpy", "matplotlib", "pandas", "rich", "yaml"} & imported  # what takes seconds, or longer than all else
    for option in ("experiment", "method", "lam", "penalty", "solver", "dataset", "data-dir", "backbone", "epochs", "batch-size"):
        assert f"--{option}" in done.stdout
    for option in ("lr", "seed", "device", "precision", "compile", "results", "set", "experiments"):
        assert f"--{option}" in done.stdout


def test_every_option_says_what_it_is_for():
    for name, command in get_command(app).commands.items():
        for parameter in command.params:
            if not getattr(parameter, "hidden", False):
                assert (parameter.help or "").endswith((".", ". ")), f"{name}: {parameter.name}"


@pytest.mark.parametrize(
    ("command", "option", "table"),
    [
        ("pretrain", "method", METHODS),
        ("pretrain", "penalty", PENALTIES),
        ("pretrain", "dataset", PUBLISHED),
        ("pretrain", "backbone", BACKBONES),
        ("evaluate", "dataset", PUBLISHED),
        ("sweep-lambda", "methods", METHODS),
    ],
)
def test_help_names_what_there_is(command, option, table):
    (parameter,) = [p for p in get_command(app).commands[command].params if p.name == option]
    assert ", ".join(list(table)[:-1]) in parameter.help
    assert list(table)[-1] in parameter.help


def test_version(sparsehead):
    assert sparsehead("--version")[:2] == (0, f"sparsehead {version('sparsehead')}\n")


def test_a_run_from_start_to_table(pretrain, tmp_path):
    code, out, err = pretrain("--lam", "1e-3")
    assert (code, err) == (0, "")
    assert "epoch 2/2  loss" in out
    for text in (
        "λ 0.001",
        "strided stem",
        "kNN accuracy",
        "effective rank of z",
        "groups active by norm",
        "checkpoint.pt",
        "--lam 0",
    ):
        assert text in out
    assert "\x1b" not in out  # no terminal, no colours
    (folder,) = (tmp_path / "results" / "simclr-on-fashion1k").iterdir()
    assert len(read_csv(folder / "metrics.csv")) == 2
    again = pretrain("--lam", "1e-3")
    assert "finished before" in again[1]
    assert "found this run's checkpoint: finished before" in again[1]
    assert "found this run's checkpoint" not in out


@pytest.mark.slow
def test_progress_bar_on_a_terminal(tmp_path):
    """On a terminal there is a bar with epoch, loss and images/s; the time left is in tests/present/test_console.py."""
    master, slave = pty.openpty()
    program = "import tests.conftest; from sparsehead_cli.cli import main; main()"  # knows fashion1k
    command = [sys.executable, "-c", program, "pretrain", *FAST, "--epochs", "1", "--results", str(tmp_path)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command, stdout=slave, stderr=slave, env=environment, cwd=Path(__file__).parents[1])
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    text = shown.decode(errors="ignore")
    assert "epoch 1/1" in text
    assert "images/s" in text
    assert "\x1b[" in text


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--method", "simlcr"], 1, 'unknown method "simlcr"; known: simclr, moco, byol,'),
        (["--method", "simlcr"], 1, 'Did you mean "simclr"?'),
        (["--dataset", "fashion10"], 1, 'unknown dataset "fashion10"'),
        (["--backbone", "resnet19"], 1, 'Did you mean "resnet18"?'),
        (["--penalty", "l12"], 1, "known: l21, l1, l2, sparse-group, nuclear, l21-relative, l2-matched, none"),
        (["--set", "lam_schedule=ramp"], 1, 'unknown lam_schedule "ramp"; known: constant, linear, cosine'),
        (["--set", "lam_schedule=linear", "--set", "lam_ramp_epochs=0"], 1, "lam_ramp_epochs must be above 0: a λ schedule"),
        (["--set", "projector=linear"], 1, 'unknown projector "linear"; known: mlp, none, orthogonal, direct'),
        (["--set", "projector=none"], 1, "projector none has no weights to penalise"),
        (["--set", "projector=direct", "--lam", "0", "--set", "projector_out=9"], 1, "between 1 and 8 for projector direct"),
        (["--method", "moco", "--set", "method.queue=99"], 1, "method.queue must hold the 100 keys of a batch, given 99"),
        (["--method", "wmse", "--batch-size", "8"], 1, "wmse whitens a batch in 8 dimensions"),
        (["--method", "byol", "--set", "method.temperature=0.2"], 1, 'unknown setting of byol "method.temperature"'),
        (["--method", "byol", "--set", "method.momentum=2"], 1, "method.momentum must be between 0 and 1"),
        (["--solver", "prox"], 1, 'Did you mean "proximal"?'),
        (["--experiment", "quickstrat"], 1, 'Did you mean "quickstart"?'),
        (["--set", "epoch=3"], 1, 'unknown setting "epoch". Did you mean "epochs"?'),
        (["--set", "method.temprature=0.2"], 1, 'Did you mean "method.temperature"?'),
        (["--set", "method.temperature=0"], 1, "method.temperature must be above 0"),
        (["--lam", "-1"], 1, "lam must be at least 0, given -1.0"),
        (["--lam", "nan"], 1, "lam must be finite, given nan"),
        (["--batch-size", "100000"], 1, "batch_size 100,000 is larger than the"),
        (["--lr", "0"], 1, "lr must be above 0"),
        (["--device", "tpu"], 1, "unknown device"),
        (["--precision", "float16"], 1, "known: auto, bfloat16, float32"),
        (["--set", "blocks=1,2"], 1, "same number of stages"),
        (["--results", "/dev/null/results"], 1, "cannot write to /dev/null/results"),
        (["--experiments", "nowhere.yaml"], 1, "cannot read nowhere.yaml"),
        (["--lam", "much"], 2, "Invalid value for '--lam'"),
        (["--lamb", "1"], 2, "No such option: --lamb"),
    ],
)
def test_bad_input(pretrain, tmp_path, arguments, code, says):
    err = assert_one_error(pretrain(*arguments), code)
    assert says in " ".join(err.split())
    assert not (tmp_path / "results").exists()


def test_several_mistakes_are_told_together(pretrain):
    err = assert_one_error(pretrain("--lr", "-1", "--set", "epoch=1", "--seed", "-3"))
    assert all(text in err for text in ("lr must be", "epoch", "seed must be"))


def test_a_foreign_or_truncated_checkpoint_is_left_alone(pretrain, tmp_path):
    pretrain()
    (folder,) = (tmp_path / "results" / "simclr-on-fashion1k").iterdir()
    whole = (folder / "checkpoint.pt").read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"somebody's notes"):
        (folder / "checkpoint.pt").write_bytes(data)
        err = assert_one_error(pretrain())
        assert "checkpoint.pt is damaged or not a checkpoint" in err
        assert (folder / "checkpoint.pt").read_bytes() == data


def test_a_damaged_data_file(pretrain, tmp_path, monkeypatch):
    broken = tmp_path / "fashion10k.npz"
    broken.write_bytes(published.EMBEDDED.read_bytes()[:-1])
    monkeypatch.setattr(published, "EMBEDDED", broken)
    err = assert_one_error(pretrain("--dataset", "fashion10k"))
    assert "is damaged (its SHA-256 is wrong). Reinstall sparsehead." in err
    assert not (tmp_path / "results").exists()


def test_a_collapse_is_said_loudly(pretrain):
    """A λ that empties the whole head: z is constant, and what has no variance has no effective rank."""
    code, out, _ = pretrain("--lam", "50", "--solver", "proximal")
    assert code == 0
    assert out.count("COLLAPSED: the embedding z has effective rank – and relative standard deviation 0.000") >= 2


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 500 kB, where this user may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("may not mount a tmpfs here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_keeps_what_was_saved(sparsehead, small_disk):
    arguments = ["pretrain", *FAST, "--results", small_disk]
    assert sparsehead(*arguments)[0] == 0  # 65 kB of checkpoint fit
    (folder,) = (small_disk / "simclr-on-fashion1k").iterdir()
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    (small_disk / "ballast").write_bytes(b"x" * (int(os.statvfs(small_disk).f_bavail) * 4096 - 20_000))
    err = assert_one_error(sparsehead(*arguments, "--seed", "1"))
    assert "No space left on device" in err
    other = next(p for p in folder.parent.iterdir() if p != folder)
    assert not list(other.glob("*.part"))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    (small_disk / "ballast").unlink()
    assert sparsehead(*arguments, "--seed", "1")[0] == 0


@pytest.fixture
def full_disk(small_disk):
    """That file system without a byte left; folders and empty files can still be made."""

    def fill():
        with open(small_disk / "ballast", "wb", buffering=0) as file:
            while True:
                try:
                    file.write(b"x" * 4096)
                except OSError:
                    return small_disk

    return fill


def test_a_full_disk_in_every_command(sparsehead, small_disk, full_disk, trained):
    """Each says in one line that it is full, leaves nothing half-written, and finishes once there is room."""
    run = small_disk / "r" / trained.name
    run.mkdir(parents=True)
    for name in ("checkpoint.pt", "metrics.csv", "config.yaml"):
        (run / name).write_bytes((trained / name).read_bytes())
    full_disk()
    commands = {
        "evaluate": ["evaluate", run, "--protocol", "knn"],
        "spectrum": ["spectrum", run, "--out", small_disk / "spectra"],
        "pretrain": ["pretrain", *FAST, "--results", small_disk, "--seed", "3"],
    }
    for name in ("evaluate", "spectrum", "pretrain"):
        err = assert_one_error(sparsehead(*commands[name]))
        assert "No space left on device. Make room, or write elsewhere." in err, name
        assert err.count("\n") == 1, name
    assert not list(small_disk.rglob("*.part"))
    assert not list(small_disk.rglob("*.csv"))[1:]  # the run's metrics.csv alone
    (small_disk / "ballast").unlink()
    assert sparsehead(*commands["evaluate"])[0] == 0


@pytest.mark.parametrize("command", ["pretrain", "sweep-lambda"])
def test_results_that_are_a_link_to_nowhere(sparsehead, tmp_path, command):
    (tmp_path / "out").symlink_to("nowhere")
    err = assert_one_error(sparsehead(command, "--dataset", "fashion1k", "--results", tmp_path / "out"))
    assert f"{tmp_path}/out is a link to nowhere, which is not there. Choose another --results." in err


def test_an_experiment_never_leaves_the_folder_of_results(sparsehead, tmp_path):
    file = tmp_path / "e.yaml"
    file.write_text('"../../esc": {dataset: fashion1k}\n"../swept": {sweep: {lams: [0, 1]}}\n', encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    for command, name in (("pretrain", "../../esc"), ("sweep-lambda", "../swept")):
        arguments = ["--experiment", name, "--experiments", file, "--results", tmp_path / "a" / "b"]
        assert "cannot be the name of a folder: it has a slash" in assert_one_error(sparsehead(command, *arguments))
    assert sorted(tmp_path.iterdir()) == before
