"""CompiledSVI is Pyro's SVI: the same call, the same numbers, the same errors, whatever is done between the steps."""

from __future__ import annotations

import copy
import gc
import inspect
import os
import pickle
import re
import signal
import threading
import tracemalloc
import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from capture.tiny import DIM, ROWS, Guide, Model, little_garbage, make, own_store, pair, parameters, rows, run_by_torch
from pyro import poutine
from pyro.infer import SVI, Predictive, RenyiELBO, ReweightedWakeSleep, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import PyroLRScheduler
from runs import same_bits
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_vae import ELBO, IWAE, CompiledSVI
from ppl_vae.capture import CaptureError, FallbackWarning, Update, update
from ppl_vae.inference import compiled_svi, svi_rows
from ppl_vae.objectives import LinearWarmup

X = rows()
STEPS = 12


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with little_garbage():
        yield


@pytest.fixture(autouse=True)
def own_parameter_store():
    with own_store():
        yield


@pytest.fixture
def by_torch(monkeypatch):
    """Graphs are run by torch: all but the compiler, in milliseconds, and to the bit."""
    return run_by_torch(monkeypatch)


def status(svi: CompiledSVI) -> list[str]:
    return [record.status for record in svi.explain().rows]


def walked(svi: Any, steps: int = STEPS, *args: Any, seed: int = 3, **kwargs: Any) -> list[Any]:
    """The losses of some steps on noise from a seed."""
    torch.manual_seed(seed)
    return [svi.step(*(args or (X,)), **kwargs) for _ in range(steps)]


def same_leaves(a: Any, b: Any) -> bool:
    ours, theirs = parameters(a), parameters(b)
    return ours.keys() == theirs.keys() and all(same_bits(ours[name], theirs[name]) for name in ours)


# the same class from outside


def test_the_signature_is_that_of_pyro_and_two_options():
    theirs = inspect.signature(SVI.__init__).parameters
    ours = inspect.signature(CompiledSVI.__init__).parameters
    assert list(ours)[:6] == list(theirs)[:6] == ["self", "model", "guide", "optim", "loss", "loss_and_grads"]
    assert all(ours[name].default == theirs[name].default for name in list(theirs)[:6])
    assert {name for name, p in ours.items() if p.kind is p.KEYWORD_ONLY} == {"mode", "wait"}
    for method in ("step", "evaluate_loss"):
        assert inspect.signature(getattr(CompiledSVI, method)).parameters.keys() == {"self", "args", "kwargs"}
    assert issubclass(CompiledSVI, SVI)


def test_attributes_are_those_of_pyro():
    model, guide = pair()
    optim, loss = pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()
    svi = CompiledSVI(model, guide, optim, loss)
    assert svi.model is model and svi.guide is guide and svi.optim is optim
    assert svi.loss == loss.loss and svi.loss_and_grads == loss.loss_and_grads
    assert svi.mode == "auto"
    torch_optim = torch.optim.Adam(model.parameters())
    assert CompiledSVI(model, guide, torch_optim, loss).optim is torch_optim


@pytest.mark.parametrize("optim", [None, "Adam", torch.optim.Adam, {"lr": 0.1}], ids=str)
def test_what_is_no_optimizer_is_refused_as_by_pyro(optim):
    model, guide = pair()
    messages = []
    for kind in (SVI, CompiledSVI):
        with pytest.raises(ValueError, match="Optimizer should be an instance of") as error:
            kind(model, guide, optim, Trace_ELBO())
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="CompiledSVI: mode must be one of 'auto', 'eager', 'require', got 'fast'"):
        make(mode="fast")


@pytest.mark.parametrize("option", ["num_steps", "num_samples"])
def test_what_pyro_has_deprecated_is_deprecated_here(option):
    with pytest.warns(FutureWarning, match=f"`{option}` argument to SVI is deprecated"):
        make(**{option: 3})


# the same numbers


def test_twelve_compiled_steps_are_those_of_pyro():
    theirs = make(SVI)
    expected = walked(theirs)
    with own_store():
        ours = make(mode="require")
        losses = walked(ours)
        (record,) = ours.explain().rows
        assert (record.status, record.eager_steps, record.graph_steps, record.compiled_steps) == ("compiled", 1, 1, 10)
    assert all(type(loss) is float for loss in losses)
    assert losses == pytest.approx(expected, rel=1e-5)
    for name, leaf in parameters(theirs).items():
        torch.testing.assert_close(parameters(ours)[name], leaf, rtol=1e-4, atol=1e-5)


def test_steps_beside_the_compiler_are_those_of_pyro():
    """By default nobody waits: until the library is there, torch runs the graph."""
    theirs = make(SVI)
    expected = walked(theirs, 40)
    with own_store():
        ours = make(wait=False)
        assert walked(ours, 40) == pytest.approx(expected, rel=1e-5)
        assert status(ours)[0] in ("graph", "compiled")


def test_eager_mode_is_pyro_to_the_bit():
    theirs = make(SVI)
    expected = walked(theirs)
    with own_store():
        ours = make(mode="eager")
        assert walked(ours) == expected
        assert same_leaves(ours, theirs)
        assert ours.explain().rows == []


LOSSES: dict[str, Any] = {
    "Trace_ELBO": Trace_ELBO,
    "particles": partial(Trace_ELBO, num_particles=3),
    "vectorized particles": partial(Trace_ELBO, num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "TraceMeanField_ELBO": TraceMeanField_ELBO,
    "RenyiELBO": partial(RenyiELBO, alpha=0.5, num_particles=3),
    "ReweightedWakeSleep": partial(ReweightedWakeSleep, num_particles=2),
    "ELBO": ELBO,
    "IWAE": partial(IWAE, 3),
    "a warm-up": partial(ELBO, beta=LinearWarmup(8)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_graph_makes_the_steps_of_pyro_to_the_bit(name, by_torch):
    theirs = make(SVI, loss=LOSSES[name]())
    expected = walked(theirs)
    with own_store():
        ours = make(loss=LOSSES[name](), mode="require")
        assert walked(ours) == expected
        assert same_leaves(ours, theirs)
        assert status(ours) == ["compiled"]


def test_a_tuple_of_losses_stays_a_tuple_of_floats(by_torch):
    svi = make(loss=ReweightedWakeSleep(num_particles=2), mode="require")
    for loss in walked(svi, 4):
        assert type(loss) is tuple and [type(part) for part in loss] == [float, float]
    assert svi.run(X, 3).shape == (3, 2)
    assert type(svi.evaluate_loss(X)) is tuple


def test_a_loss_that_is_a_function(by_torch):
    """Pyro takes a function of (model, guide, ...) too, and differentiates it itself."""

    def loss(model: Any, guide: Any, x: Tensor) -> Tensor:
        return Trace_ELBO().differentiable_loss(model, guide, x)

    theirs = make(SVI, loss=loss)
    expected = walked(theirs)
    with own_store():
        ours = make(loss=loss, mode="require")
        assert walked(ours) == pytest.approx(expected, rel=1e-6)  # (Pyro's own is rounded once more, to float32)
        assert same_leaves(ours, theirs)
        assert status(ours) == ["compiled"]


def test_evaluating_the_loss_moves_nothing(by_torch):
    theirs, ours = make(SVI), make()
    expected = walked(theirs, 4), theirs.evaluate_loss(X), walked(theirs, 3)
    with own_store():
        first = walked(ours, 4)
        before = parameters(ours)
        found = ours.evaluate_loss(X)
        assert all(same_bits(before[name], leaf) for name, leaf in parameters(ours).items())
        assert (first, found, walked(ours, 3)) == expected


def functions() -> tuple[Any, Any]:
    """A pair without modules: parameters in Pyro's store alone, one of them constrained."""

    def model(x: Tensor) -> None:
        weight = pyro.param("weight", lambda: 0.1 * torch.ones(2, DIM))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        scale = pyro.param("scale", torch.ones(2), constraint=constraints.positive)
        slope = pyro.param("slope", lambda: 0.1 * torch.ones(DIM, 2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ slope, scale).to_event(1))

    return model, guide


def stored() -> dict[str, Tensor]:
    return {name: leaf.detach().clone() for name, leaf in pyro.get_param_store().named_parameters()}


def functional(kind: Any = CompiledSVI, **options: Any) -> Any:
    if kind is CompiledSVI:
        options.setdefault("wait", True)
    return kind(*functions(), pyro.optim.Adam({"lr": 0.1, "fused": True}), Trace_ELBO(), **options)


def test_parameters_of_functions_live_in_the_store_of_pyro(by_torch):
    expected = walked(functional(SVI))
    leaves = stored()
    with own_store():
        svi = functional(mode="require")
        assert walked(svi) == expected
        found = stored()
        assert found.keys() == leaves.keys() and all(same_bits(found[name], leaves[name]) for name in leaves)
        assert bool((pyro.param("scale") > 0).all())
        assert Predictive(svi.model, guide=svi.guide, num_samples=3)(X)["z"].shape == (3, ROWS, 2)


# optimizers


OPTIMIZERS: dict[str, Any] = {
    "Adam": lambda: pyro.optim.Adam({"lr": 0.05}),
    "AdamW": lambda: pyro.optim.AdamW({"lr": 0.05, "weight_decay": 0.1}),
    "SGD": lambda: pyro.optim.SGD({"lr": 1e-3, "momentum": 0.9}),
    "Adagrad": lambda: pyro.optim.Adagrad({"lr": 0.05}),
    "RMSprop": lambda: pyro.optim.RMSprop({"lr": 0.01}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.9, "clip_norm": 0.5}),
    "options by parameter": lambda: pyro.optim.Adam(lambda name: {"lr": 0.1 if "encoder" in name else 0.01}),
    "norms clipped": lambda: pyro.optim.Adam({"lr": 0.05}, {"clip_norm": 0.1}),
    "values clipped": lambda: pyro.optim.SGD({"lr": 0.01}, {"clip_value": 0.1}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_pyro_makes_its_steps(name, by_torch):
    theirs = make(SVI, OPTIMIZERS[name]())
    expected = walked(theirs)
    with own_store():
        ours = make(optim=OPTIMIZERS[name](), mode="require")
        assert walked(ours) == pytest.approx(expected, rel=1e-6)
        for key, leaf in parameters(theirs).items():
            torch.testing.assert_close(parameters(ours)[key], leaf, rtol=1e-5, atol=1e-6)
        assert status(ours) == ["compiled"]


def scheduled() -> PyroLRScheduler:
    arguments = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.5}
    return pyro.optim.ExponentialLR(arguments)


def test_a_scheduler_of_pyro_lets_the_rate_decay(by_torch):
    def run(kind: Any) -> tuple[list[float], Any]:
        svi = make(kind, scheduled())
        losses = []
        for epoch in range(4):
            losses += walked(svi, 4, seed=epoch)
            svi.optim.step()
        rates = {obj.optimizer.param_groups[0]["lr"] for obj in svi.optim.optim_objs.values()}
        assert list(rates) == [pytest.approx(0.1 * 0.5**4)]
        return losses, svi

    expected, theirs = run(SVI)
    with own_store():
        losses, ours = run(CompiledSVI)
        assert losses == pytest.approx(expected, rel=1e-6)
        for key, leaf in parameters(theirs).items():
            torch.testing.assert_close(parameters(ours)[key], leaf, rtol=1e-5, atol=1e-6)
        assert status(ours) == ["compiled"]


def of_torch(kind: Any, **options: Any) -> CompiledSVI:
    model, guide = pair()
    optimizer = kind([*model.parameters(), *guide.parameters()], **options)
    return CompiledSVI(model, guide, optimizer, Trace_ELBO(), wait=True)


@pytest.mark.parametrize("kind", [torch.optim.Adam, partial(torch.optim.SGD, momentum=0.9), torch.optim.RMSprop])
def test_an_optimizer_of_torch_makes_the_steps_of_pyros_own(kind, by_torch):
    name = getattr(kind, "func", kind)
    theirs = make(SVI, pyro.optim.PyroOptim(kind, {"lr": 0.01}))
    expected = walked(theirs)
    with own_store():
        ours = of_torch(kind, lr=0.01)
        assert walked(ours) == pytest.approx(expected, rel=1e-6), name
        for key, leaf in parameters(theirs).items():
            torch.testing.assert_close(parameters(ours)[key], leaf, rtol=1e-5, atol=1e-6)
        assert status(ours) == ["compiled"]


def test_an_optimizer_of_torch_with_its_scheduler(by_torch):
    ours, again = of_torch(torch.optim.Adam, lr=0.1, fused=True), of_torch(torch.optim.Adam, lr=0.1, fused=True)
    again.mode = "eager"
    results = []
    for svi in (ours, again):
        with own_store():
            walked(svi, 5)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(svi.optim, 0.5)  # made late: none of our steps called it
            for _ in range(3):
                walked(svi, 2)
                scheduler.step()
            results.append(parameters(svi))
            assert svi.optim.param_groups[0]["lr"] == pytest.approx(0.0125)
    assert all(same_bits(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("mode", ["auto", "eager"])
def test_an_optimizer_that_misses_a_parameter_is_refused_by_its_name(mode, by_torch):
    model, guide = pair()
    optimizer = torch.optim.Adam(model.parameters())
    svi = CompiledSVI(model, guide, optimizer, Trace_ELBO(), mode=mode)
    for _ in range(2):
        with pytest.raises(
            ValueError, match="the torch optimizer must hold every parameter of model and guide, but not"
        ):
            svi.step(X)


def test_a_parameter_that_the_optimizer_misses_is_called_by_its_name():
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    svi = CompiledSVI(*functions(), optimizer, Trace_ELBO())
    with pytest.raises(
        ValueError, match="but not .*(weight|slope|scale).*; run model and guide once before it is made"
    ):
        svi.step(X)


# the state of the optimizer


def shapes(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: shapes(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [shapes(value) for value in state]
    return (state.shape, state.dtype) if isinstance(state, Tensor) else type(state)


@pytest.mark.skipif(pyro.__version__ == "1.9.1", reason="Pyro 1.9.1 cannot load its own files with torch 2.6 and later")
@pytest.mark.parametrize("name", ["Adam", "SGD", "Adagrad", "ClippedAdam", "RMSprop"])
def test_the_state_of_the_optimizer_is_that_of_pyro_and_loads_there(name, by_torch, tmp_path):
    theirs = functional(SVI)
    theirs.optim = OPTIMIZERS[name]()
    walked(theirs, 6)
    expected = theirs.optim.get_state()
    with own_store():
        ours = CompiledSVI(*functions(), OPTIMIZERS[name](), Trace_ELBO(), wait=True)
        walked(ours, 6)
        state = ours.optim.get_state()
        assert shapes(state) == shapes(expected)
        assert [entry["state"] for entry in state.values()] != []
        ours.optim.save(tmp_path / "optim")
        pyro.get_param_store().save(tmp_path / "params")
        there = walked(ours, 5, seed=9)
        leaves = stored()
    with own_store():  # another process, with Pyro alone
        again = functional(SVI)
        again.optim = OPTIMIZERS[name]()
        again.optim.load(tmp_path / "optim")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pyro.get_param_store().load(tmp_path / "params")
        assert walked(again, 5, seed=9) == pytest.approx(there, rel=1e-5)
        for key, leaf in stored().items():
            torch.testing.assert_close(leaf, leaves[key], rtol=1e-5, atol=1e-6)


def test_a_state_loaded_in_the_middle_counts(by_torch):
    """Twice in a row: what Python has let go of stands where it stood."""
    theirs, ours = of_torch(torch.optim.Adam, lr=0.1, fused=True), of_torch(torch.optim.Adam, lr=0.1, fused=True)
    theirs.mode = "eager"
    found = []
    for svi in (theirs, ours):
        with own_store():
            walked(svi, 4)
            saved = copy.deepcopy(svi.optim.state_dict())
            walked(svi, 4)
            for _ in range(2):
                svi.optim.load_state_dict(copy.deepcopy(saved))
            walked(svi, 4)
            found.append(parameters(svi))
    assert all(same_bits(found[0][name], leaf) for name, leaf in found[1].items())
    assert status(ours) == ["compiled"]


def test_gradients_are_left_as_pyro_leaves_them(by_torch):
    svi = make(mode="require")
    walked(svi, 5)
    for leaf in [*svi.model.parameters(), *svi.guide.parameters()]:
        assert leaf.grad is None or not leaf.grad.any()


# what is done between steps


def test_the_mode_can_be_switched_in_the_middle(by_torch):
    theirs = make(SVI)
    expected = walked(theirs, 9)
    with own_store():
        ours = make()
        losses = walked(ours, 4)
        ours.mode = "eager"
        losses += [ours.step(X) for _ in range(3)]
        compiled = ours.explain().rows[0].compiled_steps
        ours.mode = "auto"
        losses += [ours.step(X) for _ in range(2)]
        assert losses == expected
        assert (compiled, ours.explain().rows[0].compiled_steps) == (2, 4)


def test_a_store_that_is_cleared_in_the_middle_begins_anew(by_torch):
    svi = functional(mode="require")
    first = walked(svi, 6)
    leaves = stored()
    pyro.clear_param_store()
    again = walked(svi, 6)
    assert again == first
    found = stored()
    for name in leaves:
        assert not same_bits(leaves[name], torch.zeros_like(leaves[name]))
        torch.testing.assert_close(found[name], leaves[name])
    assert status(svi)[-1] == "compiled"


@pytest.mark.parametrize("clear", [True, False])
def test_two_runs_one_after_the_other_are_those_of_pyro(clear, by_torch):
    def run(kind: Any) -> list[float]:
        losses = []
        for seed in range(2):
            if clear:
                pyro.clear_param_store()
            losses += walked(functional(kind), 6, seed=seed)
        return losses

    expected = run(SVI)
    with own_store():
        assert run(CompiledSVI) == expected


def test_a_rare_signature_stays_eager_until_it_has_been_seen_often(by_torch, monkeypatch):
    monkeypatch.setattr(compiled_svi, "RARE", 5)
    theirs, small = make(SVI), rows(2)
    schedule = [X, X, X, small] * 8
    torch.manual_seed(4)
    expected = [theirs.step(x) for x in schedule]
    with own_store():
        ours = make()
        torch.manual_seed(4)
        assert [ours.step(x) for x in schedule] == expected
        usual, rare = ours.explain().rows
        assert [usual.signature, rare.signature] == ["float32[6, 4]", "float32[2, 4]"]
        assert (usual.eager_steps, usual.graph_steps + usual.compiled_steps) == (1, 23)
        assert (rare.eager_steps, rare.graph_steps + rare.compiled_steps) == (5, 3)
        assert same_leaves(ours, theirs)


def test_an_epoch_of_last_batches_is_worth_no_capture():
    assert compiled_svi.RARE == 32


class Tempered(Model):
    def forward(self, x: Tensor, beta: float = 1.0) -> None:
        self.beta = float(beta)
        super().forward(x)


class TemperedGuide(Guide):
    def forward(self, x: Tensor, beta: float = 1.0) -> None:
        super().forward(x)


def tempered(kind: Any = CompiledSVI, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, guide = Model(), TemperedGuide()

    def call(x: Tensor, beta: float = 1.0) -> None:
        with poutine.scale(scale=beta):
            model(x)

    if kind is CompiledSVI:
        options.setdefault("wait", True)
    return kind(call, guide, pyro.optim.Adam({"lr": 0.01, "fused": True}), Trace_ELBO(), **options)


@pytest.mark.parametrize("by_name", [True, False])
def test_a_number_is_part_of_the_call(by_name, by_torch, monkeypatch):
    monkeypatch.setattr(compiled_svi, "RARE", 2)

    def run(kind: Any) -> tuple[list[float], Any]:
        svi = tempered(kind)
        torch.manual_seed(5)
        schedule = [0.5, 0.25, 1.0] * 5
        return [svi.step(X, beta=beta) if by_name else svi.step(X, beta) for beta in schedule], svi

    expected, _ = run(SVI)
    with own_store():
        losses, svi = run(CompiledSVI)
        assert losses == expected
        assert status(svi) == ["compiled"] * 3
        signatures = {f"float32[6, 4], {'beta=' if by_name else ''}{beta}" for beta in (0.5, 0.25, 1.0)}
        assert {r.signature for r in svi.explain().rows} == signatures


def test_a_tensor_without_dimensions_is_data(by_torch):
    def run(kind: Any) -> tuple[list[float], Any]:
        svi = tempered(kind)
        torch.manual_seed(5)
        return [svi.step(X, torch.tensor(beta)) for beta in (0.5, 0.25, 1.0, 2.0)], svi

    expected, _ = run(SVI)
    with own_store():
        losses, svi = run(CompiledSVI)
        assert losses == expected
        assert len(status(svi)) == 1


def test_a_number_of_the_model_gives_another_program(by_torch, monkeypatch):
    monkeypatch.setattr(compiled_svi, "RARE", 2)

    def run(kind: Any) -> tuple[list[float], Any]:
        svi = make(kind)
        losses = []
        torch.manual_seed(5)
        for beta in (0.25, 0.5, 0.25, 0.5):
            svi.model.beta = beta
            losses += [svi.step(X) for _ in range(5)]
        return losses, svi

    expected, theirs = run(SVI)
    with own_store():
        losses, ours = run(CompiledSVI)
        assert losses == expected
        assert same_leaves(ours, theirs)
        assert status(ours) == ["compiled"] * 2  # one a value; the second time each is found again


class Noisy(Guide):
    """Another thing in training than in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(DIM), nn.Linear(DIM, 2))


def test_the_training_flag_counts_and_running_means_are_kept(by_torch, monkeypatch):
    monkeypatch.setattr(compiled_svi, "RARE", 2)

    def run(kind: Any) -> tuple[list[float], dict[str, Tensor]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, guide = Model(), Noisy()
        options = {"wait": True} if kind is CompiledSVI else {}
        svi = kind(model, guide, pyro.optim.Adam({"lr": 0.01, "fused": True}), Trace_ELBO(), **options)
        losses = []
        torch.manual_seed(5)
        for training in (True, False, True):
            guide.train(training)
            losses += [svi.step(X) for _ in range(6)]
        return losses, guide.state_dict()

    expected, state = run(SVI)
    with own_store():
        losses, found = run(CompiledSVI)
        assert losses == expected
        assert int(found["encoder.1.num_batches_tracked"]) == 12
        assert all(same_bits(found[name], value) for name, value in state.items())


@pytest.mark.filterwarnings("ignore:weight was not registered in the param store because requires_grad=False")
def test_a_parameter_frozen_in_the_middle_stays(by_torch, monkeypatch):
    monkeypatch.setattr(compiled_svi, "RARE", 2)

    def run(kind: Any) -> tuple[list[float], Any, Tensor]:
        svi = make(kind)
        losses = walked(svi, 6)
        svi.model.decoder.weight.requires_grad_(False)
        before = svi.model.decoder.weight.clone()
        losses += walked(svi, 6)
        return losses, svi, before

    expected, theirs, _ = run(SVI)
    with own_store(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        losses, ours, before = run(CompiledSVI)
        assert losses == expected
        assert same_leaves(ours, theirs)
        assert same_bits(theirs.model.decoder.weight, ours.model.decoder.weight)
        assert before.shape == ours.model.decoder.weight.shape


def test_a_parameter_replaced_in_the_middle_is_the_one_that_moves(by_torch, monkeypatch):
    monkeypatch.setattr(compiled_svi, "RARE", 2)

    def run(kind: Any) -> tuple[list[float], Any]:
        svi = make(kind)
        losses = walked(svi, 6)
        svi.guide.log_scale = nn.Parameter(torch.full((2,), -1.0))
        return losses + walked(svi, 6), svi

    expected, theirs = run(SVI)
    with own_store(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        losses, ours = run(CompiledSVI)
        assert losses == expected
        assert same_leaves(ours, theirs)
        assert not torch.equal(ours.guide.log_scale, torch.full((2,), -1.0))


def test_the_loss_can_be_changed_in_the_middle(by_torch):
    def run(kind: Any) -> list[float]:
        loss = Trace_ELBO()
        svi = make(kind, loss=loss)
        losses = walked(svi, 4)
        loss.num_particles = 4
        return losses + walked(svi, 4)

    expected = run(SVI)
    with own_store():
        assert run(CompiledSVI) == expected


def test_the_model_can_be_replaced_in_the_middle(by_torch):
    def run(kind: Any) -> list[float]:
        svi = make(kind)
        losses = walked(svi, 4)
        svi.model = poutine.scale(svi.model, scale=0.5)
        return losses + walked(svi, 4)

    expected = run(SVI)
    with own_store():
        assert run(CompiledSVI) == expected


def test_the_optimizer_can_be_replaced_in_the_middle(by_torch):
    def run(kind: Any) -> list[float]:
        svi = make(kind)
        losses = walked(svi, 4)
        svi.optim = pyro.optim.Adam({"lr": 0.3, "fused": True})
        return losses + walked(svi, 4)

    expected = run(SVI)
    with own_store():
        assert run(CompiledSVI) == expected


@pytest.mark.filterwarnings("ignore:.*without gradients:ppl_vae.capture.FallbackWarning")
def test_steps_without_gradients_move_nothing(by_torch):
    """As odd as they are, Pyro's make none."""

    def run(kind: Any) -> tuple[list[float], dict[str, Tensor]]:
        svi = make(kind)
        losses = walked(svi, 1)
        with torch.no_grad():
            losses += walked(svi, 5)
        return losses, parameters(svi)

    expected, leaves = run(SVI)
    with own_store():
        losses, found = run(CompiledSVI)
    assert losses == expected
    assert all(same_bits(found[name], leaf) for name, leaf in leaves.items())


@pytest.mark.filterwarnings("ignore:.*under torch.autocast:ppl_vae.capture.FallbackWarning")
@pytest.mark.parametrize("before", [0, 1, 4])
def test_steps_in_lower_precision_are_those_of_pyro(before, by_torch):
    def run(kind: Any) -> list[float]:
        svi = make(kind)
        losses = walked(svi, before)
        for seed in range(8):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                losses += walked(svi, 1, seed=seed)
        return losses

    expected = run(SVI)
    with own_store():
        assert run(CompiledSVI) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda svi: pickle.loads(pickle.dumps(svi))], ids=["copied", "pickled"])
def test_it_can_be_copied_after_some_steps(how, by_torch):
    svi = make()
    expected = walked(svi, 4)
    again = how(svi)
    assert np.isfinite(walked(again, 4) + expected).all()


def test_gradients_of_the_caller_are_added_to(by_torch):
    """How gradients of several batches are added up with Pyro."""

    def run(kind: Any) -> dict[str, Tensor]:
        svi = make(kind)
        walked(svi, 5)
        torch.manual_seed(8)
        svi.loss_and_grads(svi.model, svi.guide, rows(seed=9))
        svi.step(X)
        return parameters(svi)

    leaves = run(SVI)
    with own_store():
        found = run(CompiledSVI)
    for name, leaf in leaves.items():
        torch.testing.assert_close(found[name], leaf, rtol=1e-6, atol=1e-7)


# what stays eager, and says so


def one_warning(svi: CompiledSVI, steps: int, *args: Any, match: str) -> list[float]:
    with pytest.warns(FallbackWarning, match=match) as seen:
        losses = walked(svi, steps, *args)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    return losses


def test_python_state_that_changes_in_every_step_stays_eager(by_torch):
    def run(svi: Any) -> list[float]:
        losses = []
        for i in range(80):
            svi.model.beta = (i + 1) / 80
            losses.append(svi.step(X))
        return losses

    torch.manual_seed(5)
    expected = run(make(SVI))
    with own_store():
        ours = make()
        torch.manual_seed(5)
        with pytest.warns(FallbackWarning, match=r"python state .* changes from step to step \(model\.beta\)") as seen:
            losses = run(ours)
        assert len(seen) == 1
        assert losses == expected
        assert len(ours.explain().rows) < 15


def test_a_schedule_by_an_epoch_is_followed(by_torch, monkeypatch):
    """Few values, many steps each: every one is captured."""
    monkeypatch.setattr(compiled_svi, "RARE", 2)
    theirs, ours = make(SVI), make()
    found = []
    for svi in (theirs, ours):
        with own_store():
            losses = []
            for beta in (0.2, 0.4, 0.6, 0.8):
                svi.model.beta = beta
                losses += walked(svi, 6)
            found.append(losses)
    assert found[0] == found[1]
    assert status(ours) == ["compiled"] * 4


class Branching(Model):
    def forward(self, x: Tensor) -> None:
        if x.sum() > 1e9:
            raise AssertionError("never")
        super().forward(x)


def branching(**options: Any) -> CompiledSVI:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CompiledSVI(Branching(), Guide(), pyro.optim.Adam({"lr": 0.01, "fused": True}), Trace_ELBO(), **options)


def test_what_cannot_be_captured_stays_eager_with_one_warning_that_says_where(by_torch):
    expected = walked(make(SVI))
    with own_store():
        svi = branching()
        number = Branching.forward.__code__.co_firstlineno + 1
        losses = one_warning(
            svi, STEPS, match=rf"looks at the value of a tensor.*test_compiled_svi\.py:{number}, in forward"
        )
        assert losses == expected
        (record,) = svi.explain().rows
        assert record.status == "eager"
        assert record.eager_steps == STEPS


def test_required_capture_raises_in_place_of_a_warning(by_torch):
    svi = branching(mode="require")
    svi.step(X)
    before = parameters(svi)
    for _ in range(2):
        with pytest.raises(CaptureError, match="CompiledSVI: .*looks at the value of a tensor"):
            svi.step(X)
    assert all(same_bits(before[name], leaf) for name, leaf in parameters(svi).items())


def test_an_argument_that_cannot_be_told_from_another_stays_eager(by_torch):
    array = np.ones(3)

    class Takes(Model):
        def forward(self, x: Tensor, given: Any) -> None:
            super().forward(x)

    class GuideTakes(Guide):
        def forward(self, x: Tensor, given: Any) -> None:
            super().forward(x)

    svi = CompiledSVI(Takes(), GuideTakes(), pyro.optim.Adam({}), Trace_ELBO())
    one_warning(svi, 4, X, array, match="an argument of type ndarray cannot be told from another one")
    assert svi.explain().rows == []
    ((reason, count),) = svi.explain().beside.items()
    assert count == 3 and "ndarray" in reason  # the very first step asks for no program
    assert str(svi.explain()) == f"3 calls eager: {reason}"
    for _ in range(4):
        svi.step(X, Namespace(beta=0.5, hidden=[8]))
    assert status(svi) == ["compiled"]
    assert str(svi.explain()).splitlines()[-1].startswith("3 calls eager: an argument of type ndarray")
    svi.step(X, Namespace(beta=0.25, hidden=[8]))
    assert status(svi) == ["compiled", "eager"]


@pytest.mark.parametrize("kind", [Namespace, SimpleNamespace])
def test_numbers_in_a_namespace_are_those_of_the_call(by_torch, kind):
    def model(x, args):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("m", torch.zeros(())), args.scale + args.more), obs=x)

    def guide(x, args):
        pass

    def losses(make, scale):
        pyro.clear_param_store()
        svi = make(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        return [svi.step(X[:, 0], kind(scale=scale, more=torch.tensor(i / 10))) for i in range(6)], svi

    for scale in (1.0, 3.0):
        expected, _ = losses(SVI, scale)
        found, svi = losses(CompiledSVI, scale)
        assert found == pytest.approx(expected, rel=1e-5)
        assert status(svi) == ["compiled"]


def test_a_step_inside_a_handler_of_pyro_stays_eager(by_torch):
    theirs = make(SVI)
    with poutine.scale(scale=0.5):
        expected = walked(theirs, 5)
    with own_store():
        ours = make()
        with poutine.scale(scale=0.5):
            losses = one_warning(ours, 5, match="it is made inside a Pyro handler")
        assert losses == expected
        assert same_leaves(ours, theirs)
        walked(ours, 4)
        assert status(ours) == ["compiled"]


def test_nan_shows_with_the_warning_of_pyro(by_torch):
    svi = make()
    walked(svi, 6)  # (in a step that is compared, Pyro's own checks come first)
    with pytest.warns(UserWarning, match="Encountered NaN: loss"):
        assert np.isnan(svi.step(X * np.nan))


# explanations


def test_an_explanation_tells_each_signature(by_torch, capsys):
    svi = make()
    assert str(svi.explain()) == "no step has been made yet"
    walked(svi, 5)
    svi.step(rows(3))
    explanation = svi.explain()
    usual, other = explanation.rows
    assert (usual.signature, usual.status, usual.reason, usual.eager_steps) == ("float32[6, 4]", "compiled", "", 1)
    assert (usual.graph_steps, usual.compiled_steps) == (1, 3)
    assert usual.nodes > 20 and usual.capture_seconds > 0 and usual.worst_error == 0
    assert (other.signature, other.status, other.reason, other.eager_steps) == (
        "float32[3, 4]",
        "eager",
        "not captured yet",
        1,
    )
    print(explanation)
    title, first, second = capsys.readouterr().out.splitlines()
    assert title.split()[:4] == ["signature", "status", "nodes", "capture"]
    assert first.startswith("float32[6, 4]  compiled") and second.startswith("float32[3, 4]  eager")
    assert second.endswith("not captured yet")
    assert list(explanation.frame()["compiled_steps"]) == [3, 0]


# many steps at once


def test_a_run_gives_its_losses(by_torch):
    svi = make()
    losses = svi.run(X, 7)
    assert (losses.shape, losses.dtype) == ((7,), torch.float64)
    assert svi.run(X, 0).shape == (0,)
    assert svi.run((X,), 3, batch_size=2).shape == (3,)
    assert bool(torch.isfinite(losses).all())


@pytest.mark.parametrize("mode", ["auto", "eager"])
def test_a_run_on_all_rows_is_that_many_steps(mode, by_torch):
    theirs, ours = make(mode=mode), make(mode=mode)
    expected = walked(theirs, 9)
    with own_store():
        torch.manual_seed(3)
        assert ours.run(X, 9).tolist() == expected
        assert same_leaves(ours, theirs)


@pytest.mark.parametrize("mode", ["auto", "eager", "require"])
def test_a_run_in_batches_is_steps_on_the_same_rows(mode, by_torch, monkeypatch):
    data = rows(20)
    order = [torch.randperm(20)[:ROWS] for _ in range(15)]
    monkeypatch.setattr(compiled_svi, "order", lambda *_: iter(order))
    theirs, ours = make(SVI), make(mode=mode)
    torch.manual_seed(3)
    expected = [theirs.step(data[index]) for index in order]
    with own_store():
        torch.manual_seed(3)
        assert ours.run(data, 15, batch_size=ROWS).tolist() == expected
        assert same_leaves(ours, theirs)
        assert status(ours) == ([] if mode == "eager" else ["compiled"])


def test_a_compiled_run_in_batches_is_steps_on_the_same_rows(monkeypatch):
    data = rows(20)
    order = [torch.randperm(20)[:ROWS] for _ in range(15)]
    monkeypatch.setattr(compiled_svi, "order", lambda *_: iter(order))
    theirs, ours = make(SVI), make(mode="require")
    torch.manual_seed(3)
    expected = [theirs.step(data[index]) for index in order]
    with own_store():
        torch.manual_seed(3)
        assert ours.run(data, 15, batch_size=ROWS).tolist() == pytest.approx(expected, rel=1e-5)
        assert status(ours) == ["compiled"]
        for name, leaf in parameters(theirs).items():
            torch.testing.assert_close(parameters(ours)[name], leaf, rtol=1e-4, atol=1e-5)


def test_the_rows_of_several_tensors_stay_together(by_torch):
    """y is a function of x; a pair of rows torn apart would be seen in the loss."""
    data = rows(20)
    seen = []

    def model(x: Tensor, y: Tensor) -> None:
        seen.append((x.detach().clone(), y.detach().clone()))
        loc = pyro.param("loc", torch.zeros(DIM))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x - y)

    svi = CompiledSVI(model, lambda x, y: None, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO(), mode="eager")
    losses = svi.run((data, data - 1.0), 8, batch_size=5)
    assert losses.tolist() == pytest.approx([float(losses[0])] * 8)
    assert all(torch.equal(y, x - 1.0) for x, y in seen)


@pytest.mark.parametrize(("num_rows", "batch_size"), [(20, 5), (7, 3), (5, 5), (6, 1)])
def test_every_row_comes_once_an_epoch(num_rows, batch_size, monkeypatch):
    monkeypatch.setattr(svi_rows, "CHUNK", 7)  # many draws of an order
    steps = 4 * num_rows
    order = torch.cat(list(svi_rows.order(num_rows, batch_size, steps)))
    assert order.shape == (steps * batch_size,)
    epochs = order[: len(order) // num_rows * num_rows].view(-1, num_rows)
    assert bool((epochs.sort(dim=1).values == torch.arange(num_rows)).all())
    assert len({tuple(epoch.tolist()) for epoch in epochs}) > 1 or num_rows == 1


BAD_RUNS: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "no tensor": ((np.ones((3, 4)), 5), TypeError, "tensors with rows along axis 0 are required, got ndarray"),
    "nothing": (((), 5), TypeError, "got nothing"),
    "no rows": ((torch.tensor(1.0), 5), TypeError, "rows along axis 0"),
    "lengths": (((X, X[:3]), 5), ValueError, r"tensors of one length are required, got \[6, 3\]"),
    "steps below zero": ((X, -1), ValueError, "num_steps must be a whole number >= 0, got -1"),
    "a fraction of steps": ((X, 2.5), ValueError, "num_steps must be a whole number >= 0, got 2.5"),
    "too many rows": ((X, 5, 7), ValueError, "batch_size must be from 1 to 6 rows, got 7"),
    "no rows a step": ((X, 5, 0), ValueError, "batch_size must be from 1 to 6 rows, got 0"),
}


@pytest.mark.parametrize("name", BAD_RUNS)
def test_a_run_on_bad_data_is_refused_before_the_first_step(name):
    arguments, error, message = BAD_RUNS[name]
    svi = make()
    before = parameters(svi)
    with pytest.raises(error, match=f"CompiledSVI.run: .*{message}"):
        svi.run(*arguments)
    assert all(same_bits(before[key], leaf) for key, leaf in parameters(svi).items())


# errors and interrupts


def hidden_counter() -> Callable[[], int]:
    """Numbers its calls from 0, where no look at Python's state can see it."""
    place = threading.local()
    place.at = -1

    def call() -> int:
        place.at += 1
        return int(place.at)

    return call


def fragile(broken_calls: set[int]) -> CompiledSVI:
    """Its model breaks in these calls, counted from 0, after it has changed its running means."""
    calls = hidden_counter()

    class Fragile(Model):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(DIM)

        def forward(self, x: Tensor) -> None:
            super().forward(self.norm(x))
            if calls() in broken_calls:
                raise RuntimeError("the model broke")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optim = pyro.optim.Adam({"lr": 0.01, "fused": True})
        return CompiledSVI(Fragile(), Guide(), optim, Trace_ELBO(), wait=True)


# A model is called in step 0, in step 1, which is traced, and in the steps that are compared: 2, 3, 5.
BROKEN = {"the first step": (0, 0), "the traced step": (1, 1), "a compared step": (5, 4)}


@pytest.mark.filterwarnings("ignore::ppl_vae.capture.FallbackWarning")
@pytest.mark.parametrize("when", BROKEN)
def test_an_error_in_the_middle_of_a_step_leaves_parameters_and_optimizer(when, by_torch):
    step, call = BROKEN[when]
    svi = fragile({call} if when == "the first step" else {call, call + 1})  # also where it is then tried eagerly
    walked(svi, step)
    before = parameters(svi), str(svi.optim.get_state())
    with pytest.raises(RuntimeError, match="the model broke"):
        svi.step(X)
    assert all(same_bits(before[0][name], leaf) for name, leaf in parameters(svi).items())
    assert str(svi.optim.get_state()) == before[1]
    assert all(leaf.grad is None or not leaf.grad.any() for leaf in svi.model.parameters())
    assert np.isfinite(walked(svi, 6)).all()
    assert not any(same_bits(before[0][name], leaf) for name, leaf in parameters(svi).items())


@pytest.mark.filterwarnings("ignore::ppl_vae.capture.FallbackWarning")
def test_a_first_step_that_fails_costs_no_capture(by_torch):
    model, guide = functions()
    calls = hidden_counter()

    def late(x: Tensor) -> None:
        if calls() == 0:
            raise RuntimeError("the data were not there yet")
        model(x)

    svi = CompiledSVI(late, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO(), wait=True)
    with pytest.raises(RuntimeError, match="the data were not there yet"):
        svi.step(X)
    walked(svi, 6)
    assert status(svi) == ["compiled"]


@pytest.mark.parametrize("kind", ["Adam", "ClippedAdam"])
def test_an_interrupt_during_the_update_lets_it_be_whole(kind, by_torch, monkeypatch):
    """Ctrl-C in the middle of the kernels: all leaves have moved, and then it is raised."""
    theirs, ours = make(optim=OPTIMIZERS[kind]()), make(optim=OPTIMIZERS[kind]())
    walked(theirs, 6)
    with own_store():
        walked(ours, 5)
        torch.set_rng_state(noise_after(5))
        done: list[int] = []
        for optimizer, (kernel, needed) in list(update._KERNELS.items()):

            def slow(*arguments: Any, kernel: Any = kernel) -> None:
                os.kill(os.getpid(), signal.SIGINT)
                kernel(*arguments)
                done.append(len(arguments[0]))

            monkeypatch.setitem(update._KERNELS, optimizer, (slow, needed))
        for program in ours._engine.programs.values():
            program.forward.update.fused = None  # made anew, with the kernels above
        with pytest.raises(KeyboardInterrupt):
            ours.step(X)
        assert sum(done) == 5
    assert same_leaves(ours, theirs)


def noise_after(steps: int) -> Tensor:
    """Where the generator stands after so many steps of the pair from seed 3."""
    with own_store(), torch.random.fork_rng(devices=[]):
        walked(make(SVI), steps)
        return torch.get_rng_state()


def test_an_interrupt_during_an_eager_update_lets_it_be_whole():
    theirs, ours = make(SVI), make(mode="eager")
    walked(theirs, 3)
    with own_store():
        walked(ours, 2)
        torch.set_rng_state(noise_after(2))
        first = next(iter(ours.optim.optim_objs.values()))
        first.register_step_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            ours.step(X)
    assert same_leaves(ours, theirs)


def test_an_update_of_a_hooked_optimizer_is_whole_too(by_torch):
    theirs, ours = make(SVI), make()
    walked(theirs, 6)
    with own_store():
        walked(ours, 5)
        torch.set_rng_state(noise_after(5))
        last = list(ours.optim.optim_objs.values())[-1]
        last.register_step_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            ours.step(X)
    for name, leaf in parameters(theirs).items():
        torch.testing.assert_close(parameters(ours)[name], leaf, rtol=1e-6, atol=1e-7)


# in place


def test_data_that_the_model_changes_in_place_are_changed_once_a_step(by_torch):
    """As odd as it is, Pyro does it once a step."""

    class Shifts(Guide):
        def forward(self, x: Tensor) -> None:
            x.add_(1.0)
            super().forward(x)

    def run(kind: Any) -> tuple[list[float], Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, guide = Model(), Shifts()
        options = {"wait": True} if kind is CompiledSVI else {}
        svi, x = kind(model, guide, pyro.optim.Adam({"lr": 0.01, "fused": True}), Trace_ELBO(), **options), X.clone()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            return walked(svi, 8, x), x

    losses, expected = run(SVI)
    with own_store():
        found, x = run(CompiledSVI)
    assert torch.equal(x, expected)
    assert found == pytest.approx(losses, rel=1e-5)


# memory


def test_three_hundred_steps_of_a_graph_leave_no_memory(by_torch):
    svi = make()
    walked(svi, 300)
    gc.collect()
    tracemalloc.start()
    before, objects = tracemalloc.get_traced_memory()[0], len(gc.get_objects())
    walked(svi, 300)
    gc.collect()
    grown, more = tracemalloc.get_traced_memory()[0] - before, len(gc.get_objects()) - objects
    tracemalloc.stop()
    assert more < 50
    assert grown < 150_000, f"{grown} bytes"  # half a kilobyte a step


def test_steps_of_changing_state_leave_no_memory(by_torch):
    svi = make()

    def some(steps: int) -> None:
        for i in range(steps):
            svi.model.beta = torch.rand(()).item() + i
            svi.step(X)

    with pytest.warns(FallbackWarning, match="changes from step to step"):
        some(100)
    gc.collect()
    objects, kept = len(gc.get_objects()), len(svi._engine.programs)
    some(100)
    gc.collect()
    assert len(gc.get_objects()) - objects < 50
    assert len(svi._engine.programs) == kept


@pytest.mark.slow
def test_ten_thousand_compiled_steps_leave_no_memory():
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    svi, data = make(mode="require"), rows(20)
    walked(svi, 500)
    svi.run(data, 500, batch_size=ROWS)
    gc.collect()
    before, objects = resident(), len(gc.get_objects())
    walked(svi, 5000)
    svi.run(data, 5000, batch_size=ROWS)
    gc.collect()
    assert resident() - before < 12_000_000  # a kilobyte a step would be seen
    assert len(gc.get_objects()) - objects < 100


# what is not used is not imported by mistake


def test_a_fused_update_is_what_makes_the_steps(by_torch, monkeypatch):
    """The negative twin of the optimizers above: without the kernels the same steps are made by Pyro's way."""
    calls = []
    kept = Update.__call__
    monkeypatch.setattr(Update, "__call__", lambda self, grads: (calls.append(len(grads)), kept(self, grads))[1])
    svi = make()
    losses = walked(svi, 6)
    assert calls == [5] * 5
    monkeypatch.setattr(Update, "refuses", staticmethod(lambda *_: "not today"))
    with own_store():
        again = make()
        assert walked(again, 6) == pytest.approx(losses, rel=1e-6)
    assert len(calls) == 5
    assert re.match("float32", svi.explain().rows[0].signature)
