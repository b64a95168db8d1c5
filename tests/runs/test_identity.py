"""What tells runs apart survives growth: names stay, and old checkpoints are gone on with."""

import copy
import csv
import dataclasses
import inspect
from pathlib import Path

import pytest

from sparsehead_cli.data.augment import RECIPES
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs import identity
from sparsehead_cli.runs.config import Config, load_config
from sparsehead_cli.runs.identity import (
    SCHEMA,
    all_settings,
    digests,
    is_same_run,
    run_folder,
    run_identity,
    run_name,
    schema,
    schema_file,
    whole_identity,
)
from sparsehead_cli.runs.settings import setting
from sparsehead_cli.ssl.methods import METHODS, SimCLR
from sparsehead_cli.sweeps.grid import read_grid, trials
from sparsehead_cli.sweeps.trial import folder_of
from tests.runs.freeze import add_new, defaults_of_this_code, write

RESULTS = Path(__file__).parents[2] / "results"
PRETRAINED = sorted(path.parent for path in RESULTS.glob("*/*/layers.csv"))  # older runs had other settings, and no such table
SWEPT = sorted(path.parent for path in RESULTS.glob("*/sweep.csv"))
QUICKSTART = "simclr-l21-lam1e-03-seed0-ae9b6d8"  # in results/


def name_of(config):
    return run_folder(config, run_identity(config)).name


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_an_identity_says_what_deviates():
    assert run_identity(Config()) == {"schema": 1}
    config = Config(lam=0.5, image_size=32, method_settings={"temperature": 0.5}, widths=(8, 8))
    expected = {"schema": 1, "lam": 0.5, "image_size": 32, "method_settings": {"temperature": 0.5}, "widths": [8, 8]}
    assert run_identity(config) == expected
    assert run_identity(Config(method_settings={"temperature": 0.2}, lam=1e-3)) == {"schema": 1}  # the defaults, said aloud


def test_the_machine_is_no_part_of_it(tmp_path):
    machine = {"device": "cpu", "workers": 0, "data_dir": tmp_path, "results": tmp_path, "track_spectrum": True, "experiment": "x"}
    assert run_identity(Config(**machine)) == run_identity(Config())
    for change in ({"lam": 0.5}, {"seed": 1}, {"precision": "float32"}, {"method_settings": {"temperature": 1}}, {"compile": True}):
        assert run_identity(Config(**change)) != run_identity(Config())
        assert name_of(Config(**change)) != name_of(Config())


# ---------------------------------------------------------------------------------------------- names that are known


@pytest.mark.parametrize("folder", PRETRAINED, ids=lambda path: path.name)
def test_committed_runs_keep_their_names(folder):
    row = rows_of(folder / "metrics.csv")[0]
    config = load_config(folder.parent.name, None, {"lam": row["lam"], "seed": int(row["seed"])})
    assert name_of(config) == row["run"] == folder.name


@pytest.mark.parametrize("folder", SWEPT, ids=lambda path: path.name)
def test_committed_trials_keep_their_names(folder):
    """The grid with the values of λ that the table has; with λ "auto" each penalty has its own. Of images in a folder, which may
    not be here, what is looked up is CIFAR-10's."""
    rows = rows_of(folder / "sweep.csv")
    dataset = rows[0]["dataset"]
    settings = {"dataset": dataset, **({"image_size": 32, "cache": "memory"} if "/" in dataset else {})}
    lams = tuple(dict.fromkeys(float(row["lam"]) for row in rows))
    grid = dataclasses.replace(read_grid(folder.name, None, {}, settings), lams=lams, auto=False)
    names = {folder_of(config).name for config in trials(grid, folder.name)}
    assert {row["run"] for row in rows} <= names


def test_names_of_recipes_methods_and_optimizers_are_what_they_were():
    """As the version before schemas gave them."""
    known = {
        "2aac97c": load_config("fashion-full", None, {"lam": 1e-4}),
        "fbc49f9": load_config("imagenet-simclr", None, {}),
        "f4f3d97": load_config("simclr-cifar", None, {}),
        "e89e924": load_config("mae-cifar", None, {}),
        "4f69a92": load_config("moco-cifar", None, {}),
    }
    assert {name_of(config)[-7:] for config in known.values()} == set(known)


# ---------------------------------------------------------------------------------------------- growth


@dataclasses.dataclass(frozen=True)
class Wider(Config):
    warp: float = setting(1.0, "How much space is bent.")


def test_a_new_setting_renames_no_run():
    assert name_of(Wider()) == name_of(Config()) == QUICKSTART
    assert is_same_run(run_identity(Config()), run_identity(Wider()))
    assert name_of(Wider(warp=2.0)) != QUICKSTART
    assert run_identity(Wider(warp=2.0)) == {"schema": 1, "warp": 2.0}


@pytest.fixture
def richer_views(monkeypatch):
    """richer_views(**values): recipes whose views have one more strength, of those values for grey-small."""
    kind = type(RECIPES["symmetric"][0])
    richer = dataclasses.make_dataclass("Richer", [("noise", float, 0.0)], bases=(kind,), frozen=True)

    def change(**values):
        for name, views in list(RECIPES.items()):
            wanted = values if name == "grey-small" else {}
            monkeypatch.setitem(RECIPES, name, tuple(richer(**vars(view), **wanted) for view in views))

    return change


def test_a_new_strength_of_a_view_renames_no_run(richer_views):
    richer_views()
    assert name_of(Config()) == QUICKSTART
    assert run_identity(Config()) == {"schema": 1}


def test_a_new_strength_that_changes_views_renames_the_runs_with_them(richer_views):
    of_another = name_of(Config(views="weak"))
    richer_views(noise=0.5)
    assert name_of(Config()) != QUICKSTART
    assert [view["noise"] for view in run_identity(Config())["views"]] == [0.5, 0.5]
    assert name_of(Config(views="weak")) == of_another


class Sharper(SimCLR):
    def __init__(self, backbone, projector, *, temperature: float = 0.2, margin: float = 0.0):
        super().__init__(backbone, projector, temperature=temperature)
        self.margin = margin


def test_a_new_keyword_of_a_method_renames_no_run(monkeypatch):
    monkeypatch.setitem(METHODS, "simclr", Sharper)
    assert name_of(Config()) == QUICKSTART
    deviating = Config(method_settings={"margin": 0.1})
    assert name_of(deviating) != QUICKSTART
    assert run_identity(deviating) == {"schema": 1, "method_settings": {"margin": 0.1}}


def test_a_new_number_of_an_optimizer_renames_no_run(monkeypatch):
    lars = name_of(Config(optimizer="lars"))
    monkeypatch.setattr(identity, "adaptation", lambda name: {"eta": 0.001, "slope": 0.0} if name == "lars" else {})
    assert name_of(Config(optimizer="lars")) == lars
    monkeypatch.setattr(identity, "adaptation", lambda name: {"eta": 0.5} if name == "lars" else {})
    assert name_of(Config(optimizer="lars")) != lars
    assert name_of(Config()) == QUICKSTART


def test_the_defaults_are_those_of_the_schema():
    """A changed default needs a new schema; a new name is added to the newest by python -m tests.runs.freeze."""
    today, frozen = defaults_of_this_code(), schema(SCHEMA)
    for table in frozen:
        assert today[table] == frozen[table], f"{table}: {inspect.getdoc(test_the_defaults_are_those_of_the_schema)}"
    assert set(today) == set(frozen)


def test_the_file_of_a_schema_is_written_as_it_is_read(tmp_path):
    path = tmp_path / "schema.json"
    write(add_new(schema(SCHEMA), defaults_of_this_code()), path)
    assert path.read_text() == schema_file(SCHEMA).read_text()


def test_what_is_new_is_added_to_a_schema_and_nothing_is_changed():
    frozen, today = schema(SCHEMA), copy.deepcopy(defaults_of_this_code())
    today["settings"]["lr"] = 7.0
    today["methods"]["new"] = {"x": 1}
    today["later"]["settings"] |= {"warp": 2.0, "image_size": 9}
    added = add_new(frozen, today)
    assert added["settings"] == frozen["settings"]
    assert added["methods"] == {**frozen["methods"], "new": {"x": 1}}
    assert added["later"]["settings"] == {**frozen["later"]["settings"], "warp": 2.0}


def test_a_new_default_leaves_old_identities_what_they_were(monkeypatch):
    """What schema 1 says nothing about has schema 1's default, whatever that of the code is by then."""
    old = run_identity(Config())

    @dataclasses.dataclass(frozen=True)
    class Later(Config):
        lr: float = setting(0.5, "Higher.")

    assert run_identity(Later())["lr"] == 0.5
    assert whole_identity(old)["lr"] == 0.25
    assert name_of(Later(lr=0.25)) == QUICKSTART


def test_a_later_schema_is_refused():
    with pytest.raises(SparseheadError, match="settings of schema 7 are not known to this version. Upgrade"):
        whole_identity({"schema": 7})


# ---------------------------------------------------------------------------------------------- older versions


def old_identity(config, **changes):
    """As versions before schemas wrote it: every setting that there was then."""
    settings = {key: value for key, value in all_settings(config).items() if key not in schema(1)["later"]["settings"]}
    settings["views"] = [{key: view[key] for key in schema(1)["views"]} for view in settings["views"]]
    return {**settings, "device": config.device, "processes": 1, **changes}


def test_an_identity_of_an_older_version_is_known():
    for config in (Config(), Config(method="moco", method_settings={"queue": 9}), Config(optimizer="larc", views="crop", lam=0.0)):
        assert is_same_run(old_identity(config), run_identity(config))
        assert digests(old_identity(config)) == {name_of(config)[-7:]}
    assert not is_same_run(old_identity(Config(), lr=0.5), run_identity(Config()))
    assert not is_same_run(old_identity(Config(), processes=4), run_identity(Config()))
    on_a_processor = old_identity(Config(device="cpu"))
    assert is_same_run(on_a_processor, run_identity(Config()))
    assert len(digests(on_a_processor)) == 2  # older versions named it after its device


def test_a_run_that_was_named_after_its_device_stays_where_it_is(tmp_path):
    config = Config(device="cpu", results=tmp_path)
    older = tmp_path / "quickstart" / run_name(config, old_identity(config))
    assert older.name != QUICKSTART
    assert folder_of(config).name == QUICKSTART
    older.mkdir(parents=True)
    assert folder_of(config) == older
    assert folder_of(Config(results=tmp_path)).name == QUICKSTART
    (tmp_path / "quickstart" / QUICKSTART).mkdir()
    assert folder_of(config).name == QUICKSTART
