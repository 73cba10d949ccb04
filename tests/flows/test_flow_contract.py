"""What the base promises for every layer: checks, names, fields; and what a chain and an inverse make of them."""

from __future__ import annotations

import pickle

import pytest
import torch
from flow_laws import close, integrals, is_bijection, no_validation
from flow_table import CASES, CONTEXT, DOUBLE, data, instance, latents
from torch import nn

from ppl_vae.flows import (
    Abs,
    ActNorm,
    AffineCoupling,
    Augment,
    Chain,
    Checkerboard,
    ConditionalNormal,
    ElementwiseAffine,
    Half,
    Householder,
    Inverse,
    Layer,
    LeakyReLU,
    Logit,
    LULinear,
    MaskedAutoregressive,
    Max,
    NonFiniteContribution,
    Permutation,
    Planar,
    Reverse,
    Round,
    Sigmoid,
    Slice,
    Softplus,
    Sort,
    SplineCoupling,
    VAELayer,
    VariationalNoise,
    from_zuko,
)


class Breaks(Layer):
    """Puts out an infinity."""

    def _encode(self, x, context):
        return x, x.new_full(x.shape[:-1], float("inf"))

    def _decode(self, z, context):
        return z * float("nan"), z.new_zeros(z.shape[:-1])


class Misshapen(Layer):
    def _encode(self, x, context):
        return x, x

    _decode = _encode


@pytest.mark.parametrize("name", CASES)
def test_the_fields_say_what_happens(name):
    """Two calls give the same where a way is said to be deterministic, and differ where it is not."""
    layer = instance(name)
    for way, value, same in (
        (layer.encode, data(name, layer), layer.deterministic_encode),
        (layer.decode, latents(name, layer), layer.deterministic_decode),
    ):
        assert torch.equal(way(value)[0], way(value)[0]) == same


@pytest.mark.parametrize("name", CASES)
def test_results_lie_where_the_layer_says(name):
    layer = instance(name)
    assert layer.codomain.check(layer.encode(data(name, layer))[0]).all()
    assert layer.domain.check(layer.decode(latents(name, layer))[0]).all()


@pytest.mark.parametrize("name", CASES)
def test_turned_round_twice_is_the_layer(name):
    layer = instance(name)
    twice = Inverse(Inverse(layer))
    x = data(name, layer)
    torch.manual_seed(2)
    z, contribution = layer.encode(x)
    torch.manual_seed(2)
    again, same = twice.encode(x)
    close(again, z)
    close(same, contribution)
    fields = ("shape_in", "shape_out", "context_dim", "deterministic_encode", "deterministic_decode", "domain")
    assert all(getattr(twice, field) == getattr(layer, field) for field in fields)
    assert twice.exact == layer.exact


def test_a_surjection_is_exact_in_one_direction_and_a_bound_in_the_other():
    assert Abs().exact and not Inverse(Abs()).exact
    assert Slice(3, 1).exact and not Augment(1, 2).exact
    assert not Round().exact and is_bijection(Reverse(2)) and Inverse(Reverse(2)).exact
    assert not Chain([Reverse(2), Inverse(Abs())]).exact
    assert Chain([Reverse(2), Abs()]).exact


def test_a_chain_is_exact_only_where_its_domains_meet():
    coupling = AffineCoupling(2)
    assert Chain([Abs(), Inverse(Softplus()), coupling]).exact
    assert Chain([Sigmoid(), Logit(), coupling]).exact and Chain([Abs(), Logit()]).exact
    assert not Chain([Sort(2), Reverse(2)]).exact and not Chain([Sigmoid(), Inverse(Softplus())]).exact
    leaks = Chain([Abs(), ElementwiseAffine(2)]).double()
    assert not leaks.exact
    (total,), _ = integrals(leaks, CASES["elementwise affine"])
    assert 0.24 < total.item() < 0.26  # a quarter of the plane decodes back through it
    with pytest.raises(ValueError, match="Abs: z must lie in"):
        leaks.decode(-torch.ones(2, dtype=DOUBLE))


def test_learned_signs_say_that_no_derivative_passes_through_a_draw():
    learned = instance("learned abs")
    assert learned.reparametrized_encode and not learned.reparametrized_decode
    assert not Inverse(learned).reparametrized_encode
    assert not Chain([Reverse(3), Inverse(learned)]).reparametrized_encode
    assert Inverse(Abs()).reparametrized_encode


def test_a_chain_adds_contributions_and_is_a_layer():
    layers = [instance("affine coupling"), instance("LU linear"), instance("planar")]
    x = torch.randn(5, 3, dtype=DOUBLE)
    z, contribution = Chain(layers).encode(x)
    total, value = 0.0, x
    for layer in layers:
        value, part = layer.encode(value)
        total = total + part
    close(z, value)
    close(contribution, total)
    close(Chain([Chain(layers[:2]), Chain(layers[2:])]).encode(x)[1], contribution)


def test_a_chain_gives_the_context_to_those_who_take_it():
    flow = Chain([AffineCoupling(3, context_dim=CONTEXT), Reverse(3), ElementwiseAffine(3, context_dim=CONTEXT)])
    assert flow.context_dim == CONTEXT
    assert flow.encode(torch.zeros(5, 3), torch.zeros(5, CONTEXT))[1].shape == (5,)


def test_shapes_of_a_chain_are_those_of_its_ends():
    chain = Chain([Sigmoid(), Slice(5, 2), Reverse(2), LeakyReLU()])
    assert chain.shape_in == (5,) and chain.shape_out == (2,)
    assert Chain([Sigmoid(), LeakyReLU()]).shape_in is None


def test_images():
    flow = Chain([Round((1, 8, 8), step=1 / 16), LeakyReLU((1, 8, 8)), ElementwiseAffine((1, 8, 8))])
    x = torch.randint(0, 17, (3, 7, 1, 8, 8)) / 16
    z, contribution = flow.encode(x)
    assert z.shape == x.shape and contribution.shape == (3, 7)
    assert torch.equal(flow.decode(z)[0], x)
    assert torch.equal(contribution, torch.zeros(3, 7))


def test_first_nonfinite_names_the_layer():
    inner = Chain([Reverse(2), Breaks()])
    x = torch.zeros(3, 2)
    with no_validation():
        assert Chain([Reverse(2), Breaks()]).first_nonfinite(x) == "layers.1 (Breaks)"
        assert Chain([Reverse(2), inner, Reverse(2)]).first_nonfinite(x) == "layers.1.layers.1 (Breaks)"
        assert Chain([Reverse(2), Reverse(2)]).first_nonfinite(x) is None
        assert Breaks().first_nonfinite(x) == "Breaks"
        assert not Chain([Breaks()]).encode(x)[1].isfinite().any()  # no check without validation


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_under_validation_a_number_that_is_none_names_the_layer(way):
    flow = Chain([Reverse(2), Chain([Breaks()])])
    with pytest.raises(NonFiniteContribution, match=r"layers\.1\.layers\.0 \(Breaks\): finite values") as caught:
        getattr(flow, way)(torch.zeros(3, 2))
    assert caught.value.way == way and caught.value.layer == "layers.1.layers.0 (Breaks)"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_first_nonfinite_under_validation_finds_it_inside_a_chain_turned_round():
    flow = Chain([Reverse(2), Inverse(Chain([Inverse(Breaks())]))])
    assert flow.first_nonfinite(torch.zeros(3, 2)) == "layers.1 (Inverse(Chain): layers.0 (Inverse(Breaks)))"


def test_parameters_that_have_gone_are_found():
    flow = Chain([Reverse(4), AffineCoupling(4), LULinear(4)])
    flow.layers[1].conditioner.layers[0].weight.data[0, 0] = float("nan")
    assert flow.first_nonfinite(torch.ones(3, 4)) == "layers.1 (AffineCoupling)"


def zero_reflection() -> Layer:
    layer = Householder(3)
    layer.vectors.data[0] = 0.0
    return layer


ERRORS = {
    "a shape": (lambda: Reverse(3).encode(torch.zeros(5, 4)), r"Reverse: x must be \(\.\.\., 3\), got \(5, 4\)"),
    "a latent shape": (lambda: Slice(3, 1).decode(torch.zeros(3)), r"Slice: z must be \(\.\.\., 1\), got \(3,\)"),
    "no event": (lambda: Sigmoid().encode(torch.zeros(())), r"Sigmoid: x must be \(\.\.\., D\), got \(\)"),
    "inverse": (lambda: Inverse(Planar(2)).encode(torch.zeros(3)), r"Inverse\(Planar\): x must be \(\.\.\., 2\)"),
    "an image": (lambda: Sigmoid((1, 2, 2)).encode(torch.zeros(4)), r"x must be \(\.\.\., 1, 2, 2\), got \(4,\)"),
    "neighbours": (
        lambda: Chain([Reverse(3), Slice(3, 2), AffineCoupling(3)]),
        r"layer 1 \(Slice\) puts out \(2,\) and layer 2 \(AffineCoupling\) takes \(3,\)",
    ),
    "neighbours, with one between that takes anything": (
        lambda: Chain([Reverse(3), Sigmoid(), Logit(), Reverse(2)]),
        r"layer 0 \(Reverse\) puts out \(3,\) and layer 3 \(Reverse\) takes \(2,\)",
    ),
    "an image before a layer for vectors": (
        lambda: Chain([Round((1, 8, 8)), Sigmoid()]),
        r"layer 0 \(Round\) puts out \(1, 8, 8\) and layer 1 \(Sigmoid\) takes vectors",
    ),
    "a layer for vectors before an image": (
        lambda: Chain([Sigmoid(), ElementwiseAffine((1, 8, 8))]),
        r"layer 0 \(Sigmoid\) puts out vectors \(D,\) and layer 1 \(ElementwiseAffine\) takes \(1, 8, 8\)",
    ),
    "an empty chain": (lambda: Chain([]), "Chain: at least one layer is required, got none"),
    "two sizes of context": (
        lambda: Chain([AffineCoupling(2, context_dim=3), AffineCoupling(2, context_dim=4)]),
        r"the same context_dim, got 3 by layer 0 \(AffineCoupling\), 4 by layer 1 \(AffineCoupling\)",
    ),
    "no context": (
        lambda: AffineCoupling(2, context_dim=3).encode(torch.zeros(2)),
        r"AffineCoupling: a context \(\.\.\., 3\) is required, got None",
    ),
    "a context of the wrong size": (
        lambda: AffineCoupling(2, context_dim=3).encode(torch.zeros(5, 2), torch.zeros(5, 4)),
        r"AffineCoupling: the context must be \(\.\.\., 5, 3\) or broadcast to it, got \(5, 4\)",
    ),
    "a context of other rows": (
        lambda: AffineCoupling(2, context_dim=3).decode(torch.zeros(5, 2), torch.zeros(4, 3)),
        r"the context must be \(\.\.\., 5, 3\) or broadcast to it, got \(4, 3\)",
    ),
    "a context of more dimensions": (
        lambda: AffineCoupling(2, context_dim=3).encode(torch.zeros(5, 2), torch.zeros(2, 5, 3)),
        r"got \(2, 5, 3\)",
    ),
    "a context not wanted": (
        lambda: Chain([Reverse(2)]).encode(torch.zeros(2), torch.zeros(3)),
        r"Chain: it is unconditional and takes no context, got \(3,\)",
    ),
    "a context of size 0": (lambda: Planar(2, context_dim=0), "Planar: context_dim must be at least 1, or None, got 0"),
    "data outside the unit interval": (
        lambda: Logit().encode(torch.tensor([0.5, 1.0])),
        r"Logit: x must lie in the open interval \(0, 1\), got values from 0\.5 to 1",
    ),
    "latents outside": (
        lambda: Sigmoid().decode(torch.tensor([-0.5, 0.5])),
        "Sigmoid: z must lie in the open interval",
    ),
    "a negative latent": (lambda: Abs().decode(torch.tensor([-1.0])), "Abs: z must lie in GreaterThanEq"),
    "latents out of order": (lambda: Sort(2).decode(torch.tensor([1.0, 0.0])), "Sort: z must lie in vectors in asc"),
    "data between levels": (
        lambda: Round().encode(torch.tensor([0.5])),
        "Round: x must lie in whole multiples of 1, got values from 0.5 to 0.5",
    ),
    "NaN": (lambda: Reverse(1).encode(torch.tensor([float("nan")])), "Reverse: x must lie in Real"),
    "in a chain": (lambda: Chain([Reverse(1), Logit()]).encode(torch.tensor([2.0])), "Logit: x must lie in the open"),
    "a layer that returns a wrong shape": (
        lambda: Misshapen().encode(torch.zeros(5, 2)),
        r"Misshapen: encode must return \(5, 2\) and a contribution \(5,\), got \(5, 2\) and \(5, 2\)",
    ),
    "a flat side": (
        lambda: LeakyReLU(slope=0.0),
        "LeakyReLU: a slope above 0 is required, or it has no inverse, got 0",
    ),
    "a reflection in no direction": (lambda: zero_reflection().encode(torch.zeros(3)), "a length above 0 are required"),
    "no reflections": (lambda: Householder(3, reflections=0), "Householder: reflections must be at least 1, got 0"),
    "a size of 0": (lambda: Reverse(0), "Reverse: every size of an event must be at least 1, got 0"),
    "nothing to move": (lambda: AffineCoupling(1), "it must keep some numbers and move some, got all 1 on one side"),
    "no board": (
        lambda: AffineCoupling(6, mask=Checkerboard(height=2, width=2)),
        "multiple of 2 x 2 is required, got 6",
    ),
    "one bin": (lambda: SplineCoupling(2, bins=1), "bins >= 2 and bound > 0 are required, got bins=1, bound=5.0"),
    "no hidden layer": (
        lambda: MaskedAutoregressive(2, hidden=()),
        r"at least one hidden layer is required, got hidden=\(\)",
    ),
    "a slice of everything": (lambda: Slice(3, 3), "Slice: 1 <= keep < dim is required, got keep=3, dim=3"),
    "nothing added": (lambda: Augment(3, 0), "Augment: dim and extra must be at least 1, got dim=3, extra=0"),
    "one number": (lambda: Max(1), "Max: dim must be at least 2, got 1"),
    "no step": (lambda: Round(step=0.0), "Round: step must be positive, got 0"),
    "fair signs with a context": (lambda: Abs(context_dim=2), "Abs: fair signs take no context, got context_dim=2"),
    "log odds of another shape": (
        lambda: Abs(2, sign=nn.Linear(2, 1)).encode(torch.zeros(5, 2)),
        r"Abs: sign must return \(5, 2\), got \(5, 1\)",
    ),
    "noise that takes no data": (
        lambda: VariationalNoise(ElementwiseAffine(2)),
        "VariationalNoise: a conditional bijection is required, got ElementwiseAffine",
    ),
    "an undeclared event": (
        lambda: Slice(3, 1, rest=Undeclared()).encode(torch.zeros(5, 3)),
        r"Slice: its distribution must score \(5, 2\) as \(5,\), got \(5, 2\); declare the event",
    ),
    "an encoder without rsample": (
        lambda: VAELayer(Coins(), ConditionalNormal(2, 3), shape=3, latent_dim=2).encode(torch.zeros(5, 3)),
        "VAELayer: a distribution with a reparametrized sample is required, .* got Independent",
    ),
    "ActNorm from one row": (
        lambda: ActNorm(2).encode(torch.zeros(1, 2)),
        "at least 2 data are required to start from, got 1",
    ),
    "ActNorm from no numbers": (
        lambda: ActNorm(1).initialize(torch.tensor([[0.0], [float("nan")]])),
        "ActNorm: finite data are required to start from, got a NaN or an infinity",
    ),
    "not of zuko": (
        lambda: from_zuko(nn.Linear(2, 2)),
        "a flow or a lazy transformation of zuko is required, got Linear",
    ),
    "a permutation of nothing": (lambda: Permutation(0), "Permutation: every size of an event"),
    "the base encodes nothing": (
        lambda: Layer().encode(torch.zeros(2)),
        r"Layer: a layer must define _encode\(x, context\)",
    ),
    "the base decodes nothing": (
        lambda: Layer().decode(torch.zeros(2)),
        r"Layer: a layer must define _decode\(z, context\)",
    ),
}


class Undeclared(nn.Module):
    def forward(self, h):
        return torch.distributions.Normal(torch.zeros(*h.shape[:-1], 2), 1.0)


class Coins(nn.Module):
    def forward(self, x):
        return torch.distributions.Independent(torch.distributions.Bernoulli(logits=x[..., :2]), 1)


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_who_what_and_what_came(name):
    call, message = ERRORS[name]
    with pytest.raises((ValueError, NotImplementedError, TypeError), match=message):
        call()


def test_values_are_not_read_without_validation():
    with no_validation():
        assert Logit().encode(torch.tensor([2.0]))[0].isnan().all()


def test_a_layer_is_saved_and_loaded():
    for name in ("chain", "permutation", "round, variational noise"):
        first, second = instance(name), CASES[name].make(CASES[name].sizes[-1]).double()
        second.load_state_dict(first.state_dict())
        x = data(name, first)
        torch.manual_seed(1)
        z, contribution = first.encode(x)
        torch.manual_seed(1)
        close(second.encode(x)[0], z)
        torch.manual_seed(1)
        close(second.encode(x)[1], contribution)
    assert repr(AffineCoupling(2)).startswith("AffineCoupling(\n  mask=Half(swap=False)")
    assert Half() == Half(swap=False)
