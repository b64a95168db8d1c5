import copy
import dataclasses
import importlib.util

import pytest
import torch

from sparsehead_cli.data.contract import Normalisation
from sparsehead_cli.data.detection import load_detection
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.detection import (
    DetectionSettings,
    average_precision,
    detect,
    levels_of,
    make_detector,
    mirror,
    rate_at,
    read_batches,
    shapes_of,
    to_device,
    train_detector,
    train_mode,
    training_batches,
)
from sparsehead_cli.nets.backbones import BasicBlock, ResNet, make_backbone
from tests.data.detection_sets import read_instances, voc_xml, write_coco, write_instances, write_voc

CPU = torch.device("cpu")
SMALL = DetectionSettings(epochs=12, batch_size=4, warmup=10, min_size=64, smallest=1.0, width=32, hidden=64, regions=32, workers=0)


def tiny_backbone(channels=3, seed=0):
    torch.manual_seed(seed)
    return make_backbone("narrow", channels=channels, image_size=32, widths=(8, 16, 32, 32))


def grey(channels=3):
    return Normalisation((0.5,) * channels, (0.25,) * channels)


@pytest.fixture
def voc(tmp_path):
    write_voc(tmp_path / "set", train=6, test=3, objects=(1, 2, 0))
    return load_detection(str(tmp_path / "set"), tmp_path)


@pytest.fixture
def coco(tmp_path):
    write_coco(tmp_path / "set", train=6, test=3, objects=(1, 2, 0))
    return load_detection(str(tmp_path / "set"), tmp_path)


# ---------------------------------------------------------------------------------------------- learning


@pytest.mark.slow
def test_a_detector_learns_and_the_backbone_stays_as_it_is(tmp_path):
    pytest.importorskip("torchmetrics")
    write_voc(tmp_path / "set", train=24, test=16)
    train, test = load_detection(str(tmp_path / "set"), tmp_path)
    backbone = tiny_backbone().requires_grad_(False)
    before, steps = copy.deepcopy(backbone.state_dict()), []
    untrained = detect(backbone, grey(), train, test, dataclasses.replace(SMALL, epochs=0), seed=0, device=CPU)
    learned = detect(backbone, grey(), train, test, SMALL, seed=0, device=CPU, watch=lambda *args: steps.append(args))
    assert untrained["map_50"] < 0.25  # measured: 0.005 … 0.1
    assert learned["map_50"] > 0.4  # measured over five seeds: 0.72 … 0.91
    assert learned["map_50"] >= learned["map"] >= 0
    assert (learned["n_train"], learned["n_test"]) == (24, 16)
    assert set(learned) == {"map", "map_50", "map_75", "n_train", "n_test"}
    assert [s[:2] for s in steps] == [(i + 1, 72) for i in range(72)]
    assert steps[-1][2] < steps[0][2]
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert backbone.training
    assert not any(p.requires_grad for p in backbone.parameters())


def test_masks_of_a_one_channel_backbone_and_the_same_seed_the_same_numbers(coco):
    pytest.importorskip("torchmetrics")
    settings = dataclasses.replace(SMALL, epochs=2, masks=True)
    runs = []
    for seed in (3, 3, 4):
        backbone, losses = tiny_backbone(1), []
        torch.manual_seed(len(runs))  # what the caller has drawn has no influence
        result = detect(
            backbone, grey(1), *coco, settings, seed=seed, device=CPU, watch=lambda step, total, loss, to=losses: to.append(loss)
        )
        runs.append((result, losses))
    assert runs[0] == runs[1]
    assert runs[0][1] != runs[2][1]
    assert {"map", "segm_map", "segm_map_50", "segm_map_75"} <= set(runs[0][0])
    assert all(0 <= value <= 1 for name, value in runs[0][0].items() if "map" in name)


def test_the_global_generator_stays_as_it_is(voc):
    pytest.importorskip("torchmetrics")
    backbone = tiny_backbone()
    state = torch.get_rng_state()
    detect(backbone, grey(), *voc, dataclasses.replace(SMALL, epochs=1), seed=0, device=CPU)
    assert torch.equal(state, torch.get_rng_state())


def test_statistics_stay_and_everything_else_learns(voc):
    backbone = tiny_backbone()
    detector = make_detector(backbone, grey(), 2, SMALL)
    train_mode(detector)
    statistics = {name: value.clone() for name, value in detector.named_buffers() if "running" in name}
    image, target = voc[0][1]
    sum(detector([image / 255], [target]).values()).backward()
    assert statistics
    assert all(torch.equal(value, statistics[name]) for name, value in detector.named_buffers() if "running" in name)
    without = {name for name, p in detector.named_parameters() if p.grad is None or not p.requires_grad}
    assert not without


# ---------------------------------------------------------------------------------------------- the detector


@pytest.mark.parametrize(("stem", "strides"), [("imagenet", [4, 8, 16, 32]), ("small", [1, 2, 4, 8]), ("strided", [2, 4, 8, 16])])
def test_anchors_and_image_size_follow_the_strides(stem, strides):
    backbone = ResNet(BasicBlock, (1, 1, 1, 1), (4, 8, 16, 32), stem, (3, 32, 32))
    assert shapes_of(backbone, levels_of(backbone)) == ([4, 8, 16, 32], strides)
    detector = make_detector(backbone, grey(), 2, dataclasses.replace(SMALL, min_size=None, smallest=0.6))
    assert detector.rpn.anchor_generator.sizes == tuple((8 * s,) for s in [*strides, 2 * strides[-1]])
    assert detector.transform.min_size == tuple(strides[-1] * cells for cells in range(15, 26))
    if stem == "imagenet":  # the published sizes
        assert detector.transform.min_size == tuple(range(480, 801, 32))
        assert detector.transform.max_size == 1333
    detector.eval()([torch.rand(3, 40, 60)])


def test_other_numbers_of_stages_and_bottlenecks_work():
    for name, blocks, widths in (("resnet18", (1, 1), (4, 8)), ("resnet50", (1, 1, 1), (4, 8, 16))):
        backbone = make_backbone(name, channels=3, image_size=32, blocks=blocks, widths=widths)
        assert shapes_of(backbone, levels_of(backbone))[0][-1] == backbone.dim
        make_detector(backbone, grey(), 2, SMALL).eval()([torch.rand(3, 64, 64)])


def test_the_rate_rises_and_falls_twice():
    settings = DetectionSettings(lr=1.0, warmup=4)
    rates = [rate_at(step, 24, settings) for step in range(24)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[5:18] == [1.0] * 13
    assert rates[18:] == pytest.approx([0.1] * 4 + [0.01] * 2)


def test_training_follows_the_rate(voc):
    def moved(warmup):
        torch.manual_seed(0)
        detector = make_detector(tiny_backbone(), grey(), 2, SMALL)
        before = [p.detach().clone() for p in detector.parameters()]
        settings = dataclasses.replace(SMALL, epochs=1, warmup=warmup)
        train_detector(detector, voc[0], settings, 0, CPU, lambda *args: None)
        return max((p - b).abs().max().item() for p, b in zip(detector.parameters(), before, strict=True))

    assert moved(warmup=0) > 1e-4
    assert moved(warmup=10**9) < 1e-7


# ---------------------------------------------------------------------------------------------- batches


def test_a_detector_reads_rgb_or_luma_between_0_and_1():
    image = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None].expand(3, 2, 5)
    assert to_device(image, {}, 3, CPU)[0].amax(dim=(1, 2)).tolist() == [1, 0, 0]
    one, _ = to_device(image, {}, 1, CPU)
    assert one.shape == (1, 2, 5)
    assert one.unique().tolist() == pytest.approx([0.299])


def test_batches_are_the_same_for_any_number_of_workers(voc):
    def numbers(workers):
        batches = training_batches(voc[0], dataclasses.replace(SMALL, epochs=2, workers=workers), seed=0)
        return [(image.sum().item(), image[:, :, 0].sum().item(), target["boxes"].tolist()) for b in batches for image, target in b]

    state = torch.get_rng_state()
    assert numbers(0) == numbers(2)
    assert torch.equal(state, torch.get_rng_state())
    assert len(numbers(0)) == 12


def test_an_image_damaged_since_is_named_from_a_worker_too(voc):
    path = voc[0].scenes[4].image
    path.write_bytes(b"damaged")
    with pytest.raises(SparseheadError) as raised:
        list(read_batches(voc[0], range(6), dataclasses.replace(SMALL, workers=1)))
    assert str(raised.value).startswith(f"{path} cannot be read as an image")


def test_crowds_and_difficult_objects_are_not_trained_on(tmp_path):
    for layout in ("voc", "coco"):
        folder = tmp_path / layout
        if layout == "voc":
            scenes = write_voc(folder, objects=(2,))
            (folder / "Annotations/000000.xml").write_text(voc_xml("000000.jpg", 64, scenes["000000"], difficult=1))
        else:
            write_coco(folder, objects=(2,))
            data = read_instances(folder, "train2017")
            for annotation in data["annotations"][:2]:
                annotation["iscrowd"] = 1
            write_instances(folder, "train2017", data)
        train, _ = load_detection(str(folder), tmp_path)
        batches = training_batches(train, dataclasses.replace(SMALL, epochs=1), seed=0)
        assert sorted(len(target["boxes"]) for batch in batches for _, target in batch) == [0, 2, 2, 2]


def test_mirroring_moves_boxes_and_masks_with_the_image():
    image = torch.zeros(3, 5, 10, dtype=torch.uint8)
    image[:, 1:3, 2:6] = 9
    target = {"boxes": torch.tensor([[2.0, 1, 6, 3]]), "masks": (image[:1] == 9).byte()}
    flipped, moved = mirror(image, target)
    assert moved["boxes"].tolist() == [[4, 1, 8, 3]]
    assert (flipped[0, 1:3, 4:8] == 9).all()
    assert torch.equal(moved["masks"][0] == 1, flipped[0] == 9)


# ---------------------------------------------------------------------------------------------- measuring


def perfect(target):
    found = {"boxes": target["boxes"], "labels": target["labels"], "scores": torch.ones(len(target["labels"]))}
    return found | ({"masks": target["masks"].bool()} if "masks" in target else {})


def nothing(target):
    found = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    return found | ({"masks": torch.zeros(0, *target["masks"].shape[1:]).bool()} if "masks" in target else {})


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(("predict", "value"), [(perfect, 1), (nothing, 0)])
def test_precision_is_1_for_all_and_0_for_nothing(coco, predict, value, masks):
    pytest.importorskip("torchmetrics")
    test = dataclasses.replace(coco[1], masks=masks)
    precision = average_precision([(predict(target), target) for _, target in test], masks=masks, ignoring=False)
    assert len(precision) == (6 if masks else 3)
    assert list(precision.values()) == pytest.approx([value] * len(precision))


def pair(found, there, ignore):
    """(box, label, score) … and (box, label) … as targets."""
    boxes, labels, scores = zip(*found, strict=True)
    true_boxes, true_labels = zip(*there, strict=True)
    zeros = torch.zeros(len(there), dtype=torch.int64)
    return (
        {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels), "scores": torch.tensor(scores)},
        {
            "boxes": torch.tensor(true_boxes).float(),
            "labels": torch.tensor(true_labels),
            "iscrowd": zeros,
            "ignore": torch.tensor(ignore),
        },
    )


def test_difficult_objects_are_neither_to_be_found_nor_wrong_when_found():
    pytest.importorskip("torchmetrics")
    easy, hard = [0, 0, 20, 20], [30, 30, 60, 60]
    precision = lambda found, ignore: average_precision([pair(found, [(easy, 1), (hard, 1)], ignore)], False, ignoring=True)  # noqa: E731
    first, second = (easy, 1, 0.5), (hard, 1, 0.9)
    assert precision([first], [0, 0])["map"] == pytest.approx(0.505, abs=0.01)  # missed
    assert precision([first], [0, 1])["map"] == pytest.approx(1)  # not to be found
    assert precision([first, second, second], [0, 1])["map"] == pytest.approx(1)  # found, and twice: not wrong
    assert precision([first, (hard, 2, 0.9)], [0, 1])["map"] == pytest.approx(1)  # a class without objects does not count
    other = [pair([first, ([80, 80, 99, 99], 2, 0.5), (hard, 2, 0.9)], [(easy, 1), (hard, 1), ([80, 80, 99, 99], 2)], [0, 1, 0])]
    assert average_precision(other, False, ignoring=True)["map"] == pytest.approx((1 + 0.5) / 2)  # another class: wrong
    inside = ([30, 30, 45, 45], 1, 0.9)  # in the difficult object, but a quarter of it: wrong
    assert precision([first, inside], [0, 1])["map"] == pytest.approx(0.5)
    half = ([30, 30, 60, 48], 1, 0.9)  # overlaps 0.6: ignored up to there, wrong above
    values = precision([first, half], [0, 1])
    assert (values["map_50"], values["map_75"]) == (pytest.approx(1), pytest.approx(0.5))
    assert values["map"] == pytest.approx((3 * 1 + 7 * 0.5) / 10)


def test_ignoring_changes_nothing_where_nothing_is_ignored():
    pytest.importorskip("torchmetrics")
    found = [([0, 0, 20, 17], 1, 0.5), ([31, 30, 60, 60], 1, 0.9), ([0, 0, 60, 60], 2, 0.4)]
    pairs = [pair(found, [([0, 0, 20, 20], 1), ([30, 30, 60, 60], 1), ([0, 0, 50, 60], 2)], [0, 0, 0])]
    whole, by_threshold = (average_precision(pairs, masks=False, ignoring=ignoring) for ignoring in (False, True))
    assert whole == pytest.approx(by_threshold)
    assert 0 < whole["map"] < 1


def test_crowds_are_neither_to_be_found_nor_wrong_when_found():
    pytest.importorskip("torchmetrics")
    found, there = pair(
        [([0, 0, 20, 20], 1, 0.5), ([40, 40, 50, 50], 1, 0.9)], [([0, 0, 20, 20], 1), ([30, 30, 60, 60], 1)], [0, 0]
    )
    there["iscrowd"] = torch.tensor([0, 1])
    assert average_precision([(found, there)], masks=False, ignoring=False)["map"] == pytest.approx(1)


# ---------------------------------------------------------------------------------------------- errors


def test_a_missing_extra_is_said_before_training(voc, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SparseheadError, match=r"pip install .sparsehead\[detection\]"):
        detect(tiny_backbone(), grey(), *voc, SMALL, seed=0, device=CPU, watch=pytest.fail)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": True}, "objects of the training set have no segmentations"),
        ({"width": 48}, "detection.width must be a multiple of 32.*given 48"),
        ({"batch_size": 0}, "detection.batch_size must be at least 1, given 0"),
        ({"lr": float("nan")}, "detection.lr must be finite, given nan"),
        ({"smallest": 1.5}, "detection.smallest must be above 0 and at most 1.*given 1.5"),
        ({"epochs": -1}, "detection.epochs must be at least 0, given -1"),
        ({"lr": 1e12}, r"no longer finite at step \d+. Lower lr"),
    ],
)
def test_settings_that_cannot_work_are_refused(voc, changes, message):
    pytest.importorskip("torchmetrics")
    with pytest.raises(SparseheadError, match=message):
        detect(tiny_backbone(), grey(), *voc, dataclasses.replace(SMALL, **changes), seed=0, device=CPU)


def test_sets_that_do_not_go_together_are_refused(voc, tmp_path):
    pytest.importorskip("torchmetrics")
    train, test = voc
    with pytest.raises(SparseheadError, match="different classes"):
        detect(tiny_backbone(), grey(), train, dataclasses.replace(test, classes=("a", "b")), SMALL, seed=0, device=CPU)
    write_voc(tmp_path / "empty", objects=(0,))
    with pytest.raises(SparseheadError, match="the training set .4 images. has no objects"):
        detect(tiny_backbone(), grey(), *load_detection(str(tmp_path / "empty"), tmp_path), SMALL, seed=0, device=CPU)
