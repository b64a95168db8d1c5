"""Shared by all tests: a run so small that it trains in a fraction of a second, on real images."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from sparsehead_cli.config import METHOD_PREFIX, Config, read_experiments
from sparsehead_cli.data.datasets import DATASETS

torch.set_num_threads(1)  # matrices this small gain nothing from a second thread, and wait long for it on a busy machine
FULL = DATASETS["fashion10k"]
# the first 1,000 training images of fashion10k, of which 900 or so are for training
DATASETS["fashion1k"] = dataclasses.replace(FULL, read=lambda folder, train: tuple(a[:1010] for a in FULL.read(folder, train)))
TINY = {
    "dataset": "fashion1k",
    "widths": (4, 4, 8, 8),
    "projector_hidden": 16,
    "projector_out": 8,
    "epochs": 2,
    "batch_size": 100,
    "precision": "float32",
}
RECIPES = read_experiments(Path(__file__).parents[1] / "experiments.yaml")
TIMED = ("images_per_second", "seconds")  # the columns of metrics.csv that cannot be the same twice


def method_recipe(name):
    """The method.* settings of the method's recipe in experiments.yaml: of a size for small data."""
    settings = RECIPES.get(name, {})
    return {key.removeprefix(METHOD_PREFIX): value for key, value in settings.items() if key.startswith(METHOD_PREFIX)}


@pytest.fixture
def tiny(tmp_path):
    """tiny(**changes) -> a Config whose run takes a fraction of a second."""
    return lambda **changes: Config(**{**TINY, "results": tmp_path / "results", **changes})


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
