"""ELBO surgery against quadrature, sums over codes, and pairs of every kind."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import CASES, data_for
from pyro.infer.autoguide import AutoDelta, AutoNormal

from ppl_vae import ELBO, VariationalEM
from ppl_vae.data import load_digits
from ppl_vae.diagnostics import Surgery, surgery
from ppl_vae.diagnostics.aggregate import log_aggregate
from ppl_vae.evidence import elbo
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP, apply_batched
from ppl_vae.pair import Pair

LOC = torch.tensor([-2.0, -0.5, 0.1, 0.4, 3.0], dtype=torch.float64)
SCALE = torch.tensor([0.3, 0.8, 0.5, 1.1, 0.2], dtype=torch.float64)
NOISE = 0.7
SECOND = torch.tensor([0.4, -1.0, 0.0, 0.2, 0.3], dtype=torch.float64)


def normals(x):
    """One latent of each row with a posterior that is told by x: its mean and its standard deviation."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, 0], x[:, 1]))


def line(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, NOISE), obs=x[:, 0])


def double(model, guide):
    return Pair(model, guide, dtype=torch.float64)


def posteriors(loc=LOC, scale=SCALE):
    return torch.stack([loc, scale.expand_as(loc)], 1)


def in_plane():
    return torch.cat([posteriors(), SECOND.unsqueeze(1)], 1)


def truth(loc=LOC, scale=SCALE):
    """Mutual information and marginal KL of normals against N(0, 1), by quadrature."""
    grid = torch.linspace(-15, 15, 200_001, dtype=torch.float64)
    each = dist.Normal(loc.unsqueeze(1), scale.expand_as(loc).unsqueeze(1)).log_prob(grid)
    whole = each.logsumexp(0) - math.log(len(loc))
    told = torch.trapezoid(each.exp() * (each - whole), grid).mean()
    off = torch.trapezoid(whole.exp() * (whole - dist.Normal(0.0, 1.0).log_prob(grid)), grid)
    return float(told), float(off)


def test_the_terms_are_those_of_quadrature_and_the_errors_cover():
    told, off = truth()
    scores = []
    for seed in range(60):
        found = surgery(double(line, normals), posteriors(), num_samples=100, seed=seed)
        scores.append(
            [
                (found.mutual_information - told) / found.standard_error["mutual_information"],
                (found.marginal_kl - off) / found.standard_error["marginal_kl"],
            ]
        )
    scores = torch.tensor(scores)
    assert bool((scores.mean(0).abs() < 4.5 / 60**0.5).all())
    assert bool(((scores.std(0) - 1).abs() < 4.5 / 120**0.5).all())


@pytest.mark.parametrize("num_samples", [1, 7])
def test_the_terms_add_up_to_the_elbo_on_the_same_draws(num_samples):
    found = surgery(double(line, normals), posteriors(), num_samples=num_samples)
    assert found.elbo == pytest.approx(found.reconstruction - found.mutual_information - found.marginal_kl, abs=1e-9)
    assert math.isnan(found.standard_error["elbo"]) == (num_samples == 1)
    frame = found.to_dataframe()
    assert frame.loc["elbo", "value"] == found.elbo
    assert frame.index.tolist() == ["reconstruction", "mutual_information", "marginal_kl", "elbo"]


def test_the_elbo_is_the_elbo():
    pair, x = double(line, normals), posteriors()
    found, other = surgery(pair, x, num_samples=4000), elbo(pair, x, num_samples=4000)
    assert abs(found.elbo - float(other.mean())) < 4.5 * 2**0.5 * found.standard_error["elbo"]


@pytest.mark.parametrize("max_elements", [1, 20, 200, 1 << 20])
def test_blocks_change_no_density(max_elements):
    pair, x = double(line, normals), posteriors()
    pair.initialize(x)
    draws = torch.linspace(-3, 3, 13, dtype=torch.float64)
    found = log_aggregate(pair, pair.rows(x), {"z": draws}, max_elements)
    expected = dist.Normal(LOC, SCALE).log_prob(draws.unsqueeze(1)).logsumexp(1) - math.log(5)
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("max_elements", [30, 300])
def test_no_block_of_scores_is_larger_than_it_may_be(max_elements, monkeypatch):
    sizes, score = [], Pair.log_guide

    def noting(self, data, values):
        found = score(self, data, values)
        sizes.append(found.total.numel())
        return found

    monkeypatch.setattr(Pair, "log_guide", noting)
    x = posteriors(torch.linspace(-2, 2, 40), torch.tensor(0.5))
    surgery(double(line, normals), x, num_samples=5, max_elements=max_elements)
    assert sum(sizes) == 40 * 5 * 40
    assert max(sizes) <= max_elements / 3  # of one latent and two numbers of x for each score


def test_codes_that_give_their_row_away_are_saturated():
    """The ceiling: posteriors that do not touch tell log N, and not a rounding more."""
    x = posteriors(torch.arange(40.0), torch.tensor(1e-3))
    found = surgery(double(line, normals), x)
    assert found.mutual_information == pytest.approx(math.log(40), abs=1e-5)
    assert found.mutual_information <= found.ceiling + 1e-12
    assert found.saturated and not found.collapsed
    assert "ceiling log 40 = 3.69" in repr(found) and "saturated" in repr(found)


def test_half_a_nat_below_the_ceiling_is_saturated():
    loc = torch.arange(40.0)
    words = {}
    for scale in (0.6, 0.35):
        found = surgery(double(line, normals), posteriors(loc, torch.tensor(scale)), num_samples=200)
        words[scale] = (found.ceiling - found.mutual_information > 0.5, found.saturated)
    assert words == {0.6: (True, False), 0.35: (False, True)}


@pytest.mark.parametrize(("loc", "off"), [(0.0, 0.0), (5.0, 12.5)])
def test_codes_that_are_all_alike_have_collapsed_wherever_they_lie(loc, off):
    """KL alone would not tell: 12.5 nats are paid, and nothing is told."""
    found = surgery(double(line, normals), posteriors(torch.full((9,), loc), torch.tensor(1.0)), num_samples=400)
    assert found.mutual_information == pytest.approx(0.0, abs=1e-12)
    assert found.marginal_kl == pytest.approx(off, abs=1.0)
    assert found.collapsed and found.idle == 1
    assert found.verdict == "collapsed (less than 0.1)"


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        (0.0999, "collapsed (less than 0.1)"),
        (0.1, "weak (less than one bit)"),
        (0.69, "weak (less than one bit)"),
        (0.70, "healthy"),
        (math.log(1000) - 0.51, "healthy"),
        (math.log(1000) - 0.49, "saturated"),
    ],
)
def test_the_verdict_by_its_limits(told, verdict):
    terms = {"reconstruction": -1.0, "mutual_information": told, "marginal_kl": 0.0, "elbo": -1.0 - told}
    errors = dict.fromkeys(terms, 0.0)
    found = Surgery(**terms, standard_error=errors, num_data=1000, num_samples=8, num_dimensions=2)
    assert found.verdict == verdict
    assert found.collapsed == verdict.startswith("collapsed")


def trained(kind: str, seed: int, *, rows: int = 500, epochs: int = 30):
    """A small VAE of binary digits whose KL weighs 1 or 20, or of normal data that lie within the decoder's noise."""
    x = load_digits(binary=True).train[:rows]
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        guide = AmortizedNormal(MLP(64, 16, hidden=(64,)), latent_dim=8)
        model: object = VAE(MLP(8, 64, hidden=(64,)), latent_dim=8, likelihood="bernoulli")
        if kind == "noise":  # no direction of x varies by more than the noise of p(x | z): Lucas et al. (2019)
            x, model = torch.randn(rows, 64), Loud()
    objective = ELBO(beta=20.0 if kind == "heavy KL" else 1.0)
    em = VariationalEM(model, guide, objective=objective, lr=3e-3)
    return em.fit(x, epochs=epochs, batch_size=50, seed=seed, progress=False), x


class Loud(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = torch.nn.Linear(8, 64)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(8), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(apply_batched(self.decoder, z), 3.0).to_event(1), obs=x)


@pytest.mark.parametrize("kind", ["healthy", "heavy KL"])
def test_a_vae_that_ignores_its_code_is_called_collapsed_and_another_is_not(kind):
    fit, x = trained(kind, 0, rows=300, epochs=20)
    assert surgery(fit, x).collapsed == (kind != "healthy")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", ["healthy", "heavy KL", "noise"])
def test_ten_seeds_of_each_are_told_apart_with_room_to_spare(kind, seed):
    found = surgery(*trained(kind, seed))
    if kind == "healthy":
        assert found.mutual_information > 1.5 and found.verdict == "healthy"
    else:
        assert found.mutual_information < 0.05 and found.verdict.startswith("collapsed")


# -- dimensions --------------------------------------------------------------------------------------------------------


def plane(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), NOISE), obs=x[:, 0])


def independent(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, ::2], x[:, 1:2]).to_event(1))


def correlated(x):
    scale = torch.zeros(len(x), 2, 2, dtype=x.dtype)
    scale[:, 0, 0], scale[:, 1, 0], scale[:, 1, 1] = x[:, 1], 0.6 * x[:, 1], 0.8 * x[:, 1]  # both marginals as before
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(x[:, ::2], scale_tril=scale))


@pytest.mark.parametrize("guide", [independent, correlated])
@pytest.mark.parametrize("max_elements", [900, 1 << 20])
def test_each_dimension_has_the_terms_of_its_marginal(guide, max_elements):
    found = surgery(double(plane, guide), in_plane(), num_samples=3000, max_elements=max_elements)
    frame = found.dimensions()
    assert frame.index.tolist() == ["z[0]", "z[1]"]
    for place, loc in enumerate((LOC, SECOND)):
        told, off = truth(loc)
        assert frame["mutual_information"].iloc[place] == pytest.approx(told, abs=0.04)
        assert frame["marginal_kl"].iloc[place] == pytest.approx(off, abs=0.1)
    assert frame["kl"].tolist() == pytest.approx((frame["mutual_information"] + frame["marginal_kl"]).tolist())
    assert not frame["idle"].any()


def test_a_dimension_that_hangs_on_another_has_no_terms_of_its_own():
    def model(x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Normal(x.new_zeros(()), 1.0))
            z = pyro.sample("z", dist.Normal(top, 1.0))
            pyro.sample("x", dist.Normal(z, NOISE), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Normal(x[:, 0], x[:, 1]))
            pyro.sample("z", dist.Normal(0.3 * top + x[:, 0], 0.5))

    found = surgery(double(model, guide), posteriors())
    assert list(found.information) == ["top"]
    assert found.num_dimensions == 2
    assert found.elbo == pytest.approx(found.reconstruction - found.kl, abs=1e-9)


# -- codes -------------------------------------------------------------------------------------------------------------

PROBS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3], [0.0, 0.5, 0.5]], dtype=torch.float64)
PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def coded(classes: int):
    """A pair with one code of each datum, of three classes that are told by x; ``classes`` more have no probability."""
    more = torch.zeros(classes, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.cat([PRIOR, more])))
            pyro.sample("x", dist.Normal(c.to(x), 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(torch.cat([x, more.expand(len(x), -1)], -1)))

    return double(model, guide)


def code_truth():
    usage = PROBS.mean(0)
    told = (torch.xlogy(PROBS, PROBS).sum(1) - torch.xlogy(PROBS, usage).sum(1)).mean()
    likelihood = dist.Normal(torch.arange(3.0, dtype=torch.float64), 1.0).log_prob(PROBS[:, :1])
    return float(told), float((usage * (usage / PRIOR).log()).sum()), float((PROBS * likelihood).sum(1).mean())


@pytest.mark.parametrize("max_elements", [4, 1 << 20])
def test_few_codes_are_summed(max_elements):
    found = surgery(coded(0), PROBS, max_elements=max_elements)
    told, off, reconstruction = code_truth()
    assert found.mutual_information == pytest.approx(told, abs=1e-12)
    assert found.marginal_kl == pytest.approx(off, abs=1e-12)
    assert found.reconstruction == pytest.approx(reconstruction, abs=1e-12)
    assert found.elbo == pytest.approx(reconstruction - told - off, abs=1e-12)
    assert found.num_samples is None and set(found.standard_error.values()) == {0.0}


def test_many_codes_are_drawn():
    found, (told, off, _) = surgery(coded(4100), PROBS, num_samples=400), code_truth()
    assert found.num_samples == 400
    assert abs(found.mutual_information - told) < 4.5 * found.standard_error["mutual_information"]
    assert abs(found.marginal_kl - off) < 4.5 * found.standard_error["marginal_kl"]
    assert float(found.information["c"]) == pytest.approx(found.mutual_information, abs=1e-9)


# -- pairs of every kind -----------------------------------------------------------------------------------------------

REFUSED = {
    "flow": "the z of a flow is a point",
    "augmented flow": "surgery",
    "AutoNormal": "stand outside the data plate",
    "PyroSample": "stand outside the data plate",
}


@pytest.mark.parametrize("name", CASES)
def test_every_pair_adds_up_or_says_why_not(name):
    case = CASES[name]
    torch.manual_seed(0)
    pair, x = Pair(*case.make()), data_for(case)
    pair.initialize(x)
    if name in REFUSED or pair.has_global_latents:
        with pytest.raises(ValueError, match=REFUSED.get(name, "surgery: ")):
            surgery(pair, x)
        return
    found = surgery(pair, x, num_samples=3)
    assert found.elbo == pytest.approx(found.reconstruction - found.kl, abs=1e-6 * max(1.0, abs(found.elbo)))
    assert found.ceiling - found.mutual_information >= -1e-9
    assert all(value >= 0 for value in found.standard_error.values())


def test_a_pair_of_so_many_rows_stays_whole():
    def fixed(x):
        with pyro.plate("data", 5):
            pyro.sample("z", dist.Normal(LOC, SCALE))

    def model(x):
        with pyro.plate("data", 5):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, NOISE), obs=x[:, 0])

    found = surgery(double(model, fixed), posteriors(), max_elements=10, num_samples=20)
    again = surgery(double(line, normals), posteriors(), max_elements=1000, num_samples=20)
    assert abs(found.mutual_information - again.mutual_information) < 0.5
    assert list(found.information) == ["z"]


def test_a_guide_whose_latents_follow_from_other_draws_is_refused():
    with pytest.raises(ValueError, match="the guide draws 'z_unconstrained', from which its latents follow"):
        surgery(Pair(line, AutoNormal(line)), posteriors())
    with pytest.raises(ValueError, match="surgery: a guide with a density is required"):
        surgery(Pair(line, AutoDelta(line)), posteriors())


def test_a_prior_of_each_row_is_refused():
    def given(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x[:, 1], 1.0))
            pyro.sample("x", dist.Normal(z, NOISE), obs=x[:, 0])

    with pytest.raises(ValueError, match="one prior p\\(z\\) of all rows is required"):
        surgery(double(given, normals), posteriors())


def test_a_prior_that_a_sum_ties_to_the_data_is_refused_and_a_mixture_is_not():
    def mixture(tied):
        def model(x):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Bernoulli(x.new_tensor(0.3)), infer={"enumerate": "parallel"})
                z = pyro.sample("z", dist.Normal(2 * c, 1.0))
                pyro.sample("x", dist.Normal(z + (c if tied else 0.0), NOISE), obs=x[:, 0])

        return model

    with pytest.raises(ValueError, match="a sum over discrete latents holds 'z', 'x' at once"):
        surgery(double(mixture(True), normals), posteriors())
    found = surgery(double(mixture(False), normals), posteriors())
    assert found.elbo == pytest.approx(found.reconstruction - found.kl, abs=1e-6)
    assert not found.information  # the prior of z is a mixture over c


def test_bad_numbers():
    with pytest.raises(ValueError, match="at least two rows are required, got 1"):
        surgery(double(line, normals), posteriors()[:1])
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        surgery(double(line, normals), posteriors(), num_samples=0)
