"""Leaves that a graph must not forget: without an announcement, without a gradient, hooked, of another shape."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from capture.tiny import DIM, LATENT, ROWS, own_store, rows, run_by_torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ppl_vae import CompiledSVI
from ppl_vae.capture import FallbackWarning

X = rows(ROWS)
Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def by_torch(monkeypatch):
    run_by_torch(monkeypatch)


def guide(x: Tensor) -> None:
    slope = pyro.param("slope", 0.1 * torch.ones(DIM, LATENT))
    scale = pyro.param("scale", torch.ones(LATENT), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ slope, scale).to_event(1))


def model_of(mean: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(mean(z), 1.0).to_event(1), obs=x)

    return model


def weighted(z: Tensor) -> Tensor:
    return z @ pyro.param("weight", 0.1 * torch.ones(LATENT, DIM))


def adam() -> Any:
    return pyro.optim.Adam({"lr": 0.05})


def outcome(kind: type[SVI], scenario: Callable[[Make], list[float]]) -> tuple[list[float], dict[str, Tensor]]:
    def make(model: Any, guide: Any, optim: Any) -> Any:
        return kind(model, guide, optim, Trace_ELBO(), **({"wait": True} if kind is CompiledSVI else {}))

    with own_store(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        torch.manual_seed(3)
        losses = scenario(make)
        leaves = pyro.get_param_store()._params
        return losses, {name: leaf.detach().clone() for name, leaf in leaves.items()}


def agree(scenario: Callable[[Make], list[float]]) -> None:
    expected, leaves = outcome(SVI, scenario)
    losses, found = outcome(CompiledSVI, scenario)
    assert losses == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for name, leaf in leaves.items():
        torch.testing.assert_close(found[name], leaf, rtol=1e-4, atol=1e-5)


# without an announcement


def test_a_network_that_is_no_part_of_the_store_gets_its_gradients():
    def scenario(make: Make) -> list[float]:
        decoder, losses = nn.Linear(LATENT, DIM), []
        svi, optimizer = make(model_of(decoder), guide, adam()), torch.optim.SGD(decoder.parameters(), lr=0.01)
        for _ in range(20):
            losses.append(svi.step(X))
            optimizer.step()
            optimizer.zero_grad()
        return [*losses, *decoder.weight.flatten().tolist()]

    agree(scenario)


@pytest.mark.parametrize("is_kept", [True, False])
def test_gradients_of_the_data_add_up(is_kept):
    def scenario(make: Make) -> list[float]:
        svi, x, sums = make(model_of(weighted), guide, adam()), X.clone().requires_grad_(), []
        for _ in range(12):
            svi.step(x)
            sums += x.grad.flatten().tolist()
            x.grad = x.grad if is_kept else None
        return sums

    agree(scenario)


def test_two_loops_that_hide_parameters_from_each_other():
    """The gradients of hidden parameters stay, in Pyro, until the other loop's optimizer takes them."""

    def scenario(make: Make) -> list[float]:
        hide = {"hide_types": ["param"]}
        e = make(poutine.block(model_of(weighted), **hide), guide, adam())
        m = make(model_of(weighted), poutine.block(guide, **hide), adam())
        return [loss for _ in range(20) for loss in (e.step(X), m.step(X))]

    agree(scenario)


@pytest.mark.parametrize("mode", ["eager", "require"])
def test_an_optimizer_of_torch_moves_all_that_it_holds(mode):
    with own_store():
        torch.manual_seed(3)
        Trace_ELBO().loss(model_of(weighted), guide, X)
        extra = nn.Parameter(torch.ones(3))
        optimizer = torch.optim.SGD([*pyro.get_param_store()._params.values(), extra], lr=0.01)
        svi = CompiledSVI(model_of(weighted), guide, optimizer, Trace_ELBO(), mode=mode)
        for _ in range(10):
            (extra**2).sum().backward()
            svi.step(X)
            extra.grad = None
    torch.testing.assert_close(extra.detach(), torch.full((3,), 0.98**10))


# without a gradient


@pytest.mark.parametrize(
    "optim",
    [adam, lambda: pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.9})],
    ids=["Adam", "ClippedAdam, whose rate decays with or without one"],
)
def test_a_parameter_that_rests_moves_and_rests_again(optim):
    def scenario(make: Make) -> list[float]:
        switch = SimpleNamespace(is_on=False)

        def mean(z: Tensor) -> Tensor:
            shift = pyro.param("shift", torch.ones(DIM))
            return weighted(z) + (shift if switch.is_on else shift.detach())

        svi, losses = make(model_of(mean), guide, optim()), []
        for switch.is_on, steps in ((False, 20), (True, 3), (False, 10), (True, 3)):
            losses += [svi.step(X) for _ in range(steps)]
        return losses

    agree(scenario)


# hooked


@pytest.mark.parametrize("at", [1, 20])
def test_hooks_of_parameters_in_the_store_are_called(at):
    def scenario(make: Make) -> list[float]:
        svi, norms = make(model_of(weighted), guide, adam()), []
        losses = [svi.step(X) for _ in range(at)]
        leaf = pyro.param("weight").unconstrained()
        leaf.register_hook(lambda grad: norms.append(grad.norm()))
        hook = leaf.register_hook(lambda grad: 0.1 * grad)
        losses += [svi.step(X) for _ in range(10)]
        hook.remove()
        return [*losses, *(svi.step(X) for _ in range(3)), *map(float, norms)]

    agree(scenario)


def test_a_parameter_of_the_store_that_is_frozen_has_no_gradient():
    def scenario(make: Make) -> list[float]:
        svi = make(model_of(weighted), guide, pyro.optim.SGD({"lr": 0.05}))
        losses = [svi.step(X) for _ in range(20)]
        leaf = pyro.param("weight").unconstrained()
        leaf.requires_grad_(False)
        losses += [svi.step(X) for _ in range(3)]
        leaf.requires_grad_(True)
        return losses + [svi.step(X) for _ in range(3)]

    agree(scenario)


@pytest.mark.parametrize("first", [0, 12])
def test_a_hook_of_every_optimizer_is_called(first):
    calls: list[Any] = []
    with own_store():
        svi = CompiledSVI(model_of(weighted), guide, adam(), Trace_ELBO(), mode="require")
        for _ in range(first):
            svi.step(X)
        hook = register_optimizer_step_post_hook(lambda *_: calls.append(None))
        try:
            for _ in range(12):
                svi.step(X)
        finally:
            hook.remove()
    assert len(calls) == 12 * 3


# of another shape, and errors


@pytest.mark.parametrize("change", ["longer", "shorter", "another type", "resized"])
def test_a_tensor_that_has_become_another_is_seen(change):
    def scenario(make: Make) -> list[float]:
        y = torch.ones(ROWS)

        def model(x: Tensor) -> None:
            loc = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", len(y)):
                pyro.sample("y", dist.Normal(loc, 1.0), obs=y.float())

        def mean_field(x: Tensor) -> None:
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))

        svi = make(model, mean_field, adam())
        losses = [svi.step(X) for _ in range(20)]
        if change == "resized":
            y.resize_(3)
        else:
            y.data = {"longer": torch.arange(9.0), "shorter": torch.ones(2), "another type": y.double() * 3}[change]
        return losses + [svi.step(X) for _ in range(3)]

    agree(scenario)


def test_a_draw_that_breaks_a_step_breaks_it_as_in_pyro():
    """An error by the noise of a step: it is raised, and not made up for with other noise."""

    def mean(z: Tensor) -> Tensor:
        return weighted(z @ torch.linalg.cholesky(torch.eye(LATENT) * (z.mean() + 0.5)))

    def scenario(make: Make) -> list[float]:
        svi, losses = make(model_of(mean), guide, adam()), []
        for _ in range(60):
            try:
                losses.append(svi.step(X))
            except (torch.linalg.LinAlgError, RuntimeError):
                losses.append(-1.0)
        assert 0 < losses.count(-1.0) < 30
        return losses

    agree(scenario)
