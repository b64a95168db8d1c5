"""Spectra of features in .npy files: the numbers of the checkpoint that they came from, and errors for what is no features."""

import sys

import numpy as np
import pytest
import torch

from sparsehead_cli.data.datasets import load_split
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation import feature_files
from sparsehead_cli.evaluation.feature_files import read_array
from sparsehead_cli.evaluation.load import load_subject
from sparsehead_cli.evaluation.spectrum import SpectrumRequest, spectra
from sparsehead_cli.evaluation.subject import LoadOptions
from sparsehead_cli.measure.features import extract
from sparsehead_cli.runs.table_files import frame


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    """r.npy and z.npy of a run's test images, as somebody would save them."""
    folder = tmp_path_factory.mktemp("saved")
    subject = load_subject(trained, LoadOptions())
    features = extract(subject.network, load_split("fashion1k", "test", "data"), subject.prepare)
    for name in ("r", "z"):
        np.save(folder / f"{name}.npy", features[name].numpy())
    return folder


def measured(**given):
    batches, eigenvalues, metrics = spectra(SpectrumRequest(**given))
    return batches, frame(eigenvalues), frame(metrics)


def test_they_have_the_spectra_of_the_checkpoint_that_they_came_from(saved, trained, tmp_path):
    _, ours, numbers = measured(checkpoints=(str(trained),), out=tmp_path / "a")
    batches, eigenvalues, metrics = measured(features=saved / "r.npy", embeddings=saved / "z.npy", out=tmp_path / "b")
    assert batches == []
    for name in ("r", "z"):
        expected = ours[ours["features"] == name]["eigenvalue"].to_numpy()
        np.testing.assert_allclose(eigenvalues[eigenvalues["features"] == name]["eigenvalue"], expected, rtol=1e-6, atol=1e-9)
    theirs = metrics.set_index(["features", "metric"])[["value", "low", "high"]]
    known = numbers.set_index(["features", "metric"])[["value", "low", "high"]].loc[theirs.index]
    np.testing.assert_allclose(theirs.to_numpy(), known.to_numpy(), rtol=1e-5)
    assert not {"lidar", "alignment", "uniformity"} & set(metrics["metric"])
    assert "head" not in set(metrics["features"])


def test_what_was_measured_is_found_again(saved, tmp_path, monkeypatch):
    _, first, _ = measured(features=saved / "r.npy", embeddings=saved / "z.npy", out=tmp_path)
    monkeypatch.setattr(feature_files, "shuffled", None)  # what would read the rows
    _, again, _ = measured(features=saved / "r.npy", embeddings=saved / "z.npy", out=tmp_path)
    assert first.equals(again)


def test_r_alone_and_beside_a_checkpoint(saved, trained, tmp_path):
    _, _, alone = measured(features=saved / "r.npy", out=tmp_path)
    assert set(alone["features"]) == {"r"}
    _, _, both = measured(checkpoints=(str(trained),), features=saved / "r.npy", out=tmp_path)
    assert list(dict.fromkeys(both["run"])) == [trained.name, "r"]


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.int32, "F"])
def test_any_kind_of_numbers(kind, tmp_path):
    values = (100 * np.random.default_rng(0).normal(size=(300, 6))).round()
    array = np.asfortranarray(values) if kind == "F" else values.astype(kind)
    np.save(tmp_path / "r.npy", array)
    _, eigenvalues, _ = measured(features=tmp_path / "r.npy", out=tmp_path)
    expected = np.linalg.eigvalsh(np.cov(values.T))[::-1]
    np.testing.assert_allclose(eigenvalues["eigenvalue"], expected, rtol=2e-3 if kind == np.float16 else 1e-9)


@pytest.mark.parametrize("scale", [1e-60, 1e59, 0])
def test_numbers_within_the_bounds_have_the_same_ranks(scale, tmp_path):
    values = np.random.default_rng(0).uniform(-2, 2, (300, 6))
    np.save(tmp_path / "r.npy", scale * values)
    np.save(tmp_path / "one.npy", values)
    ours, ones = (
        measured(features=tmp_path / f"{name}.npy", out=tmp_path)[2].set_index("metric")["value"] for name in ("r", "one")
    )
    for name in ("effective_rank", "rankme", "participation_ratio", "stable_rank"):
        assert ours[name] == pytest.approx(ones[name]) if scale else np.isnan(ours[name])


def refused(**given):
    with pytest.raises(SparseheadError) as error:
        spectra(SpectrumRequest(**given))
    return str(error.value)


class Harmful:
    def __reduce__(self):
        return (sys.exit, ("it was run",))


def test_what_is_no_features_is_said(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "flat": rng.normal(size=10),
        "deep": rng.normal(size=(4, 3, 2)),
        "one": rng.normal(size=(1, 8)),
        "none": rng.normal(size=(8, 0)),
        "text": np.array([["a", "b"]] * 3),
        "complex": rng.normal(size=(4, 4)) * 1j,
        "objects": np.array([[Harmful()] * 2] * 2, dtype=object),
        "nan": np.where(np.arange(12).reshape(4, 3) == 5, np.nan, 1.0),
        "r": rng.normal(size=(20, 4)),
        "z": rng.normal(size=(21, 4)),
        "huge": 1e200 * rng.normal(size=(20, 4)),
        "minute": 1e-200 * rng.normal(size=(20, 4)),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    np.savez(tmp_path / "several.npz", a=arrays["r"], b=arrays["z"])
    np.savez(tmp_path / "single.npz", arrays["r"])
    torch.save(torch.zeros(4, 4), tmp_path / "r.pt")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "r.npy").read_bytes()[:-50])
    (tmp_path / "hello.npy").write_text("hello")
    messages = {
        "flat.npy": r"is float64 \[10\], and features are numbers \[N, D\]",
        "deep.npy": r"is float64 \[4, 3, 2\]",
        "one.npy": r"is \[1, 8\]: a spectrum needs at least 2 rows",
        "none.npy": r"is \[8, 0\]",
        "text.npy": "is <U1",
        "complex.npy": "is complex128",
        "objects.npy": "is no .npy file of numbers",
        "nan.npy": "1 of its 4 rows have NaN or infinite numbers",
        "several.npz": "is an archive, as .npz and .pt files are, and no single array",
        "single.npz": "is an archive",
        "r.pt": "is an archive",
        "huge.npy": r"its largest number is \d+e\+200, .* from 1e-60 to 1e\+60",
        "minute.npy": r"its largest number is \d+e-200",
        "cut.npy": "is no .npy file of numbers, or damaged",
        "hello.npy": "is no .npy file of numbers, or damaged",
        "nothing.npy": "cannot read .*nothing.npy",
    }
    for name, message in messages.items():
        with pytest.raises(SparseheadError, match=message):
            spectra(SpectrumRequest(features=tmp_path / name, out=tmp_path / "out"))
    text = refused(features=tmp_path / "r.npy", embeddings=tmp_path / "z.npy", out=tmp_path / "out")
    assert "has 20 rows and" in text
    assert "21: give r and z of the same images" in text
    assert "goes with the features r" in refused(embeddings=tmp_path / "z.npy")
    assert "--dataset, --images and --layers are of checkpoints" in refused(features=tmp_path / "r.npy", layers=True)
    assert "which checkpoint?" in refused()


def test_a_file_is_not_read_into_memory(tmp_path):
    np.save(tmp_path / "r.npy", np.zeros((10, 3), dtype=np.float32))
    assert isinstance(read_array(tmp_path / "r.npy"), np.memmap)


def test_rows_come_in_another_order_and_each_once():
    array = np.arange(5000.0)[:, None]
    rows = torch.cat(list(feature_files.shuffled(array, 0)))[:, 0]
    assert not torch.equal(rows, rows.sort().values)
    assert torch.equal(rows.sort().values, torch.arange(5000.0, dtype=torch.float64))


def test_the_command(sparsehead, saved, tmp_path):
    arguments = ("--features", saved / "r.npy", "--embeddings", saved / "z.npy", "--out", tmp_path, "--figure", tmp_path / "f.png")
    code, out, err = sparsehead("spectrum", *arguments)
    assert (code, err) == (0, "")
    assert "1/1  r.npy" in out
    assert "rows of r.npy" in out
    assert "LiDAR, alignment and uniformity from" not in out
    assert "representation r: " in out
    assert (tmp_path / "f.png").exists()
    assert sparsehead("spectrum", "--over-time")[2].startswith("Error: --over-time is of runs with --track-spectrum")
