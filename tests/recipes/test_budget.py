"""How much a report can afford: draws are saved first, then rows, evenly spread; the same whenever time is enough."""

from __future__ import annotations

import pytest
import torch

from ppl_vae import Pair
from ppl_vae.data import Dataset
from ppl_vae.recipes import Facts, Settings, budget, get_recipe
from ppl_vae.recipes.budget import affordable
from ppl_vae.recipes.discrete_vae import CodeSettings
from ppl_vae.recipes.report import judge
from ppl_vae.result import Fit

ROWS = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))


def fit_of(recipe: str, settings: object) -> Fit:
    torch.manual_seed(0)
    pair = Pair(*get_recipe(recipe).build(Facts((3,), binary=False), settings))
    pair.initialize(ROWS[:2])
    return Fit(pair)


@pytest.fixture(scope="module")
def vae() -> Fit:
    return fit_of("vae", Settings(latent_dim=2, hidden=(5,)))


# seconds a row takes -> rows, draws a row; two seconds are there
AFFORDED = {
    "enough": (0.01, 200, 5000),
    "just not enough": (0.0101, 200, 2000),
    "a tenth": (0.1, 200, 500),
    "a hundredth": (1.0, 100, 100),
    "hardly any": (100.0, 20, 100),
}


@pytest.mark.parametrize("name", AFFORDED)
def test_draws_are_saved_before_rows(vae: Fit, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, rows, draws = AFFORDED[name]
    monkeypatch.setattr(budget, "_seconds_of", lambda *_: seconds)
    found = affordable(vae, ROWS, seconds=2.0)
    assert (len(found.rows), found.num_rows, found.num_samples) == (rows, 200, draws)
    assert torch.equal(found.rows, ROWS[found.index])
    assert found.index[0] == 0 and found.index[-1] == 200 - 200 // rows


def test_an_exact_sum_saves_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_seconds_of", lambda *_: 0.02)
    found = affordable(fit_of("discrete-vae", CodeSettings(num_classes=3, hidden=(5,))), ROWS, seconds=2.0)
    assert len(found.rows) == 100


def test_the_table_says_what_was_left_out(vae: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_seconds_of", lambda *_: 1.0)
    report = judge(vae, Dataset("numbers", ROWS), seconds=1.0)
    assert report.header() == ["train (50 of 200 rows, K = 100)"]
    assert len(report.parts["train"].elbo) == 50


def test_a_forecast_is_made_by_a_few_rows(vae: Fit) -> None:
    assert 0 < budget._seconds_of(vae, ROWS, 100, 0) < 10
    assert affordable(vae, ROWS[:20], seconds=1e-9).num_samples == 5000  # of few rows all are judged
