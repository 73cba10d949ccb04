"""The bias of a mean of log evidence, against weights whose mean is known."""

import math

import pytest
import torch

from ppl_vae.evidence import Evidence
from ppl_vae.evidence.fewer import LEAST_ROWS, by_fewer, shortfall_of
from ppl_vae.evidence.mixture import Weighed
from ppl_vae.evidence.weights import join, log_mean_exp, log_mean_standard_error, summarize


def log_normal_weights(sets, rows, draws, sd, seed=0):
    """Log weights (sets, draws, rows) of mean 1: log p(x) is 0."""
    source = torch.Generator().manual_seed(seed)
    return sd * torch.randn(sets, draws, rows, generator=source, dtype=torch.float64) - sd**2 / 2


def mean_of(log_w):
    """The mean of the rows, without their k-hats, which take time."""
    value, w = log_mean_exp(log_w), log_w.exp()
    fewer = by_fewer(w, torch.ones_like(w), (len(w),))
    return Evidence(value, log_mean_standard_error(log_w), value, value, "lower", "plain", fewer).mean()


def pieces(values, counts, parts, which):
    return torch.cat([own[which::parts] for own in values.split(counts)])


def test_fewer_draws_of_the_guide_are_those_of_every_second_fourth_and_eighth():
    log_w = log_normal_weights(1, 7, 203, 1.0)[0]
    found = summarize(log_w, "plain").fewer
    for place, parts in enumerate((2, 4, 8)):
        expected = torch.stack([log_mean_exp(log_w[i::parts]) for i in range(parts)]).mean(0)
        torch.testing.assert_close(found[place], expected)


@pytest.mark.parametrize("counts", [(160, 160), (117, 90)])
def test_fewer_draws_of_a_mixture_are_estimates_of_its_smaller_parts(counts):
    source = torch.Generator().manual_seed(2)
    log_w = torch.randn(sum(counts), 5, generator=source, dtype=torch.float64) - 700  # w alone would be 0
    log_h = torch.rand(sum(counts), 5, generator=source, dtype=torch.float64).log() + math.log(2)
    found = Weighed(log_w, log_h, counts).unbiased("mixture").fewer
    for place, parts in enumerate((2, 4, 8)):
        values = []
        for i in range(parts):
            sizes = tuple(len(range(i, count, parts)) for count in counts)
            some = Weighed(pieces(log_w, counts, parts, i), pieces(log_h, counts, parts, i), sizes)
            values.append(some.unbiased("part").value)
        torch.testing.assert_close(found[place], torch.stack(values).mean(0))


@pytest.mark.parametrize("power", [0.3, 0.5, 1.0])
def test_a_bias_that_falls_as_a_power_of_the_draws_is_found(power):
    exact, draws = torch.linspace(-5.0, 3.0, 40), 1000.0
    by = [exact - 2.0 * (draws / parts) ** -power for parts in (1, 2, 4, 8)]
    found = shortfall_of(by[0], torch.stack(by[1:]))
    assert found.value == pytest.approx(2.0 * draws**-power, rel=1e-3)
    assert found.error == pytest.approx(found.value / 2, rel=1e-3)


@pytest.mark.parametrize("sd", [0.3, 1.0])
def test_intervals_of_means_cover_where_the_mean_and_its_error_alone_do_not(sd):
    """60 sets of 1600 rows: so many that the bias is more than the error."""
    plain = held = 0
    for seed in range(60):
        mean = mean_of(log_normal_weights(1, 1600, 300, sd, seed)[0])
        low, high = mean.interval()
        held += low < 0 < high
        plain += abs(mean.value) < 1.96 * mean.standard_error
    assert held >= 54
    if sd == 1.0:
        assert plain < 48


def test_halves_tell_the_error_of_a_mean_also_where_rows_have_none():
    means = [mean_of(log_normal_weights(1, 400, 300, 1.0, seed)[0]) for seed in range(20)]
    ratios = [mean.halves_error / mean.standard_error for mean in means]
    assert sum(ratios) / 20 == pytest.approx(1.0, abs=0.1)
    heavy = [mean_of(log_normal_weights(1, 400, 300, 2.0, seed)[0]) for seed in range(60)]
    assert all(math.isnan(mean.standard_error) for mean in heavy)
    scatter = torch.tensor([mean.value for mean in heavy]).std()
    assert sum(mean.halves_error for mean in heavy) / 60 == pytest.approx(float(scatter), rel=0.35)
    assert sum(mean.interval()[0] < 0 < mean.interval()[1] for mean in heavy) >= 54


@pytest.mark.parametrize("sd", [0.5, 1.0, 1.5])
def test_the_shortfall_is_the_bias(sd):
    means = [mean_of(log_normal_weights(1, 400, 300, sd, seed)[0]) for seed in range(60)]
    left = torch.tensor([mean.value + mean.shortfall for mean in means])
    bias = -sum(mean.value for mean in means) / len(means)
    assert abs(float(left.mean())) < 4.5 * float(left.std()) / math.sqrt(len(left)) + 0.25 * bias


def test_an_exact_guide_has_no_shortfall_and_little_that_is_known_has_none_that_is_known():
    exact = summarize(torch.full((100, 20), -3.0), "plain").mean()
    assert exact.shortfall == exact.shortfall_error == 0.0
    assert exact.interval() == pytest.approx((-3.0, -3.0))
    assert "below" not in repr(exact)
    few_draws = summarize(log_normal_weights(1, 20, 15, 1.0)[0], "plain")
    assert few_draws.fewer is None
    assert math.isnan(few_draws.mean().shortfall)
    few_rows = summarize(log_normal_weights(1, LEAST_ROWS - 1, 100, 1.0)[0], "plain").mean()
    assert math.isnan(few_rows.shortfall)
    assert few_rows.interval()[1] == pytest.approx(few_rows.value + 1.96 * few_rows.standard_error, abs=1e-4)
    assert by_fewer(torch.ones(31, 2), torch.ones(31, 2), (15, 16)) is None
    empty = summarize(torch.full((100, 20), -math.inf), "plain").mean()
    assert math.isnan(empty.shortfall)


def test_parts_of_rows_keep_it_when_they_are_joined():
    log_w = log_normal_weights(1, 30, 100, 1.0)[0]
    whole = summarize(log_w, "plain")
    joined = join([summarize(log_w[:, :11], "plain"), summarize(log_w[:, 11:], "plain")])
    torch.testing.assert_close(joined.fewer, whole.fewer)
    assert joined.mean().shortfall == pytest.approx(whole.mean().shortfall)


def test_the_mean_says_it():
    evidence = summarize(log_normal_weights(1, 50, 100, 1.0)[0], "plain")
    assert isinstance(evidence, Evidence)
    assert f"; below log p(x) by about {evidence.mean().shortfall:.2g} ± " in repr(evidence.mean())


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_a_level_is_a_share(level):
    mean = summarize(log_normal_weights(1, 50, 100, 1.0)[0], "plain").mean()
    with pytest.raises(ValueError, match=r"level must be between 0 and 1, got"):
        mean.interval(level)
