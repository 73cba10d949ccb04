"""What a run that met a NaN or an infinity says: which step, which site."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae.data.rows import Batch
from ppl_vae.distributions import PointMass
from ppl_vae.pair.explain import described, infinity_in
from ppl_vae.pair.scope import validation
from ppl_vae.training.one_row import one_row

if TYPE_CHECKING:
    from ppl_vae.training.gradient_step import GradientStep


class NonFiniteError(ArithmeticError):
    """The loss or a gradient was not finite.

    Attributes:
        step: the bad step (counted from 0). Parameters, buffers and optimizer state are as before it.
        site: where it showed first: a site of the guide or the model, or a parameter.
        fit: the fit as it was before that step.
    """

    def __init__(self, step: int, site: str, detail: str) -> None:
        super().__init__(
            f"step {step}: {detail}; the run has stopped, and parameters, buffers and optimizer state are as "
            f"before that "
            "step (a smaller learning rate, clip_norm=, or a check of the data often helps)"
        )
        self.step, self.site = step, site
        self.fit: Any = None


def _bad(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all())


def diagnose(step: GradientStep, batch: Batch, number: int, *, lost: str | None = None) -> NonFiniteError:
    """Replay step ``number`` on its batch and its noise, and find the first value that is not finite.

    ``lost`` says, in words, which parameter or buffer was not finite after the step.
    """
    with validation(False):  # an argument check would stop at the NaN, and not say whose it is
        found = _first_bad(step, batch, number)
    if found is None and lost is not None:
        return NonFiniteError(number, lost.split("'")[1], f"{lost} was not finite after it")
    if found is None:
        return NonFiniteError(number, "objective", "the objective or the norm of its gradient was not finite")
    return found


@contextmanager
def explained(step: GradientStep, batch: Batch, number: int) -> Iterator[None]:
    """Errors of the block by step: a NaN that an argument check has met, a batch of one row; others get a note."""
    try:
        yield
    except (ValueError, torch.linalg.LinAlgError) as error:
        found: Exception | None = None
        with validation(False), suppress(ValueError, torch.linalg.LinAlgError):
            found = _first_bad(step, batch, number)
        if found is not None:
            raise found from None
        if (found := one_row(step.pair, batch, number, error)) is not None:
            raise found from error
        _note(error, batch, number)
        raise
    except Exception as error:
        _note(error, batch, number)
        raise


def _note(error: Exception, batch: Batch, number: int) -> None:
    error.add_note(f"This was in step {number} of the fit, on {described(batch)}.")


def _first_bad(step: GradientStep, batch: Batch, number: int) -> NonFiniteError | None:
    pair = step.pair
    for name, leaf in pair.parameters_by_name().items():
        if _bad(leaf):
            return NonFiniteError(number, name, f"the parameter {name!r} was not finite before it")
    for i, value in enumerate((*batch.args, *batch.kwargs.values())):
        if _bad(value):
            where = infinity_in(batch, nan=True)
            detail = f"the data (part {i}) hold a value that is not finite" + (f": {where}" if where else "")
            return NonFiniteError(number, f"data[{i}]", detail)
    saved = [(buffer, buffer.clone()) for buffer in step.buffers.values()]
    try:
        return _replay(step, batch, number)
    finally:
        for buffer, value in saved:
            buffer.copy_(value)


def _replay(step: GradientStep, batch: Batch, number: int) -> NonFiniteError | None:
    pair = step.pair
    step.seed_noise(number)
    step.begin(number)
    for run in pair.runs(batch, step.objective.num_particles, enumerate=step.objective.enumerates):
        for role, trace, scores in (
            ("guide", run.guide_trace, run.score_guide()),
            ("model", run.model_trace, run.score_model()),
        ):
            for name, score in scores.items():
                if (layer := _bad_layer(trace.nodes[name]["fn"])) is not None:
                    return NonFiniteError(number, name, f"the flow's {layer} put out a value that was not finite")
                if _bad(trace.nodes[name]["value"]):
                    return NonFiniteError(number, name, f"the value of the {role}'s site {name!r} was not finite")
                if _bad(score.log_prob):
                    return NonFiniteError(number, name, f"the log density of the {role}'s site {name!r} was not finite")
    step.seed_noise(number)
    for leaf in step.everything():
        leaf.grad = None
    step.objective.gradients(pair, batch, step.moving_leaves())
    for name, leaf in pair.parameters_by_name().items():
        if _bad(leaf.grad):
            return NonFiniteError(number, name, f"the gradient of {name!r} was not finite")
    return None


def _bad_layer(fn: Any) -> str | None:
    """The layer of a guide's flow whose numbers have gone, or None."""
    return fn.first_nonfinite() if isinstance(fn, PointMass) else None
