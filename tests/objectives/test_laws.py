"""Laws of the objectives, each beside an exact answer, and with a negative twin that must fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import CASES, DIM, Case, LinearGaussian, Replicated, data_for, function_pair, rows, shared_mean
from pyro.infer import RenyiELBO, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppl_vae._random import isolated_rng
from ppl_vae.data import Batch
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP
from ppl_vae.objectives import ELBO, IWAE, Cyclical, LinearWarmup, Objective, as_objective
from ppl_vae.pair import GlobalLatentError, Pair

GROUPS = ("theta", "phi", "shared")


def gradients(objective: Objective, pair: Pair, batch: Batch, seed: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
    """The report, and the gradient of the loss -L/N by parameter (zeros where there is none)."""
    leaves = pair.parameters_by_name()
    for leaf in leaves.values():
        leaf.grad = None
    with pair.scope(), isolated_rng(seed):
        groups = {group: list(pair.parameters.of(group).values()) for group in GROUPS}
        report = objective.gradients(pair, batch, groups)
    return report, {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in leaves.items()}


def linear(*, exact: bool = False, seed: int = 0) -> tuple[LinearGaussian, Pair, Batch]:
    module = LinearGaussian(exact=exact, seed=seed)
    pair = Pair(module.model, module.guide)
    data = pair.rows(rows())
    return module, pair.initialize(data), data.batch()


def in_float64(case: Case) -> tuple[Pair, Batch]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with isolated_rng(0):
            model, guide = case.make()
        pair = Pair(model, guide, dtype=torch.float64)
        data = pair.rows(data_for(case, 20, torch.float64))
        return pair.initialize(data), data.batch()
    finally:
        torch.set_default_dtype(before)


# -- the ELBO is Pyro's ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Found non-auxiliary vars in guide")  # Pyro's own, of a deterministic site
@pytest.mark.parametrize("num_data", [None, 200], ids=["all rows", "a mini-batch of N rows"])
@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("name", [name for name in CASES if name != "AutoIAFNormal"])
def test_elbo_equals_trace_elbo_at_the_same_noise(name, num_particles, num_data):
    """Value and every gradient, to 1e-10 in float64, for reparametrized and score function terms alike."""
    pair, batch = in_float64(CASES[name])
    batch = Batch(batch.args, batch.kwargs, None, num_data or batch.num_data)
    vectorized = num_particles > 1 and CASES[name].vectorizes
    nesting = pair.layout.plate_nesting
    theirs = Trace_ELBO(num_particles=num_particles, vectorize_particles=vectorized, max_plate_nesting=nesting)
    ours = ELBO(analytic_kl=False, num_particles=num_particles)
    with pair.scope():
        pair.vectorizes(batch)  # its check draws noise of its own
    report, grads = gradients(ours, pair, batch)
    their_report, their_grads = gradients(as_objective(theirs), pair, batch)
    torch.testing.assert_close(report[0], their_report[0], rtol=1e-10, atol=1e-10)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, their_grads[name], rtol=1e-10, atol=1e-10)


def test_the_twin_of_equality_a_wrong_factor_is_seen():
    """Without the factor N/B on local terms, the share of the global terms is wrong, and the law above fails."""
    pair, batch = in_float64(CASES["AutoNormal"])
    right, _ = gradients(ELBO(analytic_kl=False), pair, Batch(batch.args, {}, None, 200))
    wrong, _ = gradients(ELBO(analytic_kl=False), pair, Batch(batch.args, {}, None, 20))
    assert abs(float(right[0] - wrong[0])) > 1e-3


def test_history_columns_add_up():
    _, pair, batch = linear()
    for objective in (ELBO(), ELBO(beta=3.0), IWAE(4)):
        report, _ = gradients(objective, pair, batch)
        torch.testing.assert_close(report[1], report[2] - report[3])
    assert torch.equal(report[1], gradients(IWAE(4), pair, batch)[0][1])


# -- the KL in closed form ---------------------------------------------------------------------------------------------


def test_closed_form_kl_equals_its_large_sample_mean():
    module, pair, batch = linear()
    exact = gradients(ELBO(), pair, batch)[0][3]
    draws = pair.draw(rows(), 4000).values["z"]
    q, p = module.q(rows()), dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)
    sampled = (q.log_prob(draws) - p.log_prob(draws)).mean(1).detach()
    error = sampled.std() / math.sqrt(len(sampled))
    assert abs(float(sampled.mean() - exact)) <= 4.5 * float(error)
    assert abs(float(sampled.mean() - 1.05 * exact)) > 4.5 * float(error)  # the twin: 5 % off is seen


def test_closed_form_elbo_has_the_exact_mean_and_less_noise():
    module, pair, _ = linear()
    exact = float(module.exact_elbo(rows()).mean())
    found = {}
    for analytic in (True, False):
        found[analytic] = mean_and_error(values(ELBO(analytic_kl=analytic), pair, rows(), 1000))
        assert abs(found[analytic][0] - exact) <= 4.5 * found[analytic][1]
    assert found[True][1] < found[False][1]


COPIES = 4000


def hierarchical(order: str) -> tuple[Callable[[Tensor], None], Callable[[Tensor], None]]:
    """The model draws a, then b given a; the guide in one order or the other, with free parameters for every row."""

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 0.5))
            pyro.sample("x", dist.Normal(torch.stack([a, b, a + b], -1), 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(2, COPIES))
        slope = pyro.param("slope", torch.ones(COPIES))
        with pyro.plate("data", len(x)):
            if order == "a first":
                a = pyro.sample("a", dist.Normal(loc[0], 0.7))
                pyro.sample("b", dist.Normal(loc[1] + slope * a, 0.6))
            else:
                b = pyro.sample("b", dist.Normal(loc[1], 0.7))
                pyro.sample("a", dist.Normal(loc[0] + slope * b, 0.6))

    return model, guide


def largest_z(difference: Tensor) -> float:
    """The largest |mean| in standard errors over columns of replicates (R, ...); a column that is 0 counts 0."""
    difference = difference.flatten(1)
    error = difference.std(0) / math.sqrt(len(difference))
    return float((difference.mean(0).abs() / error.clamp(min=1e-12)).max())


def closed_minus_sampled(order: str) -> Tensor:
    """Gradients with and without the closed form, by replicate: (R, 3)."""
    pair = Pair(*hierarchical(order))
    data = pair.rows(rows(1, dtype=torch.float32).expand(COPIES, 3).contiguous())
    pair.initialize(data)
    grads = [
        gradients(ELBO(analytic_kl=closed), pair, data.batch(), seed)[1] for seed, closed in ((1, True), (2, False))
    ]
    closed, sampled = (COPIES * torch.cat([g["loc"], g["slope"].unsqueeze(0)]).T for g in grads)
    return closed - sampled


@pytest.mark.parametrize("order", ["a first", "b first"])
def test_closed_form_kl_is_taken_only_where_parents_agree(order):
    """Where the guide draws b before its parent a, KL(q(b) || p(b|a)) is not the expectation: b must be sampled."""
    assert largest_z(closed_minus_sampled(order)) <= 4.5


def test_the_twin_of_parents_a_closed_form_in_the_wrong_order_is_biased(monkeypatch):
    monkeypatch.setattr("ppl_vae.objectives.elbo.eligible", lambda run, q, p: True)
    assert largest_z(closed_minus_sampled("b first")) > 4.5


def test_point_masses_auxiliaries_masks_and_weights_are_sampled():
    """Sites where Pyro's TraceMeanField_ELBO is wrong or undefined keep the sampled term: equality with Trace_ELBO."""
    for name in ("AutoDelta", "AutoNormal"):
        pair, batch = in_float64(CASES[name])
        ours, theirs = gradients(ELBO(), pair, batch), gradients(as_objective(Trace_ELBO()), pair, batch)
        torch.testing.assert_close(ours[0][0], theirs[0][0], rtol=1e-10, atol=1e-10)


def test_a_weighted_pair_keeps_its_weights_and_the_closed_form_too():
    def model(x):
        with pyro.plate("data", len(x)):
            with pyro.poutine.scale(scale=0.3):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=0.3):
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))

    pair = Pair(model, guide)
    data = pair.rows(rows(dtype=torch.float32))
    batch = pair.initialize(data) and data.batch()
    weighted = gradients(ELBO(), pair, batch)[0]
    q = dist.Normal(torch.zeros(3), 0.5)
    exact = 0.3 * torch.distributions.kl_divergence(q, dist.Normal(torch.zeros(3), 1.0)).sum()
    torch.testing.assert_close(weighted[2] - weighted[0], exact, rtol=1e-5, atol=1e-5)
    reports = torch.stack([gradients(ELBO(), pair, batch, seed)[0][1] for seed in range(200)])
    plain = pair.draw(data, 4000).log_weight.mean(1)  # without weights, as the reported ELBO must be
    error = math.hypot(float(reports.std()) / math.sqrt(200), float(plain.std()) / math.sqrt(4000))
    assert abs(float(reports.mean()) - float(plain.mean())) <= 4.5 * error
    with pytest.raises(ValueError, match="'z' is weighted with poutine.scale"):
        gradients(IWAE(3), pair, batch)


# -- beta, free bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.5, 4.0])
def test_beta_weighs_the_kl_and_leaves_elbo_alone(beta):
    _, pair, batch = linear()
    report, _ = gradients(ELBO(beta=beta), pair, batch)
    torch.testing.assert_close(report[0], report[2] - beta * report[3])
    torch.testing.assert_close(report[1], gradients(ELBO(), pair, batch)[0][1])


def test_beta_also_weighs_the_score_function():
    """Of a discrete latent: the gradient at beta is linear in beta, at the same noise."""
    pair, batch = in_float64(CASES["mixed latents"])
    at = {b: gradients(ELBO(beta=b, analytic_kl=False), pair, batch)[1]["logit"] for b in (0.0, 1.0, 2.0)}
    torch.testing.assert_close(at[2.0] - at[1.0], at[1.0] - at[0.0], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(at[1.0], at[0.0])


def test_schedules_follow_the_step():
    objective = ELBO(beta=LinearWarmup(10))
    _, pair, batch = linear()
    for step, beta in ((0, 0.0), (5, 0.5), (50, 1.0)):
        objective.begin_step(step)
        report, _ = gradients(objective, pair, batch)
        torch.testing.assert_close(report[0], report[2] - beta * report[3])
    assert [Cyclical(10)(t) for t in (0, 4, 9, 10)] == [0.0, 0.8, 1.0, 0.0]


@pytest.mark.parametrize("analytic", [True, False])
def test_free_bits_floor_each_dimension_of_the_batch_mean(analytic):
    module, pair, batch = linear()
    q, p = module.q(rows()), dist.Normal(torch.zeros(2).double(), 1.0)
    by_dimension = torch.distributions.kl_divergence(q.base_dist, p.expand((20, 2))).mean(0).detach()
    floor = float(by_dimension.mean())  # one dimension above, one below
    report, grads = gradients(ELBO(free_bits=floor, analytic_kl=analytic), pair, batch)
    if analytic:
        torch.testing.assert_close(report[0], report[2] - by_dimension.clamp(min=floor).sum())
    torch.testing.assert_close(report[1], report[2] - report[3])
    _, free = gradients(ELBO(free_bits=1e6, analytic_kl=analytic), pair, batch)
    _, without = gradients(ELBO(beta=0.0, analytic_kl=analytic), pair, batch)
    for name, grad in free.items():  # under a floor that no dimension reaches, the KL has no gradient
        torch.testing.assert_close(grad, without[name], rtol=1e-9, atol=1e-9)
    if analytic:
        assert not torch.allclose(grads["model.log_scale"], without["model.log_scale"])


def test_free_bits_need_a_reparametrized_guide():
    pair, batch = in_float64(CASES["mixed latents"])
    with pytest.raises(ValueError, match="free_bits needs a reparametrized guide"):
        gradients(ELBO(free_bits=0.1), pair, batch)


# -- IWAE --------------------------------------------------------------------------------------------------------------


def test_iwae_with_one_particle_is_the_elbo():
    _, pair, batch = linear()
    for gradient in ("iwae",):
        one, grads = gradients(IWAE(1, gradient), pair, batch)
        elbo, their = gradients(ELBO(analytic_kl=False), pair, batch)
        torch.testing.assert_close(one, elbo, rtol=1e-12, atol=1e-12)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, their[name], rtol=1e-10, atol=1e-10)


def values(objective: Objective, pair: Pair, x: Tensor, copies: int, num_data: int | None = None) -> Tensor:
    """The objective's value of each datum, (copies, N): copies of the rows are independent replicates."""
    with pair.evaluating(3):
        return objective.terms(pair, Batch((x.repeat(copies, 1),), {}, None, num_data)).value.unflatten(0, (copies, -1))


def mean_and_error(replicates: Tensor) -> tuple[float, float]:
    means = replicates.mean(1)
    return float(means.mean()), float(means.std()) / math.sqrt(len(means))


@pytest.mark.parametrize("mini_batch", [False, True], ids=["whole", "mini-batches"])
def test_iwae_rises_with_k_and_never_exceeds_the_evidence(mini_batch):
    """E[L_k] does not fall in k, and stays below the exact log p(x), over whole data and over mini-batches of N rows.

    Pyro's RenyiELBO(alpha=0) takes the logsumexp over whole, scaled batches: see the twin below.
    """
    module, pair, _ = linear()
    x = rows()[:5] if mini_batch else rows()
    truth = float(module.log_marginal(x).mean())
    num_data = 10**6 if mini_batch else None
    found = [
        mean_and_error(values(IWAE(k) if k > 1 else ELBO(analytic_kl=False), pair, x, 500, num_data))
        for k in (1, 2, 8, 32)
    ]
    for (fewer, error), (more, next_error) in pairwise(found):
        assert more - fewer >= -2 * math.hypot(error, next_error)
    for mean, error in found:
        assert mean - truth <= 4.5 * error
    assert found[-1][0] > found[0][0]


class WideGuide(LinearGaussian):
    """The exact posterior with 1.5 times its standard deviation: weights are bounded by 2.25 p(x)."""

    def guide(self, x):
        exact = self.posterior(x)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.MultivariateNormal(exact.mean, scale_tril=1.5 * exact.scale_tril))


def test_the_twin_of_the_bound_pyros_renyi_elbo_on_mini_batches_exceeds_the_evidence():
    """Pyro's RenyiELBO(alpha=0) over mini-batches: the factor N/B stands inside the logsumexp, and the mean over an
    epoch ends above the exact log p(x); ours, on the same batches, does not."""
    module = WideGuide()
    pair = Pair(module.model, module.guide).initialize(rows())
    x, renyi = rows(), RenyiELBO(alpha=0, num_particles=32, vectorize_particles=True, max_plate_nesting=1)
    truth = float(module.log_marginal(x).mean())
    batches = [Batch((x[i : i + 1],), {}, None, 20) for i in range(20)]  # every row once: an epoch

    def epochs(objective: Objective) -> Tensor:
        def measure(batch: Batch, seed: int) -> Tensor:
            with pair.evaluating(seed):
                return objective.measure(pair, batch)[0]

        return torch.stack([torch.stack([measure(batch, seed) for batch in batches]) for seed in range(20)])

    theirs, error = mean_and_error(epochs(as_objective(renyi)))
    assert theirs - truth > 4.5 * error and theirs - truth > 0.3
    ours, error = mean_and_error(epochs(IWAE(32)))
    assert ours - truth <= 4.5 * error


def phi_gradients(objective: Objective, seed: int) -> Tensor:
    """The φ-gradient of one datum, (R, 4): each of R copies of it has a guide of its own, and is a replicate."""
    module = Replicated(COPIES)
    pair = Pair(module.model, module.guide).initialize(module.x)
    grads = gradients(objective, pair, Batch((module.x,), {}, None, COPIES), seed)[1]
    return COPIES * torch.cat([grads["model.loc"], grads["model.spread"]], -1)


THETA = ["model.weight", "model.bias", "model.log_sigma"]


def test_dreg_and_iwae_agree_in_expectation_and_theta_at_every_draw():
    assert largest_z(phi_gradients(IWAE(4, "dreg"), 1) - phi_gradients(IWAE(4), 2)) <= 4.5
    _, pair, batch = linear()
    for gradient in ("stl", "dreg"):
        mine, theirs = (gradients(IWAE(4, g), pair, batch)[1] for g in (gradient, "iwae"))
        for name in THETA:
            torch.testing.assert_close(mine[name], theirs[name], rtol=1e-10, atol=1e-10)


def test_stl_is_biased_for_more_than_one_particle_and_exact_for_one():
    """The negative twin of the law above: dropping the score of q changes the expectation for K > 1, and not for 1."""
    assert largest_z(phi_gradients(IWAE(8, "stl"), 1) - phi_gradients(IWAE(8), 2)) > 4.5
    assert largest_z(phi_gradients(IWAE(1, "stl"), 1) - phi_gradients(IWAE(1), 2)) <= 4.5


class ExactGuide(LinearGaussian):
    """A guide of its own parameters, set to the exact posterior."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            exact = self.posterior(rows())
            self.mean = torch.nn.Parameter(exact.mean.clone())
            self.chol = torch.nn.Parameter(exact.scale_tril.clone())

    def guide(self, x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.MultivariateNormal(self.mean, scale_tril=self.chol))


@pytest.mark.parametrize("particles", [1, 5])
def test_stl_vanishes_where_the_guide_is_exact(particles):
    """Sticking the landing: with q = p(z|x) the φ-gradient is 0 at every draw; the plain one is not (the twin)."""
    module = ExactGuide()
    pair = Pair(module.model, module.guide)
    data = pair.rows(rows())
    batch = pair.initialize(data) and data.batch()
    _, stl = gradients(IWAE(particles, "stl"), pair, batch)
    _, dreg = gradients(IWAE(particles, "dreg"), pair, batch)
    _, plain = gradients(IWAE(particles), pair, batch)
    for name in ("model.mean", "model.chol"):
        assert float(stl[name].abs().max()) < 1e-10 and float(dreg[name].abs().max()) < 1e-10
        assert float(plain[name].abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["positive latent", "annotated", "two levels", "index trap", "tutorial"])
@pytest.mark.parametrize("gradient", ["iwae", "stl", "dreg"])
def test_every_gradient_runs_on_every_reparametrized_pair(name, gradient):
    """The θ-gradient is that of the bound whatever becomes of φ's, with transformed and annotated pairs too."""
    pair, batch = in_float64(CASES[name])
    with pair.scope():
        pair.vectorizes(batch)
    report, mine = gradients(IWAE(4, gradient), pair, batch)
    reference, theirs = gradients(IWAE(4), pair, batch)
    assert torch.equal(report, reference)
    for leaf in pair.parameters.of("theta"):
        torch.testing.assert_close(mine[leaf], theirs[leaf], rtol=1e-9, atol=1e-9)
    assert all(bool(torch.isfinite(grad).all()) for grad in mine.values())


def test_stl_of_a_transformed_guide_is_that_of_the_guide_before_its_transform():
    """A LogNormal guide of a LogNormal latent is a normal guide of its logarithm: equal φ-gradients at equal noise."""

    def log_model(x):
        loc = pyro.param("loc", lambda: torch.zeros(3))
        with pyro.plate("data", x.shape[0]):
            t = pyro.sample("t", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(loc, t.exp().unsqueeze(-1)).to_event(1), obs=x)

    def log_guide(x):
        slope = pyro.param("slope", lambda: 0.1 * torch.ones(3))
        spread = pyro.param("spread", lambda: torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("t", dist.Normal(x @ slope, spread))

    case = Case(lambda: (log_model, log_guide), theta=3, phi=4)
    for gradient in ("stl", "dreg"):
        pairs_ = [in_float64(c) for c in (CASES["positive latent"], case)]
        for pair, batch in pairs_:
            with pair.scope():
                pair.vectorizes(batch)
        one, other = (gradients(IWAE(4, gradient), pair, batch)[1] for pair, batch in pairs_)
        for name in ("slope", "spread"):
            torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-9)


def test_what_is_deterministic_or_outside_the_plate_makes_no_other_bound():
    """A ``pyro.deterministic`` adds nothing to IWAE; a factor outside the data plate ties the data."""
    pair, batch = in_float64(CASES["annotated"])
    draws = pair.draw(batch, 4000)
    with pair.evaluating(0):
        value = IWAE(200).terms(pair, batch).value.mean()
    evidence = (torch.logsumexp(draws.log_weight, 0) - math.log(4000)).mean()
    assert abs(float(value - evidence)) < 0.05

    def model(x):
        pyro.factor("whole", torch.tensor(-1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("a", torch.ones(())) * x, 1.0).to_event(1))

    tied = Pair(model, guide)
    data = tied.rows(rows(dtype=torch.float32))
    assert tied.initialize(data).has_global_latents
    with pytest.raises(GlobalLatentError, match="a mini-batch of 5 gives no bound"):
        gradients(IWAE(3), tied, Batch((data.args[0][:5],), {}, None, 20))


def test_free_bits_count_what_the_mask_leaves():
    def model(x):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=MASK):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=MASK):
            pyro.sample("z", dist.Normal(pyro.param("a", torch.ones(())) * x, 0.5).to_event(1))

    pair = Pair(model, guide)
    data = pair.rows(rows(dtype=torch.float32))
    batch = pair.initialize(data) and data.batch()
    masked, floor = (gradients(o, pair, batch)[0][3] for o in (ELBO(analytic_kl=False), ELBO(free_bits=1e-9)))
    assert abs(float(masked - floor)) < 0.5 * float(masked)  # sampled against exact; unmasked it is about twice


MASK = torch.arange(20) < 10


def test_masked_distributions_are_sampled():
    """The model's mask counts on both sides, whichever the guide bears; Pyro needs it on both."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1).mask(MASK))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def value(objective, mask):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(pyro.param("a", torch.ones(())) * x, 0.5).to_event(1).mask(mask))

        pair = Pair(model, guide)
        data = pair.rows(rows(dtype=torch.float32))
        batch = pair.initialize(data) and data.batch()
        return gradients(objective, pair, batch)[0][0]

    theirs = value(as_objective(Trace_ELBO()), MASK)
    for mask in (MASK, ~MASK):
        torch.testing.assert_close(value(ELBO(), mask), theirs, rtol=1e-5, atol=1e-5)


def test_iwae_refuses_what_makes_no_bound():
    pair = Pair(shared_mean, AutoNormal(shared_mean))
    data = pair.rows(rows(dtype=torch.float32))
    pair.initialize(data)
    with pytest.raises(GlobalLatentError, match="a mini-batch of 5 gives no bound"):
        gradients(IWAE(3), pair, Batch((data.args[0][:5],), {}, None, 20))
    whole, _ = gradients(IWAE(64), pair, data.batch())
    assert float(whole[0]) >= float(whole[1])
    mixed, batch = in_float64(CASES["mixed latents"])
    with pytest.raises(ValueError, match="'c' is not reparametrized"):
        gradients(IWAE(3), mixed, batch)


# -- arguments, and service as a Pyro loss -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ELBO(beta=-1.0), "beta must not be negative"),
        (lambda: ELBO(free_bits=-1.0), "free_bits must not be negative"),
        (lambda: ELBO(analytic_kl="yes"), "analytic_kl must be"),
        (lambda: ELBO(num_particles=0), "num_particles must be at least 1"),
        (lambda: IWAE(0), "num_particles must be at least 1"),
        (lambda: IWAE(2, "other"), "gradient must be"),
        (lambda: LinearWarmup(0), "steps must be at least 1"),
        (lambda: Cyclical(0), "period >= 1"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_objectives_and_pyro_elbos_are_objectives():
    with pytest.raises(TypeError, match="an Objective or a Pyro ELBO instance is required"):
        as_objective("elbo")
    assert isinstance(as_objective(None), ELBO) and repr(as_objective(Trace_ELBO())) == "PyroLoss(Trace_ELBO)"


def test_a_latent_that_the_guide_forgets_is_an_error():
    model, _ = function_pair()
    pair = Pair(model, lambda x: None)
    data = pair.rows(rows(dtype=torch.float32))
    pair.initialize(data)
    for objective in (ELBO(), IWAE(2)):
        with pytest.raises(ValueError, match="must sample every latent site of the model"):
            gradients(objective, pair, data.batch())


@pytest.mark.parametrize("objective", [ELBO(analytic_kl=False), IWAE(3), IWAE(3, "dreg")], ids=repr)
def test_an_objective_serves_as_a_pyro_loss(objective):
    """In Pyro's own SVI, on its global store: same loss and same parameters as Trace_ELBO where the two are equal."""
    x = rows(dtype=torch.float32)

    def run(loss):
        model, guide = function_pair()
        with pyro.get_param_store().scope(), isolated_rng(3):
            svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss)
            svi.evaluate_loss(x)  # makes the parameters, from the caller's generator as in Pyro
            with isolated_rng(4):
                losses = [svi.step(x) for _ in range(5)]
            assert math.isfinite(svi.evaluate_loss(x))
            return losses, {name: value.detach().clone() for name, value in pyro.get_param_store().items()}

    losses, params = run(objective)
    assert all(isinstance(loss, float) for loss in losses)
    assert not len(pyro.get_param_store())
    reference, their_params = run(Trace_ELBO())
    if isinstance(objective, ELBO):
        assert losses == pytest.approx(reference, rel=1e-4)
        for name, value in params.items():
            torch.testing.assert_close(value, their_params[name], rtol=1e-4, atol=1e-5)
    else:
        assert sum(losses) < sum(reference)  # the bound is tighter


def test_a_pyro_loss_moves_the_parameters_of_modules():
    """PyroModules that nobody registers with pyro.module: their parameters must be told to Pyro's handlers."""
    torch.manual_seed(0)
    model = VAE(MLP(2, DIM, hidden=(4,)), latent_dim=2, likelihood="bernoulli")
    guide = AmortizedNormal(MLP(DIM, 4, hidden=(4,)), latent_dim=2)
    leaves = [*model.parameters(), *guide.parameters()]
    before = [leaf.detach().clone() for leaf in leaves]
    with pyro.get_param_store().scope():
        pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), ELBO()).step(
            (rows(dtype=torch.float32) > 0).float()
        )
    assert all(not torch.equal(leaf, was) for leaf, was in zip(leaves, before, strict=True))
