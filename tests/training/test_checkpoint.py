import pickle

import pytest
import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.training.checkpoint import load_checkpoint, save_checkpoint


class RunsCode:
    def __reduce__(self):
        return (exec, ("open('ran', 'w')",))


def test_round_trip(tmp_path):
    save_checkpoint(tmp_path / "c.pt", {"step": 3, "w": torch.arange(4), "words": ["a"]})
    state = load_checkpoint(tmp_path / "c.pt")
    assert state["step"] == 3
    assert torch.equal(state["w"], torch.arange(4))


def test_every_truncation_is_refused_in_one_line(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"w": torch.arange(1000)})
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(SparseheadError, match="is damaged or not a checkpoint") as error:
            load_checkpoint(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("dump", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_code_is_never_run(tmp_path, monkeypatch, dump):
    monkeypatch.chdir(tmp_path)
    dump({"format": RunsCode()}, tmp_path / "c.pt")
    with pytest.raises(SparseheadError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "ran").exists()


def test_somebody_elses_checkpoint(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "c.pt")
    with pytest.raises(SparseheadError, match="not written by sparsehead pretrain"):
        load_checkpoint(tmp_path / "c.pt")
    with pytest.raises(SparseheadError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pt")
