"""Normalizing flows: Pyro's transforms in the guide and in the prior, zuko's through wrappers, and those of ppl_vae."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import transforms as T
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from ppl_vae import flows
from ppl_vae.guides import AmortizedFlow, FlowGuide, FlowPosterior
from ppl_vae.models import VAE, Energy, FlowModel
from ppl_vae.models.priors import FlowPrior, MixtureOfNormals
from ppl_vae.objectives import ELBO, IWAE

from .base import DIM, LATENT, ROWS, Problem, diagonal_normal, mlp, row, standard_normal, vae


class Flow(nn.Module):
    """A normal pushed through transforms: around the encoder's output in a guide, around N(0, I) in a prior."""

    def __init__(self, *transforms: Any) -> None:
        super().__init__()
        self.transforms = list(transforms)
        self.parts = nn.ModuleList([t for t in transforms if isinstance(t, nn.Module)])

    def forward(self, h: Tensor | None = None) -> Any:
        base = standard_normal() if h is None else diagonal_normal(h)
        return dist.TransformedDistribution(base, self.transforms)


def in_guide(make: Callable[[], Any]) -> Problem:
    """Draws go forward, and their density comes from what the transform has cached."""
    return vae(Trace_ELBO(), posterior=Flow(make()))


def in_prior(make: Callable[[], Any]) -> Problem:
    """Another's draws are scored: the inverse pass."""
    return vae(Trace_ELBO(), prior=Flow(make()))


IN_GUIDE: dict[str, Callable[[], Any]] = {
    "affine coupling": lambda: T.affine_coupling(LATENT, hidden_dims=[5]),
    "affine autoregressive": lambda: T.affine_autoregressive(LATENT, hidden_dims=[5]),
    "stable affine autoregressive": lambda: T.affine_autoregressive(LATENT, hidden_dims=[5], stable=True),
    "neural autoregressive": lambda: T.neural_autoregressive(LATENT, hidden_dims=[5], width=4),
    "block autoregressive": lambda: T.block_autoregressive(LATENT, hidden_factors=[2]),
    "polynomial": lambda: T.polynomial(LATENT, hidden_dims=[5]),
    "planar": lambda: T.planar(LATENT),
    "radial": lambda: T.radial(LATENT),
    "Sylvester": lambda: T.sylvester(LATENT),
    "Householder": lambda: T.householder(LATENT, count_transforms=2),
    "matrix exponential": lambda: T.matrix_exponential(LATENT),
    "spline, linear": lambda: T.spline(LATENT, count_bins=4),
    "spline, quadratic": lambda: T.spline(LATENT, count_bins=4, order="quadratic"),
    "spline coupling": lambda: T.spline_coupling(LATENT, hidden_dims=[5], count_bins=4),
    "spline autoregressive": lambda: T.spline_autoregressive(LATENT, hidden_dims=[5], count_bins=4),
    "batch norm": lambda: T.batchnorm(LATENT),
}

IN_PRIOR: dict[str, Callable[[], Any]] = {
    "affine coupling": IN_GUIDE["affine coupling"],
    "affine autoregressive": IN_GUIDE["affine autoregressive"],
    "spline, linear": IN_GUIDE["spline, linear"],
    "spline coupling": IN_GUIDE["spline coupling"],
    "matrix exponential": IN_GUIDE["matrix exponential"],
    "batch norm": IN_GUIDE["batch norm"],  # in training the inverse pass updates moving averages in place
}


def deep() -> Problem:
    """Several transforms, with a fixed permutation between them."""
    flow = Flow(
        T.affine_autoregressive(LATENT, hidden_dims=[5]),
        T.permute(LATENT, torch.tensor([2, 0, 1])),
        T.affine_autoregressive(LATENT, hidden_dims=[5]),
    )
    return vae(Trace_ELBO(), posterior=flow)


class Conditional(nn.Module):
    """A flow around N(0, I) whose transforms depend on x."""

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, h: Tensor) -> Any:
        base = standard_normal().expand(h.shape[:-1])
        return dist.ConditionalTransformedDistribution(base, [self.transform]).condition(h)


def conditional(make: Callable[..., nn.Module], **options: Any) -> Problem:
    return vae(Trace_ELBO(), posterior=Conditional(make(LATENT, 2 * LATENT, hidden_dims=[5], **options)))


def zuko() -> Any:
    """The library. Its import turns torch's argument validation off for the process, which is turned on again."""
    before = torch.distributions.Distribution._validate_args
    import zuko

    torch.distributions.Distribution.set_default_validate_args(before)
    return zuko


class Wrapped(dist.TorchDistribution):
    """A distribution of zuko with what Pyro asks of one: its own small wrapper, as users write it."""

    has_rsample = True
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, flow: Any) -> None:
        self.flow = flow
        super().__init__(flow.batch_shape, flow.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return dist.constraints.real_vector

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.flow.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.flow.log_prob(value)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
        return Wrapped(self.flow.expand(batch_shape))


class Zuko(nn.Module):
    """A flow of zuko, given the context that the encoder puts out, or none."""

    def __init__(self, flow: nn.Module, wrap: Callable[[Any], Any]) -> None:
        super().__init__()
        self.flow, self.wrap = flow, wrap

    def forward(self, h: Tensor | None = None) -> Any:
        return self.wrap(self.flow(h))


def zuko_guide(kind: str, wrap: Callable[[Any], Any], **options: Any) -> Problem:
    flow = getattr(zuko().flows, kind)(LATENT, context=2 * LATENT, hidden_features=(5,), **options)
    return vae(Trace_ELBO(), posterior=Zuko(flow, wrap))


def zuko_prior(kind: str, wrap: Callable[[Any], Any], **options: Any) -> Problem:
    flow = getattr(zuko().flows, kind)(LATENT, hidden_features=(5,), **options)
    return vae(Trace_ELBO(), prior=Zuko(flow, wrap))


def by_pyro(flow: Any) -> Any:
    """Pyro's own wrapper, which keeps the density of a draw in a dictionary by the draw."""
    from pyro.contrib.zuko import ZukoToPyro

    return ZukoToPyro(flow)


def flow_pair(loss: Any, *layers: flows.Layer, base: Any = None, y: Tensor | None = None) -> Problem:
    """A flow as a pair, after a step that starts what starts from data."""
    flow = flows.Chain(layers)
    kwargs = {} if y is None else {"y": y}
    return Problem(FlowModel(flow, base=base), FlowGuide(flow), loss, (torch.randn(ROWS, DIM).abs(),), kwargs)


def coupling(**options: Any) -> flows.Layer:
    return flows.AffineCoupling(DIM, hidden=(5,), **options)


def augment() -> flows.Layer:
    return flows.Augment(DIM, 1, noise=flows.ConditionalNormal(DIM, 1, hidden=(5,)))


def flows_for_z(loss: Any) -> Problem:
    prior = FlowPrior(flows.MaskedAutoregressive(LATENT, hidden=(5,)))
    model = VAE(mlp(LATENT, DIM), latent_dim=LATENT, likelihood="unit-normal", prior=prior)
    flow = flows.InverseAutoregressive(LATENT, hidden=(5,), context_dim=2)
    return Problem(model, AmortizedFlow(mlp(DIM, 2), flow, latent_dim=LATENT), loss, (torch.randn(ROWS, DIM),))


def energy(loss: Any) -> Problem:
    box = flows.Bounded([-4.0, -torch.inf], [4.0, torch.inf])
    flow = flows.Chain([box, flows.AffineCoupling(2, hidden=(5,)), flows.Reverse(2), flows.Planar(2)])
    ring = Energy(lambda z: -(z.norm(dim=-1) - 2).square(), shape=2, support=box.domain)
    return Problem(ring, FlowPosterior(flow), loss)


OWN_FLOWS = {
    "coupling": lambda: flow_pair(Trace_ELBO(), coupling(), flows.Reverse(DIM), flows.SplineCoupling(DIM, hidden=(5,))),
    "act norm": lambda: flow_pair(ELBO(), flows.ActNorm(DIM), flows.LULinear(DIM)),
    "two particles": lambda: flow_pair(ELBO(num_particles=2), coupling()),
    "a mixture base": lambda: flow_pair(ELBO(), coupling(), base=MixtureOfNormals(DIM, num_components=2)),
    "with a context": lambda: flow_pair(Trace_ELBO(), coupling(context_dim=2), y=torch.randn(ROWS, 2)),
    "a surjection": lambda: flow_pair(ELBO(), flows.Abs(), flows.Inverse(flows.Softplus()), coupling()),
    "that draws": lambda: flow_pair(IWAE(3), augment(), flows.ElementwiseAffine(DIM + 1)),
}

ROWS_OF_FLOWS = [
    *(row(f"a flow as a pair, {name}", make) for name, make in OWN_FLOWS.items()),
    row("flows in prior and guide of a VAE", lambda: flows_for_z(ELBO())),
    row("flows in prior and guide of a VAE, IWAE", lambda: flows_for_z(IWAE(3))),
    row("a flow fitted to an energy", lambda: energy(Trace_ELBO())),
    *(row(f"flow in the guide, {name}", lambda make=make: in_guide(make)) for name, make in IN_GUIDE.items()),
    row("flow in the guide, three transforms", deep),
    row(
        "flow in the guide, conditional affine autoregressive", lambda: conditional(T.conditional_affine_autoregressive)
    ),
    row("flow in the guide, conditional spline", lambda: conditional(T.conditional_spline, count_bins=4)),
    row("flow in the guide, conditional planar", lambda: conditional(T.conditional_planar)),
    *(row(f"flow as the prior, {name}", lambda make=make: in_prior(make)) for name, make in IN_PRIOR.items()),
    row("zuko MAF in the guide, Pyro's wrapper", lambda: zuko_guide("MAF", by_pyro, transforms=2)),
    row("zuko MAF in the guide, a wrapper of one's own", lambda: zuko_guide("MAF", Wrapped, transforms=2)),
    row("zuko NSF as the prior, Pyro's wrapper", lambda: zuko_prior("NSF", by_pyro, transforms=1, bins=4)),
    row("zuko NSF as the prior, a wrapper of one's own", lambda: zuko_prior("NSF", Wrapped, transforms=1, bins=4)),
]
