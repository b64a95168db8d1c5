"""What is assumed of somebody else's checkpoint is listed, enters every row, and can be told by --assume."""

import csv
import re

import pytest
import torch

from sparsehead_cli.data.datasets import DATASETS
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation import spectrum
from sparsehead_cli.evaluation.evaluate import evaluate
from sparsehead_cli.evaluation.load import load_subject
from sparsehead_cli.evaluation.plan import EvaluateRequest
from sparsehead_cli.evaluation.subject import LoadOptions, untrained
from sparsehead_cli.foreign.layouts import CIFAR100, IMAGENET, STL10
from tests.foreign.definitions import head_state, resnet_state, under

CPU = torch.device("cpu")
HEAD = head_state(0, "0 1: 3", (10, 12, 6))
LIGHTNING = {"pytorch-lightning_version": "2.6.0"}


def written(folder, prefix="backbone.", kernel=3, head="projector.", **beside):
    """A checkpoint with a backbone and a projector."""
    path = folder / "theirs" / "c.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {**under(prefix, resnet_state(0, kernel=kernel)), **under(head, HEAD)}, **beside}, path)
    return path


def solo_learn(folder, dataset, kernel=3):
    path = written(folder, kernel=kernel, **LIGHTNING, hyper_parameters={"method": "simclr", "data": {"dataset": dataset}})
    state = torch.load(path)
    state["state_dict"]["classifier.weight"] = torch.ones(10, 10)
    torch.save(state, path)
    return path


def load(path, *assume, dataset="cifar10", **options):
    return load_subject(path, LoadOptions(assume=assume, **options), dataset)


def assumed(subject):
    return {a.key: (a.value, a.rests_on) for a in subject.assumed}


# ---------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    ("dataset", "kernel", "known"),
    [("cifar100", 3, CIFAR100), ("stl10", 7, STL10), ("imagenet100", 7, {**IMAGENET, "image_size": 224})],
)
def test_solo_learn_names_its_data_set_and_images_are_those_it_was_trained_on(tmp_path, dataset, kernel, known):
    subject = load(solo_learn(tmp_path, dataset, kernel), dataset="svhn")
    assert (subject.prepare.normalise.mean, subject.prepare.normalise.std) == (known["mean"], known["std"])
    assert subject.prepare.image == subject.network.backbone.image == (3, known["image_size"], known["image_size"])
    assert {assumed(subject)[key][1] for key in ("mean", "std", "image_size")} == {"known of this layout"}


def test_a_data_set_that_the_file_names_is_the_better_guess(tmp_path):
    subject = load(written(tmp_path, args={"dataset": "CIFAR100"}), dataset="svhn")
    assert subject.prepare.normalise == DATASETS["cifar100"].normalise
    assert assumed(subject)["mean"] == ("0.5071,0.4865,0.4409", "guessed")
    subject = load(written(tmp_path), dataset="svhn")
    assert subject.prepare.normalise == DATASETS["svhn"].normalise
    assert assumed(subject)["mean"][1] == assumed(subject)["image_size"][1] == "guessed"


@pytest.mark.parametrize(("classes", "rests_on"), [(10, "guessed"), (1000, "known of this layout")])
def test_torchvisions_names_do_not_say_what_images_the_weights_are_of(tmp_path, classes, rests_on):
    state = {**resnet_state(0, kernel=7), "fc.weight": torch.ones(classes, 64), "fc.bias": torch.ones(classes)}
    torch.save(state, tmp_path / "theirs.pt")
    subject = load(tmp_path / "theirs.pt")
    assert subject.columns["method"] == "torchvision"
    assert {assumed(subject)[key][1] for key in ("stem_stride", "padding", "pool")} == {"known of this layout"}
    assert {assumed(subject)[key][1] for key in ("mean", "std", "image_size")} == {rests_on}
    assert subject.prepare.normalise.mean == IMAGENET["mean"]
    assert subject.prepare.image == (3, 224, 224)


def test_a_layouts_images_are_not_those_of_a_file_that_names_others(tmp_path):
    named = written(tmp_path, "module.encoder_q.", 7, "module.encoder_q.fc.", args={"dataset": "cifar10"})
    subject = load(named, dataset="svhn")
    assert assumed(subject)["padding"] == ("3", "known of this layout")
    assert {assumed(subject)[key][1] for key in ("mean", "std", "image_size")} == {"guessed"}
    assert subject.prepare.normalise == DATASETS["cifar10"].normalise


@pytest.mark.parametrize(
    ("prefix", "head", "kernel", "mean", "std"),
    [
        ("backbone.", "backbone.fc.", 7, (0, 0, 0), (1, 1, 1)),  # SimCLR of sthalles: images in [0, 1]
        ("module.encoder_q.", "module.encoder_q.fc.", 7, IMAGENET["mean"], IMAGENET["std"]),
        ("module.", "module.projection_head.", 7, IMAGENET["mean"], (0.228, 0.224, 0.225)),  # SwAV
        ("backbone.backbone.", "projector.", 3, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),  # eb_jepa
    ],
)
def test_mean_and_deviation_of_known_layouts(tmp_path, prefix, head, kernel, mean, std):
    path = written(tmp_path, prefix, kernel, head)
    if "projection_head" in head:
        state = torch.load(path)
        torch.save({**state, "module.prototypes.weight": torch.ones(30, 6)}, path)
    if prefix == "backbone.":  # its second layer is numbered 2: there is no norm
        state = torch.load(path)["state_dict"]
        state = {k: v for k, v in state.items() if not k.startswith("backbone.fc.1.")}
        torch.save({"arch": "resnet18", "state_dict": {k.replace("fc.3.", "fc.2."): v for k, v in state.items()}}, path)
    subject = load(path)
    assert (subject.prepare.normalise.mean, subject.prepare.normalise.std) == (mean, std)
    assert assumed(subject)["std"][1] == "known of this layout"
    view = subject.prepare(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8))
    torch.testing.assert_close(view[0, :, 0, 0], (1 - torch.tensor(mean, dtype=torch.float32)) / torch.tensor(std))


def test_mean_and_deviation_can_be_told(tmp_path):
    subject = load(written(tmp_path), "mean=0.5", "std=0.1,0.2,0.3", image_size=40)
    assert (subject.prepare.normalise.mean, subject.prepare.normalise.std) == ((0.5,) * 3, (0.1, 0.2, 0.3))
    assert assumed(subject)["mean"] == ("0.5", "given by you")
    assert assumed(subject)["image_size"] == ("40", "given by you")


def test_what_is_assumed_is_part_of_the_digest_and_of_the_report(tmp_path):
    path = written(tmp_path)
    plain, told, same = load(path), load(path, "padding=2"), load(path)
    assert plain.digest == same.digest != told.digest
    assert "given by you: padding=2" in told.report
    guess = next(line for line in plain.report if line.startswith("guessed: "))
    assert "stem_stride=1, padding=1, pool=false, activation=relu, image_size=32, mean=" in guess
    known = next(line for line in load(solo_learn(tmp_path, "cifar10")).report if line.startswith("as solo-learn has it: "))
    assert "padding=2" in known


def test_an_untrained_twin_is_assumed_alike_and_its_digest_tells_it_apart(tmp_path):
    from sparsehead_cli.data.datasets import load_split

    path = written(tmp_path)
    images = load_split("fashion1k", "train", None)
    twins = [untrained(load(path, *assume, dataset="fashion1k"), images) for assume in ((), ("padding=2",))]
    assert twins[0].digest != twins[1].digest
    assert twins[1].network.backbone.conv1.padding == (2, 2)


def test_facts_without_a_place_are_refused(tmp_path, run_folder):
    with pytest.raises(SparseheadError, match=r"c.pt: --assume heads=12 says nothing about this network; .*mean, std"):
        load(written(tmp_path), "heads=12")
    with pytest.raises(SparseheadError, match="is a checkpoint of ours"):
        load(run_folder, "padding=2")


# ---------------------------------------------------------------------------------------------- rows and the terminal


def rows_of(file):
    return list(csv.DictReader(file.open()))


def test_evaluate_lists_what_is_assumed_and_keeps_rows_apart(tmp_path, sparsehead):
    path = written(tmp_path)
    code, out, _ = sparsehead("evaluate", path, "--protocol", "knn", "--dataset", "fashion1k")
    assert code == 0
    assert " guessed: stem_stride=1, padding=1, pool=false, activation=relu, image_size=28, mean=" in out
    assert " guessed stem_stride=1, padding=1, " in out
    assert "if wrong, so are these numbers; --assume KEY=VALUE" in out
    rows = rows_of(path.parent / "evaluations.csv")
    assert all("padding=1 (guessed); pool=false (guessed)" in row["assumed"] for row in rows)
    code, out, _ = sparsehead("evaluate", path, "--protocol", "knn", "--dataset", "fashion1k", "--assume", "padding=2")
    assert code == 0
    assert "given by you: padding=2" in out
    assert "measured before" not in out
    both = rows_of(path.parent / "evaluations.csv")
    assert len(both) == 2 * len(rows)
    assert {"padding=2 (given by you)" in row["assumed"] for row in both} == {True, False}
    code, out, _ = sparsehead("evaluate", path, "--protocol", "knn", "--dataset", "fashion1k", "--assume", "padding=2")
    assert "measured before" in out


def test_spectrum_marks_a_verdict_that_rests_on_guesses(tmp_path, sparsehead, monkeypatch):
    for name, value in {"VIEWED": 40, "VIEWS": 4, "BATCHES": 3, "BATCH_SIZE": 32, "RESPONSE_IMAGES": 50}.items():
        monkeypatch.setattr(spectrum, name, value)
    path = written(tmp_path)
    options = ("--dataset", "fashion1k", "--out", tmp_path / "spectra")
    code, out, _ = sparsehead("spectrum", path, *options)
    assert code == 0
    assert re.search(r": (healthy|\w+ collapse) \*\. ", out)
    assert "* c: guessed stem_stride=1, padding=1, " in out
    rows = rows_of(tmp_path / "spectra" / "spectrum_metrics.csv")
    assert all("padding=1 (guessed)" in row["assumed"] for row in rows)
    everything = ("stem_stride=1", "padding=1", "pool=false", "activation=relu", "mean=0.5", "std=0.5")
    told = [part for text in everything for part in ("--assume", text)]
    code, out, _ = sparsehead("spectrum", path, *options, *told, "--image-size", 28)
    assert code == 0
    assert " *. " not in out
    assert "guessed" not in out


def test_a_wrong_assumption_is_one_line(tmp_path, sparsehead):
    code, out, err = sparsehead("evaluate", written(tmp_path), "--dataset", "fashion1k", "--assume", "paddin=2")
    assert (code, out) == (1, "")
    assert err.startswith('Error: unknown fact for --assume "paddin"; known: ')
    assert err.endswith('Did you mean "padding"?\n')


def test_accuracy_on_one_class_means_nothing(tmp_path, photographs):
    one = tmp_path / "one"
    for part in ("train", "test"):
        (one / part).mkdir(parents=True)
        (one / part / "cat").symlink_to(photographs / part / "cat")
    with pytest.raises(SparseheadError, match=r"has one class, cat, .* accuracy is not defined. .*sparsehead spectrum"):
        evaluate(EvaluateRequest(checkpoint=written(tmp_path), protocols=("knn",), dataset=str(one)))
