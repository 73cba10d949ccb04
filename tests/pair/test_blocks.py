"""Evaluations are cut into blocks: memory has a bound, and what is drawn for a row does not hang on the cut."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import CASES, data_for, rows, shared_mean
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from ppl_vae import Pair, VariationalEM
from ppl_vae.pair import blocks
from ppl_vae.pair.centers import encode
from ppl_vae.result import Fit

LOCAL = ["functions", "pyro modules", "methods", "tutorial", "mixed latents", "annotated", "two levels", "flows for z"]


def pair_of(name: str, n: int = 24) -> tuple[Pair, Any]:
    torch.manual_seed(2)
    case = CASES[name]
    x = data_for(case, n)
    return Pair(*case.make()).initialize(x), x


def joined(parts: list[dict[str, Tensor]], dim: int) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """So small that 24 rows are several blocks."""
    monkeypatch.setattr(blocks, "MAX_ELEMENTS", 1200)


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("name", LOCAL)
def test_codes_do_not_hang_on_how_many_blocks_are_asked_for_at_once(name, sample, small_blocks, monkeypatch):
    if sample:
        monkeypatch.setattr(blocks, "MAX_ELEMENTS", 40)
    pair, x = pair_of(name)
    all_rows = pair.rows(x)
    size = blocks.Blocks.of(pair, all_rows, 1 if sample else 256).rows
    assert size is not None and size < 12
    whole = encode(pair, all_rows, sample=sample, seed=3)
    for count in (1, 2, 3):
        cut = list(blocks.slices(24, count * size))
        parts = [encode(pair, all_rows.take(place), sample=sample, seed=3) for place in cut]
        found = joined(parts, 0)
        assert all(torch.equal(found[key], whole[key]) for key in whole)
    assert not sample or any(
        not torch.equal(v, whole[k]) for k, v in encode(pair, all_rows, sample=True, seed=4).items()
    )


@pytest.mark.parametrize("name", LOCAL)
def test_predictions_do_not_hang_on_it_either(name, small_blocks):
    pair, x = pair_of(name)
    all_rows = pair.rows(x)
    values = pair.draw(x, 40, seed=1).values
    size = blocks.Blocks.of(pair, all_rows, 40).rows
    assert size is not None and size < 12
    whole = pair.predict(x, values, seed=2)
    parts = []
    for place in blocks.slices(24, 2 * size):
        some = {key: value[:, place] for key, value in values.items()}
        parts.append(pair.predict(all_rows.take(place), some, seed=2))
    found = joined(parts, 1)
    assert all(torch.equal(found[key], whole[key]) for key in whole)


@pytest.mark.parametrize("name", LOCAL)
def test_the_cut_changes_no_distribution(name, small_blocks):
    """Moments of predictions in many blocks and in one, at the same latents."""
    pair, x = pair_of(name)
    values = {key: value[:1].expand(600, *value.shape[1:]) for key, value in pair.draw(x, 1, seed=1).values.items()}
    cut = pair.predict(x, values, seed=2)
    blocks.MAX_ELEMENTS, kept = 1 << 21, blocks.MAX_ELEMENTS
    try:
        whole = pair.predict(x, values, seed=3)
    finally:
        blocks.MAX_ELEMENTS = kept
    for key in whole:
        a, b = cut[key].double(), whole[key].double()
        error = ((a.var(0) + b.var(0)) / 600).sqrt().clamp(min=1e-12)
        assert float(((a.mean(0) - b.mean(0)) / error).abs().max()) < 5


def test_simulated_data_share_what_stands_outside_the_plate(small_blocks):
    pair = Pair(shared_mean, AutoNormal(shared_mean)).initialize(rows(24, dtype=torch.float32))
    found = pair.simulate(2000, seed=1)
    assert found["x"].shape == (2000, 3)
    error = found["scale"] / 2000**0.5
    z = (found["x"].mean(0) - found["mean"]) / error
    assert float(z.abs().max()) < 4.5  # each block around a mean of its own would be far off


class Counting(nn.Module):
    """A layer that knows the most numbers that it has been given at once."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.net, self.most, self.calls = nn.Linear(width, out), 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.most, self.calls = max(self.most, x.numel()), self.calls + 1
        return self.net(x)


def ladder() -> tuple[Any, Any, Counting, Counting]:
    """Two latents in a row: the second is drawn given the first."""
    decoder, first, second = Counting(4, 100), Counting(100, 8), Counting(4, 8)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
            z = pyro.sample("z", dist.Normal(top, 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("first", first)
        pyro.module("second", second)
        with pyro.plate("data", len(x)):
            loc, log_scale = first(x).chunk(2, -1)
            z = pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))
            loc, log_scale = second(z).chunk(2, -1)
            pyro.sample("top", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide, decoder, second


def test_encoding_runs_the_guide_alone_and_in_bounded_memory():
    model, guide, decoder, second = ladder()
    x = torch.zeros(3000, 100)
    fit = VariationalEM(model, guide).fit(x, steps=1, batch_size=10, progress=False)
    fit.encode(x[:10])  # whether draws can be made at once is seen here
    decoder.calls = second.most = 0
    codes = fit.encode(x)
    assert codes["z"].shape == codes["top"].shape == (3000, 4)
    assert decoder.calls <= 3  # checks of another shape, and no draws
    assert second.most <= blocks.MAX_ELEMENTS * 4 / 108


def test_reconstructions_simulations_and_predictions_are_bounded_too():
    model, guide, decoder, _ = ladder()
    x = torch.zeros(2000, 100)
    fit = VariationalEM(model, guide).fit(x[:20], steps=1, progress=False)
    decoder.most = 0
    fit.predict(x, {"z": torch.zeros(300, 2000, 4), "top": torch.zeros(300, 2000, 4)}, mean=True)
    fit.reconstruct(x)
    fit.sample(60_000)
    assert decoder.most <= blocks.MAX_ELEMENTS * 4 / 108 + 4


def test_a_guide_of_a_function_encodes_as_it_draws():
    pair, x = pair_of("functions")
    fit = Fit(pair)
    many = torch.stack([fit.encode(x, sample=True, seed=s) for s in range(400)]).double()
    error = many.std(0) / 20
    assert float(((many.mean(0) - fit.encode(x).double()) / error).abs().max()) < 5
