"""Every benchmark runs for real, with little work (--quick); what it measures then is not to be quoted."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from sparsehead_cli.runs.table_files import read_csv

ROOT = Path(__file__).parents[1]
TABLES_OF = {
    "convolution.py": "convolution.csv",
    "imagenet.py": "imagenet.csv",
    "memory.py": "memory.csv",
    "own_images.py": "own_images.csv",
    "page.py": "durations.csv",
    "probes.py": "durations.csv",
    "sharding.py": "sharding.csv",
    "spectrum.py": "cost.csv",
    "start.py": "durations.csv",
    "streaming.py": "streaming.csv",
    "sweep.py": "overhead.csv",
    "throughput.py": "throughput.csv",
}
SHARED = ("durations.py", "machine.py")  # what several benchmarks use
SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py") if path.name not in SHARED) + ["peers/compare.py"]


def run(script, *arguments):
    """What a benchmark prints; a failure shows its last words."""
    command = [sys.executable, ROOT / "benchmarks" / script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(TABLES_OF))
def test_quick_forms_run_to_their_end(script, tmp_path):
    run(script, "--quick", "--out", tmp_path / "rows.csv")
    rows = read_csv(tmp_path / "rows.csv", TABLES_OF[script])
    assert rows
    assert all(row["commit"] for row in rows)


@pytest.mark.slow
def test_peers_are_measured_where_they_are_installed_and_named_where_not(tmp_path):
    out = run("peers/compare.py", "--quick", "--peers", "lightly", "solo-learn", "--out", tmp_path / "rows.csv")
    (missing,) = re.findall(r"^Not measured, for want of the library: (.*)$", out, re.MULTILINE)
    assert "solo-learn" in missing
    rows = read_csv(tmp_path / "rows.csv", "peers.csv")
    assert ("lightly, PIL" in {row["peer"] for row in rows}) == bool(find_spec("lightly"))
    assert {row["workload"] for row in rows} >= {"sparsehead float32", "sparsehead auto", "sparsehead", "torchvision, by image"}
    assert all(float(row["ratio"]) == 1 for row in rows if row["workload"] == row["peer"])


@pytest.mark.slow
def test_growth_measures_each_step_on_each_axis(tmp_path):
    run("growth.py", "--quick", "--out", tmp_path, "--axes", "batch", "width")
    run("growth.py", "--quick", "--out", tmp_path, "--axes", "trials", "processes")  # the others stay
    rows, exponents = (read_csv(tmp_path / name) for name in ("growth.csv", "exponents.csv"))
    assert {row["axis"] for row in rows} == {"batch", "width", "trials", "processes"}
    steps = {(row["axis"], row["what"]) for row in rows}
    assert {(row["axis"], row["what"]) for row in exponents} == steps
    assert len(rows) == 2 * len(steps)
    assert all(row["value"] for row in exponents if row["measurement"] == "seconds")
    assert {path.name for path in tmp_path.glob("growth.*")} == {"growth.csv", "growth.png", "growth.svg"}


@pytest.mark.slow
def test_clusters_prints_a_row_for_each_entry_and_number_of_gpus():
    table = [line.split("|")[1:-1] for line in run("clusters.py", "--reading", 100).splitlines() if line.startswith("|")]
    simclr = dict(zip(map(str.strip, table[0]), map(str.strip, table[2]), strict=True))
    assert len(table) == 2 + 3 * 3
    # 4.1 billion multiplications and additions a view, twice, forward and (two times as many) backward
    assert float(simclr["TFLOP an image"]) == pytest.approx(2 * 2 * 3 * 4.1e9 / 1e12, rel=0.02)


@pytest.mark.slow
def test_methods_trains_a_run_that_evaluation_measures(tmp_path):
    run("methods.py", "--quick", "--results", tmp_path)
    rows = read_csv(tmp_path / "methods" / "methods.csv")
    assert [row["method"] for row in rows] == ["pixels", "untrained", "simclr", "simclr"]
    (checkpoint,) = tmp_path.glob("quickstart/*lam0-*/checkpoint.pt")
    run("evaluation.py", checkpoint, "--dataset", "fashion10k", "--quick", "--out", tmp_path / "speed.csv")
    (row,) = read_csv(tmp_path / "speed.csv")
    assert 0.2 < float(row["linear_r"]) < 1  # of 500 images; chance is 0.1


@pytest.mark.slow
def test_the_four_answers_are_drawn_from_the_committed_tables(tmp_path):
    run("answers.py", "--out", tmp_path)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == sorted(path.name for path in (ROOT / "results" / "answers").iterdir())
    assert all(f"results/answers/{name}" in (ROOT / "docs" / "studies.md").read_text() for name in drawn)


@pytest.mark.slow
def test_what_a_reader_has_to_follow_does_not_grow():
    """The functions and files of one training step and of one `pretrain`; the limits are what was measured last."""
    counts = [tuple(map(int, pair)) for pair in re.findall(r": (\d+) functions in (\d+) files", run("calls.py"))]
    for (functions, files), (most_functions, most_files) in zip(counts, ((395, 69), (59, 16)), strict=True):
        assert functions <= most_functions
        assert files <= most_files


def test_every_benchmark_is_run_above():
    text = Path(__file__).read_text()
    assert all(f'"{script}"' in text for script in SCRIPTS)
