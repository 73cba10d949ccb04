"""Which steps of a fit run compiled: a rule in counts, never a clock, and a record of what was chosen.

Compiled arithmetic is eager arithmetic up to rounding. So that a seed means the same bits on every run, and after a
resume, the step at which a fit goes over depends on counts alone, and the choice is part of the state of the run.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ppl_vae.capture import Engine, Explanation, Program, Result, own_gradients
from ppl_vae.data.rows import Batch

LATEST = 500
"""The switch comes after the first epoch, whose rows are checked one by one, but no later than this step."""
WORTH = 10_000
"""Steps to come that earn back the seconds of compiling: measured in benchmarks/compiled_step.py, generously rounded."""

Choice = bool | str


class Compilation:
    """The choice for each kind of step (a shape of batch, and what moves).

    Args:
        choice: "auto" compiles what the rule finds worth it and can be captured; True compiles, and raises where it
            cannot; False never.
        per_epoch: steps of an epoch.

    Attributes:
        target: the step at which the run is to end.
    """

    def __init__(self, choice: Choice, roots: dict[str, Any], *, per_epoch: int = 1, device: str = "cpu") -> None:
        if choice not in ("auto", True, False):
            raise ValueError(f"compile must be 'auto', True or False, got {choice!r}")
        self.choice = choice
        self.target = 0
        self._switch = min(max(per_epoch, 2), LATEST)
        self._engine = Engine(roots, who="fit", required=choice is True)
        self._plan: dict[str, dict[str, Any]] = {}
        self._off = choice is False or (choice == "auto" and device != "cpu")

    def captured(
        self, gradients: Any, batch: Batch, step: int, moving: frozenset[str], leaves: list[Tensor]
    ) -> Result | None:
        """The values and gradients of a step by its graph; None if it is to be made eagerly.

        Args:
            gradients: the eager function of a batch: leaves gradients in ``.grad`` and returns values.
        """
        if self._off:
            return None

        def make_forward(rebuild: Any) -> Any:
            def forward(*tensors: Tensor) -> Result:
                (args, kwargs, index, num_data), _ = rebuild(tensors)
                with own_gradients(leaves):
                    values = gradients(Batch(args, kwargs, index, num_data))
                    return list(values), [leaf.grad for leaf in leaves]

            return forward

        parts = (batch.args, dict(batch.kwargs), batch.index, batch.num_data)
        found = self._engine.find(parts, {}, make_forward, moving)
        if found is None:
            return None
        program, inputs = found
        return self._by_plan(program, inputs, f"{'+'.join(sorted(moving))}: {program.record.signature}", step)

    def _by_plan(self, program: Program, inputs: list[Tensor], name: str, step: int) -> Result | None:
        entry = self._plan.setdefault(name, {"seen": 0, "start": None, "compiled": 0, "reason": ""})
        if entry["reason"] and not program.given_up:  # as a run that this one goes on from has found
            program.give_up(entry["reason"], quietly=True)
        if entry["start"] is None and not program.given_up:
            self._decide(entry, program, step)
        start = entry["start"]
        due = start is not None and step >= start
        if due and not program.ready:
            program.record.compiled_steps = entry["compiled"]
        result = self._engine.captured(program, inputs, due=due, anew=due and step > start)
        entry["compiled"] = program.record.compiled_steps
        if program.given_up:
            entry["reason"] = program.record.reason
        if result is None:
            program.record.eager_steps += 1
        return result

    def _decide(self, entry: dict[str, Any], program: Program, step: int) -> None:
        entry["seen"] += 1
        if step < self._switch or entry["seen"] < 2:
            return
        to_come = round((self.target - step) * entry["seen"] / (step + 1))
        if self.choice is True or to_come >= WORTH:
            entry["start"] = step
        else:
            program.record.reason = f"{max(to_come, 0)} such steps to come do not earn back compiling ({WORTH} do)"

    def explain(self) -> Explanation:
        """A row for each kind of step."""
        return self._engine.explain()

    def state(self) -> dict[str, Any]:
        """The choices made, as a plain tree."""
        return {name: dict(entry) for name, entry in self._plan.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Make the same choices again."""
        self._plan = {name: dict(entry) for name, entry in state.items()}

