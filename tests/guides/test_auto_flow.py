"""A flow over all latents: where it begins, its density, and its training by the gradient through its draws."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae import DeterministicVI, Pair
from ppl_vae.guides import AutoFlow
from ppl_vae.inference.ladder import train_flow as module
from ppl_vae.inference.ladder.train_flow import train_flow
from ppl_vae.pair.detach import frozen
from ppl_vae.pair.fixed_noise import FixedNoise

DOUBLE = torch.float64
LOC = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE)
TRIL = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [-1.0, 0.3, 1.5]], dtype=DOUBLE)


def normal():
    """Of normal latents, N(LOC, TRIL TRILᵀ), of which one is positive."""
    first = pyro.sample("first", dist.MultivariateNormal(LOC[:2], scale_tril=TRIL[:2, :2]))
    shift = TRIL[2, :2] @ torch.linalg.solve_triangular(TRIL[:2, :2], (first - LOC[:2]).unsqueeze(-1), upper=False)
    pyro.sample("last", dist.LogNormal(LOC[2] + shift.squeeze(-1), TRIL[2, 2]))


def by_rows():
    """Draws of it are no plate: the product takes one vector."""
    w = pyro.sample("w", dist.Normal(torch.zeros(3, dtype=DOUBLE), 1.0).to_event(1))
    mean = torch.eye(3, dtype=DOUBLE)[:2] @ w
    pyro.sample("y", dist.Normal(mean[0] * mean[1], 1.0), obs=torch.tensor(0.3, dtype=DOUBLE))


def fixed(model=normal, **options) -> tuple[AutoFlow, FixedNoise]:
    guide = AutoFlow(model, **options)
    pair = Pair(model, guide, dtype=DOUBLE)
    rows = pair.rows(None)
    pair.initialize(rows)
    return guide, FixedNoise(pair, rows.batch())


def shake(guide: AutoFlow) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for leaf in guide.flow.parameters():
            leaf += 0.05 * torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)


def noise_of(count: int, dim: int = 3) -> torch.Tensor:
    return torch.randn(count, dim, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))


def test_it_begins_near_the_normal_that_it_is_given():
    """With the posterior's own normal every draw weighs nearly 1."""
    _, noise = fixed(loc=LOC, scale_tril=TRIL)
    with noise.scope(), torch.no_grad():
        placed = noise.at_noise(noise_of(200))
    assert float((placed.log_p - placed.log_q).abs().mean()) < 0.1
    _, elsewhere = fixed()
    with elsewhere.scope(), torch.no_grad():
        placed = elsewhere.at_noise(noise_of(200))
    assert float((placed.log_p - placed.log_q).abs().mean()) > 1.0


def test_its_density_is_the_change_of_variables():
    """log q(u) = log N(ε) - log |det du/dε|, the determinant by automatic differentiation."""
    guide, noise = fixed(loc=LOC, scale_tril=TRIL)
    shake(guide)
    draws = noise_of(5)
    with noise.scope():
        placed = noise.at_noise(draws, (1.0, 1.5))
        wide = noise.at_noise(1.5 * draws, (1.0, 1.5))
        each = [torch.func.jacrev(lambda e: guide.flow.decode(e)[0])(row) for row in draws]
    log_det = torch.linalg.slogdet(torch.stack(each)).logabsdet
    exact = dist.Normal(0.0, 1.0).log_prob(draws).sum(-1) - log_det
    torch.testing.assert_close(placed.log_q, exact, rtol=1e-9, atol=1e-9)
    # Of noise that is 1.5 times as wide: its own density at 1.5 ε, and the same determinant there.
    with noise.scope():
        each = [torch.func.jacrev(lambda e: guide.flow.decode(e)[0])(1.5 * row) for row in draws]
    log_det = torch.linalg.slogdet(torch.stack(each)).logabsdet
    exact = dist.Normal(0.0, torch.tensor(1.5, dtype=DOUBLE)).log_prob(1.5 * draws).sum(-1) - log_det
    torch.testing.assert_close(wide.log_qs[:, 1], exact, rtol=1e-9, atol=1e-9)


def test_noise_and_the_pairs_own_draws_have_the_same_densities():
    guide, noise = fixed(loc=LOC, scale_tril=TRIL)
    shake(guide)
    pair = noise.pair
    drawn = pair.draw(None, 50)
    u = torch.cat([drawn.values["first"].double(), drawn.values["last"].double().log().unsqueeze(-1)], -1)
    with noise.scope(), torch.no_grad():
        log_q = guide.get_posterior().log_prob(u)
        log_p = noise.at(u)
    torch.testing.assert_close(log_p - log_q, drawn.log_weight, rtol=1e-6, atol=1e-6)


def test_a_pair_whose_draws_are_no_plate_is_run_by_vmap():
    guide, noise = fixed(by_rows)
    shake(guide)
    assert not noise.vectorized
    with noise.scope(), torch.no_grad():
        together = noise.at_noise(noise_of(4))
        u = guide.flow.decode(noise_of(4))[0]
        log_q = guide.get_posterior().log_prob(u)
    exact = dist.Normal(0.0, 1.0).log_prob(u).sum(-1) + dist.Normal(u[:, 0] * u[:, 1], 1.0).log_prob(torch.tensor(0.3))
    torch.testing.assert_close(together.log_p, exact)
    torch.testing.assert_close(together.log_q, log_q)


def test_a_flow_is_no_guide_for_fixed_draws():
    with pytest.raises(ValueError, match="'_AutoFlow_latent' is not normal, or carried on by maps with parameters"):
        DeterministicVI(normal, AutoFlow(normal)).fit(None)


def test_where_the_flow_is_the_posterior_its_gradient_has_no_noise():
    """The whole gradient has, though its expectation is 0 too: that is what the parameters of log q are held for."""
    guide, noise = fixed(loc=LOC, scale_tril=TRIL)
    with torch.no_grad():
        for layer in guide.flow.layers[1:]:  # couplings that are the identity
            for leaf in layer.parameters():
                leaf.zero_()
    leaves = list(guide.flow.parameters())
    with noise.scope():
        through = torch.autograd.grad(module._loss(noise, guide, noise_of(8)), leaves, allow_unused=True)
        placed = noise.at_noise(noise_of(8))
        whole = torch.autograd.grad((placed.log_q - placed.log_p).mean(), leaves, allow_unused=True)
    largest = [max(float(g.abs().max()) for g in found if g is not None) for found in (through, whole)]
    assert largest[0] < 1e-9
    assert largest[1] > 1e-2


def test_its_gradient_is_that_of_the_elbo():
    """The mean over many draws of both is the same, within the errors of their difference."""
    guide, noise = fixed(loc=LOC, scale_tril=TRIL, num_layers=2, hidden=(4,))
    shake(guide)
    leaf = guide.flow.layers[1].conditioner.layers[-1].bias
    differences = []
    with noise.scope():
        for seed in range(40):
            draws = torch.randn(256, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
            placed = noise.at_noise(draws)
            with frozen(guide.flow.parameters()):
                log_q = guide.get_posterior().log_prob(placed.u)
            (through,) = torch.autograd.grad((placed.log_p - log_q).mean(), leaf)
            placed = noise.at_noise(draws)
            (whole,) = torch.autograd.grad((placed.log_p - placed.log_q).mean(), leaf)
            differences.append(through - whole)
    found = torch.stack(differences)
    error = found.std(0) / len(found) ** 0.5
    assert float((found.mean(0) / error).abs().max()) < 4.0
    assert float(error.max()) > 0


def test_training_is_a_function_of_its_seed():
    ends = []
    for seed in (3, 3, 4):
        guide, noise = fixed(num_layers=2, hidden=(4,))
        train_flow(noise, guide, steps=3, num_draws=8, seed=seed)
        ends.append(torch.cat([leaf.detach().flatten() for leaf in guide.flow.parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_a_step_on_draws_without_a_density_is_left_out():
    """Where log p is no number nothing moves, and nothing becomes NaN."""
    finite = [True]

    def broken():
        x = pyro.sample("x", dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0).to_event(1))
        pyro.factor("nan", x.sum(-1) * (1.0 if finite[0] else float("nan")), has_rsample=True)

    guide, noise = fixed(broken)
    before = [leaf.detach().clone() for leaf in guide.flow.parameters()]
    finite[0] = False
    train_flow(noise, guide, steps=3, num_draws=8, seed=0)
    assert all(torch.equal(a, b.detach()) for a, b in zip(before, guide.flow.parameters(), strict=True))


def one():
    pyro.sample("x", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoFlow(one)(), "at least two latent numbers is required, got one"),
        (lambda: AutoFlow(normal, num_layers=0), "num_layers must be at least 1, got 0"),
        (lambda: AutoFlow(normal, loc=LOC[:2], scale_tril=TRIL[:2, :2])(), "a loc of all 3 latent numbers"),
        (lambda: AutoFlow(normal, loc=LOC, scale_tril=-TRIL)(), "a positive diagonal is required"),
        (lambda: AutoFlow(normal, loc=LOC, scale_tril=TRIL[:2])(), r"a scale_tril \(D, D\) are required"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
