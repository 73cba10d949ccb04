"""What all objectives over weighted draws share: their pathwise twins, what they refuse, what only training adds."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from objectives.binary import DATA, DIM, DOUBLE, Binary, bound, bound_pair, drawn, gradients
from pairs import CASES, LinearGaussian, rows, shared_mean
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from ppl_vae import ELBO, IWAE, RLOO, VIMCO, DisARM, Neural, Pair, ReweightedWakeSleep, RunningAverage, ScoreFunction
from ppl_vae._random import isolated_rng
from ppl_vae.data import Batch
from ppl_vae.objectives import Objective
from ppl_vae.pair import GlobalLatentError
from ppl_vae.pair.scope import default_dtype

OBJECTIVES = {
    "ScoreFunction": lambda: ScoreFunction((RunningAverage(), Neural(nn.Linear(DIM, 1)))),
    "ScoreFunction, 3 particles": lambda: ScoreFunction(num_particles=3),
    "RLOO": lambda: RLOO(3),
    "VIMCO": lambda: VIMCO(3),
    "DisARM": DisARM,
    "ReweightedWakeSleep": lambda: ReweightedWakeSleep(3),
}
PER_DATUM = pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)


# -- equal to IWAE and ELBO where they must be -------------------------------------------------------------------------


def test_wake_updates_of_theta_are_those_of_iwae_and_phi_follows_its_draws():
    """At equal draws, with a reparametrized guide: φ must not go along the path of z."""
    module = LinearGaussian()
    pair, batch = bound_pair(module, rows())
    ours, theirs = (gradients(objective, pair, batch) for objective in (ReweightedWakeSleep(4), IWAE(4)))
    for name in ("model.weight", "model.bias", "model.log_sigma"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-10, atol=1e-10)
    with pair.scope(), isolated_rng(1):
        run = pair.runs(batch, 4)[0]
    log_q = module.q(batch.args[0]).log_prob(run.guide_trace.nodes["z"]["value"].detach())
    log_w = sum(score.log_prob for score in run.score_model().values()) - log_q
    followed = (torch.softmax(log_w.detach(), 0) * log_q).sum(0).mean()
    for name in ("slope", "offset", "log_scale"):
        expected = torch.autograd.grad(followed, getattr(module, name), retain_graph=True)[0]
        torch.testing.assert_close(ours[f"model.{name}"], expected, rtol=1e-10, atol=1e-10)
        assert not torch.allclose(ours[f"model.{name}"], theirs[f"model.{name}"])


TWINS = {
    "ScoreFunction": (ScoreFunction, lambda: ELBO(analytic_kl=False)),
    "RLOO": (lambda: RLOO(3), lambda: ELBO(analytic_kl=False, num_particles=3)),
    "VIMCO": (lambda: VIMCO(3), lambda: IWAE(3)),
}


def in_float64(name: str) -> tuple[Pair, Batch]:
    """A pair of the table of pairs."""
    with default_dtype(DOUBLE), isolated_rng(0):
        return bound(*CASES[name].make(), rows())


PATHWISE = ["functions", "pyro modules", "positive latent", "tutorial", "annotated", "two levels"]


@pytest.mark.parametrize("name", PATHWISE)
@pytest.mark.parametrize("kind", TWINS)
def test_with_a_reparametrized_guide_each_is_its_pathwise_twin(kind, name):
    ours, theirs = (gradients(make(), *in_float64(name)) for make in TWINS[kind])
    for leaf, grad in ours.items():
        torch.testing.assert_close(grad, theirs[leaf], rtol=1e-9, atol=1e-9)


def test_the_score_function_without_a_baseline_is_that_of_the_elbo():
    """Where a datum has one discrete site and nothing is independent of it, ELBO() has the same estimator."""
    ours, theirs = (gradients(o, *in_float64("mixed latents")) for o in (ScoreFunction(), ELBO(analytic_kl=False)))
    for leaf, grad in ours.items():
        torch.testing.assert_close(grad, theirs[leaf], rtol=1e-9, atol=1e-9)


@PER_DATUM
def test_a_masked_row_teaches_nothing(make):
    """Neither its densities nor its draws enter a signal."""
    mask = torch.tensor([True, False, True])

    class Masked(Binary):
        def model(self, x):
            with pyro.poutine.mask(mask=mask):
                super().model(x)

        def guide(self, x):
            with pyro.poutine.mask(mask=mask):
                super().guide(x)

    with isolated_rng(0):
        objective = make()
    found = gradients(objective, *bound_pair(Masked(3), DATA))
    is_plain = not objective.buffers() and not objective.parameters()  # a baseline adds noise, of mean 0, to any row
    for grad in found.values():
        assert grad[0].ne(0).any()
        if is_plain:
            assert grad[1].eq(0).all()


# -- what is refused ---------------------------------------------------------------------------------------------------


@PER_DATUM
def test_latents_that_all_data_share_are_refused(make):
    data = rows(dtype=torch.float32)
    pair = Pair(shared_mean, AutoNormal(shared_mean)).initialize(data)
    with pytest.raises(GlobalLatentError, match=r"a value per datum needs latents of each datum's own"):
        gradients(make(), pair, Batch((data,)))


@PER_DATUM
def test_a_pair_without_a_plate_of_data_is_refused(make):
    def model():
        pyro.sample("c", dist.Bernoulli(0.5))

    def guide():
        pyro.sample("c", dist.Bernoulli(pyro.param("p", torch.tensor(0.3))))

    pair = Pair(model, guide).initialize(None)
    with pytest.raises(GlobalLatentError, match="a plate of the data .* is required"):
        gradients(make(), pair, Batch())


@PER_DATUM
def test_weights_on_sites_are_refused(make):
    class Weighted(Binary):
        def model(self, x):
            with pyro.poutine.scale(scale=0.5):
                super().model(x)

    with pytest.raises(ValueError, match=r"the site 'c' is weighted with poutine\.scale"):
        gradients(make(), *bound_pair(Weighted(3), DATA))


@PER_DATUM
def test_a_latent_that_the_guide_forgets_is_refused(make):
    with pytest.raises(ValueError, match="must sample every latent site"):
        gradients(make(), *bound(Binary(3).model, lambda x: None, DATA))
    with pytest.raises(ValueError, match="the guide draws nothing"):
        gradients(make(), *bound(observed_only, lambda x: None, DATA))


def observed_only(x: Tensor) -> None:
    logits = pyro.param("logits", torch.zeros(DIM, dtype=DOUBLE))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def guide_of(*sites: tuple[str, dist.Distribution]) -> tuple[object, object]:
    def guide(x):
        with pyro.plate("data", len(x)):
            for name, fn in sites:
                pyro.sample(name, fn)

    def model(x):
        with pyro.plate("data", len(x)):
            total = sum(pyro.sample(name, fn).reshape(-1, len(x), 1) for name, fn in sites)
            pyro.sample("x", dist.Bernoulli(logits=0 * total.squeeze(0) + x).to_event(1), obs=x)

    return model, guide


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ([("a", dist.Bernoulli(0.5)), ("b", dist.Bernoulli(0.5))], "got 'a', 'b'; RLOO"),
        ([("a", dist.Categorical(torch.ones(3)))], r"but 'a' is Categorical of event shape \(\); RLOO"),
        ([("a", dist.Poisson(2.0))], "but 'a' is Poisson"),
        ([("a", dist.Normal(0.0, 1.0))], r"got none; ELBO\(\) serves"),
    ],
)
def test_disarm_refuses_what_is_no_single_binary_site(sites, message):
    with pytest.raises(ValueError, match=message):
        gradients(DisARM(), *bound(*guide_of(*sites), DATA))


def test_iwae_names_the_objective_that_needs_no_path():
    with pytest.raises(ValueError, match=r"'c' is not reparametrized.* VIMCO\(3\)"):
        gradients(IWAE(3), *bound_pair(Binary(3), DATA))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: RLOO(1), ValueError, "RLOO: num_particles must be at least 2, .* got 1"),
        (lambda: VIMCO(1), ValueError, "VIMCO: num_particles must be at least 2"),
        (lambda: RLOO(0), ValueError, "num_particles must be at least 1"),
        (lambda: ReweightedWakeSleep(1), ValueError, "ReweightedWakeSleep: num_particles must be at least 2"),
        (lambda: ScoreFunction(num_particles=0), ValueError, "num_particles must be at least 1"),
        (lambda: ScoreFunction(nn.Linear(2, 1)), TypeError, r"a baseline such as RunningAverage\(\) is required"),
        (lambda: ScoreFunction("average"), TypeError, r"a baseline such as RunningAverage\(\) is required"),
        (lambda: ScoreFunction(3), TypeError, "is required, got 3"),
        (lambda: RunningAverage(decay=1.0), ValueError, "0 <= decay < 1 is required, got 1.0"),
        (lambda: Neural(lambda x: x), TypeError, "Neural: a torch module is required"),
        (lambda: Neural(nn.LazyLinear(1)), ValueError, "known sizes is required, got one with lazy parameters"),
    ],
)
def test_bad_arguments(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_a_network_of_the_wrong_size_is_an_error():
    objective = ScoreFunction(Neural(nn.Linear(DIM, 2)))
    with pytest.raises(ValueError, match=r"must return \(B,\) or \(B, 1\) for B=3 rows of 5 numbers, got \(3, 2\)"):
        gradients(objective, *bound_pair(Binary(3), DATA))


def test_a_baseline_by_datum_needs_the_data_that_are_drawn_for():
    def plated(x: Tensor) -> Tensor:
        return pyro.plate("data", len(x), subsample_size=2)

    def model(x):
        with plated(x) as rows:
            c = pyro.sample("c", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Bernoulli(logits=c.unsqueeze(-1) + 0 * x[rows]).to_event(1), obs=x[rows])

    def guide(x):
        logit = pyro.param("logit", torch.tensor(0.3, dtype=DOUBLE))
        with plated(x):
            pyro.sample("c", dist.Bernoulli(logits=logit))

    pair = Pair(model, guide, dtype=DOUBLE).initialize(DATA)
    gradients(ScoreFunction(RunningAverage()), pair, Batch((DATA,)))
    with pytest.raises(ValueError, match="gave 3 numbers for 2 data"):
        gradients(ScoreFunction(Neural(nn.Linear(DIM, 1))), pair, Batch((DATA,)))


def test_wake_sleep_has_no_single_loss():
    module = Binary(3)
    with pytest.raises(TypeError, match="no one loss has both gradients"):
        ReweightedWakeSleep(2).differentiable_loss(module.model, module.guide, DATA)


# -- what only training adds -------------------------------------------------------------------------------------------

WANTED = drawn(8, seed=21)


class WithAuxiliary(Binary):
    """Rows 0 and 2 are told where their logits should be."""

    def guide(self, x):
        term = -(self.logits - WANTED).square().sum(-1) * torch.tensor([1.0, 0.0, 1.0], dtype=DOUBLE)
        with pyro.plate("data", len(x)):
            infer = {"_deterministic": True, "_auxiliary": True}
            pyro.sample("c", dist.Bernoulli(logits=self.logits).to_event(1))
            pyro.sample("told", dist.Delta(term).mask(False), obs=term, infer=infer)


@PER_DATUM
def test_an_auxiliary_term_is_trained_on_and_never_reported(make):
    def made(kind: type[Binary]) -> tuple[dict[str, Tensor], object]:
        with isolated_rng(0):
            objective = make()
        pair, batch = bound_pair(kind(3), DATA)
        found = gradients(objective, pair, batch)
        with pair.evaluating(0):
            return found, objective.terms(pair, batch)

    (with_it, told), (without, plain) = made(WithAuxiliary), made(Binary)
    module = WithAuxiliary(3)
    term = -(module.logits - WANTED).square().sum(-1) * torch.tensor([1.0, 0.0, 1.0], dtype=DOUBLE)
    extra = torch.autograd.grad(term.mean(), module.logits)[0]
    torch.testing.assert_close(with_it["model.logits"] - without["model.logits"], extra, rtol=1e-10, atol=1e-10)
    assert torch.equal(with_it["model.bias"], without["model.bias"])
    assert torch.equal(told.report(), plain.report()) and torch.equal(told.value, plain.value)
    torch.testing.assert_close(told.auxiliary, term.mean().detach())
    assert plain.auxiliary == 0.0


def test_an_auxiliary_term_outside_the_plate_is_an_error():
    class Outside(Binary):
        def guide(self, x):
            super().guide(x)
            infer = {"_deterministic": True, "_auxiliary": True}
            pyro.sample("told", dist.Delta(self.logits.sum()).mask(False), obs=self.logits.sum(), infer=infer)

    with pytest.raises((ValueError, GlobalLatentError), match="'told'"):
        gradients(RLOO(2), *bound_pair(Outside(3), DATA))


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        (ScoreFunction(), "ScoreFunction()"),
        (ScoreFunction(RunningAverage()), "ScoreFunction(RunningAverage(decay=0.9))"),
        (
            ScoreFunction((RunningAverage(0.5), Neural(nn.Linear(5, 1))), num_particles=3),
            "ScoreFunction((RunningAverage(decay=0.5), Neural(Linear with 6 parameters)), num_particles=3)",
        ),
        (RLOO(4), "RLOO(4)"),
        (VIMCO(5), "VIMCO(5)"),
        (DisARM(), "DisARM()"),
        (ReweightedWakeSleep(5), "ReweightedWakeSleep(5)"),
    ],
    ids=str,
)
def test_an_objective_is_called_by_its_settings(objective: Objective, text: str):
    assert repr(objective) == text
