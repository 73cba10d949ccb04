"""A distribution pushed through a flow: against closed forms, quadrature, and itself without what it has kept."""

from __future__ import annotations

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from flow_laws import close
from torch import Tensor, nn

from ppl_vae.flows import (
    Abs,
    AffineCoupling,
    Augment,
    Bounded,
    Chain,
    ConditionalNormal,
    ElementwiseAffine,
    Encoded,
    FlowDistribution,
    Inverse,
    InverseAutoregressive,
    Layer,
    Logit,
    LULinear,
    Reverse,
    Softplus,
    SplineCoupling,
)

DOUBLE, Z_MAX = torch.float64, 4.5


def normal(size: int = 2) -> dist.TorchDistribution:
    return dist.Normal(torch.zeros(size, dtype=DOUBLE), 1.0).to_event(1)


def off_start(flow: Layer, size: float = 0.4) -> Layer:
    torch.manual_seed(3)
    flow = flow.double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return flow


def linear(size: int = 3) -> tuple[FlowDistribution, dist.MultivariateNormal]:
    """A linear flow, and the normal that it is."""
    flow = off_start(Chain([LULinear(size), ElementwiseAffine(size)]))
    start, _ = flow.decode(torch.zeros(size, dtype=DOUBLE))
    columns = flow.decode(torch.eye(size, dtype=DOUBLE))[0] - start
    exact = dist.MultivariateNormal(start.detach(), (columns.T @ columns).detach())
    return FlowDistribution(normal(size), flow), exact


def deep(context_dim: int | None = None) -> Layer:
    torch.manual_seed(0)
    options = {"hidden": (6,), "activation": nn.Tanh, "context_dim": context_dim}
    return off_start(Chain([AffineCoupling(2, **options), Reverse(2), SplineCoupling(2, bins=4, **options)]))


def test_a_linear_flow_is_a_multivariate_normal():
    p, exact = linear()
    x = 2 * torch.randn(50, 3, dtype=DOUBLE)
    close(p.log_prob(x).detach(), exact.log_prob(x))
    draws = p.sample((20_000,))
    whitened = torch.linalg.solve_triangular(exact.scale_tril, (draws - exact.mean).T, upper=False).T
    for moment, expected, spread in ((whitened, 0.0, 1.0), (whitened.square(), 1.0, math.sqrt(2.0))):
        assert ((moment.mean(0) - expected) / spread).abs().max() * math.sqrt(len(draws)) < Z_MAX
    shifted = whitened + 0.1  # the twin
    assert shifted.mean(0).abs().max() * math.sqrt(len(draws)) > Z_MAX


@pytest.mark.parametrize(
    ("make", "low", "high"),
    [(deep, -14.0, 14.0), (lambda: Chain([Bounded([-2.0, -2.0], [2.0, 2.0]), deep()]), -2.0, 2.0)],
    ids=["on the plane", "in a box"],
)
def test_the_density_integrates_to_one(make, low, high):
    flow, cells = make().double(), 600
    edges = torch.linspace(low, high, cells + 1, dtype=DOUBLE)
    middles = (edges[1:] + edges[:-1]) / 2
    points = torch.cartesian_prod(middles, middles)
    mass = FlowDistribution(normal(), flow).log_prob(points).exp().sum() * ((high - low) / cells) ** 2
    assert abs(mass.item() - 1) < 1e-3
    z, contribution = flow.encode(points)
    forgotten = (normal().log_prob(z) + 0 * contribution).exp().sum() * ((high - low) / cells) ** 2
    assert abs(forgotten.item() - 1) > 1e-2  # the twin: without the volume


class Counting(ElementwiseAffine):
    """An affine layer that counts its passes."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.passes = 0

    def _encode(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        self.passes += 1
        return super()._encode(x, context)


@pytest.mark.parametrize("batch", [(), (7,), (4, 7)])
def test_a_draw_is_scored_by_the_pass_that_made_it(batch):
    flow = Counting(2).double()
    p = FlowDistribution(normal(), flow).expand(batch)
    x = p.rsample((3,))
    kept = p.log_prob(x)
    assert flow.passes == 0 and kept.shape == (3, *batch) and x.shape == (3, *batch, 2)
    anew = p.log_prob(x.clone())
    assert flow.passes == 1
    close(kept, anew)
    other = FlowDistribution(normal(), flow, validate_args=False).expand(batch)
    other.log_prob(x)
    assert flow.passes == 2  # the draw of another is encoded


def test_the_gradient_of_a_kept_density_is_the_whole_one():
    """d log q(x(phi, eps), phi) / d phi, along the draw and in the density."""
    flow = deep()
    found = []
    for keep in (True, False):
        torch.manual_seed(5)
        p = FlowDistribution(normal(), flow)
        x = p.rsample((20,))
        density = p.log_prob(x if keep else x * 1.0)
        found.append(torch.autograd.grad((density + x.sin().sum(-1)).sum(), list(flow.parameters())))
    for kept, anew in zip(*found, strict=True):
        torch.testing.assert_close(kept, anew, rtol=1e-9, atol=1e-9)


def test_a_context_stands_in_the_batch():
    flow = off_start(InverseAutoregressive(2, hidden=(6,), context_dim=3))
    context = torch.randn(7, 3, dtype=DOUBLE)
    p = FlowDistribution(normal(), flow, context)
    assert p.batch_shape == (7,) and p.event_shape == (2,)
    x = p.expand([5, 7]).rsample()
    assert x.shape == (5, 7, 2)
    alone = torch.stack([FlowDistribution(normal(), flow, context[i]).log_prob(x[:, i] + 0) for i in range(7)], 1)
    close(p.log_prob(x + 0), alone)
    assert (p.log_prob(x + 0) - FlowDistribution(normal(), flow, context.flip(0)).log_prob(x + 0)).abs().max() > 1e-3


def test_a_fair_surjection_has_a_density_and_draws_of_both_signs():
    p = FlowDistribution(normal(), Chain([Abs(2), Inverse(Softplus())]))
    x = p.sample((4000,))
    share = (x > 0).double().mean(0)
    assert (share - 0.5).abs().max() < Z_MAX * 0.5 / math.sqrt(len(x))
    close(p.log_prob(x), p.log_prob(-x))


def test_supports():
    box = Bounded([-4.0, -math.inf], [4.0, math.inf])
    p = FlowDistribution(normal(), Chain([box, LULinear(2)]).double())
    assert p.support is box.domain
    assert FlowDistribution(normal(), LULinear(2).double()).support.event_dim == 1
    uniform = dist.Uniform(torch.zeros(2, dtype=DOUBLE), 1.0).to_event(1)
    on_the_line = FlowDistribution(uniform, Inverse(Logit(2)))  # a logistic distribution
    x = torch.randn(5, 2, dtype=DOUBLE)
    close(on_the_line.log_prob(x), (-x - 2 * (-x).exp().log1p()).sum(-1))


def mixture() -> dist.TorchDistribution:
    return dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2, dtype=DOUBLE)),
        dist.Normal(torch.zeros(2, 2, dtype=DOUBLE), torch.ones(2, 2, dtype=DOUBLE)).to_event(1),
    )


def test_a_base_without_a_path_scores_and_samples():
    p = FlowDistribution(mixture(), LULinear(2).double())
    assert not p.has_rsample
    x = p.sample((5,))
    close(p.log_prob(x), mixture().log_prob(x))  # it starts as the identity
    with pytest.raises(ValueError, match="MixtureSameFamily and LULinear"):
        p.rsample()


@pytest.mark.parametrize("change", ["the draw", "a parameter"])
def test_a_draw_or_a_flow_that_has_been_written_into_is_scored_anew(change):
    p = FlowDistribution(normal(), deep())
    with torch.no_grad():
        x = p.sample((5,))
        (x if change == "the draw" else next(p.flow.parameters())).add_(0.5)
        assert torch.equal(p.log_prob(x), p.log_prob(x.clone()))


def test_the_density_of_a_draw_without_a_path_has_its_gradient():
    """What a score function estimator differentiates: log q of a draw that is held still."""
    p = FlowDistribution(mixture(), deep())
    x = p.sample((20,))
    found = [torch.autograd.grad(p.log_prob(at).sum(), list(p.flow.parameters())) for at in (x, x.clone())]
    assert all(torch.equal(kept, anew) for kept, anew in zip(*found, strict=True))


@pytest.mark.parametrize("made", ["a draw of the flow", "an encoding"])
def test_what_has_been_drawn_can_be_saved_and_copied(made, tmp_path):
    flow, x = deep(), torch.randn(5, 2, dtype=DOUBLE)
    with torch.no_grad():
        drawn = FlowDistribution(normal(), flow).sample((5,)) if made == "a draw of the flow" else Encoded(flow, x)()
    torch.save(drawn, tmp_path / "drawn.pt")
    for same in (torch.load(tmp_path / "drawn.pt"), copy.deepcopy(drawn)):
        assert torch.equal(same, drawn)
        close(FlowDistribution(normal(), flow).log_prob(same), FlowDistribution(normal(), flow).log_prob(drawn * 1.0))
        assert torch.equal(Encoded(flow, x).log_prob(same).isfinite(), torch.full((5,), made == "an encoding"))


def test_one_value_is_scored_by_each_context():
    flow = off_start(AffineCoupling(2, hidden=(6,), context_dim=3))
    p = FlowDistribution(normal(), flow, torch.randn(7, 3, dtype=DOUBLE))
    x = torch.randn(2, dtype=DOUBLE)
    for shaped in (x, x.expand(1, 2), x.expand(4, 1, 2)):
        scored = p.log_prob(shaped)
        assert scored.shape[-1] == 7
        close(scored[..., :], p.log_prob(x.expand(7, 2)).expand_as(scored))
    assert p.log_prob(x).std() > 1e-3


def half_normal() -> dist.TorchDistribution:
    return dist.HalfNormal(torch.ones(2)).to_event(1)


def draws_its_z() -> Layer:
    return Augment(2, 1, noise=ConditionalNormal(2, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FlowDistribution(normal(3), draws_its_z()), "an exact flow is required .* got Augment"),
        (lambda: FlowDistribution(normal(), Abs(2)), r"the base must live in .*, where Abs puts z"),
        (lambda: FlowDistribution(normal(3), LULinear(2)), r"the event shape \(2,\) of the flow's z, got \(3,\)"),
        (lambda: FlowDistribution(dist.Normal(torch.zeros(2), 1.0), LULinear(2)), r"as in \.to_event\(1\)"),
        (
            lambda: FlowDistribution(
                dist.HalfNormal(torch.ones(2)).to_event(1), Abs(2, sign=nn.Linear(2, 2))
            ).rsample(),
            "got HalfNormal|got Independent and Abs",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
