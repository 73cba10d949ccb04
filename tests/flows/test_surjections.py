"""Surjections and stochastic layers against closed forms, and their draws against the densities they report."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from flow_laws import Z_MAX, close
from flow_table import COUNTS, DOUBLE, HIDDEN, instance, normal

from ppl_vae.flows import (
    Abs,
    Augment,
    Bounded,
    Chain,
    ElementwiseAffine,
    Inverse,
    Max,
    Round,
    Slice,
    Sort,
    SplineCoupling,
    StochasticPermutation,
    UniformNoise,
    VAELayer,
    VariationalNoise,
)
from ppl_vae.flows.noise import Noise


def rows(n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, dtype=DOUBLE)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_fair_abs_costs_log_two_a_dimension_according_to_direction(n):
    x = rows(7, n)
    expected = torch.full((7,), n * math.log(2), dtype=DOUBLE)
    close(Abs().encode(x)[1], -expected)
    close(Abs(n).decode(x.abs())[1], -expected)
    close(Inverse(Abs()).encode(x.abs())[1], expected)
    close(Inverse(Abs(n)).decode(x)[1], expected)


def test_an_abs_of_images_counts_every_entry():
    close(Abs((1, 2, 2)).encode(rows(4, 4).reshape(4, 1, 2, 2))[1], torch.full((4,), -4 * math.log(2), dtype=DOUBLE))


def test_an_abs_of_some_entries_leaves_the_others_and_pays_for_its_own():
    x = rows(7, 3)
    layer = Abs(3, entries=[2, 0])
    z, contribution = layer.encode(x)
    close(z, torch.stack([x[:, 0].abs(), x[:, 1], x[:, 2].abs()], -1))
    close(contribution, torch.full((7,), -2 * math.log(2), dtype=DOUBLE))
    back, same = layer.decode(z)
    close(back.abs(), x.abs())
    close(back[:, 1], x[:, 1])
    close(same, contribution)
    assert layer.codomain.check(z).all()
    assert not layer.codomain.check(-z).any()


def test_a_sign_of_one_entry_belongs_to_that_entry():
    """Odds in the order of the entries: all of x2 come back plus, all of x0 minus."""
    layer = Abs(3, entries=[2, 0], sign=lambda z: z.new_tensor([50.0, -50.0]).expand(*z.shape[:-1], 2))
    x, contribution = layer.decode(rows(7, 3).abs())
    assert (x[:, 2] > 0).all()
    assert (x[:, 0] < 0).all()
    close(contribution, torch.zeros(7, dtype=DOUBLE))
    assert (layer.encode(-x)[1] < -50).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Abs(3, entries=[3]), r"different positions from 0 to 2, got \[3\]"),
        (lambda: Abs(3, entries=[1, 1]), r"different positions from 0 to 2, got \[1, 1\]"),
        (lambda: Abs(3, entries=[]), r"different positions from 0 to 2, got \[\]"),
        (lambda: Abs(entries=[0]), "vectors of a known size, got shape=None"),
        (lambda: Abs((2, 2), entries=[0]), r"vectors of a known size, got shape=\(2, 2\)"),
        (lambda: Abs(3, entries=[1], sign=lambda z: z).encode(rows(7, 3)), r"return \(7, 1\), got \(7, 3\)"),
    ],
)
def test_entries_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_box_inside_what_a_fold_leaves_is_exact():
    assert Chain([Abs(2, entries=[0]), Bounded([0.0, -4.0], [4.0, 4.0])]).exact
    assert Chain([Abs(2), Bounded([0.0, 0.0], [4.0, 4.0])]).exact
    # The twins: z below 0 would come back as an x that has another z.
    assert not Chain([Abs(2, entries=[1]), Bounded([0.0, -4.0], [4.0, 4.0])]).exact
    assert not Chain([Abs(2), Bounded([0.0, -4.0], [4.0, 4.0])]).exact
    assert not Chain([Abs(2, entries=[0]), SplineCoupling(2)]).exact


@pytest.mark.parametrize("n", [1, 2, 5])
def test_sort_costs_log_n_factorial_according_to_direction(n):
    x = rows(7, n)
    z, contribution = Sort(n).encode(x)
    expected = torch.full((7,), math.log(math.factorial(n)), dtype=DOUBLE)
    close(contribution, -expected)
    close(Sort(n).decode(z)[1], -expected)
    close(Inverse(Sort(n)).encode(z)[1], expected)
    close(Inverse(Sort(n)).decode(x)[1], expected)
    assert torch.equal(z, x.sort(-1).values)


def test_learned_signs_are_those_of_the_network():
    layer = instance("learned abs")
    x = rows(7, 3)
    z, contribution = layer.encode(x)
    signs = dist.Bernoulli(logits=layer.sign(z)).to_event(1)
    close(contribution, signs.log_prob((x >= 0).to(DOUBLE)))


def test_drawn_signs_have_their_probabilities():
    layer = instance("learned abs")
    z = rows(1, 3).abs()
    x, _ = layer.decode(z.expand(20_000, 3))
    chance = layer.sign(z)[0].sigmoid()
    score = ((x > 0).to(DOUBLE).mean(0) - chance) / (chance * (1 - chance) / 20_000).sqrt()
    assert score.abs().max() < Z_MAX
    wrong = ((x < 0).to(DOUBLE).mean(0) - chance) / (chance * (1 - chance) / 20_000).sqrt()
    assert wrong.abs().max() > Z_MAX  # negative twin


def order_scores(x: torch.Tensor) -> torch.Tensor:
    """The six orders of 0, 1, 2 against one chance in six each, in standard errors."""
    codes = (x * torch.tensor([9.0, 3.0, 1.0], dtype=DOUBLE)).sum(-1)
    _, counts = codes.unique(return_counts=True)
    assert len(counts) == 6
    return (counts - len(x) / 6) / (len(x) * (1 / 6) * (5 / 6)) ** 0.5


@pytest.mark.parametrize("layer", [Sort(3), Inverse(StochasticPermutation(3)), StochasticPermutation(3)])
def test_drawn_orders_are_uniform(layer):
    x, _ = layer.decode(torch.arange(3.0, dtype=DOUBLE).expand(60_000, 3))
    assert order_scores(x).abs().max() < Z_MAX


def test_orders_that_are_not_uniform_are_seen():
    """Negative twin."""
    noise = torch.rand(60_000, 3, dtype=DOUBLE) + torch.tensor([0.0, 0.05, 0.1], dtype=DOUBLE)
    assert order_scores(noise.argsort(-1).to(DOUBLE)).abs().max() > Z_MAX


def test_a_stochastic_permutation_is_free_and_keeps_the_numbers():
    x = rows(7, 5)
    z, contribution = StochasticPermutation(5).encode(x)
    assert torch.equal(contribution, torch.zeros(7, dtype=DOUBLE))
    assert torch.equal(z.sort(-1).values, x.sort(-1).values)
    assert not torch.equal(z, x)


def test_max_is_an_index_and_half_normal_gaps():
    layer = instance("max")
    x = rows(7, 3)
    z, contribution = layer.encode(x)
    gaps = (z - x).sort(-1).values[:, 1:]
    expected = dist.HalfNormal(layer.log_scale.exp()).log_prob(gaps).sum(-1) - math.log(3)
    close(contribution, expected)


def test_draws_of_max_have_their_density():
    """Under draws of x given z, the mean of 1 / p(x | z) over a region is its size.

    The region: the maximum is 0, the other number in [-1, 0]; two segments of length 1.
    """
    x, contribution = Max(2).double().decode(torch.zeros(40_000, 1, dtype=DOUBLE))
    assert torch.equal(x.amax(-1), torch.zeros(40_000, dtype=DOUBLE))
    near = x.amin(-1) > -1
    for forgotten, right in ((0.0, True), (math.log(2), False)):  # negative twin: without the choice of the index
        sizes = torch.where(near, (-contribution - forgotten).exp(), 0.0)
        score = (sizes.mean() - 2) / (sizes.std() / len(sizes) ** 0.5)
        assert (abs(score.item()) < Z_MAX) == right


def test_either_number_is_the_largest_equally_often():
    x, _ = Max(2).double().decode(torch.zeros(40_000, 1, dtype=DOUBLE))
    first = (x[:, 0] == 0).to(DOUBLE)
    assert abs(first.mean().item() - 0.5) < Z_MAX * 0.5 / 40_000**0.5
    late = torch.where(torch.rand(40_000) < 0.05, 0.0, first)  # negative twin: the first is passed over now and then
    assert abs(late.mean().item() - 0.5) > Z_MAX * 0.5 / 40_000**0.5


def test_slice_and_augment_are_the_density_of_the_rest():
    rest = normal(1, 2).double()
    x = rows(7, 3)
    z, contribution = Slice(3, 1, rest=rest).encode(x)
    close(contribution, rest(x[:, :1]).log_prob(x[:, 1:]))
    assert torch.equal(z, x[:, :1])
    _, augmented = Augment(1, 2, noise=rest).decode(x)
    close(augmented, -contribution)
    drawn, density = Augment(1, 2, noise=rest).encode(z)
    close(density, -rest(z).log_prob(drawn[:, 1:]))


def test_default_networks_of_surjections():
    assert Slice(3, 1).encode(torch.zeros(5, 3))[1].shape == (5,)
    assert Augment(3, 2, context_dim=4).encode(torch.zeros(5, 3), torch.zeros(4))[0].shape == (5, 5)


def test_uniform_dequantization_costs_nothing_in_steps():
    x = torch.randint(0, 17, (500, 4)) / 16
    z, contribution = Round(step=1 / 16).encode(x)
    assert torch.equal(contribution, torch.zeros(500))
    assert torch.equal((z.floor() / 16), x)
    fraction = z - z.floor()
    error = (1 / 12 / fraction.numel()) ** 0.5
    assert abs(fraction.mean().item() - 0.5) < Z_MAX * error
    assert abs((0.9 * fraction).mean().item() - 0.5) > Z_MAX * error  # negative twin


@pytest.mark.parametrize("step", [1.0, 1 / 16, 1 / 255, 0.1])
def test_rounding_finds_the_level_in_single_precision(step):
    """Even for noise just below 1, which float32 cannot tell from the next level."""
    levels = torch.arange(0, 300) * torch.tensor(step)
    for u in (0.0, 0.5, 1 - 2**-24):
        layer = Round(step=step, noise=Constant(u))
        x, _ = layer.decode(layer.encode(levels)[0])
        assert torch.equal((x / step).round(), torch.arange(0.0, 300.0))


class Constant(Noise):
    def __init__(self, u):
        super().__init__()
        self.u = u

    def draw(self, x, context):
        return torch.full_like(x, self.u), x.new_zeros(x.shape[:-1])

    def log_prob(self, u, x, context):
        return u.new_zeros(u.shape[:-1])


def test_variational_noise_is_a_density_on_the_unit_interval():
    flow = ElementwiseAffine(1, context_dim=1, hidden=HIDDEN).double()
    noise = VariationalNoise(flow)
    edges = torch.linspace(0, 1, 20_001, dtype=DOUBLE)
    u = ((edges[1:] + edges[:-1]) / 2).unsqueeze(-1)
    for x in (-3.0, 0.0, 2.0):
        density = noise.log_prob(u, torch.full_like(u, x), None).exp()
        assert density.mean().item() == pytest.approx(1, abs=1e-6)
    drawn, log_q = noise.draw(torch.ones(10, 1, dtype=DOUBLE), None)
    close(noise.log_prob(drawn, torch.ones(10, 1, dtype=DOUBLE), None), log_q)


def test_variational_noise_takes_a_context_beside_the_data():
    flow = ElementwiseAffine(2, context_dim=5, hidden=HIDDEN).double()
    layer = Round(2, noise=VariationalNoise(flow), context_dim=3)
    x, context = COUNTS.draw(6, 2), torch.randn(3, dtype=DOUBLE)
    z, contribution = layer.encode(x, context)
    close(layer.decode(z, context)[1], contribution)
    assert not torch.allclose(layer.decode(z, context + 1)[1], contribution)


def test_a_vae_layer_reports_the_weight_of_its_pair():
    encoder, decoder = normal(3, 2).double(), normal(2, 3).double()
    layer = VAELayer(encoder, decoder, shape=3, latent_dim=2)
    x = rows(7, 3)
    z, contribution = layer.encode(x)
    close(contribution, decoder(z).log_prob(x) - encoder(x).log_prob(z))
    back, same = layer.decode(z)
    close(same, decoder(z).log_prob(back) - encoder(back).log_prob(z))


def test_a_vae_with_discrete_data_decodes():
    class Coins(torch.nn.Linear):
        def forward(self, z):
            return dist.Bernoulli(logits=super().forward(z)).to_event(1)

    layer = VAELayer(normal(3, 2), Coins(2, 3), shape=3, latent_dim=2)
    x, contribution = layer.decode(torch.randn(7, 2))
    assert set(x.unique().tolist()) <= {0.0, 1.0} and contribution.shape == (7,)


def test_the_base_of_noise_defines_nothing():
    with pytest.raises(NotImplementedError, match="Noise: a noise must define draw"):
        Noise().draw(torch.zeros(1), None)
    with pytest.raises(NotImplementedError, match="Noise: a noise must define log_prob"):
        Noise().log_prob(torch.zeros(1), torch.zeros(1), None)
    assert UniformNoise().log_prob(torch.zeros(3, 2), torch.zeros(3, 2), None).shape == (3,)
