import pytest

from sparsehead_cli.config import Config, coerce, load_config, parse_set, read_experiments
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.training import build


@pytest.fixture
def experiments(tmp_path):
    path = tmp_path / "experiments.yaml"
    path.write_text("quickstart:\nmine: {lam: 1e-2, epochs: 7, method.temperature: 0.5, widths: [8, 16]}\n")
    return path


def test_default_then_experiment_then_command_line(experiments):
    config = load_config("mine", experiments, {"epochs": 3})
    assert (config.lam, config.epochs, config.widths, config.batch_size) == (0.01, 3, (8, 16), Config().batch_size)
    assert config.method_settings == {"temperature": 0.5}
    assert config.experiment == "mine"
    assert load_config("quickstart", experiments, {}) == Config()


def test_without_a_name_it_is_the_methods_own_recipe(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("quickstart:\nbyol: {method: byol, epochs: 7}\nmine: {epochs: 5}\n")
    assert load_config(None, path, {"method": "byol"}).epochs == 7
    assert load_config(None, path, {"method": "byol"}).experiment == "byol"
    assert load_config(None, path, {"method": "simclr"}) == Config()
    assert load_config(None, path, {}).experiment == "quickstart"
    assert load_config("mine", path, {"method": "byol"}).epochs == 5


def test_all_errors_at_once(experiments):
    with pytest.raises(SparseheadError) as error:
        load_config("mine", experiments, {"epoch": 3, "lam": "much", "lr": -1.0, "batch_size": 1.5, "seed": -1})
    message = str(error.value)
    assert 'unknown setting "epoch". Did you mean "epochs"?' in message
    assert "lam must be a number, given 'much'" in message
    assert "lr must be above 0, given -1.0" in message
    assert "batch_size must be a whole number, given 1.5" in message
    assert "seed must be between 0" in message


@pytest.mark.parametrize("text", ["nan", ".nan", "inf", "-1"])
def test_lam_must_be_a_finite_number_of_at_least_zero(experiments, text):
    with pytest.raises(SparseheadError, match="^lam must be"):
        load_config("mine", experiments, parse_set([f"lam={text}"]))


def test_scientific_notation_is_a_number():
    assert parse_set(["lam=1e-4", "widths=4,8", "compile=true"]) == {"lam": 1e-4, "widths": "4,8", "compile": True}
    assert coerce("widths", "4,8") == (4, 8)
    assert coerce("widths", None) is None
    assert coerce("lam", "1e-4") == 1e-4


@pytest.mark.parametrize(
    ("key", "value"),
    [("compile", "perhaps"), ("compile", 1), ("epochs", True), ("widths", "a,b"), ("method", ["simclr"]), ("lam", True)],
)
def test_wrong_types(key, value):
    with pytest.raises(ValueError, match=f"^{key} must be"):
        coerce(key, value)


def test_unknown_experiment(experiments):
    with pytest.raises(SparseheadError, match=r'unknown experiment.* "mien"; known: quickstart, mine.*Did you mean "mine"'):
        load_config("mien", experiments, {})


@pytest.mark.parametrize(("text", "says"), [("a: [", "not valid YAML"), ("- a", "must map"), ("a: 3", "must map")])
def test_damaged_experiments_file(tmp_path, text, says):
    path = tmp_path / "e.yaml"
    path.write_text(text)
    with pytest.raises(SparseheadError, match=says):
        read_experiments(path)
    with pytest.raises(SparseheadError, match="cannot read.*No such file"):
        read_experiments(tmp_path / "none.yaml")


@pytest.mark.parametrize("assignment", ["lam", "=3", "lam=[1"])
def test_malformed_set(assignment):
    with pytest.raises(SparseheadError, match="--set"):
        parse_set([assignment])


def test_later_settings_name_no_run_anew_until_they_are_used():
    assert Config().identity() == Config(workers=0).identity()
    assert not {"image_size", "skip_bad_images", "workers"} & set(Config().identity())
    for change in ({"image_size": 32}, {"skip_bad_images": True}):
        assert {**Config().identity(), **change} == Config(**change).identity()
    quickstart = build.run_identity(Config(lam=1e-4))
    assert build.run_name(Config(lam=1e-4), quickstart) == "simclr-l21-lam1e-04-seed0-2b5ec4b"  # as in results/
    assert Config(image_size=4, workers=-1).problems() == [
        "image_size must be at least 8, given 4.",
        "workers must be at least 0, given -1.",
    ]


def test_identity_leaves_out_where_things_lie(tmp_path):
    assert Config().identity() == Config(results=tmp_path, data_dir=tmp_path, experiment="x").identity()
    for change in ({"lam": 0.5}, {"seed": 1}, {"precision": "float32"}, {"method_settings": {"temperature": 1}}, {"compile": True}):
        assert Config().identity() != Config(**change).identity()
