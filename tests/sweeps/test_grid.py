import pytest

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.config import load_config
from sparsehead_cli.runs.tables import penalty_name, projector_name, regularisers_name
from sparsehead_cli.sweeps.grid import Grid, read_grid, trials


@pytest.fixture
def experiments(tmp_path):
    path = tmp_path / "experiments.yaml"
    path.write_text(
        "byol: {method: byol, method.predictor_hidden: 64, epochs: 20}\n"
        "quickstart: {}\n"
        "plain: {epochs: 3}\n"
        "two: {sweep: {methods: 'simclr, byol', lams: [0, 1e-3], seeds: 2}, epochs: 5, lr: 0.1}\n"
        "odd: {sweep: {lambdas: [0], seed: 1, lams: x}}\n"
    )
    return path


def told(call):
    with pytest.raises(SparseheadError) as error:
        call()
    return str(error.value)


def test_axes_from_the_file_and_over_it(experiments):
    grid = read_grid("two", experiments, {"lams": "0, 1e-4,1e-2", "seeds": 3}, {"epochs": 7})
    assert (grid.lams, grid.methods, grid.seeds) == ((0.0, 1e-4, 1e-2), ("simclr", "byol"), 3)
    assert grid.settings == {"epochs": 7, "lr": 0.1}


def test_each_method_has_its_recipe_and_the_sweep_has_the_last_word(experiments):
    found = trials(read_grid("two", experiments, {}, {}), "two", experiments)
    byol = [config for config in found if config.method == "byol"]
    assert len(found) == 2 * len(byol) == 8
    assert {config.method_settings["predictor_hidden"] for config in byol} == {64}
    assert {(config.epochs, config.lr, config.experiment) for config in found} == {(5, 0.1, "two")}


def test_whole_seeds_come_first(experiments):
    found = trials(read_grid("two", experiments, {}, {}), "two", experiments)
    assert [config.seed for config in found] == [0] * 4 + [1] * 4


def test_with_lam_zero_penalties_and_solvers_share_their_trial(experiments):
    grid = Grid((0.0, 1e-3), penalties=("l21", "l21-output", "l1"), solvers=("subgradient", "proximal"), dims=(16, 64), seeds=1)
    found = trials(grid, "two", experiments)
    assert sum(config.lam == 0 for config in found) == 2  # one a dimension
    assert len(found) == 2 + 3 * 2 * 2
    assert {(config.penalty, config.groups) for config in found} == {("l21", "input"), ("l21", "output"), ("l1", "input")}


def test_how_a_penalty_is_applied_is_part_of_its_name(experiments):
    penalties = "l21,l21-first,l21-output-first-cosine,l21-relative-linear"
    found = trials(read_grid("two", experiments, {"penalties": penalties, "methods": "simclr", "seeds": 1}, {}), "two", experiments)
    assert sum(config.lam == 0 for config in found) == 1  # without a penalty nothing is applied
    assert [(c.penalty, c.groups, c.layers, c.lam_schedule) for c in found if c.lam] == [
        ("l21", "input", "all", "constant"),
        ("l21", "input", "first", "constant"),
        ("l21", "output", "first", "cosine"),
        ("l21-relative", "input", "all", "linear"),
    ]
    names = [penalty_name(c.penalty, c.groups, c.layers, c.lam_schedule) for c in found if c.lam]
    assert names == penalties.split(",")


@pytest.mark.parametrize("given", ["true,false", [True, False]])
def test_heads_with_and_without_batch_norm(experiments, given):
    found = trials(read_grid("two", experiments, {"batch_norm": given, "methods": "simclr", "seeds": 1}, {}), "two", experiments)
    assert sorted((c.projector_batch_norm, c.lam) for c in found) == [(False, 0), (False, 1e-3), (True, 0), (True, 1e-3)]


def test_batch_norm_that_is_neither_or_given_twice(experiments):
    text = told(lambda: read_grid("two", experiments, {"batch_norm": "yes"}, {}))
    assert "batch_norm must be true, false, or both with a comma between, given 'yes'" in text
    text = told(lambda: read_grid("two", experiments, {"batch_norm": "true"}, {"projector_batch_norm": False}))
    assert "projector_batch_norm is given twice: batch_norm are its values" in text


@pytest.mark.parametrize("given", ["none, koleo:0.1, covariance:1+decay:1e-3", ["none", "koleo:0.1", "covariance:1+decay:1e-3"]])
def test_regularisers_are_an_axis(experiments, given):
    """λ 0 and every λ with each of them; penalties share the trials of λ 0 of each."""
    axes = {"regularisers": given, "methods": "simclr", "penalties": "l21,l1", "seeds": 1}
    found = trials(read_grid("two", experiments, axes, {}), "two", experiments)
    expected = {None, ("koleo:0.1",), ("covariance:1", "decay:1e-3")}
    assert {c.regularisers for c in found if c.lam} == {c.regularisers for c in found if not c.lam} == expected
    assert len(found) == 3 * (1 + 2)
    assert regularisers_name(("covariance:1", "decay:1e-3")) == "covariance:1+decay:1e-3"
    without = trials(read_grid("two", experiments, {**axes, "regularisers": "none"}, {}), "two", experiments)
    assert without == [c for c in found if c.regularisers is None]  # and none is what it was before


def test_heads_in_the_place_of_the_mlp_are_an_axis(experiments):
    """They have no weights to penalise, so no λ; their widths are their own, and one without takes that of `dims`."""
    axes = {"projectors": "mlp,direct:16,orthogonal:8,none", "methods": "simclr", "penalties": "l21,l1", "seeds": 2}
    found = trials(read_grid("two", experiments, axes, {}), "two", experiments)
    heads = {(c.projector, c.projector_out) for c in found if not c.lam}
    assert {("direct", 16), ("orthogonal", 8)} < heads
    assert {c.projector for c in found if c.lam} == {"mlp"}
    assert len(found) == 2 * (1 + 2 + 3)
    names = [projector_name(c.projector, c.projector_out) for c in found[:6]]
    assert list(dict.fromkeys(names)) == axes["projectors"].split(",")
    cured = trials(read_grid("two", experiments, {**axes, "regularisers": "none,koleo:1"}, {}), "two", experiments)
    assert {c.projector for c in cured if c.regularisers} == {"mlp"}
    assert len(cured) == 2 * (2 * (1 + 2) + 3)
    without = {**axes, "projectors": "none", "regularisers": "none,koleo:1"}
    no_mlp = trials(read_grid("two", experiments, without, {}), "two", experiments)
    assert {c.regularisers for c in no_mlp} == {None, ("koleo:1",)}  # then they are what is compared
    auto = read_grid("two", experiments, {**axes, "lams": "auto"}, {})
    assert {c.projector for c in trials(auto, "two", experiments, lambda config: (0.0, config.lam)) if c.lam} == {"mlp"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        *(
            ({"projectors": f"mlp,direct{width}"}, "give its width as a whole number, as in direct:64")
            for width in ("", ":", ":0", ":x")
        ),
        ({"projectors": "mlp,direct:04"}, "projectors has direct:04: give its width as a whole number"),
        ({"projectors": "mlp:64"}, "projectors has mlp:64: give the widths of mlp as dims"),
        ({"projectors": "none:3"}, "projectors has none:3: without a projector z is as wide as r. Give none"),
        ({"projectors": "Direct:3"}, 'unknown projector "Direct"; known: mlp, none, orthogonal, direct. Did you mean "direct"?'),
        ({"projectors": "direct:4", "lams": "1e-2"}, "no weights that λ could weigh: give 0 among --lams, or leave them out"),
        ({"projectors": "mlp,none", "lams": "1e-2"}, "no weights that λ could weigh: give 0 among --lams, or leave them out"),
        ({"projectors": "mlp,none", "dims": "4,8"}, "projectors are compared with one mlp: give dims one value"),
        ({"projectors": "mlp,none", "batch_norm": "true,false"}, "compared with one mlp: give batch_norm one value"),
    ],
)
def test_heads_that_are_none(experiments, given, words):
    assert words in told(lambda: read_grid("two", experiments, given, {}))


def test_regularisers_given_twice(experiments):
    text = told(lambda: read_grid("two", experiments, {"regularisers": "none,koleo:1,koleo:1"}, {}))
    assert "regularisers has koleo:1 more than once" in text
    for one, other in (("koleo:0.1", "koleo:1e-1"), ("decay:1+koleo:1", "koleo:1+decay:1.0")):
        text = told(lambda: read_grid("two", experiments, {"regularisers": f"none,{one},{other}"}, {}))  # noqa: B023
        assert f"regularisers has {one} and {other}, which are the same" in text
    text = told(lambda: read_grid("two", experiments, {"regularisers": "none"}, {"regularisers": "koleo:1"}))
    assert "regularisers is given twice" in text


def test_what_cannot_be_is_told_together(experiments):
    text = told(lambda: read_grid("two", experiments, {"lams": "1e-3,-1,0.001", "seeds": 0, "dims": "0"}, {}))
    for part in (
        "lams has 0.001 more than once",
        "lams must be numbers of at least 0, given (0.001, -1.0, ",
        "seeds must be at least 1, given 0",
    ):
        assert part in text
    assert "dims must be numbers of at least 1, given (0,)" in text
    empty = told(lambda: read_grid("two", experiments, {"lams": "", "methods": ","}, {}))
    assert "lams must be numbers with commas between, or auto, given ''" in empty
    assert "methods must be names with commas between, given ','" in empty
    text = told(lambda: read_grid("odd", experiments, {}, {}))
    assert 'unknown axis "lambdas"' in text
    assert (
        'unknown axis "seed"; known: lams, methods, penalties, solvers, dims, batch_norm, regularisers, projectors, seeds.' in text
    )
    assert 'Did you mean "seeds"?' in text
    assert "lams must be numbers with commas between, or auto, given 'x'" in text


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ("{methods: simclr}", "bad has no values of λ to sweep: give --lams auto, or such as"),
        ("{lams: }", "lams must be numbers with commas between, or auto, given None"),
        ("{lams: [0], seeds: }", "seeds must be a whole number, given None"),
        ("{lams: [0], seeds: 2.7}", "seeds must be a whole number, given 2.7"),
        ("{lams: [0], seeds: [0, 1]}", "seeds must be a whole number, given [0, 1]"),
        ("{lams: [0], seeds: true}", "seeds must be a whole number, given True"),
        ("{lams: [0], seeds: 1e400}", "seeds must be a whole number, given inf"),
        (f"{{lams: [0], seeds: 1{'0' * 30}}}", "seeds must be at most 2147483647"),
        (f"{{lams: [1{'0' * 400}]}}", "lams must be finite, given (inf,)"),
        ("{lams: [0, [1]]}", "lams must be numbers with commas between, or auto, given [0, [1]]"),
        ("{lams: [0, 1_0]}", "lams must be numbers with commas between, or auto, given [0, '1_0']"),
        ("{lams: [0], methods: [{a: b}]}", "methods must be names with commas between, given [{'a': 'b'}]"),
        ("{lams: [0], dims: [1e400]}", "dims must be whole numbers with commas between, given [inf]"),
    ],
)
def test_axes_that_are_missing_or_no_numbers(tmp_path, axes, says):
    (tmp_path / "e.yaml").write_text(f"bad: {{sweep: {axes}}}")
    assert says in told(lambda: read_grid("bad", tmp_path / "e.yaml", {}, {}))


def test_names_that_are_not_there(experiments):
    text = told(lambda: read_grid("tow", experiments, {}, {}))
    assert text.startswith('unknown experiment "tow"; known: two, odd, lambda-quick, ')
    assert text.endswith('Did you mean "two"?')
    assert "plain has no values of λ to sweep: give --lams auto" in told(lambda: read_grid("plain", experiments, {}, {}))
    assert "sparsehead sweep-lambda --experiment two" in told(lambda: load_config("two", experiments, {}))
    assert "more than 10,000 trials" in told(lambda: trials(Grid((0.0,), seeds=10_001), "two", experiments))
