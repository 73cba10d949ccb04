"""A run that was stopped anywhere and resumed is the run that was not stopped, to the bit."""

from __future__ import annotations

import random
from functools import partial

import pyro
import pytest
import torch
from pairs import function_pair
from pyro.infer import Trace_ELBO
from runs import BATCH, NUM_DATA, PER_EPOCH, Run, data, differences, networks, plain, seeded, snapshot, state_in
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae import IWAE, Alternating, Callback, EarlyStopping, KeepBest
from ppl_vae.data import dynamic_binarization
from ppl_vae.data.batches import SourceBatches
from ppl_vae.guides import MeanField
from ppl_vae.objectives import ELBO, LinearWarmup
from ppl_vae.storage import StorageError
from ppl_vae.training import EachStep, GradientStep, ResumeError, Trainer

TOTAL = 6 * PER_EPOCH


def mean_field(start: int):
    with seeded(start):
        return plain(start)[0], MeanField(num_data=NUM_DATA, latent_dim=2)


def half_frozen(start: int):
    """Random features: a layer that is not trained, and that a second process makes from another seed."""
    model, guide = plain(start)
    with seeded(start):
        model.decoder = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3))
    model.decoder[0].requires_grad_(False)
    return model, guide


def shared(start: int):
    """A layer with running means in both sides, as in a flow."""
    model, guide = plain(start)
    with seeded(start):
        both = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        model.decoder = nn.Sequential(nn.Linear(2, 3), both)
        guide.encoder = nn.Sequential(both, nn.Linear(3, 4))
    return model, guide


def loader() -> DataLoader:
    return DataLoader(TensorDataset(data()), batch_size=BATCH, shuffle=True)


RUNS = {
    "joint": Run(),
    "alternating": Run(em={"schedule": Alternating(e_steps=2, m_steps=1)}),
    "cosine by step": Run(em={"lr_scheduler": EachStep(partial(lr_scheduler.CosineAnnealingLR, T_max=TOTAL))}),
    "one cycle by step": Run(
        em={"lr_scheduler": EachStep(partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=TOTAL + 1))}
    ),
    "milestones by epoch": Run(em={"lr_scheduler": partial(lr_scheduler.MultiStepLR, milestones=[1, 3], gamma=0.5)}),
    "plateau": Run(em={"lr_scheduler": partial(lr_scheduler.ReduceLROnPlateau, patience=0, threshold=5.0)}),
    "clipped": Run(em={"clip_norm": 0.05}),
    "iwae": Run(em={"objective": IWAE(3)}),
    "momentum": Run(em={"optimizer": partial(torch.optim.SGD, momentum=0.9, nesterov=True), "lr": 0.01}),
    "decaying optimizer of Pyro": Run(em={"optimizer": pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.95})}),
    "callbacks": Run(
        fit={"batch_size": BATCH, "validation": data(9, seed=5)},
        callbacks=lambda: [EarlyStopping(patience=50, min_delta=0.3), KeepBest(), KeepBest(metric="elbo")],
    ),
    "stopped early": Run(callbacks=lambda: [EarlyStopping(patience=2, metric="elbo", min_delta=1.0)]),
    "warm-up": Run(em={"objective": ELBO(beta=LinearWarmup(10), free_bits=0.1)}),
    "binarized": Run(
        pair=partial(networks, likelihood="bernoulli"),
        fit={"batch_size": BATCH, "transform": dynamic_binarization},
        rows=lambda: data().sigmoid(),
    ),
    "float64": Run(em={"dtype": torch.float64}),
    "functions": Run(pair=lambda start: function_pair(), em={"e_lr": 0.02}),
    "mean field": Run(pair=mean_field),
    "all rows at once": Run(fit={}),
    "loader": Run(fit={}, rows=loader),
    "a loss of Pyro": Run(em={"objective": Trace_ELBO()}),
    "random features": Run(pair=half_frozen),
    "shared layers": Run(pair=shared, em={"schedule": Alternating(1, 2)}),
}


def cut_and_resumed(run: Run, points, folder):
    """Run to each point and end there; each time go on from the checkpoint, in a fresh pair of another start."""
    for leg, point in enumerate(points):
        fit = run(point, folder=folder, resume=True, start=leg)
        if fit.ended != "completed":
            break
    return fit


@pytest.mark.parametrize("name", RUNS)
def test_a_run_stopped_at_20_random_points_ends_in_the_same_bits(name, tmp_path):
    run = RUNS[name]
    whole = run(TOTAL)
    points = sorted(random.Random(name).sample(range(1, TOTAL), 20))
    cut = cut_and_resumed(run, [*points, TOTAL], tmp_path)
    assert differences(snapshot(whole), snapshot(cut)) == []
    assert differences(snapshot(whole), state_in(tmp_path)) == []
    assert whole.history.equals(cut.history)
    assert whole.ended == cut.ended == ("early stopping" if name == "stopped early" else "completed")
    for key, value in whole.params.items():
        assert torch.equal(value, cut.params[key]), f"{key}, as the fit gives it"


@pytest.mark.parametrize("name", ["joint", "callbacks", "cosine by step"])
def test_resume_in_the_same_process_ends_in_the_same_bits(name):
    run = RUNS[name]
    fit = run(3)
    fit.resume(steps=4).resume(epochs=2).resume(steps=0)
    assert fit.steps == 7 + 2 * PER_EPOCH
    fit.resume(steps=TOTAL - fit.steps)
    assert differences(snapshot(run(TOTAL)), snapshot(fit)) == []


def test_a_checkpoint_is_no_matter_of_how_often_it_is_written(tmp_path):
    for every in (None, 1, 3, 50):
        folder = tmp_path / str(every)
        assert differences(snapshot(RUNS["joint"](11)), snapshot(RUNS["joint"](11, folder=folder, every=every))) == []
        assert state_in(folder)["step"] == 11


def test_a_run_that_is_over_stays_as_it_is(tmp_path):
    run = RUNS["joint"]
    whole = run(10, folder=tmp_path)
    for target in (10, 4, 0):
        again = run(target, folder=tmp_path, resume=True, start=1)
        assert again.ended == "completed"
        assert differences(snapshot(whole), snapshot(again)) == []


def test_resume_without_a_checkpoint_begins(tmp_path):
    run = RUNS["joint"]
    assert differences(snapshot(run(5)), snapshot(run(5, folder=tmp_path / "new", resume=True))) == []


def test_a_damaged_checkpoint_is_named(tmp_path):
    RUNS["joint"](5, folder=tmp_path)
    file = tmp_path / "state.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)
    with pytest.raises(StorageError, match=r"state\.safetensors: the content does not match its digest"):
        RUNS["joint"](9, folder=tmp_path, resume=True)


# the law can fail: every part of the state that is left out, and every stream that is no function of the place, shows


def _without_optimizer(patch):
    patch.setattr("ppl_vae.training.gradient_step.load_optimizer_state", lambda *_: None)


def _without_buffers(patch):
    kept = Trainer.load_state

    def load(self, state):
        state["tensors"] |= {k: t.clone() for k, t in self.tensors().items() if k.startswith("buffer.")}
        kept(self, state)

    patch.setattr(Trainer, "load_state", load)


def _without_schedule(patch):
    patch.setattr(lr_scheduler.CosineAnnealingLR, "load_state_dict", lambda *_: None)


def _without_callbacks(patch):
    patch.setattr(EarlyStopping, "load_state", lambda *_: None)


def _without_history(patch):
    patch.setattr("ppl_vae.training.history.History.load_state", lambda *_: None)


def _without_position(patch):
    kept = SourceBatches.epoch
    patch.setattr(SourceBatches, "epoch", lambda self, seed, epoch, start=0: kept(self, seed, epoch, 0))


def _with_a_permutation_of_the_moment(patch):
    stream = torch.Generator().manual_seed(0)
    patch.setattr("ppl_vae.data.batches.generator", lambda *_: stream)


def _with_noise_of_the_moment(patch):
    patch.setattr(GradientStep, "seed_noise", lambda *_: None)


PLANTS = {
    "optimizer forgotten": (_without_optimizer, "joint"),
    "momentum forgotten": (_without_optimizer, "momentum"),
    "running means forgotten": (_without_buffers, "joint"),
    "schedule forgotten": (_without_schedule, "cosine by step"),
    "callbacks forgotten": (_without_callbacks, "callbacks"),
    "history forgotten": (_without_history, "joint"),
    "position forgotten": (_without_position, "joint"),
    "permutation from a stream": (_with_a_permutation_of_the_moment, "joint"),
    "noise from a stream": (_with_noise_of_the_moment, "joint"),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_the_law_fails_when_something_is_forgotten(plant, tmp_path, monkeypatch):
    spoil, name = PLANTS[plant]
    whole = RUNS[name](10)
    spoil(monkeypatch)
    cut = cut_and_resumed(RUNS[name], [5, 10], tmp_path)
    assert differences(snapshot(whole), snapshot(cut)) != []


# another run is refused, and what differs is named


def wider(start: int):
    model, guide = plain(start)
    model.decoder = nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 3))
    return model, guide


BASE = {"em": {}, "fit": {"batch_size": BATCH}, "pair": plain}
OTHERS = {
    "seed": ({"fit": {"batch_size": BATCH, "seed": 7}}, "seed: saved 0, now 7"),
    "number of rows": ({"rows": lambda: data(13)}, "num_data: saved 14, now 13"),
    "rows": ({"rows": lambda: data(seed=9)}, r"\(the rows are not those of the run\)$"),
    "order of rows": ({"rows": lambda: data().flip(0)}, r"\(the rows are not those of the run\)$"),
    "batch size": ({"fit": {"batch_size": 7}}, "batch_size: saved 4, now 7"),
    "all rows at once": ({"fit": {}}, "batch_size: saved 4, now None"),
    "loader": ({"fit": {}, "rows": loader}, "batch_size: saved 4, now None"),
    "transform": (
        {"fit": {"batch_size": BATCH, "transform": torch.neg}},
        "transform: saved None, now '.*neg'",
    ),
    "objective": ({"em": {"objective": IWAE(2)}}, r"objective: saved 'ELBO\(\)', now 'IWAE\(2\)'"),
    "weight of the KL": ({"em": {"objective": ELBO(beta=0.5)}}, r"objective: .* now 'ELBO\(beta=0.5\)'"),
    "schedule": ({"em": {"schedule": Alternating()}}, r"schedule: saved 'Joint\(\)', now 'Alternating\("),
    "optimizer": ({"em": {"optimizer": torch.optim.SGD}}, r"optimizer: saved 'Adam\(.*now 'SGD\("),
    "its options": ({"em": {"optimizer": partial(torch.optim.Adam, eps=1e-4)}}, r"optimizer: saved .*eps=0.0001"),
    "learning rate": ({"em": {"lr": 0.5}}, r"lr: saved \{'theta': 0.05.* now \{'theta': 0.5"),
    "learning rate of one side": ({"em": {"m_lr": 0.5}}, r"lr: saved .* now \{'theta': 0.5, 'phi': 0.05\}"),
    "clipping": ({"em": {"clip_norm": 1.0}}, "clip_norm: saved None, now 1.0"),
    "learning-rate schedule": (
        {"em": {"lr_scheduler": partial(lr_scheduler.StepLR, step_size=1)}},
        "lr_scheduler: saved None, now 'StepLR'",
    ),
    "callbacks with a memory": ({"callbacks": lambda: [KeepBest(metric="elbo")]}, r"saved \[\], now \['KeepBest'\]"),
    "parameters": ({"pair": networks}, r"guide\.encoder\.0\.weight: saved None, now \[5, 3\]"),
    "shapes": ({"pair": wider}, r"model\.decoder\.0\.weight: saved None, now \[5, 2\]"),
    "precision": ({"em": {"dtype": torch.float64}}, "dtype: saved 'torch.float32', now 'torch.float64'"),
}


@pytest.mark.parametrize("difference", OTHERS)
def test_another_run_is_refused_by_what_differs(difference, tmp_path):
    change, message = OTHERS[difference]
    Run(**BASE)(5, folder=tmp_path)
    with pytest.raises(ResumeError, match=message):
        Run(**{**BASE, **change})(9, folder=tmp_path, resume=True)
    assert state_in(tmp_path)["step"] == 5  # and the checkpoint is as it was


def test_the_same_run_is_not_refused(tmp_path):
    Run(**BASE)(5, folder=tmp_path)
    assert Run(**BASE)(9, folder=tmp_path, resume=True, start=3).steps == 9


def test_the_rows_of_the_validation_must_be_the_same(tmp_path):
    """The columns ``val_*`` would go on with other rows in the middle of the history; none at all are no other rows."""
    run = Run(**{**BASE, "fit": {"batch_size": BATCH, "validation": data(5)}})
    run(5, folder=tmp_path)
    with pytest.raises(ResumeError, match="the validation rows are not those of the run"):
        Run(**{**BASE, "fit": {"batch_size": BATCH, "validation": data(6)}})(9, folder=tmp_path, resume=True)
    assert Run(**{**BASE, "fit": {"batch_size": BATCH}})(9, folder=tmp_path, resume=True, start=3).steps == 9


def test_what_does_not_change_the_parameters_may_differ(tmp_path):
    """Another way to watch is no other run: a validation set, a callback without a memory, another rhythm of saving."""
    Run(**BASE)(5, folder=tmp_path)
    watched = Run(
        **{**BASE, "fit": {"batch_size": BATCH, "validation": data(5), "every": 2}, "callbacks": lambda: [Callback()]}
    )
    cut = watched(9, folder=tmp_path, resume=True)
    assert differences(snapshot(Run(**BASE)(9))["tensors"], snapshot(cut)["tensors"]) == []


@pytest.mark.parametrize("amount", [{}, {"epochs": 1, "steps": 1}, {"epochs": -1}, {"steps": 2.5}])
def test_resume_wants_one_whole_number(amount):
    fit = Run(**BASE)(2)
    with pytest.raises(ValueError, match="give either epochs= or steps=|must be a whole number"):
        fit.resume(**amount)
    assert fit.steps == 2
