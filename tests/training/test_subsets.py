"""Schedules move named subsets: what is not named keeps every bit, eager or compiled, in one run or resumed."""

from __future__ import annotations

import pytest
import torch
from runs import PER_EPOCH, Run, differences, networks, snapshot

from ppl_vae import Alternating, Callback, Frozen, Joint, Only, Stages
from ppl_vae.training import Subset
from ppl_vae.training.subset import EVERYONE

NAMES = {
    "model.decoder.0.weight": "theta",
    "model.decoder.1.weight": "theta",
    "model.likelihood.log_scale": "theta",
    "guide.encoder.0.weight": "phi",
    "objective.net.weight": "psi",
}

# schedule, step, and what it moves
TABLE = [
    (Joint(), 0, set(NAMES)),
    (Only("model.decoder.*"), 0, {"model.decoder.0.weight", "model.decoder.1.weight"}),
    (Only("model.decoder.0.*", "guide.*"), 0, {"model.decoder.0.weight", "guide.encoder.0.weight"}),
    (Frozen("model.decoder.*"), 0, set(NAMES) - {"model.decoder.0.weight", "model.decoder.1.weight"}),
    (Frozen("model.*", schedule=Alternating()), 1, set()),
    (Only("*.weight", schedule=Alternating()), 0, {"guide.encoder.0.weight", "objective.net.weight"}),
    (Frozen("*.1.*", schedule=Only("model.decoder.*")), 0, {"model.decoder.0.weight"}),
    (Stages((Only("guide.*"), 3), Joint()), 2, {"guide.encoder.0.weight"}),
    (Stages((Only("guide.*"), 3), Joint()), 3, set(NAMES)),
    (
        Stages((Joint(), 2), (Alternating(e_steps=1, m_steps=1), 2), Only("guide.*")),
        3,
        {n for n in NAMES if "model" in n},
    ),
]


@pytest.mark.parametrize("schedule, step, expected", TABLE, ids=[f"{s!r} {t}" for s, t, _ in TABLE])
def test_what_moves(schedule, step, expected):
    subset = Subset.of(schedule.moves(step))
    assert {name for name, group in NAMES.items() if subset.holds(name, group)} == expected


def test_the_label_of_groups_is_what_earlier_runs_have_in_their_states():
    assert Subset.of(EVERYONE).label == "phi+psi+shared+theta"
    assert Subset.of({"phi", "psi"}).label == "phi+psi"
    assert "model.decoder" in Subset.of(Frozen("model.decoder.*").moves(0)).label


class Moved(Callback):
    """Which tensors have changed in each step."""

    def on_start(self, run):
        self.before, self.moved = self._now(run), []

    def on_step(self, run, report):
        now = self._now(run)
        self.moved.append({name for name in now if not torch.equal(now[name], self.before[name])})
        self.before = now

    def _now(self, run):
        return {name: tensor.detach().clone() for name, tensor in run.tensors().items()}


@pytest.mark.parametrize("compile", [False, True])
def test_frozen_parts_keep_every_bit_and_so_do_their_running_means(compile):
    watch = Moved()
    run = Run(em={"schedule": Frozen("model.decoder.*"), "compile": compile})
    fit = run(2 * PER_EPOCH, callbacks=[watch])
    moved = set().union(*watch.moved)
    assert not any("model.decoder" in name for name in moved)
    assert {"model.likelihood.log_scale", "guide.encoder.0.weight", "buffer.guide.encoder.1.running_mean"} <= moved
    assert not any("model.decoder" in name for name in snapshot(fit)["optimizer"]["state"])


def test_without_the_schedule_the_decoder_and_its_running_means_move():
    """The negative twin."""
    watch = Moved()
    Run()(PER_EPOCH, callbacks=[watch])
    assert {"model.decoder.0.weight", "buffer.model.decoder.1.running_mean"} <= set().union(*watch.moved)


def test_stages_are_resumed_to_the_bit(tmp_path):
    run = Run(em={"schedule": Stages((Only("guide.*"), 5), (Only("model.*"), 4), Joint())})
    whole = run(12)
    for leg, steps in enumerate((3, 5, 7, 12)):
        cut = run(steps, folder=tmp_path, resume=True, start=leg)
    assert differences(snapshot(whole), snapshot(cut)) == []


def test_a_pattern_that_names_nothing_is_refused_with_the_names():
    with pytest.raises(ValueError, match=r"'model\.dekoder\.\*' matches no parameter; .*model\.decoder"):
        Run(em={"schedule": Frozen("model.dekoder.*")})(1)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Only(), "Only: at least one pattern"),
        (lambda: Frozen(3), "Frozen: at least one pattern"),  # type: ignore[arg-type]
        (lambda: Stages(Joint(), Joint()), "pairs \\(schedule, steps\\) are required"),
        (lambda: Stages((Joint(), 0), Joint()), "pairs \\(schedule, steps\\) are required"),
        (lambda: Stages((Joint(), 3)), "the last stage has no end"),
        (lambda: Only("a", schedule=Only("b")).moves(0), "one Only is enough"),
    ],
)
def test_what_makes_no_schedule(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_another_schedule_is_another_run(tmp_path):
    Run(em={"schedule": Frozen("model.decoder.*")})(4, folder=tmp_path)
    with pytest.raises(ValueError, match='schedule: saved "Frozen'):
        Run()(6, folder=tmp_path, resume=True)


def test_the_pair_of_these_tests_has_what_they_name():
    model, guide = networks()
    assert {"decoder.0.weight", "decoder.1.running_mean"} <= set(model.state_dict())
    assert "encoder.0.weight" in guide.state_dict()
