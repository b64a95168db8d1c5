"""The functions for Python: the commands' keywords, tables, no output, and names that type checkers know."""

import inspect
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.main import get_command

import sparsehead_cli
from sparsehead_cli import api
from sparsehead_cli.cli import app
from sparsehead_cli.evaluation import spectrum as spectrum_module
from sparsehead_cli.machine.calls import ONE, checked
from sparsehead_cli.runs.config import FIELDS, load_config
from sparsehead_cli.runs.method_settings import method_settings
from sparsehead_cli.training.callbacks import Callback

ROOT = Path(__file__).parents[1]
THIN = {"dataset": "fashion1k", "epochs": 1, "batch_size": 100, "precision": "float32"}
HEAD = {"widths": [8, 8, 8, 8], "projector_hidden": 16, "projector_out": 8}
FUNCTIONS = {"pretrain": "pretrain", "evaluate": "evaluate", "spectrum": "spectrum", "sweep-lambda": "sweep", "export": "export"}
OF_THE_COMMAND = {"explain", "help", "dry_run", "trial"}  # what only prints, and what a sweep tells itself


@pytest.mark.parametrize(("command", "function"), FUNCTIONS.items())
def test_a_function_has_the_keywords_and_the_defaults_of_its_command(command, function):
    parameters = inspect.signature(getattr(api, function)).parameters
    for option in get_command(app).commands[command].params:
        name = option.name.removesuffix("_")
        if name in OF_THE_COMMAND:
            continue
        if function == "pretrain" and name not in parameters:
            assert name in FIELDS  # any setting is a keyword
            continue
        assert name in parameters, name
        ours, theirs = parameters[name].default, option.default
        assert ours == inspect.Parameter.empty or ours in ((), theirs) or str(ours) == str(theirs), name


def test_what_is_public():
    assert dir(sparsehead_cli) == sorted([*sparsehead_cli.__all__, "SparseHeadCallback", "__version__"])
    for name in sparsehead_cli.__all__:
        assert getattr(sparsehead_cli, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'pretrian'"):
        _ = sparsehead_cli.pretrian
    assert (Path(sparsehead_cli.__file__).parent / "py.typed").exists()


def test_no_room_takes_the_place_of_a_function():
    """An import of a folder or module with a function's name would put it there."""
    rooms = {path.stem for path in (ROOT / "sparsehead_cli").iterdir()}
    assert not rooms & set(sparsehead_cli.__all__)


def test_sparsehead_needs_torch_alone():
    code = (
        "import sys, sparsehead_cli\n"
        "assert 'torch' not in sys.modules\n"
        "from sparsehead_cli import SparseHead\n"
        "others = ('torchvision', 'pandas', 'scipy', 'yaml', 'typer', 'rich', 'matplotlib', 'PIL', 'filelock', 'jinja2')\n"
        "sys.exit(', '.join(name for name in others if name in sys.modules) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_run_from_start_to_numbers(tmp_path, capfd, monkeypatch):
    for name, value in {"VIEWED": 40, "VIEWS": 4, "BATCHES": 3, "BATCH_SIZE": 32, "RESPONSE_IMAGES": 50, "KEPT": 500}.items():
        monkeypatch.setattr(spectrum_module, name, value)
    arguments = {**THIN, "lam": 1e-3, "results": tmp_path, "set": {**HEAD, "method.temperature": 0.5}}
    first = sparsehead_cli.pretrain(**arguments)
    assert not first.was_finished
    assert first.metrics["loss"].notna().all()
    assert list(first.layers["layer"]) == ["0", "3"]
    again = sparsehead_cli.pretrain(**arguments)
    assert again.was_finished
    assert again.metrics["loss"].tolist() == first.metrics["loss"].tolist()
    evaluation = sparsehead_cli.evaluate([first.folder, str(first.folder)], protocol=["knn"], per_class=True)
    assert set(evaluation.table["features"]) == {"r", "z"}
    assert evaluation.table["value"].between(0, 1).all()
    assert len(evaluation.per_class) == 10 * len(evaluation.table)
    copy = shutil.copytree(first.folder, tmp_path / "copy")
    assert len(sparsehead_cli.evaluate([first.folder, copy], protocol="knn").table) == 2 * len(evaluation.table)
    spectra = sparsehead_cli.spectrum(first.folder, out=tmp_path / "spectra")
    assert set(spectra.eigenvalues["features"]) == {"r", "z", "response"}
    assert isinstance(spectra.by_lam, pd.DataFrame)
    assert tmp_path / "spectra" / "spectrum_metrics.csv" in spectra.files
    assert sparsehead_cli.load(first.folder).name == first.folder.name
    assert capfd.readouterr() == ("", "")


def test_callbacks_are_names_or_objects(tmp_path):
    class Count(Callback):
        steps = 0

        def on_step(self, run, progress):
            self.steps += 1

    count = Count()
    sparsehead_cli.pretrain(**THIN, results=tmp_path, set=HEAD, callback=[count, "sparsehead_cli.training.callbacks:Callback"])
    assert count.steps == 9


def test_what_is_wrong_is_one_error(tmp_path, trained):
    wrong = {
        'unknown setting "lamm". Did you mean "lam"': lambda: sparsehead_cli.pretrain(lamm=1),
        "epochs must be at least 1": lambda: sparsehead_cli.pretrain(epochs=0),
        "which checkpoint?": lambda: sparsehead_cli.evaluate([]),
        'unknown protocol "knm"': lambda: sparsehead_cli.evaluate(trained, protocol="knm"),
        r"assume must be a list of texts.*: write \['padding=2'\]": lambda: sparsehead_cli.load(trained, assume="padding=2"),
        "does not exist": lambda: sparsehead_cli.load(tmp_path / "nothing.pt"),
        "the pattern fits nothing that is there": lambda: sparsehead_cli.load(tmp_path / "run*" / "checkpoint.pt"),
        "which checkpoint": lambda: sparsehead_cli.spectrum(),
        "engine print prints commands": lambda: sparsehead_cli.sweep(engine="print"),
        "slurm.cpus is of Slurm: it needs --engine slurm": lambda: sparsehead_cli.sweep(set={"slurm.cpus": 2}),
        "lams has 0.1 more than once": lambda: sparsehead_cli.sweep(lams=[0.1, 0.1]),
    }
    for message, call in wrong.items():
        with pytest.raises(sparsehead_cli.SparseheadError, match=message):
            call()


@pytest.mark.parametrize(
    ("function", "arguments", "says"),
    [
        ("pretrain", {"set": "lr=1"}, "set must be a dict whose keys are texts or None, given 'lr=1'."),
        ("pretrain", {"set": [("lr", 1)]}, "set must be a dict whose keys are texts or None, given [('lr', 1)]."),
        ("pretrain", {"callback": None}, "callback must be a list of names or callbacks, given None."),
        ("pretrain", {"callback": "wandb"}, "callback must be a list of names or callbacks, given 'wandb': write ['wandb']."),
        ("pretrain", {"callback": [3]}, "a callback is a name, or an object of a class that extends Callback, given 3."),
        ("pretrain", {"seed": True}, "seed must be a whole number, given True."),
        ("pretrain", {"lam": np.array([1, 2])}, "lam must be a number, given [1, 2]."),
        ("load", {"checkpoint": 3}, "checkpoint must be text or a path, given 3."),
        ("load", {"checkpoint": None}, "checkpoint must be text or a path, given None."),
        ("load", {"checkpoint": "x", "image_size": 9.5}, "image_size must be a whole number or None, given 9.5."),
        ("evaluate", {"checkpoints": "x", "protocol": 3}, "protocol must be text or a list of texts, given 3."),
        ("evaluate", {"checkpoints": "x", "baselines": 1}, "baselines must be True or False, given 1."),
        ("spectrum", {"checkpoints": None}, "checkpoints must be text, a path or a list of paths, given None."),
        ("sweep", {"seeds": True}, "seeds must be a whole number or None, given True."),
        ("export", {"checkpoint": "x", "to": "onnx", "threshold": "low"}, "threshold must be a number, given 'low'."),
    ],
)
def test_what_is_no_such_argument_is_one_error(function, arguments, says):
    with pytest.raises(sparsehead_cli.SparseheadError) as error:
        getattr(sparsehead_cli, function)(**arguments)
    assert str(error.value) == says


def test_numbers_may_be_numpys_and_tensors():
    @checked
    def function(a: int = 0, b: Sequence[float] = (), c: str | Path | None = None, **others: object):
        return a, b, c, others

    given = function(np.int64(1), np.array([0, 0.5]), Path("x"), widths=np.array([8, 8]), lam=torch.tensor(0.5))
    assert given == (1, [0.0, 0.5], Path("x"), {"widths": [8, 8], "lam": 0.5})
    assert [type(value) for value in given[1]] == [float, float]
    assert function(a="0", b=[np.float32(0.5), torch.tensor(2)]) == (0, [0.5, 2.0], None, {})
    settings = {
        "epochs": np.int64(3),
        "lam": torch.tensor(0.25),
        "widths": [np.int32(8)] * 4,
        "method.temperature": np.float32(0.5),
    }
    config = load_config(None, None, settings)
    assert (config.epochs, config.lam, config.widths) == (3, 0.25, (8, 8, 8, 8))
    assert method_settings("simclr", config.method_settings)["temperature"] == 0.5
    with pytest.raises(sparsehead_cli.SparseheadError, match="epochs must be a whole number, given True"):
        load_config(None, None, {"epochs": np.bool_(True)})


@pytest.mark.parametrize("function", ["pretrain", "evaluate", "spectrum", "sweep"])
def test_a_second_thread_waits_for_the_first(function, tmp_path):
    """Two trainings at once would draw from one generator; a call of the thread that is in one goes on."""
    began, ended = threading.Event(), threading.Event()

    def call():
        began.set()
        with suppress(sparsehead_cli.SparseheadError):
            {
                "pretrain": lambda: sparsehead_cli.pretrain(epochs=0),
                "evaluate": lambda: sparsehead_cli.evaluate(tmp_path / "nothing.pt"),
                "spectrum": lambda: sparsehead_cli.spectrum(),
                "sweep": lambda: sparsehead_cli.sweep(engine="print"),
            }[function]()
        ended.set()

    thread = threading.Thread(target=call)
    with ONE:
        call()
        assert ended.is_set()
        began.clear()
        ended.clear()
        thread.start()
        assert began.wait(10)
        assert not ended.wait(0.2)
    assert ended.wait(10)
    thread.join()


def test_spectra_over_time(tmp_path):
    run = sparsehead_cli.pretrain(**THIN, results=tmp_path, set=HEAD, track_spectrum=True)
    spectra = sparsehead_cli.spectrum([run.folder], over_time=True)
    assert set(spectra.eigenvalues["epoch"]) == {1}
    assert spectra.metrics.empty


@pytest.mark.slow
def test_a_sweep_in_a_plain_script(tmp_path, photographs):
    """Without `if __name__ == "__main__"`, which multiprocessing would ask for."""
    settings = {"widths": [8, 8, 8, 8], "image_size": 16, "batch_size": 50, "warmup_epochs": 0, "workers": 0, "views": "symmetric"}
    (tmp_path / "script.py").write_text(
        "import sparsehead_cli\n"
        f"arguments = {{'dataset': {str(photographs)!r}, 'set': {settings!r}}}\n"
        "result = sparsehead_cli.sweep(lams=[0, 1e-3], seeds=1, epochs=1, jobs=2, **arguments)\n"
        "print(len(result.trials), sorted(result.trials['lam']), len(result.verdicts), result.folder)\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert (done.stdout, done.stderr) == ("2 [0.0, 0.001] 1 results/lambda-quick\n", "")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("mypy") and not Path(sys.executable).with_name("mypy").exists(), reason="mypy is not here")
def test_type_checkers_know_the_names(tmp_path):
    (tmp_path / "first_lines.py").write_text(
        "import torch\n"
        "import sparsehead_cli\n"
        "from sparsehead_cli import SparseHead, sweep\n"
        "sparse = SparseHead(torch.nn.Linear(4, 4), lam=1e-4)\n"
        "loss = torch.zeros(()) + sparse.penalty()\n"
        "model = sparsehead_cli.load('run')\n"
        "r = model.encoder(model.transform(torch.zeros(3, 8, 8)))\n"
        "sparsehead_cli.pretrain(lam=1e-4).metrics\n"
        "sweep(lams=[0, 1e-3]).verdicts\n"
    )
    ours_alone = "[mypy]\nfollow_imports = skip\n[mypy-sparsehead_cli.*]\nfollow_imports = silent\n"  # else it takes a minute
    (tmp_path / "mypy.ini").write_text(ours_alone)
    command = [sys.executable, "-m", "mypy", "first_lines.py"]
    environment = {"MYPYPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.stdout.startswith("Success"), done.stdout + done.stderr
