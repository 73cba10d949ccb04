"""Both KL divergences in both spaces: against closed forms and quadrature, with the twin of a wrong volume."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from ppl_vae.flows import (
    Abs,
    AffineCoupling,
    Augment,
    Chain,
    ConditionalNormal,
    ElementwiseAffine,
    Inverse,
    LULinear,
    Reverse,
    Softplus,
    kl_report,
)

DOUBLE, Z_MAX = torch.float64, 4.5


def linear() -> tuple[Chain, dist.MultivariateNormal]:
    torch.manual_seed(0)
    flow = Chain([LULinear(2), ElementwiseAffine(2)]).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    start = flow.decode(torch.zeros(2, dtype=DOUBLE))[0]
    columns = flow.decode(torch.eye(2, dtype=DOUBLE))[0] - start
    return flow, dist.MultivariateNormal(start.detach(), (columns.T @ columns).detach())


TARGET = dist.MultivariateNormal(
    torch.tensor([0.3, -0.5], dtype=DOUBLE), torch.tensor([[1.3, 0.5], [0.5, 0.8]], dtype=DOUBLE)
)


def z_of(found: object, exact: float) -> float:
    return abs(found.value - exact) / found.standard_error  # type: ignore[attr-defined]


def test_a_linear_flow_against_a_normal():
    flow, model = linear()
    report = kl_report(flow, TARGET, num_samples=20_000)
    forward, reverse = float(kl_divergence(TARGET, model)), float(kl_divergence(model, TARGET))
    assert abs(forward - reverse) > 0.02
    for found in (report.forward_x, report.forward_z):
        assert z_of(found, forward) < Z_MAX and z_of(found, reverse) > Z_MAX  # the twin: the other direction
    for found in (report.reverse_x, report.reverse_z):
        assert z_of(found, reverse) < Z_MAX
    assert report.duality_error < 1e-10
    assert report.forward_x.value == pytest.approx(report.forward_z.value, abs=1e-10)
    assert report.reverse_x.value == pytest.approx(report.reverse_z.value, abs=1e-10)


def test_the_law_of_z_is_a_normal_with_its_own_closed_form():
    """KL(p(z|θ) || p(z)) with p(z|θ) = N(A m + b, A S A'): nothing of x is left in it."""
    flow, _ = linear()
    shift = flow.encode(torch.zeros(2, dtype=DOUBLE))[0].detach()
    matrix = (flow.encode(torch.eye(2, dtype=DOUBLE))[0].detach() - shift).T
    law = dist.MultivariateNormal(matrix @ TARGET.mean + shift, matrix @ TARGET.covariance_matrix @ matrix.T)
    p_z = dist.MultivariateNormal(torch.zeros(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE))
    report = kl_report(flow, TARGET, num_samples=20_000)
    assert z_of(report.forward_z, float(kl_divergence(law, p_z))) < Z_MAX
    assert z_of(report.reverse_z, float(kl_divergence(p_z, law))) < Z_MAX


class WrongSign(ElementwiseAffine):
    """The planted bug: ``decode`` says what ``encode`` should."""

    def _decode(self, z, context):
        x, contribution = super()._decode(z, context)
        return x, -contribution


def test_the_twin_a_wrong_volume_breaks_the_duality():
    layer = WrongSign(2).double()
    with torch.no_grad():
        layer.numbers.base.fill_(0.2)
    report = kl_report(layer, TARGET, num_samples=500)
    assert report.duality_error == pytest.approx(0.8, rel=1e-9)


def test_one_normal_against_two_modes_by_quadrature():
    """Forward covers, reverse seeks: the same target, two different best normals."""
    target = dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.5, 0.5], dtype=DOUBLE)),
        dist.Normal(torch.tensor([[-2.0], [2.0]], dtype=DOUBLE), 0.5).to_event(1),
    )
    grid = torch.linspace(-12, 12, 24_001, dtype=DOUBLE).unsqueeze(-1)
    log_target = target.log_prob(grid)

    def exact(loc: float, scale: float) -> tuple[float, float]:
        log_p = dist.Normal(loc, scale).log_prob(grid[:, 0])
        gap = log_target - log_p
        return tuple(
            float(torch.trapezoid(s * w, grid[:, 0])) for s, w in ((gap, log_target.exp()), (-gap, log_p.exp()))
        )

    def found(loc: float, scale: float) -> object:
        flow = ElementwiseAffine(1).double()
        with torch.no_grad():
            flow.numbers.base.copy_(torch.tensor([-loc / scale, -math.log(scale)], dtype=DOUBLE))
        return kl_report(flow, target, num_samples=20_000)

    covering, seeking = (0.0, math.sqrt(4.25)), (2.0, 0.5)
    for place in (covering, seeking):
        report, (forward, reverse) = found(*place), exact(*place)
        assert z_of(report.forward_x, forward) < Z_MAX and z_of(report.reverse_z, reverse) < Z_MAX
    assert exact(*covering)[0] < exact(*seeking)[0] and exact(*covering)[1] > exact(*seeking)[1]


def test_a_density_up_to_a_constant_has_a_reverse_divergence():
    flow, model = linear()
    report = kl_report(flow, lambda x: TARGET.log_prob(x) + 1.5, num_samples=20_000)
    assert report.forward_x is None and report.forward_z is None
    assert z_of(report.reverse_x, float(kl_divergence(model, TARGET)) - 1.5) < Z_MAX
    assert "KL(pi(x)" not in repr(report) and "KL(p(x) || pi(x))" in repr(report)
    given = kl_report(flow, TARGET.log_prob, samples=TARGET.sample((20_000,)))
    assert z_of(given.forward_x, float(kl_divergence(TARGET, model))) < Z_MAX


def test_it_is_a_function_of_the_seed():
    flow = Chain([AffineCoupling(2, hidden=(4,)), Reverse(2)]).double()
    first, second, third = (kl_report(flow, TARGET, num_samples=50, seed=s) for s in (1, 1, 2))
    assert first == second and first != third


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (Augment(2, 1, noise=ConditionalNormal(2, 1)), "kl_report: an exact flow is required"),
        (Chain([Abs(2), Inverse(Softplus())]), "deterministic_decode=False"),
        (AffineCoupling(2, context_dim=3), "context_dim=3"),
    ],
)
def test_errors(flow, message):
    with pytest.raises(ValueError, match=message):
        kl_report(flow, TARGET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": lambda x: TARGET.log_prob(x).unsqueeze(-1)}, r"log densities \(50,\), got \(50, 1\)"),
        ({"target": dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0)}, r"log densities \(50,\), got \(50, 2\)"),
        ({"target": TARGET, "num_samples": 1}, "at least 2 draws are required"),
        ({"target": TARGET, "samples": torch.zeros(1, 2, dtype=DOUBLE)}, "at least 2 draws are required"),
    ],
)
def test_errors_of_the_target(options, message):
    with pytest.raises(ValueError, match=message):
        kl_report(LULinear(2).double(), **{"num_samples": 50, **options})
