"""What the guide has and the model has not: named in a warning, and no part of a bound unless a point takes it back."""

from __future__ import annotations

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import ppl_vae
from ppl_vae import ELBO, IWAE, RLOO, ImportanceWeighted, Pair, ScoreFunction, VariationalEM
from ppl_vae._random import isolated_rng
from ppl_vae.evidence import decomposition, elbo

N = 30
X = torch.randn(N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
EXACT = dist.Normal(torch.zeros((), dtype=torch.float64), 2**0.5).log_prob(X)
SD = 0.5**0.5


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def apart(x, infer=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, SD))
        pyro.sample("more", dist.Normal(x.new_zeros(()), 5.0), infer=infer or {})


def shared(x):
    pyro.sample("more", dist.Normal(x.new_zeros(()), 5.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, SD))


def of_observed_name(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, SD))
        pyro.sample("x", dist.Normal(x.new_zeros(()), 5.0))


def observing(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, SD))
        pyro.sample("more", dist.Bernoulli(0.5 * torch.ones_like(x)), obs=torch.ones_like(x))


def discrete(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, SD))
        pyro.sample("more", dist.Categorical(torch.ones(5, dtype=x.dtype)))


GUIDES = {fn.__name__: fn for fn in (apart, shared, of_observed_name, observing, discrete)}


def named(guide):
    return "x" if guide is of_observed_name else "more"


def bound(guide):
    pair = Pair(model, guide, dtype=torch.float64)
    with pytest.warns(UserWarning, match=f"'{named(guide)}', which is no latent of the model; it is left out of log q"):
        pair.initialize(X)
    return pair


@pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
def test_its_entropy_is_no_part_of_any_number(guide):
    pair = bound(guide)
    right = EXACT.sum() if guide is shared else EXACT  # what all data share ties their weights together
    torch.testing.assert_close(elbo(pair, X), right, rtol=0, atol=1e-10)
    torch.testing.assert_close(ppl_vae.log_evidence(pair, X).value, right, rtol=0, atol=1e-10)
    torch.testing.assert_close(decomposition(pair, X, num_samples=3).elbo, right, rtol=0, atol=1e-10)
    smooth = (ELBO(analytic_kl=False), IWAE(2))
    for objective in (ELBO(analytic_kl=False), ScoreFunction(), RLOO(2)) if guide is discrete else smooth:
        with pair.scope(), isolated_rng(0):
            terms = objective.terms(pair, pair.rows(X).batch())
        torch.testing.assert_close(terms.objective, EXACT.mean(), rtol=0, atol=1e-10)
        torch.testing.assert_close(terms.elbo, EXACT.mean(), rtol=0, atol=1e-10)


def test_a_mark_silences_the_warning_and_changes_no_number():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair = Pair(model, lambda x: apart(x, {"is_auxiliary": True}), dtype=torch.float64).initialize(X)
    torch.testing.assert_close(elbo(pair, X), EXACT, rtol=0, atol=1e-10)


def test_latents_that_depend_on_it_are_weighed_given_it():
    """q(z | a) is a guide for each a: the weights stay unbiased, and the ELBO below."""

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("more", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("z", dist.Normal(x / 2 + 0.3 * a, 1.2 * SD))

    pair = bound(guide)
    below = EXACT - elbo(pair, X, num_samples=4000)
    right = 0.09 + (1.44 - 1 - torch.tensor(1.44).log()) / 2  # KL(q(z | a) || p(z | x)), the mean over a
    assert (below - right).abs().max() < 0.05
    found = ppl_vae.log_evidence(pair, X, ImportanceWeighted(4000))
    assert ((found.value - EXACT).abs() < 5 * found.standard_error).all()


@pytest.mark.parametrize("make", [lambda: ELBO(num_particles=2000), lambda: RLOO(2000)], ids=["ELBO", "RLOO"])
def test_a_discrete_one_still_learns(make):
    """The gradient in q(a) is that of sum over a of q(a) L(a), though its log q is in no bound."""

    def guide(x):
        logit = pyro.param("logit", torch.zeros((), dtype=x.dtype))
        with pyro.plate("data", len(x)):
            a = pyro.sample("more", dist.Bernoulli(logits=logit.expand(x.shape)))
            pyro.sample("z", dist.Normal(x / 2 + a, SD))

    pair = bound(guide)
    leaf = pair.parameters_by_name()["logit"]
    with pair.scope(), isolated_rng(0):
        make().gradients(pair, pair.rows(X).batch(), {"phi": [leaf], "theta": [], "shared": [], "psi": []})
    assert abs(float(leaf.grad) - 0.25) < 0.03  # -dL/dlogit = q(1 - q) (L(0) - L(1)), where KL(1) - KL(0) = 1


def test_a_point_that_follows_from_it_makes_it_an_auxiliary():
    def guide(x, infer=None):
        with pyro.plate("data", len(x)):
            u = pyro.sample("more", dist.Normal(x / 2, SD), infer=infer or {})
            pyro.sample("z", dist.Delta(u))

    pair = Pair(model, guide, dtype=torch.float64)
    with pytest.warns(UserWarning, match="'more', which is no latent of the model; it is counted as auxiliaries"):
        pair.initialize(X)
    assert pair.sites.feeds == {"more": ("z",)}
    torch.testing.assert_close(ppl_vae.log_evidence(pair, X).value, EXACT, rtol=0, atol=1e-10)


def test_what_autoguides_draw_is_known_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair = Pair(model, AutoNormal(model), dtype=torch.float64).initialize(X)
    assert pair.sites.feeds == {"z_unconstrained": ("z",)} and not pair.sites.remasked


def test_a_factor_of_a_guide_counts():
    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x / 2, 2 * SD))
            log_q, wide = (dist.Normal(x / 2, sd).log_prob(z) for sd in (SD, 2 * SD))
            pyro.factor("as if", log_q - wide, has_rsample=True)

    pair = Pair(model, guide, dtype=torch.float64).initialize(X)
    torch.testing.assert_close(elbo(pair, X), EXACT, rtol=0, atol=1e-10)


def forgotten(x):
    pyro.param("a", torch.zeros(()))


def in_no_plate(x):
    pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))


def as_an_event(x):
    pyro.sample("z", dist.Normal(x / 2, SD).to_event(1))


def in_another_plate_too(x):
    with pyro.plate("data", len(x)), pyro.plate("more", 3, dim=-2):
        pyro.sample("z", dist.Normal(x / 2, SD))


@pytest.mark.parametrize("guide", [forgotten, in_no_plate, as_an_event, in_another_plate_too])
def test_a_guide_that_does_not_fit_is_refused_with_the_name(guide):
    with pytest.raises(ValueError, match="'z'"):
        ppl_vae.fit(model, guide, X, steps=2, dtype=torch.float64, progress=False)
    with pytest.raises(ValueError, match="'z'"):
        ppl_vae.log_evidence(Pair(model, guide, dtype=torch.float64), X)


def test_within_pyros_own_svi_it_is_left_out_too():
    """Our objective as a loss, by the caller's store."""
    with pyro.get_param_store().scope(), pytest.warns(UserWarning, match="'more'"):
        loss = ELBO(analytic_kl=False, num_particles=50).loss(model, apart, X)
    assert abs(loss + float(EXACT.sum())) < 1e-6


# data that nobody observes


def regression(x, y=None):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(w * x, 1.0), obs=y)


def test_a_model_that_observes_nothing_of_the_data_is_named():
    said = (
        r"^Pair: the model observes nothing of the data \(its sites are 'w', 'y', all of them latent\); 'y' was not "
        "given, and is a latent here"
    )
    with pytest.warns(UserWarning, match=said) as record:
        VariationalEM(regression, AutoNormal(regression)).fit({"x": X.float()}, steps=3, progress=False)
    assert len(record) == 1


@pytest.mark.filterwarnings("error")
def test_a_model_that_observes_something_or_has_no_data_is_not_named():
    def by_factor(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.factor("y", -((x - w) ** 2))

    def prior():
        pyro.sample("w", dist.Normal(0.0, 1.0))

    Pair(regression, AutoNormal(regression)).initialize({"x": X.float(), "y": X.float()})
    Pair(by_factor, AutoNormal(by_factor)).initialize(X.float())
    Pair(prior, AutoNormal(prior)).initialize(None)
