"""One small pair for the tests of compiled steps, so that most of them share one library; and graphs run by torch."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae import CompiledSVI
from ppl_vae.capture import Graph, Program, backend, build

ROWS, DIM, LATENT = 6, 4, 2
Spoil = Callable[[int, list[Tensor], list[Tensor]], list[Tensor]]
"""Is given the number of the call, the outputs and the arguments of a graph, and returns other outputs."""


class Model(PyroModule):
    """z ~ N(0, I), x | z ~ N(W z + b, 1), the density of z to the power beta."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(LATENT, DIM)
        self.beta = 1.0

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=self.beta):
                z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    """z ~ N(A x + c, s²) for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(DIM, LATENT)
        self.log_scale = nn.Parameter(torch.zeros(LATENT))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), self.log_scale.exp()).to_event(1))


def pair() -> tuple[Model, Guide]:
    """Always the same one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Model(), Guide()


def rows(n: int = ROWS, *, seed: int = 0) -> Tensor:
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed))


def make(kind: Any = CompiledSVI, optim: Any = None, loss: Any = None, **options: Any) -> Any:
    """An SVI of the pair, its optimizer fused, for bits; a compiled one waits for the compiler, for the same steps."""
    model, guide = pair()
    if issubclass(kind, CompiledSVI):
        options.setdefault("wait", True)
    optim = pyro.optim.Adam({"lr": 0.01, "fused": True}) if optim is None else optim
    return kind(model, guide, optim, Trace_ELBO() if loss is None else loss, **options)


def parameters(svi: Any) -> dict[str, Tensor]:
    """Copies of what the pair of an SVI holds."""
    named = [*svi.model.named_parameters(), *svi.guide.named_parameters()]
    return {name: leaf.detach().clone() for name, leaf in named}


@contextmanager
def little_garbage() -> Iterator[None]:
    """Let Python's garbage collector pass over what is there already: it takes longer than a trace does."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def own_store() -> Iterator[None]:
    with pyro.get_param_store().scope({"params": {}, "constraints": {}}):
        yield


def run_by_torch(monkeypatch: pytest.MonkeyPatch, spoil: Spoil | None = None) -> list[Graph]:
    """Let graphs be run by torch in place of the compiler; the list tells which were to be compiled."""
    compiled: list[Graph] = []

    def compile_graph(graph: Graph, inputs: Any) -> Any:
        calls = count(1)
        compiled.append(graph)

        def run(tensors: list[Tensor]) -> list[Tensor]:
            with torch.no_grad():
                outputs = list(graph.module(*tensors))
            return outputs if spoil is None else spoil(next(calls), outputs, tensors)

        return run

    class Build:
        """Another process, which is done at once."""

        done = True

        def __init__(self, graph: Graph, inputs: Any) -> None:
            pass

        def serves(self, graph: Graph, inputs: Any) -> bool:
            return True

    monkeypatch.setattr("ppl_vae.capture.program.compile_graph", compile_graph)
    monkeypatch.setattr("ppl_vae.capture.builds.Build", Build)
    return compiled


def never_done(folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Let another process compile in the place of the compiler that has nothing but time."""
    (folder / "sleeper.py").write_text(f"import time\ntime.sleep({seconds})\n")
    monkeypatch.setattr(build, "_MODULE", "sleeper")
    monkeypatch.setattr("ppl_vae.capture.builds.Build", build.Build)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(backend, "library_folder", lambda *_: folder / "library")


def asked_for_in_trace(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ask for an end by this signal while a step is traced for the first time."""
    trace, presses = Program.trace, [number]

    def asked(self: Program, *args: Any, **options: Any) -> Any:
        if presses:
            os.kill(os.getpid(), presses.pop())
        return trace(self, *args, **options)

    monkeypatch.setattr(Program, "trace", asked)
