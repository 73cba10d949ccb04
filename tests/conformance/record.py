"""A pytest plugin for both runs, Pyro's and ours: writes the outcome of every test, and imports the installed Pyro.

Imported by ``-p`` before pytest puts the clone on the path, so the tests of the clone test the Pyro that is installed,
which is the one that ppl_vae runs on. Outcomes go to the file named by CONFORMANCE_OUTCOMES, as JSON.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pyro  # noqa: F401  (see above)
import pytest

outcomes: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the worst of set-up, call and tear-down."""
    outcome = _outcome(report)
    if outcome is not None and not outcomes.get(report.nodeid, "").startswith(("failed", "error")):
        outcomes[report.nodeid] = outcome


def _outcome(report: pytest.TestReport) -> str | None:
    if hasattr(report, "wasxfail") and report.when == "call":
        return "xfailed" if report.skipped else "xpassed"
    if report.failed:
        return f"{'failed' if report.when == 'call' else 'error'}: {_error(report.longrepr)}"
    if report.skipped:
        return f"skipped: {_why(report.longrepr)}"
    return "passed" if report.when == "call" else None


def _error(longrepr: Any) -> str:
    """The type of the error: its message may hold addresses."""
    message = getattr(getattr(longrepr, "reprcrash", None), "message", str(longrepr))
    return re.split(r"[:\n]", message, maxsplit=1)[0]


def _why(longrepr: Any) -> str:
    return str(longrepr[2]).removeprefix("Skipped: ") if isinstance(longrepr, tuple) else str(longrepr)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that cannot be collected, or is skipped as a whole, is told of too."""
    if report.failed:
        outcomes[report.nodeid] = f"not collected: {_error(report.longrepr)}"
    elif report.skipped:
        outcomes[report.nodeid] = f"not collected: {_why(report.longrepr)}"


def pytest_deselected(items: list[pytest.Item]) -> None:
    """A test that the clone's conftest leaves out."""
    outcomes.update({item.nodeid: "not collected: deselected" for item in items})


def pytest_sessionfinish() -> None:
    """Write the outcomes."""
    Path(os.environ["CONFORMANCE_OUTCOMES"]).write_text(json.dumps(outcomes))
