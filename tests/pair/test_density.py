"""The density of unconstrained latents: its values, its gradients, its parts, and what it refuses."""

from __future__ import annotations

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import CASES, data_for
from pyro.infer.autoguide import AutoNormal
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor

from ppl_vae import Pair
from ppl_vae.data import Batch
from ppl_vae.pair import Density

MARK = {"enumerate": "parallel"}
DISCRETE = ("drawn codes", "relaxed codes", "mixed latents")
SINGLE = ("PyroSample",)  # its priors are made in single precision
CONTINUOUS = [name for name in CASES if name not in (*DISCRETE, *SINGLE, "flow", "augmented flow")]
every_case = pytest.mark.parametrize("name", CONTINUOUS)
S = 3


def made(name: str) -> tuple[Pair, Batch, dict[str, Tensor]]:
    """A pair in double precision, its data, and S points u."""
    torch.manual_seed(3)
    case = CASES[name]
    x = data_for(case, 7, torch.float64)
    pair = Pair(*case.make(), dtype=torch.float64).initialize(x)
    values = pair.draw_prior_values(x, S, seed=1)
    u, _ = pair.unconstrain(x, values)
    return pair, pair.as_batch(x), {k: v.double() for k, v in u.items()}


@every_case
def test_the_density_is_log_p_and_the_volume(name):
    pair, batch, u = made(name)
    found = pair.density(batch)(u)
    z = pair.constrain(batch, u)
    _, log_det = pair.unconstrain(batch, z)
    exact = pair.log_joint(batch, z)
    torch.testing.assert_close(found.total().detach(), exact.total + log_det, rtol=1e-10, atol=1e-10)
    likelihood = found.likelihood.sum(-1) + found.global_likelihood
    each = exact.likelihood if exact.likelihood.dim() < 2 else exact.likelihood.sum(-1)
    torch.testing.assert_close(likelihood.detach(), each.expand(S), rtol=1e-10, atol=1e-10)


@every_case
def test_gradients_are_those_of_finite_differences(name):
    """In u, and in the parameters."""
    pair, batch, u = made(name)
    density = pair.density(batch)
    u = {k: v.requires_grad_() for k, v in u.items()}

    def total() -> Tensor:
        return density(u).total().sum()

    leaves = {**u, **pair.parameters.of("theta", "shared")}
    grads = torch.autograd.grad(total(), list(leaves.values()), allow_unused=True)
    for (where, leaf), grad in zip(leaves.items(), grads, strict=True):
        if grad is None:
            continue
        direction = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        with torch.no_grad():
            step, own = 1e-5, leaf.clone()
            ends = []
            for sign in (1, -1):
                leaf.copy_(own + sign * step * direction)
                ends.append(float(total()))
            leaf.copy_(own)
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float((grad * direction).sum()) == pytest.approx(slope, rel=2e-6, abs=2e-6), where


@every_case
def test_it_is_the_potential_of_pyros_samplers(name):
    """Value and gradient against ``initialize_model``, one point at a time, to 1e-8."""
    pair, batch, u = made(name)
    density = pair.density(batch)
    u = {k: v.requires_grad_() for k, v in u.items()}
    total = density(u).total()
    total = total.sum(-1) if total.dim() > 1 else total
    grads = torch.autograd.grad(total.sum(), list(u.values()))
    with pair.scope(), pair.mode(training=False):
        _, potential, _, _ = initialize_model(pair.model, batch.args, dict(batch.kwargs), max_plate_nesting=2)
        for s in range(S):
            point = {k: _as_pyro(pair, k, v[s]).detach().requires_grad_() for k, v in u.items()}
            value = potential(point)
            theirs = torch.autograd.grad(value, list(point.values()))
            assert float(total[s].detach()) == pytest.approx(-float(value.detach()), rel=1e-10)
            for (k, mine), other in zip(zip(u, grads, strict=True), theirs, strict=True):
                torch.testing.assert_close(_as_pyro(pair, k, mine[s]), -other, rtol=1e-8, atol=1e-8)


def _as_pyro(pair: Pair, name: str, u: Tensor) -> Tensor:
    """One point in Pyro's shape."""
    from ppl_vae.pair.particles import of_unconstrained, without_particles

    return without_particles(u, of_unconstrained(pair.latents[name], u.unsqueeze(0)), pair.layout)


def test_a_masked_latent_has_its_volume_alone_as_in_pyros_potential():
    there = torch.arange(5) < 3

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=there):
            z = pyro.sample("z", dist.LogNormal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(x, 1.0))

    x, u = torch.randn(2, 5, dtype=torch.float64)
    pair = Pair(model, guide, dtype=torch.float64).initialize(x)
    found = pair.density(x)({"z": u.unsqueeze(0)}).total()
    _, potential, _, _ = initialize_model(model, (x,))
    assert float(found.sum()) == pytest.approx(-float(potential({"z": u})), rel=1e-10)
    torch.testing.assert_close(found[0, ~there], u[~there])  # log |dz/du| of z = exp(u)


# parts


def mixed(x: Tensor) -> None:
    """A global scale, a positive latent of each datum, a weight of a simplex, and an observation of them all."""
    scale = pyro.sample("scale", dist.LogNormal(torch.zeros((), dtype=x.dtype), 1.0))
    share = pyro.sample("share", dist.Dirichlet(torch.ones(3, dtype=x.dtype)))
    pyro.sample("seen", dist.Normal(scale, 1.0), obs=torch.tensor(0.7, dtype=x.dtype))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(torch.tensor(2.0, dtype=x.dtype), 1.0))
        pyro.sample("x", dist.Normal(z * share[0], scale), obs=x)


def mixed_guide(x: Tensor) -> None:
    pyro.sample("scale", dist.LogNormal(torch.zeros((), dtype=x.dtype), 1.0))
    pyro.sample("share", dist.Dirichlet(torch.ones(3, dtype=x.dtype)))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Gamma(torch.tensor(2.0, dtype=x.dtype), 1.0))


X = torch.linspace(-1, 2, 5, dtype=torch.float64)


@pytest.fixture
def points() -> tuple[Pair, dict[str, Tensor]]:
    pair = Pair(mixed, mixed_guide, dtype=torch.float64).initialize(X)
    shapes = {"scale": (S,), "share": (S, 2), "z": (S, 5)}
    generator = torch.Generator().manual_seed(2)
    return pair, {k: torch.randn(*v, generator=generator, dtype=torch.float64) for k, v in shapes.items()}


def test_each_volume_stands_in_its_prior(points):
    pair, u = points
    found = pair.density(X)(u)
    assert found.global_prior.shape == found.global_likelihood.shape == (S,)
    assert found.local_prior.shape == found.likelihood.shape == (S, 5)
    z = u["z"].exp()
    local = dist.Gamma(torch.tensor(2.0, dtype=torch.float64), 1.0).log_prob(z) + u["z"]
    torch.testing.assert_close(found.local_prior, local, rtol=1e-12, atol=1e-12)
    scale = u["scale"].exp()
    torch.testing.assert_close(found.global_likelihood, dist.Normal(scale, 1.0).log_prob(torch.tensor(0.7).double()))


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0])
def test_a_power_tempers_the_likelihood_alone(points, power):
    pair, u = points
    found = pair.density(X)(u)
    whole = found.global_prior + found.local_prior.sum(-1)
    whole = whole + power * (found.global_likelihood + found.likelihood.sum(-1))
    torch.testing.assert_close(found.total(power), whole)
    torch.testing.assert_close(found.total(torch.full((S,), power, dtype=torch.float64)), whole)


def test_what_a_mini_batch_stands_for_counts_only_if_asked(points):
    pair, u = points
    batch = Batch((X,), num_data=50)
    plain, scaled = pair.density(batch)(u), pair.density(batch, scale=True)(u)
    torch.testing.assert_close(scaled.likelihood, 10 * plain.likelihood)
    torch.testing.assert_close(scaled.local_prior, 10 * plain.local_prior)
    torch.testing.assert_close(scaled.global_prior, plain.global_prior)


def test_many_points_at_once_are_those_one_by_one(points, monkeypatch):
    pair, u = points
    both = pair.density(X)(u).total()
    monkeypatch.setattr(pair.runner, "vectorizes", lambda batch: False)
    torch.testing.assert_close(pair.density(X)(u).total(), both, rtol=1e-12, atol=1e-12)


# sums over discrete latents


def mixture(observed_alone: bool):
    def model(x):
        loc = torch.tensor([-2.0, 1.0], dtype=torch.float64)
        with pyro.plate("data", len(x)):
            if observed_alone:
                z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
                c = pyro.sample("c", dist.Categorical(torch.tensor([0.3, 0.7]).double()), infer=MARK)
                pyro.sample("x", dist.Normal(z + loc[c], 1.0), obs=x)
            else:
                c = pyro.sample("c", dist.Categorical(torch.tensor([0.3, 0.7]).double()), infer=MARK)
                z = pyro.sample("z", dist.Normal(loc[c], 1.0))
                pyro.sample("x", dist.Normal(z + loc[c], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))

    return Pair(model, guide, dtype=torch.float64).initialize(X)


def test_a_sum_over_classes_of_the_data_is_a_likelihood():
    pair, u = mixture(True), {"z": torch.linspace(-1, 1, S * 5, dtype=torch.float64).reshape(S, 5)}
    found = pair.density(X)(u)
    terms = [w.log() + dist.Normal(u["z"] + m, 1.0).log_prob(X) for w, m in zip(
        torch.tensor([0.3, 0.7]), (-2.0, 1.0), strict=True)]  # fmt: skip
    torch.testing.assert_close(found.likelihood, torch.stack(terms).logsumexp(0), rtol=1e-6, atol=1e-6)
    assert found.total(0.5).shape == (S, 5)


def test_where_prior_and_likelihood_are_one_sum_tempering_is_refused_by_name():
    pair, u = mixture(False), {"z": torch.zeros(S, 5, dtype=torch.float64)}
    found = pair.density(X)(u)
    torch.testing.assert_close(found.total(), pair.log_joint(X, u).total)
    parts = ("global_prior", "local_prior", "global_likelihood", "likelihood")
    asks = [functools.partial(getattr, found, part) for part in parts]
    for ask in (*asks, lambda: found.total(0.5)):
        with pytest.raises(ValueError, match="holds 'z', 'x' at once, of which some are priors and some data"):
            ask()


def test_a_discrete_latent_of_the_guide_is_refused_by_name():
    torch.manual_seed(0)
    pair = Pair(*CASES["drawn codes"].make(), dtype=torch.float64).initialize(data_for(CASES["drawn codes"], 5))
    with pytest.raises(ValueError, match="density: continuous latents are required, but 'c' are discrete"):
        pair.density(data_for(CASES["drawn codes"], 5, torch.float64))


def test_a_flow_is_refused_by_name():
    pair = Pair(*CASES["flow"].make(), dtype=torch.float64).initialize(data_for(CASES["flow"], 5, torch.float64))
    with pytest.raises(ValueError, match="density: a p\\(x \\| z\\) with a spread is required"):
        pair.density(data_for(CASES["flow"], 5, torch.float64))


def test_a_latent_that_is_missing_is_named(points):
    pair, u = points
    with pytest.raises(ValueError, match=r"density: u of every latent site is required, got none of \['share'\]"):
        pair.density(X)({k: v for k, v in u.items() if k != "share"})


def test_a_latent_that_is_none_is_named(points):
    pair, u = points
    with pytest.raises(ValueError, match=r"density: the latent sites are .*, got \['w'\]"):
        pair.density(X)({**u, "w": u["z"]})


def test_without_the_likelihood_what_cannot_be_is_worth_its_prior():
    """0 times minus infinity is not a number, and the power 0 is where annealing begins."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.factor("inside", torch.where(z > 0, 0.0, -torch.inf))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))

    pair = Pair(model, guide, dtype=torch.float64).initialize(X)
    u = {"z": -torch.ones(S, 5, dtype=torch.float64)}
    found = pair.density(X)(u)
    assert (found.total() == -torch.inf).all()
    torch.testing.assert_close(found.total(0.0), found.local_prior)


def test_a_support_that_depends_on_data_is_that_of_the_run():
    """z below x: the map from u is another for each row."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(x - 1.0, x))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(x - 1.0, x))

    pair = Pair(model, guide, dtype=torch.float64).initialize(X)
    u = {"z": torch.zeros(1, 5, dtype=torch.float64)}
    z = X - 0.5
    expected = dist.Normal(z, 1.0).log_prob(X) + torch.tensor(0.25).log()  # the slope of a sigmoid at 0
    torch.testing.assert_close(pair.density(X)(u).total()[0], expected, rtol=1e-6, atol=1e-6)


def by_product(x, y):
    """A model that leaves no room for a plate of points."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, scale), obs=y)


def test_points_of_a_model_without_room_are_mapped(monkeypatch):
    source = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 2, generator=source).double(), torch.randn(20, generator=source).double()
    pair = Pair(by_product, AutoNormal(by_product), dtype=torch.float64).initialize((x, y))
    assert not pair.vectorizes(pair.as_batch((x, y)))
    u = {"w": torch.randn(5, 2, generator=source).double(), "scale": torch.randn(5, generator=source).double()}
    runs = []
    monkeypatch.setattr(
        Density, "_one_by_one", lambda self, u, plain=Density._one_by_one: runs.append(1) or plain(self, u)
    )
    density = pair.density((x, y))
    leaves = {name: value.clone().requires_grad_() for name, value in u.items()}
    found = density(leaves)
    found.total(0.5).sum().backward()
    assert len(runs) == 1  # to see that mapped points are the same
    for s in range(5):
        scale = u["scale"][s].exp()
        prior = dist.Normal(0.0, 1.0).log_prob(u["w"][s]).sum() + dist.Normal(0.0, 1.0).log_prob(u["scale"][s])
        torch.testing.assert_close(found.global_prior[s], prior)
        torch.testing.assert_close(found.likelihood[s], dist.Normal(x @ u["w"][s], scale).log_prob(y))
    residual = y - u["w"] @ x.T
    gradient = 0.5 * (residual.unsqueeze(-1) * x).sum(1) / (2 * u["scale"]).exp().unsqueeze(-1) - u["w"]
    torch.testing.assert_close(leaves["w"].grad, gradient)
