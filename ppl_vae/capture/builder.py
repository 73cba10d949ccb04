"""The process beside a training run that compiles its graph: ``python -m ppl_vae.capture.builder job.json``."""

from __future__ import annotations

import json
import math
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from ppl_vae import _private as private
from ppl_vae.capture.backend import make_library


def build(job: dict[str, Any]) -> None:
    """Make the library that a job describes: the source of a graph, and the kinds of its arguments."""
    torch.set_num_threads(job["threads"])
    names: dict[str, Any] = {
        "torch": torch,
        "device": torch.device,
        "inf": math.inf,
        "nan": math.nan,
        "NoneType": type(None),
    }
    exec(job["source"], names)  # what torch.fx wrote a moment ago, in the process that has asked
    arguments = [
        torch.empty_strided(shape, stride, dtype=getattr(torch, dtype.removeprefix("torch.")))
        for shape, stride, dtype in job["arguments"]
    ]
    functional = private.make_fx(lambda *tensors: names["forward"](None, *tensors), tracing_mode="fake")(*arguments)
    functional.graph.set_codegen(torch.fx.graph.CodeGen())
    functional.recompile()
    make_library(functional, arguments, Path(job["home"]))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what is half made is cleaned up
    build(json.loads(Path(sys.argv[1]).read_text()))
