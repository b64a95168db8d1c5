import pytest
import torch

from sparsehead_cli.data.augment import RECIPES, Augmentation
from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.data.memory import Memory
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.load import load_subject
from sparsehead_cli.evaluation.sgd import (
    LRS,
    Classifier,
    Schedule,
    best_head,
    discriminative_groups,
    finetune,
    stages_of,
    supervise,
    trained_heads,
)
from sparsehead_cli.evaluation.subject import LoadOptions, pixels
from sparsehead_cli.evaluation.task import Labelled, Settings, Task
from sparsehead_cli.foreign.timm_models import TimmBackbone
from sparsehead_cli.measure.features import extract
from sparsehead_cli.measure.linear import linear_probe
from sparsehead_cli.nets.backbones import make_backbone
from sparsehead_cli.nets.optim import parameter_groups
from sparsehead_cli.ssl.contract import Method


@pytest.fixture
def subject(run_folder):
    return load_subject(run_folder, LoadOptions(device="cpu"))


class Recorder(Method):
    """Learns nothing, and remembers what it was shown and at which learning rate."""

    def __init__(self):
        super().__init__(torch.nn.Identity(), torch.nn.Identity())
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.optimizer = torch.optim.SGD(parameter_groups(self, 0.0), lr=2.0)
        self.views, self.labels, self.rates = [], [], []

    def forward(self, views, batch):
        (view,) = views
        self.views.append(view.inputs)
        self.labels += batch.labels.tolist()
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        return self.weight.square(), {}


def task_of(subject, train, test=None, **more):
    data = Labelled("fashion1k", tuple("0123456789"), train, test, ("", ""))
    return Task("finetune", subject, data, Settings(), lambda: pytest.fail("extracted"), **more)


def recorded(subject, train, schedule, **more):
    method = Recorder()
    supervise(task_of(subject, train, **more), method, method.optimizer, train, schedule, must_be_finite=True)
    return method


def test_an_epoch_sees_every_image_once_in_another_order_each_time(subject):
    images = torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).expand(60, 1, 28, 28).contiguous()
    steps = []
    seen = recorded(subject, Memory(images, torch.arange(60)), Schedule(2, 20, 2.0), watch=lambda *step: steps.append(step))
    assert {tuple(view.shape) for view in seen.views} == {(20, 1, 28, 28)}
    assert sorted(seen.labels[:60]) == sorted(seen.labels[60:]) == list(range(60))
    assert seen.labels[:60] != seen.labels[60:]
    assert seen.rates[0] == 2
    assert seen.rates == sorted(seen.rates, reverse=True)
    assert seen.rates[-1] < 0.2
    assert steps == [(i + 1, 6) for i in range(6)]


def test_views_are_a_function_of_the_seed(subject):
    train = load_split("fashion1k", "train", None).take(torch.arange(40))
    a, b, c = (recorded(subject, train, Schedule(1, 20, recipe="gentle-crop"), seed=seed).views for seed in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[0], c[0])


def test_other_channels_are_what_the_network_expects(subject):
    colour = torch.randint(0, 256, (20, 3, 28, 28), dtype=torch.uint8)
    assert {tuple(view.shape) for view in recorded(subject, Memory(colour, torch.zeros(20)), Schedule(1, 10)).views} == {
        (10, 1, 28, 28)
    }


def test_the_head_is_on_r_or_on_z(subject):
    x = subject.prepare(load_split("fashion1k", "test", None).inputs[:8])
    features = subject.network(x)
    for name in ("r", "z"):
        model = Classifier(subject.network, name, features[name].shape[1], 10).eval()
        assert torch.equal(model.logits(x), torch.zeros(8, 10))  # nothing is known before the first step
        torch.nn.init.ones_(model.head[1].weight)
        expected = model.head(features[name])
        torch.testing.assert_close(model.logits(x), expected, atol=1e-5, rtol=1e-4)


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


def rates_of(backbone):
    """The peak learning rate of each parameter of a backbone, by name; every one has one."""
    encoder = torch.nn.ModuleDict({"backbone": backbone, "projector": torch.nn.Identity()})
    model = Classifier(encoder, "r", 8, 10)
    rates = {id(p): group["peak"] for group in discriminative_groups(model, 1.0) for p in group["params"]}
    return {name: rates[id(p)] for name, p in model.backbone.named_parameters()}


def test_every_backbone_falls_off_by_stage():
    """Our ResNet-18 and timm's have the same seven rates, the head's among them; transformers one a block."""
    pytest.importorskip("timm")
    ours = rates_of(make_backbone("resnet18", channels=3, image_size=32))
    theirs = rates_of(TimmBackbone("resnet18"))
    assert {f"net.{name}": rate for name, rate in ours.items()} == theirs
    assert sorted(set(ours.values())) == pytest.approx([0.7**depth for depth in range(6, 0, -1)])
    vit = rates_of(TimmBackbone("vit_tiny_patch16_224"))
    assert vit["net.blocks.11.attn.qkv.weight"] == pytest.approx(0.7)
    assert vit["net.blocks.0.attn.qkv.weight"] == pytest.approx(0.7**12)
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight"):
        assert vit[f"net.{name}"] == pytest.approx(0.7**13)
    for name, least in (("convnext_atto", 5), ("efficientnet_b0", 7), ("pit_ti_224", 3)):
        assert len(set(rates_of(TimmBackbone(name)).values())) >= least


def test_stages_of_a_network_that_nobody_named():
    """What only wraps is opened, and parameters beside the parts are trained, too, with the first of them."""
    inner = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    wrapped = torch.nn.Sequential(torch.nn.Sequential(inner))
    assert [[tuple(p.shape) for p in stage] for stage in stages_of(wrapped)] == [[(4, 4), (4,)], [(2, 4), (2,)]]
    inner.token = torch.nn.Parameter(torch.zeros(1, 1, 4))
    inner[2].weight = inner[0].weight = torch.nn.Parameter(torch.zeros(4, 4))
    assert [len(stage) for stage in stages_of(wrapped)] == [3, 1]  # a shared weight once
    assert stages_of(torch.nn.Linear(4, 2).requires_grad_(False)) == []


@pytest.fixture
def unaugmented(monkeypatch):
    """Views that are the images themselves: what can be learned is then learned in few epochs."""
    as_it_is = Augmentation(area=(1, 1), ratio=(1, 1), brightness=0, contrast=0, saturation=0, hue=0, flip_p=0)
    monkeypatch.setitem(RECIPES, "gentle-crop", (as_it_is,))
    monkeypatch.setitem(RECIPES, "shift", (as_it_is,))


def test_finetuning_learns_and_leaves_the_network_alone(subject, unaugmented):
    train, test = (load_split("fashion1k", part, None) for part in ("train", "test"))
    before = {k: v.clone() for k, v in subject.network.state_dict().items()}
    found = finetune(task_of(subject, train, test), train, "r", 8, Schedule(12, 50, 0.1, "gentle-crop"))
    assert (found["logits"].argmax(dim=1) == found.labels).double().mean() > 0.55
    assert all(torch.equal(before[k], v) for k, v in subject.network.state_dict().items())


@pytest.mark.slow
def test_linear_sgd_without_augmentation_comes_near_logistic_regression(subject, unaugmented):
    subject = pixels(subject, 1)
    train, test = (load_split("fashion1k", part, None) for part in ("train+val", "test"))
    features, queries = (extract(subject.network, part, subject.prepare) for part in (train, test))
    heads = trained_heads(task_of(subject, train), train, {"pixels": 784}, Schedule(20, 50))
    predicted, chosen = best_head(list(heads["pixels"]), features["pixels"], features.labels, queries["pixels"])
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
    with pytest.raises(SparseheadError, match="diverged at learning rate 1e\\+30.*finetune_lr"):
        finetune(task_of(subject, train, train), train, "r", 8, Schedule(1, 100, 1e30, "gentle-crop"))
