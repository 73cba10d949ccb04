"""As a Pyro loss an objective notices that the model has other sites than it has looked at, whatever the reason."""

from __future__ import annotations

from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from capture.tiny import own_store

from ppl_vae import ELBO, IWAE, RLOO, VIMCO, ReweightedWakeSleep, ScoreFunction
from ppl_vae.objectives import bare
from ppl_vae.pair import GlobalLatentError

X = torch.linspace(1.0, 5.0, 12)
PER_DATUM = {
    "RWS": lambda: ReweightedWakeSleep(3),
    "RLOO": lambda: RLOO(3),
    "VIMCO": lambda: VIMCO(3),
    "ScoreFunction": ScoreFunction,
}


def staged(x, stage):
    with_global(x, stage == 1)


def staged_guide(x, stage):
    global_guide(x, stage == 1)


def with_global(x, has_w):
    w = pyro.sample("w", dist.Normal(0.0, 1.0)) if has_w else 0.0
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + w, 0.5), obs=x)


def global_guide(x, has_w):
    if has_w:
        pyro.sample("w", dist.Normal(0.3, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x, 0.45))


def switched():
    state = SimpleNamespace(on=False)
    return state, lambda x: with_global(x, state.on), lambda x: global_guide(x, state.on)


def value(loss, model, guide, *args):
    """Of a second call: a first one looks at the pair, which draws."""
    loss.loss(model, guide, *args)
    torch.manual_seed(1)
    return loss.loss(model, guide, *args)


@pytest.mark.parametrize("make", PER_DATUM.values(), ids=PER_DATUM)
def test_a_global_latent_that_comes_by_python_state_is_refused(make):
    state, model, guide = switched()
    with own_store():
        loss = make()
        before = value(loss, model, guide, X)
        state.on = True
        with pytest.raises(GlobalLatentError, match="'w' stand outside"):
            loss.loss(model, guide, X)
        state.on = False
        assert value(loss, model, guide, X) == pytest.approx(before)


@pytest.mark.parametrize("make", PER_DATUM.values(), ids=PER_DATUM)
def test_a_global_latent_that_comes_by_a_whole_number_is_refused(make):
    with own_store():
        loss = make()
        before = value(loss, staged, staged_guide, X, 0)
        with pytest.raises(GlobalLatentError, match="'w' stand outside"):
            loss.loss(staged, staged_guide, X, 1)
        assert value(loss, staged, staged_guide, X, 0) == pytest.approx(before)


@pytest.mark.parametrize("make", [ELBO, lambda: IWAE(40)], ids=["ELBO", "IWAE"])
@pytest.mark.parametrize("kind", ["state", "number", "counter"])
def test_who_takes_global_latents_counts_what_a_new_one_would(make, kind, monkeypatch):
    if kind == "counter":
        monkeypatch.setattr(bare, "MOST_KINDS", 1)  # then only the run itself shows it
    state, model, guide = switched()
    with own_store():
        loss, args = make(), (X,)
        if kind != "state":
            model, guide, args = staged, staged_guide, (X, 1)
            for stage in (0, 2, 3):
                loss.loss(model, guide, X, stage)
        else:
            loss.loss(model, guide, X)
        state.on = True
        assert value(loss, model, guide, *args) == pytest.approx(value(make(), model, guide, *args))


@pytest.mark.parametrize("make", [ELBO, lambda: VIMCO(5)], ids=["ELBO", "VIMCO"])
def test_a_plate_of_another_name_and_a_site_that_is_enumerated_from_now_on(make):
    state = SimpleNamespace(plate="data", enumerate=None)

    def model(x):
        with pyro.plate(state.plate, len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def guide(x):
        with pyro.plate(state.plate, len(x)):
            pyro.sample("c", dist.Bernoulli(torch.sigmoid(x - 3)), infer={"enumerate": state.enumerate})

    with own_store():
        loss = make()
        loss.loss(model, guide, X)
        state.plate = "rows"
        assert value(loss, model, guide, X) == pytest.approx(value(make(), model, guide, X))
        state.enumerate = "parallel"
        assert value(loss, model, guide, X) == pytest.approx(value(make(), model, guide, X))
        if make is ELBO:
            q, prior = (torch.distributions.Bernoulli(p) for p in (torch.sigmoid(X - 3), torch.tensor(0.3)))
            joint = [torch.distributions.Normal(c, 1.0).log_prob(X) + prior.log_prob(c) for c in torch.tensor([0.0, 1])]
            exact = ((1 - q.probs) * joint[0] + q.probs * joint[1] + q.entropy()).sum()
            assert loss.loss(model, guide, X) == pytest.approx(-exact.item(), rel=1e-5)


def test_a_model_whose_sites_are_left_to_chance_goes_on():
    drawn = iter([False, False, True, True, False, True] * 10)

    def model(x):
        state = next(drawn)
        with_global(x, False)
        if state:
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0))

    with own_store():
        loss = ELBO()
        for _ in range(8):
            loss.loss(model, lambda x: global_guide(x, False), X)


def test_an_error_of_the_model_s_own_is_raised_as_it_is():
    state = SimpleNamespace(fails=False)

    def model(x):
        if state.fails:
            raise RuntimeError("the disk is full")
        with_global(x, False)

    def guide(x):
        global_guide(x, False)

    with own_store():
        loss = ELBO()
        loss.loss(model, guide, X)
        state.fails = True
        with pytest.raises(RuntimeError, match="the disk is full"):
            loss.loss(model, guide, X)
        state.fails = False
        loss.loss(model, guide, X)


def test_a_look_is_made_once_and_a_counter_does_not_make_one_a_step(monkeypatch):
    looks = []
    original = bare.Pair.bare.__func__
    monkeypatch.setattr(
        bare.Pair, "bare", classmethod(lambda cls, *args, **kwargs: looks.append(1) or original(cls, *args, **kwargs))
    )

    def model(x, step):
        with_global(x, False)

    def guide(x, step):
        global_guide(x, False)

    with own_store():
        loss = ELBO()
        for step in range(100):
            loss.loss(model, guide, X, step)
    assert len(looks) <= bare.MOST_KINDS + 2
