"""Matrices: what they are, and that they turn back."""

from __future__ import annotations

import torch
from flow_laws import close
from flow_table import DOUBLE, instance

from ppl_vae.flows import Householder, LULinear, Permutation, Reverse


def matrix(layer) -> torch.Tensor:
    zero = torch.zeros(3, dtype=DOUBLE)
    rows = layer.encode(torch.eye(3, dtype=DOUBLE))[0] - layer.encode(zero)[0]
    return rows.mT.detach()


def test_lu_is_the_product_of_its_factors():
    layer = instance("LU linear")
    lower = layer.entries.tril(-1) + torch.eye(3, dtype=DOUBLE)
    upper = layer.entries.triu(1) + layer.log_diagonal.exp().diag()
    close(matrix(layer), lower @ upper)
    close(layer.encode(torch.zeros(3, dtype=DOUBLE))[1], torch.linalg.slogdet(matrix(layer)).logabsdet)


def test_lu_starts_as_the_identity():
    x = torch.randn(5, 3)
    assert torch.equal(LULinear(3).encode(x)[0], x)


def test_householder_is_orthogonal():
    for reflections in (1, 2, 3):
        q = matrix(Householder(3, reflections=reflections).double())
        close(q @ q.mT, torch.eye(3, dtype=DOUBLE))
        close(torch.linalg.det(q), torch.tensor((-1.0) ** reflections, dtype=DOUBLE))


def test_a_permutation_is_a_function_of_its_seed():
    before = torch.get_rng_state()
    orders = [Permutation(20, seed=seed).order.tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_reverse():
    assert Reverse(3).encode(torch.tensor([1.0, 2.0, 3.0]))[0].tolist() == [3.0, 2.0, 1.0]
