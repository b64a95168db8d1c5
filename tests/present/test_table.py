"""One model of a table: what its cells say, and how the terminal and the page show the same one."""

import math

import pytest

from sparsehead_cli.present.console import Console, print_table
from sparsehead_cli.present.page import Section, render
from sparsehead_cli.present.spectrum import by_lam_tables
from sparsehead_cli.present.summary import beside_each_other, summary_tables
from sparsehead_cli.present.table import UNDEFINED_CELL, Cell, Column, Table, lam_cell
from sparsehead_cli.study.by_lam import by_lam
from sparsehead_cli.study.summary import SETTING, summarise
from tests.study.test_by_lam import row as spectrum_row
from tests.study.test_summary import row as sweep_row

RANK = Column("effective\nrank", digits=1)
PERCENT = Column("accuracy", digits=1, scale=100, suffix=" %")


@pytest.mark.parametrize(
    ("column", "cell", "text", "interval"),
    [
        (RANK, Cell("12.34"), "12.3", ""),
        (RANK, Cell(12.34, low="11.9", high="12.96"), "12.3", "11.9–13.0"),
        (RANK, Cell(12.34, half=0.56), "12.3 ± 0.6", ""),
        (RANK, Cell(12.34, half=math.nan), "12.3", ""),
        (PERCENT, Cell("0.8125"), "81.2 %", ""),
        (Column("99 % in"), Cell("5", of="8"), "5 of 8", ""),
        (RANK.from_zero(), Cell(-0.04, half=1), "0.0 ± 1.0", ""),
        (RANK.from_zero(), Cell(0.06), "+0.1", ""),
        (RANK, Cell(3, text="3/20"), "3/20", ""),
        (RANK, Cell(None, text="3/20"), "–", ""),
        (RANK, UNDEFINED_CELL, "–", ""),
        (Column("name", text=True), Cell("nan"), "nan", ""),
    ],
)
def test_a_column_says_how_its_cells_are_written(column, cell, text, interval):
    assert (column.written(cell), column.interval(cell)) == (text, interval)


def a_table():
    columns = [Column("run", text=True), RANK, RANK.from_zero(), Column("α", digits=2, minor=True), Column("verdict", text=True)]
    table = Table("ranks", columns, notes=("nothing is proved", "and -1 is less"), wide=60)
    table.add(Cell("a"), Cell(9, low=8, high=10), UNDEFINED_CELL, Cell(1), Cell("healthy"))
    table.add(Cell("a"), Cell(7, low=6, high=8), Cell(-2), Cell("nan"), Cell("partially collapsed"), marked=True)
    return table


def printed(table, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(Console(), table)
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.strip() == table.title
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= width
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]


def test_a_wide_terminal_has_all_columns_and_intervals_behind_their_numbers(capsys, monkeypatch):
    assert printed(a_table(), 80, capsys, monkeypatch) == [
        ["a", "9.0 (8.0–10.0)", "1.00", "healthy"],
        ["", "7.0 (6.0–8.0)", "–", "partially collapsed"],
        ["", "-2.0", "", ""],
    ]


def test_a_narrow_terminal_has_intervals_below_and_breaks_texts_not_numbers(capsys, monkeypatch):
    assert printed(a_table(), 33, capsys, monkeypatch) == [
        ["a", "9.0", "healthy"],
        ["", "8.0–10.0", ""],
        ["", "7.0", "partially"],
        ["", "6.0–8.0", "collapsed"],
        ["", "-2.0", ""],
    ]


def test_a_terminal_too_narrow_for_lines_between_columns_has_none_and_breaks_no_number(capsys, monkeypatch):
    columns = [Column("λ"), Column("chosen", text=True), *(Column("effective\nrank", digits=1) for _ in range(5))]
    table = Table("as wide as a summary gets", columns)
    table.add(
        lam_cell(1660),
        Cell("best, sparsest"),
        *(Cell(value, half=half) for value, half in ((44.6, 14.6), (43.2, 18.5), (-78.3, 53.2), (184.6, 12.3), (9.1, 0.2))),
    )
    monkeypatch.setenv("COLUMNS", "80")
    print_table(Console(), table)
    lines = capsys.readouterr().out
    assert max(map(len, lines.splitlines())) <= 80
    assert all(number in lines for number in ("1660", "44.6 ± 14.6", "43.2 ± 18.5", "-78.3 ± 53.2", "184.6 ± 12.3", "9.1 ± 0.2"))


def test_the_page_has_a_column_for_what_stands_below_and_sorts_by_numbers():
    page = render("t", "lead", [], [Section("s", "S", tables=[a_table()])]).decode()
    assert '<td class="number" data-key="9">9.0 (8.0–10.0)</td><td class="number" data-key="">–</td>' in page
    assert '<tr class="chosen"><td>a</td><td class="number" data-key="7">7.0 (6.0–8.0)</td>' in page
    assert '<td class="number" data-key="-2">−2.0</td><td class="number" data-key="">–</td><td>partially collapsed</td>' in page
    assert '<p class="note">Nothing is proved. And −1 is less.</p>' in page


def test_a_lam_that_was_pruned_has_its_line_in_the_summary_without_numbers():
    trials = [sweep_row(lam, seed, 0.8 + lam, active_groups_share=1 - lam) for lam in (0.0, 1e-3) for seed in range(2)]
    stopped = {**{column: str(trials[0][column]) for column in SETTING}, "lam": "0.01"}
    (table,) = summary_tables(summarise(trials), [stopped])
    lams = [table.columns[0].written(line[0]) for line in table.lines]
    assert lams == ["0", "0.001", "0.01"]
    assert [line[1].value for line in table.lines] == ["", "best, sparsest", "pruned"]
    assert table.marked == {1}
    assert not any(cell.defined for cell in table.lines[2][2:])


def test_cures_are_beside_each_other_as_differences_from_nothing():
    def rows(gain, lams=(0.0, 1e-3), **setting):
        return [sweep_row(lam, seed, 0.8 + gain + lam + 1e-3 * seed, **setting) for lam in lams for seed in range(3)]

    bare = rows(0)
    assert beside_each_other(summarise(bare)) == []
    (table,) = beside_each_other(summarise([*bare, *rows(0.02, regularisers="koleo:0.1"), *rows(0, (0.0,), projector="direct:64")]))
    assert table.title == "All of them, from λ 0 without regularisers with an mlp"
    said = [[column.written(cell) for column, cell in zip(table.columns[:3], line[:3], strict=True)] for line in table.lines]
    assert said == [
        ["SimCLR, without regularisers, head mlp", "0.001", "+0.1 ± 0.0"],
        ["SimCLR, with koleo:0.1, head mlp", "0", "+2.0 ± 0.0"],
        ["SimCLR, with koleo:0.1, head mlp", "0.001", "+2.1 ± 0.0"],
        ["SimCLR, without regularisers, head direct:64", "0", "0.0 ± 0.0"],
    ]
    assert table.marked == {0, 1, 2}
    assert "of 4 here" in table.notes[0]


def test_spectra_over_seeds_are_a_table_a_setting_and_warn_of_few_seeds():
    rows = [spectrum_row(lam, seed, 5 + seed, method="simclr") for lam in (0.0, 1e-3) for seed in range(2)]
    rows += [spectrum_row(lam, seed, 5 + seed, method="byol") for lam in (0.0, 1e-3) for seed in range(3)]
    simclr, byol = by_lam_tables(by_lam(rows))
    assert [table.title for table in (simclr, byol)] == ["spectra over seeds, SimCLR", "spectra over seeds, BYOL"]
    assert [len(table.notes) for table in (simclr, byol)] == [2, 1]
    assert [column.name for column in byol.columns] == ["λ", "seeds", "effective\nrank of r", "from λ 0"]
    assert [byol.columns[3].written(line[3]) for line in byol.lines] == ["–", "0.0 ± 0.0"]
