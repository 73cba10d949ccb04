"""ActNorm starts from data, once, and remembers it."""

from __future__ import annotations

import copy

import pytest
import torch
from flow_laws import no_validation
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.flows import ActNorm, Chain, Reverse


def rows(n: int = 200) -> torch.Tensor:
    return 3 * torch.randn(n, 4) + torch.tensor([0.0, 1.0, -5.0, 20.0])


def test_the_first_batch_in_training_mode_sets_it():
    layer, x = ActNorm(4), rows()
    z, contribution = layer.encode(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(4))
    torch.testing.assert_close(contribution, -x.std(0, correction=0).log().sum().expand(200))
    before = copy.deepcopy(layer.state_dict())
    layer.encode(100 * x)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def test_particles_are_data_too():
    layer = ActNorm(4)
    assert abs(layer.encode(rows().reshape(10, 20, 4))[0].mean().item()) < 1e-5


def test_evaluation_mode_and_decoding_start_nothing():
    layer = ActNorm(4).eval()
    x = rows()
    assert torch.equal(layer.encode(x)[0], x) and torch.equal(layer.train().decode(x)[0], x)
    assert not layer.initialized


def test_explicitly_and_anew():
    layer = ActNorm(4).eval()
    layer.initialize(rows())
    assert layer.initialized
    layer.initialize(10 * rows())
    assert 25 < (-layer.log_scale[0]).exp() < 35


def test_a_constant_column_is_not_scaled():
    x = rows()
    x[:, 1] = 7.3
    layer = ActNorm(4)
    z, _ = layer.encode(x)
    assert layer.log_scale[1] == 0
    torch.testing.assert_close(z[:, 1], torch.zeros(200), atol=1e-5, rtol=0)


def test_a_checkpoint_carries_it():
    first, second = Chain([Reverse(4), ActNorm(4)]), Chain([Reverse(4), ActNorm(4)])
    first.encode(rows())
    second.load_state_dict(first.state_dict())
    second.encode(1000 * rows())  # in training mode: would start anew, were it not for the buffer
    assert torch.equal(first.layers[1].loc, second.layers[1].loc)


def test_a_buffer_written_in_place_is_seen():
    first, second = ActNorm(4), ActNorm(4)
    first.encode(rows())
    with torch.no_grad():
        for target, source in zip(
            [*second.parameters(), *second.buffers()], [*first.parameters(), *first.buffers()], strict=True
        ):
            target.copy_(source)
    second.encode(1000 * rows())
    assert torch.equal(first.loc, second.loc)


def test_a_checkpoint_from_before_the_start_is_one_from_before_the_start():
    started = ActNorm(4)
    started.encode(rows())
    started.load_state_dict(ActNorm(4).state_dict())
    started.encode(rows())
    assert started.initialized and started.loc[3] > 15


def test_a_copy_stays_started():
    layer = ActNorm(4)
    layer.encode(rows())
    twin = copy.deepcopy(layer)
    twin.encode(1000 * rows())
    assert torch.equal(layer.loc, twin.loc)


def test_after_the_start_it_traces_and_before_it_does_not():
    layer = ActNorm(4)
    x = rows()
    with no_validation():
        with pytest.raises(RuntimeError, match="data-dependent control flow"):
            make_fx(lambda value: layer.encode(value))(x)
        layer.encode(x)
        graph = make_fx(lambda value: layer.encode(value))(x)
        torch.testing.assert_close(graph(10 * x), layer.encode(10 * x))


def test_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"ActNorm: x must be \(\.\.\., 4\), got \(5, 3\)"):
        ActNorm(4).initialize(torch.zeros(5, 3))
