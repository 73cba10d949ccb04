"""Ordinary pairs that once went wrong: each was found by trying, and each has an exact or a plain answer."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import CASES, data_for, function_pair, rows
from pyro.infer import JitTrace_ELBO

from ppl_vae import ELBO, VariationalEM
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.nn import MLP


def fitted(model, guide, x, **options):
    return VariationalEM(model, guide, lr=0.02).fit(x, steps=3, progress=False, **options)


def test_the_mean_of_a_latent_given_another_is_averaged_over_that_one():
    """q(u | z) = N(3 z, 0.1²), q(z | x) = N(a x, 1): E[u] = 3 a x, whatever single z a run has drawn."""
    x = data_for(CASES["two levels"])
    fit = fitted(*CASES["two levels"].make(), x)
    codes = fit.encode(x)
    exact = 3 * fit.params["a"] * x[:, 0]
    error = (9 + 0.01) ** 0.5 / 256**0.5
    assert float((codes["u"] - exact).abs().max()) < 4.5 * error
    torch.testing.assert_close(codes["z"], fit.params["a"] * x[:, 0])


def test_a_discrete_latent_is_encoded_by_its_most_probable_value_and_decodes():
    def model(x):
        table = pyro.param("table", torch.tensor([[0.0] * 3, [5.0] * 3]))
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(table[c], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(logits=torch.stack([-x[:, 0], x[:, 0]], -1)))

    x = rows(dtype=torch.float32)
    fit = fitted(model, guide, x)
    codes = fit.encode(x)
    assert torch.equal(codes, (x[:, 0] > 0).long())
    assert torch.equal(fit.reconstruct(x), fit.params["table"][codes])


def test_rows_that_a_free_guide_never_saw_are_refused_everywhere():
    x = rows(30, dtype=torch.float32)
    pair = VAE(MLP(2, 3), latent_dim=2, likelihood="normal"), MeanField(num_data=30, latent_dim=2)
    with pytest.raises(ValueError, match="only for the 30 rows that it was fitted to .* got 10 other rows"):
        fitted(*pair, x, batch_size=10, validation=rows(10, seed=1, dtype=torch.float32))
    fit = fitted(*pair, x, batch_size=10)
    for ask in (fit.elbo, fit.log_evidence, fit.verdict, fit.encode, fit.to_inference_data):
        with pytest.raises(ValueError, match="got 10 other rows"):
            ask(x[:10])
    assert fit.elbo(x).shape == (30,)


def test_a_fit_inside_no_grad_still_learns():
    x = rows(dtype=torch.float32)
    with torch.no_grad():
        fit = fitted(*function_pair(), x)
    fresh = VariationalEM(*function_pair(), lr=0.02)
    fresh.pair.initialize(x)
    assert not torch.equal(fit.params["weight"], fresh.pair.params["weight"])


def test_a_schedule_that_is_a_lambda_resumes(tmp_path):
    def run(**options):
        em = VariationalEM(*function_pair(), objective=ELBO(beta=lambda step: min(1.0, step / 10)))
        return em.fit(rows(dtype=torch.float32), checkpoint=tmp_path, progress=False, **options)

    run(steps=4)
    assert run(steps=8, resume=True).steps == 8


def test_jitted_losses_are_refused_by_name():
    with pytest.raises(TypeError, match="JitTrace_ELBO reads parameters from Pyro's global store"):
        VariationalEM(*function_pair(), objective=JitTrace_ELBO())


def test_noise_of_the_elbo_differs_between_rows():
    """Equal rows in many chunks have values of their own, so the noise of a mean averages out."""
    x = rows(1, dtype=torch.float32).expand(3000, 3).contiguous()
    fit = fitted(*function_pair(), x)
    assert len(set(fit.elbo(x, num_samples=3).tolist())) > 2900


@pytest.mark.parametrize("bad", [100, "ImportanceWeighted"])
def test_an_estimator_is_an_instance(bad):
    x = rows(dtype=torch.float32)
    with pytest.raises(TypeError, match="an estimator such as ImportanceWeighted"):
        fitted(*function_pair(), x).log_evidence(x, bad)


def test_an_unknown_latent_is_named():
    x = rows(dtype=torch.float32)
    with pytest.raises(ValueError, match=r"decode: the latent sites are \['z'\], got \['q'\]"):
        fitted(*function_pair(), x).decode({"q": torch.zeros(2, 2)})
