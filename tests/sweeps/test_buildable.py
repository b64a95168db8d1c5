from dataclasses import replace

import pytest

from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.sweeps.buildable import require_all_buildable
from sparsehead_cli.sweeps.grid import read_grid
from sparsehead_cli.sweeps.request import SweepRequest
from sparsehead_cli.sweeps.sweep import read_state, state_of

# axes, settings of every trial, how many can never be trained, why
NEVER = [
    ({"projectors": "mlp,orthogonal:300"}, {}, 2, "projector_out must be between 1 and 256 for projector orthogonal, given 300"),
    ({}, {"projector": "none"}, 2, "projector none has no weights to penalise, given lam 0.001"),
    ({"regularisers": "decay:1", "projectors": "none,mlp"}, {}, 2, "regulariser decay is of the head's weights"),
    ({"regularisers": "none,dropout:0.1"}, {"projector_layers": 1}, 4, "regulariser dropout is of the head's hidden units"),
    ({}, {"widths": (8, 16, 24)}, 4, "blocks [1, 1, 1, 1] and widths [8, 16, 24] must name the same number of stages"),
    ({"methods": "simclr,wmse", "dims": "8,64"}, {"batch_size": 32}, 4, "wmse whitens a batch in 64 dimensions"),
    ({"dims": "8,2000000000"}, {}, 4, "this network needs 6,"),
    ({"methods": "simclr,simmim"}, {"backbone": "narrow"}, 4, "simmim hides patches of a vision transformer"),
    ({}, {"backbone": "vit-mini", "checkpoint_activations": True, "compile": True}, 4, "do not go together"),
    ({"methods": "dino"}, {"backbone": "vit-mini", "views": "grey-multi-crop", "image_size": 8}, 4, "smaller than a patch"),
    ({"methods": "simclr,deepcluster"}, {"tasks": "2"}, 4, "deepcluster remembers each image from one epoch to the next"),
    ({}, {"dataset": "wordnet10k", "backbone": "narrow"}, 4, "backbone narrow reads images, and wordnet10k has sentences"),
]


@pytest.fixture
def request_of(tmp_path):
    """request_of(axes, settings) -> a sweep of SimCLR, two values of λ and two seeds."""

    def request_of(axes, settings):
        axes = {"lams": "0,1e-3", "methods": "simclr", "seeds": 2, **axes}
        grid = read_grid("lambda-quick", None, axes, {"results": tmp_path / "results", **settings})
        return SweepRequest(grid=grid, experiment="lambda-quick")

    return request_of


@pytest.mark.parametrize(("axes", "settings", "count", "reason"), NEVER)
def test_what_can_never_be_trained_is_refused_before_anything_is_run(request_of, tmp_path, axes, settings, count, reason):
    with pytest.raises(SparseheadError) as error:
        read_state(request_of(axes, settings))
    told = str(error.value)
    assert told.startswith(f"{count} trials of the grid can never be trained; nothing was run.\n")
    assert reason in told
    assert not (tmp_path / "results").exists()


def test_what_can_be_trained_is_let_through(request_of):
    grids = (
        ({"regularisers": "none,decay:1", "projectors": "none,mlp"}, {}),  # nobody asks for a decay of no weights
        ({"methods": "swav,dino"}, {"backbone": "vit-mini", "views": "grey-multi-crop"}),
    )
    assert [len(read_state(request_of(axes, settings)).pending()) for axes, settings in grids] == [10, 8]


def test_of_sentences(request_of):
    """One of our own stands for those of the set, which are not read."""
    pytest.importorskip("tokenizers", reason="pip install -e '.[text]'")
    settings = {"dataset": "wordnet10k", "backbone": "bert-mini"}
    assert len(read_state(request_of({}, {**settings, "views": "pairs"})).pending()) == 4
    with pytest.raises(SparseheadError, match="4 trials of the grid can never be trained; nothing was run.\nmae"):
        read_state(request_of({"methods": "simclr,mae"}, settings))


def test_each_reason_is_said_once_with_a_trial_that_has_it(request_of):
    request = request_of(
        {"methods": "simclr,simmim,ijepa", "projectors": "mlp,orthogonal:300", "lams": "0"}, {"backbone": "narrow"}
    )
    with pytest.raises(SparseheadError) as error:
        read_state(request)
    first, *reasons = str(error.value).splitlines()
    assert first.startswith("10 trials")  # all but those of SimCLR and the mlp
    assert [reason.split("-")[0] for reason in reasons] == ["simclr", "simmim", "ijepa"]


def test_the_memory_of_other_machines_is_not_known_here(request_of):
    configs = state_of(request_of({"dims": "8,2000000000"}, {})).configs
    require_all_buildable(configs.values(), here=False)
    with pytest.raises(SparseheadError, match="this network needs 6,"):
        require_all_buildable(configs.values(), here=True)


def test_commands_are_printed_for_other_machines_as_well(request_of):
    request = replace(request_of({"dims": "8,2000000000"}, {}), engine="print")
    assert len(read_state(request).pending()) == 8


def test_code_of_ones_own_is_left_to_the_trial(request_of):
    assert len(read_state(request_of({"projectors": "mlp,orthogonal:300"}, {"views": "no.such:module"})).pending()) == 6


def test_what_has_finished_or_failed_before_is_not_looked_at_again(request_of):
    request = request_of({}, {"projector": "none"})
    state = state_of(request)
    for name, config in state.configs.items():
        if config.lam:
            (state.folder / name).mkdir(parents=True)
            (state.folder / name / "failed.txt").write_text("it was as it was", encoding="utf-8")
    assert set(read_state(request).failed.values()) == {"it was as it was"}
