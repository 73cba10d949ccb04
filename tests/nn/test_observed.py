"""Entries that were not observed are replaced before anything sees them."""

from __future__ import annotations

import pytest
import torch

from ppl_vae.nn import fill_unobserved


def test_only_unobserved_entries_change():
    x = torch.randn(5, 3)
    mask = torch.rand(5, 3) < 0.5
    holes = torch.where(mask, x, torch.nan)
    filled = fill_unobserved(holes, mask, filler=7.0)
    assert torch.equal(filled[mask], x[mask])
    assert (filled[~mask] == 7).all()
    assert fill_unobserved(x, None) is x


def test_the_gradient_of_what_follows_stays_finite():
    x = torch.tensor([[1.0, torch.nan]])
    weight = torch.ones(2, requires_grad=True)
    (fill_unobserved(x, ~x.isnan()) @ weight).backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("mask", [torch.ones(5, 3), torch.ones(5, dtype=torch.bool), torch.ones(1, 3).bool()])
def test_a_mask_that_does_not_fit(mask):
    with pytest.raises(ValueError, match=r"VAE: the mask must be boolean and \(5, 3\) as x is, got"):
        fill_unobserved(torch.zeros(5, 3), mask, who="VAE")
