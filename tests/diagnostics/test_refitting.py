"""Calibration of latents that all data share: every simulated data set is fitted anew."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import refits
import torch
from pyro.infer.autoguide import AutoNormal
from schools import DATA, centred, non_centred

from ppl_vae.diagnostics import variational_calibration
from ppl_vae.diagnostics.calibration import refitting
from ppl_vae.pair import Pair

X = torch.zeros(5, 2).cumsum(1)
LABELS = ["m[0]", "m[1]", "log p(x | z)"]


def pair() -> Pair:
    return refits.normal(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)))


def test_an_exact_fit_passes():
    found = variational_calibration(pair(), refits.exactly, num_simulations=120, num_samples=49)
    assert list(found.p_values) == LABELS and found.passes and min(found.p_values.values()) > 1e-4
    assert float(found.to_dataframe()["p_symmetry"].min()) > 1e-3
    assert repr(found).startswith("Calibration(120 data sets, a fit and 49 draws): calibrated as far as they tell")
    assert "By the symmetry of the ranks: no bias seen" in repr(found)


def test_a_narrow_fit_fails_and_is_not_called_biased():
    found = variational_calibration(pair(), refits.too_narrow, num_simulations=120, num_samples=49)
    frame = found.to_dataframe().loc[LABELS[:2]]
    assert float(frame["p_value"].max()) < 1e-6 and frame["reading"].tolist() == ["draws too narrow"] * 2
    assert float(frame["p_symmetry"].min()) > 1e-3


def test_a_shifted_fit_is_biased():
    found = variational_calibration(pair(), refits.shifted, num_simulations=120, num_samples=49)
    frame = found.to_dataframe().loc[LABELS[:2]]
    assert float(frame["p_symmetry"].max()) < 1e-6 and frame["reading"].tolist() == ["draws too high"] * 2
    assert "By the symmetry of the ranks: bias" in repr(found)


def test_ranks_are_those_of_a_loop_by_hand(monkeypatch):
    """What made each data set is kept, and ranked anew among the draws of its fit."""
    tasks, rank = [], refitting._ranks
    monkeypatch.setattr(refitting, "_ranks", lambda task: tasks.append(task) or rank(task))
    found = variational_calibration(pair(), refits.too_narrow, num_simulations=8, num_samples=20, seed=4)
    for n, task in enumerate(tasks):
        fitted, truth = refits.too_narrow(task.data, 0), task.latents["m"]
        draws = fitted.draw(task.data, 20, seed=refitting.fold(task.seed, "draw")).values["m"]

        def fits(m, x=task.data):
            return float(dist.Normal(m, refits.NOISE).log_prob(x).double().sum())

        own = [int((draws[:, d] < truth[d]).sum()) for d in range(2)] + [sum(fits(m) < fits(truth) for m in draws)]
        assert [int(found.ranks[label][n]) for label in LABELS] == own


def test_data_sets_are_draws_of_the_model(monkeypatch):
    tasks = []
    monkeypatch.setattr(refitting, "_ranks", lambda task: tasks.append(task) or dict.fromkeys(LABELS, 0))
    variational_calibration(pair(), refits.exactly, num_simulations=400)
    m, x = torch.stack([t.latents["m"] for t in tasks]), torch.stack([t.data for t in tasks])
    assert m.shape == (400, 2) and x.shape == (400, 5, 2)
    for variance, expected in ((m.var(), 1.0), ((x - m.unsqueeze(1)).var(), refits.NOISE**2)):
        assert abs(float(variance) - expected) < 4.5 * expected * (2 / 800) ** 0.5
    assert abs(float(((x - m.unsqueeze(1)).mean(1) * m).mean())) < 4.5 * (refits.NOISE**2 / 5 / 800) ** 0.5


def test_fits_share_neither_noise_nor_parameters():
    """A parameter in Pyro's global store would be that of the first fit for all."""
    torch.manual_seed(5)
    first = variational_calibration(pair(), refits.noisily, num_simulations=10).ranks
    torch.manual_seed(6)
    again = variational_calibration(pair(), refits.noisily, num_simulations=10).ranks
    assert all(torch.equal(again[name], first[name]) for name in first)
    assert not list(pyro.get_param_store())


@pytest.mark.slow
def test_how_many_processes_there_are_changes_nothing():
    options = {"num_simulations": 7, "num_samples": 20}
    for refit in (refits.noisily, refits.by_fit):
        found = [variational_calibration(pair(), refit, num_processes=n, **options).ranks for n in (1, 2)]
        assert all(torch.equal(found[0][name], found[1][name]) for name in LABELS)


@pytest.mark.slow
def test_a_real_fit_of_the_right_family_passes():
    found = variational_calibration(pair(), refits.by_fit, num_simulations=60, num_samples=49)
    assert min(found.p_values.values()) > 1e-4


@pytest.mark.slow
def test_eight_schools_are_biased_in_tau_centred_and_not_otherwise():
    """What Yao et al. (2018) found with mean-field ADVI; both are too narrow."""
    found = {}
    for model, refit in ((centred, refits.centred_schools), (non_centred, refits.non_centred_schools)):
        schools = Pair(model, AutoNormal(model)).initialize(DATA)
        found[model] = variational_calibration(schools, refit, DATA, num_simulations=60, num_processes=2).to_dataframe()
    assert found[centred].loc["tau", "p_symmetry"] < 1e-3 and found[centred].loc["tau", "mean_rank"] < 0.4
    assert found[non_centred]["p_symmetry"].min() > 0.01
    assert found[non_centred].loc["tau", "reading"] == "draws too narrow"


def test_what_is_refused():
    with pytest.raises(RuntimeError, match="refit has failed on simulated data set 0: ArithmeticError: no optimum"):
        variational_calibration(pair(), refits.in_vain, num_simulations=3)
    with pytest.raises(ValueError, match="that other processes can import is required as refit.*num_processes=1"):
        variational_calibration(pair(), lambda x, seed: None, num_simulations=3, num_processes=2)
    with pytest.raises(ValueError, match="two data sets, two draws and one process"):
        variational_calibration(pair(), refits.exactly, num_processes=0)


def test_latents_of_each_datum_need_no_refitting(exact_pair, x):
    exact_pair.initialize(x)
    with pytest.raises(ValueError, match="latents that all data share are required, and this pair has none"):
        variational_calibration(exact_pair, refits.exactly, x)


@pytest.mark.slow
def test_an_error_in_another_process_is_told():
    with pytest.raises(RuntimeError, match="refit has failed on simulated data set 0: ArithmeticError: no optimum"):
        variational_calibration(pair(), refits.in_vain, num_simulations=3, num_processes=2)
