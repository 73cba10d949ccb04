"""Labels of which some are missing."""

from __future__ import annotations

import pytest
import torch
from pyro.distributions import Categorical

from ppl_vae.distributions.given_labels import split_labels

CLASSES = Categorical(torch.ones(3), validate_args=True)


def test_missing_labels_are_told_from_the_others():
    labeled, label = split_labels(torch.tensor([2, -1, 0]), CLASSES, size=3, who="law")
    assert labeled.tolist() == [True, False, True]
    assert label.tolist() == [2, 0, 0]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0, 3, -2]), r"law: labels must be -1 \(unlabeled\) or in 0 .. 2, got -2, 3"),
        (torch.tensor([0, 1]), r"law: y must be \(3,\) long, -1 where unlabeled, got \(2,\) of torch.int64"),
        (torch.tensor([0.0, 1.0, 2.0]), r"got \(3,\) of torch.float32"),
        (torch.tensor([[0], [1], [2]]), r"got \(3, 1\)"),
    ],
)
def test_errors(y, message):
    with pytest.raises(ValueError, match=message):
        split_labels(y, CLASSES, size=3, who="law")


def test_values_are_looked_at_under_validation_alone():
    unchecked = Categorical(torch.ones(3), validate_args=False)
    assert split_labels(torch.tensor([7]), unchecked, size=1, who="law")[1].tolist() == [7]
