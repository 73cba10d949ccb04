"""A guide that is chosen by what it is worth: from mean field up to a flow, centred or not."""

from ppl_vae.inference.ladder.ladder import Ladder, guide_of
from ppl_vae.inference.ladder.reparametrize import choose

__all__ = ["Ladder", "choose", "guide_of"]
