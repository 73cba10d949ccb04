"""Grey levels are told from counts and fractions; columns of few values from real ones."""

from __future__ import annotations

import pytest
import torch

from ppl_vae.data import few_values, grey_levels, load_digits, load_iris, load_wine

DIGITS = load_digits().train[:50] * 16
GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("rows", "top"),
    [
        ((DIGITS / 16 * 255).round().to(torch.uint8).reshape(-1, 8, 8), 255),
        ((DIGITS / 16 * 255).round().reshape(-1, 8, 8), 255),
        (DIGITS.long().reshape(-1, 1, 8, 8), 16),
        (DIGITS.long(), 16),
        ((DIGITS > 8).to(torch.uint8) * 255, 255),
        (torch.cat([torch.zeros(1, 48), torch.full((1, 48), 255.0), torch.full((1, 48), 7.0)]), 255),
        ((DIGITS > 8).to(torch.uint8), None),
        (DIGITS / 16, None),
        (DIGITS[:, :10], None),
        (DIGITS - 1, None),
        (DIGITS.long().reshape(-1, 8, 8) * 20, None),
        (load_wine(standardize=False).train, None),
    ],
)
def test_levels(rows, top):
    assert grey_levels(rows) == top


def test_what_is_known_to_be_images_needs_no_square_and_no_full_ink():
    rows = torch.randint(0, 200, (20, 15), generator=GENERATOR)
    assert grey_levels(rows) is None
    assert grey_levels(rows, images=True) == 255


@pytest.mark.parametrize(
    ("column", "why"),
    [
        ([0.0, 1.0] * 10, "its values are 0 and 1"),
        ([2.0] * 20, "it is 2 in every row"),
        ([0.0, 1.0, 2.0, 3.0, 4.0] * 4, "it has 5 whole numbers from 0 to 4"),
        ([0.5, 1.7, 9.2] * 4, "it has 3 values from 0.5 to 9.2"),
        ([0.0] * 30 + list(range(1, 31)), None),
        ([0.0] * 60 + torch.randn(40, generator=GENERATOR).tolist(), "it is 0 in 60% of the rows"),
        (torch.randn(50, generator=GENERATOR).tolist(), None),
        ([1.0, 2.0, 3.0, 4.0], None),
    ],
)
def test_few_values(column, why):
    assert few_values(torch.tensor(column)) == why
    standardized = torch.tensor(column) * 0.37 - 1.2  # in another unit the same columns, in other words
    assert (few_values(standardized) is None) == (why is None)


@pytest.mark.parametrize("load", [load_iris, lambda: load_wine(standardize=False)])
def test_measurements_that_are_rounded_finely_are_real_numbers(load):
    assert [few_values(column) for column in load().train.T] == [None] * load().train.shape[1]
