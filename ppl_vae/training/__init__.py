"""The loop: batches, steps, callbacks, schedules, checkpoints. It knows nothing of EM."""

from ppl_vae.training.callbacks import Callback, EarlyStopping, KeepBest
from ppl_vae.training.checkpoint import Checkpoint, ResumeError, read_state
from ppl_vae.training.gradient_step import GradientStep, leaves_by_group
from ppl_vae.training.nonfinite import NonFiniteError
from ppl_vae.training.optimizers import build_optimizer
from ppl_vae.training.rates import EachStep
from ppl_vae.training.step import Step
from ppl_vae.training.subset import Subset
from ppl_vae.training.trainer import Trainer

__all__ = [
    "Callback",
    "Checkpoint",
    "EachStep",
    "EarlyStopping",
    "GradientStep",
    "KeepBest",
    "NonFiniteError",
    "ResumeError",
    "Step",
    "Subset",
    "Trainer",
    "build_optimizer",
    "leaves_by_group",
    "read_state",
]
