"""A guide that is chosen by what it is worth: from mean field up to a flow."""

from ppl_vae.inference.ladder.ladder import Ladder

__all__ = ["Ladder"]
