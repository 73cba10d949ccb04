"""Codes against torch's Categorical, enumeration, and what it costs."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch.distributions import Categorical, Independent, kl_divergence

from ppl_vae.distributions import MAX_CODES, Codes, one_hot
from ppl_vae.distributions.codes import require_enumerable, with_relaxation

Z_MAX = 4.5
# (batch, M, K)
SHAPES = [((), 1, 2), ((), 3, 4), ((5,), 1, 7), ((5,), 3, 2), ((2, 5), 2, 3)]


def logits_of(batch, m, k, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*batch, m, k, generator=generator, dtype=torch.float64)


@pytest.fixture(params=SHAPES, ids=str)
def case(request):
    logits = logits_of(*request.param)
    return Codes(logits), Independent(Categorical(logits=logits), 1)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_shapes(case):
    codes, oracle = case
    assert codes.batch_shape == oracle.batch_shape and codes.event_shape == oracle.event_shape
    assert codes.sample((6, 1)).shape == (6, 1, *oracle.batch_shape, *oracle.event_shape)
    assert codes.sample().dtype == torch.long
    assert codes.support.is_discrete and codes.support.event_dim == 1
    assert codes.support.check(codes.sample((100,))).all()


def test_log_prob_entropy_mode_and_probs_are_those_of_categoricals(case):
    codes, oracle = case
    value = codes.sample((6,))
    close(codes.log_prob(value), oracle.log_prob(value))
    close(codes.entropy(), oracle.entropy())
    close(codes.probs, oracle.base_dist.probs)
    assert torch.equal(codes.mode, oracle.base_dist.probs.argmax(-1))


def test_all_codes_in_order_with_probability_one_in_all(case):
    codes, _ = case
    m, k = codes.num_latents, codes.num_classes
    expected = torch.tensor(list(itertools.product(range(k), repeat=m)))
    assert torch.equal(codes.enumerate_support(expand=False).reshape(-1, m), expected)
    whole = codes.enumerate_support()
    assert whole.shape == (k**m, *codes.batch_shape, m)
    total = codes.log_prob(whole).exp().sum(0)
    close(total, torch.ones_like(total))


def test_enumerated_values_score_as_expanded_ones(case):
    codes, oracle = case
    few = codes.enumerate_support(expand=False)
    close(codes.log_prob(few), oracle.log_prob(codes.enumerate_support()))


@pytest.mark.parametrize(
    ("value", "batch"),
    [
        ((4, 1), (5,)),
        ((4, 1, 1), (5,)),
        ((4, 1), (1,)),
        ((4, 3, 1, 1), (2, 5)),
        ((4, 5), (5,)),
        ((4, 2, 5), (1, 5)),
        ((5,), (4, 1)),
        ((), (4, 5)),
        ((4,), ()),
    ],
    ids=str,
)
def test_broadcasting_with_gradients(value, batch):
    """Every way in which rows of codes meet rows of logits, by matrix product or by gathering."""
    logits = logits_of(batch, 2, 3).requires_grad_()
    codes = torch.randint(3, (*value, 2), generator=torch.Generator().manual_seed(1))
    weight = torch.randn(torch.broadcast_shapes(value, batch), dtype=torch.float64)
    gradients = []
    for p in (Codes(logits), Independent(Categorical(logits=logits), 1)):
        log_prob = p.log_prob(codes.expand(*weight.shape, 2) if isinstance(p, Independent) else codes)
        assert log_prob.shape == weight.shape
        gradients += torch.autograd.grad((log_prob * weight).sum(), logits)
    close(*gradients)


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """The number of elements of the largest tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        views = {"expand", "view", "unsqueeze", "transpose", "_unsafe_view", "detach", "slice", "t", "mT"}
        if isinstance(result, torch.Tensor) and func._schema.name.split("::")[1] not in views:
            self.elements = max(self.elements, result.numel())
        return result


def test_scoring_all_codes_on_all_rows_makes_no_tensor_of_codes_times_rows_times_classes():
    rows, p = 64, Codes(torch.randn(64, 5, 4, requires_grad=True))
    value = p.enumerate_support(expand=False)
    with Largest() as seen:
        p.log_prob(value).sum().backward()
    assert seen.elements <= 4**5 * rows
    with Largest() as seen:  # negative twin: the obvious way
        p.expand([4**5, rows]).log_prob(value.expand(-1, rows, 5))
        (one_hot(value, 4) * p.logits).sum()
    assert seen.elements == 4**5 * rows * 20


def test_a_prior_that_a_plate_has_expanded_is_scored_once():
    p = Codes(torch.randn(5, 4)).expand([64])
    value = p.enumerate_support(expand=False)
    with Largest() as seen:
        assert p.log_prob(value).shape == (4**5, 64)
    assert seen.elements <= 4**5 * 20
    assert torch.equal(p.log_prob(value)[:, 0], p.log_prob(value)[:, 63])


def test_the_divergence_is_that_of_categoricals(case):
    codes, oracle = case
    other = logits_of(oracle.batch_shape, codes.num_latents, codes.num_classes, seed=1)
    close(kl_divergence(codes, Codes(other)), kl_divergence(oracle, Independent(Categorical(logits=other), 1)))
    prior = Codes(torch.zeros(codes.num_latents, codes.num_classes, dtype=torch.float64))
    log_k = torch.tensor(float(codes.num_classes), dtype=torch.float64).log()
    close(kl_divergence(codes, prior), codes.num_latents * log_k - codes.entropy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("low", [-1e5, -1e30, -torch.inf])
def test_everything_is_finite_at_probabilities_of_zero(low, dtype):
    logits = torch.zeros(4, 3, 5, dtype=dtype)
    logits[..., 2:] = low
    logits.requires_grad_()
    p = Codes(logits)
    every = p.log_prob(p.enumerate_support())
    assert every.isfinite().all() and p.log_prob(p.enumerate_support(expand=False)).isfinite().all()
    terms = [every.exp() * every, p.entropy(), kl_divergence(p, p), kl_divergence(p, Codes(torch.zeros_like(logits)))]
    assert all(term.isfinite().all() for term in terms)
    torch.testing.assert_close(p.entropy(), p.entropy().new_full((4,), 3 * torch.tensor(2.0).log().item()))
    (gradient,) = torch.autograd.grad(sum(term.sum() for term in terms), logits)
    assert gradient.isfinite().all()
    assert (p.sample((1000,)) < 2).all()


def test_samples_have_the_probabilities():
    torch.manual_seed(3)
    p = Codes(logits_of((4,), 2, 3))
    draws = p.sample((40_000,))

    def z_of(draws):
        frequencies = one_hot(draws, 3, dtype=torch.float64).mean(0)
        return (frequencies - p.probs) / (p.probs * (1 - p.probs) / len(draws)).sqrt()

    assert z_of(draws).abs().max() < Z_MAX
    assert z_of(draws.flip(-1)).abs().max() > Z_MAX  # negative twin: latents exchanged
    both = (draws == p.mode).all(-1).double()  # latents are independent
    exact = p.log_prob(p.mode).exp()
    assert ((both.mean(0) - exact) / (exact * (1 - exact) / len(draws)).sqrt()).abs().max() < Z_MAX


def test_expand_mask_and_types_as_pyro_uses_them():
    logits = torch.randn(4, 2, 3)
    p = Codes(logits).expand([6, 4])
    assert p.batch_shape == (6, 4) and p.enumerate_support().shape == (9, 6, 4, 2)
    value = p.sample()
    masked = p.mask(torch.tensor([True, False, True, True]))
    torch.testing.assert_close(masked.log_prob(value), Codes(logits).log_prob(value) * torch.tensor([1, 0, 1, 1]))
    assert p.to_event(1).log_prob(value).shape == (6,)


def test_enumeration_in_pyro_is_the_exact_sum():
    logits, weight = logits_of((), 3, 2), torch.randn(3, dtype=torch.float64)
    seen = torch.randn(4, dtype=torch.float64)

    @config_enumerate
    def model():
        with pyro.plate("data", 4):
            c = pyro.sample("c", Codes(logits))
            assert c.shape == (8, 1, 3)
            pyro.sample("x", dist.Normal(c.double() @ weight, 1.0), obs=seen)

    p = Codes(logits)
    every = p.enumerate_support()
    exact = p.log_prob(every).unsqueeze(-1) + dist.Normal((every.double() @ weight).unsqueeze(-1), 1.0).log_prob(seen)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda: None)
    assert loss == pytest.approx(-exact.logsumexp(0).sum().item(), abs=1e-10)


def test_a_relaxed_code_is_what_a_network_sees_and_the_density_is_that_of_the_hard_one():
    p = Codes(logits_of((5,), 2, 3))
    value, relaxed = p.sample(), torch.rand(5, 2, 3, dtype=torch.float64, requires_grad=True)
    plain = p.log_prob(value)
    assert torch.equal(with_relaxation(value, relaxed), value)
    assert one_hot(value, 3) is relaxed
    close(p.log_prob(value), plain)
    (gradient,) = torch.autograd.grad(p.log_prob(value).sum(), relaxed)
    close(gradient, p.logits)
    assert one_hot(value.clone(), 3).max() == 1  # negative twin: another tensor is hard
    with pytest.raises(ValueError, match=r"one_hot: the relaxed code must be of 4 classes, got \(5, 2, 3\)"):
        one_hot(value, 4)


def test_one_hot_is_torchs():
    codes = torch.randint(4, (3, 2))
    assert torch.equal(one_hot(codes, 4), torch.nn.functional.one_hot(codes, 4).float())
    assert one_hot(codes, 4, dtype=torch.float64).dtype == torch.float64


def test_what_is_too_many():
    assert math.log2(MAX_CODES) == 20
    require_enumerable("law", 20, 2)
    require_enumerable("law", 1, MAX_CODES)
    with pytest.raises(ValueError, match=r"law: at most 2\^20 joint codes .* got 2\^21 = 2.1e6 joint codes"):
        require_enumerable("law", 21, 2)
    message = (
        r"got 10\^20 = 1e20 joint codes; alternatives: the guide RelaxedCategorical, SampledCategorical .* RLOO or "
        r"VIMCO, or a decoder that factorizes .* at 10 codes a latent"
    )
    with pytest.raises(ValueError, match=message):
        Codes(torch.zeros(20, 10)).enumerate_support()


@pytest.mark.parametrize("shape", [(), (3,), (3, 1), (4, 0, 3)])
def test_bad_shapes(shape):
    with pytest.raises(ValueError, match=r"Codes: logits must be \(\.\.\., M, K\) with M >= 1, K >= 2, got"):
        Codes(torch.zeros(shape))


def test_a_class_that_is_none_is_refused_under_validation():
    p = Codes(torch.zeros(2, 3), validate_args=True)
    for wrong in ([0, 3], [-1, 0]):
        with pytest.raises(ValueError, match="to be within the support"):
            p.log_prob(torch.tensor(wrong))
