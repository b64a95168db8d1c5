"""The same sweep on Ray: two nodes on this machine, one of which dies."""

import pytest

from sparsehead_cli.runs.table_files import read_csv
from sparsehead_cli.sweeps.on_ray import shares
from tests.sweeps.conftest import same
from tests.test_cli import assert_one_error


@pytest.mark.parametrize(
    ("resources", "expected"),
    [({"CPU": 8.0, "memory": 1e9}, (8, 1, 0)), ({"CPU": 64.0, "GPU": 8.0}, (8, 8, 1)), ({"GPU": 4.0}, (4, 1, 1)), ({}, (1, 1, 0))],
)
def test_a_trial_has_a_core_or_a_gpu_with_its_share_of_the_cores(resources, expected):
    assert shares(resources) == expected


def test_an_address_needs_the_engine(sparsehead, tmp_path):
    error = assert_one_error(sparsehead("sweep-lambda", "--address", "127.0.0.1:6379", "--results", tmp_path / "r"))
    assert "it needs --engine ray" in error


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_a_cluster_that_does_not_answer_is_one_clear_line_and_nothing_is_written(sparsehead, tmp_path, address):
    pytest.importorskip("ray")
    error = assert_one_error(sparsehead("sweep-lambda", "--engine", "ray", "--address", address, "--results", tmp_path / "r"))
    assert f"no Ray cluster answers at --address {address}" in error
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_node_dies_and_the_sweep_ends_as_it_does_here(two_trials, uninterrupted, sparsehead, tmp_path, monkeypatch, caplog):
    pytest.importorskip("ray")
    caplog.set_level("ERROR", "ray")  # what the cluster tells of its start is not the sweep's
    from ray.cluster_utils import Cluster

    from sparsehead_cli.present.sweep import SweepDisplay

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    dying, unfinished, watch = cluster.add_node(num_cpus=1), [], SweepDisplay.watch

    def kill_in_the_middle(display, state, running):
        if not unfinished and len(running) == 2 and all(read_csv(task.folder / "metrics.csv") for task in running):
            unfinished.extend(task.folder.name for task in running)  # each node has one core, so each runs one
            cluster.remove_node(dying, allow_graceful=False)
        watch(display, state, running)

    monkeypatch.setattr(SweepDisplay, "watch", kill_in_the_middle)
    arguments = ["--engine", "ray", "--address", cluster.address, "--results", tmp_path]
    try:
        code, out, err = sparsehead(*two_trials, *arguments)
    finally:
        cluster.shutdown()
    assert (code, err) == (0, "")
    assert "2/2" in out
    assert len(unfinished) == 2
    for name in ("sweep.csv", "sweep_summary.csv"):
        assert same(tmp_path / "lambda-quick" / name) == same(uninterrupted / name)
