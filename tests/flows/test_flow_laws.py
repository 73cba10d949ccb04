"""Every law over every layer of the table."""

from __future__ import annotations

import pytest
import torch
from flow_laws import (
    close,
    far,
    far_values_come_back,
    gradients_reach_every_parameter,
    integrates_to_one,
    is_bijection,
    leading_dimensions,
    log_determinant,
    round_trip,
    traces,
)
from flow_table import CASES, CONTEXT, DOUBLE, data, instance, latents, names
from torch import Tensor, nn

from ppl_vae.flows import Conditioner, Layer
from ppl_vae.flows.made import MADE
from ppl_vae.flows.numbers import Numbers

CONDITIONAL = [name for name, case in CASES.items() if case.conditional]


@pytest.mark.parametrize("name", names(lambda layer: layer.deterministic_encode or layer.deterministic_decode))
def test_round_trip_and_one_contribution_both_ways(name):
    layer = instance(name)
    round_trip(layer, data(name, layer, 200), latents(name, layer, 200))


@pytest.mark.parametrize("name", names(lambda layer: layer.deterministic_encode or layer.deterministic_decode))
def test_round_trip_in_single_precision(name):
    layer, case = instance(name), CASES[name]
    x = data(name, layer, 200) if case.single_x is None else case.single_x.draw(200, case.sizes[-1])
    z = latents(name, layer, 200) if case.single_z is None else case.single_z.draw(200, case.sizes[-1])
    round_trip(layer.float(), x.float(), z.float(), 1e-5)


@pytest.mark.parametrize("name", names(is_bijection))
def test_log_determinant(name):
    layer = instance(name)
    log_determinant(layer, data(name, layer))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.sizes[0] == 2])
def test_densities_integrate_to_one(name):
    torch.manual_seed(5)
    integrates_to_one(instance(name, grid=True), CASES[name])


@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("name", CASES)
def test_leading_dimensions(name, leading):
    layer = instance(name)
    leading_dimensions(layer, data(name, layer), leading)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.empty])
def test_an_empty_batch(name):
    layer = instance(name)
    z, contribution = layer.encode(data(name, layer)[:0].unsqueeze(1).expand(0, 3, -1))
    assert z.shape[:2] == contribution.shape == (0, 3)


@pytest.mark.parametrize("name", names(lambda layer: bool(list(layer.parameters()))))
def test_gradients_reach_every_parameter(name):
    layer = instance(name)
    gradients_reach_every_parameter(layer, data(name, layer), latents(name, layer))


@pytest.mark.parametrize("name", CONDITIONAL)
def test_gradients_reach_every_parameter_of_a_conditional_layer(name):
    layer = instance(name, context_dim=CONTEXT)
    x, context = data(name, layer), torch.randn(7, CONTEXT, dtype=DOUBLE)
    z, contribution = layer.encode(x, context)
    ((z + 0.3).square().sum(-1) + contribution).sum().backward()
    for parameter, leaf in layer.named_parameters():
        assert leaf.grad is not None and leaf.grad.abs().max() > 0, parameter


@pytest.mark.parametrize("way", ["encode", "decode"])
@pytest.mark.parametrize("name", CASES)
def test_tails_stay_finite_or_lie_outside_the_stated_domain(name, way):
    layer = instance(name)
    like, where = (data(name, layer), layer.domain) if way == "encode" else (latents(name, layer), layer.codomain)
    value = (torch.tensor([[50.0], [-50.0]], dtype=DOUBLE) * torch.ones_like(like[:2])).requires_grad_()
    if not bool(where.check(value).all()):
        with pytest.raises(ValueError, match="must lie in"):
            getattr(layer, way)(value)
        return
    result, contribution = getattr(layer, way)(value)
    assert result.isfinite().all() and contribution.isfinite().all()
    total = result.sum() + contribution.sum()
    if total.requires_grad:
        total.backward()
    leaves = [value, *layer.parameters()]
    assert all(leaf.grad.isfinite().all() for leaf in leaves if leaf.grad is not None)


def goes_astray_far_out(name: str) -> bool:
    """Its network says of 10 000 what overflows; or it refuses the 0 that an abs lets through."""
    return name in ("round, variational noise", "a flow behind an abs")


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=["single", "double"])
@pytest.mark.parametrize("way", ["encode", "decode"])
@pytest.mark.parametrize("name", [name for name in CASES if not goes_astray_far_out(name)])
def test_a_layer_takes_what_it_makes_of_far_values(name, way, dtype):
    layer = instance(name).to(dtype)
    like = data(name, layer, 1) if way == "encode" else latents(name, layer, 1)
    assert far_values_come_back(layer, way, like.shape[-1], dtype) > 3


@pytest.mark.parametrize("name", ["sigmoid", "logit", "bounded", "softplus", "softplus, turned round"])
def test_far_contributions_are_those_of_higher_precision(name):
    """By each way from the same number: a logarithm, not the logarithm of a rounded number."""
    layer = instance(name)
    for way, where in (("encode", layer.domain), ("decode", layer.codomain)):
        value = far(where, 3, torch.float32)
        exact = getattr(layer.double(), way)(value.double())[1]
        close(getattr(layer.float(), way)(value)[1].double(), exact, 1e-5)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.traces])
def test_encode_traces(name):
    layer = instance(name)
    traces(layer, data(name, layer), data(name, layer))


@pytest.mark.parametrize("name", CONDITIONAL)
def test_a_context_is_broadcast(name):
    layer = instance(name, context_dim=CONTEXT)
    x, context = data(name, layer, 5), torch.randn(CONTEXT, dtype=DOUBLE)
    results = []
    for shaped in (context, context.expand(5, -1), context.expand(1, -1), context.expand(3, 5, -1)):
        values = x if shaped.dim() < 3 else x.expand(3, *x.shape)
        torch.manual_seed(4)
        results.append(layer.encode(values, shaped))
    for z, contribution in results[1:3]:
        close(z, results[0][0])
        close(contribution, results[0][1])
    if layer.deterministic_encode:
        close(results[3][0][2], results[0][0])
        close(results[3][1][2], results[0][1])


@pytest.mark.parametrize("name", CONDITIONAL)
def test_a_conditional_round_trip_by_row(name):
    layer = instance(name, context_dim=CONTEXT)
    context = torch.randn(6, CONTEXT, dtype=DOUBLE)
    for decodes, way, back, value in (
        (layer.deterministic_decode, layer.encode, layer.decode, data(name, layer, 6)),
        (layer.deterministic_encode, layer.decode, layer.encode, latents(name, layer, 6)),
    ):
        there, contribution = way(value, context)
        again, same = back(there, context)
        if decodes:
            close(again, value)
            close(same, contribution)
        if decodes and contribution.std() > 0:  # it does hang on the context
            assert not torch.allclose(back(there, context + 1.0)[1], contribution) or "additive" in name


@torch.no_grad()
def absorb(conditional: Layer, plain: Layer, context: Tensor) -> None:
    """Write a constant context into the unconditional layer of the same kind."""
    for (_, target), (_, source) in zip(plain.named_buffers(), conditional.named_buffers(), strict=True):
        target.copy_(source)
    sources = dict(conditional.named_parameters())
    for name, target in plain.named_parameters():
        if target.shape == sources[name].shape:
            target.copy_(sources[name])
    pairs = zip(_networks(plain), _networks(conditional), strict=True)
    for target, source in pairs:
        if isinstance(source, Numbers):
            target.base.copy_(source(context))
        else:
            target.layers[0].bias.copy_(source.layers[0].bias + source.context(context))


def _networks(layer: Layer) -> list[nn.Module]:
    return [module for module in layer.modules() if isinstance(module, Numbers | Conditioner | MADE)]


@pytest.mark.parametrize("name", [name for name in CONDITIONAL if CASES[name].absorbs])
def test_conditional_is_unconditional_at_a_constant_context(name):
    conditional, plain = instance(name, context_dim=CONTEXT), instance(name)
    context = torch.randn(CONTEXT, dtype=DOUBLE)
    absorb(conditional, plain, context)
    x, z = data(name, plain), latents(name, plain)
    for given, without, value in ((conditional.encode, plain.encode, x), (conditional.decode, plain.decode, z)):
        torch.manual_seed(3)
        expected = without(value)
        torch.manual_seed(3)
        for got, same in zip(given(value, context), expected, strict=True):
            close(got, same)
