"""`sparsehead show`, and where each value of a recipe comes from."""

import pytest

from sparsehead_cli.runs.config import FIELDS, Config
from sparsehead_cli.runs.origins import DEFAULT, GIVEN, OWN, of_run, resolve
from tests.test_cli import assert_one_error


@pytest.fixture
def experiments(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "quickstart:\n# My own.\nmine: {lam: 1e-2, epochs: 7, method.temperature: 0.5}\n"
        "swept: {sweep: {lams: [0, 1e-3]}, epochs: 3}\nbyol: {method: byol, lr: 0.1}\n"
    )
    return path


def test_each_value_says_where_it_comes_from(experiments):
    config, values = resolve("mine", experiments, {"epochs": 3})
    assert config.epochs == 3
    assert list(values) == [*FIELDS, "method.temperature"]
    assert values["lam"] == (0.01, f"mine in {experiments}")
    assert values["epochs"] == (3, GIVEN)
    assert values["batch_size"] == (128, DEFAULT)
    assert values["method.temperature"] == (0.5, f"mine in {experiments}")
    _, values = resolve(None, experiments, {"method": "byol", "method.momentum": 0.9})
    assert values["lr"] == (0.1, f"byol in {experiments}")
    assert values["method"] == ("byol", GIVEN)
    assert values["method.momentum"] == (0.9, GIVEN)
    assert values["method.predictor_hidden"] == (4096, "default of byol")


def test_a_run_is_compared_with_what_there_is_today(experiments):
    config = Config(experiment="mine", lam=0.01, epochs=9, method_settings={"temperature": 0.2})
    values = of_run(config, experiments)
    assert values["lam"] == (0.01, f"mine in {experiments}")
    assert values["epochs"] == (9, OWN)
    assert values["lr"] == (0.25, DEFAULT)
    assert values["method.temperature"] == (0.2, "default of simclr")
    assert "device" not in values  # no part of what a run is
    trial = of_run(Config(experiment="swept", method="byol", lr=0.1, epochs=3, lam=1e-2), experiments)
    assert trial["epochs"] == (3, f"swept in {experiments}")
    assert trial["lr"] == (0.1, f"byol in {experiments}")
    assert trial["lam"] == (0.01, OWN)


def test_an_experiment_a_method_and_a_sweep(sparsehead, experiments, monkeypatch):
    monkeypatch.chdir(experiments.parent)
    code, out, err = sparsehead("show", "mine", "--experiments", "mine.yaml", "--set", "seed=4")
    assert (code, err) == (0, "")
    assert "My own." in out
    assert rows(out)["lam"] == ["0.01", "mine in mine.yaml"]
    assert rows(out)["seed"] == ["4", GIVEN]
    code, out, err = sparsehead("show", "simsiam", "--experiments", "mine.yaml")
    assert (code, err) == (0, "")
    assert rows(out)["method"] == ["simsiam", "simsiam, built in"]
    assert "pretrain --experiment simsiam" in out
    code, out, err = sparsehead("show", "swept", "--experiments", "mine.yaml")
    assert (code, err) == (0, "")
    assert rows(out) == {
        "setting": ["value", "comes from"],
        "lams": ["0,0.001", "swept in mine.yaml"],
        "methods": ["simclr", DEFAULT],
        "penalties": ["l21", DEFAULT],
        "solvers": ["subgradient", DEFAULT],
        "dims": ["each recipe's", DEFAULT],
        "batch_norm": ["each recipe's", DEFAULT],
        "regularisers": ["each recipe's", DEFAULT],
        "projectors": ["each recipe's", DEFAULT],
        "seeds": ["3", DEFAULT],
        "epochs": ["3", "swept in mine.yaml"],
    }


def rows(out):
    """name -> the other cells of its line, of a table that was printed."""
    lines = [line.replace("┃", "│").strip("│").split("│") for line in out.splitlines() if line[:1] in "│┃"]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in lines}


def test_a_run(sparsehead, run_folder):
    before = sorted(path.name for path in run_folder.iterdir())
    for place in (run_folder, run_folder / "checkpoint.pt"):
        code, out, err = sparsehead("show", place)
        assert (code, err) == (0, "")
        assert rows(out)["epochs"] == ["2", OWN]
        assert rows(out)["lam"] == ["0.001", DEFAULT]
        assert "step 18 of 18, float32" in out
        assert run_folder.name in out
    assert sorted(path.name for path in run_folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["byl"], 'unknown experiment or method "byl"; known: quickstart'),
        (["byl"], 'Did you mean "byol"?'),
        (["mine"], "it is no run, or one without a finished epoch"),
        (["mine/notes.txt"], "was not written by sparsehead pretrain"),
        (["quickstart", "--set", "epoch=3"], 'unknown setting "epoch"'),
        (["byol", "--set", "method.temperature=1"], 'unknown setting of byol "method.temperature"'),
        (["nothing:Here"], "method nothing:Here: there is no module nothing"),
    ],
)
def test_what_cannot_be_shown(sparsehead, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("somebody's")
    assert says in assert_one_error(sparsehead("show", *arguments))


def test_a_run_is_what_it_is(sparsehead, run_folder):
    assert "whose settings are what they are" in assert_one_error(sparsehead("show", run_folder, "--set", "epochs=1"))
