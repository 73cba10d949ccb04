"""Gradient reports: right estimators show no bias, planted ones do, and the numbers are those of a plain average."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from enumerated import Bits, made
from pairs import LinearGaussian, rows

from ppl_vae.diagnostics import NaiveEStep, gradient_report
from ppl_vae.guides import RelaxedCategorical, SampledCategorical
from ppl_vae.models import DiscreteVAE
from ppl_vae.nn import MLP
from ppl_vae.objectives import ELBO, IWAE, Objective
from ppl_vae.objectives.exact import exact_bound
from ppl_vae.pair import Pair, tabulate

X = rows(3)


class Drawn(Bits):
    """Four bits that are drawn, not summed over."""

    mark = None

    def __init__(self) -> None:
        super().__init__(bits=4)


def drawn() -> Pair:
    torch.manual_seed(0)
    module = Drawn()
    return Pair(module.model, module.guide).initialize(X)


class Skewed(Objective):
    """A planted bug: the score function with half of its cost."""

    def terms(self, pair, batch):
        right = ELBO().terms(pair, batch)
        half = {g: s if g == "theta" else 0.5 * s for g, s in right.surrogates.items()}
        return type(right)(**{**right.__dict__, "surrogates": half})


def test_a_right_estimator_shows_no_bias_and_a_wrong_one_does():
    report = gradient_report(drawn(), X, {"right": ELBO(), "half": Skewed()}, num_replicates=1500)
    frame = report.to_dataframe()
    assert set(frame["reference"]) == {"enumeration"}
    assert frame.loc[("right", "phi"), "z"] < 4.5 and frame.loc[("right", "theta"), "z"] < 4.5
    assert bool(frame.loc[("half", "phi"), "biased"]) and not bool(frame.loc[("half", "theta"), "biased"])


def test_enumeration_has_neither_bias_nor_noise():
    module = made("bits")
    pair = Pair(module.model, module.guide).initialize(X)
    frame = gradient_report(pair, X, [ELBO()], num_replicates=3).to_dataframe()
    assert (frame["z"] == 0).all() and (frame["variance"] < 1e-20).all()


def test_a_weight_on_the_kl_is_no_bias():
    """The bound that is maximized has it too; the twin: half a weight is not the one that was asked for."""
    module, continuous = made("bits"), LinearGaussian()
    pair = Pair(module.model, module.guide).initialize(X)
    report = gradient_report(pair, X, {"half": ELBO(0.5), "rising": ELBO(lambda step: 0.3 + step)}, num_replicates=3)
    assert max(p.z for groups in report.found.values() for p in groups.values()) == 0
    pair = Pair(continuous.model, continuous.guide).initialize(X)
    report = gradient_report(pair, X, {"one": ELBO(), "half": ELBO(0.5)}, num_replicates=400)
    assert report.reference["one"] != report.reference["half"]
    assert max(p.z for groups in report.found.values() for p in groups.values()) < 4.5
    with pytest.raises(ValueError, match="free_bits are counted over a batch"):
        gradient_report(drawn(), X, [ELBO(free_bits=0.1)], num_replicates=3)


def test_the_twin_of_the_weight_a_reference_without_it(monkeypatch):
    module = made("bits")
    monkeypatch.setattr(ELBO, "exact_surrogates", Objective.exact_surrogates)
    pair = Pair(module.model, module.guide).initialize(X)
    report = gradient_report(pair, X, {"half": ELBO(0.5)}, num_replicates=3)
    assert report.found["half"]["phi"].z > 4.5


def test_the_lectures_warning():
    """The gradient that takes draws for constants is wrong in φ and right in θ, discrete or continuous."""
    module = LinearGaussian()
    for pair in (drawn(), Pair(module.model, module.guide).initialize(X)):
        frame = gradient_report(pair, X, [NaiveEStep()], num_replicates=300).to_dataframe()
        assert bool(frame.loc[("NaiveEStep()", "phi"), "biased"])
        assert not bool(frame.loc[("NaiveEStep()", "theta"), "biased"])


def test_continuous_pairs_have_a_sampled_reference():
    module = LinearGaussian()
    pair = Pair(module.model, module.guide).initialize(X)
    report = gradient_report(pair, X, [ELBO(), ELBO(analytic_kl=False)], num_replicates=400)
    frame = report.to_dataframe()
    assert not frame["biased"].any() and (frame["standard_error"] > 0).all()
    assert set(frame["reference"]) == {"80 x ELBO(num_particles=250)"}


def test_variance_and_bias_are_those_of_plain_averages():
    """One replicate after the other by hand, on the same noise."""
    pair = drawn()
    leaves = pair.parameters.of("phi")
    report = gradient_report(pair, X, {"ELBO": ELBO()}, num_replicates=50, seed=3)
    from ppl_vae._random import fold, isolated_rng

    found = []
    with pair.scope(), isolated_rng(fold(3, "replicates", "ELBO"), pair.device):
        for _ in range(50):
            surrogate = ELBO().terms(pair, pair.rows(X).batch()).surrogates["phi"]
            grads = torch.autograd.grad(surrogate, list(leaves.values()))
            found.append(torch.cat([g.flatten() for g in grads]))
    assert report.found["ELBO"]["phi"].variance == pytest.approx(float(torch.stack(found).var(0).sum()), rel=1e-9)


def test_the_callers_gradients_and_parameters_are_left_alone():
    pair = drawn()
    leaves = list(pair.parameters.leaves.values())
    for leaf in leaves:
        leaf.grad = torch.ones_like(leaf)
    before = [leaf.detach().clone() for leaf in leaves]
    gradient_report(pair, X, [ELBO()], num_replicates=2)
    assert all(torch.equal(leaf.grad, torch.ones_like(leaf)) for leaf in leaves)
    assert all(torch.equal(leaf, was) for leaf, was in zip(leaves, before, strict=True))


def test_exact_bounds_by_a_loop_over_tuples():
    pair = drawn()
    with pair.scope(), torch.no_grad():
        table = tabulate(pair, pair.rows(X).batch())
    log_w = table.log_p - table.log_q
    for draws in (1, 2, 3):
        total = torch.zeros(3, dtype=torch.float64)
        for code in itertools.product(range(16), repeat=draws):
            index = list(code)
            bound = log_w[index].logsumexp(0) - math.log(draws)
            total += table.log_q[index].sum(0).exp() * bound
        assert torch.allclose(exact_bound(table, draws), total, atol=1e-10)
    assert (exact_bound(table, 3) < table.log_evidence).all() and (exact_bound(table, 1) < exact_bound(table, 2)).all()


def test_too_many_tuples_are_refused():
    pair = drawn()
    with pair.scope(), torch.no_grad(), pytest.raises(ValueError, match=r"16\^10 tuples of draws"):
        exact_bound(tabulate(pair, pair.rows(X).batch()), 10)


def test_a_pair_around_the_same_parameters_can_be_compared():
    """IWAE(4) of the pair and of its twin: the same gradient under two names."""
    module = LinearGaussian()
    pair, twin = (Pair(module.model, module.guide).initialize(X) for _ in range(2))
    report = gradient_report(pair, X, {"one": ELBO(), "twin": (twin, ELBO())}, num_replicates=200)
    assert report.found["twin"]["phi"].norm == report.found["one"]["phi"].norm
    assert not report.to_dataframe()["biased"].any()
    assert IWAE(4).draws_in_bound == 4


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="num_replicates >= 2 and num_projections >= 1 are required, got 1 and 16"):
        gradient_report(drawn(), X, [ELBO()], num_replicates=1)


@pytest.mark.slow
def test_gumbel_softmax_is_biased_and_less_so_when_it_is_colder():
    """At temperature 0.5 the bias shows; its length falls from 1 to 0.1, where hard draws show none."""
    torch.manual_seed(0)
    sizes = {"num_latents": 2, "num_classes": 3}
    model = DiscreteVAE(MLP(6, 3, hidden=(4,)), likelihood="normal", **sizes).double()
    encoder = MLP(3, 6, hidden=()).double()
    for leaf in model.decoder.parameters():
        leaf.data.mul_(3.0)
    estimators = {
        str(t): (Pair(model, RelaxedCategorical(encoder, temperature=t, **sizes)), ELBO()) for t in (1.0, 0.5, 0.1)
    }
    pair = Pair(model, SampledCategorical(encoder, **sizes))
    report = gradient_report(pair, X, {**estimators, "hard": ELBO()}, num_replicates=4000)
    phi = {name: groups["phi"] for name, groups in report.found.items()}
    assert phi["0.5"].z > 4.5 and phi["1.0"].z > 4.5
    assert phi["1.0"].bias_norm > phi["0.5"].bias_norm > phi["0.1"].bias_norm
    assert phi["hard"].z < 4.5


def test_dropout_is_no_bias():
    """The exact gradient knows no dropout, so the replicates are made without."""
    torch.manual_seed(0)
    sizes = {"num_latents": 2, "num_classes": 3}
    decoder = torch.nn.Sequential(MLP(6, 8, hidden=()), torch.nn.Dropout(0.5), MLP(8, 3, hidden=()))
    model = DiscreteVAE(decoder, likelihood="normal", **sizes).double()
    pair = Pair(model, SampledCategorical(MLP(3, 6, hidden=()).double(), **sizes))
    report = gradient_report(pair, X, [ELBO()], num_replicates=1500)
    assert not report.to_dataframe()["biased"].any()
    assert decoder[1].training
