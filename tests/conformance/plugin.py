"""A pytest plugin for our run of Pyro's tests: SVI is ConformingSVI, and an ELBO called directly is checked too.

All is replaced before test modules are imported, so ``from pyro.infer import SVI`` gets ours. The counts go to the file
named by CONFORMANCE_COUNTS, as JSON; with CONFORMANCE_PLANT=1 one gradient of every graph is made wrong by a percent.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import pkgutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyro.infer
import pytest
from conformance.svi import ConformingSVI, Here
from pyro.infer.elbo import ELBO

from ppl_vae.capture import shims

MOST_OPERATIONS = 3_000
"""Longer steps stay eager here: a graph of a thousand operations takes a second to trace, and these are many tests."""


def pytest_configure() -> None:
    """Put ours in place."""
    Here.plant = bool(os.environ.get("CONFORMANCE_PLANT"))
    shims.MOST_OPERATIONS = MOST_OPERATIONS
    for module in pkgutil.iter_modules(pyro.infer.__path__):
        importlib.import_module(f"pyro.infer.{module.name}")
    _replace_svi(pyro.infer.SVI)
    for cls in _elbos(ELBO):
        if "loss_and_grads" in vars(cls):
            cls.loss_and_grads = _checked(cls.loss_and_grads)


def _replace_svi(original: type) -> None:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "pyro" and getattr(module, "SVI", None) is original:
            module.SVI = ConformingSVI


def _elbos(cls: Any) -> set[Any]:
    return {cls}.union(*map(_elbos, cls.__subclasses__()))


def _checked(original: Any) -> Any:
    """``loss_and_grads`` of an ELBO class: Pyro's inside a call of ours, and a checked one where a test calls it."""

    @functools.wraps(original)
    def loss_and_grads(self: Any, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        if Here.busy:
            return original(self, model, guide, *args, **kwargs)
        return Here.loss_and_grads(self, model, guide, args, kwargs)

    return loss_and_grads


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Whose steps are counted from here on."""
    file, _, test = item.nodeid.partition("::")
    Here.begin(file, test)


def pytest_sessionfinish() -> None:
    """Write the counts."""
    counts = {file: asdict(count) for file, count in Here.counts.items()}
    Path(os.environ["CONFORMANCE_COUNTS"]).write_text(json.dumps(counts))
