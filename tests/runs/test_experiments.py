"""Entries of experiments.yaml: which files there are, what extends what, and where each value comes from."""

import shutil

import pytest

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.config import Config, load_config, load_recipe, read_experiments
from sparsehead_cli.runs.experiments import combined, default_experiments, load_entries, read_file
from sparsehead_cli.sweeps.grid import AXES, read_grid, trials


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """mine(text) -> a file of that text beside an empty working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def told(call):
    with pytest.raises(SparseheadError) as error:
        call()
    return str(error.value)


def test_a_file_of_ones_own_takes_nothing_away(mine):
    path = mine("mine: {epochs: 7}\n")
    assert load_config("mine", path, {}).epochs == 7
    byol = load_config(None, path, {"method": "byol"})
    assert (byol.method_settings["predictor_hidden"], byol.epochs, byol.experiment) == (256, 20, "byol")
    assert load_config("simclr-cifar", path, {}) == load_config("simclr-cifar", None, {})


def test_the_working_directory_is_read_and_a_file_that_is_given_comes_over_it(mine, tmp_path):
    (tmp_path / "here" / "experiments.yaml").write_text("a: {epochs: 2}\nb: {epochs: 3}\n")
    path = mine("b: {epochs: 4}\n")
    assert [load_config(name, path, {}).epochs for name in "ab"] == [2, 4]
    assert load_config("b", None, {}).epochs == 3
    assert load_config("b", tmp_path / "here" / "experiments.yaml", {}).epochs == 3  # the same file counts once


def test_extends(mine):
    path = mine("base: {extends: simclr-cifar, lr: 0.1}\nmine: {extends: base, epochs: 5, warmup_epochs: 1}\n")
    expected = {**read_experiments()["simclr-cifar"], "lr": 0.1, "epochs": 5, "warmup_epochs": 1}
    assert read_experiments(path)["mine"] == expected
    recipe = load_recipe("mine", path, {"seed": 3})
    words = {
        "lr": f"base in {path}",
        "epochs": f"mine in {path}",
        "optimizer": "simclr-cifar, built in",
        "seed": "the command line",
    }
    assert words.items() <= recipe.sources.items()
    assert "momentum" not in recipe.sources  # a default


def test_an_entry_may_extend_the_one_whose_place_it_takes(mine):
    path = mine("byol: {extends: byol, epochs: 3}\n")
    built_in = read_experiments()["byol"]
    assert read_experiments(path)["byol"] == {**built_in, "epochs": 3}
    assert load_config(None, path, {"method": "byol"}).notes[0] == ("experiment", f"byol in {path}, in place of the built-in one")


def test_an_entry_of_ones_own_changes_no_built_in_one(mine):
    path = mine("simclr-cifar: {extends: moco-cifar, lr: 0.01}\n")  # no circle: moco-cifar extends the built-in simclr-cifar
    assert load_config("moco-cifar", path, {}) == load_config("moco-cifar", None, {})
    assert load_config("simclr-cifar", path, {}).lr == 0.01


def test_only_what_differs_is_said_to_take_a_place(mine, tmp_path):
    copy = shutil.copy(default_experiments(), tmp_path / "copy.yaml")
    assert not any(layer.replaces for layers in load_entries(copy).values() for layer in layers)
    assert load_config("byol", mine("other: {}"), {}).notes == load_config("byol", None, {}).notes
    said = load_config("quickstart", mine("quickstart: {epochs: 2}"), {}).notes
    assert said[0][1].endswith("mine.yaml, in place of the built-in one")


def test_the_numbers_of_a_method_go_with_it(mine):
    path = mine("mine: {extends: moco-cifar, method: byol, method.momentum: 0.9}\n")
    assert load_config("mine", path, {}).method_settings == {"momentum": 0.9}  # and no queue
    layers = load_entries(path)["moco-cifar"]
    assert {key for key in combined(layers, Config.method) if key.startswith("method.")} == {"method.queue", "method.momentum"}
    assert load_config("moco-cifar", path, {"method": "simclr"}).method_settings == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: {extends: b}\nb: {extends: a}\n", "entries extend each other in a circle: a -> b -> a."),
        ("a: {extends: b}\nb: {extends: c}\nc: {extends: b}\n", "in a circle: b -> c -> b."),
        ("a: {extends: a}\n", "a extends itself, and no other file has an entry of that name."),
        ("a: {extends: simclr-cifra}\n", 'a extends what is not there: unknown experiment "simclr-cifra"'),
        ("a: {extends: simclr-cifra}\n", 'Did you mean "simclr-cifar"?'),
        ("a: {extends: [b, c]}\n", "a extends ['b', 'c']; give the name of one entry."),
        ("a: {extends: }\n", "a extends None; give the name of one entry."),
    ],
)
def test_what_extends_cannot_be(mine, text, says):
    path = mine(text)
    message = told(lambda: load_config("quickstart", path, {}))
    assert says in message
    assert str(path) in message
    assert "\n" not in message


def test_every_built_in_entry_is_complete_in_itself():
    """None depends on files of the user's, and no key is left that is no setting."""
    for name, entry in read_file(default_experiments()).items():
        assert "extends" not in read_experiments()[name]
        assert set(entry.get("sweep", {})) <= set(AXES)


# ---------------------------------------------------------------------------------------------- a warm-up that is too long


def test_an_inherited_warm_up_is_no_longer_than_the_run(mine):
    path = mine("mine: {extends: simclr-cifar, epochs: 5}\n")
    config = load_config("mine", path, {})
    assert (config.epochs, config.warmup_epochs) == (5, 5.0)
    assert ("warm-up", "5 epochs, not the 10 of simclr-cifar, built in: the run is no longer") in config.notes
    assert load_config("simclr-cifar", None, {"epochs": 3}).warmup_epochs == 3.0
    assert load_config("simclr-cifar", None, {"epochs": "3"}).warmup_epochs == 3.0
    assert load_config("simclr-cifar", None, {"epochs": 10}).warmup_epochs == 10.0
    grid = read_grid("lambda-cifar10", None, {"lams": "0", "seeds": 1}, {"epochs": 4})
    assert [config.warmup_epochs for config in trials(grid, "lambda-cifar10")] == [4.0]


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("mine: {}", {"epochs": 3, "warmup_epochs": 4}),
        ("mine: {epochs: 3}", {"warmup_epochs": 4}),
        ("mine: {epochs: 3, warmup_epochs: 4}", {}),
    ],
)
def test_one_that_was_typed_is_an_error(mine, text, overrides):
    path = mine(text)
    assert told(lambda: load_config("mine", path, overrides)) == "warmup_epochs must be between 0 and epochs (3), given 4.0."


# ---------------------------------------------------------------------------------------------- any entry can be swept


def test_any_entry_can_be_swept(mine):
    path = mine(
        "mine: {method: moco, method.queue: 512, penalty: l1, groups: output, solver: proximal, lam: 0.5, seed: 7, lr: 0.1}\n"
    )
    grid = read_grid("mine", path, {"lams": "0,1e-3", "seeds": 2}, {"epochs": 4})
    assert (grid.methods, grid.penalties, grid.solvers) == (("moco",), ("l1-output",), ("proximal",))
    found = trials(grid, "mine", path)
    assert [(c.lam, c.seed) for c in found] == [(0.0, 0), (1e-3, 0), (0.0, 1), (1e-3, 1)]
    assert {(c.lr, c.epochs, c.experiment) for c in found} == {(0.1, 4, "mine")}
    assert [c.method_settings for c in found] == [{"queue": 512}] * 4  # and nothing of the built-in recipe moco
    assert [(c.penalty, c.groups, c.solver) for c in found[:2]] == [("l21", "input", "subgradient"), ("l1", "output", "proximal")]


def test_another_method_of_a_swept_entry_has_its_own_recipe(mine):
    path = mine("mine: {extends: moco, lr: 0.1}\n")
    moco, byol = trials(read_grid("mine", path, {"lams": "0", "methods": "moco,byol", "seeds": 1}, {}), "mine", path)
    assert (moco.method_settings, byol.method_settings) == (
        {"queue": 2048, "momentum": 0.99},
        {"momentum": 0.97, "predictor_hidden": 256},
    )
    assert (moco.lr, byol.lr) == (0.1, 0.1)


def test_a_sweep_extends_a_sweep_axis_by_axis(mine):
    path = mine("mine: {extends: lambda-quick, sweep: {seeds: 5}}\n")
    grid = read_grid("mine", path, {}, {})
    assert (grid.lams, grid.seeds, grid.methods) == ((0.0, 1e-3, 3e-3, 1e-2), 5, ("simclr",))


def test_an_entry_that_extends_a_sweep_may_be_none(mine):
    path = mine("mine: {extends: lambda-quick, sweep: }\n")
    assert load_config("mine", path, {}).epochs == 4
    assert "mine has no values of λ" in told(lambda: read_grid("mine", path, {}, {}))


def test_the_papers_first_experiment_is_the_published_recipe_over_lam():
    found = trials(read_grid("lambda-cifar10", None, {}, {}), "lambda-cifar10")
    recipe = load_config("simclr-cifar", None, {})
    for config in found:
        changed = {"lam": config.lam, "seed": config.seed, "experiment": "simclr-cifar", "penalty": "l21", "solver": "subgradient"}
        assert vars(config) | changed == vars(recipe) | changed
    assert {config.lam for config in found} >= {0.0, 1e-4}
