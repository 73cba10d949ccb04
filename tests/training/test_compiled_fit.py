"""A compiled fit is the fit: the same history, the same bits for one seed, the same end after a resume."""

from __future__ import annotations

import functools
import math
import os
import re
import signal
from functools import partial
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from capture.tiny import asked_for_in_trace, little_garbage, never_done, run_by_torch
from pairs import function_pair
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from runs import BATCH, PER_EPOCH, Run, data, differences, networks, plain, same_bits, snapshot, state_in
from torch import Tensor
from torch.optim import lr_scheduler

from ppl_vae import IWAE, Alternating, Callback, KeepBest, VariationalEM
from ppl_vae.capture import CaptureError, FallbackWarning
from ppl_vae.data.batches import SourceBatches
from ppl_vae.models import VAE
from ppl_vae.objectives import ELBO, LinearWarmup
from ppl_vae.training import EachStep, NonFiniteError, compilation

SWITCH = PER_EPOCH  # the first step after the first epoch
TOTAL = 6 * PER_EPOCH
LAST = 2  # rows of the last batch of an epoch


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with little_garbage():
        yield


@pytest.fixture
def by_torch(monkeypatch):
    """Graphs are run by torch: all but the compiler, in milliseconds, and to the bit."""
    return run_by_torch(monkeypatch)


def marked(n: int, outputs: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """Rounded otherwise than the eager step, as compiled arithmetic is: so it shows which steps were compiled."""
    return [out * (1 + 2**-20) if out.is_floating_point() else out for out in outputs]


@pytest.fixture
def otherwise_rounded(monkeypatch):
    return run_by_torch(monkeypatch, marked)


def compiled(run: Run, steps: int = TOTAL, choice: Any = True, **options: Any) -> Any:
    return Run(**{**vars(run), "em": {**run.em, "compile": choice}})(steps, **options)


def status(fit: Any) -> dict[str, str]:
    return {record.signature: record.status for record in fit.explain().rows}


def without_choice(fit: Any) -> Any:
    """The state of a run but for what says how its steps were made."""
    state = snapshot(fit)
    fingerprint = {key: value for key, value in state["fingerprint"].items() if key != "compile"}
    return {**state, "fingerprint": fingerprint, "compiled": None}


class InterruptsAt(Callback):
    """Ctrl-C after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: Any, report: Any) -> None:
        if run.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


RUNS = {
    "plain": Run(pair=plain),
    "running means and dropout": Run(),
    "alternating": Run(em={"schedule": Alternating(e_steps=2, m_steps=1)}),
    "warm-up": Run(em={"objective": ELBO(beta=LinearWarmup(10), free_bits=0.1)}),
    "clipped": Run(em={"clip_norm": 0.05}),
    "cosine by step": Run(em={"lr_scheduler": EachStep(partial(lr_scheduler.CosineAnnealingLR, T_max=TOTAL))}),
    "milestones by epoch": Run(em={"lr_scheduler": partial(lr_scheduler.MultiStepLR, milestones=[1, 3], gamma=0.5)}),
    "two rates": Run(pair=plain, em={"e_lr": 0.1, "m_lr": 0.01}),
    "iwae": Run(em={"objective": IWAE(3)}),
    "a loss of Pyro": Run(em={"objective": Trace_ELBO()}),
    "another loss of Pyro": Run(em={"objective": TraceMeanField_ELBO(num_particles=2)}),
    "functions": Run(pair=lambda start: function_pair()),
    "all rows at once": Run(fit={}),
    "float64": Run(em={"dtype": torch.float64}),
    "momentum": Run(em={"optimizer": partial(torch.optim.SGD, momentum=0.9, nesterov=True), "lr": 0.01}),
    "decaying optimizer of Pyro": Run(em={"optimizer": pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.95})}),
    "RMSprop": Run(em={"optimizer": torch.optim.RMSprop, "lr": 0.01}),
    "validation": Run(fit={"batch_size": BATCH, "validation": data(9, seed=5)}),
    "one row left": Run(rows=lambda: data(3 * BATCH)),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_graph_makes_the_fit_to_the_bit(name, by_torch):
    run = RUNS[name]
    eager, ours = compiled(run, choice=False), compiled(run)
    assert differences(without_choice(eager), without_choice(ours)) == []
    assert eager.history.equals(ours.history)
    assert "compiled" in status(ours).values()
    assert len(by_torch) == (2 if name == "alternating" else 1)


# The loss does not depend on these: their gradients are rounding errors, of which Adam makes whole steps.
BEFORE_A_NORM = ("model.decoder.0.bias", "guide.encoder.0.bias")


@pytest.mark.parametrize("name", ["plain", "running means and dropout", "alternating"])
def test_a_compiled_fit_has_the_history_of_the_eager_one(name):
    run = RUNS[name]
    eager, ours = compiled(run, choice=False), compiled(run)
    assert "compiled" in status(ours).values()
    assert list(eager.history) == list(ours.history)
    np.testing.assert_allclose(ours.history.to_numpy(float), eager.history.to_numpy(float), rtol=1e-5, atol=1e-6)
    for key, leaf in eager.params.items():
        if key not in BEFORE_A_NORM:
            torch.testing.assert_close(ours.params[key], leaf, rtol=1e-4, atol=1e-5)
    assert not all(torch.equal(ours.params[key], leaf) for key, leaf in eager.params.items())  # it was compiled


def test_the_compiled_steps_are_those_after_the_first_epoch(otherwise_rounded):
    fit = compiled(RUNS["plain"])
    usual, last = fit.explain().rows
    assert usual.signature == f"float32[{BATCH}, 3] -> phi+psi+shared+theta"
    assert last.signature == f"float32[{LAST}, 3] -> phi+psi+shared+theta"
    assert (usual.status, usual.eager_steps, usual.graph_steps) == ("compiled", 3, 1)
    assert usual.compiled_steps == 5 * 3 - 1
    assert (last.status, last.eager_steps, last.compiled_steps) == ("eager", 6, 0)
    first, rest = compiled(RUNS["plain"], SWITCH, choice=False), compiled(RUNS["plain"], SWITCH)
    assert differences(without_choice(first), without_choice(rest)) == []
    assert differences(without_choice(compiled(RUNS["plain"], choice=False)), without_choice(fit)) != []


def test_each_phase_of_a_schedule_has_its_program(otherwise_rounded):
    fit = compiled(RUNS["alternating"], 10 * PER_EPOCH)
    assert status(fit) == {
        f"float32[{BATCH}, 3] -> phi+psi": "compiled",
        f"float32[{BATCH}, 3] -> shared+theta": "compiled",
        f"float32[{LAST}, 3] -> phi+psi": "eager",
        f"float32[{LAST}, 3] -> shared+theta": "eager",
    }


def test_a_side_that_rests_keeps_every_bit_of_its_parameters_and_running_means(by_torch):
    """Also in compiled steps, whose forward pass goes through both sides."""
    changes: list[tuple[str, set[str]]] = []

    class Sees(Callback):
        before: dict[str, Tensor] | None = None

        def on_step(self, run: Any, report: Any) -> None:
            now = {name: tensor.detach().clone() for name, tensor in run.tensors().items()}
            if self.before is not None:
                moved = {
                    n.removeprefix("buffer.").partition(".")[0] for n in now if not same_bits(now[n], self.before[n])
                }
                changes.append(("+".join(sorted(run.make.moves(run.step - 1))), moved))
            self.before = now

    compiled(RUNS["alternating"], callbacks=[Sees()])
    assert {phase for phase, _ in changes} == {"phi+psi", "shared+theta"}
    assert all(moved == {"guide" if phase == "phi+psi" else "model"} for phase, moved in changes)


# one seed, one result


@pytest.mark.parametrize("name", ["running means and dropout", "alternating", "warm-up", "decaying optimizer of Pyro"])
def test_two_fits_of_one_seed_are_the_same_to_the_bit(name, otherwise_rounded):
    first, second = compiled(RUNS[name]), compiled(RUNS[name])
    assert differences(snapshot(first), snapshot(second)) == []
    other = compiled(RUNS[name], seed=1)
    assert differences(snapshot(first)["tensors"], snapshot(other)["tensors"]) != []


def test_two_compiled_fits_of_one_seed_are_the_same_to_the_bit():
    first, second = compiled(RUNS["running means and dropout"]), compiled(RUNS["running means and dropout"])
    assert differences(snapshot(first), snapshot(second)) == []
    assert "compiled" in status(second).values()


POINTS = {
    "before": [2],
    "just before": [SWITCH - 1],
    "at": [SWITCH],
    "just after": [SWITCH + 1],
    "before a comparison": [SWITCH + 2],
    "in the middle of an epoch": [SWITCH + 5],
    "later": [TOTAL - 3],
    "everywhere": [*range(1, TOTAL, 2)],
    "twice": [SWITCH - 1, SWITCH + 1],
}
QUICK = {
    ("running means and dropout", "before"),
    ("running means and dropout", "just before"),
    ("running means and dropout", "at"),
    ("running means and dropout", "just after"),
    ("running means and dropout", "later"),
    ("alternating", "at"),
    ("alternating", "in the middle of an epoch"),
    ("warm-up", "just after"),
    ("clipped", "before a comparison"),
    ("cosine by step", "twice"),
    ("momentum", "just after"),
    ("a loss of Pyro", "just after"),
}
RESUMED = [
    pytest.param(name, where, marks=[] if (name, where) in QUICK else [pytest.mark.slow])
    for name in dict.fromkeys(name for name, _ in sorted(QUICK))
    for where in POINTS
]


@functools.cache
def whole(name: str) -> tuple[Any, Any]:
    """The state and history of an uninterrupted run whose compiled steps are marked."""
    fit = compiled(RUNS[name])
    return snapshot(fit), fit.history


@pytest.mark.parametrize(("name", "where"), RESUMED)
def test_a_fit_resumed_around_the_switch_ends_in_the_same_bits(name, where, otherwise_rounded, tmp_path):
    for leg, point in enumerate([*POINTS[where], TOTAL]):
        cut = compiled(RUNS[name], point, folder=tmp_path, resume=True, start=leg)
    expected, history = whole(name)
    assert differences(expected, snapshot(cut)) == []
    assert differences(expected, state_in(tmp_path)) == []
    assert history.equals(cut.history)


@pytest.mark.parametrize("where", ["just before", "at", "just after", "later"])
def test_a_compiled_fit_resumed_around_the_switch_ends_in_the_same_bits(where, tmp_path):
    """With the compiler's own rounding in place of the marked one."""
    run = RUNS["running means and dropout"]
    whole = compiled(run)
    for leg, point in enumerate([*POINTS[where], TOTAL]):
        cut = compiled(run, point, folder=tmp_path, resume=True, start=leg)
    assert differences(snapshot(whole), snapshot(cut)) == []


def test_a_resume_that_chooses_anew_breaks_the_law(otherwise_rounded, tmp_path, monkeypatch):
    """The negative twin: a fresh process that waits for its own second step of a kind has other bits."""
    run = RUNS["plain"]
    whole = compiled(run)
    compiled(run, SWITCH + 3, folder=tmp_path)
    monkeypatch.setattr(compilation.Compilation, "captured", lambda *_: None)
    cut = compiled(run, folder=tmp_path, resume=True, start=1)
    assert differences(snapshot(whole)["tensors"], snapshot(cut)["tensors"]) != []


def test_resume_in_the_same_process_ends_in_the_same_bits(otherwise_rounded):
    run = RUNS["running means and dropout"]
    fit = compiled(run, 3)
    fit.resume(steps=4).resume(epochs=2).resume(steps=0)
    fit.resume(steps=TOTAL - fit.steps)
    assert differences(whole("running means and dropout")[0], snapshot(fit)) == []


def test_a_fit_whose_best_parameters_were_kept_goes_on_in_the_same_bits(otherwise_rounded, tmp_path):
    """After the end the state is put back into the optimizer in place; later steps must move that state."""
    run = Run(callbacks=lambda: [KeepBest()], fit={"batch_size": BATCH, "validation": data(9, seed=5)})
    whole = compiled(run)
    cut = compiled(run, 3 * PER_EPOCH, folder=tmp_path)
    cut.resume(steps=PER_EPOCH)
    again = compiled(run, folder=tmp_path, resume=True, start=1)
    assert differences(snapshot(whole), snapshot(again)) == []
    cut.resume(steps=TOTAL - cut.steps)
    assert differences(snapshot(whole), snapshot(cut)) == []


def test_another_choice_is_another_run(tmp_path, by_torch):
    from ppl_vae.training import ResumeError

    compiled(RUNS["plain"], 5, folder=tmp_path)
    with pytest.raises(ResumeError, match="compile: saved True, now False"):
        compiled(RUNS["plain"], 9, choice=False, folder=tmp_path, resume=True)


def test_a_fit_that_has_found_a_reason_stays_eager_after_a_resume(tmp_path, by_torch):
    run = Run(pair=branching)
    with pytest.warns(FallbackWarning, match="looks at the value of a tensor"):
        whole = compiled(run, choice="auto")
    with pytest.warns(FallbackWarning, match="looks at the value of a tensor"):
        compiled(run, choice="auto", folder=tmp_path, callbacks=[InterruptsAt(SWITCH + 3)])
    with pytest.warns(FallbackWarning, match="looks at the value of a tensor"):
        cut = compiled(run, choice="auto", folder=tmp_path, resume=True, start=1)
    assert differences(snapshot(whole)["tensors"], snapshot(cut)["tensors"]) == []
    assert any("looks at the value" in row.reason for row in cut.explain().rows)


# the rule


class Branching(VAE):
    """A branch on a value, which a graph cannot hold."""

    def forward(self, x: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        if x is not None and float(x.sum()) > 1e9:
            raise AssertionError("never")
        return super().forward(x, *args, **kwargs)


def branching(start: int) -> tuple[Any, Any]:
    model, guide = plain(start)
    model.__class__ = Branching
    return model, guide


@pytest.fixture(autouse=True)
def small_rule(monkeypatch, request):
    """So many steps are worth it here; the true number is tested by itself."""
    if "true_rule" not in request.fixturenames:
        monkeypatch.setattr(compilation, "WORTH", TOTAL - SWITCH)


@pytest.fixture
def true_rule():
    pass


@pytest.mark.parametrize(("steps", "expected"), [(TOTAL - 1, "eager"), (TOTAL, "compiled"), (TOTAL + 1, "compiled")])
def test_the_rule_counts_the_steps_to_come(steps, expected, by_torch):
    fit = compiled(Run(pair=plain, rows=lambda: data(PER_EPOCH * BATCH)), steps, "auto")
    assert list(status(fit).values()) == [expected]


def test_a_short_fit_stays_eager_and_says_why_with_numbers(true_rule):
    fit = Run()(TOTAL)
    usual, last = fit.explain().rows
    assert (usual.status, usual.eager_steps) == ("eager", 18)
    assert (last.status, last.eager_steps) == ("eager", 6)
    assert usual.reason == "about 20 such steps to come do not earn back compiling (15000 do)"
    assert re.match(r"about [1-5] such steps to come do not earn back compiling \(15000 do\)", last.reason)
    assert usual.reason in str(fit.explain())


def test_the_smaller_last_batch_is_worth_less(by_torch):
    fit = compiled(RUNS["plain"], TOTAL, "auto")
    assert list(status(fit).values()) == ["compiled", "eager"]
    long = compiled(RUNS["plain"], 6 * TOTAL, "auto")
    assert list(status(long).values()) == ["compiled", "compiled"]


def test_a_phase_is_worth_what_it_gets_of_the_steps(by_torch):
    schedule = Alternating(e_steps=9, m_steps=1)
    fit = compiled(Run(em={"schedule": schedule}, rows=lambda: data(4 * BATCH)), TOTAL + 10, "auto")
    assert status(fit) == {
        f"float32[{BATCH}, 3] -> phi+psi": "compiled",
        f"float32[{BATCH}, 3] -> shared+theta": "eager",
    }


def test_the_switch_comes_after_the_first_epoch_but_not_late():
    assert compilation.LATEST == 500
    for per_epoch, switch in ((1, 2), (4, 4), (500, 500), (9999, 500)):
        assert compilation.Compilation(True, {}, per_epoch=per_epoch)._switch == switch


def test_a_longer_fit_is_decided_anew(by_torch):
    fit = compiled(Run(pair=plain, rows=lambda: data(4 * BATCH)), SWITCH + 4, "auto")
    assert list(status(fit).values()) == ["eager"]
    fit.resume(steps=TOTAL)
    assert list(status(fit).values()) == ["compiled"]


def test_without_a_wish_to_compile_there_is_nothing_to_tell():
    fit = compiled(RUNS["plain"], choice=False)
    assert fit.explain().rows == []


@pytest.mark.parametrize("choice", ["yes", None, "True", 2, 0.5])
def test_another_choice_is_refused(choice):
    with pytest.raises(ValueError, match=f"VariationalEM: compile must be 'auto', True or False, got {choice!r}"):
        VariationalEM(*plain(), compile=choice)


def test_what_cannot_be_compiled_raises_if_it_must_be(by_torch):
    with pytest.raises(CaptureError, match=r"fit: .*looks at the value of a tensor.*test_compiled_fit\.py"):
        compiled(Run(pair=branching))


def test_what_cannot_be_compiled_stays_eager_if_it_may(by_torch):
    expected = compiled(Run(pair=branching), choice=False)
    with pytest.warns(FallbackWarning, match=r"fit: eager for .*looks at the value of a tensor") as seen:
        fit = compiled(Run(pair=branching), choice="auto")
    assert len(seen) == 1
    assert differences(snapshot(expected)["tensors"], snapshot(fit)["tensors"]) == []


def test_a_wrong_graph_is_caught_in_a_fit(monkeypatch):
    def spoil(n: int, outputs: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
        return [out * 1.01 if out.is_floating_point() else out for out in outputs]

    run_by_torch(monkeypatch, spoil)
    expected = compiled(RUNS["plain"], choice=False)
    with pytest.warns(FallbackWarning, match="compiled step 1 is not the eager one: the gradients differ by 1.0e-02"):
        fit = compiled(RUNS["plain"], TOTAL, "auto")
    assert differences(snapshot(expected)["tensors"], snapshot(fit)["tensors"]) == []


# numbers that are not finite

HUGE = 2.0**127  # finite, and its square is not


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("running means and dropout", SWITCH - 1),
        ("running means and dropout", SWITCH),  # traced
        ("running means and dropout", SWITCH + 1),  # compared
        ("running means and dropout", SWITCH + 5),
        ("alternating", SWITCH + 5),
        ("momentum", SWITCH + 5),
        ("cosine by step", TOTAL - 1),
    ],
)
def test_everything_is_as_before_a_bad_step(name, bad, by_torch, monkeypatch):
    """As the eager fit has it: the same step, the same site, and the state of the steps before it."""
    run = RUNS[name]
    whole = compiled(run, bad)

    class Poisoned(SourceBatches):
        def at(self, seed: int, epoch: int, position: int) -> Any:
            batch = super().at(seed, epoch, position)
            if epoch * self.per_epoch + position == bad:
                batch.args[0][0, 0] = HUGE
            return batch

    monkeypatch.setattr("ppl_vae.inference.variational_em.SourceBatches", Poisoned)
    found = []
    for choice in (False, True):
        with pytest.raises(NonFiniteError) as error:
            compiled(run, choice=choice)
        assert error.value.step == bad
        fit = error.value.fit
        assert fit.ended == "non-finite"
        assert fit.steps == bad
        found.append((str(error.value), fit))
    assert found[0][0] == found[1][0]
    for _, fit in found:
        assert differences(snapshot(whole)["tensors"], snapshot(fit)["tensors"]) == []
        assert differences(snapshot(whole)["optimizer"], snapshot(fit)["optimizer"]) == []


# interrupts


@pytest.mark.parametrize("at", [2, SWITCH, SWITCH + 1, SWITCH + 5])
def test_an_interrupt_ends_a_compiled_fit_between_two_steps(at, otherwise_rounded, tmp_path):
    run = RUNS["running means and dropout"]
    fit = compiled(run, folder=tmp_path, callbacks=[InterruptsAt(at)])
    assert (fit.ended, fit.steps) == ("interrupted", at)
    assert differences(snapshot(compiled(run, at))["tensors"], state_in(tmp_path)["tensors"]) == []
    rest = compiled(run, folder=tmp_path, resume=True, start=1)
    assert differences(whole("running means and dropout")[0], snapshot(rest)) == []


# by hand


def by_hand(choice: Any) -> tuple[list[float], VariationalEM]:
    em = VariationalEM(*networks(), lr=0.05, compile=choice)
    torch.manual_seed(7)
    values = []
    for _ in range(5):
        values += [em.e_step(data()), em.e_step(data()), em.m_step(data())]
    return values + [em.step(data()) for _ in range(5)], em


def test_steps_by_hand_are_the_eager_ones_to_the_bit(by_torch):
    (expected, eager), (found, ours) = by_hand(False), by_hand(True)
    assert found == expected
    theirs, mine = eager.pair.parameters_by_name(), ours.pair.parameters_by_name()
    assert all(same_bits(mine[name], leaf) for name, leaf in theirs.items())
    assert len(by_torch) == 3  # an E-step, an M-step, a step of both
    assert all(math.isfinite(value) for value in found)


def test_batches_by_hand_stand_for_all_rows(by_torch):
    def values(choice: Any) -> list[float]:
        em = VariationalEM(*plain(), compile=choice)
        torch.manual_seed(7)
        return [em.step(data()[:BATCH], num_data=n) for n in (14, 14, 14, 14, 28, 28, 28)]

    assert values(True) == values(False)


def test_steps_by_hand_are_eager_where_nobody_says_how_many(by_torch):
    em = VariationalEM(*plain())
    for _ in range(10):
        em.step(data())
    assert by_torch == []


# beside the training


class Compiler:
    """Another process that compiles until somebody presses Ctrl-C; then, when it is asked again, it is done."""

    begun: list[int]
    presses: int

    def __init__(self, graph: Any, inputs: Any) -> None:
        self.begun.append(graph.num_nodes)
        self.done = self.presses <= 0

    def serves(self, graph: Any, inputs: Any) -> bool:
        return True

    def wait(self, say: Any, asked: Any) -> None:
        say(3.0)
        type(self).presses -= 1
        os.kill(os.getpid(), signal.SIGINT)
        raise KeyboardInterrupt


@pytest.fixture
def compiler(otherwise_rounded, monkeypatch):
    kind = type("Compiler", (Compiler,), {"begun": [], "presses": 0})
    monkeypatch.setattr("ppl_vae.capture.builds.Build", kind)
    return kind


@pytest.mark.parametrize("way", ["in the process", "from the file"])
def test_ctrl_c_while_a_step_compiles_ends_the_fit_before_that_step(way, compiler, tmp_path):
    run = RUNS["running means and dropout"]
    compiler.presses = 1
    fit = compiled(run, folder=tmp_path)
    assert (fit.ended, fit.steps) == ("interrupted", SWITCH)
    assert differences(snapshot(compiled(run, SWITCH))["tensors"], state_in(tmp_path)["tensors"]) == []
    if way == "in the process":
        fit.resume(steps=TOTAL - SWITCH)
    else:
        fit = compiled(run, folder=tmp_path, resume=True, start=1)
    assert fit.ended == "completed"
    assert differences(whole("running means and dropout")[0], snapshot(fit)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_asked_for_in_a_trace_waits_for_no_compiler(number, otherwise_rounded, tmp_path, monkeypatch):
    run = RUNS["running means and dropout"]
    expected = snapshot(compiled(run, SWITCH))["tensors"]
    never_done(tmp_path, monkeypatch, 20)
    asked_for_in_trace(monkeypatch, number)
    fit = compiled(run)
    assert (fit.ended, fit.steps) == ("interrupted", SWITCH)  # and not the step after it, when all is compiled
    assert differences(expected, snapshot(fit)["tensors"]) == []
    monkeypatch.setattr("ppl_vae.capture.build.Build.done", True)
    fit.resume(steps=TOTAL - SWITCH)
    assert differences(whole("running means and dropout")[0], snapshot(fit)) == []


def test_ctrl_c_while_a_resumed_fit_compiles_changes_nothing(compiler, tmp_path):
    run = RUNS["running means and dropout"]
    compiled(run, SWITCH + 2, folder=tmp_path)
    compiler.presses = 1
    fit = compiled(run, folder=tmp_path, resume=True, start=1)
    assert (fit.ended, fit.steps) == ("interrupted", SWITCH + 2)
    fit = compiled(run, folder=tmp_path, resume=True, start=1)
    assert differences(whole("running means and dropout")[0], snapshot(fit)) == []


def test_the_compiler_begins_before_the_switch(compiler, monkeypatch):
    steps: list[int] = []
    prepare = compilation.Engine.prepare
    monkeypatch.setattr(
        compilation.Engine, "prepare", lambda self, program, inputs: (prepare(self, program, inputs), steps.append(1))
    )
    fit = compiled(RUNS["running means and dropout"], compilation.AHEAD + 1)
    assert compiler.begun and steps  # and the fit has ended before the switch
    assert fit.steps < SWITCH


def test_a_wait_is_said_and_taken_away_again(compiler, monkeypatch, caplog):
    said: list[str] = []
    monkeypatch.setattr("ppl_vae.training.progress.Progress.say", lambda self, text: said.append(text))
    compiler.presses = 1
    with caplog.at_level("INFO", "ppl_vae"):
        compiled(RUNS["running means and dropout"])
    assert said == ["compiling a step, once; the next fits reuse it (3 s)", ""]
    assert "compiling a step, once; the next fits reuse it" in caplog.text
