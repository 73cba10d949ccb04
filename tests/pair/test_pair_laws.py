"""Laws of the pair, over a table of every kind of pair that Pyro's users write."""

from __future__ import annotations

import pyro
import pytest
import torch
from pairs import CASES, Case, data_for
from pyro.infer import Trace_ELBO

from ppl_vae._random import isolated_rng
from ppl_vae.pair import Pair
from ppl_vae.pair.scoring import draws_of

TABLE = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def make(case: Case, n: int = 20) -> tuple[Pair, object]:
    # Pairs bring their own dtype: LinearGaussian is float64, the others float32.
    model, guide = case.make()
    pair = Pair(model, guide)
    data = pair.rows(data_for(case, n, torch.float64))
    return pair.initialize(data), data


@TABLE
def test_parameters_are_found_before_the_first_step_and_grouped(case):
    pair, _ = make(case)
    sizes = {g: sum(leaf.numel() for leaf in pair.parameters.of(g).values()) for g in ("theta", "phi", "shared")}
    assert sizes["theta"] == case.theta
    assert sizes["phi"] == case.phi or (case.phi < 0 and sizes["phi"] > 0)
    assert sizes["shared"] == case.shared
    assert all(leaf.requires_grad and leaf.is_leaf for leaf in pair.parameters_by_name().values())


@TABLE
def test_sites_and_data_axis_are_found(case):
    pair, _ = make(case)
    assert pair.data_plate == "data"
    assert tuple(pair.observed) == case.observed
    assert pair.has_global_latents == case.joint


@pytest.mark.filterwarnings("ignore:Found non-auxiliary vars in guide")  # Pyro's own, of a deterministic site
@TABLE
def test_draws_are_scored_as_pyro_scores_them(case):
    """The mean of log p - log q over one draw, summed over data, is minus Pyro's Trace_ELBO at the same noise."""
    pair, data = make(case)
    batch = data.batch()
    with pair.evaluating(5):
        run = pair.run(batch)
        ours = draws_of(pair, run)
    with pair.evaluating(5):
        theirs = Trace_ELBO().loss(pair.runner.model, pair.runner.guide, batch)
    assert ours.log_weight.sum().item() == pytest.approx(-theirs, rel=1e-5)


@TABLE
def test_many_draws_at_once_equal_the_same_draws_one_by_one(case):
    pair, data = make(case)
    draws = pair.draw(data, 4, seed=1)
    assert pair.vectorizes(data.batch()) == case.vectorizes
    again = pair.log_joint(data, draws.values)
    torch.testing.assert_close(again.total, draws.log_p.total, rtol=1e-5, atol=1e-5)
    one = pair.log_joint(data, {name: value[2:3] for name, value in draws.values.items()})
    torch.testing.assert_close(one.total[0], draws.log_p.total[2], rtol=1e-5, atol=1e-5)


@TABLE
def test_shapes_of_draws_and_densities(case):
    pair, data = make(case)
    draws = pair.draw(data, 4)
    lead = (4,) if case.joint else (4, 20)
    assert draws.log_weight.shape == draws.log_p.prior.shape == draws.log_p.likelihood.shape[: len(lead)] == lead
    assert draws.log_weight.dtype == torch.float64 and not draws.log_weight.requires_grad
    torch.testing.assert_close(draws.log_p.prior + draws.log_p.likelihood, draws.log_p.total)
    for name, site in pair.latents.items():
        assert draws.values[name].shape[:1] == (4,)
        assert not site.is_local or draws.values[name].shape[1] == 20


@TABLE
def test_the_prior_is_scored_by_itself(case):
    pair, data = make(case)
    if case.point:
        with pytest.raises(ValueError, match=r"draw_prior: a p\(x \| z\) with a spread is required"):
            pair.draw_prior(data, 3)
        return
    draws = pair.draw_prior(data, 3)
    torch.testing.assert_close(draws.log_weight, draws.log_p.likelihood, rtol=1e-9, atol=1e-9)


@TABLE
def test_simulation_and_prediction_sample_the_observed_sites(case):
    pair, data = make(case)
    new = pair.simulate(7, seed=3)
    for name in case.observed:
        assert new[name].shape[0] == 7
        assert not torch.equal(new[name], pair.simulate(7, seed=4)[name])
        assert torch.equal(new[name], pair.simulate(7, seed=3)[name])
    draws = pair.draw(data, 2)
    drawn, means = pair.predict(data, draws.values), pair.predict(data, draws.values, mean=True)
    for name in case.observed:
        assert drawn[name].shape == means[name].shape and drawn[name].shape[:2] == (2, 20)
        assert torch.equal(means[name], pair.predict(data, draws.values, mean=True, seed=9)[name])


@TABLE
def test_unconstrained_latents_keep_the_density(case):
    """z -> u -> z is the identity, and log_det is the log volume of that change (checked by autograd)."""
    pair, data = make(case)
    if any(site.is_discrete for site in pair.latents.values()):
        with pytest.raises(ValueError, match="continuous support"):
            pair.unconstrain(data, pair.draw(data, 2).values)
        return
    values = pair.draw(data, 2).values
    u, log_det = pair.unconstrain(data, values)
    back = pair.constrain(data, u)
    for name, value in values.items():
        torch.testing.assert_close(back[name], value, rtol=1e-4, atol=1e-5)
    assert log_det.shape == pair.log_joint(data, values).total.shape
    positive = {"scale": values["scale"].double().log()} if "scale" in values else {}
    expected = sum(positive.values()) if positive else torch.zeros_like(log_det)
    torch.testing.assert_close(log_det, expected.expand_as(log_det), rtol=1e-5, atol=1e-5)


@TABLE
def test_evaluation_is_a_function_of_the_seed_and_leaves_no_trace(case):
    pair, data = make(case)
    state, modes = torch.get_rng_state(), [m.training for m in pair.modules()]
    first, second, third = (pair.draw(data, 2, seed=s).log_weight for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert (case.joint and pair.latents) or torch.equal(first, third) == case.certain
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [m.training for m in pair.modules()]
    assert not len(pyro.get_param_store())


@TABLE
def test_lazy_parameters_are_a_function_of_the_seed(case):
    def params(seed: int) -> dict[str, torch.Tensor]:
        with isolated_rng(0):
            model, guide = case.make()
        pair = Pair(model, guide)
        return pair.initialize(pair.rows(data_for(case, 20, torch.float64)), seed=seed).params

    first, second = params(1), params(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
