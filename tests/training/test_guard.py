"""The guard: the first step that is not finite is not made, nothing from before it is lost, and it is named."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from runs import BATCH, PER_EPOCH, Run, data, differences, latch, no_latents, plain, snapshot, state_in
from torch import nn
from torch.distributions import constraints
from torch.optim import lr_scheduler

from ppl_vae import Alternating, Callback, KeepBest, VariationalEM
from ppl_vae.data import Rows
from ppl_vae.data.batches import SourceBatches, TransformedBatches
from ppl_vae.objectives import ELBO
from ppl_vae.pair.scope import validation
from ppl_vae.storage import decode_tree, encode_tree
from ppl_vae.training import EachStep, GradientStep, NonFiniteError, Trainer, build_optimizer, leaves_by_group
from ppl_vae.training.subset import EVERYONE
from ppl_vae.training.undo import Undo

HUGE = 2.0**127  # finite, and its square is not


def poison(x):
    """Now and then (a function of the place in the run) one number of a batch becomes too big to be squared."""
    x = x.clone()
    if torch.rand(()) < 0.08:
        x[0, 0] = HUGE
    return x


def first_bad_step(seed: int) -> int:
    """The oracle: go through the batches, and look."""
    batches = TransformedBatches(SourceBatches(Rows.of(data()), BATCH), poison)
    for step in range(1000):
        if float(batches.at(seed, *divmod(step, PER_EPOCH)).args[0].max()) == HUGE:
            return step
    raise AssertionError("no batch is poisoned")


FIRST_EPOCH = next(seed for seed in range(1000) if 1 <= first_bad_step(seed) < PER_EPOCH)  # with argument checks on
LATER = next(seed for seed in range(1000) if 10 <= first_bad_step(seed) < 15)
M_STEP = next(seed for seed in range(1000) if first_bad_step(seed) == 5)  # the first M-step, after five E-steps
SEEDS = {"first epoch": FIRST_EPOCH, "later": LATER}


def poisoned(seed: int, **em) -> Run:
    return Run(em=em, fit={"batch_size": BATCH, "transform": poison, "seed": seed})


EMS = {
    "Adam": {},
    "plain SGD": {"optimizer": torch.optim.SGD, "lr": 0.01},
    "momentum": {"optimizer": partial(torch.optim.SGD, momentum=0.9), "lr": 0.01},
    "RMSprop": {"optimizer": torch.optim.RMSprop, "lr": 0.01},
    "a state of plain numbers": {"optimizer": pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.9})},
    "clipped": {"clip_norm": 0.1},
    "schedule by step": {"lr_scheduler": EachStep(partial(lr_scheduler.CosineAnnealingLR, T_max=30))},
    "schedule by epoch": {"lr_scheduler": partial(lr_scheduler.ExponentialLR, gamma=0.5)},
    "alternating": {"schedule": Alternating()},
    "averaged": {"optimizer": torch.optim.ASGD, "lr": 0.01},
}


@pytest.fixture(params=["plain", "latched"])
def path(request, monkeypatch):
    """Both ways to guard: look at each step, or undo on the device and look at the next check."""
    if request.param == "latched":
        latch(monkeypatch)
    return request.param


@pytest.mark.parametrize("when", SEEDS)
@pytest.mark.parametrize("name", EMS)
def test_everything_is_as_before_the_bad_step(name, when, path, tmp_path):
    """Parameters, running means, optimizer, schedule, history and place are those of a run that ended there."""
    seed = SEEDS[when]
    bad = first_bad_step(seed)
    whole = snapshot(poisoned(seed, **EMS[name])(bad))
    with pytest.raises(NonFiniteError, match=rf"^step {bad}: ") as caught:
        poisoned(seed, **EMS[name])(40, folder=tmp_path)
    assert (caught.value.step, caught.value.fit.steps) == (bad, bad)
    assert caught.value.fit.ended == "non-finite"
    assert differences(whole, snapshot(caught.value.fit)) == []


def test_a_first_m_step_that_is_bad_leaves_no_optimizer_state(path):
    """The optimizer makes the state of θ in that very step: there is nothing to put back, so it must not be made."""
    run = poisoned(M_STEP, schedule=Alternating(e_steps=5, m_steps=1))
    whole = snapshot(run(5))
    with pytest.raises(NonFiniteError, match="^step 5: ") as caught:
        run(40)
    assert not any(name.startswith("model.") for name in whole["optimizer"]["state"])
    assert differences(whole, snapshot(caught.value.fit)) == []


@pytest.mark.parametrize("name", EMS)
def test_both_paths_agree_on_good_runs(name, monkeypatch):
    looked = snapshot(Run(em=EMS[name])(13))
    latch(monkeypatch)
    assert differences(looked, snapshot(Run(em=EMS[name])(13))) == []


def test_the_checkpoint_is_intact_and_a_healthy_run_goes_on_from_it(path, tmp_path):
    bad = first_bad_step(LATER)
    with pytest.raises(NonFiniteError):
        poisoned(LATER)(40, folder=tmp_path)
    assert differences(snapshot(poisoned(LATER)(bad)), state_in(tmp_path)) == []
    with pytest.raises(NonFiniteError, match=f"^step {bad}: "):  # the same batch, the same noise: the same end
        poisoned(LATER)(40, folder=tmp_path, resume=True)
    assert differences(snapshot(poisoned(LATER)(bad)), state_in(tmp_path)) == []


def test_the_fit_of_the_error_can_be_used(path):
    with pytest.raises(NonFiniteError) as caught:
        poisoned(LATER)(40)
    fit = caught.value.fit
    assert fit.elbo(data()).isfinite().all()
    assert fit.history.drop(columns="lr").notna().all().all()
    assert "ended      non-finite after" in repr(fit)
    with pytest.raises(NonFiniteError, match=f"^step {first_bad_step(LATER)}: ") as again:
        fit.resume(steps=10)
    assert again.value.fit is fit
    em = VariationalEM(fit.model, fit.guide)  # and the modules go on with other data
    assert em.fit(data(), steps=5).ended == "completed"


def test_keep_best_still_gives_the_best_back(path):
    run = poisoned(LATER)
    with pytest.raises(NonFiniteError) as caught:
        run(40, callbacks=[KeepBest(metric="elbo")])
    fit = caught.value.fit
    best = int(fit.history["elbo"].idxmax())
    expected = snapshot(run((best + 1) * PER_EPOCH))["tensors"]
    assert differences(expected, {k: v.detach() for k, v in fit.trainer.tensors().items()}) == []


def test_a_step_that_moves_all_the_same_breaks_the_law(monkeypatch):
    """The negative twin: without a look at it the parameters are lost."""
    monkeypatch.setattr(GradientStep, "update", lambda self, step, fine, move: move())
    monkeypatch.setattr(GradientStep, "failed", lambda self: False)
    run = poisoned(LATER)
    assert any(not t.isfinite().all() for t in run(first_bad_step(LATER) + 1).params.values())


@pytest.mark.parametrize("forgotten", ["_tensors", "_state"])
def test_a_way_back_that_forgets_something_breaks_the_law(forgotten, monkeypatch):
    """The negative twin of going back: what is not copied stays as the later steps have left it."""
    latch(monkeypatch)
    kept = Undo.restore

    def restore(self, step, cursor, history):
        now = Undo(step, cursor, history)
        self.__dict__[forgotten] = now.__dict__[forgotten]
        kept(self, step, cursor, history)

    monkeypatch.setattr(Undo, "restore", restore)
    run = poisoned(LATER)
    with pytest.raises(NonFiniteError) as caught:
        run(40)
    assert differences(snapshot(poisoned(LATER)(first_bad_step(LATER))), snapshot(caught.value.fit)) != []


def test_state_is_copied_once_in_fifty_steps(monkeypatch):
    """And not in each: with a callback that watches every step too."""
    places = []
    kept = Undo.__init__

    def note(self, step, cursor, history):
        places.append(cursor.step)
        kept(self, step, cursor, history)

    monkeypatch.setattr(Undo, "__init__", note)

    class Watch(Callback):
        def on_step(self, run, report):
            pass

    run = Run(fit={"batch_size": 1}, pair=plain)
    run(170)
    assert places == [0, 50, 100, 150]
    places.clear()
    run(56, callbacks=[Watch()])
    assert places == [0, 14, 28, 42]  # at the end of an epoch a callback may change anything


class Nudge(Callback):
    """Changes a parameter by hand after a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step(self, run, report):
        if run.step == self.at:
            with torch.no_grad():
                next(iter(run.tensors().values())).add_(0.25)


@pytest.mark.parametrize("at", [1, first_bad_step(LATER) - 1, first_bad_step(LATER)])
def test_what_a_callback_has_changed_by_hand_is_kept_on_the_way_back(at, path):
    bad = first_bad_step(LATER)
    whole = snapshot(poisoned(LATER)(bad, callbacks=[Nudge(at)]))
    with pytest.raises(NonFiniteError, match=f"^step {bad}: ") as caught:
        poisoned(LATER)(40, callbacks=[Nudge(at)])
    assert differences(whole, snapshot(caught.value.fit)) == []


# parameters that an update has lost


@pytest.mark.parametrize("steps", [1, 3])
def test_parameters_that_are_not_finite_after_the_last_update(steps, path):
    """The loss and the gradients were finite: nobody would see it but who looks at the parameters."""
    run = Run(em={"optimizer": torch.optim.SGD, "lr": 1e38})
    with pytest.raises(NonFiniteError, match=r"^step 0: the parameter '.*' was not finite after it") as caught:
        run(steps)
    assert caught.value.fit.steps == 0
    assert all(t.isfinite().all() for t in caught.value.fit.params.values())


def test_a_parameter_that_never_was_finite_is_passed_over():
    """A logit of minus infinity is a class that cannot be."""

    def model(x):
        logits = pyro.param("logits", torch.tensor([0.0, 0.0, -torch.inf]))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Categorical(logits=logits, validate_args=False), obs=x)

    def guide(x):
        pass

    fit = VariationalEM(model, guide).fit(torch.tensor([0, 1, 1]), steps=60, progress=False)
    assert fit.ended == "completed"
    assert fit.params["logits"][2] == -torch.inf


# the step by itself


def gradient_step(latched: bool, factory=torch.optim.Adam) -> GradientStep:
    em = VariationalEM(*Run().pair(0))
    em.pair.initialize(data())
    leaves = leaves_by_group(em.pair, ELBO())
    optimizer = build_optimizer(factory, leaves, dict.fromkeys(leaves, 0.05))
    return GradientStep(em.pair, ELBO(), optimizer, latched=latched)


def state_of(step: GradientStep):
    names = {id(leaf): name for members in step.leaves.values() for name, leaf in members.items()}
    tree = {
        "leaves": {name: leaf for members in step.leaves.values() for name, leaf in members.items()},
        "buffers": step.pair.buffers_by_name(),
        "optimizer": {names[id(leaf)]: dict(values) for leaf, values in step.optimizer.state.items()},
    }
    return decode_tree(encode_tree(tree))


@pytest.mark.parametrize("latched", [True, False])
def test_after_a_bad_step_no_parameter_moves_until_it_is_dealt_with(latched):
    step, good, bad = gradient_step(latched), Rows.of(data()).batch(), Rows.of(data().fill_(HUGE)).batch()
    with step.pair.scope(), step.pair.mode(training=True), validation(False):
        for t in range(3):
            step(good, t, EVERYONE)
        before = {key: value for key, value in state_of(step).items() if key != "buffers"}
        buffers = {name: buffer.clone() for name, buffer in step.buffers.items()}
        step(bad, 3)
        for t in range(4, 8):
            step(good, t)
        assert step.has_stopped == (not latched)
        assert step.failed()
        assert {key: differences(value, state_of(step)[key]) for key, value in before.items()} == {
            "leaves": [],
            "optimizer": [],
        }
        step.load_state(step.state())
        assert step.failed()  # a running variance is infinite by the bad rows
        for name, buffer in step.buffers.items():
            buffer.copy_(buffers[name])
        assert not step.failed()
        step(good, 9)
        assert differences(before["leaves"], state_of(step)["leaves"]) != []


@pytest.mark.parametrize("checks", [True, False])
def test_steps_by_hand_go_on_after_a_bad_one(checks):
    em = VariationalEM(*Run().pair(0), lr=0.05)
    with validation(checks):  # the caller's own setting
        for _ in range(3):
            em.step(data())
        before = {**em.pair.params, **{k: b.clone() for k, b in em.pair.buffers_by_name().items()}}
        for t in (3, 4):
            with pytest.raises(NonFiniteError, match=f"^step {t}: "):
                em.step(data().fill_(HUGE))
        assert differences(before, {**em.pair.params, **em.pair.buffers_by_name()}) == []
        assert em.step(data()) < 0
    assert differences(before, em.pair.params) != []


# names


def trap(where: str):
    """A pair that breaks at one place, as soon as a number of x is above 40."""

    def model(x):
        weight = pyro.param("weight", torch.ones(()))
        scale = pyro.param("scale", torch.ones(()), constraint=constraints.positive)
        broken = torch.where(x[:, 0] > 40, torch.nan, 0.0)
        zero = torch.where(x[:, 0] > 40, 0.0, 1.0)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if where == "likelihood":
                z = z + broken
            if where == "gradient":
                z = z + (weight * zero).abs().sqrt()  # finite at 0, and its slope is not
            if where == "weight of a site":
                pyro.factor("extra", -1.0 / zero + 1.0)
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), scale).to_event(1), obs=x.clamp(max=5))

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        broken = torch.where(x[:, 0] > 40, torch.nan, 0.0)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc + (broken if where == "guide" else 0.0), 1.0))

    return model, guide


PLACES = {
    "guide": ("z", "the value of the guide's site 'z' was not finite"),
    "likelihood": ("x", "the log density of the model's site 'x' was not finite"),
    "gradient": ("weight", "the gradient of 'weight' was not finite"),
    "weight of a site": ("extra", "the log density of the model's site 'extra' was not finite"),
}


@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("where", PLACES)
def test_the_error_names_the_site_and_the_step(where, epoch, path):
    """In the first epoch argument checks are on, and stop at a NaN; later the guard meets it. The error is the same."""

    def spoil(x):
        return torch.where(torch.rand(()) < 0.1, 50.0, x)

    def bad_step(seed: int) -> int:
        batches = TransformedBatches(SourceBatches(Rows.of(data()), BATCH), spoil)
        found = (t for t in range(1000) if float(batches.at(seed, *divmod(t, PER_EPOCH)).args[0].max()) == 50.0)
        return next(found)

    seed = next(s for s in range(1000) if bad_step(s) // PER_EPOCH == epoch and bad_step(s) > 0)
    # the first look at the pair must not meet the trap
    model, guide = trap(where)
    em = VariationalEM(model, guide)
    em.pair.initialize(data())
    site, detail = PLACES[where]
    with pytest.raises(NonFiniteError) as caught:
        em.fit(data(), steps=100, batch_size=BATCH, seed=seed, transform=spoil)
    assert str(caught.value).startswith(f"step {bad_step(seed)}: {detail}")
    assert (caught.value.step, caught.value.site) == (bad_step(seed), site)


def test_infinite_data_are_named(path):
    em = VariationalEM(*plain())
    em.pair.initialize(data())
    x = data()
    x[5, 1] = torch.inf
    with pytest.raises(NonFiniteError, match=r"the data \(part 0\) hold a value that is not finite"):
        em.fit(x, steps=3)


def test_an_infinite_weight_is_the_objectives(path):
    objective = ELBO(beta=lambda step: float("nan") if step == 6 else 1.0)
    with pytest.raises(NonFiniteError, match="^step 6: the gradient of") as caught:
        Run(em={"objective": objective})(20)
    assert caught.value.fit.steps == 6


def test_a_norm_that_overflows_is_not_finite(path):
    """Every gradient finite, their norm not: clipping by it would make the step a step of zeros or NaN."""
    model, guide = no_latents(2)
    x = torch.full((4, 2), 2.5e19) * torch.tensor([1.0, -1.0])
    em = VariationalEM(model, guide, clip_norm=1.0)
    with pytest.raises(NonFiniteError):
        em.fit(x, steps=3)


def test_a_run_that_diverges_is_caught(path):
    """The usual way into it: a learning rate that is too large, from the first steps on."""
    run = Run(em={"optimizer": torch.optim.SGD, "lr": 1e30})
    with pytest.raises(NonFiniteError) as caught:
        run(20)
    assert caught.value.step < PER_EPOCH
    assert differences(snapshot(run(caught.value.step)), snapshot(caught.value.fit)) == []


# errors that are no NaN pass as they are, and nothing is lost by them either


class Breaks(nn.Module):
    """A decoder that raises at its n-th call in training."""

    def __init__(self, net: nn.Module, at: int, error: Exception) -> None:
        super().__init__()
        self.net, self.at, self.error, self.calls = net, at, error, 0

    def forward(self, z):
        self.calls += self.training
        if self.calls == self.at:
            raise self.error
        return self.net(z)


ERRORS = {"RuntimeError": RuntimeError("mine"), "ValueError": ValueError("mine"), "Ctrl-C": KeyboardInterrupt()}


def breaking(at: int, error: Exception) -> Run:
    """A run whose model breaks once, if it begins from the start 0."""

    def pair(start):
        model, guide = Run().pair(start)
        model.decoder = Breaks(model.decoder, -1 if start else at, error)
        return model, guide

    return Run(pair=pair)


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_inside_a_step_leaves_the_state_before_it(error, tmp_path):
    """The guide has run before the model breaks, and its running means have moved: they are put back."""
    whole, broken = breaking(-1, ERRORS[error])(20), breaking(9, ERRORS[error])
    if error == "Ctrl-C":
        assert broken(20, folder=tmp_path, every=1).ended == "interrupted"
    else:
        with pytest.raises(type(ERRORS[error]), match="mine"):
            broken(20, folder=tmp_path, every=1)
    assert 0 < state_in(tmp_path)["step"] < 20
    assert differences(snapshot(whole), snapshot(broken(20, folder=tmp_path, resume=True, start=1))) == []


def test_a_model_that_broke_goes_on_in_the_same_process():
    fits = []

    class Keep(Callback):
        def on_start(self, run):
            fits.append(run.fit)

    with pytest.raises(RuntimeError, match="mine"):
        breaking(9, RuntimeError("mine"))(20, callbacks=[Keep()])
    (fit,) = fits
    fit.resume(steps=20 - fit.steps)
    assert differences(snapshot(breaking(-1, RuntimeError())(20)), snapshot(fit)) == []


def test_running_means_that_stay_moved_break_the_law(monkeypatch, tmp_path):
    """The negative twin."""
    monkeypatch.setattr(Trainer, "_recover", lambda self: self.cursor.go_to(self.cursor.place))
    whole, broken = breaking(-1, RuntimeError("mine"))(20), breaking(9, RuntimeError("mine"))
    fits = []

    class Keep(Callback):
        def on_start(self, run):
            fits.append(run.fit)

    with pytest.raises(RuntimeError, match="mine"):
        broken(20, callbacks=[Keep()])
    fits[0].resume(steps=20 - fits[0].steps)
    assert differences(snapshot(whole), snapshot(fits[0])) != []
