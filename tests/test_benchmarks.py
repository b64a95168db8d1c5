"""Every benchmark runs for real, with little work (--quick); what it measures then is not to be quoted."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from sparsehead_cli.runs.table_files import read_csv, replace_csv
from sparsehead_cli.study.plan import read_plan
from tests.rows import full_row

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

FACTORS_ROWS = [
    {"lam": lam, "seed": seed, "features": features, "metric": metric, "value": "0.5"}
    for lam in ("0.0", "0.001", "0.01")
    for seed in ("0", "1")
    for features, metrics in {
        "r": ("shape_accuracy", "x_r2", "cka_kept", "cka_changed", "rank_correlation_kept", "rank_correlation_changed"),
        "z": ("shape_accuracy", "x_r2", "cka_kept", "cka_changed", "rank_correlation_kept", "rank_correlation_changed"),
        "read": ("shape_accuracy", "x_r2"),
        "unread": ("shape_accuracy", "x_r2"),
    }.items()
    for metric in metrics
]
SUBSETS_ROWS = [
    {"lam": lam, "method": method, "eval_batch_size": size, "features_kept": "40", "n_features": "256"}
    for lam in ("0.0", "0.001")
    for method in ("simclr", "byol")
    for size in ("16", "64")
]


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
    run("growth.py", "--quick", "--out", tmp_path, "--axes", "batch", "processes")
    run("growth.py", "--quick", "--out", tmp_path, "--axes", "width")  # the others stay
    rows, exponents = (read_csv(tmp_path / name) for name in ("growth.csv", "exponents.csv"))
    assert {row["axis"] for row in rows} == {"batch", "width", "processes"}
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


def test_the_page_of_methods_has_the_table_of_their_runs():
    assert run("methods.py", "--page").strip() in (ROOT / "docs" / "methods.md").read_text()


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
def test_the_claims_are_those_of_the_committed_runs_and_the_page_has_them(tmp_path):
    """To the last digit; and each difference with its interval on docs/results.md is one of a table."""
    page, known = (ROOT / "docs" / "results.md").read_text(), set()
    for name in ("confirm-cifar10", "confirm-fashion"):
        committed = ROOT / "results" / name
        shutil.copytree(committed, tmp_path / name, ignore=shutil.ignore_patterns("claims.csv"))
        assert run("claims.py", tmp_path / name).strip() in page
        assert (tmp_path / name / "claims.csv").read_bytes() == (committed / "claims.csv").read_bytes()
        for row in [*read_csv(committed / "claims.csv"), *read_csv(committed / "confirmation.csv")]:
            scale = 1 if "rank" in row.get("measurement", row.get("metric")) else 100
            numbers = (scale * float(row[name]) for name in ("difference", "difference_low", "difference_high"))
            known.add("{:+z.2f} ({:+z.2f} to {:+z.2f})".format(*numbers).replace("-", "−"))
    stated = re.findall(r"[+−][\d.]+ \([+−][\d.]+ to [+−][\d.]+\)", page)
    assert len(stated) > 20
    assert set(stated) <= known


@pytest.mark.slow
def test_each_cure_of_a_plan_has_its_step_timed():
    said = run("cures.py", ROOT / "results" / "cures", "--quick").splitlines()
    assert len(said) == 1 + len(read_plan(ROOT / "results" / "cures").choices)
    assert said[0].startswith("λ 0 ")


def test_what_a_reader_has_to_follow_does_not_grow():
    """The functions and files of one training step and of one `pretrain`; the limits are what was measured last."""
    counts = [tuple(map(int, pair)) for pair in re.findall(r": (\d+) functions in (\d+) files", run("calls.py"))]
    for (functions, files), (most_functions, most_files) in zip(counts, ((410, 74), (62, 17)), strict=True):
        assert functions <= most_functions
        assert files <= most_files


@pytest.mark.slow
def test_simulated_studies_keep_what_the_protocol_promises():
    found = dict(re.findall(r"^(\w+ +\w+) +(\S+) ±", run("protocol.py", "--quick"), re.MULTILINE))
    assert len(found) == 11
    values = {tuple(key.split()): float(value) for key, value in found.items()}
    assert all(value <= 0.15 for (_, what), value in values.items() if what == "family_wise_error")  # 0.05, of 40 studies each
    assert all(value >= 0.65 for (_, what), value in values.items() if what == "found")  # 0.8 likewise


@pytest.mark.parametrize(("script", "values"), [("factors.py", FACTORS_ROWS), ("subsets.py", SUBSETS_ROWS)])
def test_studies_are_drawn_of_their_tables(tmp_path, script, values):
    table = script.replace(".py", ".csv")
    replace_csv(tmp_path / table, [full_row(table, run=f"run{i}", **row) for i, row in enumerate(values)])
    run(script, "--drawn", {"factors.py": "--folder", "subsets.py": "--out"}[script], tmp_path)
    assert (tmp_path / table.replace(".csv", ".png")).stat().st_size > 20_000


def test_the_page_has_what_the_study_of_factors_found(tmp_path):
    shutil.copy(ROOT / "results" / "factors" / "factors.csv", tmp_path)
    *table, _, _ = run("factors.py", "--drawn", "--folder", tmp_path).strip().splitlines()
    assert len(table) == 14
    assert "\n".join(table) in (ROOT / "docs" / "confirm.md").read_text()


def test_every_benchmark_is_run_above():
    text = Path(__file__).read_text()
    assert all(f'"{script}"' in text for script in SCRIPTS)
