"""Run folders of an earlier layout load, and checkpoints in mid-epoch go on; see fixtures/make_format_1.py."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from runs import data, networks
from torch.optim.lr_scheduler import ExponentialLR

import ppl_vae
from ppl_vae import EarlyStopping, KeepBest, VariationalEM

OLD = Path(__file__).parent / "fixtures" / "format_1"
EXPECTED = json.loads((OLD / "expected.json").read_text())
CLOSE = {"rtol": 2e-4, "atol": 2e-5}  # another processor rounds otherwise
# The loss does not depend on these biases: their gradients are rounding errors, of which Adam makes whole steps; and
# the running means behind them follow.
BEFORE_A_NORM = (
    *("model.decoder.0.bias", "guide.encoder.0.bias"),
    *("model.decoder.1.running_mean", "guide.encoder.1.running_mean"),
)


def assert_close(found, expected):
    assert set(found) == set(expected)
    for name, value in found.items():
        if name in BEFORE_A_NORM:
            continue
        torch.testing.assert_close(value.flatten().double(), torch.tensor(expected[name]).double(), **CLOSE, msg=name)


def assert_is(fit, expected):
    assert_close(fit.params, expected["params"])
    buffers = dict(expected["buffers"])
    for name in ("model.prior.loc", "model.prior.scale"):  # not persistent: such buffers are not written any more
        buffers.pop(name)
    assert_close(fit.buffers_by_name(), buffers)
    history = pd.DataFrame(expected["history"])
    pd.testing.assert_frame_equal(fit.history[history.columns], history, rtol=1e-4, check_dtype=False)
    found = fit.log_evidence(data(), seed=1).value
    torch.testing.assert_close(found, torch.tensor(expected["evidence"], dtype=torch.float64), rtol=0.0, atol=0.2)


def test_a_saved_fit_loads():
    fit = ppl_vae.load(OLD / "fit", *networks(seed=9))
    assert (fit.ended, fit.epochs, fit.steps) == ("completed", 3, 12)
    assert_is(fit, EXPECTED["fit"])


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    return tmp_path / "old"


def test_a_checkpoint_in_mid_epoch_goes_on(folder):
    em = VariationalEM(*networks(), lr=0.01, lr_scheduler=partial(ExponentialLR, gamma=0.9), compile=False)
    watching = [KeepBest(), EarlyStopping(patience=50)]
    options = {"validation": data(6, seed=2), "callbacks": watching, "seed": 3, "progress": False}
    fit = em.fit(data(), epochs=6, batch_size=4, checkpoint=folder / "checkpoint", resume=True, **options)
    assert fit.steps == 24
    assert_is(fit, EXPECTED["resumed"])


def test_what_goes_on_is_saved_in_todays_layout(folder):
    fit = ppl_vae.load(folder / "fit", *networks(seed=9))
    fit.save(folder / "again")
    again = ppl_vae.load(folder / "again", *networks(seed=8))
    assert_is(again, EXPECTED["fit"])
