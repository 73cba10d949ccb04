"""Hessians of many points at once, and the normal that is made of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ppl_vae.inference.deterministic.curvature import curvature, safeguarded

D = 4


class Of:
    """A log density out of a function (S, D) -> (S,)."""

    def __init__(self, function: Callable[[Tensor], Tensor], block: int = 1000) -> None:
        self.at, self.block, self.calls = function, block, 0

    def heights(self, u: Tensor) -> Tensor:
        with torch.no_grad():
            return self.at(u)


def curved(u: Tensor) -> Tensor:
    return -u.cosh().log().sum(-1) - 0.3 * (u[:, 0] * u[:, 1].square()) - (u @ torch.arange(1.0, D + 1).double()).exp()


class Square(torch.autograd.Function):
    """A custom function whose backward pass cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


def once(u: Tensor) -> Tensor:
    return curved(u) - Square.apply(u).sum(-1) * u.new_tensor(1.5)


def distances(u: Tensor) -> Tensor:
    """``torch.cdist``, which no second derivative is implemented for: "derivative ... is not implemented"."""
    far = torch.tensor([3.0, 4.0, 5.0, 6.0]).double()
    return curved(u) - torch.cdist(u.unsqueeze(1), far.expand(len(u), 1, D), p=3.0)[:, 0, 0]


def distances_by_hand(u: Tensor) -> Tensor:
    far = torch.tensor([3.0, 4.0, 5.0, 6.0]).double()
    return curved(u) - (far - u).pow(3).sum(-1).pow(1 / 3)


def points(count: int = 5) -> Tensor:
    return 0.5 * torch.randn(count, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def exact(function: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    return torch.stack([torch.autograd.functional.hessian(lambda v: function(v.unsqueeze(0))[0], row) for row in u])


@pytest.mark.parametrize("block", [1000, 9, 2])
def test_values_gradients_and_hessians(block):
    """In blocks of any size."""
    u = points()
    found = curvature(Of(curved, block), u)
    torch.testing.assert_close(found.value, curved(u))
    (gradient,) = torch.autograd.grad(curved(v := u.clone().requires_grad_()).sum(), v)
    torch.testing.assert_close(found.gradient, gradient)
    torch.testing.assert_close(found.hessian, exact(curved, u))
    assert not found.hessian.requires_grad


@pytest.mark.parametrize(
    ("function", "by_hand"),
    [(once, lambda v: curved(v) - 1.5 * v.square().sum(-1)), (distances, distances_by_hand)],
)
def test_without_second_derivatives_differences_stand_for_them(function, by_hand):
    """Whether their absence is an error, or is passed over in silence, as ``once_differentiable`` does."""
    u = points()
    found = curvature(Of(function), u)
    torch.testing.assert_close(found.hessian, exact(by_hand, u), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.value, by_hand(u))


def test_a_linear_density_has_no_curvature():
    slope = torch.arange(1.0, D + 1).double()
    found = curvature(Of(lambda u: u @ slope), points())
    assert (found.hessian == 0).all()
    torch.testing.assert_close(found.gradient, slope.expand(5, D))


def spd(condition: float, dim: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator)).Q
    return basis @ torch.logspace(0, torch.tensor(condition).log10(), dim, dtype=torch.float64).diag() @ basis.T


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
def test_the_factor_is_that_of_the_inverse(condition):
    precision = spd(condition)
    factor, definite = safeguarded(precision.unsqueeze(0))
    assert definite.tolist() == [True]
    torch.testing.assert_close(factor[0], factor[0].tril())
    assert (factor[0].diagonal() > 0).all()
    exact = torch.linalg.cholesky(torch.linalg.inv(precision))
    torch.testing.assert_close(factor[0], exact, rtol=1e-8, atol=1e-8 * float(exact.abs().max()))


def test_the_units_of_the_columns_are_no_matter():
    """From 1e-8 to 1e8: what a Cholesky factorization of the inverse would lose."""
    units = torch.logspace(-8, 8, 6, dtype=torch.float64)
    precision = spd(100.0)
    scaled, definite = safeguarded((precision * units * units.unsqueeze(1)).unsqueeze(0))
    assert bool(definite)
    torch.testing.assert_close(scaled[0] * units.unsqueeze(1), safeguarded(precision.unsqueeze(0))[0][0])


def test_indefinite_and_broken_matrices_are_told():
    """Eigenvalues count by their magnitude; of what is no number the identity is made."""
    good, broken = spd(10.0, 2), torch.full((2, 2), torch.nan, dtype=torch.float64)
    saddle = torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double()  # 3 and -1
    factor, definite = safeguarded(torch.stack([good, saddle, broken]))
    assert definite.tolist() == [True, False, False]
    magnitude = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()  # 3 and 1
    torch.testing.assert_close(factor[1] @ factor[1].T, torch.linalg.inv(magnitude))
    assert factor[2].isfinite().all()
