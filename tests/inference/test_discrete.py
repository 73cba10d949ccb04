"""Fits of the built-in pairs with discrete latents: temperatures, labels, components, and what one asks of a fit."""

from __future__ import annotations

import itertools

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

from ppl_vae import ELBO, RLOO, VIMCO, Fit, VariationalEM
from ppl_vae.evidence import Enumeration, ImportanceWeighted
from ppl_vae.guides import (
    AmortizedNormal,
    EnumeratedCategorical,
    RelaxedCategorical,
    SampledCategorical,
    SemiSupervisedGuide,
)
from ppl_vae.models import DiscreteVAE, MixtureVAE, SemiSupervisedVAE
from ppl_vae.nn import MLP
from ppl_vae.objectives import LinearWarmup
from ppl_vae.pair import Pair, tabulate

N, D, M, K = 24, 6, 2, 3
SIZES = {"num_latents": M, "num_classes": K}
DOUBLE = {"dtype": torch.float64, "progress": False}


def binary(n: int = N) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(n, D, generator=generator) < 0.5).double()


def discrete(guide=EnumeratedCategorical, **options):
    torch.manual_seed(0)
    model = DiscreteVAE(MLP(M * K, D, hidden=(8,)), likelihood="bernoulli", **SIZES)
    return model, guide(MLP(D, M * K, hidden=(8,)), **SIZES, **options)


def fitted(pair, data=None, *, objective=None, **options) -> Fit:
    em = VariationalEM(*pair, objective=objective, dtype=torch.float64)
    return em.fit(binary() if data is None else data, **{"epochs": 3, "batch_size": 10, "progress": False, **options})


# -- enumerated --------------------------------------------------------------------------------------------------------


def test_an_enumerated_fit_is_pyros_step_by_step():
    """Full batches, Adam: the same parameters as Pyro's SVI under TraceEnum_ELBO, but for its loss over all N rows."""
    model, guide = discrete()
    fit = fitted((model, guide), batch_size=None, steps=5, epochs=None)
    ours = {name: leaf.detach().clone() for name, leaf in fit.parameters_by_name().items()}
    model, guide = (part.double() for part in discrete())
    x = binary()
    optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=1e-3)
    with pyro.get_param_store().scope({"params": {}, "constraints": {}}):
        for _ in range(5):
            loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide, x) / N
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    theirs = {**dict(model.named_parameters(prefix="model")), **dict(guide.named_parameters(prefix="guide"))}
    assert set(ours) == set(theirs)
    for name, leaf in theirs.items():
        assert torch.allclose(ours[name], leaf, atol=1e-10, rtol=0)


def test_a_fit_of_codes_answers():
    fit = fitted(discrete())
    x = binary(7)
    assert fit.codes(x).shape == fit.encode(x).shape == (7, M)
    assert fit.sample(5).shape == (5, D) and fit.reconstruct(x).shape == (7, D)
    assert fit.decode(fit.codes(x)).shape == (7, D)
    assert fit.log_evidence(x).bound == "exact"
    assert float(fit.history["code_perplexity"].iloc[-1]) <= K
    with pytest.raises(ValueError, match="interpolate: a continuous latent is required"):
        fit.interpolate(x[:2], x[2:4])


def test_a_saved_fit_of_codes_comes_back(tmp_path):
    import ppl_vae

    fit = fitted(discrete())
    fit.save(tmp_path / "run")
    again = ppl_vae.load(tmp_path / "run", *discrete())
    assert torch.equal(again.log_evidence(binary()).value, fit.log_evidence(binary()).value)


def test_factorized_evidence_is_the_sum_over_all_joint_codes():
    """K^M runs by hand against the sum that goes latent by latent."""
    torch.manual_seed(0)
    sizes = {"num_latents": 3, "num_classes": K, "factorized": True}
    model = DiscreteVAE(torch.nn.Linear(K, 2), likelihood="bernoulli", **sizes).double()
    encoder = torch.nn.Sequential(torch.nn.Flatten(), MLP(D, 3 * K, hidden=()))
    fit = Fit(Pair(model, EnumeratedCategorical(encoder, **sizes), dtype=torch.float64))
    x = binary().reshape(N, 3, 2)
    found = fit.log_evidence(x)
    joint = []
    for code in itertools.product(range(K), repeat=3):
        c = torch.tensor(code).expand(1, N, 3)
        joint.append(fit.log_joint(x, c).total[0])
    assert torch.allclose(found.value, torch.stack(joint).logsumexp(0), atol=1e-10)
    assert fit.codes(x).shape == (N, 3)
    assert torch.allclose(fit.elbo(x), _elbo(fit, x), atol=1e-10)


def _elbo(fit: Fit, x: torch.Tensor) -> torch.Tensor:
    with fit.scope(), torch.no_grad():
        return ELBO().terms(fit.pair, fit.rows(x).batch()).value


def test_too_many_codes_say_what_they_would_cost():
    with pytest.raises(ValueError, match=r"10\^20 = 1e20 joint codes.*RelaxedCategorical|10\^20 = 1e20 joint codes"):
        EnumeratedCategorical(MLP(D, 200), num_latents=20, num_classes=10)


# -- relaxed -----------------------------------------------------------------------------------------------------------


def schedule(step: int) -> float:
    return max(0.5, 1.0 - 0.1 * step)


def test_a_fit_takes_the_temperature_of_each_step():
    pair = discrete(RelaxedCategorical, temperature=schedule)
    fitted(pair, batch_size=None, epochs=None, steps=4)
    assert float(pair[1].temperature) == pytest.approx(schedule(3))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_resumed_fit_goes_on_at_its_temperature(compiled, tmp_path):
    """One run of 8 epochs, and one that is stopped and taken up again: the same bits."""

    def em(pair):
        return VariationalEM(*pair, dtype=torch.float64, compile=compiled, objective=ELBO(beta=LinearWarmup(9)))

    options = {"batch_size": 12, "progress": False, "seed": 3}
    whole = em(discrete(RelaxedCategorical, temperature=schedule)).fit(binary(), epochs=8, **options)
    em(discrete(RelaxedCategorical, temperature=schedule)).fit(binary(), epochs=3, checkpoint=tmp_path, **options)
    pair = discrete(RelaxedCategorical, temperature=schedule)
    again = em(pair).fit(binary(), epochs=8, checkpoint=tmp_path, resume=True, **options)
    if compiled:
        assert any(row.compiled_steps for row in whole.explain().rows)
    for one, other in zip(whole.parameters_by_name().values(), again.parameters_by_name().values(), strict=True):
        assert torch.equal(one, other)


def test_reports_are_of_the_discrete_model():
    """Trained relaxed, judged hard: evidence, ELBO and codes are those of a guide that draws."""
    model, guide = discrete(RelaxedCategorical, temperature=0.5)
    fit = fitted((model, guide))
    hard = Fit(Pair(model, SampledCategorical(guide.encoder, **SIZES), dtype=torch.float64).initialize(binary()))
    assert torch.allclose(fit.log_evidence(binary()).value, hard.log_evidence(binary()).value, atol=1e-12)
    assert torch.allclose(fit.elbo(binary()), hard.elbo(binary()), atol=1e-12)
    drawn = fit.log_evidence(binary(), ImportanceWeighted(3000))
    z = (drawn.value - fit.log_evidence(binary(), Enumeration()).value) / drawn.standard_error
    assert z.abs().max() < 4.5


def test_the_history_is_of_the_discrete_model_too():
    """Under Gumbel-softmax the bound that training sees can lie above log p(x); the columns are of hard codes."""
    fit = fitted(discrete(RelaxedCategorical, temperature=1.0), epochs=30, batch_size=None)
    last, exact = fit.history.iloc[-1], float(fit.elbo(binary()).mean())
    assert last["elbo"] == pytest.approx(last["reconstruction"] - last["kl"])
    assert abs(last["elbo"] - exact) < 0.5  # one hard draw a row, 24 rows
    assert last["elbo"] != pytest.approx(last["objective"])


def test_free_bits_are_of_each_latent_of_a_code():
    pair = Pair(*discrete(), dtype=torch.float64).initialize(binary())
    batch = pair.rows(binary()).batch()
    with pair.scope(), torch.no_grad():
        plain, floored = (ELBO(free_bits=bits).terms(pair, batch) for bits in (0.0, 50.0))
    assert float(floored.reconstruction - floored.objective) == pytest.approx(50.0 * M)  # far above any KL here
    assert torch.allclose(floored.kl, plain.kl, atol=1e-12)


@pytest.mark.parametrize("objective", [RLOO(3), VIMCO(3)])
def test_objectives_for_draws_raise_the_exact_elbo(objective):
    pair = discrete(SampledCategorical)
    start = Fit(Pair(*pair, dtype=torch.float64)).elbo(binary()).mean()
    fit = VariationalEM(*pair, objective=objective, lr=0.01, dtype=torch.float64).fit(
        binary(), epochs=60, progress=False
    )
    assert fit.elbo(binary()).mean() > start + 0.1


# -- labels ------------------------------------------------------------------------------------------------------------


def semi_supervised(**options):
    torch.manual_seed(0)
    sizes = {"num_classes": K, "latent_dim": 2}
    model = SemiSupervisedVAE(MLP(K + 2, D, hidden=(8,)), likelihood="bernoulli", **sizes)
    return model, SemiSupervisedGuide(MLP(D, K, hidden=(8,)), MLP(D + K, 4, hidden=(8,)), **sizes, **options)


def labels(n: int = N) -> torch.Tensor:
    return torch.arange(n) % (K + 1) - 1


def test_a_fit_on_some_labels_answers_without_any():
    fit = fitted(semi_supervised(auxiliary=3.0), (binary(), labels()))
    x = binary(9)
    assert fit.codes(x, "y").shape == (9, 1)
    assert torch.equal(fit.codes(x, "y")[:, 0], fit.guide.classify(x).argmax(-1))
    assert fit.log_evidence(x, ImportanceWeighted(50)).value.shape == (9,)
    assert fit.sample(5).shape == (5, D)
    assert "label" not in fit.to_inference_data(x, num_samples=30).observed_data
    given = fit.simulate(6, latents={"y": torch.full((6,), 2)})
    assert given["x"].shape == (6, D) and (given["y"] == 2).all()


def test_labels_are_evidence_too():
    """log p(x, label) of a labeled row, log p(x) of another: by the sum over classes of weighted draws."""
    fit = Fit(Pair(*semi_supervised(), dtype=torch.float64).initialize((binary(), labels())))
    some = fit.log_evidence((binary(), labels()), ImportanceWeighted(4000)).value
    each = torch.stack(
        [fit.log_evidence((binary(), torch.full((N,), k)), ImportanceWeighted(4000)).value for k in range(K)]
    )
    expected = torch.where(labels() < 0, each.logsumexp(0), each.gather(0, labels().clamp(min=0).unsqueeze(0))[0])
    assert torch.allclose(some, expected, atol=0.1)


def test_the_classification_term_trains_and_is_no_log_p():
    """It moves the classifier, is reported by itself, and stands in neither objective, ELBO nor evidence."""
    found = []
    for weight in (0.0, 5.0):
        pair = Pair(*semi_supervised(auxiliary=weight), dtype=torch.float64).initialize((binary(), labels()))
        batch = pair.rows((binary(), labels())).batch()
        with pair.scope():
            torch.manual_seed(1)
            terms = ELBO().terms(pair, batch)
            grad = torch.autograd.grad(terms.surrogates["phi"], pair.guide.classifier.layers[0].weight)[0]
        log_p = pair.draw((binary(), labels()), 3).log_weight
        found.append((terms, grad, log_p))
    (none, grad_none, log_p_none), (some, grad_some, log_p_some) = found
    assert torch.equal(none.value, some.value) and torch.equal(none.elbo, some.elbo)
    assert torch.equal(log_p_none, log_p_some)
    logits = pair.guide.classifier(binary()).log_softmax(-1)
    labeled = labels() >= 0
    expected = 5.0 * torch.where(labeled, logits.gather(1, labels().clamp(min=0).unsqueeze(1))[:, 0], 0.0).mean()
    assert float(some.auxiliary) == pytest.approx(float(expected.detach()), rel=1e-12) and none.auxiliary == 0.0
    extra = torch.autograd.grad(expected, pair.guide.classifier.layers[0].weight)[0]
    assert torch.allclose(grad_some - grad_none, extra, atol=1e-12)


def test_a_label_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"labels must be -1 \(unlabeled\) or in 0 .. 2, got 3"):
        fitted(semi_supervised(), (binary(), torch.full((N,), 3)))


# -- components --------------------------------------------------------------------------------------------------------


def test_a_mixture_is_clustered_by_bayes_rule():
    torch.manual_seed(0)
    model = MixtureVAE(MLP(2, D, hidden=(8,)), latent_dim=2, num_components=K, likelihood="bernoulli")
    fit = fitted((model, AmortizedNormal(MLP(D, 4, hidden=(8,)), latent_dim=2)))
    x = binary()
    assert fit.codes(x).shape == (N, 1)
    z = fit.encode(x)
    with torch.no_grad():
        responsibilities = model.responsibilities(z)
    near = (fit.codes(x)[:, 0] == responsibilities.argmax(-1)).double().mean()
    assert near > 0.8  # averaged over draws, not at the mean: they may part where two components are even
    assert set(fit.to_inference_data(x, num_samples=30).codes) >= {"c_probs", "c_usage"}
    assert fit.reconstruct(x).shape == x.shape


def test_the_table_of_an_enumerated_guide_is_whole_whatever_its_memory_bound():
    pair = discrete(max_rows=20)
    fit = Fit(Pair(*pair, dtype=torch.float64).initialize(binary()))
    with fit.scope(), torch.no_grad():
        assert tabulate(fit, fit.rows(binary()).batch()).log_p.shape == (K**M, N)
