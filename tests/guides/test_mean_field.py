"""MeanField: a posterior per row, for the rows it was fitted to."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.nn import MLP

N, L = 30, 3


@pytest.fixture(autouse=True)
def own_param_store():
    """Give Pyro's parameter store back as it was."""
    with pyro.get_param_store().scope():
        yield


@pytest.fixture
def guide():
    torch.manual_seed(0)
    guide = MeanField(num_data=N, latent_dim=L).double()
    with torch.no_grad():
        guide.log_scale.normal_()
    return guide


def z_site(guide, *args, **kwargs):
    found = poutine.trace(guide).get_trace(*args, **kwargs)
    found.compute_log_prob()
    return found.nodes["z"]


@pytest.mark.parametrize(
    ("args", "kwargs", "rows"),
    [
        ((torch.zeros(N, 5),), {}, slice(None)),
        ((), {}, slice(None)),
        ((), {"num_samples": N}, slice(None)),
        ((torch.zeros(4, 5),), {"index": torch.tensor([3, 29, 0, 7])}, [3, 29, 0, 7]),
        ((), {"index": torch.tensor([3, 29])}, [3, 29]),
    ],
    ids=["all", "all without x", "all by number", "some", "some without x"],
)
def test_the_rows_that_are_asked_for(guide, args, kwargs, rows):
    site = z_site(guide, *args, **kwargs)
    loc, scale = guide.loc[rows], guide.log_scale[rows].exp()
    expected = torch.distributions.Normal(loc, scale).log_prob(site["value"]).sum(-1)
    torch.testing.assert_close(site["log_prob"], expected, rtol=1e-10, atol=1e-10)
    (frame,) = site["cond_indep_stack"]
    assert (frame.name, frame.dim, frame.size) == ("data", -1, len(loc))


def test_particles(guide):
    index = torch.tensor([3, 29, 0])

    def plated():
        with pyro.plate("particles", 5, dim=-2):
            return guide(index=index)

    site = z_site(plated)
    assert site["value"].shape == (5, 3, L)
    assert site["log_prob"].shape == (5, 3)
    expected = guide.encode(index=index).log_prob(site["value"])
    torch.testing.assert_close(site["log_prob"], expected, rtol=1e-10, atol=1e-10)


def test_a_batch_moves_its_own_rows_only(guide):
    index = torch.tensor([3, 29])
    guide(index=index).square().sum().backward()
    others = torch.ones(N, dtype=torch.bool)
    others[index] = False
    for parameter in (guide.loc, guide.log_scale):
        assert (parameter.grad[others] == 0).all()
        assert (parameter.grad[index] != 0).all()


def test_parameters_are_found_by_pyro(guide):
    found = poutine.trace(guide, param_only=True).get_trace()
    params = {name: site["value"] for name, site in found.nodes.items() if site["type"] == "param"}
    assert params == {"loc": guide.loc, "log_scale": guide.log_scale}
    assert guide.loc.shape == guide.log_scale.shape == (N, L)


def test_svi_finds_the_best_diagonal_posterior_of_every_row():
    """Linear-Gaussian model: the exact means, and the exact precisions' diagonal (Blei et al. 2017)."""
    torch.manual_seed(0)
    model = VAE(MLP(2, 5, hidden=()), latent_dim=2, likelihood="normal").double().eval().requires_grad_(False)
    guide = MeanField(num_data=N, latent_dim=2).double()
    x = model(num_samples=N)
    elbo = Trace_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.985}), elbo)
    for _ in range(300):
        svi.step(x)
    (layer,) = model.decoder.layers
    precision = torch.eye(2, dtype=torch.float64) + layer.weight.T @ layer.weight  # σ = 1
    exact = (x - layer.bias) @ layer.weight @ torch.linalg.inv(precision)
    torch.testing.assert_close(guide.loc.detach(), exact, rtol=0, atol=0.1)
    scale = precision.diagonal().rsqrt().expand(N, 2)
    torch.testing.assert_close(guide.log_scale.detach().exp(), scale, rtol=0.1, atol=0)


ONLY = "a free posterior exists only for the rows it was fitted to"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda g: g(torch.zeros(29, 5)),
            rf"all 30 rows, or index \(B,\) .*, are required, got 29 rows: {ONLY}",
        ),
        (lambda g: g(num_samples=3), f"got 3 rows: {ONLY}"),
        (lambda g: g.encode(torch.zeros(29, 5)), ONLY),
        (
            lambda g: g(torch.zeros(3, 5), index=torch.arange(4)),
            r"one number a row of x, got \(4,\) of .*int64 for 3",
        ),
        (lambda g: g(index=torch.zeros(3)), r"index must be \(B,\) long, .*, got \(3,\) of torch.float32"),
        (
            lambda g: g(index=torch.zeros(3, 1, dtype=torch.long)),
            r"index must be \(B,\) long, .*, got \(3, 1\)",
        ),
        (
            lambda g: MeanField(num_data=0, latent_dim=2),
            "num_data and latent_dim must be at least 1, got 0 and 2",
        ),
    ],
)
def test_errors(guide, call, message):
    with pytest.raises(ValueError, match=r"MeanField: .*" + message):
        call(guide)


def test_a_row_that_does_not_exist(guide):
    with pytest.raises(IndexError, match=r"out of (bounds|range)"):
        guide(index=torch.tensor([30]))
