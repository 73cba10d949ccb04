"""Masks and what is cut along them."""

from __future__ import annotations

import pytest
import torch

from ppl_vae.flows import AffineCoupling, Alternate, Checkerboard, Half, Mask
from ppl_vae.flows.masks import Partition

MASKS = {
    "half": (Half(), 5, [0, 1]),
    "the other half": (Half(swap=True), 5, [2, 3, 4]),
    "alternate": (Alternate(), 5, [0, 2, 4]),
    "alternate, swapped": (Alternate(swap=True), 5, [1, 3]),
    "checkerboard": (Checkerboard(height=2, width=3), 6, [0, 2, 4]),
    "checkerboard, two channels": (Checkerboard(height=2, width=2), 8, [0, 3, 4, 7]),
    "checkerboard, swapped": (Checkerboard(height=2, width=2, swap=True), 4, [1, 2]),
}


@pytest.mark.parametrize("name", MASKS)
def test_what_is_kept(name):
    mask, dim, kept = MASKS[name]
    assert mask.kept(dim) == kept


@pytest.mark.parametrize("name", MASKS)
def test_a_partition_takes_apart_and_joins(name):
    mask, dim, kept = MASKS[name]
    partition, value = Partition(mask, dim), torch.randn(4, 3, dim)
    first, second = partition.split(value)
    assert torch.equal(first, value[..., kept])
    assert torch.equal(second, value[..., [i for i in range(dim) if i not in kept]])
    assert torch.equal(partition.join(first, second), value)


@pytest.mark.parametrize("name", MASKS)
def test_a_coupling_keeps_what_the_mask_keeps_and_moves_the_rest(name):
    mask, dim, kept = MASKS[name]
    x = torch.randn(4, dim)
    moved = AffineCoupling(dim, mask=mask).encode(x)[0] != x
    assert not moved[:, kept].any()
    assert moved.any(0).sum() == dim - len(kept)


def test_a_mask_may_be_ones_own():
    class Last(Mask):
        def positions(self, dim):
            return [dim - 1]

    assert AffineCoupling(4, mask=Last()).conditioner.layers[0].in_features == 1
    assert AffineCoupling(4, mask=Last(swap=True)).conditioner.layers[0].in_features == 3
    with pytest.raises(NotImplementedError, match=r"Mask: a mask must define positions\(dim\)"):
        Mask().kept(3)
