"""One step function for one signature: eager at first, traced once, compiled, and compared with the eager one for life.

A *forward* is what is captured: everything of a step up to the gradients, as the eager step does it. It returns values
(a loss, a report) and the gradient of every leaf, and changes nothing but buffers and the random generator; so the
update of the parameters stays torch's own, and an error in the middle of a step leaves them as they were.
"""

from __future__ import annotations

import operator
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae import _private as private
from ppl_vae.capture import matmul
from ppl_vae.capture.backend import Runner, compile_graph
from ppl_vae.capture.builds import Builds
from ppl_vae.capture.compare import difference, size, tolerance
from ppl_vae.capture.errors import CaptureError, FallbackWarning
from ppl_vae.capture.trace import Graph, capture
from ppl_vae.capture.watch import Watch
from ppl_vae.pair.scope import validation

Result = tuple[list[Tensor], list[Tensor | None]]
"""Values, and a gradient for each leaf (None: the leaf has none)."""
Forward = Callable[..., Result]

EAGER, GRAPH, COMPILED = "eager", "graph", "compiled"


@dataclass
class Record:
    """What is told of one signature."""

    signature: str
    status: str = EAGER
    reason: str = "not captured yet"
    nodes: int = 0
    capture_seconds: float = 0.0
    compile_seconds: float = 0.0
    eager_steps: int = 0
    graph_steps: int = 0
    compiled_steps: int = 0
    last_audit: int = 0
    worst_error: float = 0.0
    products: str = ""


class Program:
    """The life of one signature.

    Args:
        record: where it is written down.
        forward: the eager function of the signature's tensors.
        watch: the python state that it reads.
        tell: is given the reason when the program stays eager, or goes back to it.
        say, asked: is told what one waits for ("": for nothing any more); has an end been asked for, so none waits?
    """

    def __init__(
        self,
        record: Record,
        forward: Forward,
        watch: Watch,
        *,
        tell: Callable[[str], None],
        say: Callable[[str], None] = lambda text: None,
        asked: Callable[[], bool] = lambda: False,
    ) -> None:
        self.record, self.forward, self.watch, self._tell = record, forward, watch, tell
        self.given_up = self.prepared = False
        self._graph: Graph | None = None
        self._runner: Runner | None = None
        self._forms: list[Any] = []
        self._numbers: list[tuple[Tensor, Any]] = []
        self._has_grad: list[bool] = []
        self._num_values = self._unproven = 0
        self._size = 0.0  # of the largest gradient entry that a comparison has seen
        self._builds = Builds(record.signature, say, asked)

    @property
    def ready(self) -> bool:
        """Can it be called?"""
        return self._graph is not None

    @property
    def has_all_gradients(self) -> bool:
        """Has every leaf a gradient?"""
        return all(self._has_grad)

    def give_up(self, reason: str, *, quietly: bool = False) -> None:
        """Stay eager from here on, and say why."""
        self.given_up, self.record.status, self.record.reason = True, EAGER, reason
        self._graph = self._runner = None
        self._builds.forget()
        if not quietly:
            self._tell(f"{self.record.signature}: {reason}")

    # -- becoming one --------------------------------------------------------------------------------------------------

    def prepare(self, inputs: Sequence[Tensor]) -> None:
        """Let another process compile what :meth:`trace` will find. If anything is in the way, it will say what."""
        self.prepared = True
        with _no_step(self.watch), validation(False), torch.enable_grad():
            _, graph = capture(self._flat, inputs)
            if not self.watch.refused and not self.watch.changes():
                self._builds.begin(graph, inputs)

    def trace(self, inputs: Sequence[Tensor], *, undo: bool = False) -> Result | None:
        """Make one real call and keep its graph; None where it could not be traced, and then nothing has happened.

        Args:
            undo: put buffers and generators back as they were before the call.
        """
        started = time.perf_counter()
        self.watch.look()
        if self.watch.refused:
            self.give_up(self.watch.refused)
            return None
        saved = _State(self.watch.buffers())
        try:
            with validation(False), torch.enable_grad():
                flat, graph = capture(self._flat, inputs)
        except CaptureError as error:
            saved.put_back()
            self.give_up(str(error))
            return None
        except BaseException:
            saved.put_back()
            raise
        if undo:
            saved.put_back()
        changed = self.watch.changes()
        if changed:
            self.give_up(f"a step changes python state, which a graph cannot: {', '.join(changed[:3])}")
            return self._split(flat)
        self._graph, self._forms = graph, _forms(graph.lifted)
        single = {id(tensor): tensor for tensor, _ in graph.constants if tensor.numel() == 1}
        self._numbers = [(tensor, tensor.item()) for tensor in single.values()]
        self.record.nodes, self.record.capture_seconds = graph.num_nodes, time.perf_counter() - started
        self.record.status, self.record.reason = GRAPH, "captured, not compiled"
        self.record.graph_steps += not undo
        self.record.last_audit, self._unproven = self.record.graph_steps, 2
        return self._split(flat)

    def _flat(self, *inputs: Tensor) -> list[Tensor]:
        values, grads = self.forward(*inputs)
        self._num_values, self._has_grad = len(values), [grad is not None for grad in grads]
        return [*values, *(grad for grad in grads if grad is not None)]

    def _split(self, flat: list[Tensor]) -> Result:
        left = iter(flat[self._num_values :])
        return flat[: self._num_values], [next(left) if has else None for has in self._has_grad]

    def compile(self, inputs: Sequence[Tensor], *, wait: bool = True) -> None:
        """Compile the graph; where that fails, give up and say why.

        Args:
            wait: here and now; else another process compiles, and until it is done torch runs the graph.
        """
        assert self._graph is not None, "compile: trace first"
        started = self._builds.begin(self._graph, inputs)
        if not wait and self._builds.at_work:
            self.record.reason = "captured; the compiler is at work beside it"
            return
        try:
            self._builds.wait()
        except BaseException:  # as if it had never been traced
            self._graph, self.record.status, self.record.reason = None, EAGER, "the compiler was interrupted"
            raise
        try:
            self._runner = compile_graph(self._graph, inputs)
        except CaptureError as error:
            self.give_up(str(error))
            return
        self.record.compile_seconds, self.record.products = time.perf_counter() - started, matmul.makers()
        self._unproven = 2
        self.record.last_audit = self.record.compiled_steps
        self.record.status, self.record.reason = COMPILED, ""

    # -- being one -----------------------------------------------------------------------------------------------------

    def __call__(self, inputs: list[Tensor]) -> Result | None:
        """One step's values and gradients; None if it has just given up, and the step is to be made eagerly.

        The first two steps of the graph and of its compiled form, and the 4th, 8th, 16th, ..., are compared with the
        eager ones, which count if they differ.
        """
        graph = self._graph
        assert graph is not None, "call: trace first"
        if graph.constants and self._has_other_constants(graph):
            self.give_up("a tensor whose values were taken as constants has changed")
            return None
        if _forms(graph.lifted) != self._forms:
            self.give_up("a parameter or buffer has another shape, type or order in memory than when it was traced")
            return None
        if self._runner is None and self.record.graph_steps % 16 == 0 and self._builds.has_ended:
            self.compile(inputs)
            if not self.ready:
                return None
        kind = GRAPH if self._runner is None else COMPILED
        count = (self.record.graph_steps if self._runner is None else self.record.compiled_steps) + 1
        is_audited = self._unproven > 0 or count & (count - 1) == 0
        try:
            result = self._audited(inputs, kind, count) if is_audited else self._made(inputs)
        except (CaptureError, FallbackWarning):  # what is told is an error here
            raise
        except Exception as error:  # the eager step will raise it too, in Pyro's words; if not, it is the better one
            if self._unproven:
                self.give_up(f"{kind} step {count} raised {type(error).__name__}: {str(error).partition(chr(10))[0]}")
            return None
        if not self.ready:
            return result
        if kind == COMPILED:
            self.record.compiled_steps = count
        else:
            self.record.graph_steps = count
        return result

    def _has_other_constants(self, graph: Graph) -> bool:
        """By their versions, and single numbers by their values: ``.data`` and NumPy change these without a version."""
        return any(private.version(tensor) != version for tensor, version in graph.constants) or any(
            tensor.item() != value for tensor, value in self._numbers
        )

    def _made(self, inputs: list[Tensor]) -> Result:
        """A call that is made as a whole or not at all, so that the eager one after an error draws the same noise."""
        assert self._graph is not None
        if not self._graph.may_fail:
            return self._run(inputs)
        noise = torch.get_rng_state()
        changing = [*self._graph.mutated, *(inputs[i] for i in self._graph.mutated_inputs)]
        before = [tensor.detach().clone() for tensor in changing]
        try:
            return self._run(inputs)
        except Exception:
            torch.set_rng_state(noise)
            with torch.no_grad():
                for tensor, value in zip(changing, before, strict=True):
                    tensor.copy_(value)
            raise

    def _run(self, inputs: list[Tensor]) -> Result:
        assert self._graph is not None
        if self._runner is None:
            return self._split(self._graph(inputs))
        return self._split(self._runner([*inputs, *self._graph.lifted]))

    def _audited(self, inputs: list[Tensor], kind: str, count: int) -> Result | None:
        """A captured and an eager call from the same state: the first counts if it is the second."""
        assert self._graph is not None
        # An operation may change a buffer without saying so (batch norm does): all of them are looked after.
        given = [inputs[i] for i in self._graph.mutated_inputs]
        mutated = list({id(t): t for t in (*self._graph.mutated, *self.watch.buffers(), *given)}.values())
        before = _State(mutated)
        try:
            ours, after = self._run(inputs), _State(mutated)
            before.put_back()
            with torch.enable_grad():
                reference = self.forward(*inputs)
        except CaptureError as error:  # it does not do in this step what it did when it was traced
            before.put_back()
            self.give_up(f"{error}{self._unchecked(kind, count)}")
            return None
        except BaseException:
            before.put_back()
            raise
        problem = self._problem(ours, after, reference, _State(mutated))
        if problem is not None:
            self.record.eager_steps += 1
            self.give_up(f"{kind} step {count} is not the eager one: {problem}{self._unchecked(kind, count)}")
            return reference
        after.put_back()
        self.record.last_audit = count
        self._unproven = max(self._unproven - 1, 0)
        return ours

    def _unchecked(self, kind: str, count: int) -> str:
        good = self.record.last_audit
        if good == count - 1:
            return f"; every {kind} step that was kept has been compared"
        return f"; {kind} steps {good + 1} to {count - 1} came after the last good comparison"

    def _problem(self, ours: Result, after: _State, reference: Result, eager: _State) -> str | None:
        assert self._graph is not None
        allowed = tolerance(reference[1]) or tolerance(self._graph.lifted)
        former, self._size = self._size, max(self._size, size(reference[1]))
        self.record.worst_error = max(self.record.worst_error, difference(ours[1], reference[1], former=former))
        pairs: list[tuple[str, Sequence[Tensor | None], Sequence[Tensor | None]]] = [
            ("the gradients", ours[1], reference[1]),
            ("the loss", ours[0], reference[0]),
            *(("the buffers", [mine], [theirs]) for mine, theirs in zip(after.values, eager.values, strict=True)),
        ]
        for what, mine, theirs in pairs:
            error = difference(mine, theirs, former=former if what == "the gradients" else 0.0)
            if not error <= allowed:
                return f"{what} differ by {error:.1e} of the largest entry ({allowed:.0e} is allowed)"
        return None if after.same_noise(eager) else "it draws other random numbers"


class _State:
    """Copies of tensors and of the random generators, to go back to."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors, self.values = tensors, [tensor.detach().clone() for tensor in tensors]
        self.noise = torch.get_rng_state()
        self.foreign = (random.getstate(), np.random.get_state())

    def put_back(self) -> None:
        """Make everything as it was."""
        with torch.no_grad():
            for tensor, value in zip(self.tensors, self.values, strict=True):
                if not torch.equal(tensor, value):  # its version stays where nothing has changed
                    tensor.copy_(value)
        torch.set_rng_state(self.noise)
        random.setstate(self.foreign[0])
        np.random.set_state(self.foreign[1])

    def same_noise(self, other: _State) -> bool:
        """Have both drawn the same random numbers?"""
        return torch.equal(self.noise, other.noise)


@contextmanager
def _no_step(watch: Watch) -> Iterator[None]:
    """A call that is none of the steps: buffers and generators are put back; what it raises, the steps will."""
    watch.look()
    saved = _State(watch.buffers())
    try:
        yield
    except FallbackWarning:  # what is told is an error here
        raise
    except Exception:
        return
    finally:
        saved.put_back()


def _forms(tensors: Sequence[Tensor]) -> list[Any]:
    """What a compiled graph does not look at: ``.data`` and ``resize_`` change it under the same tensor."""
    return [*map(Tensor.stride, tensors), *map(Tensor.size, tensors), *map(_dtype, tensors)]


_dtype = operator.attrgetter("dtype")


@contextmanager
def own_gradients(leaves: Sequence[Tensor]) -> Iterator[None]:
    """Run a forward on leaves without gradients, and give the caller's ``.grad`` back after it."""
    before = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    try:
        yield
    finally:
        for leaf, grad in zip(leaves, before, strict=True):
            leaf.grad = grad
