"""A run goes on from its own whole checkpoint alone, and a finished one is shown as finished only from such a one."""

import dataclasses
import shutil

import pytest
import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.checkpoint import load_checkpoint, save_checkpoint
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.folder import resume
from sparsehead_cli.training.loop import pretrain
from tests.conftest import TINY
from tests.damage import flip_bit


@pytest.fixture(scope="module")
def built():
    return build(Config(**TINY))


@pytest.fixture
def run(built, trained, tmp_path):
    """The finished run of `trained`, in a folder that a test may damage."""
    return dataclasses.replace(built, folder=shutil.copytree(trained, tmp_path / trained.name))


def change(run, **changes):
    path = run.folder / "checkpoint.pt"
    save_checkpoint(path, {**load_checkpoint(path), **changes})


def refused(run, words):
    before = {name: value.clone() for name, value in run.method.state_dict().items()}
    with pytest.raises(SparseheadError, match=words) as error:
        pretrain(run)
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[name], value) for name, value in run.method.state_dict().items())  # nothing of it was taken


def test_a_whole_checkpoint_is_taken(run):
    assert resume(run).step == run.total_steps
    assert pretrain(run).was_finished


def test_a_finished_run_with_a_flipped_bit_is_not_shown_as_finished(run):
    path = run.folder / "checkpoint.pt"
    weight = load_checkpoint(path)["method"]["projector.0.weight"].numpy().tobytes()
    data = path.read_bytes()
    path.write_bytes(flip_bit(data, 8 * data.index(weight) + 23))
    refused(run, "is damaged or not a checkpoint .Bad CRC-32.*Move it away to start anew")


def test_a_link_to_nothing_is_no_new_run(run):
    path = run.folder / "checkpoint.pt"
    path.unlink()
    path.symlink_to(run.folder / "unmounted" / "checkpoint.pt")
    refused(run, "is a link to .*unmounted/checkpoint.pt, which is not there")
    assert path.is_symlink()


def test_a_run_without_its_metrics_is_refused(run):
    (run.folder / "metrics.csv").unlink()
    refused(run, "metrics.csv is missing: the checkpoint beside it is of epoch 2. Put the file back, or move the folder away")


def test_a_checkpoint_on_other_images_is_refused(run):
    change(run, total_steps=run.total_steps + 2, step=run.total_steps + 1)
    refused(run, r"is of a run of 20 steps, which would have 18 now: the images of fashion1k have changed")
    change(run, total_steps=run.total_steps, step=run.total_steps, input={"image": (1, 32, 32), "mean": (0.5,), "std": (0.5,)})
    refused(run, "was trained on images of another size or normalisation than fashion1k has now")


def test_as_many_other_images_are_refused_where_the_run_kept_what_it_was_trained_on(run):
    own = load_checkpoint(run.folder / "checkpoint.pt")["trained_on"]
    assert own == run.trained_on != ""
    change(run, trained_on="of others")
    refused(run, "was trained on other images, or other labels, than fashion1k has now. Put them back, or choose another --results")
    change(run, trained_on="")  # as where an older version wrote it
    assert resume(run).step == run.total_steps


def test_contents_that_do_not_fit_the_run_are_refused(run):
    state = load_checkpoint(run.folder / "checkpoint.pt")
    change(run, sums={"loss": torch.ones(()), "gradient_norm": torch.ones(())})
    refused(run, "its sums are not those of step 18")
    change(run, sums={}, method={**state["method"], "projector.0.weight": torch.ones(16, 9)})
    refused(run, r"of another architecture .*projector.0.weight is float32 \[16, 9\] and must be float32 \[16, 8\]")
    change(run, method={**state["method"], "projector.0.weight": state["method"]["projector.0.weight"].double()})
    refused(run, r"is float64 \[16, 8\]")
    change(run, method=state["method"], identity={**state["identity"], "lr": 0.5})
    refused(run, "belongs to another run")


def test_an_optimizer_without_its_momentum_is_refused(run):
    state = load_checkpoint(run.folder / "checkpoint.pt")["optimizer"]
    change(run, optimizer={**state, "state": {}})
    with pytest.raises(SparseheadError, match="its optimizer's state is not that of the run's weights"):
        pretrain(run)


def test_a_network_beyond_the_machine_is_refused_before_it_is_made(sparsehead, tmp_path, monkeypatch):
    monkeypatch.setattr("sparsehead_cli.runs.build.build_sparse_head", lambda *a: pytest.fail("made"))
    for assignment, words in (
        ("projector_hidden=1000000000", "GB for its weights, gradients and optimizer, and the cpu has"),
        ("widths=[100000,8,8,8]", "GB for its weights"),
        ("widths=[1000000000,1000000000,8,8]", "larger than any machine"),
        ("projector_out=1000000000000000000000000000000", "projector_out must be at most 2147483647"),
        ("blocks=[1000000,1000000,1000000,1000000]", "blocks must be 1000 together at most"),
        ("projector_layers=1000000000", "projector_layers must be between 1 and 1000"),
        ("image_size=1000000", "image_size must be between 8 and 4096"),
    ):
        code, _, err = sparsehead("pretrain", "--set", assignment, "--results", tmp_path)
        assert (code, words in err) == (1, True), err
        assert err.count("\n") == 1
