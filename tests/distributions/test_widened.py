"""Wider twins against the closed forms of their families, inside every wrapper."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms

from ppl_vae.distributions import widened
from ppl_vae.flows import AffineCoupling, FlowDistribution

S = 1.5
LOC, SCALE, DF = (
    torch.tensor([0.3, -2.0, 5.0]).double(),
    torch.tensor([0.5, 1.0, 2.0]).double(),
    torch.tensor(4.0).double(),
)
FACTOR = torch.tensor([[1.0, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.3, 0.2, 0.5]]).double()
EXP = [transforms.ExpTransform(), transforms.AffineTransform(1.0, -2.0)]
CORRELATE = [transforms.LowerCholeskyAffine(LOC, FACTOR)]

FAMILIES = {
    "Normal": lambda s: dist.Normal(LOC, s * SCALE),
    "Laplace": lambda s: dist.Laplace(LOC, s * SCALE),
    "StudentT": lambda s: dist.StudentT(DF, LOC, s * SCALE),
    "Cauchy": lambda s: dist.Cauchy(LOC, s * SCALE),
    "Gumbel": lambda s: dist.Gumbel(LOC, s * SCALE),
    "Logistic": lambda s: dist.Logistic(LOC, s * SCALE),
    "SoftLaplace": lambda s: dist.SoftLaplace(LOC, s * SCALE),
    "AsymmetricLaplace": lambda s: dist.AsymmetricLaplace(LOC, s * SCALE, DF),
    "MultivariateNormal": lambda s: dist.MultivariateNormal(LOC, scale_tril=s * FACTOR),
    "LowRankMultivariateNormal": lambda s: dist.LowRankMultivariateNormal(LOC, s * FACTOR[:, :1], s**2 * SCALE),
    "MultivariateStudentT": lambda s: dist.MultivariateStudentT(DF, LOC, s * FACTOR),
    "LogNormal": lambda s: dist.LogNormal(LOC, s * SCALE),
    "transforms": lambda s: dist.TransformedDistribution(dist.Normal(LOC, s * SCALE), EXP),
    "transforms of vectors": lambda s: dist.TransformedDistribution(dist.Normal(0 * LOC, s * SCALE), CORRELATE),
    "LogisticNormal": lambda s: dist.LogisticNormal(LOC, s * SCALE),
    "mixture": lambda s: dist.MixtureSameFamily(dist.Categorical(SCALE), dist.Normal(LOC, s * SCALE)),
    "to_event": lambda s: dist.Normal(LOC, s * SCALE).to_event(1),
    "expand": lambda s: dist.LogNormal(LOC, s * SCALE).to_event(1).expand([4]),
    "mask": lambda s: dist.Normal(LOC, s * SCALE).mask(torch.tensor([True, False, True])),
    "all wrappers": lambda s: dist.MultivariateNormal(LOC, scale_tril=s * FACTOR).expand([2, 3]).mask(True).to_event(1),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_twin_is_the_family_with_another_scale(name):
    fn, truth = FAMILIES[name](1.0), FAMILIES[name](S)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        twin = widened(fn, S)
        value = twin.sample((50,))
        assert (twin.batch_shape, twin.event_shape) == (fn.batch_shape, fn.event_shape)
        assert value.shape == (50, *fn.batch_shape, *fn.event_shape)
        torch.testing.assert_close(twin.log_prob(value), truth.log_prob(value), rtol=1e-9, atol=1e-9)
        assert (twin.log_prob(value) - fn.log_prob(value)).abs().max() > 0.1  # the planted bug: nothing widened
        # Draws are of that density: under the true law log p is the same on the average.
        mine, own = (truth.log_prob(law.sample((20_000,))) for law in (twin, truth))
    error = (mine.var(0) / 20_000 + own.var(0) / 20_000).sqrt().clamp(min=1e-12)
    assert float(((mine.mean(0) - own.mean(0)) / error).abs().max()) < 4.5


class Own(dist.Normal):
    """A subclass with a density of its own."""

    def log_prob(self, value):
        return super().log_prob(value) * 2


@pytest.mark.parametrize(
    "fn",
    [
        dist.Bernoulli(0.5),
        dist.Categorical(torch.ones(3)),
        dist.Delta(torch.zeros(3), event_dim=1),
        dist.VonMises(torch.tensor(0.0), 1.0),  # it has a loc, and lives on a circle
        dist.Beta(2.0, 3.0),
        dist.HalfNormal(1.0),  # a transform that is not bijective
        dist.RelaxedBernoulliStraightThrough(torch.tensor(0.5), probs=torch.tensor(0.4)),
        Own(0.0, 1.0),
        Own(torch.zeros(3), 1.0).to_event(1),
    ],
    ids=lambda fn: type(fn).__name__,
)
def test_what_has_no_twin(fn):
    assert widened(fn, S) is None


def test_a_flow_widens_its_noise_and_scores_by_the_pass_that_drew():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = AffineCoupling(4).double()
        for parameter in flow.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        fn = FlowDistribution(dist.Normal(torch.zeros(4).double(), 1.0).to_event(1), flow).expand([7])
        twin = widened(fn, S)
        value = twin.sample()
    z, contribution = flow.encode(value)
    for law, scale in ((fn, 1.0), (twin, S)):
        truth = dist.Normal(0.0, scale).log_prob(z).sum(-1) + contribution
        torch.testing.assert_close(law.log_prob(value), truth, rtol=1e-6, atol=1e-6)
        with torch.no_grad():
            assert law._pass_of(value)[0] is value._decoding.z
