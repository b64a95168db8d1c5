"""`sparsehead list`: every name that can be chosen, with a sentence that is the code's own."""

import subprocess
import sys
from pathlib import Path

import pytest

from sparsehead_cli.data.augment import RECIPES
from sparsehead_cli.data.datasets import DATASETS
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.plan import ASKABLE
from sparsehead_cli.nets.backbones import BACKBONES, make_backbone
from sparsehead_cli.nets.vit import VITS, make_vit
from sparsehead_cli.present.catalogue import KINDS, sentences, strengths
from sparsehead_cli.runs.config import FIELDS, SWEEP, read_experiments
from sparsehead_cli.runs.experiments import comments_in, default_experiments
from sparsehead_cli.runs.settings import names_in, written
from sparsehead_cli.sparse.penalties import PENALTIES
from sparsehead_cli.ssl.methods import METHODS, SimCLR
from sparsehead_cli.sweeps.grid import AXES
from tests.test_cli import assert_one_error

NAMES = {
    "methods": [*METHODS],
    "penalties": [*PENALTIES],
    "backbones": [*BACKBONES, *VITS],
    "datasets": [*DATASETS],
    "views": [*RECIPES],
    "protocols": [*ASKABLE],
    "settings": [*FIELDS, *AXES],
}


def lines_of(kind, experiments=None):
    return [line for table in KINDS[kind](experiments) for line in table.lines]


@pytest.mark.parametrize("kind", NAMES)
def test_every_name_is_there_with_a_sentence(kind):
    lines = lines_of(kind)
    assert [line[0].value for line in lines][: len(NAMES[kind])] == NAMES[kind]
    if kind != "datasets":  # to which tests add some
        for line in lines:
            assert line[-1].value.rstrip()[-1] == ".", line[0].value
            assert "Raises" not in line[-1].value
            assert "->" not in line[-1].value  # the shapes of tensors are for those who read the code


def test_a_sentence_is_the_codes_own():
    assert sentences(SimCLR).startswith("Contrast the two views of an image with all other images of the batch. Source: Chen")
    assert sentences(PENALTIES["l21"].value) == "Sum over groups of their Euclidean norms, not averaged."
    by_name = {line[0].value: line[-1].value for line in lines_of("settings")}
    assert by_name["lam"] == FIELDS["lam"].help


def test_the_width_of_r_is_that_of_the_network():
    for line in lines_of("backbones"):
        name, images = line[0].value, {"channels": 3, "image_size": 32}
        backbone = make_vit(name, pooling="mean", **images) if name in VITS else make_backbone(name, **images)
        assert f"D = {backbone.dim}." in line[-1].value


def test_views_are_told_by_their_strengths():
    text = strengths(vars(RECIPES["grey-small"][0]))
    assert text == "crop 20–100 % of the area, brightness 0.8 contrast 0.8 (p 0.8), blur (p 0.5), solarize (p 0.1), flip (p 0.5)"
    by_name = {line[0].value: line for line in lines_of("views")}
    assert by_name["multi-crop"][1].value == 8
    assert by_name["multi-crop"][-1].value.count("2 x crop") == by_name["multi-crop"][-1].value.count("6 x crop") == 1


def test_settings_say_default_range_and_identity():
    by_name = {line[0].value: [cell.value for cell in line] for line in lines_of("settings")}
    assert by_name["lam"][1:4] == ["0.001", "a number, at least 0", "yes"]
    assert by_name["warmup_epochs"][1:4] == ["1", "a number, between 0 and epochs", "yes"]
    assert by_name["widths"][1:4] == ["–", "whole numbers with commas between, each at least 8", "yes"]
    assert by_name["momentum"][2] == "a number, in [0, 1)"
    assert by_name["compile"][1:3] == ["false", "true or false"]
    assert by_name["results"][1:4] == ["results", "a path", "no"]
    assert by_name["workers"][3] == "no"
    assert by_name["method"][2] == "a name"


@pytest.mark.parametrize(
    ("value", "text"), [(1e-4, "0.0001"), (0.0051, "0.0051"), ((8, 16), "8,16"), (None, "none"), (True, "true")]
)
def test_values_are_written_as_set_reads_them(value, text):
    assert written(value) == text


def test_experiments_are_told_by_the_comments_in_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "# About the file.\n\n# sparsehead pretrain --experiment a\n# What a is,\n# in two lines.\na: {method: byol}\n\n"
        "b:\n  epochs: 3\n"
        "# ---- Sweeps\n'c d':\n  sweep: {lams: [0, 1.0e-3], seeds: 2}\n"
    )
    assert comments_in(path) == {"a": "What a is, in two lines.", "b": "", "c d": "Sweeps"}
    runs, sweeps = KINDS["experiments"](path)
    assert [[cell.value for cell in line] for line in runs.lines[:3]] == [
        ["a", "byol", "fashion10k", "narrow", "26", f"a in {path}. What a is, in two lines."],
        ["b", "simclr", "fashion10k", "narrow", "3", f"b in {path}."],
        ["quickstart", "simclr", "fashion10k", "narrow", "26", comments_in(default_experiments())["quickstart"]],
    ]
    assert [cell.value for cell in sweeps.lines[0]] == ["c d", "lams 0,0.001; seeds 2", f"c d in {path}. Sweeps"]


def test_every_committed_experiment_is_listed():
    table = read_experiments(default_experiments())
    runs, sweeps = KINDS["experiments"](None)
    assert [line[0].value for line in runs.lines] == [name for name, entry in table.items() if SWEEP not in entry]
    assert [line[0].value for line in sweeps.lines] == [name for name, entry in table.items() if SWEEP in entry]
    assert set(comments_in(default_experiments())) == set(table)


def test_the_command(sparsehead):
    code, out, err = sparsehead("list")
    assert (code, err) == (0, "")
    assert all(kind in out for kind in KINDS)
    code, out, err = sparsehead("list", "penalties")
    assert (code, err) == (0, "")
    assert "nuclear" in out
    assert "MODULE:NAME, code of your own" in out
    assert 'unknown kind "setings"; known: methods, penalties' in assert_one_error(sparsehead("list", "setings"))
    assert names_in("present.catalogue:KINDS") == tuple(KINDS)


def test_what_needs_no_torch_imports_none():
    code = "import sys; from sparsehead_cli.present.catalogue import KINDS; KINDS['settings'](None); KINDS['experiments'](None)"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SparseheadError, match="cannot read"):
        KINDS["experiments"](tmp_path / "none.yaml")
