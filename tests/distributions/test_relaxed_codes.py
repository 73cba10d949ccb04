"""RelaxedCodes: hard draws of the discrete distribution, with a relaxed twin."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from torch.distributions import kl_divergence
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.distributions import Codes, RelaxedCodes, one_hot
from ppl_vae.distributions.codes import hard_one_hot, relaxation

Z_MAX = 4.5


def relaxed_codes(*, temperature=0.5, straight_through=False, dtype=torch.float64, batch=(4,)):
    """A distribution, with the logits that gradients are taken for as its ``leaf``."""
    logits = 2 * torch.randn(*batch, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    leaf = logits.to(dtype).requires_grad_()
    q = RelaxedCodes(leaf, temperature=torch.tensor(temperature, dtype=dtype), straight_through=straight_through)
    q.leaf = leaf
    return q


def z_of_frequencies(draws, p):
    return (draws.double().mean(0) - p.probs) / (p.probs * (1 - p.probs) / len(draws)).sqrt()


@pytest.mark.parametrize("temperature", [1e-3, 0.5, 5.0])
def test_hard_draws_are_those_of_the_discrete_distribution_at_any_temperature(temperature):
    torch.manual_seed(1)
    q = relaxed_codes(temperature=temperature)
    draws = q.rsample((40_000,))
    assert z_of_frequencies(hard_one_hot(draws, 3, dtype=torch.float64), q).abs().max() < Z_MAX


def test_as_the_temperature_falls_relaxed_draws_have_the_probabilities_too():
    torch.manual_seed(1)
    cold = one_hot(relaxed_codes(temperature=1e-3).rsample((40_000,)), 3).detach()
    assert z_of_frequencies(cold, relaxed_codes()).abs().max() < Z_MAX
    warm = one_hot(relaxed_codes(temperature=2.0).rsample((40_000,)), 3).detach()
    assert z_of_frequencies(warm, relaxed_codes()).abs().max() > Z_MAX  # negative twin


@pytest.mark.parametrize("straight_through", [False, True])
def test_the_hard_code_is_the_argmax_of_the_relaxed_one(straight_through):
    q = relaxed_codes(straight_through=straight_through)
    draws = q.rsample((100,))
    seen = one_hot(draws, 3)
    assert torch.equal(seen.argmax(-1), draws)
    torch.testing.assert_close(seen.sum(-1), torch.ones_like(seen[..., 0]))
    assert (seen == hard_one_hot(draws, 3, dtype=seen.dtype)).all() == straight_through


def test_straight_through_changes_what_is_seen_and_no_gradient():
    gradients = []
    for straight_through in (False, True):
        torch.manual_seed(1)
        q = relaxed_codes(straight_through=straight_through)
        seen = one_hot(q.rsample((100,)), 3)
        gradients += torch.autograd.grad((seen * torch.arange(3)).sum(), q.leaf)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
    assert gradients[0].abs().min() > 0


def test_densities_and_divergence_are_those_of_the_discrete_distribution():
    q = relaxed_codes()
    p = Codes(torch.randn(2, 3, dtype=torch.float64))
    plain = Codes(q.leaf)
    value = q.rsample((7,))
    torch.testing.assert_close(q.log_prob(value), plain.log_prob(value.clone()), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(p.log_prob(value), p.log_prob(value.clone()), rtol=1e-12, atol=1e-12)
    assert torch.equal(kl_divergence(q, p), kl_divergence(plain, p))
    assert torch.equal(q.entropy(), plain.entropy())


def test_the_gradient_of_log_p_goes_through_the_relaxed_code():
    """Without it a sampled KL would lose its gradient: E_q[d log q(c)] at fixed c is 0."""
    torch.manual_seed(1)
    q, p = relaxed_codes(temperature=0.3), Codes(torch.zeros(2, 3, dtype=torch.float64))
    value = q.rsample((20_000,))
    each = q.log_prob(value) - p.log_prob(value)
    (sampled,) = torch.autograd.grad(each.mean(0).sum(), q.leaf, retain_graph=True)
    (exact,) = torch.autograd.grad(kl_divergence(q, p).sum(), q.leaf)
    assert torch.nn.functional.cosine_similarity(sampled.flatten(), exact.flatten(), 0) > 0.95
    hard = value.clone()
    (lost,) = torch.autograd.grad((Codes(q.leaf).log_prob(hard) - p.log_prob(hard)).mean(0).sum(), q.leaf)
    assert lost.norm() < 0.1 * exact.norm()  # negative twin: the hard code alone


@pytest.mark.parametrize("temperature", [1e-2, 1.0])
def test_float32_stays_finite(temperature):
    torch.manual_seed(1)
    q = relaxed_codes(temperature=temperature, dtype=torch.float32, batch=(1000,))
    seen = one_hot(q.rsample((100,)), 3)
    assert seen.dtype == torch.float32 and seen.isfinite().all()
    (gradient,) = torch.autograd.grad((seen * torch.arange(3)).sum(), q.leaf)
    assert gradient.isfinite().all()


def test_an_exponential_of_zero_gives_a_finite_draw(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "exponential_", torch.Tensor.zero_)
    q = relaxed_codes(dtype=torch.float32)
    assert one_hot(q.rsample(), 3).isfinite().all()


def test_the_relaxed_code_survives_plates_particles_and_replay():
    seen = []

    def model():
        with pyro.plate("data", 4):
            seen.append(pyro.sample("c", Codes(torch.zeros(2, 3, dtype=torch.float64))))

    def guide():
        with pyro.plate("data", 4):
            pyro.sample("c", relaxed_codes())

    def particles(fn):
        return pyro.plate("particles", 5, dim=-2)(fn)

    for wrap, shape in ((lambda fn: fn, (4, 2, 3)), (particles, (5, 4, 2, 3))):
        trace = poutine.trace(wrap(guide)).get_trace()
        poutine.trace(poutine.replay(wrap(model), trace=trace)).get_trace()
        assert one_hot(seen.pop(), 3).shape == shape
    assert one_hot(trace.nodes["c"]["value"], 3).requires_grad


def test_expand_keeps_everything():
    q = relaxed_codes(straight_through=True).expand([6, 4])
    value = q.rsample()
    assert value.shape == (6, 4, 2) and relaxation(value).shape == (6, 4, 2, 3)
    assert isinstance(q, RelaxedCodes) and q.has_rsample
    assert relaxation(q.sample()) is None  # a plain sample is hard through and through


def test_a_draw_traces():
    def draw(logits, temperature):
        q = RelaxedCodes(logits, temperature=temperature, validate_args=False)
        value = q.rsample()
        return one_hot(value, 3), q.log_prob(value), Codes(logits, validate_args=False).sample()

    logits, temperature = torch.randn(4, 2, 3), torch.tensor(0.5)
    graph = make_fx(draw, tracing_mode="real")(logits, temperature)
    torch.manual_seed(5)
    expected = draw(2 * logits, 3 * temperature)
    torch.manual_seed(5)
    for a, b in zip(graph(2 * logits, 3 * temperature), expected, strict=True):
        assert torch.equal(a, b)
