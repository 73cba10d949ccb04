"""Where a fit may begin."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from normal_pairs import FIT, data, fixed
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppl_vae import Pair
from ppl_vae.distributions import Flat
from ppl_vae.inference.deterministic.starts import candidates, u_of_values
from ppl_vae.pair.fixed_noise import FixedNoise

IMPROPER = torch.distributions.constraints.real


def own(noise: FixedNoise) -> Tensor:
    with noise.scope(), torch.no_grad():
        return noise.at_noise(torch.zeros(2, noise.noise_dim, dtype=torch.float64)).u[0]


@pytest.mark.parametrize("name", FIT)
def test_the_guides_own_is_the_first_and_all_are_possible(name):
    noise = fixed(name)
    found = candidates(noise, data(), 16, seed=0)
    assert found.shape[1] == noise.dim
    assert len(found) >= 16
    assert torch.equal(found[0], own(noise))
    with noise.scope():
        assert noise.heights(found).isfinite().all()
    same, other = (candidates(noise, data(), 16, seed=seed) for seed in (0, 1))
    assert torch.equal(found, same)
    assert not torch.equal(found, other)


def test_draws_of_the_prior_have_its_law():
    noise = fixed("AutoNormal, levels")
    values = noise.pair.draw_prior_values(data(), 400, seed=1)
    u = u_of_values(noise, data(), noise.pair.as_values(values))
    torch.testing.assert_close(u[:, 0], values["mean"].double())
    torch.testing.assert_close(u[:, 1], values["scale"].double().log())
    torch.testing.assert_close(u[:, 2:], values["z"].double().log())
    found = candidates(noise, data(), 300, seed=0)
    assert found[1, 1].abs() < 0.3  # the median of a log-normal is 0 in the log
    assert 3.7 < float(found[2:66, 0].std()) < 6.3  # 64 draws of the prior, N(0, 5²)
    assert (found[66:].abs() <= 2.0).all()


def test_what_the_caller_gives_comes_first():
    noise = fixed("AutoMultivariateNormal")
    given = {"mean": [1.0, 2.0, 3.0], "scale": 0.5, "weight": 0.25, "share": [0.2, 0.3, 0.5]}
    found = candidates(noise, data(), 16, seed=0, given=given)
    u = noise.pair.constrain(data(), noise.pair.unconstrain(data(), noise.pair.as_values(
        {n: torch.as_tensor(v).unsqueeze(0) for n, v in given.items()}
    ))[0])  # fmt: skip
    assert {n: v[0].tolist() for n, v in u.items()} == {n: pytest.approx(v) for n, v in given.items()}
    torch.testing.assert_close(found[0, :3], torch.tensor([1.0, 2.0, 3.0]).double())
    torch.testing.assert_close(found[0, 3:5], torch.tensor([0.5, 0.25 / 0.75]).double().log())
    assert torch.equal(found[1], own(noise))


def test_a_start_that_lacks_a_latent_names_it():
    with pytest.raises(ValueError, match=r"start: a value of every latent site is required, got none of \['scale'"):
        candidates(fixed("AutoMultivariateNormal"), data(), 4, seed=0, given={"mean": [0.0, 0.0, 0.0]})


def test_a_start_of_latents_that_are_carried_in_a_way_of_ones_own_is_refused():
    given = {"mean": [0.0, 0.0, 0.0], "scale": 1.0}
    with pytest.raises(ValueError, match="start: how the guide's site 'both' carries the latents is not known"):
        candidates(fixed("auxiliary"), data(), 4, seed=0, given=given)


def test_of_an_improper_prior_nothing_is_drawn():
    def model(x: Tensor) -> None:
        a = pyro.sample("a", Flat(IMPROPER))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(a, 1.0), obs=x[:, 0])

    pair = Pair(model, AutoNormal(model), dtype=torch.float64).initialize(data())
    noise = FixedNoise(pair, pair.rows(data()).batch())
    found = candidates(noise, data(), 16, seed=0)
    assert len(found) == 16
    assert (found[1:].abs() <= 2).all()
