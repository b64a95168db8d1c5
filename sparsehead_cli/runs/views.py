"""Views of images as a run's settings have them: the name of some of ours, or a list of views with their strengths. Imports torch.

    views: [{area: [0.2, 1.0], blur_p: 0.5}, {area: [0.2, 1.0]}]

A strength that is not there has its default. Each has a kind and a range as every setting has.
"""

from dataclasses import asdict

from sparsehead_cli.data.augment import RECIPES, Augmentation
from sparsehead_cli.errors import SparseheadError, shown
from sparsehead_cli.runs.settings import MOST_PARTS, Values, read, settings_of

WRITTEN = "written"  # what an identity calls views that are no set of ours
FORM = "a name, or a list of views with their strengths, such as [{area: [0.2, 1], blur_p: 0.5}, {area: [0.2, 1]}]"
Views = str | tuple[Augmentation, ...]


def read_views(given: object) -> Views:
    """A list of tables of strengths as views; the name of a set of ours that is equal. Raises: SparseheadError, all problems."""
    if not isinstance(given, list | tuple) or not 0 < len(given) <= MOST_PARTS:
        raise SparseheadError(f"views must be {FORM}; given {shown(given)}.")
    views, problems = [], []
    for number, strengths in enumerate(given, 1):
        name = f"views[{number}]"
        if not isinstance(strengths, dict):
            problems.append(f"{name} must be a table of strengths, such as {{blur_p: 0.5}}, given {shown(strengths)}.")
            continue
        settings = settings_of(Augmentation, f"{name}.")
        values, wrong = read(settings, {f"{name}.{key}": value for key, value in strengths.items()}, "strength")
        wrong += [settings[key].unknown_name(value) for key, value in values.items() if settings[key].unknown_name(value)]
        problems += wrong
        if not wrong:
            views.append(Augmentation(**{key.removeprefix(f"{name}."): value for key, value in values.items()}))
    if problems:
        raise SparseheadError("\n".join(problems))
    made = tuple(views)
    return next((name for name, ours in RECIPES.items() if ours == made), made)


def views_in(recipe: object, deviations: list[Values]) -> Views:
    """The views that an identity has: a name, or strengths as deviations from the defaults. Raises: SparseheadError for others."""
    return read_views(deviations) if recipe == WRITTEN else recipe


def strengths_of(views: Views) -> tuple[Augmentation, ...] | None:
    """The strengths of each view; None for code of somebody's own, and for a name that is unknown."""
    return RECIPES.get(views) if isinstance(views, str) else views


def name_of(views: Views) -> str:
    """What an identity, a table or a line for people calls them."""
    return views if isinstance(views, str) else WRITTEN


def described(views: Views) -> str:
    """Views for people: their name, or how many and their strengths, those that are as by default, too."""
    if isinstance(views, str):
        return views
    texts = [", ".join(f"{key} {text_of(value)}" for key, value in asdict(view).items()) for view in views]
    same = len(set(texts)) == 1
    return f"{len(views)} of your own: {f'each {texts[0]}' if same and len(views) > 1 else '; '.join(texts)}"


def text_of(value: object) -> str:
    """A strength as it is written."""
    if isinstance(value, tuple):
        return "–".join(f"{number:g}" for number in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def idle(views: Views, channels: int) -> str:
    """A sentence about views that do nothing to images with so many channels, or were made for others; "" where there is none."""
    strengths = strengths_of(views)
    if strengths is None:
        return ""
    if channels != 3:
        steps = {
            "saturation": any(view.saturation and view.jitter_p for view in strengths),
            "hue": any(view.hue and view.jitter_p for view in strengths),
            "greyscale": any(view.grey_p for view in strengths),
        }
        names = [name for name, acts in steps.items() if acts]
        said = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
        return f"{said} {'do' if len(names) > 1 else 'does'} nothing to grey images" if names else ""
    changes_light = any((view.brightness or view.contrast) and view.jitter_p for view in strengths)
    changes_colour = any(((view.saturation or view.hue) and view.jitter_p) or view.grey_p for view in strengths)
    return "made for grey images: colours stay as they are" if changes_light and not changes_colour else ""
