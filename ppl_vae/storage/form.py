"""The form of plain data that were read: what each place must hold, and an error that names the file and the place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ppl_vae.storage.errors import StorageError

Form = Callable[[Any, str], None]
"""Raises :class:`Misfit` unless the value, at this place, has the form."""

_SHOWN = 60  # characters of a value in a message


class Misfit(ValueError):
    """A value that has not the form that its place requires."""

    def __init__(self, where: str, required: str, value: Any) -> None:
        shown = repr(value) if value is None or isinstance(value, bool | int | float | str) else type(value).__name__
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        super().__init__(f"{where or 'the content'} must be {required}, got {shown}")


def require_form(value: Any, form: Form, path: str | Path) -> None:
    """Raise :class:`StorageError` with the file and the place, where ``value`` has another form.

    >>> require_form({"step": -1}, record(step=whole()), "state.safetensors")
    Traceback (most recent call last):
    ppl_vae.storage.errors.StorageError: state.safetensors: step must be a whole number from 0, got -1
    """
    try:
        form(value, "")
    except Misfit as misfit:
        raise StorageError(path, str(misfit)) from None


def kind(required: str, test: Callable[[Any], bool]) -> Form:
    """Whatever passes a test; ``required`` names it."""

    def check(value: Any, where: str) -> None:
        if not test(value):
            raise Misfit(where, required, value)

    return check


def whole(least: int = 0, most: int = 2**63 - 1) -> Form:
    """A whole number, and no bool."""
    return kind(f"a whole number from {least}", lambda value: type(value) is int and least <= value <= most)


text = kind("a text", lambda value: isinstance(value, str))
flag = kind("true or false", lambda value: isinstance(value, bool))
anything = kind("anything", lambda value: True)
number = kind("a number", lambda value: type(value) in (int, float))
finite = kind("a finite number", lambda value: type(value) in (int, float) and math.isfinite(value))


def positive(value: Any, where: str) -> None:
    """A finite number above 0."""
    kind("a positive number", lambda v: type(v) in (int, float) and math.isfinite(v) and v > 0)(value, where)


def one_of(*allowed: Any) -> Form:
    """One of some values, and of their types."""
    known = [(type(value), value) for value in allowed]
    return kind(f"one of {', '.join(map(repr, allowed))}", lambda value: any((type(value), value) == k for k in known))


def maybe(form: Form) -> Form:
    """That, or null."""
    return lambda value, where: None if value is None else form(value, where)


def each(form: Form) -> Form:
    """A list of such."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise Misfit(where, "a list", value)
        for i, item in enumerate(value):
            form(item, f"{where}[{i}]")

    return check


def table(form: Form) -> Form:
    """A dictionary of such by text."""

    def check(value: Any, where: str) -> None:
        _require_dict(value, where)
        for key, item in value.items():
            form(item, _at(where, key))

    return check


def record(optional: Mapping[str, Form] | None = None, /, **required: Form) -> Form:
    """A dictionary with these keys; ``optional`` ones may be missing, others may be there."""

    def check(value: Any, where: str) -> None:
        _require_dict(value, where)
        for key in required:
            if key not in value:
                raise Misfit(_at(where, key), "there", None)
        for key, form in {**required, **(optional or {})}.items():
            if key in value:
                form(value[key], _at(where, key))

    return check


def _require_dict(value: Any, where: str) -> None:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise Misfit(where, "a dictionary by names", value)


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
