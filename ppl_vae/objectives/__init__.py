"""What is maximized: one file a bound."""

from ppl_vae.objectives.elbo import ELBO
from ppl_vae.objectives.iwae import IWAE
from ppl_vae.objectives.objective import COLUMNS, Objective, Terms
from ppl_vae.objectives.pyro_loss import PyroLoss, as_objective
from ppl_vae.objectives.schedules import Cyclical, LinearWarmup

__all__ = ["COLUMNS", "ELBO", "IWAE", "Cyclical", "LinearWarmup", "Objective", "PyroLoss", "Terms", "as_objective"]
