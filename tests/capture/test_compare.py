"""Errors are relative to the largest entry, and near an optimum to the size that gradients had."""

from __future__ import annotations

import math

import torch

from ppl_vae.capture.compare import FALLEN, difference, size


def test_the_error_is_relative_to_the_largest_entry_of_all_tensors():
    reference = [torch.tensor([1.0, 100.0]), None, torch.tensor([2.0])]
    ours = [torch.tensor([1.0, 100.0]), None, torch.tensor([2.5])]
    assert difference(ours, reference) == 0.005
    assert size(reference) == 100.0


def test_a_gradient_that_has_fallen_is_held_against_its_former_size():
    small, off = [torch.tensor([1e-3])], [torch.tensor([1.1e-3])]
    assert math.isclose(difference(off, small), 0.1, rel_tol=1e-5)
    assert math.isclose(difference(off, small, former=0.1), 1e-3, rel_tol=1e-5)


def test_a_former_size_does_not_excuse_everything():
    """A gradient wrong by its own size is found, however large gradients once were."""
    small, twice = [torch.tensor([1e-3])], [torch.tensor([2e-3])]
    assert math.isclose(difference(twice, small, former=1e9), 1 / FALLEN, rel_tol=1e-5)
    assert difference(twice, small, former=1e9) > 1e-5  # what is allowed in float32


def test_what_is_not_finite_is_no_size():
    assert size([torch.tensor([float("inf"), 3.0]), torch.tensor([1, 2]), None]) == 3.0
    assert size([]) == 0.0
