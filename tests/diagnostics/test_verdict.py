from __future__ import annotations

import math
import re

import pytest
import torch

from ppl_vae.diagnostics import Verdict, active_units, verdict
from ppl_vae.evidence import decomposition

NAN, KHATS = math.nan, torch.tensor([0.1] * 93 + [0.8] * 7)
DIGITS = "93 % of test digits have k-hat < 0.7"

BELOW = "the ELBO is {} nats below the evidence"

SENTENCES = {
    "as announced": (
        (6, 8, KHATS, 0.93),
        "6 of 8 latent dimensions are active; 93 % of test digits have k-hat < 0.7; "
        "the ELBO is 0.9 nats below the evidence",
    ),
    "one dimension": (
        (1, 1, KHATS, 0.93),
        f"1 of 1 latent dimension is active; {DIGITS}; {BELOW.format(0.9)}",
    ),
    "no local dimensions": ((0, 0, KHATS, 0.93), f"{DIGITS}; {BELOW.format(0.9)}"),
    "a small gap": ((0, 0, KHATS, 0.0341), f"{DIGITS}; {BELOW.format(0.034)}"),
    "a large gap": ((0, 0, KHATS, 12.34), f"{DIGITS}; {BELOW.format(12.3)}"),
    "no gap": ((0, 0, KHATS, 1e-6), f"{DIGITS}; the ELBO equals the evidence within 0.001 nats"),
    "one k-hat": ((0, 0, torch.tensor(0.434), 0.93), f"k-hat is 0.43 (< 0.7); {BELOW.format(0.9)}"),
    "one bad k-hat": ((0, 0, torch.tensor(0.75), 0.93), f"k-hat is 0.75 (>= 0.7); {BELOW.format(0.9)}"),
    "no numbers": (
        (0, 0, torch.tensor([NAN, NAN]), NAN),
        "k-hat is not known; the gap between ELBO and evidence is not known",
    ),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_the_sentence(name):
    numbers, sentence = SENTENCES[name]
    assert str(Verdict(*numbers, 0.01, "test digits")) == sentence


def test_an_exact_evidence_needs_no_khat():
    found = Verdict(0, 0, torch.zeros(9), 0.93, 0.0, "test digits", exact=True)
    assert str(found) == f"the log-likelihood is exact; {BELOW.format(0.9)}"


def test_a_pair_is_judged(local_pair, x):
    found = verdict(local_pair, x, noun="toys", num_samples=500)
    assert (found.active, found.total) == (2, 4)
    truth = 4 * (0.5 * (1.5**2 - 1) - math.log(1.5))  # KL of the four dimensions, each with 1.5 times its sd
    assert abs(found.gap - truth) < 4.5 * found.gap_error
    pattern = (
        r"2 of 4 latent dimensions are active; 100 % of toys have k-hat < 0.7; "
        r"the ELBO is 0\.\d nats below the evidence"
    )
    assert re.fullmatch(pattern, str(found))


def test_numbers_made_before_are_used(local_pair, x):
    pieces, units = decomposition(local_pair, x, num_samples=300), active_units(local_pair, x)
    found = Verdict.of(pieces, units, noun="toys")
    assert found.gap == float(pieces.gap.mean())
    assert (found.active, found.total) == (units.count, units.total)


def test_a_perfect_guide(exact_pair, x):
    assert str(verdict(exact_pair, x, num_samples=100)).endswith("the ELBO equals the evidence within 0.001 nats")


def test_latents_of_all_data_and_a_single_row(global_pair, local_pair, x):
    assert str(verdict(global_pair, x, num_samples=100)).startswith("k-hat is ")
    assert str(verdict(local_pair, x[:1], num_samples=100)).startswith("100 % of rows have k-hat < 0.7")
