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

from ppl_vae._private import validates

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


@contextmanager
def scoped(
    store: dict[str, Any] | None, *, device: torch.device, dtype: torch.dtype, local_params: bool = True
) -> Iterator[None]:
    """Hold the lock, with ``store`` as Pyro's parameter store (None leaves the caller's in place)."""
    with ExitStack() as stack:
        stack.enter_context(LOCK)
        if store is not None:
            stack.enter_context(pyro.settings.context(module_local_params=local_params))
            stack.enter_context(pyro.get_param_store().scope(cast(Any, store)))
            if dtype != torch.get_default_dtype():
                stack.enter_context(default_dtype(dtype))
            if device.type != "cpu":
                stack.enter_context(device)
        yield
