"""What docs/convergence.md tells a reader to type runs, and gives what stands behind it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "convergence.md").read_text()


@pytest.mark.slow
def test_the_snippets_of_the_page_run_in_their_order(capsys):
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/convergence.md", "exec"), names)
    given, refused = capsys.readouterr().out.split("Certificate: ")[1:]
    assert given.startswith("given") and refused.startswith("not given")
    assert "Newton decrement" in refused.splitlines()[-2] and "The prior of 'intercept'" in refused.splitlines()[-1]

    certificate, narrow = names["fit"].certificate, names["narrow"].certificate
    assert certificate.given and abs(certificate.numbers["log_evidence"] + 2447.2520) < 0.02  # quadrature over sigma
    assert (narrow.converged, narrow.given) == (True, False)
    assert [line.what for line in narrow.failed] == ["log Z", "k-hat", "posterior means and sds"]
    found = names["linear_response"](names["narrow"], names["data"])
    assert abs(float(found.sd[0]) - 67) < 1 and abs(float(found.guide_sd[0]) - 2.6) < 0.1


def test_each_line_of_a_certificate_is_explained():
    """A line that is new or has another name must be in the table of the page."""
    explained = set(re.findall(r"^\| \*\*(.+?)\*\* \((?:optimum|posterior)\)", PAGE, re.MULTILINE))
    printed = {line.split("  ")[1] for line in PAGE.splitlines() if line.endswith("   yes")}
    assert printed == explained and len(printed) == 7


def test_each_finding_of_a_diagnosis_is_explained():
    """A check that is new or has another name must be in the table of the page."""
    from ppl_vae.diagnostics.diagnosis import CHECKS

    page = (Path(__file__).parents[1] / "docs" / "diagnose.md").read_text()
    assert re.findall(r"^\| \*\*(.+?)\*\* \|", page, re.MULTILINE) == [check.name for check in CHECKS]
