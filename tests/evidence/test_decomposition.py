from __future__ import annotations

import pytest
import torch
from linear_gaussian import LinearGaussian

from ppl_vae.evidence import ImportanceWeighted, decomposition, log_evidence
from ppl_vae.guides import EnumeratedCategorical
from ppl_vae.models import DiscreteVAE
from ppl_vae.models.priors import Learned
from ppl_vae.nn import MLP
from ppl_vae.pair import Pair

GUIDES = {
    "exact": {"shift": 0.0, "widen": 1.0},
    "near": {"shift": 0.1, "widen": 1.1},
    "far": {"shift": 0.4, "widen": 1.5},
}
PIECES = ("elbo", "reconstruction", "kl", "gap")


@pytest.fixture(scope="module")
def oracle():
    return LinearGaussian()


@pytest.fixture(scope="module", params=GUIDES)
def case(request, oracle):
    guide, x = GUIDES[request.param], oracle.data(800)
    return (
        decomposition(oracle.pair(**guide), x, num_samples=500),
        oracle.pieces(x, **guide),
        oracle.log_marginal(x),
    )


def test_the_pieces_add_up(case):
    found, _, _ = case
    assert torch.equal(found.elbo, found.reconstruction - found.kl)
    assert torch.allclose(found.elbo + found.gap, found.evidence.value, atol=1e-10)
    assert bool((found.gap >= 0).all())
    means = found.mean()
    assert means["reconstruction"] - means["kl"] + means["gap"] == pytest.approx(means["evidence"])


@pytest.mark.parametrize("name", PIECES)
def test_every_piece_is_covered_by_its_error_bar(case, name):
    found, truth, _ = case
    error = found.standard_error[name].clamp(min=1e-9)
    score = (getattr(found, name) - truth[name]) / error
    count, spread = len(score), float(score.square().mean().sqrt())
    assert spread < 1 + 4.5 / (2 * count) ** 0.5 + 0.02
    if float(error.max()) > 1e-6:  # not the ELBO and the gap of the exact guide, which have no error
        assert spread > 1 - 4.5 / (2 * count) ** 0.5 - 0.02


def test_the_evidence_is_covered(case):
    found, _, truth = case
    error = found.evidence.standard_error
    assert bool(((found.evidence.value - truth).abs() <= 5.5 * error + 1e-9).all())


def test_an_elbo_without_the_guide_s_density_is_caught(oracle):
    """The negative twin: log q left out of the KL lands outside of every error bar."""
    x, guide = oracle.data(50), GUIDES["near"]
    found = decomposition(oracle.pair(**guide), x, num_samples=500)
    draws = oracle.pair(**guide).draw(x, 500)
    wrong = -draws.log_p.prior.mean(0)
    assert float(((wrong - oracle.pieces(x, **guide)["kl"]) / found.standard_error["kl"]).abs().median()) > 4.5


def test_chunks_agree(oracle):
    x, pair = oracle.data(40), oracle.pair(**GUIDES["far"])
    whole, pieces = (
        decomposition(pair, x, num_samples=300),
        decomposition(pair, x, num_samples=300, max_elements=700),
    )
    for name in PIECES:
        error = (whole.standard_error[name].square() + pieces.standard_error[name].square()).sum().sqrt()
        assert float((getattr(whole, name) - getattr(pieces, name)).sum().abs() / error) < 4.5


def test_it_agrees_with_log_evidence(oracle):
    x, pair = oracle.data(40), oracle.pair(**GUIDES["near"])
    one, other = (
        decomposition(pair, x, num_samples=400).evidence,
        log_evidence(pair, x, ImportanceWeighted(400)),
    )
    error = (one.standard_error.square() + other.standard_error.square()).sum().sqrt()
    assert float((one.value - other.value).sum().abs() / error) < 4.5
    assert one.estimator == other.estimator


def test_to_dataframe_and_words(case):
    found, _, _ = case
    frame = found.to_dataframe()
    assert list(frame.columns) == [*PIECES, "evidence", "standard_error", "ess", "khat"]
    assert len(frame) == 800
    assert repr(found).startswith("Decomposition(elbo -")


def test_one_draw_has_no_error_bar(oracle):
    found = decomposition(oracle.pair(**GUIDES["far"]), oracle.data(3), num_samples=1)
    assert all(bool(error.isnan().all()) for error in found.standard_error.values())
    assert found.gap.tolist() == [0.0] * 3


def test_far_from_the_posterior_neither_evidence_nor_gap_has_an_error_bar(oracle):
    """The ELBO and its pieces are plain means, and keep theirs."""
    found = decomposition(oracle.pair(shift=30.0), oracle.data(4), num_samples=200)
    assert bool(found.evidence.standard_error.isnan().all())
    assert bool(found.standard_error["gap"].isnan().all())
    assert all(bool(found.standard_error[name].isfinite().all()) for name in ("elbo", "reconstruction", "kl"))
    assert found.to_dataframe()["standard_error"].isna().all()
    assert found.mean()["evidence"] == pytest.approx(found.mean()["elbo"] + found.mean()["gap"])
    assert "Monte Carlo error unknown: 4 of 4 rows without an error bar; sampling" in repr(found.evidence)
    assert "gap" in repr(found)


# discrete latents


@pytest.fixture(scope="module")
def codes():
    """A pair with 3^2 joint codes and a learned prior, some rows, and log p(x|c), log p(c), log q(c|x) of each code."""
    torch.manual_seed(0)
    sizes = {"num_latents": 2, "num_classes": 3}
    model = DiscreteVAE(MLP(6, 5, hidden=(9,)), likelihood="bernoulli", prior=Learned(), **sizes)
    guide = EnumeratedCategorical(MLP(5, 6, hidden=(9,)), **sizes)
    pair = Pair(model.double(), guide.double())
    with torch.no_grad():
        model.prior.logits.normal_()
    x = (torch.rand(12, 5, dtype=torch.float64) < 0.4).double()
    pair.initialize(x)
    values = torch.cartesian_prod(torch.arange(3), torch.arange(3)).unsqueeze(1).expand(-1, 12, -1)
    log_p, log_q = pair.log_joint(x, values), pair.log_guide(x, values)
    return pair, x, log_p.likelihood, log_p.prior, log_q.total


@pytest.mark.parametrize("max_elements", [1 << 23, 200])
def test_codes_are_summed_over(codes, max_elements):
    pair, x, likelihood, prior, log_q = codes
    found, q = decomposition(pair, x, max_elements=max_elements), log_q.exp()
    truth = {
        "elbo": (q * (likelihood + prior - log_q)).sum(0),
        "reconstruction": (q * likelihood).sum(0),
        "kl": (q * (log_q - prior)).sum(0),
        "gap": (q * (log_q - (likelihood + prior).log_softmax(0))).sum(0),
    }
    for name in PIECES:
        torch.testing.assert_close(getattr(found, name), truth[name], rtol=1e-10, atol=1e-10)
        assert not found.standard_error[name].any()
    torch.testing.assert_close(found.evidence.value, (likelihood + prior).logsumexp(0), rtol=1e-10, atol=1e-10)
    assert found.evidence.bound == "exact"


def test_the_twin_a_uniform_prior_is_seen_in_the_kl(codes):
    pair, x, _, _, log_q = codes
    wrong = (log_q.exp() * (log_q + torch.tensor(9.0).log())).sum(0)
    assert float((decomposition(pair, x).kl - wrong).abs().min()) > 1e-3
