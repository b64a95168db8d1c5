import errno
import os

import pytest

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.files import read_csv, replace_csv, replace_file


def test_table_round_trip_is_exact(tmp_path):
    rows = [{"a": "x, y", "b": 1e-17}, {"a": 'q"', "b": 0.1}]
    replace_csv(tmp_path / "t.csv", rows)
    text = (tmp_path / "t.csv").read_bytes()
    again = read_csv(tmp_path / "t.csv")
    assert again == [{k: str(v) for k, v in row.items()} for row in rows]
    replace_csv(tmp_path / "t.csv", again)
    assert (tmp_path / "t.csv").read_bytes() == text
    assert read_csv(tmp_path / "none.csv") == []


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    replace_file(tmp_path / "f", b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SparseheadError, match="cannot write .*No space left on device.*Make room"):
        replace_file(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
