"""Nothing that is not finite is left behind without a word: parameters under their constraints, running means."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.distributions import constraints
from torch.optim import lr_scheduler

from ppl_vae import Alternating, CompiledSVI, KeepBest, Only, Stages, VariationalEM
from ppl_vae.training import EachStep, NonFiniteError


def x_of(n=20):
    return torch.linspace(-1.0, 3.0, n)


def scale_model(x):
    """The scale is the exponential of what the optimizer moves: 100 there is infinite here."""
    scale = pyro.param("scale", torch.tensor(0.1), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, scale), obs=x)


def no_guide(x, y=None):
    pass


GROWING = partial(lr_scheduler.ExponentialLR, gamma=1e4)


@pytest.mark.parametrize(
    ("options", "steps", "bad"),
    [
        ({"lr": 100.0}, 1, 0),
        ({"lr": 100.0}, 60, 0),
        ({"lr": 100.0, "schedule": Only("scale*")}, 1, 0),
        ({"lr": 100.0, "schedule": Alternating()}, 2, 1),
        ({"lr": 100.0, "schedule": Stages((Alternating(e_steps=1, m_steps=0), 3), Alternating(0, 1))}, 4, 3),
        ({"lr": 0.1, "lr_scheduler": GROWING}, 2, 1),
        ({"lr": 0.1, "lr_scheduler": EachStep(GROWING)}, 2, 1),
    ],
)
def test_a_parameter_that_is_infinite_under_its_constraint(options, steps, bad):
    """What the optimizer holds is finite, and so was every loss."""
    em = VariationalEM(scale_model, no_guide, **options)
    with pytest.raises(NonFiniteError, match=rf"^step {bad}: the parameter 'scale'") as caught:
        em.fit(x_of(), steps=steps, progress=False)
    fit = caught.value.fit
    assert (fit.ended, fit.steps) == ("non-finite", bad)
    assert fit.params["scale"].isfinite() and fit.params["scale"] > 0


def test_the_checkpoint_holds_the_state_before_it_and_a_resumed_run_goes_on(tmp_path):
    def run(steps, lr_scheduler, **options):
        em = VariationalEM(scale_model, no_guide, lr=0.1, lr_scheduler=lr_scheduler)
        return em.fit(x_of(), steps=steps, checkpoint=tmp_path, progress=False, **options)

    with pytest.raises(NonFiniteError) as caught:
        run(3, GROWING)
    resumed = run(1, GROWING, resume=True)
    assert torch.equal(resumed.params["scale"], caught.value.fit.params["scale"])
    with pytest.raises(NonFiniteError, match="^step 1: "):
        run(3, GROWING, resume=True)


def test_keep_best_does_not_keep_what_is_not_finite():
    keep = KeepBest(metric="objective")
    em = VariationalEM(scale_model, no_guide, lr=0.1, lr_scheduler=EachStep(GROWING))
    with pytest.raises(NonFiniteError) as caught:
        em.fit(x_of(), epochs=4, callbacks=[keep], progress=False)
    assert caught.value.fit.params["scale"].isfinite()


class Normed(nn.Module):
    """A regression on an input whose spread is beyond what float32 can square."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))

    def forward(self, x, y):
        pyro.module("normed", self)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(self.net(x)[:, 0], 1.0), obs=y)


@pytest.mark.parametrize("steps", [1, 60])
def test_a_running_mean_that_is_lost_is_named(steps):
    model = Normed()
    em = VariationalEM(model, no_guide)
    with pytest.raises(NonFiniteError, match=r"^step 0: the buffer 'model.net.0.running_var'"):
        em.fit((x_of()[:, None] * 1e25, x_of()), steps=steps, progress=False)
    assert model.net[0].running_var.isfinite().all()


def test_a_buffer_that_never_was_finite_is_passed_over():
    model = Normed()
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    assert VariationalEM(model, no_guide).fit((x_of()[:, None], x_of()), steps=2, progress=False).ended == "completed"


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, partial(torch.optim.SGD, momentum=0.9)])
def test_a_step_by_hand_is_taken_back(optimizer):
    """Before, the parameters stayed infinite, and only the next step said so."""
    em, free = VariationalEM(scale_model, no_guide, lr=1e4, optimizer=optimizer), None
    for _ in range(2):
        with pytest.raises(NonFiniteError, match="^step [01]: the parameter 'scale'"):
            em.step(x_of())
        found = em.result().params["scale"]
        assert free is None or torch.equal(found, free)
        free = found
    assert free.isfinite()


def test_steps_by_hand_after_one_that_was_taken_back_are_those_without_it():
    def stepped(*, broken):
        em = VariationalEM(scale_model, no_guide, lr=0.01)
        for t in range(4):
            if broken and t == 2:
                with pytest.raises(NonFiniteError):
                    em.step(x_of() * 1e30)
            em.step(x_of())
        return em.result().params["scale"]

    assert torch.equal(stepped(broken=True), stepped(broken=False))


def test_a_validation_that_is_not_finite_is_said_once():
    em = VariationalEM(scale_model, no_guide)
    with pytest.warns(UserWarning, match="val_objective of epoch 0 is -inf") as caught:
        fit = em.fit(x_of(), epochs=3, validation=x_of() * 1e30, progress=False)
    assert len(caught) == 1 and fit.ended == "completed"


def test_compiled_svi_says_what_its_last_step_has_lost():
    said = pytest.warns(UserWarning, match="CompiledSVI.run: after the last step the parameters scale are not finite")
    with pyro.get_param_store().scope(), said:
        svi = CompiledSVI(scale_model, no_guide, pyro.optim.Adam({"lr": 100.0}), Trace_ELBO(), mode="eager")
        losses = svi.run(x_of(), 1)
    assert losses.isfinite().all()
