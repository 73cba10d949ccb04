"""Callbacks: when they are told what, early stopping, the best parameters."""

from __future__ import annotations

import math

import pytest
import torch
from runs import BATCH, PER_EPOCH, Run, data, differences, plain, snapshot, state_in

from ppl_vae import Callback, EarlyStopping, KeepBest
from ppl_vae.training import Trainer

VALIDATED = {"batch_size": BATCH, "validation": data(9, seed=5)}


class Diary(Callback):
    """Writes down what it is told, and where the run stands."""

    def __init__(self, name: str = "", story: list | None = None) -> None:
        self.name, self.story = name, [] if story is None else story

    def write(self, event: str, run: Trainer) -> None:
        self.story.append((self.name + event, run.step, run.epoch, run.cursor.position))

    def on_start(self, run):
        self.write("start", run)

    def on_step(self, run, report):
        assert report.shape == (4,)
        self.write("step", run)

    def on_epoch(self, run, row):
        assert row is run.history.rows[-1]
        self.write("epoch", run)

    def on_end(self, run):
        self.write("end", run)


def test_the_order_of_events():
    diary = Diary()
    Run()(PER_EPOCH + 1, callbacks=[diary])
    steps = [("step", t + 1, 0, t + 1) for t in range(PER_EPOCH)]
    after = [("epoch", PER_EPOCH, 1, 0), ("step", PER_EPOCH + 1, 1, 1), ("end", PER_EPOCH + 1, 1, 1)]
    assert diary.story == [("start", 0, 0, 0), *steps, *after]


def test_callbacks_are_told_in_their_order():
    story: list = []
    Run()(PER_EPOCH, callbacks=[Diary("a ", story), Diary("b ", story)])
    events = [event for event, *_ in story]
    assert events == [f"{who} {what}" for what in ["start", *["step"] * PER_EPOCH, "epoch", "end"] for who in "ab"]


def test_the_end_is_told_however_it_comes():
    class Fails(Diary):
        def on_epoch(self, run, row):
            raise RuntimeError("mine")

    diary, fits = Fails(), []
    diary.on_start = lambda run: fits.append(run.fit)
    with pytest.raises(RuntimeError, match="mine"):
        Run()(20, callbacks=[diary])
    assert diary.story[-1][0] == "end"
    assert fits[0].ended == "failed"


def test_a_callback_may_end_the_run_at_any_step():
    class Stop(Callback):
        def on_step(self, run, report):
            if run.step == 6:
                run.stop("enough")

    fit = Run()(20, callbacks=[Stop()])
    assert (fit.ended, fit.steps) == ("enough", 6)
    assert fit.resume(steps=2).steps == 8
    assert fit.ended == "completed"


def test_watching_changes_no_bit():
    class Noise(Diary):
        def on_step(self, run, report):
            super().on_step(run, report)
            torch.rand(3)

    assert differences(snapshot(Run()(11)), snapshot(Run()(11, callbacks=[Noise()]))) == []


# early stopping


class Stub:
    """A run as far as callbacks look at it."""

    def __init__(self) -> None:
        self.reason = None

    def stop(self, reason):
        self.reason = reason


def epochs_until_stop(values, **options) -> int | None:
    callback, run = EarlyStopping(metric="elbo", **options), Stub()
    for epoch, value in enumerate(values):
        callback.on_epoch(run, {"epoch": epoch, "elbo": value})
        if run.reason is not None:
            assert run.reason == "early stopping"
            return epoch + 1
    return None


COURSES = {
    "always better": ([1, 2, 3, 4, 5], {"patience": 1}, None),
    "worse at once": ([5, 4, 3, 2], {"patience": 2}, 3),
    "equal is not better": ([1, 1, 1, 1], {"patience": 2}, 3),
    "patience begins anew": ([1, 0, 2, 1, 1, 1, 1], {"patience": 3}, 6),
    "too little": ([0, 0.4, 0.8, 0.9, 1.0], {"patience": 2, "min_delta": 0.5}, 5),
    "NaN is not better": ([1, math.nan, math.nan, 5], {"patience": 2}, 3),
    "NaN from the start": ([math.nan] * 4, {"patience": 3}, 3),
    "negative numbers": ([-9, -8, -8.5, -8.2], {"patience": 2}, 4),
}


@pytest.mark.parametrize("course", COURSES)
def test_when_early_stopping_stops(course):
    values, options, expected = COURSES[course]
    assert epochs_until_stop(values, **options) == expected


def test_early_stopping_in_a_run():
    fit = Run()(100, callbacks=[EarlyStopping(patience=2, metric="objective", min_delta=1e6)])
    assert (fit.ended, fit.epochs, fit.steps) == ("early stopping", 3, 3 * PER_EPOCH)
    assert "early stopping after 3 epochs" in repr(fit)


def test_early_stopping_wants_patience():
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        EarlyStopping(patience=0)


@pytest.mark.parametrize("kind", [EarlyStopping, KeepBest])
def test_a_metric_that_is_not_there_is_named(kind):
    message = rf"{kind.__name__}: the history has no column 'val_objective' \(give fit a validation=\); it has \["
    with pytest.raises(ValueError, match=message):
        Run()(20, callbacks=[kind()])
    with pytest.raises(ValueError, match="no column 'loss'; it has"):
        Run()(20, callbacks=[kind(metric="loss")])


def test_early_stopping_begins_anew_with_another_run():
    early = EarlyStopping(patience=2, metric="objective", min_delta=1e6)
    for _ in range(2):
        assert Run()(100, callbacks=[early]).epochs == 3


# the best parameters


class Spoil(Callback):
    """Makes the run worse from an epoch on, in a way that a resumed run repeats: the learning rate explodes."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch(self, run, row):
        if row["epoch"] == self.epoch:
            for group in run.make.optimizer.param_groups:
                group["lr"] = 1.0


def spoilt(pair=plain) -> Run:
    return Run(pair=pair, em={"lr": 0.02}, fit=VALIDATED, callbacks=lambda: [KeepBest(), Spoil(3)])


@pytest.mark.parametrize("pair", [plain, Run().pair])
def test_the_pair_has_the_best_parameters(pair):
    fit = spoilt(pair)(8 * PER_EPOCH)
    values = fit.history["val_objective"]
    assert values.iloc[-1] < values.max()
    best = int(values.idxmax())
    again = spoilt(pair)((best + 1) * PER_EPOCH)
    tensors = ({k: t.detach() for k, t in f.trainer.tensors().items()} for f in (fit, again))
    assert differences(*tensors) == []
    assert fit.trainer.evaluate(fit.trainer.validation)["objective"] == values.max()
    assert fit.steps == 8 * PER_EPOCH
    assert len(fit.history) == 8


def test_resume_goes_on_from_the_last_epoch_and_not_from_the_best(tmp_path):
    run = spoilt()
    fit = run(6 * PER_EPOCH, folder=tmp_path)
    whole = run(9 * PER_EPOCH)
    cut = run(9 * PER_EPOCH, folder=tmp_path, resume=True, start=1)
    fit.resume(epochs=3)
    for other in (cut, fit):
        assert differences(snapshot(whole), snapshot(other)) == []
        assert differences({**whole.params}, {**other.params}) == []


def test_a_resume_from_the_best_breaks_the_law(monkeypatch):
    """The negative twin: forget to remember the last epoch."""
    whole = spoilt()(9 * PER_EPOCH)
    assert whole.history.equals(spoilt()(6 * PER_EPOCH).resume(epochs=3).history)
    monkeypatch.setattr(Trainer, "freeze_state", lambda self: None)
    assert not whole.history.equals(spoilt()(6 * PER_EPOCH).resume(epochs=3).history)


def test_a_second_fit_goes_on_from_the_best():
    from ppl_vae import VariationalEM

    model, guide = plain()
    em = VariationalEM(model, guide, lr=0.02)
    fit = em.fit(data(), steps=8 * PER_EPOCH, callbacks=[KeepBest(), Spoil(3)], **VALIDATED)
    best = fit.params
    seen = []

    class First(Callback):
        def on_start(self, run):
            seen.append(run.pair.params)

    em.fit(data(), steps=1, callbacks=[First()])
    assert differences(best, seen[0]) == []


def test_keep_best_begins_anew_with_another_run():
    """Its memory is of another pair: not a tensor of it may come back."""
    best = KeepBest(metric="elbo")
    Run(pair=plain, em={"lr": 0.05})(8 * PER_EPOCH, callbacks=[best])
    fit = Run(pair=plain, em={"lr": 1e-6})(PER_EPOCH, start=1, callbacks=[best])
    assert differences(Run(pair=plain, em={"lr": 1e-6})(PER_EPOCH, start=1).params, fit.params) == []


def test_a_callback_that_fails_at_the_end_does_not_cost_the_checkpoint(tmp_path):
    class Fails(Callback):
        def on_end(self, run):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        Run()(6, folder=tmp_path, callbacks=[Fails()])
    assert differences(snapshot(Run()(6)), state_in(tmp_path)) == []


def test_without_a_better_epoch_the_last_one_stays():
    fit = Run()(6, callbacks=[KeepBest(metric="elbo")])
    assert fit.epochs == 1
    assert differences(snapshot(Run()(6))["optimizer"], snapshot(fit)["optimizer"]) == []
    fit = Run()(3, callbacks=[KeepBest(metric="elbo")])  # not one epoch: there is no best yet
    tensors = {k: t.detach() for k, t in fit.trainer.tensors().items()}
    assert differences(snapshot(Run()(3))["tensors"], tensors) == []
