"""load() gives what evaluate measures: the same r of the same images, however they are given."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import sparsehead_cli
from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.load import load_subject
from sparsehead_cli.evaluation.subject import LoadOptions
from sparsehead_cli.measure.features import extract
from tests.evaluation.test_subject import checkpoint as foreign_checkpoint


@pytest.fixture(scope="module")
def model(trained):
    return sparsehead_cli.load(trained)


@pytest.fixture(scope="module")
def pictures():
    return load_split("fashion1k", "test", "data").inputs[:4]


@torch.no_grad()
def test_it_gives_what_evaluate_measures(trained, model, pictures):
    subject = load_subject(trained, LoadOptions())
    features = extract(subject.network, load_split("fashion1k", "test", "data"), subject.prepare)
    r = model.encoder(model.transform(pictures))
    torch.testing.assert_close(r, features["r"][:4])
    torch.testing.assert_close(model.head(r), features["z"][:4])
    assert model.name == trained.name
    assert model.report == ()
    assert not model.encoder.training
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())


def test_one_image_however_it_is_given(model, pictures, tmp_path):
    image = pictures[0]
    expected = model.transform(pictures[:1])
    array = image[0].numpy()
    Image.fromarray(array).save(tmp_path / "image.png")
    given = [image, array, array[:, :, None], Image.fromarray(array), Image.fromarray(array).convert("LA"), [image]]
    for one in given:
        assert torch.equal(model.transform(one), expected)
    for file in (tmp_path / "image.png", str(tmp_path / "image.png")):  # grey as three channels, whose luma it is again
        torch.testing.assert_close(model.transform(file), expected, atol=0.02, rtol=0)
    assert model.transform([Image.fromarray(array)] * 3).shape == (3, 1, 28, 28)


def test_colour_and_other_sizes(model):
    colour = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    assert model.transform(colour).shape == (2, 1, 28, 28)
    wide = torch.zeros(1, 28, 84, dtype=torch.uint8)
    wide[:, :, 28:56] = 200  # the middle, which is cut out
    assert torch.equal(model.transform(wide), model.transform(torch.full((1, 28, 28), 200, dtype=torch.uint8)))
    assert torch.equal(model.transform(Image.fromarray(wide[0].numpy())), model.transform(wide))


def test_a_photograph_is_cut_as_a_folder_of_images_is(untrained_run, photographs):
    model = sparsehead_cli.load(untrained_run(dataset=str(photographs), image_size=40, batch_size=50))
    source = load_split(str(photographs), "test", "data", image_size=40, workers=0)
    batch = next(iter(source.batches(3)))
    paths = [source.listing.path(i) for i in batch.index.tolist()]
    expected = model.transform.prepare(batch.inputs)
    assert torch.equal(model.transform(paths), expected)
    assert torch.equal(model.transform([Image.open(path) for path in paths]), expected)


@pytest.mark.parametrize("image_size", [72, 80])
def test_squares_are_whole_as_in_a_run_whose_images_were_in_memory(untrained_run, squares, image_size):
    settings = {"cache": "memory", "image_size": image_size, "batch_size": 10, "views": "symmetric", "widths": (8, 8, 8, 8)}
    run = untrained_run(dataset=str(squares), **settings)
    model, subject = sparsehead_cli.load(run), load_subject(run, LoadOptions())
    expected = subject.prepare(subject.load_split(str(squares), "test", LoadOptions(workers=0)).inputs)
    paths = sorted(squares.glob("test/*/*"))
    pictures = [Image.open(path) for path in paths]
    for images in (paths, pictures, [np.array(image) for image in pictures]):
        assert torch.equal(model.transform(images), expected)
    streaming = sparsehead_cli.load(untrained_run(dataset=str(squares), **settings | {"cache": "none"}))
    assert not torch.equal(streaming.transform(paths), expected)


def test_what_is_no_image_is_said(model, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    wrong = {
        "images are uint8 .*given float32": torch.zeros(1, 1, 28, 28),
        "given uint8 \\[1, 2, 28, 28\\]": torch.zeros(1, 2, 28, 28, dtype=torch.uint8),
        "an array is uint8": np.zeros((28, 28)),
        "given uint8 \\[0, 0, 3\\]": np.zeros((0, 0, 3), dtype=np.uint8),
        "given a tensor \\[28, 28\\]": torch.zeros(28, 28, dtype=torch.uint8),
        "the list is empty": [],
        "given None": None,
        "mode I;16": Image.new("I;16", (28, 28)),
        "cannot be read as an image": tmp_path / "text.jpg",
        "cannot read .*nothing.png": tmp_path / "nothing.png",
    }
    for message, image in wrong.items():
        with pytest.raises(SparseheadError, match=message):
            model.transform(image)


@torch.no_grad()
def test_somebody_elses_file_says_what_was_guessed(tmp_path):
    network, head = foreign_checkpoint(tmp_path / "theirs" / "epoch=9.ckpt")
    model = sparsehead_cli.load(tmp_path / "theirs" / "epoch=9.ckpt", assume=["mean=0.5", "std=0.25"])
    assert any(line.startswith("guessed: ") for line in model.report)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    views = (image[None].float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(model.transform(image), views)
    torch.testing.assert_close(model.encoder(model.transform(image)), network(views))
    torch.testing.assert_close(model.head(model.encoder(views)), head(network(views)))


def test_it_can_be_trained_further(trained, pictures):
    model = sparsehead_cli.load(trained)
    encoder = model.encoder.requires_grad_(True).train()
    nn.Linear(encoder.dim, 2)(encoder(model.transform(pictures))).sum().backward()
    assert encoder.conv1.weight.grad is not None
