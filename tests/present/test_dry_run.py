"""`--dry-run`: what a run, or a sweep, would be and take, from a few steps, and nothing written."""

import re
from functools import partial

import pytest
import torch

from sparsehead_cli.present import dry_run
from sparsehead_cli.present.dry_run import parameters, size
from sparsehead_cli.runs.build import build, memory_needed
from sparsehead_cli.runs.checkpoint import load_checkpoint, save_checkpoint
from sparsehead_cli.runs.readable import duration
from sparsehead_cli.training import rehearsal
from sparsehead_cli.training.rehearsal import Rehearsal, rehearse
from tests.test_cli import FAST, assert_one_error


@pytest.fixture
def in_empty_folder(sparsehead, tmp_path, monkeypatch):
    """A command in an empty folder, from which it must come back empty; steps are timed for a moment only."""
    monkeypatch.setattr(rehearsal, "SECONDS", 0.01)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def run(*arguments):
        before = sorted(here.rglob("*"))
        answer = sparsehead(*arguments)
        assert sorted(here.rglob("*")) == before
        return answer

    return run


@pytest.fixture
def dry(in_empty_folder):
    """pretrain --dry-run."""
    return partial(in_empty_folder, "pretrain", *FAST, "--dry-run")


def test_it_says_settings_parameters_steps_time_and_memory_and_writes_nothing(dry):
    state = torch.get_rng_state()
    code, out, err = dry("--method", "byol", "--solver", "proximal")
    assert (code, err) == (0, "")
    assert torch.equal(torch.get_rng_state(), state)
    assert re.search(r"│ epochs +│ 2 +│ the command line", out)
    assert re.search(r"│ method.momentum +│ 0.97 +│ byol, built in", out)
    assert re.search(r"│ lr +│ 0.25 +│ default", out)
    assert re.search(
        r"parameters  learned: backbone [\d,]+, projector [\d,]+, predictor [\d,]+; not learned: teacher [\d,]+\n", out
    )
    assert "steps  9 an epoch, 18 in 2 epochs\n" in out
    assert re.search(r"time  about \d+ s: \d+ ms a step \(measured on \d+ steps?\), [\d.]+ m?s after each epoch\n", out)
    assert re.search(r"memory  \d+ MB for weights, gradients and optimizer; [\d.]+ .B at most in those steps, of [\d.]+ GB\n", out)
    assert out.endswith("a dry run: nothing was written\n")


def test_the_numbers_are_the_runs_own(tiny):
    run = build(tiny())
    learned = sum(p.numel() for p in run.method.parameters() if p.requires_grad)
    assert sum(int(count.replace(",", "")) for count in re.findall(r"[\d,]*\d", parameters(run.method))) == learned
    buffers = sum(b.numel() for b in run.method.buffers())
    assert memory_needed(run.config, run.method) == 4 * (3 * learned + buffers)
    assert Rehearsal(step_seconds=0.5, steps=3, probe_seconds=2, peak=0).seconds(steps=10, epochs=2) == 9


def test_it_trains_as_many_steps_as_it_says(tiny, monkeypatch):
    run, steps, step = build(tiny()), [], rehearsal.train_step
    monkeypatch.setattr(rehearsal, "train_step", lambda *arguments: steps.append(arguments[2]) or step(*arguments))
    monkeypatch.setattr(rehearsal, "SECONDS", 1e9)
    monkeypatch.setattr(rehearsal, "MOST_STEPS", 12)  # more than the nine of an epoch
    measured = rehearse(run)
    assert measured.steps == 12
    assert len(steps) == 1 + 1 + 12
    assert 0 < measured.step_seconds < 5
    assert 0 < measured.probe_seconds < 30
    assert measured.peak > 2**20


def test_a_run_that_was_begun_counts_what_is_left(dry, sparsehead, tmp_path, run_folder, monkeypatch):
    arguments = ["--results", run_folder.parents[1], "--lam", "1e-3"]
    code, out, _ = dry(*arguments)
    assert code == 0
    assert "18 in 2 epochs; 18 were done before" in out
    assert "time  nothing is left to do" in out
    path = run_folder / "checkpoint.pt"
    state = {key: value for key, value in load_checkpoint(path).items() if key != "format"}
    save_checkpoint(path, {**state, "step": 9})
    _, out, _ = dry(*arguments)
    assert "9 were done before" in out
    assert "time  about" in out
    path.write_bytes(path.read_bytes()[:100])
    assert "is damaged" in assert_one_error(dry(*arguments))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dataset", "cifar10"], "cifar10 is not complete or not unpacked in data, and a dry run fetches nothing"),
        (["--dataset", "mnist", "--data-dir", "d"], "mnist is not complete or not unpacked in d, and a dry run fetches nothing"),
        (["--batch-size", "5000"], "batch_size 5,000 is larger than"),
        (["--set", "projector_hidden=2000000000"], "this network"),
        (["--callback", "nothing:Here"], "there is no module nothing"),
        (["--lr", "-1"], "lr must be above 0"),
    ],
)
def test_it_ends_with_what_the_run_would_end_with(dry, arguments, says):
    assert says in assert_one_error(dry(*arguments))


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "3 s"), (89, "89 s"), (100, "2 minutes"), (5400, "1.5 hours"), (180_000, "2.1 days")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_sizes():
    assert [size(count) for count in (5e6, 999e6, 2.5e9)] == ["5 MB", "999 MB", "2.5 GB"]
    assert dry_run.brief(0.0456) == "46 ms"
    assert dry_run.brief(2.34) == "2.3 s"


@pytest.fixture
def dry_sweep(in_empty_folder):
    """sweep-lambda --dry-run."""
    return partial(in_empty_folder, "sweep-lambda", "--dry-run", "--device", "cpu", "--set", "projector_hidden=64")


def test_a_sweep_says_its_trials_their_time_and_memory_and_writes_nothing(dry_sweep):
    threads = torch.get_num_threads()
    code, out, err = dry_sweep("--methods", "simclr,byol", "--lams", "0,1e-3", "--seeds", "3", "--jobs", "4", "--confirm", "8")
    assert (code, err) == (0, "")
    assert torch.get_num_threads() == threads
    assert re.search(r" methods  simclr, byol\n", out)
    assert re.search(r" lams  0, 0.001\n", out)
    assert re.search(r" data  fashion10k, 4 epochs\n", out)
    assert "12 in results/lambda-quick: 0 finished, 0 failed before, 12 to run\n" in out
    trial = r"{}  6 trials, each about \d+ \w+: \d+ ms a step \(measured on \d+ steps?\)\n"
    assert re.search(trial.format("SimCLR"), out)
    assert re.search(trial.format("BYOL"), out)
    assert re.search(r"time  about \d+ \w+ on idle cores, 4 at a time, each with 1 thread\n", out)
    assert re.search(r"memory  [\d.]+ .B at most for each one in those steps, of [\d.]+ GB\n", out)
    fresh = (
        r"then a plan, and at most 48 fresh runs \(of λ 0, what is chosen and its control, for each method\): about \d+ \w+ more\n"
    )
    assert re.search(fresh, out)
    assert out.endswith("a dry run: nothing was written\n")


def test_the_time_of_a_sweep_is_that_of_its_trials(dry_sweep, monkeypatch):
    """Of 140 steps, two probes and an evaluation of ten seconds each."""
    monkeypatch.setattr(dry_run, "rehearse", lambda run: Rehearsal(step_seconds=0.5, steps=3, probe_seconds=20.0, peak=5_000_000))
    _, out, _ = dry_sweep("--lams", "0,1e-3,1e-2", "--seeds", "2", "--epochs", "2", "--jobs", "3")
    assert "6 trials, each about 2 minutes: 500 ms a step (measured on 3 steps)" in out
    assert "time  about 4 minutes on idle cores, 3 at a time" in out
    assert "memory  5 MB at most" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dataset", "cifar10"], "cifar10 is not complete or not unpacked in data, and a dry run fetches nothing"),
        (["--confirm", "2"], "confirm must be at least 8"),
        (["--methods", "nothing"], "nothing"),
    ],
)
def test_a_sweep_ends_with_what_it_would_end_with(dry_sweep, arguments, says):
    assert says in assert_one_error(dry_sweep(*arguments))


def test_a_sweep_that_has_finished_has_nothing_left(dry_sweep, monkeypatch):
    monkeypatch.setattr("sparsehead_cli.sweeps.sweep.SweepState.pending", lambda state: [])
    _, out, _ = dry_sweep("--lams", "0,1e-3")
    assert "time  nothing is left to do\n" in out
    monkeypatch.setattr(dry_run, "rehearse", lambda run: Rehearsal(step_seconds=0.5, steps=3, probe_seconds=20.0, peak=5_000_000))
    _, out, _ = dry_sweep("--lams", "0,1e-3", "--seeds", "2", "--epochs", "2", "--jobs", "3", "--confirm", "8")
    assert "time  nothing of the pilot is left to do\n" in out
    assert "at most 24 fresh runs (of λ 0, what is chosen and its control, for each method): about 16 minutes more\n" in out


@pytest.mark.parametrize(("lams", "says"), [("0", "0 is its only value"), ("1e-3,1e-2", "0 is not among its values")])
def test_a_grid_that_compares_nothing_says_so(dry_sweep, lams, says):
    assert f"note  λ: {says}" in dry_sweep("--lams", lams)[1]


@pytest.mark.parametrize(
    ("axis", "values", "says"),
    [
        (
            "--regularisers",
            "koleo:0.1,variance:1",
            "regularisers: none is not among them, so that each is compared with its own λ 0",
        ),
        ("--projectors", "direct:8,none", "projectors: mlp is not among them, so that each is compared with its own λ 0"),
        ("--projectors", "direct:8", "λ: 0 is its only value, since no head has weights to penalise; put mlp among --projectors"),
    ],
)
def test_a_grid_without_what_others_are_compared_with_says_so(dry_sweep, axis, values, says):
    assert f"note  {says}" in " ".join(dry_sweep("--lams", "0,1e-3", axis, values)[1].split("\n"))
