"""The data axis: the plate of the datum, found once by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample

__all__ = ["DataAxis", "DataAxisError", "GlobalLatentError"]


class DataAxisError(ValueError):
    """The plate of the data cannot be told from the others, or there is none."""


class GlobalLatentError(ValueError):
    """A per-datum quantity was asked of a pair whose latents are shared by all data."""


@dataclass(frozen=True)
class DataAxis:
    """The data plate.

    Attributes:
        name, dim: its name and its tensor dimension (negative).
        subsampled: does the pair draw a subsample of its rows itself (``subsample_size``)?
        scaled: does the plate itself scale by N/B (``subsample=index``, or ``subsample_size``)?
    """

    name: str
    dim: int
    subsampled: bool
    scaled: bool


def sample_sites(trace: Trace) -> list[tuple[str, Any]]:
    """The sample sites of a trace without those that plates make to draw their subsamples."""
    return [(k, s) for k, s in trace.nodes.items() if s["type"] == "sample" and not site_is_subsample(s)]


def frames_of(traces: Iterable[Trace]) -> list[tuple[Any, bool]]:
    """Every vectorized plate frame with a flag: is it the outermost of some site?"""
    found: dict[str, tuple[Any, bool]] = {}
    for trace in traces:
        for _, site in sample_sites(trace):
            vectorized = [f for f in site["cond_indep_stack"] if f.vectorized]
            for depth, frame in enumerate(vectorized):
                outermost = depth == 0 or found.get(frame.name, (None, False))[1]
                found[frame.name] = (frame, outermost)
    return list(found.values())


def find_data_axis(
    traces: Iterable[Trace], size: int | None, name: str | None, num_data: int | None = None
) -> DataAxis | None:
    """The plate called ``name``, or else the only outermost plate over ``size`` rows, or ``size`` of ``num_data``.

    Returns None for a pair without data (``size`` None). Raises :class:`DataAxisError` when there is no such plate, or
    more than one.
    """
    frames = frames_of(traces)
    if name is not None:
        candidates = [f for f, _ in frames if f.name == name]
    elif size is None:
        return None
    else:
        wholes = (size, num_data)
        candidates = [
            f for f, outermost in frames if outermost and (f.full_size == size or (f.size, f.full_size) == wholes)
        ]
    if len(candidates) != 1:
        raise DataAxisError(_complaint(frames, candidates, size, name))
    frame = candidates[0]
    scaled = frame.size != frame.full_size
    return DataAxis(frame.name, frame.dim, subsampled=scaled and frame.size != size, scaled=scaled)


def _complaint(frames: list[tuple[Any, bool]], candidates: list[Any], size: int | None, name: str | None) -> str:
    seen = ", ".join(f"{f.name!r} (size {f.full_size}, dim {f.dim})" for f, _ in frames) or "none"
    if name is not None:
        return f"Pair: data_plate={name!r} is not a vectorized plate of the pair; its plates are: {seen}"
    if candidates:
        which = ", ".join(repr(f.name) for f in candidates)
        return f"Pair: {which} all are outermost plates over {size} rows; name the data's with data_plate="
    return (
        f"Pair: one outermost vectorized plate over the {size} rows of the data (axis 0) is required, such as "
        f"`with pyro.plate('data', len(x)):`; the plates of the pair are: {seen}"
    )
