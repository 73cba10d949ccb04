"""How each step runs: finds the program of a call, has it captured when it is time, and keeps the account."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_vae import _private as private
from ppl_vae.capture.backend import missing_compiler
from ppl_vae.capture.errors import CaptureError, tell
from ppl_vae.capture.explain import Explanation
from ppl_vae.capture.program import Forward, Program, Record, Result
from ppl_vae.capture.signature import described, rebuilder, signature
from ppl_vae.capture.watch import Watch

STATES = 8
"""So many states of the model's python variables are captured; a model with more changes them from step to step."""

ARGUMENTS = 16
"""So many calls that differ in nothing but numbers (or states) are kept apart; with more, none of them is captured."""
LOST = -1
"""The number of the state when there have been too many."""

CHANGING = (
    "an argument that is no tensor, or a parameter among the arguments, changes from step to step; "
    "give numbers as tensors"
)

MakeForward = Callable[[Callable[[Sequence[Tensor]], Any]], Forward]


class Engine:
    """The programs of one step function, one a signature.

    Args:
        roots: the functions, modules and objects that the step calls: what python state it can read.
        who: how messages call it.
        required: raise :class:`CaptureError` where a program would stay eager for a reason of its own.
        waits: for the compiler; else steps go on while it works.

    Attributes:
        say: is told what a step waits for; an empty string: for nothing any more.
        asked: has an end been asked for? Then no step waits.
    """

    def __init__(self, roots: Mapping[str, Any], *, who: str, required: bool = False, waits: bool = True) -> None:
        self.roots, self.who, self.required, self.waits = dict(roots), who, required, waits
        self.say: Callable[[str], None] = lambda text: None
        self.asked: Callable[[], bool] = lambda: False
        self._lacking = private.missing()
        self.watch = Watch(self.roots if self._lacking is None else {})
        self.programs: dict[Hashable, Program] = {}
        self._states: dict[Hashable, int] = {self.watch.key: 0}
        self._state, self._changing = 0, ""
        self._told: set[str] = set()
        self._eager: dict[str, int] = {}
        self._count: dict[Hashable, int] = {}
        self._unbounded: dict[Hashable, Program] = {}

    def find(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        make_forward: MakeForward,
        extra: Hashable = None,
        name: Callable[[], str] | None = None,
    ) -> tuple[Program, list[Tensor]] | None:
        """The program of a call and the call's tensors; None where a call cannot be told from another one.

        Args:
            make_forward: makes the eager function of the call's tensors from a function that puts them into place.
            extra: what else the step depends on.
            name: says what a new program is called; else its arguments do.
        """
        if self._lacking is not None:
            return self._never(name() if name is not None else described(args, kwargs)), []
        if private.handlers():
            self._beside("it is made inside a Pyro handler, whose effect a graph would not see")
            return None
        if torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled():
            self._beside("it is made under torch.autocast or without gradients")
            return None
        try:
            own, tensors = signature(args, kwargs)
        except CaptureError as error:
            self._beside(str(error))
            return None
        self._look()
        key = (own, extra, self._state, torch.get_default_dtype())
        program = self.programs.get(key) or self._unbounded.get(_kind(tensors, extra))
        if program is None:
            kind = _kind(tensors, extra)
            self._count[kind] = self._count.get(kind, 0) + 1
            if self._count[kind] > ARGUMENTS:
                program = self._unbounded[kind] = self._refused(described(args, kwargs))
                return program, tensors
            program = self._new(
                name() if name is not None else described(args, kwargs), make_forward(rebuilder(args, kwargs))
            )
            self.programs[key] = program
        return program, tensors

    def _beside(self, reason: str) -> None:
        """Count and tell a call that has no program."""
        self._tell(f"the call: {reason}")
        self._eager[reason] = self._eager.get(reason, 0) + 1

    def _refused(self, name: str, reason: str = CHANGING) -> Program:
        program = Program(Record(name), _no_forward, self.watch, tell=self._tell)
        program.give_up(reason, quietly=True)  # it is said when the program would be captured
        return program

    def _never(self, name: str) -> Program:
        """The program of calls that are all eager, for want of a private name of torch's or Pyro's."""
        if name not in self._unbounded:
            self._unbounded[name] = self._refused(name, str(self._lacking))
        return self._unbounded[name]

    def _look(self) -> None:
        if self._state == LOST or self.watch.unchanged():
            return
        changed = self.watch.changes()
        if not changed:
            return
        self._state = self._states.setdefault(self.watch.key, len(self._states))
        if len(self._states) > STATES:
            self._state, self._changing = LOST, ", ".join(changed[:3])

    def _new(self, name: str, forward: Forward) -> Program:
        say, asked = lambda text: self.say(text), lambda: self.asked()
        program = Program(Record(name), forward, self.watch, tell=self._tell, say=say, asked=asked)
        if self._state == LOST:
            program.give_up(
                f"python state that the model reads changes from step to step ({self._changing}); "
                "give it as a tensor argument",
                quietly=True,  # it is said when the program would be captured
            )
        return program

    def _tell(self, message: str) -> None:
        """Say once why something stays eager."""
        if self.required:
            raise CaptureError(f"{self.who}: {message}")
        if message not in self._told:
            self._told.add(message)
            tell(f"{self.who}: eager for {message}")

    def captured(self, program: Program, inputs: list[Tensor], *, due: bool, anew: bool = False) -> Result | None:
        """One step by the program's graph; None if this step is to be eager.

        Args:
            due: trace it now if it has not been.
            anew: then the trace is none of the steps: it is undone, and the step made by what came of it. This is how a
                resumed run comes to where the first one was.
        """
        if program.ready:
            return program(inputs)
        if not due:
            return None
        if program.given_up:
            every = program.record.reason == missing_compiler()  # the same for every signature: said once
            self._tell(f"{'every call' if every else program.record.signature}: {program.record.reason}")
            return None
        missing = missing_compiler()
        if missing is not None:
            self._tell(f"every call: {missing}")
            program.give_up(missing, quietly=True)
            return None
        result = program.trace(inputs, undo=anew)
        if result is not None and program.ready:
            program.compile(inputs, wait=self.waits)
        return result if not anew else program(inputs) if program.ready else None

    def prepare(self, program: Program, inputs: list[Tensor]) -> None:
        """Let another process compile a step that will be captured later, if no step so far has changed python state.

        The model is called once more for it, and what python variables it changes would stay changed.
        """
        is_free = not (program.prepared or program.ready or program.given_up)
        if is_free and len(self._states) == 1 and missing_compiler() is None:
            program.prepare(inputs)

    def explain(self) -> Explanation:
        """A row for each signature, in the order of their first step, and the calls that have none."""
        programs = (*self.programs.values(), *self._unbounded.values())
        return Explanation([program.record for program in programs], self._eager)


def _kind(tensors: Sequence[Tensor], extra: Hashable) -> Hashable:
    """What of a call stays the same where only its numbers change."""
    return tuple((tensor.shape, tensor.dtype) for tensor in tensors), extra


def _no_forward(*tensors: Tensor) -> Result:
    raise CaptureError("a program that is never captured")
