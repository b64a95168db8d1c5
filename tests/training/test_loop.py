"""One run: it trains, it stops and goes on bit for bit, it refuses what it should."""

import math
import multiprocessing
import os
import random
import signal
import threading
import time

import pytest
import torch

from sparsehead_cli.data.prepare import Prepare
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.machine.device import choose_device, choose_precision, compile_mode, has_fast_bfloat16
from sparsehead_cli.machine.seeds import stable_seed
from sparsehead_cli.machine.signals import Interrupted
from sparsehead_cli.measure.features import EncoderAndHead, extract
from sparsehead_cli.nets.optim import OPTIMIZERS, lr_at
from sparsehead_cli.runs.build import build
from sparsehead_cli.runs.folder import locked
from sparsehead_cli.runs.table_files import read_csv
from sparsehead_cli.sparse.penalties import PENALTIES
from sparsehead_cli.sparse.sparse_head import SOLVERS
from sparsehead_cli.ssl.methods import METHODS
from sparsehead_cli.training import files, loop, probe
from sparsehead_cli.training.callbacks import Callback
from sparsehead_cli.training.loop import epoch_order, pretrain
from tests.conftest import TIMED, method_recipe, tiny_network


def train(config):
    return pretrain(build(config))


def outcome(folder):
    """What must not depend on interruptions: the checkpoint's bytes, layers.csv, and metrics.csv but for its times."""
    rows = [{k: v for k, v in row.items() if k not in TIMED} for row in read_csv(folder / "metrics.csv")]
    layers = read_csv(folder / "layers.csv")
    return (folder / "checkpoint.pt").read_bytes(), rows, layers


def test_a_run_writes_its_folder_and_learns(tiny):
    result = train(tiny(epochs=3))
    folder = result.run.folder
    tables = {"metrics.csv", "layers.csv"}
    texts = {"config.yaml", *tables}
    witnesses = {f".{name}.sha256" for name in texts}
    assert {p.name for p in folder.iterdir()} == {*texts, *witnesses, "checkpoint.pt", ".lock"}
    assert folder.name.startswith("simclr-l21-lam1e-03-seed0-")
    rows = read_csv(folder / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[-1]["knn_accuracy"]) > 0.3
    assert all(math.isfinite(float(rows[-1][c])) for c in list(rows[-1])[10:])


def test_a_finished_run_returns_at_once(tiny, monkeypatch):
    first = train(tiny())
    before = outcome(first.run.folder)
    monkeypatch.setattr(loop, "train_step", lambda *a: pytest.fail("trained again"))
    again = train(tiny())
    assert again.was_finished
    assert not first.was_finished
    assert outcome(again.run.folder) == before


def test_everything_that_changes_the_result_changes_the_folder(tiny):
    changes = [{}, {"lam": 0.0}, {"seed": 1}, {"method_settings": {"temperature": 0.5}}, {"views": "weak"}, {"epochs": 3}]
    changes += [{"precision": "auto"}, {"solver": "proximal"}, {"projector_batch_norm": False}, {"weight_decay": 0.0}]
    names = [build(tiny(**change)).name for change in changes]
    assert len(set(names)) == len(names)
    assert build(tiny(method_settings={"temperature": 0.2})).name == names[0]  # the default, said aloud


def stop_after(monkeypatch, stops):
    """SIGTERM comes in each of the steps `stops`, counted from 1; those that came leave the list."""
    real = loop.train_step

    def step_and_signal(run, batch, step):
        if step + 1 in stops:
            stops.remove(step + 1)
            os.kill(os.getpid(), signal.SIGTERM)
        return real(run, batch, step)

    monkeypatch.setattr(loop, "train_step", step_and_signal)


@pytest.mark.slow_after(3)
@pytest.mark.parametrize(
    ("method", "solver", "stops"),
    [("simclr", "proximal", [4, 9, 13]), *((method, "subgradient", [8]) for method in METHODS)],
)
def test_stopping_by_signal_and_going_on_is_bit_identical(tiny, tmp_path, monkeypatch, method, solver, stops):
    changes = {"method": method, "method_settings": method_recipe(method), "solver": solver, "lam": 1e-2, "lr": 0.05}
    changes |= {"lam_schedule": "cosine", "lam_ramp_epochs": 1.5, **tiny_network(method)}
    whole = train(tiny(**changes))
    stop_after(monkeypatch, stops)
    parts = tiny(**changes, results=tmp_path / "parts")
    for _ in range(len(stops)):
        with pytest.raises(Interrupted, match=r"stopped by SIGTERM at step \d+ of 18.*The same command goes on") as stopped:
            train(parts)
        assert stopped.value.exit_code == 143
    result = train(parts)
    assert not stops
    assert outcome(result.run.folder) == outcome(whole.run.folder)


def test_a_run_in_parts_goes_on_bit_identically_and_computing_activations_again_changes_nothing(tiny, tmp_path, monkeypatch):
    whole = train(tiny(accumulate=4))
    assert whole.run.name != build(tiny()).name
    stop_after(monkeypatch, [4])
    parts = tiny(accumulate=4, checkpoint_activations=True, results=tmp_path / "parts")
    with pytest.raises(Interrupted):
        train(parts)
    result = train(parts)
    assert result.run.name == whole.run.name
    assert outcome(result.run.folder) == outcome(whole.run.folder)


@pytest.mark.parametrize("accumulate", [3, 100, 200])
def test_parts_must_be_equal_and_have_two_images_or_more(tiny, accumulate):
    with pytest.raises(SparseheadError, match=rf"accumulate must divide the 100 images of a step .* given {accumulate}. Choose"):
        build(tiny(accumulate=accumulate))


def test_activations_are_computed_again_where_a_backbone_can(tiny):
    assert build(tiny(checkpoint_activations=True)).method.backbone.grad_checkpointing
    with pytest.raises(SparseheadError, match="compile and checkpoint_activations do not go together"):
        build(tiny(checkpoint_activations=True, compile=True))
    plain = {"backbone": "tests.training.test_loop:Plain", "widths": None}
    with pytest.raises(SparseheadError, match="Plain cannot compute activations again: it has no set_grad_checkpointing"):
        build(tiny(checkpoint_activations=True, **plain))
    assert train(tiny(accumulate=2, **plain, epochs=1)).rows  # any module goes in parts


class Plain(torch.nn.Sequential):
    """A backbone of torch's own modules."""

    def __init__(self, spec):
        super().__init__(torch.nn.Conv2d(spec.channels, 8, 5, stride=5), torch.nn.BatchNorm2d(8), torch.nn.Flatten())
        self.dim = 8 * (spec.size // 5) ** 2


@pytest.mark.parametrize("step", [10, 18])
def test_a_signal_in_the_last_epoch_is_not_swallowed(tiny, monkeypatch, step):
    """A run that was just finished is kept as finished, and whoever wanted the process to end gets an end."""
    stop_after(monkeypatch, [step])
    how = "The run is finished; the same command shows it." if step == 18 else "The same command goes on."
    with pytest.raises(Interrupted, match=rf"stopped by SIGTERM at step {step} of 18, saved in .*\. {how}") as stopped:
        train(tiny())
    assert stopped.value.exit_code == 143
    assert train(tiny()).was_finished == (step == 18)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_goes_on_bit_identically(tiny, tmp_path, monkeypatch, optimizer):
    config = tiny(optimizer=optimizer, lr=0.003)
    whole = train(config)
    real = files.save

    def save_then_die(run, position):
        real(run, position)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "save", save_then_die)
    parts = tiny(optimizer=optimizer, lr=0.003, results=tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        train(parts)
    monkeypatch.setattr(files, "save", real)
    assert outcome(train(parts).run.folder) == outcome(whole.run.folder)


def child(config):
    train(config)


@pytest.mark.slow
def test_kill_nine_at_random_moments_is_bit_identical(tiny, tmp_path):
    """A server process has torch loaded; each try is a fork of it that is killed without warning.

    The moment is a random while after a random epoch was seen to end, so it falls inside the run however fast the machine.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.training.test_loop"])
    config, parts = tiny(epochs=12), tiny(epochs=12, results=tmp_path / "parts")

    def start(config):
        process = processes.Process(target=child, args=(config,))
        process.start()
        return process

    def epochs_done():
        return sum(len(read_csv(path)) for path in parts.results.glob("quickstart/*/metrics.csv"))

    start(config).join()
    rng = random.Random(0)
    killed = 0
    for epoch in sorted(rng.sample(range(10), 5)):
        process = start(parts)
        while process.is_alive() and epochs_done() < epoch:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    start(parts).join()
    assert killed >= 2
    (a,), (b,) = (list((c.results / "quickstart").iterdir()) for c in (config, parts))
    assert outcome(a) == outcome(b)


def test_lam_zero_is_the_run_without_any_penalty_code(tiny):
    """Bit for bit what this loop gives, which has never heard of SparseHead."""
    for solver in ("subgradient", "proximal"):
        trained = train(tiny(lam=0.0, epochs=1, solver=solver)).run
        run = build(tiny(lam=0.0, epochs=1, solver=solver))
        for step, batch in enumerate(run.train.batches(100, order=epoch_order(run, run.phases[0], 0))):
            for group in run.optimizer.param_groups:
                group["lr"] = lr_at(step, total=9, warmup=9, lr=0.25)
            generator = torch.Generator().manual_seed(stable_seed("views", 0, step, 0))
            loss, _ = run.method(run.views(batch.inputs, generator=generator), batch.labels)
            run.optimizer.zero_grad()
            loss.backward()
            run.optimizer.step()
        for ours, theirs in zip(trained.method.state_dict().values(), run.method.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs)


def test_lam_changes_neither_the_initial_weights_nor_the_views(tiny):
    a, b = build(tiny(lam=0.0)), build(tiny(lam=0.5))
    assert all(torch.equal(x, y) for x, y in zip(a.method.parameters(), b.method.parameters(), strict=True))
    assert torch.equal(epoch_order(a, a.phases[0], 1), epoch_order(b, b.phases[0], 1))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_lam_rises_over_its_epochs_and_the_learning_rate_does_not_care(tiny, schedule):
    run = build(tiny(lam=0.3, lam_schedule=schedule, lam_ramp_epochs=1.0, epochs=3))
    seen = []
    for step in range(12):
        loop.train_step(run, next(run.train.batches(100)), step)
        seen.append((run.sparse.lam, run.optimizer.param_groups[0]["lr"]))
    lams = [lam for lam, _ in seen]
    assert lams == sorted(lams)
    assert 0 < lams[0] < lams[4] < 0.3
    assert lams[8:] == [0.3] * 4
    constant = build(tiny(lam=0.3, epochs=3))
    assert [constant.lam(step) for step in (0, 26)] == [0.3, 0.3]
    assert [lr for _, lr in seen] == [constant.lr(step) for step in range(12)]


def test_the_predictor_of_simsiam_keeps_its_learning_rate(tiny):
    run = build(tiny(method="simsiam", method_settings=method_recipe("simsiam"), epochs=3))
    for step in (0, 20):
        loop.train_step(run, next(run.train.batches(100)), step)
        rates = {group["lr"] for group in run.optimizer.param_groups if group["constant_lr"]}
        assert rates == {run.config.lr}
        assert {group["lr"] for group in run.optimizer.param_groups} - rates == {run.lr(step)}
    constant = [p for group in run.optimizer.param_groups if group["constant_lr"] for p in group["params"]]
    assert {id(p) for p in constant} == {id(p) for p in run.method.predictor.parameters()}


@pytest.mark.parametrize("projector", ["none", "orthogonal", "direct"])
def test_heads_without_weights_train_at_lam_zero_only(tiny, monkeypatch, projector):
    stop_after(monkeypatch, [13])  # of 18: it goes on with one row in metrics.csv and, without a linear layer, none in layers.csv
    with pytest.raises(Interrupted):
        train(tiny(projector=projector, lam=0.0))
    result = train(tiny(projector=projector, lam=0.0))
    assert train(tiny(projector=projector, lam=0.0)).was_finished
    assert (len(result.rows), len(result.layers)) == (2, 2 if projector == "orthogonal" else 0)
    row, run = result.rows[-1], result.run
    assert (row["n_groups"], row["active_groups"], row["penalty_value"]) == (0, 0, 0)
    features = {"none": 8, "orthogonal": 8, "direct": 8}[projector]
    assert row["n_features"] == features
    assert row["knn_accuracy_z_pruned"] == row["knn_accuracy_z"]
    r, z = run.method.eval().embed(run.spec.normalise(run.val.inputs[:8].float() / 255))
    if projector == "orthogonal":
        w = run.method.projector.weight
        torch.testing.assert_close(w @ w.T, torch.eye(8), atol=1e-5, rtol=0)
        assert torch.equal(w, build(tiny(projector=projector, lam=0.0)).method.projector.weight)
    else:
        assert torch.equal(z, r[:, : z.shape[1]])
    with pytest.raises(SparseheadError, match=f"projector {projector} has no weights to penalise.*--lam 0"):
        build(tiny(projector=projector, lam=1e-3))


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_every_layer_of_the_head_has_its_row(tiny, layers, batch_norm):
    run = train(tiny(projector_layers=layers, projector_batch_norm=batch_norm, epochs=1, lam=1e-2)).run
    rows = read_csv(run.folder / "layers.csv")
    assert len(rows) == layers
    assert rows[0]["inputs"] == "8"
    assert rows[-1]["outputs"] == "8"
    assert all(0 < int(row["functional_inputs"]) <= int(row["inputs"]) for row in rows)


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_penalty_trains_and_shrinks_the_head(tiny, penalty, solver):
    run, other = train(tiny(penalty=penalty, solver=solver, lam=0.05, epochs=1)).run, train(tiny(lam=0.0, epochs=1)).run
    if penalty == "l21-relative":  # which knows no size: its value falls
        value, free = (sum(PENALTIES[penalty].value(w, "input") for w in one.sparse.weights()) for one in (run, other))
        assert value < free
        return
    size, free = (sum(w.norm() for w in one.sparse.weights()) for one in (run, other))
    assert size == free if penalty == "none" else size < 0.99 * free


def test_a_pruned_thin_head_is_as_accurate(tiny):
    """Groups that the proximal solver emptied can go: the embedding stays, and with it the accuracy."""
    run = train(tiny(solver="proximal", lam=0.8)).run
    row = read_csv(run.folder / "metrics.csv")[-1]
    assert int(row["active_groups"]) < int(row["n_groups"])
    small = run.sparse.prune()
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in run.method.projector.parameters())
    found = extract(EncoderAndHead(run.method.backbone, run.method.projector), run.val, Prepare(run.spec.image, run.spec.normalise))
    r, z = found["r"], found["z"]
    torch.testing.assert_close(small.eval()(r), z, atol=1e-5, rtol=1e-5)
    assert row["knn_accuracy_z_pruned"] == row["knn_accuracy_z"]


def test_proximal_runs_end_in_exact_zeros(tiny):
    run = train(tiny(solver="proximal", lam=0.8)).run
    norms = torch.linalg.vector_norm(run.sparse.weights()[0], dim=0)
    assert (norms == 0).any()
    assert int(read_csv(run.folder / "metrics.csv")[-1]["active_groups"]) < 24


def test_the_test_set_is_never_read(tiny, monkeypatch):
    from sparsehead_cli.runs import build as module

    real, asked = module.load_split, []
    monkeypatch.setattr(module, "load_split", lambda name, split, *a, **k: asked.append(split) or real(name, split, *a, **k))
    train(tiny(epochs=1))
    assert sorted(asked) == ["pretrain", "val"]


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(tiny):
    run = build(tiny(batch_size=100))
    orders = [epoch_order(run, run.phases[0], epoch) for epoch in range(2)]
    assert all(len(set(order.tolist())) == 100 * (len(run.train) // 100) for order in orders)
    assert not torch.equal(*orders)


def test_a_second_process_is_refused(tiny):
    run = build(tiny())
    with locked(run.folder):
        problem = []

        def second():
            try:
                pretrain(run)
            except SparseheadError as error:
                problem.append(str(error))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "another process is training this run" in problem[0]


@pytest.mark.parametrize(
    ("change", "suspects"),
    [
        ({"lr": 1e30, "lam": 0.0}, r"lr 1e\+30 \(too high\?\)\.$"),
        ({"lam": 1e30}, r"lr 0\.25 \(too high\?\), lam 1e\+30 \(too strong\?\)\.$"),
        ({"lr": 1e30, "lam": 0.0, "precision": "bfloat16"}, r"\), precision bfloat16 \(try --set precision=float32\)\.$"),
        ({"lam": 0.0, "method_settings": {"temperature": 1e-42}}, r"Suspects: method\.temperature 1e-42 \(too low\?\), lr"),
        ({"lr": 1e30, "lam": 0.0, "method": "wmse"}, r"Suspects: the covariance of z in 8 dimensions .*method\.eps.*, lr 1e\+30"),
        ({"lr": 1e30, "lam": 0.0, "method": "mmcr"}, r"no longer finite.* Suspects: lr 1e\+30"),
        (
            {"lam": 0.0, "regularisers": ("spectral:1e30",)},
            r"no longer finite.* Suspects: regulariser spectral:1e\+30 \(too strong\?\), lr",
        ),
    ],
)
def test_divergence_suspects_what_is_at_work_and_nothing_else(tiny, change, suspects):
    with pytest.raises(SparseheadError, match=suspects):
        train(tiny(warmup_epochs=0.0, epochs=1, **change))


def test_divergence_keeps_the_last_good_checkpoint(tiny, monkeypatch):
    config, real = tiny(epochs=3), loop.train_step

    def poisoned(run, batch, step):
        if step == 12:
            with torch.no_grad():
                run.method.projector[0].weight[0, 0] = float("nan")
        return real(run, batch, step)

    monkeypatch.setattr(loop, "train_step", poisoned)
    with pytest.raises(SparseheadError, match="The last good checkpoint is kept"):
        train(config)
    monkeypatch.setattr(loop, "train_step", real)
    result = train(config)
    assert len(result.rows) == 3
    assert all(math.isfinite(float(row["loss"])) for row in result.rows)


def test_lost_metrics_and_strange_checkpoints_are_refused(tiny):
    folder = train(tiny()).run.folder
    (folder / "metrics.csv").rename(folder / "elsewhere.csv")
    with pytest.raises(SparseheadError, match="metrics.csv is missing: the checkpoint beside it is of epoch 2"):
        train(tiny())
    (folder / "elsewhere.csv").rename(folder / "metrics.csv")
    other = train(tiny(seed=1)).run.folder
    (other / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes())
    with pytest.raises(SparseheadError, match="belongs to another run"):
        train(tiny(seed=1))


def test_another_precision_does_not_silently_go_on(tiny, monkeypatch):
    real = files.save

    def save_then_die(run, position):
        real(run, position)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "save", save_then_die)
    monkeypatch.setattr("sparsehead_cli.machine.device.has_fast_bfloat16", lambda device: False)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(precision="auto"))
    monkeypatch.setattr("sparsehead_cli.machine.device.has_fast_bfloat16", lambda device: True)
    with pytest.raises(SparseheadError, match=r"begun in float32, this machine would go on in bfloat16.*--precision bfloat16"):
        train(tiny(precision="auto"))


def test_a_run_may_be_a_sequence_of_tasks(tiny, tmp_path, monkeypatch):
    """A phase a task, each on its own images and measured on its own; stopped in either, it goes on bit for bit."""
    changes = {"dataset": "tests.tasks:load", "batch_size": 50, "epochs": 2}
    run = build(tiny(**changes))
    assert [sorted(set(phase.train.labels.tolist())) for phase in run.phases] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    steps = [run.steps_of(phase) for phase in run.phases]
    assert run.total_steps == 2 * sum(steps)
    assert [run.place(step)[1] for step in (0, steps[0], 2 * steps[0], run.total_steps - 1)] == [0, 1, 2, 3]
    banks, bank_of = [], probe.bank_of
    monkeypatch.setattr(probe, "bank_of", lambda train: banks.append(train) or bank_of(train))
    whole = pretrain(run)
    assert [row["epoch"] for row in whole.rows] == [1, 2, 3, 4]
    assert banks == [phase.train for phase in run.phases]  # one a task, not one an epoch
    stop_after(monkeypatch, stops := [3, 2 * steps[0] + 2])
    parts = tiny(**changes, results=tmp_path / "parts")
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(parts)
    assert not stops
    assert outcome(train(parts).run.folder) == outcome(whole.run.folder)


class Seen(Callback):
    """Notes what it was called with, and adds a column."""

    def __init__(self):
        self.calls = []

    def on_start(self, run, progress):
        self.calls.append(("start", progress.step))

    def on_step(self, run, progress):
        assert progress.images_per_second > 0
        assert progress.logged["loss"].isfinite()
        self.calls.append(("step", progress.step))

    def on_epoch(self, run, progress, row):
        assert row["knn_accuracy"] >= 0  # the probe was here before
        row["own"] = progress.step / 2
        self.calls.append(("epoch", progress.epoch))

    def on_end(self, run, progress):
        self.calls.append(("end", progress.step))


def test_callbacks_see_every_step_and_epoch_and_may_add_columns(tiny, monkeypatch):
    stop_after(monkeypatch, [12])
    stopped, resumed = Seen(), Seen()
    with pytest.raises(Interrupted):
        pretrain(build(tiny()), [stopped])
    pretrain(build(tiny()), [resumed])
    steps = [("step", step) for step in range(1, 19)]
    assert stopped.calls == [("start", 0), *steps[:9], ("epoch", 1), *steps[9:12], ("end", 12)]
    assert resumed.calls == [("start", 12), *steps[12:], ("epoch", 2), ("end", 18)]
    again = Seen()
    result = pretrain(build(tiny()), [again])
    assert again.calls == [("start", 18), ("end", 18)]
    assert [row["own"] for row in read_csv(result.run.folder / "metrics.csv")] == ["4.5", "9.0"]


@pytest.mark.slow
def test_compiled_backbone_keeps_its_keys_and_agrees(tiny):
    plain, compiled = build(tiny()), build(tiny(compile=True))
    assert list(plain.method.state_dict()) == list(compiled.method.state_dict())
    x = plain.spec.normalise(plain.val.inputs[:64].float() / 255)
    torch.testing.assert_close(plain.method.embed(x)[1], compiled.method.embed(x)[1], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_compiled_backbone_goes_in_parts(tiny, monkeypatch):
    """The same gradient norm, and running statistics that move once; traced, since to make code of it takes a minute."""
    compiles = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network, **_: compiles(network, backend="aot_eager"))
    found = []
    for compiled in (False, True):
        run = build(tiny(compile=compiled, accumulate=2))
        logged = loop.train_step(run, next(loop.epoch_batches(run, 0)), 0)
        found.append({**logged, **dict(run.method.backbone.named_buffers())})
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["simclr", "byol", "moco"])
def test_a_run_whose_backbone_is_in_cuda_graphs_is_the_plain_one(tiny, method):
    """The probe between the epochs included: what it keeps must not lie where the next replay writes."""
    recipe = {"method": method, "method_settings": method_recipe(method), "device": "cuda", "lr": 0.02}
    plain, compiled = (train(tiny(**recipe, compile=compile)) for compile in (False, True))
    for one, other in zip(plain.rows, compiled.rows, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-2)
        assert other["effective_rank_r"] == pytest.approx(one["effective_rank_r"], rel=0.1)


def test_a_network_is_compiled_into_graphs_where_there_is_a_gpu():
    assert [compile_mode(torch.device(kind)) for kind in ("cpu", "cuda")] == ["default", "reduce-overhead"]


def test_devices_and_precisions():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_precision("float32", torch.device("cpu")) == torch.float32
    auto = choose_precision("auto", torch.device("cpu"))
    assert (auto == torch.bfloat16) == has_fast_bfloat16(torch.device("cpu"))
    with pytest.raises(SparseheadError, match='unknown device "gpu"'):
        choose_device("gpu")
    with pytest.raises(SparseheadError, match="GPUs found"):
        choose_device("cuda:99")


def test_batch_larger_than_the_data(tiny):
    with pytest.raises(SparseheadError, match=r"batch_size 9,001 is larger than the 9\d\d training images"):
        build(tiny(batch_size=9001))


def test_all_wrong_names_together(tiny):
    with pytest.raises(SparseheadError) as error:
        build(tiny(method="simlcr", dataset="cifar", views="grey"))
    assert all(f'unknown {k} "' in str(error.value) for k in ("method", "dataset", "views"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_a_gpu(tiny):
    assert len(train(tiny(device="cuda", precision="auto")).rows) == 2


def test_spectra_are_tracked_at_log_spaced_epochs_and_survive_a_stop(tiny, monkeypatch):
    from sparsehead_cli.measure.dimensions import effective_rank
    from sparsehead_cli.training.probe import is_tracked

    assert [e for e in range(1, 27) if is_tracked(e, 26)] == [1, 2, 3, 4, 6, 8, 11, 16, 23, 26]
    plain = train(tiny(epochs=5, lam=0.0))
    assert not (plain.run.folder / "spectrum_epochs.csv").exists()
    tracked = tiny(epochs=5, lam=0.0, track_spectrum=True, results=plain.run.folder.parents[1] / "tracked")
    step, calls = loop.train_step, []

    def stop_in_the_fourth_epoch(run, batch, at):
        calls.append(at)
        if at == 3 * run.steps_per_epoch + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(run, batch, at)

    monkeypatch.setattr(loop, "train_step", stop_in_the_fourth_epoch)
    with pytest.raises(Interrupted):
        train(tracked)
    monkeypatch.setattr(loop, "train_step", step)
    folder = train(tracked).run.folder
    assert folder.name == plain.run.folder.name  # tracking is no part of what a run is
    assert (folder / "checkpoint.pt").read_bytes() == (plain.run.folder / "checkpoint.pt").read_bytes()
    rows = read_csv(folder / "spectrum_epochs.csv")
    assert list(dict.fromkeys(row["epoch"] for row in rows)) == ["1", "2", "3", "4", "5"]
    assert len(rows) == 5 * (8 + 8)
    for name in ("r", "z"):
        last = [float(row["eigenvalue"]) for row in rows if (row["epoch"], row["features"]) == ("5", name)]
        kept = float(read_csv(folder / "metrics.csv")[-1][f"effective_rank_{name}"])
        assert effective_rank(torch.tensor(last)) == pytest.approx(kept, rel=1e-6)
