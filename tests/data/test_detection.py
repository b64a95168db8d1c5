import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sparsehead_cli.data.detection import VOC_CLASSES, load_detection
from sparsehead_cli.errors import SparseheadError
from tests.data.detection_sets import COLOURS, read_instances, voc_xml, write_coco, write_instances, write_voc

OBJECT = "<object><name>{}</name><difficult>{}</difficult><bndbox>{}</bndbox></object>"
BOX = "<xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax>"


@pytest.fixture
def voc(tmp_path):
    write_voc(tmp_path / "VOC2007", objects=(1, 2, 0))
    return tmp_path / "VOC2007"


@pytest.fixture
def coco(tmp_path):
    write_coco(tmp_path / "coco", objects=(1, 2, 0))
    return tmp_path / "coco"


def annotate(voc, body, name="000000"):
    (voc / f"Annotations/{name}.xml").write_text(f"<annotation><filename>{name}.jpg</filename>{body}</annotation>")


def edit(coco, part, change):
    data = read_instances(coco, part)
    change(data)
    write_instances(coco, part, data)


def refused(name, data_dir="."):
    with pytest.raises(SparseheadError) as raised:
        train, test = load_detection(str(name), data_dir)
        list(train), list(test)
    return str(raised.value)


def holds_its_colour(image, box, colour):
    """Whether the pixels inside the edges are all of the colour, and those just outside are not (JPEG blurs a little)."""
    left, top, right, bottom = (int(edge) for edge in box)
    far = (image.float() - torch.tensor(colour)[:, None, None]).abs().amax(dim=0) > 60
    inside = far[top:bottom, left:right]
    around = far[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1].clone()
    return inside.float().mean() < 0.05 and around.sum() - inside.sum() > 0.5 * (around.numel() - inside.numel())


# ---------------------------------------------------------------------------------------------- PASCAL VOC


def test_voc_gives_images_boxes_and_the_published_classes(voc):
    train, test = load_detection("voc", voc.parent)
    assert (len(train), len(test)) == (4, 2)
    assert train.classes == test.classes == VOC_CLASSES
    assert len(VOC_CLASSES) == 20
    image, target = train[1]
    assert image.dtype == torch.uint8
    assert image.shape == (3, 64, 64)
    assert {name: (value.dtype, value.shape) for name, value in target.items()} == {
        "boxes": (torch.float32, (2, 4)),
        "labels": (torch.int64, (2,)),
        "iscrowd": (torch.int64, (2,)),
        "ignore": (torch.int64, (2,)),
    }
    assert not train.outlined


@pytest.mark.parametrize("layout", [write_voc, write_coco])
def test_boxes_are_the_pixels_of_the_object_and_labels_its_class(tmp_path, layout):
    layout(tmp_path / "set", train=8)
    train, _ = load_detection(str(tmp_path / "set"), tmp_path)
    assert train.classes == ("cat", "dog")
    for image, target in train:
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            assert holds_its_colour(image, box, COLOURS[train.classes[label - 1]])


def test_voc_counts_pixels_from_1_and_includes_the_last(voc):
    annotate(voc, OBJECT.format("cat", 0, "<xmin>3</xmin><ymin>5</ymin><xmax>3</xmax><ymax>8.5</ymax>"))
    box = load_detection(str(voc), voc)[0][0][1]["boxes"][0]
    assert box.tolist() == [2, 4, 3, 8.5]  # one pixel wide


def test_voc_reads_an_objects_own_box_not_its_parts(voc):
    parts = "<part><name>head</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></part>"
    annotate(voc, OBJECT.format("person", 0, BOX).replace("<difficult>", parts + "<difficult>"))
    _, target = load_detection("voc", voc.parent)[0][0]
    assert target["boxes"].tolist() == [[0, 1, 30, 40]]
    assert target["labels"].tolist() == [VOC_CLASSES.index("person") + 1]


def test_voc_marks_difficult_objects(voc):
    annotate(voc, OBJECT.format("cat", 1, BOX) + OBJECT.format("dog", 0, BOX))
    assert load_detection("voc", voc.parent)[0][0][1]["ignore"].tolist() == [1, 0]


@pytest.mark.parametrize("layout", [write_voc, write_coco])
def test_images_without_objects_are_kept(tmp_path, layout):
    layout(tmp_path / "set", objects=(1, 0))
    _, target = load_detection(str(tmp_path / "set"), tmp_path)[0][1]
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)


@pytest.mark.parametrize("place", ["VOCdevkit/VOC2007", "VOCdevkit/VOC2012", "VOC2007", "VOC2012", "."])
def test_voc_is_found_where_it_is_usually_unpacked(tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    write_voc(tmp_path / "made")
    if place == ".":
        assert len(load_detection("voc", tmp_path / "made")[0]) == 4
        return
    (tmp_path / "made").rename(tmp_path / place)
    for new, old in (("train", "trainval"), ("val", "test")):
        lists = tmp_path / place / "ImageSets/Main"
        shutil.copy(lists / f"{old}.txt", lists / f"{new}.txt")
    if place.endswith("2012"):
        lists.joinpath("test.txt").write_text("2012_000001\n")  # published without annotations
    train, test = load_detection("voc", tmp_path)
    assert (len(train), len(test), train.classes) == (4, 2, VOC_CLASSES)


def test_grey_and_png_images_have_three_channels(voc):
    Image.fromarray(np.full((20, 30), 7, dtype=np.uint8)).save(voc / "JPEGImages/grey.png")
    (voc / "Annotations/000000.xml").write_text(voc_xml("grey.png", 20, []))
    image, _ = load_detection("voc", voc.parent)[0][0]
    assert image.shape == (3, 20, 30)
    assert (image == 7).all()


def test_images_of_more_than_8_bits_are_rounded_to_8(voc):
    Image.fromarray(np.full((20, 30), 700, dtype=np.uint16)).save(voc / "JPEGImages/deep.png")
    (voc / "Annotations/000000.xml").write_text(voc_xml("deep.png", 20, []))
    image, _ = load_detection("voc", voc.parent)[0][0]
    assert image.unique().tolist() == [round(700 / 257)]
    assert image.shape == (3, 20, 30)


def test_boxes_count_in_the_pixels_as_they_are_stored(voc):
    """Their publishers' tools do not turn an image by its EXIF orientation either."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((20, 30), 7, dtype=np.uint8)).save(voc / "JPEGImages/lying.jpg", exif=exif)
    (voc / "Annotations/000000.xml").write_text(voc_xml("lying.jpg", 20, [("cat", 20, 5, 30, 15)]))
    image, target = load_detection("voc", voc.parent)[0][0]
    assert image.shape == (3, 20, 30)
    assert target["boxes"].tolist() == [[20, 5, 30, 15]]


def test_voc_that_is_not_there_says_where_to_get_it(tmp_path):
    message = refused("voc", tmp_path)
    assert f"voc is not in {tmp_path}" in message
    assert "VOCtrainval_06-Nov-2007.tar" in message
    assert f"tar -xf FILE -C {tmp_path}" in message


def test_voc0712_trains_on_both_years_and_tests_on_the_first(tmp_path):
    write_voc(tmp_path / "VOCdevkit/VOC2007")
    with pytest.raises(SparseheadError, match=r"no VOCdevkit/VOC2012 .*VOCtrainval_11-May-2012.tar"):
        load_detection("voc0712", tmp_path)
    write_voc(tmp_path / "VOCdevkit/VOC2012", train=3, seed=1)
    train, test = load_detection("voc0712", tmp_path)
    assert [scene.image.parent.parent.name for scene in train.scenes] == ["VOC2007"] * 4 + ["VOC2012"] * 3
    assert {scene.image.parent.parent.name for scene in test.scenes} == {"VOC2007"}
    assert train.classes == test.classes == VOC_CLASSES


def test_voc2007_without_its_test_list_says_where_to_get_it(voc):
    (voc / "ImageSets/Main/test.txt").unlink()
    assert "VOCtest_06-Nov-2007.tar" in refused("voc", voc.parent)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (OBJECT.format("cta", 0, BOX), '000000.xml: unknown class "cta".*Did you mean "cat"'),
        (OBJECT.format("cat", 0, BOX.replace(">30<", ">0<")), '000000.xml: the box of a "cat" has no area'),
        (OBJECT.format("cat", 0, BOX.replace(">30<", ">nan<")), '000000.xml: the box of a "cat" has no area'),
        (OBJECT.format("cat", 0, BOX.replace(">30<", ">wide<")), "000000.xml is malformed .*wide"),
        ("<object><name>cat</name></object>", "000000.xml is malformed .an object has no bndbox"),
        ("<object>", "000000.xml is malformed .mismatched tag"),
        (
            "<filename/>" + OBJECT.format("cat", 0, BOX.replace(">1<", ">100<").replace(">30<", ">120<")),
            r"outside the image \(64x64\)",
        ),
    ],
)
def test_a_bad_voc_annotation_is_named(voc, body, message):
    annotate(voc, body)
    with pytest.raises(SparseheadError, match=message):
        list(load_detection("voc", voc.parent)[0])


def test_missing_files_of_voc_are_named(voc):
    (voc / "JPEGImages/000001.jpg").unlink()
    assert "000001.xml names the image 000001.jpg, which is not in" in refused("voc", voc.parent)
    (voc / "Annotations/000000.xml").unlink()
    assert "000000.xml is missing, but ImageSets/Main lists 000000" in refused("voc", voc.parent)
    (voc / "ImageSets/Main/trainval.txt").write_text("\n")
    assert "trainval.txt is empty" in refused("voc", voc.parent)
    (voc / "ImageSets/Main/trainval.txt").unlink()
    assert "trainval.txt cannot be read" in refused("voc", voc.parent)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"<html>not found</html>"])
def test_a_damaged_image_is_named(voc, damage):
    path = voc / "JPEGImages/000002.jpg"
    path.write_bytes(damage(path.read_bytes()))
    message = refused("voc", voc.parent)
    assert message.startswith(f"{path} cannot be read as an image")
    assert ".cpp" not in message


# ---------------------------------------------------------------------------------------------- COCO


def test_coco_counts_its_categories_by_id_from_1(coco):
    train, test = load_detection("coco", coco.parent)
    assert (len(train), len(test), train.classes) == (4, 2, ("cat", "dog"))  # ids 17 and 18, written the other way round
    assert train.outlined
    assert len(load_detection("coco", coco)[0]) == 4


def test_coco_draws_polygons_and_both_kinds_of_run_lengths(coco):
    mask = pytest.importorskip("pycocotools.mask")
    from dataclasses import replace

    square = np.zeros((64, 64), dtype=np.uint8, order="F")
    square[8:24, 4:12] = 1
    runs = {"size": [64, 64], "counts": [4 * 64 + 8] + [16, 48] * 7 + [16, 64 * 64 - (11 * 64 + 24)]}
    packed = {**mask.encode(square), "counts": mask.encode(square)["counts"].decode()}
    for outline in ([[4, 8, 12, 8, 12, 24, 4, 24]], runs, packed):

        def change(data, outline=outline):
            data["annotations"][0] |= {"bbox": [4, 8, 8, 16], "segmentation": outline}

        edit(coco, "train2017", change)
        _, target = replace(load_detection("coco", coco.parent)[0], masks=True)[0]
        assert target["masks"].dtype == torch.uint8
        assert (target["masks"][0].numpy() == square).all()
    edit(coco, "train2017", lambda data: data["annotations"][0].update(segmentation=[["x"]]))
    with pytest.raises(SparseheadError, match="segmentation 1 of .*jpg cannot be drawn"):
        replace(load_detection("coco", coco.parent)[0], masks=True)[0]


def test_coco_marks_crowds_and_leaves_out_boxes_without_height(coco):
    def change(data):
        data["annotations"][1]["bbox"][3] = 0.0  # the published train2017 holds such a box
        data["annotations"][2]["iscrowd"] = 1

    edit(coco, "train2017", change)
    _, target = load_detection("coco", coco.parent)[0][1]
    assert target["iscrowd"].tolist() == [1]
    assert target["ignore"].tolist() == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["annotations"][0].update(image_id=5), "annotation 1 belongs to image 5, which is not listed"),
        (lambda d: d["annotations"][0].update(category_id=19), 'annotation 1: unknown category "19"'),
        (lambda d: d["annotations"][0]["bbox"].__setitem__(2, -4), r"annotation 1: the box .* has no area"),
        (lambda d: d["annotations"][0]["bbox"].pop(), r"instances_train2017.json is malformed"),
        (lambda d: d["images"][0].update(file_name="x.jpg"), "names the image x.jpg, which is not in"),
        (lambda d: d.pop("images"), "instances_train2017.json is malformed .no 'images'"),
        (lambda d: d.update(images=[], annotations=[]), "lists no images"),
        (lambda d: d["categories"].append({"id": 1, "name": "cow"}), "different categories"),
    ],
)
def test_a_bad_coco_annotation_is_named(coco, change, message):
    edit(coco, "train2017", change)
    with pytest.raises(SparseheadError, match=message):
        load_detection("coco", coco.parent)


@pytest.mark.parametrize("text", ["{", "[]", '"text"', "null", "[" * 100_000])
def test_coco_files_of_another_kind_are_malformed(coco, text):
    (coco / "annotations/instances_val2017.json").write_text(text)
    assert "instances_val2017.json is malformed" in refused("coco", coco.parent)


def test_coco_that_is_not_there_says_where_to_get_it(tmp_path):
    message = refused("coco", tmp_path)
    assert "annotations_trainval2017.zip" in message
    assert f"unzip FILE -d {tmp_path}" in message


# ---------------------------------------------------------------------------------------------- both


def test_other_names_and_folders_are_refused(tmp_path):
    assert 'Did you mean "coco"?' in refused("cocoo", tmp_path)
    assert "has neither layout" in refused(tmp_path, tmp_path)


def test_sets_reach_worker_processes_unchanged(voc):
    train, _ = load_detection("voc", voc.parent)
    assert json.dumps([t["boxes"].tolist() for _, t in pickle.loads(pickle.dumps(train))]) == json.dumps(
        [t["boxes"].tolist() for _, t in train]
    )
