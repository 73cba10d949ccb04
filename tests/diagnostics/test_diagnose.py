"""``diagnose``: each status is reached by a pair made for it, and no check loses the others."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from calibration_pairs import LINEAR, classes, linear, normal_guide, prior_guide
from pairs import CASES, data_for, function_pair
from regressions import Conjugate, diabetes

from ppl_vae import Pair, diagnose
from ppl_vae.diagnostics.certificate import Certificate, Line
from ppl_vae.diagnostics.diagnosis import CHECKS, Check, Diagnosis, Finding
from ppl_vae.diagnostics.diagnosis.checks.done import Done
from ppl_vae.diagnostics.diagnosis.checks.evidence import GuideTails, LogEvidence
from ppl_vae.diagnostics.diagnosis.checks.rows import NewRows, OddRows
from ppl_vae.diagnostics.diagnosis.pace import Pace
from ppl_vae.evidence import elbo
from ppl_vae.result import Fit
from ppl_vae.training.history_table import Table
from ppl_vae.training.record import Record

STATUSES = {"good", "doubtful", "bad", "not asked"}


def simulated(n: int, seed: int) -> torch.Tensor:
    """Rows of LINEAR itself."""
    generator = torch.Generator().manual_seed(seed)
    z, noise = (torch.randn(n, size, generator=generator, dtype=torch.float64) for size in (2, 3))
    return (z @ LINEAR.weight + LINEAR.bias + noise * LINEAR.log_sigma.exp()).detach()


TRAIN, TEST = simulated(300, 1), simulated(200, 2)


@pytest.fixture(scope="module")
def healthy() -> Diagnosis:
    return diagnose(linear(), TEST, train=TRAIN, noun="toys", seed=1)


def test_a_guide_that_is_the_posterior_of_data_that_the_model_has_made(healthy):
    asked = {"log p(x)", "guide", "gap", "calibration", "collapse", "active dimensions", "new rows", "odd rows"}
    assert {f.name for f in healthy.findings if f.status == "good"} == {*asked, "baselines"}
    assert healthy.ok and not healthy.of("bad") and not any(f.failed for f in healthy.findings)
    mean = float(LINEAR.log_marginal(TEST).mean())
    assert healthy["log p(x)"].sentence.startswith(f"log p(x) is {mean:.3f} nats per row")
    assert "the estimate is reliable for 200 of 200 toys" in healthy["log p(x)"].sentence
    told = LINEAR.log_marginal(TEST)
    assert healthy["odd rows"].table.index[0] == int(told.argmin())
    assert healthy["odd rows"].table["log p(x)"].iloc[0] == pytest.approx(float(told.min()), abs=1e-9)


def test_a_guide_that_is_too_narrow_is_not_calibrated():
    found = diagnose(linear(normal_guide(0.5)), TEST, train=TRAIN)
    assert found["calibration"].status == "bad" and not found.ok
    # What holds 90 % under the guide holds P(|z| < 1.645 / 2) = 59 % of the posterior.
    held = found["calibration"].table.loc["z[0]", "covered_90"]
    assert abs(held - 0.589) < 4.5 * math.sqrt(0.589 * 0.411 / 500) + 0.01
    assert "draws too narrow" in found["calibration"].sentence
    truth = 2 * (math.log(2) + 0.125 - 0.5)  # KL of two dimensions of half the sd: 0.64 nats
    assert found["gap"].status == "doubtful"
    family, network = "0 for the guide's family (normals with a full covariance)", "0.6 for its network"
    assert f"{family}, {network}" in found["gap"].sentence and "a larger encoder" in found["gap"].advice
    gap = float(LINEAR.log_marginal(TEST).mean() - elbo(linear(normal_guide(0.5)), TEST, num_samples=4000).mean())
    assert gap == pytest.approx(truth, abs=0.02)


def test_a_guide_of_another_mode_of_the_same_width_is_far_from_its_posterior():
    found = diagnose(linear(normal_guide(1.0, shift=4.0)), TEST[:50])
    assert found["gap"].status == "bad"  # 8 nats in each of two dimensions, more than the code costs
    assert found["guide"].status == "bad" and found["calibration"].status == "bad"


def test_a_collapsed_pair_is_called_so():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(x.new_zeros(3), 2.0).to_event(1), obs=x)

    found = diagnose(Pair(model, prior_guide), TEST)
    assert {name: found[name].status for name in ("collapse", "active dimensions", "gap", "calibration")} == {
        "collapse": "bad",
        "active dimensions": "bad",
        "gap": "good",  # the prior is the posterior
        "calibration": "good",
    }
    assert "free_bits" in found["collapse"].advice and "0 of 2 latent dimensions" in found["active dimensions"].sentence


def test_codes_of_which_none_says_anything():
    def ignorant(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))

    exact = classes()
    x = exact.simulate(200)["x"]
    assert diagnose(exact, x)["codes in use"].status == "good"
    bad = diagnose(Pair(exact.model, ignorant), x)
    assert bad["codes in use"].status == "bad" and "0.00 nats told" in bad["codes in use"].sentence
    assert bad["log p(x)"].status == "good" and bad["log p(x)"].sentence.endswith("exactly")
    assert bad["guide"].status == "not asked"


# rows


@pytest.fixture(scope="module")
def with_outliers() -> pd.DataFrame:
    """Two rows that are far out."""
    x = TEST.clone()
    x[[17, 101]] += 25.0
    return pd.DataFrame(x.numpy(), index=[f"patient {i}" for i in range(len(x))])


def test_two_rows_that_make_the_score_are_named(with_outliers):
    found = diagnose(linear(), with_outliers, train=TRAIN, checks=[NewRows(), OddRows()])
    odd = found["odd rows"]
    assert odd.status == "doubtful"
    assert odd.sentence.startswith("2 of 200 rows lie far below all others, and make 9")
    assert set(odd.table.index[:2]) == {"patient 17", "patient 101"}
    assert (odd.table["sds below the median"].iloc[:2] > 50).all()
    assert "without 2 of 200 rows (rows patient" in found["new rows"].sentence


def test_rows_far_out_are_named_though_they_do_not_make_the_score():
    x = TEST.clone()
    x[[40, 60]] += torch.tensor([[8.0], [9.0]])
    found = diagnose(linear(), x, train=TRAIN, checks=[OddRows()])["odd rows"]
    assert found.status == "doubtful" and found.sentence.startswith("2 of 200 rows lie far below all others, and make ")
    assert "below the median: rows 60, 40; the least log p(x): 60 (" in found.sentence


def test_a_tail_is_no_outlier():
    """Of few rows the last ones make most of what is lacking, as they do under any law."""
    assert diagnose(linear(), TEST[:30], train=TRAIN, checks=[OddRows()])["odd rows"].status == "good"


def test_the_oddest_of_many_rows_are_found_among_all_of_them(with_outliers, monkeypatch):
    """Evidence is estimated for some rows alone, and an outlier may be none of them."""
    from ppl_vae.diagnostics.diagnosis import subject

    monkeypatch.setattr(subject, "MOST_ROWS", 20)
    found = diagnose(linear(), with_outliers, train=TRAIN)
    assert "20 are judged" in found.about["judged on"] and "of 20 rows" in found["log p(x)"].sentence
    assert set(found["odd rows"].table.index[:2]) == {"patient 17", "patient 101"}
    assert list(found["odd rows"].table.columns) == ["ELBO", "sds below the median"]


@pytest.mark.parametrize(("shift", "status"), [(0.0, "good"), (0.5, "doubtful"), (2.0, "bad")])
def test_a_gap_between_new_rows_and_those_of_the_fit_is_said(shift, status):
    found = diagnose(linear(), TEST + shift, train=TRAIN, checks=[NewRows()])["new rows"]
    assert found.status == status
    apart = LINEAR.log_marginal(TEST + shift).mean() - LINEAR.log_marginal(TRAIN).mean()
    assert f"rows score {abs(float(apart)):.1f} ± " in found.sentence


def test_rows_of_probability_0():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            outside = torch.where(x[:, 0] > 5, -torch.inf, 0.0) + 0 * z
            pyro.factor("support", outside)
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] / 2, 0.7))

    x = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    x[3] = 9.0
    found = diagnose(Pair(model, guide), x, names=[f"r{i}" for i in range(30)])
    assert found["log p(x)"].status == found["odd rows"].status == "bad" and not found.ok
    assert "1 of 30 rows have probability 0: row r3" in found["odd rows"].sentence


# latents that all data share


@pytest.fixture(scope="module")
def conjugate() -> tuple[Conjugate, tuple[torch.Tensor, torch.Tensor]]:
    x, y = diabetes(3)
    return Conjugate(x[:150], y[:150]), (x[150:], y[150:])


@pytest.mark.parametrize(("sd", "shift", "status"), [(1.0, 0.0, "good"), (1.25, 0.0, "doubtful"), (1.0, 2.0, "bad")])
def test_moments_of_a_posterior_in_closed_form(conjugate, sd, shift, status):
    known, _ = conjugate
    found = diagnose(known.fit(sd=sd, shift=shift))["posterior moments"]
    assert found.status == status
    assert abs(found.table["sd over the posterior's"].iloc[0] - sd) < 0.15 * sd
    if shift:
        assert found.table["mean off by (sd)"].abs().max() > 1


def test_rows_beside_a_posterior_in_closed_form(conjugate):
    known, new = conjugate
    found = diagnose(known.fit(), new)
    assert {name: found[name].status for name in ("log p(x)", "guide", "gap", "leave-one-out")} == dict.fromkeys(
        ("log p(x)", "guide", "gap", "leave-one-out"), "good"
    )
    told = known.log_predictive(*new)
    assert found["new rows"].table["mean"].tolist() == pytest.approx(
        [float(known.leave_one_out().mean()), float(told.mean())], abs=0.01
    )
    assert found["odd rows"].table.index[0] == int(told.argmin())
    assert found["odd rows"].table.iloc[0, 0] == pytest.approx(float(told.min()), abs=0.05)
    assert "292 rows, beside the 150 rows of the fit" in found.about["judged on"]
    assert found["baselines"].status == found["calibration"].status == "not asked"


def test_a_narrow_guide_is_not_believed(conjugate):
    known, new = conjugate
    found = diagnose(known.fit(sd=0.2), new)
    assert found["guide"].status == "bad" and found["posterior moments"].status in ("doubtful", "bad")


# is it done?


def record(values: np.ndarray, ended: str = "completed") -> Record:
    table = Table()
    for epoch, value in enumerate(values):
        table.append({"epoch": epoch, "elbo": float(value)})
    return Record(ended, len(values), len(values), 1.0, table)


NOISE = 0.01 * np.random.default_rng(0).normal(size=300)
RECORDS = {
    "rising": (record(-np.linspace(30, 20, 300) + NOISE), "doubtful", "still rising at the end"),
    "at rest": (record(-20 + NOISE), "good", "had come to rest"),
    "short": (record(-np.linspace(30, 20, 30)), "not asked", "too short to tell"),
    "converged": (record(-20 + NOISE, "converged"), "good", "converged"),
    "early": (record(-20 + NOISE, "early stopping"), "good", "early stopping"),
    "cut off": (record(-20 + NOISE, "interrupted"), "doubtful", "interrupted"),
    "not converged": (record(-20 + NOISE, "not converged after 300 steps"), "doubtful", "not converged"),
    "lost": (record(-20 + NOISE, "non-finite"), "bad", "by an error"),
    "none": (Record(), "not asked", "no history"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_how_a_run_ended(name):
    record, status, words = RECORDS[name]
    found = diagnose(Fit(linear(), record), TEST, checks=[Done()]).findings[0]
    assert found.status == status and words in found.sentence


@pytest.mark.parametrize(
    ("optimum", "posterior", "status"), [(True, True, "good"), (True, False, "doubtful"), (False, True, "bad")]
)
def test_a_certificate_says_whether_it_is_done(optimum, posterior, status):
    lines = (
        Line("Newton decrement", "0.2 nats", "at most 0.01", optimum, "raise max_iter"),
        Line("k-hat", "0.9", "at most 0.7", posterior, "a richer guide", about="posterior"),
    )
    fit = Fit(linear(), config={"certificate": Certificate(lines).plain()})
    found = diagnose(fit, TEST, checks=[Done()]).findings[0]
    assert found.status == status and list(found.table["what"]) == ["Newton decrement", "k-hat"]
    assert ("raise max_iter" in found.advice) is not optimum


# whatever happens


@pytest.mark.parametrize("name", CASES)
def test_no_check_breaks_down_on_any_kind_of_pair(name, recwarn):
    case = CASES[name]
    torch.manual_seed(0)
    found = diagnose(Pair(*case.make()), data_for(case, 20), train=data_for(case, 30), seconds=2)
    assert [f.name for f in found.findings] == [check.name for check in CHECKS]
    assert {f.status for f in found.findings} <= STATUSES
    assert [f for f in found.findings if f.failed] == []
    assert all(f.sentence and f.threshold and f.source and f.question for f in found.findings)


class Breaks(Check):
    name: ClassVar[str] = "breaks"
    question = threshold = source = "-"

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def applies(self, subject) -> str:
        return ""

    def ask(self, subject) -> Finding:
        raise self.error


@pytest.mark.parametrize(
    ("error", "failed", "words"),
    [
        (ValueError("surgery: two rows are required"), False, "could not be asked: surgery: two rows are required"),
        (NotImplementedError("waic: refused"), False, "could not be asked: waic: refused"),
        (IndexError("3 is out of range"), True, "could not be asked: it broke down (IndexError: 3 is out of range)"),
        (MemoryError(), True, "could not be asked: it broke down (MemoryError: MemoryError)"),
    ],
)
def test_a_check_that_fails_loses_none_of_the_others(error, failed, words):
    found = diagnose(linear(), TEST, checks=[Breaks(error), OddRows()])
    assert (found["breaks"].status, found["breaks"].failed, found["breaks"].sentence) == ("not asked", failed, words)
    assert found["odd rows"].status == "good" and found.ok is not failed
    assert ("by an error: breaks" in found.headline) is failed


def test_who_stops_it_stops_it():
    with pytest.raises(KeyboardInterrupt):
        diagnose(linear(), TEST, checks=[Breaks(KeyboardInterrupt())])


# what is asked


def test_the_same_seed_says_the_same(healthy):
    again = diagnose(linear(), TEST, train=TRAIN, noun="toys", seed=1)
    assert [f.sentence for f in again.findings] == [f.sentence for f in healthy.findings]
    said = [diagnose(linear(normal_guide(0.8)), TEST, seed=seed, checks=[LogEvidence()]) for seed in (1, 2)]
    assert said[0].findings[0].sentence != said[1].findings[0].sentence


def test_less_time_means_fewer_draws_and_rows_and_what_is_left_out_says_so(monkeypatch):
    """A pace of a second a draw leaves the least of everything."""
    monkeypatch.setattr(Pace, "of", classmethod(lambda cls, *_, seconds, **__: cls(seconds, 1.0)))
    found = diagnose(linear(normal_guide(0.5)), TEST, train=TRAIN)
    assert "200 rows, of which 20 are judged" in found.about["judged on"]
    assert "raise seconds" in found["calibration"].sentence and found["calibration"].status == "not asked"
    assert "the search would take longer" in found["gap"].sentence
    assert found["log p(x)"].sentence.endswith("of 20 rows")


def test_a_pace_is_measured_and_shared_out():
    pace = Pace.of(linear(), linear().rows(TEST), seconds=10.0, whole=False)
    assert 0 < pace.per_draw < 1e-2
    assert Pace(10.0, 1e-3).draws(0.5) == 5000
    assert Pace(math.inf, 1.0).draws(0.1) > 10**9


def test_rows_of_the_fit_are_taken_where_none_are_given(conjugate):
    known, _ = conjugate
    found = diagnose(known.fit())
    assert found.about["judged on"] == "150 rows" and found["new rows"].status == "not asked"
    with pytest.raises(ValueError, match="diagnose: rows are required, and those of the fit are not at hand"):
        diagnose(Pair(*function_pair()))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seconds": 0}, "seconds must be positive, got 0"), ({"names": ["a"]}, "names of 200 rows are required, got 1")],
)
def test_what_cannot_be_asked_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        diagnose(linear(), TEST, **options)


def test_a_fit_says_what_was_fitted_and_asks_as_its_pair(healthy):
    fit = Fit(linear(), RECORDS["rising"][0])
    found = diagnose(fit, TEST, train=TRAIN, noun="toys", seed=1, checks=[Done(), GuideTails()])
    assert found.about["judged on"] == "200 toys; beside 300 rows of the fit" and "pair" in found.about
    assert found["fit done"].status == "doubtful" and healthy["fit done"].status == "not asked"
    assert found["guide"].sentence == healthy["guide"].sentence


@pytest.mark.slow
@pytest.mark.parametrize(("both", "status"), [(True, "good"), (False, "bad")])
def test_chains_see_a_mode_that_the_guide_does_not(both, status):
    """x = |z| + noise: a guide of one sign has half of p(x), log 2 = 0.69 nats too little, and k-hat sees nothing."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 2.0))
            pyro.sample("x", dist.Normal(z if both else z.abs(), 0.3), obs=x)

    def guide(x):
        precision = 1 / 4 + 1 / 0.09
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 0.09 / precision, precision**-0.5))

    x = 2.0 + torch.rand(8, generator=torch.Generator().manual_seed(0))
    found = diagnose(Pair(model, guide), x, thorough=True)
    assert found["both sides"].status == status and found["log p(x)"].status == "good"


# what it looks like


def test_lines_are_aligned_and_the_frame_has_them(healthy):
    lines = repr(healthy).splitlines()
    assert lines[0] == f"Diagnosis: {healthy.headline}" and len(lines) == len(CHECKS) + 1
    place = {line.index(f.sentence) for line, f in zip(lines[1:], healthy.findings, strict=True)}
    assert len(place) == 1
    frame = healthy.to_dataframe()
    assert list(frame.index) == [check.name for check in CHECKS]
    assert list(frame.columns) == ["status", "sentence", "threshold", "source", "advice", "seconds"]
    assert frame.loc["gap", "threshold"] == healthy["gap"].threshold


def test_findings_are_found_by_name(healthy):
    assert healthy["guide"].plot().get_ylabel() == "k-hat"
    with pytest.raises(KeyError, match="no finding 'gaps'; there are fit done, log p"):
        healthy["gaps"]
    with pytest.raises(ValueError, match="'gap' has no figure"):
        healthy["gap"].plot()


def test_advice_stands_where_something_is_wrong_alone(healthy):
    assert not any(f.advice for f in healthy.findings)
    narrow = diagnose(linear(normal_guide(0.5)), TEST[:50])
    assert all(bool(f.advice) is (f.status in ("doubtful", "bad")) for f in narrow.findings)
