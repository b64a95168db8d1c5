"""The README and the pages of docs/: what they link to and name exists, and the headline is what the committed table says."""

import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sparsehead_cli"
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
MADE = sorted((ROOT / "docs" / "reference").glob("*.md"))
PAGES = [README, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")), *DOCS, *MADE, *sorted(PACKAGE.rglob("*.md"))]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
NAMES = {"SimCLR": "simclr", "BYOL": "byol", "Barlow Twins": "barlow"}
SIGNED = r"([−+]\d+\.\d)"
HEADLINE = rf"{SIGNED}[\w\s]*\((?:95 % interval )?{SIGNED} to {SIGNED}\) for ({'|'.join(NAMES)})"


def prose(page):
    """A page without its fenced blocks, in which # begins a comment and brackets are no links."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """What can stand behind # in a link to this page: its headings as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page):
    """(path, anchor) of each link into this repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target.partition("#")[::2] for target in targets if not re.match(r"https?://", target)]


@EVERY_PAGE
def test_links_lead_somewhere(page):
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{path} does not exist"
        assert target.is_relative_to(ROOT), f"{path} is outside"
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}: {target.name} has {sorted(anchors(target))}"


@EVERY_PAGE
def test_modules_that_are_named_exist(page):
    for path in re.findall(r"(?<![\w./-])(?:\w+/)+\w+\.py\b", page.read_text()):
        assert any((folder / path).exists() for folder in (ROOT, PACKAGE)), f"{path} does not exist"


def test_the_readme_is_a_door():
    """Short enough for five minutes, and every page of docs/ can be reached from it."""
    text = README.read_text()
    assert len(text.splitlines()) <= 200
    assert 9_000 <= len(text) <= 14_000
    assert {(ROOT / path).resolve() for path, _ in links(README) if path.startswith("docs/")} == set(DOCS)


def test_the_headline_is_what_the_fair_tests_say():
    """Probe and ranks of README.md; docs/results.md is looked at beside its own script."""
    columns = ["difference", "difference_low", "difference_high"]
    text = README.read_text().replace("−", "-").replace("95 % interval ", "")
    tables = {}
    for study in ("confirm-cifar10", "confirm-fashion"):
        table = pd.read_csv(ROOT / "results" / study / "confirmation.csv").set_index(["method", "contrast", "metric"])
        for method, name in (("simclr", "SimCLR"), ("byol", "BYOL")):
            difference, low, high = (100 * table.loc[(method, "chosen - zero", "accuracy"), columns]).round(2)
            assert f"{difference:+.2f} points ({low:+.2f} to {high:+.2f}) for {name}" in " ".join(text.split())
        tables[study] = table
    for contrast, rank, words in (("chosen - zero", "z", "falls by"), ("control - zero", "r", "")):
        difference, low, high = tables["confirm-cifar10"].loc[("simclr", contrast, f"effective_rank_{rank}"), columns]
        assert low * high > 0
        value = f"{abs(difference):.2f} ± {(high - low) / 2:.2f}"
        assert (f"{words} {value}" if words else f"({difference:+.2f} ± {(high - low) / 2:.2f})") in " ".join(text.split())
    ranks = tables["confirm-fashion"].query("contrast == 'chosen - zero' and metric.isin(['effective_rank_r', 'effective_rank_z'])")
    assert (ranks["p_holm"] > 0.05).all()
    assert "none of the ranks" in text


@pytest.mark.parametrize("page", [ROOT / "docs" / "studies.md"], ids=lambda page: page.name)
def test_the_headline_is_what_the_table_says(page):
    """The linear probe's paired difference to λ 0, at the λ that is best on held-out images, with its 95 % interval."""
    summary = pd.read_csv(ROOT / "results" / "lambda-methods" / "sweep_summary.csv")
    best = summary[(summary["metric"] == "accuracy") & summary["chosen"].isin(["best", "both"])].set_index("method")
    reported = re.findall(HEADLINE, page.read_text())
    assert [name for *_, name in reported] == list(NAMES)
    for *numbers, name in reported:
        row = best.loc[NAMES[name], ["difference", "difference_low", "difference_high"]]
        assert numbers == [f"{100 * value:+.1f}".replace("-", "−") for value in row]
        assert row["difference_low"] < 0 < row["difference_high"]


@pytest.mark.parametrize("page", [ROOT / "docs" / "studies.md"], ids=lambda page: page.name)
def test_the_ranks_of_the_headline_are_what_the_table_says(page):
    """The paired difference of r's effective rank at λ 3e-3, with half of its 95 % interval."""
    table = pd.read_csv(ROOT / "results" / "lambda-methods" / "spectrum_by_lam.csv")
    rows = table[(table["metric"] == "effective_rank") & (table["features"] == "r") & (table["lam"] == 3e-3)].set_index("method")
    text = page.read_text()
    for method, change in {"simclr": -1, "byol": -1, "barlow": 1}.items():
        row = rows.loc[method]
        assert row["difference_low"] * row["difference_high"] > 0
        assert row["difference"] * change > 0
        assert f"{abs(row['difference']):.1f} ± {(row['difference_high'] - row['difference_low']) / 2:.1f}" in text
