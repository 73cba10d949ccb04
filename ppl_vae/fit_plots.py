"""A fit's own figures: ``fit.plot.latent(x, color=labels)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ppl_vae.diagnostics.collapse import labels_of
from ppl_vae.pair.units import DATA, shown
from ppl_vae.plots.aggregate_posterior import aggregate_posterior
from ppl_vae.plots.code_bars import code_bars
from ppl_vae.plots.curves import history
from ppl_vae.plots.gap_bars import gap_bars
from ppl_vae.plots.images import images, reconstructions
from ppl_vae.plots.khat_points import khat_points
from ppl_vae.plots.kl_bars import kl_bars
from ppl_vae.plots.latent import latent
from ppl_vae.plots.surgery_bars import surgery_bars

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class FitPlots:
    """Each method asks the fit for what it draws, and returns the axes. ``ax=`` chooses where."""

    def __init__(self, fit: Any) -> None:
        self._fit = fit

    def history(self, *, column: str = "elbo", ax: Axes | None = None) -> Axes:
        """A column of the history over epochs, with its validation twin."""
        return history(self._fit.history, column=column, ax=ax)

    def samples(self, n: int = 64, *, mean: bool = True, seed: int = 0, ax: Axes | None = None, **options: Any) -> Axes:
        """Images sampled from the model (``mean``: the mean of x given a sampled z)."""
        return images(self._fit.sample(n, mean=mean, seed=seed), ax=ax, **options)

    def reconstructions(self, data: Any, *, ax: Axes | None = None, **options: Any) -> Axes:
        """Images beside their reconstructions."""
        rows = self._fit.rows(data).take(slice(None))
        originals = shown(self._fit.pair, {DATA: rows.args[0].cpu()})[DATA]
        return reconstructions(originals, self._fit.reconstruct(rows), ax=ax, **options)

    def latent(self, data: Any, *, color: Any = None, ax: Axes | None = None) -> Axes:
        """The codes of the data in the plane, coloured by class or number."""
        return latent(self._fit.encode(data), color=color, ax=ax)

    def kl(self, data: Any, *, ax: Axes | None = None) -> Axes:
        """The KL of each latent dimension, in nats."""
        from ppl_vae.diagnostics import kl_per_dimension

        found = kl_per_dimension(self._fit, data)
        if len(found) != 1:
            raise ValueError(
                f"plot.kl: one latent site is required, got {sorted(found)}; see diagnostics.kl_per_dimension"
            )
        return kl_bars(next(iter(found.values())), ax=ax)

    def surgery(self, data: Any, *, num_samples: int = 8, ax: Axes | None = None) -> Axes:
        """What each latent dimension tells of its datum, and what it is off the prior, in nats."""
        from ppl_vae.diagnostics import surgery

        return surgery_bars(surgery(self._fit, data, num_samples=num_samples), ax=ax)

    def aggregate(self, data: Any, *, num_samples: int = 8, ax: Axes | None = None) -> Axes:
        """The codes of all data, dimension by dimension, beside draws of the prior."""
        sites = {name: site for name, site in self._fit.latents.items() if site.is_local and not site.is_discrete}
        if not sites:
            raise ValueError("plot.aggregate: a continuous latent of each datum is required, and the pair has none")
        drawn = self._fit.draw(data, num_samples).values
        prior = self._fit.pair.draw_prior_values(data, num_samples)
        names = [label for name in sites for label in labels_of(name, drawn[name][0, 0])]
        tables = [torch.cat([_table(part[name]) for name in sites], 1) for part in (drawn, prior)]
        return aggregate_posterior(*tables, names=names, ax=ax)

    def gap(self, data: Any, *, num_samples: int = 1000, ax: Axes | None = None) -> Axes:
        """What the guide's family and what amortization cost of log p(x), datum by datum."""
        from ppl_vae.evidence import inference_gap

        return gap_bars(inference_gap(self._fit, data, num_samples=num_samples), ax=ax)

    def codes(self, data: Any, *, site: str | None = None, ax: Axes | None = None) -> Axes:
        """How often each class of each discrete latent is used."""
        from ppl_vae.diagnostics import code_usage

        return code_bars(code_usage(self._fit, data, site), ax=ax)

    def khat(self, data: Any, *, num_samples: int = 1000, ax: Axes | None = None) -> Axes:
        """k-hat of every datum, with the limit above which an estimate is not to be believed."""
        from ppl_vae.evidence import ImportanceWeighted

        return khat_points(self._fit.log_evidence(data, ImportanceWeighted(num_samples)).khat, ax=ax)


def _table(values: torch.Tensor) -> torch.Tensor:
    """Draws (S, N, ...) as a table, (S N, D)."""
    return values.reshape(values.shape[:2].numel(), -1)
