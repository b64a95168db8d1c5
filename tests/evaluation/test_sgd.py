import pytest
import torch

from sparsehead_cli.data.augment import RECIPES, View
from sparsehead_cli.data.datasets import Split, load_split
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.sgd import LRS, Classifier, Schedule, discriminative_groups, finetune, linear_sgd, training_batches
from sparsehead_cli.evaluation.subject import load_subject, pixels
from sparsehead_cli.measure.features import extract
from sparsehead_cli.measure.linear import linear_probe

QUIET = lambda step, total: None  # noqa: E731


@pytest.fixture
def subject(run_folder):
    return load_subject(run_folder, torch.device("cpu"), run_folder)


def test_an_epoch_sees_every_image_once_in_another_order_each_time(subject):
    images = torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).expand(60, 1, 28, 28).contiguous()
    train = Split(images, torch.arange(60))
    seen, rates, steps = [], [], []
    for view, labels, rate in training_batches(
        subject, train, "shift", Schedule(2, 20), 0, lambda step, total: steps.append((step, total))
    ):
        assert view.shape == (20, 1, 28, 28)
        seen += labels.tolist()
        rates.append(rate)
    assert sorted(seen[:60]) == sorted(seen[60:]) == list(range(60))
    assert seen[:60] != seen[60:]
    assert rates[0] == 1
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1
    assert steps == [(i + 1, 6) for i in range(6)]


def test_views_are_a_function_of_the_seed(subject):
    train = load_split("fashion1k", "train", None).take(torch.arange(40))
    a, b, c = (list(training_batches(subject, train, "gentle-crop", Schedule(1, 20), seed, QUIET)) for seed in (0, 0, 1))
    assert all(torch.equal(x[0], y[0]) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[0][0], c[0][0])


def test_the_head_is_on_r_or_on_z(subject):
    x = subject.prepare(load_split("fashion1k", "test", None).images[:8])
    features = subject.network(x)
    for name in ("r", "z"):
        model = Classifier(subject.network, name, features[name].shape[1], 10).eval()
        assert torch.equal(model(x)["logits"], torch.zeros(8, 10))  # nothing is known before the first step
        torch.nn.init.ones_(model.head[1].weight)
        expected = model.head(features[name])
        torch.testing.assert_close(model(x)["logits"], expected, atol=1e-5, rtol=1e-4)


def test_lower_parts_learn_more_slowly(subject):
    model = Classifier(subject.network, "z", 8, 10)
    groups = discriminative_groups(model, 1.0)
    rate = {id(p): group["peak"] for group in groups for p in group["params"]}
    assert len(rate) == len(list(model.parameters()))  # each once
    ladder = [model.head, model.projector, model.backbone.layer4, model.backbone.layer1, model.backbone.conv1]
    found = [{rate[id(p)] for p in part.parameters()} for part in ladder]
    assert all(len(rates) == 1 for rates in found)
    values = [rates.pop() for rates in found]
    assert values[0] == values[1] == 1
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.3


@pytest.fixture
def unaugmented(monkeypatch):
    """Views that are the images themselves: what can be learned is then learned in few epochs."""
    as_it_is = View(area=(1, 1), ratio=(1, 1), brightness=0, contrast=0, saturation=0, hue=0, flip_p=0)
    monkeypatch.setitem(RECIPES, "gentle-crop", (as_it_is,))
    monkeypatch.setitem(RECIPES, "shift", (as_it_is,))


def test_finetuning_learns_and_leaves_the_network_alone(subject, unaugmented):
    train, test = (load_split("fashion1k", part, None) for part in ("train", "test"))
    before = {k: v.clone() for k, v in subject.network.state_dict().items()}
    settings = {"features": "r", "width": 8, "classes": 10, "seed": 0, "watch": QUIET}
    found = finetune(subject, train, test, schedule=Schedule(12, 50, 0.1), **settings)
    assert (found["logits"].argmax(dim=1) == found.labels).double().mean() > 0.55
    assert all(torch.equal(before[k], v) for k, v in subject.network.state_dict().items())


def test_linear_sgd_without_augmentation_comes_near_logistic_regression(subject, unaugmented):
    subject = pixels(subject, 1)
    train, test = (load_split("fashion1k", part, None) for part in ("train+val", "test"))
    features, queries = (extract(subject.network, part, subject.prepare) for part in (train, test))
    found = linear_sgd(subject, train, features, queries, classes=10, schedule=Schedule(20, 50), seed=0, watch=QUIET)
    predicted, chosen = found["pixels"]
    known = (features["pixels"], features.labels)
    accuracies = [
        float((p == queries.labels).double().mean()) for p in (predicted, linear_probe(known, known, queries["pixels"], 10)[0])
    ]
    assert min(accuracies) > 0.7
    assert abs(accuracies[0] - accuracies[1]) < 0.05
    assert chosen["eval_lr"] in LRS
    assert chosen["val_accuracy"] > 0.8  # of images that it was trained on here


def test_a_learning_rate_that_diverges_is_said(subject):
    train = load_split("fashion1k", "train", None)
    settings = {"features": "r", "width": 8, "classes": 10, "seed": 0, "watch": QUIET}
    with pytest.raises(SparseheadError, match="diverged at learning rate 1e\\+30.*finetune_lr"):
        finetune(subject, train, train, schedule=Schedule(1, 100, 1e30), **settings)
