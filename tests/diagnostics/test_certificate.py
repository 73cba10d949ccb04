"""What a certificate says of the lines that it is made of."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ppl_vae.diagnostics.certificate import Certificate, Line, nats

ARRIVED = Line("Newton decrement", "1e-09 nats", "at most 0.01", True, "raise max_iter")
STARTS = Line("starts", "0 of 16 at this mode", "a mode", False, "give start=")
KHAT = Line("k-hat", "0.88 of 16384 fresh draws", "at most 0.70", False, "take a richer guide", about="posterior")
NEAR = Line("k-hat", "0.42 of 16384 fresh draws", "at most 0.70", True, "take a richer guide", about="posterior")
NOT_ASKED = Line("k-hat", "", "at most 0.70", None, about="posterior")


@pytest.mark.parametrize(
    "lines, given, converged, begins",
    [
        (
            (ARRIVED, NEAR),
            True,
            True,
            "Converged: the fit is the best of its family; its draws may",
        ),
        ((ARRIVED, NOT_ASKED), True, True, "Converged: the fit is the best of its family;"),
        ((ARRIVED, KHAT), False, True, "Converged: the fit is the best of its family, but its draws may not be taken"),
        (
            (ARRIVED, STARTS, NEAR),
            False,
            False,
            "Not known to be the best of its family: starts (0 of 16",
        ),
    ],
)
def test_it_is_given_if_every_line_holds(lines, given, converged, begins):
    certificate = Certificate(lines)
    assert (certificate.given, bool(certificate), certificate.converged) == (given, given, converged)
    assert certificate.sentence.startswith(begins)


def test_every_line_that_failed_is_in_the_sentence_with_what_to_try():
    """A fit that is perhaps not the best is worth to know with its k-hat: a richer guide may mend both."""
    sentence = Certificate((ARRIVED, STARTS, KHAT, KHAT)).sentence
    assert "starts (0 of 16 at this mode); k-hat (0.88 of 16384 fresh draws)" in sentence
    assert sentence.endswith("To try: give start=; take a richer guide.")
    assert "Newton" not in sentence


@pytest.mark.parametrize(
    "gap, said",
    [(0.2534, " and stands 0.25 nats below log Z;"), (0.001, " and stands at log Z;"), (-0.01, " at log Z;"),
     (float("nan"), "family; its"), (None, "family; its")],
)  # fmt: skip
def test_the_sentence_says_how_far_log_z_is(gap, said):
    assert said in Certificate((ARRIVED, NEAR), {"gap": gap}).sentence


def test_a_plain_tree_is_the_certificate():
    certificate = Certificate((ARRIVED, KHAT, NOT_ASKED), {"gap": 0.25, "khat": float("inf")}, ("a remark",))
    back = Certificate.of(certificate.plain())
    assert back.lines == certificate.lines and back.remarks == certificate.remarks
    assert back.numbers == {"gap": 0.25, "khat": None}  # JSON has no infinity
    assert repr(back) == repr(certificate)


def test_the_table_has_a_row_a_line_under_a_header():
    certificate = Certificate((ARRIVED, KHAT), {}, ("a remark",))
    head, names, *rows, sentence, remark = repr(certificate).splitlines()
    assert head == "Certificate: not given"
    assert names.split() == ["found", "asked", "for", "holds"]
    assert [row.split()[-1] for row in rows] == ["yes", "no"]
    assert {row.index("at most") for row in rows} == {names.index("asked for")}
    assert sentence == certificate.sentence and remark == "a remark"
    assert list(certificate.table()["holds"]) == [True, False]
    shown = certificate._repr_html_()
    assert shown.count("<tr>") == 3 and "<caption>Certificate: not given</caption>" in shown
    assert "&lt;b&gt;" in Certificate((Line("<b>", "", "", True),))._repr_html_()


def test_numbers_have_the_digits_that_their_error_allows():
    assert nats(-31.53954, 0.0053) == "-31.5395 ± 0.0053 nats"
    assert nats(-31.53954, float("nan")) == "-31.54 nats, error unknown"


def test_without_lines_nothing_is_promised():
    """A fit of which nothing was asked has no certificate."""
    assert not Certificate(()).given
    assert not Certificate((NOT_ASKED,)).converged


def test_flags_of_numpy_are_flags():
    """A comparison of numpy's numbers is no ``bool``: a line that does not hold is among the failed all the same."""
    line = replace(ARRIVED, holds=np.float64(1.0) < np.float64(0.5))
    assert Certificate((line,)).failed == [line]


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (-1897.30211, 0.0012, "-1897.3021 ± 0.0012 nats"),
        (-1897.30211, 0.12, "-1897.30 ± 0.12 nats"),
        (-5.0, 0.0, "-5.0000 ± 0.0000 nats"),
        (-5.0, 1e-12, "-5.000000 ± 0.000000 nats"),
        (-5.0, 23.0, "-5 ± 23 nats"),
        (-5.0, math.nan, "-5 nats, error unknown"),
        (-5.0, math.inf, "-5 nats, error unknown"),
        (0.00034, None, "0.00034 nats"),
        (math.inf, None, "unbounded"),
        (math.nan, None, "not a number"),
        (-math.inf, 0.1, "minus infinity"),
    ],
)
def test_nats_in_words(value, error, words):
    assert nats(value, error) == words
