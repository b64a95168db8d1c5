"""Sentences, measured: similarity as people see it, TF-IDF, cross-validation; and what does not go with them."""

import math

import pytest
import torch
from scipy.stats import spearmanr

from sparsehead_cli.data.sts import read_sts
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.evaluation.evaluate import evaluate
from sparsehead_cli.evaluation.plan import EvaluateRequest
from sparsehead_cli.evaluation.sentences import spearman
from sparsehead_cli.evaluation.spectrum import SpectrumRequest, spectra
from sparsehead_cli.evaluation.subject import LoadOptions
from sparsehead_cli.evaluation.task import Settings
from sparsehead_cli.exports.export import ExportRequest, export
from sparsehead_cli.exports.model import load
from sparsehead_cli.measure.words import Words
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.config import Config
from sparsehead_cli.training.loop import pretrain
from tests.texts import TINY, write_table

PAIRS = [
    ("a dog runs", "a dog is running", 4.8),
    ("a bird flies", "an animal moves through the air", 3.1),
    ("bread is baked", "a cake in the oven", 2.2),
    ("a dog runs", "cheese made of milk", 0.1),
    ("to walk fast", "to go quickly on foot", 4.5),
    ("wine from grapes", "to fall down", 0.0),
]


def write_pairs(folder, name="sts99.tsv"):
    folder.mkdir(exist_ok=True)
    lines = ["subset\tscore\tsentence1\tsentence2", *(f"x\t{score}\t{one}\t{other}" for one, other, score in PAIRS)]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on three classes of glosses, its table of sentences, and a folder of pairs."""
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("sentences")
    config = Config(**TINY, dataset=write_table(folder / "glosses.tsv"), results=folder / "results")
    return pretrain(build(config)).run, write_pairs(folder / "sts")


def test_pairs_of_sentences_are_read_in_all_their_layouts(tmp_path):
    write_pairs(tmp_path)
    write_pairs(tmp_path, "sick-r-train.tsv")  # no test
    year = tmp_path / "STS" / "STS13-en-test"
    year.mkdir(parents=True)
    (year / "STS.input.FNWN.txt").write_text("".join(f"{one}\t{other}\n" for one, other, _ in PAIRS))
    (year / "STS.gs.FNWN.txt").write_text("".join(f"{score}\n" if score else "\n" for *_, score in PAIRS))  # one has no score
    (tmp_path / "STS" / "STSBenchmark").mkdir()
    benchmark = "".join(f"main\tMSRvid\t2012\t{i}\t{score}\t{one}\t{other}\n" for i, (one, other, score) in enumerate(PAIRS))
    (tmp_path / "STS" / "STSBenchmark" / "sts-test.csv").write_text(benchmark)
    (tmp_path / "SICK").mkdir()
    sick = "".join(f"{i}\t{one}\t{other}\t{score}\tNEUTRAL\n" for i, (one, other, score) in enumerate(PAIRS))
    (tmp_path / "SICK" / "SICK_test_annotated.txt").write_text("pair_ID\tsentence_A\tsentence_B\trelatedness_score\tx\n" + sick)
    found = {pairs.name: pairs for pairs in read_sts(tmp_path)}
    assert set(found) == {"sts99", "sts13", "sts-b", "sick-r"}
    for name, pairs in found.items():
        expected = PAIRS[:-1] if name == "sts13" else PAIRS
        assert list(zip(pairs.first, pairs.second, pairs.scores, strict=True)) == expected
    with pytest.raises(SparseheadError, match=r"has no pairs of sentences\. Give a folder"):
        read_sts(tmp_path / "nothing")
    (tmp_path / "sts98.tsv").write_text("score\tsentence1\n1\ta\n")
    with pytest.raises(SparseheadError, match=r"sts98\.tsv lacks the column sentence2\. It needs score"):
        read_sts(tmp_path)


def test_spearman_and_its_interval():
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(200, generator=draw)
    b = (a + torch.randn(200, generator=draw)).round(decimals=1)  # with ties
    rho, low, high = spearman(a, b)
    assert rho == pytest.approx(spearmanr(a, b).statistic)
    assert low < rho < high
    inside = []
    for _ in range(300):  # ρ of a normal with correlation 0.7 is 6/π · asin(0.35)
        a = torch.randn(60, generator=draw)
        b = 0.7 * a + math.sqrt(1 - 0.49) * torch.randn(60, generator=draw)
        _, low, high = spearman(a, b)
        inside.append(low < 6 / math.pi * math.asin(0.35) < high)
    assert 0.9 < sum(inside) / 300 < 0.99
    assert all(math.isnan(value) for value in spearman(torch.ones(5), torch.arange(5))[1:])


def test_a_run_is_measured_by_sts_beside_its_base_lines(run):
    trained, pairs = run
    request = EvaluateRequest(
        checkpoint=trained.folder, protocols=("linear", "knn", "sts"), baselines=True, settings=Settings(sts=pairs)
    )
    rows, _ = evaluate(request)
    of_sts = [row for row in rows if row["protocol"] == "sts"]
    assert {(row["model"], row["features"]) for row in of_sts} == {
        *((model, feature) for model in ("checkpoint", "untrained") for feature in "rz"),
        ("words", "words"),
    }
    assert [row["eval_dataset"] for row in of_sts[:4]] == ["sts99", "sts99", "mean of sets", "mean of sets"]
    words = next(row for row in of_sts if row["model"] == "words")
    assert float(words["value"]) > 0.4  # dogs run, twice
    linear = {row["model"]: float(row["value"]) for row in rows if row["protocol"] == "linear" and row["features"] != "z"}
    assert linear["words"] > 0.8
    again, _ = evaluate(request)  # read from the table
    assert again == rows
    (pairs / "sts99.tsv").write_text((pairs / "sts99.tsv").read_text().replace("4.8", "4.7"))
    evaluate(request)  # other pairs are measured anew, and rows of both are kept
    write_pairs(pairs)


def test_sets_without_a_test_part_are_cross_validated(run, tmp_path):
    trained, _ = run
    request = EvaluateRequest(
        checkpoint=trained.folder, dataset=write_table(tmp_path / "all.tsv", test=False), protocols=("linear", "knn")
    )
    rows, _ = evaluate(request)
    assert {row["protocol"] for row in rows} == {"linear, ten-fold", "knn, ten-fold"}
    linear = next(row for row in rows if row["protocol"] == "linear, ten-fold")
    assert int(linear["n_test"]) > 600
    assert int(linear["n_train"]) == pytest.approx(0.9 * int(linear["n_test"]), abs=10)
    assert float(linear["value"]) > 0.5  # three classes


def test_spectra_and_what_the_head_reads(run, tmp_path):
    trained, _ = run
    _, curves, numbers = spectra(SpectrumRequest(checkpoints=(str(trained.folder),), out=tmp_path))
    assert {row["features"] for row in curves} >= {"r", "z"}
    found = {(row["features"], row["metric"]): row["value"] for row in numbers}
    assert float(found["z", "alignment"]) > 0  # of two dropout passes, which evaluation has as well
    assert float(found["head", "probe_r"]) > 0.4


def test_an_encoder_of_sentences_is_exported_and_loaded(run, tmp_path):
    pytest.importorskip("safetensors")
    trained, _ = run
    exported = export(ExportRequest(checkpoint=trained.folder, to="safetensors", out=tmp_path / "encoder.safetensors", head="full"))
    assert "sentences into representations r of 16 numbers" in exported.card.read_text()
    models = [load(path, LoadOptions()) for path in (trained.folder, exported.path)]
    features = [model.encoder(model.transform(["a dog runs", "wine from grapes"])) for model in models]
    assert features[0].shape == (2, 16)
    assert torch.equal(*features)
    torch.testing.assert_close(models[0].encoder(models[0].transform("a dog runs")), features[0][:1])
    with pytest.raises(SparseheadError, match="a sentence is text, or several are a list of such"):
        models[0].transform(3 * [""])
    for kind in ("onnx", "timm", "torchvision"):
        with pytest.raises(SparseheadError, match="bert-tiny reads sentences, and this format is of encoders of images"):
            export(ExportRequest(checkpoint=trained.folder, to=kind))


def test_what_trains_on_images_is_refused(run):
    trained, _ = run
    with pytest.raises(SparseheadError, match=r"semi: that trains on views of images, and .* reads sentences\. Choose of linear"):
        evaluate(EvaluateRequest(checkpoint=trained.folder, protocols=("linear", "semi")))
    with pytest.raises(SparseheadError, match=r"fashion10k has images, and .* reads sentences\. Choose another --dataset"):
        evaluate(EvaluateRequest(checkpoint=trained.folder, dataset="fashion10k"))


def test_sts_of_images_is_refused(tiny):
    folder = pretrain(build(tiny(epochs=1))).run.folder
    with pytest.raises(SparseheadError, match="the protocol sts measures networks of sentences"):
        evaluate(EvaluateRequest(checkpoint=folder, protocols=("sts",)))
    with pytest.raises(SparseheadError, match=r"wordnet10k has sentences, and .* reads images"):
        evaluate(EvaluateRequest(checkpoint=folder, dataset="wordnet10k"))


def test_tf_idf_by_hand():
    from sparsehead_cli.data.memory import Memory

    ids = torch.tensor([[5, 6, 6, 0], [5, 7, 0, 0], [5, 0, 0, 0]], dtype=torch.int32)
    tokens = {"input_ids": ids, "attention_mask": (ids > 0).to(torch.uint8)}
    network = Words(Memory(tokens, torch.zeros(3)))
    idf = {5: 1.0, 6: 1 + math.log(3), 7: 1 + math.log(3)}
    expected = torch.tensor([[idf[5], (1 + math.log(2)) * idf[6], 0], [idf[5], 0, idf[7]], [idf[5], 0, 0]])
    torch.testing.assert_close(network(tokens)["words"], torch.nn.functional.normalize(expected, dim=1))
    unknown = {"input_ids": torch.tensor([[9, 6]], dtype=torch.int32), "attention_mask": torch.ones(1, 2, dtype=torch.uint8)}
    assert network(unknown)["words"].tolist() == [[0.0, 1.0, 0.0]]
