"""The posterior of a latent that the model sums out, by Bayes' rule at the other values of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_vae.pair.enumeration import plates_of
from ppl_vae.pair.execution import Execution
from ppl_vae.pair.summation import components, within


def posterior_of(run: Execution, name: str) -> Tensor:
    """p(c | x, z) of a summed latent at the values of a run, by Bayes' rule: (*batch, C), C its values."""
    scores = run.score_model_with_summed()
    names, latents = next(found for found in components(scores, run.summed) if name in found[1])
    inside = plates_of(scores[name].site)
    terms = [within(scores[other], inside) for other in names]
    total: Tensor = sum(terms[1:], terms[0])
    others = [run.summed[other] for other in latents if other != name]
    total = total.logsumexp(others, keepdim=True) if others else total
    probs = total.softmax(run.summed[name]).movedim(run.summed[name], -1)
    rank = -run.layout.particle_dim
    return probs.reshape(*probs.shape[:-1][max(0, probs.dim() - 1 - rank) :], probs.shape[-1])


def draw_of(run: Execution, name: str) -> Tensor:
    """A draw of a summed latent from p(c | x, z), in Pyro's shape."""
    site: Any = run.model_trace.nodes[name]
    values = site["value"].reshape(-1, *site["fn"].event_shape)
    return values[torch.distributions.Categorical(posterior_of(run, name)).sample()]
