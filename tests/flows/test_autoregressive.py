"""Each number hangs on those before it, and on nothing else."""

from __future__ import annotations

import pytest
import torch
from flow_laws import close
from flow_table import DOUBLE
from torch import nn

from ppl_vae.flows import InverseAutoregressive, MaskedAutoregressive
from ppl_vae.flows.made import MADE


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("hidden", [(3,), (32,), (16, 16)])
def test_the_jacobian_of_the_network_is_strictly_lower_triangular(dim, hidden):
    network = MADE(dim, 2, hidden=hidden, activation=nn.Tanh, context_dim=None).double()
    x = torch.randn(dim, dtype=DOUBLE)
    for output in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda value, output=output: network(value)[output], x)
        assert torch.equal(jacobian.triu(), torch.zeros_like(jacobian))
        if len(hidden) == 1 and hidden[0] >= dim:
            assert (jacobian.tril(-1) != 0).sum() == dim * (dim - 1) // 2


def test_every_output_hears_the_context():
    network = MADE(3, 1, hidden=(8,), activation=nn.Tanh, context_dim=2).double()
    c, x = torch.randn(2, dtype=DOUBLE), torch.randn(3, dtype=DOUBLE)
    jacobian = torch.autograd.functional.jacobian(lambda value: network(x, value)[0], c)
    assert (jacobian.abs().sum(-1) > 0).all()


def test_a_long_vector_decodes_without_overflow():
    layer = MaskedAutoregressive(200, hidden=(16,))
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=2.0)  # each log scale near its bound
    z = torch.randn(5, 200)
    x, contribution = layer.decode(z)
    assert x.isfinite().all() and contribution.isfinite().all()


def test_the_two_are_each_others_inverse():
    torch.manual_seed(0)
    masked = MaskedAutoregressive(3).double()
    torch.manual_seed(0)
    inverse = InverseAutoregressive(3).double()
    x = torch.randn(5, 3, dtype=DOUBLE)
    z, contribution = masked.encode(x)
    drawn, negative = inverse.decode(x)
    close(drawn, z)
    close(negative, -contribution)
    assert inverse.label == "InverseAutoregressive"


def test_which_way_is_one_call_of_the_network():
    for layer, way, calls in (
        (MaskedAutoregressive(5), "encode", 1),
        (MaskedAutoregressive(5), "decode", 5),
        (InverseAutoregressive(5), "encode", 5),
        (InverseAutoregressive(5), "decode", 1),
    ):
        network = layer.layer.network if isinstance(layer, InverseAutoregressive) else layer.network
        seen = []
        network.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        getattr(layer, way)(torch.zeros(2, 5))
        assert len(seen) == calls
