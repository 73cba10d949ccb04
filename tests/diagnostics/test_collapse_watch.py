"""A fit that collapses is told so once, while it runs, and one that does not is left alone."""

from __future__ import annotations

import warnings

import pytest
import torch
from pairs import CASES, data_for

from ppl_vae import ELBO, Alternating, Joint, Stages, VariationalEM
from ppl_vae.data import load_digits
from ppl_vae.diagnostics import CollapseWarning, CollapseWatch, surgery
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.nn import MLP
from ppl_vae.objectives import LinearWarmup

ROWS = 200


def vae(objective=None, schedule=None):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = VAE(MLP(4, 64, hidden=(32,)), latent_dim=4, likelihood="bernoulli")
        guide = AmortizedNormal(MLP(64, 8, hidden=(32,)), latent_dim=4)
    return VariationalEM(model, guide, objective=objective, lr=1e-2, schedule=schedule, compile=False)


def x():
    return load_digits(binary=True).train[:ROWS]


def fitted(objective=None, *, epochs=70, watch=None, **options):
    """A fit of four steps an epoch, the warnings that it gave, and the watch."""
    watch = CollapseWatch(x(), **options) if watch is None else watch
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit = vae(objective).fit(x(), epochs=epochs, batch_size=50, callbacks=[watch], progress=False)
    return fit, [str(w.message) for w in said if w.category is CollapseWarning]


def test_a_fit_that_collapses_is_told_so_once_with_the_way_out():
    fit, said = fitted(ELBO(beta=20.0), patience=3)
    assert len(said) == 1
    assert "less than 0.1 in 3 looks in a row: the posterior has collapsed onto the prior" in said[0]
    assert "The objective is ELBO(beta=20.0)." in said[0]
    for remedy in ("LinearWarmup(steps)", "free_bits=0.25", "Alternating(e_steps=5)"):
        assert remedy in said[0]
    told = fit.history["mutual_information"]
    assert told.iloc[-1] == pytest.approx(surgery(fit, x(), num_samples=4).mutual_information, abs=0.05)
    assert told.iloc[-1] < 0.1


def test_a_healthy_fit_is_left_alone():
    fit, said = fitted(epochs=60, patience=1)
    assert said == []
    assert fit.history["mutual_information"].iloc[-1] > 1.0


@pytest.mark.parametrize(("epochs", "times"), [(62, 0), (63, 1)])
def test_patience_is_counted_in_looks_50_steps_apart(epochs, times, monkeypatch):
    """Looks count where 50, 100, 150, 200 and 250 steps are passed, and epoch 63 ends with step 252."""
    monkeypatch.setattr("ppl_vae.diagnostics.collapse_watch.surgery", lambda *given, **more: Told(0.0))
    _, said = fitted(epochs=epochs, patience=5)
    assert len(said) == times


class Told:
    def __init__(self, mutual_information):
        self.mutual_information = mutual_information


def test_a_look_that_finds_something_begins_the_count_anew(monkeypatch):
    found = iter([0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0])  # the first two do not count
    monkeypatch.setattr("ppl_vae.diagnostics.collapse_watch.surgery", lambda *given, **more: Told(next(found)))
    assert fitted(epochs=63, patience=3)[1] == []
    assert next(found) == 0.0


def test_the_watch_changes_no_training_number():
    plain = vae().fit(x(), epochs=5, batch_size=50, progress=False)
    watched, _ = fitted(epochs=5)
    assert all(torch.equal(value, watched.params[name]) for name, value in plain.params.items())


def test_a_resumed_run_is_not_told_again(tmp_path):
    options = {"batch_size": 50, "progress": False, "checkpoint": tmp_path}
    with pytest.warns(CollapseWarning):
        vae(ELBO(beta=20.0)).fit(x(), epochs=40, callbacks=[CollapseWatch(x(), patience=2)], **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        again = vae(ELBO(beta=20.0))
        fit = again.fit(x(), epochs=80, callbacks=[CollapseWatch(x(), patience=2)], resume=True, **options)
    assert fit.epochs == 80
    assert fit.history["mutual_information"].notna().all()


def test_a_pair_without_a_surgery_is_refused_before_the_first_step():
    case = CASES["AutoNormal"]
    with pytest.raises(ValueError, match="surgery: a value per datum needs latents of each datum's own"):
        VariationalEM(*case.make()).fit(data_for(case), steps=3, callbacks=[CollapseWatch(data_for(case))])


def test_patience_is_at_least_one():
    with pytest.raises(ValueError, match="CollapseWatch: patience must be at least 1, got 0"):
        CollapseWatch(x(), patience=0)


def test_what_the_warning_names_is_there():
    """The remedies as they are typed."""
    objectives = [ELBO(beta=LinearWarmup(100)), ELBO(free_bits=0.25)]
    schedule = Stages((Alternating(e_steps=5), 60), Joint())
    for em in (*map(vae, objectives), vae(schedule=schedule)):
        assert em.fit(x(), epochs=1, batch_size=50, progress=False).epochs == 1


@pytest.mark.slow
@pytest.mark.parametrize("remedy", ["floor", "warm-up"])
def test_the_remedies_help(remedy):
    """A KL of weight 20 with a floor; and one whose weight comes down to 1 at the end of what began as 20."""
    objective = ELBO(beta=20.0, free_bits=0.25) if remedy == "floor" else ELBO(beta=LinearWarmup(200, 20.0, 1.0))
    fit, _ = fitted(objective, epochs=150)
    assert fit.history["mutual_information"].iloc[-1] > 0.5
