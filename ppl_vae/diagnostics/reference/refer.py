"""A posterior by NUTS, and how far the guide is from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.data.source import whole
from ppl_vae.diagnostics.collapse import labels_of
from ppl_vae.diagnostics.reference.beside import Beside, ChainMoments
from ppl_vae.diagnostics.reference.nuts import Chain, Energy, Settings, run
from ppl_vae.diagnostics.reference.result import Reference
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, slices
from ppl_vae.evidence.shared_draws import require_observed, rows_of_fit
from ppl_vae.evidence.weighing import weighted_draws
from ppl_vae.evidence.weighted import say_of_weights
from ppl_vae.evidence.weighted_draws import WeightedDraws
from ppl_vae.pair import pair_of

if TYPE_CHECKING:
    from ppl_vae.data.rows import Rows
    from ppl_vae.pair import Fitted, Pair

__all__ = ["MOST_LATENTS", "reference"]

WHO = "reference"
MOST_LATENTS = 200
"""Numbers that chains find their way in: each transition is tens of gradients in a row, and more in more dimensions."""
WEIGHTED = 4000
"""Weighted draws, at least: they are cheap, and few of them have a k-hat that allows little."""
LEAST = 4
"""Draws of a chain that R-hat and effective sizes can be asked of."""


def reference(
    pair: Pair | Fitted,
    data: Any = None,
    *,
    num_samples: int = 1000,
    num_chains: int = 2,
    warmup: int = 500,
    target_accept: float = 0.8,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> Reference:
    """Is the guide the posterior? Chains of Pyro's NUTS, which know nothing of its family, say so for small models.

    They are run on the pair's own density of unconstrained latents, θ held as it was fitted, so latents that the model
    sums out are summed out here too. Every other chain begins at a draw of the guide, the others at places that have
    nothing to do with it; so where a guide has missed a mode, R-hat may tell. Beside the guide's plain draws stand its
    weighted ones: did weighing mend it?

    Gradients are taken one after the other, tens of them a transition: for ten latents a minute or two.
    The chains are run one after the other in this process, and hold the lock of pairs.

    Args:
        pair: a Pair, or a Fit.
        data: N rows; by default those of the fit. Of a pair with latents of each datum, a few rows: N times their
            number is at most 200.
        num_samples: draws of a chain; as many of the guide as of all chains together.
        num_chains: how many; at least 2.
        warmup: transitions of a chain before its draws, in which step size and mass matrix are found.
        target_accept: the rate of acceptance that the step size is tuned to; where transitions diverge, raise it.
        seed: of all draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory.

    Returns:
        a :class:`Reference`; print it, ``to_dataframe()`` or ``plot()`` it.

    Raises:
        ValueError: discrete latents that are not summed out, a flow (a point for each z), more than 200 latents, ones
            that a mask takes away, a plate that draws a subsample; rows without what the model observes; no place to
            begin at has a finite density.

    Matthew Hoffman, Andrew Gelman: "The No-U-Turn sampler", 2014. Aki Vehtari et al.: "Rank-normalization, folding, and
    localization: an improved R-hat", 2021.
    """
    fitted, pair = pair, pair_of(pair)
    settings = _required(num_samples, num_chains, warmup, target_accept)
    source = rows_of_fit(fitted, data, who=WHO, argument="data")
    pair.initialize(source)
    rows = whole(source)
    _require_few(pair, rows)
    say_of_weights(pair, WHO)

    total = num_samples * num_chains
    guide = _guide_draws(pair, rows, total, fold(seed, WHO, "guide"), max_elements)
    starts, _ = pair.unconstrain(rows, {name: value[:num_chains] for name, value in guide.items()})
    energy = Energy(pair, rows, starts)
    joined = energy.flat.joined(starts)
    chains = [
        run(pair, energy, joined[number] if number % 2 == 0 else None, settings, seed=fold(seed, WHO, number))
        for number in range(num_chains)
    ]
    draws = _constrained(pair, rows, energy, chains, max_elements)
    return _compared(pair, rows, draws, guide, chains, seed=seed, max_elements=max_elements)


def _required(num_samples: int, num_chains: int, warmup: int, target_accept: float) -> Settings:
    if num_samples < LEAST or num_chains < 2 or warmup < 1 or not 0 < target_accept < 1:
        raise ValueError(
            f"{WHO}: num_samples >= {LEAST}, num_chains >= 2 (R-hat compares them), warmup >= 1 and 0 < target_accept "
            f"< 1 are required, got num_samples={num_samples}, num_chains={num_chains}, warmup={warmup}, "
            f"target_accept={target_accept}"
        )
    return Settings(num_samples, warmup, target_accept)


def _require_few(pair: Pair, rows: Rows) -> None:
    """Raise ValueError unless chains can be run on all latents of these rows."""
    pair.sites.require_whole_plates(WHO)
    pair.require_whole_rows(rows)
    require_observed(pair, rows, WHO)
    masked = [name for name, site in pair.latents.items() if site.is_masked]
    if masked:
        raise ValueError(
            f"{WHO}: latents that every row has are required, and a mask takes {', '.join(map(repr, masked))} away in "
            "some, where the density is flat and chains come to no end; give rows that have all of them"
        )
    pair.density(rows)  # says which latents are discrete, and of a flow that it is one
    one = pair.draw(rows, 1).values
    sizes = {name: one[name][0].numel() for name in pair.latents}
    if not sizes:
        raise ValueError(f"{WHO}: continuous latents are required, and this pair has none")
    if (total := sum(sizes.values())) <= MOST_LATENTS:
        return
    local = sum(size for name, size in sizes.items() if pair.latents[name].is_local)
    each, rest = local // max(1, len(rows)), MOST_LATENTS - (total - local)
    way = "look at the guide's weighted draws (weighted_draws) and their k-hat"
    if local and not pair.has_global_latents and rest >= each:
        way = f"give at most {rest // each} of the {len(rows)} rows, each of which has {each}"
    raise ValueError(
        f"{WHO}: at most {MOST_LATENTS} latent numbers are required, got {total}: chains take gradients one after the "
        f"other, more of them in more dimensions; {way}"
    )


def _guide_draws(pair: Pair, rows: Rows, count: int, seed: int, max_elements: int) -> dict[str, Tensor]:
    """Draws of the guide, (S, ...) by site, in runs that fit into memory."""
    parts = [
        pair.draw(rows, place.stop - place.start, seed=fold(seed, place.start)).values
        for place in slices(count, _draws_of_a_run(pair, rows, count, max_elements))
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in pair.latents}


def _draws_of_a_run(pair: Pair, rows: Rows, count: int, max_elements: int) -> int:
    return Plan.of(pair, rows, count, max_elements).draws


def _constrained(pair: Pair, rows: Rows, energy: Energy, chains: list[Chain], max_elements: int) -> dict[str, Tensor]:
    """The draws of all chains as latents, (chains, draws, ...) by site."""
    u = torch.cat([chain.u for chain in chains])
    parts = [
        pair.constrain(rows, energy.flat.by_site(u[place]))
        for place in slices(len(u), _draws_of_a_run(pair, rows, len(u), max_elements))
    ]
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return {name: value.unflatten(0, (len(chains), -1)) for name, value in found.items()}


def _compared(
    pair: Pair,
    rows: Rows,
    draws: Mapping[str, Tensor],
    guide: Mapping[str, Tensor],
    chains: list[Chain],
    *,
    seed: int,
    max_elements: int,
) -> Reference:
    names = tuple(label for name, value in draws.items() for label in labels_of(name, value[0, 0]))
    of_chains = ChainMoments.of(_table(draws, 2))
    every = _table(draws, 2).flatten(0, 1)
    noise = fold(seed, WHO, "chance")
    plain = Beside.of(_table({name: guide[name] for name in draws}, 1), None, of_chains.moments, every, seed=noise)
    weighted, khat = None, torch.full((len(names),), math.nan, dtype=torch.float64)
    believable = torch.zeros(len(names), dtype=torch.bool)
    if not pair.sites.point_masses:
        count = max(WEIGHTED, len(every))
        made = weighted_draws(pair, rows, count, seed=fold(seed, WHO, "weighted"), max_elements=max_elements)
        values, weights = _table({name: made.values[name] for name in draws}, 1), _spread(made, made.weights, draws)
        weighted = Beside.of(values, weights, of_chains.moments, every, seed=noise)
        khat = _spread(made, made.khat.unsqueeze(0), draws)[0]
        believable = _spread(made, made.believable.unsqueeze(0), draws)[0]
    return Reference(
        names,
        of_chains,
        plain,
        weighted,
        believable,
        khat,
        draws,
        torch.stack([chain.diverging for chain in chains]),
        sum(chain.gradients for chain in chains),
        all(bool((chain.u.std(0) > 0).any()) for chain in chains),
    )


def _table(values: Mapping[str, Tensor], leading: int) -> Tensor:
    """Values by site as one table, (..., D), float64."""
    parts = [value.double().reshape(*value.shape[:leading], -1) for value in values.values()]
    return torch.cat(parts, -1)


def _spread(made: WeightedDraws, of_data: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
    """What is of each draw, (S,), or of each draw and datum, (S, N), for every number, (S, D)."""
    parts = []
    for name in draws:
        shape = made.values[name].shape[1:]
        lead = of_data.reshape(*of_data.shape, *[1] * (len(shape) - (of_data.dim() - 1)))
        parts.append(lead.expand(len(of_data), *shape).reshape(len(of_data), -1))
    return torch.cat(parts, -1)
