"""Views that are written in YAML: read as settings are, and kept in an identity as deviations."""

import pytest

from sparsehead_cli.data.augment import RECIPES, Augmentation
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.build import make_views
from sparsehead_cli.runs.config import Config, load_config, parse_set
from sparsehead_cli.runs.identity import config_in, is_same_run, run_folder, run_identity
from sparsehead_cli.runs.views import described, idle, read_views
from sparsehead_cli.training.loop import pretrain

YAML = "mine:\n  views:\n    - {area: [0.5, 1], blur_p: 0.5}\n    - {hue: 0, role: local, side: 0.5}\n"
VIEWS = (Augmentation(area=(0.5, 1.0), blur_p=0.5), Augmentation(hue=0.0, role="local", side=0.5))


@pytest.fixture
def experiments(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text(YAML)
    return path


def name_of(config):
    return run_folder(config, run_identity(config)).name


def test_views_in_a_file(experiments):
    config = load_config("mine", experiments, {})
    assert config.views == VIEWS
    deviating = [{"area": [0.5, 1.0], "blur_p": 0.5}, {"hue": 0.0, "role": "local", "side": 0.5}]
    assert run_identity(config) == {"schema": 1, "recipe": "written", "views": deviating}
    assert config_in(run_identity(config), "mine").views == VIEWS
    assert is_same_run(run_identity(config), run_identity(config_in(run_identity(config), "mine")))
    assert (
        load_config(None, None, parse_set(["views=[{area: [0.5, 1], blur_p: 0.5}, {hue: 0, role: local, side: 0.5}]"])).views
        == VIEWS
    )


def test_each_strength_tells_runs_apart(experiments):
    config = load_config("mine", experiments, {})
    assert name_of(config) != name_of(Config())
    assert name_of(Config(views=VIEWS[:1])) != name_of(Config(views=VIEWS)) != name_of(Config(views=VIEWS[::-1]))
    assert name_of(Config(views=(Augmentation(area=(0.5, 1)), VIEWS[1]))) != name_of(config)


def test_a_set_of_ours_written_out_is_that_set():
    weak = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    assert read_views([weak, weak]) == "weak"
    assert run_identity(Config(views=read_views([weak, weak]))) == run_identity(Config(views="weak"))


@pytest.mark.parametrize(
    ("views", "says"),
    [
        ("[]", "views must be a name, or a list of views with their strengths"),
        ("3", "given 3."),
        ("", "given None."),
        ("{blur_p: 1}", "views must be a name, or a list of views with their strengths, such as [{area: [0.2, 1], blur_p: 0.5}"),
        ("[weak]", "views[1] must be a table of strengths, such as {blur_p: 0.5}, given 'weak'."),
        ("[{}, {blur: 1}]", 'unknown strength "views[2].blur"'),
        ("[{}, {blur: 1}]", 'Did you mean "views[2].blur_p"?'),
        ("[{blur_p: 2}]", "views[1].blur_p must be between 0 and 1, given 2.0."),
        ("[{hue: 0.6}]", "views[1].hue must be between 0 and 0.5, given 0.6."),
        ("[{hue: much}]", "views[1].hue must be a number, given 'much'."),
        ("[{area: 0.5}]", "views[1].area must be 2 numbers of"),
        ("[{area: [0, 1]}]", "views[1].area must be 2 numbers of"),
        ("[{area: [1, 0.5]}]", "views[1].area must not fall, given (1.0, 0.5)."),
        ("[{side: 0}]", "views[1].side must be above 0 and at most 1, given 0.0."),
        ("[{role: globe}]", 'unknown views[1].role "globe"; known: global, local. Did you mean "global"?'),
        ("[{blur_p: nan}]", "views[1].blur_p must be finite"),
        (f"[{', '.join(['{}'] * 65)}]", "views must be a name, or a list"),
    ],
)
def test_views_that_cannot_be(views, says):
    with pytest.raises(SparseheadError) as error:
        load_config(None, None, parse_set([f"views={views}"]))
    assert says in str(error.value)
    assert len(str(error.value)) < 700


def test_all_that_is_wrong_is_said_together():
    with pytest.raises(SparseheadError) as error:
        load_config(None, None, parse_set(["views=[{blur_p: 2, hue: 1}, {x: 1}]", "lam=-1"]))
    for part in ("views[1].blur_p must be", "views[1].hue must be", 'unknown strength "views[2].x"', "lam must be at least 0"):
        assert part in str(error.value)


def test_what_people_are_told():
    assert described("weak") == "weak"
    usual = "contrast 0.8, saturation 0.8, hue {}, jitter_p 0.8, grey_p 0.2, blur_p {}, blur_sigma 0.1–2, solarize_p 0, flip_p 0.5"
    first = f"ratio 0.75–1.33333, brightness 0.8, {usual.format(0.2, 0.5)}, role global, side 1"
    second = f"area 0.08–1, ratio 0.75–1.33333, brightness 0.8, {usual.format(0, 0)}, role local, side 0.5"
    assert described((Augmentation(area=(0.5, 1.0), blur_p=0.5),) * 2) == f"2 of your own: each area 0.5–1, {first}"
    assert described(VIEWS) == f"2 of your own: area 0.5–1, {first}; {second}"
    assert idle("grey-small", 1) == idle("grey-large", 1) == idle("crop", 3) == idle("crop", 1) == idle("mine:views", 1) == ""
    assert [name for name in RECIPES if idle(name, 3)] == ["grey-small", "grey-large", "grey-multi-crop"]
    assert idle((Augmentation(saturation=0.0, hue=0.0),), 1) == "greyscale does nothing to grey images"


def test_a_run_with_written_views_trains_and_is_read_back(tiny, experiments):
    from sparsehead_cli.evaluation.load import load_subject
    from sparsehead_cli.evaluation.subject import LoadOptions
    from sparsehead_cli.runs.build import build

    views = (Augmentation(area=(0.5, 1.0), saturation=0.0), Augmentation(blur_p=0.5, grey_p=0.0))
    run = pretrain(build(tiny(epochs=1, views=views))).run
    assert "recipe: written" in (run.folder / "config.yaml").read_text()
    subject = load_subject(run.folder, LoadOptions())
    assert subject.views.recipe == views == make_views(run.config, run.spec).recipe
