"""Fits beside each other: against exact leave-one-out, held-out densities, and simulated differences."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from regressions import Conjugate, diabetes

from ppl_vae import compare, log_predictive
from ppl_vae.diagnostics import loo
from ppl_vae.evidence import Evidence

DOUBLE = torch.float64
X, Y = diabetes()
SOME, REST = slice(0, 120), slice(120, 160)
FULL, FEW, ONE = (Conjugate(X[SOME, :k], Y[SOME]) for k in (10, 4, 1))
FITS = {"one": ONE.fit(), "few": FEW.fit(), "full": FULL.fit()}
EXACT = {"one": ONE.leave_one_out(), "few": FEW.leave_one_out(), "full": FULL.leave_one_out()}


def test_fits_are_sorted_with_paired_errors():
    found = compare(FITS)
    table = found.table
    assert list(table.index) == sorted(EXACT, key=lambda name: -float(EXACT[name].sum()))
    best = table.index[0]
    assert best == "full" and found.left_out and found.num_rows == 120
    for name, row in table.iterrows():
        apart = EXACT[name] - EXACT[best]
        assert row["elpd"] == pytest.approx(float(EXACT[name].sum()), abs=0.5)
        assert row["se"] == pytest.approx(math.sqrt(120 * float(EXACT[name].var())), rel=0.05)
        assert row["difference"] == pytest.approx(float(apart.sum()), abs=0.5)
        if name != best:
            paired = math.sqrt(120 * float(apart.var()))
            assert row["difference_se"] == pytest.approx(paired, rel=0.1)
            assert row["difference_se"] < 0.8 * math.hypot(row["se"], table["se"][best])  # which is not paired
            assert row["p_worse"] == pytest.approx(NormalDist().cdf(-row["difference"] / row["difference_se"]))
    assert math.isnan(table["p_worse"][best]) and table["difference"][best] == 0
    assert repr(found).startswith("Ranking: of 3 fits 'full' predicts 120 rows left out in turn best, by ")
    axes = found.plot()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(table.index)


def test_results_are_taken_as_they_are():
    ready = {name: loo(fit) for name, fit in FITS.items()}
    assert compare(ready).table.equals(compare(FITS).table)
    assert compare(FITS, num_samples=500).table["elpd"].equals(compare(FITS, num_samples=500).table["elpd"])


def test_held_out_rows():
    data = {"one": (X[REST, :1], Y[REST]), "full": (X[REST], Y[REST])}
    scores = {name: log_predictive(FITS[name], data[name]) for name in data}
    found = compare(scores)
    exact = {"one": ONE.log_predictive(*data["one"]), "full": FULL.log_predictive(*data["full"])}
    assert not found.left_out and "p_loo" not in found.table
    assert found.table.index[0] == max(exact, key=lambda name: float(exact[name].sum()))
    assert float(found.table["difference"].min()) == pytest.approx(
        -abs(float((exact["full"] - exact["one"]).sum())), abs=0.2
    )
    assert any("of 40 rows, fewer than 100" in text for text in found.warnings)
    # a fit of points is scored by log_evidence
    value = exact["one"]
    zero = torch.zeros_like(value)
    points = Evidence(value, zero + 0.01, zero + 100, zero, "exact", "a fit of points")
    mixed = compare({"points": points, "full": scores["full"]})
    assert any("taken on trust" in text for text in mixed.warnings)
    assert mixed.table["mc_error"]["points"] == pytest.approx(0.01 * math.sqrt(40))


def made(values: torch.Tensor, error: float = 0.0) -> Evidence:
    zero = torch.zeros_like(values)
    return Evidence(values, zero + error, zero + 100, zero, "lower", "made")


def test_monte_carlo_errors_count_in_a_difference():
    values = torch.linspace(-3, -1, 200, dtype=DOUBLE)
    found = compare({"a": made(values), "b": made(values - 0.1, 0.05)})
    assert found.table["difference"]["b"] == pytest.approx(-20)
    assert found.table["difference_se"]["b"] == pytest.approx(0.05 * math.sqrt(200))


def test_the_better_model_wins_as_often_as_a_normal_law_has_it():
    generator = torch.Generator().manual_seed(3)
    truth, count, repeats = 0.05, 400, 400
    right = 0
    for _ in range(repeats):
        noise = torch.randn(count, generator=generator, dtype=DOUBLE)
        table = compare({"good": made(noise.new_zeros(count)), "bad": made(noise - truth)}).table
        right += table.index[0] == "good"
    assert abs(right / repeats - NormalDist().cdf(truth * math.sqrt(count))) < 4.5 * math.sqrt(0.16 * 0.84 / repeats)


def test_what_cannot_be_paired_is_refused():
    ready = {name: loo(FITS[name], num_samples=100) for name in ("one", "full")}
    fewer = loo(Conjugate(X[:100], Y[:100]).fit(), num_samples=100)
    with pytest.raises(ValueError, match="the same rows are required, got 120 of 'one' and 100 of 'fewer'"):
        compare({"one": ready["one"], "fewer": fewer})
    y = Y[SOME].clone()
    y[7] += 1
    other = loo(Conjugate(X[SOME], y).fit(), num_samples=100)
    with pytest.raises(ValueError, match="'one' and 'other' observe other values in 1 of 120 rows .the first is row 7"):
        compare({"one": ready["one"], "other": other})
    assert len(compare({"one": ready["one"], "other": other}, check_data=False).table) == 2
    scaled = loo(Conjugate(X[SOME], 1000 * Y[SOME], noise=700.0).fit(), num_samples=100)
    with pytest.raises(ValueError, match="in 120 of 120 rows"):
        compare({"full": ready["full"], "in other units": scaled})
    held = log_predictive(FITS["full"], (X[REST], Y[REST]), num_samples=100)
    with pytest.raises(ValueError, match="rows left out in turn and of rows held out"):
        compare({"one": ready["one"], "held": held})
    with pytest.raises(ValueError, match="log p of all data at once, since they share latents"):
        compare({"one": ready["one"], "evidence": FITS["full"].log_evidence((X[SOME], Y[SOME]))})
    with pytest.raises(ValueError, match="at least two fits by name are required, got .'one'."):
        compare({"one": ready["one"]})
    with pytest.raises(TypeError, match="a Pair or a Fit is required, got 3"):
        compare({"one": ready["one"], "three": 3})


def test_rows_that_are_not_to_be_believed_are_counted():
    narrow = FEW.fit(sd=0.2)
    found = compare({"narrow": narrow, "full": FITS["full"]}, widths=(1.0,))
    assert found.table["unreliable"]["narrow"] == 120
    assert any(text.startswith("'narrow': 120 of 120 rows are not to be believed") for text in found.warnings)
    assert found.to_dataframe().attrs["warnings"] == list(found.warnings)
    assert "warning: 'narrow'" in repr(found)


def test_the_same_data_in_another_precision_are_the_same():
    single = FEW.fit()
    double = loo(single, num_samples=100)
    from ppl_vae import Pair
    from ppl_vae.evidence.observed import fingerprints

    pair = Pair(lambda x, y: FEW.model(x, y), lambda x, y: FEW.guide()(x, y), dtype=torch.float32)
    rows = pair.rows((FEW.x.float(), FEW.y.float()))
    assert torch.equal(fingerprints(pair.initialize(rows), rows), double.observed)


def test_near_models_are_said_to_be_near():
    values = -torch.ones(200, dtype=DOUBLE) + 0.1 * torch.randn(200, dtype=DOUBLE)
    found = compare({"a": made(values), "b": made(values - 0.01)})
    assert any("lie within 4 nats" in text for text in found.warnings)
