"""Deterministic variational inference: fixed noise, a smooth optimizer, and a certificate."""

from ppl_vae.inference.deterministic.deterministic_vi import DeterministicVI
from ppl_vae.inference.deterministic.linear_response import LinearResponse, linear_response

__all__ = ["DeterministicVI", "LinearResponse", "linear_response"]
