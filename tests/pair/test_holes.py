"""Whether a masked entry is really absent is found at the first batch that has one, whichever comes first."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.optim import Adam

import ppl_vae
from ppl_vae import ELBO, IWAE, Pair, ReweightedWakeSleep, VariationalEM

N, B = 40, 10
X = torch.randn(N, generator=torch.Generator().manual_seed(0))
HOLES = torch.arange(N) >= N // 2
FULL = torch.ones(N, dtype=torch.bool)
REFUSED = "'z' bears a mask in the model .* but 'x' depends on them"


def pair_of(*, x_is_masked, inside=False):
    def model(x, there):
        with pyro.plate("data", len(x)):
            z = masked("z", dist.Normal(torch.zeros(len(x)), 1.0), there, inside)
            masked("x", dist.Normal(z, 1.0), there if x_is_masked else None, inside, obs=x)

    def guide(x, there):
        a = pyro.param("a", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(a * x, 0.7))

    return model, guide


def masked(name, fn, mask, inside, **kwargs):
    if mask is None or inside:
        return pyro.sample(name, fn if mask is None else fn.mask(mask), **kwargs)
    with poutine.mask(mask=mask):
        return pyro.sample(name, fn, **kwargs)


def full_first(*, reverse):
    there = ~HOLES
    return (X.flip(0), there.flip(0)) if reverse else (X, there)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("compile", [False, True])
def test_the_order_of_the_rows_decides_nothing(reverse, inside, compile):
    engine = VariationalEM(*pair_of(x_is_masked=False, inside=inside), compile=compile)
    with pytest.raises(ValueError, match=REFUSED):
        engine.fit(full_first(reverse=reverse), steps=2, batch_size=B, progress=False)
    assert not engine.pair.initialized


@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_masked_together_is_welcome_in_either_order(reverse):
    x, there = full_first(reverse=reverse)
    fit = ppl_vae.fit(*pair_of(x_is_masked=True), (x, there), steps=3, batch_size=B, progress=False)
    value = fit.log_evidence((x, there)).value
    exact = torch.where(there, dist.Normal(0.0, 2**0.5).log_prob(x), 0.0)
    assert value.sum().item() == pytest.approx(exact.sum().item(), abs=0.5)
    assert (value[~there] == 0).all()


@pytest.mark.parametrize("ask", ["log_evidence", "elbo"])
def test_an_evaluation_of_rows_with_holes_after_a_fit_without_any(ask):
    fit = ppl_vae.fit(*pair_of(x_is_masked=False), (X, FULL), steps=3, batch_size=B, progress=False)
    getattr(fit, ask)((X, FULL))
    with pytest.raises(ValueError, match=REFUSED):
        getattr(fit, ask)((X, ~HOLES))


def test_a_second_fit_brings_the_holes():
    engine = VariationalEM(*pair_of(x_is_masked=False))
    engine.fit((X, FULL), steps=2, batch_size=B, progress=False)
    with pytest.raises(ValueError, match=REFUSED):
        engine.fit((X, ~HOLES), steps=2, batch_size=B, progress=False)


@pytest.mark.parametrize("make", [ELBO, lambda: IWAE(3), lambda: ReweightedWakeSleep(3)], ids=["ELBO", "IWAE", "RWS"])
def test_a_later_call_of_a_pyro_loss_brings_the_holes(make):
    with pyro.get_param_store().scope():
        svi = SVI(*pair_of(x_is_masked=False), Adam({"lr": 0.01}), loss=make())
        svi.step(X, FULL)
        with pytest.raises(ValueError, match=REFUSED):
            svi.step(X, ~HOLES)
        welcome = SVI(*pair_of(x_is_masked=True), Adam({"lr": 0.01}), loss=make())
        welcome.step(X, FULL)
        welcome.step(X, ~HOLES)


def test_looking_for_holes_changes_no_number():
    """Neither the noise of the steps, nor what they are made of: full masks are no masks."""

    def unmasked():
        def model(x, there):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        engine = VariationalEM(model, pair_of(x_is_masked=True)[1], objective=ELBO(analytic_kl=False), compile=False)
        return engine.fit((X, FULL), steps=4, batch_size=B, progress=False).history["objective"].tolist()

    engine = VariationalEM(*pair_of(x_is_masked=True), objective=ELBO(analytic_kl=False), compile=False)
    found = engine.fit((X, FULL), steps=4, batch_size=B, progress=False).history["objective"].tolist()
    assert found == unmasked()


def test_the_look_itself_still_refuses():
    with pytest.raises(ValueError, match=REFUSED):
        Pair(*pair_of(x_is_masked=False)).initialize((X, ~HOLES))
