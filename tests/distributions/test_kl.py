"""KL(q || p) in closed form is the expectation of log q - log p, and is taken nowhere else."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from torch import Tensor, tensor
from torch.distributions import transforms as T

from ppl_vae import ELBO, VariationalEM
from ppl_vae.distributions import Codes, RelaxedCodes, closed_form_kl, sum_event
from ppl_vae.distributions import kl as rules

LOC = torch.linspace(0.1, 1.2, 4).double()


def d(*numbers):
    return [tensor(number, dtype=torch.float64) for number in numbers]


# -- against quadrature ------------------------------------------------------------------------------------------------

ONE_DIMENSIONAL = {
    "Normal": [dist.Normal(*d(0.3, 0.7)), dist.Normal(*d(-1.0, 2.0))],
    "Beta": [dist.Beta(*d(2.0, 3.0)), dist.Beta(*d(0.5, 0.7))],
    "Gamma": [dist.Gamma(*d(2.0, 3.0)), dist.Gamma(*d(0.6, 0.7)), dist.Chi2(*d(3.0))],
    "Exponential": [dist.Exponential(*d(2.0)), dist.Exponential(*d(0.3))],
    "Uniform": [dist.Uniform(*d(0.2, 0.7)), dist.Uniform(*d(0.0, 1.0)), dist.Uniform(*d(-1.0, 3.0))],
    "ContinuousBernoulli": [dist.ContinuousBernoulli(*d(0.3)), dist.ContinuousBernoulli(*d(0.5))],
    "Pareto": [dist.Pareto(*d(1.0, 5.0)), dist.Pareto(*d(0.2, 6.0))],
    "Laplace": [dist.Laplace(*d(0.3, 0.7)), dist.Laplace(*d(-1.0, 2.0))],
    "Gumbel": [dist.Gumbel(*d(0.3, 0.7)), dist.Gumbel(*d(-1.0, 2.0))],
    "Cauchy": [dist.Cauchy(*d(0.3, 0.7)), dist.Cauchy(*d(-1.0, 2.0))],
    "HalfNormal": [dist.HalfNormal(*d(0.7)), dist.HalfNormal(*d(2.0))],
    "HalfCauchy": [dist.HalfCauchy(*d(0.7)), dist.HalfCauchy(*d(2.0))],
    "LogNormal": [dist.LogNormal(*d(0.3, 0.7)), dist.LogNormal(*d(0.0, 1.0))],
    "InverseGamma": [dist.InverseGamma(*d(3.0, 2.0)), dist.InverseGamma(*d(2.0, 1.0))],
}


def interval(fn) -> tuple[float, float]:
    support = fn.support
    low, high = getattr(support, "lower_bound", -math.inf), getattr(support, "upper_bound", math.inf)
    return float(low), float(high)


def quadrature(q, p) -> float:
    """KL(q || p) by the double exponential rule over the support of q."""
    (low, high), (p_low, p_high) = interval(q), interval(p)
    if low < p_low or high > p_high:
        return math.inf
    t = torch.linspace(-4.5, 4.5, 3001, dtype=torch.float64).requires_grad_()
    u = math.pi / 2 * t.sinh()
    if math.isinf(low):
        x = u.sinh()
    else:
        x = low + u.exp() if math.isinf(high) else low + (high - low) * (2 * u).sigmoid()
    (jacobian,) = torch.autograd.grad(x.sum(), t)
    x, log_q = x.detach(), torch.full_like(x, -math.inf)
    inside = (x > low) & (x < high) & x.isfinite()
    log_q[inside], log_p = q.log_prob(x[inside]), p.log_prob(x[inside])
    density = log_q[inside].exp()
    terms = torch.where(density > 0, density * (log_q[inside] - log_p), 0.0) * jacobian[inside]
    return float(terms.nan_to_num(0.0).sum() * 9.0 / 3000)


def closed_pairs():
    """Every pair of the table that has a closed form."""
    each = [fn for fns in ONE_DIMENSIONAL.values() for fn in fns]
    return [(q, p) for q in each for p in each if closed_form_kl(q, p) is not None]


@pytest.mark.parametrize("name", ONE_DIMENSIONAL)
def test_every_rule_is_the_integral(name):
    for q, p in closed_pairs():
        if q in ONE_DIMENSIONAL[name]:
            exact, found = quadrature(q, p), float(closed_form_kl(q, p))
            assert found == exact or abs(found - exact) < 1e-5 * (1 + abs(exact)), (q, p, found, exact)


def test_the_table_meets_every_continuous_rule_of_torchs():
    names = {name for pair in rules._registered() for name in (pair[0].__name__, pair[1].__name__)}
    assert set(ONE_DIMENSIONAL) - names == {"HalfCauchy", "LogNormal", "InverseGamma"}
    classes = {getattr(td, name) for name in ONE_DIMENSIONAL}
    torchs = {pair for pair in rules._registered() if set(pair) <= classes}
    met = {(rules._law(type(q)), rules._law(type(p))) for q, p in closed_pairs()}
    assert torchs - met == torchs & set(rules._LEFT_OUT)


EYE = torch.eye(3, dtype=torch.float64)
VECTOR = torch.linspace(-0.5, 0.8, 3).double()
VECTORS = {
    "Dirichlet": (dist.Dirichlet(VECTOR.abs() + 1), dist.Dirichlet(torch.ones(3).double())),
    "multivariate": (dist.MultivariateNormal(VECTOR, 0.3 * EYE + 0.1), dist.MultivariateNormal(0 * VECTOR, EYE + 0.3)),
    "low rank": (
        dist.LowRankMultivariateNormal(VECTOR, 0.3 * EYE[:, :1], 0.2 * EYE.sum(0)),
        dist.MultivariateNormal(0 * VECTOR, EYE + 0.3),
    ),
    "independent, multivariate": (
        dist.Normal(VECTOR, 0.5).to_event(1),
        dist.MultivariateNormal(0 * VECTOR, EYE + 0.3),
    ),
    "matrix, multivariate": (
        dist.Normal(VECTOR.expand(2, 3), 0.5).to_event(2),
        dist.MultivariateNormal(torch.zeros(2, 3).double(), EYE + 0.3).to_event(1),
    ),
    "stick breaking": (
        dist.TransformedDistribution(dist.Normal(VECTOR, 0.5).to_event(1), [T.StickBreakingTransform()]),
        dist.LogisticNormal(0 * VECTOR, EYE.sum(0)),
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_rules_of_vectors_are_the_mean_of_draws(name):
    q, p = VECTORS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = q.sample((20000,))
    sampled = q.log_prob(draws) - p.log_prob(draws)
    found = sum_event(closed_form_kl(q, p), q, p)
    assert found.shape == q.batch_shape
    assert abs(float(sampled.mean() - found)) < 4.5 * float(sampled.std()) / math.sqrt(len(draws))


@pytest.mark.parametrize("wrap", ["rows", "independent", "transformed", "transformed, then independent"])
def test_batch_axes_are_left_alone(wrap):
    """Pyro issue 2149 and PyTorch issue 29698: sums over axes of the batch."""
    q, p = dist.Normal(LOC.expand(5, 4), 0.5), dist.Normal(0 * LOC, 1.0)
    entries = td.kl_divergence(q, dist.Normal(torch.zeros(5, 4).double(), 1.0))
    affine = [T.AffineTransform(1.0, 2.0)]
    q, p, exact = {
        "rows": (q, p.expand((5, 4)), entries),
        "independent": (q.to_event(1), p.to_event(1), entries.sum(-1)),
        "transformed": (
            dist.TransformedDistribution(q.to_event(1), affine),
            dist.TransformedDistribution(p.to_event(1), affine),
            entries.sum(-1),
        ),
        "transformed, then independent": (
            dist.TransformedDistribution(q, affine).to_event(1),
            dist.TransformedDistribution(p, affine).to_event(1),
            entries.sum(-1),
        ),
    }[wrap]
    torch.testing.assert_close(sum_event(closed_form_kl(q, p), q, p), exact)


# -- where there is none -----------------------------------------------------------------------------------------------


class Shifted(dist.Normal):
    """A normal whose density is another's."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value - 1.0)


class Squared(T.ExpTransform):
    """exp(2x), with the comparison of exp(x) inherited."""

    def _call(self, x: Tensor) -> Tensor:
        return (2 * x).exp()


def transformed(transform, loc=0.0, base=None):
    chain = transform if isinstance(transform, list) else [transform]
    return dist.TransformedDistribution(dist.Normal(*d(loc, 1.0)) if base is None else base, chain)


SQUARE, LINE = T.PowerTransform(*d(2.0)), T.AffineTransform(*d(1.0, -1.0))
POSITIVE, UNIT_INTERVAL = dist.Gamma(*d(2.0, 3.0)), dist.Beta(*d(2.0, 3.0))
FOLDS = {  # the first chain is not one to one on what the base gives, the second is
    "a square": ([SQUARE], None, POSITIVE),
    "a line, then a square": ([LINE, SQUARE], None, UNIT_INTERVAL),
    "a line that leads below 0, then a square": ([LINE, SQUARE], POSITIVE, UNIT_INTERVAL),
    "composed": ([T.ComposeTransform([LINE, SQUARE])], None, UNIT_INTERVAL),
    "of an event": ([T.IndependentTransform(SQUARE, 1)], dist.Normal(VECTOR, 1.0), dist.Gamma(VECTOR.abs(), 1.0)),
    "a square as the inverse of a root": ([T.PowerTransform(*d(0.5)).inv], None, POSITIVE),
    "the logit": ([T.SigmoidTransform().inv], None, UNIT_INTERVAL),
    "stacked": (
        [T.StackTransform([T.ExpTransform(), SQUARE], -1)],
        dist.Normal(VECTOR[:2], 1.0).to_event(1),
        dist.Gamma(VECTOR[:2].abs(), 1.0).to_event(1),
    ),
    "concatenated": (
        [T.CatTransform([T.ExpTransform(), SQUARE], -1, [1, 2])],
        dist.Normal(VECTOR, 1.0).to_event(1),
        dist.Gamma(VECTOR.abs(), 1.0).to_event(1),
    ),
}


@pytest.mark.parametrize("name", FOLDS)
def test_a_transform_is_one_to_one_on_its_domain_alone(name):
    """The square of N(0, 1) against that of N(1, 1) had the 0.5 nats of the bases; the laws are 0.126 apart."""
    chain, base, inside = FOLDS[name]
    folded, apart = transformed(chain, 0.0, base), transformed(chain, 1.0, base)
    assert closed_form_kl(folded, apart) is None
    found = closed_form_kl(transformed(chain, base=inside), transformed(chain, base=inside))
    torch.testing.assert_close(found, torch.zeros_like(found))


CHAINS = {
    "exp, then a square": [T.ExpTransform(), SQUARE],
    "exp, then a line that stays above 0, then a root": [T.ExpTransform(), T.AffineTransform(*d(1.0, 2.0)), SQUARE],
    "sigmoid, then a line": [T.SigmoidTransform(), LINE],
    "the cube that knows its sign": [dist.transforms.PositivePowerTransform(*d(3.0))],
    "softplus, its log": [T.SoftplusTransform(), T.ExpTransform().inv],
    "leaky": [dist.transforms.LeakyReLUTransform(), T.TanhTransform()],
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_whose_links_meet_has_the_kl_of_the_bases(name):
    torch.testing.assert_close(closed_form_kl(transformed(CHAINS[name], 1.0), transformed(CHAINS[name])), *d(0.5))


def test_powers_and_lines_between_0_and_1_keep_their_closed_form():
    fn = dist.Kumaraswamy(*d(2.0, 3.0))
    torch.testing.assert_close(closed_form_kl(fn, fn), *d(0.0))


UNIT = dist.Normal(*d(0.0, 1.0))
SCALE = tensor(2.0, requires_grad=True)
DRAWN = {
    "folded": (dist.FoldedDistribution(UNIT), dist.FoldedDistribution(dist.Normal(*d(-1.0, 1.0)))),
    "folded, half": (dist.FoldedDistribution(UNIT), dist.HalfNormal(*d(1.0))),
    "ELU, which goes below 0, then a square": (
        transformed([dist.transforms.ELUTransform(), SQUARE]),
        transformed([dist.transforms.ELUTransform(), SQUARE], 1.0),
    ),
    "absolute values": (transformed(T.AbsTransform()), transformed(T.AbsTransform(), 1.0)),
    "a subclass": (Shifted(*d(0.0, 1.0)), UNIT),
    "a subclass as prior": (UNIT, Shifted(*d(0.0, 1.0))),
    "a subclass inside": (Shifted(VECTOR, 1.0).to_event(1), dist.Normal(VECTOR, 1.0).to_event(1)),
    "a subclass inside, multivariate": (Shifted(VECTOR, 1.0).to_event(1), dist.MultivariateNormal(VECTOR, EYE)),
    "a transformed subclass": (
        dist.TransformedDistribution(Shifted(*d(0.0, 1.0)), [T.ExpTransform()]),
        transformed(T.ExpTransform()),
    ),
    "an own transform": (transformed(T.ExpTransform()), transformed(Squared())),
    "an own transform twice": (transformed(Squared()), transformed(Squared())),
    "other transforms": (transformed(T.AffineTransform(1.0, 2.0)), transformed(T.AffineTransform(0.0, 2.0))),
    "a learned transform": (transformed(T.AffineTransform(0.0, SCALE)), transformed(T.AffineTransform(0.0, 2.0))),
    "other event shapes": (dist.Normal(VECTOR, 1.0).to_event(1), dist.Normal(VECTOR[:1], 1.0).to_event(1)),
    "values that are NaN": (dist.NanMaskedNormal(*d(0.0, 1.0)), UNIT),
    "no rule of its own": (dist.Wishart(*d(4.0), EYE), dist.Wishart(*d(5.0), EYE)),
    "masks": (UNIT.mask(True), UNIT.mask(True)),
    "wrong at the edge": (dist.Uniform(*d(0.0, 1.0)), dist.ContinuousBernoulli(*d(0.3))),
    "wrong at rate 0": (dist.Poisson(*d(0.0)), dist.Poisson(*d(1.0))),
}


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_not_exactly_registered_is_drawn(name):
    assert closed_form_kl(*DRAWN[name]) is None


def test_the_same_transform_may_be_learned():
    flow = T.AffineTransform(0.0, SCALE)
    torch.testing.assert_close(closed_form_kl(transformed(flow, 1.0), transformed(flow)), *d(0.5))


def test_parameters_and_ways_to_draw_change_no_law():
    normal, omt = dist.MultivariateNormal(VECTOR, EYE), dist.OMTMultivariateNormal(0 * VECTOR, 2 * EYE)
    torch.testing.assert_close(closed_form_kl(normal, omt), td.kl_divergence(normal, omt))
    codes, prior = RelaxedCodes(torch.randn(3, 2, 4), temperature=tensor(0.5)), Codes(torch.zeros(3, 2, 4))
    torch.testing.assert_close(closed_form_kl(codes, prior), td.kl_divergence(codes, prior))


def test_a_rule_registered_for_an_own_class_counts():
    class Mine(Shifted):
        pass

    @td.register_kl(Mine, td.Normal)
    def rule(q, p):
        return 0.5 * ((q.loc + 1 - p.loc) / p.scale) ** 2

    q, p = Mine(LOC, 1.0), dist.Normal(0 * LOC, 1.0)
    try:
        torch.testing.assert_close(closed_form_kl(q.to_event(1), p.to_event(1)), 0.5 * (LOC + 1) ** 2)
        assert closed_form_kl(type("Hers", (Mine,), {})(LOC, 1.0), p) is None
    finally:
        rules._registered().pop((Mine, td.Normal))


def test_without_the_table_of_rules_every_kl_is_drawn(monkeypatch):
    monkeypatch.setattr(rules.private, "kl_rules", {})
    assert closed_form_kl(UNIT, UNIT) is None


# -- in the bound ------------------------------------------------------------------------------------------------------


def kl_of(q, p, rows: int = 20000) -> float:
    """What ``ELBO()`` reports for one latent under a likelihood that does not depend on it."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", p())
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q())

    return VariationalEM(model, guide).evaluate(torch.zeros(rows), seed=0)["kl"]


def test_folded_and_changed_distributions_have_their_own_kl_in_the_bound():
    """They had that of the bases, and that of the parent: 1.4453, and 0.5 for a density shifted back onto the prior."""
    exact = quadrature(
        dist.FoldedDistribution(dist.Normal(*d(0.9, 1.0))), dist.FoldedDistribution(dist.Normal(*d(-1.0, 1.0)))
    )
    folded = kl_of(
        lambda: dist.FoldedDistribution(dist.Normal(0.9, 1.0)), lambda: dist.FoldedDistribution(dist.Normal(-1.0, 1.0))
    )
    assert abs(folded - exact) < 0.01
    # log q - log p under N(-1, 1), with log q that of N(0, 1): 0.
    assert abs(kl_of(lambda: Shifted(-1.0, 1.0), lambda: dist.Normal(0.0, 1.0))) < 1e-6


def test_a_closed_form_given_an_enumerated_class_keeps_rows_and_classes_apart():
    """q(z) does not depend on the class, p(z | c) does: (K, N) against (N,)."""
    means, weights, locs = tensor([-2.0, 0.0, 3.0]), tensor([0.2, 0.3, 0.5]), torch.linspace(-1, 1, 4)

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(3)))
            z = pyro.sample("z", dist.Normal(means[c], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(weights.expand(4, 3)), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(locs, 0.5))

    given = td.kl_divergence(td.Normal(locs.unsqueeze(-1), 0.5), td.Normal(means, 1.0))
    exact = float((weights * (given + (3 * weights).log())).sum(-1).mean())
    for objective in (ELBO(), ELBO(free_bits=1e-9)):
        found = VariationalEM(model, guide, objective=objective).evaluate(torch.zeros(4), seed=0)["kl"]
        assert abs(found - exact) < 1e-5
