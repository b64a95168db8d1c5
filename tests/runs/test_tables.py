"""Tables are declared once: what is written can be read, what is damaged is told with its line, and a name means one thing."""

import random
import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.files import replace_file, witness
from sparsehead_cli.runs.columns import KINDS
from sparsehead_cli.runs.config import FIELDS, Config
from sparsehead_cli.runs.folder import kept_tables
from sparsehead_cli.runs.readable import number, readable, share
from sparsehead_cli.runs.table_files import read_csv, replace_csv
from sparsehead_cli.runs.tables import COLUMNS, LAYERS, METRICS, TABLES, penalty_name
from sparsehead_cli.study.results import read_spectra
from tests.conftest import TINY
from tests.rows import full_row
from tests.test_cli import assert_one_error

RESULTS = Path(__file__).parents[2] / "results"
KEPT = ("dataset", "backbone", "penalty", "solver", "seed", "groups")  # of config.yaml, where they are told


def rows_of(name, count=6):
    """A few valid rows of a table: three epochs, a spectrum of three dimensions, and so on."""
    table = TABLES[name]
    rows = [full_row(name) for _ in range(count)]
    for i, row in enumerate(rows):
        if table.counts:
            row |= {table.counts: str(i + 1)}
        elif table.repeats:
            row |= {table.repeats: str(1 + i // 2), table.key[-1]: f"layer {i % 2}"}
        elif table.key:
            row |= {table.key[-1]: str(i)}
    if name == "spectrum_epochs.csv":
        for i, row in enumerate(rows):
            row |= {"epoch": str(1 + i // 3), "index": str(1 + i % 3), "eigenvalue": str(3.5 - i % 3)}
    if name == "spectrum.csv":
        for i, row in enumerate(rows):
            row |= {"eigenvalue": str(9.5 - i)}
    return rows


@pytest.mark.parametrize("name", TABLES)
def test_what_is_written_is_read_and_written_again_as_it_was(tmp_path, name):
    rows = rows_of(name)
    replace_csv(tmp_path / name, rows)
    assert read_csv(tmp_path / name) == rows
    data = (tmp_path / name).read_bytes()
    assert data.decode().splitlines()[0] == ",".join(TABLES[name].columns)
    replace_csv(tmp_path / name, read_csv(tmp_path / name))
    assert (tmp_path / name).read_bytes() == data
    assert read_csv(tmp_path / "another folder" / name) == []


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.csv")), ids=lambda path: str(path.relative_to(RESULTS)))
def test_every_committed_table_is_as_declared(path):
    if path.stat().st_size < 4 * 10**6:  # the larger ones are read by the tests of reports
        assert read_csv(path)


def test_a_name_means_one_thing():
    """COLUMNS is the only place with kinds and meanings; every name in it is used, and used as it is declared."""
    used = Counter(column for table in TABLES.values() for column in table.columns)
    assert set(used) == set(COLUMNS)
    for name, table in TABLES.items():
        assert max(Counter(table.columns).values()) == 1, name
        assert {*table.empty, *table.added, *table.key} <= {*COLUMNS}, name
        assert set(table.renamed.values()) <= set(COLUMNS), name
        assert not set(table.renamed) & set(table.columns), name
        assert {table.extra, table.counts, table.falls, table.repeats} - {""} <= set(table.columns), name
    assert {column.kind for column in COLUMNS.values()} == set(KINDS)
    meanings = Counter(column.meaning for column in COLUMNS.values() if not column.meaning.startswith("the same"))
    assert meanings.most_common(1)[0][1] == 1
    same = {"experiment", "method", "dataset", "backbone", "penalty", "solver", "lam", "seed", "epochs", "projector_out", "lr"}
    same |= {"regularisers", "projector"}
    assert {name for name in FIELDS if name in COLUMNS} <= same | {"workers"}  # a column called like a setting is that setting


def test_output_groups_have_one_name_in_all_tables():
    assert penalty_name("l21", "output") == "l21-output"
    assert penalty_name("l21", "input") == "l21"
    assert not any("groups" in table.columns for table in TABLES.values())
    assert "l21-output" in {row["penalty"] for row in read_csv(RESULTS / "lambda-penalties" / "sweep.csv")}


def test_tables_of_older_versions_are_read_by_todays_names(tmp_path):
    rows = rows_of("sweep.csv", 2)
    header, *lines = [",".join([*TABLES["sweep.csv"].columns]), *(",".join(row.values()) for row in rows)]
    header = header.replace("_share", "").replace("batch_norm", "groups,batch_norm")
    old = [header, *(line.replace("True", f"{kind},True") for line, kind in zip(lines, ("input", "output"), strict=True))]
    (tmp_path / "sweep.csv").write_text("\n".join(old).replace("0.25\n", "nan\n") + "\n")
    found = read_csv(tmp_path / "sweep.csv")
    assert [row.pop("penalty") for row in found] == ["some", "some-output"]
    assert found == [{column: value for column, value in row.items() if column != "penalty"} for row in rows]


def test_a_column_whose_value_is_the_usual_one_in_all_rows_is_not_written(tmp_path):
    """So that sweeps without regularisers have the tables that they always had."""
    path = tmp_path / "sweep.csv"
    rows = [row | {"regularisers": "none", "run": name} for row, name in zip(rows_of("sweep.csv", 2), "ab", strict=True)]
    replace_csv(path, rows)
    assert "regularisers" not in path.read_text()
    assert [row["regularisers"] for row in read_csv(path)] == ["none", "none"]
    replace_csv(path, [{key: value for key, value in rows[0].items() if key != "regularisers"}])
    assert read_csv(path)[0]["regularisers"] == "none"
    rows[1]["regularisers"] = "koleo:0.1"
    replace_csv(path, rows)
    assert [row["regularisers"] for row in read_csv(path)] == ["none", "koleo:0.1"]
    assert [row["regularisers"] for row in read_csv(RESULTS / "lambda-curve" / "sweep.csv")] == ["none"] * 180


# ---- damage


def lines_of(data, *numbers):
    return b"".join(data.splitlines(keepends=True)[i] for i in numbers)


WRONG = {
    "UTF-16": (lambda data: data.decode().encode("utf-16"), "line 1: it is not UTF-8"),
    "a byte-order mark of UTF-16": (lambda data: b"\xff\xfe" + data, "line 1: it is not UTF-8"),
    "bytes that are no text": (lambda data: data.replace(b"simclr", b"sim\xff\xfe", 3), "line 2: it is not UTF-8"),
    "NULs": (lambda data: data.replace(b",0.", b"\0\0\0", 1), r"line 2: "),
    "NULs only": (lambda data: bytes(len(data)), r"line 1"),
    "a garbage row": (lambda data: data + b"garbage\n", r"line 4: it has 1 cells"),
    "a missing column": (lambda data: data.replace(b",loss,", b",lost,"), "has no column loss: its first line is damaged"),
    "a column twice": (lambda data: data.replace(b",knn_accuracy_z,", b",knn_accuracy,"), "line 1: 'knn_accuracy' is twice"),
    "a field of 200 kB": (lambda data: data.replace(b"simclr", b"s" * 200_000, 1), "line 2: field larger than"),
    "a field of 100 kB": (lambda data: data.replace(b"simclr", b"s" * 100_000, 1), "line 2: "),
    "text where a number belongs": (
        lambda data: re.sub(rb",1,(\d)", rb",one,\1", data),
        "line 2: epoch is 'one'",
    ),
    "no number": (lambda data: re.sub(rb",1,\d\.\d+", b",1,nan", data), "line 2: loss is 'nan', which is no number"),
    "a share above 1": (lambda data: re.sub(rb",0\.(\d+)", rb",7.\1", data), "line 2: .* is '7.[0-9]+', which is no share"),
    "nothing": (lambda data: b"", "is empty"),
    "a header only": (lambda data: lines_of(data, 0), "has no rows"),
    "cut off": (lambda data: data[:-3], "line 3: it is cut off"),
    "an open quote": (lambda data: data.replace(b"simclr", b'"simclr', 1), "line 2: "),
    "lines in another order": (
        lambda data: b"".join(data.splitlines(keepends=True)[i] for i in (0, 2, 1)),
        "line 2: epoch is 2 where 1",
    ),
    "a line twice": (lambda data: lines_of(data, 0, 1, 2, 2), "line 4: it is a second line of simclr-.*, 2"),
    "a line missing": (
        lambda data: b"".join(data.splitlines(keepends=True)[i] for i in (0, 2)),
        "line 2: epoch is 2 where 1 belongs",
    ),
    "another table": (lambda data: b"a,b\n1,2\n", "has no column experiment, run, method …"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_damaged_table_beside_a_checkpoint_ends_a_resume_in_one_line(sparsehead, run_folder, kind):
    damage, said = WRONG[kind]
    path = run_folder / METRICS
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SparseheadError, match=f"{METRICS} .*{said}") as error:
        read_csv(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    assert "Put the file back, or move the folder away to start anew." in str(error.value)


def resuming(folder):
    """What resuming the run in a folder reads of it, its checkpoint apart."""
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    lam = float(re.search("-lam(.*)-seed", folder.name)[1])
    kept = {
        name: value for name, value in settings.items() if name in ("dataset", "backbone", "penalty", "solver", "seed", "groups")
    }
    return kept_tables(SimpleNamespace(folder=folder, name=folder.name, config=Config(**kept, lam=lam)), 2)


def damaged(rng, data):
    """One fault: flipped bits, a line dropped, doubled or swapped, bytes cut out or put in, a cut end."""
    data, lines = bytearray(data), data.splitlines(keepends=True)
    place, other = rng.randrange(len(data)), rng.randrange(len(lines))
    match rng.randrange(7):
        case 0:
            data[place] ^= 1 << rng.randrange(8)
        case 1:
            data[place : place + 1] = b"0123456789"[(n := rng.randrange(10)) : n + 1]
        case 2:
            return b"".join(lines[:other] + lines[other + 1 :])
        case 3:
            return b"".join([*lines[:other], lines[other], *lines[other:]])
        case 4:
            lines[other], lines[-1] = lines[-1], lines[other]
            return b"".join(lines)
        case 5:
            data[place:place] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 4)))
        case 6:
            return bytes(data[:place])
    return bytes(data)


def outcome_of(read, path):
    """(what was read, ""), or (None, the error)."""
    try:
        return read(path), ""
    except SparseheadError as error:
        return None, str(error)


@pytest.mark.parametrize("name", [METRICS, LAYERS])
def test_no_damage_of_a_table_beside_a_checkpoint_is_accepted(run_folder, name):
    """250 faults each: an error of one line, or the same rows as before."""
    rng, whole, good = random.Random(0), (run_folder / name).read_bytes(), resuming(run_folder)
    seen = Counter()
    for _ in range(250):
        (run_folder / name).write_bytes(damaged(rng, whole))
        found, error = outcome_of(resuming, run_folder)
        assert (found == good) if not error else (name in error and "\n" not in error)
        seen["refused" if error else "the same"] += 1
    assert seen["refused"] > 200


def test_a_changed_digit_is_told_with_its_line(run_folder):
    lines = (run_folder / METRICS).read_text().splitlines()
    lines[2] = lines[2][:-1] + str((int(lines[2][-1]) + 1) % 10)
    (run_folder / METRICS).write_text("\n".join(lines) + "\n")
    with pytest.raises(SparseheadError, match="metrics.csv is damaged in line 3: it is not what was written"):
        resuming(run_folder)
    witness(run_folder / METRICS).unlink()  # a run of an older version has none
    assert len(resuming(run_folder)["metrics.csv"]) == 2


def test_rows_of_another_run_or_lost_epochs_are_told(run_folder):
    for name in (METRICS, LAYERS):
        witness(run_folder / name).unlink()
    whole = (run_folder / METRICS).read_text()
    (run_folder / METRICS).write_text(whole.replace("seed0", "seed1"))
    with pytest.raises(SparseheadError, match="metrics.csv: run is .*seed1.*, this run's is .*seed0"):
        resuming(run_folder)
    (run_folder / METRICS).write_text("".join(whole.splitlines(keepends=True)[:2]))
    with pytest.raises(SparseheadError, match="metrics.csv has 1 of the 2 epochs in the checkpoint beside it"):
        resuming(run_folder)
    (run_folder / METRICS).write_text(whole)
    lines = (run_folder / LAYERS).read_text().splitlines(keepends=True)
    (run_folder / LAYERS).write_text("".join(lines[: 1 + len(lines) // 2]))
    with pytest.raises(SparseheadError, match="layers.csv has 1 of the 2 epochs"):
        resuming(run_folder)


def test_after_a_kill_between_a_table_and_its_witness_the_old_table_is_believed(tmp_path, monkeypatch):
    path, rows = tmp_path / "metrics.csv", rows_of("metrics.csv")
    replace_csv(path, rows[:1])
    monkeypatch.setattr("sparsehead_cli.machine.files.replace_file", lambda at, data: at == path or replace_file(at, data))
    replace_csv(path, rows)  # the witness is written, the table is not
    assert len(read_csv(path)) == 1
    monkeypatch.undo()
    replace_csv(path, rows)
    assert len(read_csv(path)) == len(rows) > 1
    witness(path).write_text("what a disk left of it")
    with pytest.raises(
        SparseheadError, match=r"metrics.csv is damaged in line 1: it is not what was .* remove .*metrics.csv.sha256"
    ):
        read_csv(path)


def test_a_changed_config_is_told_and_a_lost_one_is_written_anew(run_folder, sparsehead):
    again = ["pretrain", *(part for key, value in TINY.items() for part in ("--set", f"{key}={value}"))]
    again = [a.replace("(", "").replace(")", "").replace(" ", "") for a in again] + ["--results", run_folder.parents[1]]
    path = run_folder / "config.yaml"
    whole = path.read_text()
    path.write_text(whole.replace("epochs: 2", "epochs: 3"))
    assert "config.yaml is damaged in line" in assert_one_error(sparsehead(*again))
    path.unlink()
    code, _, err = sparsehead(*again)
    assert (code, err) == (0, "")
    assert path.read_text().partition("began_on")[0] == whole.partition("began_on")[0]


@pytest.mark.parametrize("name", TABLES)
def test_damage_ends_in_an_error_or_cannot_be_seen(tmp_path, name):
    """200 faults of each table: an error that names the file, the same rows, or rows whose every cell is of its kind."""
    rng, path = random.Random(name), tmp_path / name
    replace_csv(path, rows_of(name))
    whole, good = path.read_bytes(), read_csv(path)
    for _ in range(200):
        path.write_bytes(damaged(rng, whole))
        found, error = outcome_of(read_csv, path)
        assert not error or (str(path) in error and "\n" not in error)
        assert (
            error
            or found == good
            or all(
                KINDS[COLUMNS[column].kind](value) or value == ""
                for row in found
                for column, value in row.items()
                if column in COLUMNS and column in TABLES[name].columns
            )
        )
        if TABLES[name].counts and not error and len(found) == len(good):
            assert [row[TABLES[name].counts] for row in found] == [row[TABLES[name].counts] for row in good]


def test_a_folder_in_place_of_a_table_is_told(tmp_path):
    (tmp_path / METRICS).mkdir()
    with pytest.raises(SparseheadError, match="cannot read .*metrics.csv: it is a folder. Move it away"):
        read_csv(tmp_path / METRICS)


@pytest.mark.parametrize("lost", [5, -1])
def test_a_lost_line_of_a_spectrum_does_not_shift_the_ranks_behind_it(sparsehead, tmp_path, lost):
    for name in ("spectrum.csv", "spectrum_metrics.csv"):
        shutil.copy(RESULTS / "spectrum" / name, tmp_path)
    assert len(read_spectra(tmp_path)[0]) == 7680
    lines = (tmp_path / "spectrum.csv").read_text().splitlines()
    del lines[lost]
    (tmp_path / "spectrum.csv").write_text("\n".join(lines) + "\n")
    said = "line 6: index is 6 where 5 belongs" if lost == 5 else "has 255 eigenvalues of response of task"
    assert said in assert_one_error(sparsehead("report", tmp_path)).replace("\n", " ")


def test_eigenvalues_never_rise(tmp_path):
    rows = rows_of("spectrum.csv")
    rows[3]["eigenvalue"], rows[4]["eigenvalue"] = rows[4]["eigenvalue"], rows[3]["eigenvalue"]
    with pytest.raises(SparseheadError, match="line 6: eigenvalue is larger than in the line before"):
        replace_csv(tmp_path / "spectrum.csv", rows)
    assert not list(tmp_path.iterdir())


def test_epochs_of_a_layer_table_have_the_same_layers(tmp_path):
    rows = rows_of(LAYERS)
    for wrong in (rows[:-1], [*rows[:2], *rows[3:]], [*rows[:2], *rows[4:], rows[2]]):
        with pytest.raises(SparseheadError, match="line [0-9]: epoch .* (ends here with other lines|was over)"):
            replace_csv(tmp_path / LAYERS, wrong)


# ---- what is not defined


def test_what_is_not_defined_is_empty_in_tables_and_a_dash_for_people(tmp_path):
    rows = [{**row, "stable_rank": value} for row, value in zip(rows_of(LAYERS, 2), (float("nan"), None), strict=True)]
    replace_csv(tmp_path / LAYERS, rows)
    assert [row["stable_rank"] for row in read_csv(tmp_path / LAYERS)] == ["", ""]
    assert [readable(value, 1, 100, " %") for value in ("", None, float("nan"), "0.5", 0)] == ["–", "–", "–", "50.0 %", "0.0 %"]
    assert [readable(value, 1, sign="+") for value in (0.25, -0.01)] == ["+0.2", "+0.0"]
    assert share(3, 4) == 0.75
    assert readable(share(0, 0), 0) == readable(share("", 4), 0) == "–"
    assert number("2") == 2


def test_no_committed_table_says_nan():
    for path in RESULTS.rglob("*.csv"):
        assert not re.search(rb"[,\n](nan|-?inf)[,\n]", path.read_bytes()), path


@pytest.mark.parametrize("name", [METRICS, LAYERS])
def test_a_link_to_nowhere_is_no_missing_table(run_folder, name):
    """layers.csv may be missing, in runs of older versions; a link in its place says that it was there."""
    (run_folder / name).unlink()
    (run_folder / name).symlink_to(run_folder / "elsewhere.csv")
    with pytest.raises(SparseheadError, match=rf"{name} is a link to .*elsewhere.csv, which is not there\. Put the file back"):
        resuming(run_folder)
