"""Evidence that is known to many digits, by every estimator that serves: eight schools, energies, a regression."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import schools
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from sklearn.datasets import load_diabetes

import ppl_vae
from ppl_vae.evidence import Annealed, Bridge, ImportanceWeighted, Laplace, Sequential, log_evidence
from ppl_vae.models import Energy
from ppl_vae.pair import Pair

FAR = 4.5


def agrees(found, truth: float, error: float) -> bool:
    """Is it within 4.5 of its errors, which are no larger than ``error``?"""
    off, known = abs(float(found.value) - truth), float(found.standard_error)
    return bool(found.reliable) and off < FAR * known + 1e-6 and known < error


@pytest.fixture(scope="module")
def eight_schools():
    model = schools.non_centred
    return ppl_vae.fit(model, AutoMultivariateNormal(model), schools.DATA, progress=False)


@pytest.mark.parametrize(
    "estimator",
    [ImportanceWeighted(100_000), Bridge(12_800), Sequential(60, 4000)],
    ids=["weights", "bridge", "chains"],
)
def test_eight_schools_to_a_hundredth(eight_schools, estimator):
    assert agrees(log_evidence(eight_schools, schools.DATA, estimator), schools.LOG_Z, 0.01)


def wave(z):
    return torch.sin(2 * math.pi * z[..., 0] / 4)


def bump(z):
    return 3 * (-0.5 * ((z[..., 0] - 1) / 0.6).square()).exp()


def bend(z):
    return 3 * torch.sigmoid((z[..., 0] - 1) / 0.3)


def ring(z):
    """U1 of Rezende and Mohamed."""
    far = ((z.norm(dim=-1) - 2) / 0.4).square() / 2
    return -far + torch.logaddexp(*(-((z[..., 0] + side) / 0.6).square() / 2 for side in (-2, 2)))


def bands(*widths):
    """U2, U3, U4: one band along a wave, or two that part."""

    def log_density(z):
        first = -0.5 * ((z[..., 1] - wave(z)) / widths[0]).square()
        if len(widths) == 1:
            return first
        apart = bump(z) if widths[1] == 0.35 and widths[0] == 0.35 else -bend(z)
        return torch.logaddexp(first, -0.5 * ((z[..., 1] - wave(z) + apart) / widths[1]).square())

    return log_density


def on_a_strip(log_density):
    """A model of z1 in (-4, 4), and z2 on the line."""

    def model():
        first = pyro.sample("first", dist.Uniform(-4.0, 4.0))
        second = pyro.sample("second", dist.Normal(0.0, 4.0))
        z = torch.stack([first, second], -1)
        prior = -math.log(8.0) + dist.Normal(0.0, 4.0).log_prob(second)
        pyro.factor("energy", log_density(z) - prior)

    def guide():
        pyro.sample("first", dist.Uniform(-4.0, 4.0))
        pyro.sample("second", dist.Normal(0.0, 3.0))

    return Pair(model, guide, dtype=torch.float64)


ENERGIES = {
    "U2": (bands(0.4), 2.08208934),
    "U3": (bands(0.35, 0.35), 2.64170513),
    "U4": (bands(0.4, 0.35), 2.71069800),
}


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize(
    "estimator", [ImportanceWeighted(20_000, widths=(1.0,)), Annealed(200, 1000), Sequential(30, 1000)]
)
def test_energies_of_the_plane(name, estimator):
    log_density, truth = ENERGIES[name]
    assert agrees(log_evidence(on_a_strip(log_density), None, estimator), truth, 0.06)


@pytest.mark.parametrize("estimator", [ImportanceWeighted(20_000), Annealed(60, 1000, start="guide")])
def test_the_ring(estimator):
    def guide():
        pyro.sample("z", dist.Normal(torch.zeros(2), 2.0).to_event(1))

    assert agrees(log_evidence(Pair(Energy(ring, shape=2), guide), None, estimator), 1.87750163, 0.06)


@pytest.mark.parametrize(
    ("variance", "truth"), [(1.0, -496.599190), pytest.param(0.1, -487.572671, marks=pytest.mark.slow)]
)
def test_a_regression_whose_evidence_has_a_closed_form(variance, truth):
    x, y = (torch.from_numpy(part) for part in load_diabetes(return_X_y=True))
    x, y = (x - x.mean(0)) / x.std(0, correction=0), (y - y.mean()) / y.std(correction=0)

    def model(x, y):
        w = pyro.sample("w", dist.Normal(x.new_zeros(10), variance**0.5).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ w, 0.5**0.5), obs=y)

    fit = ppl_vae.fit(model, AutoMultivariateNormal(model), (x, y), progress=False)
    for estimator, error in ((ImportanceWeighted(4000), 0.01), (Laplace(1000), 1e-6), (Bridge(2048), 0.04)):
        assert agrees(log_evidence(fit, (x, y), estimator), truth, error), estimator
    if variance == 0.1:
        assert agrees(log_evidence(fit, (x, y), Sequential(250, 500)), truth, 0.2)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "low", "high"), [(schools.centred, 0.7, math.inf), (schools.non_centred, 0.4, 0.75)])
def test_khats_of_eight_schools_are_those_that_are_published(model, low, high):
    """Yao, Vehtari, Simpson, Gelman, 2018: 1.00 centred and 0.64 non-centred, of mean fields at their optimum."""
    fit = ppl_vae.DeterministicVI(model, AutoNormal(model)).fit(schools.DATA)
    plain = ImportanceWeighted(100_000, widths=(1.0,))
    khats = [float(fit.log_evidence(schools.DATA, plain, seed=seed).khat) for seed in range(20)]
    assert sum(low < khat < high for khat in khats) >= 18, khats
