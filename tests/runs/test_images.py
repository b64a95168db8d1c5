"""What a run is where nothing was said but its images: views, recipe, and the folder that it is filed under."""

import dataclasses

import numpy as np
import pytest
import torch

from sparsehead_cli.data.augment import RECIPES
from sparsehead_cli.data.contract import ImageSpec
from sparsehead_cli.data.datasets import DATASETS
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config, load_config, read_experiments
from sparsehead_cli.runs.identity import run_folder, run_identity
from sparsehead_cli.runs.images import Images
from sparsehead_cli.sweeps.grid import read_grid, trials

SUITING = read_experiments()["colour-small"]


def folder_of(config):
    return run_folder(config, run_identity(config))


@pytest.mark.parametrize(
    ("images", "method", "views"),
    [
        (Images(1, 28), "simclr", "grey-small"),
        (Images(1, 224), "simclr", "grey-large"),
        (Images(3, 32), "simclr", "colour-small"),
        (Images(3, 64), "byol", "colour-small"),
        (Images(3, 96), "simclr", "symmetric"),
        (Images(3, 224), "byol", "asymmetric-blur"),
    ],
)
def test_views_follow_channels_and_size(images, method, views):
    assert images.views(method) == views
    strengths = RECIPES[views]
    assert any(view.blur_p for view in strengths) == (images.kind != "colour-small")  # nothing of 32 coloured pixels is blurred
    assert any(view.hue or view.saturation or view.grey_p for view in strengths) == (images.channels == 3)


def test_the_embedded_images_have_what_they_had():
    config = load_config(None, None, {})
    assert config == Config()
    assert run_identity(config) == {"schema": 1}
    assert config.notes == (("views", "as suits small grey images"),)
    assert load_config(None, None, {"dataset": "mnist"}).views == "grey-small"


def test_small_colour_images_have_colour_views_and_a_recipe():
    config = load_config(None, None, {"dataset": "cifar10"})
    assert config.views == "colour-small"
    assert (config.epochs, config.lam) == (SUITING["epochs"], SUITING["lam"])
    assert config.notes[0] == ("views", "as suits small colour images")
    assert config.notes[1][1].startswith(f"epochs {config.epochs}, lam {config.lam}, as suits small colour images")
    assert load_config(None, None, {"dataset": "cifar10", "epochs": 3}).epochs == 3


def test_sentences_keep_their_recipe_whichever_of_their_views_are_named():
    """Of a method's own recipe, which was fitted to images, its own numbers are left."""
    for given in ({}, {"views": "deletion"}, {"views": "pairs", "method": "vicreg"}, {"method": "byol"}, {"method": "mae"}):
        config = load_config(None, None, {"dataset": "wordnet10k", **given})
        assert (config.backbone, config.optimizer, config.lr, config.epochs) == ("minilm", "adamw", 3e-5, 1), given
        assert config.views == given.get("views", "dropout")
    assert load_config(None, None, {"dataset": "wordnet10k", "method": "byol"}).method_settings["momentum"] == 0.97
    assert load_config(None, None, {"views": "dropout"}).lr == Config().lr  # images, and the views are refused later


def test_who_says_which_views_there_are_has_a_recipe():
    """A run of which an older version was told the views keeps its name."""
    config = load_config(None, None, {"dataset": "cifar10", "views": "grey-small"})
    assert config == dataclasses.replace(Config(dataset="cifar10"), experiment="simclr-on-cifar10")
    assert run_identity(config) == {"schema": 1, "dataset": "cifar10"}
    named = load_config("simclr-cifar", None, {})
    assert (named.views, named.epochs, named.notes) == ("symmetric", 1000, ())


def test_the_recipe_of_a_method_without_what_was_fitted_to_the_embedded_images():
    mae, byol = (load_config(None, None, {"dataset": "cifar10", "method": method}) for method in ("mae", "byol"))
    assert (mae.views, mae.epochs, mae.method_settings) == ("crop", SUITING["epochs"], {"masked": 0.5, "standardise": False})
    assert (byol.views, byol.epochs, byol.method_settings["momentum"]) == ("colour-small", SUITING["epochs"], 0.97)
    assert load_config("byol", None, {"dataset": "cifar10"}).epochs == 20  # a named experiment is what it says


def test_an_entry_for_images_of_ones_own(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("colour-small: {views: weak, epochs: 2}\ngrey-small: {lr: 0.5}\n")
    config = load_config(None, path, {"dataset": "svhn"})
    assert (config.views, config.epochs, config.lam) == ("weak", 2, Config.lam)
    assert ("experiment", f"colour-small in {path}, in place of the built-in one") in config.notes
    assert load_config(None, path, {}).lr == 0.5


def test_the_size_is_that_of_the_run(photographs):
    small = load_config(None, None, {"dataset": str(photographs), "image_size": 32})
    large = load_config(None, None, {"dataset": str(photographs), "image_size": 224})
    assert (small.views, large.views) == ("colour-small", "symmetric")
    assert load_config(None, None, {"dataset": "stl10", "method": "barlow"}).views == "asymmetric-blur"


def test_a_sweep_chooses_as_pretrain_does():
    (config,) = trials(read_grid("lambda-quick", None, {"lams": "0", "seeds": 1}, {"dataset": "cifar10"}), "lambda-quick")
    assert (config.views, config.epochs) == ("colour-small", 4)
    said = {"dataset": "cifar10", "views": "weak"}
    (config,) = trials(read_grid("lambda-quick", None, {"lams": "0", "seeds": 1}, said), "lambda-quick")
    assert config.views == "weak"


# ---------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    ("overrides", "experiment"),
    [
        ({}, "quickstart"),
        ({"lam": 1e-4, "backbone": "resnet18"}, "quickstart"),
        ({"dataset": "fashion10k"}, "quickstart"),
        ({"method": "byol"}, "byol"),
        ({"dataset": "cifar10"}, "simclr-on-cifar10"),
        ({"dataset": "cifar10", "method": "byol"}, "byol-on-cifar10"),
        ({"method": "mine.code:Mine"}, "mine.code-Mine"),
        ({"dataset": "mine:load"}, "simclr-on-mine-load"),
        ({"dataset": "/data/My photos (2024)/"}, "simclr-on-My-photos-2024"),
        ({"dataset": "/data/..."}, "simclr-on-data"),
        ({"method": "../x"}, "x"),
    ],
)
def test_nothing_but_quickstart_is_called_quickstart(overrides, experiment, monkeypatch):
    monkeypatch.setattr("sparsehead_cli.runs.images.images_of", lambda *what: None)  # none of these is there
    assert load_config(None, None, overrides).experiment == experiment


def test_a_path_is_filed_under_its_last_part(photographs, monkeypatch):
    monkeypatch.chdir(photographs)
    assert load_config(None, None, {"dataset": "."}).experiment == f"simclr-on-{photographs.name}"


def test_a_run_that_was_filed_under_quickstart_stays_there(tmp_path):
    config = load_config(None, None, {"dataset": "cifar10", "views": "weak", "results": tmp_path})
    folder = folder_of(config)
    assert folder.parent.name == "simclr-on-cifar10"
    (tmp_path / "quickstart" / folder.name).mkdir(parents=True)
    assert folder_of(config) == tmp_path / "quickstart" / folder.name
    folder.mkdir(parents=True)
    assert folder_of(config) == folder


def test_its_rows_go_on_with_the_name_of_its_folder(tiny):
    config = tiny(experiment="simclr-on-fashion1k", formerly="quickstart")
    folder = folder_of(config)
    assert build(config).config.experiment == "simclr-on-fashion1k"
    (folder.parents[1] / "quickstart" / folder.name).mkdir(parents=True)
    assert build(config).config.experiment == "quickstart"


# ---------------------------------------------------------------------------------------------- what the header says


class Stop(Exception):
    """Ends a run before its first step."""


@pytest.fixture
def header(sparsehead, tmp_path, monkeypatch):
    """header(*arguments) -> what `pretrain` says before it trains, on 300 images that stand in for CIFAR-10."""
    images = np.random.default_rng(0).integers(0, 256, (300, 3, 32, 32), dtype=np.uint8), np.arange(300) % 10
    monkeypatch.setitem(DATASETS, "cifar10", dataclasses.replace(DATASETS["cifar10"], read=lambda folder, train: images))
    monkeypatch.setattr("sparsehead_cli.training.loop.train_epoch", lambda *what: (_ for _ in ()).throw(Stop))

    def run(*arguments):
        small = ("--set", "widths=8,8,8,8", "--batch-size", "50", "--results", tmp_path)
        with pytest.raises(Stop):
            sparsehead("pretrain", *arguments, *small)

    return run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dataset", "cifar10"], "     views  colour-small, as suits small colour images\n"),
        (["--dataset", "cifar10"], "    folder  "),
        (["--dataset", "cifar10", "--set", "views=grey-small"], "grey-small; made for grey images: colours stay as they are\n"),
        (["--set", "views=symmetric"], "symmetric; saturation, hue and greyscale do nothing to grey images\n"),
        (
            ["--set", "views=[{area: [0.5, 1], grey_p: 0.5, jitter_p: 0}, {}]"],
            "2 of your own: area 0.5–1, ratio ",
        ),
        (["--experiment", "simclr-cifar", "--epochs", "2"], "   warm-up  2 epochs, not the 10 of simclr-cifar, built in"),
    ],
)
def test_the_header(header, capfd, arguments, says):
    header(*arguments)
    assert says in capfd.readouterr().out


def test_own_data_is_looked_at(tmp_path, monkeypatch):
    """Also where it is a list of tasks; of inputs that are no images nothing is known."""
    (tmp_path / "tasks_of_mine.py").write_text("def load(split, data_dir): return SOURCES\n")
    monkeypatch.syspath_prepend(tmp_path)
    import tasks_of_mine

    from sparsehead_cli.data.memory import Memory

    spec = ImageSpec(("a", "b"), 3, 16, DATASETS["cifar10"].normalise)
    source = Memory(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), spec)
    for tasks_of_mine.SOURCES in (source, [source, source]):
        assert load_config(None, None, {"dataset": "tasks_of_mine:load"}).views == "colour-small"
    tasks_of_mine.SOURCES = Memory(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), "words")
    assert load_config(None, None, {"dataset": "tasks_of_mine:load"}) == dataclasses.replace(
        Config(dataset="tasks_of_mine:load"), experiment="simclr-on-tasks_of_mine-load"
    )
