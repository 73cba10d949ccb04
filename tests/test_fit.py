"""The result: what it says of data, what it makes, and what it shows."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pairs import CASES, LATENT, LinearGaussian, data_for, function_pair, rows
from pyro.infer.autoguide import AutoNormal
from runs import NUM_DATA, Run, data, networks, plain
from torch import nn

import ppl_vae
from ppl_vae import Fit, ImportanceWeighted, VariationalEM
from ppl_vae.evidence.measured_elbo import elbo
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP
from ppl_vae.pair import GlobalLatentError

N = 25


@pytest.fixture(scope="module")
def linear():
    """A linear-Gaussian pair that was fitted for a while, and some rows: everything has a closed form."""
    module, x = LinearGaussian(seed=2), rows(N)
    fit = VariationalEM(module.model, module.guide, lr=0.02).fit(x, steps=30)
    return module, fit, x


def no_further_than(found: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """The mean of replicates (R, ...) minus the exact value, in standard errors."""
    return ((found.mean(0) - exact) / (found.std(0) / len(found) ** 0.5)).abs()


# how good


def test_the_elbo_is_the_exact_one(linear):
    module, fit, x = linear
    found = torch.stack([fit.elbo(x, num_samples=4, seed=seed) for seed in range(200)])
    assert found.shape == (200, N)
    assert found.dtype == torch.float64
    assert no_further_than(found, module.exact_elbo(x)).max() < 4.5
    assert no_further_than(found.mean(1), module.exact_elbo(x).mean()) < 4.5


def test_the_log_likelihood_is_not_the_elbo(linear):
    """The negative twin: the law sees the gap between them."""
    module, fit, x = linear
    found = torch.stack([fit.elbo(x, num_samples=4, seed=seed) for seed in range(200)])
    assert no_further_than(found.mean(1), module.log_marginal(x).mean()) > 4.5
    assert float(module.exact_elbo(x).mean()) < float(module.log_marginal(x).mean())


def test_more_samples_are_the_mean_of_more_draws(linear):
    _, fit, x = linear
    spread = [torch.stack([fit.elbo(x, num_samples=k, seed=s) for s in range(60)]).std(0).mean() for k in (1, 16)]
    assert float(spread[0] / spread[1]) == pytest.approx(4, rel=0.2)


def test_the_elbo_is_a_function_of_its_seed(linear):
    _, fit, x = linear
    first = fit.elbo(x, seed=1)
    torch.manual_seed(4)
    assert torch.equal(fit.elbo(x, seed=1), first)
    assert not torch.equal(fit.elbo(x, seed=2), first)
    assert torch.equal(fit.elbo(x.numpy(), seed=1), first)


@pytest.mark.parametrize("elements", [3, 15, 1000])
def test_the_elbo_does_not_hang_on_how_it_is_cut(linear, elements):
    module, fit, x = linear
    found = torch.stack([elbo(fit, x, num_samples=3, seed=1000 * s, max_elements=elements) for s in range(20)])
    assert found.shape == (20, N)
    assert no_further_than(found, module.exact_elbo(x)).max() < 5.5  # the largest of 25, by t with 19 degrees


def test_global_latents_have_one_elbo():
    case = CASES["AutoNormal"]
    fit = VariationalEM(*case.make()).fit(data_for(case), steps=2)
    assert fit.elbo(data_for(case)).shape == ()
    assert fit.log_evidence(data_for(case), ImportanceWeighted(50)).value.shape == ()


def test_the_evidence_lies_above_the_elbo(linear):
    module, fit, x = linear
    found = fit.log_evidence(x, ImportanceWeighted(2000))
    assert found.value.shape == (N,)
    error = (found.value.mean() - module.log_marginal(x).mean()).abs()
    assert error < 4.5 * found.mean().standard_error + 1e-3
    assert found.value.mean() > fit.elbo(x).mean()
    assert fit.log_evidence(x).value.shape == (N,)


# latents and data


def test_encode_is_the_mean_of_q(linear):
    module, fit, x = linear
    torch.testing.assert_close(fit.encode(x), module.q(x).mean.detach())
    draws = torch.stack([fit.encode(x, sample=True, seed=seed) for seed in range(400)])
    assert no_further_than(draws, module.q(x).mean.detach()).max() < 4.5
    torch.testing.assert_close(draws.std(0), module.q(x).stddev.detach().expand(N, LATENT), rtol=0.2, atol=0)
    assert torch.equal(fit.encode(x, sample=True, seed=3), draws[3])


def test_encode_by_draws_where_q_has_no_mean_in_closed_form():
    """An autoguide of a positive latent: its draws pass through exp, and no distribution says their mean."""

    def model(x):
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.LogNormal(0.0, 0.5))
            pyro.sample("x", dist.Normal(0.0, s), obs=x)

    x = rows(20)[:, 0].float()
    fit = VariationalEM(model, AutoNormal(model)).fit(x, steps=5)
    codes = fit.encode(x)
    exact = (fit.params["guide.locs.s"] + fit.params["guide.scales.s"] ** 2 / 2).exp()
    assert codes.shape == (20,)
    torch.testing.assert_close(codes.float(), exact, rtol=0.05, atol=0)


def test_several_latents_come_by_name():
    case = CASES["mixed latents"]
    fit = VariationalEM(*case.make()).fit(data_for(case), steps=2)
    codes = fit.encode(data_for(case))
    assert {name: tuple(value.shape) for name, value in codes.items()} == {"z": (20, 2), "c": (20,)}
    drawn = fit.encode(data_for(case), sample=True)
    assert set(drawn["c"].unique().tolist()) <= {0.0, 1.0}
    assert fit.decode(drawn).shape == (20, 3)
    with pytest.raises(ValueError, match=r"values by site are required for the latents \['c', 'z'\]"):
        fit.decode(codes["z"])
    with pytest.raises(ValueError, match="interpolate: one latent site is required"):
        fit.interpolate(data_for(case), data_for(case))


@pytest.mark.parametrize("form", [lambda z: z, lambda z: z.numpy(), lambda z: z.tolist(), lambda z: {"z": z}])
def test_decode_is_the_mean_of_x_given_z(linear, form):
    module, fit, _ = linear
    z = torch.randn(7, LATENT, dtype=torch.float64)
    expected = (z @ module.weight + module.bias).detach()
    torch.testing.assert_close(fit.decode(form(z)), expected)
    draws = torch.stack([fit.decode(z, mean=False, seed=seed) for seed in range(300)])
    assert no_further_than(draws, expected).max() < 4.5
    assert float(draws.std(0).mean()) == pytest.approx(float(module.log_sigma.detach().exp()), rel=0.05)


def test_reconstruct_is_decode_of_encode(linear):
    _, fit, x = linear
    torch.testing.assert_close(fit.reconstruct(x), fit.decode(fit.encode(x)))
    drawn = fit.reconstruct(x, mean=False, seed=2)
    assert drawn.shape == x.shape
    assert not torch.allclose(drawn, fit.reconstruct(x))
    assert torch.equal(drawn, fit.reconstruct(x, mean=False, seed=2))


def test_interpolate_goes_from_one_to_the_other(linear):
    _, fit, x = linear
    line = fit.interpolate(x[:3], x[3:6], steps=5)
    assert line.shape == (3, 5, 3)
    ends = fit.reconstruct(x[:6])
    torch.testing.assert_close(line[:, 0], ends[:3])
    torch.testing.assert_close(line[:, -1], ends[3:])
    torch.testing.assert_close(line[:, 2], (ends[:3] + ends[3:]) / 2)  # the decoder is linear
    with pytest.raises(ValueError, match="steps must be at least 2, got 1"):
        fit.interpolate(x[:3], x[3:6], steps=1)
    with pytest.raises(ValueError, match="equally many rows are required, got 3 and 2"):
        fit.interpolate(x[:3], x[3:5])


def test_per_datum_calls_are_refused_with_the_reason_where_latents_are_shared():
    case = CASES["AutoNormal"]
    fit = VariationalEM(*case.make()).fit(data_for(case), steps=2)
    with pytest.raises(GlobalLatentError, match="interpolate: a value per datum needs latents"):
        fit.interpolate(data_for(case), data_for(case))


# samples of the model


def test_samples_have_the_moments_of_the_model(linear):
    module, fit, _ = linear
    x = fit.sample(4000)
    exact = dist.MultivariateNormal(
        module.bias, module.weight.T @ module.weight + module.log_sigma.exp() ** 2 * torch.eye(3, dtype=torch.float64)
    )
    centred = x - module.bias.detach()
    assert no_further_than(x, module.bias.detach()).max() < 4.5
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    assert no_further_than(products, exact.covariance_matrix.detach()).max() < 4.5


def test_the_mean_of_samples_has_no_noise(linear):
    module, fit, _ = linear
    x = fit.sample(50, mean=True)
    plane = (x - module.bias.detach()) @ torch.linalg.svd(module.weight.detach()).Vh[2]  # x = z W + b has rank 2
    assert plane.abs().max() < 1e-9
    assert torch.equal(fit.sample(5, seed=1), fit.sample(5, seed=1))
    assert not torch.equal(fit.sample(5, seed=1), fit.sample(5, seed=2))
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        fit.sample(0)


class Forbidden(AmortizedNormal):
    """A guide that must not be called any more."""

    closed = False

    def forward(self, *args, **kwargs):
        if self.closed:
            raise AssertionError("the guide was called")
        return super().forward(*args, **kwargs)


def test_no_guide_is_touched_by_samples():
    guide = Forbidden(nn.Linear(3, 4), latent_dim=2)
    fit = VariationalEM(plain()[0], guide).fit(data(), steps=2)
    guide.closed = True
    assert fit.sample(6).shape == (6, 3)
    assert fit.sample(6, mean=True).shape == (6, 3)
    assert fit.decode(torch.zeros(4, 2)).shape == (4, 3)
    with pytest.raises(AssertionError, match="the guide was called"):
        fit.encode(data())


def test_no_guide_function_is_touched_by_samples():
    closed = []
    model, kept = function_pair()

    def guide(x):
        assert not closed, "the guide was called"
        kept(x)

    fit = VariationalEM(model, guide).fit(data(), steps=2)
    closed.append(True)
    assert fit.sample(6).shape == (6, 3)


@pytest.mark.parametrize("n", [1, 5, NUM_DATA, 3 * NUM_DATA])
def test_functions_that_want_data_are_sampled_and_not_replayed(n):
    """The model is called with rows, and its observed site is drawn all the same: no row of the data comes back."""
    fit = VariationalEM(*function_pair()).fit(data(), steps=2)
    x = fit.sample(n)
    assert x.shape == (n, 3)
    assert not (x.unsqueeze(1) == data().unsqueeze(0)).all(-1).any()
    assert len(x.unique(dim=0)) == n


def test_samples_of_supervised_pairs_are_of_the_response():
    case = CASES["PyroSample"]
    fit = VariationalEM(*case.make()).fit(data_for(case), steps=2)
    assert fit.sample(9).shape == (9,)


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_pair_can_be_asked(name):
    case = CASES[name]
    x = data_for(case)
    fit = VariationalEM(*case.make()).fit(x, steps=2)
    assert isinstance(fit, Fit)
    assert fit.elbo(x, num_samples=3).isfinite().all()
    for found in (fit.sample(4), fit.reconstruct(x)):
        assert torch.as_tensor(found).isfinite().all()
    codes = fit.encode(x)
    assert all(v.isfinite().all() for v in (codes.values() if isinstance(codes, dict) else [codes]))
    assert "Fit\n" in repr(fit)


# what it shows


def test_repr_says_what_was_fitted_and_how_it_ended():
    fit = Run(fit={"batch_size": 4})(9)
    lines = repr(fit).splitlines()
    assert lines[0] == "Fit"
    assert lines[1] == "  pair       VAE / AmortizedNormal"
    assert f"  parameters {sum(t.numel() for t in fit.params.values()):,}" in lines
    assert "  objective  ELBO()" in lines
    assert any(line.startswith("  ended      completed after 2 epochs, 9 steps, ") for line in lines)
    assert "  data       14 rows in batches of 4" in lines
    assert any(line.startswith("  last epoch objective -") and line.endswith(" nats per datum") for line in lines)


def test_html_says_the_same_and_escapes():
    class Odd(VAE):
        pass

    Odd.__qualname__ = "<script>"
    fit = VariationalEM(Odd(nn.Linear(2, 3), latent_dim=2, likelihood="normal"), plain()[1]).fit(data(), steps=1)
    shown = fit._repr_html_()
    assert shown.startswith("<table>")
    assert "<script>" not in shown
    assert "&lt;script&gt; / AmortizedNormal" in shown
    assert all(value.split(" / ")[-1] in shown for value in fit.summary().values())


def test_numbers_of_a_fit():
    fit = Run()(9)
    assert (fit.steps, fit.epochs, fit.ended) == (9, 2, "completed")
    assert fit.seconds > 0
    before = fit.seconds
    fit.resume(steps=3)
    assert fit.seconds > before
    assert isinstance(fit.pair, ppl_vae.Pair)


PLOTS = {
    "history": lambda fit, **at: fit.plot.history(**at),
    "history of a column": lambda fit, **at: fit.plot.history(column="kl", **at),
    "samples": lambda fit, **at: fit.plot.samples(4, **at),
    "reconstructions": lambda fit, **at: fit.plot.reconstructions(pictures()[:4], **at),
    "latent": lambda fit, **at: fit.plot.latent(pictures(), color=torch.arange(12) % 3, **at),
    "kl": lambda fit, **at: fit.plot.kl(pictures(), **at),
    "surgery": lambda fit, **at: fit.plot.surgery(pictures(), **at),
    "aggregate": lambda fit, **at: fit.plot.aggregate(pictures(), **at),
    "gap": lambda fit, **at: fit.plot.gap(pictures(), num_samples=50, **at),
    "khat": lambda fit, **at: fit.plot.khat(pictures(), num_samples=50, **at),
}


def pictures() -> torch.Tensor:
    return (torch.rand(12, 9, generator=torch.Generator().manual_seed(0)) > 0.5).float()


@pytest.fixture(scope="module")
def painter() -> Fit:
    with torch.random.fork_rng([]):
        model = VAE(MLP(2, 9, hidden=(4,)), latent_dim=2, likelihood="bernoulli")
        guide = AmortizedNormal(MLP(9, 4, hidden=(4,)), latent_dim=2)
    return VariationalEM(model, guide).fit(pictures(), epochs=3, validation=pictures())


@pytest.mark.parametrize("name", PLOTS)
def test_plots_return_their_axes_and_draw_where_they_are_told(name, painter):
    assert isinstance(PLOTS[name](painter), Axes)
    ax = Figure().add_subplot()
    assert PLOTS[name](painter, ax=ax) is ax
    assert ax.has_data() or ax.images or ax.child_axes


def test_a_plot_of_several_latents_is_refused():
    case = CASES["mixed latents"]
    fit = VariationalEM(*case.make()).fit(data_for(case), steps=2)
    with pytest.raises(ValueError, match="plot.kl: one latent site is required|latent"):
        fit.plot.kl(data_for(case))


def test_plots_of_a_fit_are_of_that_fit():
    """A second fit of the same pair has figures of its own."""
    em = VariationalEM(*networks())
    one = em.fit(data(), steps=3)
    assert one.plot._fit is one
    two = em.fit(data(), steps=3)
    assert two.plot._fit is two
