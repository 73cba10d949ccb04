"""What is maximized: one file a bound."""

from ppl_vae.objectives.annealing import Cyclical, LinearWarmup
from ppl_vae.objectives.baselines import Baseline, Neural, RunningAverage
from ppl_vae.objectives.disarm import DisARM
from ppl_vae.objectives.elbo import ELBO
from ppl_vae.objectives.iwae import IWAE
from ppl_vae.objectives.objective import COLUMNS, Objective, Terms
from ppl_vae.objectives.pyro_loss import PyroLoss, as_objective
from ppl_vae.objectives.rloo import RLOO
from ppl_vae.objectives.score_function import ScoreFunction
from ppl_vae.objectives.training_only import auxiliary_term
from ppl_vae.objectives.vimco import VIMCO
from ppl_vae.objectives.wake_sleep import ReweightedWakeSleep

__all__ = [
    "COLUMNS",
    "ELBO",
    "IWAE",
    "RLOO",
    "VIMCO",
    "Baseline",
    "Cyclical",
    "DisARM",
    "LinearWarmup",
    "Neural",
    "Objective",
    "PyroLoss",
    "ReweightedWakeSleep",
    "RunningAverage",
    "ScoreFunction",
    "Terms",
    "as_objective",
    "auxiliary_term",
]
