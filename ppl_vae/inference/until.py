"""How long a fit goes on: so many steps or epochs, or until it has converged; and what may be asked of whom."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from ppl_vae.data.rows import Batch
from ppl_vae.inference.convergence import MAX_STEPS, Convergence
from ppl_vae.inference.schedules import Stages
from ppl_vae.objectives import ELBO
from ppl_vae.pair import Pair

__all__ = ["TOL_A_DATUM", "TOL_IN_ALL", "convergence", "ends_by", "settles"]

TOL_IN_ALL = 0.1
"""Nats in all that may be left to gain, where all data share latents."""
TOL_A_DATUM = 0.02
"""Nats per datum that may be left to gain, where they do not."""


MOST_DRAWS, ROWS = 64, 8192
"""An answer is measured with so many draws in one run of the pair, unless they times the rows of a batch are more."""


def convergence(
    pair: Pair,
    num_data: int | None,
    *,
    until: str | None,
    lengths: dict[str, Any],
    max_steps: int | None,
    gain_tol: float | None,
    lr_scheduler: Any,
    searches: bool,
    objective: Any,
    schedule: Any,
    batch: Batch,
    seed: int,
) -> tuple[list[Convergence], dict[str, Any]]:
    """The rule that ends a run, in a list, and the length of the run at most; no rule where a length is given.

    Args:
        lengths: ``epochs`` and ``steps``, as they were given.

    Raises:
        ValueError: a length is given beside ``until``, or what belongs to one of the two beside the other.
    """
    given = {name: value for name, value in lengths.items() if value is not None}
    beside = {"until": until, "max_steps": max_steps, "gain_tol": gain_tol}
    if until not in (None, "converged"):
        raise ValueError(f"fit: until must be 'converged', got {until!r}; or give epochs= or steps=")
    if given:
        if wrong := [name for name, value in beside.items() if value is not None]:
            raise ValueError(
                f"fit: {', '.join(wrong)} is of fits without a length, got {', '.join(given)} too; give one of them"
            )
        return [], lengths
    if lr_scheduler is not None:
        raise ValueError(
            "fit: until='converged' (the default without epochs= or steps=) lowers the rate itself, and a schedule of "
            "its own is given as lr_scheduler; leave it out, or give epochs= or steps="
        )
    if gain_tol is not None and not 0 < gain_tol < math.inf:
        raise ValueError(f"fit: gain_tol must be a positive number of nats, got {gain_tol!r}")
    in_all = pair.has_global_latents
    tol = gain_tol if gain_tol is not None else TOL_IN_ALL if in_all else TOL_A_DATUM
    share = tol / (num_data or 1) if in_all else tol
    rule = Convergence(
        share,
        seed=seed,
        searches=searches,
        is_settled=settles(objective, schedule, pair.modules()),
        objective=with_more_draws(objective, pair, batch),
        has_plateaus=not in_all,
    )
    return [rule], {"epochs": None, "steps": MAX_STEPS if max_steps is None else max_steps}


def ends_by(rules: list[Convergence]) -> dict[str, Any]:
    """What a run folder says of the end of a fit: nothing, where its length was given."""
    return {"until": "converged", "gain_tol": rules[0].tol} if rules else {}


def with_more_draws(objective: Any, pair: Pair, batch: Batch) -> Any:
    """An ELBO over many draws; None where they are made one by one, or where other draws are another objective."""
    particles = min(MOST_DRAWS, ROWS // (batch.size or 1))
    if type(objective) is not ELBO or particles <= objective.num_particles:
        return None
    with pair.evaluating(0):
        if sum(1 for _ in pair.runs(batch, particles, enumerate=objective.enumerates)) > 1:
            return None
    found = copy.copy(objective)  # beta's value, which follows the step, is shared
    found.num_particles = particles
    return found


def settles(objective: Any, schedule: Any, modules: list[Any]) -> Callable[[int], bool]:
    """Whether all that changes by schedule (beta, a temperature, what moves) is, at a step, what it will remain."""
    functions = [value for part in (objective, *modules) for value in _schedules(part)]
    stages = _length(schedule)

    def is_settled(step: int) -> bool:
        later = [step + i * max(1, step) // 7 for i in range(1, 64)]
        return step >= stages and all(_is_constant([f(s) for s in (step, *later)]) for f in functions)

    return is_settled


def _schedules(part: Any) -> list[Callable[[int], float]]:
    return [value for name in ("beta", "_at") if callable(value := getattr(part, name, None))]


def _is_constant(values: list[float]) -> bool:
    return max(values) - min(values) <= 1e-3 * max(map(abs, values))


def _length(schedule: Any) -> int:
    """The steps of all stages but the last."""
    if isinstance(schedule, Stages):
        return sum(steps for _, steps in schedule.first) + _length(schedule.last)
    return _length(schedule.schedule) if hasattr(schedule, "schedule") else 0
