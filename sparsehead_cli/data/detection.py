"""Images with boxes: PASCAL VOC and COCO in the layouts in which they are published, and folders of the same layouts.

A box is its left, top, right and bottom edge in pixels from the image's top left corner: a box that is one pixel wide has
right - left = 1. COCO writes edges and sizes; VOC writes the 1-based indices of the first and the last pixel that belong to
the object, so its left and top are one less than written and its right and bottom are as written. Both count in the pixels as
they are stored, as their publishers' tools do: an image with boxes is not turned by its EXIF orientation.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import clip_boxes_to_image

from sparsehead_cli.data.decoding import decode
from sparsehead_cli.data.listing import reason_of
from sparsehead_cli.errors import SparseheadError, did_you_mean, unknown

Target = dict[str, Tensor]


@dataclass(frozen=True)
class Scene:
    """One image's file and its K objects; plain arrays, which reach a worker process without an open file each."""

    image: Path
    boxes: np.ndarray  # float32 [K, 4]
    labels: np.ndarray  # int64 [K], from 1: 0 is a detector's background
    crowd: np.ndarray  # bool [K]: one box around many objects (COCO's iscrowd)
    ignore: np.ndarray  # bool [K]: neither to be found nor wrong when found (VOC's difficult)
    outlines: tuple[object, ...] = ()  # K segmentations as COCO writes them: polygons or run lengths; () where there are none


@dataclass(frozen=True)
class DetectionSet(Dataset):
    """Index -> image uint8 [3, H, W] and its target, with `masks` of its objects where asked.

    The target has boxes float32 [K, 4], labels int64 [K] from 1 (`classes[label - 1]` is its name), iscrowd and ignore
    int64 [K], and with `masks` also masks uint8 [K, H, W]. K is 0 for an image without objects.
    """

    classes: tuple[str, ...]
    scenes: tuple[Scene, ...]
    masks: bool = False

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, i: int) -> tuple[Tensor, Target]:
        """Raises: SparseheadError for an image that cannot be decoded and for a box that lies outside its image."""
        scene = self.scenes[i]
        image = read_image(scene.image)
        boxes = clip_boxes_to_image(torch.from_numpy(scene.boxes), image.shape[1:])
        if not (boxes[:, 2:] > boxes[:, :2]).all():
            size = f"{image.shape[2]}x{image.shape[1]}"
            raise SparseheadError(f"a box of {scene.image} lies outside the image ({size}). Correct its annotation.")
        target = {
            "boxes": boxes,
            "labels": torch.from_numpy(scene.labels),
            "iscrowd": torch.from_numpy(scene.crowd).long(),
            "ignore": torch.from_numpy(scene.ignore).long(),
        }
        if self.masks:
            target["masks"] = draw_masks(scene, *image.shape[1:])
        return image, target

    @property
    def outlined(self) -> bool:
        """Whether every object has a segmentation, and there is an object."""
        return self.has_objects and all(len(scene.outlines) == len(scene.boxes) for scene in self.scenes)

    @property
    def has_objects(self) -> bool:
        """Whether there is an object to learn or to find."""
        return any((~(scene.crowd | scene.ignore)).any() for scene in self.scenes)


def load_detection(name: str, data_dir: Path) -> tuple[DetectionSet, DetectionSet]:
    """The training and the test set of "voc", "voc0712" or "coco" in `data_dir`, or of a folder in either layout.

    "voc" is VOC2007 (trainval, test) or, where that is not there, VOC2012 (train, val: its test set is not public). "voc0712"
    trains on trainval of both years and tests on VOC2007, as most papers do. "coco" is the 2017 edition (train, val). A
    folder in VOC's layout under another name has the classes that its annotations name.
    Raises: SparseheadError for what is missing, malformed or contradicts itself.
    """
    if name == "voc":
        return read_voc(find_voc(data_dir, VOC_YEARS))
    if name == "voc0712":
        return read_voc0712(data_dir)
    if name == "coco":
        return read_coco(find_coco(data_dir))
    folder = Path(name).expanduser()
    if not folder.is_dir():
        known = ", ".join(NAMES)
        raise SparseheadError(f'"{name}" is neither a known detection set ({known}) nor a folder.{did_you_mean(name, NAMES)}')
    if is_voc(folder):
        return read_voc(folder)
    if is_coco(folder):
        return read_coco(folder)
    raise SparseheadError(f"{folder} has neither layout. VOC's: {LAYOUTS['voc']}. COCO's: {LAYOUTS['coco']}.")


def read_image(path: Path) -> Tensor:
    """An image file -> uint8 [3, H, W], as it is stored. Raises: SparseheadError, naming the file."""
    try:
        return decode(path, upright=False)  # as its boxes are
    except Exception as error:  # as many kinds as there are ways to be damaged
        raise SparseheadError(f"{path} cannot be read as an image ({reason_of(error)}). Get this file anew.") from None


def draw_masks(scene: Scene, height: int, width: int) -> Tensor:
    """The scene's outlines as masks, uint8 [K, height, width]; pixels are 1 inside. Needs the extra `detection`."""
    from pycocotools import mask

    drawn = np.zeros((len(scene.outlines), height, width), dtype=np.uint8)
    for i, outline in enumerate(scene.outlines):
        try:
            runs = outline if _is_compressed(outline) else mask.frPyObjects(outline, height, width)
            drawn[i] = mask.decode(mask.merge(runs) if isinstance(runs, list) else runs)
        except Exception as error:  # a malformed outline fails in as many ways as it has parts
            raise SparseheadError(f"segmentation {i + 1} of {scene.image} cannot be drawn ({error}). Correct it.") from None
    return torch.from_numpy(drawn)


def _is_compressed(outline: object) -> bool:
    return isinstance(outline, dict) and isinstance(outline.get("counts"), str | bytes)


def list_images(folder: Path) -> set[str]:
    """The names of a folder's files: one look instead of one a file."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries}


# ---------------------------------------------------------------------------------------------- PASCAL VOC


def find_voc(data_dir: Path, years: tuple[str, ...]) -> Path:
    """The first of `years` that is in `data_dir` or its VOCdevkit; else `data_dir` itself, where it has the layout."""
    places = [data_dir / "VOCdevkit", data_dir]
    itself = [data_dir] if len(years) > 1 or data_dir.absolute().name in years else []
    for folder in [*(place / year for year in years for place in places), *itself]:
        if is_voc(folder):
            return folder
    archives = " and ".join(VOC_ARCHIVES[years[0]])
    raise SparseheadError(
        f"voc is not in {data_dir}: no VOCdevkit/{years[0]} with {LAYOUTS['voc']}. "
        f"Get {archives} and unpack with: tar -xf FILE -C {data_dir}"
    )


def is_voc(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in ("Annotations", "ImageSets/Main", "JPEGImages"))


def read_voc(folder: Path) -> tuple[DetectionSet, DetectionSet]:
    """A folder VOCxxxx -> training and test set."""
    parts = [read_entries(folder, part) for part in voc_parts(folder)]
    classes = VOC_CLASSES
    if folder.absolute().name not in VOC_YEARS:
        classes = tuple(sorted({kind for part in parts for entry in part for kind, _, _ in entry.objects}))
    train, test = (voc_set(part, classes) for part in parts)
    return train, test


def read_voc0712(data_dir: Path) -> tuple[DetectionSet, DetectionSet]:
    """trainval of both years, 16,551 images as published, and VOC2007's test."""
    old, new = (find_voc(data_dir, (year,)) for year in VOC_YEARS)
    train = read_entries(old, "trainval") + read_entries(new, "trainval")
    return voc_set(train, VOC_CLASSES), voc_set(read_entries(old, voc_parts(old)[1]), VOC_CLASSES)


@dataclass(frozen=True)
class Entry:
    """One annotation file of VOC, its image, and (class, box, difficult) of each object."""

    path: Path
    image: Path
    objects: list[tuple[str, list[float], bool]]


def voc_parts(folder: Path) -> tuple[str, str]:
    """The lists to train and to test on: trainval and test, or train and val where the test set is not public."""
    year = folder.absolute().name
    has_test = (folder / "ImageSets/Main/test.txt").exists()
    if year == "VOC2007" and not has_test:
        raise SparseheadError(
            f"{folder} has no ImageSets/Main/test.txt. Get {VOC_ARCHIVES[year][1]} and unpack it beside the training set."
        )
    # VOC2012's test archive brings a test.txt, but no annotations for it
    return ("trainval", "test") if has_test and year != "VOC2012" else ("train", "val")


def read_list(folder: Path, part: str) -> list[str]:
    """The image names of one list. Raises: SparseheadError for a list that is missing or empty."""
    path = folder / "ImageSets/Main" / f"{part}.txt"
    try:
        names = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SparseheadError(f"{path} cannot be read ({error}). It lists the images of {part}, one name a line.") from None
    if not names:
        raise SparseheadError(f"{path} is empty. It lists the images of {part}, one name a line.")
    return names


def read_entries(folder: Path, part: str) -> list[Entry]:
    """What one list names, in its order."""
    images = list_images(folder / "JPEGImages")
    return [read_xml(folder, name, images) for name in read_list(folder, part)]


def read_xml(folder: Path, name: str, images: set[str]) -> Entry:
    """One annotation file. Raises: SparseheadError, naming it, for what is malformed or missing."""
    path = folder / "Annotations" / f"{name}.xml"
    try:
        root = ElementTree.parse(path).getroot()
        file = root.findtext("filename", "").strip() or f"{name}.jpg"
        # only an object's own name and box: a person's parts (head, hand, foot) have boxes of their own
        objects = [
            (o.findtext("name", "").strip(), voc_box(o), o.findtext("difficult", "0").strip() == "1")
            for o in root.findall("object")
        ]
    except FileNotFoundError:
        raise SparseheadError(f"{path} is missing, but ImageSets/Main lists {name}. Get the annotations anew.") from None
    except (OSError, ElementTree.ParseError, ValueError, TypeError) as error:
        raise SparseheadError(f"{path} is malformed ({error}). Get this file anew.") from None
    if file not in images:
        raise SparseheadError(f"{path} names the image {file}, which is not in {folder / 'JPEGImages'}. Get the images anew.")
    for kind, box, _ in objects:
        require_area(path, kind, box)
    return Entry(path, folder / "JPEGImages" / file, objects)


def voc_box(element: ElementTree.Element) -> list[float]:
    """An object's first and last pixel, counted from 1 -> its edges. A few of VOC2012's are not whole numbers."""
    box = element.find("bndbox")
    if box is None:
        raise ValueError("an object has no bndbox")
    left, top, right, bottom = (float(box.findtext(side, "")) for side in ("xmin", "ymin", "xmax", "ymax"))
    return [left - 1, top - 1, right, bottom]


def require_area(path: Path, kind: str, box: list[float]) -> None:
    """Raises: SparseheadError for a box (edges) that is empty or not finite."""
    left, top, right, bottom = box
    if not (right > left and bottom > top and np.isfinite(box).all()):
        raise SparseheadError(f'{path}: the box of a "{kind}" has no area (edges {box}). Correct the annotation.')


def voc_set(entries: list[Entry], classes: tuple[str, ...]) -> DetectionSet:
    label = {kind: i + 1 for i, kind in enumerate(classes)}
    return DetectionSet(classes, tuple(voc_scene(entry, label) for entry in entries))


def voc_scene(entry: Entry, label: dict[str, int]) -> Scene:
    """Raises: SparseheadError for a class that is not in `label`, name -> number."""
    for kind, _, _ in entry.objects:
        if kind not in label:
            raise SparseheadError(f"{entry.path}: {unknown('class', kind, label)}")
    labels = label_array(label[kind] for kind, _, _ in entry.objects)
    difficult = np.array([hard for _, _, hard in entry.objects], dtype=bool)
    return Scene(entry.image, box_array(box for _, box, _ in entry.objects), labels, np.zeros_like(difficult), difficult)


def box_array(boxes: Iterable[list[float]]) -> np.ndarray:
    """K boxes -> float32 [K, 4], also for K = 0."""
    return np.array(list(boxes), dtype=np.float32).reshape(-1, 4)


def label_array(labels: Iterable[int]) -> np.ndarray:
    return np.array(list(labels), dtype=np.int64)


# ---------------------------------------------------------------------------------------------- COCO


def find_coco(data_dir: Path) -> Path:
    """The folder coco in `data_dir`, else `data_dir` itself."""
    for folder in (data_dir / "coco", data_dir):
        if is_coco(folder):
            return folder
    raise SparseheadError(
        f"coco is not in {data_dir}: there must be {LAYOUTS['coco']}. Get {COCO}/annotations/annotations_trainval2017.zip, "
        f"{COCO}/zips/train2017.zip and {COCO}/zips/val2017.zip and unpack each with: unzip FILE -d {data_dir}"
    )


def is_coco(folder: Path) -> bool:
    files = all((folder / f"annotations/instances_{part}.json").is_file() for part in COCO_PARTS)
    return files and all((folder / part).is_dir() for part in COCO_PARTS)


def read_coco(folder: Path) -> tuple[DetectionSet, DetectionSet]:
    """A folder with annotations/, train2017/ and val2017/ -> training and test set, of the same classes."""
    train, test = (read_instances(folder, part) for part in COCO_PARTS)
    if train.classes != test.classes:
        raise SparseheadError(
            f"the annotations of train2017 and val2017 in {folder} have different categories. Give both the same."
        )
    return train, test


def read_instances(folder: Path, part: str) -> DetectionSet:
    """One annotation file and its folder of images; labels count the categories, in the order of their ids, from 1."""
    path = folder / "annotations" / f"instances_{part}.json"
    try:
        data = json.loads(path.read_bytes())
        categories = sorted(data["categories"], key=lambda category: category["id"])
        label = {category["id"]: i + 1 for i, category in enumerate(categories)}
        by_image: dict[int, list[dict]] = {image["id"]: [] for image in data["images"]}
        for annotation in data["annotations"]:
            if has_area(path, annotation, by_image, label):
                by_image[annotation["image_id"]].append(annotation)
        files = list_images(folder / part)
        scenes = tuple(coco_scene(path, folder / part, files, image, by_image[image["id"]], label) for image in data["images"])
        classes = tuple(category["name"] for category in categories)
    except KeyError as error:
        raise SparseheadError(f"{path} is malformed (no {error}). Get this file anew.") from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise SparseheadError(f"{path} is malformed ({error}). Get this file anew.") from None
    if not scenes:
        raise SparseheadError(f"{path} lists no images. Get this file anew.")
    return DetectionSet(classes, scenes)


def has_area(path: Path, annotation: dict, images: dict[int, list], label: dict[int, int]) -> bool:
    """Whether an annotation can be used: the published train2017 has boxes of height 0, which are left out.

    Raises: SparseheadError for a box of negative size, and for an image or a category that is not listed.
    """
    where = f"{path}: annotation {annotation['id']}"
    if annotation["image_id"] not in images:
        raise SparseheadError(f"{where} belongs to image {annotation['image_id']}, which is not listed. Correct the annotation.")
    if annotation["category_id"] not in label:
        raise SparseheadError(f"{where}: {unknown('category', str(annotation['category_id']), map(str, label))}")
    _, _, width, height = annotation["bbox"]
    if not (width >= 0 and height >= 0 and np.isfinite(annotation["bbox"]).all()):
        raise SparseheadError(f"{where}: the box {annotation['bbox']} (x, y, width, height) has no area. Correct the annotation.")
    return width > 0 and height > 0


def coco_scene(path: Path, folder: Path, files: set[str], image: dict, annotations: list[dict], label: dict[int, int]) -> Scene:
    if image["file_name"] not in files:
        raise SparseheadError(f"{path} names the image {image['file_name']}, which is not in {folder}. Get the images anew.")
    edges = box_array([x, y, x + width, y + height] for x, y, width, height in (a["bbox"] for a in annotations))
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)
    outlines = tuple(a["segmentation"] for a in annotations if a.get("segmentation"))
    labels = label_array(label[a["category_id"]] for a in annotations)
    complete = outlines if len(outlines) == len(annotations) else ()
    return Scene(folder / image["file_name"], edges, labels, crowd, np.zeros_like(crowd), complete)


LAYOUTS = {
    "voc": "Annotations/, ImageSets/Main/ and JPEGImages/",
    "coco": "annotations/instances_train2017.json, annotations/instances_val2017.json, train2017/ and val2017/",
}
NAMES = ("voc", "voc0712", "coco")
VOC_YEARS = ("VOC2007", "VOC2012")
VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
VOC_ARCHIVES = {
    "VOC2007": (f"{VOC}/voc2007/VOCtrainval_06-Nov-2007.tar", f"{VOC}/voc2007/VOCtest_06-Nov-2007.tar"),
    "VOC2012": (f"{VOC}/voc2012/VOCtrainval_11-May-2012.tar",),
}
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
COCO = "http://images.cocodataset.org"
COCO_PARTS = ("train2017", "val2017")
