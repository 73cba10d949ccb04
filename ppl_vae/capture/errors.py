"""Why a step cannot be captured or compiled, and how a person is told."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

_PACKAGE = str(Path(__file__).parent.parent) + os.sep
_SPECS = map(find_spec, ("torch", "pyro", "opt_einsum", "zuko"))
_LIBRARIES = tuple(str(Path(spec.origin).parent) + os.sep for spec in _SPECS if spec is not None and spec.origin)


class CaptureError(RuntimeError):
    """The step cannot be captured, compiled or trusted; the message is the reason."""


class FallbackWarning(UserWarning):
    """A step stays eager, or goes back to it; the message says why and where."""


def line_of(tb: TracebackType | None) -> str:
    """Where a traceback ends in the caller's own code, and in which library function: `` (file:line, in name)``."""
    frames = [frame for frame in traceback.extract_tb(tb) if not frame.filename.startswith(_PACKAGE)]
    own = [frame for frame in frames if not any(part in frame.filename for part in _LIBRARIES)]
    if not own:
        return f" ({frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    pyro = [frame for frame in frames[frames.index(own[-1]) + 1 :] if _is_informative(frame)]
    inside = f", inside {Path(pyro[-1].filename).stem}.{pyro[-1].name}" if pyro else ""
    return f" ({own[-1].filename}:{own[-1].lineno}, in {own[-1].name}{inside})"


def _is_informative(frame: traceback.FrameSummary) -> bool:
    """A distribution, transform or loss, and not the machinery of torch or of Pyro's handlers."""
    return "distributions" in frame.filename or f"{os.sep}pyro{os.sep}infer" in frame.filename


def line_of_caller() -> str:
    """Where the caller's own code stands now."""
    stack = [f for f in traceback.extract_stack() if not f.filename.startswith(_PACKAGE)]
    own = [frame for frame in stack if not any(part in frame.filename for part in _LIBRARIES)]
    return f" ({own[-1].filename}:{own[-1].lineno}, in {own[-1].name})" if own else ""


def line_in(stack: str | None) -> str:
    """The same of a stack trace as torch.fx records it on a node."""
    lines = [line.strip() for line in (stack or "").splitlines() if line.strip().startswith("File ")]
    own = [line for line in lines if not any(part in line for part in _LIBRARIES) and _PACKAGE not in line]
    return f" ({own[-1].removeprefix('File ')})" if own else ""


def tell(message: str) -> None:
    """Warn that something stays eager, at the line of the caller's that made the step."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, FallbackWarning, stacklevel=level + 1)
