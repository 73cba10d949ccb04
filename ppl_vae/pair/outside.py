"""A value outside of its site's support: which site, which row, which value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pyro.poutine.trace_struct import Trace

from ppl_vae.data.rows import Batch
from ppl_vae.pair.explain import infinity_in

__all__ = ["OutsideSupportError", "inside", "outside"]


class OutsideSupportError(ValueError):
    """A value that a site's distribution gives no density.

    Attributes:
        site: its name.
    """

    def __init__(self, message: str, site: str) -> None:
        super().__init__(message)
        self.site = site


@contextmanager
def inside(sites: Mapping[str, Mapping[str, Any]], trace: Trace | None) -> Iterator[None]:
    """Where an argument check of the block finds a value outside of a support, say whose and which.

    Args:
        sites: those that are scored, by name.
        trace: the run that they are of.

    Raises:
        OutsideSupportError: in the place of Pyro's error; ValueError of a shape that does not fit.
    """
    try:
        yield
    except ValueError as error:
        found: ValueError | None = None
        with suppress(Exception):  # a distribution that cannot tell its support is no reason for another error
            batch = _batch_of(trace)
            check = misshapen if "not broadcastable" in str(error) else outside
            found = next((e for e in (check(name, site, batch) for name, site in sites.items()) if e), None)
        if found is None:
            raise
        raise found from error


def _batch_of(trace: Trace | None) -> Batch:
    given = () if trace is None else trace.nodes["_INPUT"]["args"]
    return next((arg for arg in given if isinstance(arg, Batch)), Batch())


def outside(name: str, site: Mapping[str, Any], batch: Batch) -> OutsideSupportError | None:
    """The error that names the first value of a site outside of its support, or None."""
    value, support = site["value"], site["fn"].support
    fine = support.check(value)
    if bool(fine.all()):
        return None
    base = support
    while hasattr(base, "base_constraint"):  # the entries of an event have a support of their own
        base = base.base_constraint
    fine = base.check(value)
    place = [int(i) for i in (~fine).nonzero()[0]]
    left = value.dim() - len(site["fn"].event_shape)
    rows = [left + frame.dim for frame in _data_frames(site, batch) if 0 <= left + frame.dim < len(place)]
    where = f"at {batch.row(place[rows[0]])}" if rows else "outside the data plate"
    entry = [str(i) for axis, i in enumerate(place) if axis not in rows and value.shape[axis] > 1]
    where += f", entry {', '.join(entry)}" if entry else ""
    if not bool(value[tuple(place)].isfinite().all()) and (cause := infinity_in(batch)):
        return OutsideSupportError(f"Pair: {cause}, and with it the value of {name!r} is no number", name)
    kind = "observed" if site["is_observed"] else "latent"
    return OutsideSupportError(
        f"the value of the {kind} site {name!r} {where} is {_number(value[tuple(place)])}, outside of its support "
        f"{base}; {_way_out(kind)}",
        name,
    )


def misshapen(name: str, site: Mapping[str, Any], batch: Batch) -> ValueError | None:
    """The error of a value whose shape does not broadcast against its distribution's, or None."""
    shape, value = site["fn"].batch_shape + site["fn"].event_shape, site["value"].shape
    if all(a == b or 1 in (a, b) for a, b in zip(reversed(shape), reversed(value), strict=False)):
        return None
    return ValueError(
        f"Pair: in a run on {batch.size} rows the site {name!r} has a value of shape {tuple(value)}, and a "
        f"distribution of shape {tuple(shape)}; a plate of a fixed size does this: make it `pyro.plate(name, len(x))`"
    )


def _data_frames(site: Mapping[str, Any], batch: Batch) -> list[Any]:
    return [f for f in site["cond_indep_stack"] if f.vectorized and batch.size is not None and f.size == batch.size][:1]


def _number(value: Any) -> Any:
    return f"{value.item():.6g}" if value.numel() == 1 else [round(v, 6) for v in value.flatten()[:6].tolist()]


def _way_out(kind: str) -> str:
    if kind == "observed":
        return "change the data (their scale, their labels), or give the site another distribution"
    return "let the guide draw it on the support of the model's site"
