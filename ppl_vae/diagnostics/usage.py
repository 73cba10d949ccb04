"""What discrete latents carry: which classes are used, how sure the guide is, how much a code says of its datum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae._random import fold
from ppl_vae.diagnostics.marginals import marginal
from ppl_vae.distributions import without_mask
from ppl_vae.evidence.chunks import MAX_ELEMENTS, numbers_per_datum, slices
from ppl_vae.pair import Fitted, pair_of
from ppl_vae.pair.particles import outward
from ppl_vae.pair.responsibilities import posteriors_of
from ppl_vae.plots.code_bars import code_bars

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from torch.distributions import Distribution

    from ppl_vae.pair import Execution, Pair, Site

__all__ = ["CodeUsage", "class_probabilities", "code_usage", "codes", "discrete_sites"]

DRAWS = 64
"""Over so many draws the classes are averaged by default, where they depend on latents that are drawn before them."""


@dataclass(frozen=True, eq=False)
class CodeUsage:
    """The classes of M discrete latents over N data, in nats.

    Attributes:
        usage: (M, K) the aggregated posterior, (1/N) sum_n q(c_m = k | x_n).
        entropy: (M,) the mean entropy of q(c_m | x), from 0 (sure) to log K.
        num_data: N.
    """

    usage: Tensor
    entropy: Tensor
    num_data: int

    @classmethod
    def of(cls, probs: Tensor) -> CodeUsage:
        """The usage that class probabilities (N, M, K) make."""
        return cls(probs.mean(0), _entropy(probs).mean(0), len(probs))

    @property
    def kl_from_uniform(self) -> Tensor:
        """(M,) the mean KL(q(c_m | x) || uniform) = log K - H."""
        return torch.log(torch.tensor(float(self.usage.shape[1]))).double() - self.entropy

    @property
    def mutual_information(self) -> Tensor:
        """(M,) between datum and code under q: H(usage) - mean H(q(c_m | x)), at most log K."""
        return _entropy(self.usage) - self.entropy

    @property
    def perplexity(self) -> Tensor:
        """(M,) exp H(usage): how many classes are used, as if equally, from 1 to K."""
        return _entropy(self.usage).exp()

    @property
    def dead(self) -> Tensor:
        """(M, K) bool: classes that all data together expect less than once, N usage < 1."""
        return self.num_data * self.usage < 1

    def to_dataframe(self) -> pd.DataFrame:
        """One row a latent: entropy, kl_from_uniform, perplexity, dead, mutual_information."""
        import pandas as pd

        columns = {
            "entropy": self.entropy,
            "kl_from_uniform": self.kl_from_uniform,
            "perplexity": self.perplexity,
            "dead": self.dead.sum(1),
            "mutual_information": self.mutual_information,
        }
        return pd.DataFrame({name: value.numpy() for name, value in columns.items()}).rename_axis("latent")

    def summary(self) -> dict[str, float]:
        """The columns of a fit's history: means over the latents, and the number of dead classes of all of them."""
        return {
            "code_entropy": float(self.entropy.mean()),
            "code_perplexity": float(self.perplexity.mean()),
            "code_information": float(self.mutual_information.mean()),
            "dead_codes": int(self.dead.sum()),
        }

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """How often each class is used; see :func:`ppl_vae.plots.code_bars`."""
        return code_bars(self, ax=ax)

    def __repr__(self) -> str:
        m, k = self.usage.shape
        return (
            f"CodeUsage({m} latents of {k} classes, perplexity {float(self.perplexity.mean()):.1f}, "
            f"{int(self.dead.sum())} of {m * k} classes dead)"
        )


def _entropy(probs: Tensor) -> Tensor:
    return -torch.xlogy(probs, probs).sum(-1)


def discrete_sites(pair: Pair) -> dict[str, Site]:
    """The latents of each datum that have finitely many classes, those that the model sums out included."""
    sites = {**pair.latents, **pair.summed}
    return {name: site for name, site in sites.items() if site.is_local and site.num_values is not None}


def class_probabilities(
    pair: Pair | Fitted,
    data: Any,
    site: str | None = None,
    *,
    num_samples: int = DRAWS,
    seed: int = 0,
    max_elements: int = MAX_ELEMENTS,
) -> Tensor:
    """The posterior probability of each class of a discrete latent, (N, M, K), float64.

    Of a latent that the guide has, q(c_m | x); of one that the model sums out, E_q[p(c | x, z)], by Bayes' rule. Where
    it depends on latents drawn before it, it is averaged over draws. Entries that are not independent, as of a one-hot
    class, and those of a latent that is summed out, are one latent, and its classes all their joint values in the order
    of the support.

    Args:
        pair: a Pair, or a Fit.
        data: N rows.
        site: its name, where there are several.
        num_samples: draws a datum, where any are needed.
        seed: of the draws.
        max_elements: how many numbers one run of the pair may handle; bounds memory.

    Raises:
        ValueError: for a pair without such a latent, or with several and no ``site``.
    """
    pair = pair_of(pair)
    rows = pair.rows(data)
    pair.require_whole_rows(rows)
    name = _chosen(pair, site)
    draws = 1 if name == next(iter(pair.sites.guide), None) else num_samples
    some = max(1, max_elements // (draws * numbers_per_datum(pair, rows)))
    parts = []
    for place in slices(len(rows), some):
        with pair.evaluating(fold(seed, "class_probabilities", place.start)):
            runs = pair.runs(rows.take(place).batch(), draws)
            parts.append(torch.cat([_probabilities(pair, run, name) for run in runs]).mean(0))
    return torch.cat(parts)


def codes(pair: Pair | Fitted, data: Any, site: str | None = None, *, seed: int = 0) -> Tensor:
    """The most probable class of each latent, (N, M) long; see :func:`class_probabilities`."""
    return class_probabilities(pair, data, site, seed=seed).argmax(-1)


def code_usage(
    pair: Pair | Fitted, data: Any, site: str | None = None, *, num_samples: int = DRAWS, seed: int = 0
) -> CodeUsage:
    """Which classes of a discrete latent are used on data; see :func:`class_probabilities`."""
    return CodeUsage.of(class_probabilities(pair, data, site, num_samples=num_samples, seed=seed))


def _chosen(pair: Pair, site: str | None) -> str:
    known = discrete_sites(pair)
    if site is None and len(known) == 1:
        return next(iter(known))
    if site not in known:
        raise ValueError(
            f"codes: the name of a discrete latent of each datum is required, got {site!r}; "
            f"the pair's are {sorted(known) or 'none'}"
        )
    return site


def _probabilities(pair: Pair, run: Execution, name: str) -> Tensor:
    """The classes in one run, (S, n, M, K)."""
    site, particles = discrete_sites(pair)[name], run.num_particles is not None
    if name in pair.summed:
        probs = posteriors_of(run)[name].unsqueeze(-2)
    else:
        fn: Any = run.guide_trace.nodes[name]["fn"]
        probs = _each_class(fn)
    found = outward(probs, replace(site, event_shape=probs.shape[-2:]), pair.layout, particles)
    return found.reshape(*found.shape[:2], -1, found.shape[-1]).double().cpu()


def _each_class(fn: Distribution) -> Tensor:
    """The probability of every value of each of M entries, (*batch, M, K); M = 1 where entries hang together."""
    fn = without_mask(fn)
    try:
        entries = marginal(fn)
        shape = fn.batch_shape + fn.event_shape
    except TypeError:  # such as a one-hot class: a latent of all its joint values
        entries, shape = fn, fn.batch_shape
    probs = entries.log_prob(entries.enumerate_support(expand=False)).exp().movedim(0, -1)
    return probs.expand(*shape, -1).reshape(*fn.batch_shape, -1, probs.shape[-1])
