"""The pages that are made from the code are as the code is, and those that name its terms and floors name all of them."""

import re
from pathlib import Path

import pytest
import yaml

from sparsehead_cli import __all__ as public
from sparsehead_cli.cli import app
from sparsehead_cli.data.datasets import DATASETS
from sparsehead_cli.measure.definitions import HEAD, SPECTRUM
from sparsehead_cli.runs.config import FIELDS
from sparsehead_cli.runs.tables import COLUMNS, TABLES
from tests.conftest import PUBLISHED
from tests.test_architecture import FLOORS
from website.reference import FOLDER, PAGES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WORDS = ("image", "view", "backbone", "representation", "head", "embedding", "group", "λ", "source", "phase", "run", "study")
BUILT = ("effective_rank_r_at_equal_knn", "rank_correlation_")  # names that are made of two


@pytest.fixture(autouse=True)
def published(monkeypatch):
    """Without the data sets that tests add."""
    for name in set(DATASETS) - set(PUBLISHED):
        monkeypatch.delitem(DATASETS, name)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says(name, monkeypatch):
    """Whoever changes a setting, a name, a column or a docstring makes the pages anew: python -m website.reference."""
    monkeypatch.chdir(ROOT)
    assert (FOLDER / name).read_text() == PAGES[name]()


def test_every_setting_option_and_column_is_there():
    pages = {name: (FOLDER / name).read_text() for name in PAGES}
    assert all(f"| `{name}` |" in pages["settings.md"] for name in FIELDS)
    assert all(f"| `{name}` |" in pages["columns.md"] for name in COLUMNS)
    assert all(f"* `{name}`: " in pages["columns.md"] for name in TABLES)
    assert len(re.findall(r"^## `sparsehead ", pages["commands.md"], re.MULTILINE)) == len(app.registered_commands)
    assert all(re.search(rf"^::: \S+\.{name}$", pages["api.md"], re.MULTILINE) for name in public)


def test_every_page_has_its_place_in_the_site():
    def files(entry):
        if isinstance(entry, str):
            return [entry]
        return [file for part in (entry.values() if isinstance(entry, dict) else entry) for file in files(part)]

    named = files(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert set(named) == pages | {"index.md", "contributing.md", "notebook.md"}
    assert len(set(named)) == len(named)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_a_page_begins_with_what_it_is_for(page):
    title, first = page.read_text().split("\n\n")[:2]
    assert re.fullmatch("# .+", title)
    assert re.match(r"(This|These) pages? ", first), first


def test_the_glossary_has_every_term():
    text = (DOCS / "glossary.md").read_text()
    assert not [name for name in (*SPECTRUM, *HEAD) if f"`{name}`" not in text]
    assert not [word for word in WORDS if not re.search(rf"\b{word}", text, re.IGNORECASE)]
    assert set(re.findall(r"`([a-z]+_\w+)`", text)) <= {*COLUMNS, *SPECTRUM, *HEAD, *BUILT}


def test_the_floors_are_those_of_the_house():
    """docs/architecture.md has the packages in the order in which they may import each other."""
    lines = re.findall(r"^\| \d+ \| (.+?) \|", (DOCS / "architecture.md").read_text(), re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", line)) for line in lines] == FLOORS
