"""Which steps of a fit run compiled: a rule in counts, never a clock, and a record of what was chosen.

Compiled arithmetic is eager arithmetic up to rounding. So that a seed means the same bits on every run, and after a
resume, the step at which a fit goes over depends on counts alone, and the choice is part of the state of the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from ppl_vae.capture import Engine, Explanation, Program, Result, own_gradients
from ppl_vae.capture.program import Forward
from ppl_vae.capture.signature import described
from ppl_vae.data.rows import Batch
from ppl_vae.training.subset import Subset

LATEST = 500
"""The switch comes after the first epoch, whose rows are checked one by one, but no later than this step."""
WORTH = 15_000
"""Steps to come that earn back the seconds of compiling: as benchmarks/compiled_step.py finds them, rounded."""

AHEAD = 2
"""The step at which another process begins to compile what the switch needs. No step hangs on when it is done."""
SAMPLE = 1000
"""Steps of the schedule that are looked at, to tell what part of them is of a kind."""

Choice = bool | str
Gradients = Callable[[Batch], tuple[Tensor, ...]]


class Compilation:
    """The choice for each kind of step (a shape of batch, and what moves).

    Args:
        choice: "auto" compiles what the rule finds worth it and can be captured; True compiles, and raises where it
            cannot; False never. Steps on the smaller last batch of an epoch are compiled only if they are worth it.
        roots: what python state a step can read.
        moves: which groups move in a step, to tell how many steps of a kind there will be.
        per_epoch: steps of an epoch.
        usual_size: rows of a batch, but for the last one of an epoch.

    Attributes:
        target: the step at which the run is to end.
    """

    def __init__(
        self,
        choice: Choice,
        roots: dict[str, Any],
        *,
        moves: Callable[[int], Subset | Iterable[str]] | None = None,
        per_epoch: int = 1,
        usual_size: int | None = None,
        device: str = "cpu",
    ) -> None:
        if choice not in ("auto", True, False):
            raise ValueError(f"compile must be 'auto', True or False, got {choice!r}")
        self.choice, self.target = choice, 0
        self._moves, self._per_epoch, self._usual_size = moves, per_epoch, usual_size
        self._switch = min(max(per_epoch, 2), LATEST)
        self._engine = Engine(roots, who="fit", required=choice is True)
        self._plan: dict[str, dict[str, Any]] = {}
        self._rejected: dict[str, int] = {}
        self._off = choice is False or (choice == "auto" and device != "cpu")

    def captured(
        self, gradients: Gradients, batch: Batch, step: int, moving: Subset, leaves: list[Tensor]
    ) -> Result | None:
        """The values and gradients of a step by its graph; None if it is to be made eagerly.

        Args:
            gradients: the eager function of a batch: leaves gradients in ``.grad`` and returns values.
        """
        if self._off:
            return None

        def make_forward(rebuild: Any) -> Forward:
            def forward(*tensors: Tensor) -> Result:
                (args, kwargs, index, num_data), _ = rebuild(tensors)
                with own_gradients(leaves):
                    values = gradients(Batch(args, kwargs, index, num_data))
                    return list(values), [leaf.grad for leaf in leaves]

            return forward

        def name() -> str:
            return f"{described(batch.args, batch.kwargs)} -> {moving.label}"

        parts = (batch.args, dict(batch.kwargs), batch.index, batch.num_data)
        found = self._engine.find(parts, {}, make_forward, moving, name)
        return None if found is None else self._by_plan(*found, batch, step, moving)

    def _by_plan(
        self, program: Program, inputs: list[Tensor], batch: Batch, step: int, moving: Subset
    ) -> Result | None:
        name = program.record.signature
        entry = self._plan.get(name)
        undecided = entry is None and step >= self._switch and self._rejected.get(name) != self.target
        if undecided and self._is_worth_it(program, batch, step, moving):
            entry = self._plan[name] = {"start": step, "compiled": 0, "reason": ""}
        if entry is None:
            if AHEAD <= step < self._switch and self._steps_to_come(batch, self._switch, moving) >= WORTH:
                self._engine.prepare(program, inputs)
            program.record.eager_steps += 1
            return None
        if entry["reason"] and not program.given_up:  # as a run that this one goes on from has found
            program.give_up(entry["reason"], quietly=True)
        if not program.ready:
            program.record.compiled_steps = entry["compiled"]
        result = self._engine.captured(program, inputs, due=True, anew=step > entry["start"])
        entry["compiled"], entry["products"] = program.record.compiled_steps, program.record.products
        if program.given_up:
            entry["reason"] = program.record.reason
        if result is None:
            program.record.eager_steps += 1
        return result

    def _is_worth_it(self, program: Program, batch: Batch, step: int, moving: Subset) -> bool:
        to_come = self._steps_to_come(batch, step, moving)
        if to_come >= WORTH:
            return True
        if not program.given_up:  # which has a reason of its own
            program.record.reason = f"about {to_come:.0f} such steps to come do not earn back compiling ({WORTH} do)"
        self._rejected[program.record.signature] = self.target  # until a longer run is asked for
        return False

    def _steps_to_come(self, batch: Batch, step: int, moving: Subset) -> float:
        """So many steps of this kind come after this one; infinite where compiling is required."""
        is_usual = self._usual_size is None or batch.size == self._usual_size
        if self.choice is True and is_usual:
            return math.inf
        share = 1.0 if is_usual else 1 / self._per_epoch
        if self._moves is not None:
            share *= sum(Subset.of(self._moves(step + i)) == moving for i in range(SAMPLE)) / SAMPLE
        return max(round((self.target - step) * share), 0)

    def listen(self, say: Callable[[str], None], asked: Callable[[], bool] = lambda: False) -> None:
        """Tell what a step waits for, and wait no longer when an end has been asked for."""
        self._engine.say, self._engine.asked = say, asked

    def explain(self) -> Explanation:
        """A row for each kind of step."""
        return self._engine.explain()

    def state(self) -> dict[str, Any]:
        """The choices made, as a plain tree."""
        return {name: dict(entry) for name, entry in self._plan.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Make the same choices again, and from the same counts: a run that goes back comes the same way once more."""
        self._plan = {name: dict(entry) for name, entry in state.items()}
        for key, program in list(self._engine.programs.items()):
            entry = self._plan.get(program.record.signature)
            if entry is not None:
                program.record.compiled_steps = entry["compiled"]
            elif program.ready:  # captured later than the place that the run goes back to
                del self._engine.programs[key]
