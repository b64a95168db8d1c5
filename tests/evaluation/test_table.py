"""Tables that fill task by task: nothing is lost, and many tasks do not write them anew after each."""

import pytest

from sparsehead_cli.evaluation import table
from sparsehead_cli.evaluation.table import TaskTables
from sparsehead_cli.runs.table_files import read_csv, replace_csv
from tests.rows import full_row

NAMES = ("spectrum.csv", "spectrum_metrics.csv")


def tables(folder):
    return TaskTables(folder, NAMES, NAMES[-1], lambda rows: NAMES[:-1])


def rows(value="1.5"):
    """What one task adds to both tables."""
    metrics = [full_row(NAMES[1], metric=metric, value=value) for metric in ("dim", "alpha")]
    return [[full_row(NAMES[0], index=index, eigenvalue=1) for index in (1, 2, 3)], metrics]


@pytest.fixture
def clock(monkeypatch):
    """Time that passes by the row that is written, 0.1 s each, and as a test says."""
    now = [0.0]

    def replace(path, rows):
        now[0] += 0.1 * len(rows)
        replace_csv(path, rows)

    monkeypatch.setattr(table, "replace_csv", replace)
    monkeypatch.setattr(table, "monotonic", lambda: now[0])
    return now


def test_writing_many_quick_tasks_takes_a_twentieth_of_the_time(tmp_path, clock):
    kept, tasks = tables(tmp_path), [f"{task:012}" for task in range(80)]
    for task in tasks:
        clock[0] += 3  # seconds of measuring, so that writing each time would take 1,620 s of 1,860
        kept.add(task, rows())
        assert kept.has(task)
    assert clock[0] - 3 * 80 <= 3 * 80 / 20 + 0.5 * 80
    assert kept.waiting
    assert [len(of_all) for of_all in kept.of(tasks)] == [3 * 80, 2 * 80]
    assert [len(read_csv(tmp_path / name)) for name in NAMES] == [3 * 80, 2 * 80]
    assert tables(tmp_path).has(tasks[-1])


def test_long_tasks_are_written_one_by_one(tmp_path, clock):
    kept = tables(tmp_path)
    for task in range(30):
        clock[0] += 1000
        kept.add(f"{task:012}", rows())
        assert len(read_csv(tmp_path / NAMES[1])) == 2 * (task + 1)


def test_a_task_that_is_added_again_takes_the_place_of_its_rows(tmp_path):
    kept = tables(tmp_path)
    kept.add("one", rows())
    kept.add("two", rows())
    tables(tmp_path).add("one", rows("2.5"))  # by another process
    assert [row["value"] for row in kept.of(["two", "one"])[1]] == ["1.5", "1.5", "2.5", "2.5"]


@pytest.mark.usefixtures("clock")
def test_what_waits_is_written_though_a_later_checkpoint_is_bad(tmp_path, monkeypatch):
    from sparsehead_cli.errors import SparseheadError
    from sparsehead_cli.evaluation import spectrum

    kept = tables(tmp_path / "out")
    kept.add("first", rows())
    monkeypatch.setattr(spectrum, "TaskTables", lambda *given: kept)
    monkeypatch.setattr(spectrum, "load_subject", lambda *given: (_ for _ in ()).throw(SparseheadError("bad")))
    kept.add("waits", rows())
    assert "waits" in kept.waiting
    with pytest.raises(SparseheadError, match="bad"):
        spectrum.spectra(spectrum.SpectrumRequest(checkpoints=("some.pt",), out=tmp_path / "out"))
    assert "waits" in {row["task"] for row in read_csv(tmp_path / "out" / NAMES[1])}
