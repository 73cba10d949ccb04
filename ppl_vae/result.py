"""The result: a fitted pair and all that one asks of it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.capture import Explanation
from ppl_vae.evidence import Evidence, log_evidence
from ppl_vae.evidence.chunks import MAX_ELEMENTS, Plan, numbers_per_datum, slices
from ppl_vae.evidence.log_evidence import MANY
from ppl_vae.pair import Pair
from ppl_vae.pair.axis import sample_sites
from ppl_vae.pair.handlers import has_density
from ppl_vae.pair.particles import outward
from ppl_vae.pair.table import num_codes, tabulate
from ppl_vae.plots.of_fit import FitPlots
from ppl_vae.training import Trainer
from ppl_vae.training.history import table_of
from ppl_vae.training.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from ppl_vae.data.source import Source


class Fit(Pair):
    """A fitted pair. It is a :class:`~ppl_vae.pair.Pair`, so all of ``evidence`` and ``diagnostics`` takes it.

    Attributes:
        ended: how the run ended: "completed", "interrupted", "early stopping", "non-finite".
        config: names and numbers of the fit, as the run folder keeps them.
    """

    config: dict[str, Any]
    _trainer: Trainer | None
    _record: dict[str, Any]  # of a loaded fit: what its run was

    @classmethod
    def of(cls, pair: Pair) -> Fit:
        """A fit that shares the parameters of ``pair``."""
        fit = cls.__new__(cls)
        fit.__dict__.update(pair.__dict__)
        fit.__dict__.pop("plot", None)
        fit._trainer, fit.config, fit._record = None, {}, {"ended": "by hand"}
        return fit

    def attach(self, trainer: Trainer, config: dict[str, Any]) -> None:
        """Take the run that fits this pair, and what it is called."""
        self._trainer, self.config = trainer, config

    def restore(self, config: dict[str, Any], state: dict[str, Any] | None) -> None:
        """Take what a run folder says of the run that made this fit."""
        table = table_of((state or {}).get("history", {})).up_to(config["run"]["epochs"])  # a later checkpoint has more
        self.config, self._record = dict(config["fit"]), {**config["run"], "table": table}

    # -- the run -------------------------------------------------------------------------------------------------------

    def explain(self) -> Explanation:
        """How the steps of the run were made (eager, or captured and compiled), and why. Print it."""
        compilation = getattr(self._trainer.make, "compilation", None) if self._trainer is not None else None
        return compilation.explain() if compilation is not None else Explanation([])

    @property
    def has_run(self) -> bool:
        """Is the run that made this fit at hand, to be resumed?"""
        return self._trainer is not None

    @property
    def trainer(self) -> Trainer:
        """The run behind this fit.

        Raises:
            RuntimeError: for a fit that was loaded, or a pair stepped by hand.
        """
        if self._trainer is None:
            raise RuntimeError(
                "Fit: the run that made this fit is not at hand (it was loaded, or stepped by hand); to go on from "
                "a run folder, call VariationalEM(model, guide, ...).fit(data, ..., checkpoint=folder, resume=True)"
            )
        return self._trainer

    @property
    def table(self) -> Table:
        """The history, packed: a row an epoch."""
        return self._trainer.history.table() if self._trainer is not None else self._record.get("table", Table())

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch: ``objective``, ``elbo``, ``reconstruction``, ``kl`` and ``val_*``, nats per datum."""
        import pandas as pd

        return pd.DataFrame(self.table.columns())

    @property
    def ended(self) -> str:
        """How the run ended."""
        return self._trainer.ended if self._trainer is not None else str(self._record["ended"])

    @property
    def steps(self) -> int:
        """Gradient steps made in all."""
        return self._trainer.step if self._trainer is not None else int(self._record.get("steps", 0))

    @property
    def epochs(self) -> int:
        """Epochs completed in all."""
        return self._trainer.epoch if self._trainer is not None else int(self._record.get("epochs", 0))

    @property
    def seconds(self) -> float:
        """Wall time of the run in seconds."""
        return self._trainer.seconds if self._trainer is not None else float(self._record.get("seconds", 0.0))

    def resume(self, *, epochs: int | None = None, steps: int | None = None, progress: bool = True) -> Fit:
        """Go on for so many more epochs or steps: the end is bit-identical to one longer run."""
        trainer = self.trainer
        trainer.run(steps=trainer.step + trainer.steps_in(epochs, steps), progress=progress)
        return self

    # -- how good ------------------------------------------------------------------------------------------------------

    def elbo(self, data: Any = None, *, num_samples: int = 64, seed: int = 0) -> Tensor:
        """The ELBO of each datum at beta = 1, averaged over draws: (N,) nats, float64; () with global latents.

        Exact, without draws, for discrete latents of at most 4096 joint values; one draw is exact for a flow.
        """
        rows = self.rows(data)
        self.initialize(rows)
        if self.is_exact:
            num_samples = 1
        if (count := num_codes(self) or MANY) < MANY:
            return self._exact_elbo(rows, count)
        plan = Plan.of(self, rows, num_samples, MAX_ELEMENTS)
        found = []
        for place, chunk in plan.row_chunks(rows):
            total: Any = 0.0
            for piece in slices(num_samples, plan.draws):
                noise = fold(seed, "elbo", place.start, piece.start)
                total = total + self.draw(chunk, piece.stop - piece.start, seed=noise).log_weight.sum(0)
            found.append(total / num_samples)
        return torch.cat(found) if found[0].dim() else found[0]

    def _exact_elbo(self, rows: Source, num_codes: int) -> Tensor:
        some = max(1, MAX_ELEMENTS // (num_codes * numbers_per_datum(self, rows)))
        with self.evaluating(0):
            parts = [tabulate(self, rows.take(place).batch()).elbo for place in slices(len(rows), some)]
        return torch.cat(parts).double().cpu()

    def log_evidence(self, data: Any = None, estimator: Any = None, *, seed: int = 0) -> Evidence:
        """Log p(x) of each datum: exact where few codes are all latents, else by ``ImportanceWeighted(1000)``.

        See ``evidence.log_evidence``.
        """
        return log_evidence(self, data, estimator, seed=seed)

    def to_inference_data(self, data: Any = None, **options: Any) -> Any:
        """The posterior for ArviZ; see ``diagnostics.to_inference_data``."""
        from ppl_vae.diagnostics import to_inference_data

        return to_inference_data(self, data, **options)

    def verdict(self, data: Any = None, **options: Any) -> Any:
        """How good it is in plain words; see ``diagnostics.verdict``."""
        from ppl_vae.diagnostics import verdict

        return verdict(self, data, **options)

    # -- latents and data ----------------------------------------------------------------------------------------------

    def encode(self, data: Any, *, sample: bool = False, seed: int = 0) -> Any:
        """The posterior mean of each datum's latent, or a draw: (N, ...), a dictionary if there are several latents.

        A discrete latent gives its most probable value. Where the guide draws a latent given others, or has no mean in
        closed form, 256 draws are averaged.

        Args:
            data: N rows.
            sample: draw from q(z | x) instead.
            seed: of the draws.
        """
        if sample:
            return _single({name: value[0] for name, value in self.draw(data, 1, seed=seed).values.items()})
        batch = self._as_batch(data)
        with self.evaluating(seed):
            sites = dict(sample_sites(self.run(batch).guide_trace))
            derived = any(site["infer"].get("is_auxiliary") for site in sites.values() if has_density(site))
            first = next(iter(self._guide_sites), None)
            known = [name for name in self.latents if name == first and not derived]
            found = {name: self._center(sites[name], name) for name in known}
        missing = [name for name in self.latents if found.get(name) is None]
        if missing:
            draws = self.draw(data, 256, seed=seed).values
            found |= {name: _center_of_draws(draws[name]) for name in missing}
        return _single({name: found[name] for name in self.latents})

    def _center(self, site: Mapping[str, Any], name: str) -> Tensor | None:
        """The mean of a site's distribution, or its mode if it is discrete; None where it has none."""
        latent = self.latents[name]
        try:
            center = site["fn"].mode if latent.is_discrete else site["fn"].mean
        except NotImplementedError:
            return None
        if not bool(torch.isfinite(center).all()):
            return None
        center = center.expand(site["value"].shape).to(site["value"].dtype)
        return outward(center, latent, self.layout, False)[0].detach().cpu()

    def codes(self, data: Any, site: str | None = None, *, seed: int = 0) -> Tensor:
        """The most probable class of each discrete latent: (N, M) long; see ``diagnostics.codes``.

        Of a latent that the model sums out, the class that Bayes' rule gives.

        Args:
            data: N rows.
            site: its name, where there are several discrete latents.
            seed: of the draws that are averaged where the classes depend on other latents.
        """
        from ppl_vae.diagnostics import codes

        return codes(self, data, site, seed=seed)

    def decode(self, latents: Any, *, mean: bool = True, seed: int = 0) -> Any:
        """The data that latents stand for: the mean of p(x | z) or a draw; (n, ...) by observed site."""
        given = self._as_values(latents)
        if unknown := sorted(set(given) - set(self.latents)):
            raise ValueError(f"decode: the latent sites are {sorted(self.latents)}, got {unknown}")
        sizes = [len(v) for name, v in given.items() if self.latents[name].is_local]
        found = self.simulate(sizes[0] if sizes else 1, seed=seed, mean=mean, latents=given)
        return _single({name: found[name] for name in self.observed if name in found})

    def sample(self, n: int, *, mean: bool = False, seed: int = 0) -> Any:
        """N new data from the model: z from its prior, x given z (``mean=True``: the mean of x given z).

        The guide is not touched.
        """
        found = self.simulate(n, seed=seed, mean=mean)
        return _single({name: found[name] for name in self.observed if name in found})

    def reconstruct(self, data: Any, *, mean: bool = True, seed: int = 0) -> Any:
        """Encode and decode each datum through the posterior mean: (N, ...)."""
        codes = self.encode(data)
        values = codes if isinstance(codes, dict) else {next(iter(self.latents)): codes}
        found = self.predict(data, {name: value.unsqueeze(0) for name, value in values.items()}, mean=mean, seed=seed)
        return _single({name: value[0] for name, value in found.items()})

    def interpolate(self, first: Any, second: Any, steps: int = 8) -> Any:
        """Decode the straight line between the codes of two sets of N data: (N, steps, ...)."""
        self.require_local("interpolate")
        if steps < 2:
            raise ValueError(f"interpolate: steps must be at least 2, got {steps}")
        start, end = self.encode(first), self.encode(second)
        if isinstance(start, dict):
            raise ValueError(f"interpolate: one latent site is required, got {sorted(start)}")
        if not start.is_floating_point():
            raise ValueError("interpolate: a continuous latent is required; between two codes there is no line")
        if start.shape != end.shape:
            raise ValueError(f"interpolate: equally many rows are required, got {len(start)} and {len(end)}")
        line = torch.stack([torch.lerp(start, end, float(w)) for w in torch.linspace(0, 1, steps)], 1)
        decoded = self.decode(line.flatten(0, 1))
        if isinstance(decoded, dict):
            return {name: value.unflatten(0, (len(start), steps)) for name, value in decoded.items()}
        return decoded.unflatten(0, (len(start), steps))

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
        config, table = self.config, self.table
        words = {
            "pair": f"{config.get('model', _short(self.model))} / {config.get('guide', _short(self.guide))}",
            "parameters": f"{sum(leaf.numel() for leaf in self.parameters_by_name().values()):,}",
            "objective": str(config.get("objective", "")),
            "ended": f"{self.ended} after {self.epochs} epochs, {self.steps} steps, {self.seconds:.1f} s",
        }
        if config.get("num_data"):
            words["data"] = f"{config['num_data']} rows" + (
                f" in batches of {config['batch_size']}" if config.get("batch_size") else ""
            )
        if len(table):
            names, last = ("objective", "elbo", "reconstruction", "kl", "val_elbo"), table[-1]
            words["last epoch"] = ", ".join(f"{n} {last[n]:.3f}" for n in names if n in last) + " nats per datum"
        return {key: value for key, value in words.items() if value}

    def __repr__(self) -> str:
        return "Fit\n" + "\n".join(f"  {key:<11}{value}" for key, value in self.summary().items())

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in self.summary().items()
        )
        return f"<table><caption>Fit</caption>{cells}</table>"


def _center_of_draws(draws: Tensor) -> Tensor:
    """The mean over draws (S, ...), or the most frequent value of whole numbers."""
    if not draws.is_floating_point() or bool((draws == draws.round()).all()):
        return draws.mode(0).values
    return draws.double().mean(0).to(draws.dtype)


def _single(values: dict[str, Any]) -> Any:
    """The value itself where there is one site."""
    return next(iter(values.values())) if len(values) == 1 else values


def _short(fn: Any) -> str:
    return str(getattr(fn, "__qualname__", type(fn).__qualname__))
