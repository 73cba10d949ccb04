"""A pair as an object: copies of its own, fences, checks that touch nothing, modules wherever they are held."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import CASES, Decoder, Encoder, LinearGaussian, data_for, function_pair, rows
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from runs import plain
from torch import Tensor, nn

import ppl_vae
from ppl_vae import ELBO, IWAE, Pair, VariationalEM
from ppl_vae.evidence import ImportanceWeighted, decomposition, log_evidence
from ppl_vae.evidence.measured_elbo import elbo
from ppl_vae.pair import pair_of
from ppl_vae.pair.checks import shaken
from ppl_vae.pair.reach import modules_of

X = rows(12, dtype=torch.float32)


def bound(module: nn.Module) -> tuple[Any, Any]:
    return module.model, module.guide  # type: ignore[return-value]


PAIRS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "methods of one module": lambda: bound(LinearGaussian(dtype=torch.float32)),
    "modules": lambda: (Decoder(), Encoder()),
    "functions": function_pair,
    "an autoguide": lambda: CASES["AutoNormal"].make(),
    "built in": plain,
}
every_pair = pytest.mark.parametrize("name", PAIRS)


def fitted(name: str) -> Any:
    torch.manual_seed(0)
    return VariationalEM(*PAIRS[name](), lr=0.05).fit(X, steps=5, progress=False)


def moved(thing: Any) -> None:
    """Change every parameter."""
    with torch.no_grad():
        for leaf in thing.parameters_by_name().values():
            leaf.add_(0.5)


# copies


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("whole", ["pair", "fit"])
@every_pair
def test_a_copy_has_modules_and_parameters_of_its_own(name, whole, how):
    if how == "pickle" and name in ("functions", "an autoguide"):
        pytest.skip("functions inside functions cannot be pickled")
    fit = fitted(name)
    original = fit if whole == "fit" else fit.pair
    before = original.draw(X, 2).log_weight
    twin = COPIES[how](original)
    assert torch.equal(twin.draw(X, 2).log_weight, before)
    moved(twin)
    assert not torch.equal(twin.draw(X, 2).log_weight, before)
    assert torch.equal(original.draw(X, 2).log_weight, before)
    if whole == "fit":
        assert twin.history.equals(fit.history)
        assert (twin.ended, twin.steps) == (fit.ended, fit.steps)
        with pytest.raises(RuntimeError, match="was loaded, copied, released or stepped by hand"):
            twin.resume(steps=1)


@every_pair
def test_a_copy_trains_apart(name):
    torch.manual_seed(0)
    pair = Pair(*PAIRS[name]()).initialize(X)
    twin = copy.deepcopy(pair)
    with twin.scope():
        ELBO().gradients(twin, twin.rows(X).batch(), {"theta": [*twin.parameters_by_name().values()]})
    assert any(leaf.grad is not None for leaf in twin.parameters_by_name().values())
    assert all(leaf.grad is None for leaf in pair.parameters_by_name().values())


def test_a_copy_of_functions_that_name_networks_is_refused_by_name():
    net = nn.Linear(2, 3)

    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(TypeError, match=r"would share what the model .*model' names \(Linear\)"):
        copy.deepcopy(Pair(model, guide))


def test_a_shallow_copy_of_a_fit_shares_its_pair_and_not_its_run():
    fit = fitted("built in")
    twin = copy.copy(fit)
    assert twin.pair is fit.pair
    assert not twin.has_run


def test_release_lets_go_of_the_data():
    x = X.clone()
    fit = VariationalEM(*plain(), lr=0.05).fit(x, epochs=2, batch_size=4, progress=False)
    held = weakref.ref(fit.trainer.batches.source.args[0])
    history = fit.history
    assert fit.release() is fit
    del x
    gc.collect()
    assert held() is None
    assert len(fit.pair.template) == 2
    assert fit.history.equals(history)
    assert fit.elbo(X).shape == (12,)
    assert fit.sample(3).shape == (3, 3)


# a fit holds a pair


def test_a_fit_is_no_pair_and_every_reader_takes_either():
    fit = fitted("built in")
    assert not isinstance(fit, Pair)
    assert pair_of(fit) is fit.pair is pair_of(fit.pair)
    from ppl_vae import diagnostics

    readers: dict[str, Callable[[Any], Any]] = {
        "log_evidence": lambda p: log_evidence(p, X, ImportanceWeighted(5)).value,
        "elbo": lambda p: elbo(p, X, num_samples=3),
        "decomposition": lambda p: decomposition(p, X, num_samples=3).kl,
        "active_units": lambda p: diagnostics.active_units(p, X, num_samples=3).variance["z"],
        "kl_per_dimension": lambda p: diagnostics.kl_per_dimension(p, X, num_samples=3)["z"],
        "khat": lambda p: diagnostics.khat(p, X, num_samples=40),
        "verdict": lambda p: torch.tensor([float(len(str(diagnostics.verdict(p, X, num_samples=40))))]),
        "to_inference_data": lambda p: torch.tensor(
            diagnostics.to_inference_data(p, X, num_samples=3).posterior["z"].to_numpy().copy()
        ),
    }
    for name, read in readers.items():
        torch.testing.assert_close(read(fit), read(fit.pair), msg=name)


@pytest.mark.parametrize("thing", [None, 3, nn.Linear(1, 1)])
def test_what_is_neither_is_refused(thing):
    with pytest.raises(TypeError, match="a Pair or a Fit is required"):
        log_evidence(thing, X)


# the caller's handlers


HANDLERS: dict[str, Callable[[], Any]] = {
    "mask": lambda: poutine.mask(mask=False),
    "scale": lambda: poutine.scale(scale=7.0),
    "trace": lambda: poutine.trace(),
    "plate": lambda: pyro.plate("outer", 3),
    "condition": lambda: poutine.condition(data={"z": torch.zeros(12, 2)}),
    "block": lambda: poutine.block(),
}


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_callers_handlers_change_no_number(handler):
    fit = fitted("built in")
    outside = log_evidence(fit, X, ImportanceWeighted(4)).value, fit.elbo(X), fit.simulate(3)["x"]
    whole = fitted("built in").params
    with HANDLERS[handler]():
        inside = log_evidence(fit, X, ImportanceWeighted(4)).value, fit.elbo(X), fit.simulate(3)["x"]
        again = fitted("built in").params
    assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_the_handlers_are_given_back_when_a_run_breaks():
    fit = fitted("built in")
    with poutine.mask(mask=False) as handler, pytest.raises((ValueError, RuntimeError)):
        fit.log_joint(X, torch.zeros(1, 5, 2))
    assert handler._ref_count == 0 if hasattr(handler, "_ref_count") else True


def test_an_objective_inside_pyros_svi_sees_the_callers_handlers():
    """There it is a loss among Pyro's, and a mask around the step is meant."""
    model, guide = function_pair()
    with pyro.get_param_store().scope():
        svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.0}), ELBO(analytic_kl=False))
        plain_loss = svi.evaluate_loss(X)
        with poutine.mask(mask=False):
            masked = svi.evaluate_loss(X)
    assert plain_loss != 0
    assert masked == 0


# checks


def test_a_check_in_the_middle_of_a_backward_pass_does_not_touch_what_it_saved():
    """A new shape of data is checked when it is first met, here between a forward pass and its gradient."""
    module = LinearGaussian(dtype=torch.float64)
    pair = Pair(*bound(module)).initialize(rows(12))
    leaves = list(pair.parameters_by_name().values())
    with pair.scope():
        loss = IWAE(2).terms(pair, pair.rows(rows(12)).batch()).value.sum()
        before = [(leaf._version, leaf.data_ptr()) for leaf in leaves]
        assert pair.vectorizes(pair.rows(rows(1)).batch())  # looked at anew
        assert [(leaf._version, leaf.data_ptr()) for leaf in leaves] == before
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    assert all(grad is None or grad.isfinite().all() for grad in grads)


def test_a_check_that_writes_into_the_parameters_breaks_the_law():
    """The negative twin: what the backward pass has saved is gone."""
    weight = torch.ones(3, requires_grad=True)
    loss = (weight**2).sum()
    with torch.no_grad():
        weight.add_(0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_shaken_leaves_give_their_own_memory_back_and_buffers_stay():
    net = nn.BatchNorm1d(3)
    own = {name: (t.data_ptr(), t.clone()) for name, t in net.state_dict(keep_vars=True).items()}
    with torch.no_grad(), shaken(net.parameters(), [net]):
        assert not torch.equal(net.weight, own["weight"][1])
        net.running_mean.add_(5.0)
    for name, tensor in net.state_dict(keep_vars=True).items():
        assert tensor.data_ptr() == own[name][0]
        assert torch.equal(tensor, own[name][1])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")])
def test_memory_that_runs_out_is_no_answer_to_a_check(error):
    class Hungry(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            if z.dim() > 2:
                raise error
            return z @ torch.ones(2, 3)

    pair = Pair(functools.partial(model_with, Hungry()), guide).initialize(X)
    with pytest.raises(type(error)):
        pair.draw(X, 4)
    assert not pair.runner._checks  # nothing was found, and nothing is remembered


# modules, wherever they are held


class Holder:
    """A plain object."""

    def __init__(self, net: nn.Module) -> None:
        self.decoder = net

    def model(self, x: Tensor) -> None:
        model_with(self.decoder, x)


class Slotted:
    __slots__ = ("inside",)

    def __init__(self, net: nn.Module) -> None:
        self.inside = {"nets": [net]}

    def __call__(self, x: Tensor) -> None:
        model_with(self.inside["nets"][0], x)


class Careful:
    """Its property must not be asked."""

    def __init__(self, net: nn.Module) -> None:
        self._net = net

    @property
    def trap(self) -> None:
        raise AssertionError("a property was looked at")

    def model(self, x: Tensor) -> None:
        model_with(self._net, x)


def model_with(net: nn.Module, x: Tensor) -> None:
    pyro.module("net", net)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def through_a_helper(net: nn.Module) -> Callable[..., Any]:
    def helper(x: Tensor) -> None:
        model_with(net, x)

    def model(x: Tensor) -> None:
        helper(x)

    return model


HOLDERS: dict[str, Callable[[nn.Module], Any]] = {
    "a method of a plain object": lambda net: Holder(net).model,
    "an object with slots, a dictionary and a list": Slotted,
    "an object with a property": lambda net: Careful(net).model,
    "a partial": lambda net: functools.partial(model_with, net),
    "a helper of a closure": through_a_helper,
    "a default": lambda net: lambda x, net=net: model_with(net, x),
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_networks_are_found_set_to_eval_moved_and_saved(kind, tmp_path):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model = HOLDERS[kind](net)
    assert modules_of(model) == [net]
    fit = VariationalEM(model, guide, dtype=torch.float64, lr=0.01).fit(X, steps=5, progress=False)
    assert net[0].weight.dtype == torch.float64
    assert net.training  # its own mode, given back
    assert torch.equal(fit.elbo(X, num_samples=3), fit.elbo(X, num_samples=3))
    with fit.pair.evaluating(0):
        assert not net[2].training
    assert any("running_mean" in name for name in fit.buffers_by_name())
    fit.save(tmp_path / "run")
    fresh = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    loaded = ppl_vae.load(tmp_path / "run", HOLDERS[kind](fresh), guide)
    assert torch.equal(fresh[1].running_mean, net[1].running_mean)
    assert torch.equal(loaded.elbo(X), fit.elbo(X))


def test_what_reaches_too_far_is_said(monkeypatch):
    monkeypatch.setattr("ppl_vae.pair.reach.MOST", 5)
    many = [Holder(nn.Linear(1, 1)) for _ in range(10)]
    with pytest.warns(UserWarning, match="more than 5 objects can be reached"):
        modules_of(functools.partial(print, many))


def test_an_autoguide_is_one_module():
    model = CASES["AutoNormal"].make()[0]
    auto = AutoNormal(model)
    assert modules_of(auto) == [auto]


# parameters that come late


def test_a_parameter_that_first_appears_in_a_later_step_is_refused_by_name():
    """It would never be trained: the optimizer has been made."""
    calls = []

    def model(x):
        calls.append(len(x))
        loc = pyro.param("loc", torch.zeros(3))
        if len(calls) > 8:
            loc = loc + pyro.param("late", torch.ones(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match="'late' first appeared in step .* and would never be trained"):
        VariationalEM(model, lambda x: None, lr=0.01).fit(X, steps=20, progress=False)


def test_data_is_held_as_rows_that_can_be_let_go():
    pair = Pair(*plain()).initialize(data_for(CASES["functions"]))
    assert len(pair.template) == 20
