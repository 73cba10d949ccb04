"""Likelihoods p(x | z): what the numbers of a decoder mean."""

from __future__ import annotations

from collections.abc import Callable

# The contract
from ppl_vae.models.likelihoods.base import Likelihood

# Binary entries
from ppl_vae.models.likelihoods.bernoulli import Bernoulli

# Entries on a scale of levels
from ppl_vae.models.likelihoods.categorical import Categorical

# Real entries
from ppl_vae.models.likelihoods.normal import DecodedNormal, Normal, PixelNormal, UnitNormal

#: What a name stands for; a factory may need arguments, as ``Categorical`` does.
REGISTRY: dict[str, Callable[..., Likelihood]] = {
    "bernoulli": Bernoulli,
    "categorical": Categorical,
    "decoded-normal": DecodedNormal,
    "normal": Normal,
    "pixel-normal": PixelNormal,
    "unit-normal": UnitNormal,
}


def make_likelihood(likelihood: str | Likelihood, **options: object) -> Likelihood:
    """Make the likelihood of a name in ``REGISTRY``; a likelihood is returned as it is.

    Args:
        likelihood: a name, or the thing itself.
        options: arguments of the factory.

    Raises:
        ValueError: an unknown name, or one whose factory needs other arguments.
        TypeError: neither a name nor a likelihood, or an object with options.

    >>> make_likelihood("categorical", num_levels=17)
    Categorical(num_params=17)
    """
    if isinstance(likelihood, Likelihood) and not options:
        return likelihood
    if not isinstance(likelihood, str):
        raise TypeError(
            f"likelihood: a name ({', '.join(REGISTRY)}) or a Likelihood is required, "
            f"got {type(likelihood).__name__}" + (f" with options {', '.join(options)}" if options else "")
        )
    if likelihood not in REGISTRY:
        raise ValueError(f"likelihood: the name must be one of {', '.join(REGISTRY)}, got {likelihood!r}")
    factory = REGISTRY[likelihood]
    try:
        return factory(**options)
    except TypeError as error:
        name = getattr(factory, "__name__", "")
        raise ValueError(
            f"likelihood: {likelihood!r} needs its arguments, so give an object {name}(...): {error}"
        ) from None


__all__ = [
    "REGISTRY",
    "Bernoulli",
    "Categorical",
    "DecodedNormal",
    "Likelihood",
    "Normal",
    "PixelNormal",
    "UnitNormal",
    "make_likelihood",
]
