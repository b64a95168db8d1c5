"""Shared by all tests: a run so small that it trains in a fraction of a second, on real images."""

import collections
import dataclasses
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsehead_cli.data import published
from sparsehead_cli.data.datasets import DATASETS
from sparsehead_cli.nets.backbones import make_backbone
from sparsehead_cli.nets.vit import VITS, make_vit
from sparsehead_cli.runs.config import METHOD_PREFIX, Config, read_experiments

torch.set_num_threads(1)  # matrices this small gain nothing from a second thread, and wait long for it on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")  # nor do the processes that tests start
OF_THE_SYSTEM, published.DEBIAN = published.DEBIAN, Path("no data sets of the system")  # no test passes by what a machine has
PUBLISHED = tuple(DATASETS)  # without those that tests add
FULL = DATASETS["fashion10k"]
# the first 1,000 training images of fashion10k, of which 900 or so are for training
DATASETS["fashion1k"] = dataclasses.replace(FULL, read=lambda folder, train: tuple(a[:1010] for a in FULL.read(folder, train)))
TINY = {
    "dataset": "fashion1k",
    "widths": (8, 8, 8, 8),
    "projector_hidden": 16,
    "projector_out": 8,
    "epochs": 2,
    "batch_size": 100,
    "precision": "float32",
}
RECIPES = read_experiments(Path(__file__).parents[1] / "experiments.yaml")
TIMED = ("images_per_second", "seconds", "waiting_share")  # the columns of metrics.csv that cannot be the same twice


def pytest_addoption(parser):
    parser.addoption("--rest", action="store_true", help="run what is slow, and the tests that were skipped when they last ran")


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "cache"):  # unless it was left out
        config.pluginmanager.register(Skipped(config))
    if config.getoption("--rest"):
        config.option.markexpr = ""  # instead of pyproject.toml's "not slow"


@pytest.hookimpl(tryfirst=True)  # before those that are slow are left out
def pytest_collection_modifyitems(items):
    seen = collections.Counter()
    for item in items:
        if fast := item.get_closest_marker("slow_after"):
            case = item.nodeid.partition("[")[0]
            seen[case] += 1
            if seen[case] > fast.args[0]:
                item.add_marker("slow")


class Skipped:
    """Keeps in pytest's cache which tests were skipped when they last ran: for want of an extra, mostly. `.ci/run` installs them
    and runs those tests again, instead of every test of the same files.
    """

    def __init__(self, config):
        self.config, self.names = config, set(config.cache.get("skipped", []))

    def pytest_collection_modifyitems(self, items):
        if self.config.getoption("--rest"):
            items[:] = [item for item in items if item.get_closest_marker("slow") or self.was_skipped(item)]

    def was_skipped(self, item):
        return bool({item.nodeid, item.nodeid.partition("::")[0]} & self.names)

    def pytest_collectreport(self, report):
        if report.skipped:
            self.names.add(report.nodeid)  # a whole file

    def pytest_runtest_logreport(self, report):
        if report.skipped:
            self.names.add(report.nodeid)
        elif report.when == "call":
            self.names.discard(report.nodeid)

    def pytest_sessionfinish(self):
        if not hasattr(self.config, "workerinput"):
            self.config.cache.set("skipped", sorted(self.names))


@pytest.fixture(autouse=True)
def one_thread():
    """Afterwards, too, whatever a library asked for: accelerate wants two, and two of two test processes wait for each other."""
    yield
    torch.set_num_threads(1)


def method_recipe(name):
    """The method.* settings of the method's recipe in experiments.yaml: of a size for small data."""
    settings = RECIPES.get(name, {})
    return {key.removeprefix(METHOD_PREFIX): value for key, value in settings.items() if key.startswith(METHOD_PREFIX)}


def needs_patches(name):
    """Whether the method hides patches of a vision transformer, which its recipe has."""
    return RECIPES.get(name, {}).get("backbone") in VITS


def tiny_network(name):
    """What TINY needs beside the method: a vision transformer of its size, where the method hides patches."""
    pooling = RECIPES.get(name, {}).get("pooling", "mean")
    return {"backbone": "vit-mini", "pooling": pooling, "widths": (8,), "blocks": (1,)} if needs_patches(name) else {}


def small_backbone(name, size, stages=4):
    """A backbone of 8 channels for grey images of `size` pixels, of the kind that the method needs."""
    if needs_patches(name):
        own = {key: value for key, value in tiny_network(name).items() if key != "backbone"}
        return make_vit("vit-mini", channels=1, image_size=size, **own)
    return make_backbone("narrow", channels=1, image_size=size, widths=(8,) * stages, blocks=(1,) * stages)


@pytest.fixture
def tiny(tmp_path):
    """tiny(**changes) -> a Config whose run takes a fraction of a second."""
    return lambda **changes: Config(**{**TINY, "results": tmp_path / "results", **changes})


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """An image folder as people have them: 3 classes with 20 JPEGs of 48 x 40 to train on and 5 to test; not to be changed."""
    from torchvision.io import write_jpeg

    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 5)):
        for label, name in enumerate(("bird", "cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                image = torch.from_numpy(rng.integers(0, 120, (3, 40, 48), dtype=np.uint8))
                image[label] += 120
                write_jpeg(image, str(root / part / name / f"{i:03}.jpg"))
    return root


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """An image folder of squares above 64 pixels, which would be cut if they streamed: 2 classes with 12 to train on, 3 to test."""
    from PIL import Image

    root = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 3)):
        for name in ("bird", "cat"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 255, (72, 72, 3), dtype=np.uint8)).save(root / part / name / f"{i:02}.png")
    return root


@pytest.fixture
def damageable(photographs, tmp_path):
    """A copy of the photographs that a test may damage."""
    return shutil.copytree(photographs, tmp_path / "photographs")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a run of two epochs on a thousand images, λ 1e-3."""
    from sparsehead_cli.runs.build import build
    from sparsehead_cli.training.loop import pretrain

    return pretrain(build(Config(**TINY, results=tmp_path_factory.mktemp("trained")))).run.folder


@pytest.fixture
def run_folder(trained, tmp_path):
    """A copy of it, in its place below an experiment's folder."""
    return shutil.copytree(trained, tmp_path / "results" / "quickstart" / trained.name)


@pytest.fixture(scope="session")
def untrained_run(tmp_path_factory):
    """untrained_run(**settings) -> the folder of a run with a checkpoint at step 0, made once for the same settings."""
    from tests.exports.runs import make_untrained

    made = {}

    def make(**settings):
        key = repr(sorted(settings.items()))
        if key not in made:
            made[key] = make_untrained(tmp_path_factory.mktemp("untrained"), **settings)
        return made[key]

    return make


@pytest.fixture
def sparsehead(monkeypatch, capfd):
    """sparsehead(*arguments) -> (exit code, stdout, stderr), through the console script's own entry point."""
    from sparsehead_cli.cli import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sparsehead", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as leaving:
            main()
            raise SystemExit(0)
        out, err = capfd.readouterr()
        return leaving.value.code or 0, out, err

    return run
