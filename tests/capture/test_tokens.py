"""What has no inside is known by its value or by its identity; and what has one is seen to change in place."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import fractions
import operator
import pathlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from capture.tiny import Model, make, own_store, rows, run_by_torch

from ppl_vae.capture import FallbackWarning, Watch
from ppl_vae.capture.engine import STATES


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value


class Whole(int):
    pass


class Text(str):
    pass


class Cut(np.ndarray):
    pass


class Slots:
    __slots__ = ("early", "late")

    def __init__(self) -> None:
        self.early = 1.0


class Kind(type):
    beta = 1.0


class OfKind(metaclass=Kind):
    pass


# Pairs that differ, and whether a third one like the first is the same.
REPLACED: dict[str, tuple[Callable[[], Any], Callable[[], Any], bool]] = {
    "slice": (lambda: slice(0, 4), lambda: slice(4, 8), True),
    "tuple": (lambda: (1.0,), lambda: (2.0,), True),
    "frozenset": (lambda: frozenset([1.0]), lambda: frozenset([2.0]), True),
    "range": (lambda: range(3), lambda: range(1, 4), True),
    "Fraction": (lambda: fractions.Fraction(1, 2), lambda: fractions.Fraction(1, 3), True),
    "Decimal": (lambda: decimal.Decimal(1), decimal.Decimal, True),
    "timedelta": (lambda: datetime.timedelta(1), lambda: datetime.timedelta(2), True),
    "Timestamp": (lambda: pd.Timestamp(1), lambda: pd.Timestamp(2), True),
    "Path": (lambda: pathlib.Path("a"), lambda: pathlib.Path("b"), True),
    "itemgetter": (lambda: operator.itemgetter(0), lambda: operator.itemgetter(1), False),
    "methodcaller": (lambda: operator.methodcaller("exp"), lambda: operator.methodcaller("log"), False),
    "layout": (lambda: torch.strided, lambda: torch.sparse_coo, True),
    "memory format": (lambda: torch.contiguous_format, lambda: torch.channels_last, True),
    "bytearray": (lambda: bytearray(b"1"), lambda: bytearray(b"2"), False),
    "UserList": (lambda: collections.UserList([1.0]), lambda: collections.UserList([2.0]), True),
    "mappingproxy": (lambda: types.MappingProxyType({"a": 1.0}), lambda: types.MappingProxyType({"a": 2.0}), True),
    "polynomial": (lambda: np.polynomial.Polynomial([1.0]), lambda: np.polynomial.Polynomial([2.0]), True),
    "poly1d": (lambda: np.poly1d([1.0]), lambda: np.poly1d([2.0]), True),
    "array of objects": (lambda: np.array([1.0, None]), lambda: np.array([2.0, None]), True),
}


@pytest.mark.parametrize("name", REPLACED)
@pytest.mark.parametrize("place", ["an attribute", "an entry", "a closure"])
def test_what_is_put_in_the_place_of_another_is_seen(place, name):
    first, other, has_value = REPLACED[name]
    value: Any = first()
    holder, table = Holder(value), {"value": value}

    def model() -> Any:
        return value

    def put(new: Any) -> None:
        nonlocal value
        holder.value = table["value"] = value = new

    watch = Watch({"root": {"an attribute": holder, "an entry": table, "a closure": model}[place]})
    before = watch.key
    put(first())
    assert (watch.changes() == []) is has_value
    put(other())
    assert not watch.unchanged()
    assert watch.changes() != []
    if has_value:
        put(first())
        assert watch.changes() != []
        assert watch.key == before


def test_a_value_made_anew_is_unchanged_without_another_look():
    holder = Holder(fractions.Fraction(1, 2))
    watch = Watch({"root": holder})
    holder.value = fractions.Fraction(1, 2)
    assert watch.unchanged()


def with_attribute(value: Any) -> Any:
    value.beta = 1.0
    return value


def to_the_end(value: Any) -> None:
    value.move_to_end("a")


IN_PLACE: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "UserList": (lambda: collections.UserList([1.0]), lambda v: v.append(2.0)),
    "UserDict": (lambda: collections.UserDict(a=1.0), lambda v: v.update(a=2.0)),
    "ChainMap": (lambda: collections.ChainMap({"a": 1.0}), lambda v: v.update(a=2.0)),
    "polynomial": (lambda: np.polynomial.Polynomial([1.0, 2.0]), lambda v: v.coef.__setitem__(0, 5.0)),
    "poly1d": (lambda: np.poly1d([1.0, 2.0]), lambda v: v.coeffs.__setitem__(0, 5.0)),
    "array of objects": (lambda: np.array([[1.0], None], dtype=object), lambda v: v[0].append(2.0)),
    "order of a dictionary": (lambda: collections.OrderedDict(a=1.0, b=1.0), to_the_end),
    "slot filled later": (Slots, lambda v: setattr(v, "late", 1.0)),
    "attribute of a number": (lambda: with_attribute(Whole(1)), lambda v: setattr(v, "beta", 2.0)),
    "attribute of a string": (lambda: with_attribute(Text("a")), lambda v: setattr(v, "beta", 2.0)),
    "attribute of an array": (lambda: with_attribute(np.ones(2).view(Cut)), lambda v: setattr(v, "beta", 2.0)),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_what_changes_in_place_is_seen(name):
    make_value, change = IN_PLACE[name]
    value = make_value()
    watch = Watch({"root": Holder(value)})
    assert watch.unchanged()
    assert watch.changes() == []
    change(value)
    assert not watch.unchanged()
    assert watch.changes() != []


def test_another_string_of_the_same_letters_with_another_number_is_seen():
    holder = Holder(with_attribute(Text("a")))
    watch = Watch({"root": holder})
    holder.value = Text("a")
    holder.value.beta = 2.0
    assert not watch.unchanged()
    assert watch.changes() == ["root.value.beta"]


def test_a_number_of_a_metaclass_is_seen(monkeypatch):
    watch = Watch({"root": OfKind})
    monkeypatch.setattr(Kind, "beta", 2.0)
    assert not watch.unchanged()
    assert watch.changes() == ["root(metaclass).beta"]


@pytest.mark.parametrize("way", ["a closure", "an attribute", "an entry", "a module in a module"])
def test_a_module_of_the_caller_s_is_seen_wherever_it_is_reached(way):
    settings, package = types.ModuleType("settings_of_somebody"), types.ModuleType("package_of_somebody")
    settings.beta, settings.unread, package.settings = 1.0, 1.0, settings  # type: ignore[attr-defined]
    holder, table = Holder(settings), {"settings": settings}
    models: dict[str, Callable[[], Any]] = {
        "a closure": lambda: settings.beta,
        "an attribute": lambda: holder.value.beta,
        "an entry": lambda: table["settings"].beta,
        "a module in a module": lambda: package.settings.beta,
    }
    watch = Watch({"model": models[way]})
    settings.unread = 2.0  # type: ignore[attr-defined]
    assert watch.unchanged()
    settings.beta = 2.0  # type: ignore[attr-defined]
    assert not watch.unchanged()
    assert [name.endswith(".beta") for name in watch.changes()] == [True]


def test_what_trains_a_model_may_be_replaced():
    holder = Holder(pyro.optim.Adam({"lr": 0.1}))
    watch = Watch({"root": holder})
    holder.value = pyro.optim.Adam({"lr": 0.2})
    assert watch.changes() == []


# in steps


class Columns(Model):
    """Reads its data by a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = dataclasses.make_dataclass("Settings", ["cols", "extra"])(slice(0, 2), None)

    def forward(self, x: torch.Tensor) -> None:
        super().forward(torch.cat([x[:, self.settings.cols], x[:, self.settings.cols]], 1))


def started(monkeypatch: pytest.MonkeyPatch) -> Any:
    run_by_torch(monkeypatch)
    svi = make()
    svi.model = Columns()
    for _ in range(6):
        svi.step(rows())
    return svi


def test_other_columns_are_read_in_the_next_step(monkeypatch):
    with own_store():
        svi = started(monkeypatch)
        before = len(svi.engine().programs)
        svi.model.settings.cols = slice(0, 2)
        svi.step(rows())
        assert len(svi.engine().programs) == before
        svi.model.settings.cols = slice(2, 4)
        svi.step(rows())
        assert len(svi.engine().programs) == before + 1


def test_a_helper_made_anew_before_each_step_ends_in_eager_steps(monkeypatch):
    with own_store():
        svi = started(monkeypatch)
        for _ in range(3 * STATES):
            svi.model.settings.extra = operator.itemgetter(0)
            svi.step(rows())
        assert len(svi.engine().programs) <= STATES + 1
        with pytest.warns(FallbackWarning, match="changes from step to step"):
            [svi.step(rows()) for _ in range(40)]
