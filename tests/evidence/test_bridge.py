"""Bridge sampling, against closed forms, quadrature and what its chains cannot know."""

import math

import pyro
import pyro.distributions as dist
import pytest
import schools
import torch
from linear_gaussian import LinearGaussian
from pyro.infer.autoguide import AutoMultivariateNormal

from ppl_vae.evidence import HMC, Bridge, log_evidence
from ppl_vae.evidence.annealing.bridge import bridged
from ppl_vae.models import Energy
from ppl_vae.pair import Pair


def test_latents_of_each_row():
    known = LinearGaussian()
    x = known.data(20)
    found = log_evidence(known.pair(shift=0.4, widen=0.7), x, Bridge(2048, num_chains=16, warmup=60))
    assert bool(found.reliable.all())
    assert float(((found.value - known.log_marginal(x)).abs() / found.standard_error).max()) < 5


def apart(z):
    return torch.logaddexp(-((z - 30) ** 2).sum(-1) / 2, -((z + 30) ** 2).sum(-1) / 2 + math.log(3))


def test_chains_that_do_not_agree_have_no_error():
    def guide():
        pyro.sample("z", dist.Normal(torch.zeros(1), 40.0).to_event(1))

    found = log_evidence(Pair(Energy(apart, shape=1), guide), None, Bridge(1024, num_chains=16, warmup=50))
    assert bool(found.standard_error.isnan())
    assert not bool(found.reliable)


def test_the_bridge_between_two_normals():
    source = torch.Generator().manual_seed(0)
    draws = torch.randn(500, 8, generator=source, dtype=torch.float64)
    others = 1.3 * torch.randn(4000, generator=source, dtype=torch.float64) + 0.5

    def log_ratio(u):  # of 7 N(0, 1) to N(0.5, 1.3)
        return math.log(7) + dist.Normal(0.0, 1.0).log_prob(u) - dist.Normal(0.5, 1.3).log_prob(u)

    value, error, ess = bridged(log_ratio(draws), log_ratio(others))
    assert abs(float(value) - math.log(7)) < 4.5 * float(error)
    assert 0.001 < float(error) < 0.02
    assert float(ess) > 500
    constant = bridged(torch.full((10, 8), 2.0, dtype=torch.float64), torch.full((80,), 2.0, dtype=torch.float64))
    assert [float(part) for part in constant] == [2.0, 0.0, 80.0]


def test_how_often_the_error_of_a_bridge_holds():
    source = torch.Generator().manual_seed(1)
    rows = 400
    draws = torch.randn(40, 8, rows, generator=source, dtype=torch.float64)
    for t in range(1, 40):  # chains of correlation 0.7
        draws[t] = 0.7 * draws[t - 1] + (1 - 0.49) ** 0.5 * draws[t]
    others = 1.5 * torch.randn(320, rows, generator=source, dtype=torch.float64)

    def log_ratio(u):
        return dist.Normal(0.0, 1.0).log_prob(u) - dist.Normal(0.0, 1.5).log_prob(u)

    value, error, _ = bridged(log_ratio(draws), log_ratio(others))
    assert 0.9 < float((value.abs() < 1.96 * error).double().mean()) < 0.98


def test_numbers_out_of_range():
    for options in ({"num_chains": 7}, {"num_chains": 4}, {"num_samples": 100}, {"warmup": 0}):
        with pytest.raises(ValueError, match="chains"):
            Bridge(**options)
    assert repr(Bridge(4000, kernel=HMC(3))) == "Bridge(4000)"


def test_a_seed_decides_all():
    pair = Pair(schools.non_centred, AutoMultivariateNormal(schools.non_centred), dtype=torch.float64)
    first, again = (log_evidence(pair, schools.DATA, Bridge(128, warmup=5), seed=2) for _ in range(2))
    assert torch.equal(first.value, again.value)
