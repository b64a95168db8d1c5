import json

import pytest

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.plain import folder_name
from sparsehead_cli.runs.config import FIELDS, Config, load_config, parse_set, read_experiments
from sparsehead_cli.runs.experiments import read_file
from sparsehead_cli.runs.identity import run_identity
from sparsehead_cli.runs.method_settings import method_settings
from sparsehead_cli.runs.settings import problems_of, typed
from sparsehead_cli.sweeps.grid import read_grid


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


@pytest.mark.parametrize("name", ["regularisers", "widths", "image_size", "init"])
def test_none_is_read_as_it_is_written(experiments, name):
    """Where a setting has no value, all that we print says none."""
    config = load_config("mine", experiments, parse_set([f"{name}=none"]))
    assert getattr(config, name) is None
    assert run_identity(config) == run_identity(load_config("mine", experiments, {name: None}))


def test_without_a_name_it_is_the_methods_own_recipe(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("quickstart:\nbyol: {method: byol, epochs: 7}\nmine: {epochs: 5}\n")
    assert load_config(None, path, {"method": "byol"}).epochs == 7
    assert load_config(None, path, {"method": "byol"}).experiment == "byol"
    assert load_config(None, path, {"method": "simclr"}) == Config()
    assert load_config(None, path, {}).experiment == "quickstart"
    assert load_config("mine", path, {"method": "byol"}).epochs == 5


def test_an_entry_of_the_default_method_holds_with_and_without_its_name(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("simclr: {epochs: 7}\n")
    assert load_config(None, path, {}) == load_config(None, path, {"method": "simclr"})
    assert (load_config(None, path, {}).epochs, load_config(None, path, {}).experiment) == (7, "simclr")
    path.write_text("simclr: {epochs: 7}\nquickstart: {epochs: 5}\n")
    assert (load_config(None, path, {}).epochs, load_config(None, path, {"method": "simclr"}).epochs) == (5, 7)


def test_a_path_is_one_data_set_however_it_is_written(photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "cifar10"):
        (tmp_path / name).symlink_to(photographs)
    (tmp_path / "other").mkdir()

    def dataset(given):
        return load_config(None, None, {"dataset": given}).dataset

    assert {dataset(given) for given in ("base", "./base", "base/", ".//base/.", "other/../base")} == {"base"}
    assert {dataset(given) for given in (f"{tmp_path}/base", f"{tmp_path}/./base/")} == {f"{tmp_path}/base"}
    assert {dataset(given) for given in ("./cifar10", "cifar10/")} == {"./cifar10"}  # a folder, and not the published set
    assert dataset("cifar10") == "cifar10"
    assert dataset("base/../photographs") == "base/../photographs"  # beside what the link leads to


def test_all_errors_at_once(experiments):
    with pytest.raises(SparseheadError) as error:
        load_config("mine", experiments, {"epoch": 3, "lam": "much", "lr": -1.0, "batch_size": 1.5, "seed": -1})
    message = str(error.value)
    assert 'unknown setting "epoch". Did you mean "epochs"?' in message
    assert "lam must be a number, given 'much'" in message
    assert "lr must be above 0, given -1.0" in message
    assert "batch_size must be a whole number, given 1.5" in message
    assert "seed must be between 0" in message


def test_a_methods_setting_without_its_prefix_is_recognised():
    with pytest.raises(SparseheadError, match='unknown setting "temperature". Did you mean "method.temperature"'):
        load_config(None, None, {"temperature": 0.5})


@pytest.mark.parametrize("text", ["nan", ".nan", "inf", "-1"])
def test_lam_must_be_a_finite_number_of_at_least_zero(experiments, text):
    with pytest.raises(SparseheadError, match="^lam must be"):
        load_config("mine", experiments, parse_set([f"lam={text}"]))


@pytest.mark.parametrize("zero", [0, -0.0, "-0.0", "-0"])
def test_zero_is_one_number(zero):
    config = load_config(None, None, {"lam": zero, "warmup_epochs": zero})
    assert run_identity(config) == run_identity(load_config(None, None, {"lam": 0.0, "warmup_epochs": 0.0}))
    assert str(config.lam) == str(config.warmup_epochs) == "0.0"


@pytest.mark.parametrize("tasks", ["-3", "2.5", "+5"])
def test_a_number_of_tasks_is_no_data_set(tasks):
    with pytest.raises(SparseheadError, match="tasks is a whole number of at least 2, or names of data sets; given"):
        load_config(None, None, {"tasks": tasks})


def test_scientific_notation_is_a_number():
    assert parse_set(["lam=1e-4", "widths=4,8", "compile=true"]) == {"lam": 1e-4, "widths": "4,8", "compile": True}
    assert typed(FIELDS["widths"], "4,8") == (4, 8)
    assert typed(FIELDS["widths"], None) is None
    assert typed(FIELDS["lam"], "1e-4") == 1e-4


@pytest.mark.parametrize(
    ("key", "value"),
    [("compile", "perhaps"), ("compile", 1), ("epochs", True), ("widths", "a,b"), ("method", ["simclr"]), ("lam", True)],
)
def test_wrong_types(key, value):
    with pytest.raises(ValueError, match=f"^{key} must be"):
        typed(FIELDS[key], value)


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


ALIASES = ", ".join(["&a0 [x, x, x, x, x, x, x, x, x]"] + [f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 6)])


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("lam=2024-13-45", "lam must be a number, given '2024-13-45'."),
        ("lam=2024-01-01", "lam must be a number, given '2024-01-01'."),
        ("lam=0b_", "lam must be a number, given '0b_'."),
        ("lam=1_000", "lam must be a number, given '1_000'."),
        ("lam=1:30", "lam must be a number, given '1:30'."),
        ("lam=" + "9" * 400, "lam must be finite, given inf."),
        ("lam=" + "9" * 5000, "lam must be finite, given inf."),
        ("lam=１２", "lam must be a number, given '１２'."),
        ("lam=" + "[" * 5000, "it has lists in lists more than 12 deep"),
        (f"lam=[{ALIASES}]", "it stands for more than 50,000 values"),
        ("lam=&a [*a]", "it has lists in lists more than 12 deep"),
        ("lam=*x", "found undefined alias"),
        ("lam=!!python/object/apply:os.system [id]", 'it has the tag "tag:yaml.org,2002:python/object/apply:os.system"'),
        ("lam=!!binary aGk=", "it has the tag"),
        ("lam={a: 1, a: 2}", 'gives "a" a second time'),
        ("lam={[a]: 2}", "has a list or a table where a name belongs"),
        ("lam={<<: 3}", "merges by << what is no table"),
        ("lam=\x1b[31m", "special characters are not allowed"),
        ("method=[a]", "method must be text, given ['a']."),
        ("method=", "method must be text, given None."),
        ("method={a: b}", "method must be text, given {'a': 'b'}."),
        ("method=true", "method must be text, given True."),
        ("dataset=1.10", "dataset must be text, given 1.1 (write it in quotes"),
        ('data_dir="a\\0b"', "data_dir must not have a zero byte"),
        ('results="\\ud800"', "results has characters that no file can have"),
        ("seed=010", "seed must be a whole number, given '010'."),
        ("seed=0x10", "seed must be a whole number, given '0x10'."),
        ("epochs=1e400", "epochs must be a whole number, given inf."),
        ("epochs=1" + "0" * 30, "epochs must be at most 2147483647, given 1000000000000000000000000000000."),
        ("lr=1e300", "lr must be at most 3e+38, given 1e+300."),
        ("lam=1e308", "lam must be at most 3e+38, given 1e+308."),
        ("batch_size=1" + "0" * 18, "batch_size must be at most 2147483647"),
        ("workers=1000000", "workers must be between 0 and 1024, given 1000000"),
        ("blocks=[100000000000]", "blocks must be at most 2147483647"),
        (
            f"widths=[{','.join(['8'] * 1000)}]",
            "widths must be a list of whole numbers, 64 at most, given [8, 8, 8, 8, 8, 8, ...].",
        ),
        (f"widths=[{','.join(['8'] * 10**5)}]", "it is longer than 20,000 characters"),
        ("widths=4,,8", "widths must be a list of whole numbers"),
        ("widths=²", "widths must be a list of whole numbers"),
        ("widths=true", "widths must be a list of whole numbers"),
        ("\x1b[31mlam=1", 'unknown setting "\\x1b[31mlam"'),
        ("x" * 10**5 + "=1", "unknown setting"),
        ("experiment=../../esc", 'unknown setting "experiment"'),
    ],
    ids=lambda text: text[:20].encode("unicode_escape").decode(),
)
def test_a_setting_that_cannot_be_is_told_in_one_short_line(experiments, assignment, says):
    with pytest.raises(SparseheadError) as error:
        load_config("mine", experiments, parse_set([assignment]))
    text = str(error.value)
    assert says in text
    assert "\n" not in text
    assert len(text) < 700


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("method.temperature=", "method.temperature must be a number, given None"),
        ("method.temperature=[1]", "method.temperature must be a number, given [1]"),
        ("method.temperature=true", "method.temperature must be a number, given True"),
        ("method.temperature=x", "method.temperature must be a number, given 'x'"),
        ("method.temperature=1" + "0" * 400, "method.temperature must be finite, given inf"),
        ("method.temperature=nan", "method.temperature must be finite, given nan"),
    ],
)
def test_a_methods_settings_are_checked_against_its_signature(experiments, assignment, says):
    config = load_config("mine", experiments, parse_set([assignment]))
    with pytest.raises(SparseheadError) as error:
        method_settings(config.method, config.method_settings)
    assert says in str(error.value)


@pytest.mark.parametrize(
    "name", ["../../esc", "/tmp/esc", "..", ".", "", " ", "a/b", "a\\b", "a\nb", "a\0b", "-x", ".x", "x" * 101, "\ud800"]
)
def test_no_experiment_leaves_the_folder_of_results(tmp_path, name):
    path = tmp_path / "e.yaml"
    path.write_text(json.dumps({name: {}, "quickstart": {}}), encoding="utf-8")
    with pytest.raises(SparseheadError) as error:
        load_config(name, path, {})
    assert "cannot be the name of a folder" in str(error.value)
    assert "\n" not in str(error.value)
    path.write_text(json.dumps({name: {"sweep": {"lams": [0, 1]}}}), encoding="utf-8")
    with pytest.raises(SparseheadError, match="cannot be the name of a folder"):
        read_grid(name, path, {}, {})


def test_names_that_people_have_stay():
    for name in ("quickstart", "lambda-quick", "my run 2", "été", "[red]", "v1.2", "010", "a'b"):
        assert folder_name("experiment", name) == name


def test_words_of_a_file_mean_what_they_look_like(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_bytes(
        "\ufeff010: {dataset: 010, lr: 1e-4, compile: yes, widths: [8, 16]}\nyes:\n2024-01-01: {<<: {lam: 1}, lam: 2}\n".encode()
    )
    table = read_file(path)
    assert table == {
        "010": {"dataset": "010", "lr": 1e-4, "compile": True, "widths": [8, 16]},
        "yes": {},
        "2024-01-01": {"lam": 2},
    }
    assert load_config("010", path, {}).dataset == "010"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a: {}\na: {}\n", 'line 2 gives "a" a second time'),
        (b"a: {lam: 1, lam: 2}", 'gives "lam" a second time'),
        ("a: {}".encode("utf-16"), "is not UTF-8 in line 1"),
        (b"a: {}\nb\xff: {}", "is not UTF-8 in line 2"),
        (b"\0\0", "not valid YAML"),
        (b"a: {}\n" * 200_000, "larger than 200,000 bytes"),
        (b"a: " + b"[" * 5000, "lists in lists more than 12 deep"),
        (f"a: {{lam: [{ALIASES}]}}".encode(), "more than 50,000 values"),
        (b"a: {lam: !!python/name:os.system }", "it has the tag"),
        (b"a: {}\n---\nb: {}", "not valid YAML"),
    ],
    ids=range(10),
)
def test_files_of_settings_that_cannot_be_read(tmp_path, data, says):
    path = tmp_path / "e.yaml"
    path.write_bytes(data)
    with pytest.raises(SparseheadError) as error:
        read_experiments(path)
    assert says in str(error.value)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize("assignment", ["lam", "=3", "lam=[1"])
def test_malformed_set(assignment):
    with pytest.raises(SparseheadError, match="--set"):
        parse_set([assignment])


def test_numbers_that_settings_cannot_be():
    assert problems_of(Config(image_size=4, workers=-1)) == [
        "image_size must be between 8 and 4096, given 4.",
        "workers must be between 0 and 1024, given -1.",
    ]
    assert problems_of(Config(epochs=3, warmup_epochs=4.0)) == ["warmup_epochs must be between 0 and epochs (3), given 4.0."]
    assert problems_of(Config(epochs=0, warmup_epochs=4.0)) == ["epochs must be at least 1, given 0."]
