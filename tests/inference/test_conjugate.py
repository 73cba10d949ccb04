"""A mean shared by all data, on mini-batches: the exact posterior, where slicing by hand gives one far too wide."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch.distributions import constraints
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae import ELBO, VariationalEM
from ppl_vae.training import EachStep

N, B, STEPS = 80, 20, 350
NOISE, PRIOR = 2.0, 3.0
X = 1.5 + NOISE * torch.randn(N, generator=torch.Generator().manual_seed(0))
PRECISION = N / NOISE**2 + 1 / PRIOR**2
MEAN, SD = float(X.sum()) / NOISE**2 / PRECISION, PRECISION**-0.5


def model(x):
    mu = pyro.sample("mu", dist.Normal(0.0, PRIOR))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, NOISE), obs=x)


def guide(x):
    loc = pyro.param("loc", torch.tensor(0.0))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    pyro.sample("mu", dist.Normal(loc, scale))


def posterior(fit) -> tuple[float, float]:
    """Mean and sd of what q says of mu."""
    mu = fit.draw(X, 20000).values["mu"]
    return float(mu.mean()), float(mu.std())


def em(fn, q, steps: int = STEPS, **options) -> VariationalEM:
    annealed = EachStep(partial(CosineAnnealingLR, T_max=steps))
    objective = ELBO(num_particles=8)
    return VariationalEM(fn, q, lr=0.1, lr_scheduler=annealed, objective=objective, **options)


def loader():
    return DataLoader(TensorDataset(X), batch_size=B, shuffle=True)


CASES = {
    "function": lambda: em(model, guide).fit(X, steps=STEPS, batch_size=B),
    "all rows at once": lambda: em(model, guide).fit(X, steps=STEPS),
    "loader": lambda: em(model, guide).fit(loader(), steps=STEPS),
    "smaller last batch": lambda: em(model, guide).fit(X, steps=STEPS, batch_size=30),
    "AutoNormal": lambda: em(model, AutoNormal(model)).fit(X, steps=STEPS, batch_size=B),
    "AutoMultivariateNormal": lambda: em(model, AutoMultivariateNormal(model)).fit(X, steps=STEPS, batch_size=B),
    "a loss of Pyro": lambda: VariationalEM(
        model,
        guide,
        lr=0.1,
        lr_scheduler=EachStep(partial(CosineAnnealingLR, T_max=STEPS)),
        objective=Trace_ELBO(8, vectorize_particles=True),
    ).fit(X, steps=STEPS, batch_size=B),
}


@pytest.mark.parametrize("name", CASES)
def test_mini_batches_find_the_exact_posterior(name):
    mean, sd = posterior(CASES[name]())
    assert abs(mean - MEAN) < 0.1 * SD
    assert abs(sd / SD - 1) < 0.1


# two latents that the data tie together: a line

T = torch.linspace(0.0, 2.0, N)
Y = 0.5 - 1.0 * T + NOISE * torch.randn(N, generator=torch.Generator().manual_seed(1))
DESIGN = torch.stack([torch.ones(N), T], 1).double()
LINE = torch.linalg.inv(DESIGN.T @ DESIGN / NOISE**2 + torch.eye(2) / PRIOR**2)


def line(t, y):
    coef = pyro.sample("coef", dist.Normal(torch.zeros(2), PRIOR).to_event(1))
    with pyro.plate("data", len(t)):
        pyro.sample("y", dist.Normal(coef[..., 0] + coef[..., 1] * t, NOISE), obs=y)


def test_a_full_covariance_finds_the_correlation():
    fit = em(line, AutoMultivariateNormal(line)).fit((T, Y), steps=STEPS, batch_size=B)
    draws = fit.draw((T, Y), 20000).values["coef"].double()
    mean, sd = LINE @ DESIGN.T @ Y.double() / NOISE**2, LINE.diagonal().sqrt()
    assert ((draws.mean(0) - mean).abs() < 0.1 * sd).all()
    assert ((draws.std(0) / sd - 1).abs() < 0.1).all()
    correlation = float(LINE[0, 1] / sd.prod())
    assert correlation < -0.8
    assert abs(float(draws.T.corrcoef()[0, 1]) - correlation) < 0.05


FEW = 8  # rows a step, by hand


def by_hand(step) -> None:
    for t in range(STEPS):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(t // (N // FEW)))
        step(X[order[FEW * (t % (N // FEW)) :][:FEW]])


@pytest.mark.parametrize("num_data", [N, None])
def test_steps_by_hand_must_be_told_how_many_rows_there_are(num_data):
    """The negative twin: without ``num_data`` a batch stands for itself, and the posterior is that of B rows."""
    run = VariationalEM(model, guide, lr=0.02, objective=ELBO(num_particles=8))
    by_hand(lambda rows: run.step(rows, num_data=num_data))
    sd = posterior(run.result())[1]
    if num_data == N:
        assert abs(sd / SD - 1) < 0.15
    else:
        assert sd > 2 * SD
        assert sd == pytest.approx((FEW / NOISE**2 + 1 / PRIOR**2) ** -0.5, rel=0.15)


def test_slicing_by_hand_in_pyro_gives_a_posterior_far_too_wide():
    """The negative twin, as people write it: ``svi.step(x[batch])`` knows nothing of the other rows."""
    pyro.clear_param_store()
    try:
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO(8, vectorize_particles=True))
        by_hand(svi.step)
        assert float(pyro.param("scale").detach()) > 2 * SD
    finally:
        pyro.clear_param_store()


def test_rows_that_a_loader_leaves_out_are_not_counted():
    """Half of the data behind a sampler: the posterior is that of the half."""
    half = N // 2
    rows = DataLoader(TensorDataset(X), batch_size=B, sampler=torch.utils.data.SubsetRandomSampler(range(half)))
    mean, sd = posterior(em(model, guide).fit(rows, steps=STEPS))
    precision = half / NOISE**2 + 1 / PRIOR**2
    assert abs(sd * precision**0.5 - 1) < 0.1
    assert abs(mean - float(X[:half].sum()) / NOISE**2 / precision) < 0.1 * precision**-0.5
