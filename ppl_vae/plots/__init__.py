"""Figures: each takes what it draws and ``ax=``, and returns the axes; none is left behind in pyplot."""

from ppl_vae.plots.aggregate_posterior import aggregate_posterior
from ppl_vae.plots.calibration_curves import calibration_curves
from ppl_vae.plots.check_histograms import check_histograms
from ppl_vae.plots.code_bars import code_bars
from ppl_vae.plots.columns import columns
from ppl_vae.plots.curves import history
from ppl_vae.plots.difference_bars import difference_bars
from ppl_vae.plots.gap_bars import gap_bars
from ppl_vae.plots.gradient_noise import gradient_noise
from ppl_vae.plots.images import images, reconstructions
from ppl_vae.plots.khat_points import khat_points
from ppl_vae.plots.kl_bars import kl_bars
from ppl_vae.plots.latent import latent
from ppl_vae.plots.log_p_points import log_p_points
from ppl_vae.plots.reference_intervals import reference_intervals
from ppl_vae.plots.sandwich_points import sandwich_points
from ppl_vae.plots.surgery_bars import surgery_bars

__all__ = [
    "aggregate_posterior",
    "calibration_curves",
    "check_histograms",
    "code_bars",
    "columns",
    "difference_bars",
    "gap_bars",
    "gradient_noise",
    "history",
    "images",
    "khat_points",
    "kl_bars",
    "latent",
    "log_p_points",
    "reconstructions",
    "reference_intervals",
    "sandwich_points",
    "surgery_bars",
]
