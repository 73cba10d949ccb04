"""Pyro's SVI at the speed of compiled code: the same signature, the same numbers, the same parameter store."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.infer.util import torch_item, zero_grads
from pyro.optim import PyroOptim
from pyro.util import warn_if_nan
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ppl_vae.capture import CaptureError, Engine, Explanation, Program, Result, Update, own_gradients
from ppl_vae.inference.gradients import Zeros, accumulate
from ppl_vae.objectives import Objective
from ppl_vae.training.interrupts import deferred_interrupt
from ppl_vae.training.threads import is_small, one_thread

MODES = ("auto", "eager", "require")
RARE = 32
"""Eager calls of a further signature before it is captured: an epoch's smaller last batch is not worth it."""
CHUNK = 4096
"""Steps for which :meth:`CompiledSVI.run` draws the order of the rows at once."""

_needs_grad = operator.attrgetter("requires_grad")
_hooks = operator.attrgetter("_backward_hooks")
_late_hooks = operator.attrgetter("_post_accumulate_grad_hooks")
_is_there = functools.partial(operator.is_not, None)


class CompiledSVI(SVI):
    """A drop-in for :class:`pyro.infer.SVI`: change one line, and training is several times faster.

    The first call is Pyro's own (it creates parameters and the optimizer's state). In the second the whole gradient
    computation is traced, ``loss.loss_and_grads`` verbatim with its own backward, and compiled. The first compiled
    steps, and the steps 4, 8, 16, ... are compared with Pyro's own from the same state and noise; where they differ,
    Pyro's count, and stay. What cannot be captured stays eager, with one :class:`~ppl_vae.capture.FallbackWarning` that
    says why and where.

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
        wrapped = _OneOptimizer(optim) if isinstance(optim, torch.optim.Optimizer) else optim
        super().__init__(model, guide, wrapped, loss, loss_and_grads, *args, **kwargs)
        self.optim = optim
        self.mode, self.wait = mode, wait
        self._given_optim, self._pyro_optim = optim, wrapped
        self._objective = loss if isinstance(loss, Objective) else None
        self._seen: dict[int, Tensor] = {}
        self._engine: Engine | None = None
        self._first: Program | None = None
        self._started = False

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

        Returns:
            The losses, float64 (num_steps,), or (num_steps, K) where the loss is a tuple of K.

        Raises:
            ValueError, TypeError: the rows do not match, or a number is out of range.
        """
        columns = tuple(data) if isinstance(data, list | tuple) else (data,)
        _require_rows(columns, num_steps, batch_size)
        if batch_size is None:
            losses = [self._loss_of(columns, columns, gathered=False) for _ in range(num_steps)]
        else:
            losses = self._many(columns, _order(len(columns[0]), batch_size, num_steps))
        result = _stacked(losses)
        if bool(torch.isnan(result).any()):
            _warn_of_nan()
        return result

    def _many(self, columns: tuple[Tensor, ...], order: Iterator[Tensor]) -> list[Any]:
        losses: list[Any] = []
        again: Callable[[list[Tensor]], list[Tensor] | None] | None = None
        with deferred_interrupt() as interrupt:
            for index in order:
                step = again([index, *columns]) if again is not None else None
                if step is None:
                    step = self._loss_of((index, *columns), columns, gathered=True)
                    again = self._repeated((index, *columns))
                losses.append(step)
                if interrupt.requested:
                    raise KeyboardInterrupt
        return losses

    def _repeated(self, given: tuple[Any, ...]) -> Callable[[list[Tensor]], list[Tensor] | None] | None:
        """The captured step without a look at what has changed: within one run nobody else is at work."""
        found = self.program(given, {}, gathered=True) if self.mode != "eager" and self._started else None
        if found is None or not found[0].ready or self._objective is not None:
            return None
        program, forward = found[0], cast(_Forward, found[0].forward)
        update, audit = forward.update, program.record.last_audit
        if update is None or forward.others or forward.resting or not program.has_all_gradients:
            return None
        is_small = self._is_small(forward, found[1])

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
        return losses if losses is not None else self._eager_step(_gathered(*given) if gathered else columns, {})

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
        forward = cast(_Forward, program.forward)
        if self._objective is not None:  # our own objectives have schedules, which advance from call to call
            self._objective.begin_call()
        with one_thread(self._is_small(forward, inputs)):
            result = self._engine.captured(program, inputs, due=due)
        if result is None:
            return None
        losses, grads = result
        with deferred_interrupt() as interrupt:
            self._update(forward, grads)
            if self._objective is not None:
                self._objective.end_call()
        if interrupt.requested:
            raise KeyboardInterrupt
        return losses

    def program(self, args: Any, kwargs: Any, *, gathered: bool = False) -> tuple[Program, list[Tensor]] | None:
        """The program of a call and the call's tensors; None where a call cannot be told from another one."""

        def forward(rebuild: Callable[[Sequence[Tensor]], Any]) -> _Forward:
            return _Forward(self, rebuild, gathered)

        return self._current_engine().find(args, kwargs, forward, self._identity(gathered))

    def _current_engine(self) -> Engine:
        roots = {"model": self.model, "guide": self.guide, "loss": self.loss_and_grads}
        if self._engine is None or any(self._engine.roots[name] is not root for name, root in roots.items()):
            required = self.mode == "require"
            self._engine = Engine(roots, who="CompiledSVI", required=required, waits=self.wait or required)
        return self._engine

    def _identity(self, gathered: bool) -> Any:
        """Which parameters there are: a store that was cleared has others, of the same names and shapes."""
        leaves = list(pyro.get_param_store()._params.values())
        is_hooked = any(map(_hooks, leaves)) or any(map(_late_hooks, leaves))
        return gathered, tuple(map(id, leaves)), tuple(map(_needs_grad, leaves)), is_hooked

    def _is_small(self, forward: _Forward, inputs: list[Tensor]) -> bool:
        if forward.small is None:
            rows = max((len(t) for t in inputs[:1] if t.dim()), default=1)
            weights = sum(leaf.numel() for leaf in self._seen.values())
            particles = getattr(getattr(self.loss_and_grads, "__self__", None), "num_particles", 1)
            forward.small = is_small(weights, rows * particles, inputs[0].numel() if inputs else 0)
        return forward.small

    def leaves(self) -> list[Tensor]:
        """Every unconstrained parameter known by now: those in Pyro's store, and those that steps have announced."""
        leaves = {id(leaf): leaf for leaf in pyro.get_param_store()._params.values()}
        return list({**leaves, **self._seen}.values())

    def _update(self, forward: _Forward, grads: list[Tensor | None]) -> None:
        """The optimizer's step, by its fused kernels where it has some."""
        if len(grads) > len(forward.leaves):
            accumulate(forward.others, grads[len(forward.leaves) :])
            grads = grads[: len(forward.leaves)]
        optimizers = list(self._optimizer().optim_objs.values())
        if forward.update is None or optimizers != forward.optimizers or self._move_others(forward, grads):
            forward.moved, forward.optimizers = self._moved(forward, grads), optimizers
            forward.zeros = Zeros(forward.moved)
            forward.update = self._fused(forward)
        # A parameter without a gradient here that had one in a step of another kind is moved by zero, as in Pyro.
        pairs = zip(forward.leaves, grads, strict=True)
        given = [g for g in (grad if grad is not None else leaf.grad for leaf, grad in pairs) if g is not None]
        if not forward.zeros.hold():
            given = forward.zeros.added(given)
        if forward.update is not None and all(leaf.grad is None for leaf in forward.resting):
            forward.update(given)
            return
        before = [leaf.grad for leaf in forward.moved]
        for leaf, grad in zip(forward.moved, given, strict=True):
            leaf.grad = grad
        self._pyro_optim(forward.leaves)  # those without a gradient too: a scheduled or decaying rate is theirs as well
        for leaf, was in zip(forward.moved, before, strict=True):
            leaf.grad = was

    def _optimizer(self) -> PyroOptim:
        """The optimizer that the caller has set, as Pyro calls it."""
        if self.optim is not self._given_optim:
            is_torch = isinstance(self.optim, torch.optim.Optimizer)
            self._given_optim, self._pyro_optim = self.optim, _OneOptimizer(self.optim) if is_torch else self.optim
        return self._pyro_optim

    def _moved(self, forward: _Forward, grads: list[Tensor | None]) -> list[Tensor]:
        pairs = zip(forward.leaves, grads, strict=True)
        return [leaf for leaf, grad in pairs if grad is not None or leaf.grad is not None]

    def _move_others(self, forward: _Forward, grads: list[Tensor | None]) -> bool:
        """Has a leaf come to a gradient, in a step of another kind or by the caller, or lost its own?"""
        if len(forward.moved) == len(forward.leaves) and all(map(_is_there, grads)):
            return False
        now = self._moved(forward, grads)
        return len(now) != len(forward.moved) or not all(map(operator.is_, now, forward.moved))

    def _fused(self, forward: _Forward) -> Update | None:
        """The optimizers' kernels for what moves; None where the optimizers themselves must be called."""
        found: list[Any] = [self._pyro_optim.optim_objs.get(leaf) for leaf in forward.leaves]
        if self._pyro_optim.pt_clip_args or any(optimizer is None for optimizer in found):
            return None
        every = [getattr(optimizer, "optimizer", optimizer) for optimizer in found]  # a scheduler holds its own
        leaves, moved = forward.moved, set(map(id, forward.moved))
        pairs = list(zip(forward.leaves, every, strict=True))
        optimizers = [optimizer for leaf, optimizer in pairs if id(leaf) in moved]
        if any(_decays(optimizer) for leaf, optimizer in pairs if id(leaf) not in moved):
            return None
        held = {id(leaf): leaf for optimizer in optimizers for g in optimizer.param_groups for leaf in g["params"]}
        forward.resting = [leaf for key, leaf in held.items() if key not in moved]
        return Update(leaves, optimizers) if Update.refuses(leaves, optimizers) is None else None

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
                zero_grads(_leaves_in(seen))
                raise
        leaves = _leaves_in(seen)
        self._seen.update((id(leaf), leaf) for leaf in leaves)
        with deferred_interrupt() as interrupt:
            self._optimizer()(leaves)  # type: ignore[arg-type]
            zero_grads(leaves)
            self._started = True
        if interrupt.requested:
            raise KeyboardInterrupt
        return type(loss)(map(torch_item, loss)) if isinstance(loss, tuple) else torch_item(loss)


class _Forward:
    """``loss_and_grads`` as a function of the call's tensors, which returns the gradients instead of leaving them."""

    def __init__(self, svi: CompiledSVI, rebuild: Callable[[Sequence[Tensor]], Any], gathered: bool) -> None:
        self._svi, self._rebuild, self._gathered = svi, rebuild, gathered
        self.leaves: list[Tensor] = []
        self.others: list[Tensor] = []  # they get gradients, but no site announces them: their gradients add up
        self.small: bool | None = None
        self.moved: list[Tensor] = []  # those among the leaves that the optimizer gets
        self.resting: list[Tensor] = []  # the optimizers hold them too, and nothing has moved them yet
        self.zeros = Zeros([])
        self.optimizers: list[Any] = []
        self.update: Update | None = None

    def __call__(self, *tensors: Tensor) -> Result:
        svi = self._svi
        args, kwargs = self._rebuild(tensors)
        fn = svi._objective.accumulate_grads if svi._objective is not None else svi.loss_and_grads
        known = self.leaves or svi.leaves()
        others = self.others if self.leaves else self._possible_others(known, (args, kwargs))
        with own_gradients([*known, *others]), _kept_store(), poutine.trace(param_only=True) as seen:
            loss = fn(svi.model, svi.guide, *(_gathered(*args) if self._gathered else args), **kwargs)
            moved = {id(leaf) for leaf in _leaves_in(seen)}
            if not moved <= {id(leaf) for leaf in known}:
                raise CaptureError("a parameter appears that earlier steps did not have")
            if self.leaves and len(moved) < len(self.leaves):
                raise CaptureError("a parameter of earlier steps is not announced any more")
            if not self.leaves:
                rest = [*(leaf for leaf in known if id(leaf) not in moved), *others]
                self.others = [leaf for leaf in rest if leaf.grad is not None]
            self.leaves = [leaf for leaf in known if id(leaf) in moved]
            grads = [leaf.grad for leaf in (*self.leaves, *self.others)]
        losses = loss if isinstance(loss, tuple) else (loss,)
        return [torch.as_tensor(value, dtype=torch.float64).detach() for value in losses], grads

    def _possible_others(self, known: list[Tensor], arguments: Any) -> list[Tensor]:
        """Leaves that no site has announced: of a network that is no part of the store, or among the arguments."""
        engine = self._svi._current_engine()
        seen = engine.watch.leaves()
        found = [*seen, *(a for a in tree_leaves(arguments) if isinstance(a, Tensor))]
        unseen = {id(leaf) for leaf in known if _hooks(leaf) or _late_hooks(leaf)}.difference(map(id, seen))
        if unseen:
            raise CaptureError("a parameter of Pyro's store has a hook, which may do what a graph cannot")
        given = {id(leaf) for leaf in known}
        others = {id(leaf): leaf for leaf in found if leaf.requires_grad and leaf.is_leaf and id(leaf) not in given}
        return list(others.values())


@contextmanager
def _kept_store() -> Iterator[None]:
    """Pyro's decaying-average baseline puts new tensors into the store in every step: no graph would see them."""
    store = pyro.get_param_store()
    before = dict(store._params)
    replaced: list[str] = []
    try:
        yield
    finally:
        replaced = [name for name, leaf in store._params.items() if before.get(name) is not leaf]
        for name in replaced:
            leaf = store._params.pop(name)
            store._param_to_name.pop(leaf, None)
            if name in before:
                store._params[name] = before[name]
                store._param_to_name[before[name]] = name
    if replaced:
        raise CaptureError(
            f"a step replaces the parameter {replaced[0]!r} of Pyro's store, as a decaying baseline does"
        )


class _OneOptimizer(PyroOptim):
    """A torch optimizer that holds all parameters, where Pyro has one optimizer a parameter."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(type(optimizer), {})
        self._optimizer = optimizer
        self.optim_objs = {leaf: optimizer for group in optimizer.param_groups for leaf in group["params"]}

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Move the leaves that have a gradient."""
        if any(leaf not in self.optim_objs for leaf in params):
            self.optim_objs = {leaf: self._optimizer for g in self._optimizer.param_groups for leaf in g["params"]}
        foreign = [leaf for leaf in params if leaf not in self.optim_objs]
        if foreign:
            store = pyro.get_param_store()
            names = ", ".join(str(store._param_to_name.get(leaf, tuple(leaf.shape))) for leaf in foreign)
            raise ValueError(
                f"CompiledSVI: the torch optimizer must hold every parameter of model and guide, but not {names}; run "
                "model and guide once before it is made, or take a pyro.optim optimizer"
            )
        self._optimizer.step()


def _decays(optimizer: Any) -> bool:
    """Does a step change its rate, whether or not there is a gradient? ``ClippedAdam`` does."""
    return any(group.get("lrd", 1.0) != 1.0 for group in optimizer.param_groups)


def _warn_of_nan() -> None:
    """Pyro's own warning, which its losses give in an eager step."""
    warn_if_nan(torch.tensor(float("nan")), "loss")


def _leaves_in(seen: Any) -> set[Tensor]:
    return {site["value"].unconstrained() for site in seen.trace.nodes.values()}


def _gathered(index: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    return tuple(column.index_select(0, index) for column in columns)


def _order(num_rows: int, batch_size: int, num_steps: int) -> Iterator[Tensor]:
    """Indices (batch_size,) for each step: permutations of all rows, one after the other."""
    left = torch.empty(0, dtype=torch.long)
    while num_steps > 0:
        steps = min(num_steps, CHUNK)
        parts, count = [left], len(left)
        while count < steps * batch_size:
            parts.append(torch.randperm(num_rows))
            count += num_rows
        indices = torch.cat(parts)
        left = indices[steps * batch_size :]
        yield from indices[: steps * batch_size].view(steps, batch_size).unbind(0)
        num_steps -= steps


def _require_rows(columns: tuple[Any, ...], num_steps: int, batch_size: int | None) -> None:
    if not columns or not all(isinstance(column, Tensor) and column.dim() for column in columns):
        found = ", ".join(type(column).__name__ for column in columns) or "nothing"
        raise TypeError(f"CompiledSVI.run: tensors with rows along axis 0 are required, got {found}")
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"CompiledSVI.run: tensors of one length are required, got {[len(c) for c in columns]}")
    if not isinstance(num_steps, int) or num_steps < 0:
        raise ValueError(f"CompiledSVI.run: num_steps must be a whole number >= 0, got {num_steps!r}")
    if batch_size is not None and not 1 <= batch_size <= len(columns[0]):
        raise ValueError(f"CompiledSVI.run: batch_size must be from 1 to {len(columns[0])} rows, got {batch_size!r}")


def _stacked(losses: list[Any]) -> Tensor:
    """(num_steps,), or (num_steps, K): floats of eager steps and tensors of captured ones."""
    rows = [
        [torch.as_tensor(v, dtype=torch.float64).cpu() for v in (loss if isinstance(loss, list | tuple) else [loss])]
        for loss in losses
    ]
    if not rows:
        return torch.empty(0, dtype=torch.float64)
    table = torch.stack([torch.stack(row) for row in rows])
    return table[:, 0] if table.shape[1] == 1 else table
