"""Deterministic variational inference: fixed noise, a smooth optimizer, and a certificate."""

from ppl_vae.inference.deterministic.deterministic_vi import DeterministicVI

__all__ = ["DeterministicVI"]
