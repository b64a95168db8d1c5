"""How a command was started: alone or by torchrun; what may be shared, what to type next, who says what went wrong."""

import json
import sys

import pytest
import torch.distributed as dist

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine import distributed, launch
from sparsehead_cli.machine.launch import twin_command


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """launched(rank) makes this process the one of that number of two, whose store stands ready; returns torchrun's error file."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setattr(distributed, "PATIENCE", distributed.timedelta(seconds=0.2))
    common = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}

    def of(rank):
        file = tmp_path / f"error-{rank}.json"
        for name, value in {**common, "RANK": rank, "TORCHELASTIC_ERROR_FILE": file}.items():
            monkeypatch.setenv(name, str(value))
        return file

    yield of
    del store


COMMANDS = [("evaluate", "x.pt"), ("spectrum",), ("sweep-lambda", "--lams", "0,1e-3"), ("report", "results/a b")]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_only_pretrain_can_be_shared(sparsehead, launched, arguments):
    file = launched(0)
    code, out, err = sparsehead(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: {arguments[0]} works in one process, and was started in 2; only pretrain can be shared.")
    again = " ".join(f"'{a}'" if " " in a else a for a in arguments)
    assert err.endswith(f"Start it without torchrun: python -m sparsehead_cli {again}\n")
    assert err.count("\n") == 1
    assert json.loads(file.read_text())["message"]["extraInfo"]["py_callstack"] == err.removeprefix("Error: ").strip()
    launched(1)
    assert sparsehead(*arguments) == (1, "", "")  # said by the first, once


def test_variables_of_a_scheduler_alone_make_no_group(sparsehead, monkeypatch):
    """Slurm sets SLURM_PROCID; a shell may have a RANK or a WORLD_SIZE left over, of numbers or not."""
    for variables in (
        {"RANK": "3"},
        {"WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "two", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
    ):
        for name in launch.VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", **variables}.items():
            monkeypatch.setenv(name, value)
        assert not launch.launched()
        assert launch.rank() == 0
        code, _, err = sparsehead("evaluate", "nothing.pt")
        assert code == 1
        assert "works in one process" not in err


def test_an_error_of_one_process_is_its_own_to_say(launched):
    """The first speaks for all; what the first does not say another one says with its number, and only one of the others."""
    common, own = SparseheadError("batch_size 9 cannot be shared"), SparseheadError("cannot read the image 7.jpg")
    launched(0)
    assert distributed.speaker(common) == ""
    launched(1)
    assert distributed.speaker(common) is None
    assert distributed.speaker(own) == " in process 1 of 2"
    assert distributed.speaker(own) is None
    assert distributed.speaker(distributed.Deserted("gone")) is None  # why has been said


def test_who_is_left_alone_without_a_word_says_so_once(launched):
    launched(1)
    assert distributed.speaker(distributed.Deserted("gone")) == " in process 1 of 2"
    launched(0)
    assert distributed.speaker(distributed.Deserted("gone")) is None


def test_nobody_to_ask_is_no_reason_to_be_silent(launched, monkeypatch):
    launched(1)
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(distributed, "CONTACT", distributed.timedelta(seconds=0.2))
    assert distributed.speaker(SparseheadError("no such device")) == " in process 1 of 2"


def test_a_collective_without_its_peer_is_one_sentence(launched):
    launched(0)
    gloo = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4321"
    for error in (RuntimeError(gloo), dist.DistBackendError("NCCL error in: ...")):
        with pytest.raises(SparseheadError, match="another process of this run ended without a word"), distributed.deserted():
            raise error
    with pytest.raises(RuntimeError, match="shapes"), distributed.deserted():
        raise RuntimeError("shapes do not match")  # a fault of ours keeps its traceback


def test_hints_repeat_how_the_command_was_started(launched, monkeypatch):
    arguments = ["pretrain", "--lam", "1e-3", "--seed", "1"]
    monkeypatch.setattr(sys, "argv", ["/venv/bin/sparsehead", *arguments])
    assert twin_command(arguments, "0") == "sparsehead pretrain --seed 1 --lam 0"
    monkeypatch.setattr(sys, "argv", ["/src/sparsehead_cli/__main__.py", *arguments])
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-m", "sparsehead_cli", *arguments])
    assert twin_command(arguments, "0") == "python3 -m sparsehead_cli pretrain --seed 1 --lam 0"
    assert launch.command_alone() == ["python3", "-m", "sparsehead_cli"]
    launched(0)
    assert twin_command(arguments, "0") == "torchrun --nproc-per-node=2 -m sparsehead_cli pretrain --seed 1 --lam 0"
    assert launch.command_alone() == ["python", "-m", "sparsehead_cli"]
    monkeypatch.setenv("GROUP_WORLD_SIZE", "4")
    assert launch.command()[:3] == ["torchrun", "--nnodes=4", "--rdzv-endpoint=HOST:PORT"]
