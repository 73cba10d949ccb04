"""Laws of data in memory: every form that a person has becomes the same rows; what cannot is refused by its place."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from ppl_vae.data import Batch, Rows
from ppl_vae.data.rows import HOLES

X = np.arange(12.0).reshape(4, 3) / 7
Y = np.array([0, 1, 1, 2])

# every form of one matrix: all of them are the same positional tensor
ONE = {
    "tensor": torch.tensor(X, dtype=torch.float32),
    "float64 array": X,
    "float32 array": X.astype(np.float32),
    "float16 array, rounded": np.array([[0.5, 1.0, 2.0]] * 4, np.float16),
    "list": X.tolist(),
    "data frame": pd.DataFrame(X, columns=list("abc")),
    "frame of objects": pd.DataFrame(X.astype(object)),
    "tuple of one": (X,),
    "TensorDataset": TensorDataset(torch.tensor(X, dtype=torch.float32)),
    "transposed array": np.ascontiguousarray(X.T).T,
    "reversed array": X[::-1][::-1],
    "read-only array": X.copy(),
    "rows": Rows.of(X),
}
ONE["read-only array"].flags.writeable = False


@pytest.mark.parametrize("form", ONE)
def test_one_matrix_in_any_form(form):
    rows = Rows.of(ONE[form])
    expected = ONE[form] if "float16" in form else X
    (x,) = rows.args
    assert x.dtype == torch.float32
    assert dict(rows.kwargs) == {}
    assert len(rows) == 4
    torch.testing.assert_close(x, torch.tensor(np.asarray(expected, np.float64), dtype=torch.float32))


TYPES = {  # numbers that are no fractions keep their type
    "int64": (np.array([1, 2]), torch.int64),
    "int32": (np.array([1, 2], np.int32), torch.int32),
    "uint8": (np.array([1, 255], np.uint8), torch.uint8),
    "bool": (np.array([True, False]), torch.bool),
    "tensor of int": (torch.tensor([1, 2]), torch.int64),
    "tensor of bool": (torch.tensor([True, False]), torch.bool),
    "tensor of float64": (torch.tensor([1.0, 2.0], dtype=torch.float64), torch.float64),
    "series": (pd.Series([0.5, 1.5]), torch.float32),
    "series of int": (pd.Series([1, 2]), torch.int64),
    "frame of int": (pd.DataFrame({"a": [1, 2]}), torch.int64),
    "list of bool": ([True, False], torch.bool),
}


@pytest.mark.parametrize("form", TYPES)
def test_the_type_of_numbers(form):
    value, dtype = TYPES[form]
    (tensor,) = Rows.of(value).args
    assert tensor.dtype == dtype
    assert tensor.tolist() == np.asarray(value).tolist()


def test_arrays_follow_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        assert Rows.of(X).args[0].dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("form", ["array", "frame", "list", "named", "tuple"])
def test_fractions_are_not_rounded_on_their_way_to_a_precision(form):
    value = {"array": X, "frame": pd.DataFrame(X), "list": X.tolist(), "named": {"x": X}, "tuple": (X,)}[form]
    rows = Rows.of(value, dtype=torch.float64)
    (x,) = (*rows.args, *rows.kwargs.values())
    assert torch.equal(x, torch.tensor(X))
    assert Rows.of(Y, dtype=torch.float64).args[0].dtype == torch.int64


SEVERAL = {  # several parts: positional in their order, or by name
    "tuple": ((X, Y), 2, []),
    "tuple of frames": ((pd.DataFrame(X), pd.Series(Y)), 2, []),
    "TensorDataset": (TensorDataset(torch.tensor(X), torch.tensor(Y)), 2, []),
    "dictionary": ({"x": X, "y": Y}, 0, ["x", "y"]),
    "dictionary of mixed forms": ({"x": pd.DataFrame(X), "y": Y.tolist()}, 0, ["x", "y"]),
}


@pytest.mark.parametrize("form", SEVERAL)
def test_several_parts(form):
    value, positional, named = SEVERAL[form]
    rows = Rows.of(value)
    assert len(rows.args) == positional
    assert list(rows.kwargs) == named
    x, y = (*rows.args, *rows.kwargs.values())
    torch.testing.assert_close(x.float(), torch.tensor(X, dtype=torch.float32))
    assert y.tolist() == Y.tolist()
    assert len(rows) == 4


def test_no_data():
    rows = Rows.of(None)
    assert (len(rows), rows.args, dict(rows.kwargs)) == (0, (), {})
    assert rows.batch() == Batch((), {}, None, None)
    assert rows.batch().size is None


def test_rows_are_a_copy_of_the_callers_array():
    array = X.copy()
    rows = Rows.of(array)
    array[:] = -1.0
    assert float(rows.args[0].min()) >= 0.0


NAN = np.array([[1.0, 2.0], [3.0, np.nan], [np.nan, 5.0]])
ERRORS = {
    "NaN in an array": (NAN, r"^data: no NaN is allowed, found one at row 1, column 1$"),
    "NaN in a tensor": (torch.tensor(NAN), r"^data: no NaN is allowed, found one at row 1, column 1$"),
    "NaN in a frame": (pd.DataFrame(NAN, columns=["length", "width"]), r"row 1, column width$"),
    "None in a frame": (pd.DataFrame({"a": [1.0, None]}), r"row 1, column a$"),
    "NaN in a vector": (np.array([0.0, np.nan]), r"found one at row 1$"),
    "NaN in an image": (torch.full((2, 1, 3), torch.nan), r"row 0, column 0, 0$"),
    "NaN in the second part": ((X, np.array([0.0, np.nan, 1.0, 1.0])), r"^data\[1\]: no NaN .* row 1$"),
    "NaN in a named part": ({"x": X, "y": np.array([0.0, 0.0, np.nan, 1.0])}, r"^data\['y'\]: no NaN .* row 2$"),
    "no rows": (np.zeros((0, 3)), r"^data: at least one row is required, got none$"),
    "no parts": ((), r"^data: at least one row is required, got none$"),
    "no named parts": ({}, r"^data: at least one row is required, got none$"),
    "unequal lengths": ((X, Y[:3]), r"^data: all parts must have the same number of rows .*\[4, 3\]$"),
    "unequal named lengths": ({"x": X, "y": Y[:3]}, r"same number of rows .*\[4, 3\]$"),
    "strings": (np.array(["a", "b"]), r"^data: numbers are required, got an array of <U1$"),
    "a frame with a word": (
        pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}),
        r"^data: numbers are required, got DataFrame",
    ),
    "a list of words": (["a", "b"], r"^data: numbers are required"),
    "objects": (np.array([{}, {}]), r"^data: numbers are required, got ndarray"),
    "complex numbers": (np.array([1j, 2j]), r"^data: numbers are required, got an array of complex128; no distrib"),
    "dates": (np.array(["2020-01-01"], "datetime64[D]"), r"^data: numbers are required, got an array of datetime64"),
    "a number": (3.0, r"^data: rows along axis 0 are required, got a single number$"),
    "a 0-dim tensor": (torch.tensor(3.0), r"^data: rows along axis 0 are required, got a single number$"),
    "a 0-dim part": ((X, np.float64(1.0)), r"^data\[1\]: rows along axis 0 are required, got a single number$"),
    "ragged lists": ([[1.0, 2.0], [3.0]], r"^data: numbers are required, got list with"),
    "rows of a frame with a word": (pd.Series(["x", "y"]), r"^data: numbers are required"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_no_data_is_refused_by_its_place(case):
    value, message = ERRORS[case]
    with pytest.raises(ValueError) as error:
        Rows.of(value)
    said = str(error.value)
    assert re.search(message, said.removesuffix(HOLES))
    assert said.endswith(HOLES) == ("no NaN" in said)


def test_the_name_in_the_message_is_the_callers():
    with pytest.raises(ValueError, match="^validation: at least one row"):
        Rows.of(np.zeros((0, 2)), name="validation")


def test_infinite_numbers_are_no_nan():
    assert torch.isinf(Rows.of(np.array([1.0, np.inf])).args[0][1])


def test_nan_may_stand_where_a_mask_hides_it_and_nowhere_else():
    x, mask = torch.tensor([[1.0, torch.nan], [2.0, 3.0]]), torch.tensor([[True, False], [True, True]])
    assert Rows.of({"x": x, "mask": mask}).kwargs["x"].isnan().sum() == 1
    with pytest.raises(ValueError, match=r"data\['x'\]: no NaN is allowed, found one at row 0, column 1"):
        Rows.of({"x": x, "mask": torch.ones_like(mask)})
    with pytest.raises(ValueError, match=r"data\['y'\]: no NaN is allowed, found one at row 1"):
        Rows.of({"x": x, "mask": mask, "y": torch.tensor([0.0, torch.nan])})


# a part of the rows


@pytest.mark.parametrize("index", [slice(1, 3), torch.tensor([1, 2])], ids=["slice", "tensor"])
def test_rows_taken_remember_their_numbers(index):
    part = Rows.of({"x": X, "y": Y}).take(index)
    assert part.index.tolist() == [1, 2]
    assert part.kwargs["y"].tolist() == Y[1:3].tolist()
    again = part.take(torch.tensor([1]))
    assert again.index.tolist() == [2]
    assert again.kwargs["y"].tolist() == [Y[2]]


def test_a_batch_stands_for_its_rows_or_for_more():
    rows = Rows.of(X)
    assert rows.batch().num_data == 4
    assert rows.take(slice(0, 2)).batch().num_data == 2
    assert rows.take(slice(0, 2)).batch(num_data=100).num_data == 100
    assert rows.take(slice(0, 2)).batch().index.tolist() == [0, 1]
    assert rows.take(slice(0, 2)).batch().size == 2


def test_precision_is_changed_for_fractions_only():
    rows = Rows.of((X, Y)).to(dtype=torch.float64)
    assert [t.dtype for t in rows.args] == [torch.float64, torch.int64]
    assert Rows.of(X).take(slice(0, 2)).to(dtype=torch.float64).index.dtype == torch.int64


def test_size_of_a_batch_is_that_of_its_first_tensor():
    assert Batch((None, torch.zeros(3, 2))).size == 3
    assert Batch((), {"x": torch.zeros(5)}).size == 5
    assert Batch((torch.tensor(1.0),)).size is None


# nullable columns of pandas, and columns of objects

NULLABLE = {
    "Int64": pd.array([1, None], "Int64"),
    "boolean": pd.array([True, None], "boolean"),
    "Float64": pd.array([0.5, None], "Float64"),
    "objects": np.array([1, pd.NA], object),
}


@pytest.mark.parametrize("kind", NULLABLE)
@pytest.mark.parametrize("beside", [[1.0, 2.0], [1, 2]])
def test_a_hole_in_a_nullable_column_is_a_hole_like_nan(kind, beside):
    with pytest.raises(ValueError, match=re.escape("data: no NaN is allowed, found one at row 1, column a" + HOLES)):
        Rows.of(pd.DataFrame({"b": beside, "a": NULLABLE[kind]}))
    with pytest.raises(ValueError, match="found one at row 1; holes are told by a mask"):
        Rows.of(pd.Series(NULLABLE[kind]))


@pytest.mark.parametrize(
    ("kind", "dtype"), [("Int64", torch.int64), ("boolean", torch.bool), ("Float64", torch.float32)]
)
def test_nullable_columns_without_holes_are_numbers_of_their_kind(kind, dtype):
    whole = pd.DataFrame({"a": NULLABLE[kind][:1], "b": NULLABLE[kind][:1]})
    assert Rows.of(whole).args[0].dtype == dtype
    assert Rows.of(whole["a"]).args[0].dtype == dtype
    assert Rows.of(whole.assign(c=0.5)).args[0].tolist() == [[float(whole["a"][0])] * 2 + [0.5]]


def test_only_the_columns_that_hold_no_numbers_are_listed():
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).astype(object).assign(w=["u", "v", "u", "v"])
    frame["d"] = pd.to_datetime("2024-01-01")
    with pytest.raises(ValueError, match=r"with the columns 'w' \([^,]*\), 'd' \([^,]*\); drop them"):
        Rows.of(frame)
    torch.testing.assert_close(Rows.of(frame.drop(columns=["w", "d"])).args[0], torch.tensor(X).float())


# arrays as other programs write them

FOREIGN = {
    "big-endian": (X.astype(">f4"), torch.float32),
    "big-endian doubles in a list": (list(X.astype(">f8")), torch.float32),
    "big-endian whole numbers": (np.arange(12, dtype=">i2").reshape(4, 3), torch.int16),
    "long double": (X.astype(np.longdouble), torch.float32),
    "turned rows": (X[::-1], torch.float32),
    "turned columns": (X[:, ::-1], torch.float32),
    "uint16": (np.arange(12, dtype=">u2").reshape(4, 3), torch.int32),
    "uint32": (np.arange(12, dtype=np.uint32).reshape(4, 3), torch.int64),
    "uint64": (np.arange(12, dtype=np.uint64).reshape(4, 3), torch.int64),
}


@pytest.mark.parametrize("form", FOREIGN)
def test_arrays_of_any_byte_order_and_strides(form):
    value, dtype = FOREIGN[form]
    (x,) = Rows.of(value).take(torch.tensor([3, 0])).args
    assert x.dtype == dtype
    torch.testing.assert_close(
        x.double(), torch.tensor(np.asarray(value).astype(np.float64)[[3, 0]]).to(dtype).double()
    )


def test_whole_numbers_that_no_tensor_holds_are_refused():
    with pytest.raises(ValueError, match=r"whole numbers below 2\*\*63 are required, got 9223372036854775808"):
        Rows.of(np.array([2**63], np.uint64))
