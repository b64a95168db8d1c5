import errno
import os

import pytest

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.files import replace_file
from sparsehead_cli.table_files import read_csv, replace_csv


def test_table_round_trip_is_exact(tmp_path):
    rows = [{"network": text, "workload": "w", "ratio": number} for text, number in (("x, y", 1e-17), ('q"', 0.1))]
    rows = [{**row, "images_per_second": 1, "commit": "é", "torch": "2"} for row in rows]
    replace_csv(tmp_path / "throughput.csv", rows)
    text = (tmp_path / "throughput.csv").read_bytes()
    again = read_csv(tmp_path / "throughput.csv")
    assert again == [{k: str(row[k]) for k in again[0]} for row in rows]
    replace_csv(tmp_path / "another name.csv", again, "throughput.csv")
    assert (tmp_path / "another name.csv").read_bytes() == text


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    replace_file(tmp_path / "f", b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SparseheadError, match="cannot write .*No space left on device.*Make room"):
        replace_file(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
