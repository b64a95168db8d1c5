"""`sparsehead report`: what was measured becomes the same tables again, and a page that a browser can be trusted with."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sparsehead_cli.present.beside import write_beside
from sparsehead_cli.present.commands import commands_of
from sparsehead_cli.present.page import paragraph, sort_key, written
from sparsehead_cli.present.report import write_study
from sparsehead_cli.present.study_figures import MOST_WHOLE, spectra_figures
from sparsehead_cli.present.sweep import draw_sweep
from sparsehead_cli.present.table import Cell, Column, csv_table, difference
from sparsehead_cli.runs.table_files import read_csv, replace_csv
from sparsehead_cli.ssl.methods import METHODS
from sparsehead_cli.study.study import Study, read_study
from sparsehead_cli.sweeps.sweep import SweepState, write_tables
from tests.browser import CHROMEDRIVER, CHROMIUM, Browser
from tests.present.test_figures import tables as spectra_rows
from tests.study.test_curves import metrics, trial
from tests.test_cli import assert_one_error

RESULTS = Path(__file__).parents[2] / "results"
LAMS = (0.0, 1e-5, 1e-4, 2e-3)
EVIL = '<script>document.title = "owned"</script>"><img src=x onerror="document.title=1">'


def swept(folder, methods=("simclr", "byol"), seeds=2, **changes):
    """A folder as a sweep leaves it, run folders included; the rows of its sweep.csv."""
    rows = [
        trial(lam, seed, method=method, run=f"{method}-{lam:g}-seed{seed}", accuracy=str(0.8 + seed / 100 - lam), **changes)
        for seed in range(seeds)
        for method in methods
        for lam in LAMS
    ]
    for row in rows:
        (folder / row["run"]).mkdir(parents=True)
        replace_csv(folder / row["run"] / "metrics.csv", metrics(row, 3))
    write_tables(SweepState(folder, dict.fromkeys(row["run"] for row in rows), {row["run"]: row for row in rows}))
    draw_sweep(folder)
    return rows


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "a-study"


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """The folder of a study with a sweep, its run folders and spectra; not to be changed."""
    found = tmp_path_factory.mktemp("everything") / "a-study"
    swept(found, methods=("simclr", "byol", "barlow", "moco"))
    spectra(found)
    return found


def test_many_settings_have_a_map_alone_and_no_figure_of_what_was_there_before(folder):
    assert MOST_WHOLE == 12
    swept(folder, methods=list(METHODS)[:12])
    assert {path.stem for path in folder.glob("*.png")} == {"sweep", "sweep_map"}
    swept(folder / "more", methods=list(METHODS)[:13])
    shutil.copy(folder / "sweep.png", folder / "more")
    draw_sweep(folder / "more")
    assert {path.stem for path in (folder / "more").glob("*.png")} == {"sweep_map"}
    shutil.copy(folder / "sweep.svg", folder / "more")
    written = write_study(read_study(folder / "more"))
    assert not [path for path in written if path.stem == "sweep" and path.suffix == ".svg"]
    assert not (folder / "more" / "sweep.svg").exists()


def test_a_study_without_a_sweep_keeps_a_file_that_is_named_like_its_figure(folder):
    folder.mkdir()
    spectra(folder)
    (folder / "sweep.png").write_bytes(b"somebody's own")
    write_study(read_study(folder))
    assert (folder / "sweep.png").read_bytes() == b"somebody's own"


def spectra(folder, runs=2):
    """A few checkpoints of results/spectrum, with the spectra over training of one."""
    source = RESULTS / "spectrum"
    kept = list(dict.fromkeys(row["run"] for row in read_csv(source / "spectrum_metrics.csv")))[:runs]
    folder.mkdir(exist_ok=True)
    for name in ("spectrum.csv", "spectrum_metrics.csv"):
        replace_csv(folder / name, [row for row in read_csv(source / name) if row["run"] in kept])
    (folder / kept[0]).mkdir(exist_ok=True)
    shutil.copy(source / kept[0] / "spectrum_epochs.csv", folder / kept[0])


@pytest.fixture(scope="module")
def page(everything, tmp_path_factory):
    """The page of a study with everything, one name of which is markup."""
    folder = shutil.copytree(everything, tmp_path_factory.mktemp("reported") / "a-study")
    rows = read_csv(folder / "sweep.csv")
    rows[0]["run"] += EVIL
    replace_csv(folder / "sweep.csv", rows)
    return write_study(read_study(folder))[-1]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix != ".sha256"}


@pytest.mark.slow
def test_tables_and_figures_are_those_that_the_sweep_wrote(sparsehead, folder):
    swept(folder)
    before = files(folder)
    assert set(before) == {
        "sweep.csv",
        "sweep_summary.csv",
        "curves.csv",
        *(f"{n}.{kind}" for n in ("sweep", "sweep_map") for kind in ("png", "svg")),
    }
    for name in set(before) - {"sweep.csv", "curves.csv"}:
        (folder / name).unlink()
    for run in [path for path in folder.iterdir() if path.is_dir()]:
        shutil.rmtree(run)  # as in a clone of the repository
    code, out, err = sparsehead("report", folder)
    assert (code, err) == (0, "")
    after = files(folder)
    page = after.pop("report.html")
    assert after == before
    assert "SimCLR: no λ has a better mean than 0" in out
    assert f"page    {folder}/report.html" in out
    assert "BYOL: no λ has a better mean than 0" in page.decode().replace("\u00a0", " ")
    sparsehead("report", folder)
    assert (folder / "report.html").read_bytes() == page


@pytest.mark.parametrize("name", ["lambda-auto", "lambda-methods", "lambda-penalties"])
def test_committed_summaries_are_what_their_trials_say(sparsehead, tmp_path, name):
    for table in ("sweep.csv", "pruned.csv"):
        if (RESULTS / name / table).exists():
            shutil.copy(RESULTS / name / table, tmp_path)
    if name == "lambda-auto":  # the page of the smallest; drawing the others' figures would show nothing more
        assert sparsehead("report", tmp_path)[0] == 0
        assert (tmp_path / "report.html").stat().st_size < 1_000_000
    else:
        replace_csv(tmp_path / "sweep_summary.csv", read_study(tmp_path).summary)
    found, kept = (read_csv(path / "sweep_summary.csv") for path in (tmp_path, RESULTS / name))
    for row, other in zip(found, kept, strict=True):
        assert list(row) == list(other)
        for cell, before in zip(row.values(), other.values(), strict=True):  # another processor may round otherwise
            assert cell == before or float(cell) == pytest.approx(float(before), nan_ok=True)


@pytest.mark.slow
def test_run_folders_give_their_curves_and_others_keep_theirs(sparsehead, folder):
    rows = swept(folder)
    (folder / "curves.csv").unlink()
    shutil.rmtree(folder / rows[0]["run"])
    sparsehead("report", folder)
    assert [row["run"] for row in read_csv(folder / "curves.csv")[::3]] == [row["run"] for row in rows[1:]]
    missing = f"15 of 16 trials have curves. Neither curves.csv nor a run folder beside it has epochs of {rows[0]['run']}:"
    assert missing in (folder / "report.html").read_text()


@pytest.mark.slow
def test_spectra_alone_and_beside_a_sweep(sparsehead, tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    spectra(alone, runs=4)
    swept(both, methods=("simclr",))
    spectra(both, runs=4)
    code, _, err = sparsehead("report", alone, both)
    assert (code, err) == (0, "")
    assert set(files(alone)) == {
        *("spectrum.csv", "spectrum_metrics.csv", "spectrum_by_lam.csv", "spectra.png", "spectra.svg", "report.html"),
    }
    headings = [re.findall("<h2>(.*?)</h2>", (folder / "report.html").read_text()) for folder in (alone, both)]
    assert headings[0] == ["Spectra", "Spectra over training", "The commands", "Tables"]
    assert headings[1] == ["Verdicts", "Against λ", "Means and differences", "Over the epochs", *headings[0]]
    page = (alone / "report.html").read_text()
    assert "Spectra of 4 checkpoints on 2,000 images of fashion10k (test)." in page
    assert "partially collapsed" in page


@pytest.mark.slow
def test_spectra_that_would_fill_one_figure_have_one_a_setting(tmp_path):
    for methods, figures in ((6, 1), (7, 7)):
        found = [spectra_rows(lams=(0.0, 1e-3), method=f"m{i}") for i in range(methods)]
        eigenvalues, metrics = ([row for rows in part for row in rows] for part in zip(*found, strict=True))
        study = Study(tmp_path, [], [], [], [], eigenvalues, metrics, [], {})
        assert len(spectra_figures(study)) == figures


@pytest.mark.slow
def test_a_single_trial_and_somebody_elses_checkpoint(sparsehead, folder):
    folder.mkdir()
    replace_csv(folder / "sweep.csv", [trial(0.0, 0)])
    spectra(folder, runs=1)
    shutil.rmtree(next(path for path in folder.iterdir() if path.is_dir()))
    for name in ("spectrum.csv", "spectrum_metrics.csv"):
        unknown = dict.fromkeys(("penalty", "solver", "lam", "seed", "step", "total_steps", "dataset"), "")
        replace_csv(folder / name, [{**row, **unknown} for row in read_csv(folder / name)])
    code, out, err = sparsehead("report", folder)
    assert (code, err) == (0, "")
    assert "λ 0 alone was trained" in out
    page = (folder / "report.html").read_text()
    assert "Which λ? 1 finished trial of 1 setting × 1 λ × 1 seed." in page
    assert "Over the epochs" not in page


@pytest.mark.slow
def test_a_page_says_how_it_is_made_again(sparsehead, folder):
    swept(folder)
    spectra(folder, runs=2)
    assert sparsehead("report", folder)[0] == 0
    page = (folder / "report.html").read_text()
    commands = re.findall("<dd><code>(.*?)</code></dd>", page)
    assert commands[0].startswith(
        "sparsehead sweep-lambda --experiment e --dataset fashion10k --methods simclr,byol --penalties l21"
    )
    assert commands[0].endswith("--batch-norm true --lams 0,1e-05,0.0001,0.002 --seeds 2")
    where = "/".join(folder.parts[-2:])
    assert re.fullmatch(f"sparsehead spectrum ({where}/simclr-\\S+ ){{2}}--out {where}", commands[1])
    assert commands[2] == f"sparsehead report {where}"
    part = [{**row, "split": "200 of val", "images": "200"} for row in read_csv(folder / "spectrum_metrics.csv")]
    replace_csv(folder / "spectrum_metrics.csv", [{**row, "eval_dataset": "my photos"} for row in part])
    trials = read_csv(folder / "sweep.csv")
    cured = [{**row, "regularisers": "koleo:0.1", "run": f"{row['run']}-cured"} for row in trials]
    replace_csv(folder / "sweep.csv", [*({**row, "regularisers": "none"} for row in trials), *cured])
    (_, sweep), (_, spectrum), _ = commands_of(read_study(folder))
    assert " --solvers subgradient --regularisers none,koleo:0.1 --dims 128 " in sweep
    assert spectrum.endswith(f" --dataset 'my photos' --split val --images 200 --out {where}")


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A page of two studies."""
    folder = tmp_path_factory.mktemp("several")
    swept(folder / "first", methods=("simclr",))
    swept(folder / "second", methods=("barlow",), dataset="wordnet10k")
    return write_beside([read_study(folder / name) for name in ("first", "second")], folder / "pages" / "beside.html")


@pytest.mark.slow
def test_studies_stand_beside_each_other_on_one_page(beside, browser):
    text = beside.read_text().replace("\u00a0", " ")
    assert "2 studies: first, second." in text
    assert "first: SimCLR: no λ has a better mean than 0 on held-out images; the next best, λ 1e-05, is" in text
    assert "second: Barlow Twins: no λ has a better mean than 0 on held-out sentences; the next best, λ 1e-05, is" in text
    places = "return [...document.querySelectorAll('figure')].map(f => f.getBoundingClientRect()).map(b => [b.left, b.top])"
    for width, is_beside in ((1280, True), (400, False)):
        browser.open(beside, width)
        (left, top), (other_left, other_top) = browser.run(places)
        assert (top == other_top and other_left > left) is is_beside
        assert (left == other_left and other_top > top) is not is_beside
        assert browser.run("return document.documentElement.scrollWidth") == width
    said, asked = browser.heard()
    assert said == []
    assert [address for address in asked if not address.startswith("data:")] == [beside.as_uri()]


def test_folders_without_sweeps_cannot_stand_beside_each_other(sparsehead, tmp_path):
    spectra(tmp_path / "alone")
    error = assert_one_error(sparsehead("report", tmp_path / "alone", "--beside", tmp_path / "x.html"))
    assert "none of these folders has one" in error
    assert not list(tmp_path.rglob("*.html"))


class Pointing(HTMLParser):
    """Collects what the elements of a page point at, and their ids."""

    def __init__(self):
        super().__init__()
        self.targets, self.names = [], []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.names.append(value)
            elif name in ("src", "srcset", "href", "xlink:href", "action", "data", "poster", "background"):
                self.targets.append(value)
            else:
                self.targets += re.findall(r"url\(([^)]*)\)", value or "")


@pytest.mark.slow
def test_a_page_asks_for_nothing(page):
    text = page.read_text()
    found = Pointing()
    found.feed(text)
    assert len(found.targets) > 100
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in found.targets)
    assert not re.search(r"@import|url\(", re.search("<style>(.*?)</style>", text, re.DOTALL)[1])
    assert "default-src 'none'" in text
    assert len(found.names) == len(set(found.names))
    assert {target[1:] for target in found.targets if target.startswith("#")} <= set(found.names)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("column", ["run", "method", "experiment", "dataset"])
def test_names_are_text_not_markup(sparsehead, folder, column):
    folder.mkdir()
    rows = [trial(lam, seed, run=f"run {lam} {seed}") for lam in LAMS for seed in (0, 1)]
    replace_csv(folder / "sweep.csv", [{**row, column: row[column] + EVIL} for row in rows])
    assert sparsehead("report", folder)[0] == 0
    page = (folder / "report.html").read_text()
    assert "&lt;script&gt;document" in page
    assert "<script>document" not in page
    assert "<img" not in page


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("sweep.csv", lambda line: line[:50]),
        ("sweep.csv", lambda line: line + ",1"),
        ("sweep.csv", lambda line: line.replace("0.7", "o.7", 1)),
        ("sweep.csv", lambda line: line.replace(",", ',"', 1)),
        ("sweep.csv", lambda line: line.replace(",0.", ",inf", 1).replace("1e-05", "inf")),
        ("curves.csv", lambda line: line[:50]),
        ("spectrum.csv", lambda line: line[:50]),
        ("spectrum_metrics.csv", lambda line: line[:50]),
    ],
)
def test_a_damaged_line_is_told_and_nothing_is_overwritten(sparsehead, everything, folder, name, damage):
    shutil.copytree(everything, folder)
    lines = (folder / name).read_text().splitlines()
    whole, lines[2] = lines[2], damage(lines[2])
    assert lines[2] != whole
    (folder / name).write_text("\n".join(lines) + "\n")
    before = files(folder)
    error = assert_one_error(sparsehead("report", folder))
    assert f"{folder / name} is damaged in line 3: " in error
    assert "emove " in error
    assert error.count("\n") == 1
    assert files(folder) == before


def test_a_missing_line_of_a_spectrum_is_told(sparsehead, tmp_path):
    spectra(tmp_path, runs=2)
    rows = read_csv(tmp_path / "spectrum_metrics.csv")
    replace_csv(tmp_path / "spectrum_metrics.csv", [row for row in rows if (row["metric"], row["features"]) != ("dims_99", "z")])
    error = assert_one_error(sparsehead("report", tmp_path)).replace("\n", " ")
    assert "lacks the dims_99 of z of task" in error
    assert "Remove all lines of that task" in error


def test_bytes_that_are_no_text_and_another_table(sparsehead, everything, folder):
    shutil.copytree(everything, folder)
    whole = (folder / "sweep.csv").read_bytes()
    (folder / "sweep.csv").write_bytes(whole.replace(b"byol", b"by\xff\xfel", 1))
    assert "sweep.csv is damaged in line 6: it is not UTF-8 text." in assert_one_error(sparsehead("report", folder))
    (folder / "sweep.csv").write_bytes(whole.replace(b",accuracy_z,", b",accuracy,", 1))
    assert "sweep.csv has no column accuracy_z" in assert_one_error(sparsehead("report", folder))


def test_folders_without_anything_to_report(sparsehead, folder, tmp_path):
    assert "nowhere does not exist" in assert_one_error(sparsehead("report", tmp_path / "nowhere")).replace("\n", "")
    assert "report.py is no folder" in assert_one_error(sparsehead("report", __file__)).replace("\n", "")
    folder.mkdir()
    error = assert_one_error(sparsehead("report", folder))
    assert "has no rows in sweep.csv (of `sparsehead sweep-lambda`), nor in spectrum.csv and spectrum_metrics.csv" in error
    assert not list(folder.iterdir())
    spectra(folder)
    (folder / "spectrum_metrics.csv").unlink()
    assert "spectrum.csv, but no rows in spectrum_metrics.csv" in assert_one_error(sparsehead("report", folder))
    assert_one_error(sparsehead("report"), code=2)


def test_all_folders_are_read_before_one_is_written(sparsehead, everything, folder, tmp_path):
    shutil.copytree(everything, folder)
    before = files(folder)
    assert_one_error(sparsehead("report", folder, tmp_path / "nowhere"))
    assert files(folder) == before


def test_numbers_are_rounded_for_people_and_sorted_in_full():
    plain, values = Column("as in a CSV", digits=None), (0.123456, 12345.0, -0.5, 1e-05, 0.0, float("nan"), "")
    assert [written(Cell(value), plain) for value in values] == ["0.1235", "12345", "−0.5", "1e-05", "0", "–", "–"]
    column = Column("effective rank", digits=1).from_zero()
    differences = [difference({"difference": value, "difference_high": ""}) for value in (0.04, -0.04, 1.25, -3.0, "")]
    assert [written(cell, column) for cell in differences] == ["0.0", "0.0", "+1.2", "−3.0", "–"]
    assert [sort_key(cell, column) for cell in differences] == ["0.04", "-0.04", "1.25", "-3", ""]
    percent, cell = Column("accuracy", digits=1, scale=100), Cell("0.8512345678", low="0.8", high="0.9")
    assert (written(cell, percent), sort_key(cell, percent)) == ("85.1 (80.0–90.0)", "0.8512346")
    assert written(Cell(0, of=0), Column("part")) == "–"
    text = Column("name", text=True)
    assert sort_key(Cell("a -1 b"), text) == written(Cell("a -1 b"), text) == "a -1 b"


def test_a_csv_keeps_its_kinds_and_says_once_what_is_the_same_in_all_rows():
    rows = [{"commit": "12e4", "run": "a", "x": 1, "same": -2.50}, {"commit": "7", "run": "b", "x": "", "same": -2.5}]
    table = csv_table("t", rows, "run")
    assert [(column.name, column.text) for column in table.columns] == [("run", True), ("commit", True), ("x", False)]
    texts = [[written(cell, column) for cell, column in zip(line, table.columns, strict=True)] for line in table.lines]
    assert texts == [["a", "12e4", "1"], ["b", "7", "–"]]
    assert paragraph(table.notes) == "The same in all rows: same −2.5."


# ---- in a browser


@pytest.fixture(scope="module")
def browser():
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("needs chromium and chromedriver on this machine")
    window = Browser()
    yield window
    window.close()


def column(browser, table, name):
    """(the texts of a column from top to bottom, its aria-sort)."""
    script = """
      const table = document.querySelectorAll('table')[arguments[0]];
      const heads = [...table.tHead.rows[0].cells];
      const at = heads.findIndex(head => head.textContent.replace(/\\s+/g, ' ') === arguments[1]);
      return [[...table.tBodies[0].rows].map(row => row.cells[at].textContent), heads[at].getAttribute('aria-sort')];
    """
    return browser.run(script, table, name)


@pytest.mark.slow
def test_a_click_sorts_and_a_second_one_turns_it_round(browser, page):
    browser.open(page)
    assert column(browser, 0, "λ") == [["0", "1e-05", "0.0001", "0.002"], None]
    button = "table th:nth-child({}) button"
    browser.click(button.format(1))
    browser.click(button.format(1))
    assert column(browser, 0, "λ") == [["0.002", "0.0001", "1e-05", "0"], "descending"]
    browser.click(button.format(7))  # which is the same in all: the order stays
    assert column(browser, 0, "kNN of r, %") == [["100.0 ± 0.0"] * 4, "ascending"]
    assert column(browser, 0, "λ") == [["0.002", "0.0001", "1e-05", "0"], None]
    browser.click(button.format(4))  # the difference, which λ 0 does not have
    assert column(browser, 0, "from λ 0, points") == [["−0.2 ± 0.0", "0.0 ± 0.0", "0.0 ± 0.0", "–"], "ascending"]
    browser.click(button.format(4))
    assert column(browser, 0, "from λ 0, points") == [["0.0 ± 0.0", "0.0 ± 0.0", "−0.2 ± 0.0", "–"], "descending"]
    browser.press(button.format(1), "\ue007")  # Enter
    assert column(browser, 0, "λ") == [["0", "1e-05", "0.0001", "0.002"], "ascending"]
    assert browser.run("return document.querySelectorAll('[aria-sort]').length") == 1


@pytest.mark.slow
def test_raw_tables_sort_numbers_as_numbers_and_names_as_names(browser, page):
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach(details => { details.open = true })")
    at = browser.run("return [...document.querySelectorAll('table')].findIndex(table => table.closest('details'))")
    found = f"return document.querySelectorAll('table')[{at}].querySelectorAll('th button')"
    for name in ("lam", "run"):
        browser.run(f"{found.removeprefix('return ')}.forEach(b => {{ if (b.textContent === arguments[0]) b.click() }})", name)
        texts, direction = column(browser, at, name)
        assert direction == "ascending"
        assert len(texts) == 32
        key = float if name == "lam" else lambda text: text.split("-")[0]
        assert [key(text) for text in texts] == sorted(key(text) for text in texts)
        assert len(set(map(key, texts))) == 4


@pytest.mark.slow
def test_no_errors_no_requests_and_no_script_but_ours(browser, page):
    browser.open(page)
    browser.click("table th button")
    said, asked = browser.heard()
    assert said == []
    assert [address for address in asked if not address.startswith("data:image/png")] == [page.as_uri()]
    assert browser.run("return document.title") == "e"
    assert browser.run("return document.images.length") == 0
    browser.run("document.body.append(Object.assign(document.createElement('img'), { src: 'https://example.org/x.png' }))")
    browser.run("document.body.append(Object.assign(document.createElement('script'), { text: 'document.title = 1' }))")
    assert browser.run("return document.title") == "e"
    said, _ = browser.heard()
    assert sum("Content Security Policy" in line for line in said) == 2  # both are heard, and refused


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(browser, page, width):
    browser.open(page, width)
    browser.run("document.querySelectorAll('details').forEach(details => { details.open = true })")
    wide = """
      const scrolls = element => element.closest('.scroll, .drawing');
      return [...document.body.querySelectorAll('*')].filter(element => !scrolls(element.parentElement))
        .filter(element => element.getBoundingClientRect().right > innerWidth + 0.5 || element.getBoundingClientRect().left < -0.5)
        .map(element => element.outerHTML.slice(0, 80));
    """
    assert browser.run(wide) == []
    assert browser.run("return [document.documentElement.scrollWidth, innerWidth]") == [width, width]
    shown = browser.run("return [...document.querySelectorAll('.drawing svg')].map(svg => svg.getBoundingClientRect().width)")
    assert len(shown) == 6  # the map, against λ, curves in two parts, spectra, spectra over training
    assert min(shown) > 300


@pytest.mark.slow
def test_tables_scroll_within_their_boxes_on_a_phone_and_marks_say_what_they_are_sorted_by(browser, page):
    browser.open(page, 400)
    boxes = "return [...document.querySelectorAll('.scroll')].map(box => [box.scrollWidth > box.clientWidth, box.clientWidth])"
    scrolls, widths = zip(*browser.run(boxes), strict=True)
    assert any(scrolls)
    assert max(widths) <= 400
    browser.run("document.querySelector('.scroll').scrollLeft = 200")
    assert browser.run("return document.querySelector('.scroll').scrollLeft") == 200
    marks = """
      const button = document.querySelector('th button');
      return ['::before', '::after'].map(part => getComputedStyle(button, part).opacity);
    """
    assert browser.run(marks) == ["0.3", "0.3"]
    browser.click("th button")
    assert browser.run(marks) == ["1", "0"]
    browser.click("th button")
    assert browser.run(marks) == ["0", "1"]


@pytest.mark.slow
def test_a_dark_screen_has_a_dark_page_and_figures_on_white(browser, page):
    look = "return [document.body, document.querySelector('.drawing')].map(e => getComputedStyle(e).backgroundColor)"
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    for features, expected in ((dark, "rgb(22, 24, 27)"), ([], "rgb(255, 255, 255)")):
        browser.devtools("Emulation.setEmulatedMedia", features=features)
        browser.open(page)
        assert browser.run(look) == [expected, "rgb(255, 255, 255)"]


@pytest.mark.slow
def test_paper_has_what_was_closed_on_the_screen(browser, page):
    browser.open(page)
    opened = "return [...document.querySelectorAll('details')].map(details => details.open)"
    assert set(browser.run(opened)) == {False}
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert set(browser.run(opened)) == {True}
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert set(browser.run(opened)) == {False}
