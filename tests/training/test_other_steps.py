"""The loop repeats whatever step it is given: exact EM of a mixture, saved, resumed and taken back as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from runs import differences
from sklearn.mixture import GaussianMixture
from torch import Tensor

from ppl_vae import Callback, Pair
from ppl_vae.data import Batch, Rows
from ppl_vae.data.batches import SourceBatches
from ppl_vae.storage import decode_tree, encode_tree
from ppl_vae.training import Checkpoint, NonFiniteError, Trainer, read_state

START = torch.tensor([-0.5, 0.5], dtype=torch.float64)


def points() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(40, generator=generator, dtype=torch.float64)
    return torch.where(torch.arange(40) < 15, noise - 2.0, 0.5 * noise + 1.5)


class MixtureEM:
    """Textbook EM of two normals on the line, as a step."""

    waits_for_epochs = False

    def __init__(self) -> None:
        self.means, self.variances = START.clone(), torch.ones(2, dtype=torch.float64)
        self.weights = torch.full((2,), 0.5, dtype=torch.float64)
        self.count, self.bad = 0, False

    def before_run(self, target: int) -> None:
        """Nothing depends on it."""

    def __call__(self, batch: Batch, step: int) -> Tensor:
        (x,) = batch.args
        joint = self.weights.log() + dist.Normal(self.means, self.variances.sqrt()).log_prob(x.unsqueeze(-1))
        log_p = joint.logsumexp(-1)
        q = joint.softmax(-1)
        total = q.sum(0)
        self.weights.copy_(total / len(x))
        self.means.copy_(q.T @ x / total)
        self.variances.copy_((q * (x.unsqueeze(-1) - self.means).square()).sum(0) / total)
        self.count += 1
        nan = float("nan")
        return torch.tensor([float(log_p.mean()), float(log_p.mean()), nan, nan])

    @property
    def has_stopped(self) -> bool:
        return False

    def tensors(self) -> dict[str, Tensor]:
        return {"means": self.means, "variances": self.variances, "weights": self.weights}

    def state(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state(self, state: dict[str, Any]) -> None:
        self.count = state["count"]

    def fingerprint(self) -> dict[str, Any]:
        return {"step": "MixtureEM"}

    def failed(self) -> bool:
        return not all(bool(t.isfinite().all()) for t in self.tensors().values())

    def explain(self, batch: Batch, step: int) -> Exception:
        return NonFiniteError(step, "means", "the mixture was lost")

    def measure(self, batch: Batch) -> Tensor:
        (x,) = batch.args
        joint = self.weights.log() + dist.Normal(self.means, self.variances.sqrt()).log_prob(x.unsqueeze(-1))
        return joint.logsumexp(-1).mean().expand(4)

    def row(self) -> dict[str, float]:
        return {"count": float(self.count)}

    def after_epoch(self, row: dict[str, Any]) -> None:
        """Nothing depends on it."""


def nothing(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def trainer(folder: Path | None = None, *, data: Tensor | None = None, **options: Any) -> Trainer:
    x = points() if data is None else data
    pair = Pair(nothing, lambda x: None, dtype=torch.float64).initialize(x)
    batches = SourceBatches(Rows.of(x), None)
    checkpoint = Checkpoint(None if folder is None else folder / "state.safetensors", every=3, per_epoch=1)
    return Trainer(pair, MixtureEM(), batches, checkpoint=checkpoint, **options)


def snapshot(run: Trainer) -> Any:
    return {k: v for k, v in decode_tree(encode_tree(run.state())).items() if k != "seconds"}


def test_exact_em_runs_in_the_loop_and_is_scikit_learns():
    run = trainer()
    run.run(steps=200)
    start = GaussianMixture(
        2, weights_init=[0.5, 0.5], means_init=START.numpy()[:, None], precisions_init=np.ones((2, 1, 1)),
        reg_covar=0.0, tol=0.0, max_iter=200,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="did not converge"):
        theirs = start.fit(points().numpy()[:, None])
    assert run.make.means.numpy() == pytest.approx(theirs.means_[:, 0], abs=1e-8)
    assert run.history.rows[-1]["objective"] == pytest.approx(theirs.score(points().numpy()[:, None]), abs=1e-6)
    assert run.ended == "completed"
    assert [row["count"] for row in run.history.rows[:3]] == [1, 2, 3]


def test_it_is_saved_and_resumed_to_the_bit(tmp_path):
    whole = trainer()
    whole.run(steps=11)
    cut = trainer(tmp_path)
    cut.run(steps=7)
    again = trainer(tmp_path)
    again.load_state(read_state(tmp_path / "state.safetensors"))
    assert again.step == 7
    again.run(steps=11)
    assert differences(snapshot(whole), snapshot(again)) == []


def test_a_step_that_is_lost_is_named_and_taken_back():
    """A mean becomes infinite by hand of the data: the state is that of the step before."""

    class Spoil(Callback):
        def on_step(self, run: Any, report: Tensor) -> None:
            if run.step == 5:
                run.batches.source.args[0][0] = torch.inf

    whole = trainer()
    whole.run(steps=5)
    run = trainer(callbacks=[Spoil()])
    with pytest.raises(NonFiniteError, match="^step 5: the mixture was lost"):
        run.run(steps=20)
    assert run.step == 5
    assert differences(snapshot(whole)["tensors"], snapshot(run)["tensors"]) == []
