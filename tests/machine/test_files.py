import errno
import os

import pytest

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.files import make_folder, replace_file, witness, write_beside
from sparsehead_cli.runs.table_files import read_csv, replace_csv
from tests.rows import full_row


def test_table_round_trip_is_exact(tmp_path):
    rows = [{"network": text, "workload": "w", "ratio": number} for text, number in (("x, y", 1e-17), ('q"', 0.1))]
    rows = [full_row("throughput.csv", **row, images_per_second=1, commit="é", torch="2") for row in rows]
    replace_csv(tmp_path / "throughput.csv", rows)
    text = (tmp_path / "throughput.csv").read_bytes()
    again = read_csv(tmp_path / "throughput.csv")
    assert again == [{k: str(row[k]) for k in again[0]} for row in rows]
    replace_csv(tmp_path / "another name.csv", again, "throughput.csv")
    assert (tmp_path / "another name.csv").read_bytes() == text


def test_a_path_that_is_no_utf_8_is_written_all_the_same(tmp_path):
    replace_csv(tmp_path / "throughput.csv", [full_row("throughput.csv", network="caf\udce9")])
    assert read_csv(tmp_path / "throughput.csv")[0]["network"] == "caf\\udce9"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p.symlink_to("nowhere/at/all"), "is a link to nowhere/at/all, which is not there. Write elsewhere."),
        (lambda p: p.symlink_to(p.name), "which is not there. Write elsewhere."),
        (lambda p: p.write_text("x", encoding="utf-8"), "is no folder. Write elsewhere."),
        (os.mkfifo, "is no folder. Write elsewhere."),
    ],
    ids=["dangling", "loop", "file", "pipe"],
)
def test_what_is_in_the_way_of_a_folder_is_named(tmp_path, make, says):
    way = tmp_path / "way"
    make(way)
    for path in (way, way / "a" / "b"):
        with pytest.raises(SparseheadError) as error:
            make_folder(path)
        assert f"cannot write to {path}: {way} " in str(error.value)
        assert str(error.value).endswith(says)


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "Make room, or write elsewhere"), (errno.EROFS, "Write elsewhere"), (errno.EMFILE, "Raise `ulimit -n`")],
)
def test_the_remedy_follows_from_the_reason(tmp_path, monkeypatch, number, says):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(SparseheadError) as error:
        replace_file(tmp_path / "f", b"new")
    assert f"{os.strerror(number)}. {says}" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_file_s_place(tmp_path):
    (tmp_path / "f").mkdir()
    with pytest.raises(SparseheadError, match="It is a folder where a file belongs"):
        replace_file(tmp_path / "f", b"x")
    (tmp_path / "g.part").mkdir()
    with pytest.raises(SparseheadError, match="g: Is a directory"):
        replace_file(tmp_path / "g", b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "g.part"]


def test_a_pipe_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "throughput.csv")
    with pytest.raises(SparseheadError, match="it is a pipe or a device"):
        read_csv(tmp_path / "throughput.csv")
    (tmp_path / "throughput.csv").unlink()
    replace_csv(tmp_path / "throughput.csv", [full_row("throughput.csv")])
    witness(tmp_path / "throughput.csv").unlink()
    os.mkfifo(witness(tmp_path / "throughput.csv"))
    with pytest.raises(SparseheadError, match="it is not what was written"):
        read_csv(tmp_path / "throughput.csv")


def test_ctrl_c_leaves_nothing_half_written(tmp_path):
    def pressed(file):
        file.write(b"ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_beside(tmp_path / "f", pressed)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    replace_file(tmp_path / "f", b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SparseheadError, match="cannot write .*No space left on device.*Make room"):
        replace_file(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
