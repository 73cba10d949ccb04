"""What a fitted pair predicts: latents that all data share come from the guide, a new datum's own from the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.data.rows import Batch, Rows
from ppl_vae.pair.blocks import DRAWS, Blocks, slices
from ppl_vae.pair.centers import encode
from ppl_vae.pair.checks import is_out_of_memory
from ppl_vae.pair.handlers import Substitute
from ppl_vae.pair.particles import inward, outward, without_particles
from ppl_vae.pair.responsibilities import draw_of
from ppl_vae.pair.runs import with_particles
from ppl_vae.pair.sampling import forward, predicted, read

if TYPE_CHECKING:
    from ppl_vae.data.source import Source
    from ppl_vae.pair.pair import Pair

Values = dict[str, Tensor]


def shared_latents(pair: Pair) -> list[str]:
    """The latents of the model outside the data plate, summed ones included."""
    return [name for name in pair.sites.latent if not pair.sites.model[name].is_local]


def _template(pair: Pair) -> Rows:
    return pair.template if pair.template is not None else Rows()


# -- the posterior of what is shared ---------------------------------------------------------------------------------


def follows_the_rows(pair: Pair) -> bool:
    """Does the posterior of the shared latents hang on the rows that the guide is given? Looked at, not believed.

    The posterior of a shared latent that the model sums out does, by Bayes' rule; that of a guide, if on copies of one
    row and the same noise it draws something else.
    """
    names = shared_latents(pair)
    if any(name in pair.sites.summed for name in names):
        return True
    if not any(name in pair.sites.guide for name in names):
        return False
    few = _template(pair)
    if len(few) < 2:
        return bool(len(few))
    copies = few.take(torch.zeros(len(few), dtype=torch.long, device=pair.device))
    found = [_draws(pair, rows, 1, names, {}, 0) for rows in (few, copies)]
    return any(not torch.equal(found[0][name], found[1][name]) for name in found[0])


def shared_draws(pair: Pair, rows: Source | None, count: int, *, seed: int, who: str) -> Values:
    """Joint draws of the shared latents from the guide, (S, ...) by site; those of the model alone are not among them.

    Args:
        rows: those that the pair was fitted to; None where they are not at hand.
        count: S.
        who: whose error it is.

    Raises:
        ValueError: the posterior hangs on rows that are not at hand.
    """
    names = shared_latents(pair)
    if not any(name in pair.sites.guide or name in pair.sites.summed for name in names):
        return {}
    known = _required(rows, names, who) if follows_the_rows(pair) else _template(pair)
    return _draws(pair, known, count, names, {}, seed)


def _required(rows: Source | None, names: list[str], who: str) -> Source:
    if rows is None:
        raise ValueError(
            f"{who}: the posterior of {', '.join(map(repr, names))}, which all data share, hangs on the rows that the "
            "pair was fitted to, and they are not at hand (the fit was loaded or released); give them as fitted_to="
        )
    return rows


def _draws(pair: Pair, rows: Source, count: int, names: list[str], held: Values, seed: int) -> Values:
    """Joint draws of the named latents by the guide, some of whose sites are held, and of summed ones given these.

    (S, ...) by site.
    """
    batch, blocks = rows.batch(), Blocks.of(pair, rows, count)
    parts: list[Values] = []
    done = 0
    for size, noise in blocks.of_draws(count, "predictive", seed):
        some = {name: value[done : done + size].to(pair.device) for name, value in held.items()}
        done += size
        with pair.evaluating(noise):
            if size > 1 and pair.vectorizes(batch):
                parts.append(_once(pair, batch, size, names, _inward(pair, some)))
            else:
                parts += [_once(pair, batch, None, names, _alone(pair, some, s)) for s in range(size)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _inward(pair: Pair, values: Values) -> Values:
    """Draws (S, ...) in Pyro's shape, with the dimension of particles."""
    return {name: inward(value, pair.sites.model[name], pair.layout) for name, value in values.items()}


def _alone(pair: Pair, values: Values, s: int) -> Values:
    """Draw s alone in Pyro's shape."""
    return {name: without_particles(value[s], pair.sites.model[name], pair.layout) for name, value in values.items()}


def _once(pair: Pair, batch: Batch, count: int | None, names: list[str], held: Values) -> Values:
    """The named latents of one run of the guide, (S, ...) by site; one draw where count is None."""
    guide = Substitute(held)(with_particles(pair.runner.guide, pair.layout, count))
    trace: Any = poutine.trace(guide).get_trace(batch)
    values = {name: trace.nodes[name]["value"] for name in pair.latents if name in trace.nodes}
    if any(name in pair.sites.summed for name in names):
        values |= draw_of(pair.runner.run_model(batch, values, count))
    return {
        name: outward(values[name], pair.sites.model[name], pair.layout, count is not None).detach().cpu()
        for name in names
        if name in values
    }


# -- new data --------------------------------------------------------------------------------------------------------


def new_data(pair: Pair, n: int, rows: Source | None, *, mean: bool, seed: int) -> Values:
    """The observed sites of n new data, (n, ...) by site, each at a draw of its own of the shared latents.

    What else the model looks at is that of the rows that the pair was first run on, in turn.
    """
    shared = shared_draws(pair, rows, n, seed=fold(seed, "sample"), who="sample")
    template = _template(pair)
    whole = len(template) > 1 and not _runs_on(pair, template.take(slice(0, 2)))
    parts: list[Values] = []
    for place in slices(n, DRAWS):
        some = {name: value[place] for name, value in shared.items()}
        with pair.evaluating(fold(seed, "sample", place.start)):
            parts += _some_new(pair, template, place, some, mean, whole)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _some_new(pair: Pair, template: Rows, place: slice, shared: Values, mean: bool, whole: bool) -> list[Values]:
    """Draw s of row s: of a run of many draws of many rows, where there can be one, the diagonal."""
    numbers, values = torch.arange(place.start, place.stop), {k: v.to(pair.device) for k, v in shared.items()}

    def made(some: Tensor, inner: Values, count: int | None) -> Values:
        trace = forward(pair, _batch_of(pair, template, some, whole), inner, count)
        found = read(pair, trace, list(pair.sites.observed), count, mean)
        return {name: _of_rows(pair, name, value, some) for name, value in found.items()}

    if len(numbers) > 1 and pair.vectorizes(_batch_of(pair, template, numbers, whole)):
        return [made(numbers, _inward(pair, values), len(numbers))]
    return [made(numbers[s : s + 1], _alone(pair, values, s), None) for s in range(len(numbers))]


def _batch_of(pair: Pair, template: Rows, numbers: Tensor, whole: bool) -> Batch:
    """These rows of the template, in turn; all of it where the pair runs on no others."""
    if whole or not len(template):
        return template.batch()
    return template.take((numbers % len(template)).to(pair.device)).batch()


def _of_rows(pair: Pair, name: str, values: Tensor, numbers: Tensor) -> Tensor:
    """Of draws (S, R, ...) of R rows those where draw and row are the same, (S, ...)."""
    if not pair.sites.model[name].is_local:
        return values
    draws = torch.arange(len(values))
    size = values.shape[1]
    rows = draws if size == len(numbers) else numbers % size  # a plate that has a size of its own
    return values[draws, rows]


def _runs_on(pair: Pair, rows: Rows) -> bool:
    """Does the model run on so few rows? Not where it has a plate of a fixed size, and looks at its rows."""
    try:
        with pair.evaluating(0):
            forward(pair, rows.batch(), {}, None)
    except (RuntimeError, ValueError, IndexError, KeyError) as error:  # what shapes that do not fit raise
        if is_out_of_memory(error):
            raise
        return False
    return True


# -- given rows ------------------------------------------------------------------------------------------------------


def with_shared(
    pair: Pair, given: Values, known: Source | None, count: int | None, *, mean: bool, seed: int, who: str
) -> Values:
    """Values of latents, and of shared ones that are not among them: draws of the guide, (S, ...).

    Where ``count`` is None, one value without the axis of draws: the center of the guide for ``mean``, else a draw.
    """
    missing = [name for name in shared_latents(pair) if name not in given]
    if not missing:
        return given
    found = shared_draws(pair, known, count or 1, seed=seed, who=who)
    if count is None:
        found = {name: value[0] for name, value in found.items()}
    if count is None and mean:
        rows = _required(known, missing, who) if follows_the_rows(pair) else _template(pair)
        found |= encode(pair, rows, sample=False, seed=seed)  # not of summed ones, which have their draw
    return given | {name: found[name].to(pair.device) for name in missing if name in found}


def unseen_sites(pair: Pair, rows: Source) -> list[str]:
    """The observed sites that the model does not observe in these rows, as where they come without y."""
    with pair.evaluating(0):
        trace = pair.runner.run_model(rows.batch(), {}, None, ()).model_trace
    return [name for name in pair.sites.observed if name in trace.nodes and not trace.nodes[name]["is_observed"]]


def posterior_predictive(
    pair: Pair, rows: Source, known: Source | None, *, num_samples: int, mean: bool, seed: int
) -> Values:
    """The observed sites of given rows drawn anew, (S, N, ...) by site; see ``Fit.posterior_predictive``."""
    pair.require_whole_rows(rows)
    if num_samples < 1:
        raise ValueError(f"posterior_predictive: num_samples must be at least 1, got {num_samples}")
    unseen = unseen_sites(pair, rows)
    noise = fold(seed, "predictive")
    values = latents_of(pair, rows, known, unseen, num_samples, seed=noise, who="posterior_predictive")
    return predicted(pair, rows, pair.as_values(values), num_samples, mean, seed, given_data=not unseen)


def latents_of(
    pair: Pair, rows: Source, known: Source | None, unseen: list[str], count: int, *, seed: int, who: str
) -> Values:
    """What predictions of rows stand on, (S, N, ...) or (S, ...) by site.

    Shared latents come from the guide. Local ones do too where the rows hold what the model observes; those of rows
    without it are left to the model.
    """
    seen = sorted(set(pair.sites.observed) - set(unseen))
    if unseen and seen and pair.summed:
        raise ValueError(
            f"{who}: rows with all that the model observes, or nothing of it, are required where it sums out "
            f"{sorted(pair.summed)}; these lack {unseen} and hold {seen}"
        )
    local = [name for name, site in pair.latents.items() if site.is_local]
    if not local or not seen:
        return shared_draws(pair, known, count, seed=seed, who=who)
    # One joint draw of the guide, whose shared and local latents may hang together, unless these are other rows to it.
    held = shared_draws(pair, known, count, seed=seed, who=who) if follows_the_rows(pair) else {}
    found = held | _draws(pair, rows, count, list(pair.latents), held, seed)
    for name in local:
        if name in found and found[name].shape[1] != len(rows):
            raise ValueError(
                f"{who}: {type(pair.guide).__name__} has a posterior of {name!r} for {found[name].shape[1]} rows, got "
                f"{len(rows)} other rows; leave out what the model observes, and {name!r} is drawn from the model"
            )
    return found
