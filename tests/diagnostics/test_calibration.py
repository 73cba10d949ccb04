"""Simulation-based calibration: guides that are the posterior pass, and others fail, each in its own words."""

from __future__ import annotations

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from calibration_pairs import LINEAR, classes, decoded_classes, holes, linear, normal_guide, prior_guide, regression
from calibration_pairs import summed as summed_pair
from enumerated import CASES as ENUMERATED
from enumerated import made
from pairs import CASES as PAIRS
from pairs import DIM, LATENT, bijection, data_for, flow_pair, mixed_latents, rows
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch.distributions import constraints

from ppl_vae import Fit
from ppl_vae.diagnostics import Calibration, calibration
from ppl_vae.diagnostics.calibration import calibrate
from ppl_vae.diagnostics.calibration.quantities import HDR, TARP, distance_to
from ppl_vae.diagnostics.calibration.ranks import Count
from ppl_vae.diagnostics.calibration.result import Ranked
from ppl_vae.distributions import Flat
from ppl_vae.evidence.chunks import MAX_ELEMENTS
from ppl_vae.guides import AmortizedNormal, MeanField
from ppl_vae.models import VAE
from ppl_vae.nn import MLP
from ppl_vae.pair import Pair
from ppl_vae.pair.axis import GlobalLatentError
from ppl_vae.pair.simulations import simulate

LIKELIHOOD = "log p(x | z)"


# -- what passes and what fails -------------------------------------------------------------------------------------


def test_an_exact_posterior_passes():
    found = calibration(linear(), num_simulations=1000)
    assert list(found.p_values) == ["z[0]", "z[1]", LIKELIHOOD, HDR, TARP]
    assert found.passes and min(found.p_values.values()) > 1e-4
    assert all(len(r) == 1000 and set(r.tolist()) <= set(range(200)) for r in found.ranks.values())
    for level in (0.5, 0.9):
        for share in found.coverage(level).values():
            assert abs(share - level) < 4.5 * (level * (1 - level) / 1000) ** 0.5
    assert repr(found).startswith("Calibration(1000 simulations, 199 draws each): calibrated as far as they tell")


def test_a_narrow_guide_fails():
    found = calibration(linear(normal_guide(width=0.7)), num_simulations=1000)
    assert not found.passes and max(found.p_values[name] for name in ("z[0]", "z[1]", HDR)) < 1e-6
    frame = found.to_dataframe()
    assert frame.loc[["z[0]", "z[1]"], "reading"].tolist() == ["draws too narrow"] * 2
    assert frame.loc[[HDR, TARP], "reading"].tolist() == ["regions too small"] * 2
    # In one dimension a central interval holds P(|N| < 0.7 q): in two the disc P(chi2_2 < 0.49 q^2).
    normal = torch.distributions.Normal(0.0, 1.0)
    inside = float(2 * normal.cdf(0.7 * normal.icdf(torch.tensor(0.95))) - 1)
    disc = 1 - (1 - 0.9) ** 0.49
    for label, share in (("z[0]", inside), ("z[1]", inside), (HDR, disc)):
        assert abs(float(frame.loc[label, "covered_90"]) - share) < 4.5 * (share * (1 - share) / 1000) ** 0.5
    assert (
        "NOT CALIBRATED" in repr(found)
        and "z[" in repr(found)
        and "draws too narrow, 90 % intervals hold 7" in repr(found)
    )


def test_a_wide_guide_fails():
    found = calibration(linear(normal_guide(width=1.4)), num_simulations=1000)
    assert max(found.p_values[name] for name in ("z[0]", "z[1]", HDR)) < 1e-6
    assert found.to_dataframe()["reading"].tolist()[:2] == ["draws too wide"] * 2
    assert found.to_dataframe().loc[HDR, "reading"] == "regions too large"


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_a_biased_guide_fails(shift):
    found = calibration(linear(normal_guide(shift=shift)), num_simulations=1000)
    assert max(found.p_values[name] for name in ("z[0]", "z[1]", HDR)) < 1e-6
    words = "draws too high" if shift > 0 else "draws too low"
    assert found.to_dataframe()["reading"].tolist()[:2] == [words] * 2
    # The mean of the ranks is P(draw < truth) = Phi(-shift / sqrt(2)).
    expected = float(torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(-shift / 2**0.5)))
    assert abs(float(found.to_dataframe().loc["z[0]", "mean_rank"]) - expected) < 4.5 * (1 / 12 / 1000) ** 0.5


def test_a_guide_that_ignores_the_data_is_seen_by_the_likelihood_alone():
    """Ranks of latents, regions of highest density, and TARP about points of the prior: all are uniform for it."""
    found = calibration(linear(prior_guide), num_simulations=1000)
    assert min(found.p_values[name] for name in ("z[0]", "z[1]", HDR, TARP)) > 1e-4
    assert found.p_values[LIKELIHOOD] < 1e-100
    assert repr(found).endswith(
        f"{LIKELIHOOD}: draws too low, 90 % intervals hold {100 * found.coverage(0.9)[LIKELIHOOD]:.0f} %"
    )


def test_errors_that_change_sign_with_x_are_told_by_a_quantity_that_looks_at_x():
    """Up where x[0] is above its mean and down elsewhere reads as a guide that is too narrow."""

    def sign(x):
        return (x[..., :1] - LINEAR.bias[:1].detach()).sign()

    def guide(x):
        q = LINEAR.posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(q.mean + 0.6 * sign(x) * q.stddev, scale_tril=q.scale_tril))

    signed = {"signed": lambda z, x: z[..., 0] * sign(x)[..., 0]}
    frame = calibration(linear(guide), quantities=signed).to_dataframe()
    assert frame.loc["z[0]", "reading"] == "draws too narrow" and abs(frame.loc["z[0]", "mean_rank"] - 0.5) < 0.05
    assert frame.loc["signed", "reading"] == "draws too high" and frame.loc["signed", "mean_rank"] < 0.4


def test_exact_guides_pass_in_every_seed():
    pair = linear()
    found = [min(calibration(pair, num_simulations=200, num_samples=49, seed=s).p_values.values()) for s in range(20)]
    assert min(found) > 1e-4  # of 100 p-values


@pytest.mark.slow
def test_an_exact_guide_fails_as_seldom_as_is_said():
    """In 1 % of all seeds at most; of 400, in 4 + 4.5 sds."""
    pair = linear()
    failed = sum(not calibration(pair, num_simulations=200, num_samples=49, seed=s).passes for s in range(400))
    assert failed <= 4 + 4.5 * (400 * 0.01 * 0.99) ** 0.5


def test_exact_classes_pass():
    found = calibration(classes(), num_simulations=1000)
    assert list(found.p_values) == ["c", LIKELIHOOD, HDR, TARP]
    assert min(found.p_values.values()) > 1e-4


@pytest.mark.parametrize(("power", "tilt"), [(2.0, 0.0), (0.3, 0.0), (1.0, 1.0)])
def test_wrong_classes_fail(power, tilt):
    assert min(calibration(classes(power, tilt), num_simulations=1000).p_values.values()) < 1e-6


@pytest.mark.parametrize("order", ["first", "last"])
def test_the_twin_ties_in_order_are_not_uniform(monkeypatch, order):
    """Three classes among 199 draws: without the lot an exact guide would fail."""
    monkeypatch.setattr(Count, "ranks", lambda self, seed: self.below + (self.equal if order == "last" else 0))
    assert calibration(classes(), num_simulations=300).p_values["c"] < 1e-6


def test_what_the_model_sums_out():
    found = calibration(summed_pair(), num_simulations=1000)
    assert list(found.p_values) == ["z", "log p(x, z)", HDR, TARP]
    assert min(found.p_values.values()) > 1e-4


def test_two_latents_of_two_kinds():
    """A pair that is not fitted: latents of both kinds are asked, and it fails."""
    pair = Pair(*mixed_latents()).initialize(rows(20, dtype=torch.float32))
    found = calibration(pair, num_simulations=300)
    assert list(found.ranked) == ["z[0]", "z[1]", "c", LIKELIHOOD, HDR, TARP]
    assert not found.passes


# -- ranks, by hand -------------------------------------------------------------------------------------------------


def test_ranks_are_those_of_a_loop_by_hand(monkeypatch):
    """Every draw that the function makes is kept, and counted again one by one, by the formulas of the model."""
    pair, drawn, made = linear(normal_guide(width=0.8)), [], []
    draw, simulated = pair.draw, simulate
    monkeypatch.setattr(pair, "draw", lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1])
    monkeypatch.setattr(calibrate, "simulate", lambda *a, **k: made.append(simulated(*a, **k)) or made[-1])
    distance = lambda z, x: (z - x[:, :LATENT]).square().sum(-1)  # noqa: E731
    found = calibration(pair, num_simulations=12, num_samples=30, quantities={"from x": distance})
    (made,) = made
    draws = torch.cat([d.values["z"] for d in drawn if len(d.values["z"]) == 30])
    x, truth = made.observed["x"], made.latents["z"]
    for n in range(12):
        q = LINEAR.posterior(x[n])
        q = dist.MultivariateNormal(q.mean, scale_tril=0.8 * q.scale_tril)

        def of(z, n=n, q=q):
            p_x = dist.Normal(z @ LINEAR.weight + LINEAR.bias, LINEAR.log_sigma.exp()).log_prob(x[n]).sum()
            return {
                "z[0]": z[0],
                "z[1]": z[1],
                LIKELIHOOD: p_x,
                "from x": sum((z - x[n, :LATENT]) ** 2),
                HDR: -q.log_prob(z),
            }

        own = of(truth[n])
        for label, value in own.items():
            rank = sum(int(of(draws[s, n])[label] < value) for s in range(30))
            assert int(found.ranks[label][n]) == rank, label


# run on these draws: sbi 0.27.0, _run_tarp(num_bins=10, z_score_theta=False), float64; and the authors' package tarp
# 0.1.1, get_tarp_coverage(num_alpha_bins=10, norm=False), which give the same.
ECP = (0.0, 0.2333333333, 0.37, 0.46, 0.51, 0.5833333333, 0.64, 0.7, 0.78, 0.89, 1.0)
ECP_SCALED = (
    0.0,
    0.2333333194,
    0.36,
    0.4566666484,
    0.5133333206,
    0.5866667032,
    0.63,
    0.7033333182,
    0.7833333015,
    0.89,
    1.0,
)


@pytest.mark.parametrize(("scaled", "expected"), [(False, ECP), (True, ECP_SCALED)])
def test_tarp_as_sbi_and_the_authors_have_it_on_the_same_draws(scaled, expected):
    import numpy as np

    rng = np.random.default_rng(1)
    truths = rng.normal(size=(300, 2))
    draws = truths + 0.5 * rng.normal(size=(300, 2)) + 0.35 * rng.normal(size=(99, 300, 2))
    references = rng.uniform(-3, 3, size=(300, 2))
    truths, draws, references = map(torch.as_tensor, (truths, draws, references))
    if scaled:
        low, high = truths.min(0).values, truths.max(0).values
        truths, draws, references = ((v - low) / (high - low) for v in (truths, draws, references))
    count = Count(TARP, distance_to(references, truths.unsqueeze(0)))
    for block in draws.split(40):
        count.add(distance_to(references, block))
    found = Ranked("region", count.ranks(0), 99)
    credibility = found.numbers / 99
    ecp = [float((credibility < level).mean()) for level in np.linspace(0, 1, 11)[:-1]] + [1.0]
    assert ecp == pytest.approx(expected, abs=1e-6)
    assert [found.coverage(level) for level in np.linspace(0, 1, 11)] == pytest.approx(expected, abs=0.006)


def test_tarp_about_classes_counts_those_that_differ():
    reference, values = torch.tensor([[0, 1], [2, 2]]), torch.tensor([[[0, 1], [2, 0]], [[1, 0], [1, 1]]])
    assert distance_to(reference, values, discrete=True).tolist() == [[0.0, 1.0], [2.0, 2.0]]


def test_rounding_does_not_order_what_is_equal():
    count = Count("of", torch.tensor([[1.0]]), tolerance=1e-5)
    count.add(torch.tensor([[1.0 + 1e-6], [1.0 - 1e-6], [0.9], [-torch.inf]]))
    assert (int(count.below), int(count.equal)) == (2, 2)
    infinite = Count("of", torch.tensor([[-torch.inf]]), tolerance=1e-5)
    infinite.add(torch.tensor([[-torch.inf], [0.0]]))
    assert (int(infinite.below), int(infinite.equal)) == (0, 1)


def test_one_class_has_one_density_whatever_the_run(monkeypatch):
    """As many draws are as probable as the truth as are of its class, though float32 says -1200.0001 or -1200.0002."""
    monkeypatch.setattr(Count, "ranks", lambda self, seed: self.equal)
    options = {"num_simulations": 20, "num_samples": 40, "quantities": {"class": lambda z, x: z.argmax(-1)}}
    options["max_elements"] = 40 * (784 + 3)  # one row in a run
    found = calibration(decoded_classes(), **options).ranks
    assert torch.equal(found[LIKELIHOOD], found["class"])


def test_the_lot_among_equals_is_even():
    count = Count("of", torch.zeros(1, 9000))
    count.add(torch.zeros(2, 9000))
    shares = torch.bincount(count.ranks(0), minlength=3) / 9000
    assert bool(((shares - 1 / 3).abs() < 4.5 * (2 / 9 / 9000) ** 0.5).all())


# -- what is simulated ----------------------------------------------------------------------------------------------


def test_simulations_are_draws_of_the_joint_distribution():
    pair = linear()
    made = simulate(pair, pair.rows(rows(20)), 20_000, to_data=None, seed=3, max_elements=MAX_ELEMENTS)
    z, x = made.latents["z"], made.observed["x"]
    assert torch.equal(made.rows.args[0], x) and made.rows.index is None
    noise = float(LINEAR.log_sigma.detach().exp()) ** 2
    top = torch.cat([torch.eye(LATENT), LINEAR.weight.detach()], 1)
    low = torch.cat(
        [LINEAR.weight.detach().T, LINEAR.weight.detach().T @ LINEAR.weight.detach() + noise * torch.eye(DIM)], 1
    )
    expected = torch.cat([top, low])
    found = torch.cat([z, x - LINEAR.bias.detach()], 1)
    scale = torch.outer(expected.diag(), expected.diag()).sqrt()
    assert bool(((found.T @ found / 20_000 - expected).abs() < 4.5 * scale * (2 / 20_000) ** 0.5).all())


@pytest.mark.parametrize("max_elements", [60, 1000])
def test_blocks_change_no_distribution(max_elements):
    options = {"num_simulations": 40, "num_samples": 29, "max_elements": max_elements}
    found = calibration(linear(), **options)
    assert min(found.p_values.values()) > 1e-4 and all(len(r) == 40 for r in found.ranks.values())
    narrow = calibration(linear(normal_guide(width=0.2)), **options)
    assert min(narrow.p_values.values()) < 1e-6


def test_a_seed_is_the_same_ranks():
    found = [calibration(linear(), num_simulations=40, num_samples=20, seed=seed).ranks for seed in (1, 1, 2)]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not torch.equal(found[0]["z[0]"], found[2]["z[0]"])


def test_covariates_are_those_of_the_rows_in_turn():
    pair, (t, y) = regression()
    made = simulate(pair, pair.rows((t, y)), 40, to_data=None, seed=0, max_elements=MAX_ELEMENTS)
    assert torch.equal(made.rows.args[0], t[torch.arange(40) % 17])
    assert torch.equal(made.rows.args[1], made.observed["y"])
    assert min(calibration(pair, (t, y)).p_values.values()) > 1e-4


def test_data_by_name_and_in_a_fit():
    pair, (t, y) = regression()
    assert min(calibration(Fit(pair), {"t": t, "y": y}, num_simulations=300).p_values.values()) > 1e-4


def test_where_simulated_data_belong_is_said_if_it_cannot_be_seen():
    pair, data = regression(packed=True)
    with pytest.raises(ValueError, match="observed site 'y' no argument has its values as they are.*to_data="):
        calibration(pair, data)
    found = calibration(pair, data, to_data=lambda values, rows: torch.stack([rows.args[0][:, 0], values["y"]], 1))
    assert min(found.p_values.values()) > 1e-4
    with pytest.raises(ValueError, match="observes something else at 'y' than was simulated"):
        calibration(pair, data, to_data=lambda values, rows: rows)
    with pytest.raises(ValueError, match="to_data must give 30 rows, got 29"):
        calibration(pair, data, num_simulations=30, to_data=lambda values, rows: rows.args[0][:29])


def test_holes_are_those_of_the_rows():
    """What was simulated where nothing is seen is not asked."""
    pair, data = holes()
    found = calibration(pair, data)
    assert min(found.p_values.values()) > 1e-4


def test_a_vae_whose_rows_have_holes():
    """It is not fitted, and fails."""
    model = VAE(MLP(2, 3), latent_dim=2, likelihood="unit-normal")
    guide = AmortizedNormal(MLP(3, 4), latent_dim=2)
    x = rows(20, dtype=torch.float32)
    mask = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) > 0.3
    pair = Pair(model, guide)
    found = calibration(pair, {"x": x.masked_fill(~mask, torch.nan), "mask": mask}, num_simulations=300)
    assert list(found.p_values) == ["z[0]", "z[1]", LIKELIHOOD, HDR, TARP] and not found.passes


# -- what is refused ------------------------------------------------------------------------------------------------


def test_latents_of_all_data_are_calibrated_by_refitting(global_pair, x):
    with pytest.raises(GlobalLatentError, match="'m' stand outside.*simulate whole data sets and refit"):
        calibration(global_pair, x)


def test_a_posterior_for_each_row_is_no_function_of_the_datum():
    auto = Pair(LINEAR.model, AutoNormal(LINEAR.model))
    with pytest.raises(ValueError, match="does not run on two of them: AutoNormal keeps a posterior for each row"):
        calibration(auto, rows(20))
    model = VAE(MLP(2, 3), latent_dim=2, likelihood="unit-normal")
    free = Pair(model, MeanField(latent_dim=2, num_data=20))
    with pytest.raises(ValueError, match="MeanField keeps a posterior for each row"):
        calibration(free, rows(20, dtype=torch.float32))


def test_what_nothing_can_be_drawn_from_is_refused():
    def factor(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
            pyro.factor("likelihood", -(x.sum(-1) - z.sum(-1)).square())

    with pytest.raises(ValueError, match="'likelihood' is a factor"):
        calibration(Pair(factor, prior_guide), rows(20))

    def flat(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Flat(constraints.real).expand([LATENT]).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(-1, DIM), 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match="the prior of 'z' is improper"):
        calibration(Pair(flat, prior_guide), rows(20))


def test_points_and_flows_are_refused():
    with pytest.raises(ValueError, match="calibration: a guide with a density is required"):
        calibration(Pair(LINEAR.model, AutoDelta(LINEAR.model)), rows(20))
    with pytest.raises(ValueError, match="with a spread is required"):
        calibration(Pair(*flow_pair(bijection())), rows(20, dtype=torch.float32))


def test_masked_latents_are_refused():
    def masked(fn):
        def run(x):
            with poutine.mask(mask=torch.arange(len(x)) % 2 == 0):
                fn(x)

        return run

    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=torch.arange(len(x)) % 2 == 0):
                z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(-1, DIM), 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match="a mask takes 'z' away"):
        calibration(Pair(model, masked(prior_guide)), rows(20))


def test_a_plate_of_a_fixed_size_is_refused():
    def model(x):
        with pyro.plate("data", 20):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 20):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    with pytest.raises(ValueError, match="its plate 'data' has a fixed size"):
        calibration(Pair(model, guide), torch.randn(20))


def test_auxiliary_draws_leave_out_the_regions_of_highest_density():
    """z follows from an auxiliary draw: the density of another z is not told."""

    def guide(x):
        q = LINEAR.posterior(x)
        with pyro.plate("data", len(x)):
            noise = pyro.sample(
                "noise", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1), infer={"is_auxiliary": True}
            )
            z = q.mean + (q.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
            pyro.sample(
                "z", dist.Delta(z, log_density=-q.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1), event_dim=1)
            )

    found = calibration(linear(guide))
    assert HDR not in found.p_values and min(found.p_values.values()) > 1e-4
    assert f"Not asked: {HDR} (the guide draws auxiliary sites" in repr(found)


def test_quantities_must_be_numbers_under_names_of_their_own():
    pair = linear()
    with pytest.raises(ValueError, match=r"the quantity 'sum' must give a number for each draw and datum, \(1, 50\)"):
        calibration(pair, num_simulations=50, quantities={"sum": lambda z, x: z.sum()})
    with pytest.raises(ValueError, match="'root' is NaN"):
        calibration(pair, num_simulations=50, quantities={"root": lambda z, x: z[..., 0].sqrt()})
    with pytest.raises(ValueError, match="has the name of what is ranked anyway"):
        calibration(pair, num_simulations=50, quantities={TARP: lambda z, x: z[..., 0]})


@pytest.mark.parametrize("few", [{"num_simulations": 1}, {"num_samples": 1}])
def test_two_of_each_are_required(few):
    with pytest.raises(ValueError, match="at least two simulations and two draws are required"):
        calibration(linear(), **few)


def test_rows_are_required_of_a_pair_that_has_seen_none():
    with pytest.raises(ValueError, match="has not seen any"):
        calibration(Pair(LINEAR.model, normal_guide()))


REFUSED = {
    "annotated": "'penalty' is a factor",
    "flow": "a p(x | z) with a spread is required",
    "augmented flow": "a p(x | z) with a spread is required",
    "masked": "a mask takes 'c' away",
    "many rows": "latents in the guide are required, and this pair has none",
}
KINDS = {
    **{name: (case.make, data_for(case), case.joint) for name, case in PAIRS.items()},
    **{name: (lambda name=name: made(name), rows(20), False) for name in ENUMERATED},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_pair_is_asked_or_refused_in_words(name):
    make, data, joint = KINDS[name]
    found = make()
    pair = Pair(*found) if isinstance(found, tuple) else Pair(found.model, found.guide)
    reason = "tie all data together" if joint else REFUSED.get(name)
    if reason is None:
        ranks = calibration(pair, data, num_simulations=20, num_samples=5).ranks
        entries = sum(site.event_shape.numel() for site in pair.latents.values())
        assert len(ranks) >= entries + 3
        assert all(len(r) == 20 and set(r.tolist()) <= set(range(6)) for r in ranks.values())
        return
    with pytest.raises(ValueError, match=re.escape(reason)):
        calibration(pair, data, num_simulations=20, num_samples=5)


# -- the result -----------------------------------------------------------------------------------------------------


def result(**ranks: torch.Tensor) -> Calibration:
    return Calibration({name: Ranked("latent", value, 99) for name, value in ranks.items()})


def test_the_threshold_is_shared_out():
    even = torch.arange(100).repeat(10)
    found = result(a=even, b=even)
    assert found.passes and found.p_values == {"a": 1.0, "b": 1.0}
    assert "the least of 2 p-values is 1 (a), 0.005 is required" in repr(found)
    with pytest.raises(ValueError, match="from 0 to 1"):
        found.coverage(1.5)


def test_ranks_of_another_shape_are_called_so():
    """Mean and spread are nearly right, but all lie in the middle of a quarter."""
    ranks = torch.tensor([25 * k + r for k in range(4) for r in range(6, 19)] * 40)
    assert max(map(abs, Ranked("latent", ranks, 99).z_scores)) < 3
    assert result(a=ranks).to_dataframe().loc["a", "reading"] == "of another shape"


@pytest.mark.parametrize("regions", [False, True])
def test_a_curve_leaves_the_band_where_its_p_value_is_too_low(regions):
    """The figure and the table say the same."""
    found = calibration(linear(normal_guide(shift=0.4)), num_simulations=200, num_samples=49)
    ax = found.plot(regions=regions)
    labels = [name for name, ranked in found.ranked.items() if (ranked.kind == "region") == regions]
    lower, upper = found.band()
    for label in labels:
        share = found.distribution(label)
        leaves = bool(((share < lower - 1e-9) | (share > upper + 1e-9)).any())
        assert leaves == (found.p_values[label] < 0.01 / 5) == bool(found.to_dataframe().loc[label, "reading"])
    failed = sum(found.p_values[name] < 0.01 / 5 for name in labels)
    assert f"{failed} of {len(labels)} outside the band" in [text.get_text() for text in ax.texts]
