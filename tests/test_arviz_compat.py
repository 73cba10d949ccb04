"""The two lines of ArviZ behind one door: the installed one for real, the other played by a double."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import xarray as xr

from ppl_vae import _arviz
from ppl_vae._psis import MIN_DRAWS, psis_khat


def pareto(shape: float, num: int, columns: int = 3, seed: int = 0) -> np.ndarray:
    """Logs of draws whose upper tail is a generalized Pareto of the given shape, (num, columns)."""
    return shape * np.random.default_rng(seed).exponential(size=(num, columns))


def fake_one(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Put ArviZ 1.x in place, with a nested ``from_dict``. Returns its log."""
    log: dict[str, object] = {}

    def from_dict(data: dict, *, coords: object = None, dims: object = None) -> object:
        log["from_dict"] = (data, coords, dims)
        return xr.DataTree.from_dict({group: xr.Dataset() for group in data})

    module = ModuleType("arviz")
    module.__version__, module.from_dict = "1.3.0", from_dict
    monkeypatch.setitem(sys.modules, "arviz", module)
    return log


def khat_of_arviz(ratios: np.ndarray) -> float:
    """k-hat of log ratios (S,), as the installed ArviZ has it."""
    module = _arviz.arviz()
    if not _arviz.is_one(module):
        return float(np.asarray(module.psislw(ratios[None].copy())[1]).reshape(()))
    from arviz_stats.base import array_stats

    return float(array_stats.psislw(-ratios)[1])  # which takes the log likelihood of leave-one-out


@pytest.mark.parametrize("num", [30, 200, 10_000])  # whose tail is a whole number: 0.23 rounds it up, 1.x down
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("shape", ["normal", "exponential"])
def test_khat_is_that_of_arviz_where_no_draws_tie(num, scale, shape):
    rng = np.random.default_rng(num)
    ratios = scale * getattr(rng, shape)(size=num)
    assert psis_khat(ratios[:, None])[0] == pytest.approx(khat_of_arviz(ratios), abs=1e-9)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_khat_finds_the_shape_of_a_pareto_tail(shape):
    found = psis_khat(pareto(shape, 40_000, columns=10))
    error = (1 + shape) / np.sqrt(600 * 10)  # asymptotic, with 600 draws in the tail of each of ten columns
    shrinkage = 10 / 610 * abs(0.5 - shape)  # ArviZ's prior pulls to 0.5 with the weight of ten draws
    assert abs(found.mean() - shape) < 4.5 * error + shrinkage


def test_a_wrong_sign_would_fit_the_lower_tail():
    """The negative twin of the law above: without the sign of 1.x a heavy tail looks light."""
    assert np.all(psis_khat(-pareto(0.9, 40_000)) < 0.3)


DEGENERATE = {
    "constant": (np.zeros(100), 0.0),
    "constant up to rounding": (-1e3 + 1e-8 * np.arange(100) / 100, 0.0),
    "one value in all of the tail": (np.repeat([0.0, -1.0, -2.0], 100), 0.0),
    "one value above the rest": (np.repeat([0.0, -50.0], [30, 370]), 0.0),
    "one value in the tail, not in the rest": (np.r_[np.zeros(60), np.linspace(-9, -1, 340)], 0.0),
    "few values, of which four are above the rest": (np.repeat([0.0, -1.0, -2.0], [4, 96, 300]), np.inf),
    "four draws above the rest": (np.r_[np.arange(4.0), np.zeros(96) - 5], np.inf),
    "one draw above the rest": (np.r_[0.0, np.full(99, -700.0)], np.inf),
    "an infinite ratio": (np.r_[np.inf, np.zeros(99)], np.nan),
    "a nan": (np.r_[np.nan, np.zeros(99)], np.nan),
    "no support at all": (np.full(100, -np.inf), np.nan),
    "too few draws": (np.random.default_rng(0).normal(size=MIN_DRAWS - 1), np.nan),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_tails_have_one_answer_whatever_is_installed(name):
    ratios, expected = DEGENERATE[name]
    np.testing.assert_equal(psis_khat(ratios[:, None])[0], expected)


# Log ratios, and their k-hat by ArviZ 0.23. 1.3 gives 0.337, 1.117, 3.077 and NaN.
NUMBERS = {
    "ties": (np.round(np.random.default_rng(0).normal(size=400), 1), 0.24985921335364494),
    "ties in a heavy tail": (np.round(np.random.default_rng(1).exponential(size=200), 1), 1.0691248896510344),
    "counts": (np.floor(4 * np.random.default_rng(2).exponential(size=300)), 2.6030935834113937),
    "25 draws": (np.random.default_rng(0).normal(size=25), 0.09618668470585524),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_ties_and_few_draws_have_one_answer_whatever_is_installed(name):
    ratios, expected = NUMBERS[name]
    assert psis_khat(ratios[:, None])[0] == pytest.approx(expected, abs=1e-9)


def test_draws_without_support_are_zero_weights():
    ratios = np.random.default_rng(0).normal(size=(400, 1))
    ratios[:100] = -np.inf
    assert np.isfinite(psis_khat(ratios)[0])


@pytest.mark.parametrize("spread", [1e-6, 1e-2, 1e2, 1e4, 1e300])
def test_ratios_of_any_spread_have_a_khat_and_no_warning(spread):
    found = psis_khat(spread * np.random.default_rng(0).normal(size=(300, 5)))
    assert not np.isnan(found).any()


def test_the_fewest_draws_have_a_khat():
    found = psis_khat(np.random.default_rng(0).normal(size=(MIN_DRAWS, 50)))
    assert not np.isnan(found).any()


def test_khat_knows_neither_scale_nor_the_caller_s_array():
    ratios = pareto(0.6, 500)
    kept = ratios.copy()
    np.testing.assert_allclose(psis_khat(ratios), psis_khat(ratios - 1234.5), atol=1e-8)
    np.testing.assert_array_equal(ratios, kept)


def test_khat_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"psis_khat: log ratios of shape \(S, N\) are required, got \(7,\)"):
        psis_khat(np.zeros(7))


def example() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {
        "posterior": {"block/z": rng.normal(size=(1, 50, 6, 2)), "w": rng.normal(size=(1, 50))},
        "posterior_predictive": {"x": rng.normal(size=(1, 10, 6, 4))},
        "log_likelihood": {"x": rng.normal(size=(1, 50, 6))},
        "observed_data": {"x": rng.normal(size=(6, 4))},
    }


DIMS = {"block/z": ["datum", "code"], "x": ["datum", "pixel"]}


def test_groups_dimensions_and_coordinates():
    idata = _arviz.inference_data(example(), coords={"code": ["a", "b"]}, dims=DIMS)
    assert set(_arviz.group_names(idata)) == set(example())
    assert idata["posterior"]["block.z"].dims == ("chain", "draw", "datum", "code")
    assert list(idata["posterior"]["code"].values) == ["a", "b"]
    assert idata["posterior"]["w"].dims == ("chain", "draw")
    assert idata["log_likelihood"]["x"].dims == ("chain", "draw", "datum")
    assert idata["observed_data"]["x"].dims == ("datum", "pixel")
    assert idata["posterior_predictive"].sizes["draw"] == 10


def test_arviz_1_gets_one_nested_dictionary(monkeypatch):
    log = fake_one(monkeypatch)
    idata = _arviz.inference_data(example(), coords={"code": ["a", "b"]}, dims=DIMS)
    data, coords, dims = log["from_dict"]
    assert set(data) == set(example())
    assert coords == {"code": ["a", "b"]}
    assert dims == {"block.z": ["datum", "code"], "x": ["datum", "pixel"]}
    assert set(_arviz.group_names(idata)) == set(example())


def test_netcdf_there_and_back_without_compression(tmp_path):
    import h5py

    path = tmp_path / "posterior.nc"
    idata = _arviz.inference_data(example(), dims=DIMS)
    _arviz.to_netcdf(idata, path)
    back = _arviz.from_netcdf(path)
    np.testing.assert_array_equal(back["posterior"]["block.z"].values, idata["posterior"]["block.z"].values)
    with h5py.File(path) as file:
        assert file["posterior/block.z"].compression is None


def test_plot_ppc_leaves_nothing_in_pyplot(tmp_path):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure = _arviz.plot_ppc(_arviz.inference_data(example(), dims=DIMS), num_samples=5)
    figure.savefig(tmp_path / "ppc.png")
    assert plt.get_fignums() == before
    assert (tmp_path / "ppc.png").stat().st_size > 5000


def test_plots_of_test_quantities_leave_nothing_in_pyplot(tmp_path):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    before, rng = plt.get_fignums(), np.random.default_rng(0)
    for group in ("posterior", "prior"):
        made = {f"{group}_predictive": {"T": rng.normal(size=(1, 100))}, "observed_data": {"T": np.asarray(0.3)}}
        figure = _arviz.plot_test_quantities(_arviz.inference_data(made), group=group)
        figure.savefig(tmp_path / f"{group}.png")
        assert (tmp_path / f"{group}.png").stat().st_size > 4000
    assert plt.get_fignums() == before


def test_what_chains_say_of_themselves():
    """Independent normals, and a walk whose draws hang together: 1 / sqrt(S), and sqrt((1 + rho) / (1 - rho)) of it."""
    rng, rho = np.random.default_rng(0), 0.6
    noise = rng.normal(size=(4, 2000, 20))
    walk = noise.copy()
    for t in range(1, 2000):
        walk[:, t] = rho * walk[:, t - 1] + (1 - rho**2) ** 0.5 * noise[:, t]
    plain, slow = (_arviz.chain_statistics(draws, (0.05, 0.5)) for draws in (noise, walk))
    assert {name: value.shape for name, value in plain.items()} == {
        "rhat": (20,),
        "ess_bulk": (20,),
        "ess_tail": (20,),
        "mcse_mean": (20,),
        "mcse_sd": (20,),
        "mcse_quantile": (2, 20),
    }
    assert plain["mcse_mean"].mean() == pytest.approx(8000**-0.5, rel=0.05)
    assert slow["mcse_mean"].mean() == pytest.approx(((1 + rho) / (1 - rho) / 8000) ** 0.5, rel=0.05)
    assert plain["mcse_sd"].mean() == pytest.approx(16000**-0.5, rel=0.05)
    assert slow["ess_bulk"].mean() == pytest.approx(8000 * (1 - rho) / (1 + rho), rel=0.05)
    assert max(plain["rhat"].max(), slow["rhat"].max()) < 1.01
    apart = _arviz.chain_statistics(noise + np.arange(4).reshape(4, 1, 1), (0.5,))
    assert apart["rhat"].min() > 1.2
