import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation import evaluate as module
from sparsehead_cli.evaluation.evaluate import Evaluation, evaluate, read_settings, require_labels
from sparsehead_cli.evaluation.plan import EvaluateRequest, Job, plan
from sparsehead_cli.evaluation.protocols import PROTOCOLS
from sparsehead_cli.evaluation.subject import LoadOptions, digest_of
from sparsehead_cli.evaluation.task import Settings, few_labels
from sparsehead_cli.runs.checkpoint import load_checkpoint, save_checkpoint
from sparsehead_cli.runs.table_files import read_csv
from tests.damage import every_nth
from tests.operations import Operations
from tests.torture.damage import dangle, vanish

SHORT = Settings(sgd_epochs=2, finetune_epochs=1, semi_seeds=2, semi_epochs=(2, 1))


def without_time(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "run", "experiment")} for row in rows]


def ask(folder, *protocols, **changes):
    options = LoadOptions(**{key: changes.pop(key) for key in ("workers", "skip_bad_images", "plugins") if key in changes})
    given = {"protocols": protocols or ("linear", "knn"), "options": options, "settings": SHORT, **changes}
    return EvaluateRequest(checkpoint=folder / "checkpoint.pt", **given)


def test_the_default_evaluation_is_one_tidy_table(run_folder):
    rows, classes = evaluate(ask(run_folder))
    assert classes == []
    assert rows == read_csv(run_folder / "evaluations.csv")
    assert [row["features"] for row in rows if row["protocol"] == "linear"] == ["r", "z"]
    assert len(rows) == 2 + 2 * 2 * 4 * 2  # linear; kNN of r and z, two distances, four k, two votes
    for row in rows:
        assert float(row["low"]) < float(row["value"]) < float(row["high"])
        assert (row["n_train"], row["n_test"], row["eval_dataset"], row["model"]) == ("1010", "1010", "fashion1k", "checkpoint")
        assert (row["run"], row["experiment"], row["lam"]) == (run_folder.name, "quickstart", "0.001")
    assert float(rows[0]["value"]) > 0.35  # eight features for ten classes, after two epochs on 900 images
    assert rows[0]["l2"]
    assert rows[0]["n_val"] == "96"


def test_what_is_there_is_not_measured_again(run_folder, monkeypatch):
    first = evaluate(ask(run_folder))

    def never(*arguments):
        raise AssertionError("measured again")

    monkeypatch.setitem(PROTOCOLS, "knn", never)
    monkeypatch.setitem(PROTOCOLS, "linear", never)
    assert evaluate(ask(run_folder)) == first
    with pytest.raises(AssertionError, match="measured again"):
        evaluate(ask(run_folder, per_class=True))  # the classes are not there yet
    assert read_csv(run_folder / "evaluations.csv") == first[0]


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("name", ["evaluations.csv", "per_class.csv"])
@pytest.mark.parametrize("lose", [vanish, dangle])
def test_a_table_that_is_lost_is_measured_anew(run_folder, name, lose):
    first = [without_time(rows) for rows in evaluate(ask(run_folder, per_class=True))]
    lose(run_folder / name)
    assert [without_time(rows) for rows in evaluate(ask(run_folder, per_class=True))] == first
    assert read_csv(run_folder / name)


def test_features_are_extracted_once_and_kept(run_folder, monkeypatch):
    evaluate(ask(run_folder, "knn"))
    assert len(list((run_folder / "features").glob("*.pt"))) == 2  # training and test images

    def never(*arguments):
        raise AssertionError("extracted again")

    monkeypatch.setattr(module, "extract", never)
    evaluate(ask(run_folder, "linear", "semi"))


def test_damaged_features_are_said_and_change_no_number(run_folder):
    told = []
    first = [row["value"] for row in evaluate(ask(run_folder, "knn"), on_line=told.append)[0]]
    assert told == []
    for path in (run_folder / "features").glob("*.pt"):
        path.write_bytes(every_nth(path.read_bytes(), 97))
    (run_folder / "evaluations.csv").unlink()
    assert [row["value"] for row in evaluate(ask(run_folder, "knn"), on_line=told.append)[0]] == first
    assert len(told) == 2
    assert all("are damaged" in line and "made anew" in line for line in told)


def test_an_error_leaves_what_was_finished(run_folder, monkeypatch):
    def broken(task):
        raise SparseheadError("no")

    with monkeypatch.context() as patched, pytest.raises(SparseheadError, match="no"):
        patched.setitem(PROTOCOLS, "knn", broken)
        evaluate(ask(run_folder))
    assert {row["protocol"] for row in read_csv(run_folder / "evaluations.csv")} == {"linear"}
    assert {row["protocol"] for row in evaluate(ask(run_folder))[0]} == {"linear", "knn"}


EVERYTHING = ("linear", "knn", "linear-sgd", "finetune", "semi")


@pytest.fixture(scope="module")
def everything(trained, tmp_path_factory):
    """All rows of all protocols, with base lines and classes."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("everything") / trained.name)
    return evaluate(ask(folder, *EVERYTHING, baselines=True, per_class=True))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(everything, run_folder):
    rows, classes = everything
    again, classes_again = evaluate(ask(run_folder, *EVERYTHING, baselines=True, per_class=True))
    assert without_time(rows) == without_time(again)
    assert without_time(classes) == without_time(classes_again)


def test_every_protocol_answers_for_r_and_z_and_for_the_base_lines(everything):
    rows, _ = everything
    found = {(row["protocol"], row["model"], row["features"]) for row in rows}
    protocols = ("linear", "knn", "linear-sgd", "finetune", "semi-linear", "semi-finetune")
    expected = {(p, m, f) for p in protocols for m in ("checkpoint", "untrained") for f in ("r", "z")}
    assert found == expected | {(p, "pixels", "pixels") for p in protocols if "finetune" not in p}


def test_rows_say_what_was_chosen(everything):
    rows, _ = everything
    chosen = {
        "linear": ("l2", "val_accuracy", "n_val"),
        "knn": ("k", "distance", "vote"),
        "linear-sgd": ("eval_lr", "eval_epochs", "eval_batch_size", "val_accuracy", "n_val", "eval_seed"),
        "finetune": ("eval_lr", "eval_epochs", "eval_batch_size"),
        "semi-linear": ("l2", "label_share", "eval_seed"),
        "semi-finetune": ("eval_lr", "eval_epochs", "eval_batch_size", "label_share", "eval_seed"),
    }
    for row in rows:
        assert all(row[column] for column in chosen[row["protocol"]]), row
        assert row["n_train"]
        assert row["skipped_images"] == "0"


def test_few_labels_are_balanced_and_at_least_one_a_class(everything):
    rows, _ = everything
    sizes = {(row["label_share"], row["n_train"]) for row in rows if row["protocol"].startswith("semi")}
    assert sizes == {("0.01", "10"), ("0.1", "100")}  # of 1,010 images in ten classes
    by_seed = [row for row in rows if (row["protocol"], row["model"], row["features"]) == ("semi-linear", "checkpoint", "r")]
    assert {row["eval_seed"] for row in by_seed} == {"0", "1"}
    assert len({row["value"] for row in by_seed}) > 2  # other labels, other numbers


def test_few_labels_are_the_first_of_each_class_as_they_are_drawn():
    labels = torch.arange(-50, 450) % 7 - (torch.arange(500) < 50).long() * 10  # some have no label
    drawn = torch.randperm(500, generator=torch.Generator().manual_seed(3)).tolist()
    first = {i for c in range(7) for i in [i for i in drawn if labels[i] == c][:7]}
    assert few_labels(labels, 7, 0.1, 3).tolist() == sorted(first)


def test_few_labels_of_many_classes_look_at_the_images_no_more_often():
    calls = []
    for classes in (2, 200):
        with Operations() as operations:
            few_labels(torch.arange(400) % classes, classes, 0.1, 0)
        calls.append(operations.called)
    assert calls[0] == calls[1]


def test_more_labels_and_training_are_worth_something(everything):
    rows, _ = everything

    def accuracy(protocol, model="checkpoint", share=""):
        values = [
            float(row["value"])
            for row in rows
            if (row["protocol"], row["model"], row["features"], row["label_share"]) == (protocol, model, "r", share)
        ]
        return sum(values) / len(values)

    assert accuracy("linear") > accuracy("semi-linear", share="0.1") > accuracy("semi-linear", share="0.01") > 0.15
    assert accuracy("linear") > accuracy("linear", "untrained") > 0.2


def test_classes_add_up(everything):
    rows, classes = everything
    for row in rows[:40]:
        key = ("task", "features", "k", "distance", "vote")
        own = [c for c in classes if all(c[k] == row[k] for k in key)]
        assert len(own) == 10
        right = sum(round(float(c["value"]) * int(c["n_test"])) for c in own)
        assert right == round(float(row["value"]) * int(row["n_test"]))


def test_the_network_stays_bit_for_bit_what_it_was(run_folder):
    before = (run_folder / "checkpoint.pt").read_bytes()
    evaluation = Evaluation(ask(run_folder, *EVERYTHING))
    state = {k: v.clone() for k, v in evaluation.subject.network.state_dict().items()}
    for protocol in [name for name in PROTOCOLS if name not in ("factors", "sts")]:  # of other data: tests of their own
        evaluation.run(Job(protocol, "fashion1k", "checkpoint", share=0.1), lambda step, total, loss=0.0: None)
        after = evaluation.subject.network.state_dict()
        assert all(torch.equal(state[k], after[k]) for k in state), protocol
        assert not evaluation.subject.network.training
    trained = load_checkpoint(run_folder / "checkpoint.pt")["method"]
    assert all(torch.equal(state[k], trained[k]) for k in state)
    assert (run_folder / "checkpoint.pt").read_bytes() == before


def test_untrained_is_another_network_with_statistics_of_its_images(run_folder):
    evaluation = Evaluation(ask(run_folder))
    twin = evaluation.untrained
    assert twin.digest == digest_of(twin.network, twin.prepare) != evaluation.subject.digest
    images = load_split("fashion1k", "train", run_folder)
    first = twin.network.backbone.conv1(twin.prepare(images.inputs))
    torch.testing.assert_close(twin.network.backbone.bn1.running_mean, first.mean(dim=(0, 2, 3)), atol=3e-3, rtol=0)
    assert Evaluation(ask(run_folder)).untrained.digest == twin.digest


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_transfer_to_colour_images_of_another_size(run_folder, photographs, protocol, monkeypatch):
    """From 28 x 28 grey to 48 x 40 colour, from ten classes to three."""
    request = ask(run_folder, "transfer", transfer_to=(str(photographs),), workers=0)
    rows, _ = evaluate(request)
    assert {row["protocol"] for row in rows} == {"linear", "knn", "finetune"}
    row = next(row for row in rows if row["protocol"] == protocol)
    assert (row["eval_dataset"], row["n_train"], row["n_test"], row["dataset"]) == (str(photographs), "60", "15", "fashion1k")
    assert max(int(row["k"] or 0) for row in rows) == 20  # a bank of 60 has no 200 neighbours
    assert float(row["low"]) <= float(row["value"]) <= float(row["high"])


def test_a_plan_keeps_what_belongs_together_together():
    jobs = plan(
        ask(run_folder_name := __import__("pathlib").Path("x"), "linear", "transfer", transfer_to=("a", "b"), baselines=True),
        "own",
        ("untrained", "pixels"),
    )
    assert run_folder_name
    order = [(job.dataset, job.model) for job in jobs]
    assert order == sorted(order, key=order.index)
    assert [job.protocol for job in jobs if job.dataset == "own"] == ["linear"] * 3
    assert all(job.model != "pixels" for job in jobs if job.protocol == "finetune")
    again = plan(ask(Path("run"), "linear", "transfer", transfer_to=("own",)), "own")
    assert [job.protocol for job in again] == ["linear", "knn", "finetune"]  # nothing twice


# ---------------------------------------------------------------------------------------------- what users get wrong


def test_weights_of_another_architecture_are_refused(run_folder):
    path = run_folder / "checkpoint.pt"
    state = load_checkpoint(path)
    state["identity"]["widths"] = [16, 16, 16, 16]
    save_checkpoint(path, {k: v for k, v in state.items() if k != "format"})
    with pytest.raises(SparseheadError, match=r"weights in .*checkpoint.pt are of another architecture .*must be float32 \[16, 1"):
        evaluate(ask(run_folder))
    assert not (run_folder / "evaluations.csv").exists()


def test_settings_of_a_later_version_are_refused(run_folder):
    path = run_folder / "checkpoint.pt"
    state = load_checkpoint(path)
    state["identity"]["warp"] = 9
    save_checkpoint(path, {k: v for k, v in state.items() if k != "format"})
    with pytest.raises(SparseheadError, match="does not know: warp. Upgrade"):
        evaluate(ask(run_folder))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocols": ("linear", "kmn")}, 'unknown protocol "kmn"; .*Did you mean "knn"'),
        ({"protocols": ("transfer",)}, "needs labelled data sets .*--transfer-to"),
        ({"transfer_to": ("mnist",)}, "read by the protocol transfer only"),
        ({"transfer_to": ("fashion10k", "cifar11"), "protocols": ("linear", "transfer")}, 'unknown dataset "cifar11"'),
        ({"dataset": "cifar11"}, 'unknown dataset "cifar11".*Did you mean "cifar10"'),
    ],
)
def test_requests_that_cannot_be_met(run_folder, changes, words):
    with pytest.raises(SparseheadError, match=words):
        evaluate(dataclasses.replace(ask(run_folder), **changes))
    assert not (run_folder / "evaluations.csv").exists()


def test_settings_are_checked_all_at_once():
    wrong = {"sgd_epoch": 3, "finetune_epochs": "many", "semi_seeds": 0, "finetune_lr": -1.0, "detection.lrr": 1}
    with pytest.raises(SparseheadError) as found:
        read_settings(wrong)
    for words in (
        'Did you mean "sgd_epochs"',
        "finetune_epochs must be a whole number",
        "semi_seeds must be between 1 and 1000, given 0",
    ):
        assert words in str(found.value)
    for words in ("finetune_lr must be above 0", 'Did you mean "detection.lr"'):
        assert words in str(found.value)
    settings, detection = read_settings({"semi_epochs": "3,4", "detection.epochs": 2})
    assert (settings.semi_epochs, detection.epochs) == ((3, 4), 2)


@pytest.fixture
def on_photographs(run_folder, damageable):
    return lambda **changes: evaluate(ask(run_folder, dataset=str(damageable), workers=0, **changes))


def test_three_classes_and_one_of_them_not_in_the_test_images(on_photographs, damageable):
    for path in (damageable / "test" / "cat").iterdir():
        path.unlink()
    (damageable / "test" / "cat").rmdir()
    rows, classes = on_photographs(per_class=True)
    assert rows[0]["n_test"] == "10"
    cat = [row for row in classes if row["class"] == "cat"]
    assert {(row["n_test"], row["value"]) for row in cat} == {("0", "")}
    dog = next(row for row in classes if row["class"] == "dog")
    assert dog["n_test"] == "5"


def test_a_corrupt_image_is_named_or_left_out_and_counted(on_photographs, damageable):
    bad = damageable / "train" / "cat" / "010.jpg"
    bad.write_bytes(bad.read_bytes()[:50])
    with pytest.raises(SparseheadError, match=r"train/cat/010\.jpg.*--skip-bad-images"):
        on_photographs()
    rows, _ = on_photographs(skip_bad_images=True)
    assert {(row["n_train"], row["skipped_images"]) for row in rows} == {("59", "1")}


@pytest.mark.parametrize("labels", [[-1, -1, -1], [0, 1, -1], [0, 1, 2]])
def test_images_without_a_label_of_a_class_are_refused(labels):
    wrong = sum(label not in (0, 1) for label in labels)
    with pytest.raises(SparseheadError, match=f"mine: {wrong} of its 3 test images have no label from 0 to 1"):
        require_labels("mine", "test", torch.tensor(labels), 2)
    require_labels("mine", "test", torch.tensor([0, 1]), 2)
