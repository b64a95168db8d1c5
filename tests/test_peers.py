"""SparseHead in other people's training loops: a Lightning callback, and lightly's heads. Skipped without those libraries."""

import copy
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from sparsehead_cli import SparseHead
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.sparse.sparse_head import SOLVERS

lightning = pytest.importorskip("lightning")
lightly_loss, lightly_heads = pytest.importorskip("lightly.loss"), pytest.importorskip("lightly.models.modules")
from lightning.pytorch.plugins import MixedPrecision  # noqa: E402
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy  # noqa: E402

from sparsehead_cli import SparseHeadCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec|weight_norm. is deprecated)")
BATCHES = torch.randn(5, 8, 6, generator=torch.Generator().manual_seed(1))
LOADER = torch.utils.data.DataLoader(BATCHES, batch_size=None)


class Small(lightning.LightningModule):
    def __init__(self, momentum=0.9):
        super().__init__()
        torch.manual_seed(0)
        self.momentum = momentum
        self.model = nn.ModuleDict({"backbone": nn.Linear(6, 5)})
        self.projector = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))

    def training_step(self, x, _):
        z = self.projector(self.model["backbone"](x).relu())
        return (z - x[:, :3]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=self.momentum)


def trainer(*callbacks, epochs=2, **options):
    quiet = {f"enable_{name}": False for name in ("checkpointing", "progress_bar", "model_summary")}
    options = {"accelerator": "cpu", "devices": 1, "max_epochs": epochs, "logger": False, **quiet, **options}
    return lightning.Trainer(callbacks=list(callbacks), **options)


def plain_loop(module, lam, solver, epochs=2, accumulate=1, clip=None):
    """What the callback must equal: the three lines of the README."""
    optimizer, sparse = module.configure_optimizers(), SparseHead(module.projector, lam, solver=solver)
    if solver == "proximal":
        sparse.attach(optimizer)
    for step in range(epochs * len(BATCHES)):
        i = step % len(BATCHES)
        loss = module.training_step(BATCHES[i], i) / accumulate
        if last := (i + 1) % accumulate == 0 or i + 1 == len(BATCHES):
            loss = loss + sparse.penalty()
        loss.backward()
        if last:
            if clip:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    return module


def assert_same_weights(a, b):
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (2, None), (2, 0.05)])
def test_the_callback_trains_as_a_plain_loop_does(solver, accumulate, clip):
    module = Small()
    fit = trainer(SparseHeadCallback("projector", 0.05, solver=solver), accumulate_grad_batches=accumulate, gradient_clip_val=clip)
    fit.fit(module, LOADER)
    plain = plain_loop(Small(), 0.05, solver, accumulate=accumulate, clip=clip)
    assert_same_weights(module, plain)
    without = plain_loop(Small(), 0.0, solver, accumulate=accumulate, clip=clip)
    assert (module.projector[0].weight - without.projector[0].weight).abs().max() > 1e-3  # the penalty was felt
    torch.testing.assert_close(
        fit.callback_metrics["sparsehead/penalty/projector"],
        SparseHead(module.projector, 0.05).penalty().detach(),
        rtol=0,
        atol=1e-6,
    )


def test_the_proximal_callback_makes_exact_zeros_and_leaves_the_optimizer_as_it_was():
    module, callback = Small(momentum=0), SparseHeadCallback("projector.3", 0.4, solver="proximal")
    fit = trainer(callback, epochs=10)
    fit.fit(module, LOADER)
    first, last = module.projector[0].weight, module.projector[3].weight
    dead = (last == 0).all(dim=0)
    assert dead.any()
    assert not dead.all()
    assert not (first == 0).any()
    before = last.detach().clone()
    fit.optimizers[0].zero_grad()
    fit.optimizers[0].step()
    assert torch.equal(last, before)  # the hook is gone
    assert callback.sparse.projector is module.projector[3]


class TwoSteps(Small):
    """Manual optimization with an optimizer for each half, stepped in turn; the projector's is toggled off during the other's."""

    def __init__(self):
        super().__init__(momentum=0)
        self.automatic_optimization = False

    def training_step(self, x, i):
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(super().training_step(x, i))
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        return [torch.optim.SGD(m.parameters(), lr=0.1) for m in (self.model, self.projector)]


@pytest.mark.parametrize("solver", SOLVERS)
def test_manual_optimization_adds_the_penalty_to_the_projectors_optimizer_only(solver):
    module, plain = TwoSteps(), Small(momentum=0)
    trainer(SparseHeadCallback("projector", 0.05, solver=solver), epochs=1).fit(module, LOADER)
    optimizers = TwoSteps.configure_optimizers(plain)
    sparse = SparseHead(plain.projector, 0.05, solver=solver)
    if solver == "proximal":
        sparse.attach(optimizers[1])
    for x in BATCHES:
        for optimizer in optimizers:
            plain.zero_grad()
            (plain.training_step(x, 0) + sparse.penalty()).backward()
            optimizer.step()
    assert_same_weights(module, plain)


@pytest.mark.parametrize("fused", [False, True])
def test_lam_is_not_divided_by_the_loss_scale_of_float16(fused):
    class OnlyThePenalty(Small):
        def training_step(self, x, i):
            return 0 * super().training_step(x, i)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, fused=fused)

    module, plain = OnlyThePenalty(), OnlyThePenalty()
    half = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    trainer(SparseHeadCallback("projector", 0.05), epochs=1, plugins=[half]).fit(module, LOADER)
    plain_loop(plain, 0.05, "subgradient", epochs=1)
    for i in (0, 3):
        torch.testing.assert_close(module.projector[i].weight, plain.projector[i].weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_under_ddp_too(solver, monkeypatch):
    """One process, for time: the wrapped module, its gradient buckets and hooks are the real ones."""
    monkeypatch.setattr(os, "environ", dict(os.environ))  # Lightning writes the group's address there
    strategy = DDPStrategy(process_group_backend="gloo", static_graph=True, gradient_as_bucket_view=True)
    try:
        callback = SparseHeadCallback("projector", 0.05, solver=solver)
        trainer(callback, strategy=strategy, use_distributed_sampler=False).fit(module := Small(), LOADER)
    finally:
        torch.distributed.destroy_process_group()
    assert_same_weights(module, plain_loop(Small(), 0.05, solver))


@pytest.mark.parametrize("solver", SOLVERS)
def test_fitting_twice_with_one_callback_does_not_apply_it_twice(solver):
    module, callback = Small(momentum=0), SparseHeadCallback("projector", 0.05, solver=solver)
    trainer(callback, epochs=1).fit(module, LOADER)
    trainer(callback, epochs=1).fit(module, LOADER)
    assert_same_weights(module, plain_loop(Small(momentum=0), 0.05, solver, epochs=2))


def test_an_optimizer_that_outlives_an_interrupted_fit_is_shrunk_once():
    class Interrupted(Small):
        optimizer = None

        def training_step(self, x, i):
            if self.optimizer is None:
                self.optimizer = self.optimizers().optimizer
                raise RuntimeError("out of memory")
            return super().training_step(x, i)

        def configure_optimizers(self):
            return self.optimizer or super().configure_optimizers()

    module, callback = Interrupted(), SparseHeadCallback("projector", 0.05, solver="proximal")
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer(callback, epochs=1).fit(module, LOADER)
    trainer(SparseHeadCallback("projector", 0.05, solver="proximal"), epochs=1).fit(module, LOADER)
    # the failed step counted neither in the weights nor in BatchNorm's statistics
    assert_same_weights(module, plain_loop(Small(), 0.05, "proximal", epochs=1))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_run_resumed_from_lightnings_checkpoint_goes_on_as_if_never_stopped(solver, tmp_path):
    half = trainer(SparseHeadCallback("projector", 0.05, solver=solver), epochs=1)
    half.fit(Small(), LOADER)
    half.save_checkpoint(tmp_path / "half.ckpt")
    module = Small()
    trainer(SparseHeadCallback("projector", 0.05, solver=solver), epochs=2).fit(module, LOADER, ckpt_path=tmp_path / "half.ckpt")
    assert_same_weights(module, plain_loop(Small(), 0.05, solver, epochs=2))


def test_a_trained_module_and_its_callback_can_be_copied():
    module, callback = Small(), SparseHeadCallback("projector", 0.05, solver="proximal")
    trainer(callback, epochs=1).fit(module, LOADER)
    assert_same_weights(copy.deepcopy(module), module)
    twin = copy.deepcopy(callback)
    trainer(twin, epochs=1).fit(other := Small(), LOADER)
    assert twin.sparse.projector is other.projector
    assert_same_weights(other, module)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("projectr", 'unknown submodule of Small "projectr"; known: model, projector. Did you mean "projector"?'),
        ("model.head", 'unknown submodule of ModuleDict "head"; known: backbone.'),
        ("", 'unknown submodule of Small ""; known: model, projector.'),
        ("momentum", 'unknown submodule of Small "momentum"; known: model, projector.'),
        (
            "projector.2",
            "ReLU has no trainable nn.Linear or 1x1 nn.Conv2d layer for SparseHead to penalise: give it one, name the matrices "
            "themselves (a dict name -> nn.Parameter), or set lam to 0.",
        ),
    ],
)
def test_a_wrong_name_says_what_there_is(name, message):
    with pytest.raises(SparseheadError) as error:
        trainer(SparseHeadCallback(name, 0.05)).fit(Small(), LOADER)
    assert str(error.value) == message


def test_a_dotted_name_reaches_into_the_module():
    callback = SparseHeadCallback("model.backbone", 0.05)
    trainer(callback, epochs=1).fit(module := Small(), LOADER)
    assert callback.sparse.projector is module.model["backbone"]


def test_wrong_settings_are_refused_before_the_fit_and_cost_no_random_numbers():
    with pytest.raises(SparseheadError, match='unknown solver "proximl".*Did you mean "proximal"'):
        SparseHeadCallback("projector", 0.05, solver="proximl")
    with pytest.raises(SparseheadError, match="lam must be"):
        SparseHeadCallback("projector", -1)
    with pytest.raises(TypeError, match="grups"):
        SparseHeadCallback("projector", 0.05, grups="input")
    state = torch.get_rng_state()
    SparseHeadCallback("projector", 0.05)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_projector_that_no_optimizer_trains_is_an_error(solver):
    class Forgotten(Small):
        def configure_optimizers(self):
            return torch.optim.SGD([*self.model.parameters(), *self.projector[0].parameters()], lr=0.1)

    with pytest.raises(SparseheadError, match='no optimizer trains every penalised weight of "projector"'):
        trainer(SparseHeadCallback("projector", 0.05, solver=solver)).fit(Forgotten(), LOADER)


def test_sharded_weights_are_refused():
    class Sharded:
        strategy, callbacks = FSDPStrategy(), []

    with pytest.raises(SparseheadError, match='FSDPStrategy may shard; use "ddp"'):
        SparseHeadCallback("projector", 0.05).on_fit_start(Sharded, Small())


def test_without_lightning_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['lightning'] = None\n"
        "from sparsehead_cli import *\n"
        "try:\n    from sparsehead_cli import SparseHeadCallback\n"
        "except SparseheadError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "SparseHeadCallback needs Lightning: pip install lightning\n"


@pytest.fixture
def simclr():
    """A backbone, lightly's own SimCLR head and objective, and two views of a batch."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 16), nn.ReLU())
    head = lightly_heads.SimCLRProjectionHead(input_dim=16, hidden_dim=16, output_dim=4)
    images = torch.randn(32, 3, 8, 8)
    views = [images + 0.3 * torch.randn_like(images) for _ in range(2)]
    return backbone, head, lightly_loss.NTXentLoss(temperature=0.5), views


def test_the_penalty_of_lightlys_head_is_the_sum_of_its_column_norms(simclr):
    head = simclr[1]
    linears = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert [tuple(m.weight.shape) for m in linears] == [(16, 16), (4, 16)]
    columns = [column for m in linears for column in m.weight.T.tolist()]
    penalty = SparseHead(head, 0.5).penalty()
    assert penalty.item() == pytest.approx(0.5 * sum(math.hypot(*column) for column in columns), rel=1e-5)
    penalty.backward()
    touched = {name for name, p in head.named_parameters() if p.grad is not None}
    assert touched == {"layers.0.weight", "layers.3.weight"}  # neither BatchNorm nor biases


@pytest.mark.parametrize("solver", SOLVERS)
def test_lightlys_simclr_trains_and_only_the_proximal_solver_makes_exact_zeros(simclr, solver):
    backbone, head, objective, views = simclr
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    sparse = SparseHead(head, lam=0.2, solver=solver)
    if solver == "proximal":
        sparse.attach(optimizer)
    losses = []
    for _ in range(60):
        loss = objective(*(head(backbone(view)) for view in views))
        optimizer.zero_grad()
        (loss + sparse.penalty()).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    zeros = [(head.layers[i].weight == 0).all(dim=0).sum().item() for i in (0, 3)]
    assert 0 < zeros[0] < 16 if solver == "proximal" else zeros == [0, 0]


def test_lightlys_batch_norm_is_not_moved_by_the_proximal_step(simclr):
    head = simclr[1]
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    SparseHead(head, lam=1.0, solver="proximal").attach(optimizer)
    before = {name: p.clone() for name, p in head.named_parameters()}
    optimizer.step()
    moved = {name for name, p in head.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"layers.0.weight", "layers.3.weight"}


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_weight_norm_as_in_lightlys_dino_head_trains(norm):
    class Normed(Small):
        def __init__(self):
            super().__init__(momentum=0)
            self.projector[3] = norm(self.projector[3])

    trainer(SparseHeadCallback("projector", 0.05)).fit(module := Normed(), LOADER)
    assert_same_weights(module, plain_loop(Normed(), 0.05, "subgradient"))


def test_lightlys_head_is_pruned_through_its_layers(simclr):
    head = simclr[1].eval()
    head.layers[3].weight.data[:, :9] = 0
    with pytest.raises(SparseheadError, match=r"past SimCLRProjectionHead: .* SparseHead\(head.layers, lam=0\).prune\(\)"):
        SparseHead(head, 0.1).prune()
    pruned, r = SparseHead(head.layers, 0.1).prune(), torch.randn(20, 16)
    assert pruned[1].out_features == 7
    torch.testing.assert_close(pruned(r), head(r))


def test_two_callbacks_log_their_own_numbers_and_never_penalise_one_weight():
    first, last = (
        SparseHeadCallback(f"projector.{i}", 0.05 + i, solver=solver) for i, solver in ((0, "subgradient"), (3, "proximal"))
    )
    fit = trainer(first, last, epochs=1)
    fit.fit(module := Small(), LOADER)
    for i in (0, 3):
        value = SparseHead(module.projector[i], 0.05 + i).penalty().detach()
        torch.testing.assert_close(fit.callback_metrics[f"sparsehead/penalty/projector.{i}"], value)
    with pytest.raises(SparseheadError, match='for "projector.0" and "projector", penalise the same weights'):
        trainer(SparseHeadCallback("projector.0", 0.05, solver="proximal"), SparseHeadCallback("projector", 0.1)).fit(
            Small(), LOADER
        )


class Unseen(TwoSteps):
    """It steps the optimizers inside Lightning's, of which callbacks hear nothing."""

    trained = slice(None)

    def training_step(self, x, i):
        for optimizer in self.optimizers()[self.trained]:
            optimizer.optimizer.zero_grad()
            self.manual_backward(Small.training_step(self, x, i))
            optimizer.optimizer.step()


def test_steps_that_the_callback_does_not_see_are_an_error_after_the_epoch():
    with pytest.raises(SparseheadError, match='weights of "projector" .* did not see, .* step what self.optimizers.. returns'):
        trainer(SparseHeadCallback("projector", 0.05), epochs=2).fit(module := Unseen(), LOADER)
    assert module.current_epoch == 0
    callback = SparseHeadCallback("projector", 0.05, solver="proximal")  # the optimizer's own hook sees every step
    trainer(callback, epochs=1).fit(Unseen(), LOADER)
    assert callback.sparse.steps == len(BATCHES)
    module = Unseen()
    module.trained = slice(1)  # nobody trains the projector yet
    trainer(SparseHeadCallback("projector", 0.05), epochs=1).fit(module, LOADER)


class Memory(TwoSteps):
    """One optimizer for the first matrix of the projector, another for the rest, as Muon and AdamW share a network."""

    def configure_optimizers(self):
        first = self.projector[0].weight
        rest = [p for p in self.parameters() if p is not first]
        return [torch.optim.SGD([first], lr=0.1), torch.optim.SGD(rest, lr=0.2)]


@pytest.mark.parametrize("solver", SOLVERS)
def test_two_optimizers_may_share_the_projector(solver):
    trainer(SparseHeadCallback("projector", 0.05, solver=solver), epochs=1).fit(module := Memory(), LOADER)
    plain = Memory()
    optimizers, sparse = plain.configure_optimizers(), SparseHead(plain.projector, 0.05, solver=solver)
    if solver == "proximal":
        sparse.attach(*optimizers)
    for x in BATCHES:
        for optimizer in optimizers:
            plain.zero_grad()
            (Small.training_step(plain, x, 0) + sparse.penalty()).backward()
            optimizer.step()
    assert_same_weights(module, plain)


def test_lightnings_own_wrapper_stands_for_the_optimizer_inside():
    class Own(TwoSteps):
        def on_train_start(self):
            self.sparse = SparseHead(self.projector, 0.05, solver="proximal")
            self.sparse.attach(*self.optimizers())

    trainer(epochs=1).fit(module := Own(), LOADER)
    assert module.sparse.steps == len(BATCHES)


def test_a_trainer_of_pytorch_lightning_is_told_to_use_lightning():
    other = type("Trainer", (), {"__module__": "pytorch_lightning.trainer.trainer"})()
    with pytest.raises(SparseheadError, match="for the package lightning, given a Trainer of pytorch_lightning: import lightning"):
        SparseHeadCallback("projector", 0.05).on_fit_start(other, Small())


class Replaced(Small):
    """Takes a new projector, or a new optimizer, at the third of four epochs."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def on_train_epoch_start(self):
        if self.current_epoch != 2:
            return
        if self.what == "projector":
            torch.manual_seed(1)
            self.projector = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
        self.trainer.strategy.optimizers = [torch.optim.SGD(self.parameters(), lr=0.1)]


@pytest.mark.parametrize("what", ["projector", "optimizer"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_replaced_during_the_fit_is_followed(solver, what):
    module, callback = Replaced(what), SparseHeadCallback("projector", lam=0.5, solver=solver)
    fit = trainer(callback, epochs=4)
    fit.fit(module, LOADER)
    assert callback.sparse.projector is module.projector
    columns = module.projector[0].weight.norm(dim=0)
    free = Replaced(what)
    trainer(epochs=4).fit(free, LOADER)
    assert (columns < 0.8 * free.projector[0].weight.norm(dim=0)).all()
    if solver == "proximal":
        assert callback.sparse.steps == 2 * len(BATCHES)  # of the new one alone
        assert fit.callback_metrics["sparsehead/active_groups/projector"] < 1


def test_the_module_itself_in_place_of_its_name_is_an_error_at_once():
    with pytest.raises(SparseheadError, match=r'takes the name of the projector .* such as "projector" .* given a Linear'):
        SparseHeadCallback(nn.Linear(4, 2), lam=0.1)
