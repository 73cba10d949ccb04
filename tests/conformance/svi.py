"""A CompiledSVI for Pyro's own tests: every step is made twice, by Pyro and by the captured graph, and both must agree.

Most of Pyro's tests make a single step, and expect its errors and warnings in Pyro's words. So a step is first Pyro's
own ``loss_and_grads``, on the caller's generator and with the caller's validation; it also creates parameters. Then
everything is put back, the same call is captured (at step 1 already, where a user's CompiledSVI waits for the second)
and its graph is run by torch. Loss, gradients, buffers and generator must be the same to the bit. What the optimizer
and the test then see are the GRAPH's gradients and the graph's loss.

Python state that a model changes (a counter) is changed twice by this, by the eager call and by the trace: a trace is a
call, and no general way exists to undo it. ``Watch`` sees the change, so such a step is counted as not captured.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.infer.util import torch_item, zero_grads
from pyro.optim import Adam
from torch import Tensor

from ppl_vae import CompiledSVI
from ppl_vae.capture import CaptureError, Watch
from ppl_vae.capture.compare import difference, tolerance
from ppl_vae.capture.program import _State


@dataclass
class Count:
    """What happened in one test file."""

    accepted: int = 0  # steps that Pyro made without an error
    captured: int = 0  # those of them that the graph made too, and the same to the bit
    mismatches: list[str] = field(default_factory=list)
    examples: dict[str, list[str]] = field(default_factory=dict)  # why a step stayed eager: the tests, one a step

    def refused(self, reason: str, test: str) -> None:
        """Count a step that stayed eager."""
        self.examples.setdefault(_kind(reason), []).append(f"{test}: {reason}")


class Here:
    """Where the run is. Attributes of a class, which :class:`Watch` takes as constant: this is no model's state."""

    counts: dict[str, Count] = {}  # noqa: RUF012
    file = test = ""
    busy = False  # a call of ours is under way: loss_and_grads is Pyro's
    plant = False
    direct: dict[tuple[int, ...], ConformingSVI] = {}  # noqa: RUF012

    @classmethod
    def count(cls) -> Count:
        """The account of the present file."""
        return cls.counts.setdefault(cls.file, Count())

    @classmethod
    def begin(cls, file: str, test: str) -> None:
        """A test starts: what was kept of the last one is let go."""
        cls.file, cls.test = file, test
        cls.direct.clear()

    @classmethod
    def loss_and_grads(cls, elbo: Any, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        """``elbo.loss_and_grads(model, guide, ...)`` as a test calls it, without an SVI."""
        key = id(elbo), id(model), id(guide)
        svi = cls.direct.get(key)
        if svi is None:
            svi = cls.direct[key] = ConformingSVI(model, guide, Adam({"lr": 0.0}), elbo)  # it is never asked to move
        return svi.checked(args, kwargs)


@contextmanager
def busy() -> Iterator[None]:
    """Inside, ``loss_and_grads`` is Pyro's own."""
    before, Here.busy = Here.busy, True
    try:
        yield
    finally:
        Here.busy = before


@dataclass
class Made:
    """A call that was made: what it returned, which parameters it announced, and what the graph gave for them."""

    given: dict[Tensor, Tensor | None]  # the caller's gradients from before the call
    loss: Any = None
    leaves: set[Tensor] = field(default_factory=set)
    captured: tuple[Any, list[Tensor | None]] | None = None  # the program's forward, and its gradients

    def accumulate(self) -> None:
        """Add the gradients of the call to the caller's, in place, as autograd does."""
        for leaf, grad in self.given.items():
            if grad is not None:
                leaf.grad = grad if leaf.grad is None else grad.add_(leaf.grad)

    def put_back(self) -> None:
        """Only the caller's gradients again."""
        for leaf in self.leaves.union(self.given):
            leaf.grad = self.given.get(leaf)


class ConformingSVI(CompiledSVI):
    """See the head of this file."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "mode": "require"})  # a refusal is an error that says the reason

    # Tests call ``svi.loss_and_grads(svi.model, svi.guide, ...)``; the engine, and Pyro inside a step, want Pyro's.

    @property
    def loss_and_grads(self) -> Any:
        return self._own_loss_and_grads if Here.busy else self._checked_loss_and_grads

    @loss_and_grads.setter
    def loss_and_grads(self, fn: Any) -> None:
        self._own_loss_and_grads = fn

    def _checked_loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        if model is self.model and guide is self.guide:
            return self.checked(args, kwargs)
        return self._own_loss_and_grads(model, guide, *args, **kwargs)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Pyro's step, with the graph's gradients and CompiledSVI's update where there is a graph."""
        made = self._made(args, kwargs)
        if made.captured is None:
            made.accumulate()
            self._optimizer()(made.leaves)  # type: ignore[arg-type]
        else:
            made.put_back()
            self._update(*made.captured)  # it adds what the caller has left in .grad
            _leave_zeros(*made.captured)
        zero_grads(made.leaves)
        return type(made.loss)(map(torch_item, made.loss)) if isinstance(made.loss, tuple) else torch_item(made.loss)

    def checked(self, args: Any, kwargs: Any) -> Any:
        """``loss_and_grads`` by Pyro, then by the graph, whose gradients are added to ``.grad`` as Pyro does."""
        made = self._made(args, kwargs)
        made.accumulate()
        return made.loss

    def _made(self, args: Any, kwargs: Any) -> Made:
        """The call by Pyro and by the graph; ``.grad`` holds the gradients of this call alone."""
        made = Made(given={leaf: leaf.grad for leaf in self.leaves()})
        for leaf in made.given:
            leaf.grad = None
        before = _State(self._buffers())
        try:
            self._eagerly(made, args, kwargs)
            Here.count().accepted += 1
            after = _State(before.tensors)
            grads = {leaf: leaf.grad for leaf in made.leaves.union(made.given)}
            with busy():
                self._by_graph(made, args, kwargs, before, after)
        except BaseException:
            made.accumulate()
            raise
        after.put_back()
        if made.captured is not None:
            forward, ours = made.captured
            grads.update(zip(forward.leaves, ours, strict=True))
        for leaf, grad in grads.items():
            leaf.grad = grad
        return made

    def _eagerly(self, made: Made, args: Any, kwargs: Any) -> None:
        with busy(), poutine.trace(param_only=True) as seen:
            made.loss = self.loss_and_grads(self.model, self.guide, *args, **kwargs)
        made.leaves = {site["value"].unconstrained() for site in seen.trace.nodes.values()}
        self._seen.update((id(leaf), leaf) for leaf in made.leaves)

    def _by_graph(self, made: Made, args: Any, kwargs: Any, before: _State, after: _State) -> None:
        """The same call from the same state by its graph; fills in ``made.captured`` and ``made.loss``."""
        eager = _numbers(made.loss), {leaf: leaf.grad for leaf in made.leaves}
        before.put_back()
        try:
            forward, values, grads, is_new = self._run_graph(args, kwargs, before)
        except CaptureError as error:
            Here.count().refused(str(error), Here.test)
            return
        ours = _State(before.tensors)
        reference = eager[0], [eager[1].get(leaf) for leaf in forward.leaves], after
        problem = _difference((values, grads, ours), reference, self._same)
        if any(eager[1][leaf] is not None for leaf in made.leaves.difference(forward.leaves)):
            problem = "the graph has no gradient of a parameter that has one"
        if problem is not None and is_new:
            # Pyro's first call does what later ones do not: it draws initial values of parameters, and an ELBO guesses
            # the nesting of plates by a run of its own. The graph is that of a later call, so it is compared with one.
            reference = self._again(forward, args, kwargs, before)
            problem = _difference((values, grads, ours), reference, self._same)
        if problem is not None and self._same is _close and not ours.same_noise(reference[2]):
            # JitTraceMeanField_ELBO compiles in every call, by calls of its own that draw: CompiledSVI sees that too.
            Here.count().refused("what torch.jit compiles in every call draws other random numbers", Here.test)
            return
        if problem is not None:
            Here.count().mismatches.append(f"{Here.test}: {problem}")
            raise AssertionError(f"the graph is not the eager step: {problem}")
        Here.count().captured += 1
        made.captured = forward, grads
        made.loss = tuple(map(float, values)) if isinstance(made.loss, tuple) else float(values[0])

    def _run_graph(self, args: Any, kwargs: Any, before: _State) -> tuple[Any, list[Tensor], list[Tensor | None], bool]:
        """The graph's forward, values and gradients, and whether it was made for this call."""
        found = self.program(args, kwargs)
        assert found is not None  # mode="require" raises
        program, inputs = found
        is_new = not program.ready
        if is_new:
            if not program.given_up:
                program.trace(inputs, undo=True)
            if program.given_up:
                raise CaptureError(program.record.reason)
        before.put_back()
        graph = program._graph  # not by the program's call, which makes an eager one too and takes it in case of doubt
        if any(tensor._version != version for tensor, version in graph.constants):
            raise CaptureError("a buffer whose values were taken as constants has changed")
        values, grads = program._split(graph(inputs))
        grads = grads[: len(program.forward.leaves)]  # those of other leaves Pyro's call has left to the caller
        if Here.plant:
            grads = _planted(grads)
        return program.forward, values, grads, is_new

    def _again(self, forward: Any, args: Any, kwargs: Any, before: _State) -> Any:
        """Pyro's call once more, from the state before it and now with all its parameters."""
        before.put_back()
        for leaf in forward.leaves:
            leaf.grad = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first call has given them
            loss = self.loss_and_grads(self.model, self.guide, *args, **kwargs)
        return _numbers(loss), [leaf.grad for leaf in forward.leaves], _State(before.tensors)

    @property
    def _same(self) -> Callable[[list[Any], list[Any]], bool]:
        """To the bit; but to rounding where Pyro's side is compiled by ``torch.jit``, which has own formulas."""
        loss = getattr(self._own_loss_and_grads, "__self__", None)
        return _close if type(loss).__name__.startswith("Jit") else _equal

    def _buffers(self) -> list[Tensor]:
        if self._engine is not None:
            return self._engine.watch.buffers()
        return Watch({"model": self.model, "guide": self.guide}).buffers()


def _numbers(loss: Any) -> list[Tensor]:
    losses = loss if isinstance(loss, tuple) else (loss,)
    return [torch.as_tensor(value, dtype=torch.float64).detach() for value in losses]


def _leave_zeros(forward: Any, grads: list[Tensor | None]) -> None:
    """What Pyro's first step leaves in ``.grad``, where CompiledSVI's first is Pyro's."""
    for leaf, grad in zip(forward.leaves, grads, strict=True):
        if leaf.grad is None and grad is not None:
            leaf.grad = torch.zeros_like(grad)


def _planted(grads: list[Tensor | None]) -> list[Tensor | None]:
    """One gradient wrong by a percent."""
    for i, grad in enumerate(grads):
        if grad is not None and bool((grad != 0).any()):
            return [*grads[:i], grad * 1.01, *grads[i + 1 :]]
    return grads


def _difference(ours: Any, theirs: Any, same: Callable[[list[Any], list[Any]], bool]) -> str | None:
    """In what two outcomes (values, gradients, state) differ, or None."""
    for what, mine, other in (
        ("the loss differs", ours[0], theirs[0]),
        ("a gradient differs", ours[1], theirs[1]),
        ("a buffer differs", ours[2].values, theirs[2].values),
    ):
        if not same(mine, other):
            return f"{what} by {difference(mine, other):.1e} of the largest: {mine} by the graph, {other} by Pyro"
    return None if ours[2].same_noise(theirs[2]) else "the generator stands elsewhere"


def _equal(ours: list[Any], theirs: list[Any]) -> bool:
    """To the bit."""

    def same(a: Tensor | None, b: Tensor | None) -> bool:
        if a is None or b is None:
            return a is b
        return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())

    return len(ours) == len(theirs) and all(map(same, ours, theirs))


def _close(ours: list[Any], theirs: list[Any]) -> bool:
    """To rounding, as CompiledSVI compares."""
    return difference(ours, theirs) <= tolerance(theirs)


def _kind(reason: str) -> str:
    """A reason without what is particular to the place: signature, file and line, numbers, names."""
    text = reason.removeprefix("CompiledSVI: ")
    text = re.sub(r" ?\([^()]*:\d+, in [^()]*\)", "", text)
    text = (
        re.sub(r"^.*?: (?=it |a |tracing |python |an |the |tensors )", "", text)
        if not text.startswith("the call")
        else text
    )
    return re.sub(r"'[^']*'", "'...'", re.sub(r"\d+", "N", text))[:160]
