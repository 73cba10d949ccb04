"""What Pyro's own test suite has shown (``make conformance``), as small as it goes."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from capture.gates import eagerly, own_store, traced
from pyro.infer import EnergyDistance, JitTrace_ELBO, JitTraceMeanField_ELBO, Trace_ELBO
from torch import Tensor

from ppl_vae import CompiledSVI
from ppl_vae.capture import CaptureError, capture, shims

X = torch.linspace(-1.0, 1.0, 6)
JIT = "ignore:.*torch.jit.*is deprecated:DeprecationWarning"


def model(x: Tensor) -> None:
    loc = pyro.param("loc", torch.tensor(0.5))
    z = pyro.sample("z", dist.Normal(loc, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(pyro.param("q", torch.tensor(0.1)), 1.0))


def both(loss):
    """A traced call and an eager one, from one state, after a step."""
    svi = CompiledSVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss)
    svi.step(X)
    program, inputs = svi.program((X,), {})
    ours, reference = traced(program, inputs), eagerly(program, inputs)
    assert not program.given_up, program.record.reason
    return ours, reference


@pytest.mark.filterwarnings(JIT)
def test_a_loss_for_torch_jit_goes_into_the_graph():
    with own_store():
        ours, reference = both(JitTrace_ELBO(ignore_jit_warnings=True))
    assert ours.error(reference) < 1e-6 and ours.state.same_noise(reference.state)


@pytest.mark.filterwarnings(JIT)
def test_torch_jit_still_works_after_a_loss_that_compiles_in_every_call():
    with own_store():
        ours, _ = both(JitTraceMeanField_ELBO(ignore_jit_warnings=True))  # once, it traced inside the trace
        assert ours is not None
    doubled = torch.jit.trace(lambda x: x + x.expand(6), (X,))
    assert torch.equal(doubled(X), X + X)


def test_a_second_trace_inside_is_refused():
    with pytest.raises(CaptureError, match=r"it calls torch\.jit\.trace"):
        capture(lambda x: [torch.jit.trace(torch.exp, (x,))(x)], [X])


def test_the_pairs_of_draws_of_the_energy_distance_are_constants():
    with own_store():
        ours, reference = both(EnergyDistance(num_particles=3))
    assert all(ours.same_bits(reference).values())


def test_places_that_depend_on_data_are_refused():
    with pytest.raises(CaptureError, match="a shape depends on data"):
        capture(lambda x: [x[x.relu().nonzero(as_tuple=False)]], [X])


def test_an_assert_of_a_model_holds_in_the_traced_call():
    def checked(x: Tensor) -> list[Tensor]:
        assert (x < 2).all(), "too large"
        return [x.exp()]

    values, graph = capture(checked, [X])
    assert torch.equal(values[0], X.exp()) and torch.equal(graph([X + 5])[0], (X + 5).exp())
    with pytest.raises(CaptureError, match="tracing it raised AssertionError: too large"):
        capture(checked, [X + 5])


def test_a_branch_is_no_assert():
    with pytest.raises(CaptureError, match="it looks at the value of a tensor"):
        capture(lambda x: [x.exp() if (x < 2).all() else x], [X])


def test_a_graph_has_a_largest_size(monkeypatch):
    def long(x: Tensor) -> list[Tensor]:
        for _ in range(40):
            x = x + 1
        return [x]

    assert capture(long, [X])[1].num_nodes == 40
    monkeypatch.setattr(shims, "MOST_OPERATIONS", 20)
    with pytest.raises(CaptureError, match="it makes more than 20 operations, too many for one graph"):
        capture(long, [X])


def test_a_step_that_is_too_long_stays_eager(monkeypatch):
    monkeypatch.setattr(shims, "MOST_OPERATIONS", 5)
    with own_store():
        svi = CompiledSVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO(), mode="require")
        svi.step(X)
        with pytest.raises(CaptureError, match="too many for one graph"):
            svi.step(X)
