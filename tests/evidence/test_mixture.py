"""Draws of a mixture of proposals: every outcome of few draws enumerated, so that expectations are sums."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import LinearGaussian

from ppl_vae import Pair
from ppl_vae.evidence import ImportanceWeighted, decomposition, log_evidence
from ppl_vae.evidence import elbo as evidence_elbo
from ppl_vae.evidence.mixture import Weighed, covariance_of_means, draws_by_width, stratified_error, weigh
from ppl_vae.evidence.weights import log_mean_exp

# Three points: what the model says of them, and three proposals.
LOG_P = torch.tensor([0.2, 0.15, 0.4], dtype=torch.float64).log()
LOG_Q = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.3, 0.4, 0.3]], dtype=torch.float64).log()
P = 0.75
COUNTS = [(2, 2), (3, 2), (4, 2), (2, 2, 2)]


def outcomes(counts):
    """Every outcome of so many draws of each proposal: points (K, M), and its probability (M,)."""
    points = torch.tensor(list(itertools.product(range(3), repeat=sum(counts)))).T
    parts = [part for part, count in enumerate(counts) for _ in range(count)]
    log_prob = sum(LOG_Q[part][row] for part, row in zip(parts, points, strict=True))
    return points, log_prob.exp()


def weighed(counts):
    points, prob = outcomes(counts)
    return Weighed(*weigh(LOG_P[points], LOG_Q[: len(counts)][:, points], counts), counts), prob


def test_weights_are_those_of_the_mixture_written_by_hand():
    points, log_q = torch.tensor([0, 2, 1]), LOG_Q[:2]
    log_w, log_h = weigh(LOG_P[points], log_q[:, points], (4, 2))
    for k, point in enumerate(points.tolist()):
        mixture = (4 * log_q[0, point].exp() + 2 * log_q[1, point].exp()) / 6
        assert float(log_w[k].exp()) == pytest.approx(float(LOG_P[point].exp() / mixture))
        assert float(log_h[k].exp()) == pytest.approx(float(log_q[0, point].exp() / mixture))


@pytest.mark.parametrize("counts", COUNTS)
def test_the_evidence_is_unbiased_to_rounding(counts):
    found, prob = weighed(counts)
    # Few draws of three points are often all the same, which looks like a perfect guide: nothing is to look perfect.
    estimate = found.unbiased("", resolution=-1.0).value.exp()
    assert float(prob.sum()) == pytest.approx(1)
    assert float(prob @ estimate) == pytest.approx(P, rel=1e-12)
    # The twins: the bias of the product not put right, and a ratio, are off.
    w, h = found.log_w.exp().mean(0), found.log_h.exp().mean(0)
    assert abs(float(prob @ (w * (2 - h))) - P) > 1e-4
    assert abs(float(prob @ found.ratio("", resolution=-1.0).value.exp()) - P) > 1e-4


@pytest.mark.parametrize("counts", COUNTS)
def test_the_error_of_a_mean_by_parts_is_unbiased(counts):
    found, prob = weighed(counts)
    w, h = found.log_w.exp(), found.log_h.exp()
    for a, b in ((w, w), (h, h), (w, h)):
        mean_a, mean_b = prob @ a.mean(0), prob @ b.mean(0)
        truth = prob @ ((a.mean(0) - mean_a) * (b.mean(0) - mean_b))
        assert float(prob @ covariance_of_means(a, b, counts)) == pytest.approx(float(truth), rel=1e-10)
    pooled = w.var(0) / len(w)  # the twin: as if the parts were drawn too
    assert float(prob @ pooled) > 1.02 * float(prob @ covariance_of_means(w, w, counts))


def test_one_part_is_the_plain_error():
    values = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(stratified_error(values, (50,)), values.std(0) / 50**0.5)
    assert bool(stratified_error(values[:1], (1,)).isnan().all())
    assert bool(stratified_error(values[:3], (2, 1)).isnan().all())


@pytest.mark.parametrize(("draws", "widths", "counts"), [(1, 2, (1,)), (3, 2, (3,)), (4, 2, (2, 2)), (8, 3, (3, 3, 2))])
def test_draws_by_width(draws, widths, counts):
    assert draws_by_width(draws, widths) == counts


def normal_pair(scale: float, count: int, columns: int):
    """Draws of q = N(0, scale²) and of its wider twin, for p = N(0, 1) in 3 dimensions."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2 * count, columns, 3, dtype=torch.float64, generator=generator)
    z = z * scale * torch.tensor([1.0] * count + [1.5] * count).reshape(-1, 1, 1)
    log_q = torch.stack([-0.5 * (z / s).square().sum(-1) - 3 * math.log(s) for s in (scale, 1.5 * scale)])
    return Weighed(*weigh(-0.5 * z.square().sum(-1), log_q, (count, count)), (count, count))


@pytest.mark.parametrize("scale", [1.3, 1.0005, 0.9, 0.8])
@pytest.mark.parametrize("form", ["unbiased", "ratio"])
def test_error_bars_are_the_scatter_from_the_posterior_itself_to_far_from_it(scale, form):
    found = getattr(normal_pair(scale, 100, 1000), form)("")
    claimed = float(found.standard_error.square().mean().sqrt())
    assert claimed == pytest.approx(float(found.value.std()), rel=4.5 / math.sqrt(2000) + 0.03)
    assert abs(float(found.value.mean())) < claimed**2 + 4.5 * claimed / 1000**0.5


def test_what_the_mixture_scatters_is_taken_off():
    """Near the posterior the mixture's weights scatter more than those of the guide alone; the estimate does not."""
    draws = normal_pair(0.98, 200, 500)
    mixture = log_mean_exp(draws.log_w).std()
    alone = log_mean_exp((draws.log_w - draws.log_h)[:200]).std()
    assert float(mixture) > 3 * float(alone)
    assert float(draws.unbiased("").value.std()) < 1.2 * float(alone)


def test_the_posterior_is_noticed_and_half_a_posterior_is_not():
    perfect = normal_pair(1.0, 100, 5)
    for found in (perfect.unbiased(""), perfect.ratio("")):
        assert found.value.abs().max() < 1e-12
        assert found.standard_error.tolist() == found.khat.tolist() == [0.0] * 5
        assert found.ess.tolist() == [200.0] * 5
    # The guide's own draws see one constant, the wider ones mass that these never met.
    more = torch.tensor([0.0] * 100 + [1.0] * 100, dtype=torch.float64).unsqueeze(-1)
    missed = Weighed(perfect.log_w + more, perfect.log_h, (100, 100))
    found = missed.unbiased("")
    assert bool((found.standard_error > 0.01).all())
    assert bool((found.value > 0.1).all())


def test_no_draw_explains_the_datum():
    found = Weighed(torch.full((50, 1), -torch.inf, dtype=torch.float64), torch.zeros(50, 1).double(), (25, 25))
    for evidence in (found.unbiased(""), found.ratio("")):
        assert float(evidence.value) == -math.inf
        assert math.isnan(float(evidence.standard_error))


# -- the estimator --------------------------------------------------------------------------------

WIDTHS = {"none": (), "not the guide first": (1.5, 1.0), "twice the same": (1.0, 1.5, 1.5), "zero": (1.0, 0.0)}
WIDTHS |= {"infinite": (1.0, math.inf), "a number": 1.5}


@pytest.mark.parametrize("name", WIDTHS)
def test_widths_that_are_none_are_refused(name):
    with pytest.raises(ValueError, match=r"the first of them 1.0 \(the guide\), such as \(1.0, 1.5\), got"):
        ImportanceWeighted(10, widths=WIDTHS[name])


def test_widths_are_named_where_they_are_not_the_default():
    assert repr(ImportanceWeighted(10, widths=[1, 1.5])) == "ImportanceWeighted(10)"
    assert repr(ImportanceWeighted(10, widths=(1.0, 1.5, 2.0))) == "ImportanceWeighted(10, widths=(1.0, 1.5, 2.0))"
    assert ImportanceWeighted(10) == ImportanceWeighted(10, widths=(1, 1.5))


def test_the_guide_alone_gives_the_numbers_it_always_gave():
    """Recorded before there were widths."""
    oracle = LinearGaussian()
    found = log_evidence(oracle.pair(0.2, 1.3), oracle.data(3), ImportanceWeighted(50, widths=(1.0,)), seed=5)
    torch.testing.assert_close(found.value, RECORDED, rtol=1e-12, atol=0)


RECORDED = torch.tensor([-4.774569321161585, -5.213723986239668, -5.704962984797939], dtype=torch.float64)


@pytest.mark.parametrize("widths", [(1.0, 1.5), (1.0, 0.7), (1.0, 1.5, 2.0)])
@pytest.mark.parametrize("max_elements", [5000, 1 << 23])
def test_any_widths_cover(widths, max_elements):
    oracle = LinearGaussian()
    x, pair = oracle.data(80), oracle.pair(0.2, 0.9)
    found = log_evidence(pair, x, ImportanceWeighted(200, widths=widths), max_elements=max_elements)
    z = (found.value - oracle.log_marginal(x)) / found.standard_error
    assert float(z.square().mean().sqrt()) == pytest.approx(1, abs=4.5 / 160**0.5)


def test_the_decomposition_of_a_narrow_guide_is_of_the_guide_and_of_all_draws():
    """ELBO, reconstruction and KL stay those of the guide, though half of the draws come from a wider one."""
    oracle, guide = LinearGaussian(), {"shift": 0.1, "widen": 0.7}
    x = oracle.data(800)
    found, truth = decomposition(oracle.pair(**guide), x, num_samples=400), oracle.pieces(x, **guide)
    for name in ("elbo", "reconstruction", "kl", "gap"):
        z = (getattr(found, name) - truth[name]) / found.standard_error[name]
        assert float(z.square().mean().sqrt()) == pytest.approx(1, abs=4.5 / 1600**0.5 + 0.05)
        assert abs(float(z.mean())) < 4.5 / 800**0.5 + 0.1
    assert bool((found.gap >= 0).all())
    torch.testing.assert_close(found.elbo + found.gap, found.evidence.value, rtol=0, atol=1e-10)


# what constant weights prove


def two_codes(collapsed):
    """Two codes of a hundred values each, x = mu[a] + nu[b] + noise; the guide has given up all values but one."""
    generator = torch.Generator().manual_seed(0)
    mu, nu = torch.randn(2, 100, generator=generator, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            a, b = (pyro.sample(name, dist.Categorical(torch.ones(100, dtype=torch.float64))) for name in "ab")
            pyro.sample("x", dist.Normal(mu[a] + nu[b], 1.0), obs=x)

    def guide(x):
        logits = torch.zeros(100, dtype=torch.float64)
        logits[0] = 20.0 if collapsed else 0.0
        with pyro.plate("data", len(x)):
            for name in "ab":
                pyro.sample(name, dist.Categorical(logits=logits.expand(len(x), 100)))

    return Pair(model, guide), torch.linspace(-1, 1, 5, dtype=torch.float64)


def test_draws_that_are_all_one_code_prove_nothing():
    """Every weight is the same, 10 nats below log p(x): the guide has never looked elsewhere."""
    pair, x = two_codes(collapsed=True)
    for found in (log_evidence(pair, x, ImportanceWeighted(200)), decomposition(pair, x, num_samples=200).evidence):
        assert found.standard_error.isnan().all() and found.khat.isnan().all()
        assert (found.ess == 1).all() and not found.reliable.any()


def test_a_code_beside_a_latent_that_is_exact_proves_nothing_either():
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(torch.full((), 0.5, dtype=torch.float64)))
            z = pyro.sample("z", dist.Normal(4.0 * c, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(torch.full((len(x),), 1e-9, dtype=torch.float64)))
            pyro.sample("z", dist.Normal((x + 4.0 * c) / 2, 0.5**0.5))

    x = torch.full((4,), 2.0, dtype=torch.float64)
    for widths in ((1.0,), (1.0, 1.5)):
        found = log_evidence(Pair(model, guide), x, ImportanceWeighted(100, widths=widths))
        assert found.standard_error.isnan().all() and (found.ess == 1).all()


def test_codes_that_differ_and_weigh_the_same_are_a_perfect_guide():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(torch.full((5000,), 1 / 5000, dtype=torch.float64)))
            pyro.sample("x", dist.Normal(torch.zeros(len(x), dtype=torch.float64), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(torch.full((len(x), 5000), 1 / 5000, dtype=torch.float64)))

    x = torch.linspace(-1, 1, 4, dtype=torch.float64)
    found = log_evidence(Pair(model, guide), x, ImportanceWeighted(100))
    assert torch.allclose(found.value, dist.Normal(0.0, 1.0).log_prob(x))
    assert (found.standard_error == 0).all() and (found.khat == 0).all() and (found.ess == 100).all()


@pytest.mark.parametrize("inside", [False, True], ids=["the site", "an entry of its event"])
def test_a_masked_latent_that_others_are_drawn_from_is_not_widened(inside):
    """The wide half would draw z0 by another law of what is masked, which no log q counts."""
    x = torch.ones(4000, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            z0 = pyro.sample("z0", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(z0, 1.0), obs=x)
            if inside:
                z1 = dist.Normal(torch.zeros(1, dtype=torch.float64), 1.0).mask(torch.zeros(1).bool()).to_event(1)
                pyro.sample("z1", z1)
            else:
                with pyro.poutine.mask(mask=torch.zeros(len(x)).bool()):
                    pyro.sample("z1", dist.Normal(z0, 1.0))

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample(
                "z1", dist.Normal(x.unsqueeze(-1) / 2, 1.4).to_event(1) if inside else dist.Normal(x / 2, 1.4)
            )
            pyro.sample("z0", dist.Normal(0.8 * (z1.squeeze(-1) if inside else z1) + 0.1, 0.6))

    exact = float(dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(1.0)))
    found = log_evidence(Pair(model, guide), x, ImportanceWeighted(100))
    ratio = (found.value - exact).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / len(x) ** 0.5
    pieces = decomposition(Pair(model, guide), x[:400], num_samples=500)
    plain = evidence_elbo(Pair(model, guide), x[:400], num_samples=500)
    assert float(pieces.elbo.mean()) == pytest.approx(float(plain.mean()), abs=0.02)
