"""Draws of a widened guide, and their densities at every width, held against densities written by hand."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoStructured,
    init_to_mean,
)
from torch import Tensor

from ppl_vae.evidence import ImportanceWeighted, decomposition, log_evidence
from ppl_vae.flows import Abs, Chain, ElementwiseAffine, Inverse
from ppl_vae.guides import AmortizedFlow, FlowGuide, SampledCategorical
from ppl_vae.models import DiscreteVAE, FlowModel
from ppl_vae.nn import MLP
from ppl_vae.pair import Pair
from ppl_vae.pair.widening import draw_wider

WIDTHS = (1.0, 1.5, 2.0)
X = torch.linspace(-1, 1, 6, dtype=torch.float64)


def normal(loc, scale):
    return dist.Normal(torch.as_tensor(loc, dtype=torch.float64), scale)


# -- pairs, and log q of all latents at a width, by hand ---------------------------------------------------------


def chain_model(x):
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", normal(0.0, 1.0))
        z2 = pyro.sample("z2", normal(z1, 1.0))
        pyro.sample("x", normal(z2, 0.5), obs=x)


def chain_guide(x):
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", normal(0.3 * x, 0.7))
        pyro.sample("z2", normal(0.6 * x + 0.4 * z1, 0.4))


def chain_log_q(values, x, width):
    z1, z2 = values["z1"], values["z2"]
    return normal(0.3 * x, 0.7 * width).log_prob(z1) + normal(0.6 * x + 0.4 * z1, 0.4 * width).log_prob(z2)


MEANS = torch.tensor([-1.0, 1.0], dtype=torch.float64)


def mixed_model(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(torch.ones(2, dtype=torch.float64)))
        z = pyro.sample("z", normal(MEANS[c], 0.5))
        pyro.sample("x", normal(z, 0.5), obs=x)


def mixed_guide(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(logits=x.unsqueeze(-1) * MEANS))
        pyro.sample("z", normal(0.5 * x + 0.5 * MEANS[c], 0.3))


def mixed_log_q(values, x, width):
    c, z = values["c"], values["z"]
    return dist.Categorical(logits=x.unsqueeze(-1) * MEANS).log_prob(c) + normal(
        0.5 * x + 0.5 * MEANS[c], 0.3 * width
    ).log_prob(z)


def scale_model(x):
    with pyro.plate("data", len(x)):
        s = pyro.sample("s", dist.LogNormal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("x", normal(0.0, s.sum(-1)), obs=x)


def scale_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("s", dist.LogNormal((0.1 * x).unsqueeze(-1).expand(-1, 2), 0.4).to_event(1))


def scale_log_q(values, x, width):
    log_s = values["s"].log()
    return (normal(0.1 * x.unsqueeze(-1), 0.4 * width).log_prob(log_s) - log_s).sum(-1)


def one_by_one_guide(x):
    """Indexes from the left, so that draws cannot be made at once."""
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", normal(0.3 * x, 0.7))
        pyro.sample("z2", normal(0.6 * x + 0.4 * torch.stack([z1[n] for n in range(len(x))]), 0.4))


PAIRS = {
    "dependent latents": (chain_model, chain_guide, chain_log_q),
    "a code and a number": (mixed_model, mixed_guide, mixed_log_q),
    "a positive vector": (scale_model, scale_guide, scale_log_q),
    "draws one by one": (chain_model, one_by_one_guide, chain_log_q),
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAIRS)
def test_densities_at_every_width(name, width):
    model, guide, log_q = PAIRS[name]
    pair = Pair(model, guide, dtype=torch.float64)
    found = draw_wider(pair, X, 5, width, WIDTHS, seed=3)
    assert found.log_q.shape == (3, 5, 6)
    for place, at in enumerate(WIDTHS):
        torch.testing.assert_close(found.log_q[place], log_q(found.draws.values, X, at), rtol=1e-9, atol=1e-9)
    truth = pair.log_joint(X, found.draws.values).total
    torch.testing.assert_close(found.draws.log_p.total, truth, rtol=1e-9, atol=1e-9)
    assert torch.equal(found.draws.log_q.total, found.log_q[0])


def test_every_conditional_is_drawn_wider():
    pair = Pair(chain_model, chain_guide, dtype=torch.float64)
    values = draw_wider(pair, X, 4000, 1.5, WIDTHS).draws.values
    for residual, spread in ((values["z1"] - 0.3 * X, 0.7), (values["z2"] - 0.6 * X - 0.4 * values["z1"], 0.4)):
        assert float(residual.std()) == pytest.approx(1.5 * spread, rel=4.5 / (2 * residual.numel()) ** 0.5)


def test_draws_of_the_guide_itself_are_those_of_draw():
    pair = Pair(chain_model, chain_guide, dtype=torch.float64)
    one, other = pair.draw(X, 7, seed=5), draw_wider(pair, X, 7, 1.0, WIDTHS, seed=5).draws
    assert all(torch.equal(one.values[name], other.values[name]) for name in ("z1", "z2"))
    assert torch.equal(one.log_weight, other.log_weight)


def test_the_caller_s_handlers_and_generators_are_left_alone():
    pair = Pair(chain_model, chain_guide, dtype=torch.float64).initialize(X)
    before = pyro.util.get_rng_state()
    draw_wider(pair, X, 3, 1.5, WIDTHS)
    assert torch.equal(before["torch"], pyro.util.get_rng_state()["torch"])
    assert not pyro.poutine.runtime._PYRO_STACK


# -- which sites -------------------------------------------------------------------------------------------------------


def log_linear(x):
    """A positive scale and a mean outside the plate; in logarithms all is normal, so log p(x) is known."""
    s = pyro.sample("s", dist.LogNormal(x.new_zeros(()), 0.5))
    m = pyro.sample("m", dist.Normal(x.new_zeros(2), 0.5).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(s.log() + m.sum(-1), 1.0), obs=x)


def log_linear_truth(x: Tensor) -> float:
    covariance = torch.eye(len(x), dtype=x.dtype) + 3 * 0.5**2
    return float(dist.MultivariateNormal(torch.zeros_like(x), covariance).log_prob(x))


AUTOGUIDES = {
    "AutoNormal": (AutoNormal, ["m_unconstrained", "s_unconstrained"]),
    "AutoDiagonalNormal": (AutoDiagonalNormal, ["_AutoDiagonalNormal_latent"]),
    "AutoMultivariateNormal": (AutoMultivariateNormal, ["_AutoMultivariateNormal_latent"]),
    "AutoLowRank": (AutoLowRankMultivariateNormal, ["_AutoLowRankMultivariateNormal_latent"]),
    "AutoIAFNormal": (AutoIAFNormal, ["_AutoIAFNormal_latent"]),
    "AutoStructured": (AutoStructured, ["m_aux", "s_aux"]),
}


@pytest.mark.parametrize("name", AUTOGUIDES)
def test_autoguides_are_widened_at_their_noise(name):
    make, sites = AUTOGUIDES[name]
    options = {} if name == "AutoIAFNormal" else {"init_loc_fn": init_to_mean, "init_scale": 0.35}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pair = Pair(log_linear, make(log_linear, **options), dtype=torch.float64).initialize(X)
    assert sorted(pair.sites.widenable) == sites
    wide = log_evidence(pair, X, ImportanceWeighted(20_000))
    assert wide.value.shape == ()
    assert abs(float(wide.value) - log_linear_truth(X)) < 4.5 * float(wide.standard_error) < 0.2
    pieces = decomposition(pair, X, num_samples=4000)
    assert abs(float(pieces.evidence.value) - log_linear_truth(X)) < 4.5 * float(pieces.evidence.standard_error)


def plain_and_default(pair, x):
    default, plain = (log_evidence(pair, x, ImportanceWeighted(60, **w)) for w in ({}, {"widths": (1.0,)}))
    return all(torch.equal(getattr(default, n), getattr(plain, n)) for n in ("value", "standard_error", "ess"))


def test_codes_are_drawn_plainly():
    torch.manual_seed(0)
    sizes = {"num_latents": 2, "num_classes": 3}
    model = DiscreteVAE(MLP(6, 5, hidden=(9,)), likelihood="bernoulli", **sizes)
    guide = SampledCategorical(MLP(5, 6, hidden=(9,)), **sizes)
    x = (torch.rand(12, 5) < 0.4).float()
    pair = Pair(model, guide).initialize(x)
    assert not pair.sites.widenable
    assert plain_and_default(pair, x)


def test_a_flow_that_draws_its_z_is_plain_and_keeps_its_lower_bound():
    torch.manual_seed(0)
    flow = Chain([ElementwiseAffine(3), Inverse(Abs())])
    x = torch.rand(9, 3) + 0.1
    pair = Pair(FlowModel(flow), FlowGuide(flow)).initialize(x)
    assert not pair.is_exact
    assert not pair.sites.widenable
    assert plain_and_default(pair, x)
    assert log_evidence(pair, x).bound == "lower"


def test_a_flow_as_a_posterior_is_widened():
    from ppl_vae.flows import AffineCoupling

    torch.manual_seed(0)
    guide = AmortizedFlow(MLP(1, 4, hidden=(5,)), AffineCoupling(2, context_dim=4), latent_dim=2).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)

    x = X.unsqueeze(-1)
    pair = Pair(model, guide).initialize(x)
    assert pair.sites.widenable == {"z"}
    found = log_evidence(pair, x, ImportanceWeighted(5000))
    truth = dist.Normal(0.0, 3**0.5).log_prob(X)
    assert float(((found.value - truth) / found.standard_error).abs().max()) < 4.5


def test_a_point_mass_is_refused_as_ever():
    pair = Pair(log_linear, AutoDelta(log_linear))
    with pytest.raises(ValueError, match="a guide with a density is required"):
        log_evidence(pair, X.float(), ImportanceWeighted(10))


# -- what is not there is not weighed --------------------------------------------------------------------------------


def test_a_masked_latent_counts_for_nothing():
    seen = torch.tensor([True, False, True, True, False, True])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(torch.zeros(6), 1.0).mask(seen))
            pyro.sample("x", normal(torch.where(seen, z, 0.0), 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(0.7 * x, 0.4))

    truth = torch.where(seen, normal(0.0, 1.25**0.5).log_prob(X), normal(0.0, 0.5).log_prob(X))
    found = log_evidence(Pair(model, guide, dtype=torch.float64), X, ImportanceWeighted(4000))
    assert not found.standard_error[~seen].any()
    assert float(((found.value - truth).abs() - 4.5 * found.standard_error).max()) < 1e-9


def test_a_site_that_log_q_leaves_out_keeps_its_width():
    """Drawn wider, it would shift the draws of z between the halves, and nothing would weigh that."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(torch.zeros(6), 1.0))
            pyro.sample("x", normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", normal(0.0, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", normal(0.5 * x + 0.4 * u, 0.8))

    pair = Pair(model, guide, dtype=torch.float64).initialize(X)
    assert pair.sites.widenable == {"z"}
    found = log_evidence(pair, X, ImportanceWeighted(20_000))
    z = (found.value - normal(0.0, 2**0.5).log_prob(X)) / found.standard_error
    assert float(z.abs().max()) < 4.5
