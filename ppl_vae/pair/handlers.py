"""Pyro handlers: given values for latent sites, on their support or off it, and the factor N/B on the data plate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro.distributions import Unit
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.pair.support import log_det


class Substitute(Messenger):
    """Give the named latent sites these values; they stay latent, so their densities are still counted as prior."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True


def same_rows(*traces: Trace) -> Substitute:
    """Hold the subsamples that the plates of a run have drawn: what runs inside is of the same rows."""
    drawn: list[tuple[str, Any]] = [item for trace in traces for item in trace.nodes.items()]
    return Substitute({name: site["value"] for name, site in drawn if site_is_subsample(site)})


def has_density(site: Any) -> bool:
    """Is this a site with a density of its own, and not a ``pyro.deterministic``?"""
    return not site["infer"].get("_deterministic")


class Forget(Messenger):
    """Sample the observed sites anew; what is deterministic, or a factor, stays as the model computes it."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and has_density(msg) and not isinstance(msg["fn"], Unit):
            msg["is_observed"], msg["value"], msg["done"] = False, None, False


class ScaleData(Messenger):
    """Multiply the log density of every site inside the data plate by N/B, for Pyro's own losses."""

    def __init__(self, plate: str, factor: float) -> None:
        super().__init__()
        self.plate, self.factor = plate, factor

    def _pyro_sample(self, msg: Any) -> None:
        if any(frame.name == self.plate for frame in msg["cond_indep_stack"]):
            msg["scale"] = msg["scale"] * self.factor


class Constrain(Messenger):
    """Give latent sites the value z = t(u), where t maps all real numbers onto the support of the site in this run.

    Attributes:
        log_dets: log |dz/du| of each site, in the shape of its log density, nats.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.log_dets: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.values or msg["is_observed"]:
            return
        transform, u = biject_to(msg["fn"].support), self.values[name]
        msg["value"], msg["done"] = transform(u), True
        self.log_dets[name] = log_det(transform, u, msg["value"], len(msg["fn"].event_shape))
