"""A flow as q(z | x): in the limit the normal guide, else its exact gradients; and a flow as the prior."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from torch import Tensor, nn

import ppl_vae
from ppl_vae import ELBO, IWAE, ImportanceWeighted, Pair, VariationalEM, log_evidence
from ppl_vae._random import isolated_rng
from ppl_vae.flows import (
    AffineCoupling,
    Augment,
    Chain,
    ConditionalNormal,
    ElementwiseAffine,
    Inverse,
    InverseAutoregressive,
    LULinear,
    Reverse,
)
from ppl_vae.guides import AmortizedFlow, AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.models.priors import FlowPrior

DOUBLE, D, L, N = torch.float64, 4, 2, 6


def rows(n: int = N) -> Tensor:
    return torch.randn(n, D, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))


def vae(prior: nn.Module | None = None) -> VAE:
    torch.manual_seed(1)
    return VAE(nn.Linear(L, D), latent_dim=L, likelihood="unit-normal", prior=prior).double()


def deep(seed: int = 2) -> AmortizedFlow:
    torch.manual_seed(seed)
    flow = Chain(
        [
            AffineCoupling(L, hidden=(6,), context_dim=3),
            Reverse(L),
            InverseAutoregressive(L, hidden=(6,), context_dim=3),
        ]
    )
    guide = AmortizedFlow(nn.Linear(D, 3), flow, latent_dim=L).double()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return guide


class Exact(nn.Module):
    """The affine layer z = (eps - shift) exp(-log scale) of the posterior of a linear VAE, as numbers of a context."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        weight, bias = model.decoder.weight.detach(), model.decoder.bias.detach()
        precision = torch.eye(L, dtype=DOUBLE) + weight.T @ weight
        self.bias, self.gain = bias, torch.linalg.solve(precision, weight.T)
        self.lower = torch.linalg.cholesky(precision.inverse())

    def forward(self, x: Tensor) -> Tensor:
        return (
            torch.linalg.solve(self.lower, (x - self.bias) @ self.gain.T, left=True)
            if x.dim() == 1
            else (torch.linalg.solve_triangular(self.lower, self.gain @ (x - self.bias).T, upper=False).T)
        )


def test_the_exact_posterior_as_a_flow_gives_the_exact_evidence():
    """z = L (eps + c(x)), c = L^-1 mean, is the posterior of a linear VAE: every weight is p(x)."""
    model = vae()
    exact = Exact(model)
    linear, shift = LULinear(L).double(), ElementwiseAffine(L, context_dim=L, hidden=()).double()
    inverse = exact.lower.inverse()
    with torch.no_grad():
        linear.log_diagonal.copy_(inverse.diagonal().log())
        linear.entries.copy_((inverse / inverse.diagonal()).tril(-1))
        network = shift.numbers.network.layers[0]
        network.bias.zero_()
        network.weight.copy_(torch.cat([-torch.eye(L), torch.zeros(L, L)]))
    pair = Pair(model, AmortizedFlow(exact, Chain([linear, shift]), latent_dim=L))
    found = log_evidence(pair, rows(), ImportanceWeighted(100))
    weight = model.decoder.weight.detach()
    covariance = weight @ weight.T + torch.eye(D, dtype=DOUBLE)
    truth = torch.distributions.MultivariateNormal(model.decoder.bias.detach(), covariance).log_prob(rows())
    torch.testing.assert_close(found.value, truth, rtol=1e-9, atol=1e-9)
    assert found.bound == "lower" and found.standard_error.max() == 0


def test_an_affine_layer_is_the_normal_guide():
    """The same numbers read as mean and scale: the same log q at the same z, and the same mean of draws."""
    flow = ElementwiseAffine(L, context_dim=3, hidden=()).double()
    guide = AmortizedFlow(nn.Linear(D, 3), Inverse(flow), latent_dim=L).double()
    q = guide.encode(rows())
    shift, log_scale = flow.numbers(guide.encoder(rows())).chunk(2, -1)  # z = eps exp(s) + t
    normal = torch.distributions.Normal(shift, log_scale.exp())
    z = torch.randn(5, N, L, dtype=DOUBLE)
    torch.testing.assert_close(q.log_prob(z), normal.log_prob(z).sum(-1), rtol=1e-10, atol=1e-10)
    draw = q.rsample()
    torch.testing.assert_close(q.log_prob(draw), normal.log_prob(draw).sum(-1), rtol=1e-10, atol=1e-10)


def gradients(objective: object, pair: Pair, seed: int = 4) -> dict[str, Tensor]:
    leaves = pair.parameters_by_name()
    for leaf in leaves.values():
        leaf.grad = None
    groups = {group: list(pair.parameters.of(group).values()) for group in ("theta", "phi", "shared")}
    with pair.scope(), isolated_rng(seed):
        objective.gradients(pair, pair.rows(rows()).batch(), groups)  # type: ignore[attr-defined]
    return {name: leaf.grad.clone() for name, leaf in leaves.items() if name.startswith("guide")}


def by_hand(pair: Pair, num_particles: int, *, held: bool, seed: int = 4) -> dict[str, Tensor]:
    """The gradient of -sum_k w_k (log p - log q), with q's parameters held in log q (by a copy) or not."""
    guide, x = pair.guide, rows()
    with isolated_rng(seed):
        z = guide.encode(x).expand([num_particles, N]).rsample()
    log_p = pair.model.prior().log_prob(z) + pair.model.decode(z, x_shape=x.shape).log_prob(x)
    twin = deep()
    twin.load_state_dict(guide.state_dict())
    scorer = twin.requires_grad_(False) if held else guide
    log_w = log_p - scorer.encode(x).log_prob(z * 1.0)
    weights = log_w.detach().softmax(0)
    loss = -(weights * log_w).sum(0).mean()
    found = torch.autograd.grad(loss, list(guide.parameters()))
    return dict(zip((f"guide.{name}" for name, _ in guide.named_parameters()), found, strict=True))


def test_sticking_the_landing_holds_the_flow_in_log_q():
    pair = Pair(vae(), deep())
    pair.initialize(rows())
    with pair.scope():
        pair.vectorizes(pair.rows(rows()).batch())
    ours, held, free = (
        gradients(IWAE(3, gradient="stl"), pair),
        by_hand(pair, 3, held=True),
        by_hand(pair, 3, held=False),
    )
    for name, grad in held.items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-8, atol=1e-8)
    assert max(float((ours[name] - free[name]).abs().max()) for name in ours) > 1e-3  # the twin
    plain = gradients(IWAE(3), pair)
    for name, grad in free.items():
        torch.testing.assert_close(plain[name], grad, rtol=1e-8, atol=1e-8)


def test_a_training_step_only_decodes():
    guide = deep()
    em = VariationalEM(vae(), guide, objective=ELBO(num_particles=2), compile=False)
    em.fit(rows(), steps=1, progress=False)
    calls = []
    guide.flow._encode = lambda *args: calls.append(args)  # would break the step
    em.fit(rows(), steps=2, progress=False)
    assert not calls


def test_prior_and_posterior_flows_train_and_are_kept(tmp_path):
    prior = FlowPrior(Chain([AffineCoupling(L, hidden=(6,)), Reverse(L), AffineCoupling(L, hidden=(6,))]))
    model, guide = vae(prior), deep()
    fit = VariationalEM(model, guide, objective=IWAE(4, gradient="dreg"), lr=1e-2).fit(
        rows(40), steps=60, progress=False
    )
    history = fit.history["objective"]
    assert history.iloc[-10:].mean() > history.iloc[:10].mean() + 0.1
    assert set(fit.parameters.group.values()) == {"theta", "phi"}
    assert fit.encode(rows()).shape == (N, L) and fit.sample(5).shape == (5, D)
    fit.save(tmp_path / "vae")
    fresh = FlowPrior(Chain([AffineCoupling(L, hidden=(6,)), Reverse(L), AffineCoupling(L, hidden=(6,))]))
    loaded = ppl_vae.load(tmp_path / "vae", vae(fresh), deep(seed=9))
    assert torch.equal(loaded.elbo(rows()), fit.elbo(rows()))


def test_a_linear_prior_flow_is_a_normal_prior():
    """z = (u - t) exp(-s): the VAE of that prior has the evidence of a VAE whose decoder has taken the flow in."""
    prior = FlowPrior(ElementwiseAffine(L))
    with torch.no_grad():
        prior.flow.numbers.base.copy_(torch.tensor([0.3, -0.2, 0.4, -0.1]))
    model = vae(prior)
    scale, shift = (-prior.flow.numbers.base[L:]).exp(), prior.flow.numbers.base[:L]
    weight = (model.decoder.weight * scale).detach()
    mean = (model.decoder.bias - weight @ shift).detach()
    truth = torch.distributions.MultivariateNormal(mean, weight @ weight.T + torch.eye(D, dtype=DOUBLE)).log_prob(
        rows()
    )
    guide = AmortizedNormal(nn.Linear(D, 2 * L), latent_dim=L).double()
    found = log_evidence(Pair(model, guide), rows(), ImportanceWeighted(4000))
    z = (found.value - truth) / found.standard_error
    assert float(z.abs().max()) < 4.5
    assert float((((found.value - truth) + 0.3) / found.standard_error).mean()) * math.sqrt(N) > 4.5  # the twin


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AmortizedFlow(nn.Linear(D, 3), AffineCoupling(L), latent_dim=L), "a conditional flow .* is required"),
        (lambda: AmortizedFlow(nn.Linear(D, 3), AffineCoupling(3, context_dim=3), latent_dim=L), r"a flow over \(2,\)"),
        (lambda: AmortizedFlow(nn.Linear(D, 3), AffineCoupling(2, context_dim=3), latent_dim=0), "at least 1, got 0"),
        (
            lambda: AmortizedFlow(nn.Linear(D, 2), AffineCoupling(L, context_dim=3), latent_dim=L)(torch.zeros(5, D)),
            r"the encoder must return \(..., 3\), the context of the flow, got \(5, 2\)",
        ),
        (lambda: deep()(), "data x"),
        (lambda: FlowPrior(AffineCoupling(L, context_dim=3)), "an unconditional flow is required"),
        (lambda: FlowPrior(Augment(L, 1, noise=ConditionalNormal(L, 1))), "FlowPrior: an exact flow is required"),
    ],
)
def test_errors(call, message):
    with pyro.get_param_store().scope(), pytest.raises(ValueError, match=message):
        call()
