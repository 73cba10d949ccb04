"""What holds for every test: no global of Pyro, torch or the process is left changed."""

from __future__ import annotations

import signal

import numpy as np
import pyro
import pytest
import torch
from pyro.poutine.runtime import _PYRO_STACK

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of what a shell starts with "&"; tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


def global_state() -> dict[str, object]:
    """All that a library could leave behind, as comparable values."""
    store = pyro.get_param_store()
    return {
        "pyro settings": pyro.settings.get(),
        "parameter store": {name: id(leaf) for name, leaf in store.named_parameters()},
        "handler stack": list(_PYRO_STACK),
        "argument validation": torch.distributions.Distribution._validate_args,
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "numpy errors": np.geterr(),
        "interrupt handler": signal.getsignal(signal.SIGINT),
    }


@pytest.fixture(autouse=True)
def nothing_global_has_changed():
    """Seed torch's generator for the test, and compare the globals after it with those before it."""
    pyro.clear_param_store()  # a doctest is a person's session, and may leave parameters there
    torch.manual_seed(0)
    before = global_state()
    yield
    after = global_state()
    changed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    assert not changed, f"this test has changed globals: {changed}"


def pytest_configure(config: pytest.Config) -> None:
    """One thread: the networks here are small, and two threads only wait for each other."""
    torch.set_num_threads(1)
