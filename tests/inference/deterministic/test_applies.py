"""Does the deterministic way apply? If not, a reason in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from normal_pairs import FIT, REFUSED, data
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae.inference.deterministic.applies import reason_against

QUIET = pytest.mark.filterwarnings("ignore:Pair. the guide draws 'means', which is no latent")


@pytest.mark.parametrize("name", FIT)
def test_there_is_none(name):
    assert reason_against(*FIT[name](), data().float()) == ""


@QUIET
@pytest.mark.parametrize("name", REFUSED)
def test_there_is_one(name):
    make, reason = REFUSED[name]
    assert reason in reason_against(*make(), data().float())


def test_data_that_come_in_mini_batches(tmp_path):
    loader = DataLoader(TensorDataset(data().float()))
    assert reason_against(*FIT["AutoNormal"](), loader) == "the data come from a DataLoader, in mini-batches"
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(8, 3))
    assert reason_against(*FIT["AutoNormal"](), mapped) == "the data are read a batch at a time"


def test_much_of_everything(monkeypatch):
    room = "ppl_vae.inference.deterministic.applies"
    monkeypatch.setattr(f"{room}.MOST_PARAMETERS", 13)
    assert reason_against(*FIT["AutoNormal"](), data()) == "the pair has 14 parameters, more than 13"
    monkeypatch.setattr(f"{room}.MOST_ELEMENTS", 20)
    assert reason_against(*FIT["AutoNormal"](), data()) == "the data have 21 numbers, more than 20"


def test_errors_of_the_pair_itself_pass():
    def model(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        reason_against(model, lambda x: None, torch.zeros(3))
