"""The pair: a model p(x, z) and a guide q(z | x) with their sites, their parameters and their densities per datum."""

from ppl_vae.pair.axis import DataAxis, DataAxisError, GlobalLatentError
from ppl_vae.pair.density import Density, LogDensity
from ppl_vae.pair.draws import Draws, LogProb
from ppl_vae.pair.execution import Execution
from ppl_vae.pair.fitted import Fitted, pair_of
from ppl_vae.pair.pair import Pair
from ppl_vae.pair.particles import Site
from ppl_vae.pair.scores import GuideScore, SiteScore
from ppl_vae.pair.sites import Sites
from ppl_vae.pair.table import Table, tabulate

__all__ = [
    "DataAxis",
    "DataAxisError",
    "Density",
    "Draws",
    "Execution",
    "Fitted",
    "GlobalLatentError",
    "GuideScore",
    "LogDensity",
    "LogProb",
    "Pair",
    "Site",
    "SiteScore",
    "Sites",
    "Table",
    "pair_of",
    "tabulate",
]
