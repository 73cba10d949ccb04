"""What a certificate says of fits whose truth is known, and which of its lines says it."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import ppl_vae
from ppl_vae.inference.deterministic.fresh import plain_draws
from ppl_vae.inference.deterministic.leaving import chains
from ppl_vae.pair.fixed_noise import FixedNoise

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)


def zero(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def correlated() -> None:
    pyro.sample("z", dist.MultivariateNormal(zero(2), COVARIANCE))


def two_modes() -> None:
    """Four fifths of the mass at 0, one at (30, -10), with other widths."""
    z = pyro.sample("z", dist.Normal(zero(2), 40.0).to_event(1))
    at, sd = torch.tensor([[0.0, 0.0], [30.0, -10.0]], dtype=torch.float64), torch.tensor([[1.0], [0.5]]).double()
    marginal = dist.Normal(zero(2, 1), (sd**2 + 40.0**2).sqrt()).log_prob(at).sum(-1)
    parts = dist.Independent(dist.Normal(z.unsqueeze(-2) - at, sd.expand(2, 2)), 1)
    logits = torch.tensor([0.8, 0.2], dtype=torch.float64).log() - marginal
    pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(logits=logits), parts), obs=zero(2))


def ridge() -> None:
    """Two positive numbers of which the sum is known: in logarithms an L, of which a normal covers the corner."""
    a = pyro.sample("a", dist.HalfCauchy(zero() + 10.0))
    b = pyro.sample("b", dist.HalfCauchy(zero() + 10.0))
    pyro.sample("y", dist.Normal(a + b, 0.05), obs=zero() + 9.8)


def local(x: torch.Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_tensor(0.0), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def certificate(model, guide=AutoMultivariateNormal, data=None, **options):
    return ppl_vae.DeterministicVI(model, guide(model), **options).fit(data).certificate


def line(found, what):
    (only,) = [line for line in found.lines if line.what == what]
    return only


def test_a_normal_posterior_is_certified_and_off_by_nothing():
    found = certificate(correlated)
    assert found.given and "may be taken for the posterior's" in found.sentence
    assert found.numbers["left"] == 0.0
    assert math.isclose(found.numbers["sd_ratio"], 1.0, abs_tol=4.5 * found.numbers["sd_ratio_error"])
    assert found.numbers["mean_off"] < 4.5 * found.numbers["mean_off_error"]
    assert max(found.numbers["mean_off_error"], found.numbers["sd_ratio_error"]) < 0.03
    assert {line.what for line in found.lines} >= {
        "starts",
        "k-hat",
        "posterior means and sds",
        "chains from its draws",
    }


def test_independent_entries_are_said_to_be_too_narrow_by_the_known_factor():
    found = certificate(correlated, AutoNormal)
    assert found.converged and not found.given
    of_moments = line(found, "posterior means and sds")
    assert of_moments.holds is False and "too narrow" in found.sentence
    truth = math.sqrt(1 - 0.6**2)  # of the sd of one given the other, which is what mean field finds
    assert abs(found.numbers["sd_ratio"] - truth) < 4 * found.numbers["sd_ratio_error"]


def test_another_mode_with_a_fifth_of_the_mass_is_no_certificate():
    found = certificate(two_modes)
    assert not found.given and not found.converged
    assert [line.what for line in found.failed] == ["starts"]  # nothing else could tell
    assert math.isclose(found.numbers["elsewhere"], 0.2, abs_tol=0.01)


def test_arms_that_the_guide_hardly_sees_are_no_certificate():
    fit = ppl_vae.DeterministicVI(ridge, AutoMultivariateNormal(ridge)).fit(None)
    found = fit.certificate
    assert found.converged and not found.given
    # By its own draws alone the guide looks better than it is; where all else holds, chains are asked.
    noise = FixedNoise(fit.pair, fit.pair.rows(None).batch())
    log_evidence = found.numbers["log_evidence"]
    own = plain_draws(noise, 4096, seed=0)[1] - log_evidence
    met = chains(noise, log_evidence, seed=0)
    assert float((own > math.log(10)).double().mean()) < 0.05
    assert float((met > math.log(10)).double().mean()) > 0.2


def test_chains_are_not_asked_where_another_line_fails():
    found = certificate(two_modes)
    assert "left" not in found.numbers


def test_a_posterior_of_each_row_is_asked_for_k_hat_alone():
    x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    found = certificate(local, AutoNormal, x)
    assert found.given
    assert "sd_ratio" not in found.numbers and found.numbers["khat_good"] == 1.0
