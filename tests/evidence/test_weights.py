from __future__ import annotations

import math

import pytest
import torch

from ppl_vae.evidence import weights

MATRICES = {
    "log-normal": lambda: torch.randn(500, 6, dtype=torch.float64),
    "far below zero": lambda: torch.randn(500, 6, dtype=torch.float64) - 1e5,
    "far above zero": lambda: torch.randn(500, 6, dtype=torch.float64) + 1e5,
    "with zero weights": lambda: torch.randn(500, 6, dtype=torch.float64).where(torch.rand(500, 6) > 0.3, -torch.inf),
    "constant": lambda: torch.full((500, 6), -3.0, dtype=torch.float64),
}


@pytest.fixture(params=MATRICES, autouse=False)
def log_weights(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MATRICES[request.param]()


def test_laws_of_every_matrix(log_weights):
    found = weights.summarize(log_weights, "a test")
    shift = log_weights.amax()
    relative = (log_weights - shift).exp()
    assert torch.allclose(found.value, relative.mean(0).log() + shift)
    assert torch.allclose(found.standard_error, relative.std(0) / relative.mean(0) / 500**0.5, atol=1e-9)
    assert bool(((found.ess >= 1) & (found.ess <= 500 + 1e-9)).all())
    assert bool(found.khat.isfinite().all())
    assert all(part.dtype == torch.float64 for part in (found.value, found.standard_error, found.ess, found.khat))


def test_scale_moves_the_value_only(log_weights):
    one, other = weights.summarize(log_weights, ""), weights.summarize(log_weights + 2.0, "")
    assert torch.allclose(one.value + 2.0, other.value)
    for name in ("standard_error", "ess", "khat"):
        assert torch.allclose(getattr(one, name), getattr(other, name), atol=1e-6)


def test_one_column_is_the_vector(log_weights):
    table, vector = weights.summarize(log_weights, ""), weights.summarize(log_weights[:, 0], "")
    assert vector.value.shape == ()
    for name in ("value", "standard_error", "ess", "khat"):
        assert torch.allclose(getattr(table, name)[0], getattr(vector, name), atol=1e-9)


def test_columns_never_mix_and_chunks_join(log_weights):
    whole = weights.summarize(log_weights, "")
    parts = weights.join(weights.summarize(log_weights[:, place], "") for place in (slice(0, 4), slice(4, 6)))
    for name in ("value", "standard_error", "ess", "khat"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))


@pytest.mark.parametrize(
    ("noise", "resolution"), [(0.0, 1e-9), (1e-8, 1e-9), (1e-5, 1e-5)], ids=["none", "float64", "float32"]
)
def test_weights_constant_up_to_rounding_are_perfect(noise, resolution):
    log_weights = -100 + noise * torch.linspace(0, 1, 200, dtype=torch.float64)[:, None]
    found = weights.summarize(log_weights, "", resolution=resolution)
    assert float(found.standard_error) == 0.0
    assert float(found.ess) == 200.0
    assert float(found.khat) == 0.0


def test_ess_counts_equal_weights():
    log_weights = torch.full((10, 1), -torch.inf, dtype=torch.float64)
    log_weights[:3] = 7.0
    assert float(weights.effective_sample_size(log_weights)) == pytest.approx(3.0)


def test_a_single_draw_has_no_error_bar():
    found = weights.summarize(torch.tensor([[-2.0, -3.0]]), "")
    assert found.value.tolist() == [-2.0, -3.0]
    assert found.ess.tolist() == [1.0, 1.0]
    assert bool(found.standard_error.isnan().all())
    assert bool(found.khat.isnan().all())


def carried_by(few: int, draws: int, spread: float = 0.0) -> torch.Tensor:
    """Log weights of which ``few`` carry the sum."""
    log_weights = torch.full((draws, 1), -1e6, dtype=torch.float64)
    log_weights[:few] = spread * torch.linspace(0, 1, few, dtype=torch.float64).unsqueeze(-1)
    return log_weights


@pytest.mark.parametrize(("few", "draws"), [(1, 1000), (1, 2), (2, 1000), (3, 1000), (3, 10)])
def test_where_few_draws_carry_the_sum_there_is_no_error_bar(few, draws):
    """By the delta method it would be sqrt((K/ESS - 1) / (K - 1)), never above 1 nat, whatever the value is."""
    log_weights = carried_by(few, draws)
    relative = log_weights.exp()
    claimed = float(relative.std(0) / relative.mean(0)) / draws**0.5
    assert claimed == pytest.approx(math.sqrt((draws / few - 1) / (draws - 1)))
    assert 0.5 < claimed < 1 + 1e-9
    assert math.isnan(float(weights.summarize(log_weights, "").standard_error))


@pytest.mark.parametrize(("few", "draws"), [(5, 1000), (20, 1000), (2, 2), (3, 3)])
def test_where_more_draws_carry_it_there_is_one(few, draws):
    found = weights.summarize(carried_by(few, draws, spread=0.01), "")
    assert float(found.standard_error) == pytest.approx(math.sqrt((draws / few - 1) / (draws - 1)), abs=1e-2)


def test_above_half_a_nat_the_interval_of_the_mean_weight_reaches_zero():
    """What the limit stands on, and what lies beyond it: log-normal weights with a mean of 1."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        log_weights = 8 * torch.randn(1000, 200, dtype=torch.float64) - 32
    relative = (log_weights - log_weights.amax(0)).exp()
    claimed = relative.std(0) / relative.mean(0) / 1000**0.5
    off = weights.log_mean_exp(log_weights).abs()
    beyond = claimed > weights.MAX_ERROR
    assert bool((1 - 2 * claimed[beyond] < 0).all())
    assert float((off / claimed)[beyond].median()) > 4.5  # a bar of at most 1 nat beside an error of many
    known = ~weights.summarize(log_weights, "").standard_error.isnan()
    assert torch.equal(known, ~beyond)


def test_numbers_too_coarse_to_tell_are_not_a_perfect_guide():
    """Log weights of -2e8 nats, many of them nats apart, but by less than float32 can tell."""
    log_weights = -2e8 + 500 * torch.rand(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = weights.summarize(log_weights, "", resolution=1.2e-5)
    assert not bool(found.reliable.any())
    assert bool((found.standard_error > 0.2).all() & (found.ess < 20).all())


def test_no_draw_explains_the_datum():
    found = weights.summarize(torch.full((50, 1), -torch.inf), "")
    assert float(found.value) == -math.inf
    assert math.isnan(float(found.standard_error))
    assert math.isnan(float(found.khat))


def test_the_error_bar_is_the_scatter_of_replicates():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        log_weights = 0.7 * torch.randn(400, 4000, dtype=torch.float64)
    found = weights.summarize(log_weights, "")
    scatter = float(found.value.std())
    claimed = float(found.standard_error.square().mean().sqrt())
    assert claimed == pytest.approx(scatter, rel=4.5 / math.sqrt(2 * 4000) + 0.02)  # 2 %: the delta method's own
