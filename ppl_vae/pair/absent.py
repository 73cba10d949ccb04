"""What a mask says is not there, and is there all the same: entries of a latent on which something else depends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.data.rows import Batch
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.checks import is_out_of_memory
from ppl_vae.pair.enumeration import is_masked
from ppl_vae.pair.extra import is_latent
from ppl_vae.pair.handlers import Substitute, has_density
from ppl_vae.pair.masks import mask_of

__all__ = ["Absence", "require_posterior_wanted"]

REDRAWS = 3
"""A discrete draw may come out the same again."""

Values = Mapping[str, Tensor]


class Absence:
    """The model as a function of its latents: which densities depend on entries of one of them.

    Found by runs with other values there, drawn from the prior, and not by reading the model.

    Args:
        model: as a function of a batch.
        model_trace: a run of it on that batch.
    """

    def __init__(self, model: Callable[[Batch], Any], batch: Batch, model_trace: Trace, device: Any) -> None:
        self._model, self._batch, self._device = model, batch, device
        sites = sample_sites(model_trace)
        self.latents = {n: s for n, s in sites if is_latent(model_trace, n) and has_density(s)}
        self._values = {name: site["value"].detach() for name, site in self.latents.items()}

    def require_absent(self, guide_trace: Trace) -> None:
        """Raise ValueError if what is not masked depends on entries of a latent that the model alone masks.

        Such an entry is there, and without a density: over it nothing has a finite integral.
        """
        for name, site in self.latents.items():
            own: Any = guide_trace.nodes.get(name)
            if own is None or is_masked(own) or not (mask := mask_of(site)):
                continue
            if moved := self.depending(name, mask.there(self._values[name], len(site["fn"].event_shape))):
                raise ValueError(
                    f"Pair: {name!r} bears a mask in the model (poutine.mask, obs_mask= or .mask()), so its masked "
                    f"entries have neither log p nor log q, but {', '.join(map(repr, moved))} depends on them, and "
                    "without a density for them there is no log p(x). Mask what depends on them too, or give them a "
                    "density: take the mask away, with a wide prior if it is meant to say nothing"
                )

    def depending(self, name: str, kept: Tensor | None = None) -> list[str]:
        """The other sites whose masked log density changes when draws of the prior take places of this latent.

        Args:
            name: of the latent.
            kept: the entries that keep their values; None: of none.
        """
        with torch.no_grad(), isolated_rng(fold(0, "absent"), self._device):
            before = self._terms(self._values)
            for _ in range(REDRAWS):
                try:
                    after = self._terms({**self._values, name: self._elsewhere(name, kept)})
                except (RuntimeError, ValueError) as error:  # a prior that cannot be drawn from
                    if is_out_of_memory(error):
                        raise
                    return []
                different = [n for n in before if n != name and not _equal(before[n], after.get(n))]
                if different:
                    return different
        return []

    def _elsewhere(self, name: str, kept: Tensor | None) -> Tensor:
        value = self._values[name]
        drawn: Tensor = self.latents[name]["fn"].sample()
        drawn = drawn.expand(value.shape).to(value.dtype)
        return drawn if kept is None else torch.where(kept, value, drawn)

    def _terms(self, values: Values) -> dict[str, Tensor]:
        """The masked log density of every site."""
        trace = poutine.trace(Substitute(values)(self._model)).get_trace(self._batch)
        return {
            name: scale_and_mask(site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]), 1.0, site["mask"])
            for name, site in sample_sites(trace)
            if has_density(site)
        }


def _equal(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def require_posterior_wanted(guide: Any, guide_trace: Trace, absence: Absence) -> None:
    """Raise ValueError for an autoguide that gives a posterior to gaps in the data that nothing depends on.

    ``obs_mask=`` makes a latent of them, and an autoguide a factor of the posterior, which is not the prior given the
    other latents: the bound pays for entries that were never observed.
    """
    if not isinstance(guide, AutoGuide):
        return
    for name in absence.latents:
        whole = name.removesuffix("_unobserved")
        if whole != name and is_latent(guide_trace, name) and not absence.depending(name):
            raise ValueError(
                f"Pair: {name!r} stands for the entries of {whole!r} that obs_mask= leaves open; nothing depends on "
                f"it, so it needs no posterior, and the one that {type(guide).__name__} gives it is paid for in every "
                f"bound. Mask what is observed instead: `with poutine.mask(mask=...): pyro.sample({whole!r}, ..., "
                "obs=...)`, any possible value in the gaps, is the same model of what was observed; or write a guide "
                "that draws it"
            )
