"""Small networks: what a decoder or an encoder of the built-in pairs is made of.

Nothing here knows of Pyro. Any other ``nn.Module`` serves as well; these are here so that a first pair needs
no other import.
"""

from __future__ import annotations

# Around a network call: leading dimensions, entries not observed
from ppl_vae.nn.batched import apply_batched, flatten_leading

# Networks
from ppl_vae.nn.conv import ConvDecoder, ConvEncoder
from ppl_vae.nn.mlp import MLP
from ppl_vae.nn.mode import mode_of
from ppl_vae.nn.observed import fill_unobserved

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "apply_batched", "fill_unobserved", "flatten_leading", "mode_of"]
