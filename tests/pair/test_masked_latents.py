"""A latent that the model masks adds neither log p nor log q: under the exact posterior every weight is p(x)."""

from __future__ import annotations

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoGuideList,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)

import ppl_vae
from ppl_vae import ELBO, IWAE, RLOO, VIMCO, ImportanceWeighted, Pair, ReweightedWakeSleep, ScoreFunction, VariationalEM
from ppl_vae._random import isolated_rng
from ppl_vae.evidence import decomposition

N, T, NOISE = 12, 4, 0.6
X = torch.randn(N, T, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LENGTHS = torch.arange(N) % T + 1
STEPS = torch.arange(T) < LENGTHS.unsqueeze(-1)  # (N, T): padding after the end
ROWS = torch.arange(N) % 3 > 0
MARGINAL = dist.Normal(torch.zeros((), dtype=torch.float64), (1 + NOISE**2) ** 0.5)
SD = (1 / (1 + NOISE**-2)) ** 0.5


def posterior(x):
    return dist.Normal(x * SD**2 / NOISE**2, SD)


def prior(x):
    return dist.Normal(x.new_zeros(()), 1.0)


def exact(there):
    """The log p(x) of what there is, by row."""
    return torch.where(there, MARGINAL.log_prob(X), 0.0).sum(-1)


def padded_by(model_mask, guide_mask=None):
    """States in a plate of steps inside the data's, masked by handler (True) or distribution (False) on each side."""

    def site(name, fn, mask, by, **kwargs):
        if by is None:
            return pyro.sample(name, fn, **kwargs)
        if by == "distribution":
            return pyro.sample(name, fn.expand(mask.shape).mask(mask), **kwargs)
        with poutine.mask(mask=mask):
            return pyro.sample(name, fn, **kwargs)

    def model(x, there):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("steps", T, dim=-1):
            z = site("z", prior(x), there, model_mask)
            site("x", dist.Normal(z, NOISE), there, "handler", obs=x)

    def guide(x, there):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("steps", T, dim=-1):
            site("z", posterior(x), there if guide_mask != "other" else ~there, guide_mask and "handler")

    return model, guide


def entries_of_an_event():
    """The mask inside ``to_event``: of some entries of a vector."""

    def model(x, there):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(x).expand(x.shape).mask(there).to_event(1))
            pyro.sample("x", dist.Normal(z, NOISE).mask(there).to_event(1), obs=x)

    def guide(x, there):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x).to_event(1))

    return model, guide


def whole_rows(mask):
    """Rows that are padding, by a mask over the data plate alone."""

    def model(x, there):
        with pyro.plate("data", len(x)), poutine.mask(mask=there[:, 0] if mask is None else mask):
            z = pyro.sample("z", prior(x).expand(x.shape).to_event(1))
            pyro.sample("x", dist.Normal(z, NOISE).to_event(1), obs=x)

    def guide(x, there):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x).to_event(1))

    return model, guide


def auxiliary():
    """A guide as AutoNormal is: an auxiliary, and a point that takes its density back."""

    def guide(x, there):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("steps", T, dim=-1):
            u = pyro.sample("u", posterior(x).expand(x.shape), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u))

    return padded_by("handler")[0], guide


FIRST_ROWS = ROWS.unsqueeze(-1).expand(N, T)
PAIRS = {
    "handler": (padded_by("handler"), STEPS),
    "distribution": (padded_by("distribution"), STEPS),
    "both": (padded_by("handler", "same"), STEPS),
    "the guide otherwise": (padded_by("distribution", "other"), STEPS),
    "the guide alone": (padded_by(None, "same"), torch.ones(N, T, dtype=torch.bool)),
    "inside an event": (entries_of_an_event(), STEPS),
    "rows": (whole_rows(None), FIRST_ROWS),
    "nothing there": (whole_rows(False), torch.zeros(N, T, dtype=torch.bool)),
    "auxiliary": (auxiliary(), STEPS),
}
OBJECTIVES = {
    "ELBO": ELBO,
    "ELBO, sampled": lambda: ELBO(analytic_kl=False, num_particles=3),
    "IWAE": lambda: IWAE(3),
    "IWAE, stl": lambda: IWAE(3, "stl"),
    "IWAE, dreg": lambda: IWAE(3, "dreg"),
    "ScoreFunction": lambda: ScoreFunction(num_particles=2),
    "RLOO": lambda: RLOO(2),
    "VIMCO": lambda: VIMCO(2),
    "ReweightedWakeSleep": lambda: ReweightedWakeSleep(2),
}


def bound(name):
    (model, guide), there = PAIRS[name]
    given = torch.ones_like(there) if name == "the guide alone" else there
    if name == "the guide alone":  # x is observed everywhere, and only q bears a mask
        guide = padded_by(None, "other")[1]
    pair = Pair(model, guide, data_plate="data", dtype=torch.float64)
    rows = pair.rows((X, given))
    pair.initialize(rows)
    return pair, rows, exact(there)


@pytest.mark.parametrize("name", PAIRS)
def test_every_weight_under_the_exact_posterior_is_the_evidence_of_what_is_there(name):
    pair, rows, right = bound(name)
    draws = pair.draw(rows, 3)
    close = {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close(draws.log_weight, right.expand(3, N), **close)
    values = dict(draws.values)
    if name == "auxiliary":
        values["u"] = values["z"]
    torch.testing.assert_close(pair.log_guide(rows, values).total, draws.log_q.total, **close)
    torch.testing.assert_close(ppl_vae.log_evidence(pair, rows, ImportanceWeighted(5)).value, right, **close)
    pieces = decomposition(pair, rows, num_samples=5)
    torch.testing.assert_close(pieces.elbo, right, **close)
    torch.testing.assert_close(pieces.evidence.value, right, **close)
    assert float(pieces.gap.max()) < 1e-10


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)
def test_every_objective_counts_what_is_there(name, make):
    pair, rows, right = bound(name)
    with pair.scope(), isolated_rng(0):
        terms = make().terms(pair, rows.batch())
    if make is ELBO and name == "the guide alone":  # a KL in closed form and a draw of the rest
        assert abs(float(terms.objective) - float(right.mean())) < 1.0
    else:
        torch.testing.assert_close(terms.objective, right.mean(), rtol=0, atol=1e-10)
    torch.testing.assert_close(terms.elbo, terms.objective, rtol=0, atol=1e-10)


@pytest.mark.parametrize("gradient", ["iwae", "stl", "dreg"])
def test_masked_entries_of_a_guide_get_no_gradient(gradient):
    model, _ = padded_by("handler")

    def guide(x, there):
        scale = pyro.param("scale", torch.full((N, T), 0.5, dtype=torch.float64))
        with pyro.plate("data", len(x), dim=-2), pyro.plate("steps", T, dim=-1):
            pyro.sample("z", dist.Normal(x, scale))

    pair = Pair(model, guide, data_plate="data", dtype=torch.float64)
    rows = pair.rows((X, STEPS))
    pair.initialize(rows)
    leaf = pair.parameters_by_name()["scale"]
    with pair.scope(), isolated_rng(0):
        IWAE(3, gradient).gradients(pair, rows.batch(), {"phi": [leaf], "theta": [], "shared": [], "psi": []})
    assert bool((leaf.grad[~STEPS] == 0).all()) and bool((leaf.grad[STEPS] != 0).all())


def test_autonormal_reaches_the_evidence_and_not_more():
    """Its entropy at masked steps was raised without end."""
    model, _ = padded_by("handler")
    fit = ppl_vae.fit(
        model, AutoNormal(model), (X, STEPS), steps=250, lr=0.05, data_plate="data", dtype=torch.float64, progress=False
    )
    right = float(exact(STEPS).sum())
    assert right - 4.0 < float(fit.elbo((X, STEPS), num_samples=200).sum()) < right + 0.2
    assert abs(float(fit.log_evidence((X, STEPS)).value.sum()) - right) < 1.0
    assert float(fit.params["guide.scales.z"][~STEPS].max()) < 1.0


JOINT = {
    "diagonal": AutoDiagonalNormal,
    "full": AutoMultivariateNormal,
    "low rank": AutoLowRankMultivariateNormal,
    "flow": lambda model: AutoIAFNormal(model, hidden_dim=[N * T]),
    "Laplace": AutoLaplaceApproximation,
}


@pytest.mark.parametrize("make", JOINT.values(), ids=JOINT)
def test_a_joint_autoguide_is_refused_by_name(make):
    model, _ = padded_by("handler")
    pair = Pair(model, make(model), data_plate="data", dtype=torch.float64)
    with pytest.raises(ValueError, match=r"'z' bears a mask in the model .* at one site '.*latent'"):
        pair.initialize((X, STEPS))


def test_a_guide_that_draws_an_event_as_a_whole_cannot_mask_its_entries():
    model, _ = entries_of_an_event()

    def guide(x, there):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(x, torch.eye(T, dtype=x.dtype)))

    with pytest.raises(ValueError, match=r"'z' bears a mask on entries of its event.*MultivariateNormal"):
        Pair(model, guide, dtype=torch.float64).initialize((X, STEPS))
    with pytest.raises(ValueError, match=r"'z' bears a mask in the model.*at one site 'z_unconstrained'"):
        Pair(model, AutoNormal(model), dtype=torch.float64).initialize((X, STEPS))


def test_of_a_list_of_autoguides_one_may_be_joint():
    def model(x, there):
        m = pyro.sample("m", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)), poutine.mask(mask=there[:, 0]):
            z = pyro.sample("z", prior(x))
            pyro.sample("x", dist.Normal((z + m[0]).unsqueeze(-1).expand(x.shape), NOISE).to_event(1), obs=x)

    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, expose=["z"])))
    guide.append(AutoMultivariateNormal(poutine.block(model, expose=["m"])))
    pair = Pair(model, guide, dtype=torch.float64).initialize((X, STEPS))
    assert set(pair.sites.feeds.values()) == {("z",), ("m",)}


@pytest.mark.parametrize("mask", [False, ROWS], ids=["all", "rows"])
def test_what_depends_on_a_masked_entry_needs_a_density_for_it(mask):
    """Without one there is no log p(x): the most likely z would pass for it."""

    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=mask):
                z = pyro.sample("z", prior(x))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(x.shape), NOISE).to_event(1), obs=x)

    with pytest.raises(ValueError, match="'z' bears a mask in the model .* but 'x' depends on them"):
        Pair(model, AutoNormal(model), dtype=torch.float64).initialize(X)


def test_a_global_latent_may_be_masked():
    def model(x, use):
        with poutine.mask(mask=use):
            m = pyro.sample("m", prior(x))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.where(use, m, 0.0), 1.0), obs=x)

    def guide(x, use):
        pyro.sample("m", dist.Normal(x.sum() / (len(x) + 1), (1 / (len(x) + 1)) ** 0.5))

    x = X[:, 0]
    cov = torch.eye(N, dtype=torch.float64)
    for use, right in (
        (True, dist.MultivariateNormal(torch.zeros(N).double(), cov + 1.0).log_prob(x)),
        (False, dist.Normal(0.0, 1.0).log_prob(x).sum()),
    ):
        pair = Pair(lambda x, u=use: model(x, torch.tensor(u)), lambda x: guide(x, None), dtype=torch.float64)
        torch.testing.assert_close(ppl_vae.log_evidence(pair, x, ImportanceWeighted(4)).value, right, rtol=0, atol=1e-9)


def gaps(x, seen):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", prior(x))
        pyro.sample("x", dist.Normal(z, NOISE), obs=x, obs_mask=seen)


def test_obs_mask_with_a_guide_of_its_own():
    """The latent ``x_unobserved`` is masked where x was seen; the exact posterior of both weighs as what was seen."""

    def guide(x, seen):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.where(seen, posterior(x).mean, 0.0), torch.where(seen, SD, 1.0)))
            pyro.sample("x_unobserved", dist.Normal(z, NOISE))

    x = X[:, 0]
    pair = Pair(gaps, guide, dtype=torch.float64)
    found = ppl_vae.log_evidence(pair, (x, ROWS), ImportanceWeighted(3)).value
    right = torch.where(ROWS, MARGINAL.log_prob(x), 0.0)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-10)


def test_obs_mask_with_an_autoguide_is_refused_with_what_to_do():
    x = X[:, 0]
    with pytest.raises(ValueError, match=r"'x_unobserved' stands for .*obs_mask= .*with poutine.mask"):
        Pair(gaps, AutoNormal(gaps), dtype=torch.float64).initialize((x, ROWS))

    def instead(x, seen):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(x))
            with poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal(z, NOISE), obs=x)

    fit = ppl_vae.fit(instead, AutoNormal(instead), (x, ROWS), steps=400, lr=0.05, dtype=torch.float64, progress=False)
    right = torch.where(ROWS, MARGINAL.log_prob(x), 0.0).sum()
    assert abs(float(fit.log_evidence((x, ROWS)).value.sum()) - float(right)) < 0.3

    def used(x, seen):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(x))
            whole = pyro.sample("x", dist.Normal(z, NOISE), obs=x, obs_mask=seen)
            pyro.sample("y", dist.Normal(whole, 1.0), obs=x)

    assert "x_unobserved" in Pair(used, AutoNormal(used), dtype=torch.float64).initialize((x, ROWS)).latents


def test_pyros_own_loss_warns_once_and_only_where_it_is_wrong():
    model, _ = padded_by("handler")

    def warned(guide):
        engine = VariationalEM(model, guide, objective=Trace_ELBO(), data_plate="data", dtype=torch.float64)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            engine.fit((X, STEPS), steps=3, progress=False)
        return [str(w.message) for w in seen if "counts log q" in str(w.message)]

    def masked(x, there):
        loc = pyro.param("loc", torch.zeros((), dtype=x.dtype))
        with pyro.plate("data", len(x), dim=-2), pyro.plate("steps", T, dim=-1), poutine.mask(mask=there):
            pyro.sample("z", dist.Normal(loc * x, SD))

    (message,) = warned(AutoNormal(model))
    assert "Trace_ELBO" in message and "'z_unconstrained'" in message
    assert not warned(masked)


@pytest.mark.slow
def test_a_compiled_step_counts_the_same():
    model, _ = padded_by("handler")

    def losses(compile):
        engine = VariationalEM(
            model, AutoNormal(model), lr=0.01, data_plate="data", dtype=torch.float64, compile=compile
        )
        fit = engine.fit((X, STEPS), epochs=6, progress=False)
        return torch.tensor(fit.history["objective"].to_numpy())

    torch.testing.assert_close(losses(True), losses(False), rtol=1e-12, atol=1e-12)
