"""What there is, as tables: methods, penalties, regularisers, backbones, data sets, views, protocols, experiments and settings.

A sentence about an entry is that of the code itself: its docstring, the help of a setting, the comment in experiments.yaml. What
needs torch is imported where it is listed: experiments and a run's settings come at once.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from sparsehead_cli.errors import unknown
from sparsehead_cli.present.console import Console, print_notes, print_table
from sparsehead_cli.present.table import Cell, Column, Table
from sparsehead_cli.runs.config import FIELDS, METHOD_PREFIX, SWEEP, Config, read_experiments
from sparsehead_cli.runs.experiments import load_comments, load_entries
from sparsehead_cli.runs.settings import Setting, Values, settings_of, written
from sparsehead_cli.sweeps.grid import AXES

WHAT = Column("what it is", text=True)
SHAPES = re.compile(r",? \[[^\]]*\](, \[[^\]]*\])* -> \[[^\]]*\]( or \[[^\]]*\])?")


def sentences(thing: object) -> str:
    """The first paragraph of a docstring in one line, without the shapes of tensors and the errors."""
    paragraph = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return SHAPES.sub("", paragraph.split(" Raises:")[0])


def names_table(title: str, *columns: str, notes: tuple[str, ...] = ()) -> Table:
    """An empty table of names: what each is called, the other columns, and what it is."""
    return Table(title, [Column("name", text=True), *(Column(name, text=True) for name in columns), WHAT], notes=notes, wide=100)


def also(name: str) -> tuple[str, ...]:
    """A note on what else a setting may be than a name of its table."""
    stated = FIELDS[name]
    more = [stated.others] if stated.others else []
    more += stated.prefixes
    more += ["MODULE:NAME, code of your own"] if stated.plug_in else []
    return (f"or {', or '.join(more)}",) if more else ()


def methods(experiments: Path | None) -> list[Table]:
    """The objectives, with their own settings and the entry of experiments.yaml that is their recipe."""
    from sparsehead_cli.ssl.methods import METHODS

    recipes = read_experiments(experiments)
    note = f"a setting is written {METHOD_PREFIX}NAME; sparsehead show METHOD has the whole recipe"
    table = names_table("methods", "recipe", "its own settings", notes=(note, *also("method")))
    for name, method in METHODS.items():
        own = ", ".join(f"{key} {written(stated.default)}" for key, stated in settings_of(method).items())
        table.add(Cell(name), Cell(name if name in recipes else Config.experiment), Cell(own), Cell(sentences(method)))
    return [table]


def penalties(experiments: Path | None) -> list[Table]:
    """What λ weighs."""
    from sparsehead_cli.sparse.penalties import PENALTIES

    table = names_table("penalties", notes=also("penalty"))
    for name, penalty in PENALTIES.items():
        table.add(Cell(name), Cell(sentences(penalty.value)))
    return [table]


def regularisers(experiments: Path | None) -> list[Table]:
    """Other cures for collapse, which are added to an objective."""
    from sparsehead_cli.ssl.regularisers import REGULARISERS

    note = "written --set regularisers=NAME:STRENGTH,NAME:STRENGTH; of z, r, the head's linear layers' weights, or its hidden units"
    table = names_table("regularisers", "of", notes=(note,))
    for name, regulariser in REGULARISERS.items():
        table.add(Cell(name), Cell(regulariser.of), Cell(sentences(regulariser.term)))
    return [table]


def backbones(experiments: Path | None) -> list[Table]:
    """The networks that make r."""
    from sparsehead_cli.nets.backbones import BACKBONES
    from sparsehead_cli.nets.vit import VITS

    table = names_table("backbones", "widths", "blocks", notes=("widths and blocks can be set", *also("backbone")))
    for name, (block, blocks, widths, stem) in BACKBONES.items():
        stems = f"{stem} stem" if stem else "stem that suits the size of the images"
        of_block = sentences(block).split(".")[0]
        text = f"ResNet with the {stems}; D = {widths[-1] * block.expansion}. A block: {of_block[0].lower()}{of_block[1:]}."
        table.add(Cell(name), Cell(written(widths)), Cell(written(blocks)), Cell(text))
    for name, shape in VITS.items():
        text = f"Vision transformer with {shape.heads} heads, patches of 4 pixels, of 16 on images above 64; D = {shape.width}. "
        table.add(Cell(name), Cell(shape.width), Cell(shape.depth), Cell(text.rstrip()))
    return [table]


def datasets(experiments: Path | None) -> list[Table]:
    """The data sets that have a name."""
    from sparsehead_cli.data.contract import ImageSpec
    from sparsehead_cli.data.datasets import DATASETS
    from sparsehead_cli.data.text import described

    table = names_table("data sets", "images", "classes", notes=also("dataset"))
    for name, info in DATASETS.items():
        if isinstance(info, ImageSpec):
            images = f"{info.size} x {info.size}, {'grey' if info.channels == 1 else 'colour'}"
        else:
            images, info = "sentences", described(name, info.read)
        table.add(Cell(name), Cell(images), Cell(len(info.classes) or "–"), Cell(sentences(info.read or info.layout)))
    return [table]


def views(experiments: Path | None) -> list[Table]:
    """What is made of an image, and the strengths of which views of your own are written."""
    from sparsehead_cli.data.augment import RECIPES, Augmentation

    table = names_table("views", "number", notes=also("views"))
    for name, recipe in RECIPES.items():
        kinds = {view: recipe.count(view) for view in recipe}
        text = "; ".join((f"{count} x " if count > 1 else "") + strengths(vars(view)) for view, count in kinds.items())
        table.add(Cell(name), Cell(len(recipe)), Cell(f"{text}."))
    return [table, settings_table("the strengths of a view: views: [{NAME: VALUE, …}, …]", settings_of(Augmentation))]


def strengths(view: Values) -> str:
    """What one view does, in words, from the fields of its Augmentation."""
    low, high = view["area"]
    parts = [f"crop {100 * low:g}–{100 * high:g} % of the area"]
    colours = {name: view[name] for name in ("brightness", "contrast", "saturation", "hue") if view[name]}
    if colours:
        parts.append(f"{' '.join(f'{name} {value:g}' for name, value in colours.items())} (p {view['jitter_p']:g})")
    parts += [f"{name} (p {view[key]:g})" for name, key in CHANCES.items() if view[key]]
    if view["side"] != 1:
        parts.append(f"{view['role']}, {view['side']:.2g} of the side")
    return ", ".join(parts)


CHANCES = {"grey": "grey_p", "blur": "blur_p", "solarize": "solarize_p", "flip": "flip_p"}


def protocols(experiments: Path | None) -> list[Table]:
    """What a checkpoint can be measured by, and the settings that each reads."""
    from sparsehead_cli.evaluation.evaluate import DETECTION_PREFIX
    from sparsehead_cli.evaluation.plan import ASKABLE, COMPOSED
    from sparsehead_cli.evaluation.protocols import PROTOCOLS, READS
    from sparsehead_cli.evaluation.task import DetectionSettings, Settings

    table = names_table("protocols", "its settings", notes=("evaluate --protocol NAME,NAME; or MODULE:NAME, code of your own",))
    reads = READS | {"semi": ("semi_", "finetune_batch", "finetune_lr"), "transfer": READS["finetune"]}
    for name in ASKABLE:
        read = [key for key in settings_of(Settings) if key.startswith(reads.get(name, ()))]
        own = f"{DETECTION_PREFIX}…" if name == "detection" else ", ".join(read)
        table.add(Cell(name), Cell(own or "–"), Cell(COMPOSED.get(name) or sentences(PROTOCOLS[name])))
    stated = settings_of(Settings) | settings_of(DetectionSettings, DETECTION_PREFIX)
    return [table, settings_table("their settings: evaluate --set NAME=VALUE", stated)]


def experiments_and_sweeps(experiments: Path | None) -> list[Table]:
    """The entries of experiments.yaml: single runs, and sweeps."""
    comments = load_comments(experiments)
    entries = load_entries(experiments)
    runs = names_table("experiments", *RUN_COLUMNS.values(), notes=("sparsehead pretrain --experiment NAME",))
    sweeps = names_table("sweeps", "axes", notes=("sparsehead sweep-lambda --experiment NAME",))
    for name, entry in read_experiments(experiments).items():
        own = entries[name][-1]  # the entry itself
        what = Cell(comments.get(name, "") if own.built_in else f"{own.source}. {comments.get(name, '')}".strip())
        if isinstance(entry.get(SWEEP), dict):
            axes = "; ".join(f"{axis} {written(value)}" for axis, value in entry[SWEEP].items())
            sweeps.add(Cell(name), Cell(axes), what)
        else:
            given = [written(entry.get(key, FIELDS[key].default)) for key in RUN_COLUMNS]
            runs.add(Cell(name), *map(Cell, given), what)
    return [table for table in (runs, sweeps) if table.lines]


RUN_COLUMNS = {"method": "method", "dataset": "data set", "backbone": "network", "epochs": "epochs"}


def settings(experiments: Path | None) -> list[Table]:
    """The settings of a run and the axes of a sweep: defaults, what they may be, and which tell runs apart."""
    notes = ("with identity, another value is another run", "sparsehead list methods and list protocols have theirs")
    of_run = settings_table("settings of a run: --set NAME=VALUE, or in experiments.yaml", FIELDS, identity=True, notes=notes)
    return [of_run, settings_table("axes of a sweep: under sweep: in experiments.yaml, or as options of sweep-lambda", AXES)]


def settings_table(title: str, stated: Mapping[str, Setting], *, identity: bool = False, notes: tuple[str, ...] = ()) -> Table:
    """A line for each setting: its default, what it must be, whether it tells runs apart, and what it is."""
    columns = [Column("name", text=True), Column("default", text=True), Column("must be", text=True)]
    columns += [Column("identity", text=True)] if identity else []
    table = Table(title, [*columns, WHAT], notes=notes)
    for name, setting in stated.items():
        cells = [Cell(name), Cell(setting.default_text() or "–"), Cell(setting.kind_text())]
        cells += [Cell("yes" if setting.identity else "no")] if identity else []
        table.add(*cells, Cell(setting.help_text()))
    return table


def show_list(console: Console, kind: str | None, experiments: Path | None) -> None:
    """Print the tables of a kind, or the kinds. Raises: SparseheadError for one that is not there."""
    if kind is None:
        table = names_table("sparsehead list KIND", notes=("sparsehead show NAME resolves the settings of one of them",))
        for name, tables_of in KINDS.items():
            table.add(Cell(name), Cell(sentences(tables_of)))
        tables = [table]
    elif kind in KINDS:
        tables = KINDS[kind](experiments)
    else:
        raise unknown("kind", kind, KINDS)
    for table in tables:
        print_table(console, table)
        print_notes(console, [table])


KINDS: dict[str, Callable[[Path | None], list[Table]]] = {
    "methods": methods,
    "penalties": penalties,
    "regularisers": regularisers,
    "backbones": backbones,
    "datasets": datasets,
    "views": views,
    "protocols": protocols,
    "experiments": experiments_and_sweeps,
    "settings": settings,
}
