"""A fit of a pair with an observed site that only some calls have: labels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ppl_vae import Fit, VariationalEM
from ppl_vae.guides import SemiSupervisedGuide
from ppl_vae.models import SemiSupervisedVAE
from ppl_vae.nn import MLP

N, D, K, L = 12, 5, 3, 2


def rows(*, labels: bool) -> dict[str, Tensor]:
    x = (torch.rand(N, D, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    y = torch.arange(N) % (K + 1) - 1  # every fourth row has none
    return {"x": x, "y": y} if labels else {"x": x}


@pytest.fixture(scope="module", params=[True, False], ids=["fitted with labels", "fitted without"])
def fit(request) -> Fit:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        sizes = {"num_classes": K, "latent_dim": L}
        model = SemiSupervisedVAE(MLP(K + L, D, hidden=(6,)), likelihood="bernoulli", **sizes)
        guide = SemiSupervisedGuide(MLP(D, K, hidden=(6,)), MLP(D + K, 2 * L, hidden=(6,)), **sizes)
    return VariationalEM(model, guide).fit(rows(labels=request.param), steps=2)


def test_new_data_have_no_labels(fit):
    assert set(fit.simulate(4)) == {"y", "z", "x"}
    assert fit.sample(4).shape == (4, D)


def test_a_class_is_drawn_and_decoded(fit):
    y, z = torch.arange(K), torch.ones(K, L)
    mean = fit.simulate(K, latents={"y": y, "z": z}, mean=True)
    assert torch.equal(mean["y"], y)
    exact = fit.model.decode(y, z).mean.detach()
    torch.testing.assert_close(mean["x"], exact)
    torch.testing.assert_close(fit.decode({"y": y, "z": z}), exact)
    assert not torch.allclose(exact, fit.model.decode(y.roll(1), z).mean)  # negative twin: the class counts


@pytest.mark.parametrize("labels", [True, False])
def test_rows_may_have_labels_or_not(fit, labels):
    given = rows(labels=labels)
    copies = fit.reconstruct(given)
    if isinstance(copies, dict):  # classes have no mean: the most probable one stands for it
        assert torch.equal(copies["label"], torch.zeros(N).long())
    copies = copies["x"] if isinstance(copies, dict) else copies
    assert copies.shape == (N, D)
    assert fit.elbo(given).shape == fit.log_evidence(given).value.shape == (N,)
    found = fit.to_inference_data(given, num_samples=5)
    assert found.posterior["y"].shape == (1, 5, N)
    assert found.observed_data["x"].shape == (N, D)
    assert found.log_likelihood["x"].shape == (1, 5, N)
    if labels:
        agree = torch.as_tensor(found.posterior["y"].values)[0] == given["y"]
        assert agree[:, given["y"] >= 0].all()
