"""Which draws go into ``posterior.nc``, and what their dimensions and rows are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.data import Dataset
    from ppl_vae.result import Fit

DRAWS = 100  # of the latents of each row
MOST_ROWS = 300
FEWEST_ROWS = 20
NUMBERS = 1_000_000  # in the file, of four bytes, about


@dataclass(frozen=True)
class Posterior:
    """What is asked of ``to_inference_data``.

    Args:
        rows: whose posterior it is.
        options: numbers of draws, names of dimensions and labels.
    """

    rows: Tensor
    options: dict[str, Any]


def posterior_of(fit: Fit, dataset: Dataset, draws: int = DRAWS) -> Posterior:
    """The posterior of the first test rows, so many that the file stays below some 4 MB, and at most 300.

    Of all train rows where the latents are shared by all. A tenth of the draws has data drawn anew.

    Args:
        fit: the fitted pair.
        dataset: its data, whose names of rows and columns go with it.
        draws: of the latents.
    """
    part = "train" if dataset.test is None or fit.has_global_latents or fit.takes("index") else "test"
    rows: Tensor = getattr(dataset, part)
    predictive = max(1, draws // 10)
    if not fit.has_global_latents:
        rows = rows[: max(FEWEST_ROWS, min(MOST_ROWS, NUMBERS // _numbers(fit, rows, draws, predictive)))]
    named = {"datum": list(dataset.index_of(part)[: len(rows)])}
    options: dict[str, Any] = {"num_samples": draws, "num_predictive": predictive, "coords": named}
    if "x" in fit.observed and tuple(fit.observed["x"].event_shape) == dataset.event_shape:
        options |= {"coords": {**named, **dataset.coords}, "dims": dataset.dims}
    return Posterior(rows, options)


def _numbers(fit: Fit, rows: Tensor, draws: int, predictive: int) -> int:
    """How many numbers a row has in the file: latents twice, three log densities of eight bytes, data."""
    latents = sum(site.event_shape.numel() for site in fit.latents.values() if site.is_local)
    return draws * (2 * latents + 6) + (2 * predictive + 1) * rows[0].numel()
