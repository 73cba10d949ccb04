"""A person's own pair from a file: run once, and blamed by name for its own errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ppl_vae.recipes.pair_file import load_pair_function


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    (tmp_path / "mine_helper.py").write_text("def model(x): return x")
    path.write_text(
        """
from mine_helper import model
number = 3
def pair(data): return model, lambda x: x
def one(data): return model
def three(data): return 1, 2
def broken(data): return data[0] / 0
"""
    )
    return path


def test_the_function_is_found_and_may_use_its_neighbours(file: Path) -> None:
    before = list(sys.path)
    model, guide = load_pair_function(f"{file}:pair")([1])
    assert (model(1), guide(2)) == (1, 2)
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{file}", "FILE.py:FUNCTION is required"),
        ("{file}:", "FILE.py:FUNCTION is required"),
        ("{file}:a b", "FILE.py:FUNCTION is required"),
        ("absent.py:pair", "absent.py: no such file"),
        ("{file}:pear", "mine.py: no function 'pear'; there is broken, one, pair, three"),
        ("{file}:number", "no function 'number'"),
    ],
)
def test_what_is_no_function_is_refused(name: str, message: str, file: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_pair_function(name.format(file=file))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one", r"mine.py:one: must return \(model, guide\), two callables, got function"),
        ("three", r"mine.py:three: must return \(model, guide\), two callables, got tuple"),
        ("broken", r"mine.py:broken: ZeroDivisionError: division by zero \(line 7\)$"),
    ],
)
def test_a_function_that_gives_no_pair_is_refused(name: str, message: str, file: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_pair_function(f"{file}:{name}")([1])


def test_the_line_is_the_last_of_the_file_itself(file: Path) -> None:
    """Not the line of a library that the file has called, nor that of the function that was asked for."""
    lines = ["import torch", "def pair(x):", "    return made(x)", "", "def made(x):", "    torch.zeros(2) @ x"]
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"mine.py:pair: TypeError: .* \(line 6\)"):
        load_pair_function(f"{file}:pair")("no tensor")
    file.write_text("x = 1\nraise KeyError('of the file')")
    with pytest.raises(ValueError, match=r"mine.py: KeyError: 'of the file' \(line 2\)"):
        load_pair_function(f"{file}:pair")


def test_a_file_that_does_not_run_is_named(file: Path) -> None:
    file.write_text("def pair(data:")
    with pytest.raises(ValueError, match=r"mine.py: SyntaxError: "):
        load_pair_function(f"{file}:pair")
