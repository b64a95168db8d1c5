"""Tiny sets in the published layouts of VOC and COCO: coloured rectangles on grey noise, whose colour is their class."""

import json

import numpy as np
from PIL import Image

COLOURS = {"cat": (220, 40, 40), "dog": (40, 60, 220)}


def draw_scene(rng, side, objects):
    """An image with `objects` rectangles apart from each other -> pixels, [(class, left, top, right, bottom)] as edges."""
    pixels = rng.integers(90, 160, (side, side, 1)).repeat(3, axis=2).astype(np.uint8)
    drawn = []
    while len(drawn) < objects:
        width, height = rng.integers(side // 4, side // 2, 2)
        left, top = rng.integers(0, side - width), rng.integers(0, side - height)
        box = (int(left), int(top), int(left + width), int(top + height))
        if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for _, *b in drawn):
            continue
        kind = str(rng.choice(list(COLOURS)))
        pixels[box[1] : box[3], box[0] : box[2]] = COLOURS[kind]
        drawn.append((kind, *box))
    return pixels, drawn


def write_voc(folder, train=4, test=2, side=64, objects=(1, 2), seed=0):
    """A folder in VOC's layout; returns {image name: its objects as edges}."""
    rng = np.random.default_rng(seed)
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    scenes = {}
    for i in range(train + test):
        pixels, scenes[f"{i:06}"] = draw_scene(rng, side, objects[i % len(objects)])
        Image.fromarray(pixels).save(folder / f"JPEGImages/{i:06}.jpg", quality=95)
        (folder / f"Annotations/{i:06}.xml").write_text(voc_xml(f"{i:06}.jpg", side, scenes[f"{i:06}"]))
    names = list(scenes)
    (folder / "ImageSets/Main/trainval.txt").write_text("\n".join(names[:train]) + "\n")
    (folder / "ImageSets/Main/test.txt").write_text("\n".join(names[train:]) + "\n")
    return scenes


def voc_xml(file, side, objects, difficult=0):
    """An annotation as published: pixels are counted from 1, and the last one belongs to the object."""
    body = "".join(
        f"<object><name>{kind}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult><bndbox>"
        f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for kind, left, top, right, bottom in objects
    )
    size = f"<size><width>{side}</width><height>{side}</height><depth>3</depth></size>"
    return f"<annotation><folder>VOC2007</folder><filename>{file}</filename>{size}<segmented>0</segmented>{body}</annotation>"


def write_coco(folder, train=4, test=2, side=64, objects=(1, 2), seed=0):
    """A folder in COCO's layout, with polygons; category ids have gaps, as the published ones have."""
    rng = np.random.default_rng(seed)
    ids = {"cat": 17, "dog": 18}
    (folder / "annotations").mkdir(parents=True)
    for part, count in (("train2017", train), ("val2017", test)):
        (folder / part).mkdir()
        images, annotations = [], []
        for i in range(count):
            pixels, drawn = draw_scene(rng, side, objects[i % len(objects)])
            Image.fromarray(pixels).save(folder / part / f"{i + 100:012}.jpg", quality=95)
            images.append({"id": i + 100, "file_name": f"{i + 100:012}.jpg", "width": side, "height": side})
            for kind, left, top, right, bottom in drawn:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 100,
                        "category_id": ids[kind],
                        "bbox": [left, top, right - left, bottom - top],
                        "area": (right - left) * (bottom - top),
                        "iscrowd": 0,
                        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                    }
                )
        categories = [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 17, "name": "cat", "supercategory": "animal"}]
        write_instances(folder, part, {"images": images, "annotations": annotations, "categories": categories})


def write_instances(folder, part, data):
    (folder / f"annotations/instances_{part}.json").write_text(json.dumps(data))


def read_instances(folder, part):
    return json.loads((folder / f"annotations/instances_{part}.json").read_text())
