"""A tiny trained run, once for all tests of the room; each test gets a copy of its folder."""

import shutil

import pytest

from sparsehead_cli.config import Config
from sparsehead_cli.training.build import build
from sparsehead_cli.training.loop import pretrain
from tests.conftest import TINY


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a run of two epochs on a thousand images, λ 1e-3."""
    return pretrain(build(Config(**TINY, results=tmp_path_factory.mktemp("trained")))).run.folder


@pytest.fixture
def run_folder(trained, tmp_path):
    """A copy of it, in its place below an experiment's folder."""
    return shutil.copytree(trained, tmp_path / "results" / "quickstart" / trained.name)
