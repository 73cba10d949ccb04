"""Pyro's SVI at the speed of compiled code: the same signature, the same numbers, the same parameter store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.infer.util import torch_item, zero_grads
from pyro.optim import PyroOptim
from pyro.util import warn_if_nan
from torch import Tensor

from ppl_vae import _private as private
from ppl_vae.capture import Engine, Explanation, Program
from ppl_vae.inference.accumulated import accumulate
from ppl_vae.inference.svi_forward import SVIForward, identity, leaves_in
from ppl_vae.inference.svi_rows import order, require_rows, require_shared, rows_at, stacked, warn_of_lost
from ppl_vae.inference.svi_update import as_pyro
from ppl_vae.objectives import Objective
from ppl_vae.training.interrupts import Interrupt, deferred_interrupt
from ppl_vae.training.threads import one_thread

MODES = ("auto", "eager", "require")
RARE = 32
"""Eager calls of a further signature before it is captured: an epoch's smaller last batch is not worth it."""

Again = Callable[[list[Tensor]], list[Tensor] | None]


class CompiledSVI(SVI):
    """A drop-in for :class:`pyro.infer.SVI`: change one line, and training is several times faster.

    The first call is Pyro's own (it creates parameters and the optimizer's state). In the second the whole gradient
    computation is traced, ``loss.loss_and_grads`` verbatim with its own backward, and compiled. The first compiled
    steps, and the steps 4, 8, 16, ... are compared with Pyro's own from the same state and noise; where they differ,
    Pyro's count, and stay. What cannot be captured stays eager; a :class:`~ppl_vae.capture.FallbackWarning` says why.

    Parameters, buffers, the optimizer and the parameter store are the caller's own, exactly as with ``SVI``. While
    compiled, Pyro's argument checks are made on the compared steps only, and a NaN shows in the loss (with Pyro's
    warning).

    Args:
        model, guide, optim, loss, loss_and_grads: as for :class:`pyro.infer.SVI`; ``optim`` may also be a
            ``torch.optim`` optimizer over all parameters.
        mode: "auto"; "eager" never captures; "require" raises ``CaptureError`` where "auto" would stay eager.
        wait: wait for the compiler in the second step. Else (but with "require") training goes on while another process
            compiles, its steps made by the captured graph, and goes over when it is done. The step at which it does is
            then up to the machine, and with it the last bits of the result.

    Raises:
        ValueError: ``optim`` is not an optimizer, or ``mode`` is unknown.
    """

    def __init__(
        self,
        model: Any,
        guide: Any,
        optim: Any,
        loss: Any,
        loss_and_grads: Any = None,
        *args: Any,
        mode: str = "auto",
        wait: bool = False,
        **kwargs: Any,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"CompiledSVI: mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
        wrapped = as_pyro(optim)
        super().__init__(model, guide, wrapped, loss, loss_and_grads, *args, **kwargs)
        self.optim = optim
        self.mode, self.wait = mode, wait
        self._given_optim, self._pyro_optim = optim, wrapped
        self.objective = loss if isinstance(loss, Objective) else None
        self._seen: dict[int, Tensor] = {}
        self._engine: Engine | None = None
        self._first: Program | None = None
        self._started = False
        self._asked: tuple[Any, ...] = ()
        self._interrupt = Interrupt()

    # -- what a person calls -------------------------------------------------------------------------------------------

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take a gradient step.

        Returns:
            The loss as a float, or a tuple of floats where Pyro's is one (``ReweightedWakeSleep``).
        """
        losses = self._captured(args, kwargs)
        if losses is None:
            return self._eager_step(args, kwargs)
        values = [float(loss) for loss in losses]
        if any(value != value for value in values):
            _warn_of_nan()
        return values[0] if len(values) == 1 else tuple(values)

    def run(self, data: Any, num_steps: int, batch_size: int | None = None) -> Tensor:
        """Make many steps on random mini-batches, gathered inside the compiled step; nothing waits between steps.

        Args:
            data: a tensor, or a tuple of tensors with rows along axis 0: what model and guide are called with.
            num_steps: how many.
            batch_size: rows a step, in the order of random permutations one after the other; None takes all rows.

        A parameter that is not finite after the last step, which no loss shows any more, is warned of.

        Returns:
            The losses, float64 (num_steps,), or (num_steps, K) where the loss is a tuple of K.

        Raises:
            ValueError, TypeError: the rows do not match, or a number is out of range.
            DataAxisError: a parameter has an entry for each row of a mini-batch; it is seen after the first step.
        """
        columns = tuple(data) if isinstance(data, list | tuple) else (data,)
        require_rows(columns, num_steps, batch_size)
        if batch_size is None:
            losses = [self._loss_of(columns, columns, gathered=False) for _ in range(num_steps)]
        else:
            losses = self._many(columns, order(len(columns[0]), batch_size, num_steps))
        result = stacked(losses)
        if bool(torch.isnan(result).any()):
            _warn_of_nan()
        if num_steps:
            warn_of_lost(self.leaves())
        return result

    def _many(self, columns: tuple[Tensor, ...], order: Iterator[Tensor]) -> list[Any]:
        losses: list[Any] = []
        again: Again | None = None
        try:
            with deferred_interrupt() as self._interrupt:
                for index in order:
                    step = again([index, *columns]) if again is not None else None
                    if step is None:
                        step = self._loss_of((index, *columns), columns, gathered=True)
                        if not losses and len(index) < len(columns[0]):  # after a step: Pyro has made the parameters
                            self._asked = require_shared(self, rows_at(index, *columns), self._asked)
                        again = self._repeated((index, *columns))
                    losses.append(step)
                    if self._interrupt.requested:
                        raise KeyboardInterrupt
        finally:
            self._interrupt = Interrupt()  # what has ended this run is not to end the next
        return losses

    def _repeated(self, given: tuple[Any, ...]) -> Again | None:
        """The captured step without a look at what has changed: within one run nobody else is at work."""
        found = self.program(given, {}, gathered=True) if self.mode != "eager" and self._started else None
        if found is None or not found[0].ready or self.objective is not None:
            return None
        program, forward = found[0], cast(SVIForward, found[0].forward)
        update, audit = forward.update.fused, program.record.last_audit
        if update is None or forward.others or forward.update.resting or not program.has_all_gradients:
            return None
        is_small = forward.is_small(found[1])

        def again(inputs: list[Tensor]) -> list[Tensor] | None:
            if not program.ready or program.record.last_audit != audit:  # the model's own code has run meanwhile
                return None
            with one_thread(is_small):
                result = program(inputs)
            if result is None:
                return None
            losses, grads = result
            update.again(cast(list[Tensor], grads))
            return losses

        return again

    def _loss_of(self, given: tuple[Any, ...], columns: tuple[Any, ...], *, gathered: bool) -> Any:
        losses = self._captured(given, {}, gathered=gathered)
        return losses if losses is not None else self._eager_step(rows_at(*given) if gathered else columns, {})

    def explain(self) -> Explanation:
        """What runs how, and why: a row for each argument signature. Print it."""
        return self._engine.explain() if self._engine is not None else Explanation([])

    # -- a step, captured ----------------------------------------------------------------------------------------------

    def _captured(self, args: Any, kwargs: Any, *, gathered: bool = False) -> list[Tensor] | None:
        """The losses of a step made by a graph; None if it is to be made eagerly."""
        if self.mode == "eager" or not self._started:  # the first step creates parameters and the optimizer's state
            return None
        found = self.program(args, kwargs, gathered=gathered)
        if found is None:
            return None
        program, inputs = found
        if self._first is None:
            self._first = program
            program.record.eager_steps += 1  # the very first step, which no program has seen
        patience = 0 if program is self._first else 1 if self.mode == "require" else RARE
        due = program.record.eager_steps >= patience
        result = self._by_program(program, inputs, due) if program.ready or due else None
        if result is None:
            program.record.eager_steps += 1
        return result

    def _by_program(self, program: Program, inputs: list[Tensor], due: bool = False) -> list[Tensor] | None:
        assert self._engine is not None
        if program.given_up:
            return self._engine.captured(program, inputs, due=due) and None  # it says why, once
        forward = cast(SVIForward, program.forward)
        if self.objective is not None:  # our own objectives have schedules, which advance from call to call
            self.objective.begin_call()
        with one_thread(forward.is_small(inputs)):
            result = self._engine.captured(program, inputs, due=due)
        if result is None:
            return None
        losses, grads = result
        with deferred_interrupt() as interrupt:
            self._update(forward, grads)
            if self.objective is not None:
                self.objective.end_call()
        if interrupt.requested:
            raise KeyboardInterrupt
        return losses

    def program(self, args: Any, kwargs: Any, *, gathered: bool = False) -> tuple[Program, list[Tensor]] | None:
        """The program of a call and the call's tensors; None where a call cannot be told from another one."""

        def forward(rebuild: Callable[[Sequence[Tensor]], Any]) -> SVIForward:
            return SVIForward(self, rebuild, gathered)

        parameters = identity() if private.missing() is None else None
        return self.engine().find(args, kwargs, forward, (gathered, parameters))

    def engine(self) -> Engine:
        """The programs of the present model, guide and loss."""
        roots = {"model": self.model, "guide": self.guide, "loss": self.loss_and_grads}
        if self._engine is None or any(self._engine.roots[name] is not root for name, root in roots.items()):
            required = self.mode == "require"
            self._engine = Engine(roots, who="CompiledSVI", required=required, waits=self.wait or required)
            self._engine.asked = lambda: self._interrupt.requested
        return self._engine

    def num_weights(self) -> int:
        """The numbers in all parameters that steps have announced."""
        return sum(leaf.numel() for leaf in self._seen.values())

    def leaves(self) -> list[Tensor]:
        """Every unconstrained parameter known by now: those in Pyro's store, and those that steps have announced."""
        leaves = {id(leaf): leaf for leaf in private.stored(pyro.get_param_store()).values()}
        return list({**leaves, **self._seen}.values())

    def _update(self, forward: SVIForward, grads: list[Tensor | None]) -> None:
        """The optimizer's step, by its fused kernels where it has some."""
        if forward.others:
            accumulate(forward.others, grads[len(forward.leaves) :])
        forward.update(self._optimizer(), forward.leaves, grads[: len(forward.leaves)])

    def _optimizer(self) -> PyroOptim:
        """The optimizer that the caller has set, as Pyro calls it."""
        if self.optim is not self._given_optim:
            self._given_optim, self._pyro_optim = self.optim, as_pyro(self.optim)
        return self._pyro_optim

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles capture anew."""
        return {**self.__dict__, "_engine": None, "_first": None, "_seen": {}}

    # -- a step, Pyro's own --------------------------------------------------------------------------------------------

    def _eager_step(self, args: Any, kwargs: Any) -> Any:
        """Pyro's step; an error or interrupt in its middle leaves the parameters as before it, and no gradients."""
        with poutine.trace(param_only=True) as seen:
            try:
                loss = self.loss_and_grads(self.model, self.guide, *args, **kwargs)
            except BaseException:
                zero_grads(leaves_in(seen))
                raise
        leaves = leaves_in(seen)
        self._seen.update((id(leaf), leaf) for leaf in leaves)
        with deferred_interrupt() as interrupt:
            self._optimizer()(leaves)  # type: ignore[arg-type]
            zero_grads(leaves)
            self._started = True
        if interrupt.requested:
            raise KeyboardInterrupt
        return type(loss)(map(torch_item, loss)) if isinstance(loss, tuple) else torch_item(loss)


def _warn_of_nan() -> None:
    """Pyro's own warning, which its losses give in an eager step."""
    warn_if_nan(torch.tensor(float("nan")), "loss")
