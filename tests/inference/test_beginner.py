"""The beginner's door: one call, and every option goes where it belongs."""

from __future__ import annotations

import inspect

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from runs import data, differences, plain, snapshot

import ppl_vae
from ppl_vae import ELBO, Alternating, Callback, DeterministicVI, VariationalEM
from ppl_vae.inference.deterministic.applies import reason_against

X = torch.tensor([0.5, 1.0, 2.5, 0.0])


def mean(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def test_it_is_short_for_variational_em(tmp_path):
    of_em = {"lr": 0.05, "e_lr": 0.02, "clip_norm": 0.5, "schedule": Alternating(2, 1), "objective": ELBO(beta=0.5)}
    of_fit = {"epochs": 2, "batch_size": 4, "seed": 3, "validation": data(5), "progress": False}
    short = ppl_vae.fit(*plain(), data(), **of_em, **of_fit, callbacks=[Callback()], checkpoint=tmp_path)
    long = VariationalEM(*plain(), **of_em).fit(data(), **of_fit)
    assert differences(snapshot(long), snapshot(short)) == []
    assert (tmp_path / "state.safetensors").exists()
    assert ppl_vae.fit is ppl_vae.inference.fit


def test_it_is_short_for_deterministic_vi():
    short = ppl_vae.fit(mean, AutoNormal(mean), X, num_draws=128, seed=3, progress=False)
    long = DeterministicVI(mean, AutoNormal(mean), num_draws=128).fit(X, seed=3)
    assert short.certificate == long.certificate
    assert all(torch.equal(a, b) for a, b in zip(short.params.values(), long.params.values(), strict=True))


WAYS = {"DeterministicVI": DeterministicVI, "VariationalEM": VariationalEM}


def options_of(way) -> dict[str, str]:
    """Every option of a way, and whether the class or its method takes it."""
    found = {}
    for place, function in (("class", way.__init__), ("fit", way.fit)):
        found |= dict.fromkeys(inspect.signature(function).parameters, place)
    return {name: place for name, place in found.items() if name not in ("self", "model", "guide", "data")}


EVERY = sorted({*options_of(DeterministicVI), *options_of(VariationalEM)})
BOTH = sorted(set(options_of(DeterministicVI)) & set(options_of(VariationalEM)))


@pytest.fixture
def seen(monkeypatch):
    """What reaches a way: its name, what its class got, what its method got."""
    calls = []

    def spy(name):
        class Spy:
            def __init__(self, model, guide, **options):
                self.made = options

            def fit(self, data, **options):
                calls.append((name, {"class": self.made, "fit": options}))
                return type("Fitted", (), {"config": {}})()

        for method in ("__init__", "fit"):
            getattr(Spy, method).__signature__ = inspect.signature(getattr(WAYS[name], method))
        return Spy

    for name in WAYS:
        monkeypatch.setattr(f"ppl_vae.inference.beginner.{name}", spy(name))
    return calls


@pytest.mark.parametrize("reason", ["", "the guide's 'z' follows from the data (an amortized guide)"])
@pytest.mark.parametrize("name", EVERY)
def test_every_option_reaches_its_place(name, reason, seen, monkeypatch):
    """None is lost, and none goes to a way that does not know it; one that both know says nothing of the way."""
    monkeypatch.setattr("ppl_vae.inference.beginner.reason_against", lambda *args, **kwargs: reason)
    asked_of = [way for way in WAYS if name in options_of(WAYS[way]) or name == "progress"]
    wanted = "VariationalEM" if reason else "DeterministicVI"
    value = object()
    if reason and asked_of == ["DeterministicVI"]:
        with pytest.raises(ValueError, match=f"fit: {name} is of DeterministicVI, which does not fit this pair, for"):
            ppl_vae.fit(print, print, None, **{name: value})
        return
    ppl_vae.fit(print, print, None, **{name: value})
    home = wanted if wanted in asked_of else "VariationalEM"
    places = options_of(WAYS[home])
    expected = {place: {name: value} if places.get(name) == place else {} for place in ("class", "fit")}
    assert seen == [(home, expected)]


def test_the_way_is_asked_of_the_pair_with_its_seed_and_plate(seen, monkeypatch):
    asked = []
    monkeypatch.setattr("ppl_vae.inference.beginner.reason_against", lambda *a, **k: asked.append((a, k)) or "a reason")
    fitted = ppl_vae.fit(print, repr, 3, seed=7, data_plate="rows", device="cpu")
    assert asked == [((print, repr, 3), {"seed": 7, "data_plate": "rows"})]
    assert fitted.config["way"] == "mini-batches and a rate, for a reason"


def test_lazy_parameters_are_those_of_the_seed():
    """The look at the pair makes them, and must make those that the fit would."""

    def guide(x):
        loc = pyro.param("loc", lambda: torch.randn(()))
        pyro.sample("mu", dist.Normal(loc, 1.0))

    found = []
    for seed in (3, 3, 4):
        pair = ppl_vae.Pair(mean, guide)
        pair.initialize(X, seed=seed)
        found.append(float(pair.parameters.leaves["loc"].detach()))
    assert found[0] == found[1] != found[2]

    class Lazy(torch.nn.Module):
        loc = None

        def forward(self, x):
            if self.loc is None:
                self.loc = torch.randn(())
            pyro.sample("mu", dist.Normal(self.loc, 1.0))

    lazy = Lazy()
    reason_against(mean, lazy, X, seed=3)
    other = Lazy()
    ppl_vae.Pair(mean, other).initialize(X, seed=3)
    assert float(lazy.loc) == pytest.approx(float(other.loc))


def test_unknown_options_are_named():
    with pytest.raises(
        TypeError, match=r"fit: unknown options \['learning_rate', 'stpes'\]; there are \['batch_size',"
    ):
        ppl_vae.fit(*plain(), data(), stpes=3, learning_rate=0.1)


def test_options_of_both_ways_at_once():
    with pytest.raises(
        TypeError, match=r"fit: num_draws, tol is of DeterministicVI, lr, steps of VariationalEM; give one of them"
    ):
        ppl_vae.fit(mean, AutoNormal(mean), X, steps=3, tol=0.1, lr=0.1, num_draws=128, seed=3)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_options_of_a_class_and_of_its_method_do_not_meet(way):
    names = [set(inspect.signature(f).parameters) for f in (way.__init__, way.fit)]
    assert names[0] & names[1] == {"self"}


def test_both_ways_mean_the_same_by_the_same_name():
    """An option that both know is taken in one place, so that it does not change its meaning with the way."""
    assert {"data_plate", "device", "dtype", "seed"} <= set(BOTH)
    assert all(options_of(DeterministicVI)[name] == options_of(VariationalEM)[name] for name in BOTH)


@pytest.mark.parametrize("guide", ["mean_field", "AutoNormal", ""])
def test_a_guide_by_a_wrong_name(guide):
    with pytest.raises(TypeError, match=f"fit: guide must be a Pyro guide or 'auto', got '{guide}'"):
        ppl_vae.fit(mean, guide, X)


def test_data_in_the_guides_place():
    with pytest.raises(TypeError, match=r"got Tensor; the call is fit\(model, guide, data\), or fit\(model, data\)"):
        ppl_vae.fit(mean, X, X)


def test_the_line_of_the_readme():
    torch.manual_seed(0)
    fit = ppl_vae.fit(*plain(), data(), steps=20)
    assert fit.steps == 20
    assert fit.ended == "completed"
