"""The beginner's door: one call, and every option goes where it belongs."""

from __future__ import annotations

import inspect

import pytest
import torch
from runs import data, differences, plain, snapshot

import ppl_vae
from ppl_vae import ELBO, Alternating, Callback, VariationalEM


def test_it_is_short_for_variational_em(tmp_path):
    of_em = {"lr": 0.05, "e_lr": 0.02, "clip_norm": 0.5, "schedule": Alternating(2, 1), "objective": ELBO(beta=0.5)}
    of_fit = {"epochs": 2, "batch_size": 4, "seed": 3, "validation": data(5), "progress": False}
    short = ppl_vae.fit(*plain(), data(), **of_em, **of_fit, callbacks=[Callback()], checkpoint=tmp_path)
    long = VariationalEM(*plain(), **of_em).fit(data(), **of_fit)
    assert differences(snapshot(long), snapshot(short)) == []
    assert (tmp_path / "state.safetensors").exists()
    assert ppl_vae.fit is ppl_vae.inference.fit


EVERY_OPTION = {
    **dict.fromkeys(inspect.signature(VariationalEM.__init__).parameters, VariationalEM.__init__),
    **dict.fromkeys(inspect.signature(VariationalEM.fit).parameters, VariationalEM.fit),
}
OPTIONS = sorted(set(EVERY_OPTION) - {"self", "model", "guide", "data"})


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_reaches_its_place(name, monkeypatch):
    """None is lost, and none is offered to both."""
    seen = {}

    class Spy:
        def __init__(self, model, guide, **options):
            seen["em"] = options

        def fit(self, data, **options):
            seen["fit"] = options

    for method in ("__init__", "fit"):
        getattr(Spy, method).__signature__ = inspect.signature(getattr(VariationalEM, method))
    monkeypatch.setattr("ppl_vae.inference.beginner.VariationalEM", Spy)
    value = object()
    ppl_vae.fit(None, None, None, **{name: value})
    home = "em" if EVERY_OPTION[name] is VariationalEM.__init__ else "fit"
    assert seen == {"em": {}, "fit": {}} | {home: {name: value}}


def test_unknown_options_are_named():
    with pytest.raises(
        TypeError, match=r"fit: unknown options \['learning_rate', 'stpes'\]; there are \['batch_size',"
    ):
        ppl_vae.fit(*plain(), data(), stpes=3, learning_rate=0.1)


def test_options_of_the_two_do_not_meet():
    assert len(OPTIONS) == len(EVERY_OPTION) - 4
    names = [set(inspect.signature(f).parameters) for f in (VariationalEM.__init__, VariationalEM.fit)]
    assert names[0] & names[1] == {"self"}


def test_the_line_of_the_readme():
    torch.manual_seed(0)
    fit = ppl_vae.fit(*plain(), data(), steps=20)
    assert fit.steps == 20
    assert fit.ended == "completed"
