"""The guard against non-finite steps keeps the state before the first bad one, without asking the device each time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

OK = -1


class Guard:
    """Applies an optimizer's update only where the loss and every gradient are finite.

    On the CPU a look costs nothing, so a bad step is simply not made. On a device the state is copied, the step is
    made, and the old state is put back by ``torch.where`` if it was bad; the flag is latched, so later steps change
    nothing either, and :meth:`failed_step` asks the device only when the loop makes its next check.

    A gradient whose norm overflows counts as non-finite.
    """

    def __init__(
        self,
        leaves: list[Tensor],
        buffers: list[Tensor],
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        *,
        latched: bool | None = None,
    ) -> None:
        self.leaves, self.buffers, self.optimizer = leaves, buffers, optimizer
        self.latched = device.type != "cpu" if latched is None else latched
        self._failed = torch.full((), OK, dtype=torch.long, device=device)
        self._saved_buffers: list[Tensor] = []
        self._stepped: set[int] = set()  # ids of the leaves whose optimizer state exists, as far as there is one

    def before(self) -> None:
        """Remember the buffers, which the forward pass may change."""
        self._saved_buffers = [buffer.clone() for buffer in self.buffers]

    def update(self, step: int, fine: Tensor, move: Callable[[], object]) -> None:
        """Make the optimizer's step by ``move`` if all is ``fine`` (), or keep everything as it was before it."""
        if self.latched and self._can_be_undone():
            self._update_latched(step, fine, move)
        elif bool(fine) and self.failed_step() is None:
            move()
            self._stepped |= {id(leaf) for leaf in self.leaves if leaf.grad is not None}
        else:
            if self.failed_step() is None:
                self._failed.fill_(step)
            self.restore()

    def _can_be_undone(self) -> bool:
        """Is all that a step will change a tensor that exists already? (The first step of a leaf makes its state.)"""
        values = (value for state in self.optimizer.state.values() for value in state.values())
        known = all(id(leaf) in self._stepped for leaf in self.leaves if leaf.grad is not None)
        return known and all(value is None or isinstance(value, Tensor) for value in values)

    def _update_latched(self, step: int, fine: Tensor, move: Callable[[], object]) -> None:
        fine = fine & (self._failed == OK)
        self._failed.copy_(torch.where(fine | (self._failed != OK), self._failed, step))
        before = [tensor.clone() for tensor in self._moved_by_optimizer()]
        move()
        after = self._moved_by_optimizer()
        for now, then in zip(after + self.buffers, before + self._saved_buffers, strict=True):
            now.copy_(torch.where(fine.to(now.device), now, then))

    def _moved_by_optimizer(self) -> list[Tensor]:
        state = [t for s in self.optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
        return [leaf.data for leaf in self.leaves] + state

    def restore(self) -> None:
        """Put the buffers back as they were before this step."""
        for buffer, value in zip(self.buffers, self._saved_buffers, strict=True):
            buffer.copy_(value)

    def failed_step(self) -> int | None:
        """The first bad step, or None. This is the one place that waits for the device."""
        step = int(self._failed)
        return None if step == OK else step

    def reset(self) -> None:
        """Forget the bad step, once it has been dealt with."""
        self._failed.fill_(OK)
