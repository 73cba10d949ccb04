"""The laws, as plain functions: each raises AssertionError where a layer breaks it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from flow_table import DOUBLE, Case
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.flows import Layer
from ppl_vae.flows.layer import event_dims

Z_MAX = 4.5


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@contextmanager
def no_validation() -> Iterator[None]:
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def is_bijection(layer: Layer) -> bool:
    return layer.deterministic_encode and layer.deterministic_decode


def round_trip(layer: Layer, x: Tensor, z: Tensor, tolerance: float = 1e-10) -> None:
    """x -> z -> x where decoding is deterministic; z -> x -> z where encoding is. The contributions agree."""
    if layer.deterministic_decode:
        through, there = layer.encode(x)
        back, again = layer.decode(through)
        close(back, x, tolerance)
        close(again, there, tolerance)
    if layer.deterministic_encode:
        through, there = layer.decode(z)
        back, again = layer.encode(through)
        close(back, z, tolerance)
        close(again, there, tolerance)


def log_determinant(layer: Layer, x: Tensor) -> None:
    """The contribution of a bijection is log|det dz/dx|."""
    for one in x:
        jacobian = torch.autograd.functional.jacobian(lambda value: layer.encode(value)[0], one)
        close(layer.encode(one)[1].detach(), torch.linalg.slogdet(jacobian).logabsdet, 1e-9)


def grid(case: Case, size: int, cells: int) -> tuple[Tensor, Tensor]:
    """Midpoints of the cells of a box, (M, size), and how much of each cell lies inside; whole numbers if discrete."""
    if case.x.discrete:
        edges = torch.arange(case.x.low, case.x.high + 1, dtype=DOUBLE)
    else:
        edges = torch.linspace(case.x.low, case.x.high, cells + 1, dtype=DOUBLE)
    middles = (edges[1:] + edges[:-1]) / 2
    points = torch.cartesian_prod(*[middles] * size).reshape(-1, size)
    volumes = case.x.share(points) * (edges[1] - edges[0]) ** size
    return points[volumes > 0], volumes[volumes > 0]


@torch.no_grad()
def integrals(layer: Layer, case: Case, *, draws: int = 1, cells: int = 400) -> tuple[Tensor, Tensor]:
    """The integral of p(z) exp(contribution) over x by draw (draws,), and of exp(its mean log), the bound ()."""
    size = case.sizes[0] if layer.shape_in is None else layer.shape_in[0]
    points, volumes = grid(case, size, cells)
    z, contribution = layer.encode(points.expand(draws, *points.shape))
    log_weights = case.z.log_density(z) + contribution
    return (log_weights.exp() * volumes).sum(-1), (log_weights.mean(0).exp() * volumes).sum()


def integrates_to_one(layer: Layer, case: Case) -> None:
    """An exact layer's density is one; a bound is at most one, and its weights are one on average."""
    if layer.exact:
        (total,), _ = integrals(layer, case)
        assert abs(total.item() - 1) < 1e-3, f"the density integrates to {total.item()}"
        return
    totals, bound = integrals(layer, case, draws=40, cells=100)
    error = totals.std() / len(totals) ** 0.5 + 1e-4
    assert bound.item() < 1 + 1e-3, f"the bound integrates to {bound.item()}"
    assert abs(totals.mean().item() - 1) < Z_MAX * error, f"the weights integrate to {totals.mean().item()}"


def far(where: Constraint, size: int, dtype: torch.dtype) -> Tensor:
    """Vectors of one number each, far out and next to where intervals end, as many as lie where they should."""
    info = torch.finfo(dtype)
    ends = torch.tensor([0.0, info.tiny, info.eps, 1 - info.eps, 1 - info.eps / 2, 1.0], dtype=dtype)
    middle = torch.tensor([10.0, 16.5, 17.0, 20.0, 36.5, 37.0, 40.0, 100.0, 1e3, 1e4], dtype=dtype)
    vectors = torch.cat([-middle, -ends, ends, middle]).unsqueeze(-1) * torch.ones(size, dtype=dtype)
    return vectors[where.check(vectors).reshape(len(vectors), -1).all(-1)]


def far_values_come_back(layer: Layer, way: str, size: int, dtype: torch.dtype) -> int:
    """What a layer makes of far values it also takes, with finite values, contributions and derivatives both ways.

    Returns the number of far values that lie where the layer takes them.
    """
    where, back = (layer.domain, layer.decode) if way == "encode" else (layer.codomain, layer.encode)
    values = result = far(where, size, dtype)
    for turn in (getattr(layer, way), back):
        value = result.detach().requires_grad_()
        result, contribution = turn(value)
        assert result.isfinite().all() and contribution.isfinite().all()
        total = result.sum() + contribution.sum()
        if total.requires_grad:
            leaves = [leaf for leaf in (value, *layer.parameters()) if leaf.requires_grad]
            for slope in torch.autograd.grad(total, leaves, allow_unused=True):
                assert slope is None or slope.isfinite().all()
    return len(values)


def leading_dimensions(layer: Layer, x: Tensor, leading: tuple[int, ...]) -> None:
    """Whatever stands left of the event is kept, and rows do not touch each other."""
    dims = event_dims(layer.shape_in)
    event = x.shape[x.dim() - dims :]
    rows = x[: torch.Size(leading).numel()] if leading else x[0]
    values = rows.reshape(*leading, *event)
    z, contribution = layer.encode(values)
    back, again = layer.decode(z)
    assert contribution.shape == again.shape == leading
    assert back.shape == values.shape
    assert z.shape[: len(leading)] == leading
    if layer.deterministic_encode:
        singles = [layer.encode(one) for one in values.reshape(-1, *event)]
        close(z.reshape(-1, *z.shape[len(leading) :]), torch.stack([value for value, _ in singles]))
        close(contribution.reshape(-1), torch.stack([value for _, value in singles]))


def gradients_reach_every_parameter(layer: Layer, x: Tensor, z: Tensor) -> None:
    """By encode and by decode; through the value or through the contribution."""
    for way, value in ((layer.encode, x), (layer.decode, z)):
        layer.zero_grad()
        result, contribution = way(value)
        ((result + 0.3).square().sum(-1) + contribution).sum().backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, f"{name} has no gradient"
            assert parameter.grad.abs().max() > 0, f"{name} has a gradient of 0"


def traces(layer: Layer, x: Tensor, other: Tensor) -> None:
    """One trace, replayed on other data, gives what the layer gives on them: nothing in it hangs on values."""

    def step(value: Tensor) -> tuple[Tensor, ...]:
        value = value.detach().requires_grad_()
        z, contribution = layer.encode(value)
        loss = z.square().sum() + contribution.sum()
        leaves = [leaf for leaf in (value, *layer.parameters()) if leaf.requires_grad]
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else ()
        return (z.detach(), contribution.detach(), *(g for g in gradients if g is not None))

    with no_validation():
        torch.manual_seed(1)
        graph = make_fx(step, tracing_mode="real")(x)
        torch.manual_seed(2)
        replayed = graph(other)
        torch.manual_seed(2)
        eager = step(other)
    for got, expected in zip(replayed, eager, strict=True):
        close(got, expected)
