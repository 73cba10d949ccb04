"""What a deterministic fit is asked before it is called done."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._psis import psis_khat
from ppl_vae._random import fold
from ppl_vae.diagnostics.certificate import Certificate, Line, nats
from ppl_vae.evidence import ImportanceWeighted, MomentErrors, error_bound, khat_limit, weighted_draws
from ppl_vae.evidence.pooling import KHAT_LIMIT
from ppl_vae.evidence.self_normalized import moments_apart
from ppl_vae.inference.deterministic.fresh import plain_draws
from ppl_vae.inference.deterministic.leaving import COVERED, chains
from ppl_vae.inference.deterministic.log_z import log_z

if TYPE_CHECKING:
    from ppl_vae.data.source import Source
    from ppl_vae.inference.deterministic.solution import Solution
    from ppl_vae.pair import Pair
    from ppl_vae.pair.fixed_noise import FixedNoise

__all__ = ["certify"]

ENOUGH = 0.01
"""Nats that a Newton step may still gain where a fit is said to be done."""
ELSEWHERE = 0.02
"""The share of the mass that modes which the fit does not cover may hold, by Laplace's method, whose estimate of a
tenth may be five times too small."""
LEFT = 0.05
"""The share of chains that may end where the guide has less than a tenth of the posterior's density."""
MEAN_OFF, SD_RATIO = 0.1, (0.9, 1.1)
"""By how many sds the guide's own means may be off, and by which factors its sds."""
MOMENT_ERROR = 0.05
"""The Monte Carlo error, in sds and relative, with which these must be known."""
KNOWN = 0.1
"""Nats that the standard error of log Z may have."""
DRAWS, KHAT_DRAWS = 12_288, 16_384
ROW_DRAWS = 4000
LIGHT = 0.3
"""Where log weights scatter by less nats than this, k-hat is asked of four times as many draws before it counts."""


def certify(noise: FixedNoise, rows: Source, solution: Solution, *, tol: float, seed: int) -> Certificate:
    """Ask a solution every line.

    Args:
        noise: the pair's runs, at the parameters of the solution.
        rows: all data.
        solution: what was found.
        tol: nats that the fixed draws may flatter the ELBO by.
        seed: of the draws of log Z and k-hat.
    """
    pair = noise.pair
    numbers: dict[str, Any] = {
        "elbo": solution.fresh.value,
        "elbo_error": solution.fresh.error,
        "in_sample_elbo": solution.elbo,
        "newton_decrement": None if solution.minimum is None else solution.minimum.decrement,
        "num_draws": solution.num_draws,
        "starts": solution.beginning.starts,
        "agreed": solution.beginning.agreed,
        "elsewhere": solution.beginning.elsewhere,
    }
    lines = [_optimum(solution), _fresh(solution, tol), _starts(solution)]
    key = fold(seed, "certificate")
    shared = pair.has_global_latents
    if not shared:
        evidence = ImportanceWeighted(1000).estimate(pair, rows, key)
        error = evidence.standard_error.square().sum().sqrt()
        lines += [_evidence(evidence.value.sum(), error, solution, numbers), _khat_of_rows(evidence.khat, numbers)]
        lines.append(_moments_of_rows(pair, rows, numbers, fold(seed, "moments")))
        return Certificate(tuple(lines), numbers)
    evidence, wide, log_w = log_z(noise, DRAWS, seed=key)
    error = evidence.standard_error
    if float(evidence.khat) > KHAT_LIMIT:  # then the error bar is of what the draws happen to see
        error = torch.full_like(error, math.nan)
    lines.append(_evidence(evidence.value, error, solution, numbers))
    line, u, log_weight = _khat(noise, numbers, fold(seed, "k-hat"))
    lines += [line, _moments(moments_apart(u, wide, log_w), numbers)]
    if all(line.holds is not False for line in lines):  # it costs the most, and is for the last doubt
        lines.append(_leaving(noise, numbers, fold(seed, "leaving")))
    bound = error_bound(u, log_weight)
    return Certificate(tuple(lines), numbers, (f"{bound}.",) if bound.believable else ())


def _optimum(solution: Solution) -> Line:
    if solution.minimum is None:
        return Line("Newton decrement", "new draws at every step", "no smooth function", None)
    decrement = solution.minimum.decrement
    return Line(
        "Newton decrement",
        nats(decrement),
        f"at most {ENOUGH}",
        decrement <= ENOUGH,
        "look for latents that the data do not bound" if math.isinf(decrement) else "raise max_iter",
    )


def _fresh(solution: Solution, tol: float) -> Line:
    if solution.minimum is None:
        shown = nats(solution.fresh.value, solution.fresh.error)
        return Line("ELBO on fresh draws", shown, "no draws were fixed", None)
    optimism = solution.elbo - solution.fresh.value
    return Line(
        "ELBO on fresh draws",
        f"{nats(solution.fresh.value, solution.fresh.error)}, {optimism:+.2g} on {solution.num_draws} fixed ones",
        f"the fixed ones flatter by at most {tol:g}",
        bool(solution.overfit <= tol),
        "the family is too flexible for so many draws: raise max_draws, or take a simpler guide",
    )


def _starts(solution: Solution) -> Line:
    begin = solution.beginning
    found = f"{begin.agreed} of {begin.starts} at this mode"
    if begin.modes > 1:
        found += f", {begin.arrived - begin.agreed} at {begin.modes - 1} others with {begin.elsewhere:.0%} of the mass"
    if begin.arrived < begin.starts:
        found += f", {begin.starts - begin.arrived} not arrived"
    if begin.escaped:
        found += f", {begin.escaped} of them higher and still rising"
    return Line(
        "starts",
        found,
        f"a mode, and at most {ELSEWHERE:.0%} of the mass elsewhere",
        begin.agreed > 0 and begin.elsewhere <= ELSEWHERE and not begin.escaped,
        "give start=, write the model without centering (reparametrize='auto'), or take a guide with more modes",
    )


def _evidence(value: Tensor, error: Tensor, solution: Solution, numbers: dict[str, Any]) -> Line:
    log_z, spread = float(value), float(error)
    numbers |= {"log_evidence": log_z, "log_evidence_error": spread, "gap": log_z - solution.fresh.value}
    above = solution.fresh.value - log_z
    noise = math.hypot(spread if math.isfinite(spread) else math.inf, solution.fresh.error)
    consistent = above <= 4 * noise + 1e-6
    gap = f"; the ELBO is {max(-above, 0.0):.2g} below" if consistent else "; the ELBO lies above it"
    return Line(
        "log Z",
        nats(log_z, spread) + gap,
        f"known to {KNOWN:g}",
        bool(math.isfinite(spread) and spread <= KNOWN and consistent),
        "take a richer guide (guide='auto')",
        about="posterior",
    )


def _khat_of_rows(by_datum: Tensor, numbers: dict[str, Any]) -> Line:
    good = float((by_datum <= KHAT_LIMIT).double().mean())
    numbers["khat_good"] = good
    found = f"at most {KHAT_LIMIT} for {good:.0%} of the data"
    return Line("k-hat", found, "for all", good == 1.0, "take a richer guide", "posterior")


def _khat(noise: FixedNoise, numbers: dict[str, Any], seed: int) -> tuple[Line, Tensor, Tensor]:
    """Of draws that log Z was not estimated from: where these miss the tail, value and k-hat are low at once.

    With the line the draws, u (S, D), and their log weights (S,).
    """
    count, khat, limit = KHAT_DRAWS, math.inf, 0.0
    while khat > limit and count <= 4 * KHAT_DRAWS:  # of light tails few draws say that they are heavy
        u, log_weight = plain_draws(noise, count, seed=fold(seed, count))
        khat, limit = float(psis_khat(log_weight.numpy()[:, None])[0]), khat_limit(count)
        if khat <= limit or float(log_weight.std()) > LIGHT:
            break
        count *= 4
    numbers |= {"khat": khat, "khat_limit": limit}
    line = Line(
        "k-hat",
        f"{khat:.2f} of {len(log_weight)} fresh draws",
        f"at most {limit:.2f}",
        khat <= limit,
        "take a richer guide (guide='auto')",
        about="posterior",
    )
    return line, u, log_weight


def _moments(found: MomentErrors, numbers: dict[str, Any]) -> Line:
    """What most people take from a fit; off by more than the limit and two Monte Carlo errors, it does not hold."""
    off = [
        max(abs(value) - MEAN_OFF - 2 * error, error - MOMENT_ERROR)
        for value, error in zip(found.mean.tolist(), found.mean_error.tolist(), strict=True)
    ]
    spread = [
        max(SD_RATIO[0] - value - 2 * error, value - SD_RATIO[1] - 2 * error, error - MOMENT_ERROR)
        for value, error in zip(found.sd.tolist(), found.sd_error.tolist(), strict=True)
    ]
    worst, widest = _worst(off), _worst(spread)
    mean, mean_error = abs(float(found.mean[worst])), float(found.mean_error[worst])
    sd, sd_error = float(found.sd[widest]), float(found.sd_error[widest])
    numbers |= {"mean_off": mean, "mean_off_error": mean_error, "sd_ratio": sd, "sd_ratio_error": sd_error}
    advice = f"the guide is too {'narrow' if sd < 1 else 'wide'}: " if not spread[widest] <= 0 else ""
    return Line(
        "posterior means and sds",
        f"means off by at most {mean:.2g} ± {mean_error:.1g} sd, sds {sd:.2f} ± {sd_error:.1g} times the posterior's",
        f"at most {MEAN_OFF} sd, {SD_RATIO[0]} to {SD_RATIO[1]} times",
        off[worst] <= 0 and spread[widest] <= 0,
        f"{advice}weigh its draws (fit.weighted_draws), or take a richer guide (guide='auto')",
        about="posterior",
    )


def _moments_of_rows(pair: Pair, rows: Source, numbers: dict[str, Any], seed: int) -> Line:
    """The same of latents that each datum has for itself, by the draws of each datum; one in 20 may be off."""
    count = max(ROW_DRAWS // 10, min(ROW_DRAWS, 500 * ROW_DRAWS // max(1, len(rows))))
    drawn, guide, held = weighted_draws(pair, rows, count, seed=seed), pair.draw(rows, count, seed=seed), []
    for name, value in drawn.values.items():
        found = moments_apart(guide.values[name].double(), value.double(), drawn.log_weight)
        near = found.mean.abs() <= MEAN_OFF + 2 * found.mean_error
        wide, narrow = found.sd - 2 * found.sd_error, found.sd + 2 * found.sd_error
        held.append((near & (narrow >= SD_RATIO[0]) & (wide <= SD_RATIO[1])).flatten())
    share = float(torch.cat(held).double().mean())
    numbers["moments_good"] = share
    return Line(
        "posterior means and sds",
        f"within {MEAN_OFF} sd and {SD_RATIO[0]} to {SD_RATIO[1]} times for {share:.0%} of the latents",
        "for 95%",
        share >= 0.95,
        "weigh its draws (fit.weighted_draws), or take a richer guide",
        about="posterior",
    )


def _worst(beyond: list[float]) -> int:
    """The place of the greatest, or of one that is no number."""
    return max(range(len(beyond)), key=lambda i: math.inf if math.isnan(beyond[i]) else beyond[i])


def _leaving(noise: FixedNoise, numbers: dict[str, Any], seed: int) -> Line:
    """Draws of the guide never see what it misses; chains that begin at them walk there."""
    log_ratio = chains(noise, numbers["log_evidence"], seed=seed)
    share = float((log_ratio > -math.log(COVERED)).double().mean())
    numbers["left"] = share
    return Line(
        "chains from its draws",
        f"{share:.1%} of them where the guide has hardly mass",
        f"at most {LEFT:.0%}",
        share <= LEFT,
        "take a richer guide (guide='auto')",
        about="posterior",
    )
