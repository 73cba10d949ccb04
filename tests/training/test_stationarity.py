"""Tests of series: their levels on correlated noise are measured, their answers held against formulas."""

from __future__ import annotations

import numpy as np
import pytest

from ppl_vae.training.rising import LEAST_ROWS, still_rising
from ppl_vae.training.stationarity import LEVEL, effective_size, split_rhat, split_rhat_of_chains, trend_of

RUNS = 500


def autoregressions(length: int, memory: float, runs: int = RUNS, *, seed: int = 0) -> np.ndarray:
    """Stationary AR(1) series with unit noise, (runs, length)."""
    noise = np.random.default_rng(seed).standard_normal((runs, length))
    noise[:, 0] /= np.sqrt(1 - memory**2)
    for t in range(1, length):
        noise[:, t] += memory * noise[:, t - 1]
    return noise


def found(series: np.ndarray) -> float:
    return float(np.mean([trend_of(row).is_up for row in series]))


@pytest.mark.parametrize(("length", "memory"), [(40, 0.0), (40, 0.3), (100, 0.6), (300, 0.8), (1000, 0.9)])
def test_a_trend_is_seen_in_noise_no_more_often_than_it_says(length, memory):
    """500 runs at 1 %: more than 2.2 % have a chance of less than 1 in 200."""
    assert found(autoregressions(length, memory)) <= 0.022


def test_a_trend_of_independent_numbers_is_seen_at_its_level_and_not_far_below():
    assert 0.002 <= found(autoregressions(200, 0.0, 1500)) <= 2 * LEVEL


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_a_trend_is_seen_where_there_is_one(memory):
    """A rise by ten times its standard error, were it known: sd of a slope is sqrt(12 / T) of the long-run sd."""
    length = 400
    rise = 10 * np.sqrt(12 / length) / (1 - memory)
    series = autoregressions(length, memory, 100) + rise * np.linspace(0, 1, length)
    assert found(series) >= 0.95
    assert found(-series) == 0
    estimates = [trend_of(row) for row in series]
    assert np.mean([t.rise for t in estimates]) == pytest.approx(rise, rel=0.05)
    assert 0.5 < np.mean([t.standard_error for t in estimates]) / (rise / 10) < 1.3


def test_of_a_series_that_tells_nothing_nothing_is_said():
    assert trend_of(np.arange(19.0)) is None
    assert trend_of(np.ones(100)) is None
    assert trend_of(np.full(100, np.nan)) is None


def test_rhat_is_its_formula():
    series = np.array([[0.0], [2.0], [10.0], [12.0]])  # halves: means 1 and 11, variances 2
    assert split_rhat(series)[0] == pytest.approx(np.sqrt(1 / 2 + 50 / 2))
    assert split_rhat(np.ones((10, 2))).tolist() == [1.0, 1.0]
    assert np.isinf(split_rhat(np.repeat([[0.0], [1.0]], 5, axis=0))[0])


def test_rhat_tells_rest_from_drift():
    rest = autoregressions(400, 0.5, 50).T
    assert split_rhat(rest).max() < 1.1
    assert split_rhat(rest + 8 * np.linspace(0, 1, 400)[:, None]).min() > 1.5


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_the_effective_size_is_that_of_an_autoregression(memory):
    expected = 4000 * (1 - memory) / (1 + memory)
    assert np.median(effective_size(autoregressions(4000, memory, 40).T)) == pytest.approx(expected, rel=0.2)


# -- the end of a history ----------------------------------------------------------------------------------------------


def test_a_run_at_rest_is_called_rising_no_more_often_than_one_percent():
    """And far less often, since the last sixth is asked too."""
    for memory in (0.0, 0.5):
        called = [still_rising({"elbo": -50 + row}) is not None for row in autoregressions(120, memory, RUNS, seed=1)]
        assert np.mean(called) <= 0.022


def test_a_rising_run_is_called_so_with_its_rise():
    line = np.linspace(-30, -27, 301)
    rise = still_rising({"elbo": line + 0.05 * autoregressions(301, 0.3, 1)[0]})
    assert rise.nats == pytest.approx(1.0, abs=0.1) and rise.epochs == 100
    assert "still rising at the end, by 0.97 (" in str(rise) and "nats per datum over the last 100 epochs" in str(rise)


def test_a_curve_that_has_flattened_is_not_called_rising():
    epochs = np.arange(300)
    curve = -40 - 5 * np.exp(-epochs / 20)  # 5 exp(-10) are left in the last third
    noise = 0.01 * autoregressions(300, 0.3, 1)[0]
    assert still_rising({"elbo": curve + noise}) is None
    late = -40 + np.minimum(0, epochs - 240) / 10  # rises into the last third, and then no more
    assert still_rising({"elbo": late + noise}) is None


def test_short_histories_and_small_rises_pass_in_silence():
    line = np.linspace(-30, -27, LEAST_ROWS - 1)
    assert still_rising({"elbo": line}) is None
    assert still_rising({}) is None
    small = 3e-4 * np.linspace(0, 1, 300) + 1e-6 * autoregressions(300, 0.0, 1)[0]  # 1e-4 over the last third
    assert still_rising({"elbo": small}) is None
    assert still_rising({"elbo": small}, num_data=10_000) is not None  # a whole nat, where data share latents


def test_validation_rows_decide_where_there_are_some():
    line, noise = np.linspace(-30, -27, 300), 0.01 * autoregressions(300, 0.0, 1)[0]
    assert still_rising({"elbo": line + noise, "val_elbo": -line + noise}) is None
    assert still_rising({"elbo": noise, "val_elbo": line + noise}).validation


def test_rhat_of_chains_is_one_where_they_agree():
    draws = np.random.default_rng(0).standard_normal((200, 8, 50))
    assert split_rhat_of_chains(draws).max() < 1.02
    draws[:, 0] += 2.0
    assert split_rhat_of_chains(draws).min() > 1.1
    assert split_rhat_of_chains(np.ones((10, 4, 3))).tolist() == [1.0, 1.0, 1.0]
    assert split_rhat_of_chains(draws[:, :1, 0]) == split_rhat(draws[:, 0, :1])[0]
