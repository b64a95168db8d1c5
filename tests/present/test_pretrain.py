import re
from types import SimpleNamespace

import pytest

from sparsehead_cli.machine.launch import twin_command
from sparsehead_cli.present.console import Console
from sparsehead_cli.present.pretrain import PretrainDisplay, collapse_text, collapsed, epoch_line, next_steps
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.readable import counted
from sparsehead_cli.training import loop
from sparsehead_cli.training.callbacks import Callback

ROW = {"epoch": "3", "loss": "2.5", "knn_accuracy": "0.801", "effective_rank_r": "12.34", "effective_rank_z": "1.04"}
ROW |= {"active_groups": "9", "n_groups": "10", "images_per_second": "1234.5", "std_r": "0.5", "std_z": "0.9"}


def test_epoch_line_reads_rows_from_memory_and_from_the_file_alike():
    numbers = {**ROW, "epoch": 3, "loss": 2.5, "knn_accuracy": 0.801, "images_per_second": 1234.5}
    assert epoch_line(ROW, 20) == epoch_line(numbers, 20)
    assert epoch_line(ROW, 20) == "epoch  3/20  loss 2.500  kNN 80.1 %  rank r 12.3  z 1.0  groups 9/10  1,234 images/s"


def test_collapse_is_named():
    assert collapsed(ROW) == ["z"]
    text = collapse_text("z", ROW, 1e-3).plain
    assert "embedding z has effective rank 1.04" in text
    assert "Lower --lam or --lr." in text
    assert "Lower --lr." in collapse_text("z", ROW, 0.0).plain  # no λ is lower


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["pretrain"], "sparsehead pretrain --lam 0"),
        (["pretrain", "--lam", "1e-4", "--epochs", "2"], "sparsehead pretrain --epochs 2 --lam 0"),
        (["pretrain", "--lam=1", "--results", "a b"], "sparsehead pretrain --results 'a b' --lam 0"),
    ],
)
def test_the_next_command_is_the_typed_one_with_another_lam(typed, expected):
    assert twin_command(typed, "0") == expected


def test_one_of_a_thing_is_no_plural():
    assert [counted(number, "epoch") for number in (1, 1.0, 2, 0.5)] == ["1 epoch", "1 epoch", "2 epochs", "0.5 epochs"]


@pytest.mark.parametrize(("step", "where"), [(28, "goes on after step 28 of 32, in epoch 2"), (32, "finished before")])
def test_a_resumed_run_says_where_it_goes_on(capsys, step, where):
    display = PretrainDisplay(Console())
    display.show_where(SimpleNamespace(total_steps=32, epochs_done=lambda step: step // 16), step)
    assert capsys.readouterr().out == f"found this run's checkpoint: {where}\n"


class Clock(Callback):
    """A clock on which each step takes so many seconds, and nothing else hardly any."""

    def __init__(self, seconds):
        self.now, self.seconds = 100.0, seconds

    def on_step(self, run, progress):
        self.now += self.seconds

    def read(self):
        self.now += 1e-6
        return self.now


@pytest.mark.parametrize(("seconds", "lines"), [(4, 2 * [3, 6]), (1, [])])
def test_a_log_shows_life_within_long_epochs_only(tiny, monkeypatch, capsys, seconds, lines):
    """Nine steps an epoch: of four seconds each there is a line every twelve, of one second each there is none."""
    clock = Clock(seconds)
    monkeypatch.setattr("time.perf_counter", clock.read)
    with PretrainDisplay(Console()) as display:
        loop.pretrain(build(tiny()), [clock, display])
    out = capsys.readouterr().out
    assert [int(step) for step in re.findall(r"^epoch \d/2  step (\d) of 9  loss \d\.\d+  ", out, re.MULTILINE)] == lines
    assert len(re.findall(r"^epoch \d/2  loss ", out, re.MULTILINE)) == 2


def test_what_to_type_next_is_a_look_at_both_runs_once_the_other_is_there(tiny):
    zero, penalised = (build(tiny(lam=lam)) for lam in (0.0, 1e-3))
    assert (
        next_steps(penalised, ["pretrain"], tracked=False)[0] == "the same run with λ = 0, to compare: sparsehead pretrain --lam 0"
    )
    zero.folder.mkdir(parents=True)
    (zero.folder / "checkpoint.pt").touch()
    accuracy, spectrum = next_steps(penalised, ["pretrain"], tracked=False)
    assert accuracy.endswith(f"sparsehead evaluate {zero.folder} {penalised.folder} --baselines")
    assert (
        spectrum == f"its spectrum, and that of λ = 0, to look for collapse: sparsehead spectrum {zero.folder} {penalised.folder}"
    )
