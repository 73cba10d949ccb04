"""Everything that Python can hold for a model is seen when it changes; what only looks different is not."""

from __future__ import annotations

import functools
import importlib.util
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms as T
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae import ELBO
from ppl_vae.capture import Watch
from ppl_vae.objectives import LinearWarmup

BETA = 1.0
TABLE = {"beta": 1.0}
NETWORK = nn.Linear(2, 2)
SETTINGS = types.ModuleType("settings_of_the_caller")


class Config:
    beta = 1.0


@dataclass
class Options:
    beta: float = 1.0
    betas: list[float] = field(default_factory=lambda: [1.0])


@dataclass(slots=True)
class Slim:
    beta: float = 1.0


class Plain:
    beta = __beta__ = 1.0

    def __init__(self) -> None:
        self.gamma = 1.0


def helper(x: Tensor) -> Tensor:
    return BETA * x


def swapped(x: Tensor) -> Tensor:
    return 2 * x


class Private:
    """A slot that Python finds under another name."""

    __slots__ = ("__beta",)

    def __init__(self) -> None:
        self.__beta = 1.0


class Betas(list):  # type: ignore[type-arg]
    beta = 1.0


class Table(dict):  # type: ignore[type-arg]
    """A dictionary that holds a number besides."""


class Shifted(dist.Normal):
    """A distribution of the caller's own, with a number that its density reads."""

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)
        self._cache_weight = 1.0


class Net(PyroModule):
    """One attribute of every kind."""

    level = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
        self.deep = nn.Sequential(*[nn.Sequential(nn.Sequential(nn.Sequential(nn.Dropout(0.1)))) for _ in range(2)])
        self.norm = nn.BatchNorm1d(2)
        self.scalar = nn.Parameter(torch.zeros(()))
        self.register_buffer("shift", torch.zeros(2))
        self.constant = torch.ones(2)
        self.beta, self.count, self.name, self.flag = 0.5, 1, "sum", True
        self.none: Any = None
        self.forward_weight = self._forward_scale = 1.0
        self.number, self.array = np.float32(1.0), np.ones(3)
        self.items, self.unordered, self.queue = [1.0, [2.0]], {1, 2}, deque([1.0])
        self.table: dict[Any, Any] = {"a": 1.0, (0, 1): 2.0, "deep": {"list": [0.5]}}
        self.options, self.slim, self.plain = Options(), Slim(), Plain()
        self.activation: Any = torch.tanh
        self.own: Any = helper
        self.partial = functools.partial(torch.clamp, min=0.0)
        self.prior, self.shifted = dist.Normal(0.0, 1.0), Shifted()
        self.private, self.called = Private(), functools.partial(torch.clamp, min=0.0)
        self.betas, self.dictionary = Betas([1.0]), Table(a=1.0)
        self.betas.gamma = self.dictionary.gamma = self.called.gamma = 1.0  # type: ignore[attr-defined]
        self.plain._buffers = {"a": 1.0, "b": 2.0}
        self.warp, self.flow, self.plate = T.AffineTransform(0.0, 2.0), T.planar(2), pyro.plate("data", 3)
        for name in HIDDEN:
            setattr(self, name, 1.0)
            setattr(self.plain, name, 1.0)

    def forward(self, x: Tensor, scale: float = 1.0, history: Any = [0.0], *, extra: float = 1.0) -> Tensor:  # noqa: B006
        return helper(x) * Config.beta * TABLE["beta"] * NETWORK(x) * SETTINGS.beta * self.weight

    @property
    def weight(self) -> float:
        return Plain.beta


# As torch and Pyro call caches, hooks and records of theirs, or nearly so.
HIDDEN = ("_cache_weight", "_cached_x_y", "_indices", "_prototype_weight", "prototype_trace", "_state_dict_weight")
HIDDEN += ("_load_state_weight", "_non_persistent_weight", "_is_full_backward_weight", "_forward_hooks_weight")


def _set(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


def _global(name: str, value: Any) -> None:
    globals()[name] = value


CHANGES: dict[str, tuple[Callable[[Net], Any], str]] = {
    "a number": (lambda m: _set(m, "beta", 0.25), "m.beta"),
    "an integer becomes a fraction": (lambda m: _set(m, "count", 1.0), "m.count"),
    "an integer becomes a truth value": (lambda m: _set(m, "count", True), "m.count"),
    "a sign": (lambda m: _set(m, "beta", -0.5), "m.beta"),
    "a string": (lambda m: _set(m, "name", "mean"), "m.name"),
    "a flag": (lambda m: _set(m, "flag", False), "m.flag"),
    "something in place of None": (lambda m: _set(m, "none", 0), "m.none"),
    "a new attribute": (lambda m: _set(m, "fresh", 1), "m.fresh"),
    "an attribute deleted": (lambda m: delattr(m, "beta"), "m.beta"),
    "a name that begins like torch's own": (lambda m: _set(m, "_forward_scale", 2.0), "m._forward_scale"),
    **{f"a number called {n}": (lambda m, n=n: _set(m, n, 2.0), f"m.{n}") for n in HIDDEN},
    **{f"a number of a part called {n}": (lambda m, n=n: _set(m.plain, n, 2.0), f"m.plain.{n}") for n in HIDDEN},
    "a hook of an object that is no module": (lambda m: _set(m.plain, "_forward_hooks", 2.0), "m.plain._forward_hooks"),
    "a slot with a private name": (lambda m: _set(m.private, "_Private__beta", 2.0), "m.private._Private__beta"),
    "an attribute of a list": (lambda m: _set(m.betas, "gamma", 2.0), "m.betas.gamma"),
    "a number of the class of a list": (lambda m: _set(Betas, "beta", 2.0), "Betas.beta"),
    "an attribute of a dictionary": (lambda m: _set(m.dictionary, "gamma", 2.0), "m.dictionary.gamma"),
    "an attribute of a partial": (lambda m: _set(m.called, "gamma", 2.0), "m.called.attributes['gamma']"),
    "a number in a distribution of one's own": (
        lambda m: _set(m.shifted, "_cache_weight", 2.0),
        "m.shifted._cache_weight",
    ),
    "a name in a dictionary called as torch's own": (
        lambda m: m.plain._buffers.update(c=m.plain._buffers.pop("b")),
        "m.plain._buffers['c']",
    ),
    "a number of its class between underscores": (lambda m: _set(Plain, "__beta__", 2.0), "Plain.__beta__"),
    "a number of numpy": (lambda m: _set(m, "number", np.float32(2.0)), "m.number"),
    "an array in place": (lambda m: m.array.__setitem__(0, 7.0), "m.array"),
    "another array": (lambda m: _set(m, "array", np.zeros(3)), "m.array"),
    "an item": (lambda m: m.items.__setitem__(0, 3.0), "m.items[0]"),
    "an item of an item": (lambda m: m.items[1].append(3.0), "m.items[1].len"),
    "a set": (lambda m: m.unordered.add(3), "m.unordered.len"),
    "a queue": (lambda m: m.queue.append(2.0), "m.queue.len"),
    "an entry": (lambda m: m.table.update(a=2.0), "m.table['a']"),
    "an entry under a tuple": (lambda m: m.table.update({(0, 1): 3.0}), "m.table[(0, 1)]"),
    "an entry of an entry": (lambda m: m.table["deep"]["list"].append(1.0), "m.table['deep']['list'].len"),
    "a new entry": (lambda m: m.table.update(b=torch.tanh), "m.table['b']"),
    "a key": (lambda m: m.table.update(b=m.table.pop("a")), "m.table['a']"),
    "a dataclass": (lambda m: _set(m.options, "beta", 2.0), "m.options.beta"),
    "a list in a dataclass": (lambda m: m.options.betas.append(2.0), "m.options.betas.len"),
    "a dataclass replaced": (lambda m: _set(m, "options", Options(beta=2.0)), "m.options.beta"),
    "a dataclass with slots": (lambda m: _set(m.slim, "beta", 2.0), "m.slim.beta"),
    "an object of one's own": (lambda m: _set(m.plain, "gamma", 2.0), "m.plain.gamma"),
    "a tensor replaced": (lambda m: _set(m, "constant", torch.ones(2)), "m.constant"),
    "a buffer replaced": (lambda m: _set(m, "shift", torch.zeros(2)), "m._buffers['shift']"),
    "a parameter replaced": (
        lambda m: _set(m.linear, "weight", nn.Parameter(m.linear.weight.detach().clone())),
        "m._modules['linear']._parameters['weight']",
    ),
    "a parameter of one entry replaced by an equal one": (
        lambda m: _set(m, "scalar", nn.Parameter(torch.zeros(()))),
        "m._parameters['scalar']",
    ),
    "a parameter frozen": (lambda m: m.scalar.requires_grad_(False), "m._parameters['scalar']"),
    "a module frozen": (lambda m: m.linear.requires_grad_(False), "m._modules['linear']._parameters['bias']"),
    "a layer replaced": (lambda m: m.layers.__setitem__(1, nn.ReLU()), "m._modules['layers']._modules['1']"),
    "a layer appended": (lambda m: m.layers.append(nn.Tanh()), "m._modules['layers']._modules['2']"),
    "evaluation mode": (lambda m: m.eval(), "m.training"),
    "evaluation mode of a part": (lambda m: m.norm.eval(), "m._modules['norm'].training"),
    "an option of a layer": (lambda m: _set(m.norm, "momentum", 0.2), "m._modules['norm'].momentum"),
    "an option of a layer far inside": (lambda m: _set(m.deep[1][0][0][0], "p", 0.2), ".p"),
    "a function of torch": (lambda m: _set(m, "activation", torch.relu), "m.activation"),
    "a function of one's own": (lambda m: _set(m, "own", swapped), "m.own"),
    "a method put in its place": (lambda m: _set(m, "forward", swapped), "m.forward"),
    "what a partial holds": (lambda m: m.partial.keywords.update(min=1.0), "m.partial.keywords['min']"),
    "a distribution": (lambda m: _set(m, "prior", dist.StudentT(3.0)), "m.prior"),
    "a number in a distribution": (lambda m: _set(m.prior, "_validate_args", True), "m.prior._validate_args"),
    "a hook": (lambda m: m.linear.register_forward_hook(lambda *_: None), "m._modules['linear']._forward_hooks"),
    "a hook before": (lambda m: m.register_forward_pre_hook(lambda *_: None), "m._forward_pre_hooks"),
    "a hook on a gradient": (lambda m: m.scalar.register_hook(lambda g: 2 * g), "m._parameters['scalar']._backward"),
    "a default argument": (lambda m: m.forward.__func__.__defaults__[1].append(1.0), "forward.default1.len"),
    "other default arguments": (lambda m: _set(Net.forward, "__defaults__", (2.0, [0.0])), "forward.default0"),
    "a default by name": (lambda m: Net.forward.__kwdefaults__.update(extra=2.0), "forward.kwdefaults['extra']"),
    "other code, as an editor's reload puts it": (lambda m: _set(helper, "__code__", swapped.__code__), ":helper"),
    "an attribute of a function": (lambda m: _set(helper, "beta", 2.0), "helper.attributes['beta']"),
    "a number of its class": (lambda m: _set(Net, "level", 2.0), "m(Net).level"),
    "a method of its class": (lambda m: _set(Net, "forward", swapped), "m(Net).forward"),
    "a global read by a helper": (lambda m: _global("BETA", 2.0), ":BETA"),
    "an entry of a global": (lambda m: TABLE.update(beta=2.0), ":TABLE['beta']"),
    "a number of a global class": (lambda m: _set(Config, "beta", 2.0), ":Config.beta"),
    "a number read by a property": (lambda m: _set(Plain, "beta", 2.0), ".beta"),
    "a global module": (lambda m: _set(NETWORK, "weight", nn.Parameter(torch.ones(2, 2))), ":NETWORK"),
    "a global function": (lambda m: _global("helper", swapped), ":helper"),
    "a number in the caller's settings": (lambda m: _set(SETTINGS, "beta", 2.0), ":SETTINGS.beta"),
}


@pytest.fixture(autouse=True)
def globals_as_they_were(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the tests change of this file is put back."""
    monkeypatch.setitem(sys.modules, SETTINGS.__name__, SETTINGS)
    SETTINGS.beta = 1.0
    kept = {name: globals()[name] for name in ("BETA", "helper")}
    code = helper.__code__
    forward, defaults, by_name = Net.forward, Net.forward.__defaults__, dict(Net.forward.__kwdefaults__)
    weight = NETWORK.weight
    yield
    globals().update(kept)
    kept["helper"].__dict__.clear()
    kept["helper"].__code__ = code
    TABLE["beta"] = Config.beta = Plain.beta = Plain.__beta__ = Betas.beta = Net.level = 1.0
    Net.forward = forward
    defaults[1][:] = [0.0]
    forward.__defaults__ = defaults
    forward.__kwdefaults__.update(by_name)
    NETWORK.weight = weight


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen_and_named(name):
    change, path = CHANGES[name]
    module = Net()
    watch = Watch({"m": module})
    before = watch.key
    assert watch.unchanged()
    change(module)
    assert not watch.unchanged()
    found = watch.changes()
    assert any(path in place for place in found), found
    assert watch.key != before
    assert watch.unchanged()  # it has been looked at
    assert watch.changes() == []


def test_what_goes_back_has_the_key_that_it_had():
    """So a flag that goes to and fro finds its programs again."""
    module = Net()
    watch = Watch({"m": module})
    before = watch.key
    module.eval()
    assert watch.changes() != []
    module.train()
    assert watch.changes() != []
    assert watch.key == before


# what is behind a function


def closure() -> tuple[Any, Callable[..., None]]:
    beta, betas, network = 1.0, [1.0], nn.Linear(2, 2)

    def model(x: Tensor) -> Any:
        return inner(x) * beta

    def inner(x: Tensor) -> Any:
        return network(x) * betas[0]

    def change(what: str) -> None:
        nonlocal beta, network
        if what == "a number":
            beta = 2.0
        elif what == "an item":
            betas[0] = 2.0
        elif what == "a module":
            network = nn.Linear(2, 2)
        elif what == "its mode":
            network.eval()

    return model, change


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "a function": lambda model: model,
    "a partial": lambda model: functools.partial(model, 1),
    "a wrapper": lambda model: functools.wraps(model)(lambda x: None),
    "a handler of Pyro": lambda model: pyro.poutine.scale(model, scale=2.0),
    "a guide of Pyro": lambda model: AutoNormal(model),
    "enumeration": lambda model: pyro.infer.config_enumerate(model),
    "a list": lambda model: [model],
    "a method": lambda model: types.MethodType(lambda self, x: self(x), model),
    "an object that is called": lambda model: type(
        "Called", (), {"__call__": lambda self, x: self.f(x), "f": [model]}
    )(),
}


@pytest.mark.parametrize("what", ["a number", "an item", "a module", "its mode"])
@pytest.mark.parametrize("form", WRAPPED)
def test_a_closure_is_seen_through_what_wraps_it(form, what):
    model, change = closure()
    wrapped = WRAPPED[form](model)
    watch = Watch({"model": wrapped})
    change(what)
    assert not watch.unchanged()
    assert watch.changes() != []


def test_options_of_a_loss_are_seen():
    loss = Trace_ELBO()
    watch = Watch({"loss": loss.loss_and_grads})
    loss.num_particles = 3
    assert not watch.unchanged()
    assert watch.changes() == ["loss.num_particles"]


GENERATORS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "of numpy": (np.random.default_rng(0), lambda g: g.random()),
    "of Python": (random.Random(0), lambda g: g.random()),
    "of torch": (torch.Generator().manual_seed(0), lambda g: torch.rand(1, generator=g)),
}


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_draw_from_an_own_generator_is_a_change(kind):
    generator, draw = GENERATORS[kind]
    module = Net()
    module.generator = generator
    watch = Watch({"m": module})
    assert watch.changes() == []
    draw(generator)
    assert watch.changes() == ["m.generator"]


def test_buffers_are_those_of_every_module_behind_the_roots():
    module, other = Net(), nn.BatchNorm1d(3)

    def model(x: Tensor) -> Any:
        return other(module(x))

    found = Watch({"model": model}).buffers()
    assert {id(b) for b in found} == {id(b) for part in (module, other) for b in part.buffers()}


# what is no change


def steps_in_place(m: Net) -> None:
    with torch.no_grad():
        m.scalar.add_(1.0)
        m.shift.add_(1.0)
        m.constant.mul_(2.0)
    m.norm(torch.randn(5, 2))


def a_gradient(m: Net) -> None:
    m.linear(torch.ones(2)).sum().backward()


HARMLESS: dict[str, Callable[[Net], Any]] = {
    "tensors change in place": steps_in_place,
    "a gradient": a_gradient,
    "equal numbers": lambda m: _set(m, "beta", float("0.5")),
    "an equal string": lambda m: _set(m, "name", "".join(["s", "um"])),
    "an equal list": lambda m: _set(m, "items", [1.0, [2.0]]),
    "an equal dictionary": lambda m: _set(m, "table", {"a": 1.0, (0, 1): 2.0, "deep": {"list": [0.5]}}),
    "an equal set": lambda m: _set(m, "unordered", {2, 1}),
    "an equal dataclass": lambda m: _set(m, "options", Options()),
    "an equal array": lambda m: _set(m, "array", np.ones(3)),
    "a cache of a transform of torch": lambda m: _set(m.warp, "_cached_x_y", (torch.ones(2), torch.ones(2))),
    "a cache of a transform of Pyro": lambda m: _set(m.flow, "_cached_logDetJ", torch.ones(2)),
    "the rows of a plate": lambda m: _set(m.plate, "_indices", torch.arange(3)),
    "the mode that it has": lambda m: m.train(),
    "a hook of another kind": lambda m: m.register_state_dict_post_hook(lambda *_: None),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_the_same_is_no_change(name):
    module = Net()
    watch = Watch({"m": module})
    before = watch.key
    HARMLESS[name](module)
    assert watch.changes() == []
    assert watch.key == before
    assert watch.unchanged()


def test_the_same_lambda_made_anew_is_no_change():
    module = Net()

    def put(beta: float) -> None:
        module.own = lambda x: beta * x

    put(1.0)
    watch = Watch({"m": module})
    put(float("1.0"))
    assert watch.changes() == []
    put(2.0)
    assert watch.changes() == ["m.own.beta"]


TRANSFORMS = {
    "affine": lambda: T.affine_autoregressive(2, hidden_dims=[3]),
    "spline": lambda: T.spline_autoregressive(2, hidden_dims=[3], count_bins=3),
    "planar": lambda: T.planar(2),
}


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_caches_of_transforms_are_no_state(kind):
    transform = TRANSFORMS[kind]()
    flow = dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [transform])
    flow.log_prob(flow.rsample())
    watch = Watch({"flow": flow})
    for _ in range(2):
        flow.log_prob(flow.rsample())
        assert watch.changes() == []


def test_a_step_of_a_guide_of_pyro_is_no_change():
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pyro.get_param_store().scope({"params": {}, "constraints": {}}):
        guide, loss = AutoNormal(model), Trace_ELBO()
        loss.loss_and_grads(model, guide, torch.zeros(3))
        watch = Watch({"model": model, "guide": guide, "loss": loss.loss_and_grads})
        loss.loss_and_grads(model, guide, torch.zeros(3))
        assert watch.changes() == []


def test_what_a_caller_adds_to_classes_of_pyro_and_ours_is_watched():
    class Guide(AutoNormal):
        _prototype_weight = 1.0

    class Loss(ELBO):
        _unwatched = ("_weight",)
        _weight = 1.0

    guide, loss = Guide(lambda x: None), Loss()
    guide._prototype_scale = loss._calls_weight = loss._bare_weight = 1.0
    watch = Watch({"guide": guide, "loss": loss})
    for owner, name in ((guide, "_prototype_weight"), (guide, "_prototype_scale"), (loss, "_calls_weight")):
        setattr(owner, name, 2.0)
        assert len(watch.changes()) == 1
    loss._bare_weight = loss._weight = 2.0
    assert watch.changes() == ["loss._bare_weight", "loss._weight"]


@pytest.mark.parametrize("name", ["numpy_models", "numpyro_of_mine", "code", "profile"])
def test_a_file_of_the_caller_s_may_be_called_nearly_as_one_of_a_library(name, tmp_path, monkeypatch):
    path = tmp_path / f"{name}.py"
    path.write_text(
        "BETA = 1.0\n\nclass Model:\n    def __init__(self):\n        self.beta = 1.0\n\n"
        "    def __call__(self):\n        return BETA * self.beta\n"
    )
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    model = module.Model()
    watch = Watch({"model": model})
    model.beta = 2.0
    assert watch.changes() == ["model.beta"]
    module.BETA = 2.0
    assert watch.changes() == ["model(Model).__call__:BETA"]


def test_the_count_of_an_objective_is_no_state():
    objective = ELBO(beta=LinearWarmup(10))
    watch = Watch({"loss": objective.loss_and_grads})
    objective.end_call()
    assert watch.changes() == []


def test_an_optimizer_that_a_model_can_reach_is_no_state():
    """A class that holds its model, guide and optimizer together, as many scripts do."""

    class Experiment:
        def __init__(self) -> None:
            self.net = nn.Linear(2, 2)
            self.optimizer = torch.optim.Adam(self.net.parameters())
            self.pyro = pyro.optim.Adam({"lr": 0.1})

        def model(self, x: Tensor) -> Tensor:
            return self.net(x)

    experiment = Experiment()
    watch = Watch({"model": experiment.model})
    experiment.optimizer.param_groups[0]["lr"] = 0.5
    experiment.net(torch.ones(2)).sum().backward()
    experiment.optimizer.step()
    experiment.pyro.optim_objs["x"] = 1
    assert watch.unchanged()
    assert watch.changes() == []


def test_objects_that_refer_to_each_other_are_walked_once():
    module = Net()
    module.plain.back = module.plain
    module.items.append(module.items)
    watch = Watch({"m": module, "again": module})
    module.plain.gamma = 2.0
    assert watch.changes() == ["m.plain.gamma"]


class Awkward:
    """Names that a walk could take for another thing."""

    def __init__(self) -> None:
        self.func, self.keywords, self.beta = abs, None, 1.0

    def __eq__(self, other: object) -> bool:
        raise TypeError("not to be compared")

    __hash__ = None  # type: ignore[assignment]


def test_awkward_objects_are_walked():
    value = Awkward()
    watch = Watch({"value": value, "lazy": functools.cached_property(lambda self: 1)})
    assert watch.unchanged()
    value.beta = 2.0
    assert watch.changes() == ["value.beta"]


def test_a_variable_that_is_deleted_is_a_change():
    def outer() -> tuple[Any, Any]:
        beta = 1.0

        def model() -> float:
            return beta

        def forget() -> None:
            nonlocal beta
            del beta

        return model, forget

    model, forget = outer()
    watch = Watch({"model": model})
    forget()
    assert not watch.unchanged()
    assert watch.changes() == ["model.beta"]
