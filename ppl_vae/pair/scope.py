"""The fence around Pyro's and torch's globals: what a pair needs is set inside, and everything is given back after it.

Pyro keeps one handler stack, one parameter store and its settings in module globals, so a process-wide lock covers each
Python-side run of a pair. Real concurrency means processes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import pyro
import torch
from torch import nn

from ppl_vae._private import no_handlers, validates
from ppl_vae._random import isolated_rng
from ppl_vae.nn import mode_of
from ppl_vae.pair.place import place_of, precision_of
from ppl_vae.pair.reach import modules_of

LOCK = threading.RLock()


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let tensors that a function pair makes by hand have the pair's dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def validation(enabled: bool) -> Iterator[None]:
    """Pyro's and torch's argument checks on or off, and given back as they were."""
    before = validates()
    try:
        with pyro.validation_enabled(enabled):
            yield
    finally:
        # Pyro gives back its own flag and lets torch's follow it; a caller may have set the two apart.
        torch.distributions.Distribution.set_default_validate_args(before)


class Scope:
    """Where the runs of a pair take place: its parameters, device, precision, and modules.

    Args:
        roots: the model and the guide.
        device, dtype: where runs are made, in what precision; None: as the modules are.
    """

    def __init__(self, roots: tuple[Any, ...], device: Any, dtype: torch.dtype | None) -> None:
        self.roots = roots
        self.store: dict[str, Any] | None = empty_store()
        self.local_params = True
        floats = [t for m in self.modules() for t in (*m.parameters(), *m.buffers()) if t.is_floating_point()]
        if device is None:
            device = floats[0].device if floats else torch.device("cpu")
        device, dtype = place_of(device), precision_of(dtype)
        if dtype is None:
            with LOCK:  # the scope of a pair in another thread may have set another default for a while
                dtype = floats[0].dtype if floats else torch.get_default_dtype()
        for module in self.modules():
            module.to(device=device, dtype=dtype)
        self.device, self.dtype = device, dtype

    def modules(self) -> list[nn.Module]:
        """The modules that stand behind the model and the guide."""
        return [module for root in self.roots for module in modules_of(root)]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the lock, with the pair's parameters as Pyro's store, and none of a caller's handlers.

        A pair without a store of its own is part of somebody's SVI: its store and handlers are left in place.
        """
        with ExitStack() as stack:
            stack.enter_context(LOCK)
            if self.store is not None:
                stack.enter_context(no_handlers())
                stack.enter_context(pyro.settings.context(module_local_params=self.local_params))
                stack.enter_context(pyro.get_param_store().scope(cast(Any, self.store)))
                if self.dtype != torch.get_default_dtype():
                    stack.enter_context(default_dtype(self.dtype))
                if self.device.type != "cpu":
                    stack.enter_context(self.device)
            yield

    @contextmanager
    def evaluating(self, seed: int) -> Iterator[None]:
        """In scope, without gradients, modules in eval mode, on noise of ``seed``; all is given back."""
        with self(), torch.no_grad(), isolated_rng(seed, self.device), self.mode(training=False):
            yield

    @contextmanager
    def mode(self, *, training: bool) -> Iterator[None]:
        """Put every module of the pair into training or evaluation mode, and give each its own mode back."""
        with mode_of(self.modules(), training=training):
            yield


def empty_store() -> dict[str, Any]:
    """A parameter store of Pyro's with nothing in it."""
    return {"params": {}, "constraints": {}}
