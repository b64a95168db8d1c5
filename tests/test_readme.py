"""Every fenced command of the README and of docs/ and every experiment is run, in a shortened form."""

import dataclasses
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsehead_cli.data.datasets import DATASETS
from sparsehead_cli.evaluation import spectrum
from sparsehead_cli.foreign.timm_models import TimmBackbone
from sparsehead_cli.nets.backbones import make_backbone
from sparsehead_cli.nets.heads import mlp
from sparsehead_cli.nets.vit import VITS
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config, read_experiments
from sparsehead_cli.ssl.methods import METHODS
from sparsehead_cli.training.callbacks import CALLBACKS
from sparsehead_cli.training.loop import pretrain
from tests.data.detection_sets import write_voc
from tests.texts import write_table

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCKS = [(page.name, language, text) for page in PAGES for language, text in FENCE.findall(page.read_text())]
PYTHON = [pytest.param(page, text, id=f"{page}-{i}") for i, (page, language, text) in enumerate(BLOCKS) if language == "python"]
LINES = [line.strip() for _, language, text in BLOCKS if language == "bash" for line in text.replace("\\\n", " ").splitlines()]
WHOLE = [line.split("  #")[0].strip() for line in LINES if line and not line.startswith("#")]
COMMANDS = list(dict.fromkeys(part for line in WHOLE for part in line.split(" && ")))  # each once, on however many pages it is
SPARSEHEAD = [c.removeprefix(".venv/bin/") for c in COMMANDS if re.match(r"(\.venv/bin/)?sparsehead ", c)]
EVALUATION = "sgd_epochs=1 finetune_epochs=1 semi_seeds=1 semi_epochs=1,1 detection.epochs=1 detection.batch_size=2"
EVALUATION += " detection.min_size=64 detection.max_size=64 detection.workers=0 detection.regions=16"
SHORT_EVALUATION = [part for setting in EVALUATION.split() for part in ("--set", setting)]
SHORT = shlex.split(
    "--epochs 1 --batch-size 250 --set widths=8,8,8,128 --set blocks=1,1,1,1 --set warmup_epochs=1 --set projector_hidden=128"
)


def small_colour_images(folder, train):
    """600 images of CIFAR's size: whether its recipes fit together needs no download of 170 MB."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (600, 3, 32, 32), dtype=np.uint8), np.arange(600) % 10


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    """Few small images stand in for every data set: whether commands and recipes fit together shows with them, too."""
    colour = dataclasses.replace(DATASETS["cifar10"], read=small_colour_images)
    for name in ("cifar10", "imagenet", "svhn"):
        monkeypatch.setitem(DATASETS, name, colour)
    for name in ("fashion-mnist", "fashion10k"):
        monkeypatch.setitem(DATASETS, name, DATASETS["fashion1k"])


OF_A_CHECKPOINT = ("sparsehead evaluate", "sparsehead spectrum", "sparsehead export")


@pytest.mark.slow_after(14)
@pytest.mark.parametrize("command", [c for c in SPARSEHEAD if not c.startswith(OF_A_CHECKPOINT)])
def test_sparsehead_commands(sparsehead, tmp_path, untrained_run, command):
    folders = ("data/cifar10-", "data/photos")  # of the reader's own images
    arguments = ["cifar10" if a.startswith(folders) else a for a in shlex.split(command)[1:]]
    for name in set(CALLBACKS) & set(arguments):
        pytest.importorskip(name)  # .ci/run installs them afterwards, and runs these again
    if arguments[0] == "sweep-lambda":
        arguments = [a for a in arguments if a != "--prune"]  # tests/sweeps/test_prune.py
        arguments += ["--engine", "print", "--results", tmp_path]  # the trials themselves: tests/sweeps/test_sweep.py
    if arguments[0] == "report":  # it writes into the folders
        arguments[1:] = [shutil.copytree(ROOT / folder, tmp_path / folder) for folder in arguments[1:]]
    if arguments[0] == "pretrain" and "--help" not in arguments:
        arguments += [*SHORT, "--results", tmp_path]
    if "--init" in arguments:  # a run of the same short network stands in for the file
        backbone = arguments[arguments.index("--backbone") + 1] if "--backbone" in arguments else "narrow"
        start = untrained_run(backbone=backbone, widths=(8, 8, 8, 128), blocks=(1, 1, 1, 1))
        arguments[arguments.index("--init") + 1] = start
    code, _, err = sparsehead(*arguments)
    assert (code, err) == (0, "")


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("command", [c for c in SPARSEHEAD if c.startswith("sparsehead evaluate")])
def test_evaluate_commands(sparsehead, run_folder, tmp_path, command):
    """On a tiny run and little data; the run's own folder stands in for the one that is named."""
    _, _, checkpoint, *arguments = shlex.split(command)
    place = run_folder / "checkpoint.pt" if checkpoint.endswith(".pt") else run_folder
    if "detection" in arguments:
        pytest.importorskip("torchmetrics")
        arguments[-1] = tmp_path / "voc"
        write_voc(arguments[-1])
    code, out, err = sparsehead("evaluate", place, *arguments, *SHORT_EVALUATION)
    assert (code, err) == (0, "")
    assert "evaluations.csv" in out


@pytest.mark.parametrize("command", [c for c in SPARSEHEAD if c.startswith("sparsehead export")])
def test_export_commands(sparsehead, untrained_run, tmp_path, command):
    """A ResNet-18 that was never trained stands in for the run that is named."""
    _, _, _, *arguments = shlex.split(command)
    for package in {"timm": ["timm"], "onnx": ["onnx", "onnxruntime"], "safetensors": ["safetensors"]}.get(arguments[1], []):
        pytest.importorskip(package)
    run = untrained_run(backbone="resnet18", image_size=16)
    folder = shutil.copytree(run, tmp_path / run.name)
    arguments = [tmp_path / a if before == "--out" else a for before, a in zip(["", *arguments], arguments, strict=False)]
    code, out, err = sparsehead("export", folder, *arguments)
    assert (code, err) == (0, "")
    assert "to load it" in out


@pytest.mark.slow_after(3)
@pytest.mark.parametrize("command", [c for c in SPARSEHEAD if c.startswith("sparsehead spectrum")])
def test_spectrum_commands(sparsehead, run_folder, trained_with_spectra, tmp_path, monkeypatch, command):
    """A tiny run, a tiny ResNet and timm's smallest model stand in for those that are named, photographs for ImageNet."""
    monkeypatch.setitem(DATASETS, "imagenet", DATASETS["fashion1k"])
    for name, value in {"VIEWED": 40, "VIEWS": 4, "BATCHES": 3, "BATCH_SIZE": 32, "RESPONSE_IMAGES": 50}.items():
        monkeypatch.setattr(spectrum, name, value)
    arguments = shlex.split(command)[2:]
    for i, argument in enumerate(arguments):
        if argument.startswith("results/") and arguments[i - 1] != "--figure":
            arguments[i] = trained_with_spectra if "--over-time" in arguments else run_folder
        elif argument.startswith("timm:"):
            pytest.importorskip("timm")
            arguments[i] = "timm:test_vit"
            torch.save(TimmBackbone("test_vit").net.state_dict(), tmp_path / "weights.pth")
        elif argument.endswith(".pth"):
            torch.save(somebody_elses(), tmp_path / "resnet.pth")
            arguments[i] = tmp_path / ("weights.pth" if arguments[i - 1] == "--weights" else "resnet.pth")
        elif arguments[i - 1] in ("--features", "--embeddings"):
            arguments[i] = tmp_path / argument
            np.save(arguments[i], np.random.default_rng(0).normal(size=(50, 4)))
        elif arguments[i - 1] == "--figure":
            arguments[i] = tmp_path / argument
    where = [] if "--explain" in arguments else ["--out", tmp_path / "out"]
    code, out, err = sparsehead("spectrum", *arguments, *where)
    assert (code, err) == (0, "")
    if "--figure" in arguments:
        assert "files" in out


@pytest.fixture
def trained_with_spectra(tiny):
    return pretrain(build(tiny(epochs=1, track_spectrum=True))).run.folder


def somebody_elses():
    """The state of Barlow Twins' training script, its network small."""
    backbone, projector = make_backbone("resnet18", channels=3, image_size=32, widths=(8, 8, 8, 8)), mlp(8, [16, 16], 16)
    parts = {"backbone": backbone, "projector": projector, "bn": torch.nn.BatchNorm1d(16, affine=False)}
    state = {f"module.{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    return {"epoch": 1000, "model": state}


@pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec)")
@pytest.mark.parametrize(("page", "code"), PYTHON)
def test_python_examples(page, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for peer in re.findall(r"^(?:import|from) (lightning|lightly)\b", code, re.MULTILINE):
        pytest.importorskip(peer)  # .ci/run installs them afterwards, and runs these again
    exec(compile(code, page, "exec"), {})


NAMED = {name for command in SPARSEHEAD for name in re.findall(r"--experiment (\S+)", command)}  # run above


SWEEPS = {name for name, entry in read_experiments(ROOT / "experiments.yaml").items() if "sweep" in entry}


@pytest.mark.slow_after(4)
@pytest.mark.parametrize("experiment", sorted(set(read_experiments(ROOT / "experiments.yaml")) - NAMED - SWEEPS))
def test_experiments(sparsehead, tmp_path, monkeypatch, experiment):
    monkeypatch.chdir(ROOT)
    short = [*SHORT, *(["--set", "projector_out=256"] if experiment == "imagenet-barlow" else [])]  # 8192 take a minute
    if read_experiments(ROOT / "experiments.yaml")[experiment].get("backbone") in VITS:  # of one stage
        short += ["--set", "widths=8", "--set", "blocks=1"]
    if experiment.startswith("sentences"):
        pytest.importorskip("all_minilm_l6_v2")
        table = write_table(tmp_path / "few.tsv", each=12)
        short = ["--epochs", "1", "--batch-size", "4", "--set", "warmup_epochs=0", "--dataset", table]
    if experiment.startswith("tasks"):
        short = [*SHORT, "--batch-size", "100"]
    code, out, err = sparsehead("pretrain", "--experiment", experiment, *short, "--results", tmp_path)
    assert (code, err) == (0, "")
    assert f"{tmp_path}/{experiment}/" in out.replace("\n", "")


def test_every_command_is_run_somewhere():
    """Installing commands are run by .ci/run, word for word; scripts by the tests below."""
    ci = (ROOT / ".ci" / "run").read_text()
    for command in COMMANDS:
        if command in SPARSEHEAD:
            continue
        if command.startswith(("python benchmarks/", ".venv/bin/python benchmarks/")):
            assert Path(ROOT, shlex.split(command)[1]).exists()
        elif command.startswith("python -m tests.torture."):  # tests/torture/test_torture.py runs them in short form
            assert Path(ROOT, *shlex.split(command)[2].split(".")).with_suffix(".py").exists()
        else:
            assert command in ci, f"nobody runs: {command}"


@pytest.mark.parametrize("experiment", sorted(SWEEPS))
def test_sweeps(sparsehead, tmp_path, experiment):
    code, out, err = sparsehead("sweep-lambda", "--experiment", experiment, "--engine", "print", "--results", tmp_path)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) >= 8


def test_every_method_has_a_recipe_for_both_data_sets():
    recipes = read_experiments(ROOT / "experiments.yaml")
    for method in METHODS:
        own = "quickstart" if method == "simclr" else method
        assert Config(**{k: v for k, v in recipes[own].items() if "." not in k}).dataset == "fashion10k"
        assert recipes[own].get("method", "simclr") == method
        assert (recipes[f"{method}-cifar"]["method"], recipes[f"{method}-cifar"]["dataset"]) == (method, "cifar10")
