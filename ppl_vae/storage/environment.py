"""The machine and the versions that a result came from."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ppl_vae._version import __version__
from ppl_vae.storage.form import maybe, record, table, text, whole

PACKAGES = (
    "ppl-vae",
    "torch",
    "pyro-ppl",
    "arviz",
    "numpy",
    "pandas",
    "scikit-learn",
    "scipy",
    "safetensors",
)

_text, _count = maybe(text), maybe(whole(1))
ENVIRONMENT = record(
    {"python": _text, "platform": _text, "machine": _text, "cpus": _count, "threads": _count, "packages": table(_text)}
)
"""The form of what :func:`environment` gives."""


def environment() -> dict[str, Any]:
    """Python, platform, number of CPUs and torch threads, and the installed versions: a plain dict for JSON.

    Nothing is imported to find out; ``threads`` is None where torch has not been imported.
    """
    torch = sys.modules.get("torch")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads() if torch else None,
        "packages": {name: _installed(name) for name in PACKAGES},
    }


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return __version__ if name == "ppl-vae" else None  # run from its source
