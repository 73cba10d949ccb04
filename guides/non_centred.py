"""A guide of non-centred latents, as a guide of the model as it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.infer.autoguide import AutoMultivariateNormal
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

DECENTRED = "_decentered"
"""What ``LocScaleReparam`` adds to the name of a site."""


class NonCentred(PyroModule):
    r"""q(θ) of :math:`\theta = m + s^{1-c} (\eta - c m)`, η drawn by an autoguide; m, s are the prior's of θ.

    .. math:: \log q(\theta) = \log q(\eta) - (1 - c) \log s

    In a hierarchical model :math:`\theta \sim N(\mu, \tau)` is narrow where τ is small, which no normal guide of θ
    knows; of :math:`\eta = (\theta - \mu) / \tau` one may be right. The autoguide is of ``LocScaleReparam``'s model,
    but this guide is one of yours: its draws have your names, and the density of what you have written.

    Args:
        model: a Pyro model.
        sites: names of latents with a location-scale prior on all real numbers; or, by name, a ``LocScaleReparam`` with
            a number for ``centered``, c: 0 (the default) is non-centred, 1 leaves the site as it is.
        guide: makes the autoguide of a model; or that autoguide, where it is already made.

    Raises:
        ValueError: no site; in the first call, a site that the model does not draw so.
        TypeError: another reparametrization, or one whose ``centered`` is to be learned.

    Sources: Omiros Papaspiliopoulos, Gareth Roberts, Martin Sköld, "A general framework for the parametrization of
    hierarchical models", 2007; Maria Gorinova, Dave Moore, Matthew Hoffman, "Automatic reparameterisation of
    probabilistic programs", 2020.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        sites: Sequence[str] | Mapping[str, LocScaleReparam],
        guide: Callable[..., Any] = AutoMultivariateNormal,
    ) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: it is no module of this one
        self.sites, self._checked = centring(sites), False
        self.guide = guide if isinstance(guide, torch.nn.Module) else guide(non_centred(model, self.sites))

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw η, and put θ where the model says."""
        if not self._checked:
            self._check(poutine.block(poutine.trace(self._model[0]).get_trace)(*args, **kwargs))
        with poutine.block(hide=[name + DECENTRED for name in self.sites]):
            drawn: dict[str, Tensor] = self.guide(*args, **kwargs)
        place = _Place(drawn, self.sites)
        with poutine.block(hide_fn=lambda msg: msg["name"] not in self.sites), place:
            self._model[0](*args, **kwargs)
        own = {name: value for name, value in drawn.items() if name.removesuffix(DECENTRED) not in self.sites}
        return {**own, **place.values}

    def _check(self, trace: Trace) -> None:
        """Are the sites latents of the model, and of location-scale families?"""
        latents = {name: site["fn"] for name, site in trace.iter_stochastic_nodes()}
        if missing := sorted(set(self.sites) - set(latents)):
            raise ValueError(f"NonCentred: latent sites of the model are required, it draws none of {missing}")
        for name in self.sites:
            if location_scale(latents[name]) is None:
                raise ValueError(
                    f"NonCentred: a location-scale prior on all real numbers is required of {name!r}, got "
                    f"{type(latents[name]).__name__}"
                )
        self._checked = True


class _Place(Messenger):
    """Run a model with its latents at what was drawn, and θ where η puts it, as a point that takes the volume back."""

    def __init__(self, drawn: Mapping[str, Tensor], sites: Mapping[str, float]) -> None:
        super().__init__()
        self.drawn, self.sites = drawn, sites
        self.values: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name in self.sites and not msg["is_observed"]:
            value, log_density = self._placed(name, msg["fn"])
            self.values[name] = value
            msg["fn"] = Delta(value, log_density=log_density, event_dim=msg["fn"].event_dim)
            msg["value"], msg["done"] = value, True
        elif name in self.drawn and not msg["is_observed"]:
            msg["value"], msg["done"] = self.drawn[name], True

    def _placed(self, name: str, fn: Any) -> tuple[Tensor, Tensor]:
        base, centred = location_scale(fn), self.sites[name]
        scale = base.scale ** (1 - centred)
        value = base.loc + scale * (self.drawn[name + DECENTRED] - centred * base.loc)
        log_density = -scale.log().expand(value.shape)
        return value, log_density.sum(tuple(range(-fn.event_dim, 0))) if fn.event_dim else log_density


def location_scale(fn: Any) -> Any:
    """The distribution inside ``to_event``; None unless it has ``loc`` and ``scale`` and lives on all real numbers."""
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    real = fn.support is torch.distributions.constraints.real
    return fn if real and {"loc", "scale"} <= set(fn.arg_constraints) else None


def centring(sites: Sequence[str] | Mapping[str, LocScaleReparam]) -> dict[str, float]:
    """How far each site stays centred: 0 not at all; one that stays as it is is left out.

    Raises:
        ValueError, TypeError: see :class:`NonCentred`.
    """
    if isinstance(sites, str) or not sites:
        raise ValueError(f"NonCentred: names of sites are required, got {sites!r}")
    if not isinstance(sites, Mapping):
        return dict.fromkeys(sites, 0.0)
    for name, how in sites.items():
        if not isinstance(how, LocScaleReparam) or not isinstance(how.centered, float | int):
            raise TypeError(
                f"NonCentred: a LocScaleReparam with a number for centered is required for {name!r}, got "
                f"{type(how).__name__}{' whose centered is learned' if isinstance(how, LocScaleReparam) else ''}"
            )
    return {name: float(how.centered) for name, how in sites.items() if how.centered != 1}


def non_centred(model: Callable[..., Any], sites: Mapping[str, float]) -> Callable[..., Any]:
    """The model with these sites as far centred as said, under the names that ``LocScaleReparam`` gives."""
    return poutine.reparam(model, config={name: LocScaleReparam(float(how)) for name, how in sites.items()})
