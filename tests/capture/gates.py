"""Gate 1 and gate 2: the graph run by torch against the eager step, bit for bit; the compiled one against both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyro
import torch
from capture.table import Problem, Row
from torch import Tensor

from ppl_vae import CompiledSVI
from ppl_vae.capture import Program
from ppl_vae.capture.compare import TOLERANCE, difference
from ppl_vae.capture.program import _State


@dataclass
class Outcome:
    """What a call from one and the same state gave: losses, gradients, buffers after it, noise after it."""

    values: list[Tensor]
    grads: list[Tensor | None]
    state: _State

    def same_bits(self, other: Outcome) -> dict[str, bool]:
        """Equal to the bit, by kind."""
        return {
            "losses": _same(self.values, other.values),
            "gradients": _same(self.grads, other.grads),
            "buffers": _same(self.state.values, other.state.values),
            "noise": self.state.same_noise(other.state),
        }

    def error(self, other: Outcome) -> float:
        """The worst error of a gradient over the largest entry of all."""
        return difference(self.grads, other.grads)


def _same(ours: list, theirs: list) -> bool:
    def equal(a: Tensor | None, b: Tensor | None) -> bool:
        if a is None or b is None:
            return a is b
        return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())

    return len(ours) == len(theirs) and all(map(equal, ours, theirs))


@contextmanager
def own_store() -> Iterator[None]:
    with pyro.get_param_store().scope({"params": {}, "constraints": {}}):
        yield


def started(problem: Problem) -> tuple[CompiledSVI, Program, list[Tensor]]:
    """A CompiledSVI after its first step, and the program of the problem's call."""
    svi = CompiledSVI(problem.model, problem.guide, pyro.optim.Adam({"lr": 1e-3}), problem.loss)
    svi.step(*problem.args, **problem.kwargs)
    program, inputs = svi.program(problem.args, problem.kwargs)
    return svi, program, inputs


def eagerly(program: Program, inputs: list[Tensor]) -> Outcome:
    """The eager forward, and everything put back as it was."""
    before = _State(program.watch.buffers())
    with torch.enable_grad():
        values, grads = program.forward(*inputs)
    return _outcome(values, grads, before, program)


def traced(program: Program, inputs: list[Tensor]) -> Outcome | None:
    """The call that is traced."""
    before = _State(program.watch.buffers())
    result = program.trace(inputs)
    return None if result is None else _outcome(*result, before, program)


def called(program: Program, inputs: list[Tensor]) -> Outcome:
    """The graph, run by torch or compiled."""
    before = _State(program.watch.buffers())
    result = program(inputs)
    assert result is not None, program.record.reason
    return _outcome(*result, before, program)


def _outcome(values: list, grads: list, before: _State, program: Program) -> Outcome:
    after = _State(program.watch.buffers())
    before.put_back()
    return Outcome([v.detach().clone() for v in values], [g if g is None else g.detach().clone() for g in grads], after)


@dataclass
class Judgement:
    """The worst errors of a row's compiled step, relative to the largest entries, and what it cost."""

    name: str
    nodes: int
    gradients: float
    losses: float
    buffers: float
    same_noise: bool
    compile_seconds: float


def judged(row: Row) -> Judgement:
    """Gate 2 on a row: its compiled step against the eager one, from the same state and noise."""
    with own_store():
        _, program, inputs = started(row.make())
        reference = eagerly(program, inputs)
        assert traced(program, inputs) is not None, program.record.reason
        program.compile(inputs)
        assert program.ready, program.record.reason
        program._unproven, program.record.compiled_steps = 0, 2  # the comparison is ours here, not the program's own
        compiled = called(program, inputs)
        return Judgement(
            row.name,
            program.record.nodes,
            compiled.error(reference),
            difference(compiled.values, reference.values),
            difference(compiled.state.values, reference.state.values),
            compiled.state.same_noise(reference.state),
            program.record.compile_seconds,
        )


def allowed(found: Judgement) -> bool:
    """Does a judgement pass?"""
    return found.same_noise and max(found.gradients, found.losses, found.buffers) < TOLERANCE[torch.float32]
