"""The pages of docs/reference, made of what the code says of itself: `python -m website.reference` writes them anew.

They are committed, so that they can be read beside the code; `tests/test_reference.py` holds them against it.
"""

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from sparsehead_cli.cli import app
from sparsehead_cli.present.catalogue import KINDS
from sparsehead_cli.present.table import Table
from sparsehead_cli.runs.settings import names_in
from sparsehead_cli.runs.tables import COLUMNS, TABLES
from sparsehead_cli.sparse.sparse_head import LAYERS, SCHEDULES, SOLVERS
from sparsehead_cli.sweeps.sweep import ENGINES

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
FEW = 3  # tables, at most, that are named beside a column
MADE = "*Made from the code by `python -m website.reference`.*"
CODE = (
    "name",
    "default",
    "recipe",
    "its own settings",
    "its settings",
    "widths",
    "blocks",
    "axes",
    "method",
    "data set",
    "network",
)


def page(title: str, purpose: str, *parts: str) -> str:
    """A page with what it is for, and its parts."""
    return "\n\n".join([f"# {title}", purpose, MADE, *parts]) + "\n"


def escaped(text: str) -> str:
    """Text for a cell of a table: nothing in it is taken for Markdown."""
    for character in r"\|*<[":
        text = text.replace(character, f"\\{character}")
    return text


def code(text: str) -> str:
    """Text for a cell that is typed as it stands; nothing where there is nothing."""
    return f"`{text}`".replace("|", r"\|") if text not in ("", "–") else text


def grid(columns: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table in Markdown; the cells are Markdown already."""
    columns = list(columns)
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *map(list, lines)])


def catalogued(kind: str) -> list[str]:
    """The tables of `sparsehead list KIND`, each with its heading and its notes."""
    parts = []
    for table in KINDS[kind](None):
        notes = [f"{escaped(note if note.startswith('sparsehead ') else capital(note))}." for note in table.notes]
        parts.append("\n\n".join([f"## {capital(table.title)}", in_markdown(table), *notes]))
    return parts


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def in_markdown(table: Table) -> str:
    """A table for people in Markdown; what is typed is set as code."""
    names = [column.name for column in table.columns]
    lines = []
    for line in table.lines:
        texts = [column.written(cell) for column, cell in zip(table.columns, line, strict=True)]
        lines.append([code(text) if name in CODE else escaped(text) for name, text in zip(names, texts, strict=True)])
    return grid(names, lines)


def settings() -> str:
    """Every setting of a run, the axes of a sweep, those of a protocol and of a view."""
    return page(
        "Settings",
        "Every setting with its default, what it may be and what it does: of a run, of a sweep, of a view and of a protocol.",
        "A setting is written `--set NAME=VALUE` on the command line, `NAME: VALUE` in `experiments.yaml`, and `NAME=VALUE` in "
        "`sparsehead_cli.pretrain`; those used most have [an option of their own](commands.md). A method's own numbers are "
        "in the [list of methods](choices.md#methods). `sparsehead list settings` prints the same.",
        *catalogued("settings"),
        *catalogued("views")[1:],
        *(part.replace("## Their settings", "## Settings of protocols") for part in catalogued("protocols")[1:]),
    )


def choices() -> str:
    """What `sparsehead list` prints, but for the settings, and the names that a setting has beside tables of their own."""
    short = {"solver": SOLVERS, "layers": LAYERS, "lam_schedule": SCHEDULES}
    short |= {"groups": names_in("sparse.penalties:GROUPS"), "optimizer": names_in("nets.optim:OPTIMIZERS")}
    short |= {"projector": names_in("nets.heads:PROJECTORS"), "precision": ("auto", *names_in("machine.device:PRECISIONS"))}
    short |= {"pooling": names_in("nets.bert:POOLINGS"), "views of sentences": names_in("data.text_views:TEXT_VIEWS")}
    short |= {"continual": names_in("runs.tasks:REMEDIES"), "between_tasks": names_in("runs.tasks:BETWEEN")}
    short |= {"sweep-lambda --engine": tuple(ENGINES), "export --to": names_in("exports.formats:FORMATS")}
    tables = {kind: catalogued(kind) for kind in KINDS if kind != "settings"}
    return page(
        "What there is to choose from",
        "The names that settings and options take, each with what it is.",
        "`sparsehead list KIND` prints the same; `sparsehead show NAME` resolves a recipe.",
        *(part for kind, parts in tables.items() for part in (parts if kind == "experiments" else parts[:1])),
        "## Short lists",
        grid(("setting or option", "names"), ([code(name), ", ".join(map(code, names))] for name, names in short.items())),
        "[Settings](settings.md) says what each of these settings does.",
    )


def commands() -> str:
    """Each command with its arguments and options."""
    parts = []
    for command in app.registered_commands:
        name = command.name or command.callback.__name__.replace("_", "-")
        parameters = inspect.signature(command.callback).parameters.values()
        stated = [(parameter, *parameter.annotation.__metadata__) for parameter in parameters]
        shown = [(parameter, info) for parameter, info in stated if not info.hidden]
        words = [word_of(parameter) for parameter, info in shown if isinstance(info, typer.models.ArgumentInfo)]
        usage = f"```text\nsparsehead {' '.join([name, '[OPTIONS]', *words])}\n```"
        paragraphs = [escaped(" ".join(paragraph.split())) for paragraph in inspect.getdoc(command.callback).split("\n\n")]
        lines = [parameter_line(parameter, info) for parameter, info in shown]
        parts += [f"## `sparsehead {name}`", *paragraphs, usage, grid(("argument or option", "default", "what it is"), lines)]
    return page(
        "Commands",
        "Every command with its arguments and options.",
        "`sparsehead COMMAND --help` prints the same, and `sparsehead --version` the version. A default in words, such as *the "
        "experiment's*, stands in `experiments.yaml`.",
        *parts,
    )


def word_of(parameter: inspect.Parameter) -> str:
    """How an argument is written in a usage line."""
    word = parameter.name.upper() + ("…" if "list" in str(parameter.annotation) else "")
    return word if parameter.default is parameter.empty else f"[{word}]"


def parameter_line(parameter: inspect.Parameter, info: typer.models.ParameterInfo) -> list[str]:
    """The name of an argument or option with the kind of its value, its default, and its help."""
    if isinstance(info, typer.models.ArgumentInfo):
        return [code(parameter.name.upper()), "", escaped(info.help)]
    kinds = {"bool": "", "int": " INTEGER", "float": " NUMBER", "Path": " PATH"}
    kind = next((word for kind, word in kinds.items() if kind in str(parameter.annotation.__origin__)), " TEXT")
    value = f" {info.metavar}" if info.metavar else kind
    given = [name for name in (info.default, *info.param_decls) if isinstance(name, str)]  # Typer sorts them out later
    names = ", ".join(code(name + value) for name in given or [f"--{parameter.name.replace('_', '-')}"])
    if isinstance(info.show_default, str):
        default = f"*{info.show_default}*" if " " in info.show_default else code(info.show_default)
    else:
        known = info.show_default and not any(parameter.default is none for none in (None, False, parameter.empty))
        default = code(str(parameter.default)) if known else ""
    return [names, default or ("required" if parameter.default is parameter.empty else ""), escaped(info.help)]


def columns() -> str:
    """Every column of every table."""
    tables = {name: [table for table, stated in TABLES.items() if name in stated.columns] for name in COLUMNS}
    kinds = {"whole": "whole number", "amount": "number ≥ 0", "share": "number in [0, 1]", "truth": "True or False"}
    where = {name: ", ".join(map(code, found)) if len(found) <= FEW else f"{len(found)} tables" for name, found in tables.items()}
    lines = [
        [code(name), kinds.get(column.kind, column.kind), column.unit, escaped(column.meaning), where[name]]
        for name, column in COLUMNS.items()
    ]
    parts = [
        f"`{name}`: {', '.join(f'`{column}`' for column in table.columns)}"
        + (f"; a line for each {', '.join(f'`{column}`' for column in table.key)}" if table.key else "")
        for name, table in TABLES.items()
    ]
    return page(
        "Columns",
        "Every column of every CSV: what it means, its unit, and the tables that have it; a name means the same in all of them.",
        "How tables are written, read and checked is on [their page](../tables.md); the quantities are explained in the "
        "[glossary](../glossary.md). An empty cell is not defined.",
        "## By name",
        grid(("column", "kind", "unit", "what it means", "tables"), lines),
        "## By table",
        "\n".join(f"* {part}" for part in parts),
    )


PUBLIC = {  # heading -> sentence, and the objects with their docstrings
    "SparseHead": (
        "The penalty for any training loop: [your own loop](../sparsehead.md).",
        ("sparse.sparse_head.SparseHead", "sparse.sparse_head.lam_at", "sparse.lightning.SparseHeadCallback"),
    ),
    "The commands as functions": (
        "What they return are small dataclasses of tables and paths: [from Python](../python.md).",
        (
            "api.pretrain",
            "api.Pretrained",
            "api.evaluate",
            "api.Evaluation",
            "api.spectrum",
            "api.Spectra",
            "api.sweep",
            "api.Sweep",
        )
        + ("api.export", "exports.export.Exported", "api.load", "exports.model.Model", "errors.SparseheadError"),
    ),
    "What parts of your own are made of": (
        "The contracts that a plug-in fulfils: [code of your own](../own-code.md).",
        ("data.contract.Batch", "data.contract.View", "data.contract.Source", "data.contract.Views", "data.memory.Memory")
        + ("ssl.contract.Method", "sparse.penalties.Penalty", "evaluation.task.Outcome", "training.callbacks.Callback"),
    ),
}


def api() -> str:
    """The public names; the site fills in their signatures and docstrings."""
    parts = []
    for heading, (sentence, names) in PUBLIC.items():
        parts += [f"## {heading}", sentence, *(f"::: sparsehead_cli.{name}" for name in names)]
    return page(
        "Python",
        "The public classes and functions with their docstrings. (On the site; elsewhere a line with `:::` stands for each.)",
        *parts,
    )


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings,
    "commands.md": commands,
    "choices.md": choices,
    "columns.md": columns,
    "api.md": api,
}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make())
