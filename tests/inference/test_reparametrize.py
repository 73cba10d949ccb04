"""reparametrize="auto": the form that the ELBO prefers, found without being told."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.infer.reparam import LocScaleReparam
from schools import EFFECT as Y
from schools import ERROR as SIGMA
from schools import LOG_Z
from schools import centred as schools

import ppl_vae
from ppl_vae import DeterministicVI, Pair
from ppl_vae.guides import NonCentred
from ppl_vae.inference.ladder.reparametrize import candidates

DOUBLE = torch.float64


def test_centred_schools_become_non_centred():
    fit = ppl_vae.fit(schools, AutoMultivariateNormal, (Y, SIGMA), reparametrize="auto")
    centred = DeterministicVI(schools, AutoMultivariateNormal(schools)).fit((Y, SIGMA))
    assert isinstance(fit.guide, NonCentred)
    assert set(fit.draw((Y, SIGMA), 3).values) == {"mu", "tau", "theta"}
    assert LOG_Z - fit.certificate.numbers["elbo"] <= 0.28
    assert LOG_Z - centred.certificate.numbers["elbo"] > 1.0
    assert "reparametrize='auto': theta is non-centred (ELBO -31.5" in repr(fit.certificate)


def test_the_ladder_climbs_in_the_form_that_was_found():
    fit = ppl_vae.fit(schools, (Y, SIGMA), reparametrize="auto", rungs=("mean field",))
    assert fit.config["guide"] == "NonCentred(theta; AutoNormal)"
    assert LOG_Z - fit.certificate.numbers["elbo"] < 0.4
    assert any(text.startswith("reparametrize='auto': theta") for text in fit.certificate.remarks)


def test_where_data_say_much_the_model_stays_as_it_is_written():
    """With errors of a tenth each effect is known by itself, and the centred form is the normal one."""
    fit = ppl_vae.fit(schools, AutoMultivariateNormal, (Y, 0.1 * torch.ones_like(SIGMA)), reparametrize="auto")
    assert isinstance(fit.guide, AutoMultivariateNormal)
    assert "theta is as it is written" in fit.certificate.remarks[-1]


def test_a_model_without_a_hierarchy():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    fit = ppl_vae.fit(model, AutoNormal, Y, reparametrize="auto")
    assert fit.certificate.remarks[-1:] == (
        "reparametrize='auto': no latent has a location or a scale that hangs on other latents.",
    )


def test_candidates_hang_on_other_latents_and_on_nothing_else():
    def model(y):
        slope = pyro.param("slope", torch.tensor(2.0))
        top = pyro.sample("top", dist.Normal(slope, 1.0))
        spread = pyro.sample("spread", dist.LogNormal(top, 1.0))
        pyro.sample("wide", dist.StudentT(3.0, 0.0, spread))
        below = pyro.sample("below", dist.Normal(top, 1.0).expand([3]).to_event(1))
        with pyro.plate("data", len(y)):
            own = pyro.sample("own", dist.Normal(y, 1.0))
            pyro.sample("y", dist.Normal(own + below.sum(-1), 1.0), obs=y)

    pair = Pair(model, AutoNormal(model))
    pair.initialize(Y)
    assert candidates(pair, Y) == ["wide", "below"]


def test_a_dictionary_says_how_far():
    sites = {"theta": LocScaleReparam(0.2)}
    fit = ppl_vae.fit(schools, AutoNormal, (Y, SIGMA), reparametrize=sites)
    assert fit.guide.sites == {"theta": 0.2}
    plain = ppl_vae.fit(schools, AutoNormal, (Y, SIGMA))
    assert isinstance(plain.guide, AutoNormal)
    assert fit.certificate.numbers["elbo"] > plain.certificate.numbers["elbo"] + 0.1


def test_parameters_of_the_model_are_those_of_the_form_that_was_kept():
    """The last form that is tried is worse, and has moved them."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mu = torch.nn.Parameter(torch.tensor(1.0))

        def forward(self, y):
            tau = pyro.sample("tau", dist.HalfCauchy(5.0))
            with pyro.plate("school", len(y)):
                theta = pyro.sample("theta", dist.Normal(self.mu, tau))
                pyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    model, alone = Model(), Model()
    fit = ppl_vae.fit(model, AutoNormal, Y, reparametrize="auto")
    assert isinstance(fit.guide, AutoNormal)
    DeterministicVI(alone, AutoNormal(alone)).fit(Y)
    assert float(model.mu.detach()) == pytest.approx(float(alone.mu.detach()), abs=1e-6)


def test_it_goes_with_mini_batches_where_the_form_is_given():
    """A class of guides, and options of VariationalEM."""
    fit = ppl_vae.fit(schools, AutoNormal, (Y, SIGMA), reparametrize=["theta"], steps=3, progress=False)
    assert fit.steps == 3
    assert isinstance(fit.guide, NonCentred)


REFUSED = {
    "a guide that is made": (
        lambda: ppl_vae.fit(schools, AutoNormal(schools), (Y, SIGMA), reparametrize="auto"),
        "needs a guide that is not made yet, got AutoNormal; give its class",
    ),
    "an unknown word": (
        lambda: ppl_vae.fit(schools, (Y, SIGMA), reparametrize="theta"),
        "reparametrize must be 'auto', 'none', a list of names of latents or a dictionary, got 'theta'",
    ),
    "a start": (
        lambda: ppl_vae.fit(schools, (Y, SIGMA), reparametrize="auto", start={"mu": 0.0}),
        "start= is of latents as the model has them",
    ),
    "a number of steps": (
        lambda: ppl_vae.fit(schools, AutoNormal, (Y, SIGMA), reparametrize="auto", steps=3),
        "reparametrize='auto' fits guides until they are done, and steps is of VariationalEM",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        call()
