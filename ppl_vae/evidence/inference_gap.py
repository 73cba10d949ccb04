"""Why the ELBO lies below log p(x): because of the guide's family, or because one network serves all data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold, isolated_rng
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, resolution_of, slices
from ppl_vae.evidence.evidence import Evidence, error_in_words
from ppl_vae.evidence.flat import Flat
from ppl_vae.evidence.free_family import FreeFamily, require_family
from ppl_vae.evidence.lbfgs import climb
from ppl_vae.evidence.log_evidence import log_evidence
from ppl_vae.pair import pair_of
from ppl_vae.pair.blocks import takes_single_rows
from ppl_vae.plots.gap_bars import gap_bars

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ppl_vae.data.rows import Rows
    from ppl_vae.evidence.estimator import Estimator
    from ppl_vae.pair import Fitted, Pair

__all__ = ["InferenceGap", "inference_gap"]

FIRST, MOST, JUDGES = 64, 1024, 256
"""Fixed draws a datum of the first search and of the last, each of four times as many; fresh ones that judge them."""
ENOUGH = 0.01
"""Nats a datum: the search is at its end when four times as many draws gain no more on fresh ones."""
_PIECES = ("approximation", "amortization", "gap", "elbo", "best_elbo")


@dataclass(frozen=True, eq=False)
class InferenceGap:
    r"""What lies between the ELBO and log p(x), per datum, in nats, (N,) float64.

    .. math::
        \log p(x) - L_q(x) = \underbrace{\log p(x) - L_{q^*}(x)}_{approximation}
            + \underbrace{L_{q^*}(x) - L_q(x)}_{amortization}, \qquad q^* = \arg\max_{q \in \mathcal{Q}} L_q(x)

    where Q is the family of the guide, q* its best member for the datum, found by a search, and the model stays as it
    is. A large approximation gap asks for a richer family (a full covariance, a flow), a large amortization gap for a
    larger encoder, or more steps of it.

    Attributes:
        approximation: what no member of the family reaches.
        amortization: what the guide's network gives away, which a posterior fitted to each datum would not.
        elbo, best_elbo: of the guide, and of the best member, by the same fresh draws, which have not been searched on.
        evidence: the estimate of log p(x).
        standard_error: Monte Carlo errors by name, same shapes: of the four above, and of "gap", the sum of the first
            two; nan where that of the evidence is not known.
        family: what the guide's draws are, in words.
        last_gain: nats a datum that the last search, of four times as many draws, gained on fresh ones: what it may
            have left, which counts as approximation and is amortization.
    """

    approximation: Tensor
    amortization: Tensor
    elbo: Tensor
    best_elbo: Tensor
    evidence: Evidence
    standard_error: Mapping[str, Tensor]
    family: str
    last_gain: float

    @property
    def gap(self) -> Tensor:
        """Log p(x) - ELBO: the two together."""
        return self.approximation + self.amortization

    def mean(self) -> dict[str, float]:
        """Each piece averaged over the data, nats per datum."""
        return {name: float(getattr(self, name).mean()) for name in _PIECES}

    def mean_error(self) -> dict[str, float]:
        """The Monte Carlo errors of these means; of a mean with evidence of unknown error, by halves of its draws."""
        count = max(1, self.elbo.numel())
        own = {name: float(error.square().sum().sqrt()) / count for name, error in self.standard_error.items()}
        of_evidence = self.evidence.mean()
        known = of_evidence.standard_error
        known = of_evidence.halves_error if math.isnan(known) else known
        for name, bound in (("approximation", "best_elbo"), ("gap", "elbo")):
            own[name] = math.hypot(known, own[bound])
        return own

    def to_dataframe(self) -> pd.DataFrame:
        """One row a datum: the two gaps, their sum, both ELBOs, each with its error, the evidence and its k-hat."""
        import pandas as pd

        columns = {name: getattr(self, name).numpy() for name in _PIECES}
        errors = {f"{name}_error": self.standard_error[name].numpy() for name in _PIECES}
        of_evidence = {"evidence": self.evidence.value.numpy(), "khat": self.evidence.khat.numpy()}
        return pd.DataFrame({**columns, **errors, **of_evidence}).rename_axis("datum")

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """The gap of every datum, in its two parts; see :func:`ppl_vae.plots.gap_bars`."""
        return gap_bars(self, ax=ax)

    def __repr__(self) -> str:
        means, errors = self.mean(), self.mean_error()
        gap, approximation, amortization = (
            f"{means[name]:.3f} ± {error_in_words(errors[name], '.2g')}"
            for name in ("gap", "approximation", "amortization")
        )
        unsure = int((~self.evidence.reliable).sum())
        notes = [f"log p by {self.evidence.estimator}"]
        notes += [f"unreliable for {unsure} of {self.elbo.numel()} rows"] if unsure else []
        notes += [f"the search was still gaining {self.last_gain:.2g}"] if self.last_gain > ENOUGH else []
        return (
            f"the ELBO is {gap} nats per row below log p(x): {approximation} for its family ({self.family}), "
            f"{amortization} for amortization ({'; '.join(notes)})"
        )


def inference_gap(
    pair: Pair | Fitted,
    data: Any,
    estimator: Estimator | None = None,
    *,
    num_samples: int = 1000,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> InferenceGap:
    """Split log p(x) - ELBO into what the guide's family costs and what amortization costs.

    The best member of the family is searched for each datum by itself, all data at once: from the guide's own
    normals, with free means and spreads (and correlations, for a ``MultivariateNormal``), by L-BFGS on fixed draws
    whose moments are those of the normal, so that it is exact for normal posteriors. A member counts only where it
    beats the guide on draws that it was not fitted to. Draws are multiplied by four until that gains no more than 0.01
    nats. 297 binary digits with 8 latents take about five seconds on a core.

    Args:
        pair: a Pair, or a Fit; its model is not touched.
        data: N rows, best held-out ones.
        estimator: of log p(x), as in :func:`log_evidence`.
        num_samples: fresh draws a datum by which both ELBOs are measured.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory.

    Returns:
        the InferenceGap. Where k-hat says that the evidence is too low, so is the approximation gap; the amortization
        gap does not hang on it.

    Raises:
        GlobalLatentError: a latent is shared by all data.
        ValueError: a guide whose latents are not normal given the data alone, on all numbers or carried onto their
            support: discrete ones, flows, autoguides, draws that hang on other draws.

    Chris Cremer, Xuechen Li, David Duvenaud: "Inference suboptimality in variational autoencoders", 2018.
    """
    pair = pair_of(pair)
    rows = pair.rows(data)
    pair.initialize(rows)
    if num_samples < 2:
        raise ValueError(f"inference_gap: num_samples must be at least 2, got {num_samples}")
    pair.require_whole_rows(rows)
    few = rows.take(slice(0, 2) if takes_single_rows(pair, rows) else slice(None))
    require_family(pair, few, "inference_gap")
    plan = Plan.of(pair, rows, FIRST, max_elements)
    parts, gained = [], 0.0
    for place, chunk in plan.row_chunks(rows):
        search = _Search.of(pair, chunk, plan.draws, fold(seed, "inference_gap", place.start))
        best, gain = search.best()
        gained += gain * len(best) / len(rows)
        parts.append(search.measured(best, num_samples))
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    evidence = log_evidence(pair, rows, estimator, seed=fold(seed, "inference_gap"), max_elements=max_elements)
    errors = {name: found[f"{name}_error"] for name in ("elbo", "best_elbo", "amortization")}
    errors["approximation"] = torch.hypot(evidence.standard_error, errors["best_elbo"])
    errors["gap"] = torch.hypot(evidence.standard_error, errors["elbo"])
    return InferenceGap(
        approximation=evidence.value - found["best_elbo"],
        amortization=found["amortization"],
        elbo=found["elbo"],
        best_elbo=found["best_elbo"],
        evidence=evidence,
        standard_error=errors,
        family=FreeFamily.of(pair, few).name,
        last_gain=gained,
    )


@dataclass(frozen=True)
class _Search:
    """The best members of the guide's family for some rows, and what they are worth."""

    family: FreeFamily
    density: Flat
    block: int
    seed: int
    resolution: float

    @classmethod
    def of(cls, pair: Pair, rows: Rows, block: int, seed: int) -> _Search:
        family = FreeFamily.of(pair, rows)
        flat = Flat(pair.density(rows), family.shapes, 1, pair.dtype)
        return cls(family, flat, block, seed, resolution_of(pair))

    def best(self) -> tuple[Tensor, float]:
        """Parameters (N, P), and what the last search gained on fresh draws, nats a datum."""
        found, size, first = self.family.guide, FIRST, True
        while True:
            moved = self._climbed(found, size)
            judges = self._noise(JUDGES, 1, "judge", size)
            gain = (self._bounds(moved, judges) - self._bounds(found, judges)).mean(0)
            better = gain > 0
            found = torch.where(better.unsqueeze(-1), moved, found)
            left = float(torch.where(better, gain, 0.0).mean())
            if not first and (left <= ENOUGH or size >= MOST):
                return found, left
            size, first = 4 * size, False

    def measured(self, best: Tensor, num_samples: int) -> dict[str, Tensor]:
        """Both ELBOs and their difference, (N,), with their errors."""
        both = []
        for place in slices(num_samples, self.block):
            noise = self._noise(place.stop - place.start, len(best), "fresh", place.start)
            both.append(torch.stack([self._bounds(self.family.guide, noise), self._bounds(best, noise)]))
        elbo, best_elbo = torch.cat(both, 1).cpu()
        terms = {"elbo": elbo, "best_elbo": best_elbo, "amortization": best_elbo - elbo}
        errors = {f"{name}_error": term.std(0) / math.sqrt(num_samples) for name, term in terms.items()}
        return {**{name: term.mean(0) for name, term in terms.items()}, **errors}

    def _climbed(self, start: Tensor, size: int) -> Tensor:
        noise = self._matched(size)

        def value_of(parameters: Tensor) -> Tensor:
            return self._bounds(parameters, noise).mean(0).nan_to_num(nan=-math.inf)

        def derivatives(parameters: Tensor) -> tuple[Tensor, Tensor]:
            value, gradient = torch.zeros_like(parameters[:, 0]), torch.zeros_like(parameters)
            for some in noise.split(self.block):
                leaf = parameters.detach().requires_grad_()
                with torch.enable_grad():
                    bound = self._bound(leaf, some).sum(0)
                    gradient += torch.autograd.grad(bound.sum(), leaf)[0] / len(noise)
                value += bound.detach() / len(noise)
            return value, gradient

        return climb(value_of, derivatives, start, self.family.metric, resolution=self.resolution)

    def _bound(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Log p(x, u) - log q(u) of draws, (S, N), with gradients."""
        u, log_q = self.family.place(parameters, noise)
        return self.density(u) - log_q

    def _bounds(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """The same in blocks, without."""
        with torch.no_grad():
            return torch.cat([self._bound(parameters, some) for some in noise.split(self.block)])

    def _noise(self, size: int, count: int, *name: str | int) -> Tensor:
        loc = self.family.loc
        with isolated_rng(fold(self.seed, *name), loc.device):
            return torch.randn(size, count, self.family.dim, dtype=loc.dtype, device=loc.device)

    def _matched(self, size: int) -> Tensor:
        """Standard normal noise (S, 1, D) of which mean and covariance are exactly 0 and 1."""
        half = self._noise(max(size // 2, 2 * self.family.dim), 1, "search", size).squeeze(1)
        factor = torch.linalg.cholesky(half.T @ half / len(half))
        half = torch.linalg.solve_triangular(factor, half.T, upper=False).T
        return torch.cat([half, -half]).unsqueeze(1)
