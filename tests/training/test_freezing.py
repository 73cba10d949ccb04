"""What a step does not move keeps every bit: parameters, running means, optimizer state."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import function_pair
from pyro.infer import Trace_ELBO
from runs import BATCH, Run, data, differences, snapshot

from ppl_vae import IWAE, Alternating, Callback, VariationalEM
from ppl_vae.training import GradientStep

OPTIMIZERS = {
    "Adam": torch.optim.Adam,
    "AdamW": partial(torch.optim.AdamW, weight_decay=0.1),  # it shrinks a weight even where the gradient is zero
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "RMSprop": torch.optim.RMSprop,
    "ClippedAdam": pyro.optim.clipped_adam.ClippedAdam,
}


def sides(state) -> dict[str, dict]:
    """The state of a run by side: what belongs to the model, and what to the guide."""
    found: dict[str, dict] = {"model": {}, "guide": {}}
    for name, tensor in state["tensors"].items():
        found["guide" if "guide." in name or name in ("slope", "spread") else "model"][name] = tensor
    for name, values in state["optimizer"]["state"].items():
        found["guide" if "guide." in name or name in ("slope", "spread") else "model"]["state of " + name] = values
    return found


class Watch(Callback):
    """After each step: did the state of each side change?"""

    def __init__(self) -> None:
        self.before: dict = {}
        self.moved: list[tuple[bool, bool]] = []

    def on_start(self, run) -> None:
        self.before = self._sides(run)

    def on_step(self, run, report) -> None:
        now = self._sides(run)
        self.moved.append(tuple(bool(differences(self.before[side], now[side])) for side in ("model", "guide")))
        self.before = now

    def _sides(self, run):
        from ppl_vae.storage import decode_tree, encode_tree

        return sides(decode_tree(encode_tree(run.state())))


def moved_by(run: Run, steps: int = 12) -> list[tuple[bool, bool]]:
    watch = Watch()
    run(steps, callbacks=[watch])
    return watch.moved


E, M = (False, True), (True, False)
SCHEDULES = {
    "one and one": (Alternating(), [E, M]),
    "two and one": (Alternating(e_steps=2, m_steps=1), [E, E, M]),
    "one and three": (Alternating(e_steps=1, m_steps=3), [E, M, M, M]),
    "E alone": (Alternating(e_steps=1, m_steps=0), [E]),
    "M alone": (Alternating(e_steps=0, m_steps=1), [M]),
    "joint": (None, [(True, True)]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_alternating_moves_one_side_and_not_one_bit_of_the_other(name):
    schedule, pattern = SCHEDULES[name]
    moved = moved_by(Run(em={"schedule": schedule}))
    assert moved == (pattern * 12)[:12]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_optimizer_moves_the_side_that_rests(optimizer):
    run = Run(em={"schedule": Alternating(2, 2), "optimizer": OPTIMIZERS[optimizer], "lr": 0.01})
    assert moved_by(run) == [E, E, M, M] * 3


OBJECTIVES = {"iwae": IWAE(2), "dreg": IWAE(2, gradient="dreg"), "a loss of Pyro": Trace_ELBO()}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_objective_moves_the_side_that_rests(objective):
    assert moved_by(Run(em={"schedule": Alternating(), "objective": OBJECTIVES[objective]}), 6) == [E, M] * 3


def test_functions_rest_too():
    run = Run(pair=lambda start: function_pair(), em={"schedule": Alternating(), "clip_norm": 0.1})
    assert moved_by(run, 6) == [E, M] * 3


def test_what_both_sides_hold_moves_in_the_m_step():
    def model(x):
        shift = pyro.param("shift", torch.zeros(3))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + shift, 1.0).to_event(1), obs=x)

    def guide(x):
        shift, own = pyro.param("shift", torch.zeros(3)), pyro.param("own", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x - shift + own, 0.7).to_event(1))

    em = VariationalEM(model, guide, lr=0.1)
    em.e_step(data())
    assert (em.pair.params["shift"] == 0).all()
    assert (em.pair.params["own"] != 0).all()
    own = em.pair.params["own"]
    em.m_step(data())
    assert (em.pair.params["shift"] != 0).all()
    assert torch.equal(em.pair.params["own"], own)


def test_steps_by_hand_freeze_as_the_schedule_does():
    """Three lines of one's own: the E- and M-steps of ``Alternating``, to the bit."""
    run = Run(em={"schedule": Alternating(e_steps=2, m_steps=1)}, fit={})
    em = VariationalEM(*run.pair(0), lr=0.05)
    for t in range(7):
        (em.m_step if t % 3 == 2 else em.e_step)(data())
    again = VariationalEM(*run.pair(0), lr=0.05, schedule=Alternating(e_steps=2, m_steps=1))
    for _ in range(7):
        again.step(data())
    whole = run(7)
    for fit in (em.result(), again.result()):
        assert differences(fit.parameters_by_name(), whole.parameters_by_name()) == []
        assert differences(fit.buffers_by_name(), whole.buffers_by_name()) == []


# the law can fail


def _gradients_for_all(patch):
    kept = GradientStep.moving_leaves
    patch.setattr(GradientStep, "moving_leaves", lambda self, moving=None: kept(self))


def _running_means_go_on(patch):
    patch.setattr(GradientStep, "_buffers_of_resting", lambda self, moving: [])


def _zeros_instead_of_nothing(patch):
    kept = GradientStep.clip

    def clip(self, moving):
        for leaf in self.everything():
            leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        return kept(self, moving)

    patch.setattr(GradientStep, "clip", clip)


PLANTS = {
    "gradients for everybody": _gradients_for_all,
    "running means go on": _running_means_go_on,
    "a zero gradient instead of none": _zeros_instead_of_nothing,
}


@pytest.mark.parametrize("plant", PLANTS)
def test_the_law_fails_when_the_resting_side_is_touched(plant, monkeypatch):
    PLANTS[plant](monkeypatch)
    assert moved_by(Run(em={"schedule": Alternating()}), 6) != [E, M] * 3


def test_the_watch_sees_one_bit():
    state = snapshot(Run(fit={"batch_size": BATCH})(2))
    other = snapshot(Run(fit={"batch_size": BATCH})(2))
    assert differences(sides(state), sides(other)) == []
    name = "buffer.model.decoder.1.running_mean"
    other["tensors"][name][0] = torch.nextafter(other["tensors"][name][0], torch.tensor(9.0))
    assert differences(sides(state)["model"], sides(other)["model"]) == [f"/{name}"]
