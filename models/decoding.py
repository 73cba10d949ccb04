"""What every model with a decoder does: it counts the data, checks p(z), and reads p(x | latents) off the decoder."""

from __future__ import annotations

from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from ppl_vae.models.likelihoods import Likelihood
from ppl_vae.nn import fill_unobserved


def num_data(x: Tensor | None, num_samples: int | None, *, who: str) -> int:
    """The number of rows N, of the data or to be drawn.

    Raises:
        ValueError: neither x nor num_samples is given, or they differ.
    """
    if x is None and num_samples is None:
        raise ValueError(f"{who}: x or num_samples is required, got neither")
    if x is not None and num_samples is not None and num_samples != len(x):
        raise ValueError(f"{who}: num_samples must be {len(x)}, the rows of x, or None, got {num_samples}")
    return len(x) if x is not None else int(num_samples or 0)


def require_prior(prior: TorchDistribution, size: int, *, who: str) -> None:
    """Raise ValueError unless a prior is that of one latent vector.

    Args:
        prior: p(z).
        size: of the vector.
        who: whose error it is.
    """
    if prior.event_shape != (size,) or prior.batch_shape != ():
        raise ValueError(
            f"{who}: the prior must have batch shape () and event shape ({size},), "
            f"got {tuple(prior.batch_shape)} and {tuple(prior.event_shape)}"
        )


def given(x: Tensor | None, mask: Tensor | None, likelihood: Likelihood, *, who: str) -> Tensor | None:
    """The data as they are scored: what is masked out is filled, the rest must be possible under the likelihood.

    Args:
        x: (N, *event), or None to draw it.
        mask: (N, *event) boolean, True where an entry is observed.
        likelihood: of the entries.
        who: whose error it is.

    Raises:
        ValueError: a mask that does not fit; under torch's argument validation, an entry that cannot be.
    """
    if x is None:
        return None
    x = fill_unobserved(x, mask, filler=likelihood.filler, who=who)
    likelihood.require(x, who=who)
    return x


def observation(
    output: Tensor,
    batch_dim: int,
    likelihood: Likelihood,
    *,
    mask: Tensor | None = None,
    x_shape: tuple[int, ...] | None = None,
    who: str,
) -> TorchDistribution:
    """The distribution p(x | latents).

    Args:
        output: what the decoder returned, (*batch, *event), or (*batch, *event, p) for a likelihood of p
            numbers per entry.
        batch_dim: how many dimensions the batch has.
        mask: boolean, broadcastable to (*batch, *event): True where an entry counts.
        x_shape: the shape (N, *event) of the data that the result must score.
        who: whose error it is.

    Returns:
        A distribution with that batch and event shape; its ``mean`` is E[x | latents].

    Raises:
        ValueError: the output does not fit the likelihood, or x.
    """
    event_shape = likelihood.event_shape(output.shape[batch_dim:])
    if x_shape is not None and event_shape != tuple(x_shape[1:]):
        per_entry = () if likelihood.num_params == 1 else (likelihood.num_params,)
        required = ", ".join(map(str, (*x_shape[1:], *per_entry)))
        raise ValueError(
            f"{who}: the decoder must return (..., {required}) for x of shape {tuple(x_shape)}, "
            f"got {tuple(output.shape)}"
        )
    return likelihood.distribution(output, event_shape, mask=mask)
