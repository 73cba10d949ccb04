"""What discrete latents carry, against numbers counted by hand; the exact table; both in the history and for ArviZ."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from enumerated import CLASSES, DIM, Bits, made
from pairs import rows

import ppl_vae
from ppl_vae import VariationalEM, _arviz
from ppl_vae.diagnostics import CodeUsage, class_probabilities, code_usage, codes, posterior_table, to_inference_data
from ppl_vae.evidence import Enumeration, ImportanceWeighted, log_evidence
from ppl_vae.pair import Pair

X = rows(12)


def pair_of(name: str) -> Pair:
    module = made(name)
    return Pair(module.model, module.guide).initialize(X)


# -- usage -------------------------------------------------------------------------------------------------------------


def test_usage_by_hand():
    """Two rows, three classes: one row sure of class 0, one in two minds between 0 and 1; class 2 is dead."""
    probs = torch.tensor([[[1.0, 0.0, 0.0]], [[0.5, 0.5, 0.0]]], dtype=torch.float64)
    found = CodeUsage.of(probs)
    usage = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found.usage.tolist() == [[0.75, 0.25, 0.0]]
    assert float(found.entropy) == pytest.approx(math.log(2) / 2)
    assert float(found.kl_from_uniform) == pytest.approx(math.log(3) - math.log(2) / 2)
    assert float(found.perplexity) == pytest.approx(math.exp(usage))
    assert float(found.mutual_information) == pytest.approx(usage - math.log(2) / 2)
    assert found.dead.tolist() == [[False, True, True]]  # 2 * 0.25 = 0.5 of a row expects class 1
    assert found.summary()["dead_codes"] == 2


def test_extremes():
    """A code that copies its datum says log N of it; one that ignores it says nothing."""
    sure = CodeUsage.of(torch.eye(4, dtype=torch.float64).unsqueeze(1))
    deaf = CodeUsage.of(torch.full((4, 1, 4), 0.25, dtype=torch.float64))
    assert float(sure.mutual_information) == pytest.approx(math.log(4)) == pytest.approx(float(sure.kl_from_uniform))
    assert abs(float(deaf.mutual_information)) < 1e-12 and float(deaf.perplexity) == pytest.approx(4.0)


def test_probabilities_of_a_guide():
    module = made("plain")
    pair = Pair(module.model, module.guide).initialize(X)
    expected = module.encoder(X).softmax(-1).unsqueeze(1).detach()
    assert torch.allclose(class_probabilities(pair, X), expected, atol=1e-12)
    assert torch.equal(codes(pair, X), expected.argmax(-1))
    assert torch.allclose(class_probabilities(pair, X, max_elements=10), expected, atol=1e-12)


def test_probabilities_of_bits_are_those_of_each_bit():
    module = made("bits")
    pair = Pair(module.model, module.guide).initialize(X)
    on = module.encoder(X).sigmoid().detach()
    assert torch.allclose(class_probabilities(pair, X), torch.stack([1 - on, on], -1), atol=1e-12)


def test_probabilities_of_a_latent_that_is_summed_out():
    """E_q[p(c | z)] by Bayes' rule, by a z-test over draws of z."""
    module = made("mixture")
    pair = Pair(module.model, module.guide).initialize(X)
    found = class_probabilities(pair, X)
    loc, log_scale = module.slope(X).detach().chunk(2, -1)
    z = loc + log_scale.exp() * torch.randn(20_000, *loc.shape, dtype=torch.float64)
    log_p = dist.Normal(module.center.detach(), 1.0).to_event(1).log_prob(z.unsqueeze(-2)) + module.prior.log_softmax(
        -1
    )
    given_z = log_p.softmax(-1).detach()
    error = (given_z.var(0) * (1 / 64 + 1 / 20_000)).sqrt()
    assert ((found[:, 0] - given_z.mean(0)) / error.clamp(min=1e-12)).abs().max() < 4.5


def test_latents_in_a_plate_are_latents():
    pair = pair_of("in a plate")
    assert class_probabilities(pair, X).shape == (12, DIM, CLASSES)
    assert len(code_usage(pair, X).to_dataframe()) == DIM


@pytest.mark.parametrize("infer", [{}, {"enumerate": "parallel"}])
def test_a_one_hot_class_is_one_latent(infer):
    """As in Pyro's own semi-supervised VAE; a fit of it has a history, its codes are the classes."""
    torch.manual_seed(0)
    loc, encoder = torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Linear(3, 4)
    x = torch.randn(6, 3)

    def model(x):
        pyro.param("loc", loc)
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.OneHotCategorical(logits=torch.zeros(4)))
            pyro.sample("x", dist.Normal(c @ loc, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.OneHotCategorical(logits=encoder(x)), infer=infer)

    fit = VariationalEM(model, guide).fit(x, epochs=1)
    expected = encoder(x).softmax(-1).detach()
    torch.testing.assert_close(class_probabilities(fit, x), expected.unsqueeze(1).double(), atol=1e-6, rtol=0)
    assert torch.equal(fit.codes(x), expected.argmax(-1, keepdim=True))
    assert fit.history["code_perplexity"].iloc[-1] <= 4


def test_joint_values_of_a_latent_that_is_summed_out_are_its_classes():
    torch.manual_seed(0)
    loc, x = torch.randn(2, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    logits = torch.tensor([0.3, -0.5], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=logits).to_event(1), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(b @ loc, 1.0).to_event(1), obs=x)

    values = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).double()
    prior = dist.Bernoulli(logits=logits).to_event(1).log_prob(values)
    exact = (prior + dist.Normal(values @ loc, 1.0).to_event(1).log_prob(x.unsqueeze(1))).softmax(-1)
    found = class_probabilities(Pair(model, lambda x: None, dtype=torch.float64), x)
    torch.testing.assert_close(found, exact.unsqueeze(1), atol=1e-10, rtol=0)


def test_which_site_has_to_be_said():
    with pytest.raises(ValueError, match=r"a discrete latent of each datum is required, got None.*\['c', 'd'\]"):
        codes(pair_of("chained"), X)
    assert codes(pair_of("chained"), X, "d").shape == (12, 1)


# -- the exact table ---------------------------------------------------------------------------------------------------


def test_the_table_is_bayes_rule():
    module = made("plain")
    pair = Pair(module.model, module.guide).initialize(X)
    table = posterior_table(pair, X, max_elements=50)
    log_lik = torch.distributions.Normal(module.loc, 1.0).log_prob(X.unsqueeze(1)).sum(-1)
    exact = (log_lik + module.prior.log_softmax(-1)).softmax(-1).detach()
    q = module.encoder(X).softmax(-1).detach()
    assert torch.allclose(table.exact, exact, atol=1e-12) and torch.allclose(table.guide, q, atol=1e-12)
    assert torch.allclose(table.kl, (q * (q / exact).log()).sum(-1), atol=1e-12)
    frame = table.to_dataframe(3)
    assert frame["exact"].is_monotonic_decreasing and frame["exact"].sum() == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["plain", "chained", "bits", "in a plate"])
def test_the_gap_is_the_divergence(name):
    """log p(x) = ELBO + KL(q || p(c|x)), all three exact."""
    module = made(name)
    fit = ppl_vae.VariationalEM(module.model, module.guide).fit(X, steps=1, progress=False)
    evidence = fit.log_evidence(X)
    assert evidence.estimator == "Enumeration()" and evidence.bound == "exact"
    assert float(evidence.standard_error.max()) == 0.0 and bool(evidence.reliable.all())
    assert torch.allclose(evidence.value, fit.elbo(X) + posterior_table(fit, X).kl, atol=1e-10)


@pytest.mark.parametrize("name", ["plain", "chained", "bits"])
def test_importance_weights_agree_with_the_sum(name):
    pair = pair_of(name)
    exact, drawn = log_evidence(pair, X), log_evidence(pair, X, ImportanceWeighted(20_000))
    z = (drawn.value - exact.value) / drawn.standard_error
    assert z[drawn.khat < 0.5].abs().max() < 4.5


def test_rows_in_chunks_change_nothing():
    pair = pair_of("bits")
    whole = log_evidence(pair, X, Enumeration())
    assert torch.allclose(log_evidence(pair, X, Enumeration(), max_elements=1).value, whole.value, atol=1e-12)


def test_too_many_values_have_no_table():
    module = Bits(bits=30)
    pair = Pair(module.model, module.guide)
    with pytest.raises(ValueError, match=r"Enumeration: 1.07e\+09 joint values of 'b' are too many for a sum"):
        log_evidence(pair, X, Enumeration())


def test_a_continuous_latent_has_no_table():
    with pytest.raises(ValueError, match="'z' is not a discrete latent of each datum"):
        log_evidence(pair_of("normal given class"), X, Enumeration())
    assert log_evidence(pair_of("normal given class"), X).estimator == "ImportanceWeighted(1000)"


# -- in the history, and for ArviZ -------------------------------------------------------------------------------------


def test_the_history_of_a_fit_has_the_codes():
    module = made("plain")
    fit = ppl_vae.VariationalEM(module.model, module.guide).fit(X, epochs=3, batch_size=5, progress=False)
    last = fit.history.iloc[-1]
    for name, value in code_usage(fit, X).summary().items():
        assert last[name] == pytest.approx(value, abs=1e-12)
    # with a prior that is learned, KL to the prior is not KL to the uniform; the exact one is the history's
    assert last["kl"] > 0


def test_where_an_epoch_is_a_step_one_looks_at_every_fiftieth_and_the_rows_between_hold_what_was_found(monkeypatch):
    looks = []

    def counted(pair, rows, name, **options):
        looks.append(name)
        return code_usage(pair, rows, name, **options)

    monkeypatch.setattr("ppl_vae.diagnostics.code_history.code_usage", counted)
    module = made("plain")
    fit = VariationalEM(module.model, module.guide, lr=0.1).fit(X, steps=120, progress=False)
    assert len(looks) == 51  # after each of the first 50 steps, and after step 100
    entropy = fit.history["code_entropy"].to_numpy()
    assert len(set(entropy)) == 51
    assert len(set(entropy[49:99])) == 1 == len(set(entropy[99:]))


def test_several_sites_have_their_own_columns():
    module = made("chained")
    fit = ppl_vae.VariationalEM(module.model, module.guide).fit(X, epochs=2, progress=False)
    assert {"c.code_entropy", "d.code_entropy", "c.dead_codes", "d.code_information"} <= set(fit.history)


def test_continuous_pairs_have_no_such_columns():
    from pairs import LinearGaussian

    pair = LinearGaussian()
    fit = ppl_vae.VariationalEM(pair.model, pair.guide).fit(X, epochs=2, progress=False)
    assert not [name for name in fit.history if "code" in name]
    assert "codes" not in _arviz.group_names(to_inference_data(fit, X, num_samples=30))


def test_arviz_gets_the_codes(tmp_path):
    pair = pair_of("bits")
    idata = to_inference_data(pair, X, num_samples=30, groups=["posterior", "codes"])
    _arviz.to_netcdf(idata, tmp_path / "codes.nc")
    found = _arviz.from_netcdf(tmp_path / "codes.nc")["codes"]
    table = posterior_table(pair, X)
    np.testing.assert_array_equal(found["posterior"], table.exact)
    np.testing.assert_array_equal(found["kl"], table.kl)
    np.testing.assert_allclose(found["b_probs"].sum("b_class"), 1.0)
    np.testing.assert_allclose(found["b_usage"], class_probabilities(pair, X).mean(0))
    assert found["posterior"].dims == ("data", "code") and found["b_entropy"].dims == ("b_latent",)


def test_predictions_use_the_component_that_fits_the_datum():
    """With two far components, a datum of one is predicted near itself, though the model alone knows the component."""
    module = made("many rows")
    module.loc.data[:] = torch.tensor([-50.0, 50.0, -50.0, 50.0]).unsqueeze(1)
    x = torch.full((6, DIM), 50.0, dtype=torch.float64)
    x[::2] *= -1
    pair = Pair(module.model, module.guide).initialize(x)
    found = pair.predict(x, {}, num_samples=20)["x"]
    assert found.shape == (20, 6, DIM)
    assert torch.equal(found.sign(), x.sign().expand_as(found))
