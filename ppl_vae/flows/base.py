"""p(z) of a flow: a standard normal, a distribution, or a module that returns one."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from ppl_vae.flows.domains import within
from ppl_vae.flows.layer import Layer, require_layer


class NormalBase(nn.Module):
    """p(z) = N(0, I) over events of a shape; called, it returns the distribution.

    Args:
        shape: the event shape of z.
        like: a flow in whose floating type, and on whose device, it starts.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, shape: torch.Size, *, like: nn.Module) -> None:
        super().__init__()
        floats = (t for t in (*like.parameters(), *like.buffers()) if t.is_floating_point())
        zero = next(floats, torch.zeros(())).detach()
        # Not in the state_dict: there is nothing to save.
        self.register_buffer("loc", zero.new_zeros(shape), persistent=False)
        self.register_buffer("scale", zero.new_ones(shape), persistent=False)

    def forward(self) -> TorchDistribution:
        """The distribution of one z."""
        return dist.Normal(self.loc, self.scale).to_event(self.loc.dim())


class FixedBase(nn.Module):
    """p(z) is a distribution as it is: it keeps its type and device, and is not learned."""

    def __init__(self, distribution: TorchDistribution) -> None:
        super().__init__()
        self.distribution = distribution

    def forward(self) -> TorchDistribution:
        """The distribution of one z."""
        return self.distribution


def base_of(flow: Layer, base: TorchDistribution | nn.Module | None, *, who: str) -> nn.Module:
    """A module that returns p(z) for a flow.

    Args:
        flow: the flow.
        base: a Pyro distribution, a module that returns one (as ``ppl_vae.models.priors`` do), or None for N(0, I).
        who: whose error it is.

    Raises:
        TypeError: something else than a layer.
        ValueError: no base, and a flow of vectors of any size; a base of another event shape, or with a batch.
    """
    require_layer(flow, who)
    if base is None:
        if flow.shape_out is None:
            raise ValueError(
                f"{who}: {flow.label} takes vectors of any size, so a base is required to say which, got None"
            )
        return NormalBase(flow.shape_out, like=flow)
    module: nn.Module = base if isinstance(base, nn.Module) else FixedBase(base)
    p_z: TorchDistribution = module()
    fits = len(p_z.event_shape) == 1 if flow.shape_out is None else p_z.event_shape == flow.shape_out
    if not fits or p_z.batch_shape != ():
        required = "(D,)" if flow.shape_out is None else tuple(flow.shape_out)
        raise ValueError(
            f"{who}: the base must have batch shape () and the event shape {required} of the flow's z, got "
            f"{tuple(p_z.batch_shape)} and {tuple(p_z.event_shape)}"
        )
    return module


def keeps_to(p_z: TorchDistribution, where: Constraint) -> bool:
    """Is a distribution known to live within a constraint, but for a null set?"""
    try:
        support: Constraint | None = p_z.support
    except NotImplementedError:
        return False
    return support is not None and within(support, where)
