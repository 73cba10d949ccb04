"""A function of tensors that is called again and again: after some time as a graph, if that is the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from ppl_vae import _private as private
from ppl_vae.capture.errors import CaptureError
from ppl_vae.capture.simplify import simplify
from ppl_vae.capture.trace import Graph, capture

__all__ = ["Repeated"]

PATIENCE = 500
MOST_SHAPES = 4
"""Graphs of so many shapes of inputs are kept; further ones are run by the function."""


class Repeated:
    """Calls of one function, made by torch operation by operation, without the Python that chose these.

    The first calls of inputs of a shape are the function's own; then one is traced, and the next one is made both ways,
    from the same random state: where values or the state after it differ, or a call cannot be traced, the function
    stays. It is for a while in which nobody changes what the function reads but the inputs.

    Args:
        fn: of tensors, to a list of tensors; it may draw from torch's generator.
        patience: calls of a shape before one is traced, which takes as long as some hundreds of calls.

    >>> double = Repeated(lambda x: [2 * x + torch.zeros(())], patience=1)
    >>> [float(double(torch.tensor(float(i)))[0]) for i in range(5)], double.is_graph
    ([0.0, 2.0, 4.0, 6.0, 8.0], True)
    """

    def __init__(self, fn: Callable[..., list[Tensor]], *, patience: int = PATIENCE) -> None:
        self.fn, self.patience = fn, patience
        self.reason = "" if private.missing() is None else str(private.missing())
        self._calls: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, Graph] = {}

    @property
    def is_graph(self) -> bool:
        """Is there a graph that has been compared, and not given up?"""
        return not self.reason and any(self._calls[key] > self.patience + 1 for key in self._graphs)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The values of a call."""
        key = tuple((tuple(x.shape), x.stride(), x.dtype, x.device, x.requires_grad) for x in inputs)
        number = self._calls[key] = self._calls.get(key, 0) + 1
        if self.reason or number <= self.patience or (key not in self._graphs and len(self._graphs) >= MOST_SHAPES):
            return self.fn(*inputs)
        if key not in self._graphs:
            return self._traced(key, inputs)
        graph = self._graphs[key]
        return self._compared(graph, inputs) if number == self.patience + 2 else graph(inputs)

    def _traced(self, key: Hashable, inputs: Sequence[Tensor]) -> list[Tensor]:
        state = torch.get_rng_state()
        try:
            values, graph = capture(self.fn, inputs)
        except CaptureError as error:
            self.reason = str(error)
            torch.set_rng_state(state)
            return self.fn(*inputs)
        if graph.mutated or graph.mutated_inputs or graph.may_fail:
            self.reason = "it changes a tensor, or may fail by values"
        simplify(graph.module)
        self._graphs[key] = graph
        return values

    def _compared(self, graph: Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
        state = torch.get_rng_state()
        values = self.fn(*inputs)
        after = torch.get_rng_state()
        torch.set_rng_state(state)
        found = graph(inputs)
        same = torch.equal(torch.get_rng_state(), after) and len(found) == len(values)
        if not same or not all(torch.allclose(a, b, equal_nan=True) for a, b in zip(found, values, strict=True)):
            self.reason = "the graph gives other numbers"
            torch.set_rng_state(after)
        return values
