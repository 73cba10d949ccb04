"""The p-value and the band of a distribution function of ranks, against an enumeration of all rank tables."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, chisquare

from ppl_vae.diagnostics.calibration.uniformity import (
    EcdfTest,
    chi_square_p_value,
    fraction_below,
    ks_p_value,
    symmetry_p_value,
)

N, L = 4, 3
EVERY = np.array(list(product(range(L + 1), repeat=N)))  # all tables of 4 ranks from 0 to 3, equally probable


def gamma(ranks: np.ndarray) -> float:
    """By definition: the least two-sided binomial tail over the cuts."""
    found = []
    for k in range(L):
        count, z = int((ranks <= k).sum()), (k + 1) / (L + 1)
        found.append(2 * min(binom.cdf(count, N, z), binom.sf(count - 1, N, z)))
    return min(found)


GAMMAS = np.array([gamma(table) for table in EVERY])


def test_the_p_value_is_that_of_all_tables_of_ranks():
    test = EcdfTest(N, L)
    for table, own in zip(EVERY[::5], GAMMAS[::5], strict=True):
        share = float(np.less_equal(GAMMAS, own * (1 + 1e-9)).mean())
        assert test.p_value(table) == pytest.approx(share, rel=1e-10)


def test_so_it_is_never_too_small():
    """P(p <= a) <= a for every a: also where the ranks are few, and p-values have jumps."""
    found = np.array([EcdfTest(N, L).p_value(table) for table in EVERY])
    for a in np.unique(found):
        assert (found <= a).mean() <= a + 1e-12


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_the_band_holds_everywhere_with_its_level(level):
    test = EcdfTest(N, L)
    lower, upper = test.band(level)
    shares = np.array([test.counts(table) for table in EVERY]) / N
    inside = ((lower <= shares) & (shares <= upper)).all(1)
    assert inside.mean() >= level
    wider = EcdfTest(N, L).limits(GAMMAS[GAMMAS > 0].min() / 2)  # the widest of all: nothing leaves it
    assert (wider[0] == 0).all() and (wider[1] == N).all()
    assert np.array_equal(inside, [test.p_value(table) > 1 - level for table in EVERY])  # both say the same


def test_small_p_values_are_exact():
    """A difference from 1 would end at 1e-16: sixty coins on one side are 2 / 2^60."""
    assert EcdfTest(60, 1).p_value(np.ones(60, dtype=int)) == pytest.approx(2.0**-59, rel=1e-9)
    assert 0 < EcdfTest(100, 199).p_value(np.full(100, 199)) < 1e-220


def test_a_p_value_of_uniform_ranks_is_uniform():
    generator, test = np.random.default_rng(0), EcdfTest(200, 99)
    found = np.array([test.p_value(generator.integers(0, 100, 200)) for _ in range(200)])
    for a in (0.05, 0.25, 0.5):
        assert abs((found <= a).mean() - a) < 4.5 * (a * (1 - a) / 200) ** 0.5


# check_uniformity_frequentist of sbi 0.27.0 on this table, with num_posterior_samples=100 (float32).
SBI = (0.26823327, 0.0034984781, 1.5990685e-05)


def rank_table() -> np.ndarray:
    rng = np.random.default_rng(0)
    uniform = rng.integers(0, 101, 200)
    wide = rng.binomial(100, rng.beta(1.4, 1.4, 200))
    return np.stack([uniform, wide, rng.binomial(100, rng.beta(1.3, 1.0, 200))], 1)


def test_the_p_values_of_sbi_on_the_same_ranks():
    table = rank_table()
    assert table.sum(0).tolist() == [10653, 10553, 11794]  # the table that sbi was given
    for ranks, theirs in zip(table.T, SBI, strict=True):
        assert ks_p_value(ranks, 100) == pytest.approx(theirs, rel=1e-6)
        assert (EcdfTest(200, 100).p_value(ranks) < 0.01) == (theirs < 0.01)


def test_pearsons_test_by_hand():
    ranks = rank_table()[:, 2]  # of 101 ranks in 20 bins the first bin has one more
    counts = [int((ranks < 6).sum()), *(int(((low <= ranks) & (ranks < low + 5)).sum()) for low in range(6, 101, 5))]
    assert sum(counts) == 200
    expected = 200 * np.array([6, *[5] * 19]) / 101
    assert chi_square_p_value(ranks, 100) == pytest.approx(float(chisquare(counts, expected).pvalue))


@pytest.mark.parametrize("level", [0.0, 0.013, 0.5, 0.9, 1.0])
def test_the_share_below_a_level_is_the_level_for_uniform_ranks(level):
    assert fraction_below(np.arange(100), 99, level) == pytest.approx(level)
    assert fraction_below(np.arange(7), 6, level) == pytest.approx(level)


def walk_away(signs: np.ndarray) -> int:
    return int(np.abs(signs.cumsum()).max())


def test_the_p_value_of_symmetry_is_that_of_all_sides():
    """Eight ranks at eight distances from the middle: 2^8 ways of taking sides, equally probable."""
    every = np.array(list(product([-1, 1], repeat=8)))
    farthest = np.array([walk_away(signs) for signs in every])
    for signs in every[::7]:
        ranks = np.where(signs > 0, 99 - np.arange(8), np.arange(8))
        assert symmetry_p_value(ranks, 99) == pytest.approx((farthest >= walk_away(signs)).mean(), abs=1e-12)


def test_symmetry_asks_for_bias_alone():
    generator = np.random.default_rng(0)
    narrow = generator.binomial(99, np.where(generator.random(1000) < 0.5, 0.05, 0.95))
    assert symmetry_p_value(narrow, 99) > 1e-3 and EcdfTest(1000, 99).p_value(narrow) < 1e-50
    assert symmetry_p_value(generator.binomial(99, 0.55, 1000), 99) < 1e-50
    assert symmetry_p_value(np.full(10, 50), 100) == 1.0  # the middle is on no side
    rates = [symmetry_p_value(generator.integers(0, 100, 100), 99) <= 0.1 for _ in range(500)]
    assert 0.02 < np.mean(rates) < 0.1 + 4.5 * (0.09 / 500) ** 0.5
