"""Masks change from batch to batch: the first batch with a masked entry of a latent shows whether it is really absent.

A mask that is full says nothing of what would depend on an entry that it takes away, so the look at the first rows
cannot tell, and which rows come first must decide nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace

from ppl_vae import _private as private
from ppl_vae._random import fold, isolated_rng
from ppl_vae.data.rows import Batch
from ppl_vae.pair.absent import Absence
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.calls import Call
from ppl_vae.pair.enumeration import is_masked
from ppl_vae.pair.extra import is_latent
from ppl_vae.pair.masks import mask_of
from ppl_vae.pair.scope import Scope

__all__ = ["Holes"]


class Holes:
    """The latents of a pair whose masks have been seen with holes: each is checked at the first of them, once.

    Args:
        model, guide: as functions of a batch.
        scope: the pair's.
    """

    def __init__(self, model: Call, guide: Call, scope: Scope) -> None:
        self._model, self._guide, self._scope = model, guide, scope
        self._seen: set[str] = set()

    def require_absent(self, batch: Batch, model_trace: Trace) -> None:
        """Raise ValueError if something depends on entries of a latent that the model alone masks in this run.

        Nothing is asked while a step is traced: a graph cannot depend on values.
        """
        masked = self._unseen(model_trace)
        if not masked or private.proxy_mode() is not None:
            return
        found = {name for name in masked if _has_hole(model_trace.nodes[name])}
        if not found:
            return
        noise, still = isolated_rng(fold(0, "holes"), self._scope.device), self._scope.mode(training=False)
        with torch.no_grad(), noise, still:
            guide_trace = poutine.trace(self._guide).get_trace(batch)
            alone = poutine.trace(poutine.replay(self._model, trace=guide_trace)).get_trace(batch)
            Absence(self._model, batch, alone, self._scope.device).require_absent(guide_trace)
        self._seen |= found

    def require_absent_in(self, batches: Iterable[Batch]) -> None:
        """The same for many batches, as many as it takes until every mask has shown a hole; in the pair's scope."""
        for batch in batches:
            guide_trace = poutine.trace(self._guide).get_trace(batch)
            model_trace = poutine.trace(poutine.replay(self._model, trace=guide_trace)).get_trace(batch)
            self.require_absent(batch, model_trace)
            if not self._unseen(model_trace):
                return

    def _unseen(self, model_trace: Trace) -> set[str]:
        masked = {name for name, site in sample_sites(model_trace) if is_masked(site)}
        return {name for name in masked - self._seen if is_latent(model_trace, name)}


def _has_hole(site: Any) -> bool:
    mask = mask_of(site)
    flags = [mask.batch, *(inside for _, inside in mask.event)]
    return any(flag is False or (isinstance(flag, torch.Tensor) and not bool(flag.all())) for flag in flags)
