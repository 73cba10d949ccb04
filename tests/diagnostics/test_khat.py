from __future__ import annotations

import torch

from ppl_vae.diagnostics import khat
from ppl_vae.evidence import ImportanceWeighted, log_evidence


def test_it_is_the_khat_of_the_evidence_by_the_guide_alone(local_pair, x):
    found = khat(local_pair, x, num_samples=200, seed=3)
    assert torch.equal(found, log_evidence(local_pair, x, ImportanceWeighted(200, widths=(1.0,)), seed=3).khat)
    assert found.shape == (40,)
    assert found.dtype == torch.float64


def test_a_perfect_guide_has_zero(exact_pair, x):
    assert khat(exact_pair, x, num_samples=100).tolist() == [0.0] * 40


def test_latents_of_all_data_have_one(global_pair, x):
    assert khat(global_pair, x, num_samples=200).shape == ()


def test_too_few_draws_have_none(local_pair, x):
    assert bool(khat(local_pair, x, num_samples=20).isnan().all())
