"""A fit's own figures: ``fit.plot.latent(x, color=labels)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppl_vae.pair.units import DATA, shown
from ppl_vae.plots.code_bars import code_bars
from ppl_vae.plots.curves import history
from ppl_vae.plots.images import images, reconstructions
from ppl_vae.plots.khat_points import khat_points
from ppl_vae.plots.kl_bars import kl_bars
from ppl_vae.plots.latent import latent

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

    def codes(self, data: Any, *, site: str | None = None, ax: Axes | None = None) -> Axes:
        """How often each class of each discrete latent is used."""
        from ppl_vae.diagnostics import code_usage

        return code_bars(code_usage(self._fit, data, site), ax=ax)

    def khat(self, data: Any, *, num_samples: int = 1000, ax: Axes | None = None) -> Axes:
        """k-hat of every datum, with the limit above which an estimate is not to be believed."""
        from ppl_vae.evidence import ImportanceWeighted

        return khat_points(self._fit.log_evidence(data, ImportanceWeighted(num_samples)).khat, ax=ax)
