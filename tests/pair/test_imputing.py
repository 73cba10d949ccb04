"""Holes filled against the conditional mean and variance of a linear-Gaussian model, which are in closed form."""

from __future__ import annotations

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import ppl_vae
from ppl_vae import Fit, Pair
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE

DIM, LATENT, N = 5, 2, 12
GENERATOR = torch.Generator().manual_seed(3)
WEIGHT = torch.randn(LATENT, DIM, generator=GENERATOR, dtype=torch.float64)
BIAS, NOISE = torch.linspace(-1, 1, DIM, dtype=torch.float64), torch.linspace(0.3, 0.8, DIM, dtype=torch.float64)
X = torch.randn(N, DIM, generator=GENERATOR, dtype=torch.float64)
SEEN = torch.rand(N, DIM, generator=GENERATOR) < 0.6
SEEN[:, 0] = True
HOLES = {"x": X.masked_fill(~SEEN, 7.0), "mask": SEEN}


def exact() -> tuple[Tensor, Tensor]:
    """E[x | x_seen] and the variance of each entry, (N, DIM), by the conditional of a joint normal."""
    covariance = WEIGHT.T @ WEIGHT + NOISE.square().diag()
    means, variances = X.clone(), torch.zeros(N, DIM, dtype=torch.float64)
    for n in range(N):
        s, h = SEEN[n].nonzero()[:, 0], (~SEEN[n]).nonzero()[:, 0]
        gain = covariance[h][:, s] @ torch.linalg.inv(covariance[s][:, s])
        means[n, h] = BIAS[h] + gain @ (X[n, s] - BIAS[s])
        variances[n, h] = (covariance[h][:, h] - gain @ covariance[s][:, h]).diagonal()
    return means, variances


def decode(z: Tensor) -> dist.Normal:
    return dist.Normal(z @ WEIGHT + BIAS, NOISE)


def posterior(x: Tensor, mask: Tensor, off: float = 0.0) -> dist.MultivariateNormal:
    """p(z | x_seen); ``off``: a guide that is wrong, shifted and too wide."""
    information = mask.double() / NOISE**2
    precision = torch.eye(LATENT, dtype=x.dtype) + torch.einsum("ld,nd,md->nlm", WEIGHT, information, WEIGHT)
    residual = torch.where(mask, x - BIAS, 0.0) * information
    mean = torch.linalg.solve(precision, (residual @ WEIGHT.T).unsqueeze(-1)).squeeze(-1)
    return dist.MultivariateNormal(mean + 0.5 * off, precision_matrix=precision / (1 + 2 * off))


def model(x: Tensor, mask: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
        pyro.sample("x", decode(z).mask(mask).to_event(1), obs=x)


def fitted(off: float = 0.0) -> Fit:
    def guide(x, mask):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x, mask, off))

    return Fit(Pair(model, guide, dtype=torch.float64).initialize(HOLES))


def test_the_mean_is_the_conditional_mean():
    fit, (means, variances) = fitted(), exact()
    found = fit.impute(HOLES, num_samples=4000)
    assert torch.equal(found[SEEN], X[SEEN])
    error = (found - means)[~SEEN] / (variances[~SEEN] / 4000).sqrt()  # the spread of the means is smaller still
    assert error.abs().max() < 4.5
    torch.testing.assert_close(fit.impute(HOLES, num_samples=4000, weighted=False), found)  # all weights are equal


def test_draws_have_the_conditional_moments():
    fit, (means, variances) = fitted(), exact()
    found = fit.impute(HOLES, mean=False, num_samples=4000)
    assert found.shape == (4000, N, DIM)
    assert torch.equal(found[:, SEEN], X[SEEN].expand(4000, -1))
    error = (found.mean(0) - means)[~SEEN] / (variances[~SEEN] / 4000).sqrt()
    assert error.abs().max() < 4.5 * 2**0.5  # drawn with replacement from draws
    torch.testing.assert_close(found.var(0)[~SEEN], variances[~SEEN], rtol=0.25, atol=0)


def test_weights_make_up_for_a_guide_that_is_wrong():
    fit, (means, variances) = fitted(off=1.0), exact()
    weighted, as_it_is = (fit.impute(HOLES, num_samples=8000, weighted=flag) for flag in (True, False))
    scale = variances[~SEEN].sqrt()
    assert ((weighted - means)[~SEEN] / scale).abs().max() < 0.1
    assert ((as_it_is - means)[~SEEN] / scale).abs().max() > 0.4
    drawn = fit.impute(HOLES, mean=False, num_samples=8000).mean(0)
    assert ((drawn - means)[~SEEN] / scale).abs().max() < 0.1


def test_the_cut_into_rows_changes_nothing_that_counts(monkeypatch):
    monkeypatch.setattr("ppl_vae.pair.imputing.MAX_ELEMENTS", 3 * 7 * 2000)
    found, (means, variances) = fitted().impute(HOLES, num_samples=2000), exact()
    assert ((found - means)[~SEEN] / (variances[~SEEN] / 2000).sqrt()).abs().max() < 4.5


# how holes are told


def network() -> Fit:
    torch.manual_seed(0)
    vae = VAE(nn.Linear(LATENT, DIM), latent_dim=LATENT, likelihood="normal")
    return Fit(Pair(vae, AmortizedNormal(nn.Linear(DIM, 2 * LATENT), latent_dim=LATENT)).initialize(X.float()))


@pytest.mark.parametrize(
    "form",
    [
        lambda x, holes: ({"x": x, "mask": SEEN},),
        lambda x, holes: ({"x": holes, "mask": SEEN},),
        lambda x, holes: (x, SEEN),
        lambda x, holes: (x, SEEN.numpy()),
        lambda x, holes: (holes,),
        lambda x, holes: (holes.numpy(),),
        lambda x, holes: (pd.DataFrame(holes.numpy().copy()),),
        lambda x, holes: ({"x": holes}, SEEN),
    ],
)
def test_the_models_of_the_house_take_holes_in_every_form(form):
    fit, x = network(), X.float()
    expected = fit.impute({"x": x, "mask": SEEN}, num_samples=20)
    found = fit.impute(*form(x, x.masked_fill(~SEEN, torch.nan)), num_samples=20)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found[SEEN], x[SEEN]) and found.isfinite().all()
    assert not torch.isclose(found[~SEEN], x[~SEEN]).all()


def test_a_model_without_a_way_to_hold_holes_is_told_how():
    def closed(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", decode(z).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))

    fit = Fit(Pair(closed, guide, dtype=torch.float64).initialize(X))
    with pytest.raises(ValueError, match=r"the model has no argument `mask`.*\"mask\": seen.*\.mask\(mask\)"):
        fit.impute(X.masked_fill(~SEEN, torch.nan))
    with pytest.raises(ValueError, match="it is not said which entries were observed"):
        network().impute({"x": X.float()})
    with pytest.raises(ValueError, match=r"a mask of the shape of one observed site is required, got \(12, 1\) for"):
        fitted().impute({"x": X, "mask": SEEN[:, :1]})
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        fitted().impute(HOLES, num_samples=0)


def test_a_guide_that_reads_what_the_mask_leaves_out_is_found_out():
    def guide(x, mask):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :LATENT], 1.0).to_event(1))

    fit = Fit(Pair(model, guide, dtype=torch.float64).initialize(HOLES))
    row = int((~SEEN[:, :LATENT]).any(1).nonzero()[0, 0])
    with pytest.raises(ValueError, match=rf"impute: 'x' is not finite in row {row}: the model or the guide reads what"):
        fit.impute({"x": X.masked_fill(~SEEN, torch.inf), "mask": SEEN}, num_samples=3, weighted=False)


def test_nan_in_data_is_refused_with_the_way_to_holes():
    x = X.clone()
    x[3, 2] = torch.nan
    with pytest.raises(ValueError, match=r'found one at row 3, column 2; .*"mask": seen'):
        ppl_vae.fit(model, model, x)


# obs_mask=


def test_a_site_with_an_obs_mask():
    """One number a row: what is not seen has the mean and spread of its posterior, by conjugacy."""
    t = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
    x, seen = torch.tensor([4.0, 0.0, 0.0], dtype=torch.float64), torch.tensor([True, False, False])

    def partly(t, x, seen):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(t, 2.0), obs=x, obs_mask=seen)

    def guide(t, x, seen):
        with pyro.plate("data", len(x)):
            pyro.sample("x_unobserved", dist.Normal(t, 2.0).mask(~seen))

    fit = Fit(Pair(partly, guide, dtype=torch.float64).initialize((t, x, seen)))
    found = fit.impute((t, x, seen), mean=False, num_samples=4000)
    assert found.shape == (4000, 3) and (found[:, 0] == 4.0).all()
    assert ((found.mean(0) - t)[1:] / (2 / 4000**0.5)).abs().max() < 4.5 * 2**0.5
    torch.testing.assert_close(found.std(0)[1:], torch.full((2,), 2.0, dtype=torch.float64), rtol=0.1, atol=0)
    assert abs(float(fit.impute((t, x, seen), num_samples=4000)[2]) + 3) < 4.5 * 2 / 4000**0.5


def test_classes_are_filled_with_the_likeliest():
    def classes(x, mask):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            logits = torch.stack([0 * z, 3 + 0 * z, z], -1).unsqueeze(-2).expand(*z.shape, 2, 3)
            pyro.sample("x", dist.Categorical(logits=logits).mask(mask).to_event(1), obs=x)

    def guide(x, mask):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    data = {"x": torch.tensor([[0, 2], [2, 0]]), "mask": torch.tensor([[True, False], [True, True]])}
    found = Fit(Pair(classes, guide).initialize(data)).impute(data)
    assert found.tolist() == [[0, 1], [2, 0]]
