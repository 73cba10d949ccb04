"""The loop: batches, steps, callbacks, schedules, checkpoints. It knows nothing of EM."""

from ppl_vae.training.callbacks import Callback, EarlyStopping, KeepBest
from ppl_vae.training.nonfinite import NonFiniteError
from ppl_vae.training.optimizers import EachStep, build_optimizer
from ppl_vae.training.step import GradientStep, leaves_by_group
from ppl_vae.training.trainer import ResumeError, Trainer

__all__ = [
    "Callback",
    "EachStep",
    "EarlyStopping",
    "GradientStep",
    "KeepBest",
    "NonFiniteError",
    "ResumeError",
    "Trainer",
    "build_optimizer",
    "leaves_by_group",
]
