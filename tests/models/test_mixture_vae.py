"""The VAE with clusters: its component summed out, and asked for."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO

from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE, MixtureVAE
from ppl_vae.nn import MLP

L, K, N = 2, 3, 7


@pytest.fixture(autouse=True)
def own_param_store():
    """Give Pyro's parameter store back as it was."""
    with pyro.get_param_store().scope():
        yield


def pair():
    torch.manual_seed(0)
    model = MixtureVAE(MLP(L, 5), latent_dim=L, num_components=K, likelihood="normal", spread=2.0).double()
    with torch.no_grad():
        model.prior.logits.normal_()
        model.prior.log_scale.normal_(std=0.3)
    return model, AmortizedNormal(MLP(5, 2 * L), latent_dim=L).double()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_summed_out_it_is_the_vae_with_a_mixture_prior():
    """Value and gradients, at the same noise."""
    model, guide = pair()
    summed = VAE(model.decoder, latent_dim=L, likelihood=model.likelihood, prior=model.prior)
    x = torch.randn(N, 5, dtype=torch.float64)
    leaves = [*model.parameters(), *guide.parameters()]
    found = []
    for each in (model, summed):
        torch.manual_seed(1)
        loss = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False).differentiable_loss(each, guide, x)
        found.append((loss, *torch.autograd.grad(loss, leaves)))
    for a, b in zip(*found, strict=True):
        close(a, b)


def test_it_is_the_bound_by_hand():
    model, guide = pair()
    x = torch.randn(N, 5, dtype=torch.float64)
    torch.manual_seed(1)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x)
    torch.manual_seed(1)
    z = guide(x)
    terms = []
    for k in range(K):
        log_pi = model.prior.logits.log_softmax(0)[k]
        terms.append(log_pi + dist.Normal(model.prior.loc[k], model.prior.log_scale[k].exp()).log_prob(z).sum(-1))
    expected = torch.stack(terms).logsumexp(0) + model.decode(z).log_prob(x) - guide.encode(x).log_prob(z)
    assert loss == pytest.approx(-expected.sum().item(), abs=1e-10)
    wrong = torch.stack(terms).mean(0) + model.decode(z).log_prob(x) - guide.encode(x).log_prob(z)
    assert loss != pytest.approx(-wrong.sum().item(), abs=1e-3)  # negative twin: averaged, not summed


def test_sites_and_shapes():
    model, _ = pair()
    found = poutine.trace(model).get_trace(num_samples=N)
    assert found.nodes["c"]["value"].shape == (N,) and found.nodes["c"]["infer"] == {"enumerate": "parallel"}
    assert found.nodes["z"]["value"].shape == (N, L)
    assert found.nodes["x"]["value"].shape == (N, 5)
    for site in ("c", "z", "x"):
        (frame,) = found.nodes[site]["cond_indep_stack"]
        assert (frame.name, frame.dim, frame.size) == ("data", -1, N)
    with pyro.plate("particles", 3, dim=-2):
        assert model(num_samples=N).shape == (3, N, 5)


def test_each_z_is_drawn_from_its_component():
    model, _ = pair()
    found = poutine.trace(model).get_trace(num_samples=30_000)
    c, z = found.nodes["c"]["value"], found.nodes["z"]["value"]
    standard = (z - model.prior.loc[c]) / model.prior.log_scale[c].exp()
    assert (standard.mean(0) * len(z) ** 0.5).abs().max() < 4.5
    shifted = (z - model.prior.loc[(c + 1) % K]) / model.prior.log_scale[c].exp()
    assert (shifted.mean(0) * len(z) ** 0.5).abs().max() > 4.5  # negative twin


def test_responsibilities_are_bayes_rule():
    model, _ = pair()
    z = torch.randn(2, N, L, dtype=torch.float64)
    joint = torch.stack(
        [
            model.prior.logits.log_softmax(0)[k]
            + dist.Normal(model.prior.loc[k], model.prior.log_scale[k].exp()).log_prob(z).sum(-1)
            for k in range(K)
        ],
        -1,
    )
    close(model.responsibilities(z), (joint - model.prior().log_prob(z).unsqueeze(-1)).exp())
    close(model.responsibilities(z).sum(-1), torch.ones(2, N, dtype=torch.float64))


def test_a_mask_is_that_of_the_vae():
    model, _ = pair()
    x, z = torch.randn(N, 5, dtype=torch.float64), torch.randn(N, L, dtype=torch.float64)
    mask = torch.rand(x.shape) < 0.6
    given = poutine.condition(model, data={"z": z})
    found = poutine.trace(given).get_trace(torch.where(mask, x, torch.nan), mask=mask)
    found.compute_log_prob()
    close(found.nodes["x"]["log_prob"], model.decode(z, mask=mask).log_prob(x))


def test_clusters_are_found():
    """Three clear clusters in the plane, by Pyro's own SVI."""
    torch.manual_seed(0)
    label = torch.randint(3, (300,))
    x = 5 * torch.eye(3)[label] + 0.3 * torch.randn(300, 3)
    model = MixtureVAE(MLP(L, 3, hidden=(16,)), latent_dim=L, num_components=3, likelihood="normal", spread=2.0)
    guide = AmortizedNormal(MLP(3, 2 * L, hidden=(16,)), latent_dim=L)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step(x) for _ in range(300)]
    assert losses[-1] < losses[0]
    found = model.responsibilities(guide.encode(x).mean).argmax(-1)
    hits = sum(torch.bincount(found[label == k], minlength=3).max() for k in range(3))
    assert hits >= 290


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pair()[0](), "MixtureVAE: x or num_samples is required, got neither"),
        (
            lambda: MixtureVAE(MLP(2, 5), latent_dim=2, num_components=1, likelihood="normal"),
            "MixtureVAE: num_components must be at least 2, got 1",
        ),
        (
            lambda: pair()[0](torch.zeros(N, 6, dtype=torch.float64)),
            r"MixtureVAE: the decoder must return \(..., 6\) for x of shape \(7, 6\), got \(7, 5\)",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
