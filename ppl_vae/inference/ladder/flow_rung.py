"""The rung above the normals: a flow that begins at the best of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from ppl_vae._random import fold
from ppl_vae.guides import AutoFlow, NonCentred
from ppl_vae.inference.deterministic.certify import certify
from ppl_vae.inference.deterministic.fresh import MOST_FRESH, Fresh, fresh_elbo
from ppl_vae.inference.deterministic.solution import Solution
from ppl_vae.inference.ladder.reached import Reached
from ppl_vae.inference.ladder.train_flow import train_flow
from ppl_vae.inference.names import name_of
from ppl_vae.pair import Pair
from ppl_vae.pair.fixed_noise import FixedNoise
from ppl_vae.result import Fit
from ppl_vae.training.history_table import Table
from ppl_vae.training.record import Record

__all__ = ["FLOW", "fit_flow", "reason_against_flow"]

FLOW = "flow"
ROUNDS = (250, 500, 1000, 2000)
"""Steps; a round is made only where the one before was worth it and its certificate is not given."""
DRAWS = 128
MOST_LATENTS = 500
"""A matrix of more latent numbers squared, at each step, is no longer a small thing."""


def reason_against_flow(before: Reached) -> str:
    """Why a flow is not tried after this normal, or ""."""
    if before.dim < 2:
        return "a coupling needs two latent numbers at least"
    if before.dim > MOST_LATENTS:
        return f"{before.dim} latent numbers are more than {MOST_LATENTS}"
    minimum = before.solution.minimum
    if not math.isfinite(before.height) or (minimum is not None and not math.isfinite(minimum.decrement)):
        return "the ELBO of normals has no optimum here, and that of a flow has none then"
    return ""


def fit_flow(
    make: Callable[..., Any],
    data: Any,
    before: Reached,
    *,
    began: float,
    seed: int,
    options: Mapping[str, Any],
) -> Reached:
    """Train a flow in rounds, until its certificate is given or another round is not worth it.

    Args:
        make: the guide of what makes an autoguide of a model.
        data: the rows.
        before: the normal at which it begins; the pair has its parameters.
        began: when the rung was begun, of ``time.perf_counter``.
        seed: of the networks and the draws.
        options: of ``DeterministicVI``.
    """
    tol = float(options.get("tol", 0.02))
    loc, covariance = FixedNoise(before.fit.pair, before.fit.pair.rows(data).batch()).moments()
    guide = make(partial(AutoFlow, loc=loc, scale_tril=torch.linalg.cholesky(covariance)))
    flow: Any = guide.guide if isinstance(guide, NonCentred) else guide
    old = before.fit.pair
    pair = Pair(old.model, guide, data_plate=options.get("data_plate"), device=old.device, dtype=old.dtype)
    rows = pair.rows(data)
    pair.initialize(rows, seed=seed)
    _take_theta(pair, old)
    noise, table = FixedNoise(pair, rows.batch()), Table()
    num_data, steps, height = len(rows) or 1, 0, before.height
    for which, count in enumerate(ROUNDS):
        train_flow(noise, flow, steps=count, num_draws=DRAWS, seed=fold(seed, "train", which))
        steps += count
        fresh = _fresh(noise, tol, fold(seed, "fresh", which))
        solution = Solution(before.solution.beginning, None, 0, fresh.value, fresh, steps)
        certificate = certify(noise, rows, solution, tol=tol, seed=seed)
        table.append({"epoch": which, "elbo": fresh.value / num_data, "evaluations": steps})
        if certificate.given or not fresh.value > height + tol:
            break
        height = fresh.value
    seconds = time.perf_counter() - began
    record = Record("converged" if certificate.given else "completed", steps, len(table), seconds, table)
    config = {
        **before.fit.config,
        "guide": name_of(guide),
        "schedule": "new draws at every step",
        "optimizer": "Adam",
        "seed": seed,
        "certificate": certificate.plain(),
    }
    return Reached.of(FLOW, Fit(pair, record, config, rows=rows), solution, seconds)


def _take_theta(pair: Pair, old: Pair) -> None:
    """The model's parameters as the normal was fitted with: those of ``pyro.param`` are each pair's own."""
    with torch.no_grad():
        for name, leaf in pair.parameters.leaves.items():
            if pair.parameters.group[name] != "phi" and name in old.parameters.leaves:
                leaf.copy_(old.parameters.leaves[name])


def _fresh(noise: FixedNoise, tol: float, seed: int) -> Fresh:
    """The ELBO, to half of ``tol``."""
    fresh = fresh_elbo(noise, seed=seed)
    while fresh.error > tol / 2 and 2 * len(fresh.noise) < MOST_FRESH:
        fresh = fresh_elbo(noise, seed=seed, before=fresh)
    return fresh
