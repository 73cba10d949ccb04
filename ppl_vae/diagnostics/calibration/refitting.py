"""Simulation-based calibration of a fit to a whole data set: each simulated data set is fitted anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.data.rows import Rows
from ppl_vae.diagnostics.calibration.calibrate import rows_to_simulate_on
from ppl_vae.diagnostics.calibration.ranks import Count
from ppl_vae.diagnostics.calibration.result import Calibration, Ranked
from ppl_vae.evidence.chunks import resolution_of
from ppl_vae.pair import Fitted, pair_of
from ppl_vae.pair.predictive import shared_latents
from ppl_vae.pair.simulations import ToData, as_data, joint_draw
from ppl_vae.training.threads import one_thread

if TYPE_CHECKING:
    from ppl_vae.pair import Pair

__all__ = ["variational_calibration"]

WHO, LIKELIHOOD = "variational_calibration", "log p(x | z)"
Refit = Callable[[Any, int], Any]
"""From a data set, as the model is called with, and a seed to a fit or a pair."""


@dataclass(frozen=True)
class _Task:
    """One data set: what is fitted, and the latents that made it, one value each."""

    number: int
    refit: Refit
    data: Any
    latents: Mapping[str, Tensor]
    num_samples: int
    seed: int


def variational_calibration(
    pair: Pair | Fitted,
    refit: Refit,
    data: Any = None,
    *,
    num_simulations: int = 100,
    num_samples: int = 199,
    num_processes: int = 1,
    to_data: ToData | None = None,
    threshold: float = 0.01,
    seed: int = 0,
) -> Calibration:
    r"""Is a way of fitting latents that all data share right? Simulate data sets, fit each, rank the truth.

    .. math:: z^* \sim p(z), \quad x^*_{1:N} \sim p(x \mid z^*), \quad q = fit(x^*_{1:N}), \quad P_q(z < z^*)

    These point probabilities (ranks among draws of q) are uniform where q is the posterior. A normal guide hardly ever
    is, and is mostly too narrow; whether its middle is right all the same is asked by the symmetry of the ranks
    (``p_symmetry``, and a sentence). Asked of every entry of the shared latents, and of the log-likelihood.

    It is about data sets that the prior makes: a prior that is wide makes most of them unlike yours.

    Args:
        pair: whose model simulates, with its parameters as they are: a Pair, or a Fit.
        refit: fits a data set, ``refit(data, seed) -> Fit or Pair``; data are a tensor, a tuple, or a dictionary by
            name, as ``data`` are. With several processes a function that these can import (not one of a notebook, nor
            a lambda); the calling script must be guarded by ``if __name__ == "__main__":``.
        data: the rows whose number, covariates and masks every simulated data set has; by default those that the pair
            was first run on (256 at most).
        num_simulations: data sets, and fits.
        num_samples: draws of each fit.
        num_processes: fits at once, one thread each; what comes out does not hang on it.
        to_data, threshold: as for :func:`calibration`.
        seed: of all.

    Returns:
        a :class:`Calibration`; print it, ``to_dataframe()`` or ``plot()`` it.

    Raises:
        ValueError: the pair has no shared latents, or cannot be simulated from; ``refit`` cannot be sent to processes.
        RuntimeError: a fit has failed; says which.

    Yuling Yao, Aki Vehtari, Daniel Simpson, Andrew Gelman: "Yes, but did it work? Evaluating variational inference",
    2018 (VSBC).
    """
    pair = pair_of(pair)
    if min(num_simulations, num_samples) < 2 or num_processes < 1:
        raise ValueError(
            f"{WHO}: two data sets, two draws and one process at least are required, got num_simulations="
            f"{num_simulations}, num_samples={num_samples}, num_processes={num_processes}"
        )
    rows = rows_to_simulate_on(pair, data, WHO)
    if not any(name in pair.latents for name in shared_latents(pair)):
        raise ValueError(f"{WHO}: latents that all data share are required, and this pair has none; see calibration")
    pair.sites.require_proper(WHO)
    tasks = (_task(pair, rows, refit, i, num_samples, to_data, fold(seed, WHO, i)) for i in range(num_simulations))
    found = list(_results(tasks, refit, num_processes))
    ranked = {
        label: Ranked(
            "quantity" if label == LIKELIHOOD else "latent",
            torch.tensor([ranks[label] for ranks in found]),
            num_samples,
        )
        for label in found[0]
    }
    return Calibration(ranked, threshold, refitted=True)


def _task(
    pair: Pair, rows: Rows, refit: Refit, number: int, num_samples: int, to_data: ToData | None, seed: int
) -> _Task:
    drawn = joint_draw(pair, rows, fold(seed, "simulate"))
    made = as_data(pair, rows, {name: drawn[name] for name in pair.observed}, to_data)
    latents = {name: drawn[name].cpu() for name in pair.sites.latent if name in drawn}
    args = tuple(value.cpu() for value in made.args)
    data: Any = {name: value.cpu() for name, value in made.kwargs.items()} or (args[0] if len(args) == 1 else args)
    return _Task(number, refit, data, latents, num_samples, seed)


def _results(tasks: Iterable[_Task], refit: Refit, num_processes: int) -> Iterator[dict[str, int]]:
    """The ranks of each data set, in order."""
    if num_processes == 1:
        yield from map(_ranks, tasks)
        return
    try:
        ForkingPickler.dumps(refit)
    except Exception as error:
        raise ValueError(
            f"{WHO}: a function that other processes can import is required as refit, got {refit!r} ({error}); define "
            "it at the top of a module, or take num_processes=1"
        ) from error
    with ProcessPoolExecutor(num_processes, get_context("spawn")) as pool:
        try:
            yield from pool.map(_ranks, tasks)
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"{WHO}: a process has ended before its fit; a script must be guarded by `if __name__ == '__main__':`, "
                "and refit must stand in a file that can be imported; or memory has run out"
            ) from error


def _ranks(task: _Task) -> dict[str, int]:
    """Fit one data set, and rank what made it; a function of the task alone, whatever process runs it."""
    with one_thread(True), isolated_rng(fold(task.seed, "fit")), pyro.get_param_store().scope():
        try:
            pair = pair_of(task.refit(task.data, fold(task.seed, "refit")))
        except Exception as error:
            raise RuntimeError(
                f"{WHO}: refit has failed on simulated data set {task.number}: {type(error).__name__}: {error}"
            ) from error
        drawn = pair.draw(task.data, task.num_samples, seed=fold(task.seed, "draw"))
        truth = {name: task.latents[name].unsqueeze(0) for name in pair.latents}
        log_p = pair.log_joint(task.data, truth)
    found: dict[str, Count] = {}
    for name in shared_latents(pair):
        for entry in np.ndindex(*truth[name].shape[1:]) if name in truth else ():
            label = f"{name}[{', '.join(map(str, entry))}]" if entry else name
            found[label] = _counted(
                label, truth[name][(slice(None), *entry)], drawn.values[name][(slice(None), *entry)]
            )
    if not pair.summed:
        found[LIKELIHOOD] = _counted(LIKELIHOOD, log_p.likelihood, drawn.log_p.likelihood, resolution_of(pair))
    return {label: int(count.ranks(fold(task.seed, "ties"))) for label, count in found.items()}


def _counted(label: str, truth: Tensor, draws: Tensor, tolerance: float = 0.0) -> Count:
    """One number (1,) among draws (S,)."""
    count = Count(label, truth.unsqueeze(-1), tolerance)
    count.add(draws.unsqueeze(-1))
    return count
