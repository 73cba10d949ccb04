"""A pair at fixed noise: density and ELBO are the pair's own, and smooth; what cannot be is refused with the reason."""

from __future__ import annotations

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from normal_pairs import FIT, REFUSED, data, levels
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppl_vae import Pair
from ppl_vae._random import isolated_rng
from ppl_vae.inference.deterministic.starts import u_of_values
from ppl_vae.pair.checks import shaken
from ppl_vae.pair.fixed_noise import MAX_ELEMENTS, MAX_VALUES, FixedNoise, Law, require_fixed_noise

S = 5
fitting = pytest.mark.parametrize("name", FIT)


def made(name: str) -> tuple[Pair, FixedNoise]:
    """A pair at parameters a little off its start, where no scale is 1 and no location 0."""
    pair = Pair(*FIT[name](), dtype=torch.float64).initialize(data(), seed=3)
    with isolated_rng(4, pair.device), shaken(pair.parameters.leaves.values(), ()):
        off = {n: leaf.detach().clone() for n, leaf in pair.parameters.leaves.items()}
    with torch.no_grad():
        for n, leaf in pair.parameters.leaves.items():
            leaf.copy_(off[n])
    return pair, FixedNoise(pair, pair.rows(data()).batch())


def drawn(noise: FixedNoise, count: int = S, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, noise.noise_dim, dtype=torch.float64, generator=generator)


@fitting
def test_there_is_no_reason_against_it(name):
    pair, noise = made(name)
    require_fixed_noise(pair, noise.batch)


def u_of(noise: FixedNoise, values: dict[str, Tensor]) -> Tensor:
    if "both" in noise.laws:
        return torch.cat([values["mean"], values["scale"].log().unsqueeze(-1)], -1)
    return u_of_values(noise, data(), noise.pair.as_values(values))


def noise_of(noise: FixedNoise, u: Tensor) -> Tensor:
    """Standard normal noise that is placed at u, by Newton's method: a law may hang on the draws before it."""
    found = torch.zeros(len(u), noise.noise_dim, dtype=torch.float64)
    for _ in range(10):
        slopes = torch.autograd.functional.jacobian(lambda draws: noise.at_noise(draws).u.sum(0), found)
        apart = u - noise.at_noise(found).u.detach()
        found = found + (torch.linalg.pinv(slopes.permute(1, 0, 2)) @ apart.unsqueeze(-1)).squeeze(-1)
    return found


@fitting
def test_log_p_is_the_density_over_u(name):
    """Of the pair's own density at the same latents, whose volume is that of Pyro's maps."""
    pair, noise = made(name)
    values = pair.draw(data(), S, seed=5).values
    with noise.scope(), torch.no_grad():
        found = noise.at(u_of(noise, values))
    if name == "weights":  # which no density counts
        mean = values["mean"]
        prior = 2.0 * dist.Normal(0.0, 1.0).log_prob(mean).sum(-1)
        exact = prior + 0.5 * dist.Normal(mean.unsqueeze(1), 1.0).log_prob(data()).sum((-1, -2))
    else:
        u, volume = pair.unconstrain(data(), values)
        density = pair.density(data())(u).total().detach()
        joint = pair.log_joint(data(), values).total
        exact = density.sum(-1) if density.dim() > 1 else density
        again = [part.sum(-1) if part.dim() > 1 else part for part in (joint, volume)]
        torch.testing.assert_close(exact, sum(again), rtol=1e-9, atol=1e-9)
    if name == "functions":  # a map of its own: weight = sigmoid(0.5 + 2 u) has twice the slope
        exact = exact + math.log(2.0)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


@fitting
def test_log_p_less_log_q_is_the_weight_of_the_guides_own_draws(name):
    """Draw by draw: volumes cancel in it, so it does not hang on which u is taken for the latents."""
    pair, noise = made(name)
    own = pair.draw(data(), S, seed=5)
    u = u_of(noise, own.values)
    with noise.scope():
        placed = noise.at_noise(noise_of(noise, u))
    torch.testing.assert_close(placed.u, u, rtol=1e-9, atol=1e-9)
    weight = own.log_weight.sum(-1) if own.log_weight.dim() > 1 else own.log_weight
    if name == "weights":
        mean = own.values["mean"]
        weight = weight + dist.Normal(0.0, 1.0).log_prob(mean).sum(-1)
        weight = weight - 0.5 * dist.Normal(mean.unsqueeze(1), 1.0).log_prob(data()).sum((-1, -2))
    torch.testing.assert_close(placed.log_p - placed.log_q, weight, rtol=1e-8, atol=1e-8)


@fitting
def test_draws_of_the_noise_are_the_guides_draws(name):
    """First and second moments of u at many draws of noise, against those of the guide's own latents mapped back."""
    pair, noise = made(name)
    count = 4000 if noise.vectorized else 100  # these are drawn one by one
    with noise.scope(), torch.no_grad():
        u = noise.at_noise(drawn(noise, count)).u
        log_weight = (placed := noise.at_noise(drawn(noise, count, seed=1))).log_p - placed.log_q
    own = pair.draw(data(), count, seed=5)
    theirs = u_of(noise, own.values)
    spread = (u.var(0) + theirs.var(0)).div(count).sqrt()
    assert ((u.mean(0) - theirs.mean(0)).abs() < 5 * spread).all()
    assert (u.var(0) / theirs.var(0)).log().abs().max() < 5 * math.sqrt(4 / count)
    if name != "weights":  # the ELBO, by two estimates
        other = own.log_weight.sum(-1) if own.log_weight.dim() > 1 else own.log_weight
        error = math.sqrt(float(log_weight.var() + other.var()) / count)
        assert abs(float(log_weight.mean() - other.mean())) < 4.5 * error + 1e-9


@fitting
def test_gradients_are_those_of_finite_differences(name):
    """The ELBO at fixed draws along a direction of all parameters, and log p along one of u."""
    pair, noise = made(name)
    draws, leaves = drawn(noise), list(pair.parameters.leaves.values())
    generator = torch.Generator().manual_seed(7)
    ways = [torch.randn(leaf.shape, generator=generator, dtype=torch.float64) for leaf in leaves]

    def bound() -> Tensor:
        placed = noise.at_noise(draws)
        return (placed.log_p - placed.log_q).mean()

    with noise.scope():
        found = torch.autograd.grad(bound(), leaves, allow_unused=True)
        slope = sum(float((g * w).sum()) for g, w in zip(found, ways, strict=True) if g is not None)
        ends, step = [], 1e-5
        before = [leaf.detach().clone() for leaf in leaves]
        with torch.no_grad():
            for sign in (1, -1):
                for leaf, way, own in zip(leaves, ways, before, strict=True):
                    leaf.copy_(own + sign * step * way)
                ends.append(float(bound()))
            for leaf, own in zip(leaves, before, strict=True):
                leaf.copy_(own)
            u = noise.at_noise(draws).u
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6, abs=1e-6)
        way = torch.randn(u.shape, generator=generator, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(noise.at(u.requires_grad_()).sum(), u)
        with torch.no_grad():
            ends = [float(noise.at(u + sign * step * way).sum()) for sign in (1, -1)]
        assert float((gradient * way).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6, abs=1e-6)


@fitting
def test_a_draw_does_not_hang_on_the_others(name):
    """Of one draw, of two, of five: the same numbers."""
    _, noise = made(name)
    with noise.scope(), torch.no_grad():
        u = noise.at_noise(drawn(noise)).u
        torch.testing.assert_close(noise.at(u[:1]), noise.at(u)[:1], rtol=1e-11, atol=1e-10)
        torch.testing.assert_close(noise.at(u.flip(0)).flip(0), noise.at(u), rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_the_reason(name):
    make, reason = REFUSED[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Pair: the guide draws 'means', which is no latent")
        pair = Pair(*make(), dtype=torch.float64).initialize(data())
    with pytest.raises(ValueError) as caught:
        require_fixed_noise(pair, pair.rows(data()).batch())
    assert reason in str(caught.value)


def test_a_law_of_the_rows_order_alone_is_refused_and_a_symmetric_one_is_not():
    """What follows from the rows moves with them; a mean of all rows is a constant of the fit."""

    def guide(of):
        def sample(x: Tensor) -> None:
            pyro.sample("mean", dist.Normal(pyro.param("m", lambda: torch.zeros(())) + of(x), 0.3))
            pyro.sample("scale", dist.LogNormal(pyro.param("k", lambda: torch.zeros(())), 0.2))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.LogNormal(pyro.param("loc", lambda: torch.zeros(len(x))), 0.3))

        return sample

    for of, refused in ((lambda x: x[0, 0], True), (lambda x: x.max(), False)):
        pair = Pair(levels, guide(of), dtype=torch.float64).initialize(data())
        if refused:
            with pytest.raises(ValueError, match="the guide's 'mean' follows from the data"):
                require_fixed_noise(pair, pair.rows(data()).batch())
        else:
            require_fixed_noise(pair, pair.rows(data()).batch())


# blocks and heights


def test_heights_are_cut_into_blocks_that_change_nothing(monkeypatch):
    _, noise = made("AutoNormal, levels")
    u = torch.randn(11, noise.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with noise.scope():
        whole = noise.heights(u)
        monkeypatch.setattr("ppl_vae.pair.fixed_noise.MAX_VALUES", 1)
        assert noise.block == 2
        torch.testing.assert_close(noise.heights(u), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("product", "largest"),
    [
        (lambda x, w: w @ x.mT, 40),
        (lambda x, w: (x * w).sum(-1), 40 * 30),
        (lambda x, w: torch.sparse.mm(x.to_sparse(), w.mT).mT if w.dim() > 1 else torch.mv(x.to_sparse(), w), 40 * 30),
        (lambda x, w: torch.vmap(lambda row: (row * w).sum(-1))(x).movedim(0, -1), 40),
    ],
    ids=["matmul", "sum", "sparse", "under vmap"],
)
def test_blocks_are_bounded_by_what_a_draw_makes_and_not_by_views_of_the_data(product, largest):
    x = torch.zeros(40, 30, dtype=torch.float64)

    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(30), 1.0).to_event(1))
        made = product(x, w).reshape(*w.shape[:-2], 40)
        pyro.sample("y", dist.Normal(made, 1.0).to_event(1), obs=torch.zeros(40))

    pair = Pair(model, AutoNormal(model), dtype=torch.float64).initialize(None)
    noise = FixedNoise(pair, pair.rows(None).batch())
    assert noise.block == min(MAX_VALUES // (40 + 30), MAX_ELEMENTS // largest)


def test_a_height_is_minus_infinity_where_it_is_no_number_or_a_factorization_fails():
    """Only at the points where it is so: one bad matrix of many is an error of the whole run in torch."""

    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        eye = torch.eye(2).expand(*z.shape, 2, 2)
        matrix = eye + z[..., None, None] * torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        pyro.factor("root", torch.linalg.cholesky(matrix).diagonal(dim1=-2, dim2=-1).log().sum(-1))
        pyro.factor("log", (z + 0.5).log())

    def guide() -> None:
        pyro.sample("z", dist.Normal(pyro.param("m", lambda: torch.tensor(0.0)), positive_scale()))

    def positive_scale() -> Tensor:
        found: Tensor = pyro.param("s", lambda: torch.tensor(0.1), constraint=dist.constraints.positive)
        return found

    pair = Pair(model, guide, dtype=torch.float64).initialize(None)
    noise = FixedNoise(pair, pair.rows(None).batch())
    u = torch.tensor([0.2, 1.5, -0.7, 0.1, -1.2], dtype=torch.float64).unsqueeze(1)
    with noise.scope():
        found = noise.heights(u)
    z = u[:, 0]
    exact = -0.5 * z**2 - 0.5 * math.log(2 * math.pi) + 0.5 * (1 - z**2).log() + (z + 0.5).log()
    assert found.isneginf().tolist() == [False, True, True, False, True]
    torch.testing.assert_close(found[[0, 3]], exact[[0, 3]])


def test_a_law_is_read_off_through_wrappers():
    fn = dist.TransformedDistribution(
        dist.TransformedDistribution(dist.Normal(torch.zeros(4, 3), 2.0), [torch.distributions.ExpTransform()]),
        [torch.distributions.AffineTransform(1.0, 3.0)],
    ).to_event(1)
    law = Law.of(fn, lead=1)
    u = torch.randn(4, 3, dtype=torch.float64)
    value, volume = law.value(u)
    torch.testing.assert_close(value, 1 + 3 * u.exp())
    torch.testing.assert_close(volume, (u + math.log(3.0)).sum(-1))
    assert (law.size, law.noise_size, law.has_covariance) == (3, 3, False)
    assert Law.of(dist.Gamma(1.0, 1.0)) is None
    assert Law.of(dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2), 1.0))) is None
    assert Law.of(dist.TransformedDistribution(dist.Normal(0.0, 1.0), [torch.distributions.AbsTransform()])) is None


LAWS = {
    "independent": dist.Normal(torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.3, 2.0, 1.1]).double()),
    "full": dist.MultivariateNormal(
        torch.tensor([1.0, -2.0, 0.5]).double(),
        scale_tril=torch.tensor([[0.5, 0, 0], [1.0, 2.0, 0], [-0.3, 0.2, 0.1]]).double(),
    ),
    "low rank": dist.LowRankMultivariateNormal(
        torch.tensor([1.0, -2.0, 0.5]).double(),
        torch.tensor([[0.5, -1.0], [1.0, 0.0], [0.3, 2.0]]).double(),
        torch.tensor([0.2, 0.7, 1.5]).double(),
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_a_draw_of_a_law_has_its_covariance(name):
    """The images of the unit vectors are the columns of a root of it."""
    base = LAWS[name]
    law = Law.of(base.expand(torch.Size([1, *base.batch_shape])), lead=1)
    unit = torch.eye(law.noise_size, dtype=torch.float64)
    columns = torch.cat([law.place(row.unsqueeze(0)) - base.mean for row in unit])
    covariance = base.variance.diag() if name == "independent" else base.covariance_matrix
    torch.testing.assert_close(columns.T @ columns, covariance)
    torch.testing.assert_close(Law.of(base).place(unit[0]), columns[0] + base.mean)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("width", [1.0, 1.7])
def test_the_density_of_a_wider_law(name, width):
    base, u = LAWS[name], torch.tensor([[0.4, 1.0, -3.0], [2.0, -2.0, 0.5]], dtype=torch.float64)
    covariance = base.variance.diag() if name == "independent" else base.covariance_matrix
    exact = dist.MultivariateNormal(base.mean, width**2 * covariance).log_prob(u)
    law = Law.of(base.expand(torch.Size([2, *base.batch_shape])), lead=1)
    torch.testing.assert_close(law.log_q(u, width), exact)
    torch.testing.assert_close(Law.of(base).log_q(u[0], width), exact[0])
