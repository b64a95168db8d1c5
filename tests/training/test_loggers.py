"""What is logged of a run, read back with TensorBoard's own reader and from W&B's own records. Skipped without the clients."""

import json
import struct
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.table_files import read_csv
from sparsehead_cli.training import loggers
from sparsehead_cli.training.callbacks import CALLBACKS, Callback, load_callbacks
from sparsehead_cli.training.loop import pretrain
from tests.test_cli import assert_one_error

BLOCK = 32 * 1024  # of the log format of LevelDB, in which W&B keeps its records


class Killed(BaseException):
    """The end of a process of which nobody is told."""


class KillAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, run, progress):
        if progress.step == self.step:
            raise Killed


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """W&B without an account, and with its own files in the test's folder."""
    wandb = pytest.importorskip("wandb")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(loggers, "TOGETHER", 3)  # of 8 steps an epoch: some are written before the epoch ends
    wandb.teardown()  # it keeps what the environment of its first use said
    yield
    wandb.teardown()


def killed_and_resumed(config, name, settle=lambda folder: None):
    """Train with a logger, be killed two steps behind the first checkpoint's epoch, `settle` what was logged, and go on."""
    run = build(config)
    with pytest.raises(Killed):
        pretrain(run, [*load_callbacks((name,)), KillAt(run.steps_per_epoch + 5)])
    settle(run.folder)
    return pretrain(build(config), load_callbacks((name,))).run


def read_events(folder):
    """TensorBoard's own reading of a folder with event files."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder), size_guidance=dict.fromkeys(("scalars", "histograms"), 0))
    return events.Reload()


def read_wandb(path):
    """The records in a file of W&B: a header, then the records of LevelDB's log format, whose content is W&B's protobuf."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def history(path):
    """Rows of a run's history in one file of W&B: name -> value, the step as "_step"; parts of a value as `name.part`."""
    rows = []
    for record in read_wandb(path):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append({"_step": record.history.step.num, **items})
    return rows


def wait_for_epoch(folder):
    """Until W&B's service, a process of its own that has no hurry, has written the first epoch's row."""
    ends = time.monotonic() + 60
    while not any("epoch/loss" in row for path in folder.glob("wandb/offline-run-*/*.wandb") for row in history(path)):
        assert time.monotonic() < ends, "W&B has not written the epoch within a minute"
        time.sleep(0.1)


def assert_of_tables(run, values):
    """`values`: name -> numbers by step. Every number of metrics.csv is there, and each step once, with its lr and λ."""
    rows, steps = read_csv(run.folder / "metrics.csv"), run.steps_per_epoch
    logged = [name for name in rows[0] if f"epoch/{name}" in values]
    assert {
        "loss",
        "lr",
        "knn_accuracy",
        "effective_rank_r",
        "penalty_value",
        "active_groups",
        "seconds",
        "images_per_second",
    } < set(logged)
    for name in set(logged) - {"seconds"}:
        expected = {steps * int(row["epoch"]): float(row[name]) for row in rows}
        assert values[f"epoch/{name}"] == pytest.approx(expected, rel=1e-6)
    every = list(range(1, run.total_steps + 1))
    for name in ("loss", "gradient_norm", "penalty", "lam", "lr"):
        assert list(values[f"step/{name}"]) == every
    assert values["step/lr"] == pytest.approx({step: run.lr(step - 1) for step in every})
    assert values["step/lam"] == pytest.approx({step: run.lam(step - 1) for step in every})
    losses = list(values["step/loss"].values())
    assert [np.mean(losses[:steps]), np.mean(losses[steps:])] == pytest.approx([float(row["loss"]) for row in rows], rel=1e-5)
    assert values["step/penalty"][run.total_steps] == pytest.approx(run.config.lam * float(rows[-1]["penalty_value"]), rel=1e-5)


def test_tensorboard_reads_a_run_that_was_killed_and_went_on(tiny, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(loggers, "TOGETHER", 3)
    run = killed_and_resumed(tiny(lam_schedule="linear", lam_ramp_epochs=1.0), "tensorboard")
    events = read_events(run.folder)
    tags = events.Tags()
    values = {}
    for tag in tags["scalars"]:
        points = [(point.step, point.value) for point in events.Scalars(tag)]
        assert len(dict(points)) == len(points), f"{tag} has a step twice"
        values[tag] = dict(points)
    assert_of_tables(run, values)
    for name, dim in (("spectrum/r", 8), ("spectrum/z", 8)):
        histograms = events.Histograms(name)
        assert [h.step for h in histograms] == [run.steps_per_epoch, run.total_steps]
        assert {h.histogram_value.num for h in histograms} == {dim}
    assert {"_hparams_/session_start_info", "_hparams_/session_end_info"} <= set(events.PluginTagToContent("hparams"))


def test_a_run_that_was_trained_without_a_log_gets_its_epochs_once(tiny, run_folder):
    pytest.importorskip("tensorboard")
    for _ in range(2):
        result = pretrain(build(tiny()), load_callbacks(("tensorboard",)))
        assert (result.run.folder, result.was_finished) == (run_folder, True)
    assert len(list(run_folder.glob("events.*"))) == 1
    points = read_events(run_folder).Scalars("epoch/knn_accuracy")
    expected = [(result.run.steps_per_epoch * int(row["epoch"]), float(row["knn_accuracy"])) for row in result.rows]
    assert [(point.step, pytest.approx(point.value)) for point in points] == expected


def test_weights_and_biases_has_one_run_that_was_killed_and_went_on(tiny, offline, trained):
    run = killed_and_resumed(tiny(), "wandb", wait_for_epoch)
    assert (run.folder / "checkpoint.pt").read_bytes() == (trained / "checkpoint.pt").read_bytes()  # a log changes nothing
    files = sorted(run.folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    assert len(files) == 2
    assert len({path.name for path in files}) == 1  # the same id: W&B goes on with the first
    rows = [row for path in files for row in history(path)]
    values = {}
    for row in rows:
        for name, value in row.items():
            assert row["_step"] not in values.setdefault(name, {}), f"{name} has step {row['_step']} twice"
            values[name][row["_step"]] = value
    assert_of_tables(run, values)
    for name in ("spectrum/r.values", "spectrum/z.values"):
        assert {step: sum(counts) for step, counts in values[name].items()} == {run.steps_per_epoch: 8, run.total_steps: 8}
    begun = next(record.run for record in read_wandb(files[0]) if record.WhichOneof("record_type") == "run")
    assert (begun.display_name, begun.run_group, begun.project) == (run.name, "quickstart", "sparsehead")
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert (config["lam"], config["method.temperature"], config["widths"]) == (1e-3, 0.2, "8,8,8,8")


def test_a_damaged_note_of_where_it_was_is_one_sentence(tmp_path):
    path = tmp_path / "resume.json"
    for text in ("{", "[]", '{"id": 3, "step": 1}', "null"):
        path.write_text(text)
        with pytest.raises(SparseheadError, match=r"resume.json is damaged. Remove it"):
            loggers.read_resume(path)


def test_a_share_of_the_variance_has_a_smallest_bin():
    shares = loggers.log_shares(torch.tensor([3.0, 1.0, 0.0, -1e-9], dtype=torch.float64))
    assert shares == pytest.approx([np.log10(0.75), np.log10(0.25), -10, -10], abs=1e-6)
    assert (loggers.log_shares(torch.zeros(3, dtype=torch.float64)) == -10).all()


def test_a_long_run_has_few_points(tiny, monkeypatch):
    monkeypatch.setattr(loggers, "MOST_POINTS", 5)
    written = []
    log = SimpleNamespace(
        name="mine",
        is_new=lambda run: True,
        open=lambda run, step: None,
        write=lambda step, values, spectra: written.append((step, "epoch" in values)),
        flush=lambda: None,
        close=lambda finished: None,
    )
    run = pretrain(build(tiny()), [loggers.Logger(log)]).run
    steps, total = run.steps_per_epoch, run.total_steps
    every = -(-total // 5)
    assert [step for step, is_epoch in written if not is_epoch] == sorted({*range(every, total + 1, every), steps, total})
    assert [step for step, is_epoch in written if is_epoch] == [steps, total]


def test_of_several_processes_only_the_first_one_writes(monkeypatch):
    monkeypatch.setattr(loggers.distributed, "rank", lambda: 1)
    logger = loggers.Logger(None)  # a log that whoever calls it would fail of
    for moment, more in (("on_start", ()), ("on_step", ()), ("on_epoch", ({},)), ("on_end", ())):
        getattr(logger, moment)(None, None, *more)


def test_what_a_client_raises_is_one_sentence(sparsehead, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")

    def breaks(*arguments, **options):
        raise ValueError("it broke")

    monkeypatch.setattr(loggers.TensorBoard, "write", breaks)
    arguments = ["--batch-size", "300", "--set", "widths=8,8,8,8", "--epochs", "1", "--results", tmp_path]
    error = assert_one_error(sparsehead("pretrain", "--dataset", "fashion1k", *arguments, "--callback", "tensorboard"))
    assert "callback tensorboard fails: ValueError: it broke. What was saved of the run is kept" in error


@pytest.mark.parametrize("command", ["pretrain", "sweep-lambda"])
@pytest.mark.parametrize("name", CALLBACKS)
def test_a_client_that_is_not_there_is_one_sentence_and_nothing_is_written(sparsehead, tmp_path, monkeypatch, command, name):
    module = {"tensorboard": "torch.utils.tensorboard"}.get(name, name)
    monkeypatch.setitem(sys.modules, module, None)
    error = assert_one_error(sparsehead(command, "--callback", name, "--results", tmp_path / "r"))
    assert f"callback {name} needs {name}, which is not installed: pip install 'sparsehead[{name}]'" in error
    assert not (tmp_path / "r").exists()


def test_an_unknown_callback_is_one_sentence(sparsehead, tmp_path):
    error = assert_one_error(sparsehead("pretrain", "--callback", "tensorbord", "--results", tmp_path / "r"))
    assert 'unknown callback "tensorbord"; known: tensorboard, wandb. Did you mean "tensorboard"?' in error


def test_nobody_who_is_logged_in_is_one_sentence(sparsehead, tmp_path, offline, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(loggers, "WeightsAndBiases", lambda: pytest.fail("it goes on"))
    error = assert_one_error(sparsehead("pretrain", "--callback", "wandb", "--results", tmp_path / "r"))
    assert "or set WANDB_MODE=offline" in error
    assert not (tmp_path / "r").exists()
