"""A person's own pair from a file: ``FILE.py:FUNCTION``, where FUNCTION is ``def pair(data) -> (model,
guide)``.

The file is run, as ``python FILE.py`` would: it is named on the command line, never in a run folder.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def is_pair_file(target: str) -> bool:
    """Whether ``target`` is meant as a file and not as the name of a recipe.

    >>> [is_pair_file(text) for text in ("vae", "mine.py:pair", "dir/mine.py")]
    [False, True, True]
    """
    return target.endswith(".py") or ".py:" in target


def load_pair_function(target: str) -> Callable[[Any], tuple[Any, Any]]:
    """Run the file and return its function.

    Raises:
        ValueError: no function is named, there is no such file or function, or the file raised an error.
    """
    path, _, name = target.rpartition(":")
    if not path or not name.isidentifier():
        raise ValueError(f"{target}: FILE.py:FUNCTION is required, such as mine.py:pair")
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    module = _run(Path(path))
    function = getattr(module, name, None)
    if not callable(function):
        there = sorted(
            n for n, f in vars(module).items() if callable(f) and getattr(f, "__module__", "") == module.__name__
        )
        raise ValueError(f"{path}: no function {name!r}; there is {', '.join(there) or 'none'}")
    return _checked(function, target)


def _run(path: Path) -> Any:
    name = f"ppl_vae_pair_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and others look their module up
    with blame(str(path)), _importable(path.parent.resolve()):
        spec.loader.exec_module(module)
    return module


def _checked(function: Callable[[Any], Any], target: str) -> Callable[[Any], tuple[Any, Any]]:
    def pair(data: Any) -> tuple[Any, Any]:
        with blame(target):
            result = function(data)
        if not isinstance(result, tuple) or len(result) != 2 or not all(map(callable, result)):
            raise ValueError(f"{target}: must return (model, guide), two callables, got {type(result).__name__}")
        return result

    return pair


@contextmanager
def blame(whom: str) -> Iterator[None]:
    """Errors of a person's own code come out as a ValueError that names it, with the last line of it that was run."""
    try:
        yield
    except Exception as error:
        first, newline, rest = str(error).partition("\n")
        line = _line_of(error, whom if whom.endswith(".py") else whom.rpartition(":")[0])
        at = f" (line {line})" if line else ""
        raise ValueError(f"{whom}: {type(error).__name__}: {first}{at}{newline}{rest}") from error


def _line_of(error: BaseException | None, path: str) -> int | None:
    """The last line of the file that an error, or what has caused it, has come through."""
    while error is not None:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == Path(path)]
        if lines:
            return lines[-1]
        error = error.__cause__
    return None


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the file import its neighbours, as ``python FILE.py`` does."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
