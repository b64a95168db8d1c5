"""`sparsehead evaluate` as a user meets it: exit codes, texts, and nothing half-written."""

import gzip
import os
import shutil
import signal
import time

import pytest
import torch

from sparsehead_cli import api
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.evaluate import JobProgress, tables_of
from sparsehead_cli.evaluation.plan import Job
from sparsehead_cli.evaluation.protocols import PROTOCOLS
from sparsehead_cli.evaluation.spectrum import spectra
from sparsehead_cli.evaluation.spectrum_request import SpectrumProgress, SpectrumRequest
from sparsehead_cli.present.console import Console
from sparsehead_cli.present.evaluation import EvaluateDisplay
from sparsehead_cli.present.spectrum import SpectrumDisplay
from sparsehead_cli.runs.checkpoint import load_checkpoint, save_checkpoint
from sparsehead_cli.runs.table_files import read_csv
from tests.data.detection_sets import write_voc
from tests.evaluation.test_subject import checkpoint
from tests.rows import full_row
from tests.test_cli import assert_one_error


@pytest.fixture
def evaluate(sparsehead, run_folder):
    return lambda *arguments: sparsehead("evaluate", run_folder / "checkpoint.pt", *arguments)


def test_a_checkpoint_to_tables(evaluate, run_folder):
    code, out, err = evaluate("--per-class", "--baselines", "--protocol", "linear,knn")
    assert (code, err) == (0, "")
    for text in ("1/6  linear on fashion1k, checkpoint", "6/6  knn on fashion1k, pixels", "untrained z", "kNN, k = 200"):
        assert text in out
    for text in ("Ankle boot", "95 % Wilson interval", "evaluations.csv", "per_class.csv", "1,010 test images"):
        assert text in out
    rows = read_csv(run_folder / "evaluations.csv")
    shown = f"{100 * float(rows[0]['value']):.1f} ({100 * float(rows[0]['low']):.1f}–{100 * float(rows[0]['high']):.1f})"
    assert shown in out
    assert len(read_csv(run_folder / "per_class.csv")) == 10 * len(rows)


def test_several_seeds_are_shown_as_mean_and_deviation(evaluate):
    short = ("--set", "semi_seeds=2", "--set", "semi_epochs=1,1")
    code, out, _ = evaluate("--protocol", "semi", *short)
    assert code == 0
    assert "semi-linear, 1 % of labels" in out
    assert " ± " in out


def test_a_folder_stands_for_its_checkpoint(sparsehead, run_folder):
    assert sparsehead("evaluate", run_folder, "--protocol", "knn")[0] == 0
    assert (run_folder / "evaluations.csv").exists()


def test_several_are_measured_one_after_the_other(sparsehead, run_folder, tmp_path):
    another = shutil.copytree(run_folder, tmp_path / "another")
    code, out, err = sparsehead("evaluate", run_folder, another, run_folder / "checkpoint.pt", "--protocol", "knn")
    assert (code, err) == (0, "")
    assert out.index(f"1/2  {run_folder}\n") < out.index(f"2/2  {another}\n")
    assert out.count("kNN, k = 200") == 2
    assert (another / "evaluations.csv").exists()
    assert f"what the head reads: sparsehead spectrum {run_folder} {another}\n" in out
    assert "whether a λ helps, several seeds tell" in out


def test_one_that_is_not_there_is_an_error_before_any_is_measured(sparsehead, run_folder):
    assert "nothing.pt does not exist." in assert_one_error(sparsehead("evaluate", run_folder, "nothing.pt", "--protocol", "knn"))
    assert not (run_folder / "evaluations.csv").exists()


def test_a_damaged_one_says_which_were_not_measured(sparsehead, run_folder, tmp_path):
    damaged, last = tmp_path / "damaged.pt", shutil.copytree(run_folder, tmp_path / "last")
    damaged.write_bytes(b"no checkpoint")
    for command in (("evaluate", "--protocol", "knn"), ("spectrum", "--out", tmp_path / "spectra")):
        error = assert_one_error(sparsehead(command[0], run_folder, damaged, last, *command[1:]))
        assert "damaged.pt" in error
        assert error.endswith(f"Not measured either: {last}.\n")
    with pytest.raises(SparseheadError, match=f"Not measured either: {last}"):
        api.evaluate([run_folder, damaged, last], protocol="knn")
    assert (run_folder / "evaluations.csv").exists()
    assert not (last / "evaluations.csv").exists()


def test_a_folder_of_runs_or_of_images_is_said_to_be_one(sparsehead, run_folder, photographs):
    error = assert_one_error(sparsehead("evaluate", run_folder.parent))
    assert f"is no run, but a folder of 1 run. Give one of them: {run_folder}" in error
    error = assert_one_error(sparsehead("evaluate", photographs))
    assert f"is no run, but a folder of images. Give a run or a checkpoint, and --dataset {photographs}." in error
    shutil.copytree(photographs, run_folder, dirs_exist_ok=True)  # a run stays one, whatever lies beside its checkpoint
    assert sparsehead("evaluate", run_folder, "--protocol", "knn")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--protocol", "lineal"), 'unknown protocol "lineal"'),
        (("--protocol", ","), "names no protocol"),
        (("--dataset", "no/such/folder"), "no/such/folder"),
        (("--set", "sgd_epochs=0"), "sgd_epochs must be at least 1"),
        (("--set", "detection.epochs=-1"), "detection.epochs must be at least 0, given -1"),
        (("--set", "detection.lr=nan"), "detection.lr must be finite, given nan"),
        (("--set", "detection.lr=[1]"), "detection.lr must be a number, given [1]"),
        (("--set", "detection.min_size=1.5"), "detection.min_size must be a whole number, given 1.5"),
        (("--set", "detection.masks=1"), "detection.masks must be true or false, given 1"),
        (("--set", "detection.workers=1000000"), "detection.workers must be between 0 and 1024, given 1000000"),
        (("--set", "detection.batch_size=1" + "0" * 30), "batch_size must be at most 2147483647, given 1000"),
        (("--set", "sgd_batch=1" + "0" * 400), "sgd_batch must be a whole number, given inf"),
        (("--set", "semi_seeds=100000"), "semi_seeds must be between 1 and 1000, given 100000"),
        (("--set", "semi_epochs=[1,2,3]"), "semi_epochs must be 2 numbers of at least 1, for 1 % and 10 % of the labels"),
        (("--set", "finetune_lr=2024-13-45"), "finetune_lr must be a number, given '2024-13-45'"),
        (("--set", "[/red]=1"), 'unknown setting "[/red]"'),
        (("--workers", "1000000"), "workers must be between 0 and 1024, given 1000000"),
        (("--dataset", "[/red]"), "dataset [/red]: there is no such folder"),
        (("--device", "cuda:99"), "device cuda:99 is not there"),
        (("--workers", "-1"), "workers must be between 0 and 1024, given -1"),
        (("--seed", "-1"), "seed must be"),
    ],
)
def test_wrong_requests_are_one_line(evaluate, run_folder, arguments, words):
    assert words in assert_one_error(evaluate(*arguments)).replace("\n", " ")
    assert not (run_folder / "evaluations.csv").exists()


def test_somebody_elses_checkpoint_to_tables(sparsehead, tmp_path):
    path = tmp_path / "theirs.ckpt"
    checkpoint(path)
    code, out, err = sparsehead("evaluate", path, "--dataset", "fashion1k", "--protocol", "knn", "--image-size", "16")
    assert (code, err) == (0, "")
    for text in ("layout: lightning", "backbone: resnet9", "at state_dict.backbone", "images: 3 x 16 x 16", "kNN, k = 200"):
        assert text in out
    assert out.index("layout: ") < out.index("1/1  knn on fashion1k")
    assert {row["features"] for row in read_csv(tmp_path / "evaluations.csv")} == {"r", "z"}
    assert f"what the head reads: sparsehead spectrum {path} --dataset fashion1k --image-size 16\n" in out


def test_a_partial_file_is_evaluated_only_when_asked_to_and_loudly(sparsehead, tmp_path):
    path = tmp_path / "theirs.pt"
    checkpoint(path)
    state = load_state(path)
    torch.save({k: v for k, v in state.items() if "layer4" not in k or "conv1" in k}, path)
    arguments = ("evaluate", path, "--dataset", "fashion1k", "--protocol", "knn")
    error = assert_one_error(sparsehead(*arguments))
    assert "missing: layer4.0.bn1.weight" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "evaluations.csv").exists()
    code, out, _ = sparsehead(*arguments, "--allow-partial")
    assert code == 0
    assert "NOT LOADED, initial values instead: 14 missing" in out


def load_state(path):
    return torch.load(path, weights_only=False)["state_dict"]


class Calls:
    def __reduce__(self):
        return exec, ("open('ran', 'w').close()",)


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (None, (), "does not say on which data set to measure it: add --dataset"),
        ({"blocks.0.weight": torch.ones(2)}, ("--dataset", "fashion1k"), "has no ResNet in it. Its first names: blocks.0.weight"),
        ({"state_dict": {}, "x": Calls()}, ("--dataset", "fashion1k"), "wants to call builtins.exec when it is loaded"),
        (torch.nn.Linear(2, 2), ("--dataset", "fashion1k"), "Save its state_dict() instead"),
        (None, ("--dataset", "fashion1k", "--image-size", "2"), "image_size must be between 8 and"),
        (None, ("--dataset", "fashion1k", "--weights", "w.pt"), "--weights goes with the name of a timm model"),
        (None, ("--dataset", "fashion11k"), 'unknown dataset "fashion11k"'),
    ],
)
def test_what_cannot_be_done_with_somebody_elses_file_is_one_line(sparsehead, tmp_path, monkeypatch, content, arguments, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "theirs.pt"
    checkpoint(path) if content is None else torch.save(content, path)
    error = assert_one_error(sparsehead("evaluate", path, *arguments))
    assert words in error
    assert error.count("\n") == 1
    assert {file.name for file in tmp_path.iterdir()} == {"theirs.pt"}


def test_timm_without_weights_is_one_line(sparsehead):
    assert "add --weights FILE" in assert_one_error(sparsehead("evaluate", "timm:resnet18", "--dataset", "fashion1k"))


@pytest.mark.parametrize("damage", ["missing", "empty", "cut short", "another file"])
def test_what_is_no_checkpoint_is_one_line(evaluate, run_folder, damage):
    path = run_folder / "checkpoint.pt"
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "cut short": data[: len(data) // 2], "another file": b"hello"}[damage])
    assert "checkpoint.pt" in assert_one_error(evaluate())


@pytest.mark.parametrize("damage", ["empty", "labels too few"])
def test_damaged_data_is_one_line(evaluate, tmp_path, damage):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 20), ("t10k", 10)):
        header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes(count * 784)))
        labels = count if damage == "empty" else count - 1
        header = b"\0\0\x08\x01" + labels.to_bytes(4, "big")
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + bytes(i % 10 for i in range(labels))))
    if damage == "empty":
        (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"")
    error = assert_one_error(evaluate("--dataset", "mnist", "--data-dir", tmp_path))
    assert "t10k-images-idx3-ubyte.gz" in error if damage == "empty" else "20 images but 19 labels" in error


def test_another_process_can_read_while_rows_are_added(evaluate, run_folder):
    """The lock is only for writing; a table is replaced whole."""
    assert evaluate("--protocol", "knn")[0] == 0
    before = read_csv(run_folder / "evaluations.csv")
    assert evaluate("--protocol", "linear")[0] == 0
    assert read_csv(run_folder / "evaluations.csv")[: len(before)] == before


def test_detection_from_the_command_line(evaluate, run_folder, tmp_path):
    pytest.importorskip("torchmetrics")
    root = tmp_path / "voc"
    write_voc(root)
    short = [
        f"detection.{setting}" for setting in ("epochs=1", "batch_size=4", "min_size=64", "max_size=64", "workers=0", "regions=16")
    ]
    arguments = [part for setting in short for part in ("--set", setting)]
    code, out, err = evaluate("--protocol", "detection", "--detection-set", root, *arguments)
    assert (code, err) == (0, "")
    assert "average precision" in out
    rows = read_csv(run_folder / "evaluations.csv")
    assert [row["metric"] for row in rows] == ["map", "map_50", "map_75"]
    assert {row["protocol"] for row in rows} == {"detection"}


@pytest.mark.parametrize("place", [".evaluations.lock", "features"])
def test_a_folder_that_cannot_be_written_is_one_line(evaluate, run_folder, place):
    """What stands in the way here is a folder or a file of that name: no permission stops a test that runs as root."""
    (run_folder / place).mkdir() if place.startswith(".") else (run_folder / place).write_text("")
    assert "cannot " in assert_one_error(evaluate("--protocol", "knn"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_by_hand_says_how_to_go_on(evaluate, run_folder, monkeypatch, number):
    def interrupted(task):
        os.kill(os.getpid(), number)
        time.sleep(5)  # which the signal ends

    with monkeypatch.context() as patched:
        patched.setitem(PROTOCOLS, "knn", interrupted)
        code, _, err = evaluate("--protocol", "linear,knn")
    assert code == 128 + number
    assert f"stopped by {number.name}. What had been finished is in evaluations.csv; the same command goes on." in err
    _, out, _ = evaluate("--protocol", "linear,knn")
    assert "1/2  linear on fashion1k, checkpoint (measured before)" in out
    assert "2/2  knn on fashion1k, checkpoint\n" in out


def test_a_run_that_is_not_finished_is_said(evaluate, run_folder):
    path = run_folder / "checkpoint.pt"
    state = load_checkpoint(path)
    assert state["step"] == state["total_steps"] == 18
    save_checkpoint(path, {**{k: v for k, v in state.items() if k != "format"}, "step": 9})
    code, out, _ = evaluate("--protocol", "knn")
    assert code == 0
    assert "has not finished its training: step 9 of 18" in out
    assert {row["step"] for row in read_csv(run_folder / "evaluations.csv")} == {"9"}


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("columns", [80, 120])
def test_numbers_and_intervals_are_shown_whole(evaluate, columns, monkeypatch):
    monkeypatch.setattr("rich.console.Console.width", columns)
    _, out, _ = evaluate("--protocol", "linear,knn", "--baselines", "--per-class")
    assert "…" not in out
    assert max(len(line) for line in out.splitlines() if line[:1] in "┏┃┡│└") <= columns


def test_a_folder_without_room_is_one_line(evaluate, run_folder, monkeypatch):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparsehead_cli.machine.files.os.replace", full)
    assert "No space left on device" in assert_one_error(evaluate("--protocol", "knn"))
    assert not list(run_folder.rglob("*.part"))


def test_precisions_are_finished_without_classes(tmp_path):
    """Only accuracies have classes: detection must not be run again for them."""
    tables = tables_of(tmp_path, per_class=True)
    tables.add("a", [[full_row("evaluations.csv", task="a", metric="map")], []])
    accuracy = full_row("evaluations.csv", task="b", metric="accuracy")
    tables.add("b", [[accuracy], []])
    assert tables.has("a")
    assert not tables.has("b")
    tables.add("b", [[accuracy], [full_row("per_class.csv", task="b")]])
    assert tables.has("b")
    assert not tables.has("c")


def test_a_log_shows_life_within_long_jobs_only(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    job = Job("finetune", "fashion1k", "checkpoint")
    with EvaluateDisplay(Console()) as display:
        for step in range(8):
            display.watch(JobProgress(job, 1, 1, step, 2_000))
            now[0] += 4
    assert capsys.readouterr().out == "1/1  finetune on fashion1k, checkpoint\n     step 3 of 2,000\n     step 6 of 2,000\n"


def test_a_log_of_spectrum_says_how_far_it_is_and_how_long_the_rest_takes(monkeypatch, capsys):
    now, begun = [0.0], SpectrumProgress("some.pt", 1, 1, "loading")
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with SpectrumDisplay(Console()) as display:
        display.watch(begun)
        for done in range(0, 10_000, 500):
            display.watch(begun.at("features", done, 10_000))
            now[0] += 4
        display.watch(begun.at("intervals"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1/1  some.pt"
    assert lines[1] == "       12 s  features: 1,500 of 10,000, about 68 s left"
    assert lines[-1] == "       72 s  features: 9,000 of 10,000"  # eight seconds more
    assert len(lines) == 7


def test_spectrum_tells_of_every_input_that_it_passes(run_folder, tmp_path):
    told = []
    spectra(SpectrumRequest(checkpoints=(str(run_folder),), out=tmp_path), on_progress=told.append)
    passes = {progress.doing: progress.total for progress in told if progress.total}
    assert list(passes) == ["features", "augmented views", "features that batches need", "probes: features of train+val"]
    assert all(0 <= progress.done < progress.total for progress in told if progress.total)
    assert [progress.done for progress in told if progress.doing == "features"][:2] == [0, 0]  # begun, and before its first batch
