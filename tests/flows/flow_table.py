"""Every layer, in one table: a new layer is one entry, and all laws run over it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ppl_vae.flows import (
    Abs,
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Alternate,
    Augment,
    Bounded,
    Chain,
    Checkerboard,
    ConditionalNormal,
    Conditioner,
    ElementwiseAffine,
    Flatten,
    Half,
    Householder,
    Inverse,
    InverseAutoregressive,
    Layer,
    LeakyReLU,
    Logit,
    LULinear,
    MaskedAutoregressive,
    Max,
    Permutation,
    Planar,
    Radial,
    Reverse,
    Round,
    Sigmoid,
    Slice,
    Softplus,
    Sort,
    SplineCoupling,
    StochasticPermutation,
    VAELayer,
    VariationalNoise,
    Whitening,
    from_zuko,
)

DOUBLE = torch.float64
HIDDEN = (8, 8)
CONTEXT = 2


@dataclass(frozen=True)
class Space:
    """Where a value lives: draws of it, a density on it, and the box that holds nearly all of that density."""

    draw: Callable[[int, int], Tensor]  # (how many, size)
    log_density: Callable[[Tensor], Tensor]  # (..., D) to (...)
    low: float = -14.0
    high: float = 14.0
    discrete: bool = False
    share: Callable[[Tensor], Tensor] = lambda points: torch.ones(len(points), dtype=DOUBLE)  # of a cell, inside


def normal_log_density(z: Tensor) -> Tensor:
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


LINE = Space(lambda n, d: 2 * torch.randn(n, d, dtype=DOUBLE), normal_log_density)
POSITIVE = Space(
    lambda n, d: 2 * torch.randn(n, d, dtype=DOUBLE).abs(),
    lambda z: torch.where((z >= 0).all(-1), normal_log_density(z) + z.shape[-1] * math.log(2), -math.inf),
    low=0.0,
)
HALF_PLANE = Space(
    lambda n, d: torch.cat([LINE.draw(n, d - 1), POSITIVE.draw(n, 1)], -1),
    lambda z: torch.where(z[..., -1] >= 0, normal_log_density(z) + math.log(2), -math.inf),
)
ASCENDING = Space(
    lambda n, d: (2 * torch.randn(n, d, dtype=DOUBLE)).sort(-1).values,
    lambda z: torch.where(
        (z.diff(dim=-1) >= 0).all(-1), normal_log_density(z) + math.lgamma(z.shape[-1] + 1), -math.inf
    ),
    share=lambda points: (points.diff(dim=-1)[:, 0].sign() + 1) / 2,
)
# |x| <= 13: the stated domain of the sigmoid in float64; e^4 times its precision is what float32 has left at 4.
WIDE = Space(lambda n, d: 26 * torch.rand(n, d, dtype=DOUBLE) - 13, normal_log_density)
NARROW = Space(lambda n, d: 8 * torch.rand(n, d, dtype=DOUBLE) - 4, normal_log_density)
UNIT = Space(
    lambda n, d: (26 * torch.rand(n, d, dtype=DOUBLE) - 13).sigmoid(),  # |logit| <= 13, the stated domain
    lambda z: (6 * z * (1 - z)).log().sum(-1),
    low=0.0,
    high=1.0,
)
BOX = Space(lambda n, d: 5 * UNIT.draw(n, d) - 2, UNIT.log_density, low=-2.0, high=3.0)
BOX_NARROW = Space(lambda n, d: 5 * NARROW.draw(n, d).sigmoid() - 2, UNIT.log_density)
UNIT_NARROW = Space(lambda n, d: NARROW.draw(n, d).sigmoid(), UNIT.log_density)
COUNTS = Space(
    lambda n, d: torch.randint(-4, 5, (n, d)).to(DOUBLE), normal_log_density, low=-14.5, high=14.5, discrete=True
)


@dataclass(frozen=True)
class Case:
    """One layer: how it is made for a size, with a context or without, and where its x and z live."""

    make: Callable[..., Layer]
    x: Space = LINE
    z: Space = LINE
    sizes: tuple[int, ...] = (2, 3)  # for the grid, and for the other laws
    conditional: bool = False
    absorbs: bool = True  # a constant context can be written into the unconditional layer of the same kind
    traces: bool = True
    empty: bool = True  # takes an empty batch (torch's Independent does not)
    single_x: Space | None = None  # where float32 is tried, if not on all of x, or of z
    single_z: Space | None = None


def actnorm(n: int) -> Layer:
    layer = ActNorm(n)
    layer.initialize(torch.randn(50, n, generator=torch.Generator().manual_seed(1)) * 1.5 + 0.5)
    return layer


def whitening(n: int) -> Layer:
    generator = torch.Generator().manual_seed(2)
    factor = torch.randn(n, n, generator=generator).tril(-1) + torch.diag(torch.linspace(0.5, 1.5, n))
    return Whitening(torch.linspace(-1.0, 1.0, n), factor)


def small(kind: Callable[..., Layer], **options: object) -> Callable[..., Layer]:
    """A layer with small networks: smooth, so that sums over a grid are accurate."""
    return lambda n, **given: kind(n, hidden=HIDDEN, activation=nn.Tanh, **options, **given)


def conditioner(n_in: int, n_out: int, **given: object) -> Conditioner:
    return Conditioner(n_in, n_out, hidden=HIDDEN, activation=nn.Tanh, **given)


def normal(n_in: int, n_out: int, **given: object) -> ConditionalNormal:
    return ConditionalNormal(n_in, n_out, hidden=HIDDEN, activation=nn.Tanh, **given)


def signed(n: int, **given: object) -> Layer:
    return Abs(n, sign=conditioner(n, n, **given), **given)


def folded(n: int, **given: object) -> Layer:
    return Abs(n, entries=[n - 1], sign=conditioner(n, 1, **given), **given)


def sliced(n: int, **given: object) -> Layer:
    return Slice(n, 1, rest=normal(1, n - 1, **given), **given)


def augmented(n: int, **given: object) -> Layer:
    return Augment(n, 2, noise=normal(n, 2, **given), **given)


def vae(n: int, **given: object) -> Layer:
    return VAELayer(normal(n, 2, **given), normal(2, n, **given), shape=n, latent_dim=2, **given)


def dequantized(n: int, context_dim: int = 0) -> Layer:
    flow = ElementwiseAffine(n, context_dim=n + context_dim, hidden=HIDDEN)
    return Round(n, noise=VariationalNoise(flow), context_dim=context_dim or None)


def neural_spline(n: int, context_dim: int = 0) -> Layer:
    return from_zuko(
        lambda zuko: zuko.flows.NSF(n, context=context_dim, transforms=2, bins=4, hidden_features=HIDDEN),
        context_dim=context_dim or None,
        shape=n,
    )


def chain(n: int, **given: object) -> Layer:
    return Chain(
        [
            actnorm(n),
            AffineCoupling(n, hidden=HIDDEN, activation=nn.Tanh, **given),
            LULinear(n),
            Chain([Reverse(n), SplineCoupling(n, bins=4, hidden=HIDDEN, activation=nn.Tanh, **given)]),
        ]
    )


def abs_flow(n: int) -> Layer:
    return Chain([Abs(), Inverse(Softplus()), AffineCoupling(n, hidden=HIDDEN, activation=nn.Tanh)])


CASES = {
    "elementwise affine": Case(lambda n, **given: ElementwiseAffine(n, hidden=HIDDEN, **given), conditional=True),
    "actnorm": Case(actnorm),
    "affine coupling": Case(small(AffineCoupling), conditional=True),
    "affine coupling, the second half kept": Case(small(AffineCoupling, mask=Half(swap=True)), conditional=True),
    "affine coupling, alternate": Case(small(AffineCoupling, mask=Alternate()), conditional=True),
    "affine coupling, checkerboard": Case(
        lambda n, **given: small(AffineCoupling, mask=Checkerboard(height=2, width=2))(4, **given),
        sizes=(4,),
        conditional=True,
    ),
    "affine coupling, linear network": Case(lambda n, **given: AffineCoupling(n, hidden=(), **given), conditional=True),
    "additive coupling": Case(small(AdditiveCoupling), conditional=True),
    "spline coupling": Case(small(SplineCoupling, bins=4), conditional=True),
    "masked autoregressive": Case(small(MaskedAutoregressive), conditional=True),
    "inverse autoregressive": Case(small(InverseAutoregressive), conditional=True),
    "LU linear": Case(LULinear),
    "whitening": Case(whitening),
    "permutation": Case(lambda n: Permutation(n, seed=3)),
    "reverse": Case(Reverse),
    "Householder": Case(Householder),
    "flatten": Case(Flatten),
    "sigmoid": Case(Sigmoid, x=WIDE, z=UNIT, single_x=NARROW, single_z=UNIT_NARROW),
    "logit": Case(Logit, x=UNIT, z=WIDE, single_x=UNIT_NARROW, single_z=NARROW),
    "bounded": Case(lambda n: Bounded([-2.0] * n, [3.0] * n), x=BOX, z=WIDE, single_x=BOX_NARROW, single_z=NARROW),
    "softplus": Case(Softplus, z=POSITIVE),
    "softplus, turned round": Case(lambda n: Inverse(Softplus(n)), x=POSITIVE),
    "leaky ReLU": Case(lambda n: LeakyReLU(slope=0.3)),
    "planar": Case(lambda n, **given: Planar(n, **given), conditional=True),
    "planar, turned round": Case(lambda n, **given: Inverse(Planar(n, **given)), conditional=True),
    "radial": Case(lambda n, **given: Radial(n, **given), conditional=True),
    "radial, turned round": Case(lambda n, **given: Inverse(Radial(n, **given)), conditional=True),
    "zuko's neural spline": Case(neural_spline, conditional=True, absorbs=False, traces=False, empty=False),
    "chain": Case(chain, conditional=True),
    "fair abs": Case(lambda n: Abs(), z=POSITIVE),
    "fair abs, turned round": Case(lambda n: Inverse(Abs(n)), x=POSITIVE),
    "learned abs": Case(signed, z=POSITIVE, conditional=True),
    "abs of one entry": Case(folded, z=HALF_PLANE, conditional=True),
    "learned abs, turned round": Case(lambda n, **given: Inverse(signed(n, **given)), x=POSITIVE, conditional=True),
    "a flow behind an abs": Case(abs_flow),
    "sort": Case(Sort, z=ASCENDING),
    "sort, turned round": Case(lambda n: Inverse(Sort(n)), x=ASCENDING),
    "max": Case(Max),
    "max, turned round": Case(lambda n: Inverse(Max(n))),
    "slice": Case(sliced, conditional=True, empty=False),
    "augment": Case(augmented, conditional=True, empty=False),
    "round, uniform noise": Case(lambda n: Round(n), x=COUNTS),
    "round, variational noise": Case(dequantized, x=COUNTS, conditional=True, absorbs=False),
    "a VAE": Case(vae, conditional=True, empty=False),
    "stochastic permutation": Case(StochasticPermutation),
}


def shaken(layer: Layer, *, seed: int = 0, size: float = 0.2) -> Layer:
    """The layer with every parameter moved away from where it starts, in float64."""
    generator = torch.Generator().manual_seed(seed)
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(size * torch.randn(parameter.shape, dtype=DOUBLE, generator=generator))
    return layer


def instance(name: str, *, grid: bool = False, context_dim: int | None = None) -> Layer:
    case = CASES[name]
    torch.manual_seed(0)
    given = {} if context_dim is None else {"context_dim": context_dim}
    return shaken(case.make(case.sizes[0 if grid else -1], **given))


def size_of(shape: torch.Size | None, case: Case) -> int:
    return case.sizes[-1] if shape is None else shape[0]


def data(name: str, layer: Layer, n: int = 7) -> Tensor:
    return CASES[name].x.draw(n, size_of(layer.shape_in, CASES[name]))


def latents(name: str, layer: Layer, n: int = 7) -> Tensor:
    return CASES[name].z.draw(n, size_of(layer.shape_out, CASES[name]))


def names(condition: Callable[[Layer], bool] = lambda layer: True) -> list[str]:
    """The cases whose layer meets a condition."""
    return [name for name in CASES if condition(instance(name))]
