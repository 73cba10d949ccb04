"""Fits without a length: they end by themselves, near the best of the family, and resume to the bit."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from ppl_vae import ELBO, VariationalEM
from ppl_vae.data.batches import SourceBatches
from ppl_vae.inference.common_noise import Gain, gain, measured
from ppl_vae.inference.convergence import Convergence
from ppl_vae.inference.look import HEAVY, RATES, left_to_gain, next_rate
from ppl_vae.inference.until import settles
from ppl_vae.objectives.annealing import LinearWarmup
from ppl_vae.pair import Pair

NOISE = 0.5


def columns(count=40):
    """Orthogonal ones, so that mean field holds the posterior."""
    generator = torch.Generator().manual_seed(0)
    x = torch.linalg.qr(torch.randn(count, 2, generator=generator))[0] * math.sqrt(count)
    return x, x @ torch.tensor([1.0, -2.0]) + NOISE * torch.randn(count, generator=generator)


X, Y = columns()


def regression(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal((w * x).sum(-1), NOISE), obs=y)


def log_evidence():
    x, y = X.double(), Y.double()
    covariance = x @ x.T + NOISE**2 * torch.eye(len(y), dtype=torch.float64)
    return float(dist.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y))


def fitted(*, seed=0, optimizer=torch.optim.Adam, model=regression, **options):
    em = VariationalEM(model, AutoNormal(model), optimizer=optimizer)
    return em.fit((X, Y), seed=seed, progress=False, **options)


@pytest.mark.parametrize(
    ("optimizer", "most"),
    [(torch.optim.Adam, 5000), pytest.param(torch.optim.SGD, 20_000, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_it_ends_by_itself_within_a_tenth_of_a_nat(seed, optimizer, most):
    fit = fitted(seed=seed, optimizer=optimizer)
    assert fit.ended == "converged"
    assert fit.steps < most
    assert log_evidence() - float(fit.elbo((X, Y), num_samples=4000, seed=3)) < 0.1
    assert fit.rise is None


def test_mini_batches_end_too():
    fit = fitted(batch_size=10)
    assert fit.ended == "converged"
    assert log_evidence() - float(fit.elbo((X, Y), num_samples=4000, seed=3)) < 0.1


def test_a_run_that_is_cut_short_says_so_and_goes_on_to_the_bit(tmp_path):
    whole = fitted(seed=4)
    cut = fitted(seed=4, max_steps=330, checkpoint=tmp_path, every=50)
    assert cut.ended == "not converged after 330 steps" and cut.steps == 330
    later = fitted(seed=4, checkpoint=tmp_path, resume=True)
    assert (later.ended, later.steps) == (whole.ended, whole.steps)
    for name, value in whole.params.items():
        assert torch.equal(later.params[name], value)


def test_a_given_length_has_no_rule():
    fit = fitted(steps=30)
    assert fit.ended == "completed" and "until" not in fit.config


def test_a_rate_that_ends_in_nan_is_left():
    """Far from its start the density of this model is no number; trials at great rates run into it."""

    def edge(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        bad = torch.where(w.abs().sum(-1) > 8, math.nan, 0.0)
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal((w * x).sum(-1) + bad.unsqueeze(-1), NOISE, validate_args=False), obs=y)

    fit = fitted(model=edge)
    assert fit.ended == "converged"
    assert log_evidence() - float(fit.elbo((X, Y), num_samples=2000, seed=3)) < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"until": "converged", "steps": 3}, "until is of fits without a length, got steps"),
        ({"gain_tol": 0.1, "epochs": 3}, "gain_tol is of fits without a length, got epochs"),
        ({"until": "done"}, "until must be 'converged', got 'done'"),
        ({"gain_tol": 0.0}, "gain_tol must be a positive number"),
    ],
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        fitted(**options)


def test_warm_up_is_waited_for():
    is_settled = settles(ELBO(beta=LinearWarmup(500)), None, [])
    assert not is_settled(100) and is_settled(500)
    assert settles(ELBO(), None, [])(0)


# what it is made of


def best_of(worth):
    """Where the climb over rates ends, of what each is worth."""
    tried = {12: worth(RATES[12])}
    while (number := next_rate(tried)) is not None:
        tried[number] = worth(RATES[number])
    return max(tried, key=tried.get), len(tried)


@pytest.mark.parametrize("best", [1e-4, 1e-2, 0.3])
def test_the_best_rate_is_found_uphill(best):
    number, looks = best_of(lambda rate: -abs(math.log(rate / best)))
    assert RATES[number] == pytest.approx(best, rel=0.3)
    assert looks < len(RATES) - 2


@pytest.mark.parametrize("power", [0.4, 0.5, 0.7])
@pytest.mark.parametrize("time", [40.0, 1000.0])
def test_what_is_left_of_a_power_of_time_is_found_from_two_doublings(power, time):
    def shortfall(at):
        return 3.0 * at**-power

    last = Gain(shortfall(time / 2) - shortfall(time), 0.0)
    before = Gain(shortfall(time / 4) - shortfall(time / 2), 0.0)
    assert left_to_gain(last, before) == pytest.approx(shortfall(time))
    unknown = Gain(before.value, before.value)  # noise: then by the smallest share that is believed
    assert left_to_gain(last, unknown) == pytest.approx(last.value * HEAVY / (1 - HEAVY))
    assert left_to_gain(last.times(-1.0), before) == 0.0


def test_more_is_said_to_be_left_than_a_fast_way_leaves_and_no_less_than_noise_hides():
    fast = left_to_gain(Gain(0.01, 0.0), Gain(0.1, 0.0))
    assert fast == pytest.approx(0.01 * HEAVY / (1 - HEAVY))
    assert fast > 0.01 * 0.1 / 0.9
    assert left_to_gain(Gain(-0.2, 0.1), None) == pytest.approx(0.1 * HEAVY / (1 - HEAVY))


def test_what_batches_differ_by_is_no_error_of_a_gain_where_all_rows_are_met():
    noise = np.random.default_rng(0).normal(size=(40, 5))
    by_batch = 100.0 * np.arange(5)
    found = gain(np.zeros((40, 5)), 1.0 + by_batch + noise)
    assert found.value == pytest.approx(1.0 + by_batch.mean(), abs=5 * found.standard_error)
    assert found.standard_error == pytest.approx(1 / math.sqrt(200), rel=0.2)


def test_rates_that_end_in_nan_lead_down():
    number, _ = best_of(lambda rate: -math.inf if rate > 1e-3 else rate)
    assert RATES[number] == pytest.approx(1e-3)


def test_answers_are_measured_on_the_same_noise_and_nothing_is_left_behind():
    pair = Pair(regression, AutoNormal(regression)).initialize((X, Y))
    live = pair.parameters_by_name()
    before = {name: value.detach().clone() for name, value in live.items()}
    off = {name: value + 0.05 for name, value in before.items()}
    objective = ELBO(analytic_kl=False, num_particles=8)
    batches = SourceBatches(pair.rows((X, Y)), None, with_index=False)
    here, again, there = measured(
        pair,
        lambda batch: objective.measure(pair, batch),
        batches,
        live,
        [before, before, off],
        seed=1,
        tol=1e-9,
        most=64,
    )
    np.testing.assert_array_equal(here, again)
    assert gain(here, again).value == 0.0 == gain(here, again).standard_error
    assert here.shape == (64, 1)  # noises on one batch
    found = gain(here, there)
    assert found.standard_error < here.std(ddof=1) / math.sqrt(len(here))  # what both scatter alike cancels
    for name, value in live.items():
        assert torch.equal(value, before[name])


def test_the_state_of_the_rule_is_a_plain_tree_that_comes_back():
    fit = fitted(seed=4, max_steps=330)
    rule = next(callback for callback in fit.trainer.callbacks if isinstance(callback, Convergence))
    twin = Convergence(rule.tol, seed=0)
    twin.load_state(rule.state())
    assert _plain(twin.state()) == _plain(rule.state())


def _plain(tree):
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(value) for value in tree]
    return tree.tolist() if isinstance(tree, torch.Tensor) else tree


def test_a_window_that_has_left_a_plateau_has_something_ahead():
    rule = Convergence(0.02, has_plateaus=True)
    rule.factor, rule.time, rule.window.length = 2.0, 1000.0, 50
    ahead = rule._ahead(Gain(0.003, 0.0001), 0.0005)
    # From time 925 to 975 it has gained 0.003; at this pace, as 1 / time, a doubling brings 925 / 50 times as much.
    assert ahead == pytest.approx(0.003 * 925 / 50 * 1.5, rel=0.05)
    assert rule._ahead(Gain(0.003, 0.0001), 0.002) == 0.0  # a walk about a mean makes as much
    assert rule._ahead(Gain(0.003, 0.002), 0.0) == 0.0
