"""No hidden state: a run is a function of its seed, leaves nothing behind, and does not meet another run."""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from pairs import CASES, data_for, function_pair
from runs import BATCH, PER_EPOCH, Run, data, differences, networks, plain, snapshot
from runs import seeded as module_seed
from torch.utils.data import DataLoader, TensorDataset

import ppl_vae
from ppl_vae import Callback, VariationalEM
from ppl_vae.data import dynamic_binarization
from ppl_vae.guides import AmortizedNormal
from ppl_vae.nn import MLP
from ppl_vae.pair.scope import LOCK
from ppl_vae.training import NonFiniteError

RUNS = {
    "modules": Run(),
    "functions": Run(pair=lambda start: function_pair()),
    "loader": Run(fit={}, rows=lambda: DataLoader(TensorDataset(data()), batch_size=BATCH, shuffle=True)),
    "transformed": Run(
        pair=lambda start: networks(start, likelihood="bernoulli"),
        fit={"batch_size": BATCH, "transform": dynamic_binarization},
        rows=lambda: data().sigmoid(),
    ),
    "float64": Run(pair=lambda start: function_pair(), em={"dtype": torch.float64}),
}


def seeded(run: Run, seed: int):
    """The state after a run, without the seed itself."""
    state = snapshot(run(9, seed=seed))
    return {key: value for key, value in state.items() if key != "fingerprint"}


@pytest.mark.parametrize("name", RUNS)
def test_the_same_seed_is_the_same_run_to_the_bit(name):
    torch.manual_seed(1)
    first = seeded(RUNS[name], 3)
    torch.manual_seed(2)
    torch.rand(5)
    assert differences(first, seeded(RUNS[name], 3)) == []


@pytest.mark.parametrize("name", RUNS)
def test_another_seed_is_another_run(name):
    first, second = seeded(RUNS[name], 3), seeded(RUNS[name], 4)
    assert differences(first["tensors"], second["tensors"]) != []
    assert differences(first["history"], second["history"]) != []


def test_the_seed_starts_lazy_parameters():
    weights = [VariationalEM(*function_pair()).fit(data(), steps=0, seed=seed).params["weight"] for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# nothing is left behind


@contextmanager
def untouched():
    """The generators of the process, Pyro's store and settings, and the switches of torch are as they were."""
    pyro.get_param_store().clear()
    pyro.param("weight", torch.tensor([7.0]))  # the name that the function pair uses too
    pyro.get_param_store()["slope"] = torch.tensor([8.0])
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    torch.rand(3)

    def now():
        store = pyro.get_param_store()
        return {
            "torch": torch.get_rng_state().tolist(),
            "numpy": str(np.random.get_state()),
            "python": random.getstate(),
            "store": {name: (value.tolist(), id(store._params[name])) for name, value in store.items()},
            "settings": {k: str(v) for k, v in pyro.settings.get().items()},
            "validation": torch.distributions.Distribution._validate_args,
            "dtype": torch.get_default_dtype(),
            "grad": torch.is_grad_enabled(),
        }

    before = now()
    try:
        yield
        assert now() == before
    finally:
        pyro.get_param_store().clear()


@pytest.mark.parametrize("name", RUNS)
def test_a_run_leaves_nothing_behind(name, tmp_path):
    with untouched():
        fit = RUNS[name](PER_EPOCH + 2, folder=tmp_path)
        fit.resume(steps=2)
        RUNS[name](PER_EPOCH + 3, folder=tmp_path, resume=True)


def test_looking_at_a_fit_leaves_nothing_behind(tmp_path):
    fit = Run(pair=plain)(3)
    with untouched():
        fit.elbo(data(), num_samples=4)
        fit.encode(data(), sample=True)
        fit.sample(3)
        fit.reconstruct(data())
        fit.interpolate(data()[:2], data()[2:4])
        fit.decode(torch.zeros(3, 2))
        repr(fit)
        fit.save(tmp_path / "run")
        ppl_vae.load(tmp_path / "run", *plain(1)).elbo(data(), num_samples=2)


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_pair_is_fitted_and_leaves_nothing_behind(case):
    """Global latents, autoguides, score functions, PyroSample: full data and, where the pair allows it, batches."""
    kind = CASES[case]
    model, guide = kind.make()
    with untouched():
        em = VariationalEM(model, guide, lr=0.02)
        fit = em.fit(data_for(kind), steps=4)
        assert len(fit.history) == 4
        assert fit.history["objective"].notna().all()
        if case == "crossed plates":
            with pytest.raises(ValueError, match="AutoNormal: it keeps one posterior of 'z' per row"):
                em.fit(data_for(kind), steps=4, batch_size=5)
        else:
            assert em.fit(data_for(kind), steps=4, batch_size=5).steps == 4


class Fails(Callback):
    def on_epoch(self, run, row):
        raise RuntimeError("mine")


def broken_model(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
        raise RuntimeError("mine")


with module_seed(0):
    TOO_FEW_NUMBERS = AmortizedNormal(MLP(3, 5), latent_dim=2)

FAILURES = {
    "in a callback": (lambda: Run()(20, callbacks=[Fails()]), RuntimeError),
    "in the model": (lambda: VariationalEM(broken_model, function_pair()[1]).fit(data(), steps=3), RuntimeError),
    "a wrong shape": (
        lambda: VariationalEM(plain()[0], TOO_FEW_NUMBERS).fit(data(), steps=3),
        ValueError,
    ),
    "diverged": (lambda: Run(em={"optimizer": torch.optim.SGD, "lr": 1e30})(30), NonFiniteError),
    "wrong data": (lambda: Run(rows=lambda: data() * torch.nan)(3), ValueError),
    "in float64": (
        lambda: Run(pair=lambda start: function_pair(), em={"dtype": torch.float64})(20, callbacks=[Fails()]),
        RuntimeError,
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_run_that_fails_leaves_nothing_behind(name):
    fail, error = FAILURES[name]
    with untouched(), pytest.raises(error):
        fail()
    assert Run()(2).ended == "completed"


@pytest.mark.parametrize("setting", [True, False])
def test_the_callers_argument_checks_are_given_back(setting):
    with pyro.validation_enabled(setting):
        before = torch.distributions.Distribution._validate_args
        Run()(PER_EPOCH + 1)
        assert torch.distributions.Distribution._validate_args == before == setting
        assert pyro.distributions.util.is_validation_enabled() == setting


def test_modules_keep_their_mode():
    model, guide = networks()
    model.eval()
    guide.encoder.train()
    before = [m.training for module in (model, guide) for m in module.modules()]
    fit = VariationalEM(model, guide).fit(data(), steps=3)
    fit.elbo(data(), num_samples=2)
    assert [m.training for module in (model, guide) for m in module.modules()] == before


def test_training_is_in_training_mode_and_looking_is_not():
    seen = []
    model, guide = networks()
    guide.encoder.register_forward_hook(lambda module, *_: seen.append(module.training))
    em = VariationalEM(model, guide)
    em.pair.initialize(data())
    seen.clear()
    fit = em.fit(data(), steps=3, validation=data(), batch_size=None)
    assert seen == [True, False] * 3
    seen.clear()
    fit.encode(data())
    fit.elbo(data(), num_samples=1)
    em.evaluate(data())
    assert True not in seen
    assert seen


def test_what_leaves_something_behind_is_seen():
    """The negative twin of the fixture of this file."""
    with pytest.raises(AssertionError), untouched():
        torch.rand(1)
    with pytest.raises(AssertionError), untouched():
        pyro.param("mine", torch.tensor(0.0))


# two runs in one process


@pytest.mark.parametrize("names", [("modules", "functions"), ("functions", "float64"), ("loader", "transformed")])
def test_two_runs_in_two_threads_are_the_runs_alone(names):
    """(The modules are made before: ``torch.manual_seed`` in one thread would reach into the steps of the other.)"""
    alone = {name: snapshot(RUNS[name](20)) for name in names}
    pairs = {name: RUNS[name].pair(0) for name in names}
    found, errors, start = {}, [], threading.Barrier(len(names))

    def work(name: str) -> None:
        try:
            start.wait()
            fit = replace(RUNS[name], pair=lambda start: pairs[name])(20)
            fit.sample(5)
            found[name] = snapshot(fit)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    with untouched():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    for name in names:
        assert differences(alone[name], found[name]) == []


@pytest.mark.parametrize("name", RUNS)
def test_the_generator_of_the_process_is_touched_under_the_lock_alone(name, monkeypatch, tmp_path):
    """What the test of two threads meets by chance, place by place."""
    pair, kept = RUNS[name].pair(0), torch.random.fork_rng
    held = []

    def fork_rng(*args, **kwargs):
        held.append(LOCK._is_owned())
        return kept(*args, **kwargs)

    monkeypatch.setattr(torch.random, "fork_rng", fork_rng)
    fit = replace(RUNS[name], pair=lambda start: pair)(PER_EPOCH + 2, folder=tmp_path)
    fit.resume(steps=2)
    fit.sample(3)
    assert len(held) > 3
    assert all(held)
    assert not LOCK._is_owned()


def test_two_runs_step_by_step_are_the_runs_alone():
    """A run inside a callback of another one, as if two threads took turns at every step."""
    alone = {name: snapshot(RUNS[name](8)) for name in ("modules", "functions")}
    inner = RUNS["functions"](0)

    class Other(Callback):
        def on_step(self, run, report):
            inner.resume(steps=1)

    outer = RUNS["modules"](8, callbacks=[Other()])
    assert differences(alone["modules"], snapshot(outer)) == []
    assert differences(alone["functions"], snapshot(inner)) == []


def test_two_runs_of_one_noise_break_the_law(monkeypatch):
    """The negative twin: noise from the generator of the process, as it happens to stand."""
    from ppl_vae.training import GradientStep

    monkeypatch.setattr(GradientStep, "seed_noise", lambda self, step: None)
    alone = snapshot(RUNS["modules"](8))

    class Other(Callback):
        def on_step(self, run, report):
            torch.rand(())

    assert differences(alone, snapshot(RUNS["modules"](8, callbacks=[Other()]))) != []
