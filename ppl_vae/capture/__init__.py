"""A step over tensors traced once, compared, compiled; knows nothing of EM."""

from ppl_vae.capture.backend import compile_graph, missing_compiler
from ppl_vae.capture.engine import Engine
from ppl_vae.capture.errors import CaptureError, FallbackWarning
from ppl_vae.capture.explain import Explanation
from ppl_vae.capture.program import Program, Record, Result, own_gradients
from ppl_vae.capture.trace import Graph, capture
from ppl_vae.capture.update import Update
from ppl_vae.capture.watch import Watch

__all__ = [
    "CaptureError",
    "Engine",
    "Explanation",
    "FallbackWarning",
    "Graph",
    "Program",
    "Record",
    "Result",
    "Update",
    "Watch",
    "capture",
    "compile_graph",
    "missing_compiler",
    "own_gradients",
]
