"""Until it is done: a rate found by the data, phases of a constant rate, averaged iterates, a stop that is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.inference.common_noise import Gain, gain, measured
from ppl_vae.inference.look import RATES, TRIED_FIRST, Look, doubling, left_to_gain, next_rate
from ppl_vae.objectives import Objective
from ppl_vae.training.callbacks import Callback
from ppl_vae.training.gradient_step import GradientStep
from ppl_vae.training.nonfinite import NonFiniteError
from ppl_vae.training.stationarity import split_rhat, trend_of
from ppl_vae.training.trainer import Trainer, put
from ppl_vae.training.undo import copied
from ppl_vae.training.window import Sketch, Window

__all__ = ["MAX_STEPS", "Convergence"]

MAX_STEPS = 100_000
"""Steps after which a run that has not converged ends, where nobody says otherwise."""
TRIAL = 50
"""Steps of each trial of a rate."""
FIRST = 100
"""Steps of the first window."""
GROWTH = 1.5
"""A window that was not at rest is followed by one so much longer."""
MOST_RUNS = 64
"""Runs of the pair for each setting that is measured, at most: those of all settings are no more than the steps of the
window, if eight of each are enough."""
MOST_MENDS = 12
"""So often a run that met a NaN goes on with a lower rate."""


class Convergence(Callback):
    """The rule of ``VariationalEM.fit(until="converged")``.

    A few rates are tried for 50 steps each, from the same start; the run goes on from where the best has come, with
    the rate below it. Then come phases of a constant rate, in windows of growing length. After each window the mean
    iterates of its halves and of all of it, and those of earlier windows, are measured on the same noise. A phase
    is over when its window is at rest (the objective of its steps has no trend; the iterates walk about a mean, by
    R-hat or in nats), and when a lower rate promises more than more steps do: then the rate is halved, and the run
    goes on from the mean iterate. It stops when no trend is left and what going on is predicted to add is no more
    than half of ``tol``; the mean iterate of the last window is the answer.

    Args:
        tol: what may be left to gain, nats per datum; half of it is for what the prediction misses.
        seed: of the noise on which answers are measured.
        searches: are rates tried? Else the optimizer's own is that of the first phase.
        objective: what is measured, where it is not the step's own (the same with more draws).
        is_settled: are objective and schedule, at this step, what they will be from then on?
        has_plateaus: may the way have some, as that of networks has? Then the slope within a window counts too. The
            walk of a few parameters about their mean looks like one.

    Sources: Welandawe, Andersen, Vehtari, Huggins, "A Framework for Improving the Reliability of Black-box Variational
    Inference", 2024; Dhaka, Catalina, Andersen, Magnusson, Huggins, Vehtari, "Robust, Accurate Stochastic Optimization
    for Variational Inference", 2020; Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992.
    """

    watches_epochs = False

    def __init__(
        self,
        tol: float,
        *,
        seed: int = 0,
        searches: bool = True,
        is_settled: Callable[[int], bool] = lambda step: True,
        objective: Objective | None = None,
        has_plateaus: bool = False,
    ) -> None:
        self.objective, self.has_plateaus = objective, has_plateaus
        self.tol, self.seed, self.searches, self.is_settled = tol, fold(seed, "convergence"), searches, is_settled
        self._forget()

    def _forget(self) -> None:
        self.done, self.mends, self.time = False, 0, 0.0
        self.number: int | None = None  # of the rate that is being tried
        self.factor = 1.0  # of the optimizer's own rates
        self.tried: dict[int, float] = {}
        self.phases: list[dict[str, Any]] = []
        self.window = Window(0, TRIAL)
        self._start: dict[str, Any] = {}  # of the trials, or of the phase
        self._best: dict[str, Any] = {}  # where the best trial ended
        self._answer: dict[str, Tensor] = {}
        self._miles: list[dict[str, Any]] = []  # mean iterates on the way, with their time
        self._sketch: Sketch | None = None

    # -- what a run tells ----------------------------------------------------------------------------------------------

    def on_start(self, run: Trainer) -> None:  # type: ignore[override]
        """Begin, or go on where the run stopped."""
        if run.step == 0:
            self._forget()
        leaves = [leaf for members in _step_of(run).leaves.values() for leaf in members.values()]
        self._sketch = Sketch(leaves, self.seed)
        if run.step == 0:
            self._start = _snapshot(run)
            if self.searches:
                self._try(run, TRIED_FIRST)
            else:
                self._begin_phase(run, self._whole(run, FIRST))
        if self.done:
            run.stop("converged")
        self._promise(run)

    def on_step(self, run: Trainer, report: Tensor) -> None:  # type: ignore[override]
        """Take a step; at the end of a window, look."""
        assert self._sketch is not None
        self.window.add(run.step, report[0], _moving(run), self._sketch)
        if run.step >= self.window.end:
            if self.number is None:
                self._look(run)
            else:
                self._end_trial(run)
            self._promise(run)

    def on_nonfinite(self, run: Trainer, error: NonFiniteError) -> bool:  # type: ignore[override]
        """Go back to the start of the trial or the phase, with a lower rate."""
        if self.number is not None:
            return self._close_trial(run, -math.inf)
        self.mends += 1
        if self.mends > MOST_MENDS:
            return False
        _go_to(run, self._start)
        self.factor /= 2
        self._begin_phase(run, self.window.length)
        return True

    def on_end(self, run: Trainer) -> None:  # type: ignore[override]
        """Give the pair the answer: after an early end, the better of the last one and the iterate as it is."""
        if run.ended == "completed":
            run.ended = "converged" if self.done else f"not converged after {run.step} steps"
        if not self._answer or run.ended in ("failed", "non-finite"):
            return
        if not self.done:
            now, answer = self._measured(run, [_moving(run), self._answer])
            if not gain(now, answer).value > 0:
                return
        run.freeze_state()  # a resumed run goes on from the iterate
        put(self._answer, {name: run.make.tensors()[name] for name in self._answer})

    # -- trials of rates -----------------------------------------------------------------------------------------------

    def _try(self, run: Trainer, number: int) -> None:
        _go_to(run, self._start)
        self.number, self.factor = number, RATES[number] / _rate(run)
        self._set_rates(run)
        self.window = Window(run.step, TRIAL)

    def _end_trial(self, run: Trainer) -> None:
        assert self.number is not None
        before, after = self._measured(run, [self._start["tensors"], _moving(run)], tol=math.inf)
        gained = gain(before, after).value
        if math.isfinite(gained) and gained > max(self.tried.values(), default=-math.inf):
            self._best = _snapshot(run)
        self._close_trial(run, gained if math.isfinite(gained) else -math.inf)

    def _close_trial(self, run: Trainer, gained: float) -> bool:
        assert self.number is not None
        self.tried[self.number] = gained
        following = next_rate(self.tried)
        if following is not None:
            self._try(run, following)
            return True
        if not self._best:  # not even the smallest rate makes finite steps
            return False
        best = max(self.tried, key=lambda number: self.tried[number])
        # Fifty steps reward haste: the fastest rate is too noisy for a phase, and takes many halvings.
        self.number, self.factor = None, RATES[max(0, best - 1)] / _rate(run)
        self.time = self.factor * TRIAL
        _go_to(run, self._best)
        self._start, self._best = self._best, {}
        self._begin_phase(run, self._whole(run, FIRST))
        return True

    # -- phases --------------------------------------------------------------------------------------------------------

    def _begin_phase(self, run: Trainer, length: int) -> None:
        self._set_rates(run)
        self.window = Window(run.step, length)

    def _look(self, run: Trainer) -> None:
        window, mean = self.window, self.window.mean()
        self.time += self.factor * window.length
        if not self.is_settled(run.step):
            self.time, self._miles = 0.0, []
            self.window = Window(run.step, window.length)
            return
        look = self._seen(run, mean)
        self._remember(mean)
        if look.is_done:
            self._end_phase(run, look, mean)
            self.done = True
            run.stop("converged")
        elif look.is_at_rest and look.is_noise:
            self._end_phase(run, look, mean)
            put(self._answer, {name: run.make.tensors()[name] for name in self._answer})
            self.factor /= 2
            self._start = _snapshot(run)
            self._begin_phase(run, window.length)
        else:
            self.window = Window(run.step, self._whole(run, GROWTH * window.length))

    def _end_phase(self, run: Trainer, look: Look, mean: dict[str, Tensor]) -> None:
        self.phases.append({"factor": self.factor, "step": run.step, "pay": look.pay, **_plain(look)})
        if look.progress is None or look.progress.value > 0:
            self._answer = mean

    @property
    def _middle(self) -> float:
        """The time in the middle of the window that is over."""
        return self.time - self.factor * self.window.length / 2

    def _remember(self, mean: dict[str, Tensor]) -> None:
        """Mean iterates of the last three quarters of the way, and the one before them."""
        self._miles.append({"time": self._middle, "tensors": mean})
        while len(self._miles) > 2 and self._miles[1]["time"] <= self._middle / 4:
            del self._miles[0]

    def _seen(self, run: Trainer, mean: dict[str, Tensor]) -> Look:
        window, before = self.window, [self._answer] if self._answer else []
        passed = [self._mile(self._middle / 4), self._mile(self._middle / 2)]
        miles = [mile for mile in passed if mile is not None and mile["time"] < self._middle]
        if len(miles) == 2 and miles[0]["time"] == miles[1]["time"]:
            del miles[0]
        settings = [*before, *(mile["tensors"] for mile in miles), window.first.tensors, window.second.tensors, mean]
        *others, first, second, whole = self._measured(run, settings)
        trend = trend_of(window.objective())
        on_the_way = others[len(before) :]
        drift, monte_carlo = gain(first, second), gain((first + second) / 2, whole).value
        remaining = self._remaining([mile["time"] for mile in miles], [*on_the_way, whole])
        return Look(
            drift=drift,
            monte_carlo=monte_carlo,
            progress=gain(others[0], whole) if before else None,
            remaining=max(remaining, self._ahead(drift, monte_carlo) if self.has_plateaus else 0.0),
            rises=trend is not None and trend.is_up,
            rhat=float(np.quantile(split_rhat(window.path()), 0.9)),
            tol=self.tol,
        )

    def _mile(self, time: float) -> dict[str, Any] | None:
        """The mean iterate that was passed about then."""
        return min(self._miles, key=lambda mile: abs(math.log(mile["time"] / time)), default=None)

    def _remaining(self, times: list[float], objectives: list[np.ndarray]) -> float:
        """What is left to gain, from the objective at no, one or two earlier times and now."""
        ways = zip(pairwise(objectives), pairwise([*times, self._middle]), strict=True)
        *before, last = [None, *(doubling(gain(*ends), *when) for ends, when in ways)]
        return math.inf if last is None else left_to_gain(last, before[-1])

    def _ahead(self, drift: Gain, monte_carlo: float) -> float:
        """What is left to gain, by the slope within the window, where that is more than a walk about a mean makes.

        Earlier answers may lie on a plateau that this window has left.
        """
        if drift.value <= max(2 * drift.standard_error, 2 * monte_carlo):
            return 0.0
        quarter = self.factor * self.window.length / 4
        return left_to_gain(doubling(drift, self.time - 3 * quarter, self.time - quarter), None)

    def _measured(self, run: Trainer, settings: list[Any], *, tol: float | None = None) -> list[np.ndarray]:
        tol = self.tol / 5 if tol is None else tol
        measure = run.make.measure if self.objective is None else partial(self.objective.measure, run.pair)
        live = run.make.tensors()
        most = min(MOST_RUNS, self.window.length // len(settings))
        return measured(run.pair, measure, run.batches, live, settings, seed=self.seed, tol=tol, most=most)

    # -- the run -------------------------------------------------------------------------------------------------------

    def _whole(self, run: Trainer, length: float) -> int:
        """So many steps, or a few more: whole epochs."""
        per_epoch = run.batches.per_epoch
        return math.ceil(length / per_epoch) * per_epoch

    def _set_rates(self, run: Trainer) -> None:
        initial = _step_of(run).rates.initial
        for group in _step_of(run).optimizer.param_groups:
            group["lr"] = initial[group.get("name", "all")] * self.factor

    def _promise(self, run: Trainer) -> None:
        """Nobody knows how many steps there will be: as many again as have been, says the rule for compiling."""
        run.make.before_run(self.window.begin * 2)

    # -- state ---------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The place of the rule: rates, phases, means."""
        numbers = {name: getattr(self, name) for name in ("done", "mends", "time", "number", "factor", "phases")}
        return {
            **numbers,
            "tried": [[number, gained] for number, gained in self.tried.items()],
            "window": self.window.state(),
            "start": self._start,
            "best": self._best,
            "answer": dict(self._answer),
            "miles": [dict(mile) for mile in self._miles],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        self.done, self.mends, self.time = bool(state["done"]), int(state["mends"]), float(state["time"])
        self.number, self.factor = state["number"], float(state["factor"])
        self.phases = [dict(phase) for phase in state["phases"]]
        self.tried = {int(number): float(gained) for number, gained in state["tried"]}
        self.window = Window.of(state["window"])
        self._start, self._best, self._answer = (copied(state[name]) for name in ("start", "best", "answer"))
        self._miles = copied(state["miles"])


def _plain(look: Look) -> dict[str, Any]:
    return {name: value for name, value in asdict(look).items() if value is not None}


def _step_of(run: Trainer) -> GradientStep:
    """The step of a variational fit, whose rates are moved."""
    assert isinstance(run.make, GradientStep)
    return run.make


def _rate(run: Trainer) -> float:
    return float(next(iter(_step_of(run).rates.initial.values())))


def _moving(run: Trainer) -> dict[str, Tensor]:
    """What is averaged: all that steps change and that is a real number."""
    return {name: tensor for name, tensor in run.make.tensors().items() if tensor.is_floating_point()}


def _snapshot(run: Trainer) -> dict[str, Any]:
    tensors = {name: tensor.detach().clone() for name, tensor in run.make.tensors().items()}
    return {"tensors": tensors, "optimizer": copied(run.make.state()["optimizer"])}


def _go_to(run: Trainer, snapshot: Mapping[str, Any]) -> None:
    """Parameters, buffers and what the optimizer remembers; the rates are set after it."""
    put(snapshot["tensors"], run.make.tensors())
    run.make.load_state({**run.make.state(), "optimizer": copied(snapshot["optimizer"])})
