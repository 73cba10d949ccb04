"""What a model or a guide is called in the record of a fit."""

from __future__ import annotations

from typing import Any

from ppl_vae.guides import NonCentred

__all__ = ["name_of"]


def name_of(thing: Any) -> str:
    """What a person calls it: the name of a function, or of a class."""
    if isinstance(thing, NonCentred):
        return f"NonCentred({', '.join(thing.sites)}; {name_of(thing.guide)})"
    thing = getattr(thing, "func", thing)
    return str(getattr(thing, "__qualname__", type(thing).__qualname__))
