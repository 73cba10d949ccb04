"""Learning-rate schedules: torch's own, by epoch or by step, in their closed forms."""

from __future__ import annotations

import math
from functools import partial

import pytest
from runs import BATCH, PER_EPOCH, Run, data
from torch.optim import lr_scheduler

from ppl_vae.training import EachStep

LR = 0.04


def rates(schedule, epochs: int = 6, **fit) -> list[float]:
    """The learning rate that the history shows for each epoch."""
    run = Run(em={"lr": LR, "lr_scheduler": schedule}, fit={"batch_size": BATCH, **fit})
    return run(epochs * PER_EPOCH).history["lr"].tolist()


BY_EPOCH = {  # the rate with which epoch t was made
    "none": (None, lambda t: 1.0),
    "steps": (partial(lr_scheduler.StepLR, step_size=2, gamma=0.1), lambda t: 0.1 ** (t // 2)),
    "milestones": (
        partial(lr_scheduler.MultiStepLR, milestones=[1, 4], gamma=0.1),
        lambda t: 0.1 ** ((t >= 1) + (t >= 4)),
    ),
    "exponential": (partial(lr_scheduler.ExponentialLR, gamma=0.5), lambda t: 0.5**t),
    "cosine": (partial(lr_scheduler.CosineAnnealingLR, T_max=6), lambda t: (1 + math.cos(math.pi * t / 6)) / 2),
    "any function": (partial(lr_scheduler.LambdaLR, lr_lambda=lambda t: 1 / (1 + t)), lambda t: 1 / (1 + t)),
}


@pytest.mark.parametrize("name", BY_EPOCH)
def test_schedules_by_epoch(name):
    schedule, factor = BY_EPOCH[name]
    assert rates(schedule) == pytest.approx([LR * factor(t) for t in range(6)], rel=1e-9)


@pytest.mark.parametrize("name", ["steps", "exponential", "cosine", "any function"])
def test_schedules_by_step_are_ahead_by_the_steps_of_an_epoch(name):
    """The row of an epoch is written after its last step, when a schedule by step has moved on."""
    schedule, factor = BY_EPOCH[name]
    one_epoch = rates(EachStep(schedule), epochs=1)
    assert one_epoch == pytest.approx([LR * factor(PER_EPOCH)], rel=1e-9)


def test_annealing_over_all_steps_ends_at_zero():
    schedule = EachStep(partial(lr_scheduler.CosineAnnealingLR, T_max=3 * PER_EPOCH))
    found = rates(schedule, epochs=3)
    assert found == pytest.approx([LR * 0.75, LR * 0.25, 0.0], abs=1e-12)


def test_both_rates_follow_the_schedule():
    run = Run(em={"lr": LR, "e_lr": 0.1, "lr_scheduler": partial(lr_scheduler.ExponentialLR, gamma=0.5)})
    groups = {g["name"]: g["lr"] for g in run(2 * PER_EPOCH).trainer.make.optimizer.param_groups}
    assert groups == pytest.approx({"theta": LR / 4, "phi": 0.1 / 4})


# on a plateau: higher is better, whichever way torch's scheduler looks

PLATEAUS = {
    "never enough, falling": ({"threshold": 1e9, "threshold_mode": "abs"}, 0.5),
    "never enough, rising": ({"threshold": 1e9, "threshold_mode": "abs", "mode": "max"}, 0.5),
    "always enough, falling": ({"threshold": -1e9, "threshold_mode": "abs"}, 1.0),
    "always enough, rising": ({"threshold": -1e9, "threshold_mode": "abs", "mode": "max"}, 1.0),
}


@pytest.mark.parametrize("name", PLATEAUS)
def test_plateaus(name):
    options, factor = PLATEAUS[name]
    schedule = partial(lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5, **options)
    # the first epoch is always better than nothing
    expected = [LR, LR, *(LR * factor**t for t in range(1, 5))]
    assert rates(schedule) == pytest.approx(expected, rel=1e-9)


def test_a_plateau_by_step_is_refused():
    with pytest.raises(ValueError, match="EachStep: ReduceLROnPlateau looks at whole epochs"):
        rates(EachStep(lr_scheduler.ReduceLROnPlateau))


class Recorder(lr_scheduler.ReduceLROnPlateau):
    """Remembers what it was shown."""

    def step(self, metrics, epoch=None):
        self.seen = [*getattr(self, "seen", []), metrics]
        super().step(metrics)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("column", ["objective", "val_objective"])
def test_a_plateau_is_one_of_the_objective_on_held_out_rows_if_there_are_any(mode, column):
    validation = data(5, seed=3) if column.startswith("val") else None
    run = Run(em={"lr_scheduler": partial(Recorder, mode=mode)}, fit={"batch_size": BATCH, "validation": validation})
    fit = run(3 * PER_EPOCH)
    sign = 1 if mode == "max" else -1
    assert fit.trainer.make.rates.scheduler.seen == [sign * value for value in fit.history[column]]


def test_a_schedule_that_stands_still_breaks_the_law(monkeypatch):
    """The negative twin."""
    schedule, factor = BY_EPOCH["exponential"]
    monkeypatch.setattr(lr_scheduler.ExponentialLR, "step", lambda self: None)
    assert rates(schedule) != pytest.approx([LR * factor(t) for t in range(6)], rel=1e-9)
