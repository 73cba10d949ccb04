"""Variational EM: raise the objective in φ (E-step) and in θ (M-step), at once or in turn."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.utils.data import DataLoader

from ppl_vae._random import fold, isolated_rng
from ppl_vae.data.batches import Batches, SourceBatches, Transform, TransformedBatches
from ppl_vae.data.loader import LoaderBatches
from ppl_vae.data.rows import Batch, Rows
from ppl_vae.diagnostics import CodeHistory
from ppl_vae.diagnostics.usage import discrete_sites
from ppl_vae.inference.names import name_of
from ppl_vae.inference.schedules import E_STEP, M_STEP, Joint, Schedule
from ppl_vae.inference.until import convergence, ends_by
from ppl_vae.objectives import COLUMNS, as_objective
from ppl_vae.pair import Pair
from ppl_vae.pair.places import require_places_alike
from ppl_vae.pair.row_parameters import forgetting, require_shared_parameters
from ppl_vae.result import Fit
from ppl_vae.storage import RunFolder
from ppl_vae.training import (
    Callback,
    Checkpoint,
    GradientStep,
    Subset,
    Trainer,
    build_optimizer,
    leaves_by_group,
    read_state,
)
from ppl_vae.training.checkpoint import taking_back
from ppl_vae.training.compilation import Choice, Compilation
from ppl_vae.training.ending import with_the_fit
from ppl_vae.training.processes import require_one_process
from ppl_vae.training.rates import require_rate
from ppl_vae.training.threads import is_small

CODE_SITES = 16
"""With more discrete latents than these (a chain of states), the history says nothing of each."""
CODE_ROWS = 1000
"""So many rows are looked at after each epoch, for the columns of the history that tell of discrete latents."""


class VariationalEM:
    r"""Fit a pair by variational EM on an ELBO.

    .. math::
        E: \phi \leftarrow \phi + \eta \nabla_\phi L_{\phi,\theta}(x), \qquad
        M: \theta \leftarrow \theta + \eta \nabla_\theta L_{\phi,\theta}(x)

    Args:
        model, guide: any Pyro pair with the same call signature; they are trained in place.
        objective: what is maximized: ``ELBO()`` (the default), ``IWAE(5)``, any Pyro ELBO.
        optimizer: a torch optimizer class, or a partial of one.
        lr: learning rate; the loss is -L/N, so it does not depend on the batch size. None: 1e-3 in a fit of a given
            length, else found by the data.
        e_lr, m_lr: learning rates of φ and of θ where they differ.
        schedule: ``Joint()`` moves both sides in each step (SVI); ``Alternating(e_steps=, m_steps=)`` freezes one;
            ``Only``, ``Frozen`` and ``Stages`` go by parameter names.
        lr_scheduler: a factory of a torch scheduler, such as ``partial(CosineAnnealingLR, T_max=100)``, advanced after
            each epoch; wrap it in ``EachStep`` to advance after each step.
        clip_norm: bound on the gradient's norm.
        device: "auto" takes a GPU where there is one.
        dtype: precision of parameters and data; None leaves the modules' own.
        data_plate: the plate of the datum, where the pair leaves it open.
        compile: "auto" compiles the step of a fit that is long enough to earn back the compile time, by a rule in
            counts (``fit.explain()`` says what was chosen); True always, and raises ``CaptureError`` where it cannot;
            False never.

    Source: Neal, Hinton, "A view of the EM algorithm that justifies incremental, sparse, and other variants", 1998;
    Hoffman, Blei, Wang, Paisley, "Stochastic Variational Inference", 2013.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *,
        objective: Any = None,
        optimizer: Any = torch.optim.Adam,
        lr: float | None = None,
        e_lr: float | None = None,
        m_lr: float | None = None,
        schedule: Schedule | None = None,
        lr_scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        clip_norm: float | None = None,
        device: torch.device | str = "auto",
        dtype: torch.dtype | None = None,
        data_plate: str | None = None,
        compile: Choice = "auto",
    ) -> None:
        if compile not in ("auto", True, False):
            raise ValueError(f"VariationalEM: compile must be 'auto', True or False, got {compile!r}")
        self._searches = lr is None and e_lr is None and m_lr is None
        lr = 1e-3 if lr is None else lr
        require_rate("lr", lr)
        for name, rate in (("e_lr", e_lr), ("m_lr", m_lr), ("clip_norm", clip_norm)):
            if rate is not None:
                require_rate(name, rate, most=math.inf if name == "clip_norm" else sys.float_info.max)
        if schedule is not None and not callable(getattr(schedule, "moves", None)):
            raise TypeError(f"VariationalEM: a schedule such as Joint() or Alternating() is required, got {schedule!r}")
        if lr_scheduler is not None and not callable(lr_scheduler):
            raise TypeError(f"VariationalEM: lr_scheduler must be a function of the optimizer, got {lr_scheduler!r}")
        self.objective, self.optimizer, self.schedule = as_objective(objective), optimizer, schedule or Joint()
        self.lr, self.e_lr, self.m_lr = lr, e_lr if e_lr is not None else lr, m_lr if m_lr is not None else lr
        self.lr_scheduler, self.clip_norm, self.compile = lr_scheduler, clip_norm, compile
        place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.pair = Pair(model, guide, data_plate=data_plate, device=place, dtype=dtype)
        self._by_hand: tuple[GradientStep, int] | None = None

    # -- a whole fit ---------------------------------------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        until: str | None = None,
        gain_tol: float | None = None,
        max_steps: int | None = None,
        batch_size: int | None = None,
        validation: Any = None,
        callbacks: Iterable[Callback] = (),
        seed: int = 0,
        progress: bool = True,
        checkpoint: str | Path | None = None,
        every: int | None = None,
        every_seconds: float | None = None,
        resume: bool = False,
        transform: Transform | None = None,
        last_batch: str = "keep",
    ) -> Fit:
        """Fit the pair to data; a second call goes on from the parameters of the first.

        Args:
            data: rows along axis 0: a tensor, array, data frame, a tuple (x, y) or dictionary of these, a
                ``TensorDataset``, or a ``DataLoader`` (whose batch size counts); None for a pair without data. Memory
                maps, large frames and map-style data sets are read a batch at a time; see :func:`data.source_of`.
            epochs, steps: how long; one of the two, or neither.
            until: "converged", the default where neither is given: a run that finds and lowers its rate, and ends by
                itself, with averaged iterates; see :class:`~ppl_vae.inference.convergence.Convergence`.
            gain_tol: what it may leave to gain: nats in all where data share latents (0.1), else nats per datum (0.02).
            max_steps: where it ends at the latest (``fit.ended`` says so); default 100,000.
            batch_size: B; None takes all rows in each step.
            validation: rows on which the objective is measured after each epoch (columns ``val_*``).
            callbacks: see :class:`~ppl_vae.training.Callback`.
            seed: initialization of lazy parameters, order of the data and noise are functions of it.
            progress: show a bar in a terminal or notebook.
            checkpoint: a folder for the state of the run, written after each epoch (of one step: every 10 seconds).
            every, every_seconds: write it every so many steps, or seconds, instead.
            resume: go on from the folder's state if it holds one; the end is bit-identical to an uninterrupted run. The
                rows must be the same, by a digest of all that lie in memory or in memory maps (of those above 1 GiB, of
                1 GiB spread over all); of a ``Dataset`` the first 256 are compared, of a ``DataLoader`` those of the
                first batch, its lengths and the seed of its sampler, and no more; ``validation`` likewise. Numbers,
                names and shapes are compared, **code is not**: what the model, the guide, a transform, a callback or
                the function of an ``lr_scheduler`` does is yours to leave as it was.
            transform: a random function of the first tensor, applied to each batch (``dynamic_binarization``).
            last_batch: of the N mod B rows at the end of an epoch: "keep" makes a smaller batch, "drop" leaves them out
                (others in each epoch), "even" makes all batches of an epoch of nearly one size.

        Returns:
            The fit. Ctrl-C ends it cleanly with what it has (``fit.ended == "interrupted"``), its state written, unless
            SIGINT is ignored; and so does SIGTERM, in the main thread and unless the caller has a handler of his own
            for it.

        Raises:
            NonFiniteError: the loss or a gradient was not finite; its ``fit`` is the fit before that step.
            DataAxisError, ValueError: what is wrong with the data, before the first step; or this process is one of
                several (``torchrun``), each of which would make the whole fit.
            FolderInUse: another run is writing its state into ``checkpoint``.
            WriteError: the state could not be written (a full disk, say); its ``fit`` is the fit as it is in memory.
        """
        require_one_process("fit")
        batches = self._batches(data, batch_size, seed, transform, last_batch)
        size = None if isinstance(validation, DataLoader) else batch_size
        held_out = None if validation is None else self._batches(validation, size, seed, transform)
        pair, fit = self.pair, Fit(self.pair)
        state_file = None if checkpoint is None else Path(checkpoint) / RunFolder.STATE
        if state_file is not None:
            state_file.parent.mkdir(parents=True, exist_ok=True)
        with self.pair.scope():  # its lock: reading a batch uses torch's global generator for a moment
            first = batches.at(seed, 0, 0)
        step = self._gradient_step(self.compile, seed, batches.per_epoch, first.size)
        rules, lengths = convergence(
            pair,
            batches.num_data,
            until=until,
            lengths={"epochs": epochs, "steps": steps},
            max_steps=max_steps,
            gain_tol=gain_tol,
            lr_scheduler=self.lr_scheduler,
            searches=self._searches and not isinstance(self.optimizer, PyroOptim),
            objective=self.objective,
            schedule=self.schedule,
            batch=first,
            seed=seed,
        )
        trainer = Trainer(
            pair,
            step,
            batches,
            seed=seed,
            validation=held_out,
            callbacks=[*rules, *self._watching(batches, seed), *callbacks],
            checkpoint=Checkpoint(state_file, every=every, every_seconds=every_seconds, per_epoch=batches.per_epoch),
            on_one_thread=self._is_small(step, first),
            fit=fit,
            fingerprint={
                "objective": repr(self.objective),
                "schedule": repr(self.schedule),
                "dtype": str(pair.dtype),
                "compile": self.compile,
            },
        )
        fit.attach(trainer, {**self._config(pair, batches, batch_size, seed), **ends_by(rules)})
        with with_the_fit(fit), trainer.checkpoint.alone():
            if resume and state_file is not None and os.path.lexists(state_file):
                with taking_back(state_file):
                    trainer.load_state(read_state(state_file))
            trainer.run(**lengths, progress=progress)
        return fit

    def _batches(
        self, data: Any, batch_size: int | None, seed: int, transform: Transform | None, last_batch: str = "keep"
    ) -> Batches:
        pair = self.pair
        batches: Batches
        seen: Batches
        if isinstance(data, DataLoader):
            if batch_size is not None:
                raise ValueError("fit: batch_size is the DataLoader's own; leave it out")
            if last_batch != "keep":
                raise ValueError(
                    "fit: the last batch is the DataLoader's own matter (drop_last=); leave last_batch out"
                )
            seen = batches = LoaderBatches(data, pair.rows)
        else:
            rows, with_index = pair.rows(data), pair.takes("index")
            batches = SourceBatches(rows, batch_size, with_index=with_index, last_batch=last_batch)
            seen = SourceBatches(rows, None, with_index=with_index) if isinstance(rows, Rows) else batches
        if transform is not None:
            batches, seen = TransformedBatches(batches, transform), TransformedBatches(seen, transform)
        if fresh := not pair.initialized:
            with pair.scope():  # its lock: reading uses torch's global generator for a moment
                first = seen.at(seed, 0, 0)
            few = Rows(first.args, first.kwargs, first.index, first.numbers)
            pair.initialize(few, seed=seed, batch_size=batch_size, num_data=batches.num_data)
        if batches.per_epoch > 1:
            pair.sites.require_batchable(pair.guide)
            with forgetting(pair, fresh):
                require_shared_parameters(pair, batch_size)
                require_places_alike(pair, batch_size or len(pair.template or ()))
                if pair.sites.remasked:  # the first rows may have full masks, and a compiled step does not ask
                    with pair.evaluating(fold(seed, "holes")):
                        pair.runner.holes.require_absent_in(batches.epoch(seed, 0))
            if pair.layout.axis is not None and pair.layout.axis.subsampled:
                raise ValueError(
                    f"fit: the pair's plate {pair.data_plate!r} subsamples the data itself; leave out batch_size"
                )
        return batches

    def _watching(self, batches: Batches, seed: int) -> list[Callback]:
        """The codes are in the history of a pair with discrete latents."""
        axis = self.pair.layout.axis
        if not 0 < len(discrete_sites(self.pair)) <= CODE_SITES or (axis is not None and axis.subsampled):
            return []
        with self.pair.scope():
            seen = batches.first_rows(CODE_ROWS, seed)
        return [CodeHistory(seen)]

    def _optimizer(self, pair: Pair) -> torch.optim.Optimizer:
        rates = {"theta": self.m_lr, "phi": self.e_lr, "shared": self.m_lr, "psi": self.lr}
        return build_optimizer(self.optimizer, leaves_by_group(pair, self.objective), rates)

    def _config(self, pair: Pair, batches: Batches, batch_size: int | None, seed: int) -> dict[str, Any]:
        """What a run folder says of the fit: names and numbers."""
        return {
            "model": name_of(pair.model),
            "guide": name_of(pair.guide),
            "objective": repr(self.objective),
            "schedule": repr(self.schedule),
            "optimizer": name_of(self.optimizer),
            "lr": self.lr,
            "e_lr": self.e_lr,
            "m_lr": self.m_lr,
            "clip_norm": self.clip_norm,
            "batch_size": batch_size,
            "num_data": batches.num_data,
            "seed": seed,
            "device": str(pair.device),
            "dtype": str(pair.dtype).removeprefix("torch."),
            "data_plate": pair.data_plate,
        }

    # -- by hand -------------------------------------------------------------------------------------------------------

    def e_step(self, data: Any, *, num_data: int | None = None) -> float:
        """One step of φ with θ frozen; returns the objective before it, nats per datum.

        Args:
            data: the rows of this step.
            num_data: N, if the rows are a mini-batch of N rows.
        """
        return self._step(data, num_data, E_STEP)

    def m_step(self, data: Any, *, num_data: int | None = None) -> float:
        """One step of θ (and of what both sides share) with φ frozen; returns the objective before it."""
        return self._step(data, num_data, M_STEP)

    def step(self, data: Any, *, num_data: int | None = None) -> float:
        """One step of whatever the schedule moves now; returns the objective before it, nats per datum."""
        count = self._by_hand[1] if self._by_hand is not None else 0
        return self._step(data, num_data, self.schedule.moves(count))

    def _step(self, data: Any, num_data: int | None, moving: Subset | frozenset[str]) -> float:
        if self._by_hand is None:
            require_one_process("VariationalEM.step")
        batch = self._batch(data, num_data)
        if self._by_hand is None and num_data not in (None, batch.size):
            self.pair.sites.require_batchable(self.pair.guide)
            require_shared_parameters(self.pair, batch.size)
            require_places_alike(self.pair, batch.size or 0)
        gradient_step, count = self._by_hand or (self._gradient_step(self.compile is True), 0)  # nobody says how long
        self._by_hand = (gradient_step, count + 1)
        with self.pair.scope(), isolated_rng(None, self.pair.device), self.pair.mode(training=True):
            return float(gradient_step.by_hand(batch, count, moving)[0])

    def _gradient_step(
        self, compile: Choice, seed: int = 0, per_epoch: int = 1, usual_size: int | None = None
    ) -> GradientStep:
        self.objective.meet(self.pair)
        compilation = Compilation(
            compile,
            {"model": self.pair.model, "guide": self.pair.guide, "objective": self.objective},
            moves=self.schedule.moves,
            per_epoch=per_epoch,
            usual_size=usual_size,
            device=self.pair.device.type,
        )
        return GradientStep(
            self.pair,
            self.objective,
            self._optimizer(self.pair),
            moves=self.schedule.moves,
            clip_norm=self.clip_norm,
            lr_scheduler=self.lr_scheduler,
            seed=seed,
            compilation=compilation,
        )

    def _is_small(self, step: GradientStep, first: Batch) -> bool:
        return is_small(
            sum(leaf.numel() for leaf in step.everything()),
            (first.size or 1) * self.objective.num_particles,
            sum(t.numel() for t in first.args if isinstance(t, Tensor)),
        )

    def _batch(self, data: Any, num_data: int | None) -> Batch:
        rows = self.pair.rows(data)
        self.pair.initialize(rows)
        return rows.batch(num_data=num_data)

    def evaluate(self, data: Any, *, seed: int = 0, batch_size: int | None = None) -> dict[str, float]:
        """Measure the objective without a step: ``objective``, ``elbo``, ``reconstruction``, ``kl``, nats per datum."""
        rows = self.pair.rows(data)
        self.pair.initialize(rows, batch_size=batch_size)
        total: Tensor = torch.zeros(len(COLUMNS), dtype=torch.float64)
        with self.pair.evaluating(fold(seed, "evaluate")):
            for batch in _pieces(rows, batch_size, self.pair.takes("index")):
                report = self.objective.measure(self.pair, batch).to("cpu", torch.float64)
                total += report * (batch.size or 1) / (len(rows) or 1)
        return dict(zip(COLUMNS, total.tolist(), strict=True))

    def result(self) -> Fit:
        """The pair as it stands after steps by hand, as a fit."""
        return Fit(self.pair)


def _pieces(rows: Any, batch_size: int | None, with_index: bool) -> Iterable[Batch]:
    size = batch_size or len(rows) or 1
    for start in range(0, max(len(rows), 1), size):
        part = rows.take(slice(start, start + size)) if len(rows) else rows
        yield Batch(part.args, part.kwargs, part.index if with_index else None, len(rows) or None, part.index)
