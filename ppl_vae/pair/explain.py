"""Errors out of a person's model and guide, said again with what in the data or the call has made them.

Nothing here is looked at before an error; where no cause is found, the error passes as it is.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor

from ppl_vae.data.rows import Batch
from ppl_vae.pair.calls import Call

__all__ = ["described", "explained", "infinity_in", "locals_along"]

_FRACTIONS = ("same dtype", "scalar type", "input type", "bool")
_WHOLE = ("must be long", "scalar types: long", "used as indices", "index tensor")

_SHAPES = ("not broadcastable", "shape mismatch inside plate", "invalid index")


@contextmanager
def explained(model: Call, guide: Call, batch: Batch, *, known: bool = True) -> Iterator[None]:
    """Errors of a run on this batch, with their cause where it is seen.

    Args:
        known: has the pair run on other data before?

    Raises:
        ValueError: in the place of an error whose cause is known; the error itself is its ``__cause__``.
    """
    try:
        yield
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        found = None
        with suppress(Exception):  # a trace of a compiler has no numbers to look at
            found = _cause(error, model, guide, batch, known)
        if found is None:
            raise
        raise ValueError(found) from error


def _cause(error: Exception, model: Call, guide: Call, batch: Batch, known: bool) -> str | None:
    if isinstance(error, TypeError) and (found := _of_the_call(model, guide, batch)):
        return found
    if isinstance(error, NotImplementedError):
        return _of_an_improper_prior(error) or _of_a_support_without_bijection(error, guide)
    words = str(error).partition("Trace Shapes:")[0].lower()
    if isinstance(error, RuntimeError | IndexError) and (kinds := _of_kinds(model, batch, words)):
        return f"Pair: {kinds}; {_first_line(error)}"
    infinite = infinity_in(batch) if isinstance(error, ValueError) else None
    if infinite is not None and any(word in words for word in ("invalid values", "nan", "outside of its support")):
        return f"Pair: {infinite}, and the pair makes of it what no distribution takes; {_first_line(error)}"
    plates = "create_plates" if getattr(guide.fn, "create_plates", None) is not None else ""
    if isinstance(error, ValueError) and any(word in words for word in _SHAPES) and (known or plates):
        return _of_plates(batch, plates, error)
    return None


def _of_plates(batch: Batch, plates: str, error: Exception) -> str:
    who = "the plates of create_plates= are not the model's (their sizes and subsamples must be the same)"
    who = who if plates else "a plate of a fixed size does this: make it `pyro.plate(name, len(x))`"
    return f"Pair: a run on {batch.size} rows does not fit its plates ({_first_line(error)}); {who}"


# -- what it is called with ------------------------------------------------------------------------------------------


def _of_the_call(model: Call, guide: Call, batch: Batch) -> str | None:
    """Do the parts of the data fit the signatures?"""
    for role, call in (("guide", guide), ("model", model)):
        signature = inspect.signature(call.target)
        args, kwargs = call.arguments(batch)
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            return _misfit(role, call, signature, batch, error)
    return None


def _misfit(role: str, call: Call, signature: inspect.Signature, batch: Batch, error: TypeError) -> str:
    places = signature.parameters
    takes = ", ".join(places) or "nothing"
    missing = [n for n, p in places.items() if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    args, kwargs = call.arguments(batch)
    if "index" in missing[len(args) :] and "index" not in kwargs and batch.index is None:
        return (
            f"Pair: the {role} asks for `index`, the numbers of its rows in the whole, and they are not known here: a "
            "DataLoader does not tell them, nor do rows given by hand; give fit the whole data and batch_size=, or let "
            "the data hold the numbers as a column of their own, under another name"
        )
    unknown = [key for key in batch.kwargs if key not in places]
    if unknown:
        folded = {name.lower(): name for name in places}
        near = [folded[n] for key in unknown for n in difflib.get_close_matches(key.lower(), folded, n=1)]
        hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
        return f"data: the {role} takes {takes}, got the key {', '.join(map(repr, unknown))}{hint}"
    in_order = [f"{len(batch.args)} in order"] if batch.args else []
    given = ", ".join([*in_order, *map(repr, batch.kwargs)]) or "none"
    return (
        f"data: the {role} takes {takes}, got the parts {given} ({error}); a tuple fills its arguments in order, a "
        "dictionary by name"
    )


# -- what the data are -----------------------------------------------------------------------------------------------


def _named_parts(call: Call | None, batch: Batch) -> Iterator[tuple[str, Tensor]]:
    names = [] if call is None else [name for name in inspect.signature(call.target).parameters if name != "self"]
    for i, value in enumerate(batch.args):
        if isinstance(value, Tensor):
            yield (names[i] if i < len(names) else f"data[{i}]"), value
    for key, value in batch.kwargs.items():
        if isinstance(value, Tensor):
            yield key, value


def _of_kinds(model: Call, batch: Batch, words: str) -> str | None:
    asks_for_whole = any(word in words for word in _WHOLE)
    if not asks_for_whole and not any(word in words for word in _FRACTIONS):
        return None
    kinds = {name: _kind(part) for name, part in _named_parts(model, batch)}
    whole = [name for name, part in _named_parts(model, batch) if not part.is_floating_point()]
    listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    if whole and not asks_for_whole:
        calls = ", ".join(f"{name}.float()" for name in whole)
        return (
            f"the pair computes with fractions, and the data hold other numbers: {listed}; give {calls}, or (of labels "
            "and counts, which stay whole) convert them in the model where a network takes them"
        )
    if len(whole) == len(kinds):
        return None
    return f"the pair asks for whole numbers (labels, indices), and the data hold fractions: {listed}; give data.long()"


def _kind(part: Tensor) -> str:
    return str(part.dtype).removeprefix("torch.")


def infinity_in(batch: Batch, *, nan: bool = False) -> str | None:
    """Where in a batch a number is infinite (or, with ``nan``, no number), in words, or None."""
    for name, part in _named_parts(None, batch):
        if not part.is_floating_point():
            continue
        bad = ~part.isfinite() if nan else part.isinf()
        mask = batch.kwargs.get("mask")
        if isinstance(mask, Tensor) and mask.shape == part.shape:
            bad = bad & mask.bool()  # what is masked out does not count
        if bool(bad.any()):
            first, *entry = (int(i) for i in bad.nonzero()[0])
            column = f", column {', '.join(map(str, entry))}" if entry else ""
            place = name if name.startswith("data[") else f"data[{name!r}]"
            return f"{place} holds {float(part[(first, *entry)])} at {batch.row(first)}{column}"
    return None


def described(batch: Batch) -> str:
    """The number of rows, the shapes and kinds of what a run was made on."""
    parts = [f"{name}: {tuple(part.shape)} {_kind(part)}" for name, part in _named_parts(None, batch)]
    return f"{batch.size} {'row' if batch.size == 1 else 'rows'} ({', '.join(parts)})" if parts else "no data"


# -- what the pair is ------------------------------------------------------------------------------------------------


def _of_an_improper_prior(error: BaseException) -> str | None:
    if "ImproperUniform" not in str(error):
        return None
    found = next(filter(None, map(_site_in, locals_along(error))), None)
    site = "a site" if found is None else repr(found["name"])
    return (
        f"Pair: the prior of {site} is an ImproperUniform, of which nothing can be drawn, not even a start; give it as "
        "ppl_vae.distributions.Flat(support, event_shape=...), the same density with a start for a guide"
    )


def _of_a_support_without_bijection(error: BaseException, guide: Call) -> str | None:
    if "Cannot transform" not in str(error):
        return None
    site = next(filter(None, map(_site_in, locals_along(error))), None)
    if site is None:
        return None
    return (
        f"Pair: the latent {site['name']!r} lives on {_base(site['fn'].support)}, and {type(guide.fn).__name__} needs "
        "a bijection onto that from numbers without bounds, which it lacks (real, positive, interval, simplex, "
        "ordered_vector, corr_cholesky and corr_matrix have one); make the latent of such parts (a covariance: of "
        "positive scales and a corr_cholesky factor), or take AutoDelta for a point, where it has a start, or a guide "
        "of your own"
    )


def _base(support: Any) -> Any:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def locals_along(error: BaseException) -> Iterator[Mapping[str, Any]]:
    """The local variables of every call that an error has come through, and of those of its causes."""
    seen: BaseException | None = error
    while seen is not None:
        tb = seen.__traceback__
        while tb is not None:
            yield tb.tb_frame.f_locals
            tb = tb.tb_next
        seen = seen.__cause__


def _site_in(local: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for key in ("msg", "initial_msg", "site"):
        message = local.get(key)
        if isinstance(message, dict) and message.get("type") == "sample":
            return message
    return None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(":")
