"""What is handed out: the wheel and the sdist hold what they should and no more, know their version, and can be cited."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import yaml

import sparsehead_cli
from sparsehead_cli.runs.folder import code_version

build_sdist, build_wheel = (getattr(pytest.importorskip("hatchling.build"), name) for name in ("build_sdist", "build_wheel"))
pytest.importorskip("hatch_vcs")
ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sparsehead_cli"
LICENCES = ("LICENSE", "sparsehead_cli/data/fashion10k.md", "sparsehead_cli/data/wordnet10k.LICENSE")
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


@pytest.fixture(scope="module")
def in_folder():
    """in_folder(folder, build, target): what pip does in a source tree, without an environment of the build's own; the file."""

    def build_in(folder: Path, build, target: Path) -> Path:
        before = Path.cwd()
        os.chdir(folder)
        try:
            return target / build(str(target))
        finally:
            os.chdir(before)

    return build_in


@pytest.fixture(scope="module")
def sdist(in_folder, tmp_path_factory):
    return in_folder(ROOT, build_sdist, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(in_folder, sdist, tmp_path_factory):
    """Made of the sdist, as `python -m build` does: what the sdist lacks, the wheel lacks."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return in_folder(folder / sdist.name.removesuffix(".tar.gz"), build_wheel, tmp_path_factory.mktemp("wheel"))


def in_sdist(sdist):
    with tarfile.open(sdist) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_the_wheel_is_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert archive.read("sparsehead_cli/experiments.yaml") == (ROOT / "experiments.yaml").read_bytes()
    information = f"sparsehead-{wheel.name.split('-')[1]}.dist-info"
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    expected = {path.relative_to(ROOT).as_posix() for path in files} | {"sparsehead_cli/experiments.yaml"}
    assert {name for name in names if not name.startswith(f"{information}/")} == expected
    assert {"sparsehead_cli/py.typed", "sparsehead_cli/data/fashion10k.npz", "sparsehead_cli/data/wordnet10k.tsv.gz"} <= expected
    assert {f"{information}/licenses/{licence}" for licence in LICENCES} <= names
    assert wheel.stat().st_size < 8e6


def test_the_sdist_has_what_the_wheel_and_its_reader_need(sdist):
    names = in_sdist(sdist)
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "CITATION.cff", "PKG-INFO", *LICENCES} <= names
    assert {name.partition("/")[0] for name in names if "/" in name} == {"sparsehead_cli", "docs"}
    assert sdist.stat().st_size < 9e6


def test_both_have_the_version_that_git_says(sdist, wheel):
    number = wheel.name.split("-")[1]
    assert sdist.name == f"sparsehead-{number}.tar.gz"
    if not (ROOT / ".git").exists():
        assert number == "0.0"
        return
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    dev, local = re.fullmatch(r"\d+(?:\.\d+)+(\.dev\d+)?(?:\+g([0-9a-f]+))?(?:[.+]d\d+)?", number).groups()
    assert (local is None) == (dev is None)  # a tagged commit has neither
    assert local is None or commit.startswith(local)


def test_without_git_and_sdist_there_is_no_version(in_folder, tmp_path):
    """As in an archive that a web page made of the repository."""
    copy = tmp_path / "sparsehead-main"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "experiments.yaml"):
        shutil.copy(ROOT / name, copy)
    (copy / "sparsehead_cli" / "data").mkdir(parents=True)
    for name in ("sparsehead_cli/__init__.py", *LICENCES[1:]):
        shutil.copy(ROOT / name, copy / name)
    assert in_folder(copy, build_wheel, tmp_path).name == "sparsehead-0.0-py3-none-any.whl"


def test_the_wheel_works_in_an_empty_folder(wheel, tmp_path):
    """Its files alone, beside the libraries that are here: data, experiments, version, and what the column `commit` says."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    code = """
import sparsehead_cli
from sparsehead_cli.data import published, text
from sparsehead_cli.runs.experiments import load_entries
from sparsehead_cli.runs.folder import code_version
assert published.EMBEDDED.exists() and text.WORDNET.exists()
print(sparsehead_cli.__file__, sparsehead_cli.__version__, code_version(), len(load_entries()), sep="\\n")
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    place, number, commit, entries = done.stdout.split()
    assert Path(place).is_relative_to(tmp_path / "site")
    assert (number, commit) == (wheel.name.split("-")[1], "v" + wheel.name.split("-")[1])
    assert int(entries) == len(yaml.safe_load((ROOT / "experiments.yaml").read_text()))


def test_what_is_not_installed_has_no_version(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError))  # nor is there a git
    assert sparsehead_cli.__version__ == "0.0"
    assert code_version.__wrapped__() == "v0.0"


def test_the_citation_has_what_its_format_requires():
    """Citation File Format 1.2.0: the fields of the file itself, and of a reference."""
    assert CITATION["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license"} <= set(CITATION)
    (paper,) = CITATION["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert all(author.get("name") or author.get("family-names") for author in CITATION["authors"] + paper["authors"])


def test_the_readme_names_the_paper_that_is_cited():
    (paper,) = CITATION["references"]
    readme = " ".join((ROOT / "README.md").read_text().split())
    number = paper["url"].rpartition("/")[2]
    assert f"*{paper['title']}* ([arXiv {number}]({paper['url']}))" in readme
    assert paper["doi"].endswith(number)
