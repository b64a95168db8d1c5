"""`sparsehead spectrum` in process and as a user meets it."""

import re
import shutil

import pytest
import torch

from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation import spectrum
from sparsehead_cli.evaluation.evaluate import evaluate
from sparsehead_cli.evaluation.load import load_subject
from sparsehead_cli.evaluation.plan import EvaluateRequest
from sparsehead_cli.evaluation.spectrum import TABLES, SpectrumRequest, spectra
from sparsehead_cli.evaluation.subject import LoadOptions
from sparsehead_cli.measure import definitions
from sparsehead_cli.measure.features import extract
from sparsehead_cli.measure.spectrum import NUMBERS, Spectrum
from sparsehead_cli.nets.backbones import ResNet
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.checkpoint import load_checkpoint, save_checkpoint
from sparsehead_cli.runs.readable import number
from sparsehead_cli.runs.table_files import read_csv
from sparsehead_cli.training.loop import pretrain
from tests.test_cli import assert_one_error
from tests.torture.damage import dangle, vanish

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few views and batches; the numbers of a real look are tested where they are computed."""
    for name, value in {"VIEWED": 40, "VIEWS": 4, "BATCHES": 3, "BATCH_SIZE": 32, "RESPONSE_IMAGES": 50}.items():
        monkeypatch.setattr(spectrum, name, value)


@pytest.fixture
def look(run_folder, tmp_path):
    """look(**changes) -> {(features, metric): row} of the tiny run, and the three tables."""

    def found(folder=run_folder, **changes):
        options = LoadOptions(**{key: changes.pop(key) for key in ("workers",) if key in changes})
        tables = spectra(SpectrumRequest(checkpoints=(str(folder),), out=tmp_path / "out", options=options, **changes))
        return {(row["features"], row["metric"]): row for row in tables[-1]}, tables

    return found


def value(numbers, features, metric):
    return number(numbers[features, metric]["value"])


def change_weights(folder, change):
    """Rewrite the checkpoint of a run: `change(name, tensor)` in place."""
    path = folder / "checkpoint.pt"
    state = load_checkpoint(path)
    for name, tensor in state["method"].items():
        change(name, tensor)
    save_checkpoint(path, {k: v for k, v in state.items() if k != "format"})


def counted_images(monkeypatch):
    """How many images pass through the encoder from now on: a list that grows by the size of each batch."""
    passed = []

    def counted(network, *arguments):
        passed.append(len(arguments[0]))
        return forward(network, *arguments)

    forward = ResNet.forward
    monkeypatch.setattr(ResNet, "forward", counted)
    return passed


def test_images_that_evaluate_has_seen_do_not_pass_through_the_encoder_again(look, run_folder, tmp_path, monkeypatch):
    """What `evaluate` keeps of the test and the training images is what `spectrum` would extract; augmented views are new."""
    folder = shutil.copytree(run_folder, tmp_path / "run")
    shutil.rmtree(folder / "features", ignore_errors=True)
    passed = counted_images(monkeypatch)
    alone, tables = look(folder)
    images_alone = sum(passed)
    evaluate(EvaluateRequest(checkpoint=str(folder), protocols=("knn",), options=LoadOptions(device="cpu")))
    shutil.rmtree(tmp_path / "out")
    passed.clear()
    after, again = look(folder)
    images = {part: len(load_split("fashion1k", part, tmp_path)) for part in ("train+val", "test")}
    assert images_alone - sum(passed) == sum(images.values()) - 2  # but for a black one each, which says how wide features are
    assert [{**row, "task": ""} for row in again[0]] == [{**row, "task": ""} for row in tables[0]]
    for key, row in alone.items():
        assert value(after, *key) == pytest.approx(number(row["value"]), rel=1e-4, abs=1e-6, nan_ok=True)


def test_the_numbers_are_those_of_the_features(look, run_folder, tmp_path):
    """Whatever the order in which the images came."""
    numbers, (batches, eigenvalues, metrics) = look()
    subject = load_subject(run_folder, LoadOptions(device="cpu"))
    features = extract(subject.network, load_split("fashion1k", "test", tmp_path), subject.prepare)
    for name in ("r", "z"):
        exact = Spectrum.of(features[name])
        assert [float(row["eigenvalue"]) for row in eigenvalues if row["features"] == name] == pytest.approx(
            exact.eigenvalues.tolist(), rel=1e-5, abs=1e-9
        )
        for metric, of in NUMBERS.items():
            assert value(numbers, name, metric) == pytest.approx(of(exact), rel=1e-5, nan_ok=True)
        for metric in ("effective_rank", "rankme"):
            assert 0 < float(numbers[name, metric]["low"]) < float(numbers[name, metric]["high"]) <= 8
    assert [row["index"] for row in eigenvalues if row["features"] == "response"] == [str(i + 1) for i in range(8)]
    assert {row["images"] for row in metrics} == {"1010"}
    assert [row["n_features"] for row in batches] == ["8"] * 3
    kept = [row["features_kept"] for row in batches if row["features_kept"]]  # the loss of others is that of chance
    assert all(1 <= int(count) <= 8 for count in kept)
    assert {row["lam"] for row in metrics} == {"0.001"}
    assert all(row["commit"] for table in (batches, eigenvalues, metrics) for row in table)


def test_what_the_head_reads_adds_up(look):
    numbers, (batches, _, _) = look()
    assert 1 <= value(numbers, "head", "read_dims") <= 8
    assert 0 < value(numbers, "head", "read_variance_share") <= 1
    assert value(numbers, "head", "read_overlap_by_chance") == value(numbers, "head", "read_dims") / 8
    kept = torch.tensor([number(row["features_kept"]) for row in batches])
    expected = [kept.nan_to_num(torch.inf).min(), kept.nanmedian(), kept.nan_to_num(-torch.inf).max()]
    expected = expected if kept.isfinite().any() else [torch.nan] * 3
    found = [value(numbers, "head", f"batch_features_{name}") for name in ("min", "median", "max")]
    assert found == pytest.approx([float(end) for end in expected], nan_ok=True)
    assert all(float(row["batch_loss_kept"]) <= 1.01 * float(row["batch_loss"]) + 1e-6 for row in batches)
    for probe in ("probe_r", "probe_read"):
        assert 0.2 < value(numbers, "head", probe) < 1
        assert float(numbers["head", probe]["low"]) < value(numbers, "head", probe) < float(numbers["head", probe]["high"])


def test_a_part_of_the_images_is_drawn_by_the_seed(look, run_folder, tmp_path, monkeypatch):
    """No more of them than were asked for pass through the encoder, of those that the probes learn from as well."""
    folder = shutil.copytree(run_folder, tmp_path / "run")
    shutil.rmtree(folder / "features", ignore_errors=True)
    passed = counted_images(monkeypatch)
    numbers, (_, eigenvalues, metrics) = look(folder, images=200, seed=3)
    assert {(row["images"], row["split"]) for row in metrics} == {("200", "200 of test")}
    views = 40 * 4 + 3 * 32 * 2
    assert sum(passed) == 200 + 200 + views  # those of the test images, those that the probes learn from
    few = load_split("fashion1k", "test", tmp_path)
    few = few.take(spectrum.shuffled(len(few), 3)[:200])
    subject = load_subject(run_folder, LoadOptions(device="cpu"))
    exact = Spectrum.of(extract(subject.network, few, subject.prepare)["r"])
    found = [float(row["eigenvalue"]) for row in eigenvalues if row["features"] == "r"]
    assert found == pytest.approx(exact.eigenvalues.tolist(), rel=1e-5, abs=1e-9)
    assert 0.2 < value(numbers, "head", "probe_r") < 1
    assert look(folder, images=5000) == look(folder)  # there are fewer
    shutil.rmtree(folder)
    assert {row["images"] for row in look(folder)[1][-1]} == {"1010"}  # never the part, where all were asked for
    assert {row["images"] for row in look(folder, images=200)[1][-1]} == {"200"}
    with pytest.raises(SparseheadError, match="does not exist"):
        look(folder, images=300)


@pytest.mark.parametrize("part", ["test", "train+val"])
def test_what_the_probes_need_of_the_split_is_kept_as_it_passes_by(run_folder, damageable, monkeypatch, part):
    """At most so many images, evenly spread, in the order of their files, without those that cannot be read."""
    monkeypatch.setattr(spectrum, "KEPT", 12)
    for name in ("train/cat/001.jpg", "test/dog/000.jpg"):
        (damageable / name).write_bytes(b"no image")
    options = LoadOptions(workers=0, skip_bad_images=True)
    request = SpectrumRequest(checkpoints=("",), dataset=str(damageable), split=part, options=options)
    task = spectrum.SpectrumTask(load_subject(run_folder, options), request, run_folder)
    r, labels = task.sample(part, task.observe())
    few = task.source.take(spectrum.spread(len(task.source), task.most))
    expected = extract(task.subject.network, few, task.subject.prepare)
    assert len(r) < 12 or part == "train+val"
    torch.testing.assert_close(r, expected["r"])
    assert torch.equal(labels, expected.labels)
    monkeypatch.setattr(type(task.source), "batches", lambda *a, **b: pytest.fail("read again"))
    task.sample(part, spectrum.Observed({}, r, torch.arange(len(r))))


def test_every_number_has_its_definition(look):
    numbers, _ = look(layers=True)
    assert {metric for features, metric in numbers if features == "head"} <= set(definitions.HEAD)
    assert {metric for features, metric in numbers if features != "head"} == set(definitions.SPECTRUM)
    assert value(numbers, "h1", "dim") == 16


def test_the_hidden_layer_is_what_the_last_layer_reads(look, run_folder, tmp_path):
    numbers, _ = look(layers=True)
    subject = load_subject(run_folder, LoadOptions(device="cpu"))
    features = extract(subject.network, load_split("fashion1k", "test", tmp_path), subject.prepare)
    hidden = subject.network.projector[:-1](features["r"].clone())
    assert value(numbers, "h1", "effective_rank") == pytest.approx(NUMBERS["effective_rank"](Spectrum.of(hidden)), rel=1e-5)


def test_a_checkpoint_is_measured_once_and_anew_for_another_question(look, monkeypatch):
    first, _ = look()
    monkeypatch.setattr(spectrum.SpectrumTask, "rows", lambda self, on_part: pytest.fail("measured again"))
    assert look()[0] == first
    for changes in ({"split": "val"}, {"images": 300}, {"layers": True}, {"seed": 1}, {"dataset": "fashion10k"}):
        with pytest.raises(pytest.fail.Exception, match="measured again"):
            look(**changes)


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("lose", [vanish, dangle])
def test_a_table_that_is_lost_is_measured_anew(look, tmp_path, name, lose):
    first, tables = look()
    lose(tmp_path / "out" / name)
    assert look() == (first, tables)
    assert read_csv(tmp_path / "out" / name)


def test_of_a_run_whose_checkpoint_is_gone_a_lost_table_is_not_passed_over(look, run_folder, tmp_path):
    look()
    (run_folder / "checkpoint.pt").unlink()
    (tmp_path / "out" / "spectrum.csv").unlink()
    with pytest.raises(SparseheadError, match="does not exist"):
        look()


def test_a_look_that_was_stopped_leaves_no_half(look, monkeypatch, tmp_path):
    monkeypatch.setattr(spectrum.SpectrumTask, "probes", lambda self, reading, observed: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        look()
    assert not list((tmp_path / "out").glob("*.csv"))


def test_without_a_projector_there_is_only_r(tiny, look):
    folder = pretrain(build(tiny(projector="none", lam=0.0, epochs=1))).run.folder
    numbers, (batches, eigenvalues, _) = look(folder)
    assert {features for features, _ in numbers} == {"r"}
    assert {row["features"] for row in eigenvalues} == {"r"}
    assert batches == []


def test_a_collapsed_embedding_is_described_and_does_not_crash(look, run_folder):
    change_weights(run_folder, lambda name, w: w.zero_() if name == "projector.3.weight" else None)
    numbers, (batches, _, _) = look()
    for metric in ("effective_rank", "lidar", "dims_99", "stable_rank", "participation_ratio"):
        assert numbers["z", metric]["value"] == numbers["z", metric]["low"] == ""
    for metric in ("read_dims", "read_variance_share", "read_overlap", "functional_features"):
        assert numbers["head", metric]["value"] == ""
    for metric in ("batch_features_min", "batch_features_median", "batch_overlap", "batch_overlap_by_chance"):
        assert numbers["head", metric]["value"] == ""
    assert {row["features_kept"] for row in batches} == {""}
    assert ("head", "probe_read") not in numbers
    assert value(numbers, "head", "probe_unread") > 0.2


def test_features_that_are_not_numbers_are_an_error_in_words(look, run_folder, tmp_path):
    change_weights(run_folder, lambda name, w: w.fill_(1e38) if name in ("projector.1.bias", "projector.3.weight") else None)
    with pytest.raises(SparseheadError, match=r"the embedding z is not finite .* for 1,010 of 1,010 images"):
        look()
    assert not list((tmp_path / "out").glob("*.csv"))


def test_weights_too_small_to_matter_are_zero_and_the_checkpoint_is_still_known(run_folder, tmp_path):
    """A thin head is full of numbers near 1e-40, a hundred times slower to multiply."""
    change_weights(run_folder, lambda name, w: w[:, ::2].fill_(1e-40) if name == "projector.0.weight" else None)
    subject = load_subject(run_folder, LoadOptions(device="cpu"))
    kept = load_checkpoint(run_folder / "checkpoint.pt")["method"]["projector.0.weight"]
    weight = subject.network.projector[0].weight
    assert (weight[:, ::2] == 0).all()
    assert torch.equal(weight[:, 1::2], kept[:, 1::2])
    changed = subject.digest
    weight[:, ::2] = 1e-40
    from sparsehead_cli.evaluation.subject import digest_of

    assert digest_of(subject.network, subject.prepare) == changed


def test_a_folder_of_photographs(look, photographs):
    """Streamed images of another size and kind than the network was trained on."""
    numbers, _ = look(dataset=str(photographs), split="train+val", workers=0)
    assert int(numbers["r", "dim"]["images"]) == 60
    assert value(numbers, "r", "effective_rank") > 1
    assert ("head", "probe_r") in numbers


def test_of_a_flat_folder_that_a_run_was_not_trained_on_all_images_are_measured(look, photographs, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, file in enumerate(sorted(photographs.glob("*/*/*.jpg"))):
        shutil.copy(file, flat / f"{i}.jpg")
    numbers, _ = look(dataset=str(flat), workers=0)
    row = numbers["r", "dim"]
    assert (row["split"], int(row["images"])) == ("train+val", len(list(flat.iterdir())))


def test_few_images_get_no_verdict_no_interval_and_no_probe(look, photographs, tmp_path):
    """Eight images a class leave none to choose a strength on, six to measure on have five eigenvalues."""
    few = shutil.copytree(photographs, tmp_path / "few")
    for file in [*few.glob("train/*/*.jpg"), *few.glob("test/*/*.jpg")]:
        if int(file.stem) >= (8 if file.parts[-3] == "train" else 2):
            file.unlink()
    numbers, _ = look(dataset=str(few), workers=0)
    assert int(numbers["r", "dim"]["images"]) == 6
    assert numbers["r", "effective_rank"]["low"] == ""
    assert ("head", "probe_r") not in numbers
    from sparsehead_cli.study.labels import judged, verdicts

    assert judged({metric: row for (features, metric), row in numbers.items() if features == "r"}) == "too few samples"
    sentence = next(verdicts(numbers))
    assert f"No verdict: of 6 images, where at least {int(numbers['r', 'dim']['value']) + 1} are needed" in sentence
    assert "quarter" not in sentence


def test_a_run_whose_checkpoint_is_gone_is_shown_from_the_tables(look, run_folder, tmp_path):
    first, _ = look()
    (run_folder / "checkpoint.pt").unlink()
    assert look()[0] == first
    shutil.rmtree(run_folder)
    assert look()[0] == first
    assert look(f"{run_folder}/checkpoint.pt")[0] == first
    with pytest.raises(SparseheadError, match="does not exist"):
        look(split="val")


# ---------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def command(sparsehead, run_folder, tmp_path):
    return lambda *arguments: sparsehead("spectrum", run_folder / "checkpoint.pt", "--out", tmp_path / "out", *arguments)


def test_one_checkpoint_from_file_to_words(command, run_folder, tmp_path):
    code, out, err = command("--figure", tmp_path / "spectra")
    assert (code, err) == (0, "")
    for text in ("spectra on 1,010 images of fashion1k (test)", "effective", "RankMe", "what the head reads of r"):
        assert text in out
    assert re.search(r"representation r: \w+ ?\w*\. \d of 8 dimensions carry 99 % of the variance, (not )?fewer than 2", out)
    assert re.search(r"the head reads (only a part of r|all that varies in r): it responds to \d of 8 directions", out)
    assert re.search(r"a linear probe gets \d\d\.\d % from r, \d\d\.\d % from what the head reads", out)
    assert re.search(r"a batch needs \d features \(\d to \d\)|which ones it needs is not defined", out)
    for name in ("spectrum.csv", "spectrum_metrics.csv", "spectrum_batches.csv"):
        assert read_csv(tmp_path / "out" / name)
    assert (tmp_path / "spectra.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "spectra.svg").read_text()
    assert "(measured before)" in command()[1]


def test_what_a_collapsed_embedding_does_not_have_is_a_dash(command, run_folder):
    change_weights(run_folder, lambda name, w: w.zero_() if name == "projector.3.weight" else None)
    code, out, err = command()
    assert (code, err) == (0, "")
    assert "embedding z: fully collapsed. It does not vary at all." in out
    assert "which ones it needs is not defined" in out
    (line,) = [line for line in out.splitlines() if re.search(r"^│ +│ z ", line)]
    cells = [cell.strip() for cell in line.split("│")[3:]]
    assert [cells[i] for i in (0, 2, 3, 4)] == ["–"] * 4  # effective rank, 99 % in, α and LiDAR; RankMe is not centred
    assert "100.0" not in out
    assert "nan" not in out.lower().replace("dominant", "")


def test_tables_fit_into_eighty_columns(sparsehead, run_folder, tmp_path, monkeypatch):
    (again := run_folder.parent / "a-second-run-with-a-name-as-long-as-real-ones").mkdir()
    shutil.copy(run_folder / "checkpoint.pt", again)
    change_weights(again, lambda name, w: w.mul_(1.01) if name == "projector.3.weight" else None)
    from sparsehead_cli.present import spectrum as display_spectrum

    monkeypatch.setattr(display_spectrum, "curves", lambda names, rows: [])  # lines, not tables
    arguments = ("spectrum", run_folder, again, "--out", tmp_path / "out")
    sparsehead(*arguments)
    from rich.console import Console

    with open(tmp_path / "shown", "w") as shown:
        console = Console(file=shown, width=80)
        tables = spectra(SpectrumRequest(checkpoints=(str(run_folder), str(again)), out=tmp_path / "out"))
        display_spectrum.show_spectra(console, tables, [])
    boxes = [line for line in (tmp_path / "shown").read_text().splitlines() if line.startswith(("│", "┃", "└", "┏"))]
    assert len(boxes) > 10
    assert all(line[-1] in "│┃┘┓" and len(line) <= 80 and "…" not in line for line in boxes)


def test_explain_needs_no_checkpoint(sparsehead):
    code, out, err = sparsehead("spectrum", "--explain")
    assert (code, err) == (0, "")
    for name in (*definitions.SPECTRUM, *definitions.HEAD, *definitions.VERDICTS):
        assert name in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--split", "tset"], 'unknown split "tset"; known: pretrain, train, val, train+val, test. Did you mean "test"?'),
        (["--dataset", "cifr10"], 'Did you mean "cifar10"?'),
        (["--figure", "x.jpeg"], 'a figure is .png, .svg or .pdf, or without an ending both .png and .svg; given ".jpeg"'),
        (["--images", "1"], "--images must be at least 2, given 1"),
        (["--seed", "-1"], "seed must be between 0"),
        (["--workers", "-1"], "workers must be between 0 and 1024, given -1"),
        (["--device", "gpu"], 'unknown device "gpu"'),
        (["--over-time"], "pretrain --track-spectrum"),
    ],
)
def test_bad_input(command, tmp_path, arguments, says):
    assert says in assert_one_error(command(*arguments))
    assert not list((tmp_path / "out").glob("*.csv"))


def test_a_figure_that_cannot_be_written_is_an_error_before_anything_is_measured(command, run_folder, tmp_path):
    err = assert_one_error(command("--figure", run_folder / "checkpoint.pt" / "f.png"))
    assert "checkpoint.pt is no folder. Draw elsewhere" in err
    assert not (tmp_path / "out").exists()


def test_no_checkpoint_and_one_that_is_not_there(sparsehead, command, run_folder, tmp_path):
    assert "which checkpoint?" in assert_one_error(sparsehead("spectrum"))
    assert "nowhere.pt" in assert_one_error(command("nowhere.pt"))
    assert "cannot write to" in assert_one_error(sparsehead("spectrum", run_folder, "--out", run_folder / "checkpoint.pt"))
    assert read_csv(tmp_path / "out" / "spectrum_metrics.csv")  # of the checkpoint before the bad one


def test_spectra_over_training(sparsehead, tiny, tmp_path):
    run = pretrain(build(tiny(epochs=3, track_spectrum=True))).run
    code, out, err = sparsehead("spectrum", run.folder, "--over-time", "--figure", tmp_path / "time.svg")
    assert (code, err) == (0, "")
    assert "λ 0.001, seed 0, on the held-out images" in out
    assert len(re.findall(r"^│ +[123] │", out, re.MULTILINE)) == 3
    assert "<svg" in (tmp_path / "time.svg").read_text()
