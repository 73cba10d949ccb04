from __future__ import annotations

import math

import pytest
import torch

from ppl_vae.evidence import Evidence, MeanEvidence
from ppl_vae.evidence.evidence import percent


def evidence(value=(-1.0, -2.0, -6.0), error=(0.3, 0.4, 1.2), khat=(0.1, 0.6, 0.9), bound="lower") -> Evidence:
    value, error, khat = (torch.tensor(v, dtype=torch.float64) for v in (value, error, khat))
    return Evidence(value, error, torch.full_like(value, 10.0), khat, bound, "ImportanceWeighted(50)")


def test_the_mean_keeps_its_two_errors_apart():
    mean = evidence().mean()
    assert mean.value == pytest.approx(-3.0)
    assert mean.standard_error == pytest.approx(1.3 / 3)
    assert mean.sampling_error == pytest.approx(torch.tensor([-1.0, -2.0, -6.0]).std().item() / 3**0.5)
    assert float(mean) == mean.value


def test_evidence_of_all_data_is_its_own_mean():
    mean = evidence(value=-31.0, error=0.2, khat=0.5).mean()
    assert (mean.value, mean.standard_error) == (-31.0, pytest.approx(0.2))
    assert math.isnan(mean.sampling_error)
    assert repr(mean) == "-31.000 nats (Monte Carlo error 0.2)"


def test_one_row_without_an_error_bar_leaves_the_mean_without_one_and_is_counted():
    mean = evidence(error=(0.3, math.nan, 1.2)).mean()
    assert math.isnan(mean.standard_error)
    assert (mean.num_unknown, mean.num_data) == (1, 3)
    assert mean.sampling_error == pytest.approx(evidence().mean().sampling_error)
    assert mean.known_error == pytest.approx((0.3**2 + 1.2**2) ** 0.5 / 3)
    words = "-3.000 nats (Monte Carlo error > 0.41: 1 of 3 rows without an error bar; sampling error 1.5)"
    assert repr(mean) == words
    assert words in repr(evidence(error=(0.3, math.nan, 1.2)))
    assert evidence(error=(0.3, math.nan, 1.2)).to_dataframe()["standard_error"].isna().tolist() == [False, True, False]


def test_an_unknown_error_of_all_data_is_said():
    assert repr(evidence(value=-31.0, error=math.nan, khat=0.5).mean()) == "-31.000 nats (Monte Carlo error unknown)"


def test_reliable_is_false_where_khat_is_not_known():
    assert evidence(khat=(0.69, 0.71, math.nan)).reliable.tolist() == [True, False, False]


def test_reliable_wants_an_error_bar_and_more_than_one_weight():
    """One draw carries the sum: the tail of the weights is as light as can be, and the value may be anything."""
    alone = evidence(error=(0.3, math.nan, math.inf), khat=(0.1, 0.1, 0.1))
    assert alone.reliable.tolist() == [True, False, False]
    single = Evidence(alone.value, alone.value * 0, torch.tensor([1.99, 2.0, math.nan]), alone.khat, "lower", "IW(9)")
    assert single.reliable.tolist() == [False, True, False]
    assert evidence(error=(math.nan,) * 3, khat=(math.nan,) * 3, bound="exact").reliable.tolist() == [True] * 3
    assert evidence(value=-31.0, error=math.nan, khat=0.5).reliable.shape == ()


def test_to_dataframe_has_a_row_for_each_datum():
    frame = evidence().to_dataframe()
    assert list(frame.columns) == ["value", "standard_error", "ess", "khat"]
    assert frame.index.name == "datum"
    assert frame["value"].tolist() == [-1.0, -2.0, -6.0]


WORDS = {
    "rows": (
        evidence(),
        ["ImportanceWeighted(50), 3 rows, mean -3.000 nats", "lower bound", "below 0.7 for 67 %"],
    ),
    "one number": (evidence(-31.0, 0.2, 0.5), ["ImportanceWeighted(50), -31.000 nats", "k-hat 0.50"]),
    "one row": (evidence((-31.0,), (0.2,), (0.12,)), ["(50), 1 row, -31.000 nats", "lower bound, k-hat 0.12)"]),
    "exact": (evidence(bound="exact"), ["exact"]),
    "no k-hat": (evidence(khat=(math.nan,) * 3), ["lower bound)"]),
}


@pytest.mark.parametrize("name", WORDS)
def test_repr_says_what_was_estimated(name):
    found, words = WORDS[name]
    assert all(word in repr(found) for word in words)


def test_a_mean_of_one_estimate_prints():
    assert repr(MeanEvidence(-1.0, 0.25, 0.5)) == "-1.000 nats (Monte Carlo error 0.25, sampling error 0.5)"


@pytest.mark.parametrize(
    ("good", "total", "words"),
    [(0, 9, "0 %"), (9, 9, "100 %"), (1, 1000, "1 %"), (999, 1000, "99 %"), (93, 100, "93 %")],
)
def test_percent_says_none_or_all_only_when_it_is(good, total, words):
    assert percent(torch.arange(total) < good) == words
