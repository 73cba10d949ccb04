"""CategoricalLevels: a Categorical whose outcomes are numbers."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch

from ppl_vae.distributions import CategoricalLevels

Z_MAX = 4.5


@pytest.fixture(params=[(0.0, 1.0), (0.0, 1 / 16), (-1.0, 1 / 255), (10.0, 2.5)], ids=str)
def grey(request):
    low, step = request.param
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 17, generator=generator, dtype=torch.float64)
    return CategoricalLevels(logits, low=low, step=step)


def test_probabilities_of_the_support_sum_to_one(grey):
    total = grey.log_prob(grey.enumerate_support()).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


def test_log_prob_is_that_of_the_level(grey):
    level = torch.randint(17, (5, 3, 4), generator=torch.Generator().manual_seed(1))
    value = grey.low + grey.step * level.double()
    expected = dist.Categorical(logits=grey.logits).log_prob(level)
    torch.testing.assert_close(grey.log_prob(value), expected, rtol=1e-12, atol=1e-12)
    # The same values as float32 data hold them: k/255 is not exact there.
    torch.testing.assert_close(grey.log_prob(value.float()), expected, rtol=1e-12, atol=1e-12)


def test_moments_and_entropy_are_sums_over_the_support(grey):
    values = grey.enumerate_support()
    probs = grey.log_prob(values).exp()
    mean = (probs * values).sum(0)
    torch.testing.assert_close(grey.mean, mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grey.variance, (probs * (values - mean) ** 2).sum(0), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(grey.entropy(), -(probs * probs.log()).sum(0), rtol=1e-10, atol=0)
    assert torch.equal(grey.mode, values.gather(0, probs.argmax(0, keepdim=True))[0])


def test_samples_have_the_mean_and_lie_in_the_support(grey):
    torch.manual_seed(2)
    draws = grey.sample((20_000,))
    assert draws.shape == (20_000, 3, 4)
    assert draws.dtype == torch.float64
    assert grey.support.check(draws).all()
    z = (draws.mean(0) - grey.mean) / (grey.variance / len(draws)).sqrt()
    assert z.abs().max() < Z_MAX
    shifted = (draws.mean(0) + 0.1 * grey.step * 17 - grey.mean) / (grey.variance / len(draws)).sqrt()
    assert shifted.abs().max() > Z_MAX  # negative twin


def test_pyros_categorical_has_no_mean():
    """The reason why this class exists."""
    assert dist.Categorical(torch.ones(17)).mean.isnan()


@pytest.mark.parametrize("value", [0.3 / 16, 17 / 16, -1 / 16, math.nan])
def test_values_that_are_no_level_are_refused(value):
    grey = CategoricalLevels(torch.zeros(17), step=1 / 16, validate_args=True)
    with pytest.raises(ValueError, match=r"to be within the support \(levels 0 \+ 0.0625 \* \(0..16\)\)"):
        grey.log_prob(torch.tensor(value))


def test_expand_mask_and_event_dimensions_as_pyro_uses_them():
    logits = torch.randn(4, 17)
    grey = CategoricalLevels(logits, step=1 / 16).expand([3, 4])
    assert grey.batch_shape == (3, 4)
    value = grey.sample()
    masked = grey.mask(torch.tensor([True, False, True, True])).to_event(1)
    assert masked.event_shape == (4,)
    expected = grey.log_prob(value)[:, [0, 2, 3]].sum(-1)
    torch.testing.assert_close(masked.log_prob(value), expected)


def test_enumeration_in_pyro_is_the_exact_sum():
    import pyro
    from pyro.infer import TraceEnum_ELBO, config_enumerate

    logits = torch.randn(5, dtype=torch.float64)
    seen = torch.tensor(0.7, dtype=torch.float64)

    @config_enumerate
    def model():
        x = pyro.sample("x", CategoricalLevels(logits, step=0.5))
        pyro.sample("y", dist.Normal(x, 1.0), obs=seen)

    grey = CategoricalLevels(logits, step=0.5)
    exact = (grey.logits + dist.Normal(grey.levels, 1.0).log_prob(seen)).logsumexp(0)
    loss = TraceEnum_ELBO().loss(model, lambda: None)
    assert loss == pytest.approx(-exact.item(), abs=1e-10)


def test_a_probability_of_zero_has_finite_entropy():
    grey = CategoricalLevels(torch.tensor([0.0, 0.0, -torch.inf]), validate_args=False)
    assert grey.entropy().item() == pytest.approx(math.log(2), abs=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"logits must be \(\.\.\., K\) with K >= 2, got \(4, 1\)"):
        CategoricalLevels(torch.zeros(4, 1))
    with pytest.raises(ValueError, match="step must be positive, got 0"):
        CategoricalLevels(torch.zeros(4), step=0)
