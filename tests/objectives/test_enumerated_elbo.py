"""ELBO() over enumerated sites is Pyro's TraceEnum_ELBO, value and gradient, and the exact bound."""

from __future__ import annotations

import pyro
import pytest
import torch
from enumerated import CASES, Discrete, made
from pairs import rows
from pyro.infer import TraceEnum_ELBO

from ppl_vae.data.rows import Batch
from ppl_vae.objectives import ELBO
from ppl_vae.pair import Pair, tabulate

X = rows(6)


def ours(module: Discrete, batch: Batch | None = None, **options) -> tuple[torch.Tensor, list[torch.Tensor]]:
    pair = Pair(module.model, module.guide).initialize(X)
    with pair.scope():
        torch.manual_seed(1)
        terms = ELBO(**options).terms(pair, batch or pair.rows(X).batch())
        total = terms.num_data * terms.objective
        grads = torch.autograd.grad(terms.num_data * terms.surrogates["theta"], _leaves(module), allow_unused=True)
    return total.detach(), _whole(module, grads)


def _leaves(module: Discrete) -> list[torch.Tensor]:
    return list(module.parameters())


def _whole(module: Discrete, grads) -> list[torch.Tensor]:
    return [torch.zeros_like(p) if g is None else g for p, g in zip(_leaves(module), grads, strict=True)]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.by_pyro])
def test_it_is_pyros_own(name):
    module = made(name)
    value, gradient = ours(module, analytic_kl=False)
    with pyro.get_param_store().scope({"params": {}, "constraints": {}}):
        torch.manual_seed(1)
        loss = TraceEnum_ELBO(max_plate_nesting=module.nesting).differentiable_loss(module.model, module.guide, X)
        expected = _whole(module, torch.autograd.grad(-loss, _leaves(module), allow_unused=True))
    assert abs(float(value + loss.detach())) < 1e-10
    for one, other in zip(gradient, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.exact])
def test_without_continuous_latents_nothing_is_random(name):
    module = made(name)
    values = []
    for seed in (1, 2):
        pair = Pair(module.model, module.guide).initialize(X)
        with pair.scope():
            torch.manual_seed(seed)
            values.append(ELBO().terms(pair, pair.rows(X).batch()).value)
    assert torch.equal(*values)


@pytest.mark.parametrize("name", ["plain", "bits", "chained"])
def test_the_gradient_is_that_of_the_table(name):
    module = made(name)
    _, gradient = ours(module)
    pair = Pair(module.model, module.guide).initialize(X)
    with pair.scope():
        exact = tabulate(pair, pair.rows(X).batch()).elbo.sum()
        expected = _whole(module, torch.autograd.grad(exact, _leaves(module), allow_unused=True))
    for one, other in zip(gradient, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["plain", "in a plate", "many rows", "bits"])
def test_mini_batches_stand_for_all_rows(name):
    """The mean over all mini-batches of a partition is the whole, value and gradient."""
    module = made(name)
    value, gradient = ours(module)
    parts = [ours(module, Batch((X[i : i + 2],), {}, None, len(X))) for i in (0, 2, 4)]
    assert torch.allclose(torch.stack([v for v, _ in parts]).mean(), value, atol=1e-10)
    for i, whole in enumerate(gradient):
        assert torch.allclose(torch.stack([g[i] for _, g in parts]).mean(0), whole, atol=1e-10)


def test_closed_form_and_draws_agree_given_the_class():
    """KL(q(z|x,c) || p(z|c)) by class in closed form: the same bound, with less noise."""
    module = made("normal given class")
    pair = Pair(module.model, module.guide).initialize(X)
    batch = pair.rows(X).batch()
    with pair.scope(), torch.no_grad():
        found = {
            analytic: torch.stack([ELBO(analytic_kl=analytic).terms(pair, batch).value.sum() for _ in range(2000)])
            for analytic in ("auto", False)
        }
    means = {key: (v.mean(), v.std() / len(v) ** 0.5) for key, v in found.items()}
    (a, ea), (b, eb) = means["auto"], means[False]
    assert abs(a - b) < 4.5 * (ea**2 + eb**2).sqrt()
    assert found["auto"].std() < found[False].std()


def test_reconstruction_and_kl_are_the_lectures():
    """L = E_q log p(x|c) + H(q) - log K for a uniform prior: KL is log K - H."""
    module = made("plain")
    module.prior.data.zero_()
    pair = Pair(module.model, module.guide).initialize(X)
    with pair.scope(), torch.no_grad():
        terms = ELBO().terms(pair, pair.rows(X).batch())
        q = torch.distributions.Categorical(logits=module.encoder(X))
        log_lik = torch.distributions.Normal(module.loc, 1.0).log_prob(X.unsqueeze(1)).sum(-1)  # (N, K)
    expected = (q.probs * log_lik).sum(1) + q.entropy() - torch.log(torch.tensor(4.0, dtype=torch.float64))
    assert torch.allclose(terms.value, expected, atol=1e-10)
    assert torch.allclose(terms.kl, torch.log(torch.tensor(4.0)).double() - q.entropy().mean(), atol=1e-10)
