"""Leading dimensions are flattened around a network call and given back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ppl_vae.nn import ConvDecoder, apply_batched, flatten_leading


@pytest.mark.parametrize("leading", [(), (1,), (7,), (0,), (3, 7), (2, 1, 7), (2, 3, 1, 7)])
@pytest.mark.parametrize("event", [(4,), (1, 6, 6)])
def test_flatten_leading_can_be_undone(leading, event):
    inputs = torch.randn(*leading, *event)
    flat, back = flatten_leading(inputs, len(event))
    assert flat.shape == (torch.Size(leading).numel(), *event)
    assert torch.equal(flat.reshape(back + event), inputs)


@pytest.mark.parametrize("leading", [(), (1,), (7,), (3, 7), (2, 1, 7)])
def test_a_network_sees_one_batch_axis_and_the_result_is_that_of_single_calls(leading):
    net = nn.Conv2d(1, 3, 3).double()  # takes (B, C, H, W) and nothing else
    inputs = torch.randn(*leading, 1, 6, 6, dtype=torch.float64)
    output = apply_batched(net, inputs, event_dim=3)
    assert output.shape == (*leading, 3, 4, 4)
    singles = torch.stack([net(one[None])[0] for one in inputs.reshape(-1, 1, 6, 6)])
    torch.testing.assert_close(output.reshape(-1, 3, 4, 4), singles, rtol=1e-10, atol=1e-10)


def test_a_plain_call_is_wrong_where_the_helper_is_needed():
    """Negative twin: without the helper the same network refuses the particles."""
    with pytest.raises(RuntimeError):
        nn.Conv2d(1, 3, 3)(torch.zeros(2, 1, 7, 1, 6, 6))


def test_batch_normalization_takes_its_statistics_over_particles_and_data():
    net = nn.BatchNorm1d(4)
    inputs = torch.randn(5, 11, 4)
    output = apply_batched(net, inputs)
    torch.testing.assert_close(output.mean((0, 1)), torch.zeros(4), rtol=0, atol=1e-5)


def test_an_expanded_input_and_an_empty_batch():
    net = ConvDecoder(4, (1, 8, 8))
    assert apply_batched(net, torch.zeros(1, 4).expand(3, 7, 4)).shape == (3, 7, 1, 8, 8)
    assert apply_batched(nn.Linear(4, 2), torch.zeros(0, 4)).shape == (0, 2)


def test_too_few_dimensions():
    with pytest.raises(ValueError, match=r"flatten_leading: the input must have at least 3 .*, got \(8, 8\)"):
        flatten_leading(torch.zeros(8, 8), event_dim=3)


def test_a_network_that_loses_the_batch_axis():
    class Sums(nn.Module):
        def forward(self, inputs):
            return inputs.sum(0)

    with pytest.raises(ValueError, match=r"Sums must return \(6, ...\) for an input \(6, 4\), got \(4,\)"):
        apply_batched(Sums(), torch.zeros(2, 3, 4))
