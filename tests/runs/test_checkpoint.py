"""A checkpoint comes back to the bit, or not at all: damage, odd contents and odd files end in one line."""

import os
import pickle
import re

import pytest
import torch

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.archive import tensors_in
from sparsehead_cli.runs.checkpoint import (
    FORMAT,
    is_checkpoint,
    load_checkpoint,
    load_optimizer,
    require_weights,
    save_checkpoint,
)
from tests.damage import DAMAGES, every_nth, flip_bit, swap


class RunsCode:
    def __reduce__(self):
        return (exec, ("open('ran', 'w')",))


def whole(**changes):
    """The state of a run of one linear layer after three steps of 18."""
    torch.manual_seed(0)
    network = torch.nn.Linear(5, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(1, 5)).sum().backward()
    optimizer.step()
    return {
        "identity": {"method": "simclr", "lam": 1e-3, "widths": [4, 4]},
        "precision": "float32",
        "step": 3,
        "total_steps": 18,
        "skipped": 0,
        "sums": {"loss": torch.tensor(1.5), "gradient_norm": torch.tensor(2.0)},
        "input": {"image": (1, 28, 28), "mean": (0.5,), "std": (0.25,)},
        "method": dict(network.state_dict()),
        "optimizer": optimizer.state_dict(),
        **changes,
    }


@pytest.fixture
def path(tmp_path):
    save_checkpoint(tmp_path / "c.pt", whole())
    return tmp_path / "c.pt"


def values(state):
    """All of a state as plain values, for comparison to the bit."""
    return [t.tolist() for t in tensors_in(state)], repr(
        {k: v for k, v in state.items() if k not in ("sums", "method", "optimizer")}
    )


def refused(path, words=""):
    """The one line that a checkpoint is refused with."""
    with pytest.raises(SparseheadError, match=words) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    return str(error.value)


def test_round_trip(path):
    state = load_checkpoint(path)
    assert state.pop("format") == FORMAT
    assert values(state) == values(whole())
    assert list(state) == list(whole())
    assert is_checkpoint(path)


def test_a_checkpoint_without_the_later_fields_is_read(tmp_path):
    later = ("total_steps", "skipped", "input")
    save_checkpoint(tmp_path / "c.pt", {name: value for name, value in whole().items() if name not in later})
    assert load_checkpoint(tmp_path / "c.pt")["step"] == 3


# ---------------------------------------------------------------------------------------------- damage


def outcome(path, good):
    """What a damaged file says, on one line; "" where it is read and has the `good` values; it never has others."""
    try:
        state = load_checkpoint(path)
    except SparseheadError as error:
        return str(error)
    assert values(state) == good
    return ""


def test_a_flipped_bit_is_an_error_or_changes_nothing(path):
    data, good = path.read_bytes(), values(load_checkpoint(path))
    said = []
    for bit in range(0, 8 * len(data), 61):
        path.write_bytes(flip_bit(data, bit))
        said.append(outcome(path, good))
    assert sum(map(bool, said)) > 100
    assert not any("\n" in line for line in said)


def test_a_flipped_bit_of_what_describes_the_entries_is_an_error_or_changes_nothing(path):
    data, good = path.read_bytes(), values(load_checkpoint(path))
    last = data.rindex(b"PK\x01\x02", 0, data.rindex(b"/data/"))  # the entry of a tensor
    for bit in range(8 * last, 8 * last + 8 * 46):
        path.write_bytes(flip_bit(data, bit))
        outcome(path, good)
    path.write_bytes(flip_bit(data, 8 * (last + 38) + 4))
    refused(path, "one of its zip entries calls itself a folder")  # torch reads nothing of it, without an error


@pytest.mark.parametrize("damage", DAMAGES)
def test_other_damage_is_an_error_or_changes_nothing(path, damage):
    data, good = path.read_bytes(), values(load_checkpoint(path))
    for seed in range(20):
        path.write_bytes(DAMAGES[damage](data, seed))
        line = outcome(path, good)
        assert line == "" or re.fullmatch(r".* is damaged or not a checkpoint \(.*\)\. Move it away to start anew\.", line)


def test_every_truncation_is_refused_in_one_line(path):
    data = path.read_bytes()
    for size in (0, 1, 21, 22, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        refused(path, "is damaged or not a checkpoint")


def test_bytes_that_do_not_belong_there_are_refused(path):
    data = path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    for odd in (
        every_nth(data, 97),
        every_nth(data, 501),
        b"abc" + data,
        data + b"abc",
        data + data,
        swap(data, b"data/0", b"data/3"),
        data[:directory] + swap(data[directory:], b"data/0", b"data/3"),
        data[:directory] + data[directory:].replace(b"data/0", b"data/3"),
    ):
        path.write_bytes(odd)
        refused(path, "is damaged or not a checkpoint")


def test_a_checkpoint_of_ours_has_checksums(path):
    torch.serialization.set_crc32_options(False)
    try:
        save_checkpoint(path, whole())
    finally:
        torch.serialization.set_crc32_options(True)
    refused(path, "Bad CRC-32")


@pytest.mark.parametrize("dump", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_code_is_never_run(tmp_path, monkeypatch, dump):
    monkeypatch.chdir(tmp_path)
    dump({"format": RunsCode()}, tmp_path / "c.pt")
    refused(tmp_path / "c.pt", "not a checkpoint")
    assert not (tmp_path / "ran").exists()


def test_what_is_no_file_is_said_and_not_waited_for(path, monkeypatch):
    path.unlink()
    refused(path, "does not exist")
    path.symlink_to("elsewhere.pt")
    refused(path, "is a link to elsewhere.pt, which is not there")
    path.unlink()
    path.mkdir()
    refused(path, "it is a folder")
    path.rmdir()
    os.mkfifo(path)
    refused(path, "it is a pipe or a device")
    assert not is_checkpoint(path)

    def denied(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    refused(path, "cannot read .*: Permission denied")


# ---------------------------------------------------------------------------------------------- odd contents


def test_somebody_elses_checkpoint(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "c.pt")
    refused(tmp_path / "c.pt", "not written by sparsehead pretrain")
    assert not is_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("sparsehead-run-2", "made by a newer sparsehead .*Upgrade"),
        (3, "not written by"),
        ("sparse", "not written by"),
        ([], "not w"),
    ],
)
def test_another_format_is_told_from_a_later_one(path, named, words):
    torch.save({"format": named, **whole()}, path)
    refused(path, words)


@pytest.mark.parametrize("name", ["identity", "precision", "step", "sums", "method", "optimizer"])
def test_a_missing_field_is_named(path, name):
    state = whole()
    del state[name]
    save_checkpoint(path, state)
    refused(path, f"has no {name}: it is damaged")


one = torch.ones(())
ODD = [
    ("identity", [[], {}, {"lam": 1.0}, {"method": one}, {1: 2, "method": "a"}, {"method": [[[[[[1]]]]]]}, {"method": 10**400}]),
    ("precision", [3, None, ["float32"]]),
    ("step", ["3", -1, True, 3.0, None, 10**400, one]),
    ("total_steps", ["18", -1, 18.0]),
    ("skipped", ["0", -1, True]),
    ("sums", [[], {"loss": 1.5}, {"loss": torch.ones(2), "gradient_norm": one}, {"loss": one}, {3: one}]),
    ("input", [[], {}, {"image": (1, 28, 28)}, {"image": (1, 28), "mean": (0.5,), "std": (0.5,)}]),
    ("input", [{"image": (1, 28, 28), "mean": (0.5, 0.5), "std": (0.5,)}, {"image": (1, 28, 28), "mean": (0.5,), "std": (0.0,)}]),
    (
        "input",
        [{"image": (2, 28, 28), "mean": (0.5,) * 2, "std": (0.5,) * 2}, {"image": (1, 10**9, 28), "mean": (0,), "std": (1,)}],
    ),
    ("input", [{"image": (1, 28, 28), "mean": (float("nan"),), "std": (0.5,)}]),
    ("method", [{}, [], {"w": 3}, {3: one}, None]),
    ("optimizer", [{}, [], {"state": []}, {"state": {}, "param_groups": {}}, {"state": {"a": {}}, "param_groups": []}]),
    ("optimizer", [{"state": {}, "param_groups": [group]} for group in ({}, {"params": 3}, {"params": [torch.ones(2)]})]),
]


@pytest.mark.parametrize(("name", "odd"), [(name, odd) for name, values in ODD for odd in values])
def test_a_field_of_another_kind_is_named(path, name, odd):
    save_checkpoint(path, whole(**{name: odd}))
    refused(path, f"is damaged: its {name} must be ")


def test_numbers_that_contradict_each_other_are_refused(path):
    save_checkpoint(path, whole(step=19))
    refused(path, "stands at step 19 of 18")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(path, number):
    state = whole()
    state["method"]["weight"][1, 1] = number
    save_checkpoint(path, state)
    refused(path, "some of its weights are NaN or infinite")


@pytest.mark.parametrize(
    "odd",
    [torch.ones(1).expand(10**12), torch.ones(2, 2).to_sparse(), torch.empty(10**12, device="meta")],
    ids=["expanded", "sparse", "meta"],
)
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_tensors_that_would_grow_are_refused(path, odd):
    save_checkpoint(path, whole(method={"weight": odd}))
    refused(path, "is damaged or not a checkpoint .(one of its tensors|it cannot be read)")


# ---------------------------------------------------------------------------------------------- into a network


def test_weights_must_have_the_names_shapes_and_types_of_the_network(path):
    network = torch.nn.Linear(5, 3).state_dict()
    require_weights(whole()["method"], network, path)
    for odd, words in (
        ({"weight": torch.ones(3, 5)}, r"bias is not there and must be float32 \[3\]"),
        ({**network, "more": one}, r"more is float32 \[\] and must be not there"),
        ({**network, "bias": torch.ones(3, 1)}, r"bias is float32 \[3, 1\] and must be float32 \[3\]"),
        ({**network, "bias": torch.ones(3).long()}, r"bias is int64 \[3\] and must be float32 \[3\]"),
    ):
        with pytest.raises(SparseheadError, match=f"are of another architecture than its settings say: {words}"):
            require_weights(odd, network, path)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
}


def stepped(name):
    network = torch.nn.Linear(5, 3)
    optimizer = OPTIMIZERS[name](network.parameters())
    network(torch.ones(1, 5)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_remembers_and_keeps_its_own_settings(path, name):
    given, optimizer = stepped(name).state_dict(), stepped(name)
    given["param_groups"][0]["weight_decay"] = 7.0
    load_optimizer(optimizer, given, path, begun=True)
    assert optimizer.param_groups[0]["weight_decay"] != 7.0
    assert list(map(torch.Tensor.tolist, tensors_in(optimizer.state_dict()))) == [t.tolist() for t in tensors_in(given)]
    load_optimizer(OPTIMIZERS[name](torch.nn.Linear(5, 3).parameters()), {**given, "state": {}}, path, begun=False)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimizer_that_remembers_something_else_is_refused(path, name):
    good = stepped(name).state_dict()
    first = dict(good["state"][0])
    entry = list(first)[-1]
    odd = {
        "nothing": {},
        "one weight less": {0: first},
        "one weight more": {**good["state"], 2: first},
        "of another weight": {0: good["state"][1], 1: first},
        "without one entry": {0: {k: v for k, v in first.items() if k != entry}, 1: good["state"][1]},
        "with one more": {0: {**first, "warp": torch.ones(())}, 1: good["state"][1]},
        "a number": {0: {**first, entry: torch.ones(())}, 1: good["state"][1]},
        "no tensor": {0: {**first, entry: 3}, 1: good["state"][1]},
        "another type": {0: {**first, entry: first[entry].long()}, 1: good["state"][1]},
    }
    groups = {"no groups": [], "of fewer": [{"params": [0]}], "of another": [{"params": [1, 0]}]}
    for state in [{**good, "state": state} for state in odd.values()] + [{**good, "param_groups": g} for g in groups.values()]:
        with pytest.raises(SparseheadError, match="is damaged: its optimizer's state is not that of the run's weights"):
            load_optimizer(stepped(name), state, path, begun=True)
