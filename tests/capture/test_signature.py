"""What of a call a graph depends on: everything but the numbers in its tensors."""

from __future__ import annotations

import enum
import functools
from argparse import Namespace
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppl_vae.capture import CaptureError
from ppl_vae.capture.signature import described, rebuilder, signature

Pair = namedtuple("Pair", "left right")
LEAF = nn.Parameter(torch.ones(2))


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Frozen:
    beta: float


@dataclass
class Thawed:
    beta: float


class Config:
    beta = 1.0


def key(*args: Any, **kwargs: Any) -> Any:
    return signature(args, kwargs)[0]


def x(*shape: int, **options: Any) -> Tensor:
    return torch.randn(shape or (3, 2), **options)


SAME: dict[str, Callable[[], Any]] = {
    "numbers in a tensor": x,
    "a tensor without dimensions": lambda: torch.randn(()),
    "no rows": lambda: x(0, 2),
    "integers in a tensor": lambda: torch.randint(9, (4,)),
    "a list of tensors": lambda: [x(), x(2)],
    "a dictionary of tensors": lambda: {"a": x(), "b": (x(), 1.5)},
    "a named tuple": lambda: Pair(x(), 1),
    "a namespace of argparse": lambda: Namespace(x=x(), hidden=[8, Namespace(beta=0.5)]),
    "a simple namespace": lambda: SimpleNamespace(x=x(), mode="sum"),
    "the same parameter": lambda: LEAF,
    "a number": lambda: 0.5,
    "NaN": lambda: float("nan"),
    "a string": lambda: "sum",
    "None": lambda: None,
    "a shape": lambda: x().shape,
    "a member of an enumeration": lambda: Color.RED,
    "a frozen dataclass": lambda: Frozen(0.5),
    "a number of numpy": lambda: np.float32(0.5),
    "a class": lambda: Config,
    "a range": lambda: range(3),
}

OTHER: dict[str, tuple[Any, Any]] = {
    "shape": (x(3, 2), x(4, 2)),
    "number of dimensions": (x(3), x(3, 1)),
    "dtype": (x(), x(dtype=torch.float64)),
    "integers and fractions": (torch.zeros(2), torch.zeros(2, dtype=torch.long)),
    "order in memory": (x(3, 2), x(2, 3).t()),
    "an expanded row": (x(3, 2), x(1, 2).expand(3, 2)),
    "asks for gradients": (x(2), x(2).requires_grad_()),
    "another parameter": (LEAF, nn.Parameter(torch.ones(2))),
    "a parameter without gradients": (x(2), nn.Parameter(torch.ones(2), requires_grad=False)),
    "a number": (0.5, 0.25),
    "1 and 1.0": (1, 1.0),
    "1 and True": (1, True),
    "0.0 and -0.0": (0.0, -0.0),
    "a number and a tensor": (0.5, torch.tensor(0.5)),
    "None and False": (None, False),
    "strings": ("sum", "mean"),
    "a string and bytes": ("a", b"a"),
    "a list and a tuple": ([x()], (x(),)),
    "a tuple and a named one": ((x(), 1), Pair(x(), 1)),
    "how many": ([x()], [x(), x()]),
    "what is inside": ([x(), 1], [x(), 2]),
    "names": ({"a": x()}, {"b": x()}),
    "values in a namespace": (Namespace(a=1), Namespace(a=2)),
    "names in a namespace": (Namespace(a=1), Namespace(b=1)),
    "a namespace within": (Namespace(a=Namespace(b=1)), Namespace(a=Namespace(b=2))),
    "namespaces of two kinds": (Namespace(a=1), SimpleNamespace(a=1)),
    "a namespace and a dictionary": (Namespace(a=1), {"a": 1}),
    "nesting": ([[x()], x()], [[x(), x()]]),
    "members of an enumeration": (Color.RED, Color.BLUE),
    "frozen dataclasses": (Frozen(0.5), Frozen(0.25)),
    "numbers of numpy": (np.float32(0.5), np.float64(0.5)),
    "dtypes": (torch.float32, torch.float64),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_kind_of_call_has_the_same_key(name):
    make = SAME[name]
    assert key(make()) == key(make())
    assert hash(key(make())) == hash(key(make()))
    assert key(make(), y=make()) == key(make(), y=make())


@pytest.mark.parametrize("name", OTHER)
def test_another_kind_of_call_has_another_key(name):
    first, second = OTHER[name]
    assert key(first) != key(second)
    assert key(y=first) != key(y=second)
    assert key([1, {"deep": first}]) != key([1, {"deep": second}])


@pytest.mark.parametrize("kind", [Namespace, SimpleNamespace])
def test_tensors_are_put_back_into_a_namespace(kind):
    given = kind(a=x(1), more=kind(b=x(2)), beta=0.5)
    _, tensors = signature((given,), {})
    (new,), _ = rebuilder((given,), {})([2 * t for t in tensors])
    assert type(new) is kind and list(vars(new)) == ["a", "more", "beta"] and new.beta == 0.5
    assert torch.equal(new.a, 2 * given.a) and torch.equal(new.more.b, 2 * given.more.b)
    assert vars(given)["a"] is tensors[0] and given.more.b is tensors[1]  # the caller's own is left as it was


def test_places_and_names_are_part_of_the_key():
    a = x()
    assert key(a, 1) != key(1, a)
    assert key(a) != key(y=a)
    assert key(y=a) != key(z=a)
    assert key(y=a, z=1) != key(z=1, y=a)  # a model may go by the order of **kwargs
    assert key() != key(None)


def test_tensors_come_in_the_order_in_which_they_are_put_back():
    a, b, c, d = (x(i) for i in range(1, 5))
    args, kwargs = ([a, {"first": b}], 0.5, LEAF), {"z": d, "y": Pair(c, "text")}
    _, tensors = signature(args, kwargs)
    assert [len(t) for t in tensors] == [1, 2, 4, 3]
    doubled = [2 * t for t in tensors]
    new_args, new_kwargs = rebuilder(args, kwargs)(doubled)
    assert new_args[0][0] is doubled[0] and new_args[0][1] == {"first": doubled[1]}
    assert new_args[1] == 0.5 and new_args[2] is LEAF
    assert new_kwargs["z"] is doubled[2]
    assert new_kwargs["y"][0] is doubled[3]
    assert new_kwargs["y"][1] == "text" and type(new_kwargs["y"]) is Pair and list(new_kwargs) == ["z", "y"]
    assert signature(new_args, new_kwargs)[0] == signature(args, kwargs)[0]


def test_a_tensor_given_twice_is_two_inputs():
    a = x()
    _, tensors = signature((a, a), {})
    assert [t is a for t in tensors] == [True, True]


def test_a_parameter_is_kept_so_that_no_other_takes_its_place():
    """Python gives the address of an object that is gone to the next one."""
    keys = [key(nn.Parameter(torch.ones(2))) for _ in range(50)]
    assert len(set(keys)) == 50


CHANGEABLE: dict[str, Any] = {
    "an object": Config(),
    "a dataclass": Thawed(0.5),
    "a function": lambda z: z,
    "a partial": functools.partial(max, 1),
    "a method": nn.Linear(2, 2).forward,
    "a module": nn.Linear(2, 2),
    "a distribution": dist.Normal(0.0, 1.0),
    "an array": np.ones(3),
    "a set": {1, 2},
    "a generator": torch.Generator(),
    "an iterator": iter([1, 2]),
    "a slice": slice(0, 2),
}


@pytest.mark.parametrize("name", CHANGEABLE)
def test_what_can_change_inside_is_refused_by_its_type(name):
    value = CHANGEABLE[name]
    with pytest.raises(CaptureError, match=f"an argument of type {type(value).__name__} cannot be told from another"):
        key(value)
    with pytest.raises(CaptureError, match="give tensors, numbers, strings"):
        key([x(), {"deep": value}])


def test_a_sparse_tensor_is_refused():
    with pytest.raises(CaptureError, match=r"a tensor of the layout torch\.sparse_coo"):
        key(torch.eye(3).to_sparse())


@pytest.mark.parametrize(
    "view", [lambda z: z.conj(), lambda z: z.conj().imag], ids=["conjugated", "its imaginary part"]
)
def test_a_view_that_hides_a_sign_is_refused(view):
    """What a compiled graph reads from its memory has the other sign."""
    z = torch.view_as_complex(torch.ones(3, 2))
    assert key(z.imag)[0] == key(torch.ones(3, 2)[:, 1])[0]  # a plain view is no such
    with pytest.raises(CaptureError, match="lazily conjugated"):
        key(view(z))


def test_a_call_is_described_as_a_person_writes_it():
    assert described((torch.zeros(64, 784),), {"beta": 0.5}) == "float32[64, 784], beta=0.5"
    assert described((torch.zeros(2, dtype=torch.long), None), {}) == "int64[2], None"
    assert described((), {}) == "no arguments"
    assert described((), {"b": "x", "a": 1}) == "b='x', a=1"
    assert described(([torch.zeros(50, 50)],), {}) == "list"
