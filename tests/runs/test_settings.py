"""A setting is stated once: its kind, range, names and help are read off one place."""

import dataclasses
from typing import Annotated, Optional

import pytest

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.load import own_code
from sparsehead_cli.evaluation.task import DetectionSettings, Settings
from sparsehead_cli.machine.ranges import Range
from sparsehead_cli.runs.config import FIELDS, Config
from sparsehead_cli.runs.settings import (
    names_in,
    plug_ins_of,
    problems_of,
    read,
    setting,
    settings_of,
    table_at,
    typed,
    unknown_names,
)
from sparsehead_cli.sweeps.grid import Grid
from tests.conftest import PUBLISHED

STATED = {kind.__name__: settings_of(kind) for kind in (Config, Grid, Settings, DetectionSettings)}
PLACES = sorted({entry.names for settings in STATED.values() for entry in settings.values() if entry.names})


@pytest.mark.parametrize("place", PLACES)
def test_the_names_in_a_source_are_those_of_the_table(place):
    names = PUBLISHED if place == "data.datasets:DATASETS" else tuple(table_at(place))
    assert names_in(place) == tuple(name for name in names if name != "bert-tiny")  # which tests add


def test_a_table_may_unpack_another_one():
    assert names_in("nets.optim:OPTIMIZERS") == ("sgd", "adamw", "lars", "larc")


@pytest.mark.parametrize("entry", [entry for settings in STATED.values() for entry in settings.values()], ids=lambda s: s.name)
def test_every_setting_says_what_it_is_in_a_sentence(entry):
    text = entry.help_text()
    assert text.endswith(".")
    assert "{" not in text
    for name in names_in(entry.names) if entry.names else ():
        assert name in text


@pytest.mark.parametrize("kind", [Config, Settings, DetectionSettings])
def test_defaults_are_in_their_range_and_of_their_kind(kind):
    assert problems_of(kind()) == []
    for entry in settings_of(kind).values():
        assert typed(entry, entry.default) == entry.default


def test_all_that_is_wrong_is_said_together():
    given = {"lamb": 1, "epochs": "many", "lr": -1, "widths": [4, 8], "momentum": 1, "compile": "perhaps"}
    values, problems = read(FIELDS, given)
    assert values == {"lr": -1.0, "widths": (4, 8), "momentum": 1.0}
    for words in (
        'unknown setting "lamb"; known: method, lam,',
        'Did you mean "lam"?',
        "epochs must be a whole number, given 'many'.",
        "lr must be above 0, given -1.0.",
        "widths must be numbers of at least 8, given (4, 8).",
        "momentum must be in [0, 1), given 1.0.",
        "compile must be true or false, given 'perhaps'.",
    ):
        assert words in "\n".join(problems)
    assert len(problems) == 6


@pytest.mark.parametrize(
    ("bounds", "value", "says"),
    [
        (Range(least=1, most=3), 4, "x must be between 1 and 3, given 4."),
        (Range(above=0, most=1, note=", a share"), 0.0, "x must be above 0 and at most 1, a share, given 0.0."),
        (Range(above=0, below=1), 1.0, "x must be above 0 and below 1, given 1.0."),
        (Range(least=0), float("nan"), "x must be finite, given nan."),
        (Range(), float("inf"), "x must be finite, given inf."),
        (Range(multiple=32), 48, "x must be a multiple of 32, given 48."),
        (Range(multiple=32), 0, "x must be a multiple of 32, given 0."),
        (Range(least=1, count=2), (3,), "x must be 2 numbers of at least 1, given (3,)."),
        (Range(least=1, together=9), (5, 5), "x must be 9 together at most, given (5, 5)."),
        (Range(most="y"), 3, "x must be at most y (2), given 3."),
    ],
)
def test_what_a_range_says(bounds, value, says):
    assert bounds.problem("x", value, {"y": 2}) == says


@pytest.mark.parametrize("value", [1, 3, 2.5, None, True, "text", (), (1, 3)])
def test_what_is_in_range_or_has_none_is_no_problem(value):
    assert Range(least=1, most=3).problem("x", value, {}) == ""


def test_a_bound_that_is_wrong_itself_bounds_nothing():
    assert Range(most="y").problem("x", 3, {}) == ""
    assert problems_of(Config(epochs=-1)) == ["epochs must be at least 1, given -1."]


# ---------------------------------------------------------------------------------------------- names and plug-ins


def test_a_name_is_in_its_table_or_somebodys_code():
    config = Config(method="mine:Mine", backbone="mine.nets:Net", penalty="l12", optimizer="mine:Steps", views="mine:")
    problems = unknown_names(config)
    assert [problem.split(";")[0] for problem in problems] == [
        'unknown penalty "l12"',
        'unknown views "mine:"',
        'unknown optimizer "mine:Steps"',
    ]
    assert plug_ins_of(config) == ["mine:Mine", "mine.nets:Net"]


def test_a_backbone_of_timm_is_nobodys_own_code():
    config = Config(backbone="timm:resnet18")
    assert (unknown_names(config), plug_ins_of(config), own_code(config)) == ([], [], {})


# ---------------------------------------------------------------------------------------------- keyword arguments


def somebodys(
    backbone,
    *,
    width: Annotated[int, "channels", Range(least=8)] = 16,
    rate: float = 1,
    text: "str | None" = "a",
    plain=2.5,
    none: int | None = None,
    maybe: Optional[float] = None,  # noqa: UP045
):
    """A constructor with settings."""


def test_keyword_arguments_are_settings():
    settings = settings_of(somebodys, "method.")
    given = {"width": 4, "rate": 2, "text": "b", "plain": "1e-3", "none": None, "maybe": 2}
    assert list(settings) == [f"method.{name}" for name in given]
    values, problems = read(settings, {f"method.{name}": value for name, value in given.items()})
    assert list(values.values()) == [4, 2.0, "b", 1e-3, None, 2.0]
    assert [type(value) for value in values.values()] == [int, float, str, float, type(None), float]
    assert problems == ["method.width must be at least 8, given 4."]


def test_a_keyword_argument_needs_a_default():
    with pytest.raises(SparseheadError, match="method.width has no default, and every setting of a method needs one"):
        settings_of(lambda *, width: None, "method.")


def test_a_fact_that_no_setting_has_is_an_error():
    with pytest.raises(TypeError, match="leest"):

        @dataclasses.dataclass
        class Wrong:
            x: int = setting(1, "One.", leest=0)

        settings_of(Wrong)
