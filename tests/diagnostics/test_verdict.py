from __future__ import annotations

import math
import re

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import LinearGaussian, rows

import ppl_vae
from ppl_vae.diagnostics import Verdict, active_units, verdict
from ppl_vae.diagnostics.comparison import far_out, on_scores, strays, worst_rows
from ppl_vae.evidence import Evidence, decomposition
from ppl_vae.pair import Pair

NAN = math.nan
GOOD, MIXED = torch.tensor([0.1] * 93 + [0.5] * 7), torch.tensor([0.1] * 93 + [0.8] * 7)
DIGITS = "100 % of 100 test digits have k-hat < 0.7"
BELOW = "the ELBO is {} nats per row below the evidence"
DOUBT = "the estimate of log p(x) is not reliable"

SENTENCES = {
    "as announced": (
        (6, 8, GOOD, 0.93),
        f"6 of 8 latent dimensions are active; {DIGITS}; {BELOW.format(0.9)}",
    ),
    "some k-hats above the limit": (
        (6, 8, MIXED, 0.93),
        "6 of 8 latent dimensions are active; 93 % of 100 test digits have k-hat < 0.7; "
        f"the ELBO is at least 0.9 nats per row below log p(x); {DOUBT} for 7 of 100 test digits",
    ),
    "all of them": (
        (0, 0, torch.ones(4), 0.93),
        "0 % of 4 test digits have k-hat < 0.7; "
        f"the ELBO is at least 0.9 nats per row below log p(x); {DOUBT} for any test digits",
    ),
    "one dimension": ((1, 1, GOOD, 0.93), f"1 of 1 latent dimension is active; {DIGITS}; {BELOW.format(0.9)}"),
    "no local dimensions": ((0, 0, GOOD, 0.93), f"{DIGITS}; {BELOW.format(0.9)}"),
    "a small gap": ((0, 0, GOOD, 0.0341), f"{DIGITS}; {BELOW.format(0.034)}"),
    "a large gap": ((0, 0, GOOD, 12.34), f"{DIGITS}; {BELOW.format(12.3)}"),
    "no gap": ((0, 0, GOOD, 1e-6), f"{DIGITS}; the ELBO equals the evidence within 0.001 nats per row"),
    "one row": ((0, 0, torch.tensor([0.434]), 0.93), f"k-hat of the one row is 0.43 (< 0.7); {BELOW.format(0.9)}"),
    "one k-hat": (
        (0, 0, torch.tensor(0.434), 0.93),
        "k-hat is 0.43 (< 0.7); the ELBO is 0.9 nats in all below the evidence",
    ),
    "one bad k-hat": (
        (0, 0, torch.tensor(3.14), 0.93),
        f"k-hat is 3.14 (>= 0.7); the ELBO is at least 0.9 nats in all below log p(x); {DOUBT} (k-hat 3.1)",
    ),
    "no gap that could be seen": (
        (0, 0, torch.tensor(NAN), 1e-6),
        f"k-hat is not known; how far the ELBO lies below log p(x) is not known; {DOUBT}",
    ),
    "no numbers": (
        (0, 0, torch.tensor([NAN, NAN]), NAN),
        "k-hat is not known; the gap between the ELBO and log p(x) is not known",
    ),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_the_sentence(name):
    numbers, sentence = SENTENCES[name]
    assert str(Verdict(*numbers, 0.01, "test digits")) == sentence


def test_an_exact_evidence_needs_no_khat():
    found = Verdict(0, 0, torch.zeros(9), 0.93, 0.0, "test digits", exact=True)
    assert str(found) == f"the log-likelihood of all 9 test digits is exact; {BELOW.format(0.9)}"


@pytest.mark.parametrize(
    ("signs", "trusted"),
    [
        ({"standard_error": 0.1, "ess": 50.0}, True),
        ({"standard_error": 0.1, "ess": 1.0}, False),
        ({"standard_error": math.inf, "ess": 50.0}, False),
        ({"standard_error": NAN, "ess": 50.0}, False),
    ],
)
def test_no_sentence_calls_an_estimate_by_one_draw_the_evidence(signs, trusted):
    """A k-hat may look well where a single weight makes the estimate."""
    numbers = {name: torch.tensor(value) for name, value in signs.items()}
    evidence = Evidence(torch.tensor(-1e6), khat=torch.tensor(0.2), bound="lower", estimator="", **numbers)
    found = str(Verdict(0, 0, evidence.khat, 616.0, 0.1, evidence=evidence, num_rows=400))
    if trusted:
        assert found.endswith("the ELBO is 616.0 nats in all (400 rows) below the evidence")
    else:
        assert found.endswith(f"616.0 nats in all (400 rows) below log p(x); {DOUBT} (k-hat 0.2, ESS {signs['ess']})")
        assert "the evidence" not in found and "< 0.7" not in found


def test_a_fit_far_from_its_posterior():
    x = 1000 + torch.randn(40, generator=torch.Generator().manual_seed(0))

    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1000.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    def guide(x):
        pyro.sample("m", dist.Normal(0.0, 1.0))

    found = str(verdict(Pair(model, guide), x, num_samples=200))
    assert re.search(r"the ELBO is at least \d+\.\d nats in all \(40 rows\) below log p\(x\)", found)
    assert "the evidence" not in found and f"{DOUBT} (k-hat " in found


def test_a_pair_is_judged(local_pair, x):
    found = verdict(local_pair, x, noun="toys", num_samples=500)
    assert (found.active, found.total) == (2, 4)
    truth = 4 * (0.5 * (1.5**2 - 1) - math.log(1.5))  # KL of the four dimensions, each with 1.5 times its sd
    assert abs(found.gap - truth) < 4.5 * found.gap_error
    pattern = (
        rf"2 of 4 latent dimensions are active; 100 % of {len(x)} toys have k-hat < 0.7; "
        r"the ELBO is 0\.\d nats per row below the evidence"
    )
    assert re.fullmatch(pattern, str(found))


def test_numbers_made_before_are_used(local_pair, x):
    pieces, units = decomposition(local_pair, x, num_samples=300), active_units(local_pair, x)
    found = Verdict.of(pieces, units, noun="toys")
    assert found.gap == float(pieces.gap.mean())
    assert (found.active, found.total) == (units.count, units.total)


def test_a_perfect_guide(exact_pair, x):
    assert str(verdict(exact_pair, x, num_samples=100)).endswith("equals the evidence within 0.001 nats per row")


def test_latents_of_all_data_and_a_single_row(global_pair, local_pair, x):
    assert str(verdict(global_pair, x, num_samples=100)).startswith("k-hat is ")
    assert str(verdict(local_pair, x[:1], num_samples=100)).startswith("k-hat of the one row is ")


# beside the training rows, and beside baselines

TRAIN, TEST = rows(200, seed=1), rows(360, seed=2)


@pytest.fixture(scope="module")
def exact_linear():
    module = LinearGaussian(exact=True)
    return module, Pair(module.model, module.guide).initialize(TRAIN)


def test_the_difference_to_the_training_rows_and_its_error(exact_linear):
    module, pair = exact_linear
    found = verdict(pair, TEST, train=TRAIN, num_samples=50)
    train, test = module.log_marginal(TRAIN), module.log_marginal(TEST)
    apart = found.overfitting
    assert apart.value == pytest.approx(float(test.mean() - train.mean()), abs=1e-4)
    assert apart.error == pytest.approx(float((test.var() / 360 + train.var() / 200).sqrt()), rel=1e-3)
    side = "above" if apart.value > 0 else "below"
    assert f"rows score {abs(apart.value):.1f} ± {apart.error:.1f} nats per row {side} the training rows" in str(found)
    assert verdict(pair, TRAIN, train=TRAIN.clone(), num_samples=50).overfitting is None  # the same rows
    assert verdict(pair, TEST, num_samples=50).overfitting is None


@pytest.mark.parametrize("form", ["tensor", "frame"])
def test_the_rows_that_make_the_difference_are_named(exact_linear, form):
    _, pair = exact_linear
    test = TEST.clone()
    test[17] += 60
    test[201] -= 60
    data = pd.DataFrame(test.numpy(), index=[f"wine {i}" for i in range(360)]) if form == "frame" else test
    names = "wine 17, wine 201" if form == "frame" else "17, 201"
    words = str(verdict(pair, data, train=TRAIN, num_samples=50))
    backwards = ", ".join(reversed(names.split(", ")))
    assert re.search(
        rf"without 2 of 360 rows \(rows ({names}|{backwards})\) it would be \d\.\d ± 0\.\d nats per row", words
    )
    words = str(verdict(pair, data, num_samples=50))
    assert "2 of 360 rows make 9" in words and "% of what lies below the median: rows" in words
    assert "without" not in str(verdict(pair, TEST, train=TRAIN, num_samples=50))
    test[5] = 1e300
    assert "1 of 360 rows have probability 0: row 5" in str(verdict(pair, test, train=TRAIN, num_samples=50))


def test_rows_are_not_blamed_where_nothing_is_lacking(exact_linear):
    """Two rows are far off, and the rows score above the training rows all the same."""
    _, pair = exact_linear
    train = TRAIN.clone()
    train[:20] += 60
    test = TEST.clone()
    test[17] += 20
    test[201] -= 20
    words = str(verdict(pair, test, train=train, num_samples=50))
    assert "above the training rows" in words
    assert "without" not in words and "make" not in words


def test_columns_that_never_change_leave_no_baseline_and_it_is_said(exact_linear):
    _, pair = exact_linear
    train = TRAIN.clone()
    train[:, 1] = 0.5
    words = str(verdict(pair, TEST, train=train, num_samples=50, columns="lengths"))
    assert words.endswith(f"there is no baseline: 1 of {TRAIN.shape[1]} lengths never change")


def test_the_margin_over_baselines(exact_linear):
    module, pair = exact_linear
    found = verdict(pair, TEST, train=TRAIN, num_samples=50, columns="lengths")
    columns = dist.Normal(TRAIN.mean(0), TRAIN.std(0)).log_prob(TEST).sum(1)
    margin = module.log_marginal(TEST) - columns
    error = float(margin.std() / 360**0.5)
    side = "above" if float(margin.mean()) > 0 else "below"
    text = f"{abs(float(margin.mean())):.1f} ± {error:.1f} nats per row {side} independent lengths"
    assert text in str(found)
    assert str(found).endswith("a normal with full covariance")


def test_a_fit_knows_its_training_rows_and_latents_of_all_data_have_no_score_a_row(global_pair, x):
    module = LinearGaussian()
    fit = ppl_vae.fit(module.model, module.guide, TRAIN, steps=2, progress=False)
    words = str(fit.verdict(TEST, num_samples=50))
    assert "the training rows" in words and "independent columns" in words
    assert "the training rows" not in str(fit.verdict(TRAIN, num_samples=50))
    assert "independent columns" in str(fit.verdict(TRAIN, num_samples=50))
    words = str(verdict(global_pair, x, train=x, num_samples=100))
    assert "independent" not in words and f"nats in all ({len(x)} rows)" in words


def test_few_rows_that_make_a_difference_and_its_error_are_named():
    """Two rows of -600 nats move a mean by as much as its error: no reason to be silent."""
    generator = torch.Generator().manual_seed(0)
    train, scores = torch.randn(300, generator=generator) - 17, torch.randn(300, generator=generator) - 17
    assert len(on_scores(scores, train, names=range(300))) == 1
    for count in (1, 2):
        moved = scores.index_add(0, torch.arange(count), torch.full((count,), -600.0))
        apart, without = on_scores(moved, train, names=range(300), noun="digits")
        assert re.fullmatch(r"digits score \d\.\d ± \d\.\d nats per row below the training rows", apart)
        rows = f"row{'s' if count > 1 else ''} {', '.join(map(str, range(count)))}"
        assert without.startswith(f"without {count} of 300 digits ({rows}) it would be 0.0")


def test_tails_have_no_strays():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(500, 200, 3, generator=generator)
    for scores in (-normal[..., 0].square() / 2, -normal.square().sum(-1) / 2, normal[..., 0].abs().log()):
        assert sum(len(strays(row)) > 0 for row in scores) < 25
    assert (
        sum(
            len(strays(row)) == 1 for row in normal[..., 0].index_add(1, torch.tensor([3]), torch.full((500, 1), -20.0))
        )
        == 500
    )


def test_the_last_rows_of_a_tail_are_not_named_without_need():
    """Below the mean of the training rows by less than its error: nobody has to answer for that."""
    scores = -torch.distributions.Exponential(1.0).icdf((torch.arange(20) + 0.5) / 20)
    assert worst_rows(scores, -1.2, range(20)) is not None and far_out(scores, -1.2, range(20)) is None
    assert len(on_scores(scores - 0.01, scores, names=range(20))) == 1
