"""The two lines of ArviZ behind one door: the installed one for real, the other played by a double."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import xarray as xr

from ppl_vae import _arviz


def pareto(shape: float, num: int, columns: int = 3, seed: int = 0) -> np.ndarray:
    """Logs of draws whose upper tail is a generalized Pareto of the given shape, (num, columns)."""
    return shape * np.random.default_rng(seed).exponential(size=(num, columns))


def fake_one(monkeypatch: pytest.MonkeyPatch, *, negates: bool) -> dict[str, object]:
    """Put ArviZ 1.x in place: a nested ``from_dict``, and a PSIS that negates or not. Returns its log."""
    log: dict[str, object] = {}
    psis = _reference_psis()

    class ArrayStats:
        @staticmethod
        def psislw(ary: np.ndarray, r_eff: float = 1, axis: int = -1) -> tuple[np.ndarray, np.ndarray]:
            ratios = -ary if negates else ary
            tail = np.sort(ratios)[-int(min(len(ratios) / 5, 3 * len(ratios) ** 0.5)) :]
            if len(tail) < 5 or np.ptp(tail) == 0:
                raise ValueError("All tail values are the same")  # as 1.x does, where 0.23 returns infinity
            return psis(ratios)

    def from_dict(data: dict, *, coords: object = None, dims: object = None) -> object:
        log["from_dict"] = (data, coords, dims)
        return xr.DataTree.from_dict({group: xr.Dataset() for group in data})

    module, stats, base = ModuleType("arviz"), ModuleType("arviz_stats"), ModuleType("arviz_stats.base")
    module.__version__, module.from_dict = "1.3.0", from_dict
    base.array_stats = ArrayStats
    stats.base = base
    for name, fake in (("arviz", module), ("arviz_stats", stats), ("arviz_stats.base", base)):
        monkeypatch.setitem(sys.modules, name, fake)
    return log


def _reference_psis():
    """PSIS of the installed ArviZ as (S,) -> weights, k-hat."""
    module = _arviz.arviz()
    if not _arviz.is_one(module):
        return lambda ratios: tuple(part[0] for part in module.psislw(ratios[None].copy()))
    from arviz_stats.base import array_stats

    return lambda ratios: array_stats.psislw(-ratios)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_khat_finds_the_shape_of_a_pareto_tail(shape):
    found = _arviz.psis_khat(pareto(shape, 40_000, columns=10))
    error = (1 + shape) / np.sqrt(600 * 10)  # asymptotic, with 600 draws in the tail of each of ten columns
    shrinkage = 10 / 610 * abs(0.5 - shape)  # ArviZ's prior pulls to 0.5 with the weight of ten draws
    assert abs(found.mean() - shape) < 4.5 * error + shrinkage


def test_a_wrong_sign_would_fit_the_lower_tail():
    """The negative twin of the law above: without the sign of 1.x a heavy tail looks light."""
    assert np.all(_arviz.psis_khat(-pareto(0.9, 40_000)) < 0.3)


@pytest.mark.parametrize("negates", [True, False])
def test_the_sign_of_psis_in_arviz_1_is_found(monkeypatch, negates):
    ratios = pareto(0.9, 2000)
    expected = _arviz.psis_khat(ratios)
    fake_one(monkeypatch, negates=negates)
    assert _arviz.is_one(_arviz.arviz())
    np.testing.assert_allclose(_arviz.psis_khat(ratios), expected)


DEGENERATE = {
    "constant": (np.zeros(100), 0.0),
    "constant up to rounding": (-1e3 + 1e-8 * np.arange(100) / 100, 0.0),
    "one value in all of the tail": (np.repeat([0.0, -1.0, -2.0], 100), 0.0),
    "four draws above the rest": (np.r_[np.arange(4.0), np.zeros(96) - 5], np.inf),
    "one draw above the rest": (np.r_[0.0, np.full(99, -700.0)], np.inf),
    "an infinite ratio": (np.r_[np.inf, np.zeros(99)], np.nan),
    "a nan": (np.r_[np.nan, np.zeros(99)], np.nan),
    "no support at all": (np.full(100, -np.inf), np.nan),
    "too few draws": (np.random.default_rng(0).normal(size=_arviz.MIN_DRAWS - 1), np.nan),
}


@pytest.mark.parametrize("line", ["installed", "1.x"])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_tails_have_one_answer_in_both_lines(monkeypatch, name, line):
    if line == "1.x":
        fake_one(monkeypatch, negates=True)
    ratios, expected = DEGENERATE[name]
    np.testing.assert_equal(_arviz.psis_khat(ratios[:, None])[0], expected)


def test_draws_without_support_are_zero_weights():
    ratios = np.random.default_rng(0).normal(size=(400, 1))
    ratios[:100] = -np.inf
    assert np.isfinite(_arviz.psis_khat(ratios)[0])


@pytest.mark.parametrize("spread", [1e-6, 1e-2, 1e2, 1e4, 1e300])
def test_ratios_of_any_spread_have_a_khat_and_no_warning(spread):
    found = _arviz.psis_khat(spread * np.random.default_rng(0).normal(size=(300, 5)))
    assert not np.isnan(found).any()


def test_the_fewest_draws_have_a_khat():
    found = _arviz.psis_khat(np.random.default_rng(0).normal(size=(_arviz.MIN_DRAWS, 50)))
    assert not np.isnan(found).any()


def test_khat_knows_neither_scale_nor_the_caller_s_array():
    ratios = pareto(0.6, 500)
    kept = ratios.copy()
    np.testing.assert_allclose(_arviz.psis_khat(ratios), _arviz.psis_khat(ratios - 1234.5), atol=1e-8)
    np.testing.assert_array_equal(ratios, kept)


def test_khat_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"psis_khat: log ratios of shape \(S, N\) are required, got \(7,\)"):
        _arviz.psis_khat(np.zeros(7))


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
    log = fake_one(monkeypatch, negates=True)
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
