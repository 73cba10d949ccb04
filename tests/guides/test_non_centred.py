"""Non-centred guides: their draws have the model's names, and the density that the change of variables gives."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.infer.reparam import LocScaleReparam, TransformReparam
from schools import DATA, LOG_Z
from schools import EFFECT as Y
from schools import ERROR as SIGMA
from schools import centred as schools

import ppl_vae
from ppl_vae import DeterministicVI, Pair
from ppl_vae.guides import NonCentred
from ppl_vae.guides.non_centred import non_centred
from ppl_vae.pair.fixed_noise import FixedNoise

DOUBLE = torch.float64


def as_event(y, sigma):
    """The same with one vector of effects, and heavier tails."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    spread = torch.ones(8, dtype=DOUBLE) * tau.unsqueeze(-1)
    theta = pyro.sample("theta", dist.StudentT(4.0, mu.unsqueeze(-1), spread).to_event(1))
    with pyro.plate("school", len(y)):
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def fixed(model, guide) -> FixedNoise:
    pair = Pair(model, guide, dtype=DOUBLE)
    rows = pair.rows(DATA)
    pair.initialize(rows)
    return FixedNoise(pair, rows.batch())


MODELS = {"plate": schools, "event": as_event}


@pytest.mark.parametrize("centred", [0.0, 0.3])
@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_its_draws_weigh_what_they_weigh_in_the_non_centred_model(model, guide, centred):
    """log p - log q is free of coordinates, so both pairs agree at the same noise; log p alone does not."""
    ours = NonCentred(model, {"theta": LocScaleReparam(centred)}, guide)
    noise = fixed(model, ours)
    other = fixed(non_centred(model, {"theta": centred}), ours.guide)
    draws = torch.randn(20, noise.noise_dim, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    found = []
    for each in (noise, other):
        with each.scope(), torch.no_grad():
            placed = each.at_noise(draws)
        found.append(placed.log_p - placed.log_q)
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


def test_its_values_and_densities_are_of_the_model_as_it_is_written():
    guide = NonCentred(schools, ["theta"], AutoNormal)
    fit = DeterministicVI(schools, guide).fit(DATA)
    draws = fit.draw(DATA, 50, seed=1)
    assert set(draws.values) == {"mu", "tau", "theta"} == set(fit.latents)
    mu, tau, theta = (draws.values[name].double() for name in ("mu", "tau", "theta"))
    exact = (
        dist.Normal(0.0, 5.0).log_prob(mu)
        + dist.HalfCauchy(5.0).log_prob(tau)
        + dist.Normal(mu.unsqueeze(-1), tau.unsqueeze(-1)).log_prob(theta).sum(-1)
        + dist.Normal(theta, SIGMA).log_prob(Y).sum(-1)
    )
    torch.testing.assert_close(draws.log_p.total, exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fit.log_joint(DATA, draws.values).total, draws.log_p.total, rtol=1e-5, atol=1e-5)
    locs, scales = (
        {name: fit.params[f"guide.guide.{what}.{name}"] for name in ("mu", "tau", "theta_decentered")}
        for what in ("locs", "scales")
    )
    eta = (theta - mu.unsqueeze(-1)) / tau.unsqueeze(-1)
    log_q = (
        dist.Normal(locs["mu"], scales["mu"]).log_prob(mu)
        + dist.Normal(locs["tau"], scales["tau"]).log_prob(tau.log())
        - tau.log()
        + dist.Normal(locs["theta_decentered"], scales["theta_decentered"]).log_prob(eta).sum(-1)
        - 8 * tau.log()
    )
    torch.testing.assert_close(draws.log_q.total, log_q, rtol=1e-5, atol=1e-5)
    posterior = fit.to_inference_data(DATA, num_samples=20).posterior
    assert set(posterior.data_vars) == {"mu", "tau", "theta"}


def test_evidence_from_it_is_exact():
    fit = ppl_vae.fit(schools, AutoMultivariateNormal, DATA, reparametrize=["theta"])
    evidence = ppl_vae.log_evidence(fit, DATA, ppl_vae.ImportanceWeighted(4000))
    error = float(evidence.standard_error)
    assert error < 0.05
    assert abs(float(evidence.value) - LOG_Z) < 4.5 * error
    assert LOG_Z - fit.certificate.numbers["elbo"] < 0.28


def test_a_centred_site_is_left_as_it_is():
    """c = 1 is the model as it is written: the same optimum, which is a nat worse."""
    ours = DeterministicVI(schools, NonCentred(schools, {"theta": LocScaleReparam(1.0)}, AutoNormal)).fit(DATA)
    plain = DeterministicVI(schools, AutoNormal(schools)).fit(DATA)
    assert ours.certificate.numbers["elbo"] == pytest.approx(plain.certificate.numbers["elbo"], abs=0.05)


def test_a_location_that_is_a_parameter():
    """θ of the model goes into the guide's draws too; the fit is that of the non-centred model."""

    def model(y, sigma):
        mu = pyro.param("mu", torch.tensor(1.0, dtype=DOUBLE))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    ours = DeterministicVI(model, NonCentred(model, ["theta"], AutoNormal)).fit(DATA)
    written = non_centred(model, {"theta": 0.0})
    theirs = DeterministicVI(written, AutoNormal(written)).fit(DATA)
    assert float(ours.params["mu"]) == pytest.approx(float(theirs.params["mu"]), abs=0.05)
    assert ours.certificate.numbers["elbo"] == pytest.approx(theirs.certificate.numbers["elbo"], abs=0.02)


def test_it_survives_a_run_folder(tmp_path):
    fit = ppl_vae.fit(schools, AutoNormal, DATA, reparametrize=["theta"])
    assert fit.config["guide"] == "NonCentred(theta; AutoNormal)"
    fit.save(tmp_path)
    loaded = ppl_vae.load(tmp_path, schools, NonCentred(schools, ["theta"], AutoNormal), data=DATA)
    assert torch.equal(loaded.draw(DATA, 5).values["theta"], fit.draw(DATA, 5).values["theta"])


REFUSED = {
    "no site": (lambda: NonCentred(schools, []), ValueError, "names of sites are required"),
    "a name alone": (lambda: NonCentred(schools, "theta"), ValueError, "names of sites are required, got 'theta'"),
    "another form": (
        lambda: NonCentred(schools, {"theta": TransformReparam()}),
        TypeError,
        "a LocScaleReparam with a number for centered is required for 'theta', got TransformReparam",
    ),
    "a form to be learned": (
        lambda: NonCentred(schools, {"theta": LocScaleReparam()}),
        TypeError,
        "got LocScaleReparam whose centered is learned",
    ),
    "a positive latent": (
        lambda: NonCentred(schools, ["tau"])(*DATA),
        ValueError,
        "a location-scale prior on all real numbers is required of 'tau', got HalfCauchy",
    ),
    "no such site": (lambda: NonCentred(schools, ["theta", "eta"])(*DATA), ValueError, r"it draws none of \['eta'\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        call()
