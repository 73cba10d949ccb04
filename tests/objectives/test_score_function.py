"""Score function estimators against gradients that are summed over all 2^8 codes; each law with a planted bug."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from objectives.binary import (
    DATA,
    DIM,
    LATENTS,
    Binary,
    bound_pair,
    by_group,
    drawn,
    exact,
    exact_bound_of_two,
    exact_elbo,
    gradients,
    largest_z,
    replicates,
)
from torch import Tensor

from ppl_vae import RLOO, VIMCO, DisARM, Neural, ReweightedWakeSleep, RunningAverage, ScoreFunction
from ppl_vae._random import isolated_rng
from ppl_vae.data import Batch
from ppl_vae.nn import MLP
from ppl_vae.objectives import Objective, antithetic, leave_one_out
from ppl_vae.objectives.weighted_draws import WeightedDraws


def network() -> MLP:
    with torch.random.fork_rng([]):
        torch.manual_seed(5)
        return MLP(DIM, 1, hidden=(4,))


UNBIASED = {
    "no baseline": ScoreFunction,
    "four particles": lambda: ScoreFunction(num_particles=4),
    "running average": lambda: ScoreFunction(RunningAverage(decay=0.5)),
    "neural": lambda: ScoreFunction(Neural(network())),
    "NVIL": lambda: ScoreFunction((RunningAverage(), Neural(network())), num_particles=2),
    "RLOO(2)": lambda: RLOO(2),
    "RLOO(4)": lambda: RLOO(4),
    "DisARM": DisARM,
}


def after_a_step(objective: Objective) -> Objective:
    """An objective whose running average knows the signals of an earlier step."""
    replicates(objective, DATA[0], count=100, seed=9)
    return objective


def worst(objective: Objective, truth=exact_elbo, **options) -> dict[str, float]:
    """The largest |z| in φ and in θ over data and projections."""
    found = {"phi": 0.0, "theta": 0.0}
    for i, x in enumerate(DATA):
        pairs = zip(found, replicates(objective, x, seed=i, **options), exact(truth, x), strict=True)
        found = {group: max(found[group], largest_z(mine, theirs)) for group, mine, theirs in pairs}
    return found


# -- the mean ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNBIASED)
def test_the_gradient_of_the_elbo_is_unbiased(name):
    found = worst(after_a_step(UNBIASED[name]()))
    assert max(found.values()) <= 4.5, found


def test_vimco_is_unbiased_for_its_own_bound_and_not_for_the_elbo():
    found = worst(VIMCO(2), exact_bound_of_two)
    assert max(found.values()) <= 4.5, found
    assert min(worst(VIMCO(2), exact_elbo).values()) > 4.5  # the twin in φ and in θ: another bound is seen


def exact_wake(log_p: Tensor, log_q: Tensor) -> Tensor:
    """What two draws of reweighted wake-sleep climb: in θ the bound L_2, in φ the weighted log q, over pairs: ()."""
    constant = log_q.detach()
    log_w = (log_p.detach() - constant).exp()
    first, second = log_w.unsqueeze(1), log_w.unsqueeze(0)
    weight = (constant.unsqueeze(1) + constant.unsqueeze(0)).exp()
    followed = (first * log_q.unsqueeze(1) + second * log_q.unsqueeze(0)) / (first + second)
    return (weight * followed).sum() + exact_bound_of_two(log_p, constant)


def test_reweighted_wake_sleep_follows_its_weighted_draws():
    found = worst(ReweightedWakeSleep(2), exact_wake)
    assert max(found.values()) <= 4.5, found
    found = worst(ReweightedWakeSleep(2), exact_bound_of_two)
    assert found["phi"] > 4.5 >= found["theta"]  # the twin: φ does not follow the bound


# -- planted bugs ------------------------------------------------------------------------------------------------------


def with_self(log_w: Tensor) -> Tensor:
    return log_w.mean(0).expand_as(log_w)


def test_the_twin_a_baseline_that_holds_the_draw_itself(monkeypatch):
    """The mean over all draws, own one included: what is left is (K - 1) / K of the gradient."""
    monkeypatch.setattr("ppl_vae.objectives.rloo.mean_of_others", with_self)
    found = worst(RLOO(2))
    assert found["phi"] > 4.5 >= found["theta"]


def test_the_twin_vimco_with_a_geometric_mean_of_all_draws(monkeypatch):
    """``bound_of_others`` looks the mean up where it is defined: with the own draw in it, the signal depends on it."""
    monkeypatch.setattr(leave_one_out, "mean_of_others", with_self)
    found = worst(VIMCO(2), exact_bound_of_two)
    assert found["phi"] > 4.5 >= found["theta"]


def test_the_twin_disarm_without_its_half(monkeypatch):
    right = antithetic.antithetic_score
    monkeypatch.setattr("ppl_vae.objectives.disarm.antithetic_score", lambda runs, name: 2 * right(runs, name))
    found = worst(DisARM())
    assert found["phi"] > 4.5 >= found["theta"]


def test_the_twin_disarm_on_independent_draws(monkeypatch):
    monkeypatch.setattr(antithetic.Antithetic, "_ones", lambda self, name, logits, axis: torch.rand_like(logits) < 0.5)
    assert worst(DisARM())["phi"] > 4.5


def signal_of(change):
    """``ScoreFunction._without_baselines`` with a baseline 5 nats off, or of the wrong sign."""
    right = ScoreFunction._without_baselines

    def changed(self, signal, batch):
        less, psi = right(self, signal, batch)
        return change(signal, less), psi

    return changed


def test_the_twin_a_signal_of_the_wrong_sign(monkeypatch):
    monkeypatch.setattr(ScoreFunction, "_without_baselines", signal_of(lambda signal, less: -less))
    found = worst(after_a_step(ScoreFunction(RunningAverage())))
    assert found["phi"] > 4.5 >= found["theta"]


def test_the_twin_of_the_path_in_theta(monkeypatch):
    monkeypatch.setattr(WeightedDraws, "path", property(lambda draws: 1.1 * draws.log_p))
    found = worst(RLOO(4))
    assert found["theta"] > 4.5


# -- the variance ------------------------------------------------------------------------------------------------------


def variance(objective: Objective) -> float:
    """The sum of the variances of the projections of φ's gradient, over data."""
    return sum(float(replicates(objective, x, seed=i)[0].var(0).sum()) for i, x in enumerate(DATA))


def test_baselines_have_less_variance_than_none():
    plain = variance(ScoreFunction(num_particles=4))
    assert variance(RLOO(4)) < 0.5 * plain
    assert variance(DisARM()) < 0.5 * variance(ScoreFunction(num_particles=2))
    assert variance(after_a_step(ScoreFunction(RunningAverage(), num_particles=4))) < 0.5 * plain


def test_the_twin_a_baseline_of_the_wrong_sign_has_more_variance(monkeypatch):
    """It is unbiased all the same, as any number that is not made of the draws: the variance tells."""
    plain = variance(ScoreFunction())
    monkeypatch.setattr(ScoreFunction, "_without_baselines", signal_of(lambda signal, less: 2 * signal - less))
    objective = after_a_step(ScoreFunction(RunningAverage()))
    assert variance(objective) > 2 * plain
    assert max(worst(objective).values()) <= 4.5


# -- mini-batches ------------------------------------------------------------------------------------------------------

OBJECTIVES = {**UNBIASED, "VIMCO": lambda: VIMCO(3), "reweighted wake-sleep": lambda: ReweightedWakeSleep(3)}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_mini_batch_weighs_its_draws_as_if_it_were_all(name):
    """No factor N/B enters a signal or a logsumexp; the gradient is that of L/N, and Pyro's loss is N times it."""
    pair, batch = bound_pair(Binary(3), DATA)
    few = Batch(batch.args, {}, None, 3000)
    alone, among = (gradients(OBJECTIVES[name](), pair, b) for b in (batch, few))
    for key, grad in alone.items():
        assert torch.equal(grad, among[key])
    with pair.evaluating(0):
        ours = OBJECTIVES[name]().terms(pair, few)
    assert ours.value.shape == (3,) and ours.num_data == 3000 and float(ours.global_value) == 0
    torch.testing.assert_close(ours.elbo, ours.reconstruction - ours.kl)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ("running average", "NVIL")])
def test_as_a_pyro_loss_the_gradient_is_that_of_all_rows(name):
    objective, module = OBJECTIVES[name](), Binary(3)
    pair, batch = bound_pair(module, DATA)
    per_datum = gradients(objective, pair, batch, seed=3)
    psi = {key: leaf.grad.clone() for key, leaf in objective.parameters().items()}
    with pyro.get_param_store().scope():
        objective.loss_and_grads(module.model, module.guide, DATA)  # a first call looks at the pair
        for leaf in (*module.parameters(), *objective.parameters().values()):
            leaf.grad = None
        with isolated_rng(3):
            objective.loss_and_grads(module.model, module.guide, DATA)
    for key, leaf in module.named_parameters():
        torch.testing.assert_close(-leaf.grad, 3 * per_datum[f"model.{key}"], rtol=1e-10, atol=1e-10)
    for key, leaf in objective.parameters().items():
        torch.testing.assert_close(leaf.grad, 3 * psi[key], rtol=1e-10, atol=1e-10)


# -- other sites beside the binary one ---------------------------------------------------------------------------------

FEW = 4
NODES, WEIGHTS = map(torch.as_tensor, np.polynomial.hermite_e.hermegauss(80))
FEW_CODES = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * FEW)


class Mixed(Binary):
    """Four binary latents and a normal one, which the guide draws after them, or before."""

    def __init__(self, rows: int, *, first: str = "c") -> None:
        super().__init__(rows)
        for name in ("logits", "prior"):
            setattr(self, name, torch.nn.Parameter(getattr(self, name)[..., :FEW].detach().clone()))
        self.weight = self.weight[:FEW]
        self.loc = torch.nn.Parameter(torch.full((rows, 1), 0.4, dtype=torch.float64))
        self.spread = torch.nn.Parameter(torch.full((rows, 1), -0.3, dtype=torch.float64))
        self.slope, self.first = drawn(FEW, seed=11), first
        self.beside = drawn(DIM, seed=12)

    def q_z(self, c: Tensor) -> dist.Normal:
        shift = (c @ self.slope) if self.first == "c" else 0.0
        return dist.Normal(self.loc.squeeze(-1) + shift, self.spread.squeeze(-1).exp())

    def q_c(self, z: Tensor) -> dist.Bernoulli:
        return dist.Bernoulli(logits=self.logits if self.first == "c" else self.logits + z.unsqueeze(-1) * self.slope)

    def likelihood(self, c: Tensor, z: Tensor) -> dist.Bernoulli:
        return dist.Bernoulli(logits=self.decoded(c) + z.unsqueeze(-1) * self.beside)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(logits=self.prior).to_event(1))
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", self.likelihood(c, z).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            if self.first == "c":
                c = pyro.sample("c", self.q_c(self.loc).to_event(1))
                pyro.sample("z", self.q_z(c))
            else:
                z = pyro.sample("z", self.q_z(self.prior))
                pyro.sample("c", self.q_c(z).to_event(1))

    def exact(self, x: Tensor) -> Tensor:
        """The ELBO of one row, a sum over codes and a quadrature over z: ()."""
        c = FEW_CODES.unsqueeze(1)  # (16, 1, 4)
        q_z = self.q_z(c)
        z = (q_z.loc + q_z.scale * NODES).expand(len(FEW_CODES), -1)  # (16, 80)
        log_q_c = self.q_c(z).log_prob(c).sum(-1).expand_as(z)
        log_p = dist.Bernoulli(logits=self.prior).log_prob(c).sum(-1) + dist.Normal(0.0, 1.0).log_prob(z)
        log_w = log_p + self.likelihood(c, z).log_prob(x).sum(-1) - log_q_c - q_z.log_prob(z)
        return (log_q_c.exp() * log_w * WEIGHTS / WEIGHTS.sum()).sum()


MIXED = {
    "score function": (ScoreFunction, ("c", "z")),
    "RLOO(3)": (lambda: RLOO(3), ("c", "z")),
    "DisARM": (DisARM, ("c",)),
}
LEAVES = ("logits", "loc", "spread", "prior", "bias")


def mixed_z(objective: Objective, first: str, count: int = 5000) -> float:
    one = Mixed(1, first=first)
    names = [(name, getattr(one, name)) for name in LEAVES]
    truth = torch.cat([g[0] for g in torch.autograd.grad(one.exact(DATA[0]), [leaf for _, leaf in names])])
    pair, batch = bound_pair(Mixed(count, first=first), DATA[0].expand(count, -1).contiguous())
    found = gradients(objective, pair, batch)
    return largest_z(count * torch.cat([found[f"model.{name}"] for name in LEAVES], -1), truth)


@pytest.mark.parametrize(("name", "first"), [(n, first) for n, (_, order) in MIXED.items() for first in order])
def test_a_mixed_pair_is_unbiased_on_both_its_sides(name, first):
    """A code by its score and a normal by its path, in either order: every single parameter."""
    assert mixed_z(MIXED[name][0](), first) <= 4.5


def test_the_twin_of_the_mixed_pair_a_path_that_is_cut(monkeypatch):
    monkeypatch.setattr(WeightedDraws, "path", property(lambda draws: draws.log_p))  # without the normal's own log q
    assert mixed_z(RLOO(3), "c") > 4.5


def test_disarm_needs_the_same_logits_for_both_draws():
    pair, batch = bound_pair(Mixed(3, first="z"), DATA)
    with pytest.raises(ValueError, match="DisARM: the guide draws 'z' before 'c', and a pair of draws needs the same"):
        gradients(DisARM(), pair, batch)


# -- DisARM on other shapes --------------------------------------------------------------------------------------------


class OneByOne(Binary):
    """A decoder that breaks under a plate of particles: draws are made in two runs."""

    def decoded(self, c: Tensor) -> Tensor:
        return super().decoded(c.reshape(len(c) if c.shape[0] in (256, 1) else len(self.bias), LATENTS))


def test_disarm_is_unbiased_in_two_runs_of_one_draw():
    count = 5000
    pair, batch = bound_pair(OneByOne(count), DATA[1].expand(count, -1).contiguous())
    with pair.scope():
        assert not pair.vectorizes(batch)
    found = gradients(DisARM(), pair, batch)
    mine = by_group(*(count * found[f"model.{name}"] for name in ("logits", "prior", "bias")))
    for found, truth in zip(mine, exact(exact_elbo, DATA[1]), strict=True):
        assert largest_z(found, truth) <= 4.5


class Classes(Binary):
    """The same, with integer codes of two classes."""

    def guide(self, x: Tensor) -> None:
        logits = torch.stack([torch.full_like(self.logits, 0.7), self.logits + 0.7], -1)
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(logits=logits).to_event(1))

    def model(self, x: Tensor) -> None:
        logits = torch.stack([torch.zeros_like(self.prior), self.prior], -1)
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=logits).to_event(1))
            assert c.dtype == torch.long
            pyro.sample("x", dist.Bernoulli(logits=self.decoded(c.double())).to_event(1), obs=x)


def test_two_classes_are_a_bernoulli_to_disarm():
    ours, theirs = (gradients(DisARM(), *bound_pair(kind(3), DATA)) for kind in (Classes, Binary))
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-10, atol=1e-10)


# -- baselines learn ---------------------------------------------------------------------------------------------------


def test_a_running_average_is_the_mean_of_earlier_signals():
    average, batch = RunningAverage(decay=0.5), Batch((DATA,))
    assert float(average(batch)) == 0
    for signal in (-8.0, -4.0, -1.0):
        average.learn(torch.full((2, 3), signal), average(batch))
    expected = (0.25 * -8 + 0.5 * -4 + 1 * -1) / 1.75
    assert float(average(batch)) == pytest.approx(expected)


def test_each_baseline_learns_what_those_before_it_leave():
    """By the gradient in ψ: of -mean (log w - c - b(x))²."""
    objective = ScoreFunction((RunningAverage(decay=0.0), Neural(network())))
    pair, batch = bound_pair(Binary(3), DATA)
    gradients(objective, pair, batch, seed=1)
    before = float(objective.baselines[0](batch))
    gradients(objective, pair, batch, seed=2)
    found = {name: leaf.grad for name, leaf in objective.parameters().items()}
    with pair.scope(), torch.no_grad(), isolated_rng(2):
        log_w = ScoreFunction().terms(pair, batch).value
    assert before != 0 and float(objective.baselines[0](batch)) == pytest.approx(float(log_w.mean()))
    loss = (log_w - before - objective.baselines[1](batch)).square().mean()
    expected = torch.autograd.grad(loss, list(objective.parameters().values()))
    for mine, theirs in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_without_gradients_a_baseline_stays_as_it_is():
    objective = after_a_step(ScoreFunction(RunningAverage()))
    before = {name: buffer.clone() for name, buffer in objective.buffers().items()}
    pair, batch = bound_pair(Binary(3), DATA)
    with pair.evaluating(0):
        report = objective.measure(pair, batch)
    assert math.isfinite(float(report[0])) and before
    assert all(torch.equal(before[name], buffer) for name, buffer in objective.buffers().items())
