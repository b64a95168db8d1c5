"""Images that stream from files: the same batches however they are read, and clear words for what cannot be read."""

import io
import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from sparsehead_cli.data import folders, listing, reading
from sparsehead_cli.data.augment import RECIPES, Augmentation, Crops, ImageViews
from sparsehead_cli.data.datasets import dataset_info, load_split
from sparsehead_cli.data.folders import died
from sparsehead_cli.errors import SparseheadError

CROPS = Crops(RECIPES["symmetric"], 16, seed=3)


def load(root, split="train+val", size=16, **settings):
    return load_split(str(root), split, root, image_size=size, **{"workers": 0, **settings})


def everything(batches):
    """Images and labels of all batches, joined."""
    parts = list(batches)
    return torch.cat([b.inputs for b in parts]), torch.cat([b.labels for b in parts])


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_splits_of_a_folder(photographs):
    lengths = {s: len(load(photographs, s)) for s in ("pretrain", "train", "val", "train+val", "test")}
    assert lengths == {"pretrain": 54, "train": 54, "val": 6, "train+val": 60, "test": 15}
    assert load(photographs, "val").labels.tolist() == [0, 0, 1, 1, 2, 2]
    info = dataset_info(str(photographs), photographs)
    assert (info.classes, info.channels, info.size) == (("bird", "cat", "dog"), 3, 40)


def test_batches_in_file_order_are_decoded_resized_and_cut(photographs):
    batches = list(load(photographs, "test").batches(4))
    assert [len(b.labels) for b in batches] == [4, 4, 4, 3]
    images, labels = everything(batches)
    assert labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert (images.dtype, images.shape) == (torch.uint8, (15, 3, 16, 16))
    pil = Image.open(photographs / "test" / "cat" / "001.jpg")
    theirs = functional.center_crop(functional.resize(pil, [16], InterpolationMode.BICUBIC), [16, 16])
    difference = images[6].int() - torch.from_numpy(np.array(theirs)).permute(2, 0, 1).int()
    assert difference.abs().max() <= 2  # two decoders, two roundings
    assert images.float().mean(dim=(2, 3)).argmax(dim=1).tolist() == labels.tolist()


def test_large_images_are_cut_from_eight_sevenths(photographs, monkeypatch):
    asked = []
    real = functional.resize
    monkeypatch.setattr(functional, "resize", lambda x, size, *a, **k: asked.append(size) or real(x, size, *a, **k))
    for size in (64, 224):
        next(load(photographs, "test", size).batches(1))
    assert asked == [[64], [256]]


@pytest.mark.parametrize("crops", [None, CROPS])
def test_the_number_of_processes_does_not_matter(photographs, crops):
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    alone = list(load(photographs).batches(8, order=order, read=crops))
    assert len(alone) == 7
    for workers in (1, 3):
        several = list(load(photographs, workers=workers).batches(8, order=order, read=crops))
        assert same(everything(alone), everything(several))
    assert same(everything(alone[3:]), everything(load(photographs).batches(8, order=order, start=3, read=crops)))
    assert alone[0].inputs.shape == ((8, 2, 3, 16, 16) if crops else (8, 3, 16, 16))


def test_reading_leaves_the_global_generator_alone(photographs):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    for workers in (0, 2):
        everything(load(photographs, workers=workers).batches(8, order=torch.arange(60), read=CROPS))
    assert torch.equal(torch.rand(3), expected)


def test_crops_are_a_function_of_seed_step_and_place(photographs):
    def crops(order, **changes):
        chosen = Crops(RECIPES["symmetric"], 16, **{"seed": 3, **changes})
        return everything(load(photographs).batches(min(4, len(order)), order=torch.tensor(order), read=chosen))[0]

    first = crops([5] * 4)
    assert not torch.equal(first[0], first[1])  # the place
    assert not torch.equal(first[0, 0], first[0, 1])  # the view
    for changes in ({"seed": 4}, {"step": 1}, {"first": 4}):
        assert not torch.equal(crops([5] * 4, **changes), first)
    assert torch.equal(crops([1, 2, 5, 4])[2], first[2])  # not the images beside it
    assert torch.equal(crops([5] * 2, first=2), first[2:])  # nor which process has the place
    assert torch.equal(crops([0] * 4 + [5] * 4)[4:], crops([5] * 4, step=1))  # nor where the order began


def test_a_crop_is_the_box_that_it_says():
    image = torch.arange(30 * 40).remainder(256).to(torch.uint8).view(1, 30, 40).expand(3, -1, -1)
    whole = reading.random_crops(image, Crops((Augmentation(area=(1, 1), ratio=(4 / 3, 4 / 3)),), 30, 0), 0, 0)
    expected = functional.resize(image, [30, 30], InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(whole[0], expected)
    small = reading.random_crops(torch.zeros(3, 1, 1, dtype=torch.uint8), Crops((Augmentation(), Augmentation()), 8, 0), 0, 0)
    assert small.shape == (2, 3, 8, 8)


def test_ready_crops_are_flipped_and_coloured_only(photographs):
    plain = Augmentation(brightness=0, contrast=0, saturation=0, hue=0, grey_p=0, flip_p=0)
    crops = torch.randint(0, 256, (5, 3, 3, 16, 16), dtype=torch.uint8)
    normalise = dataset_info(str(photographs), photographs).normalise

    def views(*recipe):
        return [view.inputs for view in ImageViews(recipe, normalise, 16)(crops, torch.Generator().manual_seed(0))]

    flipped = Augmentation(**{**vars(plain), "flip_p": 1})
    for i, (view, expected) in enumerate(zip(views(plain, plain, flipped), crops.unbind(1), strict=True)):
        torch.testing.assert_close(view, normalise((expected.flip(3) if i == 2 else expected).float() / 255))
    coloured = views(Augmentation(), Augmentation(), Augmentation())
    assert len(coloured) == 3
    assert not torch.equal(coloured[0], views(plain, plain, plain)[0])


def encoded(image, kind, mode="RGB", **settings):
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, kind, **settings)
    return buffer.getvalue()


def test_every_kind_of_png_and_jpeg_is_rgb(damageable):
    smooth = np.add.outer(np.arange(40), np.arange(48)).astype(np.uint8) + 60
    picture = Image.fromarray(np.stack([smooth, smooth, smooth], axis=2))
    sixteen = io.BytesIO()
    Image.fromarray(smooth.astype(np.uint16) * 257).save(sixteen, "PNG")
    kinds = {
        "rgb.png": encoded(picture, "PNG"),
        "grey.PNG": encoded(picture, "PNG", "L"),
        "alpha.png": encoded(picture, "PNG", "RGBA"),
        "grey-alpha.png": encoded(picture, "PNG", "LA"),
        "sixteen.png": sixteen.getvalue(),
        "grey.jpeg": encoded(picture, "JPEG", "L", quality=95),
        "cmyk.JPEG": encoded(picture, "JPEG", "CMYK", quality=95),
        "progressive.jpg": encoded(picture, "JPEG", quality=95, progressive=True),
        "really-a-png.jpg": encoded(picture, "PNG"),  # ImageNet has such
        "web.webp": encoded(picture, "WEBP", quality=95),
    }
    folder = damageable / "train" / "elephant"
    folder.mkdir()
    for name, data in kinds.items():
        (folder / name).write_bytes(data)
    (folder / "notes.txt").write_text("not an image, and nobody asks")
    split = load(damageable, size=40)
    images, _ = everything(split.take((split.labels == 3).nonzero().flatten()).batches(99))
    assert len(images) == len(kinds)
    expected = torch.from_numpy(smooth[:, 4:44]).int()
    assert (images.int() - expected).abs().max() <= 8  # of the lossy ones


DAMAGES = {
    "empty": (lambda data: b"", "the file is empty"),
    "cut": (lambda data: data[: len(data) // 2], "incomplete or truncated"),
    "text": (lambda data: b"<html>404 not found, said the server</html>", "it is no JPEG, PNG, WebP, GIF or BMP file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_skipped_and_counted(damageable, damage, workers):
    change, reason = DAMAGES[damage]
    path = damageable / "train" / "cat" / "010.jpg"  # the 31st of 60
    path.write_bytes(change(path.read_bytes()))
    order = torch.arange(60)
    for settings in ({}, {"order": order}, {"order": order, "read": CROPS}):
        with pytest.raises(SparseheadError) as error:
            everything(load(damageable, workers=workers).batches(8, **settings))
        assert all(words in str(error.value) for words in (str(path), reason, "--skip-bad-images", "as a new run"))
        assert ".cpp" not in str(error.value)

    split = load(damageable, workers=workers, skip_bad_images=True)
    whole = everything(load(damageable).take(torch.tensor([i for i in range(60) if i != 30])).batches(8))
    assert same(everything(split.batches(8)), whole)  # left out, and its label with it
    assert split.skipped == 1
    everything(split.batches(8))
    assert split.skipped == 2  # over both passes

    replaced = list(load(damageable, workers=workers, skip_bad_images=True).batches(8, order=order))
    assert [b.skipped for b in replaced] == [0, 0, 0, 1, 0, 0, 0]
    images, labels = everything(replaced)
    assert torch.equal(images[30], images[31])
    assert labels[30] == labels[31]


def test_files_that_vanish_or_are_nobody_s_business(damageable):
    split = load(damageable)
    (damageable / "train" / "bird" / "003.jpg").unlink()
    with pytest.raises(SparseheadError, match=r"bird.003.jpg: No such file"):
        everything(split.batches(60))
    with pytest.raises(SparseheadError, match=r"cannot read the image .*bird.003.jpg: No such file"):
        split.digest()


def test_nothing_readable_ends_instead_of_searching_for_ever(damageable):
    for path in damageable.glob("train/*/*.jpg"):
        path.write_bytes(b"")
    split = load(damageable, skip_bad_images=True)
    with pytest.raises(SparseheadError, match="the file is empty, nor are the 59 images after it readable"):
        everything(split.batches(8, order=torch.arange(60)))
    with pytest.raises(SparseheadError, match="not one of the 60 images"):
        list(split.batches(8))


@pytest.fixture
def deadly(monkeypatch):
    """Whoever reads one of the photographs is killed, unless it is the main process."""
    main, real = os.getpid(), listing.Files.read

    def read_or_die(files, i):
        if files.where(i).endswith("cat/010.jpg"):
            assert os.getpid() != main
            os.kill(os.getpid(), signal.SIGKILL)
        return real(files, i)

    monkeypatch.setattr(listing.Files, "read", read_or_die)


@pytest.mark.slow  # torch looks for dead processes every five seconds
def test_a_process_that_is_killed_ends_with_its_image_not_with_silence(photographs, deadly):
    with pytest.raises(SparseheadError, match=r"died \(SIGKILL\) while it read .*cat/010.jpg.*--workers") as error:
        everything(load(photographs, workers=2).batches(8, order=torch.arange(60)))
    assert "/dev/shm" not in str(error.value)


@pytest.mark.slow
def test_a_process_ends_after_one_of_its_readers_died(photographs, deadly):
    """The error keeps the others, who ignore the signal by which Python ends them: it would wait for them for ever."""

    split = load(photographs, workers=2)

    def reads():
        with pytest.raises(SparseheadError, match="died") as kept:
            everything(split.batches(8, order=torch.arange(60)))
        KEPT.append(kept)

    process = multiprocessing.get_context("fork").Process(target=reads)
    process.start()
    process.join(100)
    assert process.exitcode == 0


KEPT = []


def test_a_process_whose_connection_ends_before_itself_is_named_all_the_same(photographs, monkeypatch):
    """Of a process that is killed the kernel first closes the connections, and only then says that it has ended."""

    def broken(loader, readers):
        dying = multiprocessing.get_context("fork").Process(target=lambda: (time.sleep(0.2), os.kill(os.getpid(), signal.SIGKILL)))
        dying.start()
        readers.append(dying)
        raise ConnectionResetError(104, "Connection reset by peer")
        yield

    monkeypatch.setattr(folders, "_without_its_signal", broken)
    with pytest.raises(SparseheadError, match=r"a process that reads images died \(SIGKILL\)"):
        everything(load(photographs, workers=2).batches(8))


def test_what_is_blamed_for_a_dead_process_is_what_its_end_says():
    said = {code: str(died(code, ["a.jpg", "b.jpg"])) for code in (-signal.SIGSEGV, -signal.SIGBUS, 3)}
    assert all("while it read a.jpg or b.jpg" in text for text in said.values())
    assert [code for code, text in said.items() if "/dev/shm" in text] == [-signal.SIGBUS]
    assert "SIGSEGV" in said[-signal.SIGSEGV]
    assert "while" not in str(died(3, []))


def test_a_signal_to_all_processes_stops_no_reader(photographs):
    others = set(multiprocessing.active_children())
    batches = load(photographs, workers=2).batches(2, order=torch.arange(60))
    next(batches)
    readers = [child.pid for child in multiprocessing.active_children() if child not in others]
    assert len(readers) == 2
    for reader in readers:
        os.kill(reader, signal.SIGINT)
        os.kill(reader, signal.SIGTERM)
    assert len(list(batches)) == 29


def test_no_reader_outlives_its_batches(photographs, damageable):
    others = set(multiprocessing.active_children())
    batches = load(photographs, workers=2).batches(2, order=torch.arange(60))
    next(batches)
    batches.close()
    (damageable / "train" / "bird" / "000.jpg").write_bytes(b"")
    with pytest.raises(SparseheadError) as kept:  # the error is kept, and with it every frame of its traceback
        list(load(damageable, workers=2).batches(2))
    assert "is empty" in str(kept.value)
    assert set(multiprocessing.active_children()) <= others


def test_digest_depends_on_contents_names_and_labels_not_on_the_place(photographs, damageable):
    before = load(photographs).digest()
    assert load(damageable).digest() == before
    assert load(damageable, size=32, workers=3).digest() == before
    assert len({before, load(damageable, "train").digest(), load(damageable, "test").digest()}) == 3
    path = damageable / "train" / "dog" / "007.jpg"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    changed = load(damageable).digest()
    path.rename(path.with_name("0070.jpg"))
    assert len({before, changed, load(damageable).digest()}) == 3


def test_taking_and_moving_keep_the_settings(photographs):
    split = load(photographs, skip_bad_images=True, workers=0).to(torch.device("cpu")).take(torch.tensor([59, 0]))
    assert (split.skip_bad_images, split.workers, split.size, len(split)) == (True, 0, 16, 2)
    assert split.labels.tolist() == [2, 0]
    assert split.take(torch.tensor([1])).labels.tolist() == [0]


def test_names_are_bytes_in_one_array(photographs):
    files = load(photographs).listing
    names = sorted(p.relative_to(photographs).as_posix() for p in photographs.glob("train/*/*.jpg"))
    assert [files.name(i).decode() for i in range(60)] == names
    i = random.Random(0).randrange(60)
    assert files.path(i) == photographs / names[i]
    assert not any(isinstance(value, list | tuple | dict) and len(value) >= 60 for value in vars(files).values())
