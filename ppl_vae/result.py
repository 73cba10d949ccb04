"""The result: a pair with the record of the run that fitted it, and all that one asks of them."""

from __future__ import annotations

import copy
import functools
import html
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from ppl_vae.capture import Explanation
from ppl_vae.diagnostics.certificate import Certificate
from ppl_vae.evidence import Evidence, log_evidence
from ppl_vae.evidence.measured_elbo import elbo
from ppl_vae.fit_plots import FitPlots
from ppl_vae.pair import Pair
from ppl_vae.predictions import Predictions
from ppl_vae.training import Trainer
from ppl_vae.training.record import Record
from ppl_vae.training.rising import Rise

if TYPE_CHECKING:
    import pandas as pd

P = ParamSpec("P")
R = TypeVar("R")


def _passed_on(method: Callable[Concatenate[Pair, P], R]) -> Callable[Concatenate[Any, P], R]:
    """A method of the pair as one of the fit."""

    @functools.wraps(method)
    def call(self: Fit, *args: P.args, **kwargs: P.kwargs) -> R:
        found: R = getattr(self.pair, method.__name__)(*args, **kwargs)  # looked up: a subclass may have its own
        return found

    return call


def _of_pair(name: str) -> Any:
    return property(lambda self: getattr(self.pair, name), doc=f"``pair.{name}``.")


class Fit(Predictions):
    """A fitted pair: ``evidence`` and ``diagnostics`` take it as they take a :class:`~ppl_vae.pair.Pair`.

    Attributes:
        pair: the pair, with its parameters as they are now.
        config: names and numbers of the fit, as the run folder keeps them.
    """

    _trainer: Trainer | None = None
    _rows: Any = None

    def __init__(
        self, pair: Pair, record: Record | None = None, config: dict[str, Any] | None = None, *, rows: Any = None
    ) -> None:
        self.pair, self.config, self._record, self._rows = pair, config or {}, record or Record(), rows

    def attach(self, trainer: Trainer, config: dict[str, Any]) -> None:
        """Take the run that fits this pair, and what it is called."""
        self._trainer, self.config = trainer, config

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle holds: the pair and the record; not the run, which is bound to its process."""
        return {"pair": self.pair, "config": self.config, "_record": self.record}

    def __deepcopy__(self, memo: dict[int, Any]) -> Fit:
        return Fit(copy.deepcopy(self.pair, memo), copy.deepcopy(self.record, memo), copy.deepcopy(self.config, memo))

    def took(self, seconds: float) -> None:
        """Count these seconds in all: what was tried before belongs to a fit."""
        self._record = replace(self.record, seconds=seconds)

    def release(self) -> Fit:
        """Let go of the run and its data: of them the record is left, and two rows to run the pair on."""
        self._record, self._trainer, self._rows = self.record, None, None
        if self.pair.template is not None:
            self.pair.template = self.pair.template.take(torch.arange(min(2, len(self.pair.template))))
        return self

    # -- the pair ------------------------------------------------------------------------------------------------------

    model, guide, device, dtype = _of_pair("model"), _of_pair("guide"), _of_pair("device"), _of_pair("dtype")
    params, parameters = _of_pair("params"), _of_pair("parameters")
    latents, observed, summed = _of_pair("latents"), _of_pair("observed"), _of_pair("summed")
    layout, data_plate, sites, scope = _of_pair("layout"), _of_pair("data_plate"), _of_pair("sites"), _of_pair("scope")
    has_global_latents, is_exact = _of_pair("has_global_latents"), _of_pair("is_exact")
    counts_volume, initialized, modules = _of_pair("counts_volume"), _of_pair("initialized"), _of_pair("modules")
    parameters_by_name, buffers_by_name = _passed_on(Pair.parameters_by_name), _passed_on(Pair.buffers_by_name)
    frozen_by_name, rows, takes = _passed_on(Pair.frozen_by_name), _passed_on(Pair.rows), _passed_on(Pair.takes)
    draw, draw_prior = _passed_on(Pair.draw), _passed_on(Pair.draw_prior)
    log_joint, log_guide = _passed_on(Pair.log_joint), _passed_on(Pair.log_guide)
    unconstrain, constrain = _passed_on(Pair.unconstrain), _passed_on(Pair.constrain)
    density, simulate = _passed_on(Pair.density), _passed_on(Pair.simulate)
    template_state = _passed_on(Pair.template_state)

    # -- the run -------------------------------------------------------------------------------------------------------

    def explain(self) -> Explanation:
        """How the steps of the run were made (eager, or captured and compiled), and why. Print it."""
        compilation = getattr(getattr(self._trainer, "make", None), "compilation", None)
        return compilation.explain() if compilation is not None else Explanation([])

    @property
    def has_run(self) -> bool:
        """Is the run that made this fit at hand, to be resumed?"""
        return self._trainer is not None

    @property
    def trainer(self) -> Trainer:
        """The run behind this fit.

        Raises:
            RuntimeError: for a fit that was loaded or copied, one without steps, or a pair stepped by hand.
        """
        if self._trainer is None and self.config.get("schedule") == "deterministic":
            raise RuntimeError(
                "Fit: DeterministicVI made this fit, and it makes no steps that could go on; where the certificate "
                "asks for more, call DeterministicVI(model, guide, ...).fit(data) with what it advises"
            )
        if self._trainer is None:
            raise RuntimeError(
                "Fit: the run that made this fit is not at hand (it was loaded, copied, released or stepped by hand); "
                "to go on from a run folder, call VariationalEM(model, guide, ...).fit(data, ..., checkpoint=folder, "
                "resume=True)"
            )
        return self._trainer

    def rows_of_fit(self, fitted_to: Any = None) -> Any:
        """The rows of the fit, if they are given or at hand; else None."""
        if fitted_to is not None:
            return self.pair.rows(fitted_to)
        if self._trainer is not None and self._trainer.batches.rows is not None:
            return self._trainer.batches.rows
        if self._rows is not None:
            return self._rows
        template, size = self.pair.template, self.config.get("num_data") or self.pair.num_rows
        return template if template is not None and len(template) == size else None

    @property
    def record(self) -> Record:
        """The account of the run: how it ended, how long it was, its history."""
        return Record.of(self._trainer) if self._trainer is not None else self._record

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch, nats a datum: ``objective`` (weighted), ``elbo``, ``reconstruction``, ``kl``, ``val_*``."""
        import pandas as pd

        return pd.DataFrame(self.record.table.columns())

    @property
    def ended(self) -> str:
        """How the run ended."""
        return self.record.ended

    @property
    def steps(self) -> int:
        """Steps made in all."""
        return self.record.steps

    @property
    def epochs(self) -> int:
        """Epochs completed in all."""
        return self.record.epochs

    @property
    def seconds(self) -> float:
        """Wall time of the run in seconds."""
        return self.record.seconds

    @property
    def rungs(self) -> pd.DataFrame | None:
        """What the guides are worth that ``guide="auto"`` tried, a row each, in nats and seconds; else None."""
        import pandas as pd

        rungs = self.config.get("rungs")
        return None if rungs is None else pd.DataFrame(rungs).set_index("name")

    @property
    def certificate(self) -> Certificate | None:
        """Whether the fit is done, line by line; None for a fit of a given number of steps or epochs."""
        plain = self.config.get("certificate")
        return None if plain is None else Certificate.of(plain)

    @property
    def rise(self) -> Rise | None:
        """How far the ELBO was still rising at the end of a run of a given length; None: it was not, or too short."""
        if self.certificate is not None:
            return None
        shares = self.config.get("num_data") if self.pair.initialized and self.has_global_latents else None
        return self.record.rise(num_data=shares)

    def resume(self, *, epochs: int | None = None, steps: int | None = None, progress: bool = True) -> Fit:
        """Go on for so many more epochs or steps: the end is bit-identical to one longer run.

        A run until it has converged goes on until it has; with a number it ends after that many more at the latest.
        """
        trainer = self.trainer
        neither = epochs is None and steps is None and self.config.get("until") is not None
        more = trainer.target if neither else trainer.step + trainer.steps_in(epochs, steps)
        trainer.run(steps=more, progress=progress)
        return self

    # -- how good ------------------------------------------------------------------------------------------------------

    def elbo(self, data: Any = None, *, num_samples: int = 64, seed: int = 0, weighted: bool = False) -> Tensor:
        """The ELBO of each datum at beta = 1: (N,) nats; () with global latents; see ``evidence.elbo``."""
        return elbo(self.pair, data, num_samples=num_samples, seed=seed, weighted=weighted)

    def log_evidence(self, data: Any = None, estimator: Any = None, *, seed: int = 0) -> Evidence:
        """Log p(x) of each datum, without weights: exact where it can be had, else by ``ImportanceWeighted(1000)``.

        With latents that all data share it is one number, log p(rows) **under the prior**; what the fit says of rows
        that it has not seen is :meth:`log_predictive`. See ``evidence.log_evidence``.
        """
        return log_evidence(self.pair, data, estimator, seed=seed)

    def to_inference_data(self, data: Any = None, **options: Any) -> Any:
        """The posterior for ArviZ; see ``diagnostics.to_inference_data``."""
        from ppl_vae.diagnostics import to_inference_data

        return to_inference_data(self.pair, data, **{"fitted_to": self.rows_of_fit(), **options})

    def verdict(self, data: Any = None, *, train: Any = None, **options: Any) -> Any:
        """How good it is in plain words; see ``diagnostics.verdict``. ``train``: by default the rows of the run."""
        from ppl_vae.diagnostics import verdict

        return verdict(self, data, train=self.rows_of_fit(train), **options)

    def diagnose(self, data: Any = None, **options: Any) -> Any:
        """Everything that can be asked of it, a line each, and a page; see ``diagnostics.diagnose``."""
        from ppl_vae.diagnostics import diagnose

        return diagnose(self, data, **options)

    # -- to keep -------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, overwrite: bool = False, **options: Any) -> Path:
        """Write a run folder: weights, state, history, environment, a model card; see ``saving.save_fit``.

        With ``data=`` the posterior of these rows goes into ``posterior.nc``. The state holds two rows of the data, on
        which ``ppl_vae.load`` runs the pair once.

        Raises:
            FileExistsError: when the folder holds a run and ``overwrite`` is False.
        """
        from ppl_vae.saving import save_fit

        return save_fit(self, Path(folder), overwrite=overwrite, **options)

    @cached_property
    def plot(self) -> FitPlots:
        """Figures: ``plot.history()``, ``plot.latent(x)`` and others; each takes ``ax=`` and returns it."""
        return FitPlots(self)

    # -- shown ---------------------------------------------------------------------------------------------------------

    def summary(self) -> dict[str, str]:
        """What was fitted, for how long, how it ended, and the last numbers, as words."""
        config, table, certificate = self.config, self.record.table, self.certificate
        words = {
            "pair": f"{config.get('model', _short(self.model))} / {config.get('guide', _short(self.guide))}",
            "parameters": f"{sum(leaf.numel() for leaf in self.parameters_by_name().values()):,}",
            "objective": str(config.get("objective", "")),
            "ended": f"{self.ended} after {self.epochs} epochs, {self.steps} steps, {self.seconds:.1f} s",
        }
        if self.ended.startswith("not converged"):
            words["ended"] = f"{self.ended}, {self.epochs} epochs, {self.seconds:.1f} s"
        if config.get("schedule") == "deterministic":
            words["ended"] = f"{self.ended} after {self.steps} evaluations of the ELBO, {self.seconds:.1f} s"
        if config.get("num_data"):
            words["data"] = f"{config['num_data']} rows" + (
                f" in batches of {config['batch_size']}" if config.get("batch_size") else ""
            )
        if certificate is not None:
            words["elbo"], words["done"] = certificate.elbo, certificate.sentence
        elif len(table):
            names, last = ("objective", "elbo", "reconstruction", "kl", "val_elbo"), table[-1]
            words["last epoch"] = ", ".join(f"{n} {last[n]:.3f}" for n in names if n in last) + " nats per datum"
        if (rise := self.rise) is not None:
            words["not done"] = f"{rise}"
        return {key: value for key, value in words.items() if value}

    def __repr__(self) -> str:
        return "Fit\n" + "\n".join(f"  {key:<11}{value}" for key, value in self.summary().items())

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in self.summary().items()
        )
        return f"<table><caption>Fit</caption>{cells}</table>"


def _short(fn: Any) -> str:
    return str(getattr(fn, "__qualname__", type(fn).__qualname__))
