from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae import _arviz
from ppl_vae.diagnostics import inference_data, to_inference_data
from ppl_vae.diagnostics.inference_data import GROUPS
from ppl_vae.pair import Pair

SMALL = {"num_samples": 60, "num_predictive": 7}

LOCAL = {
    ("posterior", "z"): (("chain", "draw", "data", "z_dim_0"), (1, 60, 40, 4)),
    ("prior", "z"): (("chain", "draw", "data", "z_dim_0"), (1, 60, 40, 4)),
    ("posterior_predictive", "x"): (("chain", "draw", "data", "x_dim_0"), (1, 7, 40, 4)),
    ("prior_predictive", "x"): (("chain", "draw", "data", "x_dim_0"), (1, 7, 40, 4)),
    ("log_likelihood", "x"): (("chain", "draw", "data"), (1, 60, 40)),
    ("sample_stats", "log_p"): (("chain", "draw", "data"), (1, 60, 40)),
    ("sample_stats", "log_q"): (("chain", "draw", "data"), (1, 60, 40)),
    ("observed_data", "x"): (("data", "x_dim_0"), (40, 4)),
}
GLOBAL = {
    **{key: value for key, value in LOCAL.items() if key[1] == "x"},
    ("posterior", "m"): (("chain", "draw", "m_dim_0"), (1, 60, 4)),
    ("prior", "m"): (("chain", "draw", "m_dim_0"), (1, 60, 4)),
    ("sample_stats", "log_p"): (("chain", "draw"), (1, 60)),
    ("sample_stats", "log_q"): (("chain", "draw"), (1, 60)),
}


@pytest.fixture(params=[("local_pair", LOCAL), ("global_pair", GLOBAL)], ids=["local", "global"])
def case(request):
    return request.getfixturevalue(request.param[0]), request.param[1]


@pytest.mark.parametrize("max_elements", [90, 1 << 23])
def test_groups_variables_and_shapes(case, x, max_elements):
    pair, expected = case
    idata = to_inference_data(pair, x, **SMALL, max_elements=max_elements)
    found = {
        (group, str(name)): (variable.dims, variable.shape)
        for group in _arviz.group_names(idata)
        for name, variable in idata[group].data_vars.items()
    }
    assert found == expected
    for name in ("log_p", "log_q"):
        assert idata["sample_stats"][name].dtype == np.float64
    assert idata["log_likelihood"]["x"].dtype == np.float64


def test_the_scores_are_those_of_the_draws(case, x):
    pair, expected = case
    idata = to_inference_data(pair, x, **SMALL, max_elements=900)
    latent = "z" if ("posterior", "z") in expected else "m"
    values = torch.tensor(idata["posterior"][latent].values[0])
    joint = pair.log_joint(x, {latent: values})
    np.testing.assert_allclose(idata["sample_stats"]["log_p"].values[0], joint.total, rtol=1e-4)
    np.testing.assert_allclose(idata["log_likelihood"]["x"].values[0], joint["x"], rtol=1e-4, atol=1e-4)
    guide = pair.log_guide(x, {latent: values}).total
    np.testing.assert_allclose(idata["sample_stats"]["log_q"].values[0], guide, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(idata["observed_data"]["x"].values, x)


def test_the_draws_have_the_posterior_s_and_the_prior_s_moments(exact_pair, x):
    idata = to_inference_data(exact_pair, x, num_samples=2000, num_predictive=2000, max_elements=20_000)
    weight = torch.tensor([1.5, 0.0, 0.8, 0.0])
    precision = 1 + (weight / 0.6) ** 2
    mean, sd = (x * weight / 0.36 / precision).numpy(), precision.numpy() ** -0.5
    z = idata["posterior"]["z"].values[0]
    assert np.abs((z.mean(0) - mean) / (sd / 2000**0.5)).max() < 4.8
    assert np.abs(z.std(0) / sd - 1).max() < 4.8 / 4000**0.5
    assert abs(idata["prior"]["z"].values.std() - 1) < 4.5 / (2 * 2000 * 40 * 4) ** 0.5
    predicted = idata["posterior_predictive"]["x"].values[0]
    spread = np.sqrt((weight.numpy() * sd) ** 2 + 0.36)
    assert np.abs((predicted.mean(0) - mean * weight.numpy()) / (spread / 2000**0.5)).max() < 4.8
    prior = idata["prior_predictive"]["x"].values[0].std((0, 1))
    assert np.abs(prior / np.sqrt(weight.numpy() ** 2 + 0.36) - 1).max() < 0.02


def test_no_run_and_no_prediction_is_larger_than_asked_for(local_pair, x, monkeypatch):
    local_pair.initialize(x)
    drawn, predicted = [], []
    draw, predict = local_pair.draw, inference_data.predicted
    monkeypatch.setattr(local_pair, "draw", lambda r, k, seed: drawn.append(len(r) * k) or draw(r, k, seed=seed))
    monkeypatch.setattr(
        inference_data,
        "predicted",
        lambda p, r, v, *rest, **options: predicted.append(len(r) * len(v["z"])) or predict(p, r, v, *rest, **options),
    )
    wanted = ["posterior", "posterior_predictive"]
    # 160 numbers are 20 draws of a datum; the pair is asked for two rows first, to see if it takes them apart
    monkeypatch.setattr("ppl_vae.evidence.chunks.takes_single_rows", lambda pair, rows: True)
    to_inference_data(local_pair, x, **SMALL, groups=wanted, max_elements=160)
    assert max(drawn) <= 20
    assert sum(drawn) == 60 * 40
    assert max(predicted) <= 7
    assert sum(predicted) == 7 * 40


@pytest.mark.parametrize(
    "group", [group for group in GROUPS if group != "codes"]
)  # tests/diagnostics/test_code_usage.py
def test_each_group_alone(case, x, group):
    pair, expected = case
    idata = to_inference_data(pair, x, **SMALL, groups=[group])
    assert _arviz.group_names(idata) == [group]
    assert set(idata[group].data_vars) == {name for g, name in expected if g == group}


def test_the_same_seed_gives_the_same_draws_whatever_the_groups(local_pair, x):
    one = to_inference_data(local_pair, x, **SMALL)
    again = to_inference_data(local_pair, x, **SMALL, groups=["posterior", "prior_predictive"])
    other = to_inference_data(local_pair, x, **SMALL, groups=["posterior"], seed=1)
    np.testing.assert_array_equal(one["posterior"]["z"], again["posterior"]["z"])
    np.testing.assert_array_equal(one["prior_predictive"]["x"], again["prior_predictive"]["x"])
    assert not np.array_equal(one["posterior"]["z"], other["posterior"]["z"])


@pytest.mark.parametrize("names", [["datum", "pixel"], ["pixel"]])
def test_dimensions_and_coordinates_by_name(local_pair, x, names):
    idata = to_inference_data(
        local_pair,
        x,
        **SMALL,
        dims={"x": names, "z": ["code"]},
        coords={"pixel": list("abcd"), "datum": [f"row {n}" for n in range(40)]},
    )
    assert idata["observed_data"]["x"].dims == ("data", "pixel")
    assert idata["posterior"]["z"].dims == ("chain", "draw", "data", "code")
    assert idata["log_likelihood"]["x"].dims == ("chain", "draw", "data")
    assert list(idata["posterior_predictive"]["pixel"].values) == list("abcd")
    assert str(idata["sample_stats"]["data"].values[3]) == "row 3"


def test_rows_keep_their_numbers(local_pair, x):
    rows = local_pair.rows(x).take(torch.tensor([3, 5, 8]))
    idata = to_inference_data(local_pair, rows, **SMALL, groups=["posterior"])
    assert idata["posterior"]["data"].values.tolist() == [3, 5, 8]


MISTAKES = {
    "a group": ({"groups": ["posterior", "prior_predictiv"]}, "did you mean prior_predictive"),
    "a site": ({"dims": {"y": ["a"]}}, r"dims names 'y', which is no site; the sites are \['x', 'z'\]"),
    "a number of dimensions": (
        {"dims": {"x": ["row", "column"]}},
        r"dims\['x'\] must name 1 dimensions after draw and",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(local_pair, x, name):
    options, words = MISTAKES[name]
    with pytest.raises(ValueError, match=words):
        to_inference_data(local_pair, x, **SMALL, **options)


def test_images_counts_and_several_sites():
    """Events of three dimensions, integers, a discrete latent, and two observed sites."""

    def model(x, y):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(3) / 3))
            z = pyro.sample("z", dist.Normal(c.float(), 1.0))
            pyro.sample("x", dist.Normal(z[..., None, None, None], 1.0).expand([*z.shape, 1, 2, 3]).to_event(3), obs=x)
            pyro.sample("y", dist.Poisson(z.exp()), obs=y)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("z", dist.Normal(x.mean((1, 2, 3)), 1.0))

    data = (torch.randn(5, 1, 2, 3, generator=torch.Generator().manual_seed(0)), torch.arange(5.0))
    idata = to_inference_data(Pair(model, guide), data, **SMALL, max_elements=100)
    assert idata["posterior_predictive"]["x"].shape == (1, 7, 5, 1, 2, 3)
    assert idata["posterior"]["c"].dtype.kind == "i"
    assert idata["posterior"]["z"].dims == ("chain", "draw", "data")
    assert set(idata["log_likelihood"].data_vars) == {"x", "y"}
    assert idata["observed_data"]["y"].values.tolist() == [0, 1, 2, 3, 4]


def test_a_pair_without_data():
    def model():
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def guide():
        pyro.sample("z", dist.Normal(torch.zeros(2), 0.5).to_event(1))

    idata = to_inference_data(Pair(model, guide), None, **SMALL, groups=["posterior", "prior", "sample_stats"])
    assert idata["posterior"]["z"].dims == ("chain", "draw", "z_dim_0")
    assert idata["sample_stats"]["log_p"].shape == (1, 60)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # ArviZ 0.23 with new matplotlib
def test_arviz_reads_it(case, x, tmp_path):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    az = _arviz.arviz()
    pair, expected = case
    idata = to_inference_data(pair, x, **SMALL)
    summary = az.summary(idata, kind="stats")
    assert len(summary) == math.prod(next(s for (g, _), (_, s) in expected.items() if g == "posterior")[2:])
    assert "mean" in summary.columns
    before = plt.get_fignums()
    figure = _arviz.plot_ppc(idata, num_samples=5)
    figure.savefig(tmp_path / "ppc.png")
    az.plot_forest(idata)
    for number in set(plt.get_fignums()) - set(before):
        plt.close(number)
    _arviz.to_netcdf(idata, tmp_path / "posterior.nc")
    back = _arviz.from_netcdf(tmp_path / "posterior.nc")
    np.testing.assert_array_equal(back["sample_stats"]["log_q"], idata["sample_stats"]["log_q"])


# names: of plates, rows and columns


def plates(x):
    with pyro.plate("rows", len(x), dim=-2):
        with pyro.plate("parts", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-2, keepdim=True), 1.0).to_event(1), obs=x.unsqueeze(1))


def plates_guide(x):
    with pyro.plate("rows", len(x), dim=-2), pyro.plate("parts", 3, dim=-1):
        pyro.sample("z", dist.Normal(x.unsqueeze(1) / 4, 1.0).to_event(1))


def test_dimensions_are_called_by_their_plates(x):
    idata = to_inference_data(Pair(plates, plates_guide), x[:, :2], **SMALL)
    assert idata["posterior"]["z"].dims == ("chain", "draw", "rows", "parts", "z_dim_1")
    assert idata["posterior_predictive"]["x"].dims == ("chain", "draw", "rows", "x_dim_0")
    assert idata["sample_stats"]["log_q"].dims == ("chain", "draw", "rows")
    named = to_inference_data(
        Pair(plates, plates_guide), x[:, :2], **SMALL, dims={"z": ["part", "k"]}, coords={"datum": range(100, 140)}
    )
    assert named["posterior"]["z"].dims == ("chain", "draw", "rows", "part", "k")
    assert named["posterior"]["rows"].values.tolist() == list(range(100, 140))


def test_a_plate_that_is_called_as_the_draws_gives_no_name(x):
    def model(x):
        with pyro.plate("draw", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("draw", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    idata = to_inference_data(Pair(model, guide), x[:, 0], **SMALL, groups=["posterior"])
    assert idata["posterior"]["z"].dims == ("chain", "draw", "datum")


def test_a_data_frame_gives_its_index_and_its_columns(local_pair, x):
    import pandas as pd

    names = [f"row {n}" for n in range(40)]
    frame = pd.DataFrame(x.numpy(), columns=["a", "b", "c", "d"], index=names)
    idata = to_inference_data(local_pair, frame, **SMALL)
    for group in ("posterior", "observed_data", "sample_stats"):
        assert idata[group]["data"].values.tolist() == names
    for group in ("posterior_predictive", "observed_data"):
        assert idata[group]["x_dim_0"].values.tolist() == ["a", "b", "c", "d"]
    called = to_inference_data(local_pair, frame, **SMALL, dims={"x": ["column"]})
    assert called["observed_data"]["column"].values.tolist() == ["a", "b", "c", "d"]
    plain = to_inference_data(local_pair, x, **SMALL)
    np.testing.assert_array_equal(plain["posterior"]["z"], idata["posterior"]["z"])


def test_dates_and_two_levels_of_an_index_become_words(local_pair, x, tmp_path):
    import pandas as pd

    dates = pd.date_range("2024-01-01", periods=40)
    for index, first in (
        (dates, "2024-01-01 00:00:00"),
        (pd.MultiIndex.from_product([list("ab"), range(20)]), "('a', 0)"),
    ):
        idata = to_inference_data(local_pair, pd.DataFrame(x.numpy(), index=index), **SMALL, groups=["posterior"])
        assert str(idata["posterior"]["data"].values[0]) == first
        _arviz.to_netcdf(idata, tmp_path / "posterior.nc")


def test_what_is_made_compact_keeps_its_log_densities(local_pair, x):
    whole = to_inference_data(local_pair, x, **SMALL)
    values = whole["posterior"]["z"].values.astype(np.float64)
    log_q = whole["sample_stats"]["log_q"].values.copy()
    wide = _arviz.inference_data(
        {"posterior": {"z": values, "n": values.astype(np.int64)}, "sample_stats": {"log_q": log_q}}
    )
    small = _arviz.compacted(wide)
    assert (small["posterior"]["z"].dtype, small["posterior"]["n"].dtype) == (np.float32, np.int32)
    assert small["sample_stats"]["log_q"].dtype == np.float64
    np.testing.assert_array_equal(small["posterior"]["z"], values.astype(np.float32))
    assert small["posterior"]["z"].dims == ("chain", "draw", "z_dim_0", "z_dim_1")
