from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae.diagnostics import active_units, kl_per_dimension
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import MixtureVAE
from ppl_vae.nn import MLP
from ppl_vae.pair import Pair

WEIGHT = torch.tensor([1.5, 0.0, 0.8, 0.0])
PRECISION = 1 + (WEIGHT / 0.6) ** 2


@pytest.mark.parametrize("num_samples", [2, 8, 64])
@pytest.mark.parametrize("max_elements", [50, 1 << 23])
def test_the_variance_of_the_posterior_mean_is_found(exact_pair, x, num_samples, max_elements):
    found = active_units(exact_pair, x, num_samples=num_samples, max_elements=max_elements)
    truth = (x * WEIGHT / 0.36 / PRECISION).double().var(0)
    # The 40 means scatter by their spread and by that of S draws; the sd of such a variance, twice over:
    noise = 2 * (2 / 40) ** 0.5 * (truth + 1 / num_samples)
    assert bool(((found.variance["z"] - truth).abs() < 4.5 * noise).all())


def test_active_and_collapsed_dimensions_are_counted(exact_pair, x):
    found = active_units(exact_pair, x)
    assert found.active["z"].tolist() == [True, False, True, False]
    assert (found.count, found.total) == (2, 4)
    assert repr(found) == "ActiveUnits(2 of 4, threshold 0.01)"
    frame = found.to_dataframe()
    assert frame.index.tolist() == ["z[0]", "z[1]", "z[2]", "z[3]"]
    assert frame["active"].tolist() == [True, False, True, False]


def test_the_scatter_of_the_draws_would_wake_the_dead(exact_pair, x):
    """The negative twin: uncorrected, 1/64 > 0.01 and every collapsed dimension counts as active."""
    means = exact_pair.draw(x, 64).values["z"].double().mean(0)
    assert bool((means.var(0) > 0.009).all())
    assert float(active_units(exact_pair, x).variance["z"][1].abs()) < 0.008


def test_the_threshold_is_the_caller_s(exact_pair, x):
    assert active_units(exact_pair, x, threshold=10.0).count == 0


def test_latents_of_all_data_are_not_counted(global_pair, x):
    assert active_units(global_pair, x).total == 0
    assert kl_per_dimension(global_pair, x) == {}


@pytest.mark.parametrize(("rows", "num_samples"), [(1, 64), (40, 1)])
def test_two_rows_and_two_draws_are_required(exact_pair, x, rows, num_samples):
    with pytest.raises(ValueError, match=f"got {rows} rows and num_samples={num_samples}"):
        active_units(exact_pair, x[:rows], num_samples=num_samples)


@pytest.mark.parametrize("max_elements", [50, 1 << 23])
def test_kl_of_each_dimension_is_exact_for_normals(exact_pair, x, max_elements):
    found = kl_per_dimension(exact_pair, x, num_samples=3, max_elements=max_elements)["z"]
    q = dist.Normal((x * WEIGHT / 0.36 / PRECISION).double(), PRECISION.double() ** -0.5)
    truth = torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0)).mean(0)
    assert torch.allclose(found, truth, atol=1e-5)
    assert found[[1, 3]].tolist() == [0.0, 0.0]


def _tied(x, scale_tril):
    return dist.MultivariateNormal(x[:, :2], scale_tril=scale_tril)


GUIDES = {
    "full covariance": lambda x: _tied(x, torch.tensor([[0.5, 0.0], [0.3, 0.4]])),
    "diagonal": lambda x: dist.Normal(x[:, :2], 0.5).to_event(1),
    "low rank": lambda x: dist.LowRankMultivariateNormal(x[:, :2], torch.tensor([[0.4], [0.3]]), torch.ones(2) * 0.1),
    "independent student": lambda x: dist.StudentT(5.0, x[:, :2], 0.5).to_event(1),
}


def _mixture() -> dist.Distribution:
    parts = dist.Normal(torch.tensor([[-1.0, 0.0], [1.0, 2.0]]), 0.7).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.3, 0.7])), parts)


PRIORS = {"standard": lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1), "mixture": _mixture}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("guide", GUIDES)
def test_kl_of_marginals_by_quadrature(x, guide, prior):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", PRIORS[prior]())
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([*z.shape[:-1], 4]).to_event(1), obs=x)

    def posterior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", GUIDES[guide](x))

    few = x[:10]
    found = kl_per_dimension(Pair(model, posterior), few, num_samples=3000)["z"]
    q, p = GUIDES[guide](few), PRIORS[prior]()
    grid = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    for d in range(2):
        log_q = torch.stack([_marginal_log_prob(q, d, n)(grid) for n in range(10)])
        log_p = _prior_log_prob(prior, d)(grid)
        truth = torch.trapezoid(log_q.exp() * (log_q - log_p), grid).mean()
        assert float(found[d]) == pytest.approx(
            float(truth), abs=0.05 if prior == "mixture" or "student" in guide else 1e-4
        )
    assert p.event_shape == (2,)


def _marginal_log_prob(q, d, n):
    base = getattr(q, "base_dist", q)
    if isinstance(base, dist.StudentT):
        return dist.StudentT(5.0, float(base.loc[n, d]), 0.5).log_prob
    return dist.Normal(float(q.mean[n, d]), float(q.variance[n, d]) ** 0.5).log_prob


def _prior_log_prob(prior, d):
    if prior == "standard":
        return dist.Normal(0.0, 1.0).log_prob
    means = [(-1.0, 1.0), (0.0, 2.0)][d]
    return lambda grid: torch.logaddexp(
        torch.tensor(0.3).log() + dist.Normal(means[0], 0.7).log_prob(grid),
        torch.tensor(0.7).log() + dist.Normal(means[1], 0.7).log_prob(grid),
    )


def test_kl_of_a_chain_averages_over_the_parents(x):
    """z2 hangs on z1: its divergence is averaged over the draws of z1, and is that of log q - log p."""

    def model(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(z1, 0.5).to_event(1))
            pyro.sample("x", dist.Normal(z2.repeat_interleave(2, -1), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(x[:, :2], 0.5).to_event(1))
            pyro.sample("z2", dist.Normal(x[:, 2:], 0.5).to_event(1))

    pair = Pair(model, guide)
    found = kl_per_dimension(pair, x, num_samples=400)
    draws = pair.draw(x, 400)
    gap = (draws.log_q["z2"] - draws.log_p["z2"]).mean(1)
    error = gap.std() / len(gap) ** 0.5
    assert abs(float(found["z2"].sum() - gap.mean())) < 4.5 * float(error)
    assert found["z1"].shape == found["z2"].shape == (2,)


def test_discrete_dimensions(x):
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.full((2, 3), 1 / 3)).to_event(1))
            pyro.sample("x", dist.Normal(c[..., :1].float(), 1.0).expand([*c.shape[:-1], 4]).to_event(1), obs=x)

    def guide(x):
        probs = torch.tensor([[0.8, 0.1, 0.1], [1 / 3, 1 / 3, 1 / 3]])
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(probs).expand([len(x), 2]).to_event(1))

    pair = Pair(model, guide)
    found = kl_per_dimension(pair, x)["c"]
    assert found.tolist() == pytest.approx([float(torch.log(torch.tensor(3.0))) - 0.6390, 0.0], abs=1e-3)
    assert active_units(pair, x).total == 0


def test_unknown_marginals_are_named(x):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Dirichlet(torch.ones(4)))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Dirichlet(torch.ones(4)))

    with pytest.raises(ValueError, match=r"the marginals of site 'z' are not known: .*Dirichlet"):
        kl_per_dimension(Pair(model, guide), x)


def test_a_prior_that_is_a_mixture_has_no_marginals():
    torch.manual_seed(0)
    model = MixtureVAE(MLP(2, 3), latent_dim=2, num_components=2, likelihood="normal")
    pair = Pair(model, AmortizedNormal(MLP(3, 4), latent_dim=2))
    with pytest.raises(ValueError, match="the marginals of site 'z' are not known: its prior is a mixture"):
        kl_per_dimension(pair, torch.zeros(5, 3))
