"""A person's own file: csv, npy, npz."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppl_vae.data import load_file

VALUES = [[1.0, 2.5], [3.0, -4.0], [0.0, 1e-3]]


def csv(text):
    return lambda path: path.write_text(text)


def npy(array, **kwargs):
    return lambda path: np.save(path, array, **kwargs)


def npz(**arrays):
    return lambda path: np.savez(path, **arrays)


# name: (file name, writer, feature names)
READABLE = {
    "csv without names": ("a.csv", csv("1,2.5\n3,-4\n0,1e-3\n"), None),
    "csv with names": ("a.csv", csv("width, height\n1,2.5\n3,-4\n0,1e-3\n"), ("width", "height")),
    "csv in capitals": ("a.CSV", csv("1, 2.5\n3, -4\n\n0, 1e-3"), None),
    "npy": ("a.npy", npy(np.array(VALUES)), None),
    "npy in Fortran order": ("a.npy", npy(np.asfortranarray(VALUES)), None),
    "npz with one array": ("a.npz", npz(whatever=np.array(VALUES)), None),
    "npz with train": (
        "a.npz",
        npz(train=np.array(VALUES), test_labels=np.array([1]), test=np.ones((1, 2))),
        None,
    ),
}


@pytest.mark.parametrize("name", READABLE)
def test_the_same_rows_from_every_format(tmp_path, name):
    file, write, names = READABLE[name]
    write(tmp_path / file)
    data = load_file(tmp_path / file)
    assert torch.equal(data.train, torch.tensor(VALUES))
    assert data.train.dtype == torch.float32
    assert data.name == "a"
    assert data.feature_names == names


def test_npz_parts(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        train=np.zeros((3, 1, 2, 2)),
        test=np.ones((1, 1, 2, 2)),
        train_labels=np.array([0, 1, 2], np.uint8),
    )
    data = load_file(str(tmp_path / "a.npz"))
    assert data.test.shape == (1, 1, 2, 2)
    assert data.train_labels.dtype == torch.long
    assert data.test_labels is None


def test_a_vector_is_a_column_and_integers_become_numbers(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(5))
    assert torch.equal(load_file(tmp_path / "a.npy").train, torch.arange(5.0)[:, None])


class Canary:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was executed",))


PICKLE = np.array([Canary()], dtype=object)

# name: (file name, writer, message)
REFUSED = {
    "csv empty": ("a.csv", csv(""), "must hold at least one row, got an empty file"),
    "csv with a header only": ("a.csv", csv("a,b\n"), r"must hold at least one row, got shape \(0, 2\)"),
    "csv NaN": (
        "a.csv",
        csv("a,b\n1,2\n3,nan\n"),
        r"column 'b': 1 of 2 cells is empty \(the first at row 1\): fill them in the file, or --drop b",
    ),
    "csv hole": (
        "a.csv",
        csv("1,2\n,4\n"),
        r"must hold numbers; column '0': 1 of 2 cells is empty \(the first at row 1\)",
    ),
    "csv hole at the start": ("a.csv", csv("1,\n3,4\n"), r"column '1': 1 of 2 cells is empty \(the first at row 0\)"),
    "csv infinity": ("a.csv", csv("1,2\n3,inf\n"), "column '1': infinity at row 1: --drop 1"),
    "csv word": (
        "a.csv",
        csv("a,b\n1,2\n3,blue\n"),
        r"must hold numbers; column 'b': 1 of 2 cells are no numbers \('blue' at row 1\): --drop b",
    ),
    "csv ragged": ("a.csv", csv("1,2\n3,4,5\n"), "must be a readable csv file, got: .*line 2"),
    "csv binary": ("a.csv", lambda p: p.write_bytes(b"\xff\xfe\x80\x81,"), "must be a readable csv file"),
    "npy NaN": (
        "a.npy",
        npy(np.array([[1, np.nan]])),
        "must hold finite numbers, got NaN at row 0, column 1",
    ),
    "npy NaN in images": ("a.npy", npy(np.full((1, 2, 2), np.nan)), r"got NaN at row 0, column \(0, 0\)"),
    "npy empty": ("a.npy", npy(np.zeros((0, 3))), r"must hold at least one row, got shape \(0, 3\)"),
    "npy number": ("a.npy", npy(np.float64(3)), r"must hold at least one row, got shape \(\)"),
    "npy words": ("a.npy", npy(np.array(["a", "b"])), "must hold real numbers, got an array of <U1"),
    "npy complex": ("a.npy", npy(np.array([1j])), "must hold real numbers, got an array of complex128"),
    "npy pickle": (
        "a.npy",
        npy(PICKLE, allow_pickle=True),
        "must be a readable .npy file, got: .*pickled objects, or no array of numpy",
    ),
    "npy truncated": ("a.npy", lambda p: p.write_bytes(b"\x93NUMPY\x01\x00"), "must be a readable .npy file"),
    "npy nothing": ("a.npy", lambda p: p.write_bytes(b""), "must be a readable .npy file"),
    "npy text": ("a.npy", csv("hello"), "must be a readable .npy file"),
    "npz pickle": (
        "a.npz",
        npz(train=PICKLE),
        "must hold readable arrays, got for 'train': .*pickled objects, or no array of numpy",
    ),
    "npz keys": (
        "a.npz",
        npz(x=np.ones(2), y=np.ones(2)),
        "must hold one array, or train and any of .*, got x, y",
    ),
    "npz labels": (
        "a.npz",
        npz(train=np.ones(2), train_labels=np.ones(2)),
        r"\[train_labels\] must be \(N,\) integers",
    ),
    "npz NaN": (
        "a.npz",
        npz(train=np.ones((1, 2)), test=np.array([[0, np.nan]])),
        r"a.npz\[test\] must hold finite numbers, got NaN at row 0, column 1",
    ),
    "npz is npy": (
        "a.npz",
        lambda p: (np.save(p.with_suffix(".npy"), np.ones(3)), p.with_suffix(".npy").rename(p)),
        "must be an npz archive, got a single array: call it .npy",
    ),
    "unknown": ("a.txt", csv("1"), "the suffix must be one of .csv, .npy, .npz, got a.txt"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_said(tmp_path, name):
    file, write, message = REFUSED[name]
    write(tmp_path / file)
    with pytest.raises(ValueError, match="load_file: .*" + message):
        load_file(tmp_path / file)


def test_no_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"load_file: .*none\.csv must be a file or a folder of pictures, and there is none"
    ):
        load_file(tmp_path / "none.csv")
