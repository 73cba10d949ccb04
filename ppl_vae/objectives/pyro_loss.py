"""Any of Pyro's own ELBOs as an objective, called verbatim."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO as PyroELBO
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor

from ppl_vae.data.rows import Batch
from ppl_vae.objectives.elbo import ELBO
from ppl_vae.objectives.objective import Objective, Terms
from ppl_vae.pair import Pair
from ppl_vae.pair.handlers import ScaleData

_ELBOS = (Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO)


class PyroLoss(Objective):
    """A Pyro ELBO as it is: its own ``loss_and_grads``, on model and guide scaled by N/B in the data plate.

    Its value is one number for the whole batch, so of the report's columns only ``objective`` is known, and ``elbo``
    where the loss is an ELBO (not for ``RenyiELBO``) of sites without weights (``poutine.scale``); the others are NaN.
    """

    def __init__(self, loss: PyroELBO) -> None:
        super().__init__()
        self.wrapped: Any = loss
        self.is_elbo = isinstance(loss, _ELBOS)

    def __repr__(self) -> str:
        return f"PyroLoss({type(self.wrapped).__name__})"

    def meet(self, pair: Pair) -> None:
        """Warn where Pyro counts what is not there: log q of entries that the model masks, of sites that it lacks."""
        if pair.sites.remasked:
            warnings.warn(
                f"{self!r}: Pyro masks model and guide each by itself, and here counts log q of "
                f"{', '.join(map(repr, pair.sites.remasked))} where the model has no density (a mask, or no such "
                "latent), or the other way round: what it maximizes is no bound on log p(x). ELBO() puts the model's "
                "masks on log q too; or write the mask into the guide",
                stacklevel=2,
            )

    def terms(self, pair: Pair, batch: Batch) -> Terms:
        """Not per datum: Pyro's losses are single numbers."""
        raise TypeError(f"{self!r}: Pyro's losses give no terms per datum; use an objective of ppl_vae.objectives")

    def _callables(self, pair: Pair, batch: Batch) -> tuple[Callable[..., Any], Callable[..., Any], int]:
        axis = pair.layout.axis
        if axis is None:
            return _announced(pair.runner.model, pair), _announced(pair.runner.guide, pair), 1
        num_data = batch.num_data or batch.size or 1
        factor = 1.0 if axis.scaled else num_data / (batch.size or num_data)
        model, guide = (ScaleData(axis.name, factor)(fn) for fn in (pair.runner.model, pair.runner.guide))
        return _announced(model, pair), _announced(guide, pair), num_data

    def gradients(self, pair: Pair, batch: Batch, leaves: Mapping[str, list[Tensor]]) -> Tensor:
        """Pyro's gradients divided by N, on the leaves that are to move."""
        model, guide, num_data = self._callables(pair, batch)
        everyone = list(pair.parameters.leaves.values())
        for leaf in everyone:
            leaf.grad = None
        loss = self.wrapped.loss_and_grads(model, guide, batch)
        moving = {id(leaf) for members in leaves.values() for leaf in members}
        for leaf in everyone:
            if id(leaf) not in moving:
                leaf.grad = None
            elif leaf.grad is not None:
                leaf.grad /= num_data
        return self._report(loss, num_data, pair)

    def measure(self, pair: Pair, batch: Batch) -> Tensor:
        """The report (4,) without gradients."""
        model, guide, num_data = self._callables(pair, batch)
        with torch.no_grad():
            return self._report(self.wrapped.loss(model, guide, batch), num_data, pair)

    def _report(self, loss: Any, num_data: int, pair: Pair) -> Tensor:
        loss = loss[0] if isinstance(loss, tuple) else loss  # a float; a tensor while the step is being captured
        value = -torch.as_tensor(loss, dtype=torch.float64, device=pair.device) / num_data
        unknown = torch.full((), float("nan"), dtype=torch.float64, device=pair.device)
        return torch.stack(
            [value, value if self.is_elbo and not pair.sites.weighted else unknown, unknown, unknown]
        ).to(pair.dtype)


def _announced(fn: Callable[..., Any], pair: Pair) -> Callable[..., Any]:
    """``fn`` with one param statement: Pyro's losses differentiate only what announces a parameter to the trace."""
    leaf = next(iter(pair.parameters.leaves.values()), None)
    announce = poutine.runtime.effectful(type="param")(lambda *_, **__: leaf)

    def run(*args: Any, **kwargs: Any) -> Any:
        if leaf is not None:
            announce("_ppl_vae_parameters", name="_ppl_vae_parameters")
        return fn(*args, **kwargs)

    return run


def as_objective(objective: Any) -> Objective:
    """An objective of ours as it is, a Pyro ELBO wrapped, None as ``ELBO()``.

    Raises:
        TypeError: for anything else.
    """
    if objective is None:
        return ELBO()
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, PyroELBO) and type(objective).__name__.startswith("Jit"):
        raise TypeError(
            f"objective: {type(objective).__name__} reads parameters from Pyro's global store, which a fit does not "
            "use; give the same loss without Jit"
        )
    if isinstance(objective, PyroELBO):
        return PyroLoss(objective)
    raise TypeError(f"objective: an Objective or a Pyro ELBO instance is required, such as ELBO(), got {objective!r}")
