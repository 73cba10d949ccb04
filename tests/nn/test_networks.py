"""Laws of the networks: shapes, leading dimensions, types, gradients, and errors that name the shape."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ppl_vae.nn import MLP, ConvDecoder, ConvEncoder

# name: (makes the network, event shape in, event shape out)
NETWORKS = {
    "mlp": (lambda: MLP(64, 16), (64,), (16,)),
    "mlp linear": (lambda: MLP(64, 16, hidden=()), (64,), (16,)),
    "mlp relu": (lambda: MLP(8, 64, hidden=(32,), activation=nn.ReLU), (8,), (64,)),
    "mlp with a shape": (lambda: MLP(8, (64, 17)), (8,), (64, 17)),
    "conv encoder 8": (lambda: ConvEncoder((1, 8, 8), 16), (1, 8, 8), (16,)),
    "conv encoder 28": (lambda: ConvEncoder((1, 28, 28), 16), (1, 28, 28), (16,)),
    "conv encoder on rows": (lambda: ConvEncoder((1, 8, 8), 16), (64,), (16,)),
    "conv decoder 8": (lambda: ConvDecoder(8, (1, 8, 8)), (8,), (1, 8, 8)),
    "conv decoder 28": (lambda: ConvDecoder(8, (1, 28, 28)), (8,), (1, 28, 28)),
    "conv decoder odd": (lambda: ConvDecoder(8, (3, 5, 9), channels=(4, 8, 8)), (8,), (3, 5, 9)),
    "conv decoder to rows": (lambda: ConvDecoder(8, (1, 8, 8), flatten=True), (8,), (64,)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    make, event_in, event_out = NETWORKS[request.param]
    torch.manual_seed(0)
    return make().double(), event_in, event_out


@pytest.mark.parametrize("leading", [(), (5,), (3, 5), (2, 1, 5)])
def test_leading_dimensions_are_kept_and_do_not_mix(network, leading):
    net, event_in, event_out = network
    inputs = torch.randn(*leading, *event_in, dtype=torch.float64)
    output = net(inputs)
    assert output.shape == (*leading, *event_out)
    assert output.dtype == torch.float64
    singles = torch.stack([net(one) for one in inputs.reshape(-1, *event_in)])
    torch.testing.assert_close(output.reshape(-1, *event_out), singles, rtol=1e-10, atol=1e-10)


def test_every_parameter_gets_a_gradient(network):
    net, event_in, _ = network
    net(torch.randn(20, *event_in, dtype=torch.float64)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_linear_network_is_a_matrix():
    net = MLP(5, 3, hidden=()).double()
    x = torch.randn(11, 5, dtype=torch.float64)
    (layer,) = net.layers
    torch.testing.assert_close(net(x), x @ layer.weight.T + layer.bias, rtol=1e-10, atol=1e-10)


def test_no_activation_after_the_last_layer():
    assert isinstance(MLP(4, 2).layers[-1], nn.Linear)
    assert sum(isinstance(layer, nn.SiLU) for layer in MLP(4, 2, hidden=(3, 3, 3)).layers) == 3


def test_without_bias():
    assert torch.equal(MLP(4, 2, bias=False)(torch.zeros(1, 4)), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: MLP(64, 16)(torch.zeros(100, 63)),
            r"MLP: the input must be \(\.\.\., 64\), got \(100, 63\)",
        ),
        (lambda: MLP(64, 16)(torch.zeros(())), r"MLP: the input must be \(\.\.\., 64\), got \(\)"),
        (lambda: MLP(64, 0), r"MLP: every size must be at least 1, got 64 -> 128 -> 128 -> 0"),
        (
            lambda: ConvEncoder((1, 8, 8), 16)(torch.zeros(100, 63)),
            r"ConvEncoder: the input must be \(\.\.\., 1, 8, 8\) or \(\.\.\., 64\), got \(100, 63\)",
        ),
        (lambda: ConvEncoder((8, 8), 16), r"ConvEncoder: image_shape must be \(C, H, W\).*, got \(8, 8\)"),
        (
            lambda: ConvEncoder((1, 8, 8), 16, channels=()),
            r"ConvEncoder: channels must name at least one stage",
        ),
        (
            lambda: ConvDecoder(8, (1, 0, 8)),
            r"ConvDecoder: image_shape must be \(C, H, W\).*, got \(1, 0, 8\)",
        ),
        (
            lambda: ConvDecoder(8, (1, 8, 8))(torch.zeros(100, 7)),
            r"ConvDecoder: the input must be \(\.\.\., 8\), got \(100, 7\)",
        ),
    ],
)
def test_errors_say_who_what_and_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()
