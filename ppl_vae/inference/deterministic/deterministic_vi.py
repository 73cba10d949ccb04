r"""Variational inference as ordinary optimization: the noise is fixed, so the ELBO is a smooth function of parameters.

.. math:: \hat L(\phi, \theta) = \frac{1}{S} \sum_s \log p_\theta(x, t(u_s)) |\det t'(u_s)| - \log q_\phi(u_s),
    \qquad u_s = m_\phi + C_\phi \varepsilon_s
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.inference.deterministic.applies import in_double
from ppl_vae.inference.deterministic.base_draws import base_draws
from ppl_vae.inference.deterministic.beginning import Beginning, begin
from ppl_vae.inference.deterministic.blocks import Block, blocks_of
from ppl_vae.inference.deterministic.certify import ENOUGH, certify
from ppl_vae.inference.deterministic.fresh import MOST_FRESH, Fresh, fresh_elbo
from ppl_vae.inference.deterministic.links import Link, links
from ppl_vae.inference.deterministic.minimize import minimize
from ppl_vae.inference.deterministic.objective import Chart, Objective
from ppl_vae.inference.deterministic.remarks import remarks
from ppl_vae.inference.deterministic.rescale import rescale
from ppl_vae.inference.deterministic.solution import Solution
from ppl_vae.inference.deterministic.starts import candidates, of_prior
from ppl_vae.inference.deterministic.teach import teach
from ppl_vae.inference.names import name_of
from ppl_vae.pair import Pair
from ppl_vae.pair.fixed_noise import FixedNoise, require_fixed_noise
from ppl_vae.result import Fit
from ppl_vae.training.history_table import Table
from ppl_vae.training.processes import require_one_process
from ppl_vae.training.record import Record
from ppl_vae.training.threads import one_thread

__all__ = ["DeterministicVI"]

PER_ROW = 4
"""So many draws, at least, for each parameter in a row of the scale factor: with no more draws than latents a full
covariance has no optimum, since a direction that no draw points to can be made as wide as one likes."""
PLACES = 1024
"""So many draws of the prior are looked at for modes that the starts have not found, where data are few."""


class DeterministicVI:
    """Fit a guide of normal laws to all data at fixed noise, until it is done: no rate, no number of steps.

    For guides whose draws are location and scale times normal noise (``AutoNormal``, ``AutoDiagonalNormal``,
    ``AutoMultivariateNormal``, ``AutoLowRankMultivariateNormal``, lists of them, functions of that form), with latents
    of all data or of each row, and parameters of the model beside them. It begins at the best mode that several starts
    find, with the covariance that the curvature there gives; minimizes by L-BFGS in coordinates in which that normal is
    standard; and takes more draws until the ELBO on fresh ones is what it is on those that were fitted to.

    Args:
        model, guide: a Pyro pair; they are trained in place.
        num_draws: S, at least; more are taken where the guide has many parameters a row (4 for each).
        max_draws: where that ends; a fit that would need more is not certified.
        tol: nats that the fixed draws may flatter the ELBO by.
        num_starts: points from which modes are looked for.
        max_iter: of each round of L-BFGS.
        device: "auto" takes a GPU where there is one.
        dtype: precision; in 32 bits an ELBO of some thousand nats has hardly digits enough to see 0.01. By default 64
            bits, or that of the modules where the pair runs in no other: a model that multiplies matrices with tensors
            of its own which were made in 32 bits (handed over as data they follow the pair). The certificate says so.
        data_plate: the plate of the datum, where the pair leaves it open.

    Sources: Ryan Giordano, Martin Ingram, Tamara Broderick, "Black Box Variational Inference with a Deterministic
    Objective", 2024 (fixed draws, mean field). Javier Burroni, Justin Domke, Daniel Sheldon, "Sample Average
    Approximation for Black-Box VI", 2023 (draws that grow). Jakob Knollmüller, Torsten Enßlin, "Metric Gaussian
    Variational Inference", 2019 (fixed draws, antithetic, in NIFTy).
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *,
        num_draws: int = 256,
        max_draws: int = 8192,
        tol: float = 0.02,
        num_starts: int = 16,
        max_iter: int = 500,
        device: torch.device | str = "auto",
        dtype: torch.dtype | Literal["auto"] = "auto",
        data_plate: str | None = None,
    ) -> None:
        for name, value in (("num_draws", num_draws), ("num_starts", num_starts), ("max_iter", max_iter)):
            if value < 1:
                raise ValueError(f"DeterministicVI: {name} must be at least 1, got {value}")
        if not tol > 0:
            raise ValueError(f"DeterministicVI: tol, in nats, must be positive, got {tol}")
        self.num_draws, self.max_draws, self.tol = num_draws, max_draws, tol
        self.num_starts, self.max_iter = num_starts, max_iter
        place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._make = functools.partial(Pair, model, guide, data_plate=data_plate, device=place)
        self._own = self._make().dtype if dtype == "auto" else None
        self.pair = self._make(dtype=dtype if isinstance(dtype, torch.dtype) else torch.float64)

    def fit(self, data: Any, *, start: Mapping[str, Any] | None = None, seed: int = 0) -> Fit:
        """Fit the pair to all rows.

        Args:
            data: rows along axis 0, as for :class:`VariationalEM`; None for a pair without data.
            start: latents by site at which to begin too, beside the places that are found.
            seed: of the starts, the fixed and the fresh draws.

        Returns:
            The fit, with its ``certificate``.

        Raises:
            ValueError: the pair is not of the kind above (the message says why; ``VariationalEM`` fits it), or log p is
                not finite at any start.
        """
        return self.solved(data, start=start, seed=seed)[0]

    def solved(
        self,
        data: Any,
        *,
        start: Mapping[str, Any] | None = None,
        seed: int = 0,
        beginning: Beginning | None = None,
    ) -> tuple[Fit, Solution]:
        """The same with what was found on the way.

        Args:
            data, start, seed: as for :meth:`fit`.
            beginning: what the starts have said of another guide of the same latents; else they are made.
        """
        require_one_process("DeterministicVI.fit")
        began = time.perf_counter()
        if self._own is not None and not self.pair.initialized:
            self.pair, rows = in_double(self._make, data, own=self._own, seed=seed)
        else:
            rows = self.pair.rows(data)
            self.pair.initialize(rows, seed=seed)
        pair = self.pair
        try:
            require_fixed_noise(pair, rows.batch())
        except ValueError as error:
            raise ValueError(
                f"DeterministicVI: noise that can be fixed is required, but {error}; fit this pair by VariationalEM"
            ) from None
        table = Table()
        noise = FixedNoise(pair, rows.batch())
        with one_thread(noise.is_small):
            solution = self.solve(noise, data, start=start, seed=seed, table=table, beginning=beginning)
            certificate = certify(noise, rows, solution, tol=self.tol, seed=seed)
        fallen_back = self._own is not None and pair.dtype != torch.float64
        certificate = replace(certificate, remarks=(*certificate.remarks, *remarks(pair, certificate, fallen_back)))
        ended = "converged" if certificate.converged else "not converged"
        record = Record(ended, solution.evaluations, len(table), time.perf_counter() - began, table)
        config = {**self._config(len(rows), seed), "certificate": certificate.plain()}
        return Fit(pair, record, config, rows=rows), solution

    def solve(
        self,
        noise: FixedNoise,
        data: Any,
        *,
        start: Mapping[str, Any] | None,
        seed: int,
        table: Table,
        beginning: Beginning | None = None,
    ) -> Solution:
        """Begin, minimize, and take more draws until fresh ones agree; each round is a row of ``table``."""
        num_data = noise.batch.num_data or noise.batch.size or 1
        known = links(noise)
        if beginning is None:
            starts = candidates(noise, data, self.num_starts, seed=seed, given=start)
            places = of_prior(noise, data, min(PLACES, 16 * noise.block), seed=fold(seed, "places"))
            with noise.scope():
                beginning = begin(noise, starts, places=places, seed=seed)
        blocks, free = blocks_of(noise, known, beginning), self._free(noise, known)
        chart = Chart(blocks, free, teach(noise, free, beginning.loc, beginning.precision, list(known)))
        count = self._draws_for(blocks)
        v, evaluations = np.zeros(chart.size), 0
        while True:
            draws = base_draws(count, noise.noise_dim, seed=fold(seed, "draws") % 2**31)
            objective = Objective(noise, chart, draws.to(noise.pair.device, noise.pair.dtype))
            with noise.scope():
                for _ in range(2 if free and not len(table) else 1):  # once more from what was found, in its own units
                    v = rescale(objective, v)
                    minimum = minimize(objective, v, max_iter=self.max_iter, tol=ENOUGH)
                    v = minimum.v
            chart, evaluations = objective.chart, evaluations + objective.evaluations
            fresh = self._judge(noise, -minimum.value, seed=fold(seed, "fresh", count))
            solution = Solution(beginning, minimum, count, -minimum.value, fresh, evaluations)
            table.append(
                {
                    "epoch": len(table),
                    "objective": solution.elbo / num_data,
                    "elbo": fresh.value / num_data,
                    "num_draws": count,
                    "evaluations": evaluations,
                }
            )
            more = count * (4 if solution.elbo - fresh.value > 2 * self.tol else 2)
            if solution.overfit <= self.tol or more > self.max_draws or not math.isfinite(fresh.error):
                return solution
            count = more

    def _judge(self, noise: FixedNoise, elbo: float, *, seed: int) -> Fresh:
        """Fresh draws, until they say whether the ELBO on the fixed ones is flattered."""
        fresh = fresh_elbo(noise, seed=seed)
        while 2 * len(fresh.noise) < MOST_FRESH:
            optimism, error = elbo - fresh.value, fresh.error
            if optimism + 2 * error <= self.tol or (optimism > 3 * error and optimism > self.tol / 2):
                break
            fresh = fresh_elbo(noise, seed=seed, before=fresh)
        return fresh

    def _draws_for(self, blocks: list[Block]) -> int:
        most = max((block.per_row for block in blocks), default=1)
        wanted = max(self.num_draws, PER_ROW * most)
        return wanted + wanted % 2

    def _free(self, noise: FixedNoise, known: Mapping[str, Link]) -> dict[str, Tensor]:
        linked = {leaf.name for link in known.values() for leaf in link.leaves.values()}
        return {name: leaf for name, leaf in noise.pair.parameters.leaves.items() if name not in linked}

    def _config(self, num_data: int, seed: int) -> dict[str, Any]:
        pair = self.pair
        return {
            "model": name_of(pair.model),
            "guide": name_of(pair.guide),
            "objective": "ELBO()",
            "schedule": "deterministic",
            "optimizer": "L-BFGS",
            "batch_size": None,
            "num_data": num_data,
            "seed": seed,
            "device": str(pair.device),
            "dtype": str(pair.dtype).removeprefix("torch."),
            "data_plate": pair.data_plate,
        }
