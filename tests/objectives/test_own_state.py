"""Baselines are part of a run: trained, guarded, checkpointed, resumed like the pair's own parameters and buffers."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from capture.tiny import own_store, run_by_torch
from runs import BATCH, PER_EPOCH, data, differences, latch, seeded, snapshot, state_in
from torch import nn

from ppl_vae import Alternating, CompiledSVI, Fit, KeepBest, Neural, Pair, RunningAverage, ScoreFunction, VariationalEM
from ppl_vae.training import NonFiniteError, ResumeError

DIM, LATENTS = 3, 4
TOTAL = 4 * PER_EPOCH


class Codes(nn.Module):
    """Binary codes of normal data."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with seeded(seed):
            self.encoder, self.decoder = nn.Linear(DIM, LATENTS), nn.Linear(LATENTS, DIM)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(logits=torch.zeros(LATENTS)).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(c), 0.5).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(logits=self.encoder(x)).to_event(1))


def nvil(seed: int = 0, *, decay: float = 0.9) -> ScoreFunction:
    """Both baselines, the network with a layer of running means."""
    with seeded(seed + 100):
        net = nn.Sequential(nn.Linear(DIM, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    return ScoreFunction((RunningAverage(decay), Neural(net)))


def run(steps: int, *, start: int = 0, rows=None, objective=None, em=None, **options) -> Fit:
    module = Codes(start)
    made = VariationalEM(module.model, module.guide, objective=objective or nvil(start), lr=0.05, **(em or {}))
    rows = data() if rows is None else rows
    return made.fit(rows, steps=steps, batch_size=BATCH, **{"seed": 1, "progress": False, **options})


def test_a_run_with_baselines_resumes_in_the_same_bits(tmp_path):
    whole = run(TOTAL)
    for leg, point in enumerate((3, 5, 9, TOTAL)):
        cut = run(point, start=leg, checkpoint=tmp_path, resume=True)
    assert differences(snapshot(whole), snapshot(cut)) == []
    assert differences(snapshot(whole), state_in(tmp_path)) == []
    held = [name for name in snapshot(whole)["tensors"] if "objective." in name]
    assert {"objective.baseline1.net.0.weight", "buffer.objective.baseline0.average"} <= set(held)
    assert "buffer.objective.baseline1.net.1.running_mean" in held


def test_the_twin_of_resuming_a_run_whose_average_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(ScoreFunction, "buffers", lambda self: {})
    whole = run(TOTAL)
    run(5, checkpoint=tmp_path)
    assert differences(snapshot(whole), snapshot(run(TOTAL, start=1, checkpoint=tmp_path, resume=True)))


def test_a_run_with_another_baseline_is_refused(tmp_path):
    run(3, checkpoint=tmp_path)
    with pytest.raises(ResumeError, match=r"decay=0\.9.* now .*decay=0\.5"):
        run(6, checkpoint=tmp_path, resume=True, objective=nvil(decay=0.5))


def poison(x):
    """Now and then (a function of the place in the run) one number of a batch becomes too big to be squared."""
    x = x.clone()
    if torch.rand(()) < 0.05:
        x[0, 0] = 2.0**127
    return x


POISONED = {"transform": poison, "seed": 2}


@pytest.mark.parametrize("path", ["plain", "latched"])
def test_a_bad_step_leaves_the_baselines_alone(path, monkeypatch):
    if path == "latched":
        latch(monkeypatch)

    with pytest.raises(NonFiniteError) as caught:
        run(40, **POISONED)
    fit = caught.value.fit
    assert fit.steps >= 4  # after steps in which the baselines have learned
    assert differences(snapshot(run(fit.steps, **POISONED)), snapshot(fit)) == []


def test_the_twin_of_the_guard_an_average_that_it_does_not_know(monkeypatch):
    def average(fit):
        return {name: buffer.clone() for name, buffer in fit.trainer.make.objective.buffers().items()}

    monkeypatch.setattr(
        "ppl_vae.training.gradient_step.buffers_by_name", lambda pair, objective: pair.buffers_by_name()
    )
    with pytest.raises(NonFiniteError) as caught:
        run(40, **POISONED)
    assert differences(average(run(caught.value.fit.steps, **POISONED)), average(caught.value.fit))


def test_baselines_move_with_the_e_step_alone():
    fit = run(6, em={"schedule": Alternating(e_steps=1, m_steps=2)})
    leaves = {name: state for name, state in snapshot(fit)["optimizer"]["state"].items() if "baseline" in name}
    assert len(leaves) == 6 and all(float(state["step"]) == 2 for state in leaves.values())


def test_the_best_epoch_brings_its_baselines_back():
    fit = run(4 * PER_EPOCH, callbacks=[KeepBest(metric="elbo")])
    best = int(fit.history["elbo"].idxmax())
    expected = snapshot(run((best + 1) * PER_EPOCH))["tensors"]
    assert differences(expected, {k: v.detach() for k, v in fit.trainer.tensors().items()}) == []


def test_baselines_take_the_precision_of_the_pair():
    objective = nvil()
    fit = run(3, rows=data(dtype=torch.float64), objective=objective, em={"dtype": torch.float64})
    own = {**objective.parameters(), **objective.buffers()}
    assert {t.dtype for t in own.values() if t.is_floating_point()} == {torch.float64}
    assert {id(t) for t in own.values()} <= {id(t) for t in fit.trainer.tensors().values()}


def test_training_with_baselines_raises_the_elbo():
    module = Codes()
    em = VariationalEM(module.model, module.guide, objective=nvil(), lr=0.02)
    fit = em.fit(data(200), epochs=60, batch_size=50, progress=False)
    assert fit.history["elbo"].iloc[-5:].mean() > fit.history["elbo"].iloc[:5].mean() + 1


# -- by hand, and as a Pyro loss ---------------------------------------------------------------------------------------


def test_steps_by_hand_train_the_baselines():
    module, objective = Codes(), nvil()
    em = VariationalEM(module.model, module.guide, objective=objective, lr=0.05)
    before = copy.deepcopy(objective.parameters())
    em.m_step(data())
    assert all(torch.equal(before[name], leaf) for name, leaf in objective.parameters().items())
    em.e_step(data())
    assert all(not torch.equal(before[name], leaf) for name, leaf in objective.parameters().items())
    assert float(objective.buffers()["baseline0.weight"]) == pytest.approx(1 - 0.9**2)


def own(objective: ScoreFunction) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in {**objective.parameters(), **objective.buffers()}.items()}


def of_pyro(module, objective):
    return pyro.optim.Adam({"lr": 0.02, "fused": True})


def of_torch(module, objective):
    return torch.optim.Adam([*module.parameters(), *objective.parameters().values()], lr=0.02)


def svi_steps(kind, count: int = 12, optim=of_pyro) -> tuple[list[float], dict[str, torch.Tensor], list[str]]:
    """Losses, everything that has moved, and how the steps were made."""
    module, objective = Codes(), nvil()
    with own_store(), seeded(7):
        svi = kind(module.model, module.guide, optim(module, objective), objective)
        losses = [svi.step(data()) for _ in range(count)]
        svi.evaluate_loss(data())
        how = [record.status for record in svi.explain().rows] if isinstance(svi, CompiledSVI) else []
    pair = {f"pair.{name}": leaf.detach().clone() for name, leaf in module.named_parameters()}
    return losses, {**own(objective), **pair}, how


def test_pyros_svi_trains_the_baselines():
    before = own(nvil())
    losses, after, _ = svi_steps(pyro.infer.SVI, 30)
    assert sum(losses[-5:]) < sum(losses[:5])
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_compiled_svi_trains_the_baselines_as_pyros_does(monkeypatch):
    """The graph, run by torch: the same losses, parameters and buffers to the bit."""
    run_by_torch(monkeypatch)
    expected = svi_steps(pyro.infer.SVI)
    ours = svi_steps(partial(CompiledSVI, mode="require"))
    assert ours[2] == ["compiled"]
    assert ours[0] == expected[0] and differences(ours[1], expected[1]) == []
    theirs = svi_steps(partial(CompiledSVI, mode="require"), optim=of_torch)
    assert theirs[2] == ["compiled"]
    for name, value in expected[1].items():
        torch.testing.assert_close(theirs[1][name], value, rtol=1e-4, atol=1e-5)


def test_a_torch_optimizer_that_misses_a_baseline_is_refused():
    with pytest.raises(ValueError, match="must hold every parameter of model and guide"):
        svi_steps(CompiledSVI, 1, optim=lambda module, objective: torch.optim.Adam(module.parameters()))


def test_a_compiled_fit_trains_the_baselines(monkeypatch):
    """By the graph, run by torch: the bits of the eager fit."""
    run_by_torch(monkeypatch)
    eager, compiled = (run(TOTAL, em={"compile": choice}) for choice in (False, True))
    assert "compiled" in {record.status for record in compiled.explain().rows}
    assert differences(snapshot(eager)["tensors"], snapshot(compiled)["tensors"]) == []


def test_an_objective_that_has_served_can_be_copied_and_pickled():
    module, objective = Codes(), nvil()
    with pyro.get_param_store().scope():
        objective.loss_and_grads(module.model, module.guide, data())
    for leaf in objective.parameters().values():
        pickle.loads(pickle.dumps(leaf))
    copy.deepcopy(objective.baselines)


def test_a_differentiable_loss_has_the_gradient_of_the_baselines_too():
    module, objective = Codes(), nvil()
    with pyro.get_param_store().scope():
        objective.differentiable_loss(module.model, module.guide, data()).backward()
    for leaf in (*module.parameters(), *objective.parameters().values()):
        assert leaf.grad is not None and bool(leaf.grad.ne(0).any())


@pytest.mark.parametrize("kind", [pyro.infer.SVI, CompiledSVI])
def test_an_optimizer_of_pyro_knows_the_baselines_by_name(kind):
    """Options by name, and a state that another process loads."""

    def made(seed: int):
        module = Codes(seed)
        optim = pyro.optim.Adam(lambda name: {"lr": 0.1 if name.startswith("objective.baseline1") else 0.02})
        return kind(module.model, module.guide, optim, nvil(seed))

    with own_store(), seeded(0):
        svi = made(0)
        svi.step(data())
        names = {f"objective.{name}" for name in svi.loss_and_grads.__self__.parameters()}
        assert names <= set(svi.optim.get_state()) and None not in svi.optim.get_state()
        state = svi.optim.get_state()
    with own_store(), seeded(0):
        again = made(1)
        again.optim.set_state(state)
        again.step(data())
        assert {float(s["state"][0]["step"]) for s in again.optim.get_state().values()} == {2.0}


def test_methods_of_a_module_are_looked_at_once(monkeypatch):
    """A bound method is another object at each access; the pair behind it is the same."""
    looks = []
    bare = Pair.bare
    monkeypatch.setattr(Pair, "bare", lambda *args, **options: looks.append(args) or bare(*args, **options))
    module, objective = Codes(), nvil()
    with own_store():
        for _ in range(3):
            objective.loss_and_grads(module.model, module.guide, data())
        assert len(looks) == 1
        other = Codes()
        objective.loss_and_grads(other.model, other.guide, data())
    assert len(looks) == 2
