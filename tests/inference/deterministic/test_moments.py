"""Errors of a guide's own means and sds, against normals whose moments are known."""

from __future__ import annotations

import math

import torch
from torch.distributions import Normal

from ppl_vae.inference.deterministic.moments import moments

GUIDE, POSTERIOR = Normal(0.3, 0.8), Normal(0.0, 1.0)
"""The guide's mean lies 0.3 posterior sds too high, and its sd is 0.8 of the posterior's."""


def drawn(count: int, seed: int, guide: Normal = GUIDE):
    noise = torch.randn(count, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    u = guide.loc + guide.scale * noise
    return u, (POSTERIOR.log_prob(u) - guide.log_prob(u)).squeeze(-1) + 7.0


def test_shift_and_ratio_are_the_known_ones():
    found = moments(*drawn(100_000, 0))
    assert abs(float(found.shift) - 0.3) < 4 * float(found.shift_error) < 0.06
    assert abs(float(found.log_ratio) - math.log(0.8)) < 4 * float(found.log_ratio_error) < 0.06


def test_standard_errors_are_those_of_many_repetitions():
    guide = Normal(0.2, 1.1)  # a guide that is too wide has weights with all moments
    every = [moments(*drawn(2000, seed, guide)) for seed in range(300)]
    for value, error, truth in (("shift", "shift_error", 0.2), ("log_ratio", "log_ratio_error", math.log(1.1))):
        z = torch.cat([(getattr(m, value) - truth) / getattr(m, error) for m in every])
        assert abs(float(z.mean())) < 0.3
        assert 0.88 < float(z.std()) < 1.12  # 300 of them scatter by 4 %


def test_a_guide_that_is_the_posterior_is_off_by_nothing_and_without_error():
    found = moments(*drawn(1000, 0, POSTERIOR))
    for value in (found.shift, found.shift_error, found.log_ratio, found.log_ratio_error):
        assert float(value.abs()) < 1e-12


def test_numbers_are_judged_one_by_one():
    u, log_weight = drawn(50_000, 0)
    other = torch.randn(50_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = moments(torch.cat([u, other], 1), log_weight)
    assert abs(float(found.shift[1])) < 4 * float(found.shift_error[1])
    assert float(found.shift[0]) > 0.25
