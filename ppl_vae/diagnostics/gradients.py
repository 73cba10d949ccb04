"""How good a gradient is: the bias, variance and cost of every estimator, against the exact gradient."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold, generator, isolated_rng
from ppl_vae.capture import own_gradients
from ppl_vae.data.rows import Batch
from ppl_vae.objectives import ELBO, IWAE, Objective, as_objective
from ppl_vae.objectives.exact import MANY_TUPLES
from ppl_vae.pair import Fitted, Pair, pair_of
from ppl_vae.pair.table import num_codes, tabulate
from ppl_vae.plots.gradient_noise import gradient_noise
from ppl_vae.training.threads import is_small, one_thread

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["GradientReport", "Projected", "gradient_report"]

GROUPS = ("theta", "phi")
LIMIT = 4.5
"""A bias of more standard errors than this is none of chance."""

ROUNDINGS = 100
"""A gradient is a sum of many numbers: so many roundings of its length are no bias."""

PARTICLES, ROUNDS = 250, 80
"""A reference by drawing: so many draws in each of so many gradients."""


@dataclass(frozen=True, eq=False)
class Projected:
    """What many replicates of one gradient say, in one group of parameters. Everything is nats per datum.

    Attributes:
        bias: (P,) the mean gradient less the reference, along P fixed random directions of length 1; 0 where it is
            within the rounding of the pair's precision.
        standard_error: (P,) of the bias, that of a sampled reference included.
        bias_norm: the length of the whole bias, its own noise taken off: the square root of what is left of |mean -
            reference|² without the variance of both, or 0.
        variance: the variance of the gradient, summed over its entries.
        norm: the length of the reference gradient.
        seconds: the median time of one gradient.
    """

    bias: Tensor
    standard_error: Tensor
    bias_norm: float
    variance: float
    norm: float
    seconds: float

    @property
    def z(self) -> float:
        """The largest |bias| in standard errors; 0 where the gradient has neither bias nor noise."""
        size = self.bias.abs()
        return float(torch.where(size == 0, 0.0, size / self.standard_error).max())

    @property
    def snr(self) -> float:
        """Signal to noise: the length of the reference gradient over the standard deviation of one estimate."""
        return self.norm / self.variance**0.5 if self.variance > 0 else float("inf")


@dataclass(frozen=True, eq=False)
class GradientReport:
    """Estimators of a gradient side by side.

    Attributes:
        found: by estimator and group ("theta", "phi").
        num_replicates: gradients that were drawn of each.
        reference: what the bias is measured against.
    """

    found: dict[str, dict[str, Projected]]
    num_replicates: int
    reference: dict[str, str]

    def to_dataframe(self) -> pd.DataFrame:
        """One row an estimator and group.

        Columns: ``bias`` and ``standard_error`` along the direction where they are largest in proportion, ``z`` their
        ratio, ``biased`` (z above 4.5), ``bias_norm`` (the length of the whole bias), ``variance`` (summed over
        entries), ``snr``, ``seconds`` a gradient and ``reference``.
        """
        import pandas as pd

        rows = []
        for name, groups in self.found.items():
            for group, p in groups.items():
                worst = int((p.bias.abs() / p.standard_error.clamp(min=1e-300)).argmax())
                rows.append(
                    {
                        "estimator": name,
                        "group": group,
                        "bias": float(p.bias[worst]),
                        "standard_error": float(p.standard_error[worst]),
                        "z": p.z,
                        "biased": p.z > LIMIT,
                        "bias_norm": p.bias_norm,
                        "variance": p.variance,
                        "snr": p.snr,
                        "seconds": p.seconds,
                        "reference": self.reference[name],
                    }
                )
        return pd.DataFrame(rows).set_index(["estimator", "group"])

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """The variance of each estimator; see :func:`ppl_vae.plots.gradient_noise`."""
        return gradient_noise(self, ax=ax)

    def __repr__(self) -> str:
        return f"GradientReport({', '.join(self.found)}; {self.num_replicates} replicates)\n{self.to_dataframe()}"


Entry = Objective | tuple[Pair, Objective]


def gradient_report(
    pair: Pair | Fitted,
    data: Any,
    objectives: Iterable[Any] | Mapping[str, Any],
    *,
    num_replicates: int = 1000,
    num_projections: int = 16,
    seed: int = 0,
) -> GradientReport:
    """Draw every estimator's gradient many times at the present parameters, and hold it against the exact one.

    The reference is the gradient of the bound that the estimator maximizes: of the ELBO or of L_K by the sum over all
    values where the latents are discrete and few enough, else by the mean of 20,000 draws of the pathwise (or score
    function) gradient, whose error is part of the standard errors. Nothing is trained.

    Args:
        pair: a Pair, or a Fit.
        data: N rows, one batch.
        objectives: what to compare: objectives, or by name; a tuple (other pair, objective) compares a pair over the
            same parameters (a relaxed guide around the same encoder) with the gradient of ``pair``.
        num_replicates: R gradients of each.
        num_projections: P directions, drawn from the seed, along which the bias is tested.
        seed: of directions and draws.

    Returns:
        a GradientReport; print it, ``to_dataframe()`` it, or ``plots.gradient_noise`` it.

    Source: Rainforth et al., "Tighter Variational Bounds are Not Necessarily Better", 2018 (signal to noise).

    Raises:
        ValueError: fewer than two replicates, or no directions.
    """
    if num_replicates < 2 or num_projections < 1:
        raise ValueError(
            f"gradient_report: num_replicates >= 2 and num_projections >= 1 are required, got {num_replicates} and "
            f"{num_projections}"
        )
    pair = pair_of(pair)
    rows = pair.rows(data)
    pair.initialize(rows)
    batch = rows.batch()
    leaves = {"theta": [*pair.parameters.of("theta", "shared").values()], "phi": [*pair.parameters.of("phi").values()]}
    leaves = {group: members for group, members in leaves.items() if members}
    axes = {group: _directions(members, num_projections, fold(seed, group)) for group, members in leaves.items()}
    found, references = {}, {}
    known: dict[str, dict[str, _Moments]] = {}  # references that were drawn, by the bound
    for name, (other, objective) in _named(pair, objectives).items():
        objective.begin_step(0)
        references[name], reference = _reference(pair, batch, objective, leaves, axes, seed, known)
        noise = fold(seed, "replicates", name)
        moments, seconds = _replicates(other, objective, batch, leaves, axes, num_replicates, noise)
        rounding = ROUNDINGS * torch.finfo(pair.dtype).eps
        found[name] = {g: _judged(moments[g], reference[g], seconds, rounding) for g in leaves}
    return GradientReport(found, num_replicates, references)


def _named(pair: Pair, objectives: Iterable[Any] | Mapping[str, Any]) -> dict[str, tuple[Pair, Objective]]:
    if not isinstance(objectives, Mapping):
        objectives = {repr(o[1] if isinstance(o, tuple) else o): o for o in objectives}
    entries = {n: o if isinstance(o, tuple) else (pair, o) for n, o in objectives.items()}
    return {name: (other, as_objective(objective)) for name, (other, objective) in entries.items()}


def _directions(leaves: list[Tensor], count: int, seed: int) -> Tensor:
    """Unit vectors in the space of these leaves, (P, D), float64."""
    size = sum(leaf.numel() for leaf in leaves)
    axes = torch.randn(count, size, generator=generator(seed), dtype=torch.float64)
    return axes / axes.norm(dim=1, keepdim=True)


class _Moments:
    """Mean and scatter of gradients as they come, and their projections."""

    def __init__(self, axes: Tensor) -> None:
        self.axes, self.count = axes, 0
        self.mean = torch.zeros(axes.shape[1], dtype=torch.float64)
        self.scatter = torch.zeros((), dtype=torch.float64)
        self.along: list[Tensor] = []

    def add(self, gradient: Tensor) -> None:
        """One more gradient (D,), by Welford's recurrence."""
        self.count += 1
        step = gradient - self.mean
        self.mean += step / self.count
        self.scatter += step @ (gradient - self.mean)
        self.along.append(self.axes @ gradient)

    @property
    def variance(self) -> float:
        return float(self.scatter) / (self.count - 1) if self.count > 1 else 0.0

    @property
    def standard_error(self) -> Tensor:
        """Of the mean along each direction, (P,); 0 for an exact gradient."""
        if self.count < 2:
            return torch.zeros(len(self.axes), dtype=torch.float64)
        return torch.stack(self.along).std(0) / self.count**0.5


def _judged(moments: _Moments, reference: _Moments, seconds: float, rounding: float) -> Projected:
    error = (moments.standard_error**2 + reference.standard_error**2).sqrt()
    difference = moments.mean - reference.mean
    noise = moments.variance / moments.count + reference.variance / reference.count
    length = max(float(difference @ difference) - noise, 0.0) ** 0.5
    norm = float(reference.mean.norm())
    bias = moments.axes @ difference
    bias = torch.where(bias.abs() > rounding * norm, bias, 0.0)
    return Projected(bias, error, length if length > rounding * norm else 0.0, moments.variance, norm, seconds)


def _replicates(
    pair: Pair,
    objective: Objective,
    batch: Batch,
    leaves: Mapping[str, list[Tensor]],
    axes: Mapping[str, Tensor],
    count: int,
    seed: int,
) -> tuple[dict[str, _Moments], float]:
    """``count`` gradients of an objective, and the median seconds of one."""
    moments, times = {group: _Moments(axes[group]) for group in leaves}, []
    pair.initialize(batch.args[0] if len(batch.args) == 1 else batch.args)
    moved = [leaf for members in leaves.values() for leaf in members]
    threads = one_thread(_is_small(objective, batch, leaves))  # as in training, so that the seconds are those of a fit
    with pair.scope(), isolated_rng(seed, pair.device), _as_in_training(pair), own_gradients(moved), threads:
        for _ in range(count):
            started = time.perf_counter()
            found = _gradient(pair, objective, batch, leaves)
            times.append(time.perf_counter() - started)
            for group, gradient in found.items():
                moments[group].add(gradient)
    return moments, median(times)


@contextmanager
def _as_in_training(pair: Pair) -> Iterator[None]:
    """Relaxed guides draw as in training; dropout and the like rest: the exact gradient knows no noise of theirs."""
    with pair.mode(training=False):
        for module in pair.modules():
            for part in module.modules():
                part.training = getattr(part, "is_relaxed", False)
        yield


def _is_small(objective: Objective, batch: Batch, leaves: Mapping[str, list[Tensor]]) -> bool:
    weights = sum(leaf.numel() for members in leaves.values() for leaf in members)
    numbers = sum(t.numel() for t in batch.args if isinstance(t, Tensor))
    return is_small(weights, (batch.size or 1) * objective.num_particles, numbers)


def _gradient(pair: Pair, objective: Objective, batch: Batch, leaves: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    """The estimate of the gradient of L/N by group, (D,), float64, CPU."""
    for members in leaves.values():
        for leaf in members:
            leaf.grad = None
    objective.gradients(pair, batch, {**leaves, "shared": [], "psi": []})
    return {group: -_flat([leaf.grad for leaf in members], members) for group, members in leaves.items()}


def _flat(gradients: Iterable[Tensor | None], leaves: list[Tensor]) -> Tensor:
    parts = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, leaves, strict=True)]
    return torch.cat([part.detach().flatten() for part in parts]).double().cpu()


# -- the reference -----------------------------------------------------------------------------------------------------


def _reference(
    pair: Pair,
    batch: Batch,
    objective: Objective,
    leaves: Mapping[str, list[Tensor]],
    axes: Mapping[str, Tensor],
    seed: int,
    known: dict[str, dict[str, _Moments]],
) -> tuple[str, dict[str, _Moments]]:
    """The gradient that an objective should have: exact by enumeration where it can be, else from many draws."""
    codes, size, draws = num_codes(pair), batch.size or 1, objective.draws_in_bound
    if codes is not None and codes**draws * size <= MANY_TUPLES:
        return "enumeration", _by_enumeration(pair, batch, objective, leaves, axes)
    beta = objective.beta if isinstance(objective, ELBO) else 1.0
    many: Objective = ELBO(beta, num_particles=PARTICLES) if draws == 1 else IWAE(draws)
    rounds = ROUNDS if draws == 1 else PARTICLES * ROUNDS
    said = f"{rounds} x {many!r}"
    if said not in known:
        known[said], _ = _replicates(pair, many, batch, leaves, axes, rounds, fold(seed, "reference"))
    return said, known[said]


def _by_enumeration(
    pair: Pair,
    batch: Batch,
    objective: Objective,
    leaves: Mapping[str, list[Tensor]],
    axes: Mapping[str, Tensor],
) -> dict[str, _Moments]:
    found = {}
    with pair.scope(), pair.mode(training=False), torch.enable_grad(), isolated_rng(0, pair.device):
        surrogates = objective.exact_surrogates(tabulate(pair, batch))
        for group, members in leaves.items():
            surrogate = surrogates[group].mean()
            gradients = torch.autograd.grad(surrogate, members, allow_unused=True, retain_graph=True)
            found[group] = _Moments(axes[group])
            found[group].add(_flat(gradients, members))
    return found
