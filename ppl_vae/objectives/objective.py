"""The contract of an objective: per-datum values that are reported, surrogates that are differentiated.

Implementing a new one:

- write ``terms(pair, batch)``: run the pair (``pair.runs``), and return :class:`Terms`; keep log p - log q per datum to
  the end, and let no weight and no factor N/B into a logsumexp;
- if it has parameters of its own (a baseline), give them in ``parameters()``: they are the group ψ; what a step changes
  in place besides (a running average) goes into ``buffers()``, and ``to()`` moves both;
- add it to the table of ``tests/objectives/test_laws.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import ELBO as PyroELBO
from pyro.infer.enum import get_importance_trace
from torch import Tensor

from ppl_vae import _private as private
from ppl_vae.data.rows import Batch
from ppl_vae.objectives.announce import announce
from ppl_vae.objectives.bare import BarePairs
from ppl_vae.objectives.exact import exact_bound
from ppl_vae.pair import Execution, Pair, Table
from ppl_vae.pair.checks import is_out_of_memory
from ppl_vae.pair.structure import StructureChanged

COLUMNS = ("objective", "elbo", "reconstruction", "kl")


@dataclass(frozen=True)
class Terms:
    """What one evaluation of an objective on a batch gives, in nats.

    Attributes:
        value: (B,) what is maximized, its part inside the data plate, by datum.
        global_value: () what is maximized, its part outside the data plate.
        num_data: N, the number of data that the batch stands for.
        surrogates: by parameter group (``theta``, ``phi``, ``psi``) the number () whose gradient is that of the
            objective per datum, L / N. Groups with the same gradient hold the same tensor.
        elbo, reconstruction, kl: () per datum: beta = 1 and one sample whatever the objective, so comparable.
        auxiliary: () what training adds and no likelihood counts (already inside the surrogates), per datum.
    """

    value: Tensor
    global_value: Tensor
    num_data: int
    surrogates: Mapping[str, Tensor]
    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    auxiliary: Tensor | float = 0.0

    @property
    def objective(self) -> Tensor:
        """The objective per datum, L / N."""
        return self.value.mean() + self.global_value / self.num_data

    def report(self) -> Tensor:
        """The numbers of :data:`COLUMNS`, detached: (4,) nats per datum."""
        return torch.stack([t.detach() for t in (self.objective, self.elbo, self.reconstruction, self.kl)])


class Objective(PyroELBO):
    """An objective L to be maximized. It serves as a Pyro ``loss`` too: ``SVI(model, guide, optim, loss=IWAE(5))``.

    What is derived here: gradients by group, ``loss``, ``loss_and_grads``, ``differentiable_loss``.
    """

    enumerates = False  # does it take the exact expectation over the sites that a guide marks for enumeration?
    _unwatched = ("_calls", "_bare")  # python state that a step may change: it is no part of what the step computes

    def __init__(self, num_particles: int = 1) -> None:
        if num_particles < 1:
            raise ValueError(f"{type(self).__name__}: num_particles must be at least 1, got {num_particles}")
        super().__init__(num_particles=num_particles)
        self._calls = 0
        self._bare = BarePairs()

    @property
    def draws_in_bound(self) -> int:
        """K of the bound L_K that is maximized, whose first is the ELBO."""
        return 1

    @abstractmethod
    def terms(self, pair: Pair, batch: Batch) -> Terms:
        """Evaluate the objective on a batch, inside ``pair.scope()``."""

    def exact_surrogates(self, table: Table) -> dict[str, Tensor]:
        """What the surrogates of θ and φ are without noise, (B,) nats, from the table of all values of the latents.

        An estimator is unbiased if its gradients have these in expectation.
        """
        return dict.fromkeys(("theta", "phi"), exact_bound(table, self.draws_in_bound))

    def meet(self, pair: Pair) -> None:
        """Say, before the first step of a run, what this objective makes of the pair."""

    def begin_step(self, step: int) -> None:
        """Take the values that schedules have at this step (counted from 0)."""

    def parameters(self) -> dict[str, Tensor]:
        """The objective's own parameters ψ by name."""
        return {}

    def buffers(self) -> dict[str, Tensor]:
        """What else is the objective's own and part of a run's state (a running average) by name: live tensors."""
        return {}

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the objective's own tensors to where the pair is. Their buffers may become other objects."""

    # -- derived -------------------------------------------------------------------------------------------------------

    def gradients(self, pair: Pair, batch: Batch, leaves: Mapping[str, list[Tensor]]) -> Tensor:
        """Put the gradient of the loss -L/N into ``.grad`` of these leaves; return the report (4,).

        Args:
            leaves: by group ``theta``, ``phi``, ``shared``, ``psi``; shared ones follow the surrogate of θ.
        """
        terms = self.terms(pair, batch)
        assign_gradients(terms.surrogates, leaves)
        return terms.report()

    def measure(self, pair: Pair, batch: Batch) -> Tensor:
        """The report (4,) without gradients."""
        with torch.no_grad():
            return self.terms(pair, batch).report()

    # -- as a Pyro loss ------------------------------------------------------------------------------------------------

    def _pyro_terms(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Terms, Pair]:
        """The terms of a call, and the pair that it is of; one that has changed is looked at again, once."""
        batch = Batch(args, kwargs)
        pair, is_new = self._bare.of(model, guide, batch)
        if is_new:
            self.to(pair.device, pair.dtype)
        try:
            terms = self.terms(pair, batch)
        except (StructureChanged, ValueError, RuntimeError, IndexError) as error:
            if is_new or private.proxy_mode() is not None or is_out_of_memory(error):
                raise
            pair, is_other = self._bare.anew(model, guide, batch, pair)
            if not is_other and not isinstance(error, StructureChanged):
                raise
            terms = self.terms(pair, batch)
        if self._bare.has_new_leaves():
            pair, _ = self._bare.of(model, guide, batch)
        return terms, pair

    def begin_call(self) -> None:
        """Take the values that schedules have in this call of ``loss_and_grads``: each call counts as a step."""
        self.begin_step(self._calls)

    def end_call(self) -> None:
        """The call has been made."""
        self._calls += 1

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Pyro's differentiable loss: the value of -L (nats, all data), the gradient of the surrogates of θ and ψ."""
        self.begin_call()
        terms, _ = self._pyro_terms(model, guide, args, kwargs)
        surrogate = terms.surrogates["theta"] + terms.surrogates.get("psi", 0.0)
        return -terms.num_data * (terms.objective.detach() + surrogate - surrogate.detach())

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Pyro's loss: -L over all data, in nats."""
        self.begin_call()
        with torch.no_grad():
            terms, _ = self._pyro_terms(model, guide, args, kwargs)
        return float(-terms.num_data * terms.objective)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Pyro's loss, with gradients added to ``.grad`` of every parameter by group."""
        self.begin_call()
        loss = self.accumulate_grads(model, guide, *args, **kwargs)
        self.end_call()
        return loss

    def accumulate_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """What ``loss_and_grads`` does in one call, schedules standing still."""
        terms, pair = self._pyro_terms(model, guide, args, kwargs)
        groups = {g: list(pair.parameters.of(g).values()) for g in ("theta", "phi", "shared")}
        groups["psi"] = list(self.parameters().values())
        announce({f"objective.{name}": leaf for name, leaf in self.parameters().items()})
        assign_gradients(terms.surrogates, groups, scale=terms.num_data, accumulate=True)
        return (-terms.num_data * terms.objective.detach()).item()

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)


def assign_gradients(
    surrogates: Mapping[str, Tensor],
    leaves: Mapping[str, Iterable[Tensor]],
    *,
    scale: float = 1.0,
    accumulate: bool = False,
) -> None:
    """Set ``.grad`` of each group to minus ``scale`` times its surrogate's gradient; one backward a surrogate."""
    jobs: dict[int, tuple[Tensor, list[Tensor]]] = {}
    for group, members in leaves.items():
        surrogate = surrogates.get("theta" if group == "shared" else group) if members else None
        if surrogate is not None and surrogate.requires_grad:
            jobs.setdefault(id(surrogate), (surrogate, []))[1].extend(members)
    for i, (surrogate, members) in enumerate(jobs.values()):
        keep = i + 1 < len(jobs)
        grads = torch.autograd.grad(-scale * surrogate, members, allow_unused=True, retain_graph=keep)
        for leaf, grad in zip(members, grads, strict=True):
            if grad is not None:
                leaf.grad = grad if leaf.grad is None or not accumulate else leaf.grad + grad


def num_data_of(run: Execution, batch: Batch) -> int:
    """N: what the batch says, or else the size of the data plate; 1 for a pair without data."""
    frame = run.data_plate
    if frame is None:
        return 1
    if frame.size != frame.full_size:  # the pair draws its own subsample
        return int(frame.full_size)
    return batch.num_data if batch.num_data is not None else int(frame.size)
