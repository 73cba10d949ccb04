"""The posteriors of benchmarks/posteriordb.py on small data of their shapes: what the benchmark's figures stand on."""

import math
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCHOOLS = {"y": [28, 8, -3, 7, -1, 1, 18, 12], "sigma": [15, 10, 16, 11, 9, 11, 10, 18]}
FILES = {
    "kidscore_momiq": {"mom_iq": [121.0, 89.0, 115.0], "kid_score": [65, 98, 85]},
    "logearn_height": {"height": [74, 66, 64], "earn": [50000, 60000, 30000]},
    "mesquite": {
        n: [1.8, 1.7, 2.8] for n in ["diam1", "diam2", "canopy_height", "total_height", "density", "group", "weight"]
    },
    "nes": {n: [3, 2, 4] for n in ["real_ideo", "race_adj", "age_discrete", "educ1", "gender", "income", "partyid7"]},
    "sblri": {"X": [[181.0, 137.0, 119.0, -40.0, -61.0], [-150.0, 81.0, -96.0, -4.0, 47.0]], "y": [336.0, -123.0]},
    "arK": {"y": [0.7, 0.8, 0.8, 0.9, 0.6, 0.5, 0.7, 0.4], "K": 5},
    "eight_schools": SCHOOLS,
    "gp_regr": {"x": [-10, -8, -6], "y": [4.8, 1.6, 3.0]},
    "gp_pois_regr": {"x": list(range(-10, 12, 2)), "k": [40, 37, 29, 12, 4, 3, 9, 19, 77, 82, 33]},
    "hmm_example": {"y": [3.8, 8.2, 9.4, 2.9]},
}


@pytest.fixture
def posteriors(monkeypatch):
    """The package of the benchmark, as its script finds it; forgotten afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("posteriors")
    for name in [name for name in sys.modules if name.split(".")[0] == "posteriors"]:
        del sys.modules[name]


def test_every_posterior_has_data_here(posteriors):
    assert set(FILES) == set(posteriors.POSTERIORS)


@pytest.mark.parametrize("name", FILES)
def test_many_draws_run_at_once_and_coordinates_are_the_unconstrained_sites(posteriors, name):
    from posteriors.oracle import LogDensity

    posterior = posteriors.POSTERIORS[name]
    log_density = LogDensity(posterior, posterior.data({"data": FILES[name]}))
    assert log_density.vectorizes
    size = sum(posterior.sizes.get(site, 1) for site in posterior.supports)
    u = 0.3 * torch.randn(5, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values, log_det = posterior.values(u)
    torch.testing.assert_close(posterior.coordinates(values), u)
    _, expected = log_density.pair.unconstrain(log_density.batch, values)
    torch.testing.assert_close(log_det, expected.sum(1) if expected.dim() > 1 else expected)


def test_eight_schools_has_its_exact_evidence(posteriors):
    """log Z = -31.3113473523: theta and mu integrated by hand, tau by quadrature."""
    from posteriors.oracle import LogDensity, evidence

    posterior = posteriors.POSTERIORS["eight_schools"]
    nearly = torch.tensor([1.0] * 8 + [3.3, 1.2], dtype=torch.float64)
    centre = torch.tensor([0.0] * 8 + [4.4, 0.8], dtype=torch.float64)
    reference = posteriors.Reference(centre, nearly, nearly.square().diag(), 0 * nearly, -31.3113473523, 0.0, None)
    found = evidence(LogDensity(posterior, posterior.data({"data": SCHOOLS})), reference, count=40_000)
    assert found.error < 0.02
    assert abs(found.log_evidence - reference.log_evidence) < 4 * found.error


def test_the_hidden_markov_model_sums_over_all_paths(posteriors):
    """Against a sum over the 16 paths of four observations, each state as likely as the other at first."""
    from posteriors.oracle import LogDensity

    posterior = posteriors.POSTERIORS["hmm_example"]
    y = FILES["hmm_example"]["y"]
    log_density = LogDensity(posterior, posterior.data({"data": {"y": y}}))
    theta1, theta2, mu1, gap = 0.7, 0.2, 3.1, 5.5
    stay, means = {0: theta1, 1: theta2}, (mu1, mu1 + gap)

    def normal(x: float, mean: float) -> float:
        return math.exp(-0.5 * (x - mean) ** 2) / math.sqrt(2 * math.pi)

    total = 0.0
    for path in range(16):
        states = [path >> t & 1 for t in range(4)]
        p = 0.5 * normal(y[0], means[states[0]])
        for before, now, value in zip(states, states[1:], y[1:], strict=False):
            p *= (stay[before] if now == 0 else 1 - stay[before]) * normal(value, means[now])
        total += p
    prior = math.log(normal(means[0], 3.0)) + math.log(normal(means[1], 10.0))
    values = {"theta1": theta1, "theta2": theta2, "mu1": mu1, "gap": gap}
    found = log_density.pair.log_joint(log_density.batch, {k: torch.tensor([v]).double() for k, v in values.items()})
    assert float(found.total) == pytest.approx(math.log(total) + prior, abs=1e-6)


def test_a_run_is_there_once_it_stays(posteriors):
    from posteriors.race import Race

    race = Race(judge=None, target=-1.0, cap=60.0)
    race.seconds, race.elbos = [1.0, 2.0, 3.0, 4.0, 5.0], [-9.0, -1.05, -1.2, -1.09, -1.02]
    assert race.reached(-1.0) == 4.0
    assert race.reached(-0.9) is None
